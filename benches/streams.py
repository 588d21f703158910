"""Reading streams: what an idle shard costs, and how fast records come in over HTTP.

    python -P benches/streams.py idle         CPU of one idle poll, beside boto3's get_records
    python -P benches/streams.py shards       CPU of many idle shards at the base rate
    python -P benches/streams.py throughput   records a second from MiniStack, beside bare HTTP and beside LocalStack's poller

Everything is measured in one run against one server that the run starts on 127.0.0.1, since only ratios of one run mean something.
LocalStack's poller runs in its own environment: `--localstack PATH/bin/python` of one with `localstack-core[base-runtime]`; without it
that row is left out.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the servers are those of the tests

from servers import Server, ministack_server
from streamcore import DynamoDBStreamsSource, EventSourceMapping, KinesisSource, LocalFunction, MemoryCheckpointStore, Worker
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).resolve().parent
SEED = 11
STREAM = "bench"
_AT_TIP = re.compile(rb'"MillisBehindLatest": ?0\b')
_NEXT = re.compile(rb'"NextShardIterator": ?"([^"]+)"')


def handler(_event: dict[str, Any], _context: object) -> None:
    """Do nothing."""


def worker_over(source: KinesisSource, **options: Any) -> Worker:
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=options.pop("clock", None), seed=SEED)
    worker.add(EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options}), source, LocalFunction(handler))
    return worker


def cpu_us(call: Callable[[], object], times: int) -> float:
    """Return the CPU time of one call in microseconds."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times * 1e6


def idle(server: Server, rounds: int) -> None:
    """One poll of an idle shard: the whole of a worker's step, and the source alone, beside boto3's call."""
    client = server.client("kinesis")
    client.create_stream(StreamName=STREAM, ShardCount=1)
    shard = client.list_shards(StreamName=STREAM)["Shards"][0]["ShardId"]
    iterator = client.get_shard_iterator(StreamName=STREAM, ShardId=shard, ShardIteratorType="LATEST")["ShardIterator"]
    clock = ManualClock()
    source = KinesisSource(STREAM, endpoint_url=server.endpoint_url)
    worker = worker_over(source, clock=clock)
    worker.step(clock.now_ms())
    reader = next(iter(worker._shards.readings.values())).reader
    assert reader is not None

    def step() -> None:
        clock.advance(1000)
        worker.step(clock.now_ms())

    found: dict[str, list[float]] = {"boto3 get_records": [], "a worker's whole step": [], "the source's fetch": []}
    for _ in range(rounds):
        found["boto3 get_records"].append(cpu_us(lambda: client.get_records(ShardIterator=iterator, Limit=10_000), 300))
        found["a worker's whole step"].append(cpu_us(step, 300))
        found["the source's fetch"].append(cpu_us(lambda: reader.fetch(10_000), 300))
    worker.stop()
    source.close()
    ratios = {name: [a / b for a, b in zip(values, found["boto3 get_records"], strict=True)] for name, values in found.items()}
    print("| one idle poll | CPU us, median | beside boto3, median | worst round |\n|---|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {statistics.median(values):.0f} | {statistics.median(ratios[name]):.2f} | {max(ratios[name]):.2f} |")


def shards(server: Server, seconds: int) -> None:
    """A worker over many idle shards, in threads, for a while: of one stream of Kinesis, and of as many tables, each with one shard."""
    print("| idle shards | polls a second | CPU of one core | poll threads |\n|---|---|---|---|")
    for count in (50, 200):
        stream = f"{STREAM}-{count}"
        server.client("kinesis").create_stream(StreamName=stream, ShardCount=count)
        idle_shards(f"{count} of Kinesis", [KinesisSource(stream, endpoint_url=server.endpoint_url)], seconds)
    tables = [f"{STREAM}-{number}" for number in range(50)]
    for table in tables:
        server.client("dynamodb").create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
    idle_shards("50 of DynamoDB", [DynamoDBStreamsSource(table, endpoint_url=server.endpoint_url) for table in tables], seconds)


def idle_shards(name: str, sources: Sequence[KinesisSource | DynamoDBStreamsSource], seconds: int) -> None:
    """Run a worker over the sources and print what their polling costs."""
    polls = 0

    def counted(records: Callable[[str, int], bytes]) -> Callable[[str, int], bytes]:
        def call(iterator: str, limit: int) -> bytes:
            nonlocal polls
            polls += 1
            return records(iterator, limit)

        return call

    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=SEED)
    for number, source in enumerate(sources):
        source.records = counted(source.records)  # type: ignore[assignment, method-assign] # to count them
        worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", uuid=str(uuid.UUID(int=number))), source, LocalFunction(handler))
    worker.start()
    time.sleep(3)
    cpu, wall, before = time.process_time(), time.perf_counter(), polls
    time.sleep(seconds)
    cpu, wall, made = time.process_time() - cpu, time.perf_counter() - wall, polls - before
    threads = sum(thread.name.startswith("streamcore-poll") for thread in threading.enumerate())
    worker.stop()
    worker.join()
    for source in sources:
        source.close()
    print(f"| {name} | {made / wall:.0f} | {cpu / wall:.3f} | {threads} |")


def fill(server: Server, count: int, shard_count: int, stream: str = STREAM) -> list[str]:
    """Put records of 200 bytes into a new stream and return its shards."""
    client = server.client("kinesis")
    client.create_stream(StreamName=stream, ShardCount=shard_count)
    rng = random.Random(SEED)
    for start in range(0, count, 500):
        client.put_records(
            StreamName=stream,
            Records=[
                {"Data": rng.randbytes(200), "PartitionKey": f"key-{rng.randrange(10_000)}"} for _ in range(start, min(start + 500, count))
            ],
        )
    return [str(shard["ShardId"]) for shard in client.list_shards(StreamName=stream)["Shards"]]


def bare(server: Server, shard_ids: list[str], threads: int, seen: Callable[[bytes], object] = len) -> None:
    """Read every shard to its tip with GetRecords alone; of an answer only the next iterator and whether it is the last are looked at."""

    def ask(connection: http.client.HTTPConnection, operation: str, parameters: dict[str, Any]) -> bytes:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
            "Authorization": AUTHORIZATION,
        }
        connection.request("POST", "/", json.dumps(parameters), headers)
        return connection.getresponse().read()

    def drain(shard_id: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        start = {"StreamName": STREAM, "ShardId": shard_id, "ShardIteratorType": "TRIM_HORIZON"}
        iterator = json.loads(ask(connection, "GetShardIterator", start))["ShardIterator"]
        while True:
            body = ask(connection, "GetRecords", {"ShardIterator": iterator, "Limit": 10_000})
            seen(body)
            tail = body[-4000:]
            if _AT_TIP.search(tail):
                break
            found = _NEXT.search(tail)
            assert found is not None
            iterator = found[1].decode()
        connection.close()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(drain, shard_ids))


AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/kinesis/aws4_request, SignedHeaders=host, Signature=0"


def rates_by_turns(server: Server, rounds: int, count: int, localstack: str | None) -> dict[str, list[float]]:
    """Read the same records again and again, each way in turn; return the records a second of each."""
    shard_ids = fill(server, count, 8)
    rates: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        rates.setdefault(name, []).append(count / (time.perf_counter() - start))

    def ours(batch_size: int) -> None:
        source = KinesisSource(STREAM, endpoint_url=server.endpoint_url)
        worker = worker_over(source, batch_size=batch_size)
        assert worker.run(until_idle=True).records == count
        source.close()

    read: list[int] = []
    bare(server, shard_ids, 1, lambda body: read.append(body.count(b'"PartitionKey"')))
    assert sum(read) == count, "the bare loop reads every record"
    for _ in range(rounds):
        timed("bare HTTP, 1 connection", lambda: bare(server, shard_ids, 1))
        timed("bare HTTP, 4 connections", lambda: bare(server, shard_ids, 4))
        timed("streamcore, batches of 100", lambda: ours(100))
        timed("streamcore, batches of 1,000", lambda: ours(1000))
        if localstack:
            rates.setdefault("LocalStack's poller, batches of 100", []).append(localstack_rate(server, localstack, min(count, 10_000)))
    return rates


def throughput(server: Server, rounds: int, count: int, localstack: str | None) -> None:
    """Print how fast each way reads."""
    rates = rates_by_turns(server, rounds, count, localstack)
    best_bare = max(statistics.median(values) for name, values in rates.items() if name.startswith("bare"))
    print(f"| {count} records of 200 B, 8 shards | records/s, median of {rounds} | beside the better bare HTTP |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {statistics.median(values):,.0f} | {statistics.median(values) / best_bare:.3f} |")


def localstack_rate(server: Server, python: str, count: int) -> float:
    """Have LocalStack's poller read the stream in its own environment."""
    command = [python, "-P", str(HERE / "localstack_poller.py"), server.endpoint_url, STREAM, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", choices=["idle", "shards", "throughput"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--localstack", help="the Python of an environment with localstack-core[base-runtime]")
    options = parser.parse_args()
    with ministack_server() as server:
        os.environ.update(server.env)
        if options.what == "idle":
            idle(server, options.rounds)
        elif options.what == "shards":
            shards(server, options.seconds)
        else:
            throughput(server, options.rounds, options.records, options.localstack)


if __name__ == "__main__":
    main()
