"""What a benchmark measures: how long calls take, how long records wait, and where the CPU time goes."""

from __future__ import annotations

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
        if stages is None:
            began = self._now_ns()
            answer = self._function.invoke(batch)
        else:
            stages.mark()
            began = self._now_ns()
            answer = self._function.invoke(batch if self._takes_batch else _SeenBatch(batch, stages))  # type: ignore[arg-type]
            stages.mark("handler")
        if isinstance(answer, Answer):
            self._ended(batch, began)
            return answer
        return self._awaited(batch, began, answer)

    async def _awaited(self, batch: Batch, began: int, awaitable: Awaitable[Answer]) -> Answer:
        answer = await (awaitable if self._stages is None else _Steps(awaitable, self._stages))
        self._ended(batch, began)
        return answer

    def _ended(self, batch: Batch, began: int) -> None:
        now = self.last_ns = self._now_ns()
        self._took_ns.append(now - began)
        if self._ended_ns:
            self._ended_ns[self._shards[batch.shard_id]][batch.columns().ordinal] = now - self._load.started_ns
        if self._stages is not None:
            self._stages.mark("bench")

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

    Args:
        cpu_ns: CPU time of the calling thread.
    """

    def __init__(self, cpu_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._cpu_ns = cpu_ns
        self._local = threading.local()
        self._lock = threading.Lock()
        self._used: list[dict[str, list[int]]] = []
        self._older = set(threading.enumerate())

    def mark(self, stage: str | None = None) -> None:
        """Say that a stage has ended; None where the thread did what it is there for."""
        now = self._cpu_ns()
        local = self._local
        try:
            used, home = local.used, local.home
        except AttributeError:
            used, home = self._enter(now)
        one = used[stage or home]
        one[0] += now - local.last
        one[1] += 1
        local.last = now

    def _enter(self, now: int) -> tuple[dict[str, list[int]], str]:
        thread, local = threading.current_thread(), self._local
        local.last = now if thread in self._older else 0
        local.home = next((home for name, home in _HOME.items() if thread.name.startswith(name)), "other")
        local.used = {stage: [0, 0] for stage in (*STAGES, "other")}
        with self._lock:
            self._used.append(local.used)
        return local.used, local.home

    def seconds(self, total_s: float) -> dict[str, float]:
        """Return the CPU seconds of each stage. What reading the clock costs is moved to "bench"; "other" is the rest of `total_s`."""
        cost_s = self.cost_ns(self._cpu_ns) / 1e9
        found = dict.fromkeys(STAGES, 0.0)
        for stage in STAGES:
            used_ns = sum(used[stage][0] for used in self._used)
            clock_s = min(sum(used[stage][1] for used in self._used) * cost_s, used_ns / 1e9)
            found[stage] += used_ns / 1e9 - clock_s
            found["bench"] += clock_s
        return {**found, "other": max(total_s - sum(found.values()), 0.0)}

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
    """A batch that notes what making its event costs; all else is the batch's own."""

    __slots__ = ("_batch", "_stages")

    def __init__(self, batch: Batch, stages: Stages) -> None:
        self._batch = batch
        self._stages = stages

    def event(self) -> dict[str, Any]:
        self._stages.mark("handler")
        event = self._batch.event()
        self._stages.mark("event")
        return event

    def json(self) -> bytes:
        self._stages.mark("handler")
        event = self._batch.json()
        self._stages.mark("event")
        return event

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
