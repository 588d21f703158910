"""Cuts chunks of lines into records: CSV and NDJSON.

A record is (partition key, payload, arrival time in ms, sequence number): what `Page.from_records` takes. The sequence number is the
number of the line at which the record starts.

Each format has a fast path for a whole chunk that holds nothing unusual, and a careful path that goes record by record, knows every
rule and names the line of a fault. The fast path never reports a fault: it leaves the chunk to the careful one.
"""

from __future__ import annotations

import csv
import io
import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple, Protocol

from streamcore.errors import SourceError
from streamcore.sources._text import RECORD_BYTES_MAX
from streamcore.sources.routing import check_key, hash_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamcore.sources._text import Lines

__all__ = ["Chunk", "Columns", "CsvReader", "NdjsonReader", "Record", "RecordReader"]

Record = tuple[str, bytes, int, str]

_CACHE_ENTRIES_MAX = 65_536
_SPECIAL = bytes({*range(32), *b'"\\'} - {*b"\n"})
_json_text = json.encoder.encode_basestring  # quotes and escapes, keeps what is not ASCII; C where Python has it
_decode_json = json.JSONDecoder().raw_decode


class Columns(NamedTuple):
    """Where the key and the time of a record are.

    Attributes:
        key: the CSV column, or the NDJSON field or dotted path.
        time: the same for the time; None where the time is that of reading.
        empty_key: the key of records that have none; None where that is a fault.
        read_time: text to milliseconds; raises ValueError.
        now_ms: the time of reading.
        shards: number of shards.
    """

    key: str
    time: str | None
    empty_key: str | None
    read_time: Callable[[str], int]
    now_ms: Callable[[], int]
    shards: int


class Chunk(NamedTuple):
    """The records of one chunk.

    Attributes:
        by_shard: for each shard its records in order; None where they are not wanted.
        last_line: the line at which the last record starts, wanted or not; 0 where there is none.
        fault: what ended reading behind these records; None while it can go on.
    """

    by_shard: list[list[Record] | None]
    last_line: int
    fault: SourceError | None


class RecordReader(Protocol):
    """Cuts one file into records."""

    def read(self, lines: Lines, wanted: Sequence[bool]) -> Chunk | None:
        """Return the records of the next chunk, those of shards that are wanted; None at the end of the file."""


class _Shards(dict[str, int]):
    """Partition key to shard index, worked out once a key while there are not too many keys."""

    def __init__(self, shards: int) -> None:
        super().__init__()
        self._range_size = 2**128 // shards
        self._last = shards - 1

    def __missing__(self, key: str) -> int:
        check_key(key)
        if len(self) >= _CACHE_ENTRIES_MAX:
            self.clear()
        shard = self[key] = min(hash_key(key) // self._range_size, self._last) if self._last else 0
        return shard


class _Times(dict[str, int]):
    """Text of a time to milliseconds, worked out once a text while there are not too many."""

    def __init__(self, read_time: Callable[[str], int]) -> None:
        super().__init__()
        self._read_time = read_time

    def __missing__(self, text: str) -> int:
        millis = self._read_time(text)
        if len(self) >= _CACHE_ENTRIES_MAX:
            self.clear()
        self[text] = millis
        return millis


class CsvReader:
    """Records of a CSV file (RFC 4180; lines end in LF or CRLF; empty lines are skipped), header first.

    The payload is a JSON object of column names and texts, compact, in the file's order.
    """

    def __init__(self, lines: Lines, columns: Columns) -> None:
        """Read the header.

        Raises:
            SourceError: there is none, two columns have one name, or a column that is asked for is not in it.
        """
        self._columns = columns
        self._shards = _Shards(columns.shards)
        self._times = _Times(columns.read_time)
        header = next(self._rows(lines, only_first=True), None)
        if header is None:
            raise SourceError(f"{lines.name}:1: the file has no header line")
        at, names = header
        if isinstance(names, SourceError):
            raise names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"{lines.name}:{at}: the header names the column {twice[0]!r} more than once")
        self._names = names
        where = f"{lines.name}:{at}"
        self._key_at = names.index(_known(columns.key, names, where, "column"))
        self._time_at = None if columns.time is None else names.index(_known(columns.time, names, where, "column"))
        quoted = [_json_text(name).replace("%", "%%") for name in names]
        # The second form is for chunks in which no text needs escaping: it quotes by itself.
        self._form = "{" + ",".join(f"{name}:%s" for name in quoted) + "}"
        self._plain_form = "{" + ",".join(f'{name}:"%s"' for name in quoted) + "}"

    def read(self, lines: Lines, wanted: Sequence[bool]) -> Chunk | None:
        """Return the records of the next chunk; None at the end of the file."""
        first = lines.number
        try:
            data = lines.chunk()
        except SourceError as error:
            return Chunk([[] if want else None for want in wanted], 0, error)
        if not data:
            return None
        chunk = self._read_plain(data, first, wanted)
        if chunk is None:
            lines.give_back(data)
            chunk = self._read_careful(lines, wanted)
        return chunk

    def _read_plain(self, data: bytes, first: int, wanted: Sequence[bool]) -> Chunk | None:
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        # What csv or JSON would treat specially: quotes, backslashes, control characters, empty lines.
        if len(data.translate(None, _SPECIAL)) != len(data) or b"\n\n" in data or data[:1] == b"\n":
            return None
        try:
            texts = data.decode().split("\n")
        except UnicodeDecodeError:
            return None
        if not texts[-1]:
            texts.pop()
        out: list[list[Record] | None] = [[] if want else None for want in wanted]
        form, shards, times, key_at, time_at = self._plain_form, self._shards, self._times, self._key_at, self._time_at
        now = self._columns.now_ms() if time_at is None else 0
        number = first
        try:
            for line in texts:
                row = tuple(line.split(","))
                key = row[key_at]
                records = out[shards[key]]
                if records is not None:
                    millis = now if time_at is None else times[row[time_at]]
                    records.append((key, (form % row).encode(), millis, str(number)))
                number += 1
        except (IndexError, TypeError, ValueError):
            return None
        return Chunk(out, number - 1, None)

    def _read_careful(self, lines: Lines, wanted: Sequence[bool]) -> Chunk:
        out: list[list[Record] | None] = [[] if want else None for want in wanted]
        now = self._columns.now_ms() if self._time_at is None else 0
        last = 0
        for number, row in self._rows(lines):
            if isinstance(row, SourceError):
                return Chunk(out, last, row)
            try:
                if len(row) != len(self._names):
                    # The except clause below adds the line to every fault of a record.
                    raise ValueError(f"{_count(len(row), 'field')}, but the header has {len(self._names)}")  # noqa: TRY301
                key = row[self._key_at] or _stand_in(self._columns, "column")
                records = out[self._shards[key]]
                if records is not None:
                    millis = now if self._time_at is None else _time_of(self._times, row[self._time_at], self._columns.time, "column")
                    records.append((key, (self._form % tuple(map(_json_text, row))).encode(), millis, str(number)))
            except ValueError as error:
                return Chunk(out, last, SourceError(f"{lines.name}:{number}: {error}"))
            last = number
        return Chunk(out, last, None)

    def _rows(self, lines: Lines, *, only_first: bool = False) -> Iterator[tuple[int, list[str] | SourceError]]:
        """Yield (line, fields) of the next chunk and of the record that runs over its end; a fault comes last, as a value."""
        feed = _LineFeed(lines)
        # Without strict, csv takes a quote that is never closed, and text behind a closing quote.
        reader = csv.reader(feed, strict=True)
        number = feed.number
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, ValueError) as error:
                yield number, _csv_fault(lines.name, number, feed, error)
                return
            except SourceError as error:
                yield number, error
                return
            if row:
                if only_first:
                    feed.stop()
                yield number, row
            number = feed.record_ends()


class _LineFeed:
    """Gives csv.reader one chunk line by line, and beyond it only what the record at its end still needs."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.number = lines.number
        """The next line to give."""
        self._waiting: list[bytes] = []
        self._at = 0
        self._inside = False  # a record has begun and not ended
        self._record_bytes = 0
        self._extended = False
        self._load()

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        if self._at == len(self._waiting):
            if not self._inside:
                raise StopIteration
            self._extended = True
            self._load()
            if not self._waiting:
                raise StopIteration  # the file ends inside a record; csv says so
        line = self._waiting[self._at]
        self._at += 1
        self.number += 1
        self._inside = True
        self._record_bytes += len(line)
        if self._record_bytes > RECORD_BYTES_MAX:
            raise ValueError(f"the record is longer than {RECORD_BYTES_MAX} bytes; is a quote not closed?")
        return line.decode()

    def record_ends(self) -> int:
        """Note that a record is complete; returns the line at which the next one starts."""
        self._inside = False
        self._record_bytes = 0
        if self._extended:
            self.stop()
        return self.number

    def stop(self) -> None:
        """Give back the lines that were not used."""
        rest = b"".join(self._waiting[self._at :])
        self._waiting, self._at = [], 0
        self._lines.give_back(rest)

    def _load(self) -> None:
        self._waiting, self._at = io.BytesIO(self._lines.chunk()).readlines(), 0  # at LF only, as lines are counted


class NdjsonReader:
    """Records of a file with one JSON object a line (empty lines are skipped). The payload is the line as it is, without its end."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._shards = _Shards(columns.shards)
        self._times = _Times(columns.read_time)

    def read(self, lines: Lines, wanted: Sequence[bool]) -> Chunk | None:
        """Return the records of the next chunk; None at the end of the file."""
        first = lines.number
        try:
            data = lines.chunk()
        except SourceError as error:
            return Chunk([[] if want else None for want in wanted], 0, error)
        if not data:
            return None
        return self._read_plain(data, first, wanted) or self._read_careful(lines.name, data, first, wanted)

    def _read_plain(self, data: bytes, first: int, wanted: Sequence[bool]) -> Chunk | None:
        key_name, time_name = self._columns.key, self._columns.time
        if "." in key_name or (time_name is not None and "." in time_name):
            return None
        try:
            texts = data.decode().split("\n")
        except UnicodeDecodeError:
            return None
        payloads = data.split(b"\n")
        if not texts[-1]:
            texts.pop()
        out: list[list[Record] | None] = [[] if want else None for want in wanted]
        shards, times = self._shards, self._times
        now = self._columns.now_ms() if time_name is None else 0
        number = first
        try:
            for line in texts:
                value, end = _decode_json(line)
                if end != len(line):
                    return None
                key = value[key_name]
                if type(key) is not str:
                    key = _text_of(key)
                records = out[shards[key]]
                if records is not None:
                    if time_name is None:
                        millis = now
                    else:
                        time = value[time_name]
                        millis = times[time if type(time) is str else _text_of(time)]
                    records.append((key, payloads[number - first], millis, str(number)))
                number += 1
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return Chunk(out, number - 1, None)

    def _read_careful(self, name: str, data: bytes, first: int, wanted: Sequence[bool]) -> Chunk:
        out: list[list[Record] | None] = [[] if want else None for want in wanted]
        now = self._columns.now_ms() if self._columns.time is None else 0
        last = 0
        for number, line in enumerate(io.BytesIO(data), first):
            payload = line.removesuffix(b"\n").removesuffix(b"\r")
            if not payload.strip():
                continue
            try:
                value = _object(payload)
                key = self._key(value)
                records = out[self._shards[key]]
                if records is not None:
                    millis = now if self._columns.time is None else self._time(value, self._columns.time)
                    records.append((key, payload, millis, str(number)))
            except ValueError as error:
                return Chunk(out, last, SourceError(f"{name}:{number}: {error}"))
            last = number
        return Chunk(out, last, None)

    def _key(self, value: dict[str, object]) -> str:
        found = _find(value, self._columns.key, required=self._columns.empty_key is None)
        if found is None or found == "":
            return _stand_in(self._columns, "field")
        try:
            return found if isinstance(found, str) else _text_of(found)
        except ValueError as error:
            raise ValueError(f"the key field {self._columns.key!r} is {error}; a key is a text or a number") from None

    def _time(self, value: dict[str, object], name: str) -> int:
        found = _find(value, name, required=True)
        try:
            text = found if isinstance(found, str) else _text_of(found)
        except ValueError as error:
            raise ValueError(f"the time field {name!r} is {error}; a time is a text or a number") from None
        return _time_of(self._times, text, name, "field")


def _object(payload: bytes) -> dict[str, object]:
    try:
        value = json.loads(payload.decode())
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_kind(value)}")  # noqa: TRY004  (a fault of the data, not of the caller)
    return value


def _find(value: dict[str, object], name: str, *, required: bool) -> object:
    """Return the field `name`, or what the dotted path leads to; None where it is missing and not required."""
    if name in value:
        return value[name]
    found: object = value
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            if required:
                _known(name, list(value), "", "field")
                raise ValueError(f"there is no field {name!r}")
            return None
        found = found[part]
    return found


def _text_of(value: object) -> str:
    """Return a JSON number as text; anything else is a ValueError that names its kind."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    raise ValueError(_kind(value))


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return "a text" if isinstance(value, str) else "a number"


def _time_of(times: _Times, text: str, name: str | None, noun: str) -> int:
    try:
        return times[text]
    except (ValueError, OverflowError) as error:
        raise ValueError(f"the time {noun} {name!r} holds {text[:60]!r}: {error}") from None


def _stand_in(columns: Columns, noun: str) -> str:
    if columns.empty_key is None:
        raise ValueError(f"the key {noun} {columns.key!r} is empty; empty_key=TEXT makes TEXT the key of such records")
    return columns.empty_key


def _known(name: str, names: list[str], where: str, noun: str) -> str:
    """Return `name` if it is one of `names`, else raise an error that lists near ones."""
    if name in names:
        return name
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    listing = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    text = f"there is no {noun} {name!r}; {hint}The {noun}s are: {listing}"
    raise SourceError(f"{where}: {text}") if where else ValueError(text)


def _csv_fault(name: str, number: int, feed: _LineFeed, error: Exception) -> SourceError:
    if isinstance(error, UnicodeDecodeError):
        return SourceError(f"{name}:{feed.number - 1}: {_not_utf8(error)}")
    text = str(error)
    if "field limit" in text:
        text = f"a field is longer than {csv.field_size_limit()} characters (csv.field_size_limit); is a quote not closed?"
    elif "unexpected end of data" in text:
        text = "the quote that opens in this record is never closed"
    elif "new-line character" in text:
        text = "a carriage return stands inside a field that is not quoted; lines end in LF or CRLF"
    return SourceError(f"{name}:{number}: {text}")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1} of the line"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
