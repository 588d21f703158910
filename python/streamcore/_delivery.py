"""Brings discards to their destinations and confirms them."""

from __future__ import annotations

import heapq
import logging
import threading
from typing import TYPE_CHECKING, Literal

from streamcore._job import backoff_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._job import Job
    from streamcore._streamcore import Discard, Engine
    from streamcore.protocols import Clock

_log = logging.getLogger("streamcore.worker")


class _Parcel:
    """A discard on its way."""

    __slots__ = ("discard", "job", "tries")

    def __init__(self, discard: Discard, job: Job) -> None:
        self.discard = discard
        self.job = job
        self.tries = 0


class Delivery:
    """A queue of discards, each sent until it has arrived or is given up.

    Lambda sends a discard record a few times and then drops it (the metrics DestinationDeliveryFailures and DroppedEventCount); with
    `on_undeliverable="block"` it is sent for ever instead, and the checkpoint waits. One slow destination holds up the others.
    """

    def __init__(self, engine: Engine, clock: Clock, job_of: Callable[[int], Job], on_confirmed: Callable[[], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._job_of = job_of
        self._on_confirmed = on_confirmed
        self._wake = threading.Condition()
        self._parcels: list[tuple[int, int, _Parcel]] = []
        self._number = 0
        self._threaded = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.discards = 0
        self.discarded_records = 0
        self.by_condition: dict[str, int] = {}
        self.delivered = 0
        self.undelivered = 0
        self.failed_tries = 0

    def add(self, discard: Discard) -> None:
        """Send the discard as soon as possible. May be called by any thread."""
        parcel = _Parcel(discard, self._job_of(discard.shard))
        with self._wake:
            self.discards += 1
            self.discarded_records += discard.record_count
            self.by_condition[discard.condition] = self.by_condition.get(discard.condition, 0) + discard.record_count
            self._push(0, parcel)
            if self._threaded and self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="streamcore-deliver", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _push(self, due: int, parcel: _Parcel) -> None:
        self._number += 1
        heapq.heappush(self._parcels, (due, self._number, parcel))

    def step(self, now: int) -> bool:
        """Send the discard that is due, if there is one. Returns whether there was."""
        with self._wake:
            if not self._parcels or self._parcels[0][0] > now:
                return False
            parcel = heapq.heappop(self._parcels)[2]
        self._send(parcel, now)
        return True

    def next_due(self) -> int | None:
        """Return when the next try is due; None where nothing waits."""
        with self._wake:
            return self._parcels[0][0] if self._parcels else None

    def __len__(self) -> int:
        return len(self._parcels)

    def _send(self, parcel: _Parcel, now: int) -> None:
        discard, job = parcel.discard, parcel.job
        if job.destination is None:
            _log.warning("%s; the mapping has no destination, the records are dropped", _described(discard))
            self._confirm(discard, "given_up")
            return
        try:
            job.destination.send(discard)
        except Exception as error:  # noqa: BLE001 - whatever it is, delivery is tried again
            parcel.tries += 1
            self.failed_tries += 1
            if not isinstance(error, OSError):
                _log.exception("the destination failed in an unexpected way")
            if not job.blocks and parcel.tries >= job.discard_tries:
                _log.error("%s; given up after %d tries to deliver it: %s", _described(discard), parcel.tries, error)
                self._confirm(discard, "given_up")
                return
            if job.blocks:
                pause = backoff_ms(parcel.tries, 60_000)
            else:
                # The pauses double and add up to the budget: with 5 tries in 30 s they are 2, 4, 8 and 16 s.
                pause = (job.discard_budget_ms << (parcel.tries - 1)) // max((1 << (job.discard_tries - 1)) - 1, 1)
            _log.warning("%s; try %d to deliver it failed, next in %.1f s: %s", _described(discard), parcel.tries, pause / 1000, error)
            with self._wake:
                self._push(now + pause, parcel)
            return
        self._confirm(discard, "delivered")

    def _confirm(self, discard: Discard, how: Literal["delivered", "given_up"]) -> None:
        if how == "delivered":
            self.delivered += 1
        else:
            self.undelivered += 1
        self._engine.confirm(discard.id, how)
        self._on_confirmed()

    def start(self) -> None:
        """Send in a thread, which is made with the first discard, until `stop`."""
        self._threaded = True

    def _run(self) -> None:
        while True:
            now = self._clock.now_ms()
            if self.step(now):
                continue
            with self._wake:
                if self._stopping:
                    return
                due = self._parcels[0][0] if self._parcels else None
                if due is None or due > now:
                    self._wake.wait(None if due is None else (due - now) / 1000)

    def stop(self, timeout_s: float) -> None:
        """Send what is due now, then end the thread. What is left stays unconfirmed: its records come again at the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._parcels:
            _log.warning("%d discards were not delivered; their records are processed again at the next start", len(self._parcels))


def _described(discard: Discard) -> str:
    return (
        f"discarded {discard.record_count} records of shard {discard.shard_id} ({discard.condition}, "
        f"{discard.approximate_invoke_count} invocations, {discard.first_sequence_number}..{discard.last_sequence_number})"
    )
