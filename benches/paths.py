"""The paths that records take, each as a function: what the suite, and whoever else measures them, calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import orjson

from streamcore import (
    Batch,
    Discard,
    Engine,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Outcome,
    Page,
    Summary,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamcore import Source

SEED = 1
SUCCESS = Outcome.success()
ARNS = {
    "kinesis": "arn:aws:kinesis:us-east-1:123456789012:stream/orders",
    "dynamodb": "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026-01-30T12:00:05.123",
}


def handler(_event: dict[str, Any], _context: object = None) -> None:
    """Do nothing."""


_kept: list[dict[str, Any]] = [{}]


def keeping_handler(event: dict[str, Any], _context: object = None) -> None:
    """Keep the event until the next one comes, so that nothing of it can be used for that one."""
    _kept[0] = event


def begin(batch_size: int, parallelization_factor: int, source: Literal["kinesis", "dynamodb"]) -> tuple[Engine, int]:
    """Return an engine with one shard, and its handle."""
    mapping = EventSourceMapping(
        starting_position="TRIM_HORIZON",
        batch_size=batch_size,
        parallelization_factor=parallelization_factor,
        event_source_arn=ARNS[source],
    )
    engine = Engine()
    return engine, engine.add_shard(mapping, "shardId-000000000000", now=0, format=source)


def drive(
    pages: Iterable[bytes],
    batch_size: int,
    use: Callable[[Batch], object],
    *,
    parallelization_factor: int = 10,
    source: Literal["kinesis", "dynamodb"] = "kinesis",
) -> int:
    """Take GetRecords bodies in, use every batch, finish it, take the checkpoint: ordered lanes without a worker.

    Returns the number of records.
    """
    engine, shard = begin(batch_size, parallelization_factor, source)
    records = 0
    for body in pages:
        engine.wants(shard, 0)
        engine.offer(shard, Page.parse(body, source), 0)
        while isinstance(batch := engine.take(0), Batch):
            use(batch)
            records += len(batch)
            engine.finish(batch.ticket, SUCCESS, 0)
        for checkpoint in engine.checkpoints():
            engine.saved(checkpoint.shard, checkpoint.version)
    return records


def invoke_ready(pages: Iterable[bytes], batch_size: int, call: Callable[[dict[str, Any]], None] = handler) -> int:
    """Do the same with dicts by `Engine.invoke_ready`, which calls the handler itself. Its clock, `int`, always says 0."""
    engine, shard = begin(batch_size, 10, "kinesis")
    discards: list[Discard] = []
    for body in pages:
        engine.wants(shard, 0)
        engine.offer(shard, Page.parse(body), 0)
        assert engine.invoke_ready(call, int, discards.append) is None
        for checkpoint in engine.checkpoints():
            engine.saved(checkpoint.shard, checkpoint.version)
    assert not discards
    return engine.stats(shard).succeeded


def events(batch: Batch) -> None:
    """Make the event's dicts and call an empty handler with them."""
    handler(batch.event())


def numbers(batch: Batch) -> int:
    """Make the columns of numbers, without the payloads."""
    columns = batch.columns()
    return len(columns.ordinal) + len(columns.arrival_time_ms) + len(columns.size) + len(columns.key_hash)


def numbers_and_payloads(batch: Batch) -> int:
    """Make the same columns and the decoded payloads."""
    return numbers(batch) + len(batch.columns().payload)


def event_bytes(pages: Iterable[bytes], batch_size: int) -> list[bytes]:
    """Return the JSON of the events that a mapping makes of the bodies."""
    made: list[bytes] = []
    drive(pages, batch_size, lambda batch: made.append(batch.json()))
    return made


def copy_all(texts: Iterable[bytes]) -> int:
    """Read every byte once and write it once, into new memory."""
    return sum(len(bytearray(text)) for text in texts)


def load_all(texts: Iterable[bytes], call: Callable[[dict[str, Any]], None] = handler) -> None:
    """The yardstick: `orjson.loads` of each text, an empty handler called with what that gives."""
    for text in texts:
        call(orjson.loads(text))


def stream_of(pages: Iterable[bytes]) -> MemoryStream:
    """Return a stream in memory, of one shard that holds the bodies."""
    stream = MemoryStream("bench")
    shard = stream.list_shards()[0].shard_id
    for body in pages:
        stream.put_page(shard, body)
    return stream


def worker_over(
    *sources: Source,
    batch_size: int = 100,
    parallelization_factor: int = 1,
    invocation_threads: int | None = None,
) -> Worker:
    """Return a worker with one mapping for each source, an empty handler, checkpoints in memory."""
    worker = Worker(checkpoints=MemoryCheckpointStore(), invocation_threads=invocation_threads, seed=SEED)
    for source in sources:
        worker.add(
            EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=batch_size, parallelization_factor=parallelization_factor),
            source,
            LocalFunction(handler),
        )
    return worker


def run(worker: Worker) -> Summary:
    """Run a worker over all that its sources have."""
    summary = worker.run(until_idle=True)
    assert summary.failed_invocations == 0
    return summary
