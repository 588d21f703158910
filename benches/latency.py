"""How soon a record is at the handler at low load, and what an idle worker costs, over streams in memory.

    .venv/bin/python -P benches/latency.py latency
    .venv/bin/python -P benches/latency.py idle

`p10` is the part of the suite. `latency` puts 200 records a second, at random times that do not wait for answers, and takes the time from
the call of `put` to the first line of the handler, and from the return of `put`. Beside it stands the least that two threads can do: a
queue that one thread takes from and another queue that the next one takes from, fed in the same way. A negative time is a handler that
started before the put returned.

`idle` takes the CPU time of a worker that has nothing to do, over 1,000 shards of one mapping and over 1,000 mappings of one shard.
"""

from __future__ import annotations

import argparse
import base64
import functools
import queue
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

from measure import Measurement, Sizes, measurement
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 15
RATE = 200


class Arrivals:
    """A handler that notes when each record was handed to it."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        now = time.perf_counter_ns()
        for record in event["Records"]:
            self.at[int(base64.b64decode(record["kinesis"]["data"]))] = now


def fed(put: Callable[[int], None], at: dict[int, int], count: int) -> tuple[list[float], list[float]]:
    """Put numbers at random times; return the microseconds to their arrival, from the call of `put` and from its return, sorted."""
    rng = random.Random(SEED)
    called, returned = {}, {}
    due = time.perf_counter()
    for number in range(count):
        due += rng.expovariate(RATE)
        time.sleep(max(due - time.perf_counter(), 0))
        called[number] = time.perf_counter_ns()
        put(number)
        returned[number] = time.perf_counter_ns()
    deadline = time.monotonic() + 30
    while len(at) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(at)} of {count} records came")
        time.sleep(0.01)
    from_call, from_return = (sorted((at[number] - then) / 1000 for number, then in times.items()) for times in (called, returned))
    return from_call, from_return


def two_hand_overs(count: int) -> tuple[list[float], list[float]]:
    """Return the times of a record that two threads hand on and do nothing with."""
    first: queue.SimpleQueue[int] = queue.SimpleQueue()
    second: queue.SimpleQueue[int] = queue.SimpleQueue()
    at: dict[int, int] = {}

    def hand_on() -> None:
        while (number := first.get()) >= 0:
            second.put(number)
        second.put(-1)

    def arrive() -> None:
        while (number := second.get()) >= 0:
            at[number] = time.perf_counter_ns()

    threads = [threading.Thread(target=target, daemon=True) for target in (hand_on, arrive)]
    for thread in threads:
        thread.start()
    times = fed(first.put, at, count)
    first.put(-1)
    for thread in threads:
        thread.join()
    return times


def worker_over(streams: list[MemoryStream], handler: Callable[[dict[str, Any], object], None], factor: int) -> Worker:
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=SEED)
    for number, stream in enumerate(streams):
        mapping = EventSourceMapping(
            uuid=f"00000000-0000-4000-8000-{number:012}", starting_position="TRIM_HORIZON", parallelization_factor=factor
        )
        worker.add(mapping, stream, LocalFunction(handler))
    return worker


def latency(shards: int, factor: int, count: int) -> tuple[list[float], list[float]]:
    """Return the times of a worker over so many shards."""
    stream, arrivals = MemoryStream("latency", shards=shards), Arrivals()

    def put(number: int) -> None:
        stream.put(f"key-{number}", b"%d" % number)

    with worker_over([stream], arrivals, factor) as worker:
        worker.start()
        for number in range(-20, 0):  # threads are made with them
            put(number)
            time.sleep(0.005)
        while len(arrivals.at) < 20:
            time.sleep(0.01)
        arrivals.at.clear()
        return fed(put, arrivals.at, count)


def show_latency(count: int) -> None:
    print(f"{count} records, {RATE} a second; microseconds")
    print("| | from the call of put: p50 | p99 | p99.9 | from its return: p50 | p99 | p99.9 |\n|---|---|---|---|---|---|---|")
    ways: dict[str, Callable[[], tuple[list[float], list[float]]]] = {"two threads and two queues": lambda: two_hand_overs(count)}
    for shards, factor in ((1, 1), (1, 10), (4, 1), (100, 1), (1000, 1)):
        ways[f"{shards:,} shards, PF {factor}"] = functools.partial(latency, shards, factor, count)
    for name, way in ways.items():
        found = [f"{times[int(len(times) * part)]:.0f}" for times in way() for part in (0.5, 0.99, 0.999)]
        print(f"| {name} | {' | '.join(found)} |", flush=True)


def idle(streams: list[MemoryStream], seconds: float) -> tuple[float, int]:
    """Return the part of a core that an idle worker takes, and its threads."""
    with worker_over(streams, lambda _event, _context: None, 1) as worker:
        worker.start()
        time.sleep(2)  # first contact and the first reads are over
        begin, cpu = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return (time.process_time() - cpu) / (time.perf_counter() - begin), threading.active_count() - 1


def show_idle(seconds: float) -> None:
    print("| idle | CPU of one core | threads |\n|---|---|---|")
    for name, streams in (
        ("1,000 shards of one mapping", [MemoryStream("idle", shards=1000)]),
        ("1,000 mappings of one shard", [MemoryStream(f"idle-{number}") for number in range(1000)]),
    ):
        part, threads = idle(streams, seconds)
        print(f"| {name} | {part:.2%} | {threads} |", flush=True)


def p10(sizes: Sizes) -> Iterator[Measurement]:
    """The bar: the 99th percentile of each of some turns, and an idle worker."""
    count = sizes.records // 50
    for shards in (1, 4, 1000):
        turns = [latency(shards, 1, count)[0] for _ in range(min(sizes.rounds, 5))]
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            at = [times[int(len(times) * part)] / 1000 for times in turns]
            bar = 1.0 if name == "p99" else None
            yield measurement(at, part="P10", name=f"{shards:,} shard{'s'[: shards > 1]}, put to handler, {name}", unit="ms", bar=bar)
    part, _ = idle([MemoryStream("idle", shards=1000)], min(35, count / 25))
    yield Measurement(part="P10", name="1,000 idle shards", value=100 * part, unit="% of a core", bar=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", choices=("latency", "idle"))
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=35, help="of idleness; shards are listed every 30 s")
    options = parser.parse_args()
    if options.what == "latency":
        show_latency(options.records)
    else:
        show_idle(options.seconds)


if __name__ == "__main__":
    main()
