"""Runs a function over the records that were discarded: what an on-failure destination was told of.

Lambda's invocation records name the records of a batch that it gave up and do not hold them: they must be read from the stream before they
expire ("Lambda developer guide", Retain discarded records for a DynamoDB event source / a Kinesis data stream event source). `redrive`
does that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from streamcore._redrive_messages import Message, Messages, Unreadable, open_messages
from streamcore._redrive_source import Range, RedriveSource, ranges_of
from streamcore._stats import WorkerStats
from streamcore._streamcore import Checkpoint
from streamcore._streams import StreamOption
from streamcore.errors import ConfigError, SourceError, UsageError
from streamcore.mapping import EventSourceMapping
from streamcore.protocols import Claim
from streamcore.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from streamcore._streamcore import Discard
    from streamcore.protocols import CheckpointKey, Function, Source
    from streamcore.worker import Summary

__all__ = ["LeftMessage", "MappingOptions", "Messages", "Redrive", "RedriveSummary", "Streams", "redrive"]

_log = logging.getLogger("streamcore.redrive")

_NO_ACCOUNT = "000000000000"
_HINT = f"; account {_NO_ACCOUNT} is that of files and of local servers: give the file as source, or the server's endpoint"
_SKEW_MS = 1000  # what a stream's creation time may be off by: some servers have whole seconds

Outcome = Literal["failed", "expired", "unreadable", "not_run", "not_deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftMessage:
    """A message that was not redriven, or not as a whole, or that is still there.

    Attributes:
        message: where it is: a line of a file, a message of a queue, an object.
        outcome: "failed" (the function failed for some of its records), "expired" (the stream no longer has all of its records; those
            that it has were run), "unreadable" (no invocation record of a stream), "not_run" (its stream could not be read, or the run
            was stopped), or "not_deleted" (it was redriven, and comes again because it could not be deleted).
        detail: what happened, as a sentence without an end.
        stream_arn: the stream of its records; None where it is unreadable, as the next three.
        shard_id: their shard.
        first_sequence_number: the first of them.
        last_sequence_number: the last of them.
        deleted: whether it was deleted all the same, as asked for with `delete_expired`.
    """

    message: str
    outcome: Outcome
    detail: str
    stream_arn: str | None = None
    shard_id: str | None = None
    first_sequence_number: str | None = None
    last_sequence_number: str | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveSummary:
    """What a redrive has done.

    Attributes:
        messages: messages found.
        redriven: those whose records all succeeded, and that were deleted.
        left: all others, in the order in which that became clear.
        records: records that are done.
        succeeded: those whose function succeeded.
        failed_records: those that the function failed for, as often as it was tried.
        invocations: calls of the function that came to an end.
        failed_invocations: those of them that failed, wholly or in part.
        retries: invocations that were not the first of their batch.
        throttles: calls that did not run because of a throttle or a service error.
        interrupted: whether it was stopped before its end.
        elapsed_seconds: how long it took.
    """

    messages: int = 0
    redriven: int = 0
    left: tuple[LeftMessage, ...] = ()
    records: int = 0
    succeeded: int = 0
    failed_records: int = 0
    invocations: int = 0
    failed_invocations: int = 0
    retries: int = 0
    throttles: int = 0
    interrupted: bool = False
    elapsed_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be redriven."""
        return not self.interrupted and all(message.deleted for message in self.left)


class Redrive:
    """One redrive, for a program that wants to watch it or to stop it; `redrive` is the simple way.

    Args:
        messages: where the invocation records are. The caller closes it.
        function: what is invoked. The caller closes it.
        open_stream: gives the stream of an ARN. The caller closes it.
        mapping: gives the mapping of a stream's ARN whose messages name batches of at most so many records.
        delete: whether what has been redriven is deleted.
        delete_expired: whether what has expired is deleted too.
    """

    def __init__(
        self,
        messages: Messages,
        function: Function,
        *,
        open_stream: Callable[[str], Source],
        mapping: Callable[[str, int], EventSourceMapping],
        delete: bool = True,
        delete_expired: bool = False,
    ) -> None:
        self._messages = messages
        self._function = function
        self._open_stream = open_stream
        self._mapping = mapping
        self._tally = _Tally(messages, delete=delete, delete_expired=delete_expired)
        self._worker: Worker | None = None
        self._stopping = False
        self._lock = threading.Lock()

    def run(self) -> RedriveSummary:
        """Redrive everything that is found, and return what came of it.

        The first Ctrl-C lets running batches finish; what is not done stays where it is.

        Raises:
            SourceError: the messages cannot be read.
            ConfigError: an option cannot be right.
        """
        started = time.monotonic()
        tally = self._tally
        while not self._stopping and (received := self._messages.receive()):
            messages = tally.found(received)
            groups: dict[tuple[str, bool], list[Message]] = {}
            for message in messages:
                groups.setdefault((message.stream_arn, message.payload), []).append(message)
            for (stream_arn, payload), group in groups.items():
                if self._stopping:
                    tally.leave(group, "not_run", "the redrive was stopped")
                else:
                    self._run(stream_arn, group, payload=payload)
        return tally.summary(interrupted=self._stopping, elapsed_seconds=time.monotonic() - started)

    def stop(self) -> None:
        """Let running batches finish and run nothing more. May be called from any thread, and more than once."""
        with self._lock:
            self._stopping = True
            worker = self._worker
        if worker is not None:
            worker.stop()

    def stats(self) -> WorkerStats:
        """Return how the worker stands that runs now. May be called from any thread."""
        with self._lock:
            worker = self._worker
        return WorkerStats() if worker is None else worker.stats()

    def _run(self, stream_arn: str, messages: list[Message], *, payload: bool) -> None:
        """Run the messages of one stream."""
        tally = self._tally
        try:
            mapping = self._mapping(stream_arn, max(message.batch_size for message in messages))
        except ConfigError as error:
            if error.parameter != "event_source_arn":
                raise
            tally.leave(messages, "unreadable", f"its stream is {stream_arn!r}, which is no stream that Lambda reads")
            return
        try:
            stream = None if payload else self._open_stream(stream_arn)
            if stream is not None:
                messages = self._of_this_incarnation(stream, messages)
        except SourceError as error:
            hint = _HINT if f":{_NO_ACCOUNT}:" in stream_arn else ""
            tally.leave(messages, "not_run", f"{error}{hint}")
            return
        if messages:
            self._run_worker(mapping, messages, stream)

    def _of_this_incarnation(self, stream: Source, messages: list[Message]) -> list[Message]:
        """Leave the messages out whose records arrived before the stream was made: sequence numbers may mean other records now."""
        created_ms = stream.describe().created_ms
        if created_ms is None:
            return messages
        current = []
        for message in messages:
            if message.arrived_ms is not None and message.arrived_ms < created_ms - _SKEW_MS:
                self._tally.expired(message, "all of its records are gone: the stream was made anew since")
            else:
                current.append(message)
        return current

    def _run_worker(self, mapping: EventSourceMapping, messages: list[Message], stream: Source | None) -> None:
        shards: dict[str, list[Message]] = {}
        for message in messages:
            shards.setdefault(message.shard_id, []).append(message)
        desk = _Desk(self._tally, {shard_id: ranges_of(of_shard) for shard_id, of_shard in shards.items()})
        source = RedriveSource(mapping.event_source_arn, desk.ranges, stream, records=self._messages.records, on_read=desk.settle)
        desk.source = source
        # Each range is settled at once: what is deleted lags behind what is done by one save, and the next range waits for it.
        worker = Worker(checkpoints=desk, checkpoint_interval_ms=0)
        worker.add(mapping, source, self._function, desk)
        with self._lock:
            self._worker = worker
            if self._stopping:
                worker.stop()
        failure = "the redrive was stopped"
        try:
            worker.run()
        except SourceError as error:
            failure = str(error)
        finally:
            with self._lock:
                self._worker = None
            summary = worker.summary()
            self._tally.add(summary)
        self._stopping = self._stopping or summary.reason in ("interrupted", "stopped")
        for message in desk.unsettled():
            self._tally.leave([message], "not_run", failure)


class _Tally:
    """What has become of the messages so far. Deletes those that are done."""

    def __init__(self, messages: Messages, *, delete: bool, delete_expired: bool) -> None:
        self._messages = messages
        self._delete = delete
        self._delete_expired = delete and delete_expired
        self._lock = threading.Lock()
        self._count = 0
        self._redriven = 0
        self._left: list[LeftMessage] = []
        self._totals = dict.fromkeys(
            ("records", "succeeded", "failed_records", "invocations", "failed_invocations", "retries", "throttles"), 0
        )

    def found(self, received: Sequence[Message | Unreadable]) -> list[Message]:
        """Take in what was received; return what can be redriven."""
        self._count += len(received)
        for one in received:
            if isinstance(one, Unreadable):
                self._add(LeftMessage(message=one.name, outcome="unreadable", detail=one.problem))
        return [one for one in received if isinstance(one, Message)]

    def add(self, summary: Summary) -> None:
        """Add what a worker has done."""
        for name in self._totals:
            self._totals[name] += summary.discarded_records if name == "failed_records" else getattr(summary, name)

    def leave(self, messages: Iterable[Message], outcome: Outcome, detail: str, *, deleted: bool = False) -> None:
        """Note what kept messages from being redriven."""
        for message in messages:
            self._add(
                LeftMessage(
                    message=message.name,
                    outcome=outcome,
                    detail=detail,
                    stream_arn=message.stream_arn,
                    shard_id=message.shard_id,
                    first_sequence_number=message.first_sequence_number,
                    last_sequence_number=message.last_sequence_number,
                    deleted=deleted,
                )
            )

    def _add(self, left: LeftMessage) -> None:
        _log.info("%s: %s: %s", left.message, left.outcome, left.detail)
        with self._lock:
            self._left.append(left)

    def expired(self, message: Message, detail: str) -> None:
        """Note that records of a message have expired."""
        deleted = False
        if self._delete_expired:
            try:
                self._messages.delete(message)
                deleted = True
            except SourceError as error:
                detail = f"{detail}; it could not be deleted: {error}"
        self.leave([message], "expired", detail, deleted=deleted)

    def done(self, message: Message) -> None:
        """Delete a message: all of its records have succeeded."""
        if self._delete:
            try:
                self._messages.delete(message)
            except SourceError as error:
                self.leave([message], "not_deleted", f"it was redriven, and comes again: it could not be deleted: {error}")
                return
        with self._lock:
            self._redriven += 1

    def summary(self, *, interrupted: bool, elapsed_seconds: float) -> RedriveSummary:
        """Return the sums."""
        return RedriveSummary(
            messages=self._count,
            redriven=self._redriven,
            left=tuple(self._left),
            interrupted=interrupted,
            elapsed_seconds=elapsed_seconds,
            **self._totals,
        )


class _Desk:
    """What a worker takes for its checkpoint store and its destination: here both say what has become of the messages.

    A saved watermark says that everything up to it is done; a range that lies below is settled. A discard is a failure of its messages.
    """

    def __init__(self, tally: _Tally, ranges: dict[str, list[Range]]) -> None:
        self.ranges = ranges
        self.source: RedriveSource | None = None
        self._tally = tally
        self._failures: dict[Message, str] = {}
        self._settled: set[int] = set()

    def settle(self, shard_id: str, watermark: str | None = None) -> None:
        """Say what has become of the shard's range, if all of it is done."""
        source = self._source()
        settled = source.shards[shard_id].settle(watermark)
        if settled is None:
            return
        self._settled.add(id(settled))
        for message in settled.messages:
            self._conclude(message, settled)
        source.wake()

    def _conclude(self, message: Message, settled: Range) -> None:
        failure = self._failures.get(message)
        missing = settled.missing(message)
        if message in settled.unread:
            self._tally.leave([message], "unreadable", settled.unread[message])
        elif failure is not None:
            self._tally.leave([message], "failed", failure if missing is None else f"{failure}; {missing}")
        elif missing is not None:
            self._tally.expired(message, missing)
        else:
            self._tally.done(message)

    def unsettled(self) -> list[Message]:
        """Return the messages of which it is not known that they are done."""
        return [
            message
            for ranges in self.ranges.values()
            for one in ranges
            if id(one) not in self._settled
            for message in one.messages
        ]

    def _source(self) -> RedriveSource:
        if self.source is None:
            raise UsageError("the desk has no source yet")
        return self.source

    # As a destination.

    def send(self, discard: Discard) -> None:
        """Note the failure with the messages that name one of the records."""
        current = self._source().shards[discard.shard_id].current
        if current is None:
            return
        context = discard.invocation_record()["requestContext"]
        count, first, last = discard.record_count, discard.first_sequence_number, discard.last_sequence_number
        which = f"record {first}" if count == 1 else f"{count} records from {first} to {last}"
        tries = discard.approximate_invoke_count
        detail = f"{context['condition']} at {which}, invoked {'once' if tries == 1 else f'{tries} times'}, request {discard.request_id}"
        concerned = current.messages
        if len(concerned) > 1:
            numbers = [_sequence_of(record) for record in json.loads(discard.json())["Records"]]
            concerned = [message for message in concerned if any(message.first <= number <= message.last for number in numbers)]
        for message in concerned:
            self._failures.setdefault(message, detail)

    # As a checkpoint store.

    def claim(self, key: CheckpointKey, owner: str) -> Claim:
        """Give every shard without a checkpoint."""
        del owner
        return Claim(None, key.shard_id)

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Settle what the checkpoints say is done."""
        for shard_id, blob in checkpoints:
            self.settle(shard_id, Checkpoint.inspect(blob)["watermark"])
        return [True] * len(checkpoints)

    def release(self, token: str) -> None:
        """Do nothing: nothing was claimed."""

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _sequence_of(record: dict[str, Any]) -> int:
    return int(record["kinesis"]["sequenceNumber"] if "kinesis" in record else record["dynamodb"]["SequenceNumber"])


def redrive(
    messages: str | os.PathLike[str] | Messages,
    function: Function | Callable[[Any, Any], Any] | str,
    *,
    source: Source | None = None,
    batch_size: int | None = None,
    parallelization_factor: int = 1,
    maximum_retry_attempts: int = 0,
    bisect_batch_on_function_error: bool = False,
    function_response_types: Sequence[str] = (),
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    delete: bool = True,
    delete_expired: bool = False,
) -> RedriveSummary:
    """Run a function over the records that were discarded, and delete the messages that name them.

    A message is an invocation record, in whatever holds it. Its records are read from their stream, from the first sequence number to the
    last, unless it holds them itself, as Lambda's objects in S3 do. Messages of one shard are run in the order of the shard, each by itself:
    the next one begins when all records of the one before are done. Those whose sequence numbers overlap are run together, each record
    once. Shards run side by side; one that descends from another waits for it.

    A message is deleted when all of its records have succeeded. One that fails stays where it is, and the next one is run. Delivery is at
    least once: what ran when a redrive crashed runs again in the next one. Where the batch was one of several of its shard at a time
    (ParallelizationFactor), or records were filtered out, the stream has other records too between the first and the last; they run again
    as well.

    Args:
        messages: an SQS queue (ARN or URL), `s3://BUCKET/PREFIX`, the path of a file with one invocation record on a line, or any object with
            the methods of `Messages`. What SNS has put a wrapping around is taken out of it.
        function: what is invoked: a function `(event, context)`, text that names one, or a `Function`.
        source: the stream to read from. By default that of each message, by its ARN.
        batch_size: most records of a batch; by default as many as the largest batch that was discarded had.
        parallelization_factor: most batches of a message at a time, 1 to 10.
        maximum_retry_attempts: retries of a batch that fails, before its message counts as failed; -1 for no limit.
        bisect_batch_on_function_error: halve a failed batch instead of retrying it whole.
        function_response_types: empty, or ("ReportBatchItemFailures",).
        region: where a queue or bucket is whose name does not say it.
        endpoint_url: another server than AWS's own, for queue, bucket and stream.
        profile: a profile of the shared configuration files.
        delete: False runs the function and leaves every message where it is.
        delete_expired: delete messages, too, whose records the stream no longer has.

    Raises:
        ConfigError: an option cannot be right, or boto3 is not installed and needed.
        SourceError: the messages cannot be read.

    Example:
        The records that a run over a stream in memory has discarded, once the function is mended:

        >>> import tempfile
        >>> from streamcore import EventSourceMapping, FileDestination, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
        >>> stream = MemoryStream("orders")
        >>> _ = stream.put("ann", b"5"), stream.put("bob", b"seven")
        >>> def broken(event, context):
        ...     raise ValueError("seven")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     worker = Worker(checkpoints=MemoryCheckpointStore())
        ...     mapping = EventSourceMapping(starting_position="TRIM_HORIZON", event_source_arn=stream.describe().event_source_arn,
        ...                                  maximum_retry_attempts=0)
        ...     worker.add(mapping, stream, LocalFunction(broken), FileDestination(folder + "/discards.ndjson"))
        ...     discarded = worker.run(until_idle=True).discarded_records
        ...     summary = redrive(folder + "/discards.ndjson", lambda event, context: None, source=stream)
        >>> discarded, summary.redriven, summary.succeeded, summary.complete
        (2, 1, 2, True)
    """
    from streamcore.functions._open import open_function  # noqa: PLC0415  (a function that is given needs no kinds of functions)
    from streamcore.functions.local import LocalFunction  # noqa: PLC0415

    aws = {"region": region, "endpoint_url": endpoint_url, "profile": profile}
    options = MappingOptions(
        batch_size, parallelization_factor, maximum_retry_attempts, bisect_batch_on_function_error, tuple(function_response_types)
    )
    options.mapping(EventSourceMapping(starting_position="TRIM_HORIZON").event_source_arn, 1)  # a wrong option is told of at once
    with contextlib.ExitStack() as stack:
        invoked: Function
        if isinstance(function, str):
            invoked = stack.enter_context(contextlib.closing(open_function(function, **aws)))
        elif callable(function):
            invoked = LocalFunction(function)
        else:
            invoked = function
        places: Messages
        if isinstance(messages, (str, os.PathLike)):
            places = stack.enter_context(contextlib.closing(open_messages(os.fspath(messages), shows=not delete, **aws)))
        else:
            places = messages
        streams = stack.enter_context(contextlib.closing(Streams(source, endpoint_url=endpoint_url, profile=profile)))
        return Redrive(
            places, invoked, open_stream=streams.open, mapping=options.mapping, delete=delete, delete_expired=delete_expired
        ).run()


@dataclass(frozen=True, slots=True)
class MappingOptions:
    """How functions are invoked; see `redrive`."""

    batch_size: int | None
    parallelization_factor: int
    maximum_retry_attempts: int
    bisect_batch_on_function_error: bool
    function_response_types: tuple[str, ...]

    def mapping(self, stream_arn: str, largest_batch: int) -> EventSourceMapping:
        """Return the mapping of a stream of which batches of at most so many records were discarded.

        Raises:
            ConfigError: an option is out of range, or the stream's ARN is none.
        """
        return EventSourceMapping(
            event_source_arn=stream_arn,
            starting_position="TRIM_HORIZON",
            batch_size=min(max(largest_batch, 1), 10_000) if self.batch_size is None else self.batch_size,
            parallelization_factor=self.parallelization_factor,
            maximum_retry_attempts=self.maximum_retry_attempts,
            bisect_batch_on_function_error=self.bisect_batch_on_function_error,
            function_response_types=self.function_response_types,
        )


_CONSUMER = re.compile(r"(?P<stream>arn:[^:]+:kinesis:.*:stream/[^/]+)/consumer/.*")


class Streams:
    """Opens streams by their ARN, each once, until it is closed.

    Args:
        source: the only stream to read from; None for any. It is not closed.
        endpoint_url: see `redrive`.
        profile: see `redrive`.
    """

    def __init__(self, source: Source | None, *, endpoint_url: str | None = None, profile: str | None = None) -> None:
        self._source = source
        self._endpoint_url = endpoint_url
        self._profile = profile
        self._opened: dict[str, Source] = {}

    def open(self, arn: str) -> Source:
        """Return the stream.

        Raises:
            SourceError: it is another stream than the one to read from, or cannot be found by its ARN.
        """
        consumer = _CONSUMER.fullmatch(arn)
        arn = consumer["stream"] if consumer else arn
        if self._source is not None:
            given = self._source.describe().event_source_arn
            if given != arn:
                raise SourceError(f"its stream is {arn}, and the one that was given is {given}")
            return self._source
        if arn not in self._opened:
            option = StreamOption.parse(arn)
            if option is None or "/file/" in arn or "/memory/" in arn:
                raise SourceError(f"its stream is {arn}, which cannot be found by this name; give it with --source or source=")
            self._opened[arn] = option.open(region=None, endpoint_url=self._endpoint_url, profile=self._profile)
        return self._opened[arn]

    def close(self) -> None:
        """Close what was opened."""
        while self._opened:
            self._opened.popitem()[1].close()
