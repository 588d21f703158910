"""The source of DynamoDB Streams: against moto and MiniStack, and against a server whose shards rotate and whose iterators expire."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from servers import Server, moto_server
from streamcore import (
    ConfigError,
    DynamoDBStreamsSource,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    SourceError,
    SourceUnavailableError,
    Start,
    Worker,
)
from streamcore.testing import ManualClock
from streams_server import ARN, StreamsServer, streams_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamcore.protocols import Fetched
    from streamcore.sources.dynamodb import DynamoDBStreamsReader
    from streamcore.worker import Summary

HORIZON = Start("TRIM_HORIZON")
MINUTE = 1_769_774_400  # a whole one


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Credentials that every server takes, and nothing of the machine's own settings."""
    nowhere = str(tmp_path_factory.getbasetemp() / "nothing")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def streams() -> Iterator[StreamsServer]:
    with streams_server() as server:
        yield server


@pytest.fixture
def sources() -> Iterator[Callable[..., DynamoDBStreamsSource]]:
    """Make sources that are closed after the test."""
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


def worker_over(source: DynamoDBStreamsSource, handler: Handled, store: MemoryCheckpointStore | None = None, **options: Any) -> Worker:
    mapping = EventSourceMapping(
        **{
            "starting_position": "TRIM_HORIZON",
            "event_source_arn": source.describe().event_source_arn,
            "maximum_retry_attempts": 0,
            **options,
        }
    )
    worker = Worker(checkpoints=store or MemoryCheckpointStore(), seed=1)
    worker.add(mapping, source, LocalFunction(handler))
    return worker


def run(source: DynamoDBStreamsSource, handler: Handled, store: MemoryCheckpointStore | None = None, **options: Any) -> Summary:
    return worker_over(source, handler, store, **options).run(until_idle=True)


def numbers(fetched: Fetched) -> int:
    return 0 if fetched.page is None else len(fetched.page)


def drained(reader: DynamoDBStreamsReader) -> list[Fetched]:
    """Fetch until the shard ends or is at its tip."""
    found = [reader.fetch(10_000)]
    while not found[-1].ended and (numbers(found[-1]) or found[-1].retry_after_ms):
        found.append(reader.fetch(10_000))
    return found


# Real servers.


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


@pytest.mark.parametrize(("factor", "by"), [(1, "table name"), (10, "table name"), (10, "table ARN"), (10, "stream ARN")])
def test_every_change_is_delivered_once_and_in_order_for_each_item(server: Server, sources: Any, factor: int, by: str) -> None:
    seed = 20_000 + factor
    table = Table(server, f"orders-{factor}-{by.replace(' ', '-')}")
    write_all_sorts(table, random.Random(seed), 120)
    described = table.client.describe_table(TableName=table.name)["Table"]
    stream = {"table name": table.name, "table ARN": described["TableArn"], "stream ARN": described["LatestStreamArn"]}[by]
    source, handled = sources(stream, server), Handled()
    description = source.describe()
    assert (description.event_source_arn, description.format) == (described["LatestStreamArn"], "dynamodb")
    assert description.identity == described["LatestStreamLabel"]
    summary = run(source, handled, parallelization_factor=factor, batch_size=7)
    assert dict(handled.versions) == dict(table.written), f"seed {seed}"
    assert (summary.records, summary.duplicates, summary.source_errors) == (len(handled.names), 0, 0)
    assert set(handled.names) == {"INSERT", "MODIFY", "REMOVE"}


def test_a_run_goes_on_where_the_last_one_stopped(server: Server, sources: Any) -> None:
    table, store, handled = Table(server, "orders-restart"), MemoryCheckpointStore(), Handled()
    for number in range(5):
        table.put("a", number)
    assert run(sources(table.name, server), handled, store).records == 5
    for number in range(5, 9):
        table.put("a", number)
    assert run(sources(table.name, server), handled, store).records == 4
    assert handled.versions == {"a": list(range(9))}


def test_latest_is_what_is_written_from_then_on_and_a_quiet_shard_loses_nothing(server: Server, sources: Any) -> None:
    table, store, handled = Table(server, "orders-latest"), MemoryCheckpointStore(), Handled()
    table.put("old", 1)
    clock = ManualClock(2_000_000_000_000)  # far later, so that the old record is not of the very second
    mapping = {"starting_position": "LATEST"}
    source = sources(table.name, server, clock=clock)
    options = {**mapping, "event_source_arn": source.describe().event_source_arn}
    first = Worker(checkpoints=store, seed=1)
    first.add(EventSourceMapping(**options), source, LocalFunction(handled))
    assert first.run(until_idle=True).records == 0
    table.put("new", 2)
    # Another process has only the checkpoint: it reads from the horizon and leaves out what is older than the first contact.
    assert run(sources(table.name, server), handled, store, **mapping).records >= 1
    assert handled.versions["new"] == [2]


def test_new_records_are_read_while_it_runs(ministack: Server, sources: Any) -> None:
    table, handled = Table(ministack, "orders-live"), Handled()
    table.put("a", 1)
    worker = worker_over(sources(table.name, ministack), handled, parallelization_factor=10)
    runner = threading.Thread(target=worker.run)
    runner.start()
    try:
        handled.await_count(1)
        for number in range(2, 20):
            table.put("a", number)
        handled.await_count(19)
    finally:
        worker.stop()
        runner.join()
    assert handled.versions == {"a": list(range(1, 20))}


def test_a_server_restarted_empty_has_another_stream_of_which_nothing_is_skipped(sources: Any) -> None:
    store, handled = MemoryCheckpointStore(), Handled()
    with moto_server() as first:
        table = Table(first, "orders-anew")
        for number in range(3):
            table.put("a", number)
        assert run(sources(table.name, first), handled, store).records == 3
    with moto_server(first.port) as second:
        table = Table(second, "orders-anew")
        for number in range(3, 5):
            table.put("a", number)
        assert run(sources(table.name, second), handled, store).records == 2
    assert handled.versions == {"a": list(range(5))}


# What a stream is, and what is not there.


def test_a_table_means_its_newest_stream(streams: StreamsServer, sources: Any) -> None:
    description = sources("orders", streams).describe()
    assert description.event_source_arn == streams.arn
    assert description.identity == streams.label
    assert (description.retention_ms, description.poll_interval_ms, description.clock) == (86_400_000, 250, "wall")


@pytest.mark.parametrize(
    "wrong", ["", "ab", "or ders", "arn:aws:kinesis:us-east-1:123456789012:stream/orders", "arn:aws:dynamodb:us-east-1:1:table/a"]
)
def test_what_names_no_table_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="neither the name of a DynamoDB table") as caught:
        DynamoDBStreamsSource(wrong)
    assert caught.value.parameter == "stream"


def test_a_table_without_a_stream_is_said(streams: StreamsServer, sources: Any) -> None:
    with pytest.raises(SourceUnavailableError, match="table invoices has no stream") as caught:
        sources("invoices", streams).describe()
    assert caught.value.action == "dynamodb:ListStreams"


def test_a_stream_that_is_not_there_is_said(streams: StreamsServer, sources: Any) -> None:
    with pytest.raises(SourceUnavailableError, match="stream not found"):
        sources(f"{ARN}2020-01-01T00:00:00.000", streams).describe()


def test_a_stream_that_is_being_enabled_is_waited_for(streams: StreamsServer, sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            streams.status = "ENABLED"

    monkeypatch.setattr("streamcore.sources._polled.time.sleep", pause)
    streams.status = "ENABLING"
    source = sources("orders", streams)
    assert source.describe().identity == streams.label
    assert pauses == [2, 2, 2]
    streams.status = "ENABLING"
    with pytest.raises(SourceUnavailableError, match="is not active: its status is ENABLING"):
        source.describe()
    assert len(pauses) == 3


@pytest.mark.parametrize(
    ("operation", "stream"),
    [("ListStreams", "orders"), ("DescribeStream", "orders"), ("GetShardIterator", "orders"), ("GetRecords", "orders")],
)
def test_a_missing_permission_is_named(streams: StreamsServer, sources: Any, operation: str, stream: str) -> None:
    streams.add_shard()
    streams.fail(operation, *[("AccessDeniedException", "User is not authorized")] * 5)
    with pytest.raises(SourceUnavailableError, match=f"no permission for dynamodb:{operation}") as caught:
        run(sources(stream, streams), Handled())
    assert caught.value.action == f"dynamodb:{operation}"


def test_a_start_at_the_tip_names_a_missing_permission_and_outlasts_a_short_fault(streams: StreamsServer, sources: Any) -> None:
    shard, source = streams.add_shard(), sources("orders", streams)
    streams.put(shard, "old", 1)
    streams.fail("GetShardIterator", ("AccessDeniedException", "User is not authorized"))
    with pytest.raises(SourceUnavailableError, match="no permission for dynamodb:GetShardIterator"):
        source.open(shard, Start("LATEST"))
    streams.fail("GetShardIterator", ("LimitExceededException", "slow down"), ("InternalServerError", "sorry"))
    reader = source.open(shard, Start("LATEST"))
    streams.put(shard, "new", 2)
    assert numbers(reader.fetch(100)) == 1


def test_a_disabled_stream_is_read_to_its_end(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    streams.put(shard, "a", 1)
    streams.shards[shard].closed = True
    streams.status = "DISABLED"
    handled = Handled()
    assert run(sources("orders", streams), handled).records == 1
    assert handled.versions == {"a": [1]}


# Shards.


def test_all_pages_of_a_listing_are_read_and_parents_come_first(streams: StreamsServer, sources: Any) -> None:
    first = [streams.add_shard() for _ in range(125)]
    second = [streams.add_shard(parent) for parent in first]
    streams.shards = dict(sorted(streams.shards.items(), reverse=True))
    listed = sources("orders", streams).list_shards()
    assert {shard.shard_id: shard.parents for shard in listed} == {
        **dict.fromkeys(first, ()),
        **dict(zip(second, [(parent,) for parent in first], strict=True)),
    }
    place = {shard.shard_id: number for number, shard in enumerate(listed)}
    assert all(place[parent] < place[shard.shard_id] for shard in listed for parent in shard.parents)
    assert {shard.shard_id for shard in listed if shard.closed} == set(first)
    assert streams.calls["DescribeStream"] == 3


def test_a_listing_whose_pages_go_in_circles_ends(streams: StreamsServer, sources: Any) -> None:
    streams.add_shard()
    answer = streams.answer

    def circles(operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        said = answer(operation, {name: value for name, value in asked.items() if name != "ExclusiveStartShardId"})
        if operation == "DescribeStream":
            said["StreamDescription"]["LastEvaluatedShardId"] = "shardId-again"
        return said

    streams.answer = circles  # type: ignore[method-assign]
    assert len(sources("orders", streams).list_shards()) == 1


@pytest.mark.parametrize("factor", [1, 10])
def test_shards_that_rotate_are_read_in_order_for_each_item(streams: StreamsServer, sources: Any, factor: int) -> None:
    rng = random.Random(f"rotation {factor}")
    streams.page_shards, streams.page_records = 3, 4
    lines = [streams.add_shard() for _ in range(4)]
    written: defaultdict[str, list[object]] = defaultdict(list)
    for number in range(400):
        key = f"item-{rng.randrange(12)}"
        line = sum(map(ord, key)) % 4  # an item stays in its line of shards
        if rng.random() < 0.05:
            lines[line] = streams.add_shard(lines[line])
        streams.put(lines[line], key, number)
        written[key].append(number)
    assert len(streams.shards) > 10
    handled = Handled()
    summary = run(sources("orders", streams), handled, parallelization_factor=factor)
    assert (summary.records, summary.duplicates) == (400, 0)
    assert dict(handled.versions) == dict(written)


# Tips, iterators and what goes wrong.


def test_three_reads_in_a_row_without_a_record_are_the_tip(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    reader = sources("orders", streams).open(shard, HORIZON)
    assert [reader.fetch(100).retry_after_ms for _ in range(4)] == [250, 250, 0, 0]
    streams.put(shard, "a", 1)
    pauses = [(numbers(fetched), fetched.retry_after_ms) for fetched in (reader.fetch(100) for _ in range(5))]
    assert pauses == [(1, 0), (0, 250), (0, 250), (0, 0), (0, 0)]


def test_no_more_than_a_thousand_records_are_asked_for_and_iterators_go_back_as_they_came(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    for number in range(1500):
        streams.put(shard, "a", number)
    reader = sources("orders", streams).open(shard, HORIZON)
    assert [numbers(reader.fetch(10_000)), numbers(reader.fetch(10_000)), numbers(reader.fetch(7))] == [1000, 500, 0]
    asked = [request for operation, request in streams.requests if operation == "GetRecords"]
    assert [request["Limit"] for request in asked] == [1000, 1000, 7]
    assert all(request["ShardIterator"].endswith("\n") for request in asked)


@pytest.mark.parametrize("kind", ["expired", "refused"])
def test_an_iterator_is_renewed_behind_the_last_record(streams: StreamsServer, sources: Any, kind: str) -> None:
    shard = streams.add_shard()
    for number in range(4):
        streams.put(shard, "a", number)
    reader = sources("orders", streams).open(shard, HORIZON)
    assert numbers(reader.fetch(3)) == 3
    if kind == "expired":
        streams.expire_iterators()
    else:
        streams.fail("GetRecords", ("ValidationException", "Invalid ShardId in ShardIterator"))
    assert [numbers(fetched) for fetched in drained(reader)] == [1, 0, 0, 0]
    asked = [request["ShardIteratorType"] for operation, request in streams.requests if operation == "GetShardIterator"]
    assert asked == ["TRIM_HORIZON", "AFTER_SEQUENCE_NUMBER"]


def test_trimmed_records_are_told_of_and_reading_goes_on_with_the_oldest(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    for number in range(6):
        streams.put(shard, "a", number)
    reader = sources("orders", streams).open(shard, HORIZON)
    assert numbers(reader.fetch(1)) == 1
    streams.shards[shard].trimmed = 4
    fetched = reader.fetch(1000)
    assert (numbers(fetched), fetched.trimmed) == (2, True)
    assert not reader.fetch(1000).trimmed
    # A checkpoint whose record is trimmed.
    after = streams.shards[shard].records[1]["dynamodb"]["SequenceNumber"]
    resumed = sources("orders", streams).open(shard, Start("AFTER_SEQUENCE_NUMBER", sequence_number=after)).fetch(1000)
    assert (numbers(resumed), resumed.trimmed) == (2, True)


@pytest.mark.parametrize(
    "error", [("ResourceNotFoundException", "Shard does not exist"), ("ValidationException", "Invalid ShardId in ShardIterator")]
)
def test_a_shard_that_is_gone_has_ended(streams: StreamsServer, sources: Any, error: tuple[str, str]) -> None:
    shard = streams.add_shard()
    streams.put(shard, "a", 1)
    reader = sources("orders", streams).open(shard, HORIZON)
    assert numbers(reader.fetch(1)) == 1
    del streams.shards[shard]
    streams.fail("GetRecords", error, error)
    fetched = reader.fetch(1)
    assert (fetched.ended, fetched.trimmed) == (True, True)


def test_throttling_asks_for_ever_longer_pauses(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    streams.put(shard, "a", 1)
    reader = sources("orders", streams).open(shard, HORIZON)
    streams.fail("GetRecords", *[("LimitExceededException", "too many readers")] * 8)
    assert [reader.fetch(1).retry_after_ms for _ in range(8)] == [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]
    assert numbers(reader.fetch(1)) == 1
    streams.fail("GetRecords", ("LimitExceededException", "too many readers"))
    assert reader.fetch(1).retry_after_ms == 250


def test_faults_of_the_service_lose_and_repeat_nothing(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    for number in range(30):
        streams.put(shard, "a", number)
    streams.page_records = 10
    streams.fail(
        "GetRecords", ("InternalServerError", "sorry"), ("LimitExceededException", "slow down"), ("ExpiredIteratorException", "old")
    )
    streams.fail("GetShardIterator", ("InternalServerError", "sorry"))
    streams.fail("DescribeStream", ("InternalServerError", "sorry"))
    handled = Handled()
    summary = run(sources("orders", streams), handled)
    assert (handled.versions, summary.duplicates) == ({"a": list(range(30))}, 0)


def test_latest_leaves_out_what_was_there_and_survives_its_iterator(streams: StreamsServer, sources: Any) -> None:
    shard, clock = streams.add_shard(), ManualClock((MINUTE + 10) * 1000 + 700)
    streams.page_records = 2
    for number in range(100):
        streams.put(shard, "old", number, second=MINUTE - 10 + number // 20)
    reader = sources("orders", streams, clock=clock).open(shard, Start("LATEST"))
    streams.expire_iterators()
    # Local servers may cut times to the minute, so records of that minute may be new.
    streams.put(shard, "same minute", 100, second=MINUTE)
    streams.put(shard, "new", 101, second=MINUTE + 11)
    fetched = drained(reader)
    assert sum(map(numbers, fetched)) == 2
    # While old records are passed over the shard is not at its tip: no fetch of them looks like an empty one.
    assert all(one.retry_after_ms == 1 for one in fetched[: next(at for at, one in enumerate(fetched) if numbers(one))])


def test_latest_trusts_its_iterator_more_than_the_clock(streams: StreamsServer, sources: Any) -> None:
    shard, fast = streams.add_shard(), ManualClock((int(time.time()) + 3600) * 1000)
    streams.put(shard, "old", 1)
    reader = sources("orders", streams, clock=fast).open(shard, Start("LATEST"))
    streams.put(shard, "new", 2)
    assert numbers(reader.fetch(100)) == 1


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_latest_goes_by_the_clock_of_the_server(streams: StreamsServer, sources: Any, skew_s: int) -> None:
    shard, clock = streams.add_shard(), ManualClock((MINUTE + 10 + skew_s) * 1000)
    streams.date = MINUTE + 10.9
    streams.put(shard, "old", 1, second=MINUTE - 30)
    source = sources("orders", streams, clock=clock)
    assert source.describe().now_ms == (MINUTE + 10) * 1000
    reader = source.open(shard, Start("LATEST"))
    streams.expire_iterators()
    streams.put(shard, "new", 2, second=MINUTE + 11)
    assert sum(map(numbers, drained(reader))) == 1


def test_a_pinned_start_reads_from_the_minute_of_its_instant(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    for number in range(10):
        streams.put(shard, "a", number, second=MINUTE - 5 + number)
    start = Start("AT_TIMESTAMP", timestamp_ms=(MINUTE + 59) * 1000 + 999)
    assert sum(map(numbers, drained(sources("orders", streams).open(shard, start)))) == 5


def test_on_aws_a_pinned_start_is_exact_to_the_second() -> None:
    source = DynamoDBStreamsSource("orders")
    assert source.tick(MINUTE * 1000 + 7_999) == MINUTE * 1000 + 7_000
    source.close()


def test_a_stream_made_anew_while_it_is_read_ends_the_mapping(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    source = sources("orders", streams)
    source.describe()
    reader = source.open(shard, HORIZON)
    reader.fetch(1)
    streams.label = "2026-02-01T00:00:00.000"
    with pytest.raises(SourceError, match="was made anew while it was read") as caught:
        reader.fetch(1)
    assert not isinstance(caught.value, SourceUnavailableError)
    with pytest.raises(SourceError, match="was made anew"):
        source.list_shards()


def test_a_broken_answer_is_asked_for_again(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    streams.put(shard, "a", 1)
    del streams.shards[shard].records[0]["dynamodb"]["Keys"]
    reader = sources("orders", streams).open(shard, HORIZON)
    with pytest.raises(SourceUnavailableError, match="the object that begins here has no Keys"):
        reader.fetch(1)
    streams.shards[shard].records[0]["dynamodb"]["Keys"] = {"key": {"S": "a"}}
    assert numbers(reader.fetch(1)) == 1
