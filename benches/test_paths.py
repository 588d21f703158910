"""The paths of the suite one by one, for work on one of them: `pytest benches --benchmark-only -k worker`, with pytest-benchmark's means to
save a run and to compare the next one with it.

Read the figures of one run as ratios to its `test_orjson`; the bars are measured by `suite.py`, by turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import orjson
import pytest

import paths
from records import bodies, dynamodb_bodies
from streamcore import Batch, Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    from streamcore import Worker

Source = Literal["kinesis", "dynamodb"]
RECORDS = {"kinesis": 50_000, "dynamodb": 10_000}


@pytest.fixture(scope="module", params=["kinesis", "dynamodb"])
def source(request: pytest.FixtureRequest) -> Source:
    """Return whose answers they are."""
    found: Source = request.param
    return found


@pytest.fixture(scope="module")
def pages(source: Source) -> list[bytes]:
    """Return answers with records of 100 bytes, or with items of ten attributes and both images."""
    return bodies(5, 10_000, 100) if source == "kinesis" else dynamodb_bodies(10, 1000)


def test_orjson(benchmark: BenchmarkFixture, pages: list[bytes], source: Source) -> None:
    """The yardstick: parse the answers into Python objects."""
    assert benchmark(lambda: sum(len(orjson.loads(body)["Records"]) for body in pages)) == RECORDS[source]


def test_page(benchmark: BenchmarkFixture, pages: list[bytes], source: Source) -> None:
    """Body to page alone."""
    assert benchmark(lambda: sum(len(Page.parse(body, source)) for body in pages)) == RECORDS[source]


@pytest.mark.parametrize("batch_size", [1, 100, 1000])
@pytest.mark.parametrize("use", [Batch.json, paths.events], ids=["bytes", "dicts"])
def test_events(benchmark: BenchmarkFixture, pages: list[bytes], source: Source, use: Callable[[Batch], object], batch_size: int) -> None:
    """Body to events through the engine, finished and checkpointed."""
    assert benchmark(paths.drive, pages, batch_size, use, source=source) == RECORDS[source]


@pytest.mark.parametrize("source", ["kinesis"], indirect=True)
@pytest.mark.parametrize("batch_size", [1, 100, 1000])
def test_invoke_ready(benchmark: BenchmarkFixture, pages: list[bytes], source: Source, batch_size: int) -> None:
    """Body to dicts in one call of the engine for all that is ready."""
    assert benchmark(paths.invoke_ready, pages, batch_size) == RECORDS[source]


@pytest.mark.parametrize("source", ["kinesis"], indirect=True)
@pytest.mark.parametrize(
    "use", [paths.numbers, paths.numbers_and_payloads, Batch.__arrow_c_array__], ids=["numbers", "numbers_and_payloads", "arrow"]
)
def test_columns(benchmark: BenchmarkFixture, pages: list[bytes], source: Source, use: Callable[[Batch], object]) -> None:
    """Body to columns through the engine, finished and checkpointed."""
    assert benchmark(paths.drive, pages, 1000, use) == RECORDS[source]


@pytest.mark.parametrize("source", ["kinesis"], indirect=True)
@pytest.mark.parametrize("parallelization_factor", [1, 10])
@pytest.mark.parametrize("batch_size", [1, 100, 1000])
def test_worker(benchmark: BenchmarkFixture, pages: list[bytes], source: Source, batch_size: int, parallelization_factor: int) -> None:
    """A whole worker from its start to the end of a closed shard."""

    def worker() -> tuple[tuple[Worker], dict[str, Any]]:
        stream = paths.stream_of(pages)
        return (paths.worker_over(stream, batch_size=batch_size, parallelization_factor=parallelization_factor),), {}

    summary = benchmark.pedantic(paths.run, setup=worker, rounds=5)  # type: ignore[no-untyped-call] # pytest-benchmark leaves it untyped
    assert summary.records == RECORDS[source]
