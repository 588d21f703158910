"""The worker, driven step by step on a manual clock: no thread, no sleep."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from kept import Kept
from streamcore import (
    Answer,
    CheckpointError,
    ClaimError,
    ConfigError,
    EventSourceMapping,
    Fetched,
    ForkError,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    ShardDescription,
    SourceError,
    StreamDescription,
    UsageError,
    Worker,
)
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamcore import Batch, Start
    from streamcore.protocols import CheckpointStore, ShardReader


def mapping(**options: Any) -> EventSourceMapping:
    return EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options})


class FailingStore:
    """A store whose saves fail while `failing` is set."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.failing = False
        self.void: set[str] = set()
        self.claim = store.claim
        self.release = store.release
        self.close = store.close

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        if self.failing:
            raise CheckpointError("the disk is full; free some space")
        return self.store.save(checkpoints)


class World:
    """A clock, a stream, a store, and workers one after the other."""

    def __init__(self, *, shards: int = 1, retention_ms: int | None = None) -> None:
        self.clock = ManualClock()
        self.stream = MemoryStream("orders", shards=shards, clock=self.clock, retention_ms=retention_ms)
        self.store = FailingStore(MemoryCheckpointStore())

    def worker(self, function: Any, destination: Any = None, *, options: dict[str, Any] | None = None, **parameters: Any) -> Worker:
        worker = Worker(checkpoints=self.store, clock=self.clock, seed=1)
        worker.add(mapping(**parameters), self.stream, function, destination, **options or {})
        return worker

    def put(self, *payloads: bytes, key: str = "k") -> list[str]:
        return [self.stream.put(key, payload)[1] for payload in payloads]

    def run(self, worker: Worker, **options: Any) -> Any:
        return run_until_idle(worker, self.clock, **options)


def test_records_arrive_in_batches_and_are_checkpointed() -> None:
    world, function = World(), ScriptedFunction()
    numbers = world.put(*[b"%d" % i for i in range(5)])
    worker = world.worker(function, batch_size=2)
    stats = world.run(worker)
    worker.stop()
    assert function.batches == [numbers[:2], numbers[2:4], numbers[4:]]
    assert (stats.records, stats.invocations, stats.held_records) == (5, 3, 0)
    again = ScriptedFunction()
    second = world.worker(again)
    world.run(second)
    assert again.batches == []


def test_a_batching_window_of_five_minutes_is_over_at_once() -> None:
    world, function = World(), ScriptedFunction()
    numbers = world.put(b"a", b"b")
    worker = world.worker(function, maximum_batching_window_in_seconds=300)
    start = world.clock.now_ms()
    assert world.run(worker).iterator_age_ms == 300_000
    assert world.clock.now_ms() - start == 300_000
    assert function.batches == [numbers]


def test_records_put_after_a_run_are_found_by_the_next() -> None:
    world, function = World(), ScriptedFunction()
    worker = world.worker(function)
    assert world.run(worker).records == 0
    world.put(b"a")
    assert world.run(worker).records == 1
    world.put(b"b")
    assert world.run(worker).records == 2


def test_a_failing_batch_is_bisected_and_its_record_discarded() -> None:
    """The sequence that AWS shows for four records of which the second is bad, with one retry."""
    world, destination = World(), Kept()
    one, two, three, four = world.put(b"1", b"2", b"3", b"4")
    function = ScriptedFunction(poison=lambda record: record["kinesis"]["sequenceNumber"] == two)
    worker = world.worker(function, destination, maximum_retry_attempts=1, bisect_batch_on_function_error=True)
    stats = world.run(worker)
    assert function.batches == [[one, two, three, four], [one, two], [one], [two], [two], [three, four]]
    assert [(d.first_sequence_number, d.condition, d.approximate_invoke_count) for d in destination.sent] == [
        (two, "RetryAttemptsExhausted", 2)
    ]
    assert (stats.records, stats.succeeded, stats.discarded_records, stats.discards, stats.delivered) == (4, 3, 1, 1, 1)
    assert stats.discarded_by_condition == {"RetryAttemptsExhausted": 1}
    assert (stats.invocations, stats.failed_invocations, stats.retries) == (6, 4, 1)


def test_throttles_spend_nothing_and_are_counted() -> None:
    world = World()
    (number,) = world.put(b"1")
    function = ScriptedFunction([ScriptedFunction.throttled()] * 3)
    stats = world.run(world.worker(function, maximum_retry_attempts=0))
    assert function.batches == [[number]] * 4
    assert (stats.throttles, stats.invocations, stats.discards, stats.succeeded) == (3, 1, 0, 1)


def test_a_discard_is_sent_five_times_in_thirty_seconds_and_then_given_up() -> None:
    world, destination = World(), Kept(failures=99)
    world.put(b"1")
    function = ScriptedFunction(poison=lambda _: True)
    worker = world.worker(function, destination, maximum_retry_attempts=0)
    start = world.clock.now_ms()
    stats = world.run(worker)
    assert destination.failures == 99 - 5
    assert world.clock.now_ms() - start == 30_000
    assert (stats.undelivered, stats.delivered, stats.held_records) == (1, 0, 0)


def test_an_undeliverable_discard_blocks_the_checkpoint_where_that_is_asked_for() -> None:
    world, destination = World(), Kept(failures=20)
    world.put(b"1")
    function = ScriptedFunction(poison=lambda _: True)
    worker = world.worker(function, destination, options={"on_undeliverable": "block"}, maximum_retry_attempts=0)
    stats = world.run(worker)
    assert (stats.delivered, stats.undelivered) == (1, 0)
    assert len(destination.sent) == 1


def test_a_discard_that_was_not_confirmed_comes_again_after_a_crash() -> None:
    world, destination = World(), Kept(failures=99)
    world.put(b"1")
    function = ScriptedFunction(poison=lambda _: True)
    crashed = world.worker(function, destination, options={"on_undeliverable": "block"}, maximum_retry_attempts=0)
    with pytest.raises(AssertionError, match="not idle after 60000 ms"):
        world.run(crashed, limit_ms=60_000)
    crashed.stop()
    destination.failures = 0
    stats = world.run(world.worker(function, destination, maximum_retry_attempts=0))
    assert (stats.discards, stats.delivered) == (1, 1)


def test_without_a_destination_discards_are_logged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    (number,) = world.put(b"1")
    stats = world.run(world.worker(ScriptedFunction(poison=lambda _: True), maximum_retry_attempts=0))
    assert (stats.dropped, stats.undelivered, stats.delivered, stats.unconfirmed) == (1, 0, 0, 0)
    assert f"{number}..{number}); the mapping has no destination, the records are dropped" in caplog.text


def test_children_start_after_their_parents_ends_are_saved() -> None:
    world = World()
    world.put(b"parent", key="a")
    children = world.stream.split("shardId-000000000000")
    for key in "abcdefgh":
        world.put(b"child", key=key)
    seen: list[str] = []

    def saved_first(batch: Batch) -> Any:
        if batch.shard_id in children:
            assert "shardId-000000000000" in ends
        seen.append(batch.shard_id)
        return ScriptedFunction.success()

    ends: list[str] = []
    function = ScriptedFunction()
    function.invoke = saved_first  # type: ignore[method-assign]
    worker = world.worker(function)
    on_end = worker._poller.end_saved
    worker._saver._on_end = lambda handle: (ends.append(worker._shards.readings[handle].shard_id), worker._shard_ended(handle))  # type: ignore[assignment,func-returns-value]
    assert on_end is not None
    world.run(worker)
    assert seen[0] == "shardId-000000000000"
    assert set(seen[1:]) == set(children)


def test_a_failing_store_holds_children_back() -> None:
    world, function = World(), ScriptedFunction()
    world.put(b"parent")
    world.stream.rotate("shardId-000000000000")
    world.put(b"child")
    worker = world.worker(function)
    worker.step(world.clock.now_ms())
    assert [call.payloads for call in function.invocations] == [[b"parent"], [b"child"]]
    world.stream.rotate("shardId-000000000001")
    world.put(b"grandchild")
    world.store.failing = True
    with pytest.raises(AssertionError, match="not idle"):
        world.run(worker, limit_ms=120_000)
    assert len(function.invocations) == 2
    world.store.failing = False
    stats = world.run(worker)
    assert len(function.invocations) == 3
    assert stats.failed_saves > 3


def test_a_restart_finds_ended_shards_and_goes_on_with_their_children() -> None:
    world, function = World(), ScriptedFunction()
    world.put(b"1")
    first = world.worker(function)
    world.run(first)
    world.stream.rotate("shardId-000000000000")
    world.run(first)
    first.stop()
    world.put(b"2")
    second = world.worker(function)
    assert world.run(second).records == 1
    assert [call.payloads for call in function.invocations] == [[b"1"], [b"2"]]


def test_latest_skips_what_was_there_and_a_crash_does_not_move_it() -> None:
    """The tip of the first contact is saved before anything is handed out."""
    world = World()
    world.put(b"before")
    world.clock.advance(1000)
    first = world.worker(ScriptedFunction(), starting_position="LATEST")
    assert world.run(first).records == 0
    world.clock.advance(1000)
    world.put(b"during")
    # The first worker dies here: it never sees the record, and saves nothing more.
    rows = world.store.store.rows()  # type: ignore[attr-defined]
    world.store = FailingStore(MemoryCheckpointStore(rows))
    world.clock.advance(1000)
    function = ScriptedFunction()
    world.run(world.worker(function, starting_position="LATEST"))
    assert [call.payloads for call in function.invocations] == [[b"during"]]


def test_latest_reads_shards_that_appear_later_from_their_beginning() -> None:
    world, function = World(), ScriptedFunction()
    world.put(b"before")
    worker = world.worker(function, starting_position="LATEST")
    world.run(worker)
    world.stream.split("shardId-000000000000")
    for key in "abcdefgh":
        world.put(b"after", key=key)
    world.run(worker)
    assert sorted(payload for call in function.invocations for payload in call.payloads) == [b"after"] * 8


def test_a_start_position_that_cannot_be_saved_is_an_error() -> None:
    world = World()
    world.store.failing = True
    with pytest.raises(CheckpointError, match="the start position could not be saved: the disk is full"):
        world.run(world.worker(ScriptedFunction(), starting_position="LATEST"))


def test_a_stream_made_anew_is_read_from_its_beginning_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    world, function = World(), ScriptedFunction()
    world.put(b"old")
    first = world.worker(function)
    world.run(first)
    first.stop()
    world.stream = MemoryStream("orders", clock=world.clock)
    world.put(b"new")
    stats = world.run(world.worker(function))
    assert [call.payloads for call in function.invocations] == [[b"old"], [b"new"]]
    assert stats.other_identities == 1
    assert "the stream was made anew" in caplog.text


def test_a_lost_claim_takes_the_shard_out(caplog: pytest.LogCaptureFixture) -> None:
    world, function = World(), ScriptedFunction()
    world.put(b"1")
    worker = world.worker(function)
    world.run(worker)
    real = world.store.store.save
    world.store.store.save = lambda checkpoints: [False for _ in checkpoints]  # type: ignore[method-assign]
    world.put(b"2")
    stats = world.run(worker)
    assert (stats.lost_claims, stats.shards, stats.records) == (1, 0, 2)
    assert "another worker has taken over shard shardId-000000000000" in caplog.text
    world.store.store.save = real  # type: ignore[method-assign]
    worker.stop()


def test_a_second_worker_is_refused_while_the_first_holds_the_mapping() -> None:
    world = World()
    first = world.worker(ScriptedFunction())
    world.run(first)
    with pytest.raises(ClaimError):
        world.run(world.worker(ScriptedFunction()))
    first.stop()
    world.run(world.worker(ScriptedFunction()))


def test_a_full_disk_at_the_end_is_an_error_of_the_run() -> None:
    world = World()
    world.put(b"1")
    worker = Worker(checkpoints=world.store)
    worker.add(mapping(), world.stream, ScriptedFunction())
    worker._abort = True  # one try, not five seconds of them
    world.store.failing = True
    with pytest.raises(CheckpointError, match="the last checkpoint could not be saved: the disk is full"):
        worker.run(timeout_s=0.05)
    assert worker.summary().reason == "failed"


class ScriptedSource:
    """A source of one shard whose fetches are scripted."""

    def __init__(self, fetches: list[Callable[[], Fetched]], *, clock: Any = "wall") -> None:
        self.fetches = fetches
        self.opened: list[Start] = []
        self.clock = clock

    def describe(self) -> StreamDescription:
        return StreamDescription("scripted", mapping().event_source_arn, poll_interval_ms=1000, clock=self.clock)

    def list_shards(self) -> list[ShardDescription]:
        return [ShardDescription("shard")]

    def open(self, shard_id: str, start: Start) -> ShardReader:  # noqa: ARG002
        self.opened.append(start)
        return self

    def fetch(self, limit: int) -> Fetched:  # noqa: ARG002
        return self.fetches.pop(0)() if self.fetches else Fetched(None, 0)

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        pass

    def close(self) -> None:
        pass


def page(*numbers: str, millis_behind: int = 0) -> Callable[[], Fetched]:
    from streamcore import Page  # noqa: PLC0415

    return lambda: Fetched(Page.from_records([("k", b"x", ManualClock.START_MS, number) for number in numbers]), millis_behind)


def failing(error: Exception) -> Callable[[], Fetched]:
    def fetch() -> Fetched:
        raise error

    return fetch


def scripted(source: ScriptedSource, function: Any) -> tuple[Worker, ManualClock]:
    clock = ManualClock()
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock)
    worker.add(mapping(), source, function)
    return worker, clock


def test_a_source_that_fails_is_read_again_behind_the_last_record(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource([page("1", "2"), failing(TimeoutError("no answer")), failing(TimeoutError("no answer")), page("3")])
    function = ScriptedFunction()
    worker, clock = scripted(source, function)
    while len(function.invocations) < 2:
        run_until_idle(worker, clock)
        clock.advance(1000)
    assert function.batches == [["1", "2"], ["3"]]
    assert [(start.kind, start.sequence_number) for start in source.opened] == [
        ("TRIM_HORIZON", None),
        ("AFTER_SEQUENCE_NUMBER", "2"),
        ("AFTER_SEQUENCE_NUMBER", "2"),
    ]
    assert worker.stats().source_errors == 2
    assert "next try in 0.4 s: TimeoutError: no answer" in caplog.text


def test_a_source_that_breaks_ends_the_run_after_what_was_taken_in() -> None:
    source = ScriptedSource([page("1", "2", millis_behind=10), failing(SourceError("file.csv:3: broken"))])
    function = ScriptedFunction([ScriptedFunction.error()])
    worker, clock = scripted(source, function)
    with pytest.raises(SourceError, match=r"file\.csv:3: broken"):
        run_until_idle(worker, clock)
    assert function.batches == [["1", "2"], ["1", "2"]]
    assert worker.summary().reason == "failed"
    assert worker.summary().succeeded == 2


def test_a_source_that_asks_for_a_pause_gets_it() -> None:
    source = ScriptedSource([lambda: Fetched(None, 5, retry_after_ms=700), page("1")])
    function = ScriptedFunction()
    worker, clock = scripted(source, function)
    run_until_idle(worker, clock)
    assert clock.now_ms() - ManualClock.START_MS == 700
    assert function.batches == [["1"]]


def test_a_function_that_breaks_its_contract_fails_its_batch_and_no_lane_hangs(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        calls = 0

        def invoke(self, batch: Batch) -> Any:  # noqa: ARG002
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError("a bug")
            return None if self.calls == 2 else ScriptedFunction.success()

        def close(self) -> None:
            pass

    world = World()
    world.put(b"1")
    stats = world.run(world.worker(Broken()))
    assert (stats.failed_invocations, stats.succeeded) == (2, 1)
    assert "ZeroDivisionError: a bug" in caplog.text


def test_an_asynchronous_function_is_awaited() -> None:
    world = World()
    world.put(b"1", b"2")
    sizes: list[int] = []

    async def handler(event: Any, context: Any) -> None:
        sizes.append(len(event["Records"]))

    assert world.run(world.worker(LocalFunction(handler))).succeeded == 2
    assert sizes == [2]


def test_keyboard_interrupt_in_a_handler_stops_and_loses_nothing() -> None:
    world = World()
    world.put(b"1")

    def handler(event: Any, context: Any) -> None:
        raise KeyboardInterrupt

    worker = world.worker(LocalFunction(handler))
    with pytest.raises(KeyboardInterrupt):
        world.run(worker)
    assert worker.summary().records == 0
    function = ScriptedFunction()
    world.run(world.worker(function))
    assert len(function.invocations) == 1


def test_what_is_out_of_range_is_refused_with_the_range() -> None:
    store = MemoryCheckpointStore()
    with pytest.raises(ConfigError, match="invocation_threads must be a whole number from 1 to 1000, not 0"):
        Worker(checkpoints=store, invocation_threads=0)
    with pytest.raises(ConfigError, match="checkpoint_interval_ms must be a whole number from 0 to 3600000, not -1"):
        Worker(checkpoints=store, checkpoint_interval_ms=-1)
    worker = Worker(checkpoints=store)
    stream, function = MemoryStream("s"), ScriptedFunction()
    with pytest.raises(ConfigError, match="on_undeliverable must be 'continue' or 'block', not 'retry'"):
        worker.add(mapping(), stream, function, on_undeliverable="retry")  # type: ignore[arg-type]
    worker.add(mapping(), stream, function)
    with pytest.raises(ConfigError, match=r"there is a mapping [0-9a-f-]+ already"):
        worker.add(mapping(), stream, function)


def test_the_life_of_a_worker_goes_one_way() -> None:
    world = World()
    with pytest.raises(UsageError, match="no mapping"):
        Worker(checkpoints=world.store).run()
    worker = world.worker(ScriptedFunction())
    world.run(worker)
    with pytest.raises(UsageError, match="started once"):
        worker.run()
    with pytest.raises(UsageError, match="before the worker is started"):
        worker.add(mapping(uuid="14e0db71-16d6-4c24-9ca2-1f7a1a2b3c4d"), world.stream, ScriptedFunction())
    worker.stop()
    worker.stop()
    with pytest.raises(UsageError, match="step by step"):
        worker.step(world.clock.now_ms())


def test_every_call_in_a_forked_child_is_refused() -> None:
    world = World()
    worker = world.worker(ScriptedFunction())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where another test has left a thread
        child = os.fork()
    if child == 0:
        refused = 0
        calls: list[Callable[[], Any]] = [worker.run, worker.start, worker.stop, worker.join, worker.stats, worker.summary]
        for call in [*calls, lambda: worker.step(0), lambda: worker.add(mapping(), world.stream, ScriptedFunction())]:
            try:
                call()  # type: ignore[no-untyped-call] # a list of methods of several signatures
            except ForkError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8


def test_expired_records_are_counted_and_do_not_block() -> None:
    world, function = World(retention_ms=86_400_000), ScriptedFunction(poison=lambda _: True)
    world.put(b"1")
    stats = world.run(world.worker(function), limit_ms=2 * 86_400_000)
    assert (stats.expired, stats.records, stats.discards) == (1, 1, 0)


def test_a_batch_whose_run_may_go_on_stays_in_flight_until_it_cannot() -> None:
    clock = ManualClock()
    until = clock.now_ms() + 45_000
    lost = Answer("service_error", status_code=0, alive_until_ms=until, problem="the connection broke")
    function = ScriptedFunction([lost])
    stream = MemoryStream("orders", clock=clock)
    for _ in range(2):
        stream.put("a", b"")
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock)
    chosen = mapping(batch_size=1, maximum_retry_attempts=0)
    worker.add(chosen, stream, function)
    due = worker.step(clock.now_ms())
    assert due is not None
    assert due <= until
    clock.set(until - 1)
    worker.step(clock.now_ms())
    assert (len(function.batches), worker.stats().in_flight) == (1, 1)
    assert worker.stats().problems == {chosen.uuid: "PROBLEM: the connection broke"}
    stats = run_until_idle(worker, clock)
    assert until < clock.now_ms() < until + 1000
    assert [len(batch) for batch in function.batches] == [1, 1, 1]
    assert function.batches[0] == function.batches[1], "the same batch again"
    assert (stats.succeeded, stats.throttles, stats.discards, stats.problems) == (2, 1, 0, {})
    worker.stop()


def test_a_stop_leaves_a_batch_whose_run_may_go_on() -> None:
    clock, store = ManualClock(), MemoryCheckpointStore()
    lost = Answer("service_error", status_code=0, alive_until_ms=clock.now_ms() + 900_000)
    stream = MemoryStream("orders", clock=clock)
    stream.put("a", b"")
    chosen = mapping()
    first = Worker(checkpoints=store, clock=clock)
    first.add(chosen, stream, ScriptedFunction([lost]))
    first.step(clock.now_ms())
    first.stop()
    assert (first.summary().abandoned, first.summary().records) == (1, 0)
    second = Worker(checkpoints=store, clock=clock)
    function = ScriptedFunction()
    second.add(chosen, stream, function)
    assert run_until_idle(second, clock).succeeded == 1
    second.stop()


def test_the_status_tells_of_a_failing_function_until_it_succeeds() -> None:
    clock, stream = ManualClock(), MemoryStream("orders")
    stream.put("a", b"")
    chosen = mapping()
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock)
    worker.add(chosen, stream, ScriptedFunction([ScriptedFunction.error()]))
    worker.step(clock.now_ms())
    assert worker.stats().problems == {chosen.uuid: "PROBLEM: Function call failed"}
    assert run_until_idle(worker, clock).problems == {}
    worker.stop()
