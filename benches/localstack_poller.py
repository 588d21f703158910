"""Read a stream to its end with LocalStack's Kinesis poller, batches of 100, without its pause between polls; print records a second.

Run by `streams.py` in an environment of its own that has `localstack-core[base-runtime]` (Apache-2.0), which is used as it is installed:

    python -P benches/localstack_poller.py ENDPOINT_URL STREAM RECORDS
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import boto3
from localstack.services.lambda_.event_source_mapping.event_processor import EventProcessor
from localstack.services.lambda_.event_source_mapping.pollers.kinesis_poller import KinesisPoller


class Counter(EventProcessor):  # type: ignore[misc] # it comes without types, in another environment
    """A function that does nothing but count."""

    def __init__(self) -> None:
        self.records = 0

    def process_events_batch(self, input_events: list[Any]) -> None:
        self.records += len(input_events)

    def generate_event_failure_context(self, abort_condition: str, **_: Any) -> dict[str, str]:
        return {"condition": abort_condition}


def main() -> None:
    logging.disable(logging.CRITICAL)
    endpoint_url, stream, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = boto3.client("kinesis", endpoint_url=endpoint_url, region_name="us-east-1")
    parameters = {
        "FilterCriteria": {"Filters": []},
        "KinesisStreamParameters": {
            "StartingPosition": "TRIM_HORIZON",
            "BatchSize": 100,
            "MaximumBatchingWindowInSeconds": 0,
            "MaximumRetryAttempts": -1,
            "MaximumRecordAgeInSeconds": -1,
        },
    }
    counter = Counter()
    poller = KinesisPoller(
        source_arn=client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"],
        source_parameters=parameters,
        source_client=client,
        processor=counter,
        invoke_identity_arn="arn:aws:iam::000000000000:role/r",
        kinesis_namespace=True,
        esm_uuid="00000000-0000-0000-0000-000000000000",
    )
    start = time.perf_counter()
    while counter.records < count:
        poller.poll_events()
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
