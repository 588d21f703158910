"""Aggregates taken apart by the core: as `streamcore.kpl` does it, and with the rules for ranges, sizes and checkpoints."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcore import Batch, Engine, EventSourceMapping, Outcome, Page
from streamcore.kpl import MAGIC, UserRecord, aggregate, split

ALL = (0, 2**128 - 1)
ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
MAPPING = EventSourceMapping(
    event_source_arn=ARN,
    function_arn="arn:aws:lambda:us-east-1:123456789012:function:f",
    starting_position="TRIM_HORIZON",
    batch_size=10_000,
)

keys = st.text(min_size=1, max_size=8)
user_records = st.builds(UserRecord, keys, st.binary(max_size=20), st.none() | st.integers(*ALL).map(str))
aggregates = st.lists(user_records, min_size=1, max_size=8).map(aggregate)


def records_of(page: Page) -> list[dict[str, Any]]:
    """Return the records as an event has them, at their positions' order."""
    engine = Engine()
    handle = engine.add_shard(MAPPING, "shardId-0", now=0)
    engine.offer(handle, page, 0)
    found: list[dict[str, Any]] = []
    while isinstance(batch := engine.take(0), Batch):
        found += batch.event()["Records"]
        engine.finish(batch.ticket, Outcome.success(), 0)
    return [record["kinesis"] for record in found]


def sealed(body: bytes) -> bytes:
    return MAGIC + body + hashlib.md5(body, usedforsecurity=False).digest()


def check(data: bytes) -> None:
    """The core gives what the handler's own de-aggregation gives, where every hash key is one."""
    page = Page.from_records([("outer", data, 1_700_000_000_125, "77")])
    inner = split(data)
    if inner is not None and any(record.explicit_hash_key is not None and not record.explicit_hash_key.isdigit() for record in inner):
        return
    apart, foreign = page.deaggregate(*ALL)
    assert foreign == 0
    expected = [("outer", data)] if inner is None else [(record.partition_key, record.data) for record in inner]
    found = records_of(apart)
    assert [(record["partitionKey"], base64.b64decode(record["data"])) for record in found] == expected
    assert {(record["sequenceNumber"], record["approximateArrivalTimestamp"]) for record in found} <= {("77", 1_700_000_000.125)}


@settings(max_examples=40)
@given(aggregates)
def test_every_aggregate_is_taken_apart_as_the_handler_would(data: bytes) -> None:
    check(data)


@settings(max_examples=60)
@given(aggregates, st.data())
def test_a_damaged_aggregate_is_one_plain_record(data: bytes, draw: st.DataObject) -> None:
    body = bytearray(data[4:-16])
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(body) - 1))
        body[at] = draw.draw(st.integers(0, 255))
    check(sealed(bytes(body)))  # the digest is right, the message may be anything
    check(data[: draw.draw(st.integers(0, len(data)))])
    check(MAGIC + bytes(body) + data[-16:])


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_any_bytes_behind_the_magic_are_read_alike(body: bytes) -> None:
    check(sealed(body))


def test_an_explicit_hash_key_that_is_no_number_is_damage() -> None:
    for wrong in ("", "x", "-1", str(2**128)):
        page = Page.from_records([("outer", aggregate([UserRecord("ann", b"1", wrong)]), 0, "7")])
        assert records_of(page.deaggregate(*ALL)[0])[0]["partitionKey"] == "outer"


def test_a_page_without_aggregates_is_the_same_page() -> None:
    page = Page.from_records([("a", b"plain", 0, "7"), ("b", MAGIC, 0, "8")])
    assert records_of(page.deaggregate(*ALL)[0]) == records_of(page)


@settings(max_examples=40)
@given(st.lists(user_records, min_size=1, max_size=4), st.integers(*ALL), st.integers(*ALL))
def test_an_aggregate_is_left_out_if_any_record_is_of_another_shard(users: list[UserRecord], one: int, other: int) -> None:
    first, last = sorted((one, other))

    def hash_key(user: UserRecord) -> int:
        own = hashlib.md5(user.partition_key.encode(), usedforsecurity=False).digest()
        return int(user.explicit_hash_key) if user.explicit_hash_key is not None else int.from_bytes(own)

    page, foreign = Page.from_records([("outer", aggregate(users), 0, "7"), ("plain", b"", 0, "8")]).deaggregate(first, last)
    own = all(first <= hash_key(user) <= last for user in users)
    assert (foreign, len(page)) == ((0, len(users) + 1) if own else (1, 1))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 9))
def test_a_cut_goes_between_two_records_of_the_stream(counts: list[int], limit: int) -> None:
    rows = [("k", aggregate([UserRecord("k", bytes([n]))] * count) if count > 1 else b"", 0, str(n)) for n, count in enumerate(counts, 1)]
    rest: Page | None = Page.from_records(rows).deaggregate(*ALL)[0]
    pieces: list[list[str]] = []
    while rest is not None:
        first, rest = rest.cut(limit)
        pieces.append([record["sequenceNumber"] for record in records_of(first)])
    expected = [str(n) for n, count in enumerate(counts, 1) for _ in range(count)]
    assert [number for piece in pieces for number in piece] == expected
    for piece, later in itertools.pairwise(pieces):
        assert piece[-1] != later[0], "no aggregate is cut"
        assert len(piece) <= limit or len(set(piece)) == 1
        assert len(piece) + later.count(later[0]) > limit, "as much as fits"


@pytest.mark.parametrize("seed", range(30))
def test_after_a_crash_no_record_of_an_aggregate_is_lost_or_comes_again(seed: int) -> None:
    """Some batches end, the worker dies, and the next one reads on after the sequence number that the checkpoint tells."""
    rng = random.Random(seed)
    log = [
        (str(10 * n), aggregate([UserRecord(f"key-{rng.randrange(9)}", f"{n}.{sub}".encode()) for sub in range(rng.randint(1, 9))]))
        for n in range(1, 12)
    ]
    log = [(number, b"plain" if rng.random() < 0.3 else data) for number, data in log]
    mapping = EventSourceMapping(
        event_source_arn=ARN,
        function_arn=MAPPING.function_arn,
        starting_position="TRIM_HORIZON",
        batch_size=rng.randint(1, 5),
        parallelization_factor=rng.randint(1, 10),
    )
    expected = [inner.data for _, data in log for inner in split(data) or [UserRecord("outer", data)]]
    done: list[bytes] = []

    def finish(engine: Engine, batch: Batch) -> None:
        done.extend(base64.b64decode(record["kinesis"]["data"]) for record in batch.event()["Records"])
        engine.finish(batch.ticket, Outcome.success(), 0)

    checkpoint: bytes | None = None
    for run in range(20):
        last_run = run == 19
        engine = Engine()
        handle = engine.add_shard(mapping, "shardId-0", now=0, checkpoint=checkpoint)
        want = engine.wants(handle, 0)
        assert want is not None
        left = [("outer", data, 0, number) for number, data in log if want.after is None or int(number) > int(want.after)]
        engine.offer(handle, Page.from_records(left).deaggregate(*ALL)[0], 0)
        in_flight: list[Batch] = []
        for _ in range(1000 if last_run else rng.randint(0, 12)):
            if isinstance(batch := engine.take(0), Batch):
                in_flight.append(batch)
            if in_flight and (last_run or rng.random() < 0.7):
                finish(engine, in_flight.pop(rng.randrange(len(in_flight))))
        if (snapshot := engine.checkpoint(handle)) is not None:
            checkpoint = snapshot.blob
    assert sorted(done) == sorted(expected), f"seed {seed}"
