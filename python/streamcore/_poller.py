"""Reads shards in the background: which one when, in lineage order, with few threads."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import threading
from typing import TYPE_CHECKING, Literal

from streamcore._job import Job, Reading, Task, backoff_ms
from streamcore._streamcore import Page
from streamcore.errors import PageError, SourceError, UsageError
from streamcore.protocols import Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._saver import Saver
    from streamcore._shards import Shards
    from streamcore._streamcore import Engine
    from streamcore.protocols import Clock, Fetched, ShardReader

    _Kind = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]

_log = logging.getLogger("streamcore.worker")

_NO_RECORDS = Page.from_records([])
# A shard whose buffer is full asks again so much later; the buffer is deep enough not to run dry in that time.
_FULL_PAUSE_MS = 5
# A read that found nothing though the tip is not reached (Kinesis does that): five reads a second and shard are allowed.
_EMPTY_PAUSE_MS = 200
_LISTING_INTERVAL_MS = 30_000


class Poller:
    """Feeds the engine from the sources of all mappings.

    Every shard and every listing is a task with a due time in one heap. A task is out of the heap while a thread does it, so that a
    reader is used by one thread at a time. A source that wakes its readers moves those at its tip to the front.
    """

    def __init__(self, engine: Engine, clock: Clock, saver: Saver, shards: Shards, *, on_failed: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._saver = saver
        self._shards = shards
        self._on_failed = on_failed
        self._wake = threading.Condition()
        self._tasks: list[tuple[int, int, Task]] = []
        self._number = 0
        self._wakeups = itertools.count(1)
        self._busy = 0
        self._threads: list[threading.Thread] = []
        self._threads_max = 0
        self._stopping = False
        self._quota: int | None = None
        self._quota_lock = threading.Lock()
        self.jobs: list[Job] = []
        self.source_errors = 0

    def open(self, jobs: list[Job], now: int, max_records: int | None) -> None:
        """Make first contact with every source and read the shards that may be read.

        Raises:
            SourceError, ClaimError, CheckpointError: see `Shards.contact`.
        """
        self.jobs = jobs
        self._quota = max_records
        for job, readings in self._shards.contact(jobs, now):
            for reading in readings:
                self._schedule(reading, now)
            self._schedule(job, now + _LISTING_INTERVAL_MS)
            job.source.set_wakeup(functools.partial(self._woken, job))

    # The heap of tasks.

    def _schedule(self, task: Task, due: int) -> None:
        with self._wake:
            self._number += 1
            task.entry = self._number
            heapq.heappush(self._tasks, (due, self._number, task))
            self._wake.notify()

    def _drop_stale(self) -> None:
        tasks = self._tasks
        while tasks and tasks[0][2].entry != tasks[0][1]:
            heapq.heappop(tasks)

    def _woken(self, job: Job) -> None:
        """Poll the shards of the source that wait at their tip. Called by the source, from any thread."""
        # Each number is given once, so a poll that began before this call sees that the number has changed, and a poll that has parked
        # its shard already is seen here: no wake-up is lost without a lock for each record put.
        job.wakeups = next(self._wakeups)
        if not job.parked:
            return
        with self._wake:
            parked, job.parked = job.parked, {}
            for reading in parked:
                self._number += 1
                reading.entry = self._number
                heapq.heappush(self._tasks, (0, self._number, reading))
            self._wake.notify(len(parked))

    def refresh(self, now: int) -> None:
        """Read every shard that is at its tip once more before the poller is quiet again. Without threads only."""
        for reading in list(self._shards.readings.values()):
            if reading.state == "polling" and reading.at_tip:
                reading.at_tip = False
                self._schedule(reading, now)

    def step(self, now: int) -> bool:
        """Do the task that is due, if there is one. Returns whether there was."""
        with self._wake:
            self._drop_stale()
            if not self._tasks or self._tasks[0][0] > now:
                return False
            task = heapq.heappop(self._tasks)[2]
            task.entry = 0
            if isinstance(task, Reading):
                task.job.parked.pop(task, None)
            self._busy += 1
        try:
            if isinstance(task, Reading):
                self._poll(task, now)
            elif isinstance(task, Job):
                self._list(task, now)
        finally:
            with self._wake:
                self._busy -= 1
        return True

    def next_due(self) -> int | None:
        """Return when the next task is due, listings at intervals left out; None where nothing is to be done."""
        with self._wake:
            self._drop_stale()
            return min((due for due, number, task in self._tasks if task.entry == number and isinstance(task, Reading)), default=None)

    # Listing.

    def _list(self, job: Job, now: int) -> None:
        try:
            started = self._shards.relist(job, now)
        except SourceError as error:
            self._fail(job, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, listing is tried again
            self._list_later(job, now, error)
            return
        for reading in started:
            self._schedule(reading, now)
        job.failures = 0
        job.checked = True
        self._grow()
        self._schedule(job, now if job.ends else now + _LISTING_INTERVAL_MS)

    def _list_later(self, job: Job, now: int, error: BaseException) -> None:
        job.failures += 1
        self.source_errors += 1
        pause = backoff_ms(job.failures)
        _log.warning("mapping %s: the shards could not be listed, next try in %.1f s: %s", job.mapping.uuid, pause / 1000, error)
        self._schedule(job, now + pause)

    def end_saved(self, handle: int) -> None:
        """Say that the end of a shard is saved: its children may start."""
        reading = self._shards.readings[handle]
        reading.state = "gone"
        job = reading.job
        job.checked = False
        job.ends.append(reading.shard_id)
        self._schedule(job, 0)

    # Fetching.

    def _poll(self, reading: Reading, now: int) -> None:
        job = reading.job
        wakeups = job.wakeups
        try:
            due = self._fetch(reading, now)
        except UsageError:
            if reading.state == "gone":
                self._close(reading)
                return
            raise
        if due is None and reading.state != "polling":
            return
        if due is None or due > now:
            # At the tip, or a pause: a wake-up that came during the fetch must not be lost.
            with self._wake:
                if reading.at_tip:
                    job.parked[reading] = None
                    if wakeups != job.wakeups:
                        due = now
        if due is not None:
            self._schedule(reading, due)

    def _fetch(self, reading: Reading, now: int) -> int | None:
        """Fetch and offer one page. Returns when to come again, None for not before a wake-up."""
        engine, handle = self._engine, reading.handle
        fetched = reading.pending
        if fetched is None:
            want = engine.wants(handle, now)
            if want is None:
                return now + _FULL_PAUSE_MS
            limit = want.limit
            if self._quota is not None:
                limit = self._grant(reading, limit)
                if not limit:
                    engine.fetch_failed(handle)
                    return now + _FULL_PAUSE_MS
            try:
                reader = reading.reader
                if reader is None:
                    reader = reading.reader = self._open_reader(reading, want.after)
                fetched = reader.fetch(limit)
            except (SourceError, PageError) as error:
                engine.fetch_failed(handle)
                self._settle(reading, 0)
                self._fail_reading(reading, error)
                return None
            except Exception as error:  # noqa: BLE001 - whatever it is, the shard is read again
                engine.fetch_failed(handle)
                self._settle(reading, 0)
                return self._fetch_later(reading, now, error)
            reading.failures = 0
            reading.pending = fetched
        page = fetched.page if fetched.page is not None else _NO_RECORDS
        try:
            offered = engine.offer(handle, page, self._clock.now_ms(), fetched.millis_behind)
        except PageError as error:
            self._settle(reading, 0)
            self._fail_reading(reading, SourceError(f"shard {reading.shard_id}: {error}"))
            return None
        if not offered.accepted:
            return now + _FULL_PAUSE_MS
        reading.pending = None
        self._settle(reading, offered.records - offered.complete)
        return self._after(reading, fetched, page, now)

    def _after(self, reading: Reading, fetched: Fetched, page: Page, now: int) -> int | None:
        job = reading.job
        for child in page.child_shards:
            job.children.append((child.shard_id, tuple(child.parent_shards)))
        if fetched.ended:
            reading.state = "ended"
            self._close(reading)
            self._saver.ending.add(reading.handle)
            self._engine.end(reading.handle, self._clock.now_ms())
            self._saver.hurry()
            return None
        behind, records = fetched.millis_behind, len(page)
        reading.at_tip = behind == 0 if behind is not None else not records and not fetched.retry_after_ms
        if fetched.retry_after_ms:
            return now + fetched.retry_after_ms
        interval = job.description.poll_interval_ms
        if reading.at_tip:
            return now + interval if interval else None
        return now if records else now + min(interval, _EMPTY_PAUSE_MS)

    def _open_reader(self, reading: Reading, after: str | None) -> ShardReader:
        start = reading.start if after is None else Start("AFTER_SEQUENCE_NUMBER", sequence_number=after)
        return reading.job.source.open(reading.shard_id, start)

    def _close(self, reading: Reading) -> None:
        reader, reading.reader = reading.reader, None
        if reader is not None:
            try:
                reader.close()
            except Exception:  # noqa: BLE001 - there is nothing left to lose
                _log.exception("the reader of shard %s could not be closed", reading.shard_id)

    def _fetch_later(self, reading: Reading, now: int, error: BaseException) -> int:
        """Read again after a pause, with a new reader behind the last record that was taken in."""
        self._close(reading)
        reading.failures += 1
        self.source_errors += 1
        reading.at_tip = False
        pause = backoff_ms(reading.failures)
        _log.warning(
            "shard %s could not be read (%d times in a row), next try in %.1f s: %s: %s",
            reading.shard_id,
            reading.failures,
            pause / 1000,
            type(error).__name__,
            error,
        )
        return now + pause

    def _fail_reading(self, reading: Reading, error: BaseException) -> None:
        reading.state = "failed"
        self._close(reading)
        self.source_errors += 1
        self._fail(reading.job, error)

    def _fail(self, job: Job, error: BaseException) -> None:
        """Give the mapping's source up. Recorded data is read on to where each shard breaks; a live stream is read no further."""
        if not job.failed:
            job.failed = True
            _log.error("mapping %s: %s", job.mapping.uuid, error)
            self._on_failed(error)
        if not job.recorded:
            for reading in list(self._shards.readings.values()):
                if reading.job is job and reading.state == "polling":
                    reading.state = "failed"

    # Exactly so many records and no more.

    def _grant(self, reading: Reading, limit: int) -> int:
        """Take up to `limit` records from what may still be read."""
        with self._quota_lock:
            grant = min(limit, self._quota or 0)
            self._quota = (self._quota or 0) - grant
            reading.grant = grant
            return grant

    def _settle(self, reading: Reading, used: int) -> None:
        if self._quota is not None:
            with self._quota_lock:
                self._quota += reading.grant - used
                reading.grant = 0

    @property
    def limited(self) -> bool:
        """Whether there is a greatest number of records."""
        return self._quota is not None

    @property
    def exhausted(self) -> bool:
        """Whether the greatest number of records has been taken in."""
        if self._quota is None:
            return False
        with self._quota_lock:
            return self._quota == 0 and not any(reading.grant for reading in self._shards.readings.values())

    # Being done.

    @property
    def quiet(self) -> bool:
        """Whether every shard that may be read has been read to its tip or its end, and no listing is outstanding."""
        if self._stopping:
            return self._busy == 0
        if self._busy:
            return False
        for job in self.jobs:
            if not job.failed and (job.ends or not job.checked or job.failures):
                return False
        return all(
            reading.state in ("failed", "gone") or (reading.state == "polling" and reading.at_tip and not reading.pending)
            for reading in list(self._shards.readings.values())
        ) and not any(job.lineage.startable() for job in self.jobs if not job.failed)

    @property
    def read_up(self) -> bool:
        """Whether nothing is left to be read now: every shard is at its tip or closed."""
        return all(reading.at_tip or reading.state != "polling" for reading in list(self._shards.readings.values()))

    @property
    def read_out(self) -> bool:
        """Whether nothing is left to be read at all now: no shard waits for a parent either."""
        return self.read_up and not any(job.lineage.waiting for job in self.jobs)

    @property
    def recorded(self) -> bool:
        """Whether all sources are recorded data, which has an end."""
        return all(job.recorded for job in self.jobs)

    @property
    def all_ended(self) -> bool:
        """Whether every shard of every mapping has ended, or cannot be read, and its end is saved."""
        return self.quiet and all(reading.state in ("failed", "gone") for reading in list(self._shards.readings.values()))

    # Threads.

    def start(self, threads_max: int) -> None:
        """Poll in threads until `close`: one for each shard that can be read, at most `threads_max`."""
        self._threads_max = threads_max
        self._grow()

    def _grow(self) -> None:
        shards = sum(reading.state == "polling" for reading in self._shards.readings.values())
        with self._wake:
            while not self._stopping and len(self._threads) < min(self._threads_max, max(shards, 1)):
                thread = threading.Thread(target=self._run, name=f"streamcore-poll-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        clock = self._clock
        while not self._stopping:
            now = clock.now_ms()
            try:
                if self.step(now):
                    continue
            except BaseException as error:  # noqa: BLE001 - a thread must not die in silence
                _log.exception("polling stopped")
                self._on_failed(error)
                return
            with self._wake:
                self._drop_stale()
                pause = self._tasks[0][0] - now if self._tasks else None
                if not self._halted() and (pause is None or pause > 0):
                    self._wake.wait(None if pause is None else pause / 1000)

    def _halted(self) -> bool:
        # A call, since a type checker takes an attribute that was just seen for unchanged.
        return self._stopping

    def halt(self) -> None:
        """Read nothing more."""
        self._stopping = True
        with self._wake:
            self._wake.notify_all()

    def close(self, timeout_s: float) -> None:
        """Halt, wait for the reads under way, close the readers."""
        self.halt()
        for thread in self._threads:
            thread.join(timeout_s)
        for job in self.jobs:
            job.source.set_wakeup(None)
        for reading in list(self._shards.readings.values()):
            self._close(reading)
