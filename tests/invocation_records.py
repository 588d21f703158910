"""Invocation records for tests, as on-failure destinations are sent them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
TABLE_ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026-01-31T00:00:00.000"
ARRIVED = "2026-01-31T12:00:00.000Z"


def record(
    first: str, last: str, *, shard_id: str = "shardId-000000000000", arn: str = ARN, size: int = 1, **members: Any
) -> dict[str, Any]:
    """Return an invocation record."""
    kind = "KinesisBatchInfo" if ":kinesis:" in arn else "DDBStreamBatchInfo"
    info = {"shardId": shard_id, "startSequenceNumber": first, "endSequenceNumber": last, "approximateArrivalOfLastRecord": ARRIVED}
    return {
        "requestContext": {"condition": "RetryAttemptsExhausted", "approximateInvokeCount": 1},
        "version": "1.0",
        **members,
        kind: {**info, "batchSize": size, "streamArn": arn},
    }


def write(path: Path, *records: dict[str, Any]) -> str:
    """Write one on a line, and return the path."""
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return str(path)


def payload(*records: tuple[str, str, str]) -> dict[str, Any]:
    """Return the event of records of (key, payload, sequence number)."""
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": key,
                    "sequenceNumber": number,
                    "data": base64.b64encode(text.encode()).decode(),
                    "approximateArrivalTimestamp": 1769860799.953,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"shardId-000000000000:{number}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::000000000000:role/streamcore",
                "awsRegion": "us-east-1",
                "eventSourceARN": ARN,
            }
            for key, text, number in records
        ]
    }


def held(*records: tuple[str, str, str], as_text: bool = True) -> dict[str, Any]:
    """Return the invocation record that holds the event of these records."""
    event = payload(*records)
    numbers = [number for _, _, number in records]
    return record(numbers[0], numbers[-1], size=len(records), payload=json.dumps(event) if as_text else event)
