"""What is logged: fields under one set of names, one line for an event, and no flood."""

from __future__ import annotations

import ast
import errno
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcore
from streamcore import (
    Answer,
    CheckpointError,
    EventSourceMapping,
    Fetched,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Page,
    ShardDescription,
    SourceUnavailableError,
    StreamDescription,
    Worker,
)
from streamcore._log import Rarely, is_told
from streamcore.logs import FIELDS, JsonFormatter
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamcore import Batch, Discard, Start

PACKAGE = Path(str(streamcore.__file__)).parent
OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
LEVELS = ("debug", "info", "warning", "error", "exception", "log")


# The names of fields.


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of a logger in the package, and where it stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
            ):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def names_in(tree: ast.AST) -> set[str]:
    """Return the fields that an expression or a function names: keys of dicts, and keyword arguments of calls."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            found |= {str(key.value) for key in node.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Call):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
    return found


def fields_named_in(node: ast.AST) -> set[str]:
    """Return the fields that a node names where it is one that makes fields."""
    if isinstance(node, ast.keyword) and node.arg == "extra":
        return names_in(node.value)
    if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "fields" for target in node.targets):
        return names_in(node.value)
    if isinstance(node, ast.FunctionDef) and node.name in ("fields", "_fields", "of_batch", "of_discard", "of_error"):
        return names_in(node)
    return set()


def test_every_field_is_in_the_list_and_every_listed_field_is_used() -> None:
    used: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            used |= fields_named_in(node)
    assert used == set(FIELDS)


def test_no_field_has_a_name_that_a_log_record_uses_itself() -> None:
    assert not set(FIELDS) & (OWN | {"taskName", "timestamp", "level", "logger", "exception"})
    record = logging.getLogger("streamcore").makeRecord("streamcore", 30, "", 0, "text", (), None, extra=dict.fromkeys(FIELDS, 1))
    assert json.loads(JsonFormatter().format(record)).keys() >= set(FIELDS)


def test_every_line_has_fields_but_for_those_about_streamcore_itself() -> None:
    bare = {place.partition(":")[0] for place, call in calls() if not any(keyword.arg == "extra" for keyword in call.keywords)}
    # A thread that has died, and what could not be closed: the exception says what there is to say.
    assert bare == {"_delivery.py", "_invoker.py", "_poller.py", "_saver.py", "sources/fanout.py", "worker.py"}


def test_every_logger_is_described() -> None:
    assert streamcore.logs.__doc__ is not None
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger" and node.args:
                name = node.args[0]
                assert isinstance(name, ast.Constant)
                assert f"    {name.value!s} " in streamcore.logs.__doc__, name.value


# The formatter.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(sys),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner),
    max_leaves=6,
)


def refuse(text: str) -> None:
    raise ValueError(text)


@given(
    st.text(),
    st.dictionaries(st.text(min_size=1).filter(lambda name: name not in OWN), ANYTHING, max_size=4),
    st.lists(ANYTHING, max_size=3),
    st.text(),
)
def test_any_record_is_one_line_of_json(message: str, extra: dict[str, Any], arguments: list[Any], error: str) -> None:
    record = logging.makeLogRecord({"msg": message, "args": tuple(arguments), "name": "orders", "levelname": "WARNING", **extra})
    try:
        refuse(error)
    except ValueError:
        record.exc_info = sys.exc_info()
    text = JsonFormatter().format(record)
    assert text.isascii()
    assert "\n" not in text
    line = json.loads(text, parse_constant=pytest.fail)
    assert (line["level"], line["logger"], line["errorType"], line["errorMessage"]) == ("WARNING", "orders", "ValueError", error)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert list(line)[:4] == ["timestamp", "level", "logger", "message"]


def test_what_cannot_be_written_does_not_break_the_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise ZeroDivisionError

        __repr__ = __str__

    circle: dict[str, Any] = {}
    circle["itself"] = circle
    record = logging.makeLogRecord({"msg": Broken(), "broken": Broken(), "circle": circle, "well": 1})
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"].split()[0], line["broken"], line["well"]) == ("<Broken", "<Broken that cannot be written as text>", 1)


# How often like things are told.


def test_like_things_are_told_ever_more_rarely_and_anew_after_ten_quiet_minutes() -> None:
    rarely = Rarely()
    assert [number for number in range(1, 101) if is_told(rarely.count("down", number))] == [1, 2, 4, 8, 16, 32, 64]
    assert rarely.count("down", 100 + 599_999) == 101
    assert rarely.count("down", 100 + 599_999 + 600_000) == 1


def test_too_many_kinds_are_one() -> None:
    rarely = Rarely()
    for kind in range(1000):
        assert rarely.count(kind, 0) == 1
    assert [rarely.count(f"more {number}", 0) for number in range(3)] == [1, 2, 3]
    assert rarely.count(7, 0) == 2


# What a worker says.


class Bench:
    """A worker over a stream in memory on a manual clock."""

    def __init__(
        self, function: Any, *, destination: Any = None, store: Any = None, retention_ms: int | None = None, **options: Any
    ) -> None:
        self.clock = ManualClock()
        self.stream = MemoryStream("orders", clock=self.clock, retention_ms=retention_ms)
        self.worker = Worker(checkpoints=store or MemoryCheckpointStore(), clock=self.clock, seed=1)
        self.mapping = EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options})
        self.worker.add(self.mapping, self.stream, function, destination)

    def put(self, *payloads: bytes) -> list[str]:
        return [self.stream.put("key", payload)[1] for payload in payloads]

    def run(self) -> Any:
        return run_until_idle(self.worker, self.clock)


def said(caplog: pytest.LogCaptureFixture, text: str, level: int = logging.WARNING) -> list[dict[str, Any]]:
    """Return the attributes of the records of this level and above whose message holds the text."""
    return [vars(record) for record in caplog.records if record.levelno >= level and text in record.getMessage()]


def test_a_failed_invocation_is_one_line_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    def handler(event: dict[str, Any], _context: object) -> None:
        raise ValueError(f"cannot read {len(event['Records'])} orders")

    bench = Bench(LocalFunction(handler), maximum_retry_attempts=9)
    first, last = bench.put(b"1", b"2")
    caplog.set_level(logging.DEBUG, "streamcore.function")
    bench.run()
    lines = said(caplog, "the function failed: ValueError: cannot read 2 orders", logging.DEBUG)
    assert [(line["levelname"], line["attempt"]) for line in lines] == [
        ("WARNING" if attempt in (1, 2, 4, 8) else "DEBUG", attempt) for attempt in range(1, 11)
    ]
    expected = {
        "name": "streamcore.function",
        "mappingUuid": bench.mapping.uuid,
        "shardId": "shardId-000000000000",
        "startSequenceNumber": first,
        "endSequenceNumber": last,
        "batchSize": 2,
        "errorType": "ValueError",
        "errorMessage": "cannot read 2 orders",
        "failures": 1,
    }
    assert {name: lines[0][name] for name in expected} == expected
    texts = [record.getMessage() for record in caplog.records]
    assert 'raise ValueError(f"cannot read' in texts[0]
    assert lines[0]["requestId"] in texts[0]
    assert not any("raise ValueError" in text for text in texts[1:]), "where it was raised is told once"
    (dropped,) = said(caplog, "the records are dropped")
    assert (dropped["requestId"], dropped["condition"], dropped["approximateInvokeCount"]) == (
        lines[0]["requestId"],
        "RetryAttemptsExhausted",
        10,
    )


@pytest.mark.parametrize(
    ("answer", "text", "error_type"),
    [
        (Answer("throttled", status_code=429, executed_version=None), "the function was throttled", "throttled"),
        (Answer("service_error", {"errorType": "Down"}, status_code=500, problem="it is down"), "it is down", "Down"),
        (ScriptedFunction.partial("7"), "names no records of the batch, so all of it counts as failed: {'batchItemFailures'", None),
        (Answer("success", "text"), "names no records of the batch, so all of it counts as failed: 'text'", None),
        (Answer("function_error", "text", function_error="Handled"), "the function failed: Handled: ", "Handled"),
        (
            Answer("function_error", {"errorType": "Exit", "errorMessage": "gone", "stackTrace": ["at x"]}, detail="it wrote last: help"),
            "the function failed: Exit: gone",
            "Exit",
        ),
    ],
)
def test_whatever_makes_an_invocation_fail_is_told(
    answer: Answer, text: str, error_type: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(ScriptedFunction([answer]), function_response_types=("ReportBatchItemFailures",))
    bench.put(b"1")
    bench.run()
    (line,) = said(caplog, text)
    assert (line["name"], line["errorType"], line["attempt"]) == ("streamcore.function", error_type, 1)
    if answer.detail:
        assert "\nat x\nit wrote last: help" in caplog.text


def test_an_answer_that_cannot_be_shown_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Hidden:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    answers = [Answer("success", Hidden()), Answer("function_error", {"errorMessage": Hidden()}, function_error="Unhandled")]
    bench = Bench(ScriptedFunction(answers), function_response_types=("ReportBatchItemFailures",))
    bench.put(b"1")
    assert bench.run().succeeded == 1
    assert len(said(caplog, "the function gave what cannot be shown: ")) == 2


def test_a_partial_failure_says_how_much_is_done(caplog: pytest.LogCaptureFixture) -> None:
    function = ScriptedFunction(poison=lambda record: record["kinesis"]["data"] == "Mw==")
    bench = Bench(function, maximum_retry_attempts=0, function_response_types=("ReportBatchItemFailures",))
    numbers = bench.put(b"1", b"2", b"3", b"4")
    bench.run()
    first, *_ = said(caplog, "the function reported failed records; 2 of 4 are done")
    assert (first["startSequenceNumber"], first["endSequenceNumber"]) == (numbers[0], numbers[3])


def test_a_function_that_raises_against_its_contract_does_not_flood(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def invoke(self, batch: Batch) -> Any:
            raise ZeroDivisionError(batch.shard_id)

        def close(self) -> None:
            """Hold nothing."""

    bench = Bench(Broken(), maximum_retry_attempts=20)
    bench.put(b"1")
    bench.run()
    lines = said(caplog, "invoking raised, so the batch counts as failed")
    assert [line["attempt"] for line in lines] == [1, 2, 4, 8, 16]
    assert all(line["exc_info"][0] is ZeroDivisionError for line in lines)


def test_a_service_that_fails_is_told_and_that_it_is_well_again(caplog: pytest.LogCaptureFixture) -> None:
    down = Answer("service_error", status_code=500, executed_version=None, problem="the service is down")
    bench = Bench(ScriptedFunction([down] * 5))
    bench.put(b"1")
    bench.run()
    assert [line["failures"] for line in said(caplog, "the service is down")] == [1, 2, 4]
    (over,) = said(caplog, "the function is invoked again")
    assert over["shardId"] == "shardId-000000000000"


def test_a_window_that_is_ended_early_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_event: dict[str, Any], _context: object) -> Any:
        return {"state": {"text": "x" * 1_100_000}}

    bench = Bench(LocalFunction(handler), tumbling_window_in_seconds=10)
    bench.put(b"1")
    bench.run()
    (line,) = said(caplog, "the window is ended early")
    assert line["count"] == 1_100_000 + len('{"text":""}')
    assert line["batchSize"] == 1


def test_records_that_expire_are_told(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(ScriptedFunction([ScriptedFunction.error()] * 1000), retention_ms=60_000)
    bench.put(b"1", b"2")
    stats = bench.run()
    assert stats.expired == 2
    (line,) = said(caplog, "2 records have expired")
    assert (line["mappingUuid"], line["shardId"], line["count"]) == (bench.mapping.uuid, "shardId-000000000000", 2)


class Failing:
    """A destination that fails as often as it is told."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def send(self, discard: Discard) -> None:
        del discard
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENETDOWN, "the network is down")

    def close(self) -> None:
        """Hold nothing."""


def test_discards_are_told_where_they_go_and_a_destination_that_is_down_does_not_flood(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(ScriptedFunction(poison=lambda _: True), destination=Failing(7), maximum_retry_attempts=0, batch_size=1)
    bench.put(*[b"x"] * 8)
    stats = bench.run()
    assert (stats.delivered, stats.failed_deliveries) == (8, 7)
    assert len(said(caplog, "to deliver it failed")) == 3, "the first, second and fourth of seven"
    sent = said(caplog, "; sent to Failing", logging.INFO)
    assert [line["levelname"] for line in sent] == ["INFO"] * 8
    assert len({line["requestId"] for line in sent}) == 8


class Store:
    """A store whose first saves fail."""

    def __init__(self, failures: int) -> None:
        self._store = MemoryCheckpointStore()
        self._failures = failures
        self.claim, self.release, self.close = self._store.claim, self._store.release, self._store.close

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        if self._failures:
            self._failures -= 1
            raise CheckpointError("the disk is full")
        return self._store.save(checkpoints)


def test_checkpoints_that_fail_are_told_ever_more_rarely_and_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(ScriptedFunction(), store=Store(6))
    bench.put(b"1")
    bench.run()
    lines = said(caplog, "checkpoints could not be saved")
    assert [(line["failures"], line["retryInMs"]) for line in lines] == [(1, 200), (2, 400), (4, 1600)]
    assert [line["failures"] for line in said(caplog, "checkpoints are saved again")] == [6]


class Source:
    """One shard that answers as told, and with nothing behind that."""

    def __init__(self, answers: list[Page | Exception]) -> None:
        self._answers = answers
        self.failing = 0

    def describe(self) -> StreamDescription:
        return StreamDescription("one", "arn:aws:kinesis:us-east-1:000000000000:stream/orders")

    def list_shards(self) -> list[ShardDescription]:
        return [ShardDescription("shardId-000000000000")]

    def open(self, shard_id: str, start: Start) -> Any:
        del shard_id, start
        return self

    def fetch(self, limit: int) -> Fetched:
        del limit
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return Fetched(answer, 0 if not self._answers else 1)

    def set_wakeup(self, callback: object) -> None:
        """Never wake."""

    def close(self) -> None:
        """Hold nothing."""


def page(*numbers: int) -> Page:
    return Page.from_records([("key", b"x", ManualClock.START_MS, str(number)) for number in numbers])


def over(source: Source) -> None:
    clock = ManualClock()
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), source, ScriptedFunction())
    for _ in range(60):
        run_until_idle(worker, clock)
        clock.advance(30_000)
        if not source._answers:
            break
    run_until_idle(worker, clock)


def test_a_problem_of_a_source_begins_and_ends_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lost = [SourceUnavailableError("no permission for kinesis:GetRecords") for _ in range(9)]
    over(Source([page(1), *lost, page(2)]))
    lines = said(caplog, "PROBLEM: ")
    assert [line["failures"] for line in lines] == [1, 2, 4, 8]
    assert lines[0]["errorMessage"] == "no permission for kinesis:GetRecords"
    assert [line["failures"] for line in said(caplog, "is read again after 9 failures")] == [9]


def test_a_shard_that_fails_every_other_time_does_not_flood(caplog: pytest.LogCaptureFixture) -> None:
    over(Source([answer for number in range(1, 13) for answer in (page(number), TimeoutError("no answer"))]))
    assert len(said(caplog, "could not be read")) == len(said(caplog, "is read again")) == 4


def test_records_that_come_twice_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    over(Source([page(1, 2, 3), page(2, 3, 4)]))
    (line,) = said(caplog, "2 records came twice and were dropped", logging.INFO)
    assert (line["shardId"], line["count"], line["levelname"]) == ("shardId-000000000000", 2, "INFO")


def test_shards_begin_and_end_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(ScriptedFunction())
    bench.put(b"1")
    bench.stream.split("shardId-000000000000")
    bench.run()
    begun = said(caplog, "is read from TRIM_HORIZON on", logging.INFO)
    assert [line["shardId"][-1] for line in begun] == ["0", "1", "2"]
    assert [line["shardId"][-1] for line in said(caplog, "has ended and is done", logging.INFO)] == ["0"]


def test_an_overrun_is_told_ever_more_rarely(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    time = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: time[0])

    def handler(_event: object, _context: object) -> None:
        time[0] += 4

    bench = Bench(LocalFunction(handler), batch_size=1)
    bench.put(*[b"x"] * 9)
    bench.run()
    lines = said(caplog, "Lambda would have ended it")
    assert [(line["count"], line["durationMs"], line["function"]) for line in lines] == [(count, 4000, "handler") for count in (1, 2, 4, 8)]


def test_where_the_level_is_off_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("fields were made for a line that nobody sees")

    logging.getLogger("streamcore").setLevel(logging.CRITICAL)
    try:
        for module in ("_failures", "functions.local"):
            monkeypatch.setattr(f"streamcore.{module}.of_batch", made)
        bench = Bench(ScriptedFunction([ScriptedFunction.error()] * 3))
        bench.put(b"1")
        assert bench.run().succeeded == 1
    finally:
        logging.getLogger("streamcore").setLevel(logging.NOTSET)
