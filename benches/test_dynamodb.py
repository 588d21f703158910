"""From the body of a GetRecords answer of DynamoDB Streams to the event that a function gets, beside orjson on the same bytes.

Items of ten attributes with new and old images, pages of 1,000 records as DynamoDB Streams give them. Read the figures as ratios to
`test_orjson_loads_body` in the same run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from records import dynamodb_bodies
from streamcore import Batch, Engine, EventSourceMapping, Outcome, Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

PAGES, RECORDS = 10, 1_000
SUCCESS = Outcome.success()
ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026-01-30T12:00:05.123"


@pytest.fixture(scope="module")
def pages() -> list[bytes]:
    """Return 10,000 records in ten answers."""
    return dynamodb_bodies(PAGES, RECORDS)


def drive(pages: list[bytes], use: Callable[[Batch], object]) -> int:
    """Take the pages in, use every batch of up to 1,000 records, finish it. Returns the number of records."""
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1000, event_source_arn=ARN)
    engine = Engine()
    shard = engine.add_shard(mapping, "shardId-00000001", now=0, format="dynamodb")
    records = 0
    for body in pages:
        engine.wants(shard, 0)
        engine.offer(shard, Page.parse(body, "dynamodb"), 0)
        while isinstance(batch := engine.take(0), Batch):
            use(batch)
            records += len(batch)
            engine.finish(batch.ticket, SUCCESS, 0)
    return records


def test_orjson_loads_body(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """The yardstick: parse the answers into Python objects."""
    assert benchmark(lambda: sum(len(orjson.loads(body)["Records"]) for body in pages)) == PAGES * RECORDS


def test_body_to_page(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to page, with the hash of each item's key."""
    assert benchmark(lambda: sum(len(Page.parse(body, "dynamodb")) for body in pages)) == PAGES * RECORDS


def test_body_to_event_json(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to event bytes, through the engine."""
    assert benchmark(drive, pages, Batch.json) == PAGES * RECORDS


def test_body_to_event_dict(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to fresh dicts, through the engine."""
    assert benchmark(drive, pages, Batch.event) == PAGES * RECORDS


@pytest.mark.parametrize("loads", [orjson.loads, json.loads], ids=["orjson", "json"])
def test_loads_events(benchmark: BenchmarkFixture, pages: list[bytes], loads: Callable[[bytes], Any]) -> None:
    """The yardstick of dicts: the bytes of the same events parsed."""
    events: list[bytes] = []
    drive(pages, lambda batch: events.append(batch.json()))
    assert benchmark(lambda: sum(len(loads(event)["Records"]) for event in events)) == PAGES * RECORDS
