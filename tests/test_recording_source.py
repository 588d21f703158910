"""Recordings as sources: every record once, in order, with the bytes that it had."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario import Command, KinesisStream, Rows, Table, assert_once_and_in_order, firsts, row
from streamcore import (
    Answer,
    ConfigError,
    EventSourceMapping,
    Fetched,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Page,
    RecordedFunction,
    RecordingSource,
    ShardDescription,
    SourceError,
    Start,
    StreamDescription,
    UsageError,
    Worker,
)
from streamcore.kpl import UserRecord, aggregate
from streamcore.sources.recording import _records_in, parse_record_source
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

SEED = 20130101
EVENT = re.compile(rb',"event":(\{.*\}),"outcome":')


def events(path: Path) -> list[bytes]:
    """Return the bytes of every event of a recording."""
    found = []
    for line in path.read_bytes().splitlines():
        match = EVENT.search(line)
        assert match is not None
        found.append(match[1])
    return found


def records(path: Path) -> dict[tuple[str, str], set[str]]:
    """Return the texts of the records of a recording, by shard and sequence number."""
    found: dict[tuple[str, str], set[str]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        for value, record in _records_in(text) if line["event"]["Records"] else []:
            facts = value.get("kinesis") or value["dynamodb"]
            number = facts.get("sequenceNumber") or facts["SequenceNumber"]
            found.setdefault((line["shardId"], number), set()).add(record)
    return found


def run(source: Any, function: Any, path: Path, **options: Any) -> Any:
    """Run a source to its end through a function that is recorded."""
    clock = ManualClock(1_800_000_000_000)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=SEED)
    arn = source.describe().event_source_arn
    mapping = EventSourceMapping(**{"starting_position": "TRIM_HORIZON", "event_source_arn": arn, **options})
    recorded = RecordedFunction(function, path)
    worker.add(mapping, source, recorded)
    stats = run_until_idle(worker, clock)
    worker.stop()
    recorded.close()
    return stats


def again(path: Path, function: Any = None, **options: Any) -> tuple[Path, Any]:
    """Run a recording through a function, and return the recording of that."""
    source = RecordingSource(path)
    second = path.with_suffix(".second")
    stats = run(source, function or ScriptedFunction(), second, **options)
    source.close()
    return second, stats


def stream(shards: int = 1) -> MemoryStream:
    return MemoryStream("orders", shards=shards, clock=ManualClock())


class Pages:
    """A source of pages that are made beforehand."""

    def __init__(self, pages: list[Page], *, format: str = "kinesis", arn: str = "arn:aws:kinesis:us-east-1:123456789012:stream/s") -> None:  # noqa: A002
        self._pages = pages
        self._description: Any = StreamDescription("one", arn, poll_interval_ms=0, format=format)  # type: ignore[arg-type] # the test's own

    def describe(self) -> StreamDescription:
        return self._description  # type: ignore[no-any-return]

    def list_shards(self) -> list[ShardDescription]:
        return [ShardDescription("shardId-000000000000", closed=True)]

    def open(self, shard_id: str, start: Start) -> Any:
        del shard_id, start
        return self

    def fetch(self, limit: int) -> Fetched:
        del limit
        return Fetched(self._pages.pop(0), 0, ended=not self._pages)

    def set_wakeup(self, callback: object) -> None:
        """Never wake."""

    def close(self) -> None:
        """Hold nothing."""


# The bytes.

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


@settings(max_examples=60)
@given(st.lists(st.tuples(KEYS, st.binary(max_size=200), st.integers(0, 2**40)), min_size=1, max_size=30), st.integers(1, 30))
def test_events_are_the_same_bytes_whatever_keys_and_data_are(given_records: list[tuple[str, bytes, int]], batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.ndjson")
        arrived = sorted(millis for _, _, millis in given_records)
        made = [(key, data, arrived[at], str(10**30 + at)) for at, (key, data, _) in enumerate(given_records)]
        page = Page.from_records(made)
        run(Pages([page]), ScriptedFunction(), path, batch_size=batch_size)
        second, _ = again(path, batch_size=batch_size)
        assert events(second) == events(path)


@pytest.mark.parametrize("key", ['"\\\\\\"\\/"', '"\\u00e9\\ud83d\\ude00"', '"\\u0000\\u2028\u2028\u00e9"'])
@pytest.mark.parametrize("data", ["AP8=", "", "eyJhIjoxfQ=="])
def test_records_from_the_wire_are_the_same_bytes(key: str, data: str, tmp_path: Path) -> None:
    text = f'{{"Records":[{{"SequenceNumber":"7","Data":"{data}","PartitionKey":{key},"ApproximateArrivalTimestamp":1545084650.987}}]}}'
    path = tmp_path / "events.ndjson"
    run(Pages([Page.parse(text.encode())]), ScriptedFunction(), path)
    second, _ = again(path)
    assert events(second) == events(path)


ATTRIBUTES = st.recursive(
    st.builds(lambda text: {"S": text}, st.text())
    | st.builds(lambda number: {"N": number}, st.from_regex(r"-?[0-9]{1,38}(\.[0-9]{1,5})?", fullmatch=True))
    | st.builds(lambda data: {"B": base64.b64encode(data).decode()}, st.binary()),
    lambda inner: st.builds(lambda items: {"M": items}, st.dictionaries(st.text(min_size=1), inner)),
    max_leaves=4,
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.text(min_size=1), ATTRIBUTES), min_size=1, max_size=8), st.booleans(), st.integers(1, 4))
def test_dynamodb_records_are_the_same_bytes(items: list[tuple[str, Any]], ascii_only: bool, batch_size: int) -> None:  # noqa: FBT001
    wire = []
    for number, (key, value) in enumerate(items):
        change = {"ApproximateCreationDateTime": 1_545_084_650 + number, "Keys": {"Id": {"S": key}}, "NewImage": {"v": value}}
        change |= {"SequenceNumber": str(4 * 10**20 + number), "SizeBytes": 26, "StreamViewType": "NEW_AND_OLD_IMAGES"}
        whole = {"eventID": f"id-{number}", "eventName": "INSERT", "eventVersion": "1.1", "dynamodb": change}
        whole["userIdentity"] = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
        wire.append(json.dumps(whole, ensure_ascii=ascii_only).encode(errors="replace").decode().replace("/", "\\/"))
    page = Page.parse(f'{{"Records":[{",".join(wire)}]}}'.encode(), "dynamodb")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.ndjson")
        arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000"
        run(Pages([page], format="dynamodb", arn=arn), ScriptedFunction(), path, batch_size=batch_size)
        source = RecordingSource(path)
        assert (source.describe().event_source_arn, source.describe().format, source.describe().clock) == (arn, "dynamodb", "replay")
        source.close()
        second, _ = again(path, batch_size=batch_size)
        assert events(second) == events(path)


# Which records, and in which order.


class Flaky:
    """A handler that fails, reports or succeeds as a seeded generator says, and notes what it did."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.done: list[tuple[str, str]] = []

    def __call__(self, event: dict[str, Any], _context: object) -> Any:
        facts = [record["kinesis"] for record in event["Records"]]
        fate = self._random.random()
        if fate < 0.2:
            raise ValueError("as the dice fell")
        if fate < 0.4:
            return {"batchItemFailures": [{"itemIdentifier": self._random.choice(facts)["sequenceNumber"]}]}
        return None


@pytest.mark.parametrize("seed", range(5))
def test_whatever_was_tried_how_often_each_record_comes_once_and_in_order(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    source = stream(shards=3)
    for number in range(700):
        source.put(f"key-{rng.randint(0, 40)}", b"%d" % number)
    path = tmp_path / "events.ndjson"
    options = {
        "parallelization_factor": 10,
        "batch_size": 13,
        "bisect_batch_on_function_error": True,
        "function_response_types": ("ReportBatchItemFailures",),
        "maximum_retry_attempts": 3,
    }
    stats = run(source, LocalFunction(Flaky(seed)), path, **options)
    assert stats.failed_invocations > 20, f"seed {seed}"
    seen: list[tuple[str, int]] = []

    def note(event: dict[str, Any], _context: object) -> None:
        seen.extend((record["eventID"].partition(":")[0], int(record["kinesis"]["sequenceNumber"])) for record in event["Records"])

    second, stats = again(path, LocalFunction(note), batch_size=100)
    assert (stats.records, stats.duplicates) == (700, 0)
    assert records(second) == records(path)
    assert len(records(path)) == len(seen) == 700
    for shard in {shard for shard, _ in seen}:
        numbers = [number for of, number in seen if of == shard]
        assert numbers == sorted(numbers), f"seed {seed}"
    third, stats = again(path, **options)
    assert records(third) == records(path)


@pytest.mark.parametrize("seed", range(3))
def test_aggregated_records_come_once_and_in_order(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    wire, expected, last = [], Counter[tuple[str, str, str]](), 0
    for number in range(1, 40):
        inner = [UserRecord(f"key-{rng.randint(0, 9)}", b"%d" % (last := last + 1)) for _ in range(rng.randint(1, 12))]
        expected.update((str(number), record.partition_key, record.data.decode()) for record in inner)
        wire.append(("outer", aggregate(inner), 1_700_000_000_000 + number, str(number)))
    page, _ = Page.from_records(wire).deaggregate(0, 2**128 - 1)
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/s/consumer/c:1"
    path = tmp_path / "events.ndjson"
    options = {"batch_size": 5, "function_response_types": ("ReportBatchItemFailures",), "bisect_batch_on_function_error": True}
    run(Pages([page], arn=arn), LocalFunction(Flaky(seed)), path, parallelization_factor=10, maximum_retry_attempts=2, **options)
    seen: list[tuple[str, str, str]] = []

    def note(event: dict[str, Any], _context: object) -> None:
        found = [record["kinesis"] for record in event["Records"]]
        seen.extend((facts["sequenceNumber"], facts["partitionKey"], base64.b64decode(facts["data"]).decode()) for facts in found)

    second, _ = again(path, LocalFunction(note), batch_size=5)
    assert Counter(seen) == expected, f"seed {seed}"
    for key in {key for _, key, _ in seen}:
        of_key = [int(data) for _, of, data in seen if of == key]
        assert of_key == sorted(of_key), f"seed {seed}, {key}"
    assert records(second) == records(path)


def test_windows_run_again_give_the_same_states(tmp_path: Path) -> None:
    clock = ManualClock()
    source = MemoryStream("orders", clock=clock)
    for number in range(50):
        source.put("key", b"%d" % number)
        clock.advance(1300)
    closed: list[Any] = []

    def add_up(event: Any, _context: Any) -> Any:
        if event["isFinalInvokeForWindow"]:
            closed.append((event["window"], event["state"]))
            return {"state": {}}
        total = event["state"].get("total", 0) + sum(int(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"])
        return {"state": {"total": total}}

    path = tmp_path / "events.ndjson"
    run(source, LocalFunction(add_up), path, tumbling_window_in_seconds=10, batch_size=3)
    first, closed = closed, []
    again(path, LocalFunction(add_up), tumbling_window_in_seconds=10, batch_size=4)
    assert closed[:-1] == first, "the end of a recording closes the window that was open at the end of the run"
    assert (len(first), closed[-1][1]["total"]) == (6, sum(range(47, 50)))


# Where reading begins.


def recorded(tmp_path: Path, count: int = 10) -> Path:
    """Return a recording of records with the numbers 1 to `count`, a second apart."""
    path = tmp_path / "events.ndjson"
    page = Page.from_records([("key", b"%d" % number, 1000 * number, str(number)) for number in range(1, count + 1)])
    run(Pages([page]), ScriptedFunction(), path, batch_size=3)
    return path


@pytest.mark.parametrize(
    ("start", "numbers"),
    [
        (Start("TRIM_HORIZON"), range(1, 11)),
        (Start("AFTER_SEQUENCE_NUMBER", sequence_number="4"), range(5, 11)),
        (Start("AT_SEQUENCE_NUMBER", sequence_number="4"), range(4, 11)),
        (Start("AFTER_SEQUENCE_NUMBER", sequence_number="10"), []),
        (Start("AT_TIMESTAMP", timestamp_ms=6500), range(7, 11)),
        (Start("LATEST"), []),
    ],
)
def test_reading_begins_where_it_is_told(tmp_path: Path, start: Start, numbers: Any) -> None:
    source = RecordingSource(recorded(tmp_path))
    for limit in (1, 100):
        reader = source.open("shardId-000000000000", start)
        found: list[str | None] = []
        ended = False
        while not ended:
            fetched = reader.fetch(limit)
            ended = fetched.ended
            if fetched.page is not None:
                assert len(fetched.page) <= limit
                found += [fetched.page.first_sequence_number, fetched.page.last_sequence_number]
        expected = [str(number) for number in numbers]
        assert found == ([number for number in expected for _ in (1, 2)] if limit == 1 else [*expected[:1], *expected[-1:]])
        reader.close()
    source.close()


def test_a_run_over_a_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = recorded(tmp_path, 100)
    (tmp_path / "handlers.py").write_text(
        "import os\nlog = os.open('seen.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "def handle(event, context):\n"
        "    os.write(log, ''.join(record['kinesis']['sequenceNumber'] + '\\n' for record in event['Records']).encode())\n"
    )
    command = [sys.executable, "-m", "streamcore", "run", "--source", f"record:{path}", "--function", "handlers.py:handle", "--json"]
    counts = []
    for options in (["--max-records", "30"], [], []):
        done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stdout)["records"])
    assert counts == [30, 70, 0]
    assert (tmp_path / "seen.txt").read_text().split() == [str(number) for number in range(1, 101)]


# What a recording cannot be.


def without_shard(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "shardId"}


def with_event(records: list[Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda line: {**line, "event": {"Records": records}}


def replaced(old: str, new: str) -> Callable[[dict[str, Any]], Any]:
    return lambda line: json.loads(json.dumps(line).replace(old, new))


NONE = "2: its event is none of a stream"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: {**line, "shardId": None}, f"{NONE} (ValueError: its shardId is None)"),
        (without_shard, f"{NONE} (KeyError: 'shardId')"),
        (with_event([7]), f"{NONE} (TypeError: "),
        (with_event([{"body": "of a queue"}]), f"{NONE} (KeyError: 'dynamodb')"),
        (replaced("stream/s", "stream/t"), "2: its records are of arn:aws:kinesis:us-east-1:123456789012:stream/t, and those before of "),
        (replaced('"data": "', '"data": "?'), f"{NONE} (ValueError: the data of a record is not"),
    ],
)
def test_a_line_that_holds_no_event_of_the_stream_is_named(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    path = recorded(tmp_path)
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, json.dumps(change(json.loads(second))), *rest]) + "\n")
    with pytest.raises(SourceError) as caught:
        RecordingSource(path)
    assert str(caught.value).startswith(f"{path}:{said}")


def test_a_recording_written_anew_by_another_tool_is_read_too(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    expected = records(path)
    turned = [dict(reversed(json.loads(line).items())) for line in path.read_text().splitlines()]
    spaced = [json.dumps(line, separators=(" , ", " : ")) for line in turned]
    path.write_text("\n\n".join(spaced))
    second, _ = again(path)
    assert records(second) == expected


def test_without_records_there_is_nothing_to_read(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"requestId":"r","shardId":"s","event":{"Records":[]},"outcome":{}}\n')
    with pytest.raises(SourceError, match="the recording holds no records"):
        RecordingSource(path)
    with pytest.raises(SourceError, match="No such file or directory"):
        RecordingSource(tmp_path / "missing")
    with pytest.raises(SourceError, match="Is a directory"):
        RecordingSource(tmp_path)
    with pytest.raises(ConfigError, match="reads record:PATH"):
        parse_record_source("record:")


def test_a_wrong_shard_a_wrong_number_and_a_closed_source_are_errors(tmp_path: Path) -> None:
    source = RecordingSource(recorded(tmp_path))
    with pytest.raises(SourceError, match="there is no shard 'shard-9'; the shards are shardId-000000000000"):
        source.open("shard-9", Start("TRIM_HORIZON"))
    with pytest.raises(SourceError, match="'x' is no sequence number"):
        source.open("shardId-000000000000", Start("AFTER_SEQUENCE_NUMBER", sequence_number="x"))
    reader = source.open("shardId-000000000000", Start("TRIM_HORIZON"))
    source.close()
    source.close()
    with pytest.raises(UsageError, match="the source is closed"):
        reader.fetch(10)


# Over real servers.


def rows_of(path: Path) -> list[tuple[str, int]]:
    """Return the rows of a recording's records, each where it came first."""
    found = [row(record) for line in path.read_text().splitlines() for record in json.loads(line)["event"]["Records"]]
    return firsts(found)


FAILING = """
import os, random

dice = random.Random(SEED)
def handle(event, context):
    fate = dice.random()
    os.write(2, b".")
    if fate < 0.15:
        raise ValueError("as the dice fell")
    if fate < 0.3:
        record = dice.choice(event["Records"])
        facts = record.get("kinesis") or record["dynamodb"]
        return {"batchItemFailures": [{"itemIdentifier": facts.get("sequenceNumber") or facts["SequenceNumber"]}]}
"""


def failing(folder: Path, stream: KinesisStream | Table, *options: str) -> Command:
    command = Command(
        folder,
        stream,
        *("--record", "events.ndjson", "--batch-size", "9", "--parallelization-factor", "4", "--checkpoint-interval", "0.05"),
        *("--bisect-batch-on-function-error", "--function-response-types", "ReportBatchItemFailures", *options),
    )
    (folder / "handlers.py").write_text(FAILING.replace("SEED", str(SEED)))
    return command


def replay(folder: Path) -> list[tuple[str, int]]:
    """Run the recording in a folder again by the command; return the rows that its handler saw."""
    source = f"record:{folder / 'events.ndjson'}"
    made = folder / "again"
    made.mkdir()
    handler = (
        "import json, os\nlog = os.open('seen.ndjson', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "def handle(event, context):\n    os.write(log, ''.join(json.dumps(record) + '\\n' for record in event['Records']).encode())\n"
    )
    (made / "handlers.py").write_text(handler)
    command = [sys.executable, "-m", "streamcore", "run", "--source", source, "--function", "handlers.py:handle", "--state", ":memory:"]
    done = subprocess.run([*command, "--record", "second.ndjson"], cwd=made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert records(made / "second.ndjson") == records(folder / "events.ndjson")
    return [row(json.loads(line)) for line in (made / "seen.ndjson").read_text().splitlines()]


def test_a_run_over_kinesis_is_recorded_and_run_again(server: Server, tmp_path: Path) -> None:
    stream = KinesisStream(server, 2)
    written = Rows(random.Random(SEED)).take(400)
    stream.write(written)
    summary = failing(tmp_path, stream).finish()
    assert summary["failed_invocations"] > 10
    assert len((tmp_path / "events.ndjson").read_text().splitlines()) == summary["invocations"]
    assert sorted(rows_of(tmp_path / "events.ndjson")) == sorted(written)
    assert_once_and_in_order(replay(tmp_path), written, f"seed {SEED}")


def test_a_run_over_dynamodb_is_recorded_and_run_again(ministack: Server, tmp_path: Path) -> None:
    table = Table(ministack)
    written = Rows(random.Random(SEED), keys=60).take(200)
    table.write(written)
    summary = failing(tmp_path, table).finish()
    assert summary["failed_invocations"] > 5
    assert sorted(rows_of(tmp_path / "events.ndjson")) == sorted(written)
    assert_once_and_in_order(replay(tmp_path), written, f"seed {SEED}")


def test_killed_in_the_middle_a_recording_has_whole_lines_and_all_that_was_done(ministack: Server, tmp_path: Path) -> None:
    stream = KinesisStream(ministack, 2)
    written = Rows(random.Random(SEED)).take(600)
    stream.write(written)
    command = failing(tmp_path, stream)
    rng = random.Random(SEED)
    for _ in range(4):
        command.kill_after(rng.randint(3, 20))
        whole, _, torn = (tmp_path / "events.ndjson").read_bytes().rpartition(b"\n")
        assert all(json.loads(line)["event"]["Records"] for line in whole.splitlines())
        assert torn == b"" or b"}\n" not in torn
    command.finish()
    assert sorted(rows_of(tmp_path / "events.ndjson")) == sorted(written), f"seed {SEED}: what a checkpoint passes is in the recording"
    assert_once_and_in_order(replay(tmp_path), written, f"seed {SEED}")


def test_a_recording_may_be_the_source_of_a_redrive(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    (tmp_path / "handlers.py").write_text(
        "def fail(event, context):\n    raise ValueError\n"
        "def handle(event, context):\n    print([r['kinesis']['sequenceNumber'] for r in event['Records']])\n"
    )
    command = [
        sys.executable,
        "-m",
        "streamcore",
        "run",
        "--source",
        f"record:{path}",
        "--function",
        "handlers.py:fail",
        "--state",
        ":memory:",
    ]
    command += [
        "--maximum-retry-attempts",
        "0",
        "--batch-size",
        "4",
        "--destination-config",
        "OnFailure={Destination=file:discards.ndjson}",
    ]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    redrive = [sys.executable, "-m", "streamcore", "redrive", "--from", "discards.ndjson", "--source", f"record:{path}"]
    done = subprocess.run([*redrive, "--function", "handlers.py:handle"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [str([str(n) for n in some]) for some in ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10))]


def test_an_answer_is_kept_where_the_function_did_not_run(tmp_path: Path) -> None:
    page = Page.from_records([("key", b"1", 1000, "1")])
    path = tmp_path / "events.ndjson"
    run(Pages([page]), ScriptedFunction([Answer("throttled", status_code=429)]), path)
    second, stats = again(path)
    assert (stats.records, len(events(path)), len(events(second))) == (1, 2, 1)
