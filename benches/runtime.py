"""Functions in processes of their own: invocations a second beside a plain loop server, and the CPU time of a large event.

    .venv/bin/python -P benches/runtime.py

The function is an empty Python handler under awslambdaric. The *plain loop server* does as little as can be done: a thread for each process
sends one prepared event and one prepared acknowledgement, in turn, and looks at nothing but the end of what it receives. streamcore's
*pool* is given the same events by as many threads; the *worker* reads them as records from a stream in memory, checkpoints and all. Each
round runs all of them one after the other; the figures are medians over the rounds, and ratios within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, cast

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

from records import bodies
from streamcore import (
    Batch,
    Engine,
    EventSourceMapping,
    MemoryCheckpointStore,
    MemoryStream,
    Page,
    RuntimeFunction,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamcore import Answer

SMALL = b'{"key": "val"}'
ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"status":"OK"}\n'


class Prepared:
    """What a function needs of a batch: an event that is there already."""

    def __init__(self, event: bytes) -> None:
        self._event = event
        self.request_id = str(uuid.uuid4())

    def json(self) -> bytes:
        return self._event


def batch_of(records: int, payload_bytes: int) -> Batch:
    """Return one real batch."""
    engine = Engine()
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=10_000)
    shard = engine.add_shard(mapping, "shardId-000000000000", now=0)
    engine.offer(shard, Page.parse(bodies(1, records, payload_bytes)[0]), 0)
    engine.end(shard, 0)
    batch = engine.take(0)
    assert isinstance(batch, Batch)
    return batch


def in_threads(threads: int, work: Callable[[int], None]) -> float:
    """Return the seconds until all threads have done their work."""
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    begun = time.perf_counter()
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    return time.perf_counter() - begun


@contextlib.contextmanager
def plain_processes(folder: Path, count: int) -> Iterator[list[socket.socket]]:
    """Start runtimes and give their connections."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            environment = {**os.environ, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}", "_HANDLER": "app.handler"}
            runtime = subprocess.Popen([sys.executable, "-m", "awslambdaric", "app.handler"], cwd=folder, env=environment)
            stack.callback(runtime.wait)
            stack.callback(runtime.kill)
            connection = stack.enter_context(listener.accept()[0])
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.append(connection)
        yield connections


def receive(connection: socket.socket, end: bytes) -> None:
    """Receive what ends so."""
    got = connection.recv(65536)
    while not got.endswith(end):
        more = connection.recv(65536)
        assert more, "the runtime has closed the connection"
        got += more


def prepared(event: bytes) -> bytes:
    """Return the whole answer that carries an event."""
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"Lambda-Runtime-Aws-Request-Id: {uuid.uuid4()}\r\nLambda-Runtime-Deadline-Ms: {int(time.time() * 1000) + 900_000}\r\n"
        "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:app\r\n"
        "Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0\r\n"
        f"Content-Length: {len(event)}\r\n\r\n"
    )
    return head.encode() + event


def plain_turn(connection: socket.socket, answer: bytes) -> None:
    """Do one invocation as the plain loop server does."""
    receive(connection, b"\r\n\r\n")  # GET next
    connection.sendall(answer)
    receive(connection, b"\r\n\r\nnull")  # POST response
    connection.sendall(ACCEPTED)


def plain_rate(connections: list[socket.socket], event: bytes, invocations: int) -> float:
    """Return the invocations a second of the plain loop server."""
    answer = prepared(event)

    def loop(number: int) -> None:
        for _ in range(invocations // len(connections)):
            plain_turn(connections[number], answer)

    return invocations / in_threads(len(connections), loop)


def pool_rate(function: RuntimeFunction, processes: int, event: bytes, invocations: int) -> float:
    """Return the invocations a second of streamcore's pool."""

    def loop(_number: int) -> None:
        for _ in range(invocations // processes):
            answer = function.invoke(cast("Batch", Prepared(event)))
            assert answer.kind == "success"

    return invocations / in_threads(processes, loop)


def worker_rate(function: RuntimeFunction, processes: int, pages: list[bytes]) -> float:
    """Return the invocations a second of a worker over batches of 100 records."""
    stream = MemoryStream("bench")
    for body in pages:
        stream.put_page(stream.list_shards()[0].shard_id, body)
    worker = Worker(checkpoints=MemoryCheckpointStore())
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=100, parallelization_factor=processes)
    worker.add(mapping, stream, function)
    summary = worker.run(until_idle=True)
    assert summary.failed_invocations == 0
    return summary.invocations / summary.elapsed_seconds


def cpu_us() -> float:
    """Return the CPU time of this process so far, in microseconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e6


def rates(folder: Path, rounds: int, invocations: int) -> None:
    """Print the rates with one process and with four, and this process's own CPU time for an invocation."""
    event = batch_of(100, 100).json()
    pages = bodies(max(invocations // 100, 1), 10_000, 100)
    print("processes event     plain/s   pool/s worker/s   pool/plain worker/plain   CPU us: plain  pool")
    for processes in (1, 4):
        rows: dict[str, list[tuple[float, ...]]] = {"14 B": [], f"{len(event):,} B": []}
        with (
            plain_processes(folder, processes) as connections,
            contextlib.closing(RuntimeFunction(folder, handler="app.handler")) as function,
        ):
            for number in range(rounds + 1):
                for name, body in zip(rows, (SMALL, event), strict=True):
                    before = cpu_us()
                    plain = plain_rate(connections, body, invocations)
                    between = cpu_us()
                    pool = pool_rate(function, processes, body, invocations)
                    after = cpu_us()
                    worker = worker_rate(function, processes, pages) if body is event else float("nan")
                    if number:  # the first round warms everything up
                        used = ((between - before) / invocations, (after - between) / invocations)
                        rows[name].append((plain, pool, worker, pool / plain, worker / plain, *used))
        for name, taken in rows.items():
            plain, pool, worker, beside, whole, plain_us, pool_us = (statistics.median(column) for column in zip(*taken, strict=True))
            print(
                f"{processes:<10}{name:<9}{plain:>8,.0f}{pool:>9,.0f}{worker:>9,.0f}{beside:>13.2f}{whole:>13.2f}{plain_us:>16.0f}{pool_us:>6.0f}"
            )


def turns(folder: Path, blocks: int) -> None:
    """Print how long one invocation takes with one process. Low percentiles are steady also where other work shares the machine."""
    with plain_processes(folder, 1) as (connection,), contextlib.closing(RuntimeFunction(folder, handler="app.handler")) as function:
        for event in (SMALL, batch_of(100, 100).json()):
            answer, batch = prepared(event), cast("Batch", Prepared(event))
            taken: dict[str, list[float]] = {"plain": [], "pool": []}
            works: dict[str, Callable[[], object]] = {
                "plain": functools.partial(plain_turn, connection, answer),
                "pool": functools.partial(function.invoke, batch),
            }
            for _ in range(blocks):
                for name, work in works.items():
                    for number in range(33):
                        begun = time.perf_counter()
                        work()
                        if number >= 3:
                            taken[name].append((time.perf_counter() - begun) * 1e6)
            for percent in (10, 25, 50):
                plain, pool = (statistics.quantiles(taken[name], n=100)[percent - 1] for name in ("plain", "pool"))
                print(f"one turn, {len(event):,} B, p{percent}: plain {plain:.0f} us, pool {pool:.0f} us, plain/pool {plain / pool:.2f}")


def large_event(folder: Path, rounds: int) -> None:
    """Print the CPU time that streamcore takes for an event of 6 MB, from the batch to the answer."""
    batch = batch_of(7_400, 300)
    size = len(batch.json())
    with contextlib.closing(RuntimeFunction(folder, handler="app.handler", timeout_ms=60_000)) as function:

        def once() -> tuple[float, float]:
            before = resource.getrusage(resource.RUSAGE_THREAD)
            answer: Answer = function.invoke(batch)
            after = resource.getrusage(resource.RUSAGE_THREAD)
            assert answer.kind == "success"
            return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime

        once()
        taken = [once() for _ in range(rounds)]
    user, system = (statistics.mean(column) * 1000 for column in zip(*taken, strict=True))
    print(f"one event of {size:,} bytes: {user:.2f} ms of user CPU, {system:.2f} ms of system CPU, mean of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--invocations", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text("def handler(event, context):\n    return None\n")
        print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg(), "python": sys.version.split()[0]}))
        rates(folder, arguments.rounds, arguments.invocations)
        turns(folder, 60)
        large_event(folder, 50)


if __name__ == "__main__":
    main()
