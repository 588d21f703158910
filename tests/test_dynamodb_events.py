"""Records of DynamoDB Streams: from the wire and from Python objects to the same events, as dicts and as bytes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import botocore.loaders
import botocore.model
import botocore.parsers
import pytest
from boto3.dynamodb.types import Binary
from hypothesis import given
from hypothesis import strategies as st

from streamcore import Batch, ConfigError, Engine, EventSourceMapping, Outcome, Page, PageError, UsageError, dynamodb_page

if TYPE_CHECKING:
    from collections.abc import Callable

ARN = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-30T12:00:05.123"
MAPPING = EventSourceMapping(starting_position="TRIM_HORIZON", event_source_arn=ARN, maximum_retry_attempts=0)

texts = st.text(max_size=12)
numbers = st.one_of(st.integers(-(10**37), 10**37).map(str), st.decimals(-1000, 1000, allow_nan=False, places=4).map(str))
binaries = st.binary(max_size=12)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


key_attributes = st.one_of(
    st.fixed_dictionaries({"S": texts}), st.fixed_dictionaries({"N": numbers}), st.fixed_dictionaries({"B": binaries.map(b64)})
)
leaves = st.one_of(
    key_attributes,
    st.fixed_dictionaries({"BOOL": st.booleans()}),
    st.just({"NULL": True}),
    st.fixed_dictionaries({"SS": st.lists(texts, min_size=1, max_size=3, unique=True)}),
    st.fixed_dictionaries({"NS": st.lists(numbers, min_size=1, max_size=3, unique=True)}),
    st.fixed_dictionaries({"BS": st.lists(binaries.map(b64), min_size=1, max_size=3, unique=True)}),
)
attributes: st.SearchStrategy[dict[str, Any]] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"L": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"M": st.dictionaries(texts, inner, max_size=3)}),
    ),
    max_leaves=6,
)
items = st.dictionaries(texts, attributes, max_size=4)
identities = st.fixed_dictionaries({"PrincipalId": st.just("dynamodb.amazonaws.com"), "Type": st.just("Service")})


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a record as GetRecords answers with it, with members in the order of the API's model."""
    change = {
        "ApproximateCreationDateTime": draw(st.integers(0, 4_000_000_000)) + draw(st.sampled_from([0, 0, 0.25, 0.999])),
        "Keys": draw(st.dictionaries(texts, key_attributes, min_size=1, max_size=2)),
    }
    change |= {name: draw(items) for name in ("NewImage", "OldImage") if draw(st.booleans())}
    change |= {
        "SequenceNumber": draw(st.integers(1, 10**39).map(str)),
        "SizeBytes": draw(st.integers(0, 400_000)),
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    record = {
        "eventID": draw(st.uuids()).hex,
        "eventName": draw(st.sampled_from(["INSERT", "MODIFY", "REMOVE"])),
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-west-2",
        "dynamodb": change,
    }
    if draw(st.booleans()):
        record["userIdentity"] = draw(identities)
    return record


def wire(records: list[dict[str, Any]]) -> bytes:
    return json.dumps({"Records": records, "NextShardIterator": "next"}).encode()


def batch_of(page: Page) -> Batch:
    engine = Engine()
    shard = engine.add_shard(MAPPING, "shardId-00000001", now=0, format="dynamodb")
    assert engine.wants(shard, 0) is not None
    assert engine.offer(shard, page, 0).accepted
    batch = engine.take(0)
    assert isinstance(batch, Batch)
    return batch


def model(record: dict[str, Any]) -> dict[str, Any]:
    """What Lambda makes of a record (Lambda developer guide, "Using Lambda with DynamoDB")."""
    change = {**record["dynamodb"], "ApproximateCreationDateTime": int(record["dynamodb"]["ApproximateCreationDateTime"])}
    head = {name: record[name] for name in ("eventID", "eventName")} | {"eventVersion": "1.1", "eventSource": "aws:dynamodb"}
    if by := record.get("userIdentity"):
        head["userIdentity"] = {"type": by["Type"], "principalId": by["PrincipalId"]}
    return head | {"awsRegion": "eu-west-1", "dynamodb": change, "eventSourceARN": ARN}


def in_order(value: Any) -> Any:
    """Return a value of which equality sees the order of keys, and ints apart from floats and booleans."""
    if isinstance(value, dict):
        return [(name, in_order(member)) for name, member in value.items()]
    if isinstance(value, list):
        return [in_order(member) for member in value]
    return type(value), value


def as_boto3_gives_them(body: bytes) -> list[dict[str, Any]]:
    """Read a body with boto3's own parser."""
    loader = botocore.loaders.Loader()
    service = botocore.model.ServiceModel(loader.load_service_model("dynamodbstreams", "service-2"), "dynamodbstreams")
    parser = botocore.parsers.create_parser("json")
    response = {"status_code": 200, "headers": {}, "body": body}
    found: list[dict[str, Any]] = parser.parse(response, service.operation_model("GetRecords").output_shape)["Records"]
    return found


def as_an_emulator_holds_it(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with numbers as Decimal, binary data as bytes, sets as sets, the time without a time zone."""

    def held(typed: dict[str, Any]) -> dict[str, Any]:
        ((kind, value),) = typed.items()
        one: dict[str, Callable[[Any], Any]] = {
            "N": Decimal,
            "B": base64.b64decode,
            "S": str,
            "NS": Decimal,
            "BS": lambda text: Binary(base64.b64decode(text)),
            "SS": str,
        }
        if kind in ("NS", "BS", "SS"):
            return {kind: frozenset(one[kind](element) for element in value) if kind != "BS" else [one[kind](element) for element in value]}
        if kind == "L":
            return {kind: tuple(held(element) for element in value)}
        if kind == "M":
            return {kind: {name: held(element) for name, element in value.items()}}
        return {kind: one[kind](value) if kind in one else value}

    change = dict(record["dynamodb"])
    for name in ("Keys", "NewImage", "OldImage"):
        if name in change:
            change[name] = {attribute: held(typed) for attribute, typed in change[name].items()}
    seconds = change["ApproximateCreationDateTime"]
    change["ApproximateCreationDateTime"] = datetime(1970, 1, 1) + timedelta(seconds=seconds)  # noqa: DTZ001  (as moto keeps it)
    change["SequenceNumber"] = int(change["SequenceNumber"])
    change["SizeBytes"] = Decimal(change["SizeBytes"])
    return {**record, "dynamodb": change}


def with_sorted_sets(value: Any) -> Any:
    """Return a record with each set that has lost its order in the order that it gets."""
    if isinstance(value, dict):
        return {
            name: sorted(member) if name in ("SS", "NS") and isinstance(member, list) else with_sorted_sets(member)
            for name, member in value.items()
        }
    return [with_sorted_sets(member) for member in value] if isinstance(value, list) else value


@given(st.lists(records(), min_size=1, max_size=4))
def test_events_are_the_models_in_every_key_and_byte(drawn: list[dict[str, Any]]) -> None:
    # Sequence numbers that do not grow are repeats, which the engine drops: give each record the next one.
    for number, record in enumerate(drawn):
        record["dynamodb"]["SequenceNumber"] = str(10**30 + number)
    batch = batch_of(Page.parse(wire(drawn), "dynamodb"))
    expected = {"Records": [model(record) for record in drawn]}
    assert batch.json() == json.dumps(expected, ensure_ascii=False, separators=(",", ":")).encode()
    assert in_order(batch.event()) == in_order(json.loads(batch.json()))
    assert in_order(batch.event()) == in_order(expected)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)


@given(json_values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_whatever_json_a_change_holds_becomes_what_json_loads_makes_of_it(value: Any, ascii_only: bool, indent: Any) -> None:  # noqa: FBT001
    body = json.dumps({"Records": [plain(New=value)]}, ensure_ascii=ascii_only, indent=indent).encode()
    batch = batch_of(Page.parse(body, "dynamodb"))
    (record,) = batch.event()["Records"]
    assert repr(in_order(record["dynamodb"]["New"])) == repr(in_order(value))
    assert repr(in_order(batch.event())) == repr(in_order(json.loads(batch.json())))


@given(st.lists(records(), max_size=4))
def test_records_as_python_objects_give_the_bytes_of_the_wire(drawn: list[dict[str, Any]]) -> None:
    def event(page: Page) -> bytes:
        return batch_of(page).json()

    body = wire(drawn)
    for record, held in zip(drawn, as_boto3_gives_them(body), strict=True):
        expected = event(Page.parse(wire([record]), "dynamodb"))
        assert event(dynamodb_page([held])) == expected
        assert event(dynamodb_page([record])) == expected
        assert event(dynamodb_page([json.dumps(record)])) == expected
        assert event(dynamodb_page([json.dumps(record, indent=1).encode()])) == expected
    assert len(dynamodb_page(as_boto3_gives_them(body))) == len(drawn)


@given(records())
def test_records_as_emulators_hold_them_give_the_bytes_of_the_wire(record: dict[str, Any]) -> None:
    expected = batch_of(Page.parse(wire([with_sorted_sets(record)]), "dynamodb")).json()
    assert batch_of(dynamodb_page([as_an_emulator_holds_it(record)])).json() == expected


def plain(**change: Any) -> dict[str, Any]:
    base = {"ApproximateCreationDateTime": 1_769_774_405, "Keys": {"Id": {"N": "101"}}, "SequenceNumber": "400000000000000499660"}
    return {"eventID": "7de3041dd709b024af6f29e4fa13d34c", "eventName": "INSERT", "dynamodb": {**base, **change}}


@pytest.mark.parametrize(
    "time",
    [
        1_769_774_405.999,
        Decimal("1769774405.5"),
        datetime(2026, 1, 30, 12, 0, 5, 999_999, tzinfo=UTC),
        datetime(2026, 1, 30, 14, 0, 5, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 1, 30, 12, 0, 5),  # noqa: DTZ001  (what has no time zone is UTC)
    ],
    ids=["float", "decimal", "utc", "another zone", "no zone"],
)
def test_times_become_whole_seconds(time: object) -> None:
    record = batch_of(dynamodb_page([plain(ApproximateCreationDateTime=time)])).event()["Records"][0]
    assert in_order(record["dynamodb"]["ApproximateCreationDateTime"]) == (int, 1_769_774_405)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (7, "record 1: a record is a dict or JSON text, not int"),
        ({"eventName": "INSERT"}, "record 1: at byte 12: the object that begins here has no dynamodb"),
        (plain(Keys={"Id": 101}), "record 1: Keys.Id is a typed attribute like {'S': 'text'}, not 101"),
        (plain(Keys=None), "record 1: at byte 139: Keys must be an object, found null"),
        (plain(NewImage={"a": {"X": 1}}), "record 1: NewImage.a has the type 'X'; the types are S, N, B, BOOL, NULL, L, M, SS, NS, BS"),
        (plain(NewImage={"a": {"L": [{"N": 1.5}]}}), "record 1: NewImage.a[0] is a number as str, int or Decimal, not 1.5"),
        (plain(NewImage={"a": {"B": 5}}), "record 1: NewImage.a is binary data as bytes, or base64 text, not 5"),
        (plain(NewImage={"a": {"SS": {1}}}), "record 1: NewImage.a is a string, not 1"),
        (plain(NewImage=[]), "record 1: NewImage is a dict of attributes, not list"),
        ("{", "record 1: at byte 13: expected a name in quotes, found ']'"),
    ],
    ids=["no record", "no change", "untyped", "no keys", "no type", "a float", "no bytes", "no string", "no item", "no JSON"],
)
def test_what_is_no_record_is_refused_with_its_index(record: Any, message: str) -> None:
    with pytest.raises(PageError) as caught:
        dynamodb_page([plain(), record])
    assert str(caught.value) == message
    assert caught.value.offset == 1


def test_formats_are_known_and_kept_apart() -> None:
    with pytest.raises(ConfigError, match="format is \"kafka\", and must be 'kinesis' or 'dynamodb'"):
        Page.parse(b"{}", "kafka")  # type: ignore[arg-type]
    engine = Engine()
    with pytest.raises(ConfigError, match='format is "kafka"'):
        engine.add_shard(MAPPING, "shardId-1", now=0, format="kafka")  # type: ignore[arg-type]
    shard = engine.add_shard(MAPPING, "shardId-1", now=0, format="dynamodb")
    engine.wants(shard, 0)
    with pytest.raises(UsageError, match="a page of Kinesis Data Streams was offered to a shard of DynamoDB Streams"):
        engine.offer(shard, Page.from_records([("key", b"", 0, "1")]), 0)
    assert engine.offer(shard, Page.from_records([]), 0).accepted


def test_a_discard_tells_of_the_stream_in_whole_seconds() -> None:
    engine = Engine()
    shard = engine.add_shard(MAPPING, "shardId-1", now=0, format="dynamodb")
    engine.wants(shard, 0)
    engine.offer(shard, dynamodb_page([plain()]), 0)
    batch = engine.take(1_769_774_406_000)
    assert isinstance(batch, Batch)
    (discard,) = engine.finish(batch.ticket, Outcome.failure(), 1_769_774_406_000).discards
    told = discard.invocation_record()
    assert "KinesisBatchInfo" not in told
    assert told["DDBStreamBatchInfo"] == {
        "shardId": "shardId-1",
        "startSequenceNumber": "400000000000000499660",
        "endSequenceNumber": "400000000000000499660",
        "approximateArrivalOfFirstRecord": "2026-01-30T12:00:05Z",
        "approximateArrivalOfLastRecord": "2026-01-30T12:00:05Z",
        "batchSize": 1,
        "streamArn": ARN,
    }


def test_columns_have_the_change_as_their_payload() -> None:
    batch = batch_of(dynamodb_page([plain()]))
    columns = batch.columns()
    event = batch.event()["Records"][0]
    assert json.loads(columns.payload.tobytes()) == event["dynamodb"]
    assert columns.arrival_time_ms.tolist() == [1_769_774_405_000]


def test_a_page_is_cut_at_an_instant() -> None:
    def at(second: int, number: int) -> dict[str, Any]:
        return plain(ApproximateCreationDateTime=second, SequenceNumber=str(number))

    page = Page.parse(wire([at(5, 1), at(7, 2), at(6, 3)]), "dynamodb")
    cut = page.arrived_since(6_000)
    assert [record["dynamodb"]["SequenceNumber"] for record in batch_of(cut).event()["Records"]] == ["2", "3"]
    assert (cut.next_iterator, page.next_iterator) == (None, "next")
    assert page.arrived_since(5_000).next_iterator == "next"
    assert len(page.arrived_since(8_000)) == 0
