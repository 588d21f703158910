"""The Kinesis source against servers of the API: all of a stream, from where it is asked for, as often as is allowed.

Where a server differs from Kinesis, the test that meets it says so.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import proxy as faults
from kinesis_streams import FIRST, Handled, made_sources, put, read, stream_on, worker_over
from proxy import Proxy
from servers import Server, ministack_server
from streamcore import (
    ConfigError,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    SourceError,
    Worker,
    kpl,
)
from streamcore.protocols import Start
from streamcore.sources.kinesis import KinesisSource
from streamcore.testing import ManualClock, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.usefixtures("aws_region")


@pytest.fixture
def sources() -> Iterator[Callable[..., KinesisSource]]:
    with made_sources() as make:
        yield make


# Reading it all.


@pytest.mark.parametrize("parallelization_factor", [1, 10])
def test_every_record_is_delivered_once_in_the_order_of_its_key(server: Server, parallelization_factor: int, sources: Any) -> None:
    stream, handled = stream_on(server, 4), Handled()
    put(server, stream, range(3000))
    worker = worker_over(sources(stream, server), handled, parallelization_factor=parallelization_factor)
    summary = worker.run(until_idle=True)
    assert (summary.records, summary.duplicates, summary.source_errors) == (3000, 0, 0)
    assert handled.numbers == list(range(3000))
    assert all(numbers == sorted(numbers) for numbers in handled.by_key.values())
    assert len(handled.shards) == 4


def test_an_aggregate_reaches_the_function_whole(server: Server, sources: Any) -> None:
    """A standard consumer gets the record of the Kinesis Producer Library as it was put; the handler takes it apart."""
    stream = stream_on(server)
    users = [kpl.UserRecord(f"user-{number}", b"%d" % number, None) for number in range(20)]
    whole = kpl.aggregate(users)
    for data in (whole, b"plain"):
        server.client("kinesis").put_record(StreamName=stream, Data=data, PartitionKey="a")
    events: list[dict[str, Any]] = []
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=1)
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON")
    worker.add(mapping, sources(stream, server), LocalFunction(lambda event, _: events.append(event)))
    assert worker.run(until_idle=True).records == 2
    records = [record for event in events for record in event["Records"]]
    assert [base64.b64decode(record["kinesis"]["data"]) for record in records] == [whole, b"plain"]
    taken_apart = [base64.b64decode(record["kinesis"]["data"]) for record in kpl.deaggregate(records)]
    assert taken_apart == [*(user.data for user in users), b"plain"]


def test_a_stream_is_addressed_by_its_arn_too(server: Server, sources: Any) -> None:
    stream, handled = stream_on(server), Handled()
    put(server, stream, range(10))
    arn = server.client("kinesis").describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    source = sources(arn, server)
    assert worker_over(source, handled).run(until_idle=True).records == 10
    assert source.describe().event_source_arn == arn == sources(stream, server).describe().event_source_arn


def test_a_server_that_knows_no_arns_is_asked_by_name(moto: Server, proxy: Proxy, sources: Any) -> None:
    """kinesalite does not know StreamARN."""
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    proxy.fault("DescribeStreamSummary", faults.error("ValidationException"))
    source = sources(f"arn:aws:kinesis:us-east-1:123456789012:stream/{stream}", proxy)
    assert worker_over(source, handled).run(until_idle=True).records == 10
    assert all("StreamARN" not in request.parameters for request in list(proxy.requests)[1:])


def test_the_description_has_identity_and_retention(server: Server, sources: Any) -> None:
    stream = stream_on(server)
    server.client("kinesis").increase_stream_retention_period(StreamName=stream, RetentionPeriodHours=48)
    described = sources(stream, server).describe()
    assert described.identity == sources(stream, server).describe().identity
    assert described.identity.startswith("created-")
    assert (described.retention_ms, described.poll_interval_ms, described.format) == (48 * 3_600_000, 1000, "kinesis")


def test_a_listing_of_several_pages_begins_again_where_its_token_expires(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream = stream_on(moto)
    client = moto.client("kinesis")
    shard = client.list_shards(StreamName=stream)["Shards"][0]
    pages = [{"Shards": [{**shard, "ShardId": f"shardId-{page:012d}"}], "NextToken": f"token-{page}"} for page in range(3)]
    del pages[2]["NextToken"]
    for said in (faults.answer(pages[0]), faults.error("ExpiredNextTokenException"), *map(faults.answer, pages)):
        proxy.fault("ListShards", said)
    listed = sources(stream, proxy).list_shards()
    assert [shard.shard_id for shard in listed] == [f"shardId-{page:012d}" for page in range(3)]
    assert [request.parameters.get("NextToken") for request in proxy.requests] == [None, "token-0", None, "token-0", "token-1"]


def test_parents_are_listed_before_their_children(moto: Server, proxy: Proxy, sources: Any) -> None:
    def shard(name: str, *parents: str, end: str | None = None) -> dict[str, Any]:
        links = dict(zip(("ParentShardId", "AdjacentParentShardId"), parents, strict=False))
        return {
            "ShardId": name,
            "SequenceNumberRange": {"StartingSequenceNumber": "1", **({"EndingSequenceNumber": end} if end else {})},
            **links,
        }

    shards = [
        shard("d", "b", "c"),
        shard("c", "a", end="9"),
        shard("b", "a", end="9"),
        shard("a", "gone", end="9"),
        shard("e", end=str(2**63 - 1)),
    ]
    proxy.fault("ListShards", faults.answer({"Shards": shards}))
    listed = sources("orders", proxy).list_shards()
    assert [found.shard_id for found in listed] == ["a", "b", "c", "d", "e"]
    assert listed[3].parents == ("b", "c")
    # kinesis-mock lists 2**63 - 1 as the end of an open shard.
    assert [found.closed for found in listed] == [True, True, True, False, False]


def test_children_follow_their_parent_on_moto(moto: Server, sources: Any) -> None:
    """moto never says that a closed shard has ended, unlike Kinesis; its listing does."""
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(100))
    moto.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    source, store = sources(stream, moto), MemoryCheckpointStore()
    worker = worker_over(source, handled, store)
    assert worker.run(until_idle=True).records == 100
    assert [shard.closed for shard in source.list_shards()] == [True, False, False]


def test_a_parent_that_the_server_deletes_holds_nothing_back(ministack: Server, sources: Any) -> None:
    """MiniStack deletes a shard when it is split, with its records, unlike Kinesis. Its children are read."""
    stream, handled = stream_on(ministack), Handled()
    worker = worker_over(sources(stream, ministack), handled)
    with worker:
        put(ministack, stream, range(10))
        worker.start()
        handled.await_count(10)
        ministack.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
        put(ministack, stream, range(10, 200))
        handled.await_count(200)
        stats = worker.stats()
        assert stats.trimmed == 1
        assert not stats.problems
    assert handled.numbers == list(range(200))
    assert len(handled.shards) == 3


# Where reading begins.


def test_latest_is_the_moment_of_first_contact(server: Server, sources: Any) -> None:
    stream, handled, store = stream_on(server, 2), Handled(), MemoryCheckpointStore()
    put(server, stream, range(50))
    assert worker_over(sources(stream, server), handled, store, starting_position="LATEST").run(until_idle=True).records == 0
    put(server, stream, range(50, 80))  # nobody reads; the moment is saved
    assert worker_over(sources(stream, server), handled, store, starting_position="LATEST").run(until_idle=True).records == 30
    assert handled.numbers == list(range(50, 80))


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_latest_goes_by_the_clock_of_the_server(moto: Server, proxy: Proxy, sources: Any, skew_s: int) -> None:
    """Records get their times there: a clock here that is fast would skip some, one that is slow would bring what is old."""
    stream, handled, store = stream_on(moto), Handled(), MemoryCheckpointStore()
    began = int(time.time())
    clock = ManualClock((began + skew_s) * 1000)

    def run() -> None:
        worker = worker_over(sources(stream, proxy, clock=clock), handled, store, clock=clock, starting_position="LATEST")
        run_until_idle(worker, clock)
        worker.stop()

    proxy.fault("GetRecords", faults.error("ExpiredIteratorException"))  # of the tip
    run()
    put(moto, stream, range(10))
    run()
    assert handled.numbers == list(range(10))
    asked = [request.parameters for request in proxy.requests if request.operation == "GetShardIterator"]
    assert [one["ShardIteratorType"] for one in asked] == ["LATEST", "AT_TIMESTAMP", "AT_TIMESTAMP"]
    assert all(began <= one["Timestamp"] <= time.time() for one in asked[1:])


def test_at_latest_closed_shards_are_done_and_their_children_are_read(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled, store = stream_on(moto, 2), Handled(), MemoryCheckpointStore()
    put(moto, stream, range(100))
    moto.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey="99")
    worker = worker_over(sources(stream, proxy), handled, store, starting_position="LATEST")
    assert worker.run(until_idle=True).records == 0
    asked = [request for request in proxy.requests if request.operation == "GetShardIterator"]
    assert {request.parameters["ShardId"] for request in asked} == {f"shardId-{number:012d}" for number in (1, 2, 3)}
    assert {request.parameters["ShardIteratorType"] for request in asked} == {"LATEST"}
    # Another start: the closed one has stayed done.
    assert worker_over(sources(stream, proxy), handled, store, starting_position="LATEST").run(until_idle=True).records == 0
    assert not proxy.count("GetRecords", FIRST)


def test_a_timestamp_is_where_reading_begins(server: Server, sources: Any) -> None:
    stream, handled = stream_on(server), Handled()
    put(server, stream, range(20))
    reader = sources(stream, server).open(FIRST, Start("TRIM_HORIZON"))
    body = json.loads(reader._source.records(reader._source.iterator(FIRST, Start("TRIM_HORIZON")), 100))
    last_ms = round(body["Records"][-1]["ApproximateArrivalTimestamp"] * 1000)
    for timestamp_ms, expected in ((0, 20), (last_ms + 1, 0)):
        handled = Handled()
        worker = worker_over(
            sources(stream, server), handled, starting_position="AT_TIMESTAMP", starting_position_timestamp=timestamp_ms / 1000
        )
        assert worker.run(until_idle=True).records == expected


def test_reading_resumes_behind_the_checkpoint(server: Server, sources: Any) -> None:
    stream, handled, store = stream_on(server, 2), Handled(), MemoryCheckpointStore()
    for round_number in range(3):
        put(server, stream, range(round_number * 100, round_number * 100 + 100))
        summary = worker_over(sources(stream, server), handled, store).run(until_idle=True)
        assert (summary.records, summary.duplicates) == (100, 0)
    assert handled.numbers == list(range(300))


def made_after(server: Server, other: Any) -> Any:
    """Make the stream "orders" at another time than `other` and return that; MiniStack tells whole seconds, Kinesis tells milliseconds."""
    client = server.client("kinesis")
    while True:
        client.create_stream(StreamName="orders", ShardCount=1)
        born = client.describe_stream_summary(StreamName="orders")["StreamDescriptionSummary"]["StreamCreationTimestamp"]
        if born != other:
            return born
        client.delete_stream(StreamName="orders")


def test_a_stream_made_anew_is_read_from_its_beginning(sources: Any) -> None:
    """The server is restarted empty between two runs: its sequence numbers begin again."""
    handled, store = Handled(), MemoryCheckpointStore()
    with ministack_server() as first:
        born = made_after(first, None)
        put(first, "orders", range(20))
        assert worker_over(sources("orders", first), handled, store).run(until_idle=True).records == 20
        port = first.port
    with ministack_server(port) as second:
        made_after(second, born)
        put(second, "orders", range(20, 40))
        summary = worker_over(sources("orders", second), handled, store).run(until_idle=True)
    assert (summary.records, summary.other_identities) == (20, 1)
    assert handled.numbers == list(range(40))


def test_a_stream_made_anew_while_it_is_read_ends_the_mapping(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    worker = worker_over(sources(stream, proxy), handled)
    worker.start()
    handled.await_count(10)
    before = proxy.count("DescribeStreamSummary")
    anew = faults.change(lambda said: said["StreamDescriptionSummary"].update(StreamCreationTimestamp=1))
    proxy.fault("DescribeStreamSummary", anew, times=None)
    proxy.fault("GetRecords", faults.refuse())
    proxy.await_count("DescribeStreamSummary", before + 1)
    with pytest.raises(SourceError, match="was made anew while it was read"):
        worker.join()


# How often.


def test_a_shard_at_its_tip_is_read_once_a_second(moto: Server, proxy: Proxy, sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, handled, clock = stream_on(moto, 3), Handled(), ManualClock()
    worker = worker_over(sources(stream, proxy), handled, clock=clock)
    worker.step(clock.now_ms())
    monkeypatch.setattr(worker._poller, "refresh", lambda _: None)  # a step by hand reads at once what waits
    before = proxy.count("GetRecords")
    for _ in range(100):
        clock.advance(100)
        worker.step(clock.now_ms())
    assert proxy.count("GetRecords") - before == 3 * 10
    worker.stop()


def test_a_shard_that_is_behind_is_read_within_the_limits_of_kinesis(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, clock = stream_on(moto), ManualClock()
    put(moto, stream, range(20))
    reader = sources(stream, proxy, limits=True, clock=clock).open(FIRST, Start("TRIM_HORIZON"))
    assert read(reader, 2).retry_after_ms == 200
    clock.advance(50)
    early = read(reader, 2)
    assert (early.page, early.retry_after_ms) == (None, 150)
    assert proxy.count("GetRecords") == 1
    # Two mebibytes take a second: Kinesis refuses the reads in between.
    big = {"SequenceNumber": "99", "PartitionKey": "k", "ApproximateArrivalTimestamp": 1, "Data": base64.b64encode(bytes(3 << 20)).decode()}
    proxy.fault("GetRecords", faults.change(lambda said: said.update(Records=[big])))
    clock.advance(150)
    assert 1900 < read(reader, 2).retry_after_ms < 2200
    without = sources(stream, proxy).open(FIRST, Start("TRIM_HORIZON"))
    assert [read(without, 2).retry_after_ms for _ in range(3)] == [0, 0, 0]


def test_two_hundred_idle_shards_need_few_threads(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled = stream_on(moto, 200), Handled()
    worker = worker_over(sources(stream, proxy), handled)
    with worker:
        worker.start()
        proxy.await_count("GetRecords", 400)
        threads = sum(thread.name.startswith("streamcore-poll") for thread in threading.enumerate())
        worker.stop()
        worker.join()
    assert threads <= 32
    assert min(proxy.count("GetRecords", f"shardId-{number:012d}") for number in range(200)) >= 1


# What is refused.


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("", "neither the name of a Kinesis stream"),
        ("a b", "neither the name"),
        ("x" * 129, "neither the name"),
        ("arn:aws:dynamodb:us-east-1:123456789012:table/T/stream/L", "nor its ARN"),
        ("arn:aws:kinesis:us-east-1:123456789012:stream/s/consumer/c:1", "enhanced fan-out"),
    ],
)
def test_what_names_no_stream_is_refused(stream: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KinesisSource(stream, region="us-east-1")


def test_the_region_of_an_arn_is_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = KinesisSource("arn:aws:kinesis:eu-west-1:123456789012:stream/orders")
    assert source._client._url({"OperationType": "data"}) == "https://123456789012.data-kinesis.eu-west-1.amazonaws.com"
    assert source._limits
