"""Reads shards in the background: which one when, in lineage order, with few threads."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import logging
import threading
from typing import TYPE_CHECKING, Literal, cast

from streamcore._job import Job, Reading, Task, backoff_ms
from streamcore._streamcore import Checkpoint, Page
from streamcore.errors import CheckpointError, ClaimError, PageError, SourceError, UsageError
from streamcore.protocols import CheckpointKey, Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._saver import Saver
    from streamcore._streamcore import Engine
    from streamcore.protocols import CheckpointStore, Clock, Fetched, ShardReader

    _Kind = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]

_log = logging.getLogger("streamcore.worker")

_NO_RECORDS = Page.from_records([])
# A shard whose buffer is full asks again so much later; the buffer is deep enough not to run dry in that time.
_FULL_PAUSE_MS = 5
# A read that found nothing though the tip is not reached (Kinesis does that): five reads a second and shard are allowed.
_EMPTY_PAUSE_MS = 200
_LISTING_INTERVAL_MS = 30_000


def _readable(start: Start) -> Start:
    """Return where a reader begins: a tip of the past is an instant."""
    if start.kind == "LATEST" and start.timestamp_ms is not None:
        return Start("AT_TIMESTAMP", timestamp_ms=start.timestamp_ms)
    return start


class Poller:
    """Feeds the engine from the sources of all mappings.

    Every shard and every listing is a task with a due time in one heap. A task is out of the heap while a thread does it, so that a
    reader is used by one thread at a time. A source that wakes its readers moves those at its tip to the front.
    """

    def __init__(
        self,
        engine: Engine,
        store: CheckpointStore,
        clock: Clock,
        saver: Saver,
        *,
        owner: str,
        sync_checkpoints: bool,
        on_add: Callable[[Reading], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._saver = saver
        self._owner = owner
        self._sync_checkpoints = sync_checkpoints
        self._on_add = on_add
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
        self.readings: dict[int, Reading] = {}
        self.other_identities = 0
        self.source_errors = 0

    # Opening: errors of the first contact go to the caller.

    def open(self, jobs: list[Job], now: int, max_records: int | None) -> None:
        """Make first contact with every source and start the shards that may start.

        Raises:
            SourceError: a stream is not there or cannot be read.
            ClaimError: a live worker holds a mapping.
            CheckpointError: the store or a stored checkpoint cannot be read.
        """
        self.jobs = jobs
        self._quota = max_records
        for job in jobs:
            description = job.source.describe()
            job.recorded = description.clock == "replay"
            job.description = description if job.clock is None else dataclasses.replace(description, clock=job.clock)
            self._claim_new(job)
            job.fresh = not any(claim.checkpoint is not None for claim in job.claims.values()) and not job.lineage.all_ended
            if job.fresh and job.mapping.starting_position == "LATEST":
                self._pin(job, now)
        if any(job.pinned for job in jobs) and not self._saver.save(now):
            error = self._saver.error
            message = f"the start position could not be saved: {error}"
            raise CheckpointError(message) from error
        for job in jobs:
            self._start_shards(job, now)
            job.checked = True
            self._schedule(job, now + _LISTING_INTERVAL_MS)
            job.source.set_wakeup(functools.partial(self._woken, job))

    def _claim_new(self, job: Job) -> None:
        """List the shards and claim the checkpoints of those that are new; the ends of earlier runs count."""
        lineage = job.lineage
        identity = job.description.identity
        lineage.update(job.source.list_shards())
        others: set[str] = set()
        for shard_id in lineage.waiting:
            if shard_id in job.claims:
                continue
            claim = self._store.claim(CheckpointKey(job.mapping.uuid, identity, shard_id), self._owner)
            if claim.checkpoint is not None and Checkpoint.inspect(claim.checkpoint)["ended"]:
                lineage.end(shard_id)
                self._store.release(claim.token)
                continue
            job.claims[shard_id] = claim
            if claim.checkpoint is None:
                others.update(claim.other_identities)
        if others and not job.checked:
            self.other_identities += 1
            _log.warning(
                "mapping %s: the stream was made anew: there are checkpoints of %s, this stream is %s; "
                "reading starts at %s and the old checkpoints are kept",
                job.mapping.uuid,
                ", ".join(sorted(others)),
                identity,
                job.mapping.starting_position,
            )

    def _pin(self, job: Job, now: int) -> None:
        """Fix where LATEST is: every reader stands at its tip now, and the first checkpoint says what time that was.

        Without it a crash before the first completed record would move the start to a later tip, past records already handed out.
        """
        for shard_id, claim in job.claims.items():
            reading = self._add(job, shard_id, None, Start("LATEST", timestamp_ms=now), now)
            reading.reader = job.source.open(shard_id, Start("LATEST"))
            self._saver.own(reading.handle, claim.token)
            job.pinned[shard_id] = reading

    def _add(self, job: Job, shard_id: str, checkpoint: bytes | None, start: Start, now: int) -> Reading:
        description = job.description
        handle = self._engine.add_shard(
            job.mapping,
            shard_id,
            now=now,
            identity=description.identity,
            checkpoint=checkpoint,
            start=cast("_Kind", start.kind),
            start_timestamp_ms=start.timestamp_ms,
            retention_ms=description.retention_ms,
            clock=description.clock,
            sync_checkpoints=self._sync_checkpoints,
            running_max=job.running_max,
        )
        reading = Reading(job, shard_id, handle, _readable(start))
        self.readings[handle] = reading
        self._on_add(reading)
        return reading

    def _start_of(self, job: Job, checkpoint: bytes | None) -> Start:
        """Return where a shard begins while nothing of it is complete."""
        if checkpoint is not None:
            stored = Checkpoint.inspect(checkpoint)
            return Start(stored["starting_position"], timestamp_ms=stored["starting_position_timestamp_ms"])
        mapping = job.mapping
        if mapping.starting_position == "AT_TIMESTAMP":
            return Start("AT_TIMESTAMP", timestamp_ms=mapping.starting_position_timestamp_ms)
        # LATEST is for the shards of the first contact, which are pinned. A shard found later is read from its beginning: what was
        # written to it before it was found is new to the mapping.
        return Start("TRIM_HORIZON")

    def _start_shards(self, job: Job, now: int) -> None:
        for shard_id in job.lineage.startable():
            reading = job.pinned.pop(shard_id, None)
            claim = job.claims.pop(shard_id)
            if reading is None:
                reading = self._add(job, shard_id, claim.checkpoint, self._start_of(job, claim.checkpoint), now)
                self._saver.own(reading.handle, claim.token)
            job.lineage.start(shard_id)
            self._schedule(reading, now)

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
        """Forget that shards were at their tip: each is read once more before the poller is quiet."""
        for reading in list(self.readings.values()):
            if reading.state == "polling":
                reading.at_tip = False
        for job in self.jobs:
            self._woken(job)
        with self._wake:
            waiting = [(due, number, task) for due, number, task in self._tasks if task.entry == number and isinstance(task, Reading)]
        for due, _, reading in waiting:
            if due > now:
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
        while job.ends:
            job.lineage.end(job.ends.popleft())
        try:
            self._claim_new(job)
            children = {shard_id: parents for shard_id, parents in job.children if shard_id not in job.claims}
            if job.lineage.add(children):
                self._claim_new_children(job)
            self._start_shards(job, now)
        except (SourceError, CheckpointError) as error:
            if isinstance(error, ClaimError) or not isinstance(error, SourceError):
                self._list_later(job, now, error)
            else:
                self._fail(job, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, listing is tried again
            self._list_later(job, now, error)
            return
        job.failures = 0
        job.checked = True
        self._grow()
        self._schedule(job, now if job.ends else now + _LISTING_INTERVAL_MS)

    def _claim_new_children(self, job: Job) -> None:
        """Claim shards that a last page has named and the listing does not show yet."""
        for shard_id in job.lineage.waiting:
            if shard_id not in job.claims:
                key = CheckpointKey(job.mapping.uuid, job.description.identity, shard_id)
                job.claims[shard_id] = self._store.claim(key, self._owner)

    def _list_later(self, job: Job, now: int, error: BaseException) -> None:
        job.failures += 1
        self.source_errors += 1
        pause = backoff_ms(job.failures)
        _log.warning("mapping %s: the shards could not be listed, next try in %.1f s: %s", job.mapping.uuid, pause / 1000, error)
        self._schedule(job, now + pause)

    def end_saved(self, handle: int) -> None:
        """Say that the end of a shard is saved: its children may start."""
        reading = self.readings[handle]
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
            for reading in list(self.readings.values()):
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
            return self._quota == 0 and not any(reading.grant for reading in self.readings.values())

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
            for reading in list(self.readings.values())
        ) and not any(job.lineage.startable() for job in self.jobs if not job.failed)

    @property
    def read_up(self) -> bool:
        """Whether nothing is left to be read now: every shard is at its tip or closed."""
        return all(reading.at_tip or reading.state != "polling" for reading in list(self.readings.values()))

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
        return self.quiet and all(reading.state in ("failed", "gone") for reading in list(self.readings.values()))

    # Threads.

    def start(self, threads_max: int) -> None:
        """Poll in threads until `close`: one for each shard that can be read, at most `threads_max`."""
        self._threads_max = threads_max
        self._grow()

    def _grow(self) -> None:
        shards = sum(reading.state == "polling" for reading in self.readings.values())
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
        for reading in list(self.readings.values()):
            self._close(reading)
        for job in self.jobs:
            for claim in job.claims.values():
                self._store.release(claim.token)
