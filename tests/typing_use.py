"""Typical use of the engine, for type checkers: mypy strict must accept it, and it is never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_never, assert_type

from streamcore import (
    Batch,
    Checkpoint,
    ChildShard,
    Columns,
    ConfigError,
    Discard,
    Engine,
    EventSourceMapping,
    Finished,
    Function,
    LambdaFunction,
    LocalFunction,
    Offered,
    Outcome,
    Page,
    PageError,
    ShardStats,
    StreamcoreError,
    Wait,
    Want,
    takes_batch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt


def read(body: bytes) -> tuple[Page, str | None]:
    """Pages, of a body and of records."""
    try:
        page = Page.parse(body)
    except PageError as error:
        assert_type(error.offset, int)
        raise
    except StreamcoreError:
        page = Page.parse(body, format="kinesis")
    assert_type(page.child_shards, list[ChildShard])
    assert_type(page.millis_behind, int | None)
    return page, page.next_iterator


def records() -> Iterator[tuple[str, bytes, int, str | None]]:
    """Records that come one by one."""
    yield "key", b"payload", 1_700_000_000_000, None
    yield "key", b"payload", 1_700_000_000_001, "49590338271490256608559692538361571095921575989136588898"


def poll(engine: Engine, shard: int, fetch: Callable[[str | None, int], Page | None], now: int) -> Offered | None:
    """What a poller does."""
    want = engine.wants(shard, now)
    if want is None:
        return None
    assert_type(want, Want)
    page = fetch(want.after, want.limit)
    if page is None:
        engine.fetch_failed(shard)
        return None
    offered = engine.offer(shard, page, now, page.millis_behind)
    assert_type(offered.accepted, bool)
    return offered


def run(engine: Engine, handler: Callable[[dict[str, Any]], object], now: int) -> int | None:
    """What a thread that invokes does."""
    while True:
        ready = engine.take(now)
        match ready:
            case Batch():
                try:
                    handler(ready.event())
                    outcome = Outcome.success()
                except Exception:  # noqa: BLE001 - whatever it is, the function failed
                    outcome = Outcome.failure(function_error="Unhandled", request_id=ready.request_id)
                finished = engine.finish(ready.ticket, outcome, now)
                assert_type(finished, Finished)
                for discard in finished.discards:
                    deliver(engine, discard)
            case Discard():
                deliver(engine, ready)
            case Wait():
                if not engine.wait(None if ready.at is None else (ready.at - now) / 1000):
                    return ready.at
            case _:
                assert_never(ready)


def deliver(engine: Engine, discard: Discard) -> bool:
    """What is done with records given up."""
    record = discard.invocation_record()
    assert_type(record, dict[str, Any])
    condition: Literal["RetryAttemptsExhausted", "RecordAgeExceeded"] = discard.condition
    how: Literal["delivered", "given_up"] = "delivered" if condition == "RecordAgeExceeded" else "given_up"
    return engine.confirm(discard.id, how)


def gather(batch: Batch) -> npt.NDArray[np.uint8]:
    """The columns of a batch."""
    columns: Columns = batch.columns()
    ordinals: npt.NDArray[np.uint64] = columns.ordinal
    arrivals: npt.NDArray[np.int64] = columns.arrival_time_ms
    sizes: npt.NDArray[np.uint32] = columns.size
    assert len(ordinals) == len(arrivals) == len(sizes) == len(columns.key_hash) == len(columns.payload_offsets) - 1
    return columns.payload


@takes_batch
def total(batch: Batch, context: object) -> dict[str, list[str]]:
    """A handler of columns, plain; the decorator changes nothing."""
    keys: npt.NDArray[np.uint8] = batch.columns().partition_key
    return {"batchItemFailures": [keys.tobytes().decode()]}


@takes_batch
async def total_later(batch: Batch, _context: object) -> int:
    """The same, awaited."""
    return len(batch)


def save(engine: Engine, store: dict[int, bytes]) -> None:
    """What a saver does."""
    for checkpoint in engine.checkpoints():
        assert_type(checkpoint, Checkpoint)
        store[checkpoint.shard] = checkpoint.blob
        engine.saved(checkpoint.shard, checkpoint.version)


def restart(store: dict[int, bytes], mapping: EventSourceMapping, now: int) -> Engine:
    """A new engine that goes on from what was saved."""
    engine = Engine(budget_bytes=64 << 20, seed=7, trace=True)
    engine.set_wakeup(lambda: None)
    engine.set_wakeup(None)
    for number, blob in store.items():
        shown = Checkpoint.inspect(blob)
        start: Literal["AFTER_SEQUENCE_NUMBER"] = "AFTER_SEQUENCE_NUMBER"
        rewound = Checkpoint.rewound(blob, start, sequence_number=shown["watermark"])
        try:
            shard = engine.add_shard(
                mapping, f"shardId-{number:012}", now=now, identity="2026", checkpoint=rewound, clock="replay", running_max=4
            )
        except ConfigError as error:
            assert_type(error.parameter, str | None)
            raise
        stats = engine.stats(shard)
        assert_type(stats, ShardStats)
        state: Literal["running", "paused", "draining", "drained", "ended"] = stats.state
        if state == "running":
            engine.drain(shard, now)
            engine.update(shard, mapping, now)
            engine.resume(shard, now)
    assert_type(engine.trace(), list[str])
    return engine


OUTCOMES: set[Outcome] = {
    Outcome.success(),
    Outcome.partial(3, status_code=200),
    Outcome.throttled(),
    Outcome.failure(),
    Outcome.too_large(request_id="id"),
}
FUNCTION: Function = LambdaFunction("billing", timeout_ms=30_000)
COLUMNAR: list[Function] = [LocalFunction(total), LocalFunction(total_later, takes_batch=True)]
PAGE = Page.from_records(records())
