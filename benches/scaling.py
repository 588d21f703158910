"""What a record costs while the work grows: more records, shards, mappings and threads of one worker over records in memory.

    .venv/bin/python -P benches/suite.py --scaling

The time is the CPU time of the whole process, the source's part included, from the start of the worker to its end: opening the shards and
the last save too. Batches have up to 100 records of 100 B, and an empty handler gets real dicts.
"""

from __future__ import annotations

import functools
import re
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import paths
from measure import Measurement, Sizes, Taken, by_turns, measurement
from records import bodies
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, Page, Worker
from streamcore.protocols import Fetched, ShardDescription, ShardReader, StreamDescription

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamcore.protocols import Start, Wakeup

WAIT_S = 0.001
_PAGE_DIGITS = 12
_SEQUENCE = re.compile(rb'"SequenceNumber":"(\d{56})"')


class RepeatedPage:
    """A source of any number of records: the same page again and again, under sequence numbers that grow. Its memory does not.

    Args:
        records: of each shard, a multiple of `page_records`.
        shards: how many shards it has, each of them closed.
        page_records: of each answer.
    """

    def __init__(self, records: int, *, shards: int = 1, page_records: int = 10_000) -> None:
        assert records % page_records == 0
        self.page_records = page_records
        self.pages = records // page_records
        self._shards = [f"shardId-{number:012d}" for number in range(shards)]
        self._template = _template(page_records)

    def describe(self) -> StreamDescription:
        return StreamDescription(identity="repeated", event_source_arn=paths.ARNS["kinesis"], poll_interval_ms=0)

    def list_shards(self) -> list[ShardDescription]:
        return [ShardDescription(shard, closed=True) for shard in self._shards]

    def open(self, shard_id: str, start: Start) -> ShardReader:
        assert shard_id in self._shards
        assert start.kind == "TRIM_HORIZON", "nothing is read twice"
        return _Reader(self._template, self.pages)

    def set_wakeup(self, callback: Wakeup | None) -> None:
        """Do nothing: every fetch but the last brings records."""

    def close(self) -> None:
        """Do nothing."""


class _Reader:
    """Writes the number of the page into the sequence numbers of the template."""

    def __init__(self, template: tuple[bytes, np.ndarray[Any, Any]], pages: int) -> None:
        body, self._digits = template
        self._body = np.frombuffer(body, dtype=np.uint8).copy()
        self._next, self._pages = 0, pages

    def fetch(self, limit: int) -> Fetched:
        assert limit >= len(self._digits), "a page is handed out whole"
        self._body[self._digits] = np.frombuffer(f"{self._next:0{_PAGE_DIGITS}d}".encode(), dtype=np.uint8)
        self._next += 1
        return Fetched(Page.parse(self._body.tobytes()), millis_behind=self._pages - self._next, ended=self._next == self._pages)

    def close(self) -> None:
        """Do nothing."""


@functools.cache
def _template(records: int) -> tuple[bytes, np.ndarray[Any, Any]]:
    """Return a body, and for each record the places in it of the digits that tell pages apart."""
    (body,) = bodies(1, records, 100)
    first = iter(range(records))
    # The digits behind the page's are the record's, so that numbers grow within a page too.
    body = _SEQUENCE.sub(lambda _: b'"SequenceNumber":"49%s%042d"' % (b"0" * _PAGE_DIGITS, next(first)), body)
    starts = np.array([found.start(1) + 2 for found in _SEQUENCE.finditer(body)])
    assert len(starts) == records
    return body, starts[:, None] + np.arange(_PAGE_DIGITS)


def turn(
    sources: Callable[[], Iterable[RepeatedPage]],
    *,
    lanes: int = 1,
    threads: int | None = None,
    handler: Callable[[dict[str, Any], object], object] = paths.handler,
) -> Taken:
    """Run a worker with a mapping for each source to the end of them."""
    worker = Worker(checkpoints=MemoryCheckpointStore(), invocation_threads=threads, seed=paths.SEED)
    expected = 0
    for source in sources():
        name = str(uuid.UUID(int=expected))
        mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=100, parallelization_factor=lanes, uuid=name)
        worker.add(mapping, source, LocalFunction(handler))
        expected += source.pages * source.page_records * len(source.list_shards())
    cpu, wall = time.process_time(), time.perf_counter()
    summary = paths.run(worker)
    taken = Taken(time.process_time() - cpu, time.perf_counter() - wall)
    assert summary.succeeded == expected
    return taken


def waits(_event: dict[str, Any], _context: object) -> None:
    """Wait as a handler does that calls another service."""
    time.sleep(WAIT_S)


def by_records(sizes: Sizes) -> Iterator[Measurement]:
    """10,000 records to the largest number, and the most memory that the process had meanwhile."""
    count = 10_000
    while count <= sizes.largest:
        rounds = max(min(sizes.rounds, 10_000_000 // count), 1)
        memory_peak_from_now()
        run = functools.partial(turn, functools.partial(one, count))
        taken = [run() for _ in range(rounds)] if count > 1_000_000 else by_turns({"": run}, rounds)[""]
        part = "scaling: records"
        yield measurement([spent.cpu / count * 1e9 for spent in taken], part=part, name=f"{count:,} records", unit="ns a record", x=count)
        yield measurement([count / spent.wall for spent in taken], part=part, name=f"{count:,} records, rate", unit="records/s", x=count)
        yield Measurement(part=part, name=f"{count:,} records, memory", value=memory_peak_mib(), unit="MiB at most", x=count)
        count *= 10


def one(records: int) -> list[RepeatedPage]:
    """Return one source of one shard."""
    return [RepeatedPage(records)]


def memory_peak_from_now() -> None:
    """Have the system forget the most memory that this process had (Linux, proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_peak_mib() -> float:
    """Return the most memory that this process had since then."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def in_a_row(part: str, ways: dict[int, Callable[[], Taken]], records: int, sizes: Sizes, name: str) -> Iterator[Measurement]:
    """Measure ways that differ in one number by turns, each with so many records in all."""
    taken = by_turns({str(x): way for x, way in ways.items()}, max(sizes.rounds // 3, 1))
    for x in ways:
        cpu = [spent.cpu / records * 1e9 for spent in taken[str(x)]]
        yield measurement(cpu, part=part, name=f"{x:,} {name}", unit="ns a record", x=x)
        wall = [spent.wall / records * 1e9 for spent in taken[str(x)]]
        yield measurement(wall, part=part, name=f"{x:,} {name}, by the clock", unit="ns a record", x=x)


def by_shards(sizes: Sizes) -> Iterator[Measurement]:
    """1 to 1,000 shards of one stream, the same number of records in all."""
    most, page = (1000, 1000) if sizes.records >= 10_000 else (10, 100)
    records = most * page
    ways: dict[int, Callable[[], Taken]] = {
        count: functools.partial(turn, functools.partial(shards_of_one, records, count, page)) for count in steps(most)
    }
    yield from in_a_row("scaling: shards", ways, records, sizes, "shards")


def by_mappings(sizes: Sizes) -> Iterator[Measurement]:
    """1 to 100 mappings of one worker, each with a stream of its own, the same number of records in all."""
    most, page = (100, 1000) if sizes.records >= 10_000 else (10, 100)
    records = most * page * 5
    ways: dict[int, Callable[[], Taken]] = {
        count: functools.partial(turn, functools.partial(streams_of, records, count, page)) for count in steps(most)
    }
    yield from in_a_row("scaling: mappings", ways, records, sizes, "mappings")


def steps(most: int) -> list[int]:
    """Return 1, 2, 5, 10, 20 and so on, all of which divide a power of ten."""
    return [step * 10**power for power in range(4) for step in (1, 2, 5) if step * 10**power <= most]


def shards_of_one(records: int, shards: int, page_records: int) -> list[RepeatedPage]:
    """Return one source whose shards share the records."""
    return [RepeatedPage(records // shards, shards=shards, page_records=page_records)]


def streams_of(records: int, streams: int, page_records: int) -> list[RepeatedPage]:
    """Return sources of one shard that share the records."""
    return [RepeatedPage(records // streams, page_records=page_records) for _ in range(streams)]


def by_threads(sizes: Sizes) -> Iterator[Measurement]:
    """1 to 16 threads that call the handler, over 16 shards: an empty handler, and one that waits for a millisecond."""
    page = 1000 if sizes.records >= 10_000 else 100
    for name, handler, records in (("empty handler", paths.handler, 16 * page * 20), ("a handler that waits 1 ms", waits, 16 * page * 10)):
        ways: dict[int, Callable[[], Taken]] = {
            threads: functools.partial(turn, functools.partial(shards_of_one, records, 16, page), threads=threads, handler=handler)
            for threads in (1, 2, 4, 8, 16)
        }
        yield from in_a_row("scaling: threads", ways, records, sizes, f"threads, {name}")


PARTS: dict[str, Callable[[Sizes], Iterator[Measurement]]] = {
    "scaling: records": by_records,
    "scaling: shards": by_shards,
    "scaling: mappings": by_mappings,
    "scaling: threads": by_threads,
}
