"""How soon a record is at the handler: enhanced fan-out beside polling.

    STREAMCORE_PEERS=.peers python -P benches/fanout.py

The time is from the return of PutRecord to the start of the handler, in milliseconds, on kinesis-local, which `make test-peers` installs,
and, for fan-out, on the tests' own server, which sends at once. A negative time is a handler that started before the put returned.
Both ways read the same records in one run. The rate of puts is low: it is not the load that is measured.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the servers are those of the tests

from fanout_server import CONSUMER_ARN, fanout_server
from peer_servers import kinesis_local_server
from scenario import KinesisConsumer
from servers import CREDENTIALS
from streamcore import EventSourceMapping, FanOutSource, LocalFunction, MemoryCheckpointStore, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore import Source

SEED = 12


class Arrivals:
    """A handler that notes when each record was handed to it."""

    def __init__(self) -> None:
        self.at: dict[bytes, float] = {}
        self._changed = threading.Condition()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        now = time.perf_counter()
        with self._changed:
            for record in event["Records"]:
                self.at[base64.b64decode(record["kinesis"]["data"])] = now
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.at) >= count, 120):
                raise TimeoutError(f"{len(self.at)} of {count} records came")


def measured(ways: dict[str, Source], put: Callable[[bytes], None], count: int, pause_s: float) -> dict[str, list[float]]:
    """Put records one by one, and return for each way the sorted milliseconds until its handler started."""
    rng = random.Random(SEED)
    arrivals = {name: Arrivals() for name in ways}
    workers = []
    for name, source in ways.items():
        worker = Worker(checkpoints=MemoryCheckpointStore(), seed=SEED)
        arn = source.describe().event_source_arn
        worker.add(EventSourceMapping(event_source_arn=arn, starting_position="TRIM_HORIZON"), source, LocalFunction(arrivals[name]))
        worker.start()
        workers.append(worker)
    put(b"first")  # connections are made with it
    for arrival in arrivals.values():
        arrival.wait(1)
    sent: dict[bytes, float] = {}
    for number in range(count):
        time.sleep(rng.uniform(0, 2 * pause_s))
        data = f"{number}".encode()
        put(data)
        sent[data] = time.perf_counter()
    for arrival in arrivals.values():
        arrival.wait(count + 1)
    for worker, source in zip(workers, ways.values(), strict=True):
        worker.stop()
        worker.join()
        source.close()
    return {name: sorted((arrival.at[data] - at) * 1000 for data, at in sent.items()) for name, arrival in arrivals.items()}


def show(title: str, found: dict[str, list[float]]) -> None:
    for name, times in found.items():
        p50, p99 = (times[min(int(len(times) * part), len(times) - 1)] for part in (0.5, 0.99))
        print(f"| {title}: {name} | {p50:.1f} | {p99:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--records", type=int, default=200)
    options = parser.parse_args()
    print(f"| put to handler start, {options.records} records | p50 ms | p99 ms |\n|---|---|---|")
    os.environ.update({**CREDENTIALS, "AWS_CONFIG_FILE": os.devnull})
    with fanout_server() as own:
        ways: dict[str, Source] = {"fan-out": FanOutSource(CONSUMER_ARN, endpoint_url=own.endpoint_url)}

        def append(data: bytes) -> None:
            own.put("shardId-000000000000", data)

        show("own server", measured(ways, append, options.records, 0.01))
    with kinesis_local_server() as server:
        os.environ.update(server.env)
        stream = KinesisConsumer(server, 1)
        ways = {"fan-out": stream.source(), "polling": super(KinesisConsumer, stream).source()}

        def put(data: bytes) -> None:
            stream.client.put_record(StreamName=stream.name, PartitionKey="key", Data=data)

        show("kinesis-local", measured(ways, put, options.records, 0.1))


if __name__ == "__main__":
    main()
