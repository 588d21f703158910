"""What streamcore logs: its loggers, the fields of its lines, and a formatter that writes them as JSON.

Everything goes through the standard `logging`. Importing streamcore sets no handler; the commands show what is logged on standard error,
from `--log-level` on, as text or with `--log-format json` as one JSON object a line.

Loggers, all below `streamcore`:

    streamcore.worker        a run: shards begun and ended, batches that are stuck, checkpoints, discards, lost claims, stopping
    streamcore.function      failed invocations with their cause, functions that take too long, what processes write, START, END, REPORT
    streamcore.sources       calls of a stream that failed, throttles, subscriptions
    streamcore.destinations  destinations that could not be looked at
    streamcore.metrics       metrics that could not be published
    streamcore.redrive       messages that are redriven
    streamcore.recording     recordings: torn lines, lines that could not be written
    streamcore.progress      how a run stands, every ten seconds (with `--log-format json`)
    streamcore.command       what a command itself says: errors and notes (with `--log-format json`)
    streamcore.output        what else was written to standard error, such as a handler's `print` (with `--log-format json`)

Levels: ERROR is for what will not get better by itself: a mapping that is given up, records of which nothing else will tell, a fault in
streamcore. WARNING is for what went wrong and is tried again, and for its end; INFO for what is usual and seldom; DEBUG for the rest. A
discard that has reached its destination is INFO; one that was dropped or given up is told one by one, since only the log tells of it.

**Nothing floods.** Of failures of one kind the first, the second, the fourth, the eighth and so on are told, and the rest at level DEBUG;
after ten minutes without one of them it begins anew. The kind of a failed invocation is its mapping, the type of the error and the place
where it was raised.

**Fields** are attributes of the log record, given with `extra`, and members of the JSON object: the names are the same in both, and nothing
is renamed. They are those of Lambda's own JSON logs (`requestId`, `errorType`, `errorMessage`: Lambda developer guide, "Configuring JSON
and plain text log formats") and of the invocation record (`shardId`, `startSequenceNumber`, `endSequenceNumber`, `batchSize`,
`condition`, `approximateInvokeCount`: "Retain discarded records"), so that one query finds the log, the discard and the recording of
a batch. `FIELDS` has all of them. A line has those that are known where it is written.

Example:
    A filter that keeps the lines about one shard:

        >>> import logging
        >>> handler = logging.StreamHandler()
        >>> handler.setFormatter(JsonFormatter())
        >>> handler.addFilter(lambda record: getattr(record, "shardId", None) == "shardId-000000000007")
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FIELDS", "JsonFormatter"]

FIELDS: Final[Mapping[str, str]] = {
    "mappingUuid": "the event source mapping",
    "shardId": "the shard",
    "requestId": "the batch: the id that its event is invoked with, the same for every attempt",
    "startSequenceNumber": "the first record of the batch or discard; absent for the closing call of a tumbling window",
    "endSequenceNumber": "the last one",
    "batchSize": "how many records the batch or discard has",
    "attempt": "which attempt of the batch it was, from 1",
    "lane": "the lane of a shard, from 0 to ParallelizationFactor - 1",
    "condition": "why records were discarded: RetryAttemptsExhausted or RecordAgeExceeded",
    "approximateInvokeCount": "how often the records of a discard were invoked",
    "errorType": "the type of an error: an exception's name, or what a function or a service of AWS calls it",
    "errorMessage": "its text",
    "failures": "how often it has failed: in a row, or of this kind",
    "retryInMs": "milliseconds until it is tried again",
    "count": "how many of what the message speaks of",
    "durationMs": "milliseconds that something took",
    "stream": "the stream, by name or ARN",
    "destination": "where discards go: an ARN or a path",
    "function": "the function, by name or ARN",
    "startingPosition": "where reading of a shard begins",
    "source": "where a message that is redriven was found",
    "outcome": "what became of such a message",
    "path": "a file that streamcore writes or reads",
    "records": "records that are done",
    "recordsPerSecond": "the same, in a second, since the last such line",
    "inFlight": "batches that functions work on",
    "retries": "invocations that were not the first of their batch",
    "discards": "discards made",
    "iteratorAgeMs": "age of the last record of the batch that finished last",
}
"""Every field that a line of streamcore may have beside `timestamp`, `level`, `logger`, `message` and `exception`, and what it means."""

# What a log record has without `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FIRST = frozenset({"timestamp", "level", "logger", "message"})


class JsonFormatter(logging.Formatter):
    """Writes a log record as one JSON object, for handlers of any program.

    `timestamp` (ISO 8601, UTC, milliseconds), `level`, `logger` and `message` come first, under the names of Lambda's JSON log format; then
    the fields of the record, whoever has set them; then for an exception `errorType` and `errorMessage`, as Lambda has them, and
    `exception`, the whole of it as text. What JSON does not have is written as text; fields that are None are left out. The line is ASCII.

    Example:
        >>> record = logging.makeLogRecord({"name": "orders", "levelname": "INFO", "msg": "order %d", "args": (7,), "shardId": "s-1"})
        >>> record.created = 1_700_000_000.25
        >>> JsonFormatter().format(record)
        '{"timestamp": "2023-11-14T22:13:20.250Z", "level": "INFO", "logger": "orders", "message": "order 7", "shardId": "s-1"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end. Never fails: a message whose arguments do not fit is written as it is."""
        line: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= {
            name: value for name, value in record.__dict__.items() if value is not None and name not in _STANDARD and name not in _FIRST
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["errorType"] = record.exc_info[0].__name__
            line["errorMessage"] = _text(record.exc_info[1])
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return as_json(line)


def timestamp(seconds: float) -> str:
    """Return an instant as ISO 8601 in UTC with milliseconds.

    Example:
        >>> timestamp(1_700_000_000.25)
        '2023-11-14T22:13:20.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(value: Mapping[str, Any], *, separators: tuple[str, str] | None = None) -> str:
    """Return a JSON object on one line, whatever it holds: what JSON does not have becomes text.

    Example:
        >>> as_json({"at": UTC, "share": float("nan")})
        '{"at": "UTC", "share": "nan"}'
    """
    try:
        return json.dumps(value, default=_text, allow_nan=False, separators=separators)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, NaN, circles
        return json.dumps({str(name): _plain(member) for name, member in value.items()}, separators=separators)


def _plain(value: object) -> object:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _text(value)
    return value


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the text; `logging` would write a traceback instead of the line
        return f"{_text(record.msg)} {_text(record.args)}"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object's own method runs here
        return f"<{type(value).__name__} that cannot be written as text>"
