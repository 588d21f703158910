"""Handlers that take a batch in place of an event: what they are called with, and that all else is as with events."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest

from engines import NOW, mapping, take
from flight_hours import EXAMPLES, FLIGHTS
from kept import Kept
from streamcore import (
    Answer,
    Batch,
    ConfigError,
    Engine,
    EventSourceMapping,
    Function,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    ProcessFunction,
    RecordedFunction,
    Worker,
    dynamodb_page,
    takes_batch,
)
from streamcore.testing import ManualClock, recorded_events, run_until_idle

if TYPE_CHECKING:
    from pathlib import Path


def run(function: Function, payloads: list[bytes], **options: Any) -> list[bytes]:
    """Run a function over records of one key, a second apart, and return the payloads of those discarded, one record at a time."""
    clock, kept = ManualClock(), Kept()
    stream = MemoryStream("orders", clock=clock)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    options = {"starting_position": "TRIM_HORIZON", "maximum_retry_attempts": 0, **options}
    worker.add(EventSourceMapping(**options), stream, function, kept)
    numbered: dict[str | None, bytes] = {}
    for payload in payloads:
        _, number = stream.put("key", payload)
        numbered[number] = payload
        clock.advance(1000)
    stream.close_shards()
    run_until_idle(worker, clock)
    worker.stop()
    assert all(discard.record_count == 1 for discard in kept.sent)
    return [numbered[discard.first_sequence_number] for discard in kept.sent]


def test_the_decorator_gives_the_handler_back() -> None:
    def handler(batch: Batch, context: object) -> int:
        return len(batch)

    assert takes_batch(handler) is handler
    assert LocalFunction(handler).takes_batch


def test_a_handler_gets_the_batch_and_the_context_of_an_event() -> None:
    seen: list[Any] = []

    @takes_batch
    def handler(batch: Batch, context: Any) -> None:
        seen.append((type(batch), batch.request_id == context.aws_request_id, pl.DataFrame(batch)["data"].to_list(), batch.event()))

    assert run(LocalFunction(handler), [b"1", b"2"]) == []
    ((kind, same, payloads, event),) = seen
    assert (kind, same, payloads, len(event["Records"])) == (Batch, True, [b"1", b"2"], 2)


@pytest.mark.parametrize("decorated", [True, False])
@pytest.mark.parametrize("option", [None, True, False])
def test_the_option_goes_before_the_decorator(option: bool | None, *, decorated: bool) -> None:  # noqa: FBT001 - a parameter of the test
    kinds: list[type] = []

    def handler(food: Any, context: Any) -> None:
        kinds.append(type(food))

    run(LocalFunction(takes_batch(handler) if decorated else handler, takes_batch=option), [b"1"])
    assert kinds == [Batch if (decorated if option is None else option) else dict]


def test_what_cannot_be_marked_is_called_by_the_option() -> None:
    def handler(seen: list[int], batch: Batch, context: object) -> None:
        seen.append(len(batch))

    seen: list[int] = []
    run(LocalFunction(functools.partial(handler, seen), takes_batch=True), [b"1", b"2"])
    assert seen == [2]


def test_a_wrapper_keeps_the_mark_of_what_it_wraps() -> None:
    @takes_batch
    def handler(batch: Batch, context: object) -> None:
        assert isinstance(batch, Batch)

    @functools.wraps(handler)
    def wrapper(batch: Batch, context: object) -> None:
        handler(batch, context)

    assert LocalFunction(wrapper).takes_batch


def test_an_async_handler_is_awaited() -> None:
    seen: list[int] = []

    @takes_batch
    async def handler(batch: Batch, context: object) -> dict[str, Any]:
        await asyncio.sleep(0)  # gives the loop a turn and waits for no time
        seen.append(pa.table(batch).num_rows)
        return {"batchItemFailures": []}

    assert run(LocalFunction(handler), [b"1", b"2", b"3"]) == []
    assert seen == [3]


def test_a_partial_answer_names_records_by_the_column_of_sequence_numbers() -> None:
    attempts: list[list[bytes]] = []

    @takes_batch
    def handler(batch: Batch, context: object) -> dict[str, Any]:
        table = pa.table(batch)
        attempts.append(table["data"].to_pylist())
        bad = [number for number, data in zip(table["sequence_number"].to_pylist(), attempts[-1], strict=True) if data == b"bad"]
        return {"batchItemFailures": [{"itemIdentifier": number} for number in bad]}

    discarded = run(
        LocalFunction(handler),
        [b"1", b"bad", b"3"],
        batch_size=3,
        maximum_batching_window_in_seconds=60,
        bisect_batch_on_function_error=True,
        function_response_types=("ReportBatchItemFailures",),
    )
    assert discarded == [b"bad"]
    assert attempts == [[b"1", b"bad", b"3"], [b"bad", b"3"], [b"bad"], [b"3"]]


def test_what_a_handler_raises_fails_the_batch() -> None:
    @takes_batch
    def handler(batch: Batch, context: object) -> None:
        raise ValueError(f"{len(batch)} orders are not for today")

    function, answers = LocalFunction(handler), []

    class Kept:
        def invoke(self, batch: Batch) -> Any:
            answers.append(function.invoke(batch))
            return answers[-1]

        def close(self) -> None:
            function.close()

    assert run(Kept(), [b"1"]) == [b"1"]
    (answer,) = answers
    assert isinstance(answer, Answer)
    payload: Any = answer.payload
    assert (answer.kind, payload["errorMessage"]) == ("function_error", "1 orders are not for today")
    assert "in handler" in payload["stackTrace"][-1]


def test_a_tumbling_window_tells_its_state_and_its_end() -> None:
    closed: list[Any] = []

    @takes_batch
    def handler(batch: Batch, context: object) -> dict[str, Any]:
        window = batch.window
        assert window is not None
        state = json.loads(window.state)
        if window.is_final:
            closed.append((window.start_ms, window.is_terminated_early, len(batch), pl.DataFrame(batch).height, state))
        state["sum"] = state.get("sum", 0) + (pl.DataFrame(batch)["data"].cast(pl.String).cast(pl.Int64).sum() or 0)
        return {"state": state}

    run(LocalFunction(handler), [b"%d" % number for number in range(25)], tumbling_window_in_seconds=10, batch_size=4)
    start = ManualClock.START_MS
    assert closed == [
        (start + at, False, 0, 0, {"sum": total})
        for at, total in ((0, sum(range(10))), (10_000, sum(range(10, 20))), (20_000, sum(range(20, 25))))
    ]


def test_a_batch_of_dynamodb_streams_is_a_table_of_changes() -> None:
    seen: list[Any] = []

    @takes_batch
    def handler(batch: Batch, context: object) -> None:
        seen.extend(pl.DataFrame(batch).select("event_name", pl.col("dynamodb").str.json_path_match("$.Keys.Id.N").alias("id")).rows())

    engine = Engine()
    shard = engine.add_shard(mapping(), "shardId-00000001", now=NOW, format="dynamodb")
    change = {"ApproximateCreationDateTime": 1_700_000_000, "Keys": {"Id": {"N": "101"}}, "SequenceNumber": "111", "SizeBytes": 26}
    engine.offer(shard, dynamodb_page([{"eventID": "1", "eventName": "INSERT", "dynamodb": change}]), NOW)
    assert LocalFunction(handler).invoke(take(engine)) == Answer("success")
    assert seen == [("INSERT", "101")]


def test_a_recording_holds_the_events_that_the_handler_never_saw(tmp_path: Path) -> None:
    @takes_batch
    def handler(batch: Batch, context: object) -> None:
        assert isinstance(batch, Batch)

    function = RecordedFunction(LocalFunction(handler), tmp_path / "events.ndjson")
    assert run(function, [b"1", b"2"]) == []
    function.close()
    (event,) = recorded_events(tmp_path / "events.ndjson", outcome="success")
    assert [record["kinesis"]["data"] for record in event["Records"]] == ["MQ==", "Mg=="]


def test_processes_of_their_own_refuse_a_handler_that_takes_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "orders_by_batch.py").write_text("import streamcore\n\n@streamcore.takes_batch\ndef handle(batch, context):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a function that takes batches is called in streamcore's own process"):
        ProcessFunction("orders_by_batch.py:handle", processes=2)


def test_the_example_adds_up_what_the_handler_of_events_does(tmp_path: Path) -> None:
    """As a command, whose handler is found to take batches by its decorator; discards and sums are those of `flights.py`."""
    found = []
    for name in ("flights", "flights_columns"):
        discards = tmp_path / f"{name}.ndjson"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "streamcore", "run", "--source", f"file:{FLIGHTS}?key=carrier&time=time_hour&shards=2"),
                *("--function", f"{EXAMPLES / name}.py:handler", "--batch-size", "10000", "--maximum-retry-attempts", "0"),
                *("--bisect-batch-on-function-error", "--function-response-types", "ReportBatchItemFailures"),
                *("--destination-config", f"OnFailure={{Destination=file:{discards}}}", "--state", ":memory:", "--until-idle"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = discards.read_text().splitlines()
        refused = sorted(int(json.loads(line)["KinesisBatchInfo"]["startSequenceNumber"]) for line in lines)
        found.append((sorted(line for line in done.stderr.splitlines() if "minutes late on average" in line), refused))
    assert found[0] == found[1]
    assert (len(found[1][0]), len(found[1][1])) == (16, 2643)
