"""LocalStack's Kinesis poller, driven alone: without its pause between polls, and without LocalStack around it.

Run in an environment of its own that has `localstack-core[base-runtime]` (Apache-2.0), which is used as it is installed:

    python -P benches/localstack_poller.py ENDPOINT_URL STREAM RECORDS
    python -P benches/localstack_poller.py --serve PAGES

The first reads a stream of a server to its end in batches of 100, with a function that only counts, and prints records a second. The second
reads the records of GetRecords bodies, one a line of the file PAGES, again for each line on standard input, and answers with the seconds
that it took: the poller makes events of them, and its sender makes the JSON of each event and invokes a function that answers at once. A
line is a batch size and where the poller gets its records from: `records` that are parsed and decoded beforehand, or `bodies` that boto3
gets in place of the server's answers and parses.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.awsrequest import AWSResponse
from localstack.services.lambda_.event_source_mapping.esm_event_processor import EsmEventProcessor
from localstack.services.lambda_.event_source_mapping.event_processor import EventProcessor
from localstack.services.lambda_.event_source_mapping.pipe_loggers.noops_pipe_logger import NoOpsPipeLogger
from localstack.services.lambda_.event_source_mapping.pollers.kinesis_poller import KinesisPoller
from localstack.services.lambda_.event_source_mapping.senders.lambda_sender import LambdaSender

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/bench"
FUNCTION_ARN = "arn:aws:lambda:us-east-1:000000000000:function:bench"


class Counter(EventProcessor):  # type: ignore[misc] # it comes without types, in another environment
    """A function that does nothing but count."""

    def __init__(self) -> None:
        self.records = 0

    def process_events_batch(self, input_events: list[Any]) -> None:
        self.records += len(input_events)

    def generate_event_failure_context(self, abort_condition: str, **_: Any) -> dict[str, str]:
        return {"condition": abort_condition}


class PreparedKinesis:
    """A client of Kinesis whose answers cost nothing: one shard, records as boto3 would return them."""

    class exceptions:  # noqa: N801  (as boto3 calls it)
        class ExpiredIteratorException(Exception):  # noqa: N818  (the same)
            """Never raised."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records

    def describe_stream(self, **_: Any) -> dict[str, Any]:
        return {"StreamDescription": {"StreamStatus": "ACTIVE", "Shards": [{"ShardId": "shardId-000000000000"}]}}

    def get_shard_iterator(self, **_: Any) -> dict[str, str]:
        return {"ShardIterator": "0"}

    def get_records(self, ShardIterator: str, Limit: int, **_: Any) -> dict[str, Any]:  # noqa: N803  (the API's names)
        end = int(ShardIterator) + Limit
        return {"Records": self._records[int(ShardIterator) : end], "NextShardIterator": str(end)}


class Body(io.BytesIO):
    """What botocore reads an answer from."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.getvalue()


def boto3_over(records: list[dict[str, Any]], batch_size: int) -> Any:
    """Return boto3's client of Kinesis whose requests are answered, without a server, with bodies of up to `batch_size` records."""
    answers = {
        "DescribeStream": {
            "StreamDescription": {
                "StreamStatus": "ACTIVE",
                "Shards": [
                    {
                        "ShardId": "shardId-000000000000",
                        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"},
                        "SequenceNumberRange": {"StartingSequenceNumber": "0"},
                    }
                ],
            }
        },
        "GetShardIterator": {"ShardIterator": "0"},
    }
    bodies = {name: json.dumps(answer).encode() for name, answer in answers.items()}
    for start in range(0, len(records), batch_size):
        page = {"Records": records[start : start + batch_size], "NextShardIterator": str(start + batch_size), "MillisBehindLatest": 0}
        bodies[str(start)] = json.dumps(page, separators=(",", ":")).encode()

    def answer(request: Any, **_: Any) -> AWSResponse:
        name = request.headers["X-Amz-Target"].decode().partition(".")[2]
        body = bodies[json.loads(request.body)["ShardIterator"] if name == "GetRecords" else name]
        return AWSResponse(request.url, 200, {"Content-Type": "application/x-amz-json-1.1"}, Body(body))

    client = boto3.client("kinesis", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")  # noqa: S106 (a test server)
    client.meta.events.register("before-send.kinesis", answer)
    return client


class PreparedLambda:
    """A client of Lambda that answers at once."""

    def __init__(self) -> None:
        self.bytes = 0

    def invoke(self, Payload: str, **_: Any) -> dict[str, Any]:  # noqa: N803  (the API's name)
        self.bytes += len(Payload)
        answer = io.BytesIO(b'{"batchItemFailures":[]}')
        return {"Payload": answer, "StatusCode": 200, "ResponseMetadata": {"RequestId": "r"}}


def poller_over(client: Any, processor: EventProcessor, batch_size: int, source_arn: str = STREAM_ARN) -> KinesisPoller:
    """Return a poller as LocalStack would make it for a mapping."""
    parameters = {
        "FilterCriteria": {"Filters": []},
        "KinesisStreamParameters": {
            "StartingPosition": "TRIM_HORIZON",
            "BatchSize": batch_size,
            "MaximumBatchingWindowInSeconds": 0,
            "MaximumRetryAttempts": -1,
            "MaximumRecordAgeInSeconds": -1,
        },
    }
    return KinesisPoller(
        source_arn=source_arn,
        source_parameters=parameters,
        source_client=client,
        processor=processor,
        invoke_identity_arn="arn:aws:iam::000000000000:role/r",
        kinesis_namespace=True,
        esm_uuid="00000000-0000-0000-0000-000000000000",
    )


def read(endpoint_url: str, stream: str, count: int) -> float:
    """Return the records a second of a poller over a server's stream."""
    client = boto3.client("kinesis", endpoint_url=endpoint_url, region_name="us-east-1")
    counter = Counter()
    arn = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    poller = poller_over(client, counter, 100, arn)
    start = time.perf_counter()
    while counter.records < count:
        poller.poll_events()
    return count / (time.perf_counter() - start)


def serve(pages: Path) -> None:
    """Answer each line on standard input with the seconds that the records of the bodies took."""
    parsed = [record for body in pages.read_bytes().splitlines() for record in json.loads(body)["Records"]]
    decoded = [
        {
            **record,
            "Data": base64.b64decode(record["Data"]),
            "ApproximateArrivalTimestamp": datetime.fromtimestamp(record["ApproximateArrivalTimestamp"], UTC),
        }
        for record in parsed
    ]
    for line in sys.stdin:
        size, source = line.split()
        batch_size = int(size)
        function = PreparedLambda()
        sender = LambdaSender(FUNCTION_ARN, target_client=function, payload_dict=True, report_batch_item_failures=True)
        client = PreparedKinesis(decoded) if source == "records" else boto3_over(parsed, batch_size)
        poller = poller_over(client, EsmEventProcessor(sender=sender, logger=NoOpsPipeLogger()), batch_size)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(-(-len(parsed) // batch_size)):
            poller.poll_events()
        taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        if function.bytes < sum(len(record["Data"]) for record in parsed):
            raise SystemExit("not every record was sent")
        print(json.dumps(taken), flush=True)


def main() -> None:
    logging.disable(logging.CRITICAL)
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        print(read(sys.argv[1], sys.argv[2], int(sys.argv[3])))


if __name__ == "__main__":
    main()
