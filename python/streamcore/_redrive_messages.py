"""Invocation records that are to be redriven, and those that are lines of a file.

A message is whatever holds one invocation record: a line, a message of a queue, an object. What holds none, or half of one, is told of
and left where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from streamcore.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FileMessages", "Message", "Messages", "Unreadable", "read_message", "records_in"]

_log = logging.getLogger("streamcore.redrive")

_INFO: dict[str, Literal["kinesis", "dynamodb"]] = {"KinesisBatchInfo": "kinesis", "DDBStreamBatchInfo": "dynamodb"}
_WRAPPINGS_MAX = 3  # of a notification within a notification


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One invocation record, and where it was found.

    Attributes:
        name: where it was found, for people.
        stream_arn: the stream of the records that it names.
        shard_id: their shard.
        first_sequence_number: the first of them.
        last_sequence_number: the last of them.
        batch_size: how many records the batch had. The stream may have more between the first and the last.
        format: which API's records the stream has.
        arrived_ms: when the last record arrived in the stream; None where the invocation record does not say.
        payload: whether the message holds the records themselves.
        handle: what the place that it was found in knows it by.
    """

    name: str
    stream_arn: str
    shard_id: str
    first_sequence_number: str
    last_sequence_number: str
    batch_size: int
    format: Literal["kinesis", "dynamodb"]
    arrived_ms: int | None
    payload: bool
    handle: Any

    @property
    def first(self) -> int:
        """The first sequence number, to compare it with."""
        return int(self.first_sequence_number)

    @property
    def last(self) -> int:
        """The last sequence number, to compare it with."""
        return int(self.last_sequence_number)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something in the place of a message that is no invocation record of a stream, and why."""

    name: str
    problem: str


class Messages(Protocol):
    """A place where invocation records are found."""

    def receive(self) -> Sequence[Message | Unreadable]:
        """Return more of what is there; nothing where there is no more.

        Raises:
            SourceError: it cannot be read.
        """

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the message holds, as the event had them.

        Raises:
            ValueError: what it holds is no event of a stream.
            SourceError: it cannot be read.
        """

    def delete(self, message: Message) -> None:
        """Take a message away for good: it has been redriven.

        Raises:
            SourceError: it could not be deleted, and comes again.
        """

    def close(self) -> None:
        """Leave what was received and not deleted to whoever comes next. Safe to call twice."""


# Reading one message.


def read_message(name: str, text: str | bytes, handle: Any) -> Message | Unreadable:
    """Return the invocation record that `text` is ("Lambda developer guide", Retain discarded records), or why it is none.

    Example:
        >>> record = {
        ...     "requestContext": {"condition": "RetryAttemptsExhausted"},
        ...     "KinesisBatchInfo": {
        ...         "shardId": "shardId-000000000000",
        ...         "startSequenceNumber": "4959",
        ...         "endSequenceNumber": "4961",
        ...         "batchSize": 3,
        ...         "streamArn": "arn:aws:kinesis:us-east-2:123456789012:stream/orders",
        ...     },
        ... }
        >>> message = read_message("line 1", json.dumps(record), None)
        >>> message.first, message.last, message.format
        (4959, 4961, 'kinesis')
        >>> read_message("line 2", '{"requestContext": {"reque', None)
        Unreadable(name='line 2', problem='not JSON: Unterminated string starting at: line 1 column 21 (char 20)')
    """
    try:
        record = _invocation_record(text)
        return _message(name, record, handle)
    except ValueError as error:
        return Unreadable(name, str(error))


def _invocation_record(text: str | bytes) -> dict[str, Any]:
    """Return the record itself, taken out of what SNS wraps around it (SNS developer guide, "Amazon SNS message formats")."""
    for _ in range(_WRAPPINGS_MAX):
        value = _json(text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  (a fault of the data, not of the caller)
        if value.get("Type") != "Notification" or not isinstance(value.get("Message"), str):
            return value
        text = value["Message"]
    raise ValueError("notifications within notifications")


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _message(name: str, record: dict[str, Any], handle: Any) -> Message:
    kind = next((kind for kind in _INFO if isinstance(record.get(kind), dict)), None)
    if kind is None:
        raise ValueError(f"no invocation record of a stream: it has neither {' nor '.join(_INFO)}")
    info = record[kind]
    if "startSequenceNumber" not in info and "endSequenceNumber" not in info:
        raise ValueError("of the last invocation of a window, which has no records")
    return Message(
        name,
        stream_arn=_text(info, "streamArn"),
        shard_id=_text(info, "shardId"),
        first_sequence_number=_number(info, "startSequenceNumber"),
        last_sequence_number=_number(info, "endSequenceNumber"),
        batch_size=info["batchSize"] if isinstance(info.get("batchSize"), int) else 1,
        format=_INFO[kind],
        arrived_ms=_instant(info.get("approximateArrivalOfLastRecord")),
        payload=record.get("payload") is not None,
        handle=handle,
    )


def _text(info: dict[str, Any], name: str) -> str:
    value = info.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"an invocation record whose {name} is {value!r}")
    return value


def _number(info: dict[str, Any], name: str) -> str:
    value = _text(info, name)
    if not (value.isascii() and value.isdigit() and len(value) <= 129):
        raise ValueError(f"an invocation record whose {name} is {value!r}, which is no sequence number")
    return value


def _instant(value: object) -> int | None:
    try:
        return round(datetime.fromisoformat(str(value)).timestamp() * 1000)
    except ValueError:
        return None


def records_in(text: str | bytes) -> list[dict[str, Any]]:
    """Return the records of the event in a message's `payload`, which Lambda writes as a string that holds JSON."""
    payload = _invocation_record(text).get("payload")
    event = _json(payload) if isinstance(payload, str) else payload
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("its payload is no event of a stream: it has no list Records")
    return records


# Files.


class FileMessages:
    """Invocation records in a file, one on a line, as `FileDestination` writes them.

    The file stays as it is: what writes to it may go on. What has been redriven is noted in a file beside it, PATH.redriven, by the hash
    of each line; delete it to redrive everything again.

    Args:
        path: the file.
        shows: nothing will be deleted, so nothing is noted, and no other redrive is in the way.

    Raises:
        SourceError: the file cannot be read, or another redrive works on it.
    """

    def __init__(self, path: str, *, shows: bool = False) -> None:
        self._path = path
        self._notes: int | None = None
        self._received = False
        self._lock = threading.Lock()
        self.skipped = 0
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from None
        if shows:
            return
        try:
            self._notes = os.open(f"{path}.redriven", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._notes, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            busy = isinstance(error, BlockingIOError)
            raise SourceError(f"{path}: another redrive works on it" if busy else f"{path}.redriven: {error.strerror}") from None

    def receive(self) -> Sequence[Message | Unreadable]:
        """Return what the lines hold that have not been redriven. `skipped` says how many have been."""
        if self._received:
            return []
        self._received = True
        done = self._done()
        found: list[Message | Unreadable] = []
        at = 0
        for number, line in enumerate(self._file, 1):
            text = line.rstrip(b"\r\n")
            digest = hashlib.sha256(text).hexdigest()
            if digest in done:
                self.skipped += 1
            elif text.strip():
                found.append(read_message(f"{self._path}, line {number}", text, (at, len(line), digest)))
            at += len(line)
        if self.skipped:
            said = "%s: %d lines were redriven before and are passed over; delete %s.redriven to redrive them again"
            _log.warning(said, self._path, self.skipped, self._path, extra={"source": self._path, "count": self.skipped})
        return found

    def _done(self) -> set[str]:
        try:
            return set(Path(f"{self._path}.redriven").read_text(errors="replace").split())
        except FileNotFoundError:
            return set()

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the line holds."""
        at, size, _ = message.handle
        with self._lock:
            self._file.seek(at)
            return records_in(self._file.read(size))

    def delete(self, message: Message) -> None:
        """Note that the line has been redriven; when this returns, the note is on the disk."""
        if self._notes is None:
            raise SourceError(f"{self._path} is only shown")
        note = f"{message.handle[2]}\n".encode()
        try:
            with self._lock:
                size = os.fstat(self._notes).st_size
                if size and os.pread(self._notes, 1, size - 1) != b"\n":
                    note = b"\n" + note  # a crash has left half a note
                os.write(self._notes, note)
                os.fsync(self._notes)
        except OSError as error:
            raise SourceError(f"{self._path}.redriven: {error.strerror}") from error

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        notes, self._notes = self._notes, None
        if notes is not None:
            os.close(notes)
