"""Brings discards to their destinations and confirms them."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from typing import TYPE_CHECKING, Literal

from streamcore._job import backoff_ms
from streamcore._lock import when_free
from streamcore._log import Rarely, is_told, of_discard, of_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._job import Reading
    from streamcore._streamcore import Discard, Engine
    from streamcore.protocols import Clock

_log = logging.getLogger("streamcore.worker")

_THREADS_MAX = 4  # that send to one destination at a time
_LINGER_S = 1.0  # how long a thread waits for more beside another one
_GLANCE_S = 0.05  # how often to look whether stopping is to be cut short


class _Parcel:
    """A discard on its way, to be there by `deadline`."""

    __slots__ = ("deadline", "discard", "reading", "tries")

    def __init__(self, discard: Discard, reading: Reading, now: int) -> None:
        self.discard = discard
        self.reading = reading
        self.tries = 0
        self.deadline = now + reading.job.discard_budget_ms


class _Line:
    """The way to one destination: its parcels by when they are due, and the threads that send them.

    While there are parcels, a thread waits for the next one, unless all are sending: `Delivery._staff` sees to it. Threads are made when
    there is work and none is idle.
    """

    __slots__ = ("_number", "changed", "parcels", "threads", "waiting")

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.parcels: list[tuple[int, int, _Parcel]] = []
        self.threads: set[threading.Thread] = set()
        self.waiting = 0
        self._number = 0

    def push(self, due: int, parcel: _Parcel) -> None:
        self._number += 1
        heapq.heappush(self.parcels, (due, self._number, parcel))

    def pop(self, now: int) -> _Parcel | None:
        """Return the parcel that is due, if there is one."""
        return heapq.heappop(self.parcels)[2] if self.parcels and self.parcels[0][0] <= now else None


class Delivery:
    """The discards on their way, each sent until it has arrived or is given up.

    Lambda sends a discard record a few times and then drops it (the metrics DestinationDeliveryFailures and DroppedEventCount); with
    `on_undeliverable="block"` it is sent for ever instead, and the checkpoint waits. Every destination has threads of its own, and up to
    four at a time, so that a slow destination holds up no other, and a slow delivery none of the three beside it. How many discards can be
    on their way is bounded by the engine: a shard with 1,000 of them unconfirmed hands nothing out.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        reading_of: Callable[[int], Reading | None],
        *,
        on_confirmed: Callable[[], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._reading_of = reading_of
        self._on_confirmed = on_confirmed
        self._on_failed = on_failed
        self._lock = threading.Lock()
        self._lines: dict[int, _Line] = {}  # by the identity of the destination, which several mappings may share
        self._threaded = False
        self._stopping = False
        self._waiting = 0
        self._rarely = Rarely()

    def add(self, discard: Discard) -> None:
        """Send the discard as soon as possible. May be called by any thread."""
        reading = self._reading_of(discard.shard)
        if reading is None:
            return  # another worker has taken the shard over since the discard was made, and makes it again
        job = reading.job
        with when_free(job.counting):
            tally, condition = reading.tally, discard.condition
            tally.discards += 1
            tally.discarded_by_condition[condition] = tally.discarded_by_condition.get(condition, 0) + discard.record_count
        with when_free(self._lock):
            self._waiting += 1
            if job.destination is not None:
                line = self._lines.get(id(job.destination))
                if line is None:
                    line = self._lines[id(job.destination)] = _Line(self._lock)
                now = self._clock.now_ms()
                line.push(now, _Parcel(discard, reading, now))
                self._staff(line)
                return
        # Nothing else tells of them, so each is told.
        what = "the records are" if discard.record_count else "it is"
        text = "%s; the mapping has no destination, %s dropped"
        _log.warning(text, _described(discard), what, extra=of_discard(discard))
        self._confirm(discard, reading, "dropped")

    def step(self, now: int) -> bool:
        """Send the discard that is due, if there is one. Returns whether there was."""
        for line in self._lines.values():
            with when_free(self._lock):
                parcel = line.pop(now)
            if parcel is not None:
                self._send(line, parcel)
                return True
        return False

    def next_due(self) -> int | None:
        """Return when the next try is due; None where nothing waits for one."""
        with when_free(self._lock):
            return min((line.parcels[0][0] for line in self._lines.values() if line.parcels), default=None)

    def __len__(self) -> int:
        """How many discards are neither delivered nor given up nor dropped."""
        with when_free(self._lock):
            return self._waiting

    # One parcel.

    def _send(self, line: _Line, parcel: _Parcel) -> None:
        destination = parcel.reading.job.destination
        assert destination is not None  # noqa: S101 - `add` puts no other in a line
        try:
            destination.send(parcel.discard)
        except Exception as error:  # noqa: BLE001 - whatever it is, delivery is tried again
            self._failed(line, parcel, error)
            return
        if _log.isEnabledFor(logging.INFO):
            where = _name_of(parcel)
            _log.info("%s; sent to %s", _described(parcel.discard), where, extra=of_discard(parcel.discard, destination=where))
        self._confirm(parcel.discard, parcel.reading, "delivered")

    def _failed(self, line: _Line, parcel: _Parcel, error: Exception) -> None:
        discard, job = parcel.discard, parcel.reading.job
        now = self._clock.now_ms()
        left = parcel.deadline - now
        parcel.tries += 1
        with when_free(job.counting):
            parcel.reading.tally.failed_deliveries += 1
        fields = of_discard(discard, destination=_name_of(parcel), failures=parcel.tries)
        count = self._rarely.count((id(job.destination), type(error)), now)
        if not isinstance(error, OSError) and is_told(count):
            _log.error("the destination failed in an unexpected way", exc_info=error, extra=fields)
        fields = of_error(error, **fields)
        if job.blocks:
            pause = backoff_ms(parcel.tries, 60_000)
        elif parcel.tries >= job.discard_tries or left <= 0:
            _log.error("%s; given up after %d tries to deliver it: %s", _described(discard), parcel.tries, error, extra=fields)
            self._confirm(discard, parcel.reading, "undelivered")
            return
        else:
            # The pauses double and add up to the budget: with 5 tries in 30 s they are 2, 4, 8 and 16 s. What the tries take comes off.
            pause = min((job.discard_budget_ms << (parcel.tries - 1)) // ((1 << (job.discard_tries - 1)) - 1), left)
        level = logging.WARNING if is_told(count) else logging.DEBUG
        if _log.isEnabledFor(level):
            text = "%s; try %d to deliver it failed, next in %.1f s: %s"
            _log.log(level, text, _described(discard), parcel.tries, pause / 1000, error, extra={**fields, "retryInMs": pause})
        with when_free(self._lock):
            line.push(now + pause, parcel)
            self._staff(line)

    def _confirm(self, discard: Discard, reading: Reading, how: Literal["delivered", "undelivered", "dropped"]) -> None:
        # Confirmed before it is counted: what counts as done may be saved.
        self._engine.confirm(discard.id, "delivered" if how == "delivered" else "given_up")
        with when_free(reading.job.counting):
            tally = reading.tally
            if how == "delivered":
                tally.delivered += 1
                tally.delivered_records += discard.record_count
            else:
                tally.undelivered += how == "undelivered"
                tally.dropped += how == "dropped"
                tally.dropped_records += discard.record_count
        with when_free(self._lock):
            self._waiting -= 1
        self._on_confirmed()

    # Threads.

    def start(self) -> None:
        """Send in threads, which are made when there are discards, until `stop`."""
        self._threaded = True

    def _staff(self, line: _Line) -> None:
        """See to it that a thread waits for the line's next parcel, or all are sending. Called with the lock held."""
        if not self._threaded or self._stopping or not line.parcels:
            return
        if line.waiting:
            line.changed.notify()  # it may be due sooner now
        elif len(line.threads) < _THREADS_MAX:
            thread = threading.Thread(target=self._run, args=(line,), name="streamcore-deliver", daemon=True)
            line.threads.add(thread)
            thread.start()

    def _run(self, line: _Line) -> None:
        try:
            while (parcel := self._next(line)) is not None:
                self._send(line, parcel)
        except BaseException as error:  # noqa: BLE001 - a thread must not die in silence
            _log.exception("delivering stopped")
            self._on_failed(error)

    def _next(self, line: _Line) -> _Parcel | None:
        """Wait for the next parcel; None where this thread is not needed any more."""
        spare = False
        with when_free(self._lock):
            while True:
                now = self._clock.now_ms()
                parcel = line.pop(now)
                if parcel is not None:
                    self._staff(line)
                    return parcel
                if self._stopping or (spare and line.waiting and not line.parcels):
                    line.threads.discard(threading.current_thread())
                    return None
                due_s = (line.parcels[0][0] - now) / 1000 if line.parcels else None
                # Without parcels one thread waits for what may come, and those beside it leave when nothing has come for a while.
                beside = line.waiting > 0 and not line.parcels
                line.waiting += 1
                called = line.changed.wait(_LINGER_S if beside else due_s)
                line.waiting -= 1
                spare = beside and not called

    def stop(self, timeout_s: float, *, aborted: Callable[[], bool]) -> None:
        """Send what is due now, then end the threads. What is left stays unconfirmed: its records come again at the next start.

        Deliveries under way are waited for, for so many seconds, or until `aborted`.
        """
        with when_free(self._lock):
            self._stopping = True
            threads = [thread for line in self._lines.values() for thread in line.threads]
            for line in self._lines.values():
                line.changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            while thread.is_alive() and not aborted() and (left_s := deadline - time.monotonic()) > 0:
                thread.join(min(left_s, _GLANCE_S))
        if left := len(self):
            text = "%d discards were not delivered; their records are processed again at the next start"
            _log.warning(text, left, extra={"count": left})


def _name_of(parcel: _Parcel) -> str:
    job = parcel.reading.job
    return job.mapping.on_failure_destination or type(job.destination).__name__


def _described(discard: Discard) -> str:
    why = f"{discard.condition}, {discard.approximate_invoke_count} invocations"
    if not discard.record_count:
        return f"discarded the closing call of a tumbling window of shard {discard.shard_id} ({why})"
    return (
        f"discarded {discard.record_count} records of shard {discard.shard_id} "
        f"({why}, {discard.first_sequence_number}..{discard.last_sequence_number})"
    )
