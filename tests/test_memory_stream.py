"""The stream in memory, read as a worker reads it: routing, positions, retention and resharding."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64encode
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore.errors import ConfigError, SourceError, UsageError
from streamcore.protocols import Source, Start
from streamcore.sources.memory import MemoryStream, _MemoryReader
from streamcore.sources.routing import even_ranges, hash_key, kinesis_arn
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

HORIZON = Start("TRIM_HORIZON")
DAY_MS = 86_400_000


def reader(stream: MemoryStream, shard_id: str = "shardId-000000000000", start: Start = HORIZON) -> _MemoryReader:
    opened = stream.open(shard_id, start)
    assert isinstance(opened, _MemoryReader)
    return opened


def payloads(opened: _MemoryReader, limit: int = 10_000) -> list[bytes]:
    found = opened.next(limit)[0]
    assert isinstance(found, list)
    return [record[1] for record in found]


def body(*records: tuple[int, int]) -> bytes:
    """A GetRecords body of (sequence number, arrival time in ms)."""
    return json.dumps(
        {
            "Records": [
                {
                    "SequenceNumber": str(number),
                    "ApproximateArrivalTimestamp": arrival_ms / 1000,
                    "Data": b64encode(str(number).encode()).decode(),
                    "PartitionKey": "k",
                }
                for number, arrival_ms in records
            ],
            "MillisBehindLatest": 0,
        }
    ).encode()


def test_it_is_a_source() -> None:
    stream = MemoryStream("orders")
    assert isinstance(stream, Source)
    description = stream.describe()
    assert description.event_source_arn == "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    assert (description.retention_ms, description.poll_interval_ms, description.clock) == (None, 0, "wall")


def test_three_even_ranges_are_those_of_create_stream() -> None:
    """The figures are those that DescribeStream prints for a stream of three shards."""
    assert even_ranges(3) == [
        (0, 113427455640312821154458202477256070484),
        (113427455640312821154458202477256070485, 226854911280625642308916404954512140969),
        (226854911280625642308916404954512140970, 340282366920938463463374607431768211455),
    ]


@given(st.text(min_size=1, max_size=256).filter(lambda text: text.isprintable()), st.integers(1, 40))
def test_a_key_goes_to_the_range_that_holds_its_md5(key: str, shards: int) -> None:
    stream = MemoryStream("s", shards=shards)
    hashed = int(hashlib.md5(key.encode()).hexdigest(), 16)  # noqa: S324  (Kinesis' rule)
    expected = [index for index, (first, last) in enumerate(even_ranges(shards)) if first <= hashed <= last]
    assert stream.put(key, b"")[0] == f"shardId-{expected[0]:012d}"
    assert len(expected) == 1


@given(st.lists(st.sampled_from(["split", "merge", "rotate", "close", "put"]), max_size=30), st.randoms(use_true_random=False))
def test_resharding_against_a_model(steps: list[str], random: Random) -> None:
    """Open ranges never overlap, every put lands in the open shard of its hash, children name their parents."""
    choose = random.choice
    stream = MemoryStream("s", shards=3)
    ranges = {f"shardId-{index:012d}": pair for index, pair in enumerate(even_ranges(3))}
    parents: dict[str, tuple[str, ...]] = dict.fromkeys(ranges, ())
    order = list(ranges)
    for step in steps:
        open_ids = sorted(ranges, key=lambda name: ranges[name])
        if not open_ids:
            break
        one = choose(open_ids)
        if step == "split":
            first, last = ranges.pop(one)
            at = choose([first + 1, last, (first + last) // 2]) if last - first > 2 else last
            if at <= first:
                ranges[one] = (first, last)
                continue
            left, right = stream.split(one, at)
            ranges |= {left: (first, at - 1), right: (at, last)}
            parents |= {left: (one,), right: (one,)}
            order += [left, right]
        elif step == "merge":
            touching = [other for other in open_ids if ranges[one][1] + 1 == ranges[other][0]]
            if not touching:
                continue
            other = touching[0]
            child = stream.merge(other, one)
            ranges[child] = (ranges.pop(one)[0], ranges.pop(other)[1])
            parents[child] = (other, one)
            order.append(child)
        elif step == "rotate":
            child = stream.rotate(one)
            ranges[child] = ranges.pop(one)
            parents[child] = (one,)
            order.append(child)
        elif step == "close":
            stream.close_shard(one)
            del ranges[one]
        else:
            hashed = choose([0, 2**128 - 1, ranges[one][0], ranges[one][1]])
            home = [name for name, (first, last) in ranges.items() if first <= hashed <= last]
            if home:
                assert stream.put("k", b"", explicit_hash_key=hashed)[0] == home[0]
            else:
                with pytest.raises(UsageError, match="closed"):
                    stream.put("k", b"", explicit_hash_key=str(hashed))
    listed = stream.list_shards()
    assert [(shard.shard_id, shard.parents, shard.closed) for shard in listed] == [
        (name, parents[name], name not in ranges) for name in order
    ]


def test_sequence_numbers_have_56_digits_and_grow_with_gaps_over_the_whole_stream() -> None:
    stream = MemoryStream("s", shards=4)
    numbers = [stream.put(f"key-{index}", b"")[1] for index in range(300)]
    assert {len(number) for number in numbers} == {56}
    steps = [int(later) - int(earlier) for earlier, later in pairwise(numbers)]
    assert min(steps) > 0
    assert len(set(steps)) > 50


def test_a_stream_made_anew_is_another_incarnation() -> None:
    clock = ManualClock()
    assert MemoryStream("s", clock=clock).describe().identity != MemoryStream("s", clock=clock).describe().identity


def test_every_start() -> None:
    clock = ManualClock(1_000_000)
    stream = MemoryStream("s", clock=clock)
    numbers = []
    for index in range(5):
        numbers.append(stream.put("k", b"%d" % index)[1])
        clock.advance(10)
    latest = reader(stream, start=Start("LATEST"))
    assert payloads(reader(stream)) == [b"0", b"1", b"2", b"3", b"4"]
    assert payloads(reader(stream, start=Start("AT_TIMESTAMP", timestamp_ms=1_000_020))) == [b"2", b"3", b"4"]
    assert payloads(reader(stream, start=Start("AT_TIMESTAMP", timestamp_ms=1_000_021))) == [b"3", b"4"]
    assert payloads(reader(stream, start=Start("AFTER_SEQUENCE_NUMBER", sequence_number=numbers[3]))) == [b"4"]
    assert payloads(reader(stream, start=Start("AFTER_SEQUENCE_NUMBER", sequence_number="0"))) == [b"0", b"1", b"2", b"3", b"4"]
    assert payloads(reader(stream, start=Start("AT_SEQUENCE_NUMBER", sequence_number=numbers[3]))) == [b"3", b"4"]
    at_end = reader(stream, start=Start("AFTER_SEQUENCE_NUMBER", sequence_number=numbers[4]))
    assert payloads(latest) == payloads(at_end) == []
    stream.put("k", b"5")
    assert payloads(latest) == payloads(at_end) == [b"5"]


@pytest.mark.parametrize(
    "start",
    [Start("AT_TIMESTAMP"), Start("AFTER_SEQUENCE_NUMBER"), Start("AFTER_SEQUENCE_NUMBER", sequence_number="x1")],
    ids=["no timestamp", "no sequence number", "no number"],
)
def test_a_start_that_lacks_what_it_needs_is_refused(start: Start) -> None:
    with pytest.raises(SourceError):
        MemoryStream("s").open("shardId-000000000000", start)


def test_millis_behind_is_the_age_of_the_next_record_and_0_only_at_the_tip() -> None:
    clock = ManualClock()
    stream = MemoryStream("s", clock=clock)
    opened = reader(stream)
    assert opened.next(10) == ([], 0, False)
    stream.put("k", b"a")
    clock.advance(700)
    stream.put("k", b"b")
    assert opened.next(1)[1] == 1  # not at the tip, though the next record arrived just now
    clock.advance(40)
    assert opened.next(0)[1] == 40
    assert opened.next(1)[1] == 0


def test_a_closed_shard_ends_with_its_last_record() -> None:
    stream = MemoryStream("s")
    stream.put_many([("k", b"a"), ("k", b"b")])
    opened = reader(stream)
    stream.close_shards()
    assert [opened.next(1)[2], opened.next(1)[2], opened.next(1)[2]] == [False, True, True]
    with pytest.raises(UsageError, match="closed"):
        stream.put("k", b"c")
    stream.close()  # frees nothing that a reader needs
    assert payloads(reader(stream)) == [b"a", b"b"]


def test_retention_trims_and_a_late_reader_goes_on_with_the_oldest_left() -> None:
    clock = ManualClock()
    stream = MemoryStream("s", clock=clock, retention_ms=DAY_MS)
    early = reader(stream)
    first = stream.put("k", b"0")[1]
    for index in range(1, 25_000):
        stream.put("k", b"%d" % index)
        if index % 5_000 == 0:
            clock.advance(DAY_MS // 5)
    # The records of the last advance but one and later are younger than a day.
    assert payloads(early, 1) == [b"0"]
    clock.advance(DAY_MS // 5 + 1)
    assert payloads(early, 2) == [b"5001", b"5002"]
    assert payloads(reader(stream, start=Start("AFTER_SEQUENCE_NUMBER", sequence_number=first)), 1) == [b"5001"]
    clock.advance(10 * DAY_MS)
    assert payloads(early) == []
    stream.put("k", b"new")
    assert payloads(early) == [b"new"]


def test_a_closed_shard_expires_and_its_children_no_longer_name_it() -> None:
    clock = ManualClock()
    stream = MemoryStream("s", clock=clock, retention_ms=DAY_MS)
    child = stream.rotate("shardId-000000000000")
    clock.advance(DAY_MS + 1)
    assert [(shard.shard_id, shard.parents) for shard in stream.list_shards()] == [(child, ())]
    with pytest.raises(SourceError, match="no shard"):
        stream.open("shardId-000000000000", HORIZON)


def test_bodies_and_records_mix_in_order_and_a_short_fetch_cuts_a_body() -> None:
    clock = ManualClock(5_000)
    stream = MemoryStream("s", clock=clock)
    stream.put("k", b"a")
    base = int(reader(stream).next(1)[0][0][3])  # type: ignore[index]  # a list of records
    whole = body((base + 1, 5_000), (base + 5, 6_000), (base + 9, 7_000))
    stream.put_page("shardId-000000000000", whole)
    after = stream.put("k", b"z")[1]
    assert int(after) > base + 9
    opened = reader(stream)
    assert [opened.next(100)[0] for _ in range(2)] == [[("k", b"a", 5_000, str(base))], whole]
    assert payloads(opened) == [b"z"]
    opened = reader(stream, start=Start("AFTER_SEQUENCE_NUMBER", sequence_number=str(base + 1)))
    cut = opened.next(1)[0]
    assert isinstance(cut, bytes)
    assert [record["SequenceNumber"] for record in json.loads(cut)["Records"]] == [str(base + 5)]
    at_time = reader(stream, start=Start("AT_TIMESTAMP", timestamp_ms=6_500)).next(100)[0]
    assert isinstance(at_time, bytes)
    assert [record["SequenceNumber"] for record in json.loads(at_time)["Records"]] == [str(base + 9)]


@pytest.mark.parametrize(
    "wrong",
    [b"", b"[]", b'{"Records":[{}]}', body((5, 0), (5, 0)), body((9, 0), (7, 0))],
    ids=["nothing", "list", "bare record", "twice the same", "backwards"],
)
def test_a_body_that_is_none_is_refused(wrong: bytes) -> None:
    stream = MemoryStream("s")
    with pytest.raises(ConfigError):
        stream.put_page("shardId-000000000000", wrong)
    assert reader(stream).next(10) == ([], 0, False)


def test_a_body_that_does_not_follow_is_refused() -> None:
    stream = MemoryStream("s")
    stream.put_page("shardId-000000000000", body((5, 0), (7, 0)))
    with pytest.raises(ConfigError, match="begins at 7"):
        stream.put_page("shardId-000000000000", body((7, 0), (8, 0)))


def test_wakeup_comes_after_every_change_and_outside_the_lock() -> None:
    stream = MemoryStream("s")
    seen: list[tuple[int, int]] = []

    def woken(shard_id: str | None = None, /) -> None:
        assert shard_id is not None
        seen.append((int(shard_id[-2:]), len(stream.list_shards())))  # would hang if the lock were held

    stream.set_wakeup(woken)
    stream.put("k", b"")
    stream.put_many([("k", b""), ("k", b"")])
    stream.put_page("shardId-000000000000", body((10**56, 0)))
    left, right = stream.split("shardId-000000000000")
    stream.put_many([("a", b""), ("k", b""), ("a", b"")])
    stream.rotate(stream.merge(left, right))
    stream.close_shards()
    assert seen == [(0, 1), (0, 1), (0, 1), (0, 3), (1, 3), (2, 3), (1, 4), (2, 4), (3, 5), (4, 5)]
    stream.set_wakeup(None)
    stream.put_many([])
    assert len(seen) == 10


@given(st.lists(st.one_of(st.integers(1, 4), st.just(0), st.just(-1)), max_size=40), st.data())
def test_a_reader_sees_every_record_once_in_order(steps: list[int], data: st.DataObject) -> None:
    """Puts (1..4), bodies (0) and fetches (-1) in any order, with any limits."""
    stream = MemoryStream("s")
    opened = reader(stream)
    expected: list[str] = []
    seen: list[str] = []
    for step in steps:
        if step > 0:
            expected += [number for _, number in stream.put_many([("k", b"")] * step)]
        elif step == 0:
            start = int(expected[-1]) if expected else 0
            stream.put_page("shardId-000000000000", body((start + 1, 0), (start + 2, 0)))
            expected += [str(start + 1), str(start + 2)]
        else:
            seen += fetched(opened, data.draw(st.integers(1, 5)))
    while found := fetched(opened, 3):
        seen += found
    assert seen == expected


def fetched(opened: _MemoryReader, limit: int) -> list[str]:
    """The sequence numbers of one fetch."""
    found = opened.next(limit)[0]
    numbers = [record["SequenceNumber"] for record in json.loads(found)["Records"]] if isinstance(found, bytes) else [r[3] for r in found]
    assert len(numbers) <= limit
    return numbers


def test_threads_lose_and_double_nothing() -> None:
    stream = MemoryStream("s", shards=2)
    ids = [shard.shard_id for shard in stream.list_shards()]
    seen: dict[str, list[bytes]] = {name: [] for name in ids}
    stop = threading.Event()

    def read(name: str) -> None:
        opened = reader(stream, name)
        while True:
            ended = stop.is_set()
            found = payloads(opened, 7)
            seen[name] += found
            if ended and not found:
                return

    def write(writer: int) -> None:
        for index in range(500):
            stream.put(f"{writer}-{index % 10}", b"%d-%d" % (writer, index))

    readers = [threading.Thread(target=read, args=(name,)) for name in ids]
    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    everything = [payload for name in ids for payload in seen[name]]
    assert sorted(everything) == sorted(b"%d-%d" % (writer, index) for writer in range(4) for index in range(500))
    for writer in range(4):
        for name in ids:
            order = [int(payload.split(b"-")[1]) for payload in seen[name] if payload.startswith(b"%d-" % writer)]
            assert order == sorted(order)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no shards": (lambda: MemoryStream("s", shards=0), "shards"),
    "no retention": (lambda: MemoryStream("s", retention_ms=0), "retention_ms"),
    "empty key": (lambda: MemoryStream("s").put("", b""), "partition_key"),
    "long key": (lambda: MemoryStream("s").put("k" * 257, b""), "partition_key"),
    "key that UTF-8 cannot carry": (lambda: MemoryStream("s").put("\ud800", b""), "partition_key"),
    "large payload": (lambda: MemoryStream("s").put("k", b"x" * (10 * 2**20 + 1)), "data"),
    "hash key too large": (lambda: MemoryStream("s").put("k", b"", explicit_hash_key=2**128), "explicit_hash_key"),
    "hash key negative": (lambda: MemoryStream("s").put("k", b"", explicit_hash_key="-1"), "explicit_hash_key"),
    "split at the start": (lambda: MemoryStream("s").split("shardId-000000000000", 0), "at_hash_key"),
    "merge across a gap": (lambda: MemoryStream("s", shards=3).merge("shardId-000000000000", "shardId-000000000002"), "adjacent_shard_id"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_names_its_parameter(what: str) -> None:
    call, parameter = WRONG[what]
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.parameter == parameter


def test_fetch_makes_pages() -> None:
    """The same through the binding: what a worker gets."""
    stream = MemoryStream("s")
    stream.put_many([("k", b"a"), ("k", b"b"), ("k", b"c")])
    number = int(stream.put("k", b"d")[1])
    stream.put_page("shardId-000000000000", body((number + 1, 0), (number + 2, 0)))
    opened = stream.open("shardId-000000000000", HORIZON)
    first, second, third = opened.fetch(3), opened.fetch(10), opened.fetch(10)
    assert [len(fetch.page or ()) for fetch in (first, second, third)] == [3, 1, 2]
    assert third.page is not None
    assert third.page.last_sequence_number == str(number + 2)
    assert [fetch.millis_behind == 0 for fetch in (first, second, third)] == [False, False, True]
    assert opened.fetch(10).page is None


def test_arn_of_a_name_with_odd_characters() -> None:
    assert kinesis_arn("my file (1).csv").endswith(":stream/my_file__1_.csv")
    assert hash_key("x") == int(hashlib.md5(b"x").hexdigest(), 16)  # noqa: S324  (Kinesis' rule)
