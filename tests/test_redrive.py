"""What was discarded is run again: from files, over streams in memory, without a server."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from invocation_records import ARN, TABLE_ARN, held, payload, record, write
from streamcore import (
    ConfigError,
    EventSourceMapping,
    FileDestination,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    SourceError,
    SourceUnavailableError,
    Worker,
    _redrive_source,
)
from streamcore._redrive_messages import FileMessages, Message, Unreadable, read_message
from streamcore._redrive_source import ranges_of
from streamcore.kpl import UserRecord, aggregate
from streamcore.redrive import MappingOptions, Redrive, redrive
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from streamcore.protocols import ShardReader, Start, StreamDescription


class Noting:
    """A function that notes what it was called with, and raises where a payload is bad."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.calls: list[list[str]] = []
        self._lock = threading.Lock()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        texts = [base64.b64decode(one["kinesis"]["data"]).decode() for one in event["Records"]]
        with self._lock:
            self.calls.append(texts)
        if self.bad.intersection(texts):
            raise ValueError("bad")

    @property
    def seen(self) -> list[str]:
        return [text for call in self.calls for text in call]


def stream_of(*payloads: str, **options: Any) -> tuple[MemoryStream, list[str]]:
    """Return a stream of one shard and the sequence numbers of its records."""
    stream = MemoryStream("orders", event_source_arn=ARN, **options)
    return stream, [stream.put(payload[:1], payload.encode())[1] for payload in payloads]


# One message.


def test_an_invocation_record_says_where_its_records_are() -> None:
    message = read_message("line 1", json.dumps(record("5", "70", size=3)), None)
    assert isinstance(message, Message)
    found = (message.stream_arn, message.shard_id, message.first, message.last, message.batch_size, message.format, message.arrived_ms)
    assert found == (ARN, "shardId-000000000000", 5, 70, 3, "kinesis", 1769860800000)
    assert not message.payload


def test_a_record_of_dynamodb_has_its_own_member() -> None:
    message = read_message("line 1", json.dumps(record("5", "70", arn=TABLE_ARN)), None)
    assert isinstance(message, Message)
    assert (message.format, message.stream_arn) == ("dynamodb", TABLE_ARN)


@pytest.mark.parametrize("depth", [1, 2])
def test_what_sns_wraps_around_a_record_is_taken_off(depth: int) -> None:
    text = json.dumps(record("5", "7"))
    for _ in range(depth):
        text = json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:us-east-1:123456789012:t", "Message": text})
    assert isinstance(read_message("m", text, None), Message)


def without(name: str) -> str:
    found = record("5", "7")
    del found["KinesisBatchInfo"][name]
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"requestContext": {"requ', "not JSON: Unterminated string"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not a JSON object"),
        ("{}", "it has neither KinesisBatchInfo nor DDBStreamBatchInfo"),
        ('{"requestPayload": {}, "responsePayload": {}}', "no invocation record of a stream"),
        (without("shardId"), "whose shardId is None"),
        (without("startSequenceNumber"), "whose startSequenceNumber is None"),
        (json.dumps(record("5", "x")), "whose endSequenceNumber is 'x', which is no sequence number"),
        ('{"KinesisBatchInfo": {"shardId": "s", "streamArn": "a"}}', "of the last invocation of a window, which has no records"),
    ],
)
def test_what_is_no_invocation_record_is_told(text: str | bytes, problem: str) -> None:
    found = read_message("line 3", text, None)
    assert isinstance(found, Unreadable)
    assert found.name == "line 3"
    assert problem in found.problem


def messages_of(*ends: tuple[int, int]) -> list[Message]:
    found = [read_message(f"line {n}", json.dumps(record(str(first), str(last))), n) for n, (first, last) in enumerate(ends)]
    return [message for message in found if isinstance(message, Message)]


def test_messages_that_overlap_are_one_range() -> None:
    ends = [(1, 9), (9, 12), (10, 11), (13, 13), (100, 200), (99, 99)]
    expected = [("1", "12", 3), ("13", "13", 1), ("99", "99", 1), ("100", "200", 1)]
    for seed in range(20):
        messages = messages_of(*ends)
        random.Random(seed).shuffle(messages)
        found = [(one.first, one.last, len(one.messages)) for one in ranges_of(messages)]
        assert found == expected, f"seed {seed}"


# Order, batches, failures.


def discards(tmp_path: Path, stream: MemoryStream, function: Any, **options: Any) -> str:
    """Run a function over a stream until it is idle; return the file of its discards."""
    path = str(tmp_path / "discards.ndjson")
    mapping = EventSourceMapping(
        starting_position="TRIM_HORIZON", event_source_arn=stream.describe().event_source_arn, maximum_retry_attempts=0, **options
    )
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping, stream, LocalFunction(function), FileDestination(path))
    worker.run(until_idle=True)
    return path


def test_each_message_is_run_by_itself_as_the_batch_that_it_was(tmp_path: Path) -> None:
    payloads = [f"{key}{number}" for number in range(30) for key in "abc"]
    stream, _ = stream_of(*payloads)
    failing = Noting(*payloads)
    path = discards(tmp_path, stream, failing, batch_size=7)
    lines = (tmp_path / "discards.ndjson").read_text().splitlines(keepends=True)
    random.Random(7).shuffle(lines)
    (tmp_path / "discards.ndjson").write_text("".join(lines))
    mended = Noting()
    summary = redrive(path, mended, source=stream)
    assert mended.calls == failing.calls
    assert (summary.messages, summary.redriven, summary.records, summary.succeeded) == (13, 13, 90, 90)
    assert summary.complete


def test_a_batch_size_is_honoured_and_no_batch_holds_two_messages(tmp_path: Path) -> None:
    stream, _ = stream_of(*(f"a{number}" for number in range(9)))
    path = discards(tmp_path, stream, Noting(*(f"a{number}" for number in range(9))), batch_size=5)
    function = Noting()
    assert redrive(path, function, source=stream, batch_size=3).complete
    assert function.calls == [["a0", "a1", "a2"], ["a3", "a4"], ["a5", "a6", "a7"], ["a8"]]


def test_a_message_that_fails_stays_and_the_next_one_is_run(tmp_path: Path) -> None:
    stream, numbers = stream_of("a1", "a2", "a3", "a4")
    path = discards(tmp_path, stream, Noting("a1", "a2", "a3", "a4"), batch_size=1)
    # Discards are delivered side by side, in no order.
    lines = (tmp_path / "discards.ndjson").read_text().splitlines()
    firsts = [json.loads(line)["KinesisBatchInfo"]["startSequenceNumber"] for line in lines]
    function = Noting("a2")
    summary = redrive(path, function, source=stream, maximum_retry_attempts=1)
    assert function.calls == [["a1"], ["a2"], ["a2"], ["a3"], ["a4"]]
    assert (summary.redriven, summary.failed_records, summary.invocations, summary.retries, summary.complete) == (3, 1, 5, 1, False)
    (left,) = summary.left
    assert (left.outcome, left.message, left.deleted) == ("failed", f"{path}, line {1 + firsts.index(numbers[1])}", False)
    assert left.detail.startswith(f"RetryAttemptsExhausted at record {left.first_sequence_number}, invoked 2 times, request ")

    again = Noting()
    summary = redrive(path, again, source=stream)
    assert again.calls == [["a2"]]
    assert (summary.messages, summary.redriven, summary.complete) == (1, 1, True)
    assert redrive(path, again, source=stream).messages == 0


def test_partial_answers_and_halves_are_as_in_a_run(tmp_path: Path) -> None:
    stream, _ = stream_of("a1", "a2", "a3", "a4")
    path = discards(tmp_path, stream, Noting("a1"))
    function = Noting("a3")
    summary = redrive(path, function, source=stream, bisect_batch_on_function_error=True)
    assert function.calls == [["a1", "a2", "a3", "a4"], ["a1", "a2"], ["a3", "a4"], ["a3"], ["a4"]]
    assert (summary.succeeded, summary.failed_records, summary.redriven) == (3, 1, 0)

    def reports(event: dict[str, Any], _context: object) -> dict[str, Any]:
        last = event["Records"][-1]["kinesis"]["sequenceNumber"]
        return {"batchItemFailures": [{"itemIdentifier": last}]}

    summary = redrive(path, reports, source=stream, function_response_types=["ReportBatchItemFailures"])
    assert (summary.succeeded, summary.failed_records, summary.redriven) == (3, 1, 0)


def test_ranges_that_overlap_run_each_record_once_and_fail_only_who_is_concerned(tmp_path: Path) -> None:
    stream, numbers = stream_of("a1", "b2", "a3", "b4", "c5")
    path = write(
        tmp_path / "d.ndjson",
        record(numbers[1], numbers[3], size=2),
        record(numbers[0], numbers[2], size=2),
        record(numbers[0], numbers[2], size=2),
        record(numbers[4], numbers[4]),
    )
    function = Noting("b4")
    summary = redrive(path, function, source=stream, batch_size=1)
    assert function.seen == ["a1", "b2", "a3", "b4", "c5"]
    assert summary.redriven == 3
    assert [(left.message, left.outcome) for left in summary.left] == [(f"{path}, line 1", "failed")]


def test_batches_of_one_message_run_side_by_side_in_order_of_their_keys(tmp_path: Path) -> None:
    payloads = [f"{key}{number:03}" for number in range(50) for key in "abcdefgh"]
    stream, numbers = stream_of(*payloads)
    path = write(tmp_path / "d.ndjson", record(numbers[0], numbers[-1], size=400))
    function = Noting()
    assert redrive(path, function, source=stream, parallelization_factor=4, batch_size=10).complete
    assert sorted(function.seen) == sorted(payloads)
    for key in "abcdefgh":
        assert [text for text in function.seen if text[0] == key] == [text for text in payloads if text[0] == key]


def test_shards_run_each_in_its_order_and_a_child_after_its_parent(tmp_path: Path) -> None:
    stream = MemoryStream("orders", event_source_arn=ARN)
    placed = [stream.put("a", b"a1"), stream.put("a", b"a2")]
    (parent,) = {shard for shard, _ in placed}
    between = stream.rotate(parent)
    child = stream.rotate(between)
    placed += [stream.put("a", b"a3"), stream.put("a", b"a4")]
    records = [record(number, number, shard_id=shard) for shard, number in placed]
    assert {shard for shard, _ in placed} == {parent, child}
    function = Noting()
    assert redrive(write(tmp_path / "d.ndjson", *reversed(records)), function, source=stream).complete
    assert function.seen == ["a1", "a2", "a3", "a4"]


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"maximum_retry_attempts": -2}, {"parallelization_factor": 11}])
def test_a_wrong_option_is_told_of_before_anything_is_read(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        redrive(str(tmp_path / "missing"), Noting(), **option)
    assert caught.value.parameter == next(iter(option))


# What the stream no longer has.


def expiring(clock: ManualClock) -> tuple[MemoryStream, list[str]]:
    """Return a stream that keeps records for a minute, of which the first two are older than the others."""
    stream, numbers = stream_of("a1", "a2", clock=clock, retention_ms=60_000)
    clock.advance(40_000)
    numbers += [stream.put("a", payload)[1] for payload in (b"a3", b"a4")]
    return stream, numbers


@pytest.mark.parametrize("delete_expired", [False, True])
def test_what_has_expired_is_listed_and_what_is_left_is_run(tmp_path: Path, *, delete_expired: bool) -> None:
    clock = ManualClock()
    stream, numbers = expiring(clock)
    path = write(
        tmp_path / "d.ndjson", record(numbers[0], numbers[0]), record(numbers[1], numbers[2], size=2), record(numbers[3], numbers[3])
    )
    clock.advance(40_000)
    function = Noting()
    summary = redrive(path, function, source=stream, delete_expired=delete_expired)
    assert function.calls == [["a3"], ["a4"]]
    assert [(left.message[-1], left.outcome, left.detail, left.deleted) for left in summary.left] == [
        ("1", "expired", "all of its records have expired", delete_expired),
        ("2", "expired", "a part of its records has expired; what was left was run", delete_expired),
    ]
    assert (summary.redriven, summary.complete) == (1, delete_expired)
    assert redrive(path, function, source=stream).messages == (0 if delete_expired else 2)


def test_a_range_beyond_the_tip_and_a_shard_that_is_gone_have_expired(tmp_path: Path) -> None:
    clock = ManualClock()
    stream, numbers = stream_of("a1", clock=clock, retention_ms=60_000)
    gone = stream.rotate("shardId-000000000000")
    clock.advance(70_000)
    number = stream.put("a", b"a2")[1]
    path = write(
        tmp_path / "d.ndjson",
        record(numbers[0], numbers[0]),
        record(number, str(int(number) + 5), shard_id=gone),
        record("9", "9", shard_id="x"),
    )
    summary = redrive(path, Noting(), source=_Forgiving(stream))
    assert sorted((left.message[-1], left.outcome, left.detail[:3]) for left in summary.left) == [
        ("1", "expired", "all"),
        ("2", "expired", "a p"),
        ("3", "expired", "all"),
    ]


class _Wrapper:
    """A source in front of another one."""

    def __init__(self, source: MemoryStream) -> None:
        self._source = source

    def describe(self) -> StreamDescription:
        return self._source.describe()

    def list_shards(self) -> Sequence[Any]:
        return self._source.list_shards()

    def open(self, shard_id: str, start: Start) -> ShardReader:
        return self._source.open(shard_id, start)

    def set_wakeup(self, callback: Any) -> None:
        del callback

    def close(self) -> None:
        pass


class _Forgiving(_Wrapper):
    """Shards that are gone are empty, as those of Kinesis are."""

    def open(self, shard_id: str, start: Start) -> ShardReader:
        if shard_id in [shard.shard_id for shard in self._source.list_shards()]:
            return self._source.open(shard_id, start)
        empty = MemoryStream("empty")
        empty.close_shards()
        return empty.open("shardId-000000000000", start)


def test_a_stream_that_was_made_anew_has_other_records_under_the_same_numbers(tmp_path: Path) -> None:
    class Anew(_Wrapper):
        def describe(self) -> StreamDescription:
            return dataclasses.replace(self._source.describe(), created_ms=1769860800000 + 5000)

    stream, numbers = stream_of("a1")
    path = write(tmp_path / "d.ndjson", record(numbers[0], numbers[0]))
    function = Noting()
    summary = redrive(path, function, source=Anew(stream))
    assert (function.calls, [left.outcome for left in summary.left]) == ([], ["expired"])
    assert "made anew" in summary.left[0].detail


# Streams that cannot be read.


def test_messages_of_another_stream_than_the_one_given_are_left(tmp_path: Path) -> None:
    stream, numbers = stream_of("a1")
    other = ARN.replace("orders", "others")
    path = write(
        tmp_path / "d.ndjson", record(numbers[0], numbers[0], arn=other), record(numbers[0], numbers[0]), record("1", "1", arn="arn")
    )
    function = Noting()
    summary = redrive(path, function, source=stream)
    assert function.calls == [["a1"]]
    assert [(left.outcome, left.detail) for left in summary.left] == [
        ("not_run", f"its stream is {other}, and the one that was given is {ARN}"),
        ("unreadable", "its stream is 'arn', which is no stream that Lambda reads"),
    ]


class _Failing(_Wrapper):
    """Fails to be read so often, in one shard."""

    def __init__(self, source: MemoryStream, times: int, error: Exception, shard_id: str) -> None:
        super().__init__(source)
        self.times = times
        self.error = error
        self.shard_id = shard_id

    def open(self, shard_id: str, start: Start) -> ShardReader:
        if shard_id == self.shard_id and self.times:
            self.times -= 1
            raise self.error
        return self._source.open(shard_id, start)


def two_shards() -> tuple[MemoryStream, list[dict[str, Any]]]:
    stream = MemoryStream("orders", event_source_arn=ARN, shards=2)
    placed = [stream.put(key, key.encode()) for key in ("a", "b", "c", "d")]
    assert len({shard for shard, _ in placed}) == 2
    return stream, [record(number, number, shard_id=shard) for shard, number in placed]


def test_a_read_that_fails_is_tried_again(tmp_path: Path) -> None:
    stream, records = two_shards()
    failing = _Failing(stream, 2, OSError("the server is gone"), "shardId-000000000001")
    function = Noting()
    assert redrive(write(tmp_path / "d.ndjson", *records), function, source=failing).complete
    assert sorted(function.seen) == ["a", "b", "c", "d"]


def test_a_shard_that_cannot_be_read_leaves_its_messages_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redrive_source, "_FAILURES_MAX", 2)
    stream, records = two_shards()
    error = SourceUnavailableError("no permission for kinesis:GetShardIterator", action="kinesis:GetShardIterator")
    failing = _Failing(stream, -1, error, "shardId-000000000001")
    function = Noting()
    summary = redrive(write(tmp_path / "d.ndjson", *records), function, source=failing)
    left = {message.shard_id for message in summary.left}
    assert left == {"shardId-000000000001"}
    assert summary.redriven + len(summary.left) == 4
    assert {message.outcome for message in summary.left} == {"not_run"}
    assert all("no permission for kinesis:GetShardIterator" in message.detail for message in summary.left)


# Messages that hold their records.


@pytest.mark.parametrize("as_text", [True, False])
def test_a_message_that_holds_its_event_gives_the_same_event_and_no_stream_is_read(tmp_path: Path, *, as_text: bool) -> None:
    records = [
        ("a", "a1", "49590338271490256608559692538361571095921575989136588898"),
        ("b", "b2", "49590338271490256608559692538361571096"),
    ]
    records.sort(key=lambda one: int(one[2]))
    events: list[dict[str, Any]] = []
    path = write(tmp_path / "d.ndjson", held(*records, as_text=as_text))
    summary = redrive(path, lambda event, _context: events.append(event))
    assert events == [payload(*records)]
    assert (summary.complete, summary.redriven) == (True, 1)


def test_the_held_records_of_concurrent_batches_are_run_in_order_each_once(tmp_path: Path) -> None:
    one, two = [("a", "a1", "1"), ("a", "a4", "4"), ("a", "a7", "7")], [("b", "b2", "2"), ("b", "b3", "3"), ("b", "b9", "9")]
    path = write(tmp_path / "d.ndjson", held(*two), held(*one), held(*one), held(("c", "c10", "10")))
    function = Noting("b9")
    summary = redrive(path, function, batch_size=2)
    assert function.calls == [["a1", "b2"], ["b3", "a4"], ["a7", "b9"], ["c10"]]
    # The batch of a7 and b9 failed, which concerns all that name one of the two.
    assert sorted((left.message[-1], left.outcome) for left in summary.left) == [("1", "failed"), ("2", "failed"), ("3", "failed")]
    assert summary.redriven == 1


def test_a_held_record_of_dynamodb_gives_the_same_event(tmp_path: Path) -> None:
    event = {
        "Records": [
            {
                "eventID": "7de3041dd709b024af6f29e4fa13d34c",
                "eventName": "REMOVE",
                "eventVersion": "1.1",
                "eventSource": "aws:dynamodb",
                "userIdentity": {"type": "Service", "principalId": "dynamodb.amazonaws.com"},
                "awsRegion": "us-east-1",
                "dynamodb": {
                    "ApproximateCreationDateTime": 1.789651659e9,
                    "Keys": {"Id": {"N": "101"}},
                    "SequenceNumber": "400000000000000499660",
                    "SizeBytes": 3,
                    "StreamViewType": "KEYS_ONLY",
                },
                "eventSourceARN": TABLE_ARN,
            }
        ]
    }
    number = "400000000000000499660"
    path = write(tmp_path / "d.ndjson", record(number, number, arn=TABLE_ARN, payload=json.dumps(event)))
    events: list[dict[str, Any]] = []
    assert redrive(path, lambda found, _context: events.append(found)).complete
    assert events == [event]


def changed(**facts: Any) -> dict[str, Any]:
    event = payload(("a", "a5", "5"))
    event["Records"][0]["kinesis"] |= facts
    return record("5", "5", payload=json.dumps(event))


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (record("5", "5", payload="{"), "not JSON"),
        (record("5", "5", payload="[]"), "it has no list Records"),
        (record("5", "5", payload='{"Records": []}'), "it has no records"),
        (record("5", "5", payload='{"Records": [{}]}'), "dynamodb"),
        (changed(data="%"), "the data of a record is not base64"),
        (changed(sequenceNumber="6"), "outside of the sequence numbers that it names"),
        (changed(approximateArrivalTimestamp=None), "unsupported operand"),
    ],
)
def test_an_event_that_cannot_be_made_out_is_told_and_the_next_one_is_run(tmp_path: Path, found: dict[str, Any], problem: str) -> None:
    path = write(tmp_path / "d.ndjson", found, held(("a", "a9", "9")))
    function = Noting()
    summary = redrive(path, function)
    assert function.calls == [["a9"]]
    (left,) = summary.left
    assert (left.outcome, left.message) == ("unreadable", f"{path}, line 1")
    assert problem in left.detail


CONSUMER = f"{ARN}/consumer/fast:1769860000"


def test_the_held_records_of_aggregates_give_the_same_event(tmp_path: Path) -> None:
    records = [("a", "a1", "5"), ("b", "b1", "7"), ("c", "c2", "7"), ("b", "b3", "7"), ("d", "d1", "9")]
    event = payload(*records)
    for one in event["Records"]:
        one["eventSourceARN"] = CONSUMER
    path = write(tmp_path / "d.ndjson", *[record("5", "9", size=5, arn=CONSUMER, payload=json.dumps(event))] * 2)
    events: list[dict[str, Any]] = []
    summary = redrive(path, lambda found, _context: events.append(found))
    assert events == [event]
    assert (summary.redriven, summary.records) == (2, 5)


def test_with_enhanced_fan_out_aggregates_are_taken_apart(tmp_path: Path) -> None:
    stream = MemoryStream("orders", event_source_arn=ARN)
    inside = [UserRecord("b", b"b1"), UserRecord("c", b"c2"), UserRecord("b", b"b3")]
    numbers = [stream.put("k", data)[1] for data in (b"a0", aggregate(inside), b"d4", aggregate(inside))]
    path = write(
        tmp_path / "d.ndjson",
        record(numbers[0], numbers[1], size=4, arn=CONSUMER),
        record(numbers[2], numbers[3], size=4, arn=CONSUMER),
    )
    function = Noting("c2")
    summary = redrive(path, function, source=stream)
    assert function.calls == [["a0", "b1", "c2", "b3"], ["d4", "b1", "c2", "b3"]]
    assert (summary.failed_records, len(summary.left)) == (8, 2)
    arns: set[str] = set()
    summary = redrive(
        path, lambda event, _context: arns.update(one["eventSourceARN"] for one in event["Records"]), source=stream, batch_size=3
    )
    assert (arns, summary.redriven, summary.invocations) == ({CONSUMER}, 2, 4)


def test_an_aggregate_of_another_shard_is_left_out_as_lambda_does(tmp_path: Path) -> None:
    class Keyed(_Wrapper):
        def list_shards(self) -> Sequence[Any]:
            return [dataclasses.replace(shard, hash_keys=(0, 0)) for shard in self._source.list_shards()]

    stream = MemoryStream("orders", event_source_arn=ARN)
    numbers = [stream.put("k", data)[1] for data in (b"a0", aggregate([UserRecord("b", b"b1")]), b"d4")]
    path = write(tmp_path / "d.ndjson", *(record(number, number, arn=CONSUMER) for number in numbers))
    function = Noting()
    summary = redrive(path, function, source=Keyed(stream))
    assert function.calls == [["a0"], ["d4"]]
    assert (summary.redriven, summary.complete) == (3, True)


def test_a_large_event_is_one_batch_again(tmp_path: Path) -> None:
    records = [("a", f"{number:04}" + "x" * 1000, str(number)) for number in range(1, 2001)]
    function = Noting()
    assert redrive(write(tmp_path / "d.ndjson", held(*records)), function).complete
    assert [len(call) for call in function.calls] == [2000]


# Files.


def test_half_a_line_is_told_of_and_all_others_are_run(tmp_path: Path) -> None:
    lines = [json.dumps(held(("a", f"a{number}", str(number)))) for number in range(1, 4)]
    path = tmp_path / "d.ndjson"
    path.write_text(lines[0] + "\n" + lines[1][:100] + "\n\n" + lines[1] + "\r\n" + lines[2])
    function = Noting()
    summary = redrive(path, function)
    assert function.seen == ["a1", "a2", "a3"]
    assert [(left.message, left.outcome) for left in summary.left] == [(f"{path}, line 2", "unreadable")]
    before = path.read_bytes()
    assert redrive(path, function).messages == 1
    assert path.read_bytes() == before


def test_half_a_note_loses_no_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.ndjson", held(("a", "a1", "1")), held(("a", "a2", "2")))
    notes = tmp_path / "d.ndjson.redriven"
    assert redrive(path, Noting("a2")).redriven == 1
    whole = notes.read_text()
    notes.write_text(whole[:20])
    function = Noting("a2")
    assert redrive(path, function).redriven == 1
    assert function.seen == ["a1", "a2"]
    assert notes.read_text() == f"{whole[:20]}\n{whole}"


def test_what_is_written_meanwhile_is_there_for_the_next_redrive(tmp_path: Path) -> None:
    path = tmp_path / "d.ndjson"
    write(path, held(("a", "a1", "1")))

    def appends(event: dict[str, Any], _context: object) -> None:
        with path.open("a") as file:
            file.write(json.dumps(held(("a", "a2", "2"))) + "\n")

    assert redrive(path, appends).messages == 1
    function = Noting()
    assert redrive(path, function).complete
    assert function.seen == ["a2"]


def test_two_redrives_of_one_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.ndjson", held(("a", "a1", "1")))
    first = FileMessages(path)
    with pytest.raises(SourceError, match="another redrive works on it"):
        redrive(path, Noting())
    assert redrive(path, Noting(), delete=False).redriven == 1
    first.close()
    assert redrive(path, Noting()).complete


def test_without_deleting_everything_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "d.ndjson", held(("a", "a1", "1")))
    for _ in range(2):
        function = Noting()
        assert redrive(path, function, delete=False).redriven == 1
        assert function.seen == ["a1"]
    assert [found.name for found in tmp_path.iterdir()] == ["d.ndjson"]


@pytest.mark.parametrize(("where", "message"), [("missing.ndjson", "No such file"), (".", "Is a directory")])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        redrive(tmp_path / where, Noting())


@pytest.mark.parametrize(
    "where", ["arn:aws:sns:us-east-1:123456789012:topic", "s3:bucket", "arn:aws:lambda:us-east-1:123456789012:function:f"]
)
def test_what_is_no_place_of_messages_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match="is not an SQS queue's ARN or URL, s3://BUCKET/PREFIX, or a file"):
        redrive(where, Noting())


# Places of one's own, and stopping.


class Shelf:
    """Messages in a list; those named cannot be deleted."""

    def __init__(self, texts: Iterable[str], *stuck: str) -> None:
        self.rounds = [[read_message(f"m{number}", text, text) for number, text in enumerate(texts)]]
        self.stuck = set(stuck)
        self.deleted: list[str] = []

    def receive(self) -> list[Message | Unreadable]:
        return self.rounds.pop(0) if self.rounds else []

    def records(self, message: Message) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(json.loads(message.handle)["payload"])["Records"]
        return found

    def delete(self, message: Message) -> None:
        if message.name in self.stuck:
            raise SourceError("no permission for sqs:DeleteMessage")
        self.deleted.append(message.name)

    def close(self) -> None:
        """Do nothing."""


def test_a_message_is_deleted_before_the_next_one_is_run() -> None:
    shelf = Shelf(json.dumps(held(("a", f"a{number}", str(number)))) for number in range(1, 6))
    deleted: list[int] = []

    def counts(_event: object, _context: object) -> None:
        deleted.append(len(shelf.deleted))

    assert redrive(shelf, counts).complete
    assert deleted == [0, 1, 2, 3, 4]


def test_a_message_that_cannot_be_deleted_is_told_of_and_holds_nothing_up() -> None:
    shelf = Shelf((json.dumps(held(("a", f"a{number}", str(number)))) for number in range(1, 4)), "m1")
    function = Noting()
    summary = redrive(shelf, function)
    assert function.seen == ["a1", "a2", "a3"]
    assert shelf.deleted == ["m0", "m2"]
    assert [(left.message, left.outcome) for left in summary.left] == [("m1", "not_deleted")]
    assert "no permission for sqs:DeleteMessage" in summary.left[0].detail


def test_more_than_one_round_is_redriven() -> None:
    shelf = Shelf([json.dumps(held(("a", "a1", "1")))])
    shelf.rounds.append([read_message("later", json.dumps(held(("a", "a2", "2"))), json.dumps(held(("a", "a2", "2"))))])
    function = Noting()
    assert redrive(shelf, function).messages == 2
    assert function.seen == ["a1", "a2"]


def test_stopping_lets_the_batch_finish_and_leaves_the_rest() -> None:
    shelf = Shelf(json.dumps(held(("a", f"a{number}", str(number)))) for number in range(1, 6))
    options = MappingOptions(None, 1, 0, bisect_batch_on_function_error=False, function_response_types=())
    seen: list[str] = []

    def stops(event: dict[str, Any], _context: object) -> None:
        seen.append(event["Records"][0]["kinesis"]["sequenceNumber"])
        if len(seen) == 2:
            running.stop()

    def nowhere(arn: str) -> Any:
        raise AssertionError(arn)

    running = Redrive(shelf, LocalFunction(stops), open_stream=nowhere, mapping=options.mapping)
    summary = running.run()
    assert seen == ["1", "2"]
    assert shelf.deleted == ["m0", "m1"]
    assert (summary.reason, summary.redriven, summary.complete) == ("stopped", 2, False)
    assert [(left.message, left.outcome) for left in summary.left] == [("m2", "not_run"), ("m3", "not_run"), ("m4", "not_run")]
