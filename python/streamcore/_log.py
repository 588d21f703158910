"""What the places that log have in common: fields, and how often like things are told. `streamcore.logs` says what is logged."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from streamcore._lock import when_free

if TYPE_CHECKING:
    from collections.abc import Hashable

    from streamcore._streamcore import Batch, Discard

__all__ = ["Rarely", "is_told", "of_batch", "of_discard", "of_error", "place"]

_ANEW_MS = 600_000
_KINDS_MAX = 1000


def is_told(count: int) -> bool:
    """Return whether of many like things the one of this number is told: the first, second, fourth, eighth and so on.

    Example:
        >>> [count for count in range(1, 20) if is_told(count)]
        [1, 2, 4, 8, 16]
    """
    return count & (count - 1) == 0


class Rarely:
    """Counts like things, by kind; after ten minutes without one its kind begins anew. May be used by any thread.

    Example:
        >>> rarely = Rarely()
        >>> [rarely.count("down", 0), rarely.count("down", 1), rarely.count("up", 1), rarely.count("down", 700_000)]
        [1, 2, 1, 1]
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, tuple[int, int]] = {}

    def count(self, kind: Hashable, now_ms: int) -> int:
        """Return how many of this kind there were, this one included."""
        with when_free(self._lock):
            if kind not in self._kinds and len(self._kinds) >= _KINDS_MAX:
                self._kinds = {kind: last for kind, last in self._kinds.items() if now_ms - last[1] < _ANEW_MS}
                if len(self._kinds) >= _KINDS_MAX:
                    kind = None  # all that are too many are one kind
            count, last_ms = self._kinds.get(kind, (0, now_ms))
            count = count + 1 if now_ms - last_ms < _ANEW_MS else 1
            self._kinds[kind] = (count, now_ms)
            return count


def of_batch(batch: Batch, **more: object) -> dict[str, Any]:
    """Return the fields that tell of a batch."""
    return {
        "mappingUuid": batch.mapping_uuid,
        "shardId": batch.shard_id,
        "requestId": batch.request_id,
        "startSequenceNumber": batch.first_sequence_number,
        "endSequenceNumber": batch.last_sequence_number,
        "batchSize": batch.record_count,
        "attempt": batch.attempt,
        **more,
    }


def place(batch: Batch) -> str:
    """Return the same for people."""
    if batch.first_sequence_number is None:
        what = "the closing call of a window"
    else:
        what = f"{batch.record_count} records {batch.first_sequence_number}..{batch.last_sequence_number}"
    return f"mapping {batch.mapping_uuid}, shard {batch.shard_id}, request {batch.request_id}, {what}, attempt {batch.attempt}"


def of_discard(discard: Discard, **more: object) -> dict[str, Any]:
    """Return the fields that tell of a discard."""
    return {
        "mappingUuid": discard.mapping_uuid,
        "shardId": discard.shard_id,
        "requestId": discard.request_id,
        "startSequenceNumber": discard.first_sequence_number,
        "endSequenceNumber": discard.last_sequence_number,
        "batchSize": discard.record_count,
        "condition": discard.condition,
        "approximateInvokeCount": discard.approximate_invoke_count,
        **more,
    }


def of_error(error: BaseException, **more: object) -> dict[str, Any]:
    """Return the fields that tell of an error."""
    return {"errorType": type(error).__name__, "errorMessage": str(error), **more}
