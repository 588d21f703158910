"""`Engine.invoke_ready` does what `take`, `Batch.event`, `interpret` and `finish` do one by one, and lets no batch hang."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, mapping, one_shard, page, wait_until
from streamcore import Answer, Discard, Engine, Page, Wait, interpret

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[dict[str, Any]], object]
    Way = Callable[[Engine, Handler, int, Callable[[Discard], object]], int | None]


def nothing(_: object) -> None:
    """Do nothing."""


def step_by_step(engine: Engine, handler: Handler, now: int, on_discard: Callable[[Discard], object]) -> int | None:
    """Do it with the calls that there are for each step."""
    while not isinstance(work := engine.take(now), Wait):
        if isinstance(work, Discard):
            on_discard(work)
            continue
        try:
            answer = Answer("success", handler(work.event()))
        except ValueError:
            answer = Answer("function_error", function_error="Unhandled")
        for discard in engine.finish(work.ticket, interpret(work, answer), now).discards:
            on_discard(discard)
    return work.at


def in_one_call(engine: Engine, handler: Handler, now: int, on_discard: Callable[[Discard], object]) -> int | None:
    return engine.invoke_ready(handler, lambda: now, on_discard, on_error=nothing)


class Told:
    """A handler that fails as the records and a seed say, and what it was called with."""

    def __init__(self, seed: int, *, windows: bool) -> None:
        self._random = random.Random(seed)
        self._windows = windows
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> object:
        self.events.append(event)
        if event["Records"] and self._random.random() < 0.2:
            raise ValueError("now and then")
        poison = [record["kinesis"]["sequenceNumber"] for record in event["Records"] if record["kinesis"]["partitionKey"] == "poison"]
        answer: dict[str, Any] = {"batchItemFailures": [{"itemIdentifier": poison[0]}]} if poison else {}
        if self._windows and self._random.random() < 0.9:
            answer["state"] = {"count": event["state"].get("count", 0) + len(event["Records"])}
        return answer or None


def run(way: Way, seed: int, parameters: dict[str, Any]) -> tuple[object, ...]:
    """Run 200 records to their end, by the time that the engine asks for, and return all that can be seen of it."""
    rng = random.Random(seed)
    handler = Told(seed, windows="tumbling_window_in_seconds" in parameters)
    engine = Engine(seed=seed, trace=True)
    shard = engine.add_shard(mapping(uuid="5f1f6f0e-9e5c-4b8e-8a51-0f5f0e1f6f0e", **parameters), "shard", now=NOW)
    discards: list[bytes] = []

    def give_up(discard: Discard) -> None:
        discards.append(discard.json())
        assert engine.confirm(discard.id, "given_up")

    records = [(rng.choice(["poison", *"abcdefgh"]), bytes([index]), NOW + index * 50, str(index + 1)) for index in range(200)]
    engine.offer(shard, Page.from_records(records), NOW, millis_behind=0)
    engine.end(shard, NOW)
    now: int | None = NOW
    for _ in range(10_000):
        if now is None:
            break
        now = way(engine, handler, now, give_up)
        engine.check_invariants()
    stats = engine.stats(shard)
    assert (stats.state, stats.held_records) == ("ended", 0), seed
    checkpoint = engine.checkpoint(shard)
    assert checkpoint is not None
    return engine.trace(), json.dumps(handler.events), discards, checkpoint.blob, stats.succeeded, stats.retries


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "parameters",
    [
        {"batch_size": 1, "maximum_retry_attempts": 1},
        {"batch_size": 7, "maximum_retry_attempts": 2, "parallelization_factor": 3, "bisect_batch_on_function_error": True},
        {"batch_size": 20, "maximum_retry_attempts": 3, "function_response_types": ("ReportBatchItemFailures",)},
        {"batch_size": 50, "maximum_retry_attempts": 2, "maximum_record_age_in_seconds": 60, "parallelization_factor": 10},
        {
            "batch_size": 9,
            "maximum_retry_attempts": 2,
            "tumbling_window_in_seconds": 2,
            "function_response_types": ("ReportBatchItemFailures",),
        },
    ],
    ids=["one", "bisect", "partial", "age", "window"],
)
def test_both_ways_are_the_same_to_the_last_byte(parameters: dict[str, Any], seed: int) -> None:
    one_by_one = run(step_by_step, seed, parameters)
    assert run(in_one_call, seed, parameters) == one_by_one
    assert json.loads(str(one_by_one[1])), "the handler was called"


def test_every_batch_that_is_ready_is_invoked_and_the_next_instant_returned() -> None:
    engine, _ = one_shard(1, 2, 3, batch_size=2)
    sizes: list[int] = []
    never: list[Discard] = []
    assert engine.invoke_ready(lambda event: sizes.append(len(event["Records"])), lambda: NOW, never.append) is None
    assert (sizes, never, wait_until(engine)) == ([2, 1], [], None)
    engine, shard = one_shard(batch_size=2, maximum_batching_window_in_seconds=5)
    engine.offer(shard, page(1), NOW)
    assert engine.invoke_ready(nothing, lambda: NOW, never.append) == NOW + 5000
    assert sizes == [2, 1]


def test_the_clock_is_asked_before_the_first_and_after_every_batch() -> None:
    engine, shard = one_shard(1, 2, 3, batch_size=1)
    instants = iter([NOW, NOW + 10, NOW + 30, NOW + 60])
    engine.invoke_ready(nothing, lambda: next(instants), nothing)
    assert list(instants) == []
    assert engine.stats(shard).handler_ms[1] == 60, "10, 20 and 30 ms"


def test_an_error_of_the_handler_is_told_and_fails_the_batch() -> None:
    engine, shard = one_shard(1, maximum_retry_attempts=3)
    told: list[BaseException] = []

    def broken(event: dict[str, Any]) -> None:
        raise ValueError("no")

    at = engine.invoke_ready(broken, lambda: NOW, nothing, told.append)
    assert at is not None
    assert at > NOW, "a retry after a pause"
    assert [str(error) for error in told] == ["no"]
    assert engine.stats(shard).lanes[0]["state"] == "parked"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_anybody_to_tell_an_error_goes_to_the_unraisable_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException | None] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))
    engine, _ = one_shard(1)

    def broken(event: dict[str, Any]) -> None:
        raise ValueError("no")

    engine.invoke_ready(broken, lambda: NOW, nothing)
    assert [str(error) for error in seen] == ["no"]


def test_an_interrupt_is_raised_and_its_batch_spends_no_attempt() -> None:
    engine, shard = one_shard(1, maximum_retry_attempts=0)

    def interrupted(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.invoke_ready(interrupted, lambda: NOW, nothing)
    lane = engine.stats(shard).lanes[0]
    assert (lane["state"], lane["attempts"]) == ("parked", 0)


def test_an_error_of_a_callback_is_raised_after_the_batch_is_finished_and_all_its_discards_are_told() -> None:
    engine, shard = one_shard(1, 2, key="key", maximum_retry_attempts=0, maximum_record_age_in_seconds=60, batch_size=1)
    clock = iter([NOW])
    with pytest.raises(StopIteration):
        engine.invoke_ready(nothing, lambda: next(clock), nothing)
    assert (engine.stats(shard).succeeded, engine.stats(shard).in_flight) == (1, 0)

    told: list[Discard] = []

    def broken(discard: Discard) -> None:
        told.append(discard)
        raise ValueError("full")

    def fails(event: dict[str, Any]) -> None:
        raise KeyError("poison")

    with pytest.raises(ValueError, match="full"):
        engine.invoke_ready(fails, lambda: NOW, broken, nothing)
    assert [discard.first_sequence_number for discard in told] == ["2"]
    assert engine.stats(shard).in_flight == 0


def test_an_asynchronous_handler_is_refused_by_name() -> None:
    engine, _ = one_shard(1)
    told: list[BaseException] = []

    async def handler(event: dict[str, Any]) -> None:
        raise AssertionError("it never runs")

    engine.invoke_ready(handler, lambda: NOW, nothing, told.append)
    assert [str(error) for error in told] == ["the handler returned an awaitable; Engine.invoke_ready calls synchronous handlers"]


def test_an_instant_that_is_none_is_an_error_that_leaves_nothing_in_flight() -> None:
    engine, shard = one_shard(1)
    with pytest.raises(TypeError):
        engine.invoke_ready(nothing, lambda: "now", nothing)  # type: ignore[arg-type, return-value]
    assert engine.stats(shard).in_flight == 0
    assert engine.stats(shard).held_records == 1, "it was not handed out"
