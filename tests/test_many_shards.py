"""What a worker does for shards that are idle, and what it keeps of shards that are gone: nothing. Counted, on a manual clock."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kept import Kept
from streamcore import Batch, CheckpointError, ClaimError, Discard, EventSourceMapping, MemoryCheckpointStore, MemoryStream, Worker
from streamcore._job import Reading
from streamcore._log import Rarely
from streamcore._watch import Watch
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 1


class World:
    """A clock, a stream, and a worker over it that is driven step by step."""

    def __init__(self, *, shards: int = 1, retention_ms: int | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.stream = MemoryStream("orders", shards=shards, clock=self.clock, retention_ms=retention_ms)
        self.store = MemoryCheckpointStore()
        self.function = ScriptedFunction()
        self.kept = Kept()
        self.worker = Worker(checkpoints=self.store, clock=self.clock, seed=SEED)
        self.worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", **options), self.stream, self.function, self.kept)

    def run(self) -> None:
        run_until_idle(self.worker, self.clock)

    def polled(self) -> int:
        """Poll what is due now; returns how many polls and listings that were."""
        now, count = self.clock.now_ms(), 0
        while self.worker._poller.step(now):
            count += 1
        return count

    @property
    def reading(self) -> Reading:
        return next(iter(self.worker._shards.readings.values()))


def lines_run(call: Callable[[], object]) -> int:
    """Return how many lines of Python a call runs, each turn of a loop anew."""
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_a_thousand_idle_shards_of_a_stream_that_wakes_are_never_polled() -> None:
    world = World(shards=1000)
    world.run()
    assert world.worker.metrics().polls == 1000
    turns = 0
    for _ in range(60):
        world.clock.advance(1000)
        turns += world.polled()
    assert turns == 2  # the shards are listed every 30 s
    assert world.worker.metrics().polls == 1000
    assert world.worker.step(world.clock.now_ms()) is None
    assert world.worker.metrics().polls == 1000


def test_a_put_costs_as_much_whatever_the_number_of_shards() -> None:
    costs = set()
    for shards in (10, 1000):
        world = World(shards=shards)
        world.run()

        def put_and_invoke(world: World = world) -> None:
            world.stream.put("customer", b"{}")
            assert world.polled() == 1
            assert world.worker._invoker.step(world.clock.now_ms()) == 0

        put_and_invoke()
        costs.add(lines_run(put_and_invoke))
        assert len(world.function.invocations) == 2
    assert len(costs) == 1


def test_a_save_costs_as_much_whatever_the_number_of_shards() -> None:
    costs = set()
    for shards in (10, 1000):
        world = World(shards=shards)
        world.run()
        world.stream.put("customer", b"{}")
        world.polled()
        world.worker._invoker.step(world.clock.now_ms())
        assert not world.worker._engine.checkpoints()[1:]
        costs.add(lines_run(lambda world=world: world.worker._saver.save(world.clock.now_ms())))  # type: ignore[misc] # mypy cannot infer it
        assert world.worker._engine.checkpoints() == []
    assert len(costs) == 1


def test_a_look_whether_a_run_is_over_costs_as_much_whatever_the_number_of_shards_while_a_batch_is_in_flight() -> None:
    costs = set()
    for shards in (10, 1000):
        world = World(shards=shards)
        world.run()
        world.stream.put("customer", b"{}")
        world.polled()
        worker, now = world.worker, world.clock.now_ms()
        batch = worker._engine.take(now)
        assert isinstance(batch, Batch)
        watch = Watch(
            worker._poller,
            world.clock,
            until_idle=True,
            failed=lambda: False,
            done=worker._done,
            settled=lambda worker=worker, now=now: worker._settled(now),  # type: ignore[misc] # mypy cannot infer it
            unsaved=lambda: False,
            stuck=lambda worker=worker: worker.stats().stuck,  # type: ignore[misc] # mypy cannot infer it
        )
        assert watch.reason() is None
        costs.add(lines_run(watch.reason))
        worker._invoker._invoke(batch)
        assert watch.reason() == "idle"
    assert len(costs) == 1


def test_a_wake_up_of_one_shard_does_not_poll_another_one_that_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard is polled once more if something came while it was read; what came for another one does not count."""
    world = World(shards=2)
    world.run()
    first, second = world.worker._shards.readings.values()
    for woken, polls in ((second, 2), (first, 2)):
        reader = first.reader
        assert reader is not None
        fetch = reader.fetch

        def fetched(limit: int, woken: Reading = woken, fetch: Callable[[int], Any] = fetch) -> Any:
            monkeypatch.undo()
            world.stream._wake(woken.shard_id)
            return fetch(limit)

        monkeypatch.setattr(reader, "fetch", fetched)
        before = first.tally.poll_ms.now().count, second.tally.poll_ms.now().count
        world.stream._wake(first.shard_id)
        assert world.polled() == polls
        after = first.tally.poll_ms.now().count, second.tally.poll_ms.now().count
        counts = (1, 1) if woken is second else (2, 0)
        assert (after[0] - before[0], after[1] - before[1]) == counts


def test_shards_that_rotate_leave_nothing_behind() -> None:
    """As DynamoDB's do every four hours: 2,500 shards, 10 at a time. No counter ever falls."""
    shards, rounds, hours = 10, 250, 4
    world = World(shards=shards, retention_ms=24 * 3_600_000)
    worker, job = world.worker, world.worker._jobs[0]
    keys = [str(number) for number in range(40)]
    counters = (0, 0, 0, 0)
    costs = []

    def one_round() -> None:
        world.stream.put_many([(key, b"{}") for key in keys])
        for shard in world.stream.list_shards():
            if not shard.closed:
                world.stream.rotate(shard.shard_id)
        world.run()

    for number in range(rounds):
        if number in (20, rounds - 1):
            costs.append(lines_run(one_round))
        else:
            one_round()
        metrics = worker.metrics()
        now = (metrics.polled_event_count, metrics.succeeded, metrics.polls, metrics.invocations)
        assert all(later >= earlier for earlier, later in zip(counters, now, strict=True))
        counters = now
        sizes = {
            "readings": len(worker._shards.readings),
            "of the mapping": len(job.readings),
            "functions": len(worker._invoker._functions),
            "tokens": len(worker._saver._tokens),
            "ending": len(worker._saver.ending),
            "shards told of": len(metrics.mappings[0].shards),
            "claims": len(world.store._claims),
            "lanes": worker._lanes,
        }
        assert sizes == {**dict.fromkeys(sizes, shards), "ending": 0}, number
        assert not job.claims
        assert not worker._poller._tasks[shards:]  # listings, done and due
        # What has ended is known as long as it is listed.
        assert len(world.stream.list_shards()) <= shards * (24 // hours + 2)
        assert len(job.lineage._ended) <= shards * (24 // hours + 2)
        world.clock.advance(hours * 3_600_000)
    assert counters[:2] == (rounds * len(keys), rounds * len(keys))
    gc.collect()
    assert sum(isinstance(one, Reading) and one.job is job for one in gc.get_objects()) == shards
    # A round late in the run costs what one costs at its beginning.
    assert costs[1] <= costs[0] * 1.02
    worker.stop()
    assert worker.summary().records == rounds * len(keys)


def test_expired_records_of_a_shard_that_is_gone_are_not_kept_in_mind() -> None:
    world = World(retention_ms=60_000)
    world.stream.put("customer", b"{}", arrival_ms=world.clock.now_ms() - 59_999)
    world.worker.step(world.clock.now_ms())
    world.function._answers = iter([ScriptedFunction.throttled()] * 3)
    world.stream.put("customer", b"{}")
    world.worker.step(world.clock.now_ms())
    world.clock.advance(61_000)
    world.run()
    assert world.worker.stats().expired == 1
    assert len(world.worker._saver._expired) == 1
    world.stream.rotate("shardId-000000000000")
    world.run()
    assert world.worker._saver._expired == {}
    assert world.worker.metrics().expired == 1


def test_the_reader_of_a_shard_that_another_worker_took_over_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.stream.put("customer", b"{}")
    world.run()
    reading, closed = world.reading, []
    monkeypatch.setattr(reading.reader, "close", lambda: closed.append(reading.shard_id))
    (key,) = world.store.rows()
    world.store.claim(key, world.worker.owner)
    world.stream.put("customer", b"{}")
    world.run()
    assert world.worker.stats().lost_claims == 1
    assert world.worker._shards.readings == {}
    assert world.polled() == 1  # it finds that the shard is gone
    assert closed == [reading.shard_id]


@pytest.mark.parametrize("step", ["_open_reader", "_readable", "_after"])
def test_the_reader_of_a_shard_that_is_taken_over_while_it_is_read_is_closed(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    world = World()
    world.worker.step(world.clock.now_ms())
    reading, poller, closed = world.reading, world.worker._poller, []
    assert reading.reader is not None
    monkeypatch.setattr(reading.reader, "close", lambda: closed.append(reading.shard_id))
    made = reading.reader
    reading.reader = None
    monkeypatch.setattr(poller, "_open_reader", lambda *_: made)
    done = getattr(poller, step)

    def lost(*arguments: object) -> object:
        found = done(*arguments)
        world.worker._shard_lost(reading.handle)
        return found

    monkeypatch.setattr(poller, step, lost)
    world.stream.put("customer", b"{}")
    assert world.polled() == 1
    assert (closed, reading.reader, reading.state) == ([reading.shard_id], None, "gone")


def test_what_was_taken_of_a_shard_right_before_its_claim_was_lost_is_left_to_the_other_worker() -> None:
    world = World(maximum_retry_attempts=0)
    world.function._answers = iter([ScriptedFunction.error()])
    world.stream.put("customer", b"{}")
    world.worker.step(world.clock.now_ms())
    # The discard was delivered at once. Now one that is taken and not yet handed on when the claim is lost, and then a batch.
    (discard,) = world.kept.sent
    world.stream.put("customer", b"{}")
    world.polled()
    batch = world.worker._engine.take(world.clock.now_ms())
    assert isinstance(batch, Batch)
    assert isinstance(discard, Discard)
    world.worker._shard_lost(world.reading.handle)
    world.worker._invoker._invoke(batch)
    world.worker._delivery.add(discard)
    assert len(world.function.invocations) == 1
    assert (len(world.kept.sent), len(world.worker._delivery)) == (1, 0)
    assert world.worker.stats().problems == {}
    assert world.worker.metrics().discards == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_a_mapping_is_held_all_the_time_though_the_claims_of_shards_that_are_done_are_given_up(*, at_once: bool) -> None:
    """Whenever a claim is given up, another worker that asks for the mapping is refused; also where shards are listed right at the end."""
    world = World()
    poller = world.worker._poller
    if at_once:
        noted = poller.end_saved

        def end_saved(reading: Reading) -> None:
            noted(reading)
            poller._list(reading.job, world.clock.now_ms())

        poller.end_saved = end_saved  # type: ignore[method-assign] # watched
    stream, store, released = world.stream, world.store, []
    give_up, claimed = store.release, store.claim

    def release(token: str) -> None:
        key = store._claims[token]
        give_up(token)
        with pytest.raises(ClaimError):
            claimed(key, "another worker")
        released.append(key.shard_id)

    store.release = release  # type: ignore[method-assign] # watched
    shard = "shardId-000000000000"
    for number in range(5):
        stream.put("customer", b"{}")
        world.run()
        assert len(released) == number
        shard = stream.rotate(shard)
    world.run()
    assert len(released) == 5
    assert len(store._claims) == 1
    stream.close_shard(shard)
    world.run()
    assert len(released) == 5  # the last one is kept as long as the worker runs
    store.release = give_up  # type: ignore[method-assign] # watched
    world.worker.stop()
    assert store._claims == {}


def test_a_claim_that_cannot_be_given_up_is_told_and_given_up_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    give_up = world.store.release

    def fails(token: str) -> None:
        raise CheckpointError("the disk is full; free some space")

    world.store.release = fails  # type: ignore[method-assign] # watched
    world.run()
    world.stream.rotate("shardId-000000000000")
    world.run()
    assert "could not be given up: the disk is full" in caplog.text
    assert len(world.store._claims) == 2
    world.store.release = give_up  # type: ignore[method-assign] # watched
    world.worker.stop()
    assert world.store._claims == {}


def test_the_claim_of_a_shard_that_was_trimmed_before_it_was_read_is_given_up() -> None:
    world = World(retention_ms=60_000)
    world.stream.put("customer", b"{}")
    world.function._answers = iter([ScriptedFunction.throttled()] * 1000)
    parent = "shardId-000000000000"
    child = world.stream.rotate(parent)
    world.worker.step(world.clock.now_ms())
    job = world.worker._jobs[0]
    assert list(job.claims) == [child]
    grandchild = world.stream.rotate(child)
    for _ in range(3):
        world.clock.advance(30_001)
        world.worker._poller.step(world.clock.now_ms())
    assert child not in {shard.shard_id for shard in world.stream.list_shards()}
    assert child not in {key.shard_id for key in world.store._tokens}
    assert not job.claims
    assert job.lineage.running == (parent, grandchild)


def test_kinds_of_things_that_are_told_are_forgotten_after_ten_minutes() -> None:
    rarely = Rarely()
    assert [rarely.count(number, 0) for number in range(1000)] == [1] * 1000
    assert [rarely.count("one more", 1), rarely.count("another", 1)] == [1, 2]  # as one kind
    assert [rarely.count("one more", 600_000), rarely.count("another", 600_000)] == [1, 1]


def test_a_mapping_is_listed_by_one_thread_at_a_time_and_again_after_an_end_that_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.run()
    poller, (job,) = world.worker._poller, world.worker._poller.jobs
    deep, deepest, listings = 0, 0, 0
    list_shards = world.stream.list_shards

    def listed() -> Any:
        nonlocal deep, deepest, listings
        deep, listings = deep + 1, listings + 1
        deepest = max(deepest, deep)
        if listings == 1:
            poller._schedule(job, world.clock.now_ms())  # as the end of another shard does when it is saved
            while poller.step(world.clock.now_ms()):  # as another thread does meanwhile
                pass
        deep -= 1
        return list_shards()

    monkeypatch.setattr(world.stream, "list_shards", listed)
    poller._schedule(job, world.clock.now_ms())
    world.polled()
    assert (deepest, listings) == (1, 2)
