"""Invokes functions: takes batches from the engine, calls, interprets, reports back."""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from typing import TYPE_CHECKING, cast

from streamcore._failures import FailureLog
from streamcore._interpret import interpret
from streamcore._log import of_batch, place
from streamcore._streamcore import Batch, Discard, Outcome, Wait
from streamcore.errors import UsageError
from streamcore.protocols import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamcore._streamcore import Engine
    from streamcore.protocols import Clock

_log = logging.getLogger("streamcore.worker")

_FAILED = "Function call failed"  # as AWS has it in LastProcessingResult
_GROW_AFTER_S = 0.001
_LOOKS = 20  # so many pauses without a batch taken mean that every thread is in a long call


class _Tally:
    """How many batches one thread has taken; each thread writes to its own."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0


class Invoker:
    """The threads that run functions.

    A thread is added when none is idle and a batch is ready, and that is still so a millisecond later. Where all are in long calls, one
    more is added to wait for the next batch, which none of them would see. An asynchronous function gives an awaitable, which runs on one
    event loop in a thread of its own; the invoking thread goes on at once.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        on_discard: Callable[[Discard], None],
        on_finish: Callable[[], None] | None,
        on_interrupt: Callable[[], None],
        on_failed: Callable[[BaseException], None],
        on_busy: Callable[[], None],
        on_hold: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._on_discard = on_discard
        self._on_finish = on_finish
        self._on_interrupt = on_interrupt
        self._on_failed = on_failed
        self._on_busy = on_busy
        self._on_hold = on_hold
        self._functions: dict[int, Callable[[Batch], Answer | Awaitable[Answer]]] = {}
        self._tallies: list[_Tally] = []
        self._idle = 0
        self._idle_lock = threading.Lock()
        self._asked = False
        self._threads: list[threading.Thread] = []
        self._threads_max = 0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()
        self._loop_thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Batches whose run may go on though no answer will come, by the instant at which it can no longer.
        self._held: list[tuple[int, int, Batch, Answer]] = []
        self._held_lock = threading.Lock()
        self._problems: dict[int, tuple[str, str]] = {}  # by shard: the mapping, and what went wrong with its last batch
        self._failures = FailureLog()
        self.versions: dict[str, str] = {}  # of functions, where one other than $LATEST answered last; by mapping

    def add(self, handle: int, invoke: Callable[[Batch], Answer | Awaitable[Answer]]) -> None:
        """Invoke this for the batches of the shard."""
        self._functions[handle] = invoke

    # One batch.

    def step(self, now: int) -> int | None:
        """Invoke one batch on the calling thread. Returns 0 if there was work, else when to ask again, None for never."""
        held_until = self.release(now)
        work = self._engine.take(now)
        if isinstance(work, Batch):
            self._invoke(work)
            return 0
        if isinstance(work, Discard):
            self._on_discard(work)
            return 0
        # An instant that has come already is asked for again one millisecond later.
        due = [max(instant, now + 1) for instant in (work.at, held_until) if instant is not None]
        return min(due, default=None)

    def _invoke(self, batch: Batch) -> None:
        function = self._functions.get(batch.shard)
        if function is None:
            return  # another worker has taken the shard over since the batch was taken
        try:
            answer = function(batch)
            if not isinstance(answer, Answer):
                # What is no awaitable fails there, as every other mistake of a function does.
                self._await(batch, answer)
                return
            outcome = interpret(batch, answer)
        except KeyboardInterrupt:
            self._interrupted(batch)
            return
        except BaseException as error:  # noqa: BLE001 - a lane must never hang
            answer, outcome = None, self._broken(batch, error)
        self._answered(batch, answer, outcome)

    def _answered(self, batch: Batch, answer: Answer | None, outcome: Outcome) -> None:
        """Finish a batch, or hold it in flight for as long as its function may run on."""
        if answer is not None and answer.executed_version not in ("$LATEST", None):
            self.versions[batch.mapping_uuid] = answer.executed_version
        if answer is not None and outcome.kind != "success":
            self._failures.say(batch, answer, outcome, self._clock.now_ms())
        if answer is None or answer.kind != "success" or self._problems:
            self._note(batch, answer)
            if answer is not None and answer.alive_until_ms is not None and answer.alive_until_ms > self._clock.now_ms():
                with self._held_lock:
                    heapq.heappush(self._held, (answer.alive_until_ms, batch.ticket, batch, answer))
                self._on_hold()
                return
        self._finish(batch, outcome)

    def _note(self, batch: Batch, answer: Answer | None) -> None:
        problem = answer.problem if answer is not None else None
        if problem is None and (answer is None or answer.kind == "function_error"):
            problem = _FAILED
        if problem is None:
            before = self._problems.pop(batch.shard, None)
            if before is not None and before[1] != _FAILED:
                _log.warning("the function is invoked again (%s)", place(batch), extra=of_batch(batch))
        elif batch.shard in self._functions:
            self._problems[batch.shard] = (batch.mapping_uuid, problem)

    def problems(self) -> dict[str, str]:
        """Return what is wrong, for each mapping of which a call was lost or the last batch went wrong."""
        found = dict(list(self._problems.values()))
        with self._held_lock:
            found.update({batch.mapping_uuid: answer.problem for _, _, batch, answer in self._held if answer.problem})
        return {uuid: f"PROBLEM: {problem}" for uuid, problem in found.items()}

    def leave(self, handle: int) -> None:
        """Forget a shard that is done."""
        del self._functions[handle]
        self._problems.pop(handle, None)

    def release(self, now: int) -> int | None:
        """Finish the batches whose runs can no longer be alive. Returns when the next one is due; None where none is held."""
        while self._held:
            with self._held_lock:
                if not self._held or self._held[0][0] > now:
                    break
                _, _, batch, answer = heapq.heappop(self._held)
            self._finish(batch, interpret(batch, answer))
        with self._held_lock:
            return self._held[0][0] if self._held else None

    @property
    def held(self) -> int:
        """Batches held in flight because their runs may go on."""
        return len(self._held)

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        now = self._clock.now_ms()
        try:
            finished = self._engine.finish(batch.ticket, outcome, now)
        except UsageError:
            _log.exception("a batch could not be finished (%s)", place(batch), extra=of_batch(batch))
            return
        if outcome.ends_window:
            self._failures.say_ended_early(batch, outcome, now)
        for discard in finished.discards:
            self._on_discard(discard)
        if self._on_finish is not None:
            self._on_finish()

    def _broken(self, batch: Batch, error: BaseException) -> Outcome:
        """A function or `interpret` raised, which neither should: the batch fails, so that its lane does not hang."""
        self._failures.say_raised(batch, error, self._clock.now_ms())
        return Outcome.failure(function_error="Unhandled")

    def _interrupted(self, batch: Batch) -> None:
        """KeyboardInterrupt in a handler stops the run; the batch did not run to its end and spends nothing."""
        self._on_interrupt()
        self._stopping = True
        self._engine.finish(batch.ticket, Outcome.throttled(), self._clock.now_ms())

    # Asynchronous functions.

    def _await(self, batch: Batch, awaitable: Awaitable[Answer]) -> None:
        if not self._threads_max:
            with asyncio.Runner() as runner:
                runner.run(self._complete(batch, awaitable))
            return
        loop = self._loop or self._start_loop()
        loop.call_soon_threadsafe(self._spawn, loop, batch, awaitable)

    def _spawn(self, loop: asyncio.AbstractEventLoop, batch: Batch, awaitable: Awaitable[Answer]) -> None:
        task = loop.create_task(self._complete(batch, awaitable))
        # The loop keeps weak references only.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _complete(self, batch: Batch, awaitable: Awaitable[Answer]) -> None:
        try:
            answer: Answer | None = await awaitable
            outcome = interpret(batch, cast("Answer", answer))
        except KeyboardInterrupt:
            self._interrupted(batch)
            return
        except asyncio.CancelledError as error:
            if self._stopping:
                return
            answer, outcome = None, self._broken(batch, error)
        except BaseException as error:  # noqa: BLE001 - a lane must never hang
            answer, outcome = None, self._broken(batch, error)
        self._answered(batch, answer, outcome)

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        with self._loop_lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._loop_thread = threading.Thread(target=self._run_loop, args=(loop,), name="streamcore-async", daemon=True)
                self._loop_thread.start()
                self._loop = loop
            return self._loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    # Threads.

    def start(self, threads_max: int) -> None:
        """Invoke in threads until `stop`."""
        self._threads_max = threads_max
        self._add_thread()

    def limit(self, threads_max: int) -> None:
        """Use at most so many threads from now on; those that there are stay."""
        more = threads_max > self._threads_max
        self._threads_max = threads_max
        if more and not self._idle and not self._asked:
            self._asked = True
            self._on_busy()

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"streamcore-invoke-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def grow(self) -> bool:
        """Add a thread if none is idle after a millisecond and a batch is ready, or all are in long calls. Returns whether to ask again.

        Called by one thread, after `on_busy`.
        """
        taken = self._taken()
        for _ in range(_LOOKS):
            time.sleep(_GROW_AFTER_S)
            if self._idle or self._stopping or len(self._threads) >= self._threads_max:
                self._asked = False
                return False
            if self._engine.wait(0):
                break
            if self._taken() != taken:
                return True
        self._add_thread()
        return True

    def _taken(self) -> int:
        return sum(tally.taken for tally in self._tallies)

    def _run(self) -> None:
        engine, clock = self._engine, self._clock
        take, wait, now_ms, invoke = engine.take, engine.wait, clock.now_ms, self._invoke
        tally = _Tally()
        self._tallies.append(tally)
        try:
            while not self._stopping:
                now = now_ms()
                work = take(now)
                if isinstance(work, Batch):
                    tally.taken += 1
                    if not self._idle and not self._asked and len(self._threads) < self._threads_max:
                        self._asked = True
                        self._on_busy()
                    invoke(work)
                elif isinstance(work, Wait):
                    with self._idle_lock:
                        self._idle += 1
                    if not self._stopping:
                        wait(None if work.at is None else max(work.at - now, 1) / 1000)
                    with self._idle_lock:
                        self._idle -= 1
                elif isinstance(work, Discard):
                    self._on_discard(work)
        except BaseException as error:  # noqa: BLE001 - a thread must not die in silence
            _log.exception("invoking stopped")
            self._on_failed(error)

    def halt(self) -> None:
        """Take no further batch."""
        self._stopping = True
        self._engine.wake()

    @property
    def threads(self) -> int:
        """Threads made so far."""
        return len(self._threads)

    def running(self) -> int:
        """Return how many threads and asynchronous calls have not come to an end since `halt`."""
        mine = threading.current_thread()
        return sum(thread.is_alive() and thread is not mine for thread in self._threads) + len(self._tasks)

    def close(self) -> None:
        """End the event loop. Calls that have not come to an end are cancelled."""
        loop, thread = self._loop, self._loop_thread
        if loop is None or thread is None:
            return

        def cancel() -> None:
            for task in self._tasks:
                task.cancel()
            loop.call_soon(loop.stop)

        loop.call_soon_threadsafe(cancel)
        thread.join(5)
