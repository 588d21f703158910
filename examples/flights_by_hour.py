"""Departures and delays by carrier and hour, added up in a tumbling window; the state is kept between invocations.

It would run on AWS Lambda as it stands, with a TumblingWindowInSeconds of 900 in the mapping; a scheduled hour is then one window. Each
window that closes is a line of JSON on standard output. After a crash a window may be closed twice; of such lines the last one counts.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001  (Lambda passes a context)
    """Add the flights of a batch to the state, carrier to [departures, minutes late], and tell of it at the end of the window."""
    state: dict[str, list[int]] = event["state"]
    for record in event["Records"]:
        flight = json.loads(base64.b64decode(record["kinesis"]["data"]))
        if flight["dep_delay"] != "NA":  # cancelled
            total = state.setdefault(flight["carrier"], [0, 0])
            total[0] += 1
            total[1] += int(flight["dep_delay"])
    if event["isFinalInvokeForWindow"]:
        line = json.dumps({"shard": event["shardId"], "hour": event["window"]["start"], "carriers": state})
        sys.stdout.write(line + "\n")  # in one piece: other shards write at the same time
        sys.stdout.flush()
    return {"state": state}
