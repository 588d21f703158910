"""From the body of a GetRecords answer to the event that a function gets, beside orjson on the same bytes.

Read the figures as ratios to `test_orjson_loads_body` of the same payload size in the same run; README.md says how.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from records import bodies
from streamcore import Batch, Discard, Engine, EventSourceMapping, Outcome, Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

PAGES, RECORDS = 5, 10_000
SUCCESS = Outcome.success()


@pytest.fixture(scope="module", params=[100, 1000], ids=["100B", "1KB"])
def pages(request: pytest.FixtureRequest) -> list[bytes]:
    """Return 50,000 records in five answers."""
    return bodies(PAGES, RECORDS, request.param)


def drive(pages: list[bytes], batch_size: int, use: Callable[[Batch], object]) -> int:
    """Take the pages in, use every batch, finish it, take the checkpoint. Returns the number of records."""
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=batch_size, parallelization_factor=10)
    engine = Engine()
    shard = engine.add_shard(mapping, "shardId-000000000000", now=0)
    records = 0
    for body in pages:
        engine.wants(shard, 0)
        engine.offer(shard, Page.parse(body), 0)
        while isinstance(batch := engine.take(0), Batch):
            use(batch)
            records += len(batch)
            engine.finish(batch.ticket, SUCCESS, 0)
        for checkpoint in engine.checkpoints():
            assert checkpoint.blob
            engine.saved(checkpoint.shard, checkpoint.version)
    return records


def run_through(pages: list[bytes], batch_size: int) -> int:
    """Do the same with `Engine.invoke_ready`, which calls the handler itself. Its clock, `int`, always says 0."""
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=batch_size, parallelization_factor=10)
    engine = Engine()
    shard = engine.add_shard(mapping, "shardId-000000000000", now=0)
    discards: list[Discard] = []
    for body in pages:
        engine.wants(shard, 0)
        engine.offer(shard, Page.parse(body), 0)
        assert engine.invoke_ready(handler, int, discards.append) is None
        for checkpoint in engine.checkpoints():
            assert checkpoint.blob
            engine.saved(checkpoint.shard, checkpoint.version)
    assert not discards
    return engine.stats(shard).succeeded


def handler(_event: dict[str, Any], _context: object = None) -> None:
    """Do nothing."""


def test_orjson_loads_body(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """The yardstick: parse the answers into Python objects."""
    assert len(benchmark(lambda: [orjson.loads(body) for body in pages])) == PAGES


def test_body_to_event_json(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to event bytes, ordered in ten lanes, finished and checkpointed."""
    assert benchmark(drive, pages, 1000, Batch.json) == PAGES * RECORDS


@pytest.mark.parametrize("batch_size", [1, 100, 10_000])
def test_body_to_event_dict(benchmark: BenchmarkFixture, pages: list[bytes], batch_size: int) -> None:
    """Body to fresh dicts, an empty handler called with each, finished and checkpointed."""
    assert benchmark(drive, pages, batch_size, lambda batch: handler(batch.event())) == PAGES * RECORDS


@pytest.mark.parametrize("batch_size", [1, 100, 10_000])
def test_body_to_event_dict_in_one_call(benchmark: BenchmarkFixture, pages: list[bytes], batch_size: int) -> None:
    """The same by `Engine.invoke_ready`."""
    assert benchmark(run_through, pages, batch_size) == PAGES * RECORDS


@pytest.mark.parametrize("batch_size", [1, 100, 10_000])
def test_orjson_loads_events(benchmark: BenchmarkFixture, pages: list[bytes], batch_size: int) -> None:
    """The yardstick of dicts: orjson on the bytes of the same events, an empty handler called with each."""
    events: list[bytes] = []
    drive(pages, batch_size, lambda batch: events.append(batch.json()))
    assert json.loads(events[0])["Records"]

    def run() -> int:
        for event in events:
            handler(orjson.loads(event))
        return len(events)

    assert benchmark(run) == len(events)


def numbers(batch: Batch) -> int:
    """Make the columns of numbers, without the payloads."""
    columns = batch.columns()
    return len(columns.ordinal) + len(columns.arrival_time_ms) + len(columns.size) + len(columns.key_hash)


def test_body_to_columns_of_numbers(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to numpy arrays of what is a number; `extra_info` has the records a second of the best round."""
    assert benchmark(drive, pages, 1000, numbers) == PAGES * RECORDS
    assert benchmark.stats is not None
    benchmark.extra_info["records_per_second"] = round(PAGES * RECORDS / benchmark.stats.stats.min)


def test_body_to_columns_with_payloads(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to the same arrays and the decoded payloads."""
    assert benchmark(drive, pages, 1000, lambda batch: numbers(batch) + len(batch.columns().payload)) == PAGES * RECORDS


def test_body_to_arrow(benchmark: BenchmarkFixture, pages: list[bytes]) -> None:
    """Body to an Arrow record batch, read by nobody: texts, times and decoded payloads."""
    assert benchmark(drive, pages, 1000, Batch.__arrow_c_array__) == PAGES * RECORDS
