"""What the tests of the source of DynamoDB Streams share: tables of a server, a handler that notes versions, and workers between them."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from streamcore import DynamoDBStreamsSource, EventSourceMapping, LocalFunction, MemoryCheckpointStore, Start, Worker

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from servers import Server
    from streamcore.protocols import Fetched
    from streamcore.sources.dynamodb import DynamoDBStreamsReader
    from streamcore.testing import ManualClock
    from streamcore.worker import Summary
    from streams_server import StreamsServer

HORIZON = Start("TRIM_HORIZON")


@contextlib.contextmanager
def made_sources() -> Iterator[Callable[..., DynamoDBStreamsSource]]:
    """Give what makes sources; they are closed when the block is left."""
    made: list[DynamoDBStreamsSource] = []

    def make(stream: str, server: Server | StreamsServer, **options: Any) -> DynamoDBStreamsSource:
        made.append(DynamoDBStreamsSource(stream, endpoint_url=server.endpoint_url, **options))
        return made[-1]

    yield make
    for source in made:
        source.close()


class Handled:
    """A handler that notes, for each item, the versions that it was told of, in order; None for its deletion."""

    def __init__(self) -> None:
        self.versions: defaultdict[str, list[object]] = defaultdict(list)
        self.names: list[str] = []
        self.changed = threading.Condition()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        with self.changed:
            for record in event["Records"]:
                image = record["dynamodb"].get("NewImage")
                version = None if image is None else int(image["number"]["N"])
                self.versions[record["dynamodb"]["Keys"]["key"]["S"]].append(version)
                self.names.append(record["eventName"])
            self.changed.notify_all()

    def await_count(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.names) >= count, timeout=60), (count, self.versions)


def worker_over(
    source: DynamoDBStreamsSource,
    handler: Handled,
    store: MemoryCheckpointStore | None = None,
    *,
    clock: ManualClock | None = None,
    **options: Any,
) -> Worker:
    """Return a worker that hands what a source reads to a handler."""
    mapping = EventSourceMapping(
        **{
            "starting_position": "TRIM_HORIZON",
            "event_source_arn": source.describe().event_source_arn,
            "maximum_retry_attempts": 0,
            **options,
        }
    )
    worker = Worker(checkpoints=store or MemoryCheckpointStore(), seed=1, clock=clock)
    worker.add(mapping, source, LocalFunction(handler))
    return worker


def run(source: DynamoDBStreamsSource, handler: Handled, store: MemoryCheckpointStore | None = None, **options: Any) -> Summary:
    """Process all that is in a stream now."""
    return worker_over(source, handler, store, **options).run(until_idle=True)


def numbers(fetched: Fetched) -> int:
    """Return how many records were fetched."""
    return 0 if fetched.page is None else len(fetched.page)


def drained(reader: DynamoDBStreamsReader) -> list[Fetched]:
    """Fetch until the shard ends or is at its tip."""
    found = [reader.fetch(10_000)]
    while not found[-1].ended and (numbers(found[-1]) or found[-1].retry_after_ms):
        found.append(reader.fetch(10_000))
    return found


class Table:
    """A table with a stream."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.client = server.client("dynamodb")
        self.client.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        self.written: defaultdict[str, list[object]] = defaultdict(list)

    def put(self, key: str, number: int) -> None:
        self.client.put_item(TableName=self.name, Item=item(key, number))
        self.written[key].append(number)

    def update(self, key: str, number: int) -> None:
        values = {":n": {"N": str(number)}}
        self.client.update_item(
            TableName=self.name,
            Key={"key": {"S": key}},
            UpdateExpression="SET #n = :n",
            ExpressionAttributeNames={"#n": "number"},
            ExpressionAttributeValues=values,
        )
        self.written[key].append(number)

    def delete(self, key: str) -> None:
        self.client.delete_item(TableName=self.name, Key={"key": {"S": key}})
        self.written[key].append(None)

    def batch(self, numbers: dict[str, int]) -> None:
        requests = [{"PutRequest": {"Item": item(key, number)}} for key, number in numbers.items()]
        assert not self.client.batch_write_item(RequestItems={self.name: requests}).get("UnprocessedItems")
        for key, number in numbers.items():
            self.written[key].append(number)


def item(key: str, number: int) -> dict[str, Any]:
    return {"key": {"S": key}, "number": {"N": str(number)}}


def write_all_sorts(table: Table, rng: random.Random, count: int) -> None:
    """Write puts, updates, deletes and batches of few items; no write that changes nothing, for which servers differ."""
    keys = [f"item-{index}" for index in range(12)]
    live: set[str] = set()
    number = 0
    while number < count:
        key = rng.choice(keys)
        number += 1
        match rng.randrange(4):
            case 0:
                table.put(key, number)
                live.add(key)
            case 1 if key in live:  # moto's record of an update that makes an item lacks what was updated
                table.update(key, number)
            case 2 if key in live:
                table.delete(key)
                live.discard(key)
            case 3:
                chosen = rng.sample(keys, 5)
                table.batch({chosen[index]: number + index for index in range(5)})
                live.update(chosen)
                number += 5
