"""What the scenarios on real servers share: streams to write to, handlers that note what they saw, and the comparison of both."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from servers import REGION, Server, unique
from streamcore import DynamoDBStreamsSource, EventSourceMapping, FanOutSource, KinesisSource, LocalFunction, MemoryCheckpointStore, Worker

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from streamcore import Source, Summary

SEED = 20260131

Row = tuple[str, int]  # a key, and how many rows of that key came before

DEADLINE_S = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does.

    Raises:
        AssertionError: it has not come to be in `DEADLINE_S`.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:g} s"
        time.sleep(0.02)


class Rows:
    """An endless seeded supply of rows: few keys have many, many keys have few."""

    def __init__(self, rng: random.Random, keys: int = 500) -> None:
        self._rng = rng
        self._keys = keys
        self._next: defaultdict[str, int] = defaultdict(int)

    def take(self, count: int) -> list[Row]:
        """Return the next rows; a key's numbers go on where they stopped."""
        rows = []
        for _ in range(count):
            key = f"key-{int(self._rng.paretovariate(0.6)) % self._keys}"
            rows.append((key, self._next[key]))
            self._next[key] += 1
        return rows


class KinesisStream:
    """A stream of a server, made for one test."""

    def __init__(self, server: Server, shards: int, name: str | None = None) -> None:
        self.server = server
        self.name = name or unique("stream")
        self.option = f"kinesis:{self.name}"
        self.client = server.client("kinesis")
        self.client.create_stream(StreamName=self.name, ShardCount=shards)
        self.settle()
        self.arn: str = self._summary()["StreamARN"]

    def settle(self) -> None:
        """Wait until the stream is active."""
        until(lambda: self._summary()["StreamStatus"] == "ACTIVE", f"{self.name} is active")

    def write(self, rows: Iterable[Row]) -> None:
        """Put rows in order."""
        listed = list(rows)
        for some in (listed[at : at + 500] for at in range(0, len(listed), 500)):
            records = [{"PartitionKey": key, "Data": f"{key} {number}".encode()} for key, number in some]
            assert self.client.put_records(StreamName=self.name, Records=records)["FailedRecordCount"] == 0

    def shards(self) -> list[dict[str, Any]]:
        """Return all shards, those of every page."""
        answer = self.client.list_shards(StreamName=self.name)
        found: list[dict[str, Any]] = answer["Shards"]
        while token := answer.get("NextToken"):
            answer = self.client.list_shards(NextToken=token)
            found += answer["Shards"]
        return found

    def open_shards(self) -> list[dict[str, Any]]:
        """Return the shards that are written to, in the order of their hash keys."""
        shards = self.shards()  # kinesis-local does not say which are closed
        parents = {shard.get(name) for shard in shards for name in ("ParentShardId", "AdjacentParentShardId")}
        found = [shard for shard in shards if shard["ShardId"] not in parents]
        return sorted(found, key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))

    def split(self, shard: dict[str, Any]) -> None:
        """Split a shard in the middle."""
        start, end = (int(shard["HashKeyRange"][name]) for name in ("StartingHashKey", "EndingHashKey"))
        middle = str((start + end + 1) // 2)
        self.client.split_shard(StreamName=self.name, ShardToSplit=shard["ShardId"], NewStartingHashKey=middle)
        self.settle()

    def merge(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        """Merge two neighbours."""
        self.client.merge_shards(StreamName=self.name, ShardToMerge=one["ShardId"], AdjacentShardToMerge=other["ShardId"])
        self.settle()

    def source(self, endpoint_url: str | None = None) -> KinesisSource:
        """Return what reads it."""
        return KinesisSource(self.name, region=REGION, endpoint_url=endpoint_url or self.server.endpoint_url)

    def _summary(self) -> Any:
        return self.client.describe_stream_summary(StreamName=self.name)["StreamDescriptionSummary"]


class KinesisConsumer(KinesisStream):
    """A stream that is read by consumers with enhanced fan-out: `option` names one, and each source has one of its own."""

    def __init__(self, server: Server, shards: int, name: str | None = None) -> None:
        super().__init__(server, shards, name)
        self.option = self.register()

    def register(self) -> str:
        """Register one more consumer and return its ARN."""
        registered = self.client.register_stream_consumer(StreamARN=self._summary()["StreamARN"], ConsumerName=unique("consumer"))
        arn: str = registered["Consumer"]["ConsumerARN"]
        until(lambda: self._status(arn) == "ACTIVE", f"{arn} is active")
        return arn

    def source(self, endpoint_url: str | None = None) -> FanOutSource:  # type: ignore[override] # another kind of source
        """Return what reads it, with a consumer of its own."""
        return FanOutSource(self.register(), region=REGION, endpoint_url=endpoint_url or self.server.endpoint_url)

    def _status(self, arn: str) -> Any:
        return self.client.describe_stream_consumer(ConsumerARN=arn)["ConsumerDescription"]["ConsumerStatus"]


class Table:
    """A table of a server with a stream, made for one test. A row is an item's new version."""

    def __init__(self, server: Server, name: str | None = None) -> None:
        self.server = server
        self.name = name or unique("table")
        self.option = f"dynamodb:{self.name}"
        self.client = server.client("dynamodb")
        self.streams = server.client("dynamodbstreams")
        self.client.create_table(
            TableName=self.name,
            AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        until(lambda: self._description()["TableStatus"] == "ACTIVE", f"{self.name} is active")
        self.stream_arn: str = self._description()["LatestStreamArn"]

    def write(self, rows: Iterable[Row]) -> None:
        """Put rows in order for each key: in batches, of which each holds a key once."""
        batch: dict[str, int] = {}
        for key, number in rows:
            if key in batch or len(batch) == 25:
                self._write_batch(batch)
                batch = {}
            batch[key] = number
        if batch:
            self._write_batch(batch)

    def shards(self) -> list[dict[str, Any]]:
        """Return all shards of the stream."""
        found: list[dict[str, Any]] = self.streams.describe_stream(StreamArn=self.stream_arn)["StreamDescription"]["Shards"]
        return found

    def source(self, endpoint_url: str | None = None) -> DynamoDBStreamsSource:
        """Return what reads its stream."""
        return DynamoDBStreamsSource(self.name, region=REGION, endpoint_url=endpoint_url or self.server.endpoint_url)

    def _write_batch(self, batch: dict[str, int]) -> None:
        puts = [{"PutRequest": {"Item": {"key": {"S": key}, "number": {"N": str(number)}}}} for key, number in batch.items()]
        assert not self.client.batch_write_item(RequestItems={self.name: puts}).get("UnprocessedItems")

    def _description(self) -> Any:
        return self.client.describe_table(TableName=self.name)["Table"]


Stream = KinesisStream | Table


def reshard(stream: Stream, generation: int) -> None:
    """Close shards that are open, and open others."""
    if isinstance(stream, Table):
        before = len(stream.shards())
        os.kill(stream.server.pid, signal.SIGHUP)  # see DynamoDbLocal.java
        until(lambda: len(stream.shards()) > before, "the shards are rotated")
    elif generation % 2:
        stream.merge(*stream.open_shards()[-2:])
    else:
        stream.split(stream.open_shards()[0])


def row(record: dict[str, Any]) -> Row:
    """Return the row that a record of an event holds."""
    if "dynamodb" in record:
        return record["dynamodb"]["Keys"]["key"]["S"], int(record["dynamodb"]["NewImage"]["number"]["N"])
    key, _, number = base64.b64decode(record["kinesis"]["data"]).decode().partition(" ")
    assert record["kinesis"]["partitionKey"] == key
    return key, int(number)


class Seen:
    """A handler that notes what it was called with."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.shards: list[str] = []  # of each row, for Kinesis
        self._lock = threading.Lock()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        """Handle a batch."""
        rows = [row(record) for record in event["Records"]]
        shards = [record["eventID"].partition(":")[0] for record in event["Records"]]
        with self._lock:
            self.rows += rows
            self.shards += shards


def assert_once_and_in_order(seen: Sequence[Row], written: Sequence[Row], hint: str) -> None:
    """Every row came once, and the rows of each key in the order in which they were written."""
    expected, found = by_key(written), by_key(seen)
    missing, repeated = set(written) - set(seen), len(seen) - len(set(seen))
    unknown = set(seen) - set(written)
    counts = f"{hint}: {len(missing)} of {len(written)} rows are missing, {repeated} came again, {len(unknown)} were not written"
    assert (len(missing), repeated, len(unknown)) == (0, 0, 0), f"{counts}: {sorted(missing)[:5]} {sorted(unknown)[:5]}"
    for key, numbers in expected.items():
        assert found[key] == numbers, f"{hint}: the rows of {key} came in another order"


def by_key(rows: Iterable[Row]) -> dict[str, list[int]]:
    """Return the numbers of each key, in the order of the rows."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for key, number in rows:
        numbers[key].append(number)
    return dict(numbers)


def firsts(rows: Iterable[Row]) -> list[Row]:
    """Return each row where it came first."""
    return list(dict.fromkeys(rows))


def worker_of(source: Source, handler: Callable[..., object], **parameters: Any) -> Worker:
    """Return a worker with one mapping that keeps no checkpoint."""
    parameters = {"starting_position": "TRIM_HORIZON", **parameters}
    mapping = EventSourceMapping(event_source_arn=source.describe().event_source_arn, **parameters)
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=SEED)
    worker.add(mapping, source, LocalFunction(handler))
    return worker


def consume(source: Source, handler: Callable[..., object], **parameters: Any) -> Summary:
    """Process all that is in a stream now."""
    try:
        return worker_of(source, handler, **parameters).run(until_idle=True)
    finally:
        source.close()


# A run as a process of its own.

_HANDLER = """
import base64, os

log = os.open("handled.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def row(record):
    if "dynamodb" in record:
        return f"{record['dynamodb']['Keys']['key']['S']} {record['dynamodb']['NewImage']['number']['N']}"
    return base64.b64decode(record["kinesis"]["data"]).decode()

def handle(event, context):
    os.write(log, "".join(row(record) + "\\n" for record in event["Records"]).encode())  # one write, which O_APPEND makes atomic
    os.write(2, b".")
"""


class Command:
    """`streamcore run` over a stream, in a folder that keeps its state and what its handler saw.

    `handler` is the text of `handlers.py`, whose `handle` writes a dot to standard error for each batch.

    Attributes:
        folder: where it runs.
        env: its environment, which leads to the stream's server.
    """

    def __init__(self, folder: Path, stream: Stream, *options: str, handler: str = _HANDLER) -> None:
        self.folder = folder
        self.env = {**os.environ, **stream.server.env}
        (folder / "handlers.py").write_text(handler)
        self._command = [sys.executable, "-m", "streamcore", "run", "--source", stream.option, "--function", "handlers.py:handle"]
        self._command += ["--state", "s.sqlite", "--json", *options]

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start it; its handler writes a byte to standard error for each batch."""
        command = [*self._command, *options]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kill_after(self, batches: int) -> None:
        """Run it until its handler has had so many batches or a few more, and kill it as `kill -9` does."""
        with self.start() as process:
            assert process.stderr is not None
            left = batches
            while left > 0:
                chunk = os.read(process.stderr.fileno(), 65_536)
                assert chunk, f"the run ended {left} batches before it was to be killed"
                left -= chunk.count(b".")
            process.send_signal(signal.SIGKILL)

    def finish(self, *options: str) -> dict[str, Any]:
        """Run it until the stream is idle and return its summary."""
        command = [*self._command, "--until-idle", *options]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        summary: dict[str, Any] = json.loads(done.stdout)
        return {**summary, "log": done.stderr}

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return what the state file holds; nothing where there is none yet."""
        command = [sys.executable, "-m", "streamcore", "state", "show", "s.sqlite", "--json"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["checkpoints"] if done.returncode == 0 else []
        return rows

    def handled(self) -> list[Row]:
        """Return the rows that its handler has seen so far."""
        path = self.folder / "handled.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(key, int(number)) for key, _, number in (line.partition(" ") for line in lines)]
