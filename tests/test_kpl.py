"""Aggregated records: what the public Python implementation and Google's parser make of the same bytes."""

from __future__ import annotations

import base64
import hashlib
import warnings
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamcore.kpl import MAGIC, UserRecord, aggregate, deaggregate, split

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # written for Python 2 too
    from aws_kinesis_agg.aggregator import RecordAggregator  # first: it lets the next one find its neighbours
    from aws_kinesis_agg import messages_pb2  # isort: skip
    from aws_kinesis_agg.deaggregator import deaggregate_records
    from google.protobuf.message import DecodeError

keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
payloads = st.binary(max_size=200)
hash_keys = st.integers(0, 2**128 - 1).map(str)
user_records = st.builds(UserRecord, keys, payloads, st.none() | hash_keys)


def sealed(body: bytes) -> bytes:
    """Return the bytes with magic and digest around them, whatever they are."""
    return MAGIC + body + hashlib.md5(body, usedforsecurity=False).digest()


def event_record(data: bytes, number: int = 7) -> dict[str, Any]:
    """Return a record of a Lambda event, as the Lambda developer guide shows it."""
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "outer",
            "sequenceNumber": str(number),
            "data": base64.b64encode(data).decode(),
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shardId-000000000006:{number}",
        "eventName": "aws:kinesis:record",
    }


def by_google(data: bytes) -> list[UserRecord] | None:
    """Return what Google's parser reads; None for a damaged message. Text that is not UTF-8 comes from it as bytes."""
    message = messages_pb2.AggregatedRecord()  # type: ignore[attr-defined,unused-ignore]
    try:
        message.ParseFromString(data[4:-16])
        partition_keys, explicit = list(message.partition_key_table), list(message.explicit_hash_key_table)
        tags = [text for record in message.records for tag in record.tags for text in (tag.key, tag.value)]
        if not message.IsInitialized() or any(isinstance(text, bytes) for text in (*partition_keys, *explicit, *tags)):
            return None
        return [
            UserRecord(
                partition_keys[record.partition_key_index],
                record.data,
                explicit[record.explicit_hash_key_index] if record.HasField("explicit_hash_key_index") else None,
            )
            for record in message.records
        ]
    except (DecodeError, IndexError, UnicodeDecodeError):
        return None


@given(st.lists(user_records, min_size=1, max_size=20))
def test_what_is_aggregated_comes_out_again(records: list[UserRecord]) -> None:
    packed = aggregate(records)
    assert split(packed) == by_google(packed) == records


@given(st.lists(st.builds(UserRecord, keys, payloads, hash_keys), min_size=1, max_size=20))
def test_aggregates_equal_those_of_the_public_library_byte_for_byte(records: list[UserRecord]) -> None:
    theirs = RecordAggregator()
    for record in records:
        theirs.add_user_record(record.partition_key, record.data, record.explicit_hash_key)
    packed = theirs.clear_and_get().get_contents()[2]
    assert aggregate(records) == packed
    assert split(packed) == records


@given(st.lists(st.lists(user_records, min_size=1, max_size=5) | payloads, max_size=4))
def test_events_come_out_as_with_the_public_library(content: list[list[UserRecord] | bytes]) -> None:
    records = [event_record(part if isinstance(part, bytes) else aggregate(part), number) for number, part in enumerate(content)]
    ours = list(deaggregate(records))
    theirs = deaggregate_records(records)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert {name: our[name] for name in our if name != "kinesis"} == {name: their[name] for name in their if name != "kinesis"}
        for name, value in our["kinesis"].items():
            found = their["kinesis"][name]
            assert value == (found.decode() if isinstance(found, bytes) else found), name


def test_a_record_keeps_its_order_of_keys_and_the_event_is_not_changed() -> None:
    record = event_record(aggregate([UserRecord("ann", b"1"), UserRecord("bob", b"2", "340282366920938463463374607431768211455")]))
    before = repr(record)
    first, second = deaggregate([record])
    assert repr(record) == before
    assert list(second) == list(record)
    assert list(second["kinesis"]) == [*record["kinesis"], "subSequenceNumber"]
    assert [inner["kinesis"]["subSequenceNumber"] for inner in (first, second)] == [0, 1]
    assert second["kinesis"] == {**record["kinesis"], "partitionKey": "bob", "data": "Mg==", "subSequenceNumber": 1}


@given(payloads)
@example(b"")
@example(MAGIC)
@example(MAGIC + b"\x00" * 16)
@example(sealed(b""))
def test_a_plain_record_is_one_record(data: bytes) -> None:
    assert split(data) is None
    assert list(deaggregate([event_record(data)])) == [event_record(data)]


@given(st.lists(user_records, min_size=1, max_size=4), st.data())
def test_one_changed_byte_is_seen(records: list[UserRecord], data: st.DataObject) -> None:
    packed = bytearray(aggregate(records))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    assert split(bytes(packed)) is None
    record = event_record(bytes(packed))
    assert list(deaggregate([record])) == [record]


@given(st.lists(user_records, min_size=1, max_size=4), st.data())
def test_a_damaged_message_with_a_right_digest_is_read_as_google_reads_it(records: list[UserRecord], data: st.DataObject) -> None:
    body = bytearray(aggregate(records)[4:-16])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if at < len(body):
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 8))]
            case _:
                body[at:at] = data.draw(st.binary(min_size=1, max_size=6))
    packed = sealed(bytes(body))
    assert split(packed) == (by_google(packed) if body else None), bytes(body).hex()


@given(st.binary(min_size=1, max_size=40))
def test_any_bytes_with_a_right_digest_are_read_as_google_reads_them(body: bytes) -> None:
    assert split(sealed(body)) == by_google(sealed(body)), body.hex()


RECORD = b"\x08\x00\x1a\x01x"  # key 0, data "x"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"\x0a\x01a\x1a\x05" + RECORD, [UserRecord("a", b"x")], id="plain"),
        pytest.param(b"\x1a\x05" + RECORD + b"\x0a\x01a", [UserRecord("a", b"x")], id="table-behind-the-records"),
        pytest.param(b"\x0a\x01a\x2a\x03new\x1a\x05" + RECORD, [UserRecord("a", b"x")], id="unknown-field"),
        pytest.param(b"\x0a\x01a\x2b\x30\x01\x2c\x1a\x05" + RECORD, [UserRecord("a", b"x")], id="unknown-group"),
        pytest.param(b"\x0a\x01a\x1a\x0a" + RECORD + b"\x22\x03\x0a\x01t", [UserRecord("a", b"x")], id="tag"),
        pytest.param(b"\x0a\x01a", [], id="no-records"),
        pytest.param(b"\x1a\x05" + RECORD, None, id="key-not-in-the-table"),
        pytest.param(b"\x0a\x01a\x1a\x07" + RECORD + b"\x10\x00", None, id="hash-key-not-in-the-table"),
        pytest.param(b"\x0a\x01a\x1a\x02\x08\x00", None, id="no-data"),
        pytest.param(b"\x0a\x01a\x1a\x03\x1a\x01x", None, id="no-key"),
        pytest.param(b"\x0a\x01\xff\x1a\x05" + RECORD, None, id="key-not-utf-8"),
        pytest.param(b"\x0a\x01a\x1a\x06" + RECORD, None, id="cut-off"),
        pytest.param(b"\x0a\x01a\x1a\x07" + RECORD + b"\x22\x00", None, id="tag-without-a-key"),
        pytest.param(b"\x2b" * 101 + b"\x2c" * 101, None, id="too-many-groups"),
    ],
)
def test_the_format_to_its_edges(body: bytes, expected: list[UserRecord] | None) -> None:
    assert split(sealed(body)) == expected


def test_an_aggregate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        aggregate([])


def test_text_that_only_looks_like_an_aggregate_is_left_alone() -> None:
    record = event_record(b"")
    record["kinesis"]["data"] = "84mawg!!"
    assert list(deaggregate([record])) == [record]
