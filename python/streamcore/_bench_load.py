"""The records that a benchmark runs over: a lap of them in memory, and the stream that goes round it.

A stream of any length takes the memory of one lap. What changes from lap to lap is the sequence numbers, and those are written when a page
is asked for: the body of a GetRecords answer, which the engine reads as it reads every other.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamcore._streamcore import Page
from streamcore.checkpoints.memory import MemoryCheckpointStore
from streamcore.errors import ConfigError, SourceError
from streamcore.mapping import EventSourceMapping, memory_stream_arn
from streamcore.protocols import Answer, Fetched, ShardDescription, StreamDescription
from streamcore.sources.routing import even_ranges, hash_key, shard_name
from streamcore.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from streamcore._bench_meter import Stages
    from streamcore._streamcore import Batch
    from streamcore.protocols import ShardReader, Source, Start, Wakeup

__all__ = ["LEAD_NS", "Lap", "Load", "check", "generated", "recorded"]

# As Kinesis limits one answer of GetRecords.
_PAGE_RECORDS_MAX = 10_000
_PAGE_BYTES_MAX = 10 * 1024 * 1024

# A lap is large enough to show the skew of the keys, and small enough for memory.
_LAP_RECORDS_MAX = 100_000
_LAP_BYTES_MAX = 128 * 1024 * 1024

# With a rate the first record comes so much after the first read, when the threads of the worker are there.
LEAD_NS = 100_000_000
# A longer pause can be broken off.
_SLEEP_MAX_S = 0.01

_GENERATED_AT_S = 1_700_000_000
_LAP_DIGITS, _INDEX_DIGITS = 10, 12
# What sequence numbers begin with; theirs is the order of the records, as in every stream.
_KINESIS_NUMBERS = "4959033827149025660855969253836157"
_DYNAMODB_NUMBERS = "400000000000000000"

Format = Literal["kinesis", "dynamodb"]
_Texts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Lap:
    """Records of a stream, ready to be written into pages.

    Attributes:
        format: which API's records they are.
        event_source_arn: the ARN that events carry.
        shard_ids: the names of the shards.
        texts: of each shard its records, from the last digits of the sequence number to the end.
        places: of each shard where its records are in the order in which those of all shards arrive, ascending.
    """

    format: Format
    event_source_arn: str
    shard_ids: tuple[str, ...]
    texts: tuple[_Texts, ...]
    places: tuple[npt.NDArray[np.int64], ...]

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(map(len, self.texts))

    def count(self, shard: int, arrived: int) -> int:
        """Return how many of the first `arrived` records of the stream are in a shard."""
        laps, rest = divmod(arrived, self.records)
        return laps * len(self.texts[shard]) + int(np.searchsorted(self.places[shard], rest))

    def order(self, shard: int, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where records of a shard, by their numbers in it, are in the order of arrival."""
        laps, index = np.divmod(ordinals, len(self.texts[shard]))
        order: npt.NDArray[np.int64] = laps * self.records + self.places[shard][index]
        return order

    def body(self, shard: int, start: int, end: int) -> bytes:
        """Return the body of a GetRecords answer with the records `start` to `end` of a shard."""
        texts = self.texts[shard]
        # Every second part is what stands before a record, so that the whole is written in one piece.
        parts = [b""] * (2 * (end - start))
        at = 0
        while start < end:
            lap, index = divmod(start, len(texts))
            taken = min(len(texts) - index, end - start)
            parts[at : at + 2 * taken : 2] = [b"}," + self._opening(lap)] * taken
            parts[at + 1 : at + 2 * taken : 2] = texts[index : index + taken]
            start += taken
            at += 2 * taken
        parts[0] = b'{"MillisBehindLatest":0,"Records":[' + parts[0][2:]
        parts.append(b"}]}")
        return b"".join(parts)

    def _opening(self, lap: int) -> bytes:
        if self.format == "kinesis":
            return f'{{"SequenceNumber":"{_KINESIS_NUMBERS}{lap:0{_LAP_DIGITS}d}'.encode()
        return f'{{"dynamodb":{{"SequenceNumber":"{_DYNAMODB_NUMBERS}{lap:0{_LAP_DIGITS}d}'.encode()

    def after(self, shard: int, sequence_number: str) -> int:
        """Return the number of the record behind the one with this sequence number."""
        digits = sequence_number[-_LAP_DIGITS - _INDEX_DIGITS :]
        return int(digits[:_LAP_DIGITS]) * len(self.texts[shard]) + int(digits[_LAP_DIGITS:]) + 1

    def page_records(self, shard: int) -> int:
        """Return how many records of a shard one answer has at most."""
        texts = self.texts[shard]
        return max(1, min(_PAGE_RECORDS_MAX, _PAGE_BYTES_MAX * len(texts) // max(sum(map(len, texts)), 1)))


def generated(*, record_bytes: int, keys: int, key_skew: float, shards: int, seed: int, records_max: int | None) -> Lap:
    """Return a lap of JSON records, each of exactly `record_bytes` bytes.

    Args:
        record_bytes: size of each record before base64. From 24 on it is an object with the members `id` and `text`, below it a string.
        keys: how many partition keys there are.
        key_skew: exponent of Zipf's law: the key of rank r comes r**key_skew times more rarely than the first. 0 is an even spread.
        shards: how many shards the keys are spread over, as Kinesis does it.
        seed: of keys and texts.
        records_max: a lap need not have more records than this, if it is known.
    """
    random = np.random.default_rng(seed)
    count = max(1, min(_LAP_RECORDS_MAX, _LAP_BYTES_MAX // (record_bytes + 200), records_max or _LAP_RECORDS_MAX))
    weights = np.cumsum(np.arange(1, keys + 1, dtype=np.float64) ** -key_skew)
    ranks = np.searchsorted(weights, random.random(count) * weights[-1], side="right") + 1
    letters = random.integers(ord("a"), ord("z") + 1, size=record_bytes + 65_536, dtype=np.uint8).tobytes()
    offsets = random.integers(0, 65_536, size=count).tolist()
    starts = np.array([first >> 64 for first, _ in even_ranges(shards)], dtype=np.uint64)
    shard_of: dict[int, int] = {}
    texts: list[list[bytes]] = [[] for _ in range(shards)]
    places: list[list[int]] = [[] for _ in range(shards)]
    for place, (rank, offset) in enumerate(zip(ranks.tolist(), offsets, strict=True)):
        key = f"key-{rank}"
        if rank not in shard_of:
            shard_of[rank] = int(np.searchsorted(starts, np.uint64(hash_key(key) >> 64), side="right")) - 1
        shard = shard_of[rank]
        data = _json_of_size(place, letters, offset, record_bytes)
        texts[shard].append(_kinesis_text(len(texts[shard]), key, base64.b64encode(data).decode(), _GENERATED_AT_S + place / 1000))
        places[shard].append(place)
    return _lap("kinesis", memory_stream_arn("bench"), [shard_name(index) for index in range(shards)], texts, places)


def _json_of_size(number: int, letters: bytes, offset: int, size: int) -> bytes:
    if size < 2:
        return b"7"
    head = b'{"id":%d,"text":"' % number if size >= 24 else b'"'
    tail = b'"}' if size >= 24 else b'"'
    return head + letters[offset : offset + size - len(head) - len(tail)] + tail


def recorded(source: Source) -> Lap:
    """Return the records of a source that has an end: with the shards, keys, times and data that they have there, and other numbers.

    What is beyond 128 MiB of the source is left out.

    Raises:
        SourceError: the source cannot be read, or has no records that fit an event.
    """
    collector = _Collector()
    worker = Worker(checkpoints=MemoryCheckpointStore())
    collector.full = worker.stop
    arn = source.describe().event_source_arn
    # A record that fits no event is left out, and not tried for ever.
    mapping = EventSourceMapping(event_source_arn=arn, starting_position="TRIM_HORIZON", batch_size=10_000, maximum_retry_attempts=0)
    worker.add(mapping, source, collector)
    if worker.run().reason == "interrupted":
        raise KeyboardInterrupt
    shards = sorted(collector.texts)
    if not shards:
        raise SourceError("the source has no records that fit an event")
    texts = [collector.texts[shard_id] for shard_id in shards]
    # Which record came before which of another shard is not known: each shard's are spread evenly over the lap.
    evenly = np.concatenate([(np.arange(len(mine)) + 0.5) / len(mine) for mine in texts])
    ranks = np.empty(len(evenly), dtype=np.int64)
    ranks[np.argsort(evenly, kind="stable")] = np.arange(len(evenly))
    places = np.split(ranks, np.cumsum([len(mine) for mine in texts])[:-1])
    return _lap(collector.format, arn, shards, texts, places)


class _Collector:
    """A function that keeps the records of every batch."""

    def __init__(self) -> None:
        self.texts: dict[str, list[bytes]] = {}
        self.format: Format = "kinesis"
        self.full: Callable[[], None] = lambda: None
        self._bytes = 0
        self._lock = threading.Lock()

    def invoke(self, batch: Batch) -> Answer:
        """Keep the records of the batch."""
        records = batch.event()["Records"]
        with self._lock:
            mine = self.texts.setdefault(batch.shard_id, [])
            for record in records:
                if self._bytes >= _LAP_BYTES_MAX:
                    self.full()
                    break
                text = self._text(len(mine), record)
                self._bytes += len(text)
                mine.append(text)
        return Answer("success")

    def _text(self, index: int, record: dict[str, Any]) -> bytes:
        if "kinesis" in record:
            facts = record["kinesis"]
            return _kinesis_text(index, facts["partitionKey"], facts["data"], facts["approximateArrivalTimestamp"])
        self.format = "dynamodb"
        change = {name: value for name, value in record["dynamodb"].items() if name != "SequenceNumber"}
        others = {name: value for name, value in record.items() if name not in ("dynamodb", "eventSourceARN")}
        return f'{index:0{_INDEX_DIGITS}d}",{_json(change)[1:]},{_json(others)[1:-1]}'.encode()

    def close(self) -> None:
        """Do nothing: what was kept stays."""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _kinesis_text(index: int, key: str, data: str, arrival_s: float) -> bytes:
    return (
        f'{index:0{_INDEX_DIGITS}d}","ApproximateArrivalTimestamp":{arrival_s:.3f},"Data":"{data}","PartitionKey":{_json(key)}'
    ).encode()


def _lap(format_: Format, arn: str, shard_ids: Iterable[str], texts: Iterable[Sequence[bytes]], places: Iterable[npt.ArrayLike]) -> Lap:
    # Tuples of bytes, since the garbage collector goes over every list of them again and again.
    return Lap(format_, arn, tuple(shard_ids), tuple(map(tuple, texts)), tuple(np.asarray(mine, dtype=np.int64) for mine in places))


class Load:
    """A stream that goes round a lap: all of it there at once, or each record at its instant.

    With a rate record i arrives `i / rate` seconds after a first instant, whatever the reader does meanwhile. That is the schedule which
    latency is counted from: a reader that is late finds more records, and none of them is younger for it.

    Args:
        lap: the records.
        number: of the run; each is a stream of its own.
        total: records of the stream; None for no end.
        rate: records a second, over all shards; None where all are there from the beginning.
        now_ns: the clock.
        stages: where the CPU time of making pages is noted.
        paced: whether a thread wakes the reader of each record that arrives. Without it whoever drives the worker calls
            `wake`.
    """

    def __init__(
        self,
        lap: Lap,
        *,
        number: int = 0,
        total: int | None,
        rate: float | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        stages: Stages | None = None,
        paced: bool = True,
    ) -> None:
        self.lap = lap
        self.rate = rate
        self.started_ns = 0
        self.stages = stages
        self._number = number
        self.total = 10**_LAP_DIGITS if total is None else total
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._wakeup: Wakeup | None = None
        self._over = threading.Event()
        self._begun = False
        self._woken_to = 0
        self._paced = paced and rate is not None

    def describe(self) -> StreamDescription:
        """Say what the stream is: one that has an end, and that wakes its reader itself."""
        return StreamDescription(
            identity=f"bench-{self._number}",
            event_source_arn=self.lap.event_source_arn,
            poll_interval_ms=0,
            clock="replay",
            format=self.lap.format,
        )

    def list_shards(self) -> list[ShardDescription]:
        """Return the shards of the lap."""
        return [ShardDescription(shard_id, (), closed=self.rate is None) for shard_id in self.lap.shard_ids]

    def open(self, shard_id: str, start: Start) -> ShardReader:
        """Return a reader of one shard."""
        shard = self.lap.shard_ids.index(shard_id)
        return _Reader(self, shard, 0 if start.sequence_number is None else self.lap.after(shard, start.sequence_number))

    def set_wakeup(self, callback: Wakeup | None) -> None:
        """Call `callback` for the shard of each record that arrives."""
        self._wakeup = callback

    def close(self) -> None:
        """Let no further record arrive."""
        self._over.set()

    def begin(self) -> None:
        """Start the clock at the first read, or a little after it where records arrive by and by."""
        if self._begun:
            return
        with self._lock:
            if not self._begun:
                self._begun = True
                self.started_ns = self._now_ns() + (LEAD_NS if self._paced else 0)
                if self._paced:
                    threading.Thread(target=self._pace, name="streamcore-bench-pace", daemon=True).start()

    def arrived(self) -> int:
        """Return how many records have arrived."""
        if self.rate is None:
            return self.total
        return max(0, min(self.total, math.floor((self._now_ns() - self.started_ns) * self.rate / 1e9) + 1))

    def intended_ns(self, shard: int, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return when records of a shard, by their numbers in it, are to arrive, counted from the first instant. With a rate only."""
        instants: npt.NDArray[np.int64] = (self.lap.order(shard, ordinals) * (1e9 / (self.rate or 1))).astype(np.int64)
        return instants

    def wake(self) -> None:
        """Wake the readers of what has arrived since the last time."""
        names, given, arrived = self._shard_of_place, self._woken_to, self.arrived()
        if arrived > given and (wake := self._wakeup) is not None:
            for shard_id in {names[place % len(names)] for place in range(given, min(arrived, given + len(names)))}:
                wake(shard_id)
            self._woken_to = arrived

    @functools.cached_property
    def _shard_of_place(self) -> list[str]:
        """By place in the lap, the shard of a record."""
        shard_of = np.empty(self.lap.records, dtype=np.int64)
        for shard, places in enumerate(self.lap.places):
            shard_of[places] = shard
        return [self.lap.shard_ids[shard] for shard in shard_of.tolist()]

    def _pace(self) -> None:
        """Wake the reader of each record at its instant."""
        while self._woken_to < self.total:
            self.wake()
            if self.stages is not None:
                self.stages.mark()
            due_ns = self.started_ns + int(self._woken_to * 1e9 / (self.rate or 1))
            pause_s = max(due_ns - self._now_ns(), 0) / 1e9
            # Waiting for the event costs several times what sleeping does, and comes back later.
            if pause_s > _SLEEP_MAX_S:
                self._over.wait(pause_s - _SLEEP_MAX_S)
            else:
                time.sleep(pause_s)
            if self._over.is_set():
                return


class _Reader:
    """Reads one shard of a `Load`."""

    def __init__(self, load: Load, shard: int, at: int) -> None:
        self._load = load
        self._shard = shard
        self._at = at
        self._page_records = load.lap.page_records(shard)
        self._total = load.lap.count(shard, load.total)

    def fetch(self, limit: int) -> Fetched:
        """Return the records that have arrived, as one answer of GetRecords has them."""
        load, shard, start = self._load, self._shard, self._at
        stages = load.stages
        if stages is not None:
            stages.mark()
        load.begin()
        arrived = load.lap.count(shard, load.arrived())
        end = self._at = min(arrived, start + min(limit, self._page_records))
        page = None
        if end > start:
            body = load.lap.body(shard, start, end)
            if stages is not None:
                stages.mark("bench")
            page = Page.parse(body, load.lap.format)
            if stages is not None:
                stages.mark("decode")
        return Fetched(page, int(end < arrived), ended=end == self._total)

    def close(self) -> None:
        """Do nothing: a reader holds nothing of its own."""


def check(parameter: str, value: object, smallest: float, largest: float, *, whole: bool = True) -> None:
    """Refuse a number that is out of range.

    Raises:
        ConfigError: it is.
    """
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not smallest <= value <= largest:
        raise ConfigError(f"must be {kind} from {smallest:,} to {largest:,}, not {value!r}", parameter=parameter)
