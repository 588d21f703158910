"""What `Worker.metrics` counts, each rule by an example worked out by hand; on a manual clock, without threads."""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
from typing import TYPE_CHECKING, Any

from kept import Kept
from streamcore import (
    Answer,
    CheckpointError,
    EventSourceMapping,
    MemoryCheckpointStore,
    MemoryStream,
    SourceUnavailableError,
    Worker,
)
from streamcore.metrics import Distribution, Extremes, Metrics, total
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

    from streamcore import Batch
    from streamcore.metrics import WorkerMetrics


class World:
    """A clock, a stream, and a worker on them."""

    def __init__(self, *, shards: int = 1, retention_ms: int | None = None) -> None:
        self.clock = ManualClock()
        self.stream = MemoryStream("orders", shards=shards, clock=self.clock, retention_ms=retention_ms)

    def worker(self, function: Any, destination: Any = None, *, store: Any = None, **parameters: Any) -> Worker:
        worker = Worker(checkpoints=store or MemoryCheckpointStore(), clock=self.clock, seed=1)
        parameters = {"starting_position": "TRIM_HORIZON", **parameters}
        worker.add(EventSourceMapping(**parameters), self.stream, function, destination)
        return worker

    def put(self, *payloads: bytes) -> list[str]:
        return [self.stream.put("k", payload)[1] for payload in payloads]

    def metrics(self, function: Any, destination: Any = None, **parameters: Any) -> WorkerMetrics:
        """Run until all is done, and return what was counted."""
        worker = self.worker(function, destination, **parameters)
        run_until_idle(worker, self.clock)
        return worker.metrics()


def events(metrics: Metrics) -> tuple[int, ...]:
    """Polled, filtered out, invoked, failed, dropped, delivered; and failed deliveries."""
    return (
        metrics.polled_event_count,
        metrics.filtered_out_event_count,
        metrics.invoked_event_count,
        metrics.failed_invoke_event_count,
        metrics.dropped_event_count,
        metrics.on_failure_destination_delivered_event_count,
        metrics.destination_delivery_failures,
    )


# Lambda's EventCount family.


def test_records_that_succeed_are_polled_and_invoked_once() -> None:
    world = World()
    world.put(b"1", b"2", b"3")
    metrics = world.metrics(ScriptedFunction(), batch_size=2)
    assert events(metrics) == (3, 0, 3, 0, 0, 0, 0)
    assert (metrics.succeeded, metrics.invocations, metrics.retries) == (3, 2, 0)


def test_each_retry_counts_its_records_again() -> None:
    world = World()
    world.put(b"1", b"2")
    # Two records, sent three times, failed twice.
    metrics = world.metrics(ScriptedFunction([ScriptedFunction.error()] * 2))
    assert events(metrics) == (2, 0, 6, 4, 0, 0, 0)
    assert (metrics.invocations, metrics.failed_invocations, metrics.retries) == (3, 2, 2)


def test_a_throttled_call_counts_as_sent_and_as_failed_but_is_no_invocation() -> None:
    world = World()
    world.put(b"1", b"2")
    metrics = world.metrics(ScriptedFunction([ScriptedFunction.throttled()]))
    assert events(metrics) == (2, 0, 4, 2, 0, 0, 0)
    assert (metrics.invocations, metrics.throttles, metrics.retries) == (1, 1, 0)


def test_a_partial_failure_counts_all_records_of_its_call_as_failed() -> None:
    world = World()
    numbers = world.put(b"1", b"2", b"3")
    # Three are sent and the second fails; then the second and the third are sent and succeed.
    metrics = world.metrics(ScriptedFunction([ScriptedFunction.partial(numbers[1])]), function_response_types=("ReportBatchItemFailures",))
    assert events(metrics) == (3, 0, 5, 3, 0, 0, 0)
    assert (metrics.succeeded, metrics.failed_invocations) == (3, 1)


def refusing() -> ScriptedFunction:
    """Return a function that fails on the payload `bad`."""
    return ScriptedFunction(poison=lambda record: base64.b64decode(record["kinesis"]["data"]) == b"bad")


def test_bisect_counts_each_half_and_drops_the_bad_record_alone() -> None:
    world = World()
    world.put(b"1", b"bad", b"3", b"4")
    # 4 fail; the left 2 fail; 1 succeeds; the bad one fails and is dropped; the right 2 succeed.
    metrics = world.metrics(refusing(), bisect_batch_on_function_error=True, maximum_retry_attempts=0)
    assert events(metrics) == (4, 0, 4 + 2 + 1 + 1 + 2, 4 + 2 + 1, 1, 0, 0)
    assert (metrics.succeeded, metrics.discarded_records, metrics.dropped) == (3, 1, 1)
    assert metrics.discarded_by_condition == {"RetryAttemptsExhausted": 1}


def test_a_discard_with_a_destination_is_delivered_and_not_dropped() -> None:
    world, queue = World(), Kept()
    world.put(b"bad", b"bad")
    metrics = world.metrics(refusing(), queue, maximum_retry_attempts=1)
    assert len(queue.sent) == 1
    assert events(metrics) == (2, 0, 4, 4, 0, 2, 0)
    assert (metrics.discards, metrics.delivered) == (1, 1)


def test_a_delivery_that_succeeds_at_the_third_try_has_failed_twice_and_drops_nothing() -> None:
    world = World()
    world.put(b"bad", b"bad")
    assert events(world.metrics(refusing(), Kept(2), maximum_retry_attempts=0)) == (2, 0, 2, 2, 0, 2, 2)


def test_records_whose_delivery_is_given_up_are_dropped() -> None:
    world = World()
    world.put(b"bad", b"bad")
    metrics = world.metrics(refusing(), Kept(100), maximum_retry_attempts=0)
    assert events(metrics) == (2, 0, 2, 2, 2, 0, 5)
    assert (metrics.undelivered, metrics.dropped) == (1, 0)


def test_records_too_old_are_dropped_by_their_condition() -> None:
    world = World()
    world.put(b"old", b"old")
    world.clock.advance(61_000)
    metrics = world.metrics(ScriptedFunction(), maximum_record_age_in_seconds=60)
    assert events(metrics) == (2, 0, 0, 0, 2, 0, 0)
    assert metrics.discarded_by_condition == {"RecordAgeExceeded": 2}


def test_what_retention_ends_is_not_dropped() -> None:
    world = World(retention_ms=3_600_000)
    world.put(b"bad")
    metrics = world.metrics(refusing())
    assert (metrics.dropped_event_count, metrics.expired, metrics.discards) == (0, 1, 0)
    assert metrics.failed_invoke_event_count == metrics.invoked_event_count == metrics.invocations > 1


def test_filtered_records_are_polled_and_go_no_further() -> None:
    world = World()
    world.put(b'{"n": 1}', b'{"n": 2}', b'{"n": 1}')
    criteria = {"Filters": [{"Pattern": json.dumps({"data": {"n": [1]}})}]}
    metrics = world.metrics(ScriptedFunction(), filter_criteria=criteria)
    assert events(metrics) == (3, 1, 2, 0, 0, 0, 0)
    assert metrics.mappings[0].filters


def test_an_empty_poll_is_a_poll_without_records() -> None:
    world = World()
    metrics = world.metrics(ScriptedFunction())
    assert events(metrics) == (0, 0, 0, 0, 0, 0, 0)
    assert metrics.polls > 0
    assert metrics.mappings[0].shards[0].polls == metrics.polls


def test_records_given_twice_are_polled_twice_and_told_apart() -> None:
    world, function = World(), ScriptedFunction()
    world.put(b"1", b"2")
    worker = world.worker(function)
    run_until_idle(worker, world.clock)
    reading = next(iter(worker._shards.readings.values()))
    assert reading.reader is not None
    reading.reader.close()
    reading.reader = worker._poller._open_reader(reading, None)
    world.put(b"3")
    run_until_idle(worker, world.clock)
    metrics = worker.metrics()
    assert (metrics.polled_event_count, metrics.duplicates, metrics.succeeded) == (5, 2, 3)


# IteratorAge, sizes and times.


class Slow:
    """A function that takes 700 ms of the clock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.bytes: list[int] = []

    def invoke(self, batch: Batch) -> Answer:
        self.clock.advance(700)
        self.bytes.append(len(batch.json()))
        return Answer("success")

    def close(self) -> None:
        pass


def test_the_iterator_age_is_that_of_the_last_record_when_the_batch_is_sent_and_when_it_is_done() -> None:
    world = World()
    world.put(b"1")
    world.clock.advance(5_000)
    world.put(b"2")
    world.clock.advance(2_000)
    begin = world.clock.now_ms()
    metrics = world.metrics(Slow(world.clock))
    assert (metrics.iterator_age_sent_ms, metrics.iterator_age_ms) == (2_000, 2_700)
    assert (metrics.sent_at_ms, metrics.finished_at_ms) == (begin, begin + 700)
    assert (metrics.iterator_ages_sent_ms.sum, metrics.iterator_ages_ms.sum) == (2_000, 2_700)
    assert metrics.handler_ms == Distribution(
        counts=(*[0] * 10, 1), sum=700, minutes=(Extremes(minute=(begin + 700) // 60_000, least=700, greatest=700),)
    )


def test_a_retry_is_as_old_as_it_has_become() -> None:
    world = World()
    world.put(b"1")
    metrics = world.metrics(ScriptedFunction([ScriptedFunction.error()]))
    last = metrics.iterator_age_ms
    assert metrics.iterator_ages_ms.count == 2
    assert last is not None
    assert metrics.iterator_ages_ms.sum == last > 0  # the first attempt came at once, the second after the backoff


def test_sizes_of_batches_and_events_are_those_that_were_sent() -> None:
    world = World()
    world.put(*[b"%d" % number for number in range(5)])
    function = Slow(world.clock)
    metrics = world.metrics(function, batch_size=2)
    assert (metrics.batch_records.counts, metrics.batch_records.sum) == ((1, 2), 5)
    assert (metrics.event_bytes.count, metrics.event_bytes.sum) == (3, sum(function.bytes))


def test_a_closing_call_is_a_batch_without_records_and_without_an_age() -> None:
    world, sizes = World(), []
    stream = MemoryStream("orders", clock=world.clock)
    for second in (1, 2, 61):
        stream.put("k", b"x", arrival_ms=world.clock.now_ms() + second * 1000)
    stream.close_shards()

    class Summing(ScriptedFunction):
        def invoke(self, batch: Batch) -> Answer:
            sizes.append((len(batch.event()["Records"]), len(batch.json())))
            return Answer("success", {"state": {"calls": len(sizes)}})

    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=world.clock, seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", tumbling_window_in_seconds=60), stream, Summing())
    run_until_idle(worker, world.clock)
    metrics = worker.metrics()
    assert [records for records, _ in sizes] == [2, 0, 1, 0]
    assert (metrics.batch_records.count, metrics.batch_records.sum, metrics.iterator_ages_ms.count) == (4, 3, 2)
    written = sum(size for _, size in sizes)
    assert written <= metrics.event_bytes.sum <= written + 2 * len(sizes)  # the size of the flags is taken at its largest
    assert metrics.windows_closed == 2


def test_the_age_of_recorded_data_goes_by_its_own_clock() -> None:
    world = World()
    world.put(b"1", b"2")
    world.clock.advance(3_600_000)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=world.clock, seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1), world.stream, Slow(world.clock), clock="replay")
    run_until_idle(worker, world.clock)
    assert worker.metrics().iterator_ages_ms.sum == 0


def test_the_time_of_polls_is_the_source_s(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.put(b"1")
    worker = world.worker(ScriptedFunction())
    worker.step(world.clock.now_ms())
    reading = next(iter(worker._shards.readings.values()))
    reader = reading.reader
    assert reader is not None
    fetch = reader.fetch

    def slow(limit: int) -> Any:
        world.clock.advance(40)
        return fetch(limit)

    monkeypatch.setattr(reader, "fetch", slow)
    before = worker.metrics().poll_ms
    world.put(b"2")
    run_until_idle(worker, world.clock)
    after = worker.metrics().poll_ms
    assert after.sum - before.sum == 40 * (after.count - before.count) > 0


# What holds now.


def test_what_is_held_and_in_flight_is_seen_from_within_the_function() -> None:
    world, seen = World(), []
    world.put(b"1", b"2", b"3")

    class Looking(ScriptedFunction):
        def invoke(self, batch: Batch) -> Answer:
            seen.append(worker.metrics())
            return super().invoke(batch)

    worker = world.worker(Looking(), batch_size=2)
    run_until_idle(worker, world.clock)
    first = seen[0]
    assert (first.held_records, first.span, first.in_flight, first.polled_event_count) == (3, 3, 1, 3)
    assert first.held_bytes > 0
    assert [lane.state for lane in first.mappings[0].shards[0].lanes] == ["in_flight"]
    last = worker.metrics()
    assert (last.held_records, last.held_bytes, last.span, last.in_flight) == (0, 0, 0, 0)


class FailingStore(MemoryCheckpointStore):
    failing = True

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        if self.failing:
            raise CheckpointError("the disk is full")
        return super().save(checkpoints)


def test_the_checkpoint_lag_grows_while_the_store_fails_and_ends_with_a_save() -> None:
    world, store = World(), FailingStore()
    world.put(b"1")
    worker = world.worker(ScriptedFunction(), store=store)
    worker.step(world.clock.now_ms())
    world.clock.advance(4_000)
    worker.step(world.clock.now_ms())
    metrics = worker.metrics()
    assert (metrics.checkpoint_lag_ms, metrics.mappings[0].shards[0].checkpoint_lag_ms) == (4_000, 4_000)
    assert metrics.failed_saves > 0
    store.failing = False
    run_until_idle(worker, world.clock)
    assert (worker.metrics().checkpoint_lag_ms, worker.metrics().checkpoints) == (0, 1)


def test_discards_on_their_way_are_told_apart_from_those_that_arrived() -> None:
    world, queue = World(), Kept(1)
    world.put(b"bad")
    worker = world.worker(refusing(), queue, maximum_retry_attempts=0)
    worker.step(world.clock.now_ms())
    assert (worker.metrics().unconfirmed, worker.metrics().delivered) == (1, 0)
    run_until_idle(worker, world.clock)
    assert (worker.metrics().unconfirmed, worker.metrics().delivered) == (0, 1)


# Mappings, shards, and those that are gone.

_KEPT = [one.name for one in dataclasses.fields(Metrics)]


def check_sums(metrics: WorkerMetrics) -> None:
    """The worker is its mappings, a mapping its shards and what is gone."""
    for mapping in metrics.mappings:
        parts = total([*mapping.shards, mapping.gone])
        assert {name: getattr(mapping, name) for name in _KEPT} == {**dataclasses.asdict(Metrics()), **parts}
    assert {name: getattr(metrics, name) for name in _KEPT} == {**dataclasses.asdict(Metrics()), **total(metrics.mappings)}


def test_counts_of_shards_that_have_left_stay_with_their_mapping() -> None:
    world = World(shards=2)
    for number in range(40):
        world.stream.put(f"key-{number}", b"bad" if number % 10 == 0 else b"x")
    first, second = (shard.shard_id for shard in world.stream.list_shards())
    worker = world.worker(refusing(), Kept(3), maximum_retry_attempts=0, bisect_batch_on_function_error=True, batch_size=7)
    run_until_idle(worker, world.clock)
    before = worker.metrics()
    check_sums(before)
    assert {shard.shard_id for shard in before.mappings[0].shards} == {first, second}
    world.stream.merge(first, second)
    for number in range(10):
        world.stream.put(f"key-{number}", b"y")
    run_until_idle(worker, world.clock)
    after = worker.metrics()
    check_sums(after)
    assert len(after.mappings[0].shards) == 1
    assert after.mappings[0].gone.succeeded == 36
    assert (after.succeeded, after.discarded_records, after.destination_delivery_failures) == (46, 4, 3)
    assert after.polls > before.polls
    worker.stop()
    ended = worker.metrics()
    check_sums(ended)
    assert ended.mappings[0].shards == ()
    assert (events(ended), ended.batch_records, ended.poll_ms) == (events(after), after.batch_records, after.poll_ms)
    summary = worker.summary()
    assert (summary.succeeded, summary.discards, summary.failed_deliveries) == (ended.succeeded, ended.discards, 3)


def test_each_mapping_has_its_own_counts() -> None:
    clock = ManualClock()
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    for name, count in (("left", 3), ("right", 5)):
        stream = MemoryStream(name, clock=clock)
        for _ in range(count):
            stream.put("k", b"x")
        mapping = EventSourceMapping(
            event_source_arn=f"arn:aws:kinesis:eu-west-1:123456789012:stream/{name}",
            function_arn=f"arn:aws:lambda:eu-west-1:123456789012:function:{name}:live",
            starting_position="TRIM_HORIZON",
            metrics_config={"Metrics": ["EventCount"]} if name == "left" else None,
        )
        worker.add(mapping, stream, ScriptedFunction())
    run_until_idle(worker, clock)
    metrics = worker.metrics()
    left, right = metrics.mappings
    assert (left.polled_event_count, right.polled_event_count, metrics.polled_event_count) == (3, 5, 8)
    assert (left.function_name, left.qualifier, left.event_count, right.event_count) == ("left", "live", True, False)
    assert right.event_source_arn.endswith("stream/right")
    check_sums(metrics)


def test_the_version_is_that_of_the_last_answer() -> None:
    world = World()
    world.put(b"1")

    assert world.metrics(ScriptedFunction([Answer("success", executed_version="7")])).mappings[0].executed_version == "7"


def test_failed_listings_and_reads_count_for_the_mapping_and_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.put(b"1")
    worker = world.worker(ScriptedFunction())
    worker.step(world.clock.now_ms())
    reading = next(iter(worker._shards.readings.values()))
    assert reading.reader is not None

    def fails(*_: object) -> Any:
        monkeypatch.undo()
        raise SourceUnavailableError("not now")

    monkeypatch.setattr(reading.reader, "fetch", fails)
    world.put(b"2")
    run_until_idle(worker, world.clock)
    monkeypatch.setattr(world.stream, "list_shards", fails)
    worker._poller._list(reading.job, world.clock.now_ms())
    mapping = worker.metrics().mappings[0]
    assert (mapping.shards[0].source_errors, mapping.gone.source_errors, mapping.source_errors) == (1, 1, 2)
    assert worker.stats().source_errors == 2


def test_metrics_can_be_asked_before_the_start_and_while_threads_run_and_shards_come_and_go() -> None:
    stream = MemoryStream("orders", shards=2)
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=1)
    parameters: dict[str, Any] = {"starting_position": "TRIM_HORIZON", "batch_size": 10, "parallelization_factor": 4}
    worker.add(EventSourceMapping(**parameters), stream, ScriptedFunction())
    assert worker.metrics().mappings[0].shards == ()
    over = threading.Event()
    faults: list[BaseException] = []
    looks: list[int] = []

    def look() -> None:
        known = 0
        try:
            while not over.is_set():
                metrics = worker.metrics()
                check_sums(metrics)
                assert metrics.succeeded >= known, "a count falls"
                assert metrics.polled_event_count >= metrics.succeeded + metrics.held_records
                known = metrics.succeeded
                looks.append(known)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            faults.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    shard = stream.list_shards()[0].shard_id
    try:
        with worker:
            worker.start()
            for thread in threads:
                thread.start()
            for number in range(4_000):
                stream.put(f"key-{number % 50}", b"x")
                if number % 500 == 499:
                    shard = stream.split(shard)[0]
            run_until(lambda: worker.metrics().succeeded == 4_000)
            worker.stop()
            worker.join()
    finally:
        over.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(looks) > 1
    metrics = worker.metrics()
    assert (metrics.succeeded, metrics.invoked_event_count, metrics.polled_event_count) == (4_000, 4_000, 4_000)
    assert metrics.mappings[0].gone.succeeded == 4_000


def run_until(done: Callable[[], bool]) -> None:
    """Wait for other threads; the test's own time limit ends what never comes."""
    while not done():
        threading.Event().wait(0.01)


# Distributions.


def test_distributions_add_up_with_their_extremes() -> None:
    one = Distribution(counts=(1, 0, 1), sum=5, minutes=(Extremes(minute=1, least=1, greatest=1), Extremes(minute=3, least=4, greatest=4)))
    other = Distribution(counts=(0, 2), sum=4, minutes=(Extremes(minute=2, least=2, greatest=2), Extremes(minute=3, least=2, greatest=9)))
    both = one + other
    assert (both.counts, both.sum, both.count) == ((1, 2, 1), 9, 4)
    assert both.minutes == (Extremes(minute=2, least=2, greatest=2), Extremes(minute=3, least=2, greatest=9))
    assert one + Distribution() == one == Distribution() + one
