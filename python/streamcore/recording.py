r"""Recordings: every invocation with its event and its outcome, one JSON object on a line. `streamcore run --record PATH` writes one.

A recording serves two ends. Each line holds an event as the function got it, a fixture for its unit tests:
`streamcore.testing.recorded_events` gives them. And all lines together hold the records, which `RecordingSource` (`--source record:PATH`)
hands out again.

The members of a line, in this order; names are those of the log (`streamcore.logs`):

    requestId            the batch; the same for each of its attempts
    mappingUuid          the event source mapping
    shardId              the shard
    startSequenceNumber  the first record; null for the closing call of a tumbling window, which has no records
    endSequenceNumber    the last one
    batchSize            how many records the event has
    attempt              1 for the first invocation of the batch; what did not run does not count
    startedAt            when the invocation began, by this machine's clock: ISO 8601, UTC, milliseconds
    durationMs           how long it took
    event                the event, the very bytes that a function gets as JSON
    outcome              what came of it

Of `outcome`: `kind` is "success"; "partial" (the function named records that failed; `succeeded` is how many before the first of them are
done); "failure" (it raised, or its answer was not valid); "throttled", "service_error" or "too_large" (it did not run). `statusCode`,
`executedVersion` and `functionError` are as in an invocation record. `errorType` and `errorMessage` say what went wrong. `response` is
what the function returned, with `batchItemFailures` and `state` where it did, or its error object; `endsWindow` is true where its state
ended the window early. Members that do not apply are left out.

An invocation that has not ended, since the run was stopped or killed, has no line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from streamcore._interpret import interpret
from streamcore._log import Rarely, is_told, of_batch, of_error
from streamcore.errors import ConfigError, SourceError
from streamcore.logs import as_json, timestamp
from streamcore.protocols import Answer
from streamcore.sources._wall import WallClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from streamcore._streamcore import Batch
    from streamcore.protocols import Clock, Function

__all__ = ["RecordedFunction", "recorded_invocations"]

_log = logging.getLogger("streamcore.recording")

_BEGINNING = b'{"requestId":'  # of every line
_COMPACT = (",", ":")
_NOT_RUN = frozenset({"throttled", "service_error", "too_large"})


class RecordedFunction:
    r"""A `Function` that keeps every invocation of another one in a recording, and changes nothing else.

    The function is invoked as it would be: in this process, in processes of its own, or awaited where it is asynchronous. A line is written
    as a whole when the invocation has ended and before its batch counts as done, so whatever a checkpoint has passed is in the recording,
    also after a kill -9; a power failure may cost the last lines. A file that is there already is appended to, if it is a recording; half
    a line that a crash has left at its end is cut off.

    **A recording does not stand in the way of the run.** What cannot be written (the disk is full) is left out: that is logged, writing is
    tried again with the next invocation, and `missing` counts what is not in the file. No half line stays in it.

    Args:
        function: what is invoked; closed with this one.
        path: the file. It is made if it is not there; its folder must exist.
        clock: tells when an invocation begins; the system's by default.

    Raises:
        OSError: the file cannot be opened for writing.
        ConfigError: the file is there and no recording, or another run writes it or reads from it. It is left as it is.

    Example:
        >>> import tempfile
        >>> from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
        >>> from streamcore.testing import recorded_events
        >>> folder = tempfile.TemporaryDirectory()
        >>> stream = MemoryStream("orders")
        >>> _ = stream.put("ann", b'{"total": 5}')
        >>> function = RecordedFunction(LocalFunction(lambda event, context: None), folder.name + "/events.ndjson")
        >>> worker = Worker(checkpoints=MemoryCheckpointStore())
        >>> worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, function)
        >>> worker.run(until_idle=True).succeeded
        1
        >>> function.close()
        >>> [event["Records"][0]["kinesis"]["partitionKey"] for event in recorded_events(folder.name + "/events.ndjson")]
        ['ann']
        >>> folder.cleanup()
    """

    def __init__(self, function: Function, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self._function = function
        self._path = os.fspath(path)
        self._clock: Clock = clock if clock is not None else WallClock()
        self._lock = threading.Lock()
        self._rarely = Rarely()
        self.missing = 0
        """Invocations that could not be written."""
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._prepare(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def path(self) -> str:
        """The recording, as it was given."""
        return self._path

    def invoke(self, batch: Batch) -> Answer | Awaitable[Answer]:
        """Invoke the function, and write what came of it."""
        started_ms, begun = self._clock.now_ms(), time.monotonic()
        answer = self._function.invoke(batch)
        if isinstance(answer, Answer):
            self._keep(batch, answer, started_ms, begun)
            return answer
        return self._awaited(batch, answer, started_ms, begun)

    async def _awaited(self, batch: Batch, awaitable: Awaitable[Answer], started_ms: int, begun: float) -> Answer:
        answer = await awaitable
        self._keep(batch, answer, started_ms, begun)
        return answer

    def close(self) -> None:
        """Close the function and the file, and say how many invocations are not in it. Safe to call twice."""
        self._function.close()
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            os.close(descriptor)
        if self.missing:
            text = "%s: %d invocations could not be written and are missing"
            _log.error(text, self._path, self.missing, extra={"path": self._path, "count": self.missing})

    # One line.

    def _keep(self, batch: Batch, answer: Answer, started_ms: int, begun: float) -> None:
        took_ms = round((time.monotonic() - begun) * 1000, 3)
        try:
            head = {
                "requestId": batch.request_id,
                "mappingUuid": batch.mapping_uuid,
                "shardId": batch.shard_id,
                "startSequenceNumber": batch.first_sequence_number,
                "endSequenceNumber": batch.last_sequence_number,
                "batchSize": batch.record_count,
                "attempt": batch.attempt,
                "startedAt": timestamp(started_ms / 1000),
                "durationMs": took_ms,
            }
            outcome = as_json(_outcome(batch, answer), separators=_COMPACT)
            # The event is large and stays the one object that it is.
            self._write(
                [f'{as_json(head, separators=_COMPACT)[:-1]},"event":'.encode(), batch.json(), f',"outcome":{outcome}}}\n'.encode()]
            )
        except Exception as error:  # noqa: BLE001 - the run goes on as it would without a recording
            self._say_missing(batch, error)

    def _write(self, parts: list[bytes]) -> None:
        with self._lock:
            descriptor = self._descriptor
            if descriptor is None:
                return  # the run is over, and did not wait for this invocation
            end = os.fstat(descriptor).st_size
            left = sum(map(len, parts))
            try:
                while left:
                    written = os.writev(descriptor, parts)
                    left -= written
                    parts = _rest(parts, written)
            except OSError:
                os.ftruncate(descriptor, end)  # no half line stays
                raise

    def _say_missing(self, batch: Batch, error: Exception) -> None:
        with self._lock:
            self.missing += 1
        count = self._rarely.count(type(error).__name__, self._clock.now_ms())
        level = logging.ERROR if is_told(count) else logging.DEBUG
        text = "%s: an invocation could not be written and is missing there; the run goes on (%d so far): %s: %s"
        fields = of_error(error, **of_batch(batch, path=self._path, count=self.missing))
        _log.log(level, text, self._path, self.missing, type(error).__name__, error, extra=fields)

    # The file.

    def _prepare(self, descriptor: int) -> None:
        lock(descriptor, self._path, shared=False)
        size = os.fstat(descriptor).st_size
        beginning = os.pread(descriptor, len(_BEGINNING), 0)
        if not _BEGINNING.startswith(beginning):
            text = f"{self._path} is there and no recording; it is left as it is. Name another file, or move this one away"
            raise ConfigError(text, parameter="record")
        whole = _end_of_last_line(descriptor, size)
        if whole < size:
            os.ftruncate(descriptor, whole)
            text = "%s: the last line was not written to its end; its %d bytes are cut off"
            _log.warning(text, self._path, size - whole, extra={"path": self._path, "count": size - whole})


def lock(descriptor: int, path: str, *, shared: bool) -> None:
    """Lock a recording: one run writes it, or several read from it.

    Raises:
        ConfigError: a run writes it, or it is to be written and a run reads from it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        what = "another run writes it" if shared else "another run writes it, or it is read now, perhaps as the source of this run"
        raise ConfigError(f"{path}: {what}", parameter="record") from None


def _rest(parts: list[bytes], written: int) -> list[bytes]:
    """Return what of some texts is left behind the first bytes."""
    rest = []
    for part in parts:
        rest.append(part[written:] if written else part)
        written = max(written - len(part), 0)
    return [part for part in rest if part]


def _end_of_last_line(descriptor: int, size: int) -> int:
    at = size
    while at > 0:
        begin = max(at - 65536, 0)
        found = os.pread(descriptor, at - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        at = begin
    return 0


def _outcome(batch: Batch, answer: Answer) -> dict[str, Any]:
    outcome = interpret(batch, answer)
    said = answer.payload if isinstance(answer.payload, dict) else {}
    failed = answer.kind != "success"
    facts = {
        "kind": answer.kind if answer.kind in _NOT_RUN else outcome.kind,
        "succeeded": outcome.index if outcome.kind == "partial" else None,
        "statusCode": answer.status_code,
        "executedVersion": answer.executed_version,
        "functionError": answer.function_error,
        "errorType": said.get("errorType") if failed else None,
        "errorMessage": said.get("errorMessage", answer.problem) if failed else None,
        "response": None if answer.kind in _NOT_RUN else answer.payload,
        "endsWindow": outcome.ends_window or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def recorded_invocations(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a recording, as they are described above.

    A last line that was not written to its end, since the run was killed, is passed over with a warning in the log.

    Raises:
        OSError: the file cannot be read.
        SourceError: a line is none of a recording; the text begins with `path:line:`.
    """
    for _, line in lines_of(path):
        yield line


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[tuple[int, int, int], dict[str, Any]]]:
    """Yield the lines of a recording, each with its number from 1, and where it begins and how long it is."""
    name, at = os.fspath(path), 0
    with open(name, "rb") as file:  # noqa: PTH123 - `path` may be text or a path
        for number, text in enumerate(file, 1):
            begin, at = at, at + len(text)
            if not text.strip():
                continue
            try:
                line = _parsed(text)
            except ValueError as error:
                if not text.endswith(b"\n"):
                    said = "%s:%d: the last line was not written to its end and is passed over"
                    _log.warning(said, name, number, extra={"path": name})
                    return
                raise SourceError(f"{name}:{number}: {error}") from None
            yield (number, begin, len(text)), line


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(line, dict) or not isinstance(line.get("event"), dict):
        raise ValueError("no line of a recording: it has no event")  # noqa: TRY004  (a fault of the data, not of the caller)
    return line
