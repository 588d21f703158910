"""Pages: bodies as they come from the wire, records handed over one by one, and what is wrong with either."""

from __future__ import annotations

import gc
import json
import pickle
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore import Batch, ConfigError, Engine, EventSourceMapping, Page, PageError, StreamcoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_700_000_000_000
MAPPING = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=10_000)

_Record = tuple[str, bytes, int, str | None]


def body_of(records: list[tuple[str, bytes, int, str]], *, ascii_only: bool = True, **around: object) -> bytes:
    """Write records as Kinesis answers them."""
    listed = [
        {
            "SequenceNumber": number,
            "ApproximateArrivalTimestamp": arrival_ms / 1000,
            "Data": b64encode(data).decode(),
            "PartitionKey": key,
            "EncryptionType": "NONE",
        }
        for key, data, arrival_ms, number in records
    ]
    return json.dumps({"Records": listed, **around}, ensure_ascii=ascii_only).encode()


def batch_of(page: Page) -> Batch:
    engine = Engine()
    engine.offer(engine.add_shard(MAPPING, "shardId-000000000000", now=NOW), page, NOW)
    batch = engine.take(NOW)
    assert isinstance(batch, Batch)
    return batch


# Bodies.


def test_a_body_gives_its_records_and_what_stands_around_them() -> None:
    children = [{"ShardId": "s-2", "ParentShards": ["s-0", "s-1"], "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"}}]
    page = Page.parse(
        body_of([("a", b"1", NOW, "7"), ("b", b"", NOW, "8")], NextShardIterator="AAA\n", MillisBehindLatest=12, ChildShards=children)
    )
    assert (len(page), page.next_iterator, page.millis_behind, page.last_sequence_number) == (2, "AAA\n", 12, "8")
    assert [(child.shard_id, child.parent_shards) for child in page.child_shards] == [("s-2", ["s-0", "s-1"])]
    assert repr(page.child_shards[0]) == 'ChildShard("s-2", parent_shards=["s-0", "s-1"])'
    assert repr(page) == f"Page(2 records, {page.held_bytes} bytes)"


def test_what_is_missing_around_the_records_is_none() -> None:
    page = Page.parse(b' {"Records": [] } ')
    assert (len(page), page.next_iterator, page.millis_behind, page.last_sequence_number, page.child_shards) == (0, None, None, None, [])
    nulls = Page.parse(b'{"Records":[],"NextShardIterator":null,"MillisBehindLatest":null,"ChildShards":null}')
    assert (nulls.next_iterator, nulls.millis_behind, nulls.child_shards) == (None, None, [])


def test_unknown_members_and_any_order_of_members_are_read() -> None:
    body = (
        b'{"Unknown": {"deep": [1, {"a": "}"}]}, "Records": [{"PartitionKey": "k", "New": [null, true, -1.5e3], "Data": "YQ==",'
        b' "ApproximateArrivalTimestamp": 1.7E9, "SequenceNumber": "5"}], "Later": "x"}'
    )
    kinesis = batch_of(Page.parse(body)).event()["Records"][0]["kinesis"]
    assert kinesis == {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": "k",
        "sequenceNumber": "5",
        "data": "YQ==",
        "approximateArrivalTimestamp": 1_700_000_000,
    }


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"caf\\u00e9", "café"),
        (b"caf\xc3\xa9", "café"),
        (b"\\ud83d\\ude00", "😀"),
        (b'\\"\\\\\\/\\b\\f\\n\\r\\t', '"\\/\b\f\n\r\t'),
        (b"\\u0000\\u001f", "\0\x1f"),
        (b"\\u2028", "\u2028"),
        (b"", ""),
    ],
)
def test_keys_may_be_written_in_every_way_that_json_has(written: bytes, expected: str) -> None:
    body = b'{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":1,"Data":"","PartitionKey":"' + written + b'"}]}'
    from_body = batch_of(Page.parse(body))
    assert from_body.event()["Records"][0]["kinesis"]["partitionKey"] == expected
    assert from_body.json() == batch_of(Page.from_records([(expected, b"", 1000, "1")])).json()


RECORD = b'{"SequenceNumber":"1","ApproximateArrivalTimestamp":1,"Data":"","PartitionKey":"k"}'

BROKEN: list[tuple[str, bytes, int, str]] = [
    ("empty", b"", 0, "ends too early"),
    ("cut", b'{"Records": [', 13, "ends too early"),
    ("records_missing", b' {"NextShardIterator": "a"}', 1, "the object that begins here has no Records"),
    ("records_of_a_wrong_type", b'{"Records": 7}', 12, "Records must be an array, found a number"),
    ("not_an_object", b"[]", 0, "expected"),
    ("trailing", b'{"Records":[]} x', 15, "nothing may follow"),
    ("not_utf8", b'{"Records":[],"a":"\xff"}', 19, "not UTF-8"),
    ("control_character", b'{"Records":[],"a":"\x01"}', 19, "U+0001 must be escaped"),
    ("bad_escape", b'{"Records":[],"a":"\\x"}', 19, "a backslash must begin one of"),
    ("lone_surrogate", b'{"Records":[' + RECORD.replace(b'"k"', b'"\\ud83d"') + b"]}", 92, "half of a surrogate pair"),
    ("too_deep", b'{"Records":[],"a":' + b"[" * 1000 + b"]" * 1000 + b"}", -1, "nested"),
    ("key_missing", b'{"Records":[' + RECORD.replace(b',"PartitionKey":"k"', b"") + b"]}", 12, "has no PartitionKey"),
    ("number_missing", b'{"Records":[' + RECORD.replace(b'"SequenceNumber":"1",', b"") + b"]}", 12, "has no SequenceNumber"),
    ("data_missing", b'{"Records":[' + RECORD.replace(b'"Data":"",', b"") + b"]}", 12, "has no Data"),
    ("arrival_missing", b'{"Records":[' + RECORD.replace(b'"ApproximateArrivalTimestamp":1,', b"") + b"]}", 12, "has no Approximate"),
    ("number_as_a_number", b'{"Records":[' + RECORD.replace(b'"1"', b"1") + b"]}", 30, "SequenceNumber must be a string, found a number"),
    ("number_of_letters", b'{"Records":[' + RECORD.replace(b'"1"', b'"1x"') + b"]}", -1, "decimal digits only, found 'x' at index 1"),
    ("number_empty", b'{"Records":[' + RECORD.replace(b'"1"', b'""') + b"]}", -1, "at least one digit"),
    (
        "number_too_long",
        b'{"Records":[' + RECORD.replace(b'"1"', b'"' + b"1" * 130 + b'"') + b"]}",
        -1,
        "at most 129 digits, this one has 130",
    ),
    (
        "arrival_out_of_range",
        b'{"Records":[' + RECORD.replace(b":1,", b":1e30,") + b"]}",
        64,
        "ApproximateArrivalTimestamp is out of range",
    ),
    ("key_too_long", b'{"Records":[' + RECORD.replace(b'"k"', b'"' + b"k" * 65_536 + b'"') + b"]}", -1, "has 65536 bytes, at most 65535"),
    ("second_record", b'{"Records":[' + RECORD + b", 5]}", 97, "a record must be an object, found a number"),
]


@pytest.mark.parametrize(("body", "offset", "text"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_body_is_refused_with_its_offset(body: bytes, offset: int, text: str) -> None:
    with pytest.raises(PageError) as caught:
        Page.parse(body)
    error = caught.value
    assert text in str(error)
    assert f"{error.offset}: " in str(error)
    assert 0 <= error.offset <= len(body)
    if offset >= 0:  # -1: where exactly is the core's matter
        assert error.offset == offset
    assert isinstance(error, ValueError)
    assert isinstance(error, StreamcoreError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own pickle
    assert (str(again), again.offset) == (str(error), error.offset)


@pytest.mark.parametrize("body", ["{}", bytearray(b'{"Records":[]}'), memoryview(b'{"Records":[]}'), None, 5])
def test_a_body_must_be_bytes(body: Any) -> None:
    with pytest.raises(TypeError, match=r"is not an instance of 'bytes'"):
        Page.parse(body)


def test_a_format_must_be_known() -> None:
    with pytest.raises(ConfigError, match="format is \"avro\", and must be 'kinesis'") as caught:
        Page.parse(b"{}", "avro")  # type: ignore[arg-type] # what the test is about
    assert caught.value.parameter == "format"
    assert len(Page.parse(b'{"Records":[]}', format="kinesis")) == 0


def test_large_bodies_are_read_with_the_interpreter_released_and_give_the_same() -> None:
    records = [(f"key-{n}", bytes([n % 256]) * 1000, NOW + n, str(n)) for n in range(1, 201)]
    parsed = Page.parse(body_of(records))
    assert len(parsed) == 200
    assert batch_of(parsed).json() == batch_of(Page.from_records(records)).json()


# Records handed over one by one.


def test_records_may_come_from_any_iterable() -> None:
    records: list[_Record] = [("a", b"1", NOW, "1"), ("b", b"2", NOW, None)]
    for iterable in (records, tuple(records), iter(records), (record for record in records), dict.fromkeys(records)):
        assert len(Page.from_records(iterable)) == 2
    assert len(Page.from_records([])) == 0
    assert Page.from_records([]).last_sequence_number is None
    assert Page.from_records(records).last_sequence_number is None
    assert Page.from_records(records[:1]).last_sequence_number == "1"


def test_records_without_a_sequence_number_follow_what_the_shard_has_seen() -> None:
    engine = Engine()
    shard = engine.add_shard(MAPPING, "shardId-000000000000", now=NOW)
    page = Page.from_records([("a", b"1", NOW, None), ("a", b"2", NOW, None)])
    for _ in range(2):  # the page that was handed over is not changed: its numbers are given anew
        assert engine.offer(shard, page, NOW).records == 2
    engine.offer(shard, Page.from_records([("a", b"3", NOW, "70"), ("a", b"4", NOW, None)]), NOW)
    batch = engine.take(NOW)
    assert isinstance(batch, Batch)
    assert [record["kinesis"]["sequenceNumber"] for record in batch.event()["Records"]] == ["1", "2", "3", "4", "70", "71"]
    assert page.last_sequence_number is None


WRONG: list[tuple[object, type[Exception], str]] = [
    (None, TypeError, "'NoneType' object is not iterable"),
    ([5], TypeError, r"record 0: it must be a tuple \(partition key, payload, arrival time in ms, sequence number or None\), not int"),
    ([["k", b"", 1, None]], TypeError, "record 0: it must be a tuple .*, not list"),
    ([("k", b"", 1, None), ("k", b"", 1)], TypeError, "record 1: it must be a tuple .*, not one of 3"),
    ([("k", b"", 1, None, 5)], TypeError, "record 0: it must be a tuple .*, not one of 5"),
    ([(b"k", b"", 1, None)], TypeError, "record 0: the partition key must be a str, not bytes"),
    ([("k", "", 1, None)], TypeError, "record 0: the payload must be bytes, not str"),
    ([("k", bytearray(b""), 1, None)], TypeError, "record 0: the payload must be bytes, not bytearray"),
    ([("k", memoryview(b""), 1, None)], TypeError, "record 0: the payload must be bytes, not memoryview"),
    ([("k", b"", 1.0, None)], TypeError, "record 0: the arrival time must be an int of milliseconds, not float"),
    ([("k", b"", None, None)], TypeError, "record 0: the arrival time must be an int of milliseconds, not NoneType"),
    ([("k", b"", 1, 5)], TypeError, "record 0: the sequence number must be a str or None, not int"),
    ([("k", b"", 1, "1"), ("k", b"", 10**30, "2")], PageError, "at 1: ApproximateArrivalTimestamp is out of range"),
    ([("k", b"", -(10**16), "2")], PageError, "at 0: ApproximateArrivalTimestamp is out of range"),
    ([("k", b"", 1, "")], PageError, "at 0: a sequence number has at least one digit"),
    ([("k", b"", 1, "-1")], PageError, "at 0: a sequence number is decimal digits only, found '-' at index 0"),
    ([("k", b"", 1, "٣")], PageError, "at 0: a sequence number is decimal digits only"),
    ([("k", b"", 1, "9" * 130)], PageError, "at 0: a sequence number has at most 129 digits, this one has 130"),
    ([("é" * 32_768, b"", 1, "1")], PageError, "at 0: the partition key has 65536 bytes, at most 65535 are possible"),
    ([("k", b"", 1, None), ("\ud800", b"", 1, None)], PageError, "at 1: the partition key holds half of a surrogate pair"),
    ([("k", b"", 1, "\ud800")], PageError, "at 0: the sequence number holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("records", "error", "text"), WRONG)
def test_a_record_that_is_none_is_named(records: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        Page.from_records(records)
    if isinstance(caught.value, PageError):
        assert caught.value.offset == len(records) - 1


def test_what_a_generator_raises_comes_through_and_nothing_is_kept() -> None:
    class OwnError(Exception):
        pass

    payload = bytes(range(100))

    def records() -> Iterator[_Record]:
        yield "a", payload, NOW, None
        raise OwnError("in the middle")

    references = sys.getrefcount(payload)
    with pytest.raises(OwnError, match="in the middle"):
        Page.from_records(records())
    gc.collect()
    assert sys.getrefcount(payload) == references


def test_subclasses_and_indices_are_taken_for_what_they_are() -> None:
    class Text(str):
        __slots__ = ()

    class Index:
        def __index__(self) -> int:
            return NOW

    odd: Any = [(Text("k"), b"data", Index(), Text("5"))]
    assert batch_of(Page.from_records(odd)).json() == batch_of(Page.from_records([("k", b"data", NOW, "5")])).json()


def test_held_bytes_grows_with_what_is_held() -> None:
    empty = Page.from_records([]).held_bytes
    small = Page.from_records([("k", b"x" * 3000, NOW, "1")]).held_bytes
    large = Page.from_records([("k", b"x" * 6000, NOW, "1")]).held_bytes
    assert 0 < empty < small
    assert large - small == 4000  # base64 writes four characters for three bytes
    body = body_of([("k", b"x" * 3000, NOW, "1")])
    assert len(body) <= Page.parse(body).held_bytes <= len(body) + 1000


def test_a_page_is_cut_behind_a_sequence_number() -> None:
    body = body_of([("k", b"1", NOW, "9"), ("k", b"2", NOW, "11"), ("k", b"3", NOW, "100")], NextShardIterator="next")
    page = Page.parse(body)
    assert (page.first_sequence_number, page.last_sequence_number) == ("9", "100")
    for last, kept in [("8", []), ("9", ["9"]), ("99", ["9", "11"]), ("100", ["9", "11", "100"]), ("0" * 100 + "11", ["9", "11"])]:
        cut = page.up_to(last)
        assert (len(cut), cut.next_iterator) == (len(kept), None)
        assert (cut.first_sequence_number, cut.last_sequence_number) == ((kept[0], kept[-1]) if kept else (None, None))
    found = [record["kinesis"]["sequenceNumber"] for record in batch_of(page.up_to("11")).event()["Records"]]
    assert found == ["9", "11"]
    assert Page.from_records([("k", b"", NOW, None)]).first_sequence_number is None
    with pytest.raises(ConfigError, match='sequence_number is "x"'):
        page.up_to("x")


# Both ways.

_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_RECORDS = st.lists(st.tuples(_KEYS, st.binary(max_size=40), st.integers(-(10**13), 10**13)), min_size=1, max_size=12).map(
    lambda records: [(key, data, arrival_ms, str(10**20 + index)) for index, (key, data, arrival_ms) in enumerate(records)]
)


@given(records=_RECORDS, ascii_only=st.booleans())
def test_both_ways_give_equal_bytes_and_sizes(records: list[tuple[str, bytes, int, str]], ascii_only: bool) -> None:  # noqa: FBT001 - drawn
    parsed, handed_over = batch_of(Page.parse(body_of(records, ascii_only=ascii_only))), batch_of(Page.from_records(records))
    assert parsed.json() == handed_over.json()
    assert parsed.event() == handed_over.event() == json.loads(parsed.json())
    columns, others = parsed.columns(), handed_over.columns()
    assert columns.size.tolist() == others.size.tolist()
    assert columns.key_hash.tolist() == others.key_hash.tolist()
    assert columns.arrival_time_ms.tolist() == others.arrival_time_ms.tolist() == [record[2] for record in records]
    got = [
        (record["kinesis"]["partitionKey"], record["kinesis"]["sequenceNumber"], record["kinesis"]["data"])
        for record in parsed.event()["Records"]
    ]
    assert got == [(key, number, b64encode(data).decode()) for key, data, _, number in records]


@given(
    body=st.binary(max_size=80)
    | st.builds(lambda cut: body_of([("k", b"data", NOW, "1")], MillisBehindLatest=5)[:cut], st.integers(0, 150))
)
def test_no_body_does_harm(body: bytes) -> None:
    try:
        page = Page.parse(body)
    except PageError as error:
        assert 0 <= error.offset <= len(body)  # noqa: PT017 - some bodies are right
    else:
        assert isinstance(json.loads(body)["Records"], list)
        assert len(page) == len(json.loads(body)["Records"])
