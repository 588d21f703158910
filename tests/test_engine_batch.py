"""What comes out of the engine: batches with their events and columns, outcomes, and discards with their invocation records."""

from __future__ import annotations

import gc
import itertools
import json
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import NOW, discard, mapping, numbers, one_shard, page, take, wait_until
from streamcore import Batch, Engine, Outcome, Page, PageError

SUCCESS, FAILURE = Outcome.success(), Outcome.failure()
ROLE = "arn:aws:iam::123456789012:role/reader"
STREAM = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:handle:live"
IDENTITY = {"event_source_arn": STREAM, "function_arn": FUNCTION, "execution_role_arn": ROLE}


def batch_of(records: list[tuple[str, bytes, int, str | None]], **parameters: Any) -> Batch:
    engine = Engine()
    shard = engine.add_shard(mapping(batch_size=10_000, **IDENTITY, **parameters), "shardId-000000000006", now=NOW)
    engine.offer(shard, Page.from_records(records), NOW)
    return take(engine)


# Batches.


def test_a_batch_says_what_it_is() -> None:
    of = mapping(function_response_types=("ReportBatchItemFailures",))
    engine = Engine()
    shard = engine.add_shard(of, "shard", now=NOW)
    engine.offer(shard, Page.from_records([("key", b"", NOW - 5, "8"), ("key", b"", NOW + 5, "9")]), NOW)
    batch = take(engine)
    assert (batch.shard, batch.shard_id, batch.mapping_uuid, batch.attempt) == (shard, "shard", of.uuid, 1)
    assert (len(batch), batch.record_count, batch.first_sequence_number, batch.last_sequence_number) == (2, 2, "8", "9")
    assert (batch.last_arrival_ms, batch.reports_item_failures) == (NOW + 5, True)
    assert repr(batch) == "Batch(2 records 8..9 of shard, attempt 1)"
    assert [batch.index_of(number) for number in ("8", "9", "08", "10", "")] == [0, 1, None, None, None]
    assert batch_of([("key", b"", NOW, "1")]).reports_item_failures is False


def test_the_event_is_lambdas_to_the_key_and_its_order() -> None:
    batch = batch_of([("key", b"Hello", 1_545_084_650_987, "49590338271490256608559692538361571095921575989136588898")])
    record = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "key",
            "sequenceNumber": "49590338271490256608559692538361571095921575989136588898",
            "data": "SGVsbG8=",
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": "shardId-000000000006:49590338271490256608559692538361571095921575989136588898",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": ROLE,
        "awsRegion": "eu-west-1",
        "eventSourceARN": STREAM,
    }
    assert batch.event() == {"Records": [record]}
    assert json.dumps(batch.event()) == json.dumps({"Records": [record]}), "the order of the keys too"
    assert batch.json() == json.dumps({"Records": [record]}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("arrival_ms", "written", "expected"),
    [
        (1_789_809_305_953, b"1789809305.953", 1789809305.953),
        (1_789_809_307_300, b"1789809307.3", 1789809307.3),
        (1_789_809_307_000, b"1789809307", 1789809307),
        (0, b"0", 0),
        (1, b"0.001", 0.001),
        (-1, b"-0.001", -0.001),
        (-1500, b"-1.5", -1.5),
    ],
)
def test_arrival_times_are_written_without_zeros_at_their_end(arrival_ms: int, written: bytes, expected: float) -> None:
    batch = batch_of([("key", b"", arrival_ms, "1")])
    assert b'"approximateArrivalTimestamp":' + written + b"}" in batch.json()
    value = batch.event()["Records"][0]["kinesis"]["approximateArrivalTimestamp"]
    assert (value, type(value)) == (expected, type(expected))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(records=st.lists(st.tuples(_TEXT, st.binary(max_size=30), st.integers(-(10**15), 10**15)), min_size=1, max_size=10))
def test_the_event_equals_its_json_and_the_columns_the_records(records: list[tuple[str, bytes, int]]) -> None:
    batch = batch_of([(*record, str(number)) for number, record in enumerate(records, 1)])
    event, loaded = batch.event(), json.loads(batch.json())
    assert event == loaded
    # Equal to the order of the keys, and to whether a number is an int or a float.
    assert json.dumps(event) == json.dumps(loaded)
    assert [b64decode(record["kinesis"]["data"]) for record in event["Records"]] == [record[1] for record in records]

    columns = batch.columns()
    dtypes = {"ordinal": "u8", "arrival_time_ms": "i8", "size": "u4", "key_hash": "u8", "payload_offsets": "u8", "payload": "u1"}
    assert {name: getattr(columns, name).dtype.str.lstrip("<|") for name in dtypes} == dtypes
    assert columns.ordinal.tolist() == list(range(len(records)))
    assert columns.arrival_time_ms.tolist() == [record[2] for record in records]
    offsets = columns.payload_offsets
    assert (len(offsets), offsets[0], offsets[-1]) == (len(records) + 1, 0, len(columns.payload))
    payloads = [columns.payload[start:end].tobytes() for start, end in itertools.pairwise(offsets)]
    assert payloads == [record[1] for record in records]
    # A comma stands between two records.
    assert int(columns.size.sum()) + len(b'{"Records":[]}') + len(records) - 1 == len(batch.json())
    hashes: dict[str, int] = {}
    for record, key_hash in zip(records, columns.key_hash.tolist(), strict=True):
        assert hashes.setdefault(record[0], key_hash) == key_hash


def test_key_hashes_are_those_of_xxh3() -> None:
    # Made with xxhash.xxh3_64_intdigest of Python's xxhash.
    golden = {
        "": 0x2D06800538D394C2,
        "1": 0x65CD25028F98F158,
        "a": 0xE6C632B61E964E1F,
        "partitionKey-03": 0x4AC42E645766C96B,
        "café": 0x4C83DBD5F29D367F,
    }
    columns = batch_of([(key, b"", NOW, str(number)) for number, key in enumerate(golden, 1)]).columns()
    assert columns.key_hash.tolist() == list(golden.values())


def test_every_event_is_a_fresh_one_to_its_deepest_dict() -> None:
    batch = batch_of([("a", b"1", NOW, "1"), ("b", b"2", NOW, "2")])
    first, expected = batch.event(), json.loads(batch.json())
    first["Records"][0]["kinesis"]["data"] = "changed"
    first["Records"][0]["awsRegion"] = "changed"
    del first["Records"][1]["kinesis"]
    first["Records"].append(5)
    first["more"] = 1
    assert batch.event() == expected


@pytest.mark.parametrize("records", [3, 5000])
@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_as_it_was_after_a_large_event_and_has_not_gone_over_it(records: int, *, on: bool) -> None:
    batch = batch_of([("key", b"data", NOW, str(number)) for number in range(1, records + 1)])
    collections: list[str] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        collections.append(phase)

    was_on = gc.isenabled()
    (gc.enable if on else gc.disable)()
    gc.collect()
    gc.callbacks.append(note)
    try:
        event = batch.event()
        found = list(collections)
        assert gc.isenabled() is on
    finally:
        gc.callbacks.remove(note)
        (gc.enable if was_on else gc.disable)()
    assert len(event["Records"]) == records
    assert len(found) <= 2, "it may begin and end once, when the event is there"


def test_columns_are_arrays_of_ones_own() -> None:
    batch = batch_of([("a", b"data", NOW, "1")])
    columns = batch.columns()
    columns.payload[:] = 0
    columns.ordinal[:] += np.uint64(5)
    assert batch.columns().payload.tobytes() == b"data"
    assert batch.columns().ordinal.tolist() == [0]
    assert columns.payload is columns.payload


def test_ordinals_count_the_records_of_the_shard_over_its_lanes() -> None:
    engine, shard = one_shard(*range(1, 21), key=None, parallelization_factor=3)
    engine.offer(shard, page(*range(21, 31)), NOW)
    found: dict[int, int] = {}
    while isinstance(batch := engine.take(NOW), Batch):
        found.update(zip(numbers(batch), batch.columns().ordinal.tolist(), strict=True))
        engine.finish(batch.ticket, SUCCESS, NOW)
    assert found == {number: number - 1 for number in range(1, 31)}


def test_data_that_is_not_base64_reaches_the_event_and_not_the_columns() -> None:
    records = [
        {"SequenceNumber": str(number), "ApproximateArrivalTimestamp": 1, "Data": data, "PartitionKey": "k"}
        for number, data in enumerate(["YQ==", "YQ=?"], 1)
    ]
    engine, shard = one_shard()
    engine.offer(shard, Page.parse(json.dumps({"Records": records}).encode()), NOW)
    batch = take(engine)
    assert batch.event()["Records"][1]["kinesis"]["data"] == "YQ=?"
    with pytest.raises(PageError, match=r"record 1: at byte \d of the data: not base64 in the standard alphabet with padding") as caught:
        _ = batch.columns().payload
    assert caught.value.offset == 1


def test_a_batch_is_at_most_what_an_invocation_may_hold() -> None:
    limit = 6_291_455
    engine = Engine()
    shard = engine.add_shard(mapping(batch_size=10_000), "shard", now=NOW)
    engine.offer(shard, Page.from_records([("key", bytes(700_000), NOW, str(number)) for number in range(1, 15)]), NOW)
    sizes = []
    while isinstance(batch := engine.take(NOW), Batch):
        columns = batch.columns()
        assert len(batch.json()) == int(columns.size.sum()) + len(batch) - 1 + len(b'{"Records":[]}') <= limit
        sizes.append((len(batch), len(batch.json()) + int(columns.size[0]) + 1))
        engine.finish(batch.ticket, SUCCESS, NOW)
    assert sum(count for count, _ in sizes) == 14
    assert all(with_one_more > limit for _, with_one_more in sizes[:-1])


# Outcomes.


def test_outcomes_are_equal_when_they_mean_the_same() -> None:
    outcomes = [
        Outcome.success(),
        Outcome.throttled(),
        Outcome.failure(),
        Outcome.failure(function_error="Unhandled"),
        Outcome.failure(status_code=413),
        Outcome.failure(executed_version=None),
        Outcome.failure(request_id="id"),
        Outcome.partial(0),
        Outcome.partial(1),
        Outcome.partial(1, executed_version="3"),
        Outcome.too_large(),
        Outcome.too_large(request_id="id"),
    ]
    again = [
        Outcome.success(),
        Outcome.throttled(),
        Outcome.failure(status_code=200, executed_version="$LATEST", function_error=None, request_id=None),
        Outcome.failure(function_error="Unhandled"),
        Outcome.failure(status_code=413),
        Outcome.failure(executed_version=None),
        Outcome.failure(request_id="id"),
        Outcome.partial(index=0),
        Outcome.partial(1),
        Outcome.partial(1, executed_version="3"),
        Outcome.too_large(),
        Outcome.too_large(request_id="id"),
    ]
    for index, outcome in enumerate(outcomes):
        assert [outcome == other for other in again] == [index == at for at in range(len(again))]
        assert hash(outcome) == hash(again[index])
        assert outcome != "success"
    assert len(set(outcomes + again)) == len(outcomes)
    assert [(outcome.kind, outcome.index) for outcome in (*outcomes[:3], outcomes[8], outcomes[10])] == [
        ("success", None),
        ("throttled", None),
        ("failure", None),
        ("partial", 1),
        ("too_large", None),
    ]
    assert [repr(outcome) for outcome in (outcomes[0], outcomes[8], outcomes[11])] == [
        "Outcome.success()",
        "Outcome.partial(1)",
        "Outcome.too_large()",
    ]


# Discards.


def given_up(outcome: Outcome) -> tuple[Any, Batch, Any]:
    engine = Engine()
    shard = engine.add_shard(mapping(maximum_retry_attempts=0, **IDENTITY), "shardId-000000000006", now=NOW)
    records = [("key", b"1", NOW - 2, "7"), ("key", b"2", NOW - 1, "8")]
    engine.offer(shard, Page.from_records(records), NOW)
    batch = take(engine)
    (given,) = engine.finish(batch.ticket, outcome, NOW).discards
    return engine, batch, given


@pytest.mark.parametrize(
    ("outcome", "response"),
    [
        (Outcome.failure(function_error="Unhandled"), {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}),
        (Outcome.partial(0, executed_version="3"), {"statusCode": 200, "executedVersion": "3", "functionError": None}),
        (Outcome.failure(status_code=500, executed_version=None), {"statusCode": 500, "executedVersion": None, "functionError": None}),
    ],
)
def test_the_invocation_record_is_that_of_aws_to_the_key_and_its_order(outcome: Outcome, response: dict[str, Any]) -> None:
    engine, batch, given = given_up(outcome)
    expected = {
        "requestContext": {
            "requestId": batch.request_id,
            "functionArn": FUNCTION,
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 1,
        },
        "responseContext": response,
        "version": "1.0",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "KinesisBatchInfo": {
            "shardId": "shardId-000000000006",
            "startSequenceNumber": "7",
            "endSequenceNumber": "8",
            "approximateArrivalOfFirstRecord": "2023-11-14T22:13:19.998Z",
            "approximateArrivalOfLastRecord": "2023-11-14T22:13:19.999Z",
            "batchSize": 2,
            "streamArn": STREAM,
        },
    }
    assert json.dumps(given.invocation_record(), indent=1) == json.dumps(expected, indent=1)
    assert given.invocation_record() is not given.invocation_record()
    assert (given.shard, given.shard_id, given.mapping_uuid) == (batch.shard, batch.shard_id, batch.mapping_uuid)
    assert (given.condition, given.approximate_invoke_count, given.request_id) == ("RetryAttemptsExhausted", 1, batch.request_id)
    assert (given.record_count, given.first_sequence_number, given.last_sequence_number) == (2, "7", "8")
    assert given.json() == batch.json()
    assert repr(given) == "Discard(RetryAttemptsExhausted, 2 records 7..8 of shardId-000000000006)"
    engine.check_invariants()


def test_the_services_own_request_id_goes_into_the_record() -> None:
    _, batch, given = given_up(Outcome.failure(request_id="id-of-the-service"))
    assert given.invocation_record()["requestContext"]["requestId"] == given.request_id == "id-of-the-service" != batch.request_id


def test_a_discard_holds_the_checkpoint_back_until_it_is_confirmed_once() -> None:
    engine, _, given = given_up(FAILURE)
    shard = given.shard
    assert engine.stats(shard).watermark is None
    assert (engine.stats(shard).unconfirmed_discards, engine.stats(shard).discarded, engine.stats(shard).discards) == (1, 2, 1)
    assert engine.held_bytes > 0
    engine.offer(shard, page(9, key="key"), NOW)
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    assert engine.checkpoint(shard).watermark is None, "what is behind a discard waits with it"
    assert engine.confirm(given.id, "given_up") is True
    assert engine.checkpoint(shard).watermark == "9"
    assert engine.confirm(given.id, "given_up") is False
    assert engine.held_bytes == 0
    assert len(given.json()) > 0, "a discard can still be read"


def test_records_too_old_are_given_up_without_a_call_and_without_a_response() -> None:
    engine, _ = one_shard(maximum_record_age_in_seconds=60)
    engine.offer(0, Page.from_records([("key", b"", NOW - 60_001, "1"), ("key", b"", NOW - 60_000, "2")]), NOW)
    given = discard(engine)
    assert (given.condition, given.approximate_invoke_count, given.first_sequence_number) == ("RecordAgeExceeded", 1, "1")
    record = given.invocation_record()
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]
    assert numbers(take(engine)) == [2]


def test_a_record_too_large_is_tried_and_given_up_without_the_function() -> None:
    engine, shard = one_shard(maximum_retry_attempts=2)
    engine.offer(shard, Page.from_records([("key", bytes(5_000_000), NOW, "1"), ("key", b"", NOW, "2")]), NOW)
    now, pauses = NOW, 0
    while (at := wait_until(engine, now)) is not None and engine.stats(shard).lanes[0]["attempts"] < 2:
        now, pauses = at, pauses + 1
    assert at is not None
    given = discard(engine, at)
    assert (pauses, given.approximate_invoke_count, given.condition) == (1, 3, "RetryAttemptsExhausted")
    assert "responseContext" not in given.invocation_record()
    assert b64encode(bytes(5_000_000)) in given.json()
    assert numbers(take(engine, at)) == [2]
    assert engine.stats(shard).invocations == 0


def test_retention_passes_records_over_without_a_discard() -> None:
    engine = Engine()
    shard = engine.add_shard(mapping(), "shard", now=NOW, retention_ms=1000)
    engine.offer(shard, Page.from_records([("key", b"", NOW - 1001, "1")]), NOW)
    assert wait_until(engine) is None
    assert (engine.stats(shard).expired, engine.stats(shard).watermark, engine.stats(shard).discards) == (1, "1", 0)
