"""What the tests of the engine share: a mapping, a page and a batch in one call each."""

from __future__ import annotations

from typing import Any

from streamcore import Batch, Discard, Engine, EventSourceMapping, Page, Wait

NOW = 1_700_000_000_000


def mapping(**parameters: Any) -> EventSourceMapping:
    """Return a mapping with Lambda's defaults but for what is given."""
    return EventSourceMapping(starting_position="TRIM_HORIZON", **parameters)


def page(*numbers: int, key: str | None = None, arrival_ms: int = NOW, data: bytes = b"data") -> Page:
    """Return a page of records with these sequence numbers; each has a key of its own unless one is given."""
    return Page.from_records([(key or f"key-{number}", data, arrival_ms, str(number)) for number in numbers])


def one_shard(*numbers: int, key: str | None = "key", engine: Engine | None = None, **parameters: Any) -> tuple[Engine, int]:
    """Return an engine with one shard that holds these records, all of one key unless told otherwise."""
    engine = engine or Engine(trace=True)
    shard = engine.add_shard(mapping(**parameters), "shardId-000000000000", now=NOW)
    if numbers:
        assert engine.offer(shard, page(*numbers, key=key), NOW).accepted
    return engine, shard


def take(engine: Engine, now: int = NOW) -> Batch:
    """Return the next batch, which must be there."""
    batch = engine.take(now)
    assert isinstance(batch, Batch), batch
    engine.check_invariants()
    return batch


def discard(engine: Engine, now: int = NOW) -> Discard:
    """Return the next discard, which must be there."""
    given_up = engine.take(now)
    assert isinstance(given_up, Discard), given_up
    return given_up


def wait_until(engine: Engine, now: int = NOW) -> int | None:
    """Return when the engine says to ask again; nothing may be ready."""
    wait = engine.take(now)
    assert isinstance(wait, Wait), wait
    return wait.at


def numbers(batch: Batch) -> list[int]:
    """Return the sequence numbers of a batch's records."""
    return [int(record["kinesis"]["sequenceNumber"]) for record in batch.event()["Records"]]
