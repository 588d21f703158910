"""Tumbling windows from the outside: events, states, closing calls and discards of a worker on a manual clock."""

from __future__ import annotations

import gzip
import json
import math
import random
import subprocess
import sys
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest

from flight_hours import EXAMPLES, FLIGHTS, by_hour, by_hour_of_pandas, flights_command
from kept import Kept
from streamcore import (
    Answer,
    Engine,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Outcome,
    Wait,
    Worker,
    dynamodb_page,
    interpret,
)
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle
from streamcore.windows import STATE_BYTES_MAX, WindowStateError, returned_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamcore import Batch

START = 1_700_000_000_000  # a multiple of ten seconds
GRACE = 120_000
SEED = 20130101


def mapping(**options: Any) -> EventSourceMapping:
    return EventSourceMapping(**{"starting_position": "TRIM_HORIZON", "tumbling_window_in_seconds": 10, **options})


class Bench:
    """A worker over a stream in memory, whose handler keeps every event and adds its payloads up."""

    def __init__(self, handler: Callable[[dict[str, Any]], Any] | None = None, **options: Any) -> None:
        self.clock = ManualClock(START)
        self.stream = MemoryStream("orders", clock=self.clock)
        self.events: list[dict[str, Any]] = []
        self.kept = Kept()
        self.store = MemoryCheckpointStore()
        self.answer = handler or added_up
        self.worker = self.make(**options)

    def make(self, **options: Any) -> Worker:
        worker = Worker(checkpoints=self.store, clock=self.clock, seed=SEED)
        worker.add(mapping(**options), self.stream, LocalFunction(self.handle), self.kept)
        return worker

    def handle(self, event: dict[str, Any], _context: object) -> Any:
        self.events.append(json.loads(json.dumps(event)))
        return self.answer(event)

    def put(self, *payloads: str, after_ms: int = 0) -> None:
        self.clock.advance(after_ms)
        for payload in payloads:
            self.stream.put("key", payload.encode())

    def run(self) -> list[str]:
        """Run until idle; say which events came since the last call."""
        self.events.clear()
        run_until_idle(self.worker, self.clock)
        return [shown(event) for event in self.events]


def added_up(event: dict[str, Any]) -> dict[str, Any]:
    state = event["state"]
    for payload in payloads(event):
        state[payload] = state.get(payload, 0) + 1
    return {"state": state}


def payloads(event: dict[str, Any]) -> list[str]:
    return [b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def shown(event: dict[str, Any]) -> str:
    final = "final" if event["isFinalInvokeForWindow"] else ",".join(payloads(event))
    early = " early" if event["isWindowTerminatedEarly"] else ""
    return f"{event['window']['start'][14:19]} {final}{early} {json.dumps(event['state'])}"


def test_the_event_of_a_window_key_by_key() -> None:
    bench = Bench()
    bench.put("a", after_ms=1)
    bench.run()
    (event,) = bench.events
    assert list(event) == ["Records", "shardId", "eventSourceARN", "window", "state", "isFinalInvokeForWindow", "isWindowTerminatedEarly"]
    assert event["shardId"] == "shardId-000000000000"
    assert event["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/memory/stream"
    assert event["window"] == {"start": "2023-11-14T22:13:20Z", "end": "2023-11-14T22:13:30Z"}
    assert event["state"] == {}
    assert event["isFinalInvokeForWindow"] is False


def test_state_goes_from_batch_to_batch_and_to_the_closing_call() -> None:
    bench = Bench(batch_size=2)
    bench.put("a", "b", "a")
    assert bench.run() == ["13:20 a,b {}", '13:20 a {"a": 1, "b": 1}']
    bench.put("c", after_ms=10_000)
    assert bench.run() == ['13:20 final {"a": 2, "b": 1}', "13:30 c {}"]
    # Two windows without records, which make no call.
    bench.put("d", after_ms=30_000)
    assert bench.run() == ['13:30 final {"c": 1}', "14:00 d {}"]
    assert bench.worker.stats().windows_closed == 2


def test_a_window_that_nothing_follows_closes_after_the_grace() -> None:
    bench = Bench()
    bench.put("a")
    bench.run()
    bench.clock.advance(10_000 + GRACE - 1)
    assert bench.run() == []
    bench.clock.advance(1)
    assert bench.run() == ['13:20 final {"a": 1}']


def test_a_window_closes_with_its_shard_and_children_begin_anew() -> None:
    bench = Bench()
    bench.put("a")
    bench.run()
    (shard,) = bench.stream.list_shards()
    bench.stream.split(shard.shard_id)
    bench.put("b")
    assert bench.run() == ['13:20 final {"a": 1}', "13:20 b {}"]
    assert bench.events[0]["shardId"] != bench.events[1]["shardId"]


def test_state_is_kept_over_a_restart_with_the_records_that_made_it() -> None:
    bench = Bench()
    bench.put("a")
    bench.run()
    bench.worker.stop()
    bench.put("b", after_ms=1)
    bench.worker = bench.make()
    assert bench.run() == ['13:20 b {"a": 1}']
    # A mapping that is disabled runs nothing; its windows wait.
    bench.worker.stop()
    bench.worker = bench.make(enabled=False)
    assert bench.run() == []
    bench.worker.stop()
    bench.put("c", after_ms=10_000)
    # The open window keeps its bounds under another size.
    bench.worker = bench.make(tumbling_window_in_seconds=60)
    assert bench.run() == ['13:20 final {"a": 1, "b": 1}', "13:00 c {}"]


@pytest.mark.parametrize(
    "payload",
    [None, "", {}, [], {"batchItemFailures": []}, {"state": None}, {"state": [1]}, {"state": "x"}, {"State": {}}, "text", 7],
)
def test_an_answer_without_a_state_fails(payload: object, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(lambda _: payload, maximum_retry_attempts=1)
    bench.put("a")
    assert bench.run() == ["13:20 a {}", "13:20 a {}"]
    (discard,) = bench.kept.sent
    assert discard.invocation_record()["responseContext"]["functionError"] is None
    warnings = [record for record in caplog.records if record.levelname == "WARNING" and "must return" in record.getMessage()]
    assert [(record.__dict__["attempt"], record.name) for record in warnings] == [(1, "streamcore.function"), (2, "streamcore.function")]


def test_what_fails_changes_no_state_and_what_is_done_in_part_does() -> None:
    answers: list[dict[str, Any]] = []

    def handler(event: dict[str, Any]) -> dict[str, Any]:
        names = payloads(event)
        if "bad" in names:
            number = event["Records"][names.index("bad")]["kinesis"]["sequenceNumber"]
            done = names[: names.index("bad")]
            answer = {"state": {**event["state"], **dict.fromkeys(done or ["wrong"], 1)}, "batchItemFailures": [{"itemIdentifier": number}]}
            answers.append(answer)
            return answer
        return added_up(event)

    bench = Bench(handler, maximum_retry_attempts=1, function_response_types=["ReportBatchItemFailures"])
    bench.put("a", "b", "bad")
    bench.put("c", after_ms=10_000)
    assert bench.run() == [
        "13:20 a,b,bad {}",
        '13:20 bad {"a": 1, "b": 1}',
        '13:20 bad {"a": 1, "b": 1}',
        '13:20 final {"a": 1, "b": 1}',
        "13:30 c {}",
    ]
    (discard,) = bench.kept.sent
    assert json.loads(discard.json())["state"] == {"a": 1, "b": 1}


def test_bisect_hands_the_state_from_the_left_half_to_the_right() -> None:
    def handler(event: dict[str, Any]) -> dict[str, Any]:
        if len(event["Records"]) > 2:
            raise ValueError
        return added_up(event)

    bench = Bench(handler, bisect_batch_on_function_error=True)
    bench.put("a", "b", "c", "d")
    assert bench.run() == ["13:20 a,b,c,d {}", "13:20 a,b {}", '13:20 c,d {"a": 1, "b": 1}']


def test_a_closing_call_that_keeps_failing_goes_to_the_destination_and_the_next_window_begins() -> None:
    def handler(event: dict[str, Any]) -> dict[str, Any]:
        if event["isFinalInvokeForWindow"]:
            raise ValueError
        return added_up(event)

    bench = Bench(handler, maximum_retry_attempts=1)
    bench.put("a")
    bench.put("b", after_ms=10_000)
    assert bench.run() == ["13:20 a {}", '13:20 final {"a": 1}', '13:20 final {"a": 1}', "13:30 b {}"]
    (discard,) = bench.kept.sent
    record = discard.invocation_record()
    assert list(record) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo", "timeWindowInfo"]
    assert record["requestContext"]["approximateInvokeCount"] == 2
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["KinesisBatchInfo"] == {
        "shardId": "shardId-000000000000",
        "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/memory/stream",
    }
    assert record["timeWindowInfo"] == {
        "window": {"start": "2023-11-14T22:13:20Z", "end": "2023-11-14T22:13:30Z"},
        "isFinalInvokeForWindow": True,
        "isWindowTerminatedEarly": False,
    }
    assert (discard.record_count, discard.first_sequence_number, discard.last_sequence_number) == (0, None, None)
    stats = bench.worker.stats()
    assert (stats.records, stats.discards, stats.discarded_records, stats.windows_closed) == (2, 1, 0, 1)


def test_a_closing_call_without_a_destination_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "one.ndjson").write_text('{"key": "a"}\n')
    (tmp_path / "handlers.py").write_text("def handle(event, context):\n    return {'state': {}} if event['Records'] else None\n")
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:one.ndjson?key=key", "--function", "handlers.py:handle"]
    options = ["--tumbling-window-in-seconds", "10", "--maximum-retry-attempts", "0", "--state", ":memory:", "--until-idle"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(RetryAttemptsExhausted, 1 invocations); the mapping has no destination, it is dropped" in done.stderr
    # It has no records, so that no condition of records is told.
    assert "  discarded   0\n" in done.stdout
    assert "discards      1\n" in done.stdout


def test_a_discarded_batch_of_a_window_tells_of_it() -> None:
    def handler(event: dict[str, Any]) -> dict[str, Any]:
        if event["Records"]:
            raise ValueError
        return added_up(event)

    bench = Bench(handler, maximum_retry_attempts=0)
    bench.put("a")
    bench.run()
    (discard,) = bench.kept.sent
    info = discard.invocation_record()["timeWindowInfo"]
    assert info["window"]["start"] == "2023-11-14T22:13:20Z"
    assert (info["isFinalInvokeForWindow"], info["isWindowTerminatedEarly"]) == (False, False)
    bench.clock.advance(10_000 + GRACE)
    assert bench.run() == ["13:20 final {}"], "the function saw a record of the window"


def test_too_much_state_ends_the_window_early_and_it_begins_again() -> None:
    def handler(event: dict[str, Any]) -> dict[str, Any]:
        answer = added_up(event)
        if "large" in payloads(event):
            # `{"large":1,"pad":"..."}` of exactly one byte too many
            answer["state"]["pad"] = "x" * (STATE_BYTES_MAX + 1 - len('{"large":1,"pad":""}'))
        return answer

    bench = Bench(handler, batch_size=1)
    bench.put("large", "a", "b")
    bench.run()
    assert [(event["isFinalInvokeForWindow"], event["isWindowTerminatedEarly"]) for event in bench.events] == [
        (False, False),
        (True, True),
        (False, False),
        (False, False),
    ]
    assert len(bench.events[1]["state"]["pad"]) > 1_000_000, "the closing call gets the state whole"
    assert bench.events[1]["Records"] == []
    assert shown(bench.events[2]) == "13:20 a {}"
    assert {event["window"]["start"] for event in bench.events} == {"2023-11-14T22:13:20Z"}
    bench.clock.advance(10_000 + GRACE)
    assert bench.run() == ['13:20 final {"a": 1, "b": 1}']
    stats = bench.worker.stats()
    assert (stats.windows_closed, stats.windows_ended_early) == (1, 1)


class FakeWindow:
    state_bytes_max = 2_000_000


def test_the_limit_of_a_state_is_counted_in_bytes_of_json() -> None:
    window: Any = FakeWindow()
    room = STATE_BYTES_MAX - len('{"k":""}')
    assert not returned_state(window, {"state": {"k": "x" * room}}).ends_window
    assert returned_state(window, {"state": {"k": "x" * (room + 1)}}).ends_window
    assert returned_state(window, {"state": {"k": "\u00e9" * (room // 2 + 1)}}).ends_window
    assert returned_state(window, {"state": {"k": "\u00e9"}}).state == '{"k":"\u00e9"}'.encode()
    for wrong in (math.nan, "\ud800"):
        with pytest.raises(WindowStateError, match="is not JSON"):
            returned_state(window, {"state": {"k": wrong}})
    with pytest.raises(WindowStateError, match="can hold 2000000"):
        returned_state(window, {"state": {"k": "x" * 2_000_000}})


def taken(engine: Engine) -> Batch:
    batch = engine.take(START)
    assert not isinstance(batch, Wait)
    assert batch.__class__.__name__ == "Batch"
    return batch  # type: ignore[return-value] # the line above says so


def test_interpret_gives_the_outcome_the_state() -> None:
    engine = Engine()
    stream = mapping(
        event_source_arn="arn:aws:dynamodb:us-east-1:123456789012:table/items/stream/2026-01-30T12:00:05.123",
        function_response_types=["ReportBatchItemFailures"],
    )
    shard = engine.add_shard(stream, "shard", now=START, format="dynamodb")
    engine.offer(shard, dynamodb_page([change("1", "INSERT", 1), change("2", "INSERT", 2)]), START)
    batch = taken(engine)
    window = batch.window
    assert window is not None
    assert repr(window) == "Window(2023-11-14T22:13:20Z..2023-11-14T22:13:30Z, 2 bytes of state)"
    assert (window.start_ms, window.end_ms, window.state, window.is_final) == (START, START + 10_000, b"{}", False)
    assert json.loads(batch.json()) == batch.event()
    whole = interpret(batch, Answer("success", {"state": {"1": 2}}))
    assert whole == Outcome.success(window_state=b'{"1":2}')
    failures = [{"itemIdentifier": "2"}]
    part = interpret(batch, Answer("success", {"state": {"1": 1}, "batchItemFailures": failures}))
    assert (part.kind, part.index, part.window_state, part.ends_window) == ("partial", 1, b'{"1":1}', False)
    assert interpret(batch, Answer("success", {"batchItemFailures": failures})).kind == "failure"
    assert interpret(batch, ScriptedFunction.throttled()) == Outcome.throttled()
    engine.finish(batch.ticket, whole, START)
    engine.end(shard, START)
    closing = taken(engine)
    assert repr(closing) == "Batch(closing call of shard, attempt 1)"
    assert (len(closing), closing.first_sequence_number, closing.last_arrival_ms) == (0, None, None)
    assert json.loads(closing.json()) == closing.event()
    assert interpret(closing, Answer("success", None)).kind == "failure"
    checkpoint = engine.checkpoint(shard)
    assert checkpoint is not None
    assert checkpoint.inspect(checkpoint.blob)["window"] == {
        "start_ms": START,
        "end_ms": START + 10_000,
        "phase": "open",
        "state": '{"1":2}',
    }
    engine.finish(closing.ticket, interpret(closing, Answer("success", {"state": {}})), START)
    assert engine.stats(shard).state == "ended"


def change(number: str, name: str, item: int) -> dict[str, Any]:
    keys = {"Id": {"N": str(item)}}
    images = {"REMOVE": ["OldImage"], "INSERT": ["NewImage"], "MODIFY": ["NewImage", "OldImage"]}[name]
    return {
        "eventID": f"{int(number):032x}",
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": START // 1000,
            "Keys": keys,
            **{image: {**keys, "Message": {"S": "New item!"}} for image in images},
            "SequenceNumber": number,
            "SizeBytes": 26,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    }


def test_the_developer_guides_example_mended() -> None:
    engine = Engine()
    arn = "arn:aws:dynamodb:us-east-1:123456789012:table/items/stream/2026-01-30T12:00:05.123"
    shard = engine.add_shard(mapping(event_source_arn=arn, tumbling_window_in_seconds=120), "shard", now=START, format="dynamodb")
    changes = [change("111", "INSERT", 101), change("222", "MODIFY", 101), change("333", "REMOVE", 101), change("334", "INSERT", 7)]
    engine.offer(shard, dynamodb_page(changes), START)
    engine.end(shard, START)
    function = LocalFunction(f"{EXAMPLES / 'tumbling_window.py'}:lambda_handler")
    states = []
    while not isinstance(batch := engine.take(START), Wait):
        answer: Any = function.invoke(batch)  # type: ignore[arg-type] # nothing is discarded here
        assert answer.kind == "success", answer.payload
        states.append((len(batch), answer.payload["state"]))  # type: ignore[arg-type] # as above
        engine.finish(batch.ticket, interpret(batch, answer), START)  # type: ignore[union-attr,arg-type] # as above
    assert states == [(4, {"101": 3, "7": 1}), (0, {"101": 3, "7": 1})]


# ---- the flights of three months ----


def test_flights_by_carrier_and_hour_are_those_of_pandas(tmp_path: Path) -> None:
    done = subprocess.run(flights_command(FLIGHTS, tmp_path), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert by_hour(lines) == by_hour_of_pandas(FLIGHTS)
    with gzip.open(FLIGHTS, "rt") as file:
        next(file)
        hours = {(row.rpartition(",")[2].strip(), row.partition(",")[0]) for row in file}
    assert f"windows       {len(lines):,} closed" in done.stdout
    assert len(lines) <= len(hours)


@pytest.mark.parametrize("interval", ["0", "0.05"])
def test_killed_at_any_point_the_sums_are_those_of_a_run_without_faults(tmp_path: Path, interval: str) -> None:
    rng = random.Random(SEED)
    log = tmp_path / "windows.ndjson"
    command = flights_command(FLIGHTS, tmp_path, "--checkpoint-interval", interval, "--json", "--batch-size", "50")
    for kill in range(5):
        # The handler writes to standard output, which --json turns into standard error.
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            with log.open("a") as kept:
                for _ in range(rng.randint(1, 40)):
                    line = process.stderr.readline()
                    assert line, f"seed {SEED}: the run ended before kill {kill + 1}"
                    kept.write(line)
            process.kill()
            rest = process.stderr.read()
        with log.open("a") as kept:
            # The last line may be torn.
            kept.write("".join(line for line in rest.splitlines(keepends=True) if line.endswith("\n")))
    last = subprocess.run([*command, "--checkpoint-interval", "1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    lines = [line for line in [*log.read_text().splitlines(), *last.stderr.splitlines()] if line.startswith("{")]
    assert by_hour(lines) == by_hour_of_pandas(FLIGHTS), f"seed {SEED}"
    assert json.loads(last.stdout)["windows_closed"] > 0
