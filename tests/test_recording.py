"""Recordings: what a line holds, that lines are whole, and what becomes of a file that is there or cannot be written."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, one_shard, take
from streamcore import (
    Answer,
    ConfigError,
    Engine,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Page,
    RecordedFunction,
    RecordingSource,
    SourceError,
    Worker,
)
from streamcore.recording import recorded_invocations
from streamcore.testing import ManualClock, ScriptedFunction, recorded_events, run_until_idle

if TYPE_CHECKING:
    from pathlib import Path

    from streamcore import Batch


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Bench:
    """A worker over a stream in memory on a manual clock, whose function is recorded."""

    def __init__(self, path: Path, function: Any, **options: Any) -> None:
        self.clock = ManualClock()
        self.path = path / "events.ndjson"
        self.stream = MemoryStream("orders", clock=self.clock)
        self.function = RecordedFunction(function, self.path, clock=self.clock)
        self.mapping = EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options})
        self.worker = Worker(checkpoints=MemoryCheckpointStore(), clock=self.clock, seed=1)
        self.worker.add(self.mapping, self.stream, self.function)

    def put(self, *payloads: bytes) -> list[str]:
        return [self.stream.put("key", payload)[1] for payload in payloads]

    def run(self) -> list[dict[str, Any]]:
        run_until_idle(self.worker, self.clock)
        self.worker.stop()
        self.function.close()
        return lines(self.path)


def test_a_line_holds_the_event_as_it_was_and_its_place(tmp_path: Path) -> None:
    events: list[Any] = []

    def handler(event: Any, context: Any) -> Any:
        events.append((json.loads(json.dumps(event)), context.aws_request_id))
        event.clear()  # what a handler does with its event is its own affair
        return {"total": 7}

    bench = Bench(tmp_path, LocalFunction(handler))
    numbers = bench.put(b"1", b"\xff\x00")
    (line,) = bench.run()
    assert list(line) == [
        *("requestId", "mappingUuid", "shardId", "startSequenceNumber", "endSequenceNumber", "batchSize", "attempt", "startedAt"),
        *("durationMs", "event", "outcome"),
    ]
    assert [(line["event"], line["requestId"])] == events
    assert (line["mappingUuid"], line["shardId"], line["attempt"]) == (bench.mapping.uuid, "shardId-000000000000", 1)
    assert (line["startSequenceNumber"], line["endSequenceNumber"], line["batchSize"]) == (*numbers, 2)
    assert line["startedAt"] == "2023-11-14T22:13:20.000Z"
    assert line["durationMs"] >= 0
    assert line["outcome"] == {"kind": "success", "statusCode": 200, "executedVersion": "$LATEST", "response": {"total": 7}}
    assert list(recorded_events(bench.path)) == [events[0][0]]


def test_the_event_is_embedded_byte_for_byte(tmp_path: Path) -> None:
    engine, _ = one_shard(1, 2, 3, key='"\\\u00e9\u2028\U0001f600')
    batch = take(engine)
    with_record = RecordedFunction(ScriptedFunction(), tmp_path / "events.ndjson")
    with_record.invoke(batch)
    with_record.close()
    assert b',"event":' + batch.json() + b',"outcome":' in (tmp_path / "events.ndjson").read_bytes()


def test_every_attempt_and_every_outcome_has_a_line(tmp_path: Path) -> None:
    answers = [
        Answer("throttled", status_code=429, executed_version=None, problem="Function is throttled"),
        Answer("service_error", {"errorType": "Down", "errorMessage": "no answer"}, status_code=500, executed_version=None),
        ScriptedFunction.error("first"),
        ScriptedFunction.partial("unknown"),
    ]
    bench = Bench(tmp_path, ScriptedFunction(answers), function_response_types=("ReportBatchItemFailures",), batch_size=3)
    numbers = bench.put(b"1", b"2", b"3")
    answers.append(ScriptedFunction.partial(numbers[1]))
    bench.function._function._answers = iter(answers)  # type: ignore[attr-defined] # the numbers are known only now
    found = bench.run()
    outcomes = [line["outcome"] for line in found]
    assert [outcome["kind"] for outcome in outcomes] == ["throttled", "service_error", "failure", "failure", "partial", "success"]
    assert [line["attempt"] for line in found] == [1, 1, 1, 2, 3, 1]
    assert (outcomes[0]["statusCode"], outcomes[0]["errorMessage"]) == (429, "Function is throttled")
    assert (outcomes[1]["errorType"], outcomes[1]["errorMessage"]) == ("Down", "no answer")
    assert "response" not in outcomes[0]
    assert outcomes[2]["functionError"] == "Unhandled"
    assert (outcomes[2]["errorType"], outcomes[2]["errorMessage"]) == ("RuntimeError", "first")
    assert outcomes[3]["response"] == {"batchItemFailures": [{"itemIdentifier": "unknown"}]}
    assert "functionError" not in outcomes[3]
    assert (outcomes[4]["succeeded"], outcomes[4]["response"]) == (1, {"batchItemFailures": [{"itemIdentifier": numbers[1]}]})
    assert len({line["requestId"] for line in found[:5]}) == 1
    assert found[5]["startSequenceNumber"] == numbers[1]
    assert len(list(recorded_events(bench.path, outcome="failure"))) == 2


def test_windows_and_their_closing_calls_are_kept(tmp_path: Path) -> None:
    def handler(event: Any, _context: Any) -> Any:
        return {"state": {"count": event["state"].get("count", 0) + len(event["Records"]), "more": "x" * 1_100_000 * len(event["Records"])}}

    bench = Bench(tmp_path, LocalFunction(handler), tumbling_window_in_seconds=10)
    bench.put(b"1")
    opened, closed = bench.run()
    assert opened["outcome"]["endsWindow"] is True
    assert opened["outcome"]["response"]["state"]["count"] == 1
    assert (closed["startSequenceNumber"], closed["endSequenceNumber"], closed["batchSize"]) == (None, None, 0)
    assert (closed["event"]["Records"], closed["event"]["isFinalInvokeForWindow"]) == ([], True)
    assert closed["event"]["state"] == opened["outcome"]["response"]["state"]


def test_an_asynchronous_function_stays_one(tmp_path: Path) -> None:
    async def handler(event: Any, _context: Any) -> int:
        await asyncio.sleep(0)  # gives the loop a turn and waits for no time
        return len(event["Records"])

    bench = Bench(tmp_path, LocalFunction(handler))
    bench.put(b"1", b"2")
    (line,) = bench.run()
    assert line["outcome"]["response"] == 2


def test_what_breaks_the_contract_breaks_it_as_without_a_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        calls = 0

        def invoke(self, batch: Batch) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError(batch.shard_id)
            return None if self.calls == 2 else Answer("success", {1, 2} if self.calls == 4 else None)

        def close(self) -> None:
            """Hold nothing."""

    bench = Bench(tmp_path, Broken())
    bench.put(b"1")
    assert [line["attempt"] for line in bench.run()] == [3]
    assert "ZeroDivisionError" in caplog.text


def test_lines_of_many_threads_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    function = RecordedFunction(LocalFunction(lambda _event, _context: "x" * 50_000), path)
    stream = MemoryStream("orders", shards=2)
    expected = {stream.put(f"key-{number}", os.urandom(500))[1] for number in range(3000)}
    worker = Worker(checkpoints=MemoryCheckpointStore())
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", parallelization_factor=10, batch_size=7)
    worker.add(mapping, stream, function)
    worker.run(until_idle=True)
    function.close()
    found = [record["kinesis"]["sequenceNumber"] for line in lines(path) for record in line["event"]["Records"]]
    assert len(found) == len(set(found)) == 3000
    assert set(found) == expected


def test_a_large_event_makes_no_objects_of_records(tmp_path: Path) -> None:
    engine = Engine()
    shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=10_000), "shard", now=NOW)
    engine.offer(shard, Page.from_records([("key", b"x" * 300, NOW, str(number)) for number in range(1, 9001)]), NOW)
    batch = take(engine)
    size = len(batch.json())
    assert size > 5_000_000
    function = RecordedFunction(ScriptedOnce(), tmp_path / "events.ndjson")
    tracemalloc.start()
    function.invoke(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    function.close()
    assert peak < size * 1.1, "the event is one object of bytes, and is written as it is"
    assert (tmp_path / "events.ndjson").stat().st_size > size


class ScriptedOnce:
    """A function that does not look at its event."""

    def invoke(self, _batch: Batch) -> Answer:
        return Answer("success")

    def close(self) -> None:
        """Hold nothing."""


# The file.


def once(path: Path) -> None:
    function = RecordedFunction(ScriptedOnce(), path)
    function.invoke(take(one_shard(1, 2)[0]))
    function.close()


def test_a_recording_that_is_there_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    once(path)
    before = path.read_bytes()
    once(path)
    assert path.read_bytes().startswith(before)
    assert len(lines(path)) == 2


@pytest.mark.parametrize("left", [1, 12, 13, 200])
@pytest.mark.parametrize("whole", [0, 1])
def test_half_a_line_is_cut_off_and_nothing_else(tmp_path: Path, left: int, whole: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.ndjson"
    once(path)
    one = path.read_bytes()
    path.write_bytes(one * whole + one[:left])
    once(path)
    assert path.read_bytes().startswith(one * whole)
    assert len(lines(path)) == whole + 1
    assert f"the last line was not written to its end; its {left} bytes are cut off" in caplog.text


@pytest.mark.parametrize("text", ["notes", "{}\n", '{"requestContext":{}}\n', "[1]"])
def test_what_is_no_recording_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is there and no recording; it is left as it is"):
        RecordedFunction(ScriptedOnce(), path)
    assert path.read_text() == text


def test_one_writes_or_several_read(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    once(path)
    function = RecordedFunction(ScriptedOnce(), path)
    for other in (lambda: RecordedFunction(ScriptedOnce(), path), lambda: RecordingSource(path)):
        with pytest.raises(ConfigError, match="another run writes it"):
            other()
    function.close()
    first, second = RecordingSource(path), RecordingSource(path)
    with pytest.raises(ConfigError, match="another run writes it, or it is read now"):
        RecordedFunction(ScriptedOnce(), path)
    first.close()
    second.close()
    once(path)


@pytest.mark.parametrize("path", ["missing/events.ndjson", "."])
def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path, path: str) -> None:
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        RecordedFunction(ScriptedOnce(), tmp_path / path)


def test_on_a_full_disk_the_run_goes_on_and_what_is_missing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.ndjson"
    once(path)
    one = path.stat().st_size
    function = RecordedFunction(ScriptedOnce(), path)
    batch = take(one_shard(1, 2)[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (one * 2 + one // 2, before[1]))  # room for one and a half
        answers = [function.invoke(batch) for _ in range(6)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    function.invoke(batch)
    function.close()
    assert answers == [Answer("success")] * 6
    assert len(lines(path)) == 3, "half a line is taken back, and writing goes on when there is room"
    assert function.missing == 5
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 4, "the first, second and fourth of five, and the sum"
    assert told[0].startswith(f"{path}: an invocation could not be written and is missing there; the run goes on (1 so far): OSError: ")
    assert told[-1] == f"{path}: 5 invocations could not be written and are missing"


def test_after_the_end_of_a_run_nothing_is_written(tmp_path: Path) -> None:
    function = RecordedFunction(ScriptedOnce(), tmp_path / "events.ndjson")
    function.close()
    function.close()
    assert function.invoke(take(one_shard(1)[0])) == Answer("success")
    assert (tmp_path / "events.ndjson").read_bytes() == b""
    assert function.missing == 0


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b"no JSON\n", "2: not JSON: Expecting value at column 1"),
        (b"[1]\n", "2: no line of a recording: it has no event"),
        (b'{"requestContext":{}}\n', "2: no line of a recording: it has no event"),
        (b'{"event":7}\n', "2: no line of a recording: it has no event"),
        (b"\xff\n", "2: not UTF-8: "),
        (b"[" * 100_000 + b"\n", "2: the JSON is nested too deeply"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, broken: bytes, said: str) -> None:
    path = tmp_path / "events.ndjson"
    once(path)
    path.write_bytes(path.read_bytes() + broken + path.read_bytes())
    for read in (lambda: list(recorded_invocations(path)), lambda: RecordingSource(path)):
        with pytest.raises(SourceError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}:{said}")


def test_half_a_line_at_the_end_is_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.ndjson"
    once(path)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:300])
    assert len(list(recorded_invocations(path))) == 1
    RecordingSource(path).close()
    assert caplog.text.count(":2: the last line was not written to its end and is passed over") == 2


@pytest.mark.parametrize("options", [["--function", "handlers.py:later"], ["--function", "handlers.py:handle", "--processes", "2"]])
def test_the_command_records_every_kind_of_function(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "handlers.py").write_text(
        "def handle(event, context):\n    return {'seen': len(event['Records'])}\n"
        "async def later(event, context):\n    return handle(event, context)\n"
    )
    (tmp_path / "rows.csv").write_text("key,value\n" + "".join(f"{number % 7},{number}\n" for number in range(100)))
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:rows.csv?key=key&shards=2", "--record", "events.ndjson"]
    command += ["--parallelization-factor", "4", "--batch-size", "9", "--state", ":memory:", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "events.ndjson")
    assert sum(line["outcome"]["response"]["seen"] for line in found) == sum(line["batchSize"] for line in found) == 100


def test_several_threads_write_at_once(tmp_path: Path) -> None:
    function = RecordedFunction(ScriptedOnce(), tmp_path / "events.ndjson")
    batch = take(one_shard(*range(1, 200))[0])
    threads = [threading.Thread(target=lambda: [function.invoke(batch) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    function.close()
    assert len(lines(tmp_path / "events.ndjson")) == 400
