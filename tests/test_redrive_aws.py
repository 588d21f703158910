"""What was discarded is run again: from queues, topics and buckets of real servers, over their streams."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest

from proxy import error, fault_proxy
from scenario import KinesisConsumer, KinesisStream, Row, Rows, Seen, Table, assert_once_and_in_order, by_key, firsts, row, until
from servers import REGION, Server, unique
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, Worker, _redrive_aws
from streamcore._boto import make_client
from streamcore.destinations.aws import S3Destination, SnsDestination, SqsDestination
from streamcore.redrive import RedriveSummary, redrive

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from streamcore._streamcore import Discard
    from streamcore.protocols import Destination

Stream = KinesisStream | Table
SEED = 4
INFO = {False: "KinesisBatchInfo", True: "DDBStreamBatchInfo"}


@pytest.fixture(autouse=True)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name = request.node.callspec.params.get("server", "ministack") if hasattr(request.node, "callspec") else "ministack"
    server: Server = request.getfixturevalue(name)
    for variable, value in server.env.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(_redrive_aws, "_WAIT_S", 0)  # these servers know at once that a queue is empty


@pytest.fixture(params=[KinesisStream, Table])
def stream(request: pytest.FixtureRequest, server: Server) -> Stream:
    return KinesisStream(server, 2) if request.param is KinesisStream else Table(server)


def made(stream: Stream, batch_size: int = 1) -> list[dict[str, Any]]:
    """Return the invocation records of everything in a stream, as if batches of this size had been discarded."""
    table = isinstance(stream, Table)
    client = stream.streams if isinstance(stream, Table) else stream.client
    address = {"StreamArn": stream.stream_arn} if isinstance(stream, Table) else {"StreamName": stream.name}
    arn = stream.stream_arn if isinstance(stream, Table) else stream.arn
    found = []
    for shard in stream.shards():
        iterator = client.get_shard_iterator(**address, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        records = [one["dynamodb"] if table else one for one in client.get_records(ShardIterator=iterator)["Records"]]
        for batch in (records[at : at + batch_size] for at in range(0, len(records), batch_size)):
            last = batch[-1]["ApproximateCreationDateTime" if table else "ApproximateArrivalTimestamp"]
            info = {
                "shardId": shard["ShardId"],
                "startSequenceNumber": batch[0]["SequenceNumber"],
                "endSequenceNumber": batch[-1]["SequenceNumber"],
                "approximateArrivalOfLastRecord": last.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "batchSize": len(batch),
                "streamArn": arn,
            }
            found.append({"requestContext": {"condition": "RetryAttemptsExhausted"}, INFO[table]: info})
    return found


class Kept:
    """A destination that hands on what it gets, and keeps the events."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.events: list[dict[str, Any]] = []

    def send(self, discard: Discard) -> None:
        self._destination.send(discard)
        self.events.append(json.loads(discard.json()))

    def close(self) -> None:
        """Do nothing."""


def raises(_event: object, _context: object) -> None:
    raise ValueError("not yet")


def discarded(stream: Stream, destination: Destination, batch_size: int = 5) -> list[dict[str, Any]]:
    """Have everything in a stream discarded; return the events."""
    source, kept = stream.source(), Kept(destination)
    mapping = EventSourceMapping(
        starting_position="TRIM_HORIZON",
        event_source_arn=source.describe().event_source_arn,
        batch_size=batch_size,
        maximum_retry_attempts=0,
    )
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping, source, LocalFunction(raises), kept)
    worker.run(until_idle=True)
    source.close()
    destination.close()
    return kept.events


class Queue:
    """A queue of a server, made for one test."""

    def __init__(self, server: Server) -> None:
        self.client = server.client("sqs")
        self.url: str = self.client.create_queue(QueueName=unique("discards"))["QueueUrl"]
        self.arn: str = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def send(self, records: Iterable[dict[str, Any]]) -> None:
        for record in records:
            self.client.send_message(QueueUrl=self.url, MessageBody=json.dumps(record))

    def counts(self) -> tuple[int, int]:
        """Return how many messages are visible and how many are not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])


def shuffled(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = list(records)
    random.Random(SEED).shuffle(found)
    return found


def outcomes(summary: RedriveSummary) -> list[tuple[str, str | None]]:
    return [(left.outcome, left.first_sequence_number) for left in summary.left]


def test_what_a_queue_was_told_of_is_read_from_its_stream_and_deleted(stream: Stream) -> None:
    rows = Rows(random.Random(SEED), keys=20).take(60)
    stream.write(rows)
    queue = Queue(stream.server)
    failed = discarded(stream, SqsDestination(queue.arn))
    seen = Seen()
    events: list[dict[str, Any]] = []

    def notes(event: dict[str, Any], context: object) -> None:
        events.append(event)
        seen(event, context)

    summary = redrive(queue.arn, notes)
    assert summary.complete, summary
    assert summary.records == 60
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}")
    assert sorted(events, key=str) == sorted(failed, key=str)
    assert queue.counts() == (0, 0)


def test_the_source_may_be_a_consumer_of_the_stream(ministack: Server, tmp_path: Path) -> None:
    stream = KinesisConsumer(ministack, 1)
    stream.write([("a", number) for number in range(3)])
    (record,) = made(stream, batch_size=3)
    source = stream.source()
    record["KinesisBatchInfo"]["streamArn"] = source.describe().event_source_arn
    (tmp_path / "d.ndjson").write_text(json.dumps(record) + "\n")
    seen = Seen()
    summary = redrive(tmp_path / "d.ndjson", seen, source=source, endpoint_url=ministack.endpoint_url)
    source.close()
    assert (summary.redriven, summary.left, seen.rows) == (1, (), [("a", number) for number in range(3)])


@pytest.mark.parametrize(("server", "raw"), [("moto", "true"), ("ministack", "false")], indirect=["server"])
def test_a_queue_that_is_subscribed_to_a_topic_is_understood(server: Server, raw: str) -> None:
    stream = KinesisStream(server, 1)
    stream.write([("a", 0), ("a", 1)])
    queue = Queue(server)
    sns = server.client("sns")
    topic = sns.create_topic(Name=unique("discards"))["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn, Attributes={"RawMessageDelivery": raw})
    discarded(stream, SnsDestination(topic), batch_size=1)
    until(lambda: queue.counts()[0] == 2, "both notifications are in the queue")
    seen = Seen()
    assert redrive(queue.arn, seen).complete
    assert seen.rows == [("a", 0), ("a", 1)]


@pytest.mark.parametrize(("server", "kind"), [("moto", KinesisStream), ("ministack", Table)], indirect=["server"])
def test_objects_hold_their_records_and_no_stream_is_read(server: Server, kind: type[Stream]) -> None:
    stream = KinesisStream(server, 2) if kind is KinesisStream else Table(server)
    rows = Rows(random.Random(SEED), keys=20).take(40)
    stream.write(rows)
    s3, bucket = stream.server.client("s3"), unique("discards")
    s3.create_bucket(Bucket=bucket)
    events = discarded(stream, S3Destination(f"arn:aws:s3:::{bucket}"))
    s3.put_object(Bucket=bucket, Key="aws/lambda/notes.txt", Body=b"mine")
    s3.put_object(Bucket=bucket, Key="elsewhere/1", Body=b"yours")
    if isinstance(stream, KinesisStream):
        stream.client.delete_stream(StreamName=stream.name)
    else:
        stream.client.delete_table(TableName=stream.name)
    seen = Seen()
    summary = redrive(f"s3://{bucket}/aws/lambda/", seen)
    assert [(left.message, left.outcome) for left in summary.left] == [(f"s3://{bucket}/aws/lambda/notes.txt", "unreadable")]
    assert summary.redriven == len(events)
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}")
    assert sorted(found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]) == ["aws/lambda/notes.txt", "elsewhere/1"]


def test_many_objects_are_found_over_all_pages_of_a_listing(ministack: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KinesisStream(ministack, 1)
    stream.write([("a", number) for number in range(7)])
    s3, bucket = ministack.client("s3"), unique("discards")
    s3.create_bucket(Bucket=bucket)
    for number, record in enumerate(made(stream)):
        s3.put_object(Bucket=bucket, Key=str(number), Body=json.dumps(record).encode())
    opened = make_client

    def few(service: str, **options: Any) -> Any:
        client = opened(service, **options)
        whole = client.list_objects_v2
        client.list_objects_v2 = lambda **asked: whole(**asked, MaxKeys=3)
        return client

    monkeypatch.setattr(_redrive_aws, "make_client", few)
    seen = Seen()
    assert redrive(f"arn:aws:s3:::{bucket}", seen).complete
    assert seen.rows == [("a", number) for number in range(7)]


def test_a_message_that_fails_is_visible_again_at_once(server: Server) -> None:
    stream = KinesisStream(server, 1)
    stream.write([("a", number) for number in range(4)])
    queue = Queue(server)
    queue.send(made(stream))
    queue.client.send_message(QueueUrl=queue.url, MessageBody="no record")

    def third(event: dict[str, Any], _context: object) -> None:
        assert row(event["Records"][0]) != ("a", 2)

    summary = redrive(queue.arn, third)
    assert summary.redriven == 3
    assert sorted(left.outcome for left in summary.left) == ["failed", "unreadable"]
    assert queue.counts() == (2, 0)
    seen = Seen()
    assert redrive(queue.arn, seen).redriven == 1
    assert seen.rows == [("a", 2)]


def test_showing_takes_nothing_out_of_the_queue(ministack: Server, capfd: pytest.CaptureFixture[str]) -> None:
    from streamcore.cli import main  # noqa: PLC0415

    stream = KinesisStream(ministack, 1)
    stream.write([("a", 0), ("a", 1)])
    queue = Queue(ministack)
    queue.send(reversed(made(stream)))
    for _ in range(2):
        assert main(["redrive", "--from", queue.arn, "--print", "--endpoint-url", ministack.endpoint_url]) == 0
        shown = [json.loads(line)["Records"] for line in capfd.readouterr().out.splitlines()]
        assert [[row(record) for record in records] for records in shown] == [[("a", 0)], [("a", 1)]]
    assert queue.counts() == (2, 0)


# What has expired.


def test_a_stream_that_was_made_anew_has_nothing_left(server: Server) -> None:
    stream = KinesisStream(server, 1)
    stream.write([("a", 0)])
    queue = Queue(server)
    (record,) = made(stream)
    record["KinesisBatchInfo"]["approximateArrivalOfLastRecord"] = "2020-01-31T12:00:00.000Z"
    queue.send([record])
    seen = Seen()
    summary = redrive(queue.arn, seen)
    assert (seen.rows, [left.outcome for left in summary.left]) == ([], ["expired"])
    assert "made anew" in summary.left[0].detail
    assert redrive(queue.arn, seen, delete_expired=True).complete
    assert queue.counts() == (0, 0)


@pytest.mark.parametrize(
    ("server", "kind"),
    [("moto", KinesisStream), ("ministack", KinesisStream), ("ministack", Table)],  # moto fails at an unknown shard of a table
    indirect=["server"],
)
def test_a_shard_that_is_gone_has_expired(server: Server, kind: type[Stream]) -> None:
    stream = KinesisStream(server, 1) if kind is KinesisStream else Table(server)
    stream.write([("a", 0)])
    (record,) = made(stream)
    gone = json.loads(json.dumps(record).replace('"shardId-', '"shardId-9'))
    queue = Queue(stream.server)
    queue.send([gone, record])
    seen = Seen()
    summary = redrive(queue.arn, seen)
    assert seen.rows == [("a", 0)]
    assert [(left.outcome, left.detail) for left in summary.left] == [("expired", "all of its records have expired")]


@pytest.mark.parametrize(("kind", "fault"), [(KinesisStream, "InvalidArgumentException"), (Table, "TrimmedDataAccessException")])
def test_a_range_whose_beginning_is_trimmed_is_run_from_the_oldest_record_left(ministack: Server, kind: type[Stream], fault: str) -> None:
    stream = KinesisStream(ministack, 1) if kind is KinesisStream else Table(ministack)
    stream.write([("a", 0), ("b", 0), ("c", 0), ("d", 0)])
    first, second = made(stream, batch_size=2)
    member = INFO[kind is Table]
    oldest = int(first[member]["startSequenceNumber"])
    gone = {**first, member: {**first[member], "startSequenceNumber": str(oldest - 2), "endSequenceNumber": str(oldest - 1)}}
    partly = {**first, member: {**first[member], "startSequenceNumber": str(oldest - 1)}}
    queue = Queue(ministack)
    queue.send([gone, partly, second])
    seen = Seen()
    with fault_proxy(ministack) as proxy:
        proxy.fault("GetShardIterator", error(fault), times=1)
        summary = redrive(queue.url, seen, endpoint_url=proxy.endpoint_url)
    assert sorted(seen.rows) == [("a", 0), ("b", 0), ("c", 0), ("d", 0)]
    assert [(left.outcome, left.detail) for left in summary.left] == [
        ("expired", "all of its records have expired"),
        ("expired", "a part of its records has expired; what was left was run"),
    ]
    assert summary.redriven == 1


# Faults.


@pytest.mark.parametrize(("kind", "service"), [(KinesisStream, "kinesis"), (Table, "dynamodb")])
def test_a_missing_permission_is_named_and_everything_stays(ministack: Server, kind: type[Stream], service: str) -> None:
    stream = KinesisStream(ministack, 1) if kind is KinesisStream else Table(ministack)
    stream.write([("a", 0)])
    queue = Queue(ministack)
    queue.send(made(stream))
    seen = Seen()
    with fault_proxy(ministack) as proxy:
        proxy.fault("GetShardIterator", error("AccessDeniedException"), times=None)
        summary = redrive(queue.url, seen, endpoint_url=proxy.endpoint_url)
    assert (seen.rows, [left.outcome for left in summary.left]) == ([], ["not_run"])
    assert f"no permission for {service}:GetShardIterator" in summary.left[0].detail
    assert queue.counts() == (1, 0)


def test_throttles_and_expired_iterators_are_got_over(ministack: Server) -> None:
    stream = KinesisStream(ministack, 1)
    rows = [("a", number) for number in range(6)]
    stream.write(rows)
    queue = Queue(ministack)
    queue.send(made(stream, batch_size=2))
    seen = Seen()
    with fault_proxy(ministack) as proxy:
        for code in ("ProvisionedThroughputExceededException", "ExpiredIteratorException", "InternalFailure"):
            proxy.fault("GetRecords", error(code, 500 if code == "InternalFailure" else 400))
        assert redrive(queue.url, seen, endpoint_url=proxy.endpoint_url).complete
    assert seen.rows == rows


def test_a_stream_that_is_deleted_leaves_its_messages_and_the_others_are_run(ministack: Server) -> None:
    gone, there = KinesisStream(ministack, 1), KinesisStream(ministack, 1)
    queue = Queue(ministack)
    for stream in (gone, there):
        stream.write([("a", 0)])
        queue.send(made(stream))
    gone.client.delete_stream(StreamName=gone.name)
    until(lambda: gone.name not in gone.client.list_streams()["StreamNames"], "the stream is deleted")
    seen = Seen()
    summary = redrive(queue.arn, seen)
    assert seen.rows == [("a", 0)]
    assert [left.outcome for left in summary.left] == ["not_run"]
    assert "stream not found" in summary.left[0].detail


def test_the_url_of_a_queue_says_which_server_has_it(ministack: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    queue = Queue(ministack)
    queue.client.send_message(QueueUrl=queue.url, MessageBody="no record")
    url = f"{ministack.endpoint_url}/{queue.url.split('/', 3)[3]}"
    assert [left.outcome for left in redrive(url, Seen()).left] == ["unreadable"]


def test_a_queue_or_a_bucket_that_is_not_there_is_an_error(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    from streamcore.cli import main  # noqa: PLC0415

    for where, action in [
        (f"arn:aws:sqs:{REGION}:000000000000:missing", "sqs:GetQueueUrl"),
        (f"{server.endpoint_url}/000000000000/missing", "sqs:ReceiveMessage"),
        (f"s3://{unique('missing')}/x", "s3:ListBucket"),
    ]:
        assert main(["redrive", "--from", where, "--print"]) == 1
        said = capfd.readouterr().err
        assert f"streamcore: {where} ({action}): " in said


def test_messages_stay_hidden_while_they_are_redriven(ministack: Server) -> None:
    stream = KinesisStream(ministack, 1)
    stream.write([("a", number) for number in range(3)])
    queue = Queue(ministack)
    queue.send(made(stream))
    extends = "ChangeMessageVisibilityBatch"
    with fault_proxy(ministack) as proxy:
        from streamcore._redrive_aws import open_messages  # noqa: PLC0415

        def waits(_event: object, _context: object) -> None:
            proxy.await_count(extends, 2)

        messages = open_messages(queue.url, endpoint_url=proxy.endpoint_url, visibility_timeout_s=3)
        assert redrive(messages, waits, endpoint_url=proxy.endpoint_url).complete
        messages.close()
        asked = [request.parameters["Entries"] for request in proxy.requests if request.operation == extends]
    assert [(len(entries), entries[0]["VisibilityTimeout"]) for entries in asked[:2]] == [(3, 3), (3, 3)]
    assert queue.counts() == (0, 0)


# kill -9.

_HANDLER = """
import base64, os

log = os.open("handled.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def handle(event, context):
    os.write(log, b"".join(base64.b64decode(record["kinesis"]["data"]) + b"\\n" for record in event["Records"]))
    os.write(2, b".")
"""


class Command:
    """`streamcore redrive` as a process of its own."""

    def __init__(self, folder: Path, server: Server, *options: str) -> None:
        self.folder = folder
        self._env = {**os.environ, **server.env}
        (folder / "handlers.py").write_text(_HANDLER)
        self._command = [sys.executable, "-m", "streamcore", "redrive", "--function", "handlers.py:handle", "--json", *options]

    def killed_after(self, calls: int) -> None:
        """Run it and kill it when it has called its handler so often."""
        with subprocess.Popen(self._command, cwd=self.folder, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            seen = 0
            while seen < calls:
                select.select([process.stderr], [], [])
                chunk = os.read(process.stderr.fileno(), calls - seen)
                assert chunk, f"it ended after {seen} calls"
                seen += len(chunk)
            process.send_signal(signal.SIGKILL)

    def finish(self, *options: str) -> dict[str, Any]:
        """Run it to its end and return its summary."""
        done = subprocess.run([*self._command, *options], cwd=self.folder, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def handled(self) -> list[Row]:
        lines = (self.folder / "handled.txt").read_text().splitlines()
        return [(key, int(number)) for key, _, number in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("place", ["queue", "bucket", "file"])
def test_killed_in_the_middle_nothing_is_lost_and_little_is_repeated(ministack: Server, tmp_path: Path, place: str) -> None:
    stream = KinesisStream(ministack, 2)
    rows = Rows(random.Random(SEED), keys=30).take(48)
    stream.write(rows)
    records = made(stream, batch_size=3)
    queue = Queue(ministack)
    options = ["--from", queue.arn, "--visibility-timeout", "3"]
    if place == "queue":
        queue.send(shuffled(records))
    elif place == "bucket":
        s3, bucket = ministack.client("s3"), unique("discards")
        s3.create_bucket(Bucket=bucket)
        for number, record in enumerate(records):
            s3.put_object(Bucket=bucket, Key=str(number), Body=json.dumps(record).encode())
        options = ["--from", f"s3://{bucket}"]
    else:
        (tmp_path / "d.ndjson").write_text("".join(json.dumps(record) + "\n" for record in shuffled(records)))
        options = ["--from", "d.ndjson"]
    command = Command(tmp_path, ministack, *options)
    command.killed_after(7)
    before = len(command.handled())
    if place == "queue":
        # What was received and not deleted is hidden until its timeout is over.
        until(lambda: queue.counts()[1] == 0, "all messages are visible again")
    summary = command.finish("--visibility-timeout", "300")
    assert summary["complete"]
    handled = command.handled()
    assert_once_and_in_order(firsts(handled), rows, f"seed {SEED}")
    # What came twice was in flight, a message of each shard, or done since the last one was deleted.
    assert len(handled) - len(rows) <= 2 * 2 * 3, f"{before} were handled before the kill"
    assert by_key(handled).keys() == by_key(rows).keys()
    assert queue.counts() == (0, 0)


def test_two_redrives_of_one_queue_share_it(ministack: Server) -> None:
    stream = KinesisStream(ministack, 1)
    rows = [("a", number) for number in range(10)]
    stream.write(rows)
    queue = Queue(ministack)
    queue.send(made(stream))
    seen = Seen()
    summaries: list[RedriveSummary] = []
    threads = [threading.Thread(target=lambda: summaries.append(redrive(queue.arn, seen))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen.rows) == rows
    assert sum(summary.redriven for summary in summaries) == 10
    assert all(summary.complete for summary in summaries)
