"""SQS, SNS and S3 as destinations, on real servers: what arrives is compared with what Lambda sends, key for key.

One run for each server and kind of stream has a mapping for each sequence of invocations that Lambda documents or was observed to make, all
of the same four records, of which the second always fails. The tests look at what it left.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import proxy as faults
from discards import FUNCTION_ARN, Bucket, Queue, Topic, assert_invocation_record, sequence_number
from proxy import Proxy, fault_proxy
from scenario import KinesisStream, Table
from servers import REGION, Server, unique
from streamcore import (
    ConfigError,
    DeliveryError,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    S3Destination,
    SnsDestination,
    SqsDestination,
    Summary,
    Worker,
)
from streamcore.destinations._open import open_destination
from streamcore.testing import ScriptedFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamcore import Destination, Discard

KEYS = ["1", "2", "3", "4"]
BAD = "2"
OLD = "1"  # the record that the proxy makes two hours older


pytestmark = pytest.mark.usefixtures("aws_region")


def key_of(record: dict[str, Any]) -> str:
    key: str = record["dynamodb"]["Keys"]["key"]["S"] if "dynamodb" in record else record["kinesis"]["partitionKey"]
    return key


class Handler:
    """Fails on the second record in one of the ways there are, and notes what it was called with."""

    def __init__(self, how: str) -> None:
        self._how = how
        self.events: list[dict[str, Any]] = []
        self.request_ids: list[str] = []

    def __call__(self, event: dict[str, Any], context: Any) -> object:
        self.events.append(event)
        self.request_ids.append(context.aws_request_id)
        failed = [record for record in event["Records"] if key_of(record) == BAD]
        if not failed or self._how == "well":
            return None
        if self._how == "raises":
            raise ValueError("the second record is bad")
        identifier = "" if self._how == "reports nothing" else sequence_number(failed[0])
        return {"batchItemFailures": [{"itemIdentifier": identifier}]}

    @property
    def invocations(self) -> list[str]:
        """The keys of each event."""
        return ["".join(key_of(record) for record in event["Records"]) for event in self.events]


@dataclass(frozen=True)
class Case:
    """A mapping, how its handler fails, the invocations that this leads to and the records that are discarded."""

    name: str
    how: str
    retries: int
    invocations: list[str]
    discarded: str = ""
    bisects: bool = False
    reports: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How often the discarded batch was invoked."""
        return self.invocations.count(self.discarded)


CASES = [
    Case("error", "raises", 2, ["1234", "1234", "1234"], "1234", reports=False),
    Case("error, bisect", "raises", 1, ["1234", "12", "1", "2", "2", "34"], "2", bisects=True, reports=False),
    Case("partial", "reports", 1, ["1234", "234", "234"], "234"),
    Case("partial, bisect", "reports", 1, ["1234", "234", "2", "2", "34"], "2", bisects=True),
    Case("empty identifier", "reports nothing", 0, ["1234"], "1234"),
    Case("item failures without the feature", "reports", 0, ["1234"], reports=False),
]
TO_TOPIC = Case("topic", "raises", 0, ["1234"], "1234", reports=False)
TO_RAW_TOPIC = Case("raw topic", "reports", 0, ["1234", "234"], "234")
TO_BUCKET = Case("bucket", "reports", 1, ["1234", "234", "234"], "234")
TOO_OLD = Case("too old", "well", 3, ["234"], "1", options={"maximum_record_age_in_seconds": 3600})
ALL = [*CASES, TO_TOPIC, TO_RAW_TOPIC, TO_BUCKET, TOO_OLD]


@dataclass
class World:
    """What one run left."""

    handlers: dict[str, Handler]
    targets: dict[str, Any]
    uuids: dict[str, str]
    shard_id: str
    written: dict[str, dict[str, Any]]
    summary: Summary

    def discarded(self, case: Case) -> list[dict[str, Any]]:
        """Return the discarded records of a case, as events have them."""
        return [self.written[key] for key in case.discarded]

    def request_id(self, case: Case) -> str:
        """Return the id of the last invocation of the batch that was discarded."""
        handler = self.handlers[case.name]
        last = max(number for number, keys in enumerate(handler.invocations) if keys == case.discarded)
        return handler.request_ids[last]


def _older(answer: dict[str, Any]) -> None:
    for record in answer["Records"]:
        if record.get("PartitionKey") == OLD:
            record["ApproximateArrivalTimestamp"] -= 7200
        elif "dynamodb" in record and record["dynamodb"]["Keys"]["key"]["S"] == OLD:
            record["dynamodb"]["ApproximateCreationDateTime"] -= 7200


@pytest.fixture(scope="module", params=["ministack-kinesis", "moto-dynamodb"])
def world(request: pytest.FixtureRequest) -> World:
    name, _, kind = request.param.partition("-")
    server: Server = request.getfixturevalue(name)
    stream = KinesisStream(server, 1) if kind == "kinesis" else Table(server)
    for key in KEYS:
        stream.write([(key, 0)])
    targets: dict[str, Any] = {case.name: Queue(server) for case in [*CASES, TOO_OLD]}
    targets |= {TO_TOPIC.name: Topic(server, raw=False), TO_RAW_TOPIC.name: Topic(server, raw=True), TO_BUCKET.name: Bucket(server)}
    handlers = {case.name: Handler(case.how) for case in ALL}
    uuids = {case.name: str(uuid.uuid4()) for case in ALL}
    with pytest.MonkeyPatch.context() as patch, fault_proxy(server) as proxy:
        for variable, value in server.env.items():
            patch.setenv(variable, value)
        proxy.fault("GetRecords", faults.change(_older), times=None)
        worker = Worker(checkpoints=MemoryCheckpointStore())
        opened: list[Any] = []
        for case in ALL:
            source = stream.source(proxy.endpoint_url if case is TOO_OLD else None)
            destination = open_destination(targets[case.name].arn, region=REGION, endpoint_url=server.endpoint_url)
            opened += [source, destination]
            mapping = EventSourceMapping(
                event_source_arn=source.describe().event_source_arn,
                function_arn=FUNCTION_ARN,
                starting_position="TRIM_HORIZON",
                maximum_retry_attempts=case.retries,
                bisect_batch_on_function_error=case.bisects,
                function_response_types=("ReportBatchItemFailures",) if case.reports else (),
                destination_config={"OnFailure": {"Destination": targets[case.name].arn}},
                uuid=uuids[case.name],
                **case.options,
            )
            worker.add(mapping, source, LocalFunction(handlers[case.name]), destination)
        try:
            summary = worker.run(until_idle=True)
        finally:
            for made in opened:
                made.close()
    written = {key_of(record): record for record in handlers["error"].events[0]["Records"]}
    return World(handlers, targets, uuids, stream.shards()[0]["ShardId"], written, summary)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_sequence_of_invocations_ends_in_a_message_as_lambda_sends_it(world: World, case: Case) -> None:
    assert world.handlers[case.name].invocations == case.invocations
    bodies = world.targets[case.name].receive(1 if case.discarded else 0)
    for body in bodies:
        assert_invocation_record(
            body,
            world.discarded(case),
            shard_id=world.shard_id,
            count=case.count,
            request_id=world.request_id(case),
            function_error="Unhandled" if case.how == "raises" else None,
        )


@pytest.mark.parametrize("case", [TO_TOPIC, TO_RAW_TOPIC], ids=lambda case: case.name)
def test_a_topic_publishes_the_same_record(world: World, case: Case) -> None:
    assert world.handlers[case.name].invocations == case.invocations
    (message,) = world.targets[case.name].receive(1)
    assert_invocation_record(
        message,
        world.discarded(case),
        shard_id=world.shard_id,
        count=case.count,
        request_id=world.request_id(case),
        function_error="Unhandled" if case.how == "raises" else None,
    )


def test_an_object_holds_the_event_too_under_the_key_of_lambda(world: World) -> None:
    handler = world.handlers[TO_BUCKET.name]
    assert handler.invocations == TO_BUCKET.invocations
    ((key, content_type, body),) = world.targets[TO_BUCKET.name].objects()
    assert content_type == "application/octet-stream"
    record = json.loads(body)
    payload = record["payload"]
    assert isinstance(payload, str)
    assert json.loads(payload) == handler.events[-1]
    assert list(json.loads(payload)["Records"][0]) == list(handler.events[-1]["Records"][0])
    assert_invocation_record(
        body.decode(),
        world.discarded(TO_BUCKET),
        shard_id=world.shard_id,
        count=TO_BUCKET.count,
        request_id=world.request_id(TO_BUCKET),
        function_error=None,
        payload=payload,
    )
    second = record["timestamp"][:19]
    day, clock = second.partition("T")[0], second.replace(":", ".")
    start = f"aws/lambda/{world.uuids[TO_BUCKET.name]}/{world.shard_id}/{day.replace('-', '/')}/{clock}-"
    assert key.startswith(start)
    assert uuid.UUID(key.removeprefix(start)).version == 4


def test_a_record_that_is_too_old_was_not_answered(world: World) -> None:
    handler = world.handlers[TOO_OLD.name]
    assert handler.invocations == TOO_OLD.invocations
    (body,) = world.targets[TOO_OLD.name].receive(1)
    old = json.loads(json.dumps(world.written[OLD]))
    if "dynamodb" in old:
        old["dynamodb"]["ApproximateCreationDateTime"] -= 7200
    else:
        old["kinesis"]["approximateArrivalTimestamp"] -= 7200
    assert_invocation_record(body, [old], shard_id=world.shard_id, condition="RecordAgeExceeded", count=1, request_id=None, answered=False)
    assert json.loads(body)["requestContext"]["requestId"] not in handler.request_ids


def test_the_summary_counts_what_was_delivered(world: World) -> None:
    discards = [case for case in ALL if case.discarded]
    summary = world.summary
    assert (summary.discards, summary.delivered) == (len(discards), len(discards))
    assert (summary.undelivered, summary.dropped, summary.unconfirmed, summary.failed_deliveries) == (0, 0, 0, 0)
    assert summary.discarded_records == sum(len(case.discarded) for case in discards)
    assert summary.discarded_by_condition == {
        "RetryAttemptsExhausted": summary.discarded_records - 1,
        "RecordAgeExceeded": 1,
    }


# Faults of the way to the queue.


@pytest.fixture
def proxy(ministack: Server) -> Iterator[Proxy]:
    with fault_proxy(ministack) as made:
        yield made


def run(destination: Destination, payloads: list[bytes], **options: Any) -> tuple[Summary, list[str]]:
    """Run a function that refuses payloads beginning with "b"; return the summary and the sequence numbers that it accepted."""
    stream = MemoryStream("orders")
    stream.put_many([("key", payload) for payload in payloads])
    function = ScriptedFunction(poison=lambda record: record["kinesis"]["data"].startswith("Ym"))  # "b" in base64
    worker = Worker(checkpoints=MemoryCheckpointStore())
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1, maximum_retry_attempts=0, function_arn=FUNCTION_ARN)
    worker.add(mapping, stream, function, destination, **options)
    return worker.run(until_idle=True), [number for invocation in function.invocations for number in invocation.sequence_numbers]


def test_a_queue_that_is_down_for_a_while_gets_everything_in_the_end(ministack: Server, proxy: Proxy) -> None:
    queue = Queue(ministack)
    for fault in (faults.refuse(), faults.error("ServiceUnavailable", 503), faults.error("AccessDenied", 403), faults.cut()):
        proxy.fault("SendMessage", fault)
    destination = SqsDestination(queue.arn, endpoint_url=proxy.endpoint_url)
    summary, seen = run(destination, [b"bad", b"good", b"bad", b"good"], on_undeliverable="block")
    destination.close()
    assert len(seen) == 4  # the shard went on meanwhile
    assert (summary.discards, summary.delivered, summary.undelivered, summary.failed_deliveries) == (2, 2, 0, 4)
    # Where the answer was cut the message had arrived: it is there twice.
    bodies = queue.receive(3)
    assert {json.loads(body)["KinesisBatchInfo"]["startSequenceNumber"] for body in bodies} == {seen[0], seen[2]}


def test_a_queue_that_stays_down_costs_the_message_and_not_the_shard(
    ministack: Server, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(ministack)
    proxy.fault("SendMessage", faults.error("AccessDenied", 403), times=None)
    destination = SqsDestination(queue.arn, endpoint_url=proxy.endpoint_url)
    summary, seen = run(destination, [b"bad", b"good"], discard_tries=3, discard_budget_s=0.3)
    destination.close()
    assert len(seen) == 2
    assert (summary.discards, summary.delivered, summary.undelivered, summary.unconfirmed) == (1, 0, 1, 0)
    assert summary.failed_deliveries == proxy.count("SendMessage") <= 3  # the client does not repeat on its own
    assert f"tries to deliver it: sqs:SendMessage on {queue.arn}: AccessDenied: made by the proxy" in caplog.text
    assert queue.receive(0) == []


def test_an_error_says_what_was_refused(ministack: Server, proxy: Proxy) -> None:
    queue = Queue(ministack)
    (discard,) = discards(1)
    destination = SqsDestination(queue.arn, endpoint_url=proxy.endpoint_url)
    proxy.fault("SendMessage", faults.error("AccessDenied", 403))
    with pytest.raises(DeliveryError) as refused:
        destination.send(discard)
    assert (refused.value.code, refused.value.action) == ("AccessDenied", "sqs:SendMessage")
    proxy.fault("SendMessage", faults.refuse())
    with pytest.raises(OSError, match=queue.arn) as cut:
        destination.send(discard)
    assert isinstance(cut.value, DeliveryError)
    assert cut.value.code == "ConnectionClosedError"
    destination.send(discard)
    destination.close()
    destination.close()
    assert json.loads(queue.receive(1)[0]) == discard.invocation_record()


def discards(records: int, payload: bytes = b"bad") -> list[Discard]:
    """Return the discards of so many records, each its own."""
    found: list[Discard] = []

    class Kept:
        def send(self, discard: Discard) -> None:
            found.append(discard)

        def close(self) -> None:
            pass

    run(Kept(), [payload] * records)
    return sorted(found, key=lambda discard: int(discard.first_sequence_number or 0))


def test_a_record_that_is_too_large_was_not_answered_and_is_kept_in_the_object(ministack: Server) -> None:
    bucket = Bucket(ministack)
    destination = S3Destination(bucket.arn, region=REGION, endpoint_url=ministack.endpoint_url)
    payload = b"b" * 4_800_000  # 6.4 million characters of base64
    summary, seen = run(destination, [payload])
    destination.close()
    assert (summary.invocations, summary.delivered, seen) == (0, 1, [])
    ((_, _, body),) = bucket.objects()
    record = json.loads(body)
    assert list(record) == ["requestContext", "version", "payload", "timestamp", "KinesisBatchInfo"]
    assert record["requestContext"]["approximateInvokeCount"] == 1
    (kept,) = json.loads(record["payload"])["Records"]
    assert len(kept["kinesis"]["data"]) == 6_400_000


def test_a_discard_sent_twice_is_one_object(ministack: Server) -> None:
    bucket = Bucket(ministack)
    destination = S3Destination(bucket.arn, region=REGION, endpoint_url=ministack.endpoint_url)
    one, other = discards(2)
    for discard in (one, other, one):
        destination.send(discard)
    destination.close()
    found = [json.loads(body) for _, _, body in bucket.objects()]
    expected = [discard.invocation_record() for discard in (one, other)]
    assert sorted(({**record, "payload": None} for record in found), key=str) == sorted(
        ({**record, "payload": None} for record in expected), key=str
    )


def test_threads_may_share_a_destination(ministack: Server) -> None:
    queue = Queue(ministack)
    destination = SqsDestination(queue.arn, endpoint_url=ministack.endpoint_url)
    sent = discards(8)
    threads = [threading.Thread(target=destination.send, args=(discard,)) for discard in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    destination.close()
    bodies = [json.loads(body) for body in queue.receive(8)]
    assert sorted(bodies, key=str) == sorted((discard.invocation_record() for discard in sent), key=str)


# Opening.


def test_what_is_not_there_is_told_at_once(server: Server) -> None:
    account = Queue(server).arn.split(":")[4]
    missing = unique("missing")
    for arn in (f"arn:aws:sqs:{REGION}:{account}:{missing}", f"arn:aws:sns:{REGION}:{account}:{missing}", f"arn:aws:s3:::{missing}"):
        with pytest.raises(ConfigError, match=re.escape(f"destination {arn} does not exist")) as refused:
            open_destination(arn, region=REGION, endpoint_url=server.endpoint_url)
        assert refused.value.parameter == "destination_config"


def test_the_worker_opens_what_the_mapping_names(ministack: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", ministack.endpoint_url)
    queue, stream = Queue(ministack), MemoryStream("orders")
    number = stream.put("key", b"bad")[1]
    worker = Worker(checkpoints=MemoryCheckpointStore())
    config = {"OnFailure": {"Destination": queue.arn}}
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", maximum_retry_attempts=0, destination_config=config)
    worker.add(mapping, stream, ScriptedFunction(poison=lambda _: True))
    assert worker.run(until_idle=True).delivered == 1
    (body,) = queue.receive(1)
    assert json.loads(body)["KinesisBatchInfo"]["startSequenceNumber"] == number


def test_what_cannot_be_looked_at_is_tried_when_there_is_a_discard(
    ministack: Server, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(ministack)
    proxy.fault("GetQueueAttributes", faults.error("AccessDenied", 403))
    open_destination(queue.arn, endpoint_url=proxy.endpoint_url).close()
    assert caplog.text == ""
    proxy.fault("GetQueueAttributes", faults.refuse())
    open_destination(queue.arn, endpoint_url=proxy.endpoint_url).close()
    assert f"whether destination {queue.arn} is there cannot be seen now" in caplog.text


@pytest.mark.parametrize(
    ("kind", "arn"),
    [
        (SqsDestination, "arn:aws:sqs:eu-west-1:123456789012:orders.fifo"),
        (SqsDestination, "arn:aws:sns:eu-west-1:123456789012:orders"),
        (SnsDestination, "arn:aws:sns:eu-west-1:123456789012:orders.fifo"),
        (S3Destination, "arn:aws:s3:::orders/prefix"),
        (open_destination, "arn:aws:lambda:eu-west-1:123456789012:function:orders"),
        (open_destination, "orders"),
    ],
)
def test_what_is_no_destination_is_refused(kind: Any, arn: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(arn))) as refused:
        kind(arn)
    assert refused.value.parameter == "destination_config"


@pytest.mark.parametrize(
    ("options", "parameter", "said"),
    [
        ({"profile": "missing"}, "profile", r"The config profile \(missing\) could not be found"),
        ({"endpoint_url": "127.0.0.1:4566"}, "endpoint_url", "an endpoint is a URL like http://127.0.0.1:4566"),
    ],
)
def test_settings_that_cannot_be_right_are_told_of(options: dict[str, str], parameter: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        S3Destination("arn:aws:s3:::discards", **options)
    assert refused.value.parameter == parameter


def test_a_queue_is_where_its_arn_says() -> None:
    """A mapping may send to another region than that of its stream."""
    destination = SqsDestination("arn:aws-cn:sqs:cn-north-1:123456789012:discards", region="us-east-1")
    assert destination._url == "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/discards"
    destination.close()
