"""The source of DynamoDB Streams against moto and MiniStack: every change of every item, and what is not there."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dynamodb_tables import Handled, Table, made_sources, numbers, run, worker_over, write_all_sorts
from servers import Server, moto_server
from streamcore import (
    ConfigError,
    DynamoDBStreamsSource,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    SourceUnavailableError,
    Start,
    Worker,
)
from streams_server import ARN, StreamsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.usefixtures("aws_region")


@pytest.fixture
def sources() -> Iterator[Callable[..., DynamoDBStreamsSource]]:
    with made_sources() as make:
        yield make


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
    mapping = {"starting_position": "LATEST"}
    source = sources(table.name, server)
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
