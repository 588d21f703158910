"""Nothing is kept that is no longer used, in Python's memory or the engine's."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, mapping, one_shard, page, take
from streamcore import Batch, Checkpoint, Columns, Discard, Engine, Outcome, Page, StreamcoreError

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCESS, FAILURE = Outcome.success(), Outcome.failure()
COLUMNS = [name for name in dir(Columns) if not name.startswith("_")]


def blocks_kept(work: Callable[[], object], times: int) -> int:
    """Return how many more blocks of Python's memory there are after doing the work so many times."""
    for _ in range(50):  # what is made once and kept: interned texts, imports
        work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(times):
        work()
    gc.collect()
    return sys.getallocatedblocks() - before


def test_a_whole_round_of_work_keeps_nothing() -> None:
    engine = Engine(trace=True)
    shard = engine.add_shard(mapping(maximum_retry_attempts=0, batch_size=3), "shard", now=NOW)
    engine.set_wakeup(lambda: None)
    number = 0

    def work() -> None:
        nonlocal number
        records = [("key", b"data", NOW, str(number + index)) for index in range(1, 8)]
        number += 7
        want = engine.wants(shard, NOW)
        assert want is not None
        engine.offer(shard, Page.from_records(records), NOW)
        while isinstance(batch := engine.take(NOW), Batch):
            batch.event()["Records"].append(batch)
            batch.json()
            columns = batch.columns()
            for name in COLUMNS:
                getattr(columns, name)
            batch.__arrow_c_array__()
            batch.__arrow_c_stream__()
            for discard in engine.finish(batch.ticket, FAILURE if number % 2 else SUCCESS, NOW).discards:
                discard.invocation_record()
                discard.json()
                engine.confirm(discard.id, "delivered")
        for checkpoint in engine.checkpoints():
            Checkpoint.inspect(checkpoint.blob)
            engine.saved(shard, checkpoint.version)
        repr(engine.stats(shard).lanes)
        engine.trace()

    assert blocks_kept(work, 2000) < 200
    assert engine.held_bytes == 0


def test_shards_that_go_keep_nothing() -> None:
    engine = Engine()
    of = mapping()

    def work() -> None:
        shard = engine.add_shard(of, "shard", now=NOW)
        engine.offer(shard, page(1, 2), NOW)
        take(engine).event()
        if shard % 2:
            engine.remove(shard)
        else:
            engine.reset()

    assert blocks_kept(work, 2000) < 200


def test_whole_engines_keep_nothing() -> None:
    def work() -> None:
        engine, _ = one_shard(1, 2)
        engine.set_wakeup(lambda: None)
        take(engine).event()

    assert blocks_kept(work, 1000) < 200


def test_failed_calls_keep_nothing() -> None:
    engine, shard = one_shard(1)
    batch = take(engine)
    wrong: Any = [("key", b"x", NOW, "1"), ("key", 5, NOW, "2")]
    failing: list[Callable[[], object]] = [
        lambda: Page.parse(b'{"Records": 5}'),
        lambda: Page.from_records(wrong),
        lambda: engine.stats(99),
        lambda: engine.take(10**30),
        lambda: engine.finish(batch.ticket + 1, SUCCESS, NOW),
        lambda: engine.add_shard(mapping(), "new", now=NOW, checkpoint=b"x"),
        lambda: engine.add_shard(mapping(), "shardId-000000000000", now=NOW),
        lambda: Checkpoint.rewound(b"", "LATEST"),
        lambda: engine.offer(shard, wrong, NOW),
    ]

    def work() -> None:
        for call in failing:
            with pytest.raises((ValueError, RuntimeError, TypeError, StreamcoreError)):
                call()

    assert blocks_kept(work, 300) < 200


def test_events_and_payloads_are_freed_with_their_last_user() -> None:
    data = b"a payload of its own " * 10
    references = sys.getrefcount(data)
    records = [("key", data, NOW, "1")]
    engine, shard = one_shard()
    engine.offer(shard, Page.from_records(records), NOW)
    del records
    assert sys.getrefcount(data) == references, "a page keeps no object that it was made of"
    event = take(engine).event()
    for part in (event, event["Records"], event["Records"][0], event["Records"][0]["kinesis"]):
        assert len(gc.get_referrers(part)) <= 2
    text = event["Records"][0]["kinesis"]["data"]
    assert sys.getrefcount(text) == 3, "the event and this name, and the argument"


def test_columns_live_as_long_as_an_array_of_them() -> None:
    columns = take(one_shard(1, 2, 3)[0]).columns()
    payload = columns.payload
    gone = weakref.ref(columns.ordinal)
    del columns
    gc.collect()
    assert gone() is None
    assert payload.tobytes() == b"data" * 3


def test_batches_and_discards_outlive_their_engine_and_keep_the_page_only_so_long() -> None:
    engine, _ = one_shard(1, 2, batch_size=1, maximum_retry_attempts=0)
    batch = take(engine)
    (discard,) = engine.finish(batch.ticket, FAILURE, NOW).discards
    event, record = batch.event(), discard.invocation_record()
    del engine
    gc.collect()
    assert isinstance(discard, Discard)
    assert (batch.event(), discard.invocation_record()) == (event, record)


def test_an_engine_and_its_callback_that_hold_each_other_are_freed() -> None:
    class Loop:
        def __init__(self) -> None:
            self.engine = Engine()
            self.engine.set_wakeup(self.ready)

        def ready(self) -> None:
            """Do nothing."""

    loop = Loop()
    assert gc.is_tracked(loop.engine)
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_a_callback_is_freed_when_another_one_comes() -> None:
    class Callback:
        def __call__(self) -> None:
            """Do nothing."""

    engine = Engine()
    first, second = Callback(), Callback()
    gone = weakref.ref(first), weakref.ref(second)
    engine.set_wakeup(first)
    del first
    assert gone[0]() is not None
    engine.set_wakeup(second)
    del second
    assert gone[0]() is None
    engine.set_wakeup(None)
    assert gone[1]() is None


# Run in a process of its own: PyO3 prints what it cannot return.
_OUT_OF_MEMORY = """
import gc, sys
from _testcapi import remove_mem_hooks, set_nomemory
from streamcore import Engine, EventSourceMapping, Outcome, Page

engine = Engine()
shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1000), "shard", now=0)
engine.offer(shard, Page.from_records([("key", b"data", index, str(index)) for index in range(1, int(sys.argv[2]) + 1)]), 0)
batch = engine.take(0)
call = getattr(batch, sys.argv[1])
expected = call()
failures = 0
for start in range(150):
    set_nomemory(start, start + 1)
    try:
        given = call()
    except BaseException as error:
        remove_mem_hooks()
        # A panic is what PyO3 makes of the constructors that nobody can check.
        assert type(error).__name__ in ("MemoryError", "PanicException"), error
        failures += 1
    else:
        remove_mem_hooks()
        assert given == expected
assert call() == expected
assert engine.finish(batch.ticket, Outcome.success(), 0).stale is False
engine.check_invariants()
assert gc.isenabled()
print("failures", failures > 0)
"""


# Not `columns`: the crate that makes the arrays (numpy 0.30.0, PyArray::new_with_data) does not look whether numpy gave it one.
@pytest.mark.parametrize(("what", "records"), [("event", 5), ("event", 500), ("json", 5)])
def test_memory_that_runs_out_is_an_error_and_no_harm(what: str, records: int) -> None:
    pytest.importorskip("_testcapi", reason="this Python has no _testcapi, which makes allocations fail")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _OUT_OF_MEMORY, what, str(records)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "failures True\n"), done.stderr
