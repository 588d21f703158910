"""The handler of the demo: departure delays by carrier, and a refusal of every flight that has none.

It would run on AWS Lambda as it stands, with ReportBatchItemFailures in the mapping's FunctionResponseTypes.
"""

from __future__ import annotations

import atexit
import base64
import json
import sys
import threading
from typing import Any

MISSING = {"", "NA"}  # "NA" stands in the file where a value is not known

delays: dict[str, list[int]] = {}  # carrier to [flights, minutes late]
lock = threading.Lock()  # several shards, or a ParallelizationFactor above 1, run this handler in several threads


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001  (Lambda passes a context)
    """Add up the delays of a batch, as far as the first flight without a departure delay or a tail number."""
    done: list[tuple[str, int]] = []
    failures = []
    for record in event["Records"]:
        flight = json.loads(base64.b64decode(record["kinesis"]["data"]))
        if flight["dep_delay"] in MISSING or flight["tailnum"] in MISSING:
            # This record and all behind it in the batch are sent again, split off, and in the end discarded or done.
            failures = [{"itemIdentifier": record["kinesis"]["sequenceNumber"]}]
            break
        done.append((flight["carrier"], int(flight["dep_delay"])))
    with lock:
        for carrier, minutes in done:
            total = delays.setdefault(carrier, [0, 0])
            total[0] += 1
            total[1] += minutes
    return {"batchItemFailures": failures}


@atexit.register
def report() -> None:
    """Say what this process has added up: flights and average departure delay in minutes."""
    for carrier, (flights, minutes) in sorted(delays.items(), key=lambda item: -item[1][0]):
        print(f"  {carrier} {flights:>7} flights, {minutes / flights:>5.1f} minutes late on average", file=sys.stderr)
