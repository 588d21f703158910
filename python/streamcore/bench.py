"""How fast a function is behind a worker: records a second, latency, and where the CPU time goes.

`bench` runs the function in a real worker: pages are read from memory as GetRecords answers, taken apart, dispatched, made into events, and
checkpointed. Only the network is missing. `streamcore bench` is the same as a command.

Two questions need two loads. **How much can it do?** Without a rate all records are there from the beginning, and the worker goes as fast
as it can. How long a record waited then says nothing, since there was always work waiting; what is told is how long a call takes. **How
long does a record wait?** With a rate each record arrives at an instant of its own, whether the worker is ready or not, and its latency is
counted from that instant. So a stall shows in all records that it held up, and not only in the one that was being processed: what is known
as the correction for coordinated omission, done as wrk2 does it, by the schedule and not by guessing afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import tempfile
import time
import uuid
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamcore._bench_load import LEAD_NS, Lap, Load, check, generated, recorded
from streamcore._bench_meter import Meter, ProfiledWorker, Stages, seen_store
from streamcore._bench_result import BenchResult, BenchRun, Machine, Profile, Quartiles, Times
from streamcore.checkpoints.memory import MemoryCheckpointStore
from streamcore.checkpoints.sqlite import SqliteCheckpointStore
from streamcore.errors import ConfigError, SourceError
from streamcore.mapping import EventSourceMapping
from streamcore.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from streamcore._streamcore import Discard
    from streamcore.protocols import CheckpointStore, Function, Source

__all__ = ["BenchResult", "BenchRun", "Machine", "Profile", "Quartiles", "Times", "Workload", "bench"]

# Times are kept one by one, 8 bytes each, so that percentiles are exact.
_TIMES_MAX = 20_000_000
# A record whose base64 fits an event of 6 MB (6,291,455 bytes), with 1,407 bytes for what stands around it.
_RECORD_BYTES_MAX = (6_291_455 - 1407) // 4 * 3
# The same settings give the same ids of requests. Never change this value.
_NAMESPACE = uuid.UUID("a35d0c39-64ac-5d42-9d0e-5a4d6a6b6f0e")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Records to be made.

    Each is JSON of exactly the size that is asked for. Of the keys a few come often and most of them seldom, by Zipf's law, as keys of real
    streams do.

    Attributes:
        record_bytes: size of a record before base64, 1 to 4,717,536: the base64 of a larger one does not fit an event of
            Lambda, 6 MB.
        keys: how many partition keys there are, 1 to 10,000,000.
        key_skew: exponent of Zipf's law, 0 to 10: the key of rank r comes r**key_skew times more rarely than the first. With 0 all keys
            come equally often.
        shards: how many shards they are spread over, as Kinesis spreads keys, 1 to 1,000.

    Raises:
        ConfigError: a number is out of range.
    """

    record_bytes: int = 1000
    keys: int = 10_000
    key_skew: float = 1.0
    shards: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        check("record_bytes", self.record_bytes, 1, _RECORD_BYTES_MAX)
        check("keys", self.keys, 1, 10_000_000)
        check("key_skew", self.key_skew, 0, 10, whole=False)
        check("shards", self.shards, 1, 1000)


def bench(
    function: Function,
    mapping: EventSourceMapping | None = None,
    workload: Workload | Source | None = None,
    *,
    rate: float | None = None,
    duration_s: float = 2.0,
    records: int | None = None,
    warm_up_s: float = 1.0,
    runs: int = 5,
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    checkpoint_interval_ms: int = 1000,
    invocation_threads: int | None = None,
    on_run: Callable[[str], object] = lambda _: None,
) -> BenchResult:
    """Measure a function behind a worker.

    First the function is warmed up. Then come `runs` equal runs, each a worker of its own over a stream of its own, and one more in which
    the CPU time of each stage is noted. Nothing is written but the checkpoints, and no destination is told of what is discarded.

    Args:
        function: what is called. It stays the caller's, and is the same for all runs.
        mapping: how; by default a batch size of 100, ParallelizationFactor 1 and no retries. Tumbling windows and filters are refused, and
            with a rate MaximumRecordAgeInSeconds. It is run whether it is enabled or not, from the beginning of its stream, and has no
            destination.
        workload: what is made, or a source of recorded data, which is read into memory before (at most 128 MiB of it) and then repeated for
            as long as it takes. By default `Workload()`.
        rate: records a second, over all shards; 0.001 to 10,000,000. None for as fast as it goes.
        duration_s: how long a run takes, 0.01 to 3,600. With a rate records arrive for so long; without one, each run has as many
            records as the warm-up says that this takes.
        records: or so many records in each run, 1 to 1,000,000,000.
        warm_up_s: how long to warm up, 0 to 600. It is needed where nothing else says how many records a run has.
        runs: how often, 1 to 1,000.
        seed: of keys, texts and request ids.
        state: a folder: the checkpoints are kept in SQLite, in a file that is made there and removed at the end. By default they are kept
            in memory.
        checkpoint_interval_ms: as for `Worker`.
        invocation_threads: as for `Worker`.
        on_run: told a sentence after the warm-up and after each run.

    Raises:
        ConfigError: an argument is out of range, or they do not go together. At most 20,000,000 times are measured: of records with a rate,
            else of calls.
        SourceError: the source cannot be read, has no records, or only such as are discarded before any call.
        CheckpointError: the checkpoints cannot be saved.
        KeyboardInterrupt: Ctrl-C before anything was measured. After that the result tells what was measured so far.

    Example:
        >>> from streamcore import LocalFunction
        >>> result = bench(
        ...     LocalFunction(lambda event, context: None), workload=Workload(record_bytes=100), records=5000, warm_up_s=0, runs=3
        ... )
        >>> [(run.records, run.invocations) for run in result.runs]
        [(5000, 50), (5000, 50), (5000, 50)]
        >>> result.over_runs(lambda run: run.records_per_second).median > 0
        True
        >>> list(result.profile.stages_s)
        ['poll', 'decode', 'dispatch', 'event', 'handler', 'checkpoint', 'bench', 'other']
    """
    if rate is not None:
        check("rate", rate, 0.001, 10_000_000, whole=False)
    check("duration_s", duration_s, 0.01, 3600, whole=False)
    if records is not None:
        check("records", records, 1, 1_000_000_000)
    check("warm_up_s", warm_up_s, 0, 600, whole=False)
    check("runs", runs, 1, 1000)
    check("seed", seed, 0, 2**63 - 1)
    if invocation_threads is not None:
        check("invocation_threads", invocation_threads, 1, 1000)
    if mapping is None:
        mapping = EventSourceMapping(starting_position="TRIM_HORIZON", maximum_retry_attempts=0)
    if mapping.tumbling_window_in_seconds or mapping.filter_criteria:
        raise ConfigError("a benchmark has neither tumbling windows nor filters: records are repeated, and all of them are to be done")
    if rate is not None and mapping.maximum_record_age_in_seconds != -1:
        text = "cannot be measured with a rate: records arrive by the clock on the wall, and have been made or recorded long before"
        raise ConfigError(text, parameter="maximum_record_age_in_seconds")
    if not warm_up_s and records is None and rate is None:
        raise ConfigError("without a warm-up say how many records a run has, or give a rate", parameter="warm_up_s")
    if state is not None and not Path(state).is_dir():
        raise ConfigError(f"must be a folder, in which a file is made, not {os.fspath(state)!r}", parameter="state")
    total = records if records is not None or rate is None else max(1, round(rate * duration_s))
    if total is not None:
        _check_times(runs * (total if rate is not None else -(-total // mapping.batch_size)), of_records=rate is not None)
    if rate is not None:
        arriving = round(rate * warm_up_s)
        if arriving > _TIMES_MAX:
            raise ConfigError(f"{arriving:,} records would arrive meanwhile, and at most {_TIMES_MAX:,} may", parameter="warm_up_s")

    machine = Machine.this()
    workload = Workload() if workload is None else workload
    lap = generated(**dataclasses.asdict(workload), seed=seed, records_max=total) if isinstance(workload, Workload) else recorded(workload)
    mapping = dataclasses.replace(
        mapping,
        enabled=True,
        event_source_arn=lap.event_source_arn,
        destination_config=None,
        starting_position="TRIM_HORIZON",
        starting_position_timestamp=None,
    )
    profile: Profile | None = None
    reason: Literal["done", "interrupted"] = "done"
    with _checkpoints(state) as store:
        options = {"checkpoint_interval_ms": checkpoint_interval_ms, "invocation_threads": invocation_threads}
        track = _Track(function, mapping, lap, store, rate=rate, seed=seed, options=options)
        try:
            if warm_up_s:
                warm = track.run(0, total=None, timeout_s=warm_up_s)
                on_run(_told("warm-up", warm))
                if total is None:
                    # Where a call takes longer than a run is to, a run has one batch of each shard.
                    total = max(round(warm.records_per_second * duration_s), mapping.batch_size * len(lap.shard_ids))
                    total = min(total, _TIMES_MAX // runs * mapping.batch_size)
            for number in range(1, runs + 1):
                run = track.run(number, total=total, kept=True)
                if not run.invocations:
                    limits = "an event has at most 6 MB, and what is older than MaximumRecordAgeInSeconds is discarded"
                    raise SourceError(f"no call was made: all {run.records:,} records of the run were discarded before it; {limits}")
                on_run(_told(f"run {number} of {runs}", run))
            plain = [one.run.cpu_s / max(one.run.invocations, 1) for one in track.kept]
            stages = Stages(every=Stages.every_for(float(np.median(plain)) * 1e9))
            stages.mark()
            last = track.run(runs + 1, total=total, stages=stages)
            profile = Profile(run=last, stages_s=stages.seconds(last.cpu_s))
            on_run(_told("run with stages", last))
        except KeyboardInterrupt:
            reason = "interrupted"
    measured = [one for one in track.kept if one.run.invocations]
    if not measured:
        raise KeyboardInterrupt
    return BenchResult(
        machine=machine,
        settings={
            "seed": seed,
            "rate": rate,
            "records": total,
            "warm_up_s": warm_up_s,
            "workload": dataclasses.asdict(workload) if isinstance(workload, Workload) else None,
            "event_source_arn": lap.event_source_arn,
            "lap_records": lap.records,
            "shards": len(lap.shard_ids),
            **{name: getattr(mapping, name) for name in _MAPPING_SETTINGS},
            "checkpoints": "memory" if state is None else "sqlite",
            "checkpoint_interval_ms": checkpoint_interval_ms,
            "invocation_threads": invocation_threads,
        },
        runs=tuple(one.run for one in measured),
        service=Times.of(np.concatenate([one.service_ns for one in measured])),
        latency=None if rate is None else Times.of(np.concatenate([one.latencies_ns for one in measured])),
        profile=profile,
        reason=reason,
    )


_MAPPING_SETTINGS = (
    "batch_size",
    "maximum_batching_window_in_seconds",
    "parallelization_factor",
    "maximum_retry_attempts",
    "bisect_batch_on_function_error",
    "function_response_types",
)


def _check_times(times: int, *, of_records: bool) -> None:
    """Refuse more times than memory is meant for."""
    if times > _TIMES_MAX:
        what = "records" if of_records else "calls"
        raise ConfigError(f"{times:,} {what} would be measured, and at most {_TIMES_MAX:,} can be: make fewer or shorter runs")


def _told(what: str, run: BenchRun) -> str:
    return f"{what}: {run.records:,} records, {run.records_per_second:,.0f} records/s"


class _Nowhere:
    """A destination that forgets what it is sent. Without any, the log would tell of each discard, and so be what is measured."""

    def send(self, discard: Discard) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def _checkpoints(state: str | os.PathLike[str] | None) -> Iterator[CheckpointStore]:
    if state is None:
        yield MemoryCheckpointStore()
        return
    with (
        tempfile.TemporaryDirectory(dir=state, prefix="streamcore-bench-") as folder,
        contextlib.closing(SqliteCheckpointStore(Path(folder, "state.sqlite"))) as store,
    ):
        yield store


@dataclass(frozen=True, slots=True)
class _Measured:
    run: BenchRun
    service_ns: npt.NDArray[np.int64]
    latencies_ns: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Track:
    """What all runs have in common, and what is kept of them."""

    function: Function
    mapping: EventSourceMapping
    lap: Lap
    store: CheckpointStore
    _: KW_ONLY
    rate: float | None
    seed: int
    options: dict[str, int | None]  # of the workers
    kept: list[_Measured] = field(default_factory=list)

    def run(
        self, number: int, *, total: int | None, timeout_s: float | None = None, stages: Stages | None = None, kept: bool = False
    ) -> BenchRun:
        """Run a worker over so many records, or for so long.

        Raises:
            KeyboardInterrupt: Ctrl-C has ended it. What it has done by then is kept too.
        """
        if timeout_s is not None and self.rate is not None:
            total = max(1, round(self.rate * timeout_s))
            timeout_s += LEAD_NS / 1e9
        load = Load(self.lap, number=number, total=total, rate=self.rate, stages=stages)
        meter = Meter(self.function, load, stages=stages)
        options: dict[str, Any] = {**self.options, "seed": self.seed}
        if stages is None:
            worker = Worker(checkpoints=self.store, **options)
        else:
            worker = ProfiledWorker(stages, checkpoints=seen_store(self.store, stages), **options)
        mapping = dataclasses.replace(self.mapping, uuid=str(uuid.uuid5(_NAMESPACE, f"{self.seed} {number}")))
        # With a rate records arrive by the wall's clock, and so does what waits for them.
        worker.add(mapping, load, meter, _Nowhere(), clock=None if self.rate is None else "wall")
        gc.collect()
        cpu_began = time.process_time_ns()
        try:
            summary = worker.run(timeout_s=timeout_s)
        finally:
            load.close()
        service_ns = meter.service_ns()
        run = BenchRun(
            records=summary.records,
            discarded_records=summary.discarded_records,
            invocations=summary.invocations,
            failed_invocations=summary.failed_invocations,
            elapsed_s=max(meter.last_ns - load.started_ns, 0) / 1e9,
            cpu_s=(time.process_time_ns() - cpu_began) / 1e9,
            longest_call_s=float(service_ns.max(initial=0)) / 1e9,
            interrupted=summary.reason == "interrupted",
        )
        if kept:
            self.kept.append(_Measured(run, service_ns, meter.latencies_ns()))
        if run.interrupted:
            raise KeyboardInterrupt
        return run
