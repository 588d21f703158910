"""Reads shards in the background: which one when, in lineage order, with few threads."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Literal

from streamcore._job import Job, Reading, Task, backoff_ms
from streamcore._log import Rarely, is_told, of_error
from streamcore._streamcore import Page
from streamcore.errors import PageError, SourceError, SourceUnavailableError, UsageError
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
# So many threads read at once without ado. More join in where a read is so much overdue, since the others wait for slow answers.
_THREADS = 4
_OVERDUE_MS = 20
# Of all threads this part at most is with shards whose last read failed: servers that hang hold up no other shard.
_FAILING_PART = 4
_FAILING_PAUSE_MS = 50
# A shard that failed so often in a row is a problem worth telling.
_PROBLEM_FAILURES = 5


def _says_tip(fetched: Fetched, page: Page) -> bool:
    """Whether the source says that it has nothing more now; one that does not tell its distance says so with no records."""
    if fetched.millis_behind is not None:
        return fetched.millis_behind == 0
    return not len(page) and not fetched.retry_after_ms


class Poller:
    """Feeds the engine from the sources of all mappings.

    Every shard and every listing is a task with a due time in one heap. A task is out of the heap while a thread does it, and whoever
    schedules it meanwhile says when it is due again, so that a reader is used and a mapping is listed by one thread at a time. A source
    that wakes its readers moves those at its tip to the front.
    """

    def __init__(self, engine: Engine, clock: Clock, saver: Saver, shards: Shards, *, on_failed: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._saver = saver
        self._shards = shards
        self._on_failed = on_failed
        self._lock = threading.Lock()
        self._tasks: list[tuple[int, int, Task]] = []
        self._number = 0
        self._wakeups = itertools.count(1)
        self._busy = 0
        self._pressing = 0  # of the busy threads, those that a run must not end without
        self._failing = 0  # of the busy threads, those with a task that failed the last time
        # One idle thread, the leader, waits for the clock; the others wait for their turn to lead.
        self._wake = threading.Condition(self._lock)
        self._turn = threading.Condition(self._lock)
        self._leading = False
        self._until: float = 0
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._threads_max = _THREADS
        self._stopping = False
        self._quota: int | None = None
        self._quota_lock = threading.Lock()
        self.jobs: list[Job] = []
        self._rarely = Rarely()

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
        with self._lock:
            self._push(task, due)
            self._rouse()

    def _push(self, task: Task, due: int) -> None:
        if task.under_way:
            task.due_again = due if task.due_again is None else min(due, task.due_again)
            return
        self._number += 1
        task.entry = self._number
        heapq.heappush(self._tasks, (due, self._number, task))

    def _drop_stale(self) -> None:
        tasks = self._tasks
        while tasks and tasks[0][2].entry != tasks[0][1]:
            heapq.heappop(tasks)

    def _ready(self) -> float:
        """Return when the first task may be done; infinity where there is none."""
        self._drop_stale()
        if not self._tasks:
            return math.inf
        return self._tasks[0][0] + (_OVERDUE_MS if self._busy >= _THREADS else 0)

    def _rouse(self) -> None:
        """Wake the leader where there is something to do before it would wake by itself."""
        if self._leading and self._ready() < self._until:
            self._until = 0
            self._wake.notify()

    def _take(self, now: int) -> Task | None:
        """Take the first task if it may be done now."""
        while self._ready() <= now:
            task = heapq.heappop(self._tasks)[2]
            if task.failures and self._failing >= max(self._threads_max // _FAILING_PART, 1):
                self._push(task, now + _FAILING_PAUSE_MS)
                continue
            task.entry = 0
            task.under_way = True
            if isinstance(task, Reading):
                task.parked = False
            # A look at the tip of a polled stream is not pressing: with many shards one or another is always under way.
            task.pressing = not (isinstance(task, Reading) and task.at_tip and task.job.description.poll_interval_ms)
            self._busy += 1
            self._pressing += task.pressing
            self._failing += task.failures > 0
            return task
        return None

    def _do(self, task: Task, now: int) -> None:
        # As `_take` saw them.
        failing, pressing = task.failures > 0, task.pressing
        try:
            if isinstance(task, Reading):
                self._poll(task, now)
            elif isinstance(task, Job):
                self._list(task, now)
        finally:
            with self._lock:
                self._busy -= 1
                self._pressing -= pressing
                self._failing -= failing
                task.under_way = False
                if task.due_again is not None:
                    due, task.due_again = task.due_again, None
                    self._push(task, due)
                    self._rouse()

    def _woken(self, job: Job, shard_id: str | None = None, /) -> None:
        """Poll a shard of the source if it waits to be woken, or each of them. Called by the source, from any thread."""
        if shard_id is None:
            self._call(list(job.readings.values()))
        elif (reading := job.readings.get(shard_id)) is not None:
            self._call([reading])

    def _call(self, readings: list[Reading]) -> None:
        # Each number is given once, so a poll that began before this call sees that the number has changed, and a poll that has parked
        # its shard already is seen here: no wake-up is lost without a lock for each record put.
        for reading in readings:
            reading.wakeups = next(self._wakeups)
        if not any(reading.parked for reading in readings):
            return
        now = self._clock.now_ms()
        with self._lock:
            for reading in readings:
                if reading.parked:
                    reading.parked = False
                    self._push(reading, now)
            self._rouse()

    def leave(self, reading: Reading) -> None:
        """Say that the shard is out of the engine. Its next poll finds that out and closes the reader; where it waits, that is now."""
        self._call([reading])

    def refresh(self, now: int) -> None:
        """Read every polled shard that is at its tip once more before the poller is quiet again. Without threads only."""
        for job in self.jobs:
            if job.description.poll_interval_ms:
                for reading in list(job.readings.values()):
                    if reading.state == "polling" and reading.at_tip:
                        reading.at_tip = False
                        self._schedule(reading, now)

    def step(self, now: int) -> bool:
        """Do the task that is due, if there is one. Returns whether there was."""
        with self._lock:
            task = self._take(now)
        if task is None:
            return False
        self._do(task, now)
        return True

    def next_due(self) -> int | None:
        """Return when the next task is due, listings at intervals left out; None where nothing is to be done."""
        with self._lock:
            self._drop_stale()
            return min((due for due, number, task in self._tasks if task.entry == number and isinstance(task, Reading)), default=None)

    # Listing.

    def _list(self, job: Job, now: int) -> None:
        try:
            started = self._shards.relist(job, now)
        except SourceUnavailableError as error:
            job.problem = str(error)
            self._list_later(job, error)
            return
        except SourceError as error:
            self._fail(job, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, listing is tried again
            self._list_later(job, error)
            return
        for reading in started:
            self._schedule(reading, now)
        self._shards.give_up(job)
        if job.failures:
            uuid = job.mapping.uuid
            _log.warning("mapping %s: the shards are listed again", uuid, extra={"mappingUuid": uuid, "failures": job.failures})
        job.failures = 0
        job.problem = None
        job.checked = True
        self._schedule(job, now if job.ends else now + _LISTING_INTERVAL_MS)

    def _list_later(self, job: Job, error: BaseException) -> None:
        job.failures += 1
        with job.counting:
            job.tally.source_errors += 1
        pause = backoff_ms(job.failures)
        level = logging.WARNING if is_told(job.failures) else logging.DEBUG
        problem = "PROBLEM: " if job.problem else ""
        text = "%smapping %s: the shards could not be listed (%d times in a row), next try in %.1f s: %s"
        fields = of_error(error, mappingUuid=job.mapping.uuid, failures=job.failures, retryInMs=pause)
        _log.log(level, text, problem, job.mapping.uuid, job.failures, pause / 1000, error, extra=fields)
        self._schedule(job, self._clock.now_ms() + pause)

    def end_saved(self, reading: Reading) -> None:
        """Say that the end of a shard is saved: its children may start."""
        job = reading.job
        job.checked = False
        job.ends.append(reading)
        self._schedule(job, self._clock.now_ms())

    # Fetching.

    def _poll(self, reading: Reading, now: int) -> None:
        wakeups = reading.wakeups
        try:
            due = self._fetch(reading, now)
        except UsageError:
            # The engine has it no more: its claim was lost, or the worker has stopped while the source kept this thread waiting.
            if self._shards.has(reading) and not self._stopping:
                raise
            self._close(reading)
            return
        state = reading.state  # it may be gone at any moment, of which the number of wake-ups tells below
        if state == "gone":
            self._close(reading)
            return
        if due is None and state != "polling":
            return
        with self._lock:
            if due is None or (due > now and reading.at_tip):
                # A wake-up that came during the fetch must not be lost.
                reading.parked = True
                if wakeups != reading.wakeups:
                    due = now
            if due is not None:
                self._push(reading, due)
                self._rouse()

    def _fetch(self, reading: Reading, now: int) -> int | None:
        """Fetch and offer one page. Returns when to come again, None for not before a wake-up."""
        engine, handle, job = self._engine, reading.handle, reading.job
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
                began = self._clock.now_ms()
                fetched = reader.fetch(limit)
                ended = self._clock.now_ms()
            except (SourceError, PageError) as error:
                engine.fetch_failed(handle)
                self._settle(reading, 0)
                # At first contact a stream that cannot be read is an error to be told at once.
                if isinstance(error, SourceUnavailableError) and job.contacted:
                    return self._fetch_later(reading, error)
                self._fail_reading(reading, error)
                return None
            except Exception as error:  # noqa: BLE001 - whatever it is, the shard is read again
                engine.fetch_failed(handle)
                self._settle(reading, 0)
                return self._fetch_later(reading, error)
            with job.counting:
                reading.tally.poll_ms.count(ended - began, ended)
            self._readable(reading, fetched)
            reading.pending = fetched
        page = fetched.page if fetched.page is not None else _NO_RECORDS
        at_tip = _says_tip(fetched, page)
        try:
            offered = engine.offer(handle, page, self._clock.now_ms(), 0 if at_tip else fetched.millis_behind)
        except PageError as error:
            self._settle(reading, 0)
            self._fail_reading(reading, SourceError(f"shard {reading.shard_id}: {error}"))
            return None
        if not offered.accepted:
            return now + _FULL_PAUSE_MS
        reading.pending = None
        if offered.duplicates:
            text = "mapping %s, shard %s: %d records came twice and were dropped"
            fields = reading.fields(count=offered.duplicates)
            _log.info(text, job.mapping.uuid, reading.shard_id, offered.duplicates, extra=fields)
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
        records = len(page)
        reading.at_tip = _says_tip(fetched, page)
        interval = job.description.poll_interval_ms
        if reading.at_tip:
            return now + max(interval, fetched.retry_after_ms) if interval else None
        if fetched.retry_after_ms:
            return self._clock.now_ms() + fetched.retry_after_ms
        if records:
            return now
        return now + min(interval, _EMPTY_PAUSE_MS) if interval else None

    def _open_reader(self, reading: Reading, after: str | None) -> ShardReader:
        start = reading.start if after is None else Start("AFTER_SEQUENCE_NUMBER", sequence_number=after)
        return reading.job.source.open(reading.shard_id, start)

    def _close(self, reading: Reading) -> None:
        reader, reading.reader = reading.reader, None
        if reader is not None:
            try:
                reader.close()
            except Exception:  # noqa: BLE001 - there is nothing left to lose
                _log.exception("the reader of shard %s could not be closed", reading.shard_id, extra=reading.fields())

    def _readable(self, reading: Reading, fetched: Fetched) -> None:
        """Take note of a read that succeeded."""
        failures, reading.failures = reading.failures, 0
        if fetched.trimmed:
            with reading.job.counting:
                reading.tally.trimmed += 1
            _log.warning(
                "mapping %s, shard %s: records were trimmed before they were read; reading goes on with the oldest that is left",
                reading.job.mapping.uuid,
                reading.shard_id,
                extra=reading.fields(),
            )
        if failures:
            reading.problem = None
            level, reading.told = logging.WARNING if reading.told else logging.DEBUG, False
            text = "mapping %s: shard %s is read again after %d failures"
            _log.log(level, text, reading.job.mapping.uuid, reading.shard_id, failures, extra=reading.fields(failures=failures))
        if fetched.page is not None:
            reading.job.contacted = True

    def _fetch_later(self, reading: Reading, error: BaseException) -> int:
        """Read again after a pause, with a new reader behind the last record that was taken in."""
        self._close(reading)
        reading.failures += 1
        with reading.job.counting:
            reading.tally.source_errors += 1
        reading.at_tip = False
        if isinstance(error, SourceUnavailableError) or reading.failures >= _PROBLEM_FAILURES:
            reading.problem = str(error)
        pause = backoff_ms(reading.failures)
        # Also of a shard that fails every other time.
        told = is_told(self._rarely.count((reading.handle, type(error)), self._clock.now_ms()))
        reading.told |= told
        _log.log(
            logging.WARNING if told else logging.DEBUG,
            "%smapping %s: shard %s could not be read (%d times in a row), next try in %.1f s: %s: %s",
            "PROBLEM: " if reading.problem else "",
            reading.job.mapping.uuid,
            reading.shard_id,
            reading.failures,
            pause / 1000,
            type(error).__name__,
            error,
            extra=of_error(error, **reading.fields(failures=reading.failures, retryInMs=pause)),
        )
        return self._clock.now_ms() + pause

    def _fail_reading(self, reading: Reading, error: BaseException) -> None:
        reading.state = "failed"
        self._close(reading)
        with reading.job.counting:
            reading.tally.source_errors += 1
        self._fail(reading.job, error)

    def _fail(self, job: Job, error: BaseException) -> None:
        """Give the mapping's source up. Recorded data is read on to where each shard breaks; a live stream is read no further."""
        if not job.failed:
            job.failed = True
            text = "mapping %s: its source is given up: %s"
            _log.error(text, job.mapping.uuid, error, extra=of_error(error, mappingUuid=job.mapping.uuid))
            self._on_failed(error)
        if not job.recorded:
            for reading in list(job.readings.values()):
                if reading.state == "polling":
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
                # An aggregate is taken in as a whole, so that it may be more than was granted.
                self._quota = max(self._quota + reading.grant - used, 0)
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

    # What stands in the way.

    def problems(self) -> dict[str, str]:
        """Return, for each mapping whose stream cannot be read now, the reason; one of them where there are several."""
        found = {job.mapping.uuid: job.problem for job in self.jobs if job.problem}
        for reading in list(self._shards.readings.values()):
            if reading.problem and reading.state == "polling":
                found.setdefault(reading.job.mapping.uuid, reading.problem)
        return {uuid: f"PROBLEM: {problem}" for uuid, problem in found.items()}

    # Being done.

    @property
    def quiet(self) -> bool:
        """Whether every shard that may be read has been read to its tip or its end, and no listing is outstanding."""
        if self._stopping:
            return self._busy == 0
        if self._pressing:
            return False
        for job in self.jobs:
            if not job.failed and (job.ends or not job.checked or job.failures):
                return False
        return all(
            reading.state == "failed" or (reading.state == "polling" and reading.at_tip and not reading.pending)
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
        return self.quiet and all(reading.state == "failed" for reading in list(self._shards.readings.values()))

    # Threads.

    def start(self, threads_max: int) -> None:
        """Poll in threads until `close`: as many as are needed, at most `threads_max`."""
        self._threads_max = threads_max
        with self._lock:
            self._grow()

    def _grow(self) -> None:
        thread = threading.Thread(target=self._run, name=f"streamcore-poll-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            while (task := self._await_task()) is not None:
                self._do(task, self._clock.now_ms())
        except BaseException as error:  # noqa: BLE001 - a thread must not die in silence
            _log.exception("polling stopped")
            self._on_failed(error)

    def _await_task(self) -> Task | None:
        """Wait for a task that may be done and take it; None once polling has stopped."""
        with self._lock:
            while not self._stopping:
                now = self._clock.now_ms()
                task = self._take(now)
                if task is not None:
                    # While this thread is busy another one must wait for the clock.
                    if self._leading:
                        self._rouse()
                    elif self._idle:
                        self._turn.notify()
                    elif self._tasks and len(self._threads) < self._threads_max:
                        self._grow()
                    return task
                if self._leading:
                    self._rouse()
                    self._idle += 1
                    self._turn.wait()
                    self._idle -= 1
                else:
                    self._leading = True
                    self._until = self._ready()
                    self._wake.wait(None if self._until == math.inf else (self._until - now) / 1000)
                    self._leading = False
            return None

    def halt(self) -> None:
        """Read nothing more."""
        self._stopping = True
        with self._lock:
            self._wake.notify_all()
            self._turn.notify_all()

    def close(self, timeout_s: float) -> None:
        """Halt, wait for the reads under way, close the readers. A read that hangs is left to its own time limit."""
        self.halt()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        for job in self.jobs:
            job.source.set_wakeup(None)
        for reading in list(self._shards.readings.values()):
            self._close(reading)
