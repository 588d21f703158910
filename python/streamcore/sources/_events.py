"""Pages made of records as events have them: of discards that hold their event, and of recordings."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from streamcore._streamcore import Page
from streamcore.kpl import UserRecord, aggregate
from streamcore.sources._dynamodb_page import dynamodb_page

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALL_KEYS", "Group", "arrival_ms_of", "page_of", "sequence_of"]

ALL_KEYS = (0, 2**128 - 1)

# Records of one sequence number: one, or those of one aggregate that enhanced fan-out has taken apart.
Group = list[dict[str, Any]]


def sequence_of(record: dict[str, Any]) -> int:
    """Return the sequence number of a record as events have it, to compare it with."""
    return int(record["kinesis"]["sequenceNumber"] if "kinesis" in record else record["dynamodb"]["SequenceNumber"])


def arrival_ms_of(record: dict[str, Any]) -> int:
    """Return when a record as events have it arrived in its stream."""
    kinesis = record.get("kinesis")
    seconds: float = kinesis["approximateArrivalTimestamp"] if kinesis else record["dynamodb"]["ApproximateCreationDateTime"]
    return round(seconds * 1000)


def page_of(groups: Sequence[Group], texts: Sequence[str] | None = None) -> Page:
    """Return a page of records as events have them.

    Args:
        groups: one or more, in the order of the shard.
        texts: of DynamoDB Streams the JSON of each record, where it is to be kept byte for byte.

    Raises:
        ValueError, KeyError, TypeError, PageError: they are no such records.
    """
    if "dynamodb" in groups[0][0]:
        return dynamodb_page(texts if texts is not None else [record for group in groups for record in group])
    page = Page.from_records([_wire(group[0]["kinesis"]) if len(group) == 1 else _aggregate(group) for group in groups])
    # What was taken apart is put together and taken apart again, which gives each record its place within the sequence number.
    return page if all(len(group) == 1 for group in groups) else page.deaggregate(*ALL_KEYS)[0]


def _aggregate(group: Group) -> tuple[str, bytes, int, str]:
    wires = [_wire(record["kinesis"]) for record in group]
    key, _, arrival_ms, number = wires[0]
    return key, aggregate([UserRecord(wire[0], wire[1]) for wire in wires]), arrival_ms, number


def _wire(facts: dict[str, Any]) -> tuple[str, bytes, int, str]:
    try:
        data = base64.b64decode(facts["data"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data of a record is not base64: {error}") from None
    return facts["partitionKey"], data, round(facts["approximateArrivalTimestamp"] * 1000), facts["sequenceNumber"]
