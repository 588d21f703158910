"""A whole worker over pages in memory: polling, lanes, threads, real dicts, an empty handler, checkpoints.

`extra_info` has the records a second of the best round; the figures in README.md are those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from records import bodies
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Summary, Worker

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

PAGES, RECORDS = 20, 10_000


@pytest.fixture(scope="module")
def pages() -> list[bytes]:
    """Return 200,000 records of 100 bytes."""
    return bodies(PAGES, RECORDS, 100)


def handler(_event: dict[str, Any], _context: object) -> None:
    """Do nothing."""


@pytest.mark.parametrize("parallelization_factor", [1, 10])
@pytest.mark.parametrize("batch_size", [1, 100, 1000])
def test_worker(benchmark: BenchmarkFixture, pages: list[bytes], batch_size: int, parallelization_factor: int) -> None:
    """Run a worker from its start to the end of a closed shard."""
    mine = pages if batch_size > 1 else pages[:2]
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=batch_size, parallelization_factor=parallelization_factor)

    def worker() -> tuple[tuple[Worker], dict[str, Any]]:
        stream = MemoryStream("bench")
        shard = stream.list_shards()[0].shard_id
        for body in mine:
            stream.put_page(shard, body)
        made = Worker(checkpoints=MemoryCheckpointStore())
        made.add(mapping, stream, LocalFunction(handler))
        return (made,), {}

    summary: Summary = benchmark.pedantic(  # type: ignore[no-untyped-call] # pytest-benchmark leaves it untyped
        lambda made: made.run(until_idle=True), setup=worker, rounds=5
    )
    assert summary.records == len(mine) * RECORDS
    assert benchmark.stats is not None
    benchmark.extra_info["records_per_second"] = round(summary.records / benchmark.stats.stats.min)
