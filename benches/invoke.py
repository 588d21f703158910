"""What one Invoke of the Lambda API costs this process, beside the wire: the same bytes over one bare connection to the same server.

    python -P benches/invoke.py

The server is a process of its own on 127.0.0.1 that reads each request and answers `null`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the batches are those of the tests

from engines import NOW, mapping, take
from servers import CREDENTIALS
from streamcore import Batch, Engine, LambdaFunction, Page

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7
SERVER = rb"""
import socket, threading
ANSWER = b"HTTP/1.1 200 OK\r\nX-Amz-Executed-Version: $LATEST\r\nx-amzn-RequestId: 1\r\nContent-Length: 4\r\n\r\nnull"
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb", 1 << 20)
    while reader.readline():
        left = 0
        while (header := reader.readline()) != b"\r\n":
            left = int(header.split(b":")[1]) if header.lower().startswith(b"content-length:") else left
        while left:
            left -= len(reader.read(min(left, 1 << 20)))
        connection.sendall(ANSWER)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def batch_of(records: int, size: int) -> Batch:
    engine = Engine()
    shard = engine.add_shard(mapping(batch_size=10_000), "shardId-000000000000", now=NOW)
    engine.offer(shard, Page.from_records([("key", bytes(size), NOW, str(number)) for number in range(1, records + 1)]), NOW)
    return take(engine)


def measured(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Return wall time and CPU time of one call in milliseconds: the median of the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            call()
        rounds.append(((time.perf_counter() - wall) / times * 1000, (time.process_time() - cpu) / times * 1000))
    return statistics.median(wall for wall, _ in rounds), statistics.median(cpu for _, cpu in rounds)


def compare(name: str, batch: Batch, function: LambdaFunction, port: int, times: int) -> None:
    body = batch.json()
    bare = http.client.HTTPConnection("127.0.0.1", port)

    def post() -> bytes:
        bare.request("POST", "/", body)
        return bare.getresponse().read()

    assert function.invoke(batch).kind == "success"
    ours, wire = measured(lambda: function.invoke(batch), times), measured(post, times)
    written, hashed = measured(batch.json, times)[1], measured(lambda: hashlib.sha256(body).digest(), times)[1]
    print(
        f"| {name}, {len(body):,} bytes | {ours[1]:.2f} | {wire[1]:.2f} | {written:.2f} | {hashed:.2f} | {ours[0]:.2f} | {wire[0]:.2f} |",
        flush=True,
    )
    bare.close()


def main() -> None:
    os.environ.update(CREDENTIALS)
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            function = LambdaFunction("billing", region="us-east-1", endpoint_url=f"http://127.0.0.1:{port}", timeout_ms=1000)
            print("| event | Invoke, CPU ms | bare, CPU ms | writing the event | SHA-256 of it | Invoke, wall ms | bare, wall ms |")
            for name, batch, times in (
                ("1 record of 14 B", batch_of(1, 14), 200),
                ("100 records of 100 B", batch_of(100, 100), 200),
                ("10,000 records of 140 B", batch_of(10_000, 140), 10),
            ):
                compare(name, batch, function, port, times)
            function.close()
        finally:
            server.kill()


if __name__ == "__main__":
    main()
