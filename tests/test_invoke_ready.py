"""`Engine.invoke_ready` does what `take`, `Batch.event`, `interpret` and `finish` do one by one, and lets no batch hang."""

from __future__ import annotations

import copy
import gc
import json
import random
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, mapping, one_shard, page, take, wait_until
from streamcore import Answer, Discard, Engine, Outcome, Page, Wait, interpret

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


def put_back_in_another_order(event: dict[str, Any]) -> None:
    record = event["Records"][0]
    record["eventSource"] = record.pop("eventSource")


def swap(event: dict[str, Any]) -> None:
    record = event["Records"][0]
    record["eventID"], record["kinesis"] = record["kinesis"], record["eventID"]


# What handlers do with an event. What they keep is what they give back.
CHANGES: list[Callable[[dict[str, Any]], object]] = [
    nothing,
    nothing,
    nothing,
    lambda event: event,
    lambda event: event["Records"],
    lambda event: event["Records"][0],
    lambda event: event["Records"][0]["kinesis"],
    lambda event: list(event["Records"][0]["kinesis"].values()),
    lambda event: iter(event["Records"][0]["kinesis"].items()),
    lambda event: event.clear(),
    lambda event: event.update(more=1),
    lambda event: event["Records"].append(event["Records"][0]),
    lambda event: event["Records"].clear(),
    lambda event: event["Records"].insert(0, {}),
    lambda event: event["Records"].reverse(),
    lambda event: event["Records"][0].update(eventName="another"),
    lambda event: event["Records"][0].update(more=[event]),
    lambda event: event["Records"][0].pop("awsRegion"),
    lambda event: event["Records"][0].update(kinesis=dict(event["Records"][0]["kinesis"])),
    lambda event: event["Records"][0]["kinesis"].update(data=b"decoded"),
    lambda event: event["Records"][0]["kinesis"].update(data="another text"),
    lambda event: event["Records"][0]["kinesis"].update(kinesisSchemaVersion="2.0"),
    lambda event: event["Records"][0]["kinesis"].update(more=event),
    put_back_in_another_order,
    swap,
    lambda event: event["Records"][0]["kinesis"]["no such name"],
]


def event_of(arn: str, shard_id: str, record: tuple[str, bytes, int, str]) -> str:
    """Return the event of a batch of one record, made from its JSON."""
    engine = Engine()
    shard = engine.add_shard(mapping(batch_size=1, event_source_arn=arn), shard_id, now=NOW)
    engine.offer(shard, Page.from_records([record]), NOW)
    return json.dumps(json.loads(take(engine).json()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shards", [1, 2])
def test_each_event_is_as_new_whatever_the_handler_did_with_the_one_before(shards: int, seed: int) -> None:
    rng = random.Random(seed)
    engine = Engine()
    records = [
        (rng.choice(["a", "b", '"', "\u00e9"]), rng.randbytes(number % 9), NOW + number * 250, str(number)) for number in range(1, 601)
    ]
    expected: dict[str, str] = {}
    for number in range(shards):
        arn, shard_id = f"arn:aws:kinesis:us-east-{number}:123456789012:stream/orders", f"shard-{number}"
        parameters = {"batch_size": 1, "parallelization_factor": 3, "maximum_retry_attempts": 0, "event_source_arn": arn}
        engine.offer(engine.add_shard(mapping(**parameters), shard_id, now=NOW), Page.from_records(records), NOW)
        expected |= {f"{shard_id}:{record[3]}": event_of(arn, shard_id, record) for record in records}
    came: dict[str, str] = {}
    kept: list[tuple[object, object]] = []

    def handler(event: dict[str, Any]) -> None:
        came[event["Records"][0]["eventID"]] = json.dumps(event)
        found = rng.choice(CHANGES)(event)
        if isinstance(found, (dict, list)):
            kept.append((found, copy.deepcopy(found)))

    engine.invoke_ready(handler, lambda: NOW, lambda discard: engine.confirm(discard.id, "given_up"), nothing)
    assert came == expected, seed
    assert kept
    assert all(now == then for now, then in kept), (seed, "nobody fills in what the handler has kept")


def test_what_a_handler_puts_into_an_event_goes_when_the_handler_has_returned() -> None:
    class Thing:
        pass

    engine, _ = one_shard(1, 2, 3, 4, batch_size=1)
    things: list[weakref.ref[Thing]] = []
    gone: list[bool] = []

    def handler(event: dict[str, Any]) -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        event["Records"][0]["kinesis"]["data"] = thing

    def clock() -> int:
        gone.extend(thing() is None for thing in things)
        return NOW

    engine.invoke_ready(handler, clock, nothing)
    assert (len(things), all(gone)) == (4, True)


def test_an_event_that_nobody_keeps_is_used_again_and_goes_with_the_call() -> None:
    engine, _ = one_shard(*range(1, 101), batch_size=1)
    lists: list[int] = []
    before = len(gc.get_objects())
    engine.invoke_ready(lambda event: lists.append(id(event["Records"])), lambda: NOW, nothing)
    assert len(set(lists[1:])) == 1, "the first event of a shard is made apart"
    assert len(gc.get_objects()) < before + 50, "nothing is left of the events"


def test_a_shard_that_its_handler_removes_takes_no_answer() -> None:
    engine, shard = one_shard(1, 2, batch_size=1, key=None, function_response_types=("ReportBatchItemFailures",))

    def handler(event: dict[str, Any]) -> object:
        engine.remove(shard)
        return {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["kinesis"]["sequenceNumber"]}]}

    assert engine.invoke_ready(handler, lambda: NOW, nothing) is None
    assert engine.done


def test_whoever_calls_the_engine_from_a_handler_or_the_collector_finds_it_free() -> None:
    engine, shard = one_shard(*range(1, 201), batch_size=1, key=None, parallelization_factor=5)
    kept: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    collections = 0

    def handler(event: dict[str, Any]) -> None:
        kept.append(event)
        if len(kept) < 50:
            batch = take(engine)
            taken.append(batch.event())
            engine.finish(batch.ticket, Outcome.success(), NOW)
        elif len(kept) == 50:
            engine.invoke_ready(kept.append, lambda: NOW, nothing)

    def look(_phase: str, _info: dict[str, int]) -> None:
        nonlocal collections
        collections += 1
        assert engine.stats(shard).in_flight <= 3

    thresholds = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(1)
    try:
        engine.invoke_ready(handler, lambda: NOW, nothing)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(look)
    assert collections > len(kept), "the collector runs as often as events are kept"
    numbers = sorted(int(record["kinesis"]["sequenceNumber"]) for event in kept + taken for record in event["Records"])
    assert numbers == list(range(1, 201))
    assert engine.stats(shard).succeeded == 200


def test_threads_that_invoke_side_by_side_share_no_event() -> None:
    engine, shard = one_shard(batch_size=1, parallelization_factor=10)
    engine.offer(shard, page(*range(1, 2001)), NOW)
    came: list[int] = []

    def handler(event: dict[str, Any]) -> None:
        (record,) = event["Records"]
        number = record["kinesis"]["sequenceNumber"]
        for _ in range(20):  # the other threads have their turns here
            assert (record["eventID"], record["kinesis"]["partitionKey"]) == (f"shardId-000000000000:{number}", f"key-{number}")
        came.append(int(number))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(engine.invoke_ready, handler, lambda: NOW, nothing, raise_it) for _ in range(4)]
        for call in calls:
            call.result()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(came) == list(range(1, 2001))
    assert engine.stats(shard).succeeded == 2000


def raise_it(error: BaseException) -> None:
    raise error
