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
