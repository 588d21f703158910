"""Send payloads through the filter of LocalStack's Kinesis poller and print what it costs.

Run by `filters.py` in an environment of its own that has `localstack-core[base-runtime]` (Apache-2.0), which is used as it is installed:

    python -P benches/localstack_filter.py GIVEN

GIVEN is a JSON file with `patterns`, by name, and `payloads` in base64.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import boto3
from localstack.services.lambda_.event_source_mapping.event_processor import EventProcessor
from localstack.services.lambda_.event_source_mapping.pollers.kinesis_poller import KinesisPoller

ROUNDS = 3


class Nothing(EventProcessor):  # type: ignore[misc] # it comes without types, in another environment
    """A function that is never called."""

    def process_events_batch(self, input_events: list[object]) -> None:
        raise AssertionError(input_events)

    def generate_event_failure_context(self, abort_condition: str, **_: object) -> dict[str, str]:
        return {"condition": abort_condition}


def main() -> None:
    logging.disable(logging.CRITICAL)
    given = json.loads(Path(sys.argv[1]).read_text())
    client = boto3.client("kinesis", endpoint_url="http://127.0.0.1:1", region_name="us-east-1")
    for name, pattern in given["patterns"].items():
        poller = KinesisPoller(
            source_arn="arn:aws:kinesis:us-east-1:000000000000:stream/s",
            source_parameters={
                "FilterCriteria": {"Filters": [{"Pattern": json.dumps(pattern)}]},
                "KinesisStreamParameters": {"StartingPosition": "TRIM_HORIZON", "BatchSize": 1000},
            },
            source_client=client,
            processor=Nothing(),
            invoke_identity_arn="arn:aws:iam::000000000000:role/r",
            kinesis_namespace=True,
            esm_uuid="00000000-0000-0000-0000-000000000000",
        )
        times = []
        passed = 0
        for _ in range(ROUNDS):
            events = [{"kinesis": {"partitionKey": "k", "sequenceNumber": "1", "data": data}} for data in given["payloads"]]
            start = time.process_time()
            passed = len(poller.post_filter(poller.filter_events(poller.pre_filter(events))))
            times.append(time.process_time() - start)
        print(f"{name}: {min(times) / len(given['payloads']) * 1e9:.0f} ns a record, {passed} of {len(given['payloads'])} passed")


if __name__ == "__main__":
    main()
