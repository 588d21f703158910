"""The records that messages name, as a source: read from their stream again, or out of the messages themselves.

A *range* is what is redriven as one: a message, or several whose sequence numbers overlap, as those of concurrent batches of a shard do. A
shard hands out a range when all records of the one before are done, so that no batch holds records of two and every message stands by
itself.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from streamcore.errors import SourceError
from streamcore.protocols import Fetched, ShardDescription, Start, StreamDescription
from streamcore.sources._events import ALL_KEYS, Group, page_of, sequence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from streamcore._redrive_messages import Message
    from streamcore.protocols import ShardReader, Source

__all__ = ["Range", "RedriveSource", "ranges_of"]

_log = logging.getLogger("streamcore.redrive")

_AT_TIP = Fetched(None, 0)
_AGAIN_MS = 1
_MORE_RECORDS = 1000  # asked for where a range has more records than its messages' batches had
_FAILURES_MAX = 8  # reads of a shard in a row; they are spread over half a minute
_CONSUMER = "/consumer/"
_PAGE_BYTES = 8 << 20  # of a page made of messages' own records: what one of them holds makes one batch again


@dataclass(slots=True)
class Range:
    """Messages whose sequence numbers overlap, in the order of their first ones, and how far their records are done.

    Attributes:
        messages: one or more.
        last: the last sequence number of all.
        found_first: the first record that there was; None before it is found, and where there is none.
        read_last: the last record read so far.
        found_last: the last record handed out so far: not the same where an aggregate was left out.
        complete: whether everything that there is has been handed out.
        unread: messages whose records cannot be made out, and why.
    """

    messages: list[Message]
    last: str
    found_first: int | None = None
    read_last: str | None = None
    found_last: str | None = None
    complete: bool = False
    unread: dict[Message, str] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The first sequence number of all."""
        return self.messages[0].first_sequence_number

    def done(self, watermark: str | None) -> bool:
        """Whether all records up to `watermark` being done means that the range is."""
        if not self.complete:
            return False
        return self.found_last is None or (watermark is not None and int(watermark) >= int(self.found_last))

    def missing(self, message: Message) -> str | None:
        """Say which records of a message the stream no longer had; None where it had all."""
        if message.payload:
            return None
        if self.found_first is None or self.read_last is None:
            return "all of its records have expired"
        if message.last < self.found_first or message.first > int(self.read_last):
            return "all of its records have expired"
        if message.first < self.found_first or message.last > int(self.read_last):
            return "a part of its records has expired; what was left was run"
        return None


def ranges_of(messages: Iterable[Message]) -> list[Range]:
    """Return the ranges of one shard's messages, in the order of the shard."""
    ranges: list[Range] = []
    for message in sorted(messages, key=lambda message: (message.first, message.last)):
        if ranges and message.first <= int(ranges[-1].last):
            ranges[-1].messages.append(message)
            ranges[-1].last = max(ranges[-1].last, message.last_sequence_number, key=int)
        else:
            ranges.append(Range([message], message.last_sequence_number))
    return ranges


class _RangeReader(Protocol):
    """Reads the records of one range."""

    def fetch(self, limit: int) -> Fetched | None:
        """Return the next records; None where there is nothing more, and the range is complete."""

    def close(self) -> None:
        """Free what it holds."""


class RedriveSource:
    """The shards of one stream with the records that messages name, and no others.

    Args:
        event_source_arn: what events carry.
        ranges: by shard, in order.
        stream: where the records are read from; None where the messages hold them.
        records: gives a message's own records.
        on_read: is told of a shard whose current range has been handed out as a whole.
    """

    def __init__(
        self,
        event_source_arn: str,
        ranges: Mapping[str, Sequence[Range]],
        stream: Source | None,
        *,
        records: Callable[[Message], list[dict[str, Any]]],
        on_read: Callable[[str], None],
    ) -> None:
        first = next(iter(ranges.values()))[0].messages[0]
        self._format = first.format
        self._arn = event_source_arn
        self._stream = stream
        self._apart = _CONSUMER in event_source_arn
        self._hash_keys: dict[str, tuple[int, int]] = {}
        self._wakeup: Callable[[], None] | None = None
        self.shards = {
            shard_id: _Shard(shard_id, list(of_shard), self._reader_of(shard_id, records), on_read) for shard_id, of_shard in ranges.items()
        }

    def describe(self) -> StreamDescription:
        """Say what the stream is: recorded data, whatever it is read from."""
        made = StreamDescription(self._arn, self._arn, poll_interval_ms=0, clock="replay", format=self._format)
        if self._stream is None:
            return made
        found = self._stream.describe()
        return dataclasses.replace(made, identity=found.identity, format=found.format, created_ms=found.created_ms)

    def list_shards(self) -> Sequence[ShardDescription]:
        """Return the shards of the messages. One that descends from another waits for it."""
        if self._stream is None:
            return [ShardDescription(shard_id, closed=True) for shard_id in self.shards]
        shards = self._stream.list_shards()
        self._hash_keys = {shard.shard_id: shard.hash_keys for shard in shards if shard.hash_keys is not None}
        parents = {shard.shard_id: shard.parents for shard in shards}
        listed = [shard_id for shard_id in parents if shard_id in self.shards]
        gone = [shard_id for shard_id in self.shards if shard_id not in parents]
        return [ShardDescription(shard_id, self._above(shard_id, parents), closed=True) for shard_id in (*gone, *listed)]

    def _above(self, shard_id: str, parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Return the nearest ancestors of a shard that have messages."""
        found: dict[str, None] = {}
        seen, ahead = {shard_id}, list(parents.get(shard_id, ()))
        while ahead:
            parent = ahead.pop()
            if parent in seen:
                continue
            seen.add(parent)
            if parent in self.shards:
                found[parent] = None
            else:
                ahead += parents.get(parent, ())
        return tuple(found)

    def open(self, shard_id: str, start: Start) -> ShardReader:
        """Return the reader of a shard. Where it goes on does not depend on `start`: the shard itself knows what it has handed out."""
        del start
        return self.shards[shard_id]

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when a range is done."""
        self._wakeup = callback

    def wake(self) -> None:
        """Have the shards that wait for a range to be done look again."""
        if self._wakeup is not None:
            self._wakeup()

    def close(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            self._stream.close()

    def _reader_of(self, shard_id: str, records: Callable[[Message], list[dict[str, Any]]]) -> Callable[[Range], _RangeReader]:
        stream = self._stream
        if stream is None:
            return lambda one: _Merged(one, records)
        # With enhanced fan-out functions get what is inside of aggregates.
        return lambda one: _Stretch(stream, shard_id, one, self._hash_keys.get(shard_id, ALL_KEYS) if self._apart else None)


class _Shard:
    """Hands out the ranges of one shard, each when the one before is done. Its own reader, which no failure makes anew."""

    def __init__(
        self, shard_id: str, ranges: list[Range], reader_of: Callable[[Range], _RangeReader], on_read: Callable[[str], None]
    ) -> None:
        self.shard_id = shard_id
        self._ranges = ranges
        self._reader_of = reader_of
        self._on_read = on_read
        self._lock = threading.Lock()
        self._at = 0
        self._reader: _RangeReader | None = None
        self._failures = 0
        self._watermark: str | None = None

    @property
    def current(self) -> Range | None:
        """The range that is handed out now, or waits to be done; None where all are."""
        return self._ranges[self._at] if self._at < len(self._ranges) else None

    def settle(self, watermark: str | None = None) -> Range | None:
        """Take note of how far records are done; None for no further. Returns the current range once it is done as a whole."""
        with self._lock:
            current = self.current
            self._watermark = watermark or self._watermark
            if current is None or not current.done(self._watermark):
                return None
            self._at += 1
            return current

    def fetch(self, limit: int) -> Fetched:
        """Return the next records of the range, nothing while it waits to be done, the end behind the last one.

        Raises:
            SourceError: the shard has failed to be read many times in a row.
            Exception: it could not be read this time.
        """
        while (current := self.current) is not None:
            if current.complete:
                return _AT_TIP
            fetched = self._read(current, limit)
            if fetched is not None:
                return fetched
            current.complete = True
            # Its records may be done already, or there were none: then nobody else sees that it is done.
            self._on_read(self.shard_id)
        return Fetched(None, 0, ended=True)

    def _read(self, current: Range, limit: int) -> Fetched | None:
        try:
            if self._reader is None:
                self._reader = self._reader_of(current)
            fetched = self._reader.fetch(limit)
        except Exception as error:
            self._close_reader()
            self._failures += 1
            if self._failures >= _FAILURES_MAX:
                raise SourceError(f"shard {self.shard_id}: given up after {self._failures} failures in a row: {error}") from error
            raise
        self._failures = 0
        if fetched is None or current.complete:
            self._close_reader()
        return fetched

    def close(self) -> None:
        """Forget where in the stream it reads; the next fetch finds its place again."""
        self._close_reader()

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


class _Stretch:
    """Reads a range from the stream: from its first sequence number to its last.

    With hash keys, those of the shard, aggregates of the Kinesis Producer Library are taken apart.
    """

    def __init__(self, stream: Source, shard_id: str, one: Range, hash_keys: tuple[int, int] | None) -> None:
        self._range = one
        self._shard_id = shard_id
        self._hash_keys = hash_keys
        self._left = sum(message.batch_size for message in one.messages)
        if one.read_last is None:
            start = Start("AT_SEQUENCE_NUMBER", sequence_number=one.first)
        else:
            start = Start("AFTER_SEQUENCE_NUMBER", sequence_number=one.read_last)
        self._reader = stream.open(shard_id, start)

    def fetch(self, limit: int) -> Fetched | None:
        one = self._range
        fetched = self._reader.fetch(min(limit, self._left if self._left > 0 else _MORE_RECORDS))
        page = fetched.page
        first = page.first_sequence_number if page is not None else None
        if page is None or first is None:
            at_tip = fetched.millis_behind == 0 if fetched.millis_behind is not None else not fetched.retry_after_ms
            # Behind the tip and the end there is nothing: what is not found by then has expired.
            return None if fetched.ended or at_tip else Fetched(None, retry_after_ms=fetched.retry_after_ms or _AGAIN_MS)
        kept = page.up_to(one.last)
        last = kept.last_sequence_number
        if last is None:
            return None
        if one.found_first is None:
            one.found_first = int(first)
        one.read_last = last
        if self._hash_keys is not None:
            kept, foreign = kept.deaggregate(*self._hash_keys)
            if foreign:
                text = "left out %d aggregates with records of other shards, which Lambda leaves out too"
                _log.warning(text, foreign, extra={"shardId": self._shard_id, "count": foreign})
        one.found_last = kept.last_sequence_number or one.found_last
        self._left -= len(kept)
        if len(kept):
            one.complete = int(last) >= int(one.last)
        elif int(last) >= int(one.last):
            return None
        return Fetched(kept, retry_after_ms=fetched.retry_after_ms or _AGAIN_MS)

    def close(self) -> None:
        self._reader.close()


class _Merged:
    """Gives the records that the messages of a range hold, in order, each once.

    A message is read when its first record is due, so that of many that overlap only a few are held at a time.
    """

    def __init__(self, one: Range, records: Callable[[Message], list[dict[str, Any]]]) -> None:
        self._range = one
        self._records = records
        self._ahead = list(reversed(one.messages))
        self._heap: list[tuple[int, int, int, list[Group]]] = []
        self._given = -1 if one.found_last is None else int(one.found_last)

    def fetch(self, limit: int) -> Fetched | None:
        one, size = self._range, 0
        found: list[Group] = []
        while len(found) < limit and size < _PAGE_BYTES:
            while self._ahead and (not self._heap or self._ahead[-1].first <= self._heap[0][0]):
                self._load(self._ahead[-1])
                self._ahead.pop()
            if not self._heap:
                break
            number, order, index, groups = heapq.heappop(self._heap)
            if index + 1 < len(groups):
                heapq.heappush(self._heap, (sequence_of(groups[index + 1][0]), order, index + 1, groups))
            if number > self._given:
                self._given = number
                found.append(groups[index])
                size += sum(map(_size_of, groups[index]))
        if not found:
            return None
        page = page_of(found)
        if one.found_first is None:
            one.found_first = sequence_of(found[0][0])
        one.found_last = page.last_sequence_number
        one.complete = not self._heap and not self._ahead
        return Fetched(page, retry_after_ms=_AGAIN_MS)

    def _load(self, message: Message) -> None:
        try:
            groups = _groups(message, self._records(message))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._range.unread[message] = f"its payload cannot be read: {error}"
            return
        heapq.heappush(self._heap, (sequence_of(groups[0][0]), len(self._ahead), 0, groups))

    def close(self) -> None:
        """Hold nothing more."""
        self._heap.clear()


def _groups(message: Message, records: list[dict[str, Any]]) -> list[Group]:
    """Return the records that a message holds by their sequence numbers.

    Raises:
        ValueError: they cannot be those of its event.
    """
    groups = [list(found) for _, found in itertools.groupby(sorted(records, key=sequence_of), key=sequence_of)]
    if not groups:
        raise ValueError("it has no records")
    if not (message.first <= sequence_of(groups[0][0]) and sequence_of(groups[-1][0]) <= message.last):
        raise ValueError("its payload has records outside of the sequence numbers that it names")
    page_of(groups)
    return groups


def _size_of(record: dict[str, Any]) -> int:
    if "kinesis" in record:
        return len(record["kinesis"]["data"])
    return int(record["dynamodb"].get("SizeBytes") or 0)
