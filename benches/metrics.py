"""What counting for the metrics costs: this build beside another one, turn by turn in one run, in CPU time.

    python -P benches/metrics.py --against PATH/bin/python

PATH is an environment with a build of streamcore to compare with, such as the one before a change. Each of the two has a process, which
runs a worker over the same pages when it is told to. It also measures one call of `Worker.metrics` for 1,000 shards.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

from records import bodies
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker

PAGES, RECORDS, ROUNDS = 10, 10_000, 15
SHARDS = 1_000
BATCH_SIZES = (1, 100, 1000)


def handler(_event: dict[str, Any], _context: object) -> None:
    """Do nothing."""


def run(pages: list[bytes], batch_size: int) -> float:
    """Return the CPU time of a worker, in seconds for each record."""
    stream = MemoryStream("bench")
    shard = stream.list_shards()[0].shard_id
    for body in pages:
        stream.put_page(shard, body)
    worker = Worker(checkpoints=MemoryCheckpointStore(), invocation_threads=1, seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=batch_size), stream, LocalFunction(handler))
    begin = time.process_time()
    summary = worker.run(until_idle=True)
    return (time.process_time() - begin) / summary.records


def serve() -> None:
    """Run a worker for each batch size that is asked for on standard input, and answer with its time."""
    pages = bodies(PAGES, RECORDS, 100)
    for line in sys.stdin:
        print(run(pages if int(line) > 1 else pages[:2], int(line)), flush=True)


def ask(process: subprocess.Popen[str], batch_size: int) -> float:
    """Have one of the two builds run."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    stdin.write(f"{batch_size}\n")
    stdin.flush()
    return float(stdout.readline())


def compare(against: str) -> None:
    """Print the ratio of the two builds for each batch size."""
    processes = [
        subprocess.Popen([python, "-P", __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for python in (sys.executable, against)
    ]
    for batch_size in BATCH_SIZES:
        for process in processes:
            ask(process, batch_size)  # both are warm
        pairs = [(ask(processes[0], batch_size), ask(processes[1], batch_size)) for _ in range(ROUNDS)]
        ratios = sorted(mine / other for mine, other in pairs)
        mine, other = (min(column) * 1e9 for column in zip(*pairs, strict=True))
        best = f"best {mine:,.0f} and {other:,.0f} ns a record ({mine / other:.3f})"
        spread = f"median ratio {statistics.median(ratios):.3f} (quarters {ratios[ROUNDS // 4]:.3f} to {ratios[-ROUNDS // 4]:.3f})"
        print(f"batches of {batch_size}: {best}, {spread}")
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def one_call() -> None:
    """Print what one call of `metrics` takes with many shards."""
    stream = MemoryStream("bench", shards=SHARDS)
    for number in range(SHARDS * 10):
        stream.put(f"key-{number}", b"x")
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, LocalFunction(handler))
    with worker:
        worker.start()
        while worker.stats().held_records:
            time.sleep(0.01)
        times = []
        for _ in range(ROUNDS):
            begin = time.process_time()
            worker.metrics()
            times.append(time.process_time() - begin)
    print(f"metrics() of {SHARDS} shards: {min(times) * 1e3:.0f} ms of CPU, {min(times) / SHARDS * 1e6:.0f} us a shard")


def main() -> None:
    """Compare, then measure one call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="PYTHON", help="the interpreter of an environment with another build")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    if arguments.against:
        compare(arguments.against)
    one_call()


if __name__ == "__main__":
    main()
