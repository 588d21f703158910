"""What several invocation threads do to a handler that computes: workers over the flights, four shards, with four threads and with one.

    .venv/bin/python -P benches/threads.py

The runs take turns within one process. Switches are voluntary ones of the process (`getrusage`): a thread that waits for a lock, or for
the interpreter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

import columns
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamcore import Discard

SHARDS = 4
ROUNDS = 5


@dataclass(frozen=True)
class Way:
    """A row of the table: how a worker runs which flights.

    Attributes:
        complete: only flights that the handler does not refuse.
        threads: invocation threads.
        one_core: whether the process is held to one core.
        lock: whether the handler takes its lock.
    """

    complete: bool
    threads: int
    one_core: bool = False
    lock: bool = True


WAYS = {
    "four invocation threads": Way(complete=False, threads=4),
    "one": Way(complete=False, threads=1),
    "four, held to one core": Way(complete=False, threads=4, one_core=True),
    "four, never a failure, a lock in the handler": Way(complete=True, threads=4),
    "one, never a failure, a lock in the handler": Way(complete=True, threads=1),
    "four, never a failure, no lock": Way(complete=True, threads=4, lock=False),
}


class Run(NamedTuple):
    """What a run of a worker took."""

    records_per_s: float
    cpu_us: float
    """Of a record."""
    switches: float
    """For 1,000 records."""


class Nowhere:
    """A destination that forgets what it is sent. Without any, the log would tell of each discard."""

    def send(self, discard: Discard) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def stream_of(records: Iterable[tuple[str, bytes, int, str | None]]) -> MemoryStream:
    """Return a stream in memory that holds the records."""
    stream = MemoryStream("flights", shards=SHARDS)
    for key, data, _, _ in records:
        stream.put(key, data)
    return stream


def run(way: Way, stream: MemoryStream, module: Any) -> Run:
    """Run a worker over all of a stream."""
    mapping = EventSourceMapping(
        starting_position="TRIM_HORIZON",
        batch_size=100,
        maximum_retry_attempts=0,
        bisect_batch_on_function_error=True,
        function_response_types=("ReportBatchItemFailures",),
    )
    worker = Worker(checkpoints=MemoryCheckpointStore(), invocation_threads=way.threads, seed=1)
    worker.add(mapping, stream, LocalFunction(module.handler), Nowhere())
    cores, lock = os.sched_getaffinity(0), module.lock
    if way.one_core:
        os.sched_setaffinity(0, {min(cores)})
    if not way.lock:
        module.lock = contextlib.nullcontext()
    try:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        records = worker.run(until_idle=True).records
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    finally:
        module.lock = lock
        os.sched_setaffinity(0, cores)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(records / wall, cpu / records * 1e6, (after.ru_nvcsw - before.ru_nvcsw) / records * 1000)


def main() -> None:
    """Print the table in README.md."""
    logging.getLogger("streamcore").setLevel(logging.ERROR)  # the failures are meant
    module = columns.example("flights")
    flights = columns.flights()
    streams = {False: stream_of(flights), True: stream_of(columns.complete(flights))}
    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    for number in range(ROUNDS + 1):
        for name, way in WAYS.items():
            taken = run(way, streams[way.complete], module)
            if number:  # the first round is to warm up
                runs[name].append(taken)
    print(f"{len(flights):,} flights; medians of {ROUNDS} rounds, and their range; load {os.getloadavg()[0]:.1f}")
    for name, taken_by in runs.items():
        rates, cpus, switches = (sorted(column) for column in zip(*taken_by, strict=True))
        spread = f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        print(f"| {name} | {spread} | {statistics.median(cpus):.1f} | {statistics.median(switches):.0f} |")


if __name__ == "__main__":
    main()
