"""For tests of what is built on streamcore: a clock set by hand, a function that answers as told, a worker driven without threads.

The events of a recording are there too. A stream for tests is `streamcore.sources.memory.MemoryStream`. Nothing here sleeps.
"""

from __future__ import annotations

import threading
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamcore.protocols import Answer
from streamcore.recording import recorded_invocations

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from streamcore._streamcore import Batch
    from streamcore.worker import Worker, WorkerStats

__all__ = ["Invocation", "ManualClock", "ScriptedFunction", "recorded_events", "run_until_idle"]


class ManualClock:
    """A clock that moves when it is told to, and never back.

    >>> clock = ManualClock()
    >>> clock.advance(300_000)
    >>> clock.now_ms() - ManualClock.START_MS
    300000
    """

    START_MS = 1_700_000_000_000
    """Where it begins unless told otherwise: 14 November 2023, 22:13:20 UTC."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch."""
        return self._now_ms

    def advance(self, by_ms: int) -> None:
        """Move on by `by_ms` milliseconds.

        Raises:
            ValueError: `by_ms` is negative.
        """
        if by_ms < 0:
            raise ValueError(f"a clock never goes back, not even by {-by_ms} ms")
        with self._lock:
            self._now_ms += by_ms

    def set(self, now_ms: int) -> None:
        """Move on to `now_ms`.

        Raises:
            ValueError: that is in the past.
        """
        with self._lock:
            if now_ms < self._now_ms:
                raise ValueError(f"a clock never goes back: it is {self._now_ms}, and {now_ms} is earlier")
            self._now_ms = now_ms


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a `ScriptedFunction`, with what it answered.

    Attributes:
        sequence_numbers: those of the batch's records, in order.
        payloads: the records' payloads, decoded; for DynamoDB Streams the `dynamodb` object of each.
    """

    shard_id: str
    request_id: str
    attempt: int
    sequence_numbers: list[str]
    payloads: list[Any]
    answer: Answer


class ScriptedFunction:
    """A function that answers as a test says, and notes how it was called.

    Each invocation takes the next of `answers`. When they are used up, the batch succeeds unless it holds a record that `poison` is true
    of: then the answer reports the first such record as failed where the mapping reports batch item failures, and is a function error else.

    >>> throttled_once = ScriptedFunction([ScriptedFunction.throttled()])
    >>> refuses_bad_json = ScriptedFunction(poison=lambda record: not record["kinesis"]["data"].startswith("e"))
    """

    def __init__(self, answers: Iterable[Answer] = (), *, poison: Callable[[dict[str, Any]], bool] | None = None) -> None:
        """Set the script.

        Args:
            answers: what the first invocations answer, in the order in which they are made.
            poison: told a record as the event holds it, says whether the function fails on it.
        """
        self._answers = iter(answers)
        self._poison = poison
        self._lock = threading.Lock()
        self.invocations: list[Invocation] = []
        """Every call so far, in the order of their answers."""

    @staticmethod
    def success() -> Answer:
        """Return the answer of a function that returned nothing."""
        return Answer("success")

    @staticmethod
    def error(message: str = "scripted failure") -> Answer:
        """Return the answer of a function that raised."""
        payload = {"errorMessage": message, "errorType": "RuntimeError"}
        return Answer("function_error", payload, function_error="Unhandled")

    @staticmethod
    def throttled() -> Answer:
        """Return the answer to an invocation that was throttled and did not run."""
        return Answer("throttled", status_code=429, executed_version=None)

    @staticmethod
    def partial(*sequence_numbers: str) -> Answer:
        """Return the answer that reports records as failed (Lambda developer guide, ReportBatchItemFailures)."""
        return Answer("success", {"batchItemFailures": [{"itemIdentifier": number} for number in sequence_numbers]})

    def invoke(self, batch: Batch) -> Answer:
        """Answer for the batch."""
        records = batch.event().get("Records", [])
        numbers = [_sequence_number(record) for record in records]
        with self._lock:
            answer = next(self._answers, None) or self._judge(batch, records, numbers)
            self.invocations.append(
                Invocation(batch.shard_id, batch.request_id, batch.attempt, numbers, [_payload(record) for record in records], answer)
            )
        return answer

    def close(self) -> None:
        """Do nothing; what was noted stays."""

    @property
    def batches(self) -> list[list[str]]:
        """The sequence numbers of each invocation, in order."""
        return [invocation.sequence_numbers for invocation in self.invocations]

    def _judge(self, batch: Batch, records: list[dict[str, Any]], numbers: list[str]) -> Answer:
        if self._poison is None:
            return self.success()
        for record, number in zip(records, numbers, strict=True):
            if self._poison(record):
                return self.partial(number) if batch.reports_item_failures else self.error(f"poison record {number}")
        return self.success()


def _sequence_number(record: dict[str, Any]) -> str:
    number: str = record["kinesis"]["sequenceNumber"] if "kinesis" in record else record["dynamodb"]["SequenceNumber"]
    return number


def _payload(record: dict[str, Any]) -> Any:
    return b64decode(record["kinesis"]["data"]) if "kinesis" in record else record["dynamodb"]


def recorded_events(path: str | os.PathLike[str], *, outcome: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a recording, for the unit tests of a handler. Retries have the same event again.

    Args:
        path: what `streamcore run --record` has written; `streamcore.recording` says what else a line holds.
        outcome: only events of this outcome: "success", "partial", "failure" and so on.

    Raises:
        OSError: the file cannot be read.
        SourceError: a line is none of a recording.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "events.ndjson")
        >>> _ = path.write_text('{"shardId":"s","event":{"Records":[]},"outcome":{"kind":"failure"}}')
        >>> [len(event["Records"]) for event in recorded_events(path)]
        [0]
        >>> list(recorded_events(path, outcome="success"))
        []
    """
    for line in recorded_invocations(path):
        if outcome is None or line.get("outcome", {}).get("kind") == outcome:
            yield line["event"]


def run_until_idle(worker: Worker, clock: ManualClock, *, limit_ms: int = 86_400_000) -> WorkerStats:
    """Run a worker on the calling thread until all that can be read is done, confirmed and saved.

    The clock is moved on to the next instant at which something happens: the end of a batching window, a retry, a poll. So a window of five
    minutes takes no time. The worker makes no threads; it may be run on after more records were put, and is stopped with `stop`. An
    asynchronous function is run to its end before the next batch is taken.

    Args:
        worker: made with `clock` and not started.
        clock: the worker's clock; sources that tell the time need it too.
        limit_ms: at most so much time of the clock may pass.

    Returns:
        What the worker has done since its start.

    Raises:
        AssertionError: the limit is reached; the message names the batches that keep failing.
        SourceError, ClaimError, CheckpointError: see `Worker.run`.

    >>> from streamcore import EventSourceMapping, MemoryCheckpointStore, MemoryStream, Worker
    >>> clock = ManualClock()
    >>> stream, function = MemoryStream("orders", clock=clock), ScriptedFunction()
    >>> worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock)
    >>> worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", maximum_batching_window_in_seconds=300), stream, function)
    >>> _ = stream.put("customer-1", b"{}")
    >>> run_until_idle(worker, clock).records, clock.now_ms() - ManualClock.START_MS
    (1, 300000)
    >>> worker.stop()
    """
    end = clock.now_ms() + limit_ms
    while True:
        now = clock.now_ms()
        due = worker.step(now)
        if worker.idle(now):
            return worker.stats()
        if due is None or due > end:
            stats = worker.stats()
            stuck = [
                f"shard {batch.shard_id} from {batch.first_sequence_number or 'a closing call'}: {batch.attempts} attempts"
                for batch in stats.stuck
            ]
            what = f"{stats.held_records} records are held; batches that keep failing: {'; '.join(stuck) or 'none'}"
            raise AssertionError(f"not idle after {limit_ms} ms: {what}")
        clock.set(max(due, now + 1))
