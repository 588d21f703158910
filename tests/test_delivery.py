"""How discards are delivered: budgets, bounds, and destinations that do not wait for each other. No test sleeps or measures time."""

from __future__ import annotations

import json
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, mapping, one_shard, take
from streamcore import Answer, ConfigError, DeliveryError, EventSourceMapping, MemoryCheckpointStore, MemoryStream, Outcome, Wait, Worker
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamcore import Discard

REFUSES = ScriptedFunction(poison=lambda _: True)


class Destination:
    """Does with each discard what it is told."""

    def __init__(self, send: Callable[[Discard], object]) -> None:
        self._send = send
        self.tries = 0

    def send(self, discard: Discard) -> None:
        self.tries += 1
        self._send(discard)

    def close(self) -> None:
        pass


def stream_of(records: int, clock: ManualClock | None = None) -> MemoryStream:
    stream = MemoryStream("orders", clock=clock)
    stream.put_many([("key", b"%d" % number) for number in range(records)])
    return stream


def failing(**parameters: Any) -> EventSourceMapping:
    return mapping(**{"batch_size": 1, "maximum_retry_attempts": 0, **parameters})


def delivered_by(destination: Any, clock: ManualClock, **options: Any) -> Any:
    """Run one discard to its end and return the stats."""
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    worker.add(failing(), stream_of(1, clock), REFUSES, destination, **options)
    stats = run_until_idle(worker, clock)
    worker.stop()
    return stats


# One discard.


@pytest.mark.parametrize(("tries", "budget_s", "at_ms"), [(1, 30, [0]), (2, 30, [0, 30_000]), (3, 6, [0, 2000, 6000]), (4, 0, [0])])
def test_the_pauses_between_tries_add_up_to_the_budget(tries: int, budget_s: float, at_ms: list[int]) -> None:
    clock = ManualClock()
    seen: list[int] = []

    def down(_: Discard) -> None:
        seen.append(clock.now_ms() - ManualClock.START_MS)
        raise DeliveryError("down")

    stats = delivered_by(Destination(down), clock, discard_tries=tries, discard_budget_s=budget_s)
    assert seen == at_ms
    assert (stats.undelivered, stats.delivered, stats.unconfirmed, stats.failed_deliveries) == (1, 0, 0, len(at_ms))


def test_what_the_tries_take_comes_off_the_budget() -> None:
    """Each try takes 12 s: the second pause is cut to what is left of the budget, and after the third nothing is left."""
    clock = ManualClock()
    seen: list[int] = []

    def hangs(_: Discard) -> None:
        seen.append(clock.now_ms() - ManualClock.START_MS)
        clock.set(clock.now_ms() + 12_000)
        raise DeliveryError("no answer")

    stats = delivered_by(Destination(hangs), clock)
    assert seen == [0, 14_000, 30_000]
    assert (stats.undelivered, stats.failed_deliveries) == (1, 3)


def test_a_failure_that_is_no_oserror_is_tried_again_too(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Discard) -> None:
        if destination.tries == 1:
            raise ZeroDivisionError("a mistake in the destination")

    destination = Destination(broken)
    assert delivered_by(destination, ManualClock()).delivered == 1
    assert "the destination failed in an unexpected way" in caplog.text
    assert "ZeroDivisionError: a mistake in the destination" in caplog.text


def test_what_blocks_is_tried_for_ever_and_told_of_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    def down(_: Discard) -> None:
        if destination.tries <= 20:
            raise DeliveryError("the queue is down")

    destination = Destination(down)
    stats = delivered_by(destination, ManualClock(), on_undeliverable="block", discard_tries=1, discard_budget_s=0)
    assert (stats.delivered, stats.undelivered, stats.failed_deliveries) == (1, 0, 20)
    told = [record.args[1] for record in caplog.records if isinstance(record.args, tuple) and "next in" in record.getMessage()]
    assert told == [1, 2, 4, 8, 16]


def test_blocking_without_a_destination_is_refused() -> None:
    worker = Worker(checkpoints=MemoryCheckpointStore())
    with pytest.raises(ConfigError, match="on_undeliverable 'block' needs a destination") as refused:
        worker.add(failing(), MemoryStream("orders"), REFUSES, on_undeliverable="block")
    assert refused.value.parameter == "on_undeliverable"


# What is told of it.


def test_the_record_holds_what_the_service_said_last() -> None:
    answers = [
        Answer("function_error", {}, status_code=200, executed_version="3", function_error="Unhandled", request_id=f"00000000-{number:04}")
        for number in range(3)
    ]
    clock, sent = ManualClock(), list[dict[str, Any]]()
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    arn = "arn:aws:lambda:us-east-1:123456789012:function:handler:live"
    destination = Destination(lambda discard: sent.append(discard.invocation_record()))
    worker.add(failing(maximum_retry_attempts=2, function_arn=arn), stream_of(1, clock), ScriptedFunction(answers), destination)
    run_until_idle(worker, clock)
    worker.stop()
    (record,) = sent
    assert record["requestContext"] == {
        "requestId": "00000000-0002",
        "functionArn": arn,
        "condition": "RetryAttemptsExhausted",
        "approximateInvokeCount": 3,
    }
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "3", "functionError": "Unhandled"}


def test_a_record_that_grew_too_old_between_its_tries_says_how_often_it_was_tried() -> None:
    clock, sent, function = ManualClock(), list[dict[str, Any]](), ScriptedFunction(poison=lambda _: True)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    destination = Destination(lambda discard: sent.append(discard.invocation_record()))
    worker.add(failing(maximum_retry_attempts=-1, maximum_record_age_in_seconds=60), stream_of(1, clock), function, destination)
    stats = run_until_idle(worker, clock)
    worker.stop()
    (record,) = sent
    context = record["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RecordAgeExceeded", stats.invocations)
    assert stats.invocations > 1
    assert context["requestId"] == function.invocations[-1].request_id
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]


# Which destination.


def test_the_destination_of_the_mapping_is_opened_and_closed_by_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "discards.ndjson"
    clock = ManualClock()
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    config = {"OnFailure": {"Destination": f"file:{path}"}}
    worker.add(failing(destination_config=config), stream_of(1, clock), REFUSES, on_undeliverable="block")
    assert run_until_idle(worker, clock).delivered == 1
    worker.stop()
    assert json.loads(path.read_text())["requestContext"]["condition"] == "RetryAttemptsExhausted"
    refused = Worker(checkpoints=MemoryCheckpointStore())
    with pytest.raises(FileNotFoundError):
        refused.add(failing(destination_config={"OnFailure": {"Destination": f"file:{tmp_path}/no/x"}}), MemoryStream("orders"), REFUSES)


# Many discards.


def test_a_shard_with_a_thousand_discards_on_their_way_hands_nothing_out() -> None:
    engine, shard = one_shard(*range(1, 1101), batch_size=1, maximum_retry_attempts=0)
    discards = [engine.finish(take(engine).ticket, Outcome.failure(), NOW).discards[0] for _ in range(1000)]
    assert isinstance(engine.take(NOW), Wait)
    assert engine.stats(shard).unconfirmed_discards == 1000
    assert engine.confirm(discards[7].id, "delivered")
    ticket = take(engine).ticket
    assert isinstance(engine.take(NOW), Wait)
    engine.finish(ticket, Outcome.success(), NOW)
    engine.check_invariants()


def test_discards_that_wait_are_a_metric_and_hold_back_the_checkpoint() -> None:
    clock = ManualClock()

    def down(_: Discard) -> None:
        raise DeliveryError("the queue is down")

    destination, store, stream = Destination(down), MemoryCheckpointStore(), stream_of(3, clock)
    worker = Worker(checkpoints=store, clock=clock, seed=1)
    worker.add(failing(), stream, REFUSES, destination, on_undeliverable="block")
    with pytest.raises(AssertionError, match="not idle after 100000 ms"):
        run_until_idle(worker, clock, limit_ms=100_000)
    stats = worker.stats()
    assert (stats.discards, stats.unconfirmed, stats.delivered, stats.held_records) == (3, 3, 0, 0)
    assert stats.failed_deliveries == destination.tries > 3
    worker.stop()
    assert worker.summary().unconfirmed == 3

    # They come again, all of them.
    again = Worker(checkpoints=store, clock=clock, seed=2)
    again.add(failing(), stream, REFUSES, Destination(lambda _: None))
    stats = run_until_idle(again, clock)
    again.stop()
    assert (stats.records, stats.discards, stats.delivered, stats.unconfirmed) == (3, 3, 3, 0)


def test_a_second_ctrl_c_does_not_wait_for_a_delivery() -> None:
    sending, let_go = threading.Event(), threading.Event()

    def hangs(_: Discard) -> None:
        sending.set()
        let_go.wait()

    worker = Worker(checkpoints=MemoryCheckpointStore(), stop_timeout_s=3600)
    worker.add(failing(), stream_of(1), REFUSES, Destination(hangs))
    worker.start()
    sending.wait()
    worker._interrupted()
    worker._interrupted()
    summary = worker.join()
    let_go.set()
    assert (summary.reason, summary.unconfirmed, summary.delivered) == ("interrupted", 1, 0)


# Several at a time. Each of these hangs, and is ended by pytest's time limit, where one delivery waits for another.


def test_a_slow_destination_holds_up_no_other() -> None:
    quick_is_done = threading.Event()

    def slow(_: Discard) -> None:
        quick_is_done.wait()

    def quick(discard: Discard) -> None:
        if discard.last_sequence_number == last:
            quick_is_done.set()

    busy, other = stream_of(8), MemoryStream("others")
    numbers = [other.put("key", b"%d" % number)[1] for number in range(20)]
    last = numbers[-1]
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(failing(uuid="0b0f6b39-2c57-5d6e-8b11-5f6f0a9c5a3e"), busy, REFUSES, Destination(slow))
    worker.add(failing(uuid="1b0f6b39-2c57-5d6e-8b11-5f6f0a9c5a3e"), other, REFUSES, Destination(quick))
    summary = worker.run(until_idle=True)
    assert (summary.discards, summary.delivered, summary.unconfirmed) == (28, 28, 0)


def test_four_are_sent_to_a_destination_at_a_time() -> None:
    together = threading.Barrier(4)
    lock = threading.Lock()
    running = most = 0

    def send(_: Discard) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1

    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(failing(), stream_of(20), REFUSES, Destination(send))
    assert worker.run(until_idle=True).delivered == 20
    assert most == 4


def test_one_that_waits_for_its_next_try_holds_up_none_behind_it() -> None:
    others = threading.Semaphore(0)

    def send(discard: Discard) -> None:
        if discard.first_sequence_number != first:
            others.release()
            return
        if destination.tries_of_first == 0:
            destination.tries_of_first += 1
            raise DeliveryError("busy")
        for _ in range(9):
            others.acquire()

    class Counting(Destination):
        tries_of_first = 0

    stream = MemoryStream("orders")
    first = stream.put("key", b"0")[1]
    stream.put_many([("key", b"x")] * 9)
    destination = Counting(send)
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(failing(), stream, REFUSES, destination, discard_tries=20, discard_budget_s=3600)  # the first pause is 6 ms
    summary = worker.run(until_idle=True)
    assert (summary.delivered, summary.failed_deliveries, summary.undelivered) == (10, 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_of_many_that_fail_at_first_all_arrive(seed: int) -> None:
    """A lost wake-up would leave one of them behind, and the run would never end."""
    rng = random.Random(seed)
    failures = [rng.choice([0, 0, 0, 1, 2]) for _ in range(200)]
    left: dict[str, int] = {}
    lock = threading.Lock()

    def send(discard: Discard) -> None:
        with lock:
            first = str(discard.first_sequence_number)
            left[first] = left.get(first, failures[len(left) % 200]) - 1
            if left[first] >= 0:
                raise DeliveryError("busy")

    worker = Worker(checkpoints=MemoryCheckpointStore())
    destination = Destination(send)
    worker.add(failing(parallelization_factor=10), stream_of(200), REFUSES, destination, discard_tries=20, discard_budget_s=600)
    summary = worker.run(until_idle=True)
    counts = (summary.delivered, summary.failed_deliveries, summary.undelivered)
    assert counts == (200, sum(failures), 0), f"seed {seed}"


def test_stopping_sends_what_is_due_and_leaves_what_waits_for_its_next_try() -> None:
    failed_once = threading.Event()

    def send(discard: Discard) -> None:
        if discard.first_sequence_number == first:
            failed_once.set()
            raise DeliveryError("the queue is down")

    stream = MemoryStream("orders")
    first = stream.put("key", b"0")[1]
    stream.put_many([("key", b"x")] * 9)
    store = MemoryCheckpointStore()
    worker = Worker(checkpoints=store)
    worker.add(failing(), stream, REFUSES, Destination(send), discard_tries=2, discard_budget_s=3600)
    worker.start()
    failed_once.wait()
    worker.stop()
    summary = worker.join()
    assert (summary.unconfirmed, summary.failed_deliveries, summary.delivered) == (1, 1, summary.discards - 1)

    again = Worker(checkpoints=store)
    again.add(failing(), stream, REFUSES, Destination(lambda _: None))
    # Behind a discard that is not confirmed no record counts as done: all of the lane comes again.
    assert again.run(until_idle=True).delivered == 10


def test_a_destination_that_ends_its_thread_ends_the_run() -> None:
    def exits(_: Discard) -> None:
        raise SystemExit(3)

    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(failing(), stream_of(1), REFUSES, Destination(exits))
    with pytest.raises(SystemExit):
        worker.run(until_idle=True)
