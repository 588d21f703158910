"""Records to measure with: GetRecords bodies with Zipf-distributed keys, the same for every run."""

from __future__ import annotations

import base64
import bisect
import itertools
import json
import random

SEED = 20
ARRIVAL_S = 1_700_000_000


def zipf_keys(count: int, keys: int, rng: random.Random) -> list[str]:
    """Return keys of which the r-th most frequent is r times rarer than the first: Zipf's law with exponent 1."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, keys + 1)))
    return [f"key-{bisect.bisect(weights, rng.random() * weights[-1])}" for _ in range(count)]


def bodies(pages: int, records: int, payload_bytes: int, *, keys: int = 10_000) -> list[bytes]:
    """Return GetRecords answers of one shard, as Kinesis writes them."""
    rng = random.Random(SEED)
    base = 49590338271490256608559692538361571095921575989136588898
    answers = []
    for page in range(pages):
        chosen = zipf_keys(records, keys, rng)
        answers.append(
            json.dumps(
                {
                    "MillisBehindLatest": 0,
                    "NextShardIterator": "A" * 224,
                    "Records": [
                        {
                            "ApproximateArrivalTimestamp": ARRIVAL_S + (page * records + index) / 1000,
                            "Data": base64.b64encode(rng.randbytes(payload_bytes)).decode(),
                            "PartitionKey": key,
                            "SequenceNumber": str(base + (page * records + index) * 7),
                        }
                        for index, key in enumerate(chosen)
                    ],
                },
                separators=(",", ":"),
            ).encode()
        )
    return answers


def dynamodb_bodies(pages: int, records: int, *, items: int = 10_000) -> list[bytes]:
    """Return GetRecords answers of one shard of DynamoDB Streams: updates of items with ten attributes, with new and old images."""
    rng = random.Random(SEED)
    base = 400000000000000499660
    answers = []
    for page in range(pages):
        changes = []
        for index, key in enumerate(zipf_keys(records, items, rng)):
            old = {
                "pk": {"S": key},
                "sk": {"N": str(len(key))},
                "status": {"S": rng.choice(["open", "paid", "sent"])},
                "total": {"N": f"{rng.randrange(100_000) / 100:.2f}"},
                "customer": {"S": f"customer-{rng.randrange(100_000)}"},
                "paid": {"BOOL": rng.random() < 0.5},
                "tags": {"SS": ["a", "b", "c"]},
                "token": {"B": base64.b64encode(rng.randbytes(24)).decode()},
                "lines": {"L": [{"M": {"sku": {"S": f"sku-{rng.randrange(1000)}"}, "count": {"N": "2"}}}]},
                "note": {"NULL": True},
            }
            number = page * records + index
            change = {
                "ApproximateCreationDateTime": float(ARRIVAL_S + number // 1000),
                "Keys": {"pk": old["pk"], "sk": old["sk"]},
                "NewImage": {**old, "status": {"S": "sent"}},
                "OldImage": old,
                "SequenceNumber": str(base + number * 7),
                "SizeBytes": 300,
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            }
            changes.append(
                {
                    "awsRegion": "us-east-1",
                    "dynamodb": change,
                    "eventID": f"{rng.getrandbits(128):032x}",
                    "eventName": "MODIFY",
                    "eventSource": "aws:dynamodb",
                    "eventVersion": "1.1",
                }
            )
        answers.append(json.dumps({"NextShardIterator": "A" * 224, "Records": changes}, separators=(",", ":")).encode())
    return answers
