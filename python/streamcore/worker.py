"""Runs event source mappings: reads their streams, invokes their functions, keeps their checkpoints.

A worker is four small machines around one engine, each driven by threads of its own or, in tests, step by step on the calling thread:

    poller     sources -> engine         which shard to read when, parents before children
    invoker    engine -> functions       batches, answers, outcomes
    delivery   engine -> destinations    discards, until they are confirmed
    saver      engine -> checkpoints     one commit for all shards

Delivery is at least once: after a crash the records come again that were in flight or done since the last saved checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING, Literal, Self

from streamcore._delivery import Delivery
from streamcore._interrupts import interrupts
from streamcore._invoker import Invoker
from streamcore._job import Job, Reading
from streamcore._ledger import Ledger, stuck_batches
from streamcore._log import of_error
from streamcore._poller import Poller
from streamcore._saver import Saver
from streamcore._shards import Shards
from streamcore._stats import StopReason, StuckBatch, Summary, Totals, WorkerStats
from streamcore._streamcore import Engine
from streamcore._watch import Watch
from streamcore.destinations._open import open_destination
from streamcore.errors import CheckpointError, ConfigError, ForkError, SourceError, UsageError
from streamcore.sources._wall import WallClock as SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore.mapping import EventSourceMapping
    from streamcore.metrics import WorkerMetrics
    from streamcore.protocols import CheckpointStore, Clock, Destination, Function, Source

__all__ = ["StopReason", "StuckBatch", "Summary", "SystemClock", "Totals", "Worker", "WorkerStats"]

_log = logging.getLogger("streamcore.worker")

_THREADS_MAX = 32
_POLL_THREADS_MAX = 32
_GLANCE_S = 0.02  # how often to look whether a run that ends by itself has come to its end
_SAVE_FLOOR_S = 5.0  # the last save has this time for itself, whatever the functions used up


class Worker:
    """Runs one or many mappings until it is told to stop, or until its streams are done.

    Functions are called from several threads at once: at most one for each shard and unit of ParallelizationFactor, and at most
    `invocation_threads`. Sources, functions, destinations and the store that it is given stay the caller's: the worker does not close them.

    Args:
        checkpoints: keeps the positions.
        clock: tells the time; the system's by default.
        checkpoint_interval_ms: how often checkpoints are saved. With 0 a shard hands nothing out between a completion and its save, so that
            a crash repeats only what was in flight.
        invocation_threads: most threads that run functions, those in processes too; by default one for each shard and unit of
            ParallelizationFactor, at most 32. A handler that is `async def` needs one for all its calls.
        poll_threads: most threads that read sources. Four do unless answers are slow in coming: a thread waits for each answer under way.
        stop_timeout_s: how long stopping waits for functions to come to an end. The last save has 5 s more.
        owner: names this worker in the store; by default host name, process and a random part.
        seed: of request ids and of the jitter of retries; random by default.
        budget_bytes: memory for records, over all shards.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
        >>> stream = MemoryStream("orders")
        >>> for number in range(250):
        ...     _ = stream.put(f"customer-{number % 7}", b"{}")
        >>> sizes = []
        >>> def handler(event, context):
        ...     sizes.append(len(event["Records"]))
        >>> worker = Worker(checkpoints=MemoryCheckpointStore())
        >>> worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, LocalFunction(handler))
        >>> worker.run(until_idle=True).records
        250
        >>> sizes
        [100, 100, 50]
    """

    def __init__(
        self,
        *,
        checkpoints: CheckpointStore,
        clock: Clock | None = None,
        checkpoint_interval_ms: int = 1000,
        invocation_threads: int | None = None,
        poll_threads: int = _POLL_THREADS_MAX,
        stop_timeout_s: float = 30,
        owner: str | None = None,
        seed: int | None = None,
        budget_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        _check("checkpoint_interval_ms", checkpoint_interval_ms, 0, 3_600_000)
        _check("invocation_threads", invocation_threads if invocation_threads is not None else 1, 1, 1000)
        _check("poll_threads", poll_threads, 1, 1000)
        _check("stop_timeout_s", stop_timeout_s, 0, 86_400, whole=False)
        _check("budget_bytes", budget_bytes, 1, 2**62)
        self.seed = secrets.randbits(63) if seed is None else seed
        self.owner = owner or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._pid = os.getpid()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._stop_timeout_s = stop_timeout_s
        self._invocation_threads = invocation_threads
        self._poll_threads = poll_threads
        self._engine = self._new_engine(budget_bytes)
        self._jobs: list[Job] = []
        self._opened: list[Destination] = []
        self._inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._state: Literal["new", "open", "stopping", "stopped"] = "new"
        self._reason: StopReason | None = None
        self._error: BaseException | None = None
        self._abort = False
        self._stepping = False
        self._lanes = 0
        self._thread: threading.Thread | None = None
        self._summary: Summary | None = None
        sync = checkpoint_interval_ms == 0
        self._saver = Saver(
            self._engine,
            checkpoints,
            self._clock,
            interval_ms=checkpoint_interval_ms,
            on_end=self._shard_ended,
            on_lost=self._shard_lost,
        )
        self._save_at_once = self._save_now if sync else None
        self._delivery = Delivery(
            self._engine, self._clock, self._reading_of, on_confirmed=self._save_at_once or _nothing, on_failed=self._crashed
        )
        self._invoker = Invoker(
            self._engine,
            self._clock,
            on_discard=self._delivery.add,
            on_finish=self._save_at_once,
            on_interrupt=lambda: self._request("interrupted"),
            on_failed=self._crashed,
            on_busy=lambda: self._inbox.put("busy"),
            on_hold=lambda: self._inbox.put("held"),
        )
        self._shards = Shards(self._engine, checkpoints, self._saver, owner=self.owner, sync_checkpoints=sync, on_add=self._shard_added)
        self._poller = Poller(self._engine, self._clock, self._saver, self._shards, on_failed=self._source_failed)
        self._ledger = Ledger(
            self._engine,
            self._jobs,
            shards=self._shards,
            invoker=self._invoker,
            delivery=self._delivery,
            saver=self._saver,
            clock=self._clock,
        )

    def add(
        self,
        mapping: EventSourceMapping,
        source: Source,
        function: Function,
        destination: Destination | None = None,
        *,
        running_max: int | None = None,
        on_undeliverable: Literal["continue", "block"] = "continue",
        discard_tries: int = 5,
        discard_budget_s: float = 30,
        clock: Literal["wall", "replay"] | None = None,
        window_grace_s: float = 120,
    ) -> None:
        """Have the worker run a mapping. Before the start only.

        Args:
            mapping: the mapping; its UUID must differ from those of the others.
            source: where its records come from.
            function: what is invoked.
            destination: where its discards go; by default what the mapping's `destination_config` names, with the region, endpoint and
                credentials of the environment. Without either they are logged and dropped, as Lambda does. Up to four are sent to it at a
                time. Mappings may share one.
            running_max: at most so many batches of this mapping run at once, over all shards. By default there is no limit for one
                mapping alone; of several each leaves a thread for each of the others.
            on_undeliverable: what to do with a discard that cannot be delivered: "continue" gives it up after `discard_tries` tries or
                `discard_budget_s` seconds, whichever comes first; it is counted and logged, and the shard goes on, as with Lambda.
                "block" tries for ever, and the checkpoint does not pass its records. A shard with 1,000 discards on their way waits.
            discard_tries: see `on_undeliverable`; 1 to 20.
            discard_budget_s: for one discard, from when it is made, over all tries and the pauses between them. A try under way is not cut
                off, and one is always made. 0 to 86,400.
            clock: which time windows, record age and iterator age go by: "wall", or "replay" for the largest arrival time handed out. By
                default what the source says, which for recorded data is "replay".
            window_grace_s: how long a source must say without a break that it is at its tip, after a tumbling window's end and its last
                record, before the window is closed without a record of a later one. Recorded data never idles. 0 to 86,400.

        Raises:
            ConfigError: the mapping is there already, asks for what this version cannot do or names a destination that does not exist, or
                an option is out of range.
            UsageError: the worker has been started.
            OSError: the mapping names a file as destination, which cannot be opened for writing.
        """
        self._check_process()
        if self._state != "new":
            raise UsageError("a mapping can be added only before the worker is started")
        if any(job.mapping.uuid == mapping.uuid for job in self._jobs):
            raise ConfigError(
                f"there is a mapping {mapping.uuid} already; two of one source and function need a uuid each", parameter="uuid"
            )
        _check("running_max", running_max if running_max is not None else 1, 1, 1_000_000)
        _check("discard_tries", discard_tries, 1, 20)
        _check("discard_budget_s", discard_budget_s, 0, 86_400, whole=False)
        _check("window_grace_s", window_grace_s, 0, 86_400, whole=False)
        if on_undeliverable not in ("continue", "block"):
            raise ConfigError(f"on_undeliverable must be 'continue' or 'block', not {on_undeliverable!r}", parameter="on_undeliverable")
        where = mapping.on_failure_destination
        if on_undeliverable == "block" and destination is None and where is None:
            raise ConfigError(
                "on_undeliverable 'block' needs a destination: without one discards are dropped", parameter="on_undeliverable"
            )
        if clock not in (None, "wall", "replay"):
            raise ConfigError(f"clock must be 'wall' or 'replay', not {clock!r}", parameter="clock")
        if destination is None and where is not None:
            # The ARN of a bucket does not say where it is; for want of better, where the stream is.
            region = mapping.aws_region if mapping.source_kind in ("kinesis", "dynamodb") else None
            destination = open_destination(where, region=region)
            self._opened.append(destination)
        self._jobs.append(
            Job(
                mapping,
                source,
                function,
                destination,
                running_max=running_max,
                blocks=on_undeliverable == "block",
                discard_tries=discard_tries,
                discard_budget_ms=int(discard_budget_s * 1000),
                clock=clock,
                window_grace_ms=int(window_grace_s * 1000),
            )
        )

    # Running in threads.

    def run(self, *, until_idle: bool = False, max_records: int | None = None, timeout_s: float | None = None) -> Summary:
        """Run the mappings on this worker's threads and return when they are done.

        A run ends by itself when all its sources are recorded data and read to their ends. On the main thread the first Ctrl-C stops it
        as `stop` does, a second one at once.

        Args:
            until_idle: end too when every shard has been read to its tip and all that was taken in is done, confirmed and saved.
            max_records: end when so many records have been taken in and are done.
            timeout_s: end after so many seconds.

        Raises:
            SourceError: a source cannot be read. What was taken in before is done and saved first.
            ClaimError: another live worker holds a mapping.
            CheckpointError: the store cannot be read, or the last checkpoint could not be saved.
            UsageError: the worker has no mapping or was started before.
        """
        self._open(max_records)
        with interrupts(self._interrupted):
            self._start_threads()
            return self._supervise(until_idle=until_idle, timeout_s=timeout_s)

    def start(self) -> None:
        """Run the mappings in the background until `stop`. First contact with sources and store is made before this returns.

        Raises:
            SourceError, ClaimError, CheckpointError, UsageError: see `run`.
        """
        self._open(None)
        self._start_threads()

        def supervise() -> None:
            # The error is kept, and raised by `join`.
            with contextlib.suppress(BaseException):
                self._supervise(until_idle=False, timeout_s=None)

        self._thread = threading.Thread(target=supervise, name="streamcore-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the worker to stop; `join` waits for it. May be called from any thread, from handlers too, and more than once."""
        self._check_process()
        self._request("stopped")
        if self._stepping and self._state == "open":
            self._shutdown()

    def join(self) -> Summary:
        """Wait until a worker that was started in the background has stopped.

        Raises:
            SourceError, CheckpointError: what ended it, or what went wrong as it stopped.
        """
        self._check_process()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self.summary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._state == "new":
            for destination in self._opened:
                destination.close()
        elif self._state == "open":
            self.stop()
            if exc[0] is None:
                self.join()
            elif self._thread is not None:
                self._thread.join()

    def stats(self) -> WorkerStats:
        """Return the totals and how the worker stands now. May be called from any thread."""
        self._check_process()
        live = self._ledger.live()
        return WorkerStats(
            **self._ledger.totals(),
            in_flight=sum(shard.in_flight for shard in live),
            held_records=sum(shard.held_records for shard in live),
            held_bytes=self._engine.held_bytes,
            iterator_age_ms=self._ledger.iterator_age_ms(live),
            shards=len(live),
            stuck=tuple(batch for shard in live for batch in stuck_batches(shard)),
            threads=self._invoker.threads,
            problems={**self._invoker.problems(), **self._poller.problems()},
        )

    def metrics(self) -> WorkerMetrics:
        """Return what is measured of each mapping and shard. May be called from any thread, before, while and after the worker runs.

        It reads counts that are kept anyway, one for each batch, page or discard, and resets nothing, so any number of readers may ask.
        A call takes 50 to 100 us of CPU for each shard being read. Counts of shards that are gone stay with their mapping.

        Example:
            >>> from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
            >>> stream = MemoryStream("orders")
            >>> for number in range(250):
            ...     _ = stream.put("customer", b"{}")
            >>> worker = Worker(checkpoints=MemoryCheckpointStore())
            >>> worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, LocalFunction(lambda event, context: None))
            >>> _ = worker.run(until_idle=True)
            >>> metrics = worker.metrics()
            >>> metrics.polled_event_count, metrics.invoked_event_count, metrics.dropped_event_count
            (250, 250, 0)
            >>> metrics.batch_records.count, metrics.batch_records.sum, len(metrics.mappings)
            (3, 250, 1)
        """
        self._check_process()
        return self._ledger.metrics()

    def summary(self) -> Summary:
        """Return what the run did. While it runs, `reason` is "stopped"."""
        self._check_process()
        return self._summary or Summary(**self._ledger.totals(), reason="stopped")

    # Running step by step: the same machines on the calling thread. `streamcore.testing.run_until_idle` drives these.

    def step(self, now: int) -> int | None:
        """Do all that can be done at the instant `now` on the calling thread, where the worker has no threads.

        The first call opens the worker. Records put since the last call are found.

        Returns:
            The next instant at which there may be something to do; None if there is none. With `idle` it tells whether to go on.

        Raises:
            UsageError: the worker runs in threads or was stopped.
            SourceError, ClaimError, CheckpointError: see `run`.
        """
        self._check_process()
        if self._state == "new":
            self._open(None)
            self._stepping = True
        if self._state != "open" or not self._stepping:
            raise UsageError("only a worker that does not run in threads and was not stopped can be driven step by step")
        self._poller.refresh(now)
        worked, ask = True, None
        while worked and self._reason is None:
            worked = self._poller.step(now)
            ask = self._invoker.step(now)
            worked |= ask == 0
            worked |= self._delivery.step(now)
            worked |= self._saver.step(now)
        if self._reason is not None or (self._error is not None and self.idle(now)):
            self._shutdown()
            if self._error is None:
                raise KeyboardInterrupt
            raise self._error
        due = [self._poller.next_due(), ask, self._delivery.next_due()]
        # With an interval of zero what is held may wait for a save.
        if (self._done() or self._save_at_once is not None) and not self.idle(now):
            due.append(self._saver.next_due())
        return min((instant for instant in due if instant is not None), default=None)

    def idle(self, now: int) -> bool:
        """Return whether all that can be read has been read, and all of it is done, confirmed and saved."""
        return self._poller.quiet and self._settled(now)

    # Below: one worker's life.

    def _new_engine(self, budget_bytes: int) -> Engine:
        return Engine(budget_bytes=budget_bytes, seed=self.seed)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkError("the process was forked after the worker was made; make a new one in the child")

    def _open(self, max_records: int | None) -> None:
        self._check_process()
        _check("max_records", max_records if max_records is not None else 1, 1, 2**62)
        if self._state != "new":
            raise UsageError("a worker can be started once")
        if not self._jobs:
            raise UsageError("the worker has no mapping; add one before the start")
        self._state = "open"
        self._ledger.start(self._clock.now_ms())
        jobs = [job for job in self._jobs if job.mapping.enabled]
        if len(jobs) > 1:
            spare = (self._invocation_threads or _THREADS_MAX) - (len(jobs) - 1)
            for job in jobs:
                job.running_max = job.running_max or max(spare, 1)
        try:
            self._poller.open(jobs, self._clock.now_ms(), max_records)
        except BaseException as error:
            self._reason = "failed"
            self._abort = True
            with contextlib.suppress(Exception):
                self._shutdown()
            self._error = error
            raise

    def _start_threads(self) -> None:
        self._saver.start()
        self._delivery.start()
        self._invoker.start(self._threads_wanted())
        self._poller.start(self._poll_threads)

    def _threads_wanted(self) -> int:
        return self._invocation_threads or max(1, min(_THREADS_MAX, self._lanes))

    def _shard_added(self, reading: Reading) -> None:
        self._invoker.add(reading.handle, reading.job.function.invoke)
        self._lanes += reading.job.mapping.parallelization_factor
        if self._invoker.threads:
            self._invoker.limit(self._threads_wanted())

    def _shard_ended(self, handle: int) -> None:
        reading = self._shards.readings[handle]
        _log.info("mapping %s: shard %s has ended and is done", reading.job.mapping.uuid, reading.shard_id, extra=reading.fields())
        self._poller.end_saved(reading)
        self._leave(reading)

    def _shard_lost(self, handle: int) -> None:
        reading = self._shards.readings[handle]
        uuid = reading.job.mapping.uuid
        text = "mapping %s: another worker has taken over shard %s; it is processed here no more"
        _log.error(text, uuid, reading.shard_id, extra=reading.fields())
        self._leave(reading)

    def _leave(self, reading: Reading) -> None:
        self._ledger.leave(reading.handle)
        self._invoker.leave(reading.handle)
        self._poller.leave(reading)
        self._lanes -= reading.job.mapping.parallelization_factor

    def _reading_of(self, handle: int) -> Reading | None:
        return self._shards.readings.get(handle)

    def _save_now(self) -> None:
        self._saver.save(self._clock.now_ms())

    def _source_failed(self, error: BaseException) -> None:
        if not isinstance(error, SourceError):
            self._crashed(error)
            return
        self._error = self._error or error
        self._inbox.put("failed")

    def _crashed(self, error: BaseException) -> None:
        self._error = self._error or error
        self._request("failed")

    def _request(self, reason: StopReason) -> None:
        self._reason = self._reason or reason
        self._inbox.put("stop")

    def _interrupted(self) -> None:
        """Ctrl-C: the first one asks for a stop, one after that for a stop at once."""
        if self._reason is not None:
            self._abort = True
        self._request("interrupted")

    def _supervise(self, *, until_idle: bool, timeout_s: float | None) -> Summary:
        """Watch over the threads until there is a reason to stop, then stop them."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        watching = until_idle or any(job.recorded for job in self._jobs) or self._poller.limited
        watch = Watch(
            self._poller,
            self._clock,
            until_idle=until_idle,
            failed=lambda: self._error is not None,
            done=self._done,
            settled=lambda: self._settled(self._clock.now_ms()),
            unsaved=lambda: self._saver.error is not None and self._done(),
            stuck=lambda: self.stats().stuck,
        )
        try:
            while self._reason is None:
                pause = _GLANCE_S if watching or self._error is not None else None
                if deadline is not None:
                    left = max(deadline - time.monotonic(), 0)
                    pause = left if pause is None else min(pause, left)
                now = self._clock.now_ms()
                if (held_until := self._release(now)) is not None:
                    left = max(held_until - now, 1) / 1000
                    pause = left if pause is None else min(pause, left)
                try:
                    message = self._inbox.get(timeout=pause)
                except queue.Empty:
                    message = "look"
                if message == "busy":
                    if self._invoker.grow():
                        self._inbox.put("busy")
                elif deadline is not None and time.monotonic() >= deadline:
                    self._request("timeout")
                elif message != "stop" and (reason := watch.reason()) is not None:
                    self._request(reason)
        except KeyboardInterrupt:
            self._request("interrupted")
        self._shutdown()
        if self._error is not None:
            raise self._error
        return self.summary()

    def _release(self, now: int) -> int | None:
        """Finish the batches whose lost runs are over; returns when the next one is."""
        try:
            return self._invoker.release(now)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run ends in order
            _log.exception("finishing a batch failed")
            self._crashed(error)
            return None

    def _done(self) -> bool:
        """Return whether all that was taken in is done and confirmed."""
        return not len(self._delivery) and self._engine.done

    def _settled(self, now: int) -> bool:
        """Return whether all that was taken in is done, confirmed and saved; saves what is not."""
        if not self._done():
            return False
        if self._saver.error is not None and now < self._saver.next_due():
            return False
        # The save may have been the end of a shard, which makes its children startable.
        # What a look at the tip has found meanwhile is to be done too.
        return self._saver.save(now) and self._poller.quiet and self._done()

    # Stopping: each step is guarded on its own, so that one that fails does not keep the next from being done.

    def _shutdown(self) -> None:
        self._state = "stopping"
        interrupted = self._reason == "interrupted"
        deadline = time.monotonic() + self._stop_timeout_s
        errors: list[BaseException] = []
        self._guard(self._poller.halt, errors)
        self._guard(self._invoker.halt, errors)
        # Said when nothing more begins, so that who reads it can rely on it.
        in_flight = sum(shard.in_flight for shard in self._ledger.live())
        level = logging.WARNING if interrupted else logging.INFO
        _log.log(level, "stopping: %d batches in flight", in_flight, extra={"inFlight": in_flight})
        self._guard(lambda: self._await_functions(deadline), errors)
        if self._invoker.held:
            text = "%d calls were lost and may run on; their batches come again at the next start"
            _log.warning(text, self._invoker.held, extra={"count": self._invoker.held})
        abandoned = self._invoker.running() + self._invoker.held
        left = max(deadline - time.monotonic(), 1.0)
        self._guard(lambda: self._delivery.stop(left, aborted=lambda: self._abort), errors)
        self._guard(self._saver.stop, errors)
        self._guard(self._save_last, errors)
        self._guard(lambda: self._poller.close(1.0), errors)
        self._guard(self._invoker.close, errors)
        self._guard(self._saver.release, errors)
        self._guard(self._shards.release, errors)
        for destination in self._opened:
            self._guard(destination.close, errors)
        if errors and self._error is None:
            self._error = errors[0]
        if self._error is not None:
            self._reason = "failed"
            for error in errors:
                if error is not self._error:
                    self._error.add_note(f"while stopping: {type(error).__name__}: {error}")
        self._ledger.close()
        self._summary = Summary(**self._ledger.totals(), reason=self._reason or "stopped", abandoned=abandoned)
        self._state = "stopped"

    def _guard(self, step: Callable[[], None], errors: list[BaseException]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the next step must be done
            _log.error("a step of stopping failed: %s: %s", type(error).__name__, error, extra=of_error(error))
            errors.append(error)

    def _await_functions(self, deadline: float) -> None:
        while (running := self._invoker.running()) and not self._abort:
            if time.monotonic() >= deadline:
                text = "%d functions had not ended after %g s; their batches come again at the next start"
                _log.warning(text, running, self._stop_timeout_s, extra={"count": running})
                return
            self._engine.wake()
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=_GLANCE_S / 4)

    def _save_last(self) -> None:
        """Save what is left, as often as it takes, for five seconds."""
        if not self._shards.readings:
            return
        deadline = time.monotonic() + _SAVE_FLOOR_S
        while not self._saver.save(self._clock.now_ms()):
            if self._abort or time.monotonic() >= deadline:
                error = self._saver.error
                message = f"the last checkpoint could not be saved: {error}"
                raise CheckpointError(message) from error
            time.sleep(0.1)


def _nothing() -> None:
    pass


def _check(name: str, value: object, smallest: int, largest: int, *, whole: bool = True) -> None:
    """Refuse an option that is no number, or no whole number where it must be one, or out of range."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not smallest <= value <= largest:
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"{name} must be {kind} from {smallest} to {largest}, not {value!r}", parameter=name)
