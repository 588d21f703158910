"""When a run ends by itself, and what keeps it if something does."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._poller import Poller
    from streamcore._stats import StopReason, StuckBatch
    from streamcore.protocols import Clock

_log = logging.getLogger("streamcore.worker")

_STUCK_FIRST_S, _STUCK_MAX_S = 5.0, 300.0
_STUCK_ATTEMPTS = 3  # a batch with fewer is on its way
_STUCK_NAMED_MAX = 10


class Watch:
    """Looks again and again whether a run is over.

    Args:
        until_idle: whether a stream that may go on counts as done when it is read to its tip.
        failed: whether a source is given up.
        done: whether all that was taken in is done and confirmed; asked before all else, since it costs no look at the shards.
        settled: whether all that was taken in is done, confirmed and saved; saves what is not.
        unsaved: whether all of it is done and confirmed, and only the store fails.
        stuck: the batches that wait for another try.
    """

    def __init__(
        self,
        poller: Poller,
        clock: Clock,
        *,
        until_idle: bool,
        failed: Callable[[], bool],
        done: Callable[[], bool],
        settled: Callable[[], bool],
        unsaved: Callable[[], bool],
        stuck: Callable[[], tuple[StuckBatch, ...]],
    ) -> None:
        self._poller = poller
        self._clock = clock
        self._until_idle = until_idle
        self._failed = failed
        self._done = done
        self._settled = settled
        self._unsaved = unsaved
        self._stuck = stuck
        self._since: float | None = None
        self._pause_s = _STUCK_FIRST_S

    def reason(self) -> StopReason | None:
        """Return why the run is over; None where it goes on."""
        poller = self._poller
        exhausted = poller.exhausted
        if exhausted:
            poller.halt()
        if not self._done() or not poller.quiet or not self._settled():
            if self._unsaved() and poller.read_out:
                # Nothing is left but to save, which stopping tries once more for a while and then fails with.
                return "idle" if self._until_idle or poller.recorded else None
            self._say_stuck(exhausted=exhausted)
            return None
        if exhausted:
            return "max_records"
        if self._failed():
            return "failed"
        if poller.all_ended:
            return "ended" if self._until_idle or poller.recorded else None
        return "idle" if self._until_idle else None

    def _say_stuck(self, *, exhausted: bool) -> None:
        """Name the batches that are tried again and again, ten of them, after 5 s and then ever less often.

        With everything read, only batches that keep failing can hold the run up for long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._pause_s = _STUCK_FIRST_S
            return
        if now - self._since < self._pause_s:
            return
        self._since = now
        if not exhausted and not self._poller.read_up:
            self._pause_s = _STUCK_FIRST_S
            return
        self._pause_s = min(self._pause_s * 2, _STUCK_MAX_S)
        clock_now = self._clock.now_ms()
        stuck = sorted((batch for batch in self._stuck() if batch.attempts >= _STUCK_ATTEMPTS), key=lambda batch: -batch.attempts)
        for batch in stuck[:_STUCK_NAMED_MAX]:
            pause = "" if batch.next_try_ms is None else f", next in {max(batch.next_try_ms - clock_now, 0) / 1000:.1f} s"
            _log.warning(
                "waiting for a batch that keeps failing: mapping %s, shard %s, lane %d, first sequence number %s, tried %d times%s",
                batch.mapping_uuid,
                batch.shard_id,
                batch.lane,
                batch.first_sequence_number or "none (the closing call of a window)",
                batch.attempts,
                pause,
                extra={
                    "mappingUuid": batch.mapping_uuid,
                    "shardId": batch.shard_id,
                    "lane": batch.lane,
                    "startSequenceNumber": batch.first_sequence_number,
                    "attempt": batch.attempts,
                    "retryInMs": None if batch.next_try_ms is None else max(batch.next_try_ms - clock_now, 0),
                },
            )
        if (others := len(stuck) - _STUCK_NAMED_MAX) > 0:
            _log.warning("waiting for %d more batches that keep failing", others, extra={"count": others})
