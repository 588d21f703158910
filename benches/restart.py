"""How long a restart takes from a checkpoint behind which a million records are, until the first fetch.

    make bench ONLY=P9

The first record of the shard is stuck and the lanes without it are done, so that the checkpoint must know what is complete of the whole
span. Three checkpoints: two lanes of which one is done, that is every second record; ten lanes of which nine are done; and the largest that
there can be without a tumbling window: the ParallelizationFactor was changed ten times while the record was stuck, so that 55 lanes have
marks, and sequence numbers have 129 digits. Each is stored with SQLite and restarted several times by a worker of its own, from opening
the store to the first fetch of the source. A claim is a durable transaction, so a bare one of SQLite is timed beside it, and the whole with
the file on `/dev/shm`, which Linux keeps in memory.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Measurement, Sizes, measurement
from streamcore import Batch, Engine, EventSourceMapping, LocalFunction, Outcome, Page, SqliteCheckpointStore, Worker
from streamcore.protocols import CheckpointKey, Fetched, ShardDescription, ShardReader, Start, StreamDescription, Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS, PAGE = 1_000_000, 10_000
IN_MEMORY = Path("/dev/shm")  # noqa: S108  (only so that no disk is in the time)
SHARD, IDENTITY = "shardId-000000000000", "bench"
ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
STUCK = "stuck"


def mapping(factor: int) -> EventSourceMapping:
    """Return the mapping with a ParallelizationFactor."""
    return EventSourceMapping(starting_position="TRIM_HORIZON", parallelization_factor=factor, batch_size=10_000, event_source_arn=ARN)


def checkpoint(factors: list[int], digits: int, span: int) -> bytes:
    """Run a shard over so many records with these factors, one after another, and return the checkpoint."""
    engine = Engine(budget_bytes=1 << 33)
    shard = engine.add_shard(mapping(factors[0]), SHARD, now=0, identity=IDENTITY)
    records_of_page = min(PAGE, span // 10)
    pages, number = span // records_of_page, 0
    first = 10 ** (digits - 1)
    for turn, factor in enumerate(factors):
        if turn:
            engine.update(shard, mapping(factor), 0)
        for _ in range(pages // len(factors)):
            records = []
            for _ in range(records_of_page):
                records.append((f"key-{number % 9973}" if number else STUCK, b"", 0, str(first + number)))
                number += 1
            engine.offer(shard, Page.from_records(records), 0)
            while isinstance(batch := engine.take(0), Batch):
                is_stuck = batch.first_sequence_number == str(first)
                engine.finish(batch.ticket, Outcome.throttled() if is_stuck else Outcome.success(), 0)
    assert engine.stats(shard).span == number
    found = engine.checkpoint(shard)
    assert found is not None
    return found.blob


class Source:
    """A stream that notes when it is first fetched, and ends there."""

    first: tuple[float, Start] | None = None

    def describe(self) -> StreamDescription:
        """Return the stream that the checkpoint is of."""
        return StreamDescription(IDENTITY, ARN)

    def list_shards(self) -> list[ShardDescription]:
        """Return the one shard."""
        return [ShardDescription(SHARD)]

    def open(self, _shard_id: str, start: Start) -> ShardReader:
        """Return a reader that finds nothing more."""
        source = self

        class Reader:
            def fetch(self, _limit: int) -> Fetched:
                source.first = source.first or (time.perf_counter(), start)
                return Fetched(None, millis_behind=0, ended=True)

            def close(self) -> None:
                pass

        return Reader()

    def set_wakeup(self, callback: Wakeup | None) -> None:
        """Never call it."""

    def close(self) -> None:
        """Hold nothing."""


def restart(path: Path, factor: int) -> float:
    """Return the milliseconds from the opening of the store to the first fetch."""
    source = Source()
    begin = time.perf_counter()
    with closing(SqliteCheckpointStore(path)) as store:
        worker = Worker(checkpoints=store)
        worker.add(mapping(factor), source, LocalFunction(lambda _event, _context: None))
        worker.run(until_idle=True)
    assert source.first is not None
    at, start = source.first
    assert (start.kind, start.sequence_number) == ("TRIM_HORIZON", None), "the first record is not complete"
    return (at - begin) * 1000


def commit(path: Path) -> float:
    """Return the milliseconds of one durable transaction in a file made as the store's is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("CREATE TABLE IF NOT EXISTS claim (token TEXT)")
        begin = time.perf_counter()
        connection.execute("INSERT INTO claim VALUES ('token')")
        return (time.perf_counter() - begin) * 1000


def stored(blob: bytes, factor: int, parent: Path | None, rounds: int) -> tuple[list[float], list[float]]:
    """Restart from a checkpoint that is stored in a folder below `parent`: milliseconds of each restart, and of a bare transaction."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        path = Path(folder) / "state.sqlite"
        restarts, commits = [], []
        for _ in range(rounds):
            with closing(SqliteCheckpointStore(path)) as store:
                claim = store.claim(CheckpointKey(mapping(factor).uuid, IDENTITY, SHARD), "bench")
                assert store.save([(claim.token, blob)]) == [True]
            restarts.append(restart(path, factor))
            commits.append(commit(Path(folder) / "bare.sqlite"))
        return restarts, commits


def p9(sizes: Sizes) -> Iterator[Measurement]:
    """Restart from each of the checkpoints."""
    rounds = 2 * sizes.rounds
    for name, factors, digits in (
        ("two lanes, one done", [2], 56),
        ("ten lanes, nine done", [10], 56),
        ("ten factors, 129 digits", [*range(1, 11)], 129),
    ):
        blob = checkpoint(factors, digits, RECORDS if sizes.records > PAGE else PAGE)
        last = factors[-1]
        made = []
        for _ in range(rounds):
            engine = Engine()
            begin = time.perf_counter()
            engine.add_shard(mapping(last), SHARD, now=0, identity=IDENTITY, checkpoint=blob)
            made.append((time.perf_counter() - begin) * 1000)
        on_disk, bare = stored(blob, last, None, rounds)
        yield Measurement(part="P9", name=f"{name}, size", value=len(blob), unit="bytes")
        yield measurement(on_disk, part="P9", name=name, unit="ms", bar=50)
        yield Measurement(part="P9", name=f"{name}, the worst", value=max(on_disk), unit="ms")
        yield measurement(made, part="P9", name=f"{name}, the shard alone", unit="ms")
        yield measurement(bare, part="P9", name=f"{name}, a bare transaction", unit="ms")
        if IN_MEMORY.is_dir():
            yield measurement(stored(blob, last, IN_MEMORY, rounds)[0], part="P9", name=f"{name}, store in memory", unit="ms")
