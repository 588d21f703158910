"""Reads a recording as a stream: the records that a run has seen, to run them again."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import re
import threading
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from streamcore.errors import ConfigError, PageError, SourceError, UsageError
from streamcore.protocols import Fetched, ShardDescription, StreamDescription
from streamcore.recording import lines_of, lock
from streamcore.sources._events import arrival_ms_of, page_of, sequence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from streamcore.protocols import ShardReader, Start

__all__ = ["RecordingSource"]

_PAGE_BYTES = 8 << 20
_FETCH_RECORDS_MAX = 10_000  # as GetRecords
_HEAD_BYTES = 4096
_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


class _StreamsError(ValueError):
    """A recording has records of several streams."""


class _Line(NamedTuple):
    """A line of the recording.

    Attributes:
        first: the sequence number of its first record.
        last: that of its last one.
        begin: where it begins in the file.
        size: its length in bytes.
    """

    first: int
    last: int
    begin: int
    size: int


class _Record(NamedTuple):
    """A record of a line: as Python has it, and its JSON."""

    value: dict[str, Any]
    text: str

    @property
    def sameness(self) -> Hashable:
        """What tells it from the others of its sequence number."""
        facts = self.value.get("kinesis")
        return (facts["partitionKey"], facts["data"]) if facts is not None else None


class RecordingSource:
    r"""The records of a recording, as a stream with the shards that they came from. `streamcore.recording` says what a recording is.

    Every record is handed out once, however often it was tried, in the order of its shard, with the sequence number, key, arrival time,
    data and event source ARN that it had: with the same options the function gets the same bytes for it. Time is replayed: the largest
    arrival time handed out. Records that the function never saw (filtered out, expired, too old) are not there.

    - **Shards** are read side by side, those of a parent and its children too: a recording does not say which shard followed which.
    - **Aggregated records** that enhanced fan-out has taken apart have one sequence number. Where two of one aggregate have the same key
      and the same data and were in different batches, one of them is handed out.

    What it costs: the file is read once when it is opened, which finds every fault in it, and each line once more when its records are due.
    A line's place is kept in memory, and the records of those lines that overlap at one point of the shard.

    The file must not change while it is read; a run that would write it is refused.

    Args:
        path: the recording.

    Raises:
        SourceError: the file cannot be read, is no recording, or has records of more than one stream. The text begins with `path:line:`.
        ConfigError: a run writes the recording now.

    Example:
        >>> import tempfile
        >>> from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
        >>> from streamcore.recording import RecordedFunction
        >>> def run(source, function):
        ...     worker = Worker(checkpoints=MemoryCheckpointStore())
        ...     worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), source, function)
        ...     return worker.run(until_idle=True).succeeded
        >>> folder = tempfile.TemporaryDirectory()
        >>> stream = MemoryStream("orders")
        >>> _ = stream.put("ann", b'{"total": 5}')
        >>> function = RecordedFunction(LocalFunction(lambda event, context: None), folder.name + "/events.ndjson")
        >>> run(stream, function)
        1
        >>> function.close()
        >>> source = RecordingSource(folder.name + "/events.ndjson")
        >>> run(source, LocalFunction(lambda event, context: print(event["Records"][0]["kinesis"]["data"])))
        eyJ0b3RhbCI6IDV9
        1
        >>> source.close()
        >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._shards: dict[str, list[_Line]] = {}
        self._seen: set[Hashable] = set()
        self._stream: tuple[str, str] | None = None
        try:
            self._descriptor: int | None = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        self._lock = threading.Lock()
        try:
            lock(self._descriptor, self._path, shared=True)
            self._read_through()
            self._identity = self._named(self._descriptor)
        except OSError as error:
            os.close(self._descriptor)
            raise SourceError(f"{self._path}: {error.strerror}") from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def describe(self) -> StreamDescription:
        """Say what the stream is. Its identity holds the path, the size and a hash of the first 4 KiB."""
        assert self._stream is not None  # noqa: S101 - a recording without records is refused
        arn, source = self._stream
        kind = "dynamodb" if source == "dynamodb" else "kinesis"
        return StreamDescription(self._identity, arn, poll_interval_ms=0, clock="replay", format=kind)  # type: ignore[arg-type] # one of two

    def list_shards(self) -> list[ShardDescription]:
        """Return the shards of the records, in the order in which they occur; all are closed."""
        return [ShardDescription(shard_id, closed=True) for shard_id in self._shards]

    def open(self, shard_id: str, start: Start) -> ShardReader:
        """Return a reader of one shard. AT_TIMESTAMP begins with the first record of that time or later; LATEST finds the end.

        Raises:
            SourceError: there is no such shard, or no such sequence number.
        """
        if shard_id not in self._shards:
            raise SourceError(f"{self._path}: there is no shard {shard_id!r}; the shards are {', '.join(self._shards)}")
        given, from_ms = -1, None
        if start.kind in ("AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER"):
            text = start.sequence_number or ""
            if not (text.isascii() and text.isdigit()):
                raise SourceError(f"{self._path}: {start.sequence_number!r} is no sequence number")
            given = int(text) - (start.kind == "AT_SEQUENCE_NUMBER")
        elif start.kind == "AT_TIMESTAMP":
            from_ms = start.timestamp_ms
        lines = [] if start.kind == "LATEST" else [line for line in self._shards[shard_id] if line.last > given]
        return _Reader(self, lines, given, from_ms)

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        """Do nothing: all records are there from the start."""

    def close(self) -> None:
        """Close the file. Readers that are still open fail at their next fetch. Safe to call twice."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def records(self, line: _Line) -> list[_Record]:
        """Return the records of a line, in the order of their sequence numbers."""
        with self._lock:
            if self._descriptor is None:
                raise UsageError("the source is closed")
            data = os.pread(self._descriptor, line.size, line.begin)
        try:
            found = [_Record(value, text) for value, text in _records_in(data.decode())]
            found.sort(key=lambda record: sequence_of(record.value))
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{self._path}: the file has changed since it was opened; start again to read the new one") from error
        return found

    # Opening.

    def _read_through(self) -> None:
        for (number, begin, size), line in lines_of(self._path):
            try:
                self._take_in(line, begin, size)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PageError) as error:
                what = f"its event is none of a stream ({type(error).__name__}: {error})"
                raise SourceError(f"{self._path}:{number}: {error if isinstance(error, _StreamsError) else what}") from None
        if not self._shards:
            raise SourceError(f"{self._path}: the recording holds no records")
        for lines in self._shards.values():
            lines.sort()
        self._seen.clear()

    def _take_in(self, line: dict[str, Any], begin: int, size: int) -> None:
        records = line["event"].get("Records")
        if not records:
            return  # the closing call of a tumbling window
        shard_id = line["shardId"]
        if not isinstance(shard_id, str) or not shard_id:
            raise ValueError(f"its shardId is {shard_id!r}")
        records = sorted(records, key=sequence_of)
        for record in records:
            arrival_ms_of(record)
            stream = (record["eventSourceARN"], "dynamodb" if "dynamodb" in record else "kinesis")
            if self._stream not in (None, stream):
                text = f"its records are of {stream[0]}, and those before of {self._stream[0]}; make a file of one stream's lines"
                raise _StreamsError(text)
            self._stream = stream
        page_of([[record] for record in records])
        sameness = tuple((sequence_of(record), _Record(record, "").sameness) for record in records)
        # The attempts of a batch have the same records.
        if (key := (shard_id, hash(sameness))) not in self._seen:
            self._seen.add(key)
            self._shards.setdefault(shard_id, []).append(_Line(sameness[0][0], sameness[-1][0], begin, size))

    def _named(self, descriptor: int) -> str:
        head = sha256(os.pread(descriptor, _HEAD_BYTES, 0)).hexdigest()[:16]
        return f"record:{quote(str(Path(self._path).resolve()))}?size={os.fstat(descriptor).st_size}&head={head}"


class _Reader:
    """Reads one shard: merges its lines, which overlap where lanes ran beside each other and where batches were halved."""

    def __init__(self, source: RecordingSource, lines: list[_Line], given: int, from_ms: int | None) -> None:
        self._source = source
        self._ahead = list(reversed(lines))
        self._given = given
        self._from_ms = from_ms
        # By the next sequence number: the line's number, and what is left of its records, grouped by sequence number.
        self._heap: list[tuple[int, int, list[list[_Record]]]] = []

    def fetch(self, limit: int) -> Fetched:
        """Return the next records: at most `limit`, where an aggregate counts as one, at most 10,000 and about 8 MiB."""
        groups: list[list[_Record]] = []
        size = 0
        limit = min(limit, _FETCH_RECORDS_MAX)
        while len(groups) < limit and size < _PAGE_BYTES and (group := self._next()) is not None:
            if self._from_ms is not None and arrival_ms_of(group[0].value) < self._from_ms:
                continue
            self._from_ms = None
            groups.append(group)
            size += sum(len(record.text) for record in group)
        ended = not self._heap and not self._ahead
        if not groups:
            return Fetched(None, 0, ended=True)
        texts = [record.text for group in groups for record in group]
        return Fetched(page_of([[record.value for record in group] for group in groups], texts), 0 if ended else None, ended)

    def _next(self) -> list[_Record] | None:
        """Return the records of the next sequence number; None at the end."""
        heap = self._heap
        while True:
            while self._ahead and (not heap or self._ahead[-1].first <= heap[0][0]):
                self._load(self._ahead.pop())
            if not heap:
                return None
            number = heap[0][0]
            same: list[list[_Record]] = []
            while heap and heap[0][0] == number:
                _, order, groups = heapq.heappop(heap)
                same.append(groups.pop())
                if groups:
                    heapq.heappush(heap, (sequence_of(groups[-1][0].value), order, groups))
            if number > self._given:
                self._given = number
                return _united(same)

    def _load(self, line: _Line) -> None:
        by_number = itertools.groupby(self._source.records(line), key=lambda record: sequence_of(record.value))
        groups = [list(found) for number, found in by_number if number > self._given]
        if groups:
            groups.reverse()
            heapq.heappush(self._heap, (sequence_of(groups[-1][0].value), line.begin, groups))

    def close(self) -> None:
        """Hold nothing more."""
        self._ahead.clear()
        self._heap.clear()


def _united(same: list[list[_Record]]) -> list[_Record]:
    """Return the records of one sequence number, each as often as that line has it that has it most often."""
    found = same[0]
    for group in same[1:]:
        have = Counter(record.sameness for record in found)
        for record in group:
            if have[record.sameness] > 0:
                have[record.sameness] -= 1
            else:
                found = [*found, record]
    return found


def _records_in(line: str) -> list[tuple[dict[str, Any], str]]:
    """Return the records of a line's event, one or more, each with the text that it has there.

    Example:
        >>> _records_in('{"shardId": "s", "event": {"Records":[{"a": 1.50}, {}]}}')
        [({'a': 1.5}, '{"a": 1.50}'), ({}, '{}')]
    """
    at = _member(line, _member(line, 0, "event"), "Records")
    found: list[tuple[dict[str, Any], str]] = []
    while line[at] in "[,":
        at = _past_space(line, at + 1)
        value, end = _decode(line, at)
        found.append((value, line[at:end]))
        at = _past_space(line, end)
    return found


def _member(line: str, at: int, name: str) -> int:
    """Return where the value of a member of the object at `at` begins."""
    while line[at] in "{,":
        key, at = _decode(line, _past_space(line, at + 1))
        at = _past_space(line, _past_space(line, at) + 1)
        if key == name:
            return at
        _, at = _decode(line, at)
        at = _past_space(line, at)
    raise ValueError(f"there is no {name}")


def _past_space(line: str, at: int) -> int:
    found = _SPACE.match(line, at)
    return at if found is None else found.end()


def parse_record_source(text: str) -> RecordingSource:
    """Make a `RecordingSource` of the text that `--source` takes, `record:PATH`.

    Raises:
        ConfigError: the text names no file, or a run writes the recording.
        SourceError: as for `RecordingSource`.
    """
    path = text.removeprefix("record:")
    if not path:
        raise ConfigError("a recording reads record:PATH", parameter="source")
    return RecordingSource(path)
