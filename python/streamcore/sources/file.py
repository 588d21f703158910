"""Reads a CSV or NDJSON file as a stream: recorded data to replay through a function."""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args
from urllib.parse import quote, unquote

from streamcore._streamcore import Page
from streamcore.errors import ConfigError, SourceError, StreamcoreError, UsageError
from streamcore.protocols import Fetched, ShardDescription, StreamDescription
from streamcore.sources._records import Columns, CsvReader, NdjsonReader, Record, RecordReader
from streamcore.sources._text import Lines, open_text
from streamcore.sources._times import time_reader
from streamcore.sources._wall import WallClock
from streamcore.sources.routing import check_key, even_ranges, kinesis_arn, shard_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore.protocols import Clock, ShardReader, Start

__all__ = ["FileSource", "parse_file_source"]

Format = Literal["csv", "ndjson"]

_FORMATS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson"}
_HEAD_BYTES = 4096
_FETCH_RECORDS_MAX = 10_000  # as GetRecords
_QUEUE_RECORDS_MAX = 20_000
_QUEUE_BYTES_MAX = 4 * 1024 * 1024


class FileSource:
    r"""A file as a stream of one or more shards.

    The file is CSV (RFC 4180, first record is the header) or NDJSON (one JSON object a line), in UTF-8, plain, gzip or zip. Keys are
    spread over the shards as Kinesis does it: the MD5 of the key in equal hash ranges.

    - **Sequence number:** the number of the line at which the record starts, from 1. A discard thus points into the file.
    - **Payload:** of NDJSON the line's bytes, without its end; of CSV a compact JSON object of column names and texts, in UTF-8. All values
      are texts as in the file; an empty field is "".
    - **Arrival time:** the time column; without one the time of reading.
    - **Empty lines** are skipped. Any other line that cannot be a record ends reading with a `SourceError` that begins `path:line:`, after
      the records before it have been handed out.

    What it costs: the file is read in chunks of 256 KiB. One pass over the file feeds all shards through a queue each (at most about
    20,000 records or 4 MiB). A shard that falls behind by more than its queue leaves the common pass and reads the file once more on
    its own, so that no shard waits for another and memory stays bounded; at worst the file is read once for each shard. Opening at a
    sequence number only counts lines up to it.

    The file must not change while it is read; that is checked whenever it is opened.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "flights.csv")
    >>> _ = path.write_text("carrier,delay\nUA,2\nAA,33\n")
    >>> source = FileSource(str(path), key="carrier", shards=2)
    >>> [shard.shard_id for shard in source.list_shards()]
    ['shardId-000000000000', 'shardId-000000000001']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: str,
        time: str | None = None,
        time_format: str | None = None,
        format: Format | None = None,  # noqa: A002  (the word that the command's option uses)
        shards: int = 1,
        empty_key: str | None = None,
        member: str | None = None,
        event_source_arn: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open the file once to see what it is.

        Args:
            path: the file. gzip and zip are told by the first bytes.
            key: column with the partition key; for NDJSON a field or a dotted path (`user.id`). A JSON number becomes its text.
            time: column or field with the time of the record.
            time_format: `iso8601`, `epoch_s`, `epoch_ms` or a strptime pattern. Default: ISO 8601, or epoch seconds or milliseconds where
                the number is plainly one of them. A time without a zone is UTC.
            format: `csv` or `ndjson`; by default told by the name (.csv; .ndjson, .jsonl, .json).
            shards: 1 to 10,000.
            empty_key: the key of records whose key is an empty text or, in NDJSON, null or missing. By default such a record is a fault,
                since Kinesis takes no empty key. Records with this key keep their order among each other.
            member: which file of a zip; needed where it holds several.
            event_source_arn: what events carry; by default a Kinesis ARN with the file's name as the stream's.
            clock: gives the time of reading; used only without `time`.

        Raises:
            ConfigError: an option has a value that is not allowed.
            SourceError: the file cannot be read, its format is not known, or a column is not in it.
        """
        self._path = os.fspath(path)  # as it was given, for error texts
        self._member = member
        for name, value in (("key", key), ("time", time)):
            if value == "":
                raise ConfigError(f"{name} must name a column", parameter=name)
        if format is not None and format not in get_args(Format):
            raise ConfigError(f"format must be csv or ndjson, not {format!r}", parameter="format")
        if empty_key is not None:
            try:
                check_key(empty_key)
            except ValueError as error:
                raise ConfigError(f"empty_key: {error}", parameter="empty_key") from None
        even_ranges(shards)
        clock = clock or WallClock()
        self._columns = Columns(key, time, empty_key, time_reader(time_format), clock.now_ms, shards)
        self._lock = threading.Lock()
        self._passes: list[_Pass] = []  # those that are not closed
        self._closed = False
        self._state: tuple[int, ...] | None = None
        lines = self._open()
        try:
            self._format = format or _format_of(self._path, lines.inner_name)
            self._reader(lines)
        finally:
            lines.close()
        options = {
            "shards": str(shards),
            "format": self._format,
            "key": key,
            "empty_key": empty_key,
            "time": time,
            "time_format": time_format,
            "member": member,
        }
        self._identity = _identity(self._path, {name: value for name, value in options.items() if value is not None})
        self._arn = event_source_arn or kinesis_arn(Path(self._path).name)

    def describe(self) -> StreamDescription:
        """Say what the stream is. Its time is replayed: the largest arrival time handed out.

        The identity holds the path, the size, a hash of the first 4 KiB and the options that decide which record is where.
        """
        return StreamDescription(identity=self._identity, event_source_arn=self._arn, retention_ms=None, poll_interval_ms=0, clock="replay")

    def list_shards(self) -> list[ShardDescription]:
        """Return the shards; all are closed, since a file gets no new records."""
        return [ShardDescription(shard_name(index), closed=True) for index in range(self._columns.shards)]

    def open(self, shard_id: str, start: Start) -> ShardReader:
        """Return a reader of one shard.

        AFTER_SEQUENCE_NUMBER takes the line of a record that was read before; with a line inside a CSV record of several lines reading
        goes wrong. AT_SEQUENCE_NUMBER takes the line that a record begins with. AT_TIMESTAMP begins with the first record of that time or
        later. LATEST finds the end.

        Raises:
            SourceError: there is no such shard, the sequence number is no line number, or AT_TIMESTAMP is asked of a file without
                a time column.
        """
        names = [shard.shard_id for shard in self.list_shards()]
        if shard_id not in names:
            raise SourceError(f"{self._path}: there is no shard {shard_id!r}; the shards are {names[0]} to {names[-1]}")
        after, from_ms, at = 0, None, None
        if start.kind in ("AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER"):
            text = start.sequence_number or ""
            if not (text.isascii() and text.isdigit()):
                raise SourceError(f"{self._path}: a sequence number of a file is a line number, not {start.sequence_number!r}")
            after = int(text)
            if start.kind == "AT_SEQUENCE_NUMBER":
                after, at = max(after - 1, 0), after
        elif start.kind == "AT_TIMESTAMP":
            if self._columns.time is None or start.timestamp_ms is None:
                raise SourceError(f"{self._path}: AT_TIMESTAMP needs a timestamp and a file that is read with a time column")
            from_ms = start.timestamp_ms
        elif start.kind == "LATEST":
            return _EndReader()
        return _FileReader(self, names.index(shard_id), after, from_ms, at)

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        """Do nothing: all records of a file are there from the start."""

    def close(self) -> None:
        """Close the file. Readers that are still open fail at their next fetch."""
        with self._lock:
            self._closed = True
            passes, self._passes = self._passes, []
        for one in passes:
            one.close(UsageError("the source is closed"))

    def _open(self) -> Lines:
        lines = open_text(self._path, self._member)
        stat = Path(self._path).stat()
        state = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if self._state not in (None, state):
            lines.close()
            raise SourceError(f"{self._path}: the file has changed since it was first opened; start again to read the new one")
        self._state = state
        return lines

    def _reader(self, lines: Lines) -> RecordReader:
        return CsvReader(lines, self._columns) if self._format == "csv" else NdjsonReader(self._columns)

    def _begin(self, after: int) -> tuple[Lines, RecordReader]:
        """Open the file behind the header and, where it can be skipped to, at line `after`."""
        lines = self._open()
        try:
            reader = self._reader(lines)
            # The line itself starts a record, and only reading that record tells where it ends.
            lines.skip_to(after)
        except BaseException:
            lines.close()
            raise
        return lines, reader

    def _join(self, shard: int, after: int, *, alone: bool = False) -> _Pass:
        """Return the pass that `shard` reads from behind line `after`: the latest common one if it still can, else a new one."""
        with self._lock:
            if self._closed:
                raise UsageError("the source is closed")
            if not alone:
                for one in reversed(self._passes):
                    if one.join(shard, after):
                        return one
            count = self._columns.shards
            new = _Pass(self, [index == shard or not alone for index in range(count)])
            new.join(shard, after)
            self._passes.append(new)
            return new

    def _forget(self, one: _Pass) -> None:
        with self._lock:
            if one in self._passes:
                self._passes.remove(one)


@dataclass(slots=True)
class _Queue:
    """What a pass has read for one shard and its reader has not yet taken."""

    blocks: deque[list[Record]] = field(default_factory=deque)
    records: int = 0
    bytes: int = 0
    claimed: bool = False
    shut: bool = False  # gets nothing more: its reader was closed, or it fell behind
    resume_after: int | None = None  # where a reader that fell behind goes on by itself

    def put(self, block: list[Record]) -> None:
        if block:
            self.blocks.append(block)
            self.records += len(block)
            self.bytes += sum([len(record[1]) for record in block])

    def take(self, limit: int) -> list[Record]:
        taken: list[Record] = []
        while self.blocks and len(taken) < limit:
            block = self.blocks.popleft()
            room = limit - len(taken)
            if len(block) > room:
                self.blocks.appendleft(block[room:])
                block = block[:room]
            taken = taken + block if taken else block
        self.records -= len(taken)
        self.bytes -= sum([len(record[1]) for record in taken])
        return taken

    @property
    def full(self) -> bool:
        return self.records >= _QUEUE_RECORDS_MAX or self.bytes >= _QUEUE_BYTES_MAX


class _Pass:
    """One pass over the file, shared by the readers of several shards.

    Whoever finds its queue empty reads the next chunk for all. A queue that is full when the next chunk is due is left behind: it keeps
    what it has, and its reader goes on in a pass of its own. So nobody waits and a queue holds at most its bound and one chunk.
    """

    def __init__(self, source: FileSource, wanted: list[bool]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._queues = [_Queue(shut=not want) for want in wanted]
        self._after: int | None = None  # the earliest line that a reader asked for; fixed when reading begins
        self._readers = 0
        self._file: tuple[Lines, RecordReader] | None = None
        self._last_line = 0
        self._at_end = False
        self._fault: StreamcoreError | None = None

    def join(self, shard: int, after: int) -> bool:
        """Claim a shard's queue for a reader that begins behind line `after`; False where it cannot serve that reader."""
        with self._lock:
            queue = self._queues[shard]
            begun = self._file is not None or self._at_end
            if queue.claimed or queue.shut or self._fault is not None or (begun and self._after is not None and after < self._after):
                return False
            queue.claimed = True
            self._readers += 1
            if not begun:
                self._after = after if self._after is None else min(self._after, after)
            return True

    def take(self, shard: int, limit: int) -> tuple[list[Record], bool, int | None]:
        """Return the next records of a shard, whether they are its last, and the line behind which to go on alone if it fell behind.

        No records and not the last: the chunk that was read had none for the shard.

        Raises:
            SourceError: reading cannot go on, and all records before the fault have been taken.
        """
        with self._lock:
            queue = self._queues[shard]
            # One chunk a call: a shard with few records must not read so far ahead that the others fall behind.
            if not (queue.blocks or queue.shut or self._at_end or self._fault is not None):
                self._read_chunk()
            if not queue.blocks and queue.resume_after is None and self._fault is not None:
                raise type(self._fault)(str(self._fault))
            records = queue.take(limit)
            drained = not queue.blocks
            return records, drained and self._at_end and not queue.shut, queue.resume_after if drained else None

    def leave(self, shard: int) -> None:
        """Give up a shard's queue; the last reader that leaves closes the file."""
        with self._lock:
            self._queues[shard] = _Queue(claimed=True, shut=True)
            self._readers -= 1
            last = self._readers == 0
        if last:
            self.close(UsageError("the reader is closed"))
            self._source._forget(self)  # noqa: SLF001  (one module)

    def close(self, why: StreamcoreError) -> None:
        """Close the file; who still takes gets `why`."""
        with self._lock:
            self._fault = self._fault or why
            self._close_file()
            for queue in self._queues:
                queue.blocks.clear()

    def _read_chunk(self) -> None:
        for queue in self._queues:
            if queue.full and not queue.shut:
                queue.shut = True
                queue.resume_after = self._last_line
                if not queue.claimed:
                    queue.blocks.clear()
        try:
            if self._file is None:
                self._file = self._source._begin(self._after or 0)  # noqa: SLF001  (one module)
            lines, reader = self._file
            chunk = reader.read(lines, [not queue.shut for queue in self._queues])
        except SourceError as error:
            self._fault = error
            self._close_file()
            return
        if chunk is None:
            self._at_end = True
            self._close_file()
            return
        for queue, block in zip(self._queues, chunk.by_shard, strict=True):
            if block is not None:
                queue.put(block)
        self._last_line = chunk.last_line or self._last_line
        if chunk.fault is not None:
            self._fault = chunk.fault
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file[0].close()
            self._file = None


class _FileReader:
    """Reads one shard of a file."""

    def __init__(self, source: FileSource, shard: int, after: int, from_ms: int | None, at: int | None = None) -> None:
        self._source = source
        self._shard = shard
        self._after = after
        self._from_ms = from_ms
        self._closed = False
        # A pass of its own where the line is known that the first record begins with.
        self._pass = source._join(shard, after if at is None else at, alone=at is not None)  # noqa: SLF001  (one module)

    def fetch(self, limit: int) -> Fetched:
        """Return the next records, at most `limit` and at most 10,000.

        A page of None that is not the end asks to come back in a millisecond: the file holds little for this shard just here.
        """
        records, ended = self.records(limit)
        if not records:
            return Fetched(None, 0, ended=True) if ended else Fetched(None, retry_after_ms=1)
        return Fetched(Page.from_records(records), 0 if ended else None, ended)

    def records(self, limit: int) -> tuple[list[Record], bool]:
        """Return what `fetch` makes a page of, and whether the shard has ended."""
        if self._closed:
            raise UsageError("the reader is closed")
        records, ended, resume_after = self._pass.take(self._shard, min(limit, _FETCH_RECORDS_MAX))
        records = self._begin_at_start(records)
        if resume_after is not None:
            self._after = max(self._after, resume_after)
            self._pass.leave(self._shard)
            self._pass = self._source._join(self._shard, self._after, alone=True)  # noqa: SLF001  (one module)
        return records, ended

    def close(self) -> None:
        """Leave the file. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._pass.leave(self._shard)

    def _begin_at_start(self, records: list[Record]) -> list[Record]:
        """Drop what lies before the start; once a record lies behind it, all later ones do."""
        if not records or (self._after == 0 and self._from_ms is None):
            return records
        for index, (_, _, arrival_ms, sequence_number) in enumerate(records):
            if int(sequence_number) > self._after and (self._from_ms is None or arrival_ms >= self._from_ms):
                self._after, self._from_ms = 0, None
                return records[index:]
        return []


class _EndReader:
    """Reads from the end of a file: nothing."""

    def fetch(self, limit: int) -> Fetched:
        """Say that this is the end."""
        del limit
        return Fetched(None, 0, ended=True)

    def close(self) -> None:
        """Do nothing."""


def parse_file_source(text: str) -> FileSource:
    """Make a `FileSource` of the text that `--source` takes: `file:PATH?option=value&option=value`.

    Options are the keyword arguments of `FileSource` that a text can give: key, time, time_format, format, shards, empty_key, member.
    `key` is required. Path and values may be percent-encoded; a "?" in the path, and a "&" or a "%" that two hexadecimal digits follow
    anywhere, must be.

    Raises:
        ConfigError: the text is not of that form, or an option is unknown, given twice or has a wrong value.
        SourceError: as for `FileSource`.
    """
    scheme, colon, rest = text.partition(":")
    path, _, query = rest.partition("?")
    path = unquote(path.removeprefix("//") if path.startswith("///") else path)
    if scheme != "file" or not colon or not path:
        raise ConfigError(f"a file source reads file:PATH?key=COLUMN, not {text!r}", parameter="source")
    options: dict[str, str] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{text}: there is no option {name!r}; {hint}The options are: {', '.join(_OPTIONS)}", parameter="source")
        if not equals or name in options:
            fault = "is given twice" if name in options else f"needs a value, as in {name}=VALUE"
            raise ConfigError(f"{text}: the option {name!r} {fault}", parameter="source")
        options[name] = unquote(value)
    if "key" not in options:
        raise ConfigError(f"{text}: say which column holds the key, as in file:{path}?key=COLUMN", parameter="source")
    shards = options.get("shards", "1")
    if not (shards.isascii() and shards.isdigit()):
        raise ConfigError(f"{text}: shards must be a whole number, not {shards!r}", parameter="source")
    return FileSource(
        path,
        key=options["key"],
        time=options.get("time"),
        time_format=options.get("time_format"),
        format=cast("Format | None", options.get("format")),
        shards=int(shards),
        empty_key=options.get("empty_key"),
        member=options.get("member"),
    )


_OPTIONS = ("key", "time", "time_format", "format", "shards", "empty_key", "member")


def _format_of(path: str, inner_name: str) -> Format:
    found = _FORMATS.get(Path(inner_name).suffix.lower())
    if found is None:
        raise ConfigError(f"{path}: its name does not tell if it is CSV or NDJSON; say format=csv or format=ndjson", parameter="format")
    return found


def _identity(path: str, options: dict[str, str]) -> str:
    with Path(path).open("rb") as file:
        head = sha256(file.read(_HEAD_BYTES)).hexdigest()[:16]
        size = os.fstat(file.fileno()).st_size
    facts = {"size": str(size), "head": head, **options}
    return f"file:{quote(str(Path(path).resolve()))}?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in facts.items())
