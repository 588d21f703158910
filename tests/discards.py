"""What the tests of destinations share: queues, topics and buckets of a server, and the invocation record that must arrive in them.

The expected record is written down here from what Lambda documents ("Lambda developer guide", Retain discarded records), apart from the
code under test: from the events that the handler saw, with Python's own dates.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scenario import until
from servers import Server, unique

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:handler:live"


class Queue:
    """An SQS queue of a server, made for one test."""

    def __init__(self, server: Server) -> None:
        self._client = server.client("sqs")
        self.url: str = self._client.create_queue(QueueName=unique("discards"))["QueueUrl"]
        attributes = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]
        self.arn: str = attributes["QueueArn"]

    def receive(self, count: int) -> list[str]:
        """Take so many messages out of it and return their bodies.

        Raises:
            AssertionError: they have not come in time, or there are more.
        """
        bodies: list[str] = []

        def take() -> bool:
            found = self._client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
            for message in found:
                self._client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                bodies.append(message["Body"])
            return len(bodies) >= count and not found

        until(take, f"{count} messages in {self.url}")
        assert len(bodies) == count, bodies
        return bodies


class Topic:
    """An SNS topic of a server with a queue that is subscribed to it."""

    def __init__(self, server: Server, *, raw: bool) -> None:
        self._raw = raw
        client = server.client("sns")
        self._queue = Queue(server)
        self.arn: str = client.create_topic(Name=unique("discards"))["TopicArn"]
        attributes = {"RawMessageDelivery": "true"} if raw else {}
        client.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=self._queue.arn, Attributes=attributes)

    def receive(self, count: int) -> list[str]:
        """Return so many messages published to it; see `Queue.receive`."""
        bodies = self._queue.receive(count)
        if self._raw:
            return bodies
        notes: list[dict[str, str]] = [json.loads(body) for body in bodies]
        assert {(note["Type"], note["TopicArn"]) for note in notes} == {("Notification", self.arn)}
        return [note["Message"] for note in notes]


class Bucket:
    """An S3 bucket of a server."""

    def __init__(self, server: Server) -> None:
        self._client = server.client("s3")
        self.name = unique("discards")
        self._client.create_bucket(Bucket=self.name)
        self.arn = f"arn:aws:s3:::{self.name}"

    def objects(self) -> list[tuple[str, str, bytes]]:
        """Return key, content type and body of every object."""
        keys = [found["Key"] for found in self._client.list_objects_v2(Bucket=self.name).get("Contents", [])]
        got = [(key, self._client.get_object(Bucket=self.name, Key=key)) for key in keys]
        return [(key, answer["ContentType"], answer["Body"].read()) for key, answer in got]


def sequence_number(record: Mapping[str, Any]) -> str:
    """Return the sequence number of a record of an event."""
    number: str = record["dynamodb"]["SequenceNumber"] if "dynamodb" in record else record["kinesis"]["sequenceNumber"]
    return number


def _arrival(record: Mapping[str, Any]) -> str:
    """Return when a record came: Kinesis to the millisecond, DynamoDB to the second."""
    if "dynamodb" in record:
        return datetime.fromtimestamp(record["dynamodb"]["ApproximateCreationDateTime"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    milliseconds = round(record["kinesis"]["approximateArrivalTimestamp"] * 1000)
    instant = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{instant.strftime('%Y-%m-%dT%H:%M:%S')}.{milliseconds % 1000:03d}Z"


def assert_invocation_record(
    text: str,
    records: list[dict[str, Any]],
    *,
    shard_id: str,
    condition: str = "RetryAttemptsExhausted",
    count: int,
    request_id: str | None,
    function_error: str | None = "Unhandled",
    answered: bool = True,
    payload: str | None = None,
) -> None:
    """A message or object is the invocation record of a discard of these records, key for key in Lambda's order.

    Args:
        text: what has arrived.
        records: the discarded records as the event had them.
        shard_id: their shard.
        condition: why they were discarded.
        count: the invocations of their batch.
        request_id: that of the last of them; None where there was none.
        function_error: how it failed; None for an answer that reported item failures.
        answered: whether a function answered at all; without one there is no responseContext.
        payload: the event, as an object in S3 has it.
    """
    record = json.loads(text)
    context = record["requestContext"]
    kind, source = ("DDBStreamBatchInfo", "dynamodb") if "dynamodb" in records[0] else ("KinesisBatchInfo", "kinesis")
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", context["requestId"])
    assert TIMESTAMP.fullmatch(record["timestamp"])
    expected: dict[str, Any] = {
        "requestContext": {
            "requestId": request_id or context["requestId"],
            "functionArn": FUNCTION_ARN,
            "condition": condition,
            "approximateInvokeCount": count,
        }
    }
    if answered:
        expected["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": function_error}
    expected["version"] = "1.0"
    if payload is not None:
        expected["payload"] = payload
    expected["timestamp"] = record["timestamp"]
    expected[kind] = {
        "shardId": shard_id,
        "startSequenceNumber": sequence_number(records[0]),
        "endSequenceNumber": sequence_number(records[-1]),
        "approximateArrivalOfFirstRecord": _arrival(records[0]),
        "approximateArrivalOfLastRecord": _arrival(records[-1]),
        "batchSize": len(records),
        "streamArn": records[0]["eventSourceARN"],
    }
    assert source in records[0]["eventSource"]
    # As text, so that the order of keys and the form of numbers count.
    assert text == json.dumps(expected, separators=(",", ":"))
