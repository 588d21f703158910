"""The batch processor of AWS Lambda Powertools as a handler, which answers with partial failures, over both kinds of stream."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

from discards import FUNCTION_ARN, Queue, assert_invocation_record, sequence_number
from scenario import KinesisStream, Table
from servers import REGION
from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, SqsDestination, Worker

if TYPE_CHECKING:
    from servers import Server


class Handler:
    """Processes every record with Powertools; records whose key begins with "bad" fail."""

    def __init__(self, event_type: EventType) -> None:
        self._event_type = event_type
        self._lock = threading.Lock()
        self.events: list[dict[str, Any]] = []
        self.answers: list[Any] = []
        self.request_ids: list[str] = []
        self.processed: list[str] = []

    def _one(self, record: Any) -> None:
        # Powertools' own view of a record, which reads what Lambda sends.
        key = record.kinesis.partition_key if self._event_type is EventType.KinesisDataStreams else record.dynamodb.keys["key"]
        if key.startswith("bad"):
            raise ValueError(key)
        self.processed.append(key)

    def __call__(self, event: dict[str, Any], context: Any) -> Any:
        with self._lock:
            self.events.append(event)
            self.request_ids.append(context.aws_request_id)
            processor = BatchProcessor(event_type=self._event_type, raise_on_entire_batch_failure=False)
            answer = process_partial_response(event=event, record_handler=self._one, processor=processor, context=context)
            self.answers.append(answer)
            return answer


@pytest.mark.parametrize("kind", [KinesisStream, Table])
def test_its_partial_failures_are_retried_alone_and_discarded(
    ministack: Server, monkeypatch: pytest.MonkeyPatch, kind: type[KinesisStream | Table]
) -> None:
    for name, value in ministack.env.items():
        monkeypatch.setenv(name, value)
    stream = KinesisStream(ministack, 1) if kind is KinesisStream else Table(ministack)
    for key in ("a", "bad", "c", "worse-but-fine", "bad-too", "f"):
        stream.write([(key, 0)])
    handler = Handler(EventType.KinesisDataStreams if kind is KinesisStream else EventType.DynamoDBStreams)
    queue, source = Queue(ministack), stream.source()
    destination = SqsDestination(queue.arn, endpoint_url=ministack.endpoint_url)
    mapping = EventSourceMapping(
        event_source_arn=source.describe().event_source_arn,
        function_arn=FUNCTION_ARN,
        starting_position="TRIM_HORIZON",
        maximum_retry_attempts=1,
        bisect_batch_on_function_error=True,
        function_response_types=("ReportBatchItemFailures",),
    )
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping, source, LocalFunction(handler), destination)
    summary = worker.run(until_idle=True)
    source.close()
    destination.close()

    # Two fail in the first batch; from the lower one on all comes again, halved where its first record is the bad one.
    def keys(event: dict[str, Any]) -> list[str]:
        return [r["dynamodb"]["Keys"]["key"]["S"] if "dynamodb" in r else r["kinesis"]["partitionKey"] for r in event["Records"]]

    first = handler.events[0]
    numbers = {key: sequence_number(record) for key, record in zip(keys(first), first["Records"], strict=True)}
    assert handler.answers[0] == {"batchItemFailures": [{"itemIdentifier": numbers["bad"]}, {"itemIdentifier": numbers["bad-too"]}]}
    assert [keys(event) for event in handler.events] == [
        ["a", "bad", "c", "worse-but-fine", "bad-too", "f"],
        ["bad", "c", "worse-but-fine", "bad-too", "f"],
        ["bad", "c"],
        ["bad"],
        ["bad"],
        ["c"],
        ["worse-but-fine", "bad-too", "f"],
        ["bad-too", "f"],
        ["bad-too"],
        ["bad-too"],
        ["f"],
    ]
    assert set(handler.processed) == {"a", "c", "worse-but-fine", "f"}
    assert (summary.records, summary.succeeded, summary.discards, summary.delivered) == (6, 4, 2, 2)
    bodies = queue.receive(2)
    shard_id = stream.shards()[0]["ShardId"]
    for key, invocation in (("bad", 4), ("bad-too", 9)):
        (body,) = [body for body in bodies if numbers[key] in body]
        (record,) = handler.events[invocation]["Records"]
        request_id = handler.request_ids[invocation]
        assert_invocation_record(body, [record], shard_id=shard_id, count=2, request_id=request_id, function_error=None)


def test_a_batch_of_which_all_fail_is_a_function_error(ministack: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Powertools raises then, unless told otherwise."""
    for name, value in ministack.env.items():
        monkeypatch.setenv(name, value)
    stream = KinesisStream(ministack, 1)
    stream.write([("bad", 0), ("bad", 1)])
    queue, source = Queue(ministack), stream.source()

    def handler(event: dict[str, Any], context: Any) -> Any:
        def fails(_: object) -> None:
            raise ValueError

        processor = BatchProcessor(event_type=EventType.KinesisDataStreams)
        return process_partial_response(event=event, record_handler=fails, processor=processor, context=context)

    destination = SqsDestination(queue.arn, endpoint_url=ministack.endpoint_url)
    mapping = EventSourceMapping(
        event_source_arn=f"arn:aws:kinesis:{REGION}:000000000000:stream/{stream.name}",
        function_arn=FUNCTION_ARN,
        starting_position="TRIM_HORIZON",
        maximum_retry_attempts=0,
        function_response_types=("ReportBatchItemFailures",),
    )
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping, source, LocalFunction(handler), destination)
    summary = worker.run(until_idle=True)
    source.close()
    destination.close()
    assert (summary.failed_invocations, summary.discarded_records, summary.delivered) == (1, 2, 1)
    assert '"functionError":"Unhandled"' in queue.receive(1)[0]
