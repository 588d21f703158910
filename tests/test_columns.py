"""A batch as columns: numpy arrays, and a table that pyarrow, polars and DuckDB read in place."""

from __future__ import annotations

import ctypes
import datetime as dt
import gc
import itertools
import json
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import NOW, mapping, one_shard, take
from streamcore import Batch, Engine, Outcome, Page, PageError

RECORDS: list[tuple[str, bytes, int, str | None]] = [
    ("ann", b"first", NOW, "7"),
    ('b"\\\n', b"", NOW + 1, "49590338271490256608559692538361571095921575989136588898"),
    ("grün", bytes(range(256)), NOW + 86_400_000, "49590338271490256608559692538361571095921575989136588899"),
]
ROWS = [
    {
        "sequence_number": number,
        "partition_key": key,
        "approximate_arrival_timestamp": dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=arrival_ms),
        "data": data,
    }
    for key, data, arrival_ms, number in RECORDS
]
SCHEMA = pa.schema(
    [
        pa.field("sequence_number", pa.utf8(), nullable=False),
        pa.field("partition_key", pa.utf8(), nullable=False),
        pa.field("approximate_arrival_timestamp", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
    ]
)


def batch_of(records: list[tuple[str, bytes, int, str | None]]) -> Batch:
    engine = Engine()
    shard = engine.add_shard(mapping(batch_size=10_000), "shardId-000000000000", now=NOW)
    engine.offer(shard, Page.from_records(records), NOW)
    return take(engine)


def dynamodb_batch() -> Batch:
    change = {"ApproximateCreationDateTime": NOW / 1000 + 0.7, "Keys": {"Id": {"N": "101"}}, "SequenceNumber": "111", "SizeBytes": 26}
    records = [
        {"eventID": "id-1", "eventName": "INSERT", "dynamodb": change},
        {"eventID": 'i"d\\2', "eventName": "REMOVE", "dynamodb": {**change, "SequenceNumber": "222"}},
    ]
    engine = Engine()
    shard = engine.add_shard(mapping(), "shardId-00000000000000000000-00000000", now=NOW, format="dynamodb")
    engine.offer(shard, Page.parse(json.dumps({"Records": records}).encode(), "dynamodb"), NOW)
    return take(engine)


def closing_call() -> Batch:
    engine, shard = one_shard(1, tumbling_window_in_seconds=1, batch_size=1)
    engine.finish(take(engine).ticket, Outcome.success(window_state=b"{}"), NOW)
    engine.end(shard, NOW)
    batch = take(engine)
    assert batch.window is not None
    assert batch.window.is_final
    return batch


def texts(values: Any, offsets: Any) -> list[bytes]:
    return [values[start:end].tobytes() for start, end in itertools.pairwise(offsets)]


# numpy.


@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=50)), min_size=1, max_size=10))
def test_texts_and_payloads_lie_one_after_the_other(records: list[tuple[str, bytes]]) -> None:
    batch = batch_of([(key, data, NOW, str(number)) for number, (key, data) in enumerate(records, 9)])
    columns = batch.columns()
    assert columns.partition_key.dtype == columns.sequence_number.dtype == np.uint8
    assert columns.partition_key_offsets.dtype == columns.sequence_number_offsets.dtype == np.uint64
    assert texts(columns.partition_key, columns.partition_key_offsets) == [key.encode() for key, _ in records]
    assert texts(columns.sequence_number, columns.sequence_number_offsets) == [b"%d" % number for number in range(9, 9 + len(records))]
    assert texts(columns.payload, columns.payload_offsets) == [data for _, data in records]
    assert pa.table(batch)["data"].to_pylist() == [data for _, data in records]
    assert pa.table(batch)["partition_key"].to_pylist() == [key for key, _ in records]


def test_a_batch_of_dynamodb_streams_has_no_partition_keys_and_its_changes_for_payloads() -> None:
    batch = dynamodb_batch()
    columns = batch.columns()
    assert columns.partition_key_offsets.tolist() == [0, 0, 0]
    assert columns.sequence_number.tobytes() == b"111222"
    assert columns.arrival_time_ms.tolist() == [NOW, NOW]
    changes = [json.loads(text) for text in texts(columns.payload, columns.payload_offsets)]
    assert changes == [record["dynamodb"] for record in batch.event()["Records"]]


def test_the_columns_of_a_closing_call_are_empty() -> None:
    columns = closing_call().columns()
    assert (columns.ordinal.tolist(), columns.payload.tolist(), columns.payload_offsets.tolist()) == ([], [], [0])
    assert columns.sequence_number_offsets.tolist() == columns.partition_key_offsets.tolist() == [0]


def test_data_that_is_not_base64_leaves_the_other_columns() -> None:
    records = [{"SequenceNumber": "1", "ApproximateArrivalTimestamp": 1, "Data": "YQ=?", "PartitionKey": "k"}]
    engine, shard = one_shard()
    engine.offer(shard, Page.parse(json.dumps({"Records": records}).encode()), NOW)
    batch = take(engine)
    columns = batch.columns()
    assert (columns.size.tolist(), columns.partition_key.tobytes()) == ([len(batch.json()) - len('{"Records":[]}')], b"k")
    reads: list[Any] = [lambda: columns.payload, lambda: columns.payload_offsets, lambda: pa.table(batch), lambda: pa.record_batch(batch)]
    for read in reads:
        with pytest.raises(
            PageError, match=r"record 0: at byte \d of the data: not base64 in the standard alphabet with padding"
        ) as caught:
            read()
        assert caught.value.offset == 0


# Arrow.


def test_pyarrow_reads_a_batch() -> None:
    batch = batch_of(RECORDS)
    assert pa.schema(batch) == SCHEMA
    table, record_batch = pa.table(batch), pa.record_batch(batch)
    for read in (table, record_batch, pa.RecordBatchReader.from_stream(batch).read_all()):
        read.validate(full=True)
        assert read.schema == SCHEMA
        assert read.to_pylist() == ROWS
    assert table.num_columns == 4


def test_polars_reads_a_batch() -> None:
    batch = batch_of(RECORDS)
    frame = pl.DataFrame(batch)
    assert frame.schema["approximate_arrival_timestamp"] == pl.Datetime("ms", "UTC")
    assert frame.to_dicts() == ROWS


def test_duckdb_reads_a_batch_by_its_name() -> None:
    batch = batch_of(RECORDS)
    with duckdb.connect() as database:
        relation = database.sql("SELECT sequence_number, partition_key, epoch_ms(approximate_arrival_timestamp), data FROM batch")
        assert relation.fetchall() == [(number, key, arrival_ms, data) for key, data, arrival_ms, number in RECORDS]
        assert database.sql("SELECT count(*), sum(octet_length(data)) FROM batch").fetchall() == [(3, 261)]
    assert len(batch) == 3


def test_a_table_of_dynamodb_streams_has_the_parts_of_its_events() -> None:
    batch = dynamodb_batch()
    table = pa.table(batch)
    table.validate(full=True)
    kinds = {field.name: field.type for field in table.schema}
    assert kinds == {
        "event_id": pa.utf8(),
        "event_name": pa.utf8(),
        "sequence_number": pa.utf8(),
        "approximate_creation_date_time": pa.timestamp("ms", "UTC"),
        "dynamodb": pa.utf8(),
    }
    records = batch.event()["Records"]
    assert [
        {
            "eventID": row["event_id"],
            "eventName": row["event_name"],
            "dynamodb": json.loads(row["dynamodb"]),
            "number": row["sequence_number"],
            "created": row["approximate_creation_date_time"].timestamp(),
        }
        for row in table.to_pylist()
    ] == [
        {
            "eventID": record["eventID"],
            "eventName": record["eventName"],
            "dynamodb": record["dynamodb"],
            "number": record["dynamodb"]["SequenceNumber"],
            "created": record["dynamodb"]["ApproximateCreationDateTime"],
        }
        for record in records
    ]
    assert pl.DataFrame(batch)["dynamodb"].str.json_path_match("$.Keys.Id.N").to_list() == ["101", "101"]


def test_the_table_of_a_closing_call_is_empty() -> None:
    batch = closing_call()
    table = pa.table(batch)
    table.validate(full=True)
    assert (table.schema, table.num_rows) == (SCHEMA, 0)
    assert pl.DataFrame(batch).shape == (0, 4)


class ArrowArray(ctypes.Structure):
    """The struct of the Arrow C data interface."""


ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(ArrowArray))),
    *((name, ctypes.c_void_p) for name in ("dictionary", "release", "private_data")),
]


def struct_in(capsule: object) -> ArrowArray:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return ArrowArray.from_address(pointer(capsule, b"arrow_array"))


def test_a_reader_reads_the_very_bytes_that_were_decoded() -> None:
    schema, array = batch_of(RECORDS).__arrow_c_array__()
    struct = struct_in(array)
    assert (struct.length, struct.n_children, bool(struct.release)) == (3, 4, True)
    addresses = [[child.contents.buffers[at] for at in range(child.contents.n_buffers)] for child in struct.children[: struct.n_children]]
    read = pa.RecordBatch._import_from_c_capsule(schema, array)
    assert [[buffer and buffer.address for buffer in column.buffers()] for column in read.columns] == addresses
    assert not struct.release, "the reader has taken it over"


def test_what_was_taken_once_is_not_given_again() -> None:
    batch = batch_of(RECORDS)
    schema, array = batch.__arrow_c_array__()
    first = pa.RecordBatch._import_from_c_capsule(schema, array)
    with pytest.raises(pa.ArrowInvalid, match="released"):
        pa.RecordBatch._import_from_c_capsule(schema, array)
    second = pa.record_batch(batch)
    addresses = [{buffer.address for column in read.columns for buffer in column.buffers() if buffer} for read in (first, second)]
    assert not addresses[0] & addresses[1], "each has its own"
    assert first.to_pylist() == second.to_pylist() == ROWS


def test_a_table_outlives_its_batch_and_its_engine() -> None:
    engine, _ = one_shard(1, 2, 3)
    batch = take(engine)
    tables: list[Any] = [pa.table(batch), pa.record_batch(batch), pl.DataFrame(batch)]
    column = pa.table(batch)["data"]
    engine.finish(batch.ticket, Outcome.success(), NOW)
    assert engine.held_bytes == 0
    del engine, batch
    gc.collect()
    assert [table["data"].to_pylist() if isinstance(table, pa.Table | pa.RecordBatch) else table["data"].to_list() for table in tables] == [
        [b"data"] * 3
    ] * 3
    del tables
    gc.collect()
    assert column.to_pylist() == [b"data"] * 3


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def bytes_in_use() -> int:
    """What is allocated of malloc's memory, by this module's own measure and by no sampling."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not tell what is allocated")
@pytest.mark.parametrize(
    "use",
    [
        lambda batch: batch.__arrow_c_array__(),
        lambda batch: batch.__arrow_c_schema__(),
        lambda batch: batch.__arrow_c_stream__(),
        pa.table,
        pa.record_batch,
        pa.RecordBatchReader.from_stream,
        pl.DataFrame,
        lambda batch: batch.columns().payload,
    ],
    ids=["array", "schema", "stream", "table", "record_batch", "reader", "polars", "numpy"],
)
def test_memory_is_free_again_whether_a_table_was_read_or_not(use: Any) -> None:
    batch = batch_of([("key", bytes(100_000), NOW, str(number)) for number in range(1, 41)])
    for _ in range(3):  # what is made once and kept
        use(batch)
    gc.collect()
    before = bytes_in_use()
    for _ in range(20):
        use(batch)
    gc.collect()
    # One table has four megabytes.
    assert bytes_in_use() - before < 1_000_000
