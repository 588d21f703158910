"""What a benchmark has found, and what is computed of it."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamcore._distribution import version

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["BenchResult", "BenchRun", "Machine", "Profile", "Quartiles", "Times"]

_PERCENTILES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quartiles:
    """The median of all runs, and what a quarter of them is below and above."""

    lower: float
    median: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """How long something took, by percentile.

    Attributes:
        count: how often it was measured.
        mean_ms: the mean.
        percentiles_ms: pairs of a percentile and the time in milliseconds that so much of all was done in: each a time that was measured
            (nearest rank). 0 is the shortest and 100 the longest. Those that there are too few times for are left out.

    Example:
        >>> times = Times.of(np.array([1_000_000, 2_000_000, 3_000_000, 40_000_000]))
        >>> times.count, times.mean_ms, times.at(50), times.at(75), times.at(100)
        (4, 11.5, 2.0, 3.0, 40.0)
    """

    count: int
    mean_ms: float
    percentiles_ms: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, nanoseconds: npt.NDArray[np.int64]) -> Times | None:
        """Return what becomes of these; None for none."""
        count = len(nanoseconds)
        if not count:
            return None
        wanted = [percentile for percentile in _PERCENTILES if percentile == 100 or round(count * (100 - percentile), 6) >= 100]
        ordered = np.sort(nanoseconds)
        # The rank is rounded first: 99.9 % of 1,000 is 999, and a little more in binary.
        ranks = [max(math.ceil(round(count * percentile / 100, 6)), 1) for percentile in wanted]
        found = [float(ordered[rank - 1]) / 1e6 for rank in ranks]
        return cls(count=count, mean_ms=float(np.mean(nanoseconds)) / 1e6, percentiles_ms=tuple(zip(wanted, found, strict=True)))

    def at(self, percentile: float) -> float | None:
        """Return the time in milliseconds at one of the percentiles; None where there are too few times for it."""
        return dict(self.percentiles_ms).get(percentile)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRun:
    """One run.

    Attributes:
        records: records that are done: succeeded, discarded or expired.
        discarded_records: those of them that were given up.
        invocations: calls that came to an end.
        failed_invocations: those of them that failed, wholly or in part.
        elapsed_s: from the first read, or with a rate from the first arrival, to the end of the last call.
        cpu_s: CPU time of this process from the start of the worker to its end, the work of the benchmark itself included.
        longest_call_s: how long the longest call took.
        interrupted: whether Ctrl-C has ended it.
    """

    records: int
    discarded_records: int
    invocations: int
    failed_invocations: int
    elapsed_s: float
    cpu_s: float
    longest_call_s: float
    interrupted: bool = False

    @property
    def records_per_second(self) -> float:
        """Records done in a second, to the end of the last call: with a rate that is kept a little less than that."""
        return self.records / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def invocations_per_second(self) -> float:
        """Calls in a second."""
        return self.invocations / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def cpu_us_per_record(self) -> float:
        """Microseconds of CPU time for a record."""
        return self.cpu_s / self.records * 1e6 if self.records else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Where the CPU time of one more run went. Reading the CPU clock takes time itself, so this run is not among the others.

    Attributes:
        run: the run.
        stages_s: CPU seconds of each stage, which add up to those of the run. "poll": asking for pages; "decode": taking them apart;
            "dispatch": lanes, batches, outcomes, and the threads that hand them out; "event": making events and freeing them; "handler":
            the function with its context and answer, or what it takes here to call one elsewhere; "checkpoint": making and saving them;
            "bench": making pages, and reading clocks; "other": what is none of these. A function that takes batches makes its columns
            itself, so they are the handler's.
    """

    run: BenchRun
    stages_s: dict[str, float]

    def us_per_record(self) -> dict[str, float]:
        """Return the CPU time of each stage in microseconds for a record."""
        return {stage: seconds / max(self.run.records, 1) * 1e6 for stage, seconds in self.stages_s.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What it was measured on.

    Attributes:
        cpu: the processor's name.
        cores: how many of them this process may use.
        system: operating system and its version.
        python: implementation and version.
        streamcore: version.
        load_average: of the last minute, when the benchmark began: processes that ran or wanted to; None where the system does not say.
    """

    cpu: str
    cores: int
    system: str
    python: str
    streamcore: str
    load_average: float | None

    @classmethod
    def this(cls) -> Machine:
        """Describe this one."""
        return cls(
            cpu=_cpu_name(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            system=f"{platform.system()} {platform.release()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            streamcore=version(),
            load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What `bench` has measured.

    Attributes:
        machine: where.
        settings: with what: seed, load and mapping.
        runs: the runs, in order. One that was interrupted is the last.
        service: how long a call took, over all runs: making the event, the function, its answer.
        latency: with a rate, how long a record took from the instant at which it was to arrive to the end of its call. Else None.
        profile: where the CPU time went; None where it was cut off before.
        reason: "done", or "interrupted" (Ctrl-C) before the end.
    """

    machine: Machine
    settings: dict[str, Any]
    runs: tuple[BenchRun, ...]
    service: Times | None
    latency: Times | None
    profile: Profile | None
    reason: Literal["done", "interrupted"]

    def over_runs(self, of: Callable[[BenchRun], float]) -> Quartiles:
        """Return the quartiles of something over the runs: those that came to their end, if there are any."""
        runs = [run for run in self.runs if not run.interrupted] or list(self.runs)
        lower, median, upper = np.percentile([of(run) for run in runs] or [0.0], [25, 50, 75]).tolist()
        return Quartiles(lower=lower, median=median, upper=upper)

    @property
    def discarded_records(self) -> int:
        """Records that were given up, over all runs."""
        return sum(run.discarded_records for run in self._all_runs())

    @property
    def failed_invocations(self) -> int:
        """Calls that failed, wholly or in part, over all runs."""
        return sum(run.failed_invocations for run in self._all_runs())

    @property
    def kept_rate(self) -> bool:
        """Whether the worker kept up with the rate, in every run.

        It did where the last call ended soon after the last arrival. A record that comes when a call has just begun waits for its end and
        takes a call of its own, and a batch may wait for its window: so soon is the batching window, twice the longest call of the run,
        and a hundredth of the time that arrivals took or 0.1 s, whichever is more.
        """
        rate = self.settings["rate"]
        if rate is None:
            return True
        window_s = self.settings["maximum_batching_window_in_seconds"]
        arriving = ((run, run.records / rate) for run in self.runs)
        return all(run.elapsed_s <= took_s + window_s + 2 * run.longest_call_s + max(took_s / 100, 0.1) for run, took_s in arriving)

    def _all_runs(self) -> tuple[BenchRun, ...]:
        return self.runs if self.profile is None else (*self.runs, self.profile.run)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: the attributes, and what is computed of them. `schema` is 1 as long as nothing is taken away."""
        profile = None
        if self.profile is not None:
            profile = {
                "run": _run_dict(self.profile.run),
                "stages_s": self.profile.stages_s,
                "cpu_us_per_record_by_stage": self.profile.us_per_record(),
            }
        return {
            "schema": 1,
            **dataclasses.asdict(self),
            "runs": [_run_dict(run) for run in self.runs],
            "profile": profile,
            "records_per_second": dataclasses.asdict(self.over_runs(lambda run: run.records_per_second)),
            "invocations_per_second": dataclasses.asdict(self.over_runs(lambda run: run.invocations_per_second)),
            "cpu_us_per_record": dataclasses.asdict(self.over_runs(lambda run: run.cpu_us_per_record)),
            "failed_invocations": self.failed_invocations,
            "discarded_records": self.discarded_records,
            "kept_rate": self.kept_rate,
        }


def _run_dict(run: BenchRun) -> dict[str, Any]:
    return {
        **dataclasses.asdict(run),
        "records_per_second": run.records_per_second,
        "invocations_per_second": run.invocations_per_second,
        "cpu_us_per_record": run.cpu_us_per_record,
    }
