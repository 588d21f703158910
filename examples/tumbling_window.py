"""Counts changes by item in a tumbling window over DynamoDB Streams.

This is the example of the Lambda developer guide ("Using tumbling windows" in "Using Lambda with DynamoDB"), mended: as printed there it
takes `record["dynamodb"]["NewImage"]["Id"]` for the key of the state, which is an object such as `{"N": "101"}` and no key of a dict, and
which records of removed items do not have.
"""

from __future__ import annotations

from typing import Any


def lambda_handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001  (Lambda passes a context)
    """Add the records of a batch to the state; at the end of the window say what it has come to."""
    print("Incoming state:", event["state"])
    # Check if this is the end of the window, to either aggregate or process.
    if event["isFinalInvokeForWindow"]:
        print("Destination invoke")  # logic to handle the final state of the window goes here
    else:
        print("Aggregate invoke")
    # Check for early terminations.
    if event["isWindowTerminatedEarly"]:
        print("Window terminated early")
    # Aggregation logic.
    state = event["state"]
    for record in event["Records"]:
        # Every record has the keys of its item, one of removal too. The text of a key is a key that JSON can have.
        ((_, item),) = record["dynamodb"]["Keys"]["Id"].items()
        state[item] = state.get(item, 0) + 1
    print("Returning state:", state)
    return {"state": state}
