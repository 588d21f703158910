"""A stream in memory that behaves as a Kinesis data stream: for tests, simulations, benchmarks and programs that embed streamcore."""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from streamcore._streamcore import Page
from streamcore.errors import ConfigError, SourceError, UsageError
from streamcore.protocols import Fetched, ShardDescription, StreamDescription
from streamcore.sources._wall import WallClock
from streamcore.sources.routing import HASH_KEY_MAX, check_key, even_ranges, hash_key, kinesis_arn, shard_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamcore.protocols import Clock, ShardReader, Start, Wakeup

__all__ = ["MemoryStream"]

RECORD_BYTES_MAX = 10 * 1024 * 1024
"""The largest payload that Kinesis can be set to take (Kinesis API, UpdateMaxRecordSize)."""

_FETCH_RECORDS_MAX = 10_000  # as GetRecords
_SEGMENT_RECORDS_MAX = 10_000

_Record = tuple[str, bytes, int, str]


class MemoryStream:
    """A stream of shards in memory.

    Keys go to shards by the rule of Kinesis (MD5 into 128-bit ranges). Sequence numbers look as those of Kinesis: 56 digits that grow over
    the whole stream, with gaps. Shards split, merge and rotate; a shard that has done so is closed and has children. Every object is an
    incarnation of its own: a stream made anew under the same name has another identity, so that no checkpoint of the old one fits.

    Any number of threads may put and read. A fetch costs the records that it returns, however long the stream is.

    >>> stream = MemoryStream("orders", shards=2)
    >>> shard_id, sequence_number = stream.put("customer-1", b"first")
    >>> shard_id, len(sequence_number)
    ('shardId-000000000001', 56)
    >>> left, right = stream.split(shard_id)
    >>> stream.list_shards()[-1].parents
    ('shardId-000000000001',)
    """

    def __init__(
        self,
        name: str,
        *,
        shards: int = 1,
        clock: Clock | None = None,
        retention_ms: int | None = None,
        event_source_arn: str | None = None,
    ) -> None:
        """Make an empty stream.

        Args:
            name: the stream's name, part of its default ARN.
            shards: number of shards to begin with, 1 to 10,000, of equal hash ranges.
            clock: gives arrival times and says when retention is over; by default the machine's time.
            retention_ms: records older than this can no longer be read; None keeps them for ever. AWS allows 24 to 8,760 hours.
            event_source_arn: what events carry; by default a Kinesis ARN in us-east-1 of account 000000000000.

        Raises:
            ConfigError: a value is not allowed.
        """
        if retention_ms is not None and retention_ms <= 0:
            raise ConfigError(f"retention_ms must be greater than 0, not {retention_ms}", parameter="retention_ms")
        self._clock = clock or WallClock()
        self._retention_ms = retention_ms
        self._arn = event_source_arn or kinesis_arn(name)
        self._lock = threading.Lock()
        self._wakeup: Wakeup | None = None
        created_ms = self._clock.now_ms()
        self._identity = f"memory:{name}:{created_ms}:{uuid4().hex}"
        self._sequence = int(f"49{created_ms % 10**13:013d}".ljust(56, "0"))
        self._puts = 0
        self._shards: dict[str, _Shard] = {}
        self._made = 0
        self._open_starts: list[int] = []
        self._open_shards: list[_Shard] = []
        for first, last in even_ranges(shards):
            self._add_shard(first, last, ())
        self._route()

    def put(
        self, partition_key: str, data: bytes, *, explicit_hash_key: int | str | None = None, arrival_ms: int | None = None
    ) -> tuple[str, str]:
        """Append one record; returns its shard and its sequence number.

        Args:
            partition_key: 1 to 256 characters.
            data: the payload, at most 10 MiB.
            explicit_hash_key: 0 to 2**128 - 1, chooses the shard in place of the key's MD5.
            arrival_ms: the arrival time; by default now.

        Raises:
            ConfigError: a value is not allowed.
            UsageError: the shard that the key belongs to is closed and has no child.
        """
        with self._lock:
            placed = self._append(partition_key, data, explicit_hash_key, self._clock.now_ms() if arrival_ms is None else arrival_ms)
        self._wake(placed[0])
        return placed

    def put_many(self, records: Iterable[tuple[str, bytes]], *, arrival_ms: int | None = None) -> list[tuple[str, str]]:
        """Append records of (partition key, payload) in order, with one wake-up of each shard; returns what `put` returns for each.

        Raises:
            ConfigError: a value is not allowed. Records before it have been appended.
            UsageError: as for `put`.
        """
        placed: list[tuple[str, str]] = []
        try:
            with self._lock:
                now = self._clock.now_ms() if arrival_ms is None else arrival_ms
                placed.extend(self._append(key, data, None, now) for key, data in records)
        finally:
            self._wake(*dict(placed))
        return placed

    def put_page(self, shard_id: str, body: bytes) -> None:
        """Append the records of a ready GetRecords body, kept as it is and parsed by `Page.parse` at each fetch.

        For benchmarks and for recorded answers. A fetch hands the body out whole; only one of fewer records than the body has makes
        a shorter copy of it. Sequence numbers must grow beyond what the shard holds; those of later puts grow beyond them. Keys are not
        checked against the shard's hash range.

        Raises:
            ConfigError: the body is not that of GetRecords, or its sequence numbers do not grow.
            UsageError: the shard is closed or not there.
        """
        page = _Body(body)
        with self._lock:
            shard = self._open_shard(shard_id)
            if not len(page):
                return
            if page.first_sequence <= shard.last_sequence:
                raise ConfigError(
                    f"the body begins at {page.first_sequence}, the shard is at {shard.last_sequence} already", parameter="body"
                )
            shard.segments.append(page)
            shard.last_sequence = page.last_sequence
            self._sequence = max(self._sequence, shard.last_sequence)
        self._wake(shard_id)

    def split(self, shard_id: str, at_hash_key: int | None = None) -> tuple[str, str]:
        """Close a shard and open two children of it; returns them, the one with the lower hash keys first.

        Args:
            shard_id: an open shard.
            at_hash_key: the first hash key of the second child; by default the middle.

        Raises:
            ConfigError: `at_hash_key` leaves a child without a hash key.
            UsageError: the shard is closed or not there.
        """
        with self._lock:
            shard = self._open_shard(shard_id)
            at = (shard.first + shard.last + 1) // 2 if at_hash_key is None else at_hash_key
            if not shard.first < at <= shard.last:
                raise ConfigError(f"at_hash_key must be from {shard.first + 1} to {shard.last}, not {at}", parameter="at_hash_key")
            self._close_shard(shard)
            children = self._add_shard(shard.first, at - 1, (shard_id,)), self._add_shard(at, shard.last, (shard_id,))
            self._route()
        self._wake(shard_id)
        return children

    def merge(self, shard_id: str, adjacent_shard_id: str) -> str:
        """Close two shards whose hash ranges touch and open one child of both; returns it.

        Raises:
            ConfigError: the ranges do not touch.
            UsageError: a shard is closed or not there.
        """
        with self._lock:
            lower, upper = sorted((self._open_shard(shard_id), self._open_shard(adjacent_shard_id)), key=lambda shard: shard.first)
            if lower.last + 1 != upper.first:
                raise ConfigError(f"{shard_id} and {adjacent_shard_id} are not adjacent", parameter="adjacent_shard_id")
            self._close_shard(lower)
            self._close_shard(upper)
            child = self._add_shard(lower.first, upper.last, (shard_id, adjacent_shard_id))
            self._route()
        self._wake(shard_id, adjacent_shard_id)
        return child

    def rotate(self, shard_id: str) -> str:
        """Close a shard and open one child with the same hash range, as DynamoDB Streams do every few hours; returns the child.

        Raises:
            UsageError: the shard is closed or not there.
        """
        with self._lock:
            shard = self._open_shard(shard_id)
            self._close_shard(shard)
            child = self._add_shard(shard.first, shard.last, (shard_id,))
            self._route()
        self._wake(shard_id)
        return child

    def close_shard(self, shard_id: str) -> None:
        """Close a shard without a child: its readers end behind its last record, and its keys can no longer be put.

        Raises:
            UsageError: the shard is closed or not there.
        """
        with self._lock:
            self._close_shard(self._open_shard(shard_id))
            self._route()
        self._wake(shard_id)

    def close_shards(self) -> None:
        """Close every open shard: the stream is complete, and whoever reads it comes to an end."""
        with self._lock:
            closed = self._open_shards
            for shard in closed:
                self._close_shard(shard)
            self._route()
        self._wake(*(shard.shard_id for shard in closed))

    def describe(self) -> StreamDescription:
        """Say what the stream is. It wakes its reader itself, so it asks for no polling."""
        return StreamDescription(
            identity=self._identity, event_source_arn=self._arn, retention_ms=self._retention_ms, poll_interval_ms=0, clock="wall"
        )

    def list_shards(self) -> list[ShardDescription]:
        """Return the shards that can still be read, parents before children.

        A closed shard leaves the list when retention has passed since it was closed; its children then no longer name it.
        """
        with self._lock:
            now = self._clock.now_ms()
            listed = self._shards = {shard.shard_id: shard for shard in self._shards.values() if not self._expired(shard, now)}
            return [
                ShardDescription(shard.shard_id, tuple(parent for parent in shard.parents if parent in listed), shard.closed_ms is not None)
                for shard in listed.values()
            ]

    def open(self, shard_id: str, start: Start) -> ShardReader:
        """Return a reader of one shard.

        A start before the oldest record that is left means that record; one behind the newest means what comes next.

        Raises:
            SourceError: there is no such shard, or it has expired, or the start lacks its timestamp or sequence number.
        """
        with self._lock:
            shard = self._shards.get(shard_id)
            if shard is None or self._expired(shard, self._clock.now_ms()):
                raise SourceError(f"{self._arn}: there is no shard {shard_id!r} that can be read")
            self._trim(shard)
            return _MemoryReader(self, shard, shard.locate(start))

    def set_wakeup(self, callback: Wakeup | None) -> None:
        """Call `callback` for a shard after every put, split, merge, rotation and closing of it, from the thread that did it.

        New shards are not told of: who reads a parent to its end lists the shards then.
        """
        self._wakeup = callback

    def close(self) -> None:
        """Do nothing: a stream outlives those who read it. `close_shards` ends it."""

    def _wake(self, *shard_ids: str) -> None:
        callback = self._wakeup
        if callback is not None:
            for shard_id in shard_ids:
                callback(shard_id)

    def _append(self, partition_key: str, data: bytes, explicit_hash_key: int | str | None, arrival_ms: int) -> tuple[str, str]:
        try:
            check_key(partition_key)
        except ValueError as error:
            raise ConfigError(str(error), parameter="partition_key") from None
        if len(data) > RECORD_BYTES_MAX:
            raise ConfigError(f"data must have at most {RECORD_BYTES_MAX} bytes, not {len(data)}", parameter="data")
        hashed = hash_key(partition_key) if explicit_hash_key is None else _explicit(explicit_hash_key)
        at = bisect_right(self._open_starts, hashed) - 1
        shard = self._open_shards[at] if at >= 0 else None
        if shard is None or hashed > shard.last:
            raise UsageError(f"the shard of partition key {partition_key!r} is closed and has no child")
        self._puts += 1
        self._sequence += 1 + self._puts * 7919 % 97 * 10**12  # gaps of changing size, as a shard sees them in Kinesis
        shard.last_sequence = self._sequence
        sequence_number = str(self._sequence)
        shard.append((partition_key, data, arrival_ms, sequence_number))
        return shard.shard_id, sequence_number

    def _add_shard(self, first: int, last: int, parents: tuple[str, ...]) -> str:
        shard_id = shard_name(self._made)
        self._made += 1
        shard = self._shards[shard_id] = _Shard(shard_id, first, last, parents)
        self._open_shards.append(shard)
        return shard_id

    def _route(self) -> None:
        """Sort the open shards by their hash keys, after shards were added or closed."""
        self._open_shards = sorted((shard for shard in self._open_shards if shard.closed_ms is None), key=lambda shard: shard.first)
        self._open_starts = [shard.first for shard in self._open_shards]

    def _open_shard(self, shard_id: str) -> _Shard:
        shard = self._shards.get(shard_id)
        if shard is None:
            raise UsageError(f"there is no shard {shard_id!r}")
        if shard.closed_ms is not None:
            raise UsageError(f"the shard {shard_id} is closed")
        return shard

    def _close_shard(self, shard: _Shard) -> None:
        shard.closed_ms = self._clock.now_ms()

    def _expired(self, shard: _Shard, now: int) -> bool:
        return self._retention_ms is not None and shard.closed_ms is not None and shard.closed_ms + self._retention_ms < now

    def _trim(self, shard: _Shard) -> None:
        if self._retention_ms is not None:
            shard.trim(self._clock.now_ms() - self._retention_ms)


class _Place(NamedTuple):
    """A place in a shard: the number of a segment since the shard was made, and a record in it."""

    segment: int
    offset: int


class _Records(list[_Record]):
    """Records put one by one."""

    @property
    def last_sequence(self) -> int:
        return int(self[-1][3])

    def facts(self) -> list[tuple[int, int]]:
        """Return sequence number and arrival time of each record."""
        return [(int(number), arrival_ms) for _, _, arrival_ms, number in self]

    def arrival_ms(self, offset: int) -> int:
        return self[offset][2]


class _Body:
    """A GetRecords body and what must be known of its records. What is seldom asked for is read from the body again."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        facts = self.facts()
        if any(later <= earlier for (earlier, _), (later, _) in pairwise(facts)):
            raise ConfigError("the sequence numbers of the body do not grow", parameter="body")
        self._count = len(facts)
        self.first_sequence = facts[0][0] if facts else 0
        self.last_sequence = facts[-1][0] if facts else 0
        self._first_arrival_ms = facts[0][1] if facts else 0
        self.last_arrival_ms = max((arrival_ms for _, arrival_ms in facts), default=0)

    def __len__(self) -> int:
        return self._count

    def facts(self) -> list[tuple[int, int]]:
        """Return sequence number and arrival time of each record."""
        try:
            records = json.loads(self.body)["Records"]
            return [(int(record["SequenceNumber"]), round(record["ApproximateArrivalTimestamp"] * 1000)) for record in records]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"the body is not that of a GetRecords answer: {error!r}", parameter="body") from None

    def arrival_ms(self, offset: int) -> int:
        return self._first_arrival_ms if offset == 0 else self.facts()[offset][1]

    def cut(self, start: int, end: int) -> bytes:
        """Return a body of the records `start..end`."""
        if start == 0 and end == self._count:
            return self.body
        answer = json.loads(self.body)
        answer["Records"] = answer["Records"][start:end]
        return json.dumps(answer).encode()


@dataclass(slots=True)
class _Shard:
    """One shard's log: segments of records, trimmed from the front. Guarded by the stream's lock."""

    shard_id: str
    first: int
    last: int
    parents: tuple[str, ...]
    closed_ms: int | None = None
    last_sequence: int = 0
    segments: list[_Records | _Body] = field(default_factory=list)
    trimmed: _Place = field(default_factory=lambda: _Place(0, 0))  # the oldest record that is left; segments before it are gone

    def append(self, record: _Record) -> None:
        if not self.segments or isinstance(self.segments[-1], _Body) or len(self.segments[-1]) >= _SEGMENT_RECORDS_MAX:
            self.segments.append(_Records())
        tail = self.segments[-1]
        assert isinstance(tail, _Records)  # noqa: S101  (made so above)
        tail.append(record)

    def segment(self, place: _Place) -> _Records | _Body | None:
        """Return the segment of a place; None at the end."""
        index = place.segment - self.trimmed.segment
        return self.segments[index] if index < len(self.segments) else None

    def settle(self, place: _Place) -> _Place:
        """Move a place from the end of a full segment to the next one, and from what is trimmed to what is left."""
        place = max(place, self.trimmed)
        segment = self.segment(place)
        if segment is not None and place.offset >= len(segment) and self.segment(_Place(place.segment + 1, 0)) is not None:
            return _Place(place.segment + 1, 0)
        return place

    def trim(self, oldest_ms: int) -> None:
        """Drop what arrived before `oldest_ms`, up to the first record that did not. A body goes as a whole."""
        number, offset = self.trimmed
        gone = 0
        for segment in self.segments:
            if isinstance(segment, _Body):
                if segment.last_arrival_ms >= oldest_ms:
                    break
                offset = len(segment)
            else:
                while offset < len(segment) and segment.arrival_ms(offset) < oldest_ms:
                    offset += 1
            if offset < len(segment) or gone + 1 == len(self.segments):
                break
            gone += 1
            offset = 0
        del self.segments[:gone]
        self.trimmed = _Place(number + gone, offset)

    def locate(self, start: Start) -> _Place:
        """Return the place at which a reader begins."""
        end = _Place(self.trimmed.segment + max(len(self.segments) - 1, 0), len(self.segments[-1]) if self.segments else 0)
        if start.kind == "TRIM_HORIZON":
            return self.trimmed
        if start.kind == "LATEST":
            return end
        if start.kind == "AT_TIMESTAMP":
            timestamp_ms = start.timestamp_ms
            if timestamp_ms is None:
                raise SourceError("AT_TIMESTAMP needs a timestamp")
            return self._first(lambda _, arrival_ms: arrival_ms >= timestamp_ms, end)
        text = start.sequence_number or ""
        if not (text.isascii() and text.isdigit()):
            raise SourceError(f"a sequence number is a decimal number, not {start.sequence_number!r}")
        after = int(text) - (start.kind == "AT_SEQUENCE_NUMBER")
        return self._first(lambda sequence, _: sequence > after, end, skip=lambda segment: segment.last_sequence <= after)

    def _first(
        self,
        holds: Callable[[int, int], bool],
        otherwise: _Place,
        *,
        skip: Callable[[_Records | _Body], bool] = lambda _: False,
    ) -> _Place:
        """Return the first place whose sequence number and arrival time `holds` is true of, passing over segments that `skip` is."""
        offset = self.trimmed.offset
        for number, segment in enumerate(self.segments, self.trimmed.segment):
            if not skip(segment):
                for at, (sequence, arrival_ms) in enumerate(segment.facts()):
                    if at >= offset and holds(sequence, arrival_ms):
                        return _Place(number, at)
            offset = 0
        return otherwise


class _MemoryReader:
    """Reads one shard of a `MemoryStream`."""

    def __init__(self, stream: MemoryStream, shard: _Shard, place: _Place) -> None:
        self._stream = stream
        self._shard = shard
        self._place = place

    def fetch(self, limit: int) -> Fetched:
        """Return the next records, at most `limit` and at most 10,000.

        `millis_behind` is 0 where nothing is left to read, and else how long ago the next record arrived, at least 1.
        """
        found, millis_behind, ended = self.next(limit)
        page = Page.parse(found) if isinstance(found, bytes) else Page.from_records(found) if found else None
        return Fetched(page, millis_behind, ended)

    def next(self, limit: int) -> tuple[bytes | list[_Record], int, bool]:
        """Return what `fetch` makes a page of, how far behind that is, and whether the shard has ended."""
        stream, shard = self._stream, self._shard
        limit = min(limit, _FETCH_RECORDS_MAX)
        with stream._lock:  # noqa: SLF001  (one module)
            stream._trim(shard)  # noqa: SLF001  (one module)
            found: bytes | list[_Record] = []
            taken = 0
            self._place = shard.settle(self._place)
            while taken < limit and (segment := shard.segment(self._place)) is not None and self._place.offset < len(segment):
                number, offset = self._place
                end = min(len(segment), offset + limit - taken)
                if isinstance(segment, _Body):
                    if taken:
                        break
                    found = segment.cut(offset, end)
                    self._place = shard.settle(_Place(number, end))
                    break
                found = [*found, *segment[offset:end]] if taken else segment[offset:end]
                taken += end - offset
                self._place = shard.settle(_Place(number, end))
            left = shard.segment(self._place)
            if left is not None and self._place.offset < len(left):
                behind = max(1, stream._clock.now_ms() - left.arrival_ms(self._place.offset))  # noqa: SLF001  (one module)
                return found, behind, False
            return found, 0, shard.closed_ms is not None

    def close(self) -> None:
        """Do nothing: a reader holds nothing of its own."""


def _explicit(explicit_hash_key: int | str) -> int:
    text = str(explicit_hash_key)
    if not (text.isascii() and text.isdigit() and int(text) <= HASH_KEY_MAX):
        raise ConfigError(f"explicit_hash_key must be a whole number from 0 to 2**128 - 1, not {text}", parameter="explicit_hash_key")
    return int(text)
