"""What a benchmark measures: how long calls take, how long records wait, and where the CPU time goes."""

from __future__ import annotations

import math
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from streamcore.protocols import Answer
from streamcore.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    import numpy.typing as npt

    from streamcore._bench_load import Load
    from streamcore._streamcore import Batch, Engine
    from streamcore.protocols import CheckpointStore, Function

__all__ = ["STAGES", "Meter", "ProfiledWorker", "Stages", "seen_store"]

STAGES = ("poll", "decode", "dispatch", "event", "handler", "checkpoint", "bench")

_SKIPPED = "skipped"  # calls that are not noted

# What a thread of a worker does where no stage is said to have ended.
_HOME = {
    "streamcore-poll": "poll",
    "streamcore-invoke": "dispatch",
    "streamcore-async": "dispatch",
    "streamcore-save": "checkpoint",
    "streamcore-bench": "bench",
}


class Meter:
    """A `Function` that calls another one and notes when each call began and ended.

    Args:
        function: what is called.
        load: the stream that the batches are of.
        now_ns: the clock, that of the load.
        stages: where the CPU time is noted.
    """

    def __init__(
        self, function: Function, load: Load, *, now_ns: Callable[[], int] = time.perf_counter_ns, stages: Stages | None = None
    ) -> None:
        self._function = function
        self._load = load
        self._now_ns = now_ns
        self._stages = stages
        self._takes_batch = getattr(function, "takes_batch", False)
        self._shards = {shard_id: shard for shard, shard_id in enumerate(load.lap.shard_ids)}
        self._took_ns = array("q")
        # With a rate: when the last call with a record ended, by shard and number of the record.
        counts = [load.lap.count(shard, load.total) for shard in self._shards.values()] if load.rate is not None else []
        self._ended_ns = [np.full(count, -1, dtype=np.int64) for count in counts]
        self.last_ns = 0
        """When the call that ended last did so, by the clock."""

    def invoke(self, batch: Batch) -> Answer | Awaitable[Answer]:
        """Call the function."""
        stages = self._stages
        noted = stages is not None and stages.begin_call()
        began = self._now_ns()
        answer = self._function.invoke(batch) if stages is None or not noted else self._noted(batch, stages)
        if isinstance(answer, Answer):
            self._ended(batch, began, stages if noted else None)
            return answer
        return self._awaited(batch, began, answer)

    def _noted(self, batch: Batch, stages: Stages) -> Answer | Awaitable[Answer]:
        if self._takes_batch:
            answer = self._function.invoke(batch)
            stages.mark("handler")
            return answer
        seen: Any = _SeenBatch(batch, stages)
        answer = self._function.invoke(seen)
        stages.mark("handler")
        seen.forget()
        return answer

    async def _awaited(self, batch: Batch, began: int, awaitable: Awaitable[Answer]) -> Answer:
        # The event loop's thread does the work of many calls by turns, so there each of them is noted.
        answer = await (awaitable if self._stages is None else _Steps(awaitable, self._stages))
        self._ended(batch, began, self._stages)
        return answer

    def _ended(self, batch: Batch, began: int, stages: Stages | None) -> None:
        now = self.last_ns = self._now_ns()
        self._took_ns.append(now - began)
        if self._ended_ns:
            self._ended_ns[self._shards[batch.shard_id]][batch.columns().ordinal] = now - self._load.started_ns
        if stages is not None:
            stages.mark("bench")

    def close(self) -> None:
        """Do nothing: the function stays the caller's."""

    @property
    def calls(self) -> int:
        """How many calls have ended."""
        return len(self._took_ns)

    def service_ns(self) -> npt.NDArray[np.int64]:
        """Return how long each call took."""
        return np.array(self._took_ns, dtype=np.int64)

    def latencies_ns(self) -> npt.NDArray[np.int64]:
        """Return for each record that is done the time from the instant at which it was to arrive to the end of its last call.

        Records are counted from when they should have come and not from when they were read, so that whatever keeps the worker from
        reading shows in all records that wait for it. With a rate only.
        """
        waited = [np.empty(0, dtype=np.int64)]
        for shard, ended in enumerate(self._ended_ns):
            (done,) = np.nonzero(ended >= 0)
            waited.append(ended[done] - self._load.intended_ns(shard, done))
        return np.concatenate(waited)


class Stages:
    """Adds up the CPU time of each stage over all threads of a worker.

    A thread says when a stage has ended; what it used since it said so last belongs to that stage, or to what the thread is there for.
    The CPU clock of a thread starts with the thread, so nothing of it is lost but what comes after its last word.

    Reading the clock is a system call. Where calls are short, only some of them are noted, each from its beginning to that of the next call
    of its thread; what the thread used meanwhile is shared out among its stages as in those.

    Args:
        cpu_ns: CPU time of the calling thread.
        every: of so many calls of a thread one is noted.
    """

    def __init__(self, cpu_ns: Callable[[], int] = time.thread_time_ns, *, every: int = 1) -> None:
        self._cpu_ns = cpu_ns
        self._every = every
        self._local = threading.local()
        self._lock = threading.Lock()
        self._used: list[dict[str, list[int]]] = []
        self._older = set(threading.enumerate())

    def mark(self, stage: str | None = None) -> None:
        """Say that a stage has ended; None where the thread did what it is there for."""
        now = self._cpu_ns()
        local = self._local
        try:
            used = local.used
        except AttributeError:
            used = self._enter(now)
        one = used[_SKIPPED if local.skips else stage or local.home]
        one[0] += now - local.last
        one[1] += 1
        local.last = now

    def begin_call(self) -> bool:
        """Say that a call begins. Returns whether its stages are to be noted."""
        local = self._local
        calls = getattr(local, "calls", 0)
        local.calls = calls + 1
        place = calls % self._every
        if place > 1:
            return False
        # What came before a call that is noted was skipped; what came between it and the next one was the thread's own.
        self.mark()
        local.skips = place == 1
        return place == 0

    def _enter(self, now: int) -> dict[str, list[int]]:
        thread, local = threading.current_thread(), self._local
        local.last = now if thread in self._older else 0
        local.skips = False
        local.home = next((home for name, home in _HOME.items() if thread.name.startswith(name)), "other")
        used: dict[str, list[int]] = {stage: [0, 0] for stage in (*STAGES, "other", _SKIPPED)}
        local.used = used
        with self._lock:
            self._used.append(used)
        return used

    def seconds(self, total_s: float) -> dict[str, float]:
        """Return the CPU seconds of each stage. What reading the clock costs is moved to "bench"; "other" is the rest of `total_s`."""
        cost_ns = self.cost_ns(self._cpu_ns)
        found = dict.fromkeys(STAGES, 0.0)
        for thread in self._used:
            net = {stage: max(ns - marks * cost_ns, 0) for stage, (ns, marks) in thread.items()}
            clocks_ns = sum(ns for ns, _ in thread.values()) - sum(net.values())
            noted = sum(net[stage] for stage in STAGES)
            share = 1 + net[_SKIPPED] / noted if noted else 1
            for stage in STAGES:
                found[stage] += net[stage] * share / 1e9
            found["bench"] += clocks_ns / 1e9
        return {**found, "other": max(total_s - sum(found.values()), 0.0)}

    @classmethod
    def every_for(cls, call_cpu_ns: float) -> int:
        """Return of how many calls one is to be noted, so that noting them takes about a fiftieth of their CPU time; 64 at most."""
        marks = 6
        return max(1, min(64, math.ceil(cls.cost_ns() * marks / max(call_cpu_ns / 50, 1))))

    @classmethod
    def cost_ns(cls, cpu_ns: Callable[[], int] = time.thread_time_ns, *, marks: int = 2000) -> float:
        """Return the CPU time that saying that a stage has ended costs by itself."""
        probe = cls(cpu_ns)
        probe.mark()
        began = cpu_ns()
        for _ in range(marks):
            probe.mark()
        return (cpu_ns() - began) / marks


class _SeenBatch:
    """A batch that notes what making its event costs, and freeing it; all else is the batch's own."""

    __slots__ = ("_batch", "_event", "_stages")

    def __init__(self, batch: Batch, stages: Stages) -> None:
        self._batch = batch
        self._stages = stages
        self._event: object = None

    def event(self) -> dict[str, Any]:
        self._stages.mark("handler")
        event = self._event = self._batch.event()
        self._stages.mark("event")
        return event

    def json(self) -> bytes:
        self._stages.mark("handler")
        event = self._event = self._batch.json()
        self._stages.mark("event")
        return event

    def forget(self) -> None:
        """Free the event, unless the function has kept it."""
        self._event = None
        self._stages.mark("event")

    def __len__(self) -> int:
        return len(self._batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)


class _Steps:
    """An awaitable whose steps on the event loop are the handler's."""

    def __init__(self, awaitable: Awaitable[Answer], stages: Stages) -> None:
        self._steps = _awaited(awaitable)
        self._stages = stages

    def __await__(self) -> Generator[Any, Any, Answer]:
        steps, stages = self._steps, self._stages
        step: Callable[[Any], Any] = steps.send
        sent: Any = None
        while True:
            stages.mark()
            try:
                waits_for = step(sent)
            except StopIteration as over:
                answer: Answer = over.value
                return answer
            finally:
                stages.mark("handler")
            try:
                step, sent = steps.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001 - whatever the loop throws is the handler's
                step, sent = steps.throw, error


async def _awaited(awaitable: Awaitable[Answer]) -> Answer:
    return await awaitable


class _Seen:
    """An object of which some methods note their CPU time; all else is its own."""

    def __init__(self, target: object, stages: Stages, methods: dict[str, str]) -> None:
        self._target = target
        # Bound once: looking each up in the target would cost more than the call.
        for name in dir(target):
            if not name.startswith("_") and callable(value := getattr(target, name)):
                setattr(self, name, _noted(value, stages, methods[name]) if name in methods else value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def _noted(call: Callable[..., Any], stages: Stages, stage: str) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        stages.mark()
        try:
            return call(*arguments)
        finally:
            stages.mark(stage)

    return noted


def seen_store(store: CheckpointStore, stages: Stages) -> CheckpointStore:
    """Return a store whose saves are noted."""
    seen: Any = _Seen(store, stages, {"save": "checkpoint"})
    return seen  # type: ignore[no-any-return]


class ProfiledWorker(Worker):
    """A worker that notes where its CPU time goes. What its threads do otherwise is theirs: polling, or handing out and taking back."""

    def __init__(self, stages: Stages, **options: Any) -> None:
        self._stages = stages
        super().__init__(**options)

    def _new_engine(self, budget_bytes: int) -> Engine:
        engine: Any = super()._new_engine(budget_bytes)
        seen: Any = _Seen(engine, self._stages, {"offer": "dispatch", "checkpoints": "checkpoint", "saved": "checkpoint"})
        return seen  # type: ignore[no-any-return]
