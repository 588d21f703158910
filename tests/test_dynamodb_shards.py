"""The source of DynamoDB Streams against a server whose shards rotate, whose iterators expire and whose records are trimmed."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from dynamodb_tables import HORIZON, Handled, drained, made_sources, numbers, run, worker_over
from streamcore import (
    DynamoDBStreamsSource,
    SourceError,
    SourceUnavailableError,
    Start,
)
from streamcore.testing import ManualClock, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams_server import StreamsServer

MINUTE = 1_769_774_400  # a whole one


pytestmark = pytest.mark.usefixtures("aws_region")


@pytest.fixture
def sources() -> Iterator[Callable[..., DynamoDBStreamsSource]]:
    with made_sources() as make:
        yield make


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


def test_a_closed_shard_has_no_tip_and_is_read_to_its_end(streams: StreamsServer, sources: Any) -> None:
    shard = streams.add_shard()
    streams.add_shard(shard)
    streams.shards[shard].closed = False  # its end is not said yet
    source = sources("orders", streams)
    source.list_shards()
    reader = source.open(shard, HORIZON)
    assert [reader.fetch(100).retry_after_ms for _ in range(5)] == [250] * 5
    streams.shards[shard].closed = True
    assert reader.fetch(100).ended


def test_a_shard_at_its_tip_is_read_four_times_a_second(streams: StreamsServer, sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, parent = ManualClock(), streams.add_shard()
    streams.add_shard(parent)
    streams.add_shard()
    worker = worker_over(sources("orders", streams), Handled(), clock=clock)
    run_until_idle(worker, clock)
    monkeypatch.setattr(worker._poller, "refresh", lambda _: None)  # a step by hand reads at once what waits
    before = streams.calls["GetRecords"]
    for _ in range(200):
        clock.advance(50)
        worker.step(clock.now_ms())
    assert streams.calls["GetRecords"] - before == 2 * 10 * 4
    worker.stop()


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
