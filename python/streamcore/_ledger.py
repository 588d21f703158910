"""Adds up what a worker has done: the engine's counts of each shard, also of those that have left it, and the counts of its other parts."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from streamcore._stats import StuckBatch

if TYPE_CHECKING:
    from streamcore._delivery import Delivery
    from streamcore._poller import Poller
    from streamcore._saver import Saver
    from streamcore._shards import Shards
    from streamcore._streamcore import Engine, ShardStats

__all__ = ["Ledger", "stuck_batches"]


class Counts:
    """Sums of the engine's counts over shards, those included that have left the engine."""

    __slots__ = (
        "discarded",
        "duplicates",
        "expired",
        "failed_invocations",
        "filtered",
        "invocations",
        "retries",
        "succeeded",
        "throttles",
        "windows_closed",
        "windows_ended_early",
    )

    def __init__(self) -> None:
        self.succeeded = 0
        self.discarded = 0
        self.expired = 0
        self.filtered = 0
        self.duplicates = 0
        self.invocations = 0
        self.failed_invocations = 0
        self.retries = 0
        self.throttles = 0
        self.windows_closed = 0
        self.windows_ended_early = 0

    def add(self, other: ShardStats | Counts) -> None:
        """Add one shard's counts, or another sum."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def stuck_batches(shard: ShardStats) -> list[StuckBatch]:
    """Return the batches of a shard that wait for another try."""
    return [
        StuckBatch(
            mapping_uuid=shard.mapping_uuid,
            shard_id=shard.shard_id,
            lane=number,
            first_sequence_number=lane["first_sequence_number"],
            attempts=lane["attempts"],
            next_try_ms=lane["until"],
        )
        for number, lane in enumerate(shard.lanes)
        if lane["state"] == "parked"
    ]


class Ledger:
    """The counts of one worker. May be asked from any thread."""

    def __init__(self, engine: Engine, shards: Shards, poller: Poller, delivery: Delivery, saver: Saver) -> None:
        self._engine = engine
        self._shards = shards
        self._poller = poller
        self._delivery = delivery
        self._saver = saver
        self._lock = threading.Lock()
        self._gone = Counts()
        self._closed = False
        self._started_at = self._ended_at = 0.0

    def start(self) -> None:
        """Count the time from now on."""
        self._started_at = time.monotonic()

    def leave(self, handle: int) -> None:
        """Take a shard out of the engine and keep its counts."""
        with self._lock:
            self._gone.add(self._engine.stats(handle))
            self._shards.readings[handle].state = "gone"
            self._engine.remove(handle)

    def close(self) -> None:
        """Stop the time, keep the counts, and empty the engine: functions that never came to an end find their tickets stale."""
        live = self.live()
        with self._lock:
            self._ended_at = time.monotonic()
            self._closed = True
            for shard in live:
                self._gone.add(shard)
            self._engine.reset()

    def live(self) -> list[ShardStats]:
        """Return the stats of the shards in the engine."""
        with self._lock:
            if self._closed:
                return []
            return [self._engine.stats(reading.handle) for reading in list(self._shards.readings.values()) if reading.state != "gone"]

    def totals(self) -> dict[str, Any]:
        """Return the fields of `Totals`."""
        live = self.live()
        sums = Counts()
        with self._lock:
            sums.add(self._gone)
        for shard in live:
            sums.add(shard)
        saver = self._saver
        end = self._ended_at or time.monotonic()
        return {
            "records": sums.succeeded + sums.discarded + sums.expired,
            "succeeded": sums.succeeded,
            "filtered_records": sums.filtered,
            "expired": sums.expired,
            "duplicates": sums.duplicates,
            "invocations": sums.invocations,
            "failed_invocations": sums.failed_invocations,
            "retries": sums.retries,
            "throttles": sums.throttles,
            "windows_closed": sums.windows_closed,
            "windows_ended_early": sums.windows_ended_early,
            **self._delivery.counts(),
            "checkpoints": saver.checkpoints,
            "failed_saves": saver.failed_saves,
            "lost_claims": saver.lost,
            "other_identities": self._shards.other_identities,
            "source_errors": self._poller.source_errors,
            "trimmed": self._poller.trimmed,
            "elapsed_seconds": end - self._started_at if self._started_at else 0.0,
        }
