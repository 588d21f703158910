"""What the tests of the Kinesis source share: streams of a server, a handler that notes numbers, and workers between them."""

from __future__ import annotations

import base64
import collections
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from servers import Server, unique
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, Worker
from streamcore.sources.kinesis import KinesisSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy import Proxy
    from streamcore.protocols import Fetched
    from streamcore.testing import ManualClock

FIRST = "shardId-000000000000"


@contextlib.contextmanager
def made_sources() -> Iterator[Callable[..., KinesisSource]]:
    """Give what makes sources; they are closed when the block is left."""
    made: list[KinesisSource] = []

    def make(stream: str, endpoint: Server | Proxy, **options: Any) -> KinesisSource:
        source = KinesisSource(stream, endpoint_url=endpoint.endpoint_url, **options)
        made.append(source)
        return source

    yield make
    for source in made:
        source.close()


def stream_on(server: Server, shards: int = 1) -> str:
    """Make a stream and return its name."""
    name = unique("orders")
    server.client("kinesis").create_stream(StreamName=name, ShardCount=shards)
    return name


def put(server: Server, stream: str, numbers: range, *, keys: int = 17) -> None:
    """Put a record for each number, the number its payload, under one of so many keys."""
    client = server.client("kinesis")
    for start in range(numbers.start, numbers.stop, 500):
        part = range(start, min(start + 500, numbers.stop))
        records = [{"Data": b"%d" % number, "PartitionKey": f"key-{number % keys}"} for number in part]
        assert client.put_records(StreamName=stream, Records=records)["FailedRecordCount"] == 0


class Handled:
    """A handler that notes the numbers it got, per key and in order."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.by_key: dict[str, list[int]] = collections.defaultdict(list)
        self.shards: collections.Counter[str] = collections.Counter()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        with self.changed:
            for record in event["Records"]:
                number = int(base64.b64decode(record["kinesis"]["data"]))
                self.by_key[record["kinesis"]["partitionKey"]].append(number)
                self.shards[record["eventID"].split(":")[0]] += 1
            self.changed.notify_all()

    @property
    def numbers(self) -> list[int]:
        return sorted(number for numbers in self.by_key.values() for number in numbers)

    def await_count(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.numbers) >= count, timeout=60), (count, self.numbers)


def worker_over(
    source: KinesisSource, handler: Handled, store: MemoryCheckpointStore | None = None, *, clock: ManualClock | None = None, **options: Any
) -> Worker:
    """Return a worker that hands what a source reads to a handler."""
    worker = Worker(checkpoints=store or MemoryCheckpointStore(), seed=1, clock=clock)
    worker.add(EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options}), source, LocalFunction(handler))
    return worker


def read(reader: Any, limit: int = 10_000) -> Fetched:
    """Fetch once, as a worker does."""
    fetched: Fetched = reader.fetch(limit)
    return fetched
