"""The worker on its threads. No test sleeps or measures time: what must wait waits for an event, and pytest's time limit catches a hang."""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from scenario import until
from streamcore import CheckpointError, EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, SourceError, Worker
from streamcore.mapping import local_function_arn
from streamcore.protocols import Fetched, ShardDescription, StreamDescription
from streamcore.testing import ScriptedFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamcore.protocols import ShardReader, Start


def mapping(**options: Any) -> EventSourceMapping:
    return EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options})


def streamed(records: int, *, shards: int = 1, keys: int = 7) -> MemoryStream:
    stream = MemoryStream("orders", shards=shards)
    stream.put_many([(f"key-{number % keys}", b"%d" % number) for number in range(records)])
    return stream


class Noted:
    """A handler that notes what it got, per key, and the greatest number of calls at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_key: dict[str, list[int]] = collections.defaultdict(list)
        self.running = 0
        self.running_max = 0

    def __call__(self, event: dict[str, Any], context: Any) -> None:  # noqa: ARG002
        with self.lock:
            self.running += 1
            self.running_max = max(self.running_max, self.running)
        with self.lock:
            for record in event["Records"]:
                self.by_key[record["kinesis"]["partitionKey"]].append(int(record["kinesis"]["sequenceNumber"]))
            self.running -= 1


def test_many_shards_and_lanes_keep_the_order_of_every_key() -> None:
    handler = Noted()
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(batch_size=10, parallelization_factor=10), streamed(20_000, shards=5, keys=203), LocalFunction(handler))
    summary = worker.run(until_idle=True)
    assert (summary.records, summary.succeeded, summary.reason) == (20_000, 20_000, "idle")
    assert sum(map(len, handler.by_key.values())) == 20_000
    assert all(numbers == sorted(numbers) for numbers in handler.by_key.values())


def test_as_many_batches_run_at_once_as_the_parallelization_factor_says() -> None:
    """Ten calls wait for each other: with fewer threads none would come back."""
    together = threading.Barrier(10)
    stream = MemoryStream("orders")
    for number in range(200):
        stream.put(f"key-{number}", b"x")
    meetings = 0

    def handler(event: Any, context: Any) -> None:
        nonlocal meetings
        if not meetings:
            together.wait()
            meetings = 1

    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(batch_size=5, parallelization_factor=10), stream, LocalFunction(handler))
    assert worker.run(until_idle=True).records == 200
    assert meetings == 1


def test_one_mapping_cannot_take_all_threads() -> None:
    """With two threads and a mapping whose calls wait for the other mapping's, the other one still runs."""
    other_ran = threading.Event()
    slow_stream, fast_stream = streamed(100, keys=50), streamed(10)
    worker = Worker(checkpoints=MemoryCheckpointStore(), invocation_threads=2)

    def slow(event: Any, context: Any) -> None:
        other_ran.wait()

    def fast(event: Any, context: Any) -> None:
        other_ran.set()

    worker.add(mapping(parallelization_factor=10, batch_size=1, function_arn=local_function_arn("slow")), slow_stream, LocalFunction(slow))
    worker.add(mapping(function_arn=local_function_arn("fast")), fast_stream, LocalFunction(fast))
    assert worker.run(until_idle=True).records == 110


def test_asynchronous_handlers_run_together_on_one_loop() -> None:
    """Five calls wait for each other on one invocation thread."""
    stream, arrived, loops = MemoryStream("orders"), 0, set()
    for number in range(50):
        stream.put(f"key-{number}", b"x")

    async def handler(event: Any, context: Any) -> None:
        nonlocal arrived
        loops.add(asyncio.get_running_loop())
        arrived += 1
        while arrived < 5:  # noqa: ASYNC110 - an event belongs to one loop, and that there is one is what is tested
            await asyncio.sleep(0)

    worker = Worker(checkpoints=MemoryCheckpointStore(), invocation_threads=1)
    worker.add(mapping(batch_size=1, parallelization_factor=10), stream, LocalFunction(handler))
    assert worker.run(until_idle=True).succeeded == 50
    assert len(loops) == 1


def test_in_the_background_new_records_are_found_and_stop_is_clean() -> None:
    stream, handled, store = MemoryStream("orders"), threading.Semaphore(0), MemoryCheckpointStore()

    def handler(event: Any, context: Any) -> None:
        for _ in event["Records"]:
            handled.release()

    with Worker(checkpoints=store) as worker:
        worker.add(mapping(), stream, LocalFunction(handler))
        worker.start()
        for number in range(20):
            stream.put(f"key-{number}", b"x")
            handled.acquire()
        worker.stop()
        summary = worker.join()
    assert (summary.records, summary.reason) == (20, "stopped")
    function = ScriptedFunction()
    again = Worker(checkpoints=store)
    again.add(mapping(), stream, function)
    again.run(until_idle=True)
    assert function.invocations == []


def test_stop_waits_for_the_handler_and_saves_what_it_did() -> None:
    stream, store, entered, leave = streamed(1), MemoryCheckpointStore(), threading.Event(), threading.Event()

    def handler(event: Any, context: Any) -> None:
        entered.set()
        leave.wait()

    worker = Worker(checkpoints=store)
    worker.add(mapping(), stream, LocalFunction(handler, timeout_ms=3_600_000))
    worker.start()
    entered.wait()
    worker.stop()
    leave.set()
    assert worker.join().succeeded == 1
    assert len(store.rows()) == 1


def test_a_handler_that_never_ends_is_abandoned_after_the_timeout() -> None:
    stream, store, entered, leave = streamed(1), MemoryCheckpointStore(), threading.Event(), threading.Event()

    def handler(event: Any, context: Any) -> None:
        entered.set()
        leave.wait()

    worker = Worker(checkpoints=store, stop_timeout_s=0)
    worker.add(mapping(), stream, LocalFunction(handler, timeout_ms=3_600_000))
    worker.start()
    entered.wait()
    worker.stop()
    summary = worker.join()
    leave.set()
    assert (summary.succeeded, summary.abandoned) == (0, 1)
    function = ScriptedFunction()
    again = Worker(checkpoints=store)
    again.add(mapping(), stream, function)
    assert again.run(until_idle=True).succeeded == 1


def test_with_an_interval_of_zero_nothing_is_handed_out_between_a_completion_and_its_save() -> None:
    """At each call, what the store has is exactly what was done before."""
    stream, store = streamed(20, keys=1), MemoryCheckpointStore()
    done = 0

    class CountingStore:
        def __init__(self) -> None:
            self.claim, self.release, self.close = store.claim, store.release, store.close
            self.saves = 0

        def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
            self.saves += 1
            return store.save(checkpoints)

    counting = CountingStore()
    seen: list[tuple[int, int]] = []

    def handler(event: Any, context: Any) -> None:
        nonlocal done
        seen.append((done, counting.saves))
        done += 1

    worker = Worker(checkpoints=counting, checkpoint_interval_ms=0)
    worker.add(mapping(batch_size=1), stream, LocalFunction(handler))
    worker.run(until_idle=True)
    assert len(seen) == 20
    assert all(saves >= before for before, saves in seen)


def test_no_more_records_than_asked_for_are_taken() -> None:
    stream, store, function = streamed(1000, shards=3), MemoryCheckpointStore(), ScriptedFunction()
    worker = Worker(checkpoints=store)
    worker.add(mapping(batch_size=7), stream, function)
    summary = worker.run(max_records=100)
    assert (summary.records, summary.reason) == (100, "max_records")
    again = Worker(checkpoints=store)
    again.add(mapping(), stream, function)
    assert again.run(until_idle=True).records == 900
    numbers = [number for batch in function.batches for number in batch]
    assert len(numbers) == len(set(numbers)) == 1000


def test_splits_and_merges_under_load_lose_nothing_and_keep_the_order() -> None:
    stream, handler = MemoryStream("orders", shards=2), Noted()
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(batch_size=20, parallelization_factor=4), stream, LocalFunction(handler))
    worker.start()
    for step in range(12):
        stream.put_many([(f"key-{number % 97}", b"x") for number in range(500)])
        open_shards = [shard.shard_id for shard in stream.list_shards() if not shard.closed]
        if step % 3 == 2:
            stream.merge(open_shards[0], open_shards[1]) if step % 2 else stream.rotate(open_shards[-1])
        elif step < 6:
            stream.split(open_shards[step % len(open_shards)])
    stream.close_shards()
    while worker.stats().records < 6000 or worker.stats().shards:
        time.sleep(0)
    worker.stop()
    summary = worker.join()
    assert (summary.records, summary.invocations > 0) == (6000, True)
    assert sum(map(len, handler.by_key.values())) == 6000
    assert all(numbers == sorted(numbers) for numbers in handler.by_key.values())


class SlowTip:
    """A polled stream of two empty shards where one or the other is always being read: a read ends only when the other has begun."""

    def __init__(self) -> None:
        self.begun: collections.Counter[str] = collections.Counter()
        self.changed = threading.Condition()

    def describe(self) -> StreamDescription:
        return StreamDescription("created-1", "arn:aws:kinesis:eu-west-1:123456789012:stream/slow", poll_interval_ms=1)

    def list_shards(self) -> list[ShardDescription]:
        return [ShardDescription("left"), ShardDescription("right")]

    def open(self, shard_id: str, start: Start) -> ShardReader:  # noqa: ARG002
        return SlowTipReader(self, shard_id)

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        if callback is None:
            self.close()

    def close(self) -> None:
        with self.changed:
            self.begun.update({"left": 1_000_000, "right": 1_000_000})
            self.changed.notify_all()


class SlowTipReader:
    def __init__(self, stream: SlowTip, shard_id: str) -> None:
        self.stream = stream
        self.shard_id = shard_id
        self.other = "left" if shard_id == "right" else "right"

    def fetch(self, limit: int) -> Fetched:  # noqa: ARG002
        stream = self.stream
        with stream.changed:
            before = stream.begun[self.other]
            stream.begun[self.shard_id] += 1
            stream.changed.notify_all()
            # The first read of each shard, and the one that finds the other waiting, go through.
            if before and stream.begun[self.shard_id] > 1:
                assert stream.changed.wait_for(lambda: stream.begun[self.other] > before, timeout=60)
        return Fetched(None, millis_behind=0)

    def close(self) -> None:
        pass


def test_a_run_ends_when_idle_though_some_tip_is_always_being_looked_at() -> None:
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(), SlowTip(), LocalFunction(Noted()))
    assert worker.run(until_idle=True, timeout_s=60).reason == "idle"


def test_a_shard_that_is_due_again_before_its_read_is_over_waits_for_that_and_is_counted_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(), SlowTip(), LocalFunction(Noted()))
    worker._open(None)
    poller, others = worker._poller, []

    def read_and_due_again(reading: Any, now: int) -> None:
        reading.at_tip = True
        poller._schedule(reading, now + 1000)
        poller._schedule(reading, now)
        while (taken := poller._take(now)) is not None:
            others.append(taken)

    now = worker._clock.now_ms()
    first = poller._take(now)
    assert first is not None
    monkeypatch.setattr(poller, "_poll", read_and_due_again)
    poller._do(first, now)
    monkeypatch.setattr(poller, "_poll", lambda _reading, _now: None)
    assert len(others) == 1
    assert first not in others
    assert poller._take(now) is first
    for task in [first, *others]:
        poller._do(task, now)
    assert (poller._busy, poller._pressing) == (0, 0)
    worker.stop()
    worker._shutdown()


def test_ctrl_c_lets_running_batches_finish_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    stream, store = streamed(10, keys=1), MemoryCheckpointStore()
    caplog.set_level(logging.WARNING)

    def handler(event: Any, context: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        while "stopping: 1 batches in flight" not in caplog.text:
            time.sleep(0)

    worker = Worker(checkpoints=store)
    worker.add(mapping(batch_size=1), stream, LocalFunction(handler, timeout_ms=3_600_000))
    summary = worker.run(until_idle=True)
    assert (summary.records, summary.reason) == (1, "interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    stream, leave = streamed(1), threading.Event()

    def handler(event: Any, context: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        while "stopping" not in caplog.text:
            time.sleep(0)
        signal.raise_signal(signal.SIGINT)
        leave.wait()

    worker = Worker(checkpoints=MemoryCheckpointStore(), stop_timeout_s=3600)
    worker.add(mapping(), stream, LocalFunction(handler, timeout_ms=3_600_000))
    summary = worker.run(until_idle=True)
    leave.set()
    assert (summary.abandoned, summary.reason) == (1, "interrupted")


def test_errors_while_stopping_do_not_keep_the_last_checkpoint_from_being_saved() -> None:
    class BadStream(MemoryStream):
        def set_wakeup(self, callback: Any) -> None:
            if callback is None:
                raise SourceError("the wake-up cannot be taken back")
            super().set_wakeup(callback)

    stream, store = BadStream("orders"), MemoryCheckpointStore()
    stream.put("k", b"1")
    worker = Worker(checkpoints=store)
    worker.add(mapping(), stream, ScriptedFunction())
    with pytest.raises(SourceError, match="taken back"):
        worker.run(until_idle=True)
    function = ScriptedFunction()
    again = Worker(checkpoints=store)
    plain = MemoryStream.set_wakeup
    BadStream.set_wakeup = plain  # type: ignore[method-assign]
    again.add(mapping(), stream, function)
    again.run(until_idle=True)
    assert function.invocations == []


def test_a_store_that_fails_for_a_while_is_tried_again() -> None:
    store = MemoryCheckpointStore()

    class Flaky:
        def __init__(self) -> None:
            self.claim, self.release, self.close = store.claim, store.release, store.close
            self.failures = 2

        def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
            if self.failures:
                self.failures -= 1
                raise CheckpointError("locked")
            return store.save(checkpoints)

    worker = Worker(checkpoints=Flaky(), checkpoint_interval_ms=10)
    worker.add(mapping(), streamed(10), ScriptedFunction())
    summary = worker.run(until_idle=True)
    assert (summary.records, summary.failed_saves, summary.reason) == (10, 2, "idle")


def test_a_batch_that_keeps_failing_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcore._watch._STUCK_FIRST_S", 0.01)
    monkeypatch.setattr("streamcore._watch._STUCK_MAX_S", 0.01)
    stream = MemoryStream("orders")
    _, number = stream.put("k", b"1")

    def handler(event: Any, context: Any) -> None:
        if "waiting for a batch that keeps failing" not in caplog.text:
            raise ValueError("not yet")

    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(), stream, LocalFunction(handler))
    assert worker.run(until_idle=True).succeeded == 1
    assert f"shard shardId-000000000000, lane 0, first sequence number {number}, tried 3 times, next in" in caplog.text


def test_of_many_batches_that_keep_failing_ten_are_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcore._watch._STUCK_FIRST_S", 0.01)
    monkeypatch.setattr("streamcore._watch._STUCK_MAX_S", 0.01)
    stream = MemoryStream("orders", shards=16)
    for number in range(400):
        stream.put(f"key-{number}", b"1")
    every = "waiting for 6 more batches that keep failing"

    def handler(event: Any, context: Any) -> None:
        if every not in caplog.text:
            raise ValueError("not yet")

    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(), stream, LocalFunction(handler))
    assert worker.run(until_idle=True).succeeded == 400
    said = [record.getMessage() for record in caplog.records if record.name == "streamcore.worker"]
    named = [text.startswith("waiting for a batch that keeps failing") for text in said[: said.index(every)]]
    assert named[-10:] == [True] * 10, "the first line of the ten, and no more between two looks"


def test_a_batch_that_comes_while_all_threads_are_in_long_calls_gets_a_thread() -> None:
    stream, gate, running = MemoryStream("orders", shards=3), threading.Event(), threading.Semaphore(0)

    def handler(event: dict[str, Any], context: object) -> None:
        running.release()
        assert gate.wait(60)

    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1), stream, LocalFunction(handler, timeout_ms=60_000))
    worker.start()

    def waits(busy: int) -> bool:
        return worker.stats().threads > busy

    try:
        # One shard after the other gets its first record, when all threads have been in their calls for long.
        for shard in range(3):
            until(functools.partial(waits, shard), "a thread waits for what may come")
            stream.put("key", b"", explicit_hash_key=shard * 2**128 // 3 + 1)
            assert running.acquire(timeout=60), f"shard {shard} waits for a thread"
    finally:
        gate.set()
        worker.stop()
        worker.join()
