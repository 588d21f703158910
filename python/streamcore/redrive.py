"""Runs a function over the records that were discarded: what an on-failure destination was told of.

Lambda's invocation records name the records of a batch that it gave up and do not hold them: they must be read from the stream before they
expire ("Lambda developer guide", Retain discarded records for a DynamoDB event source / a Kinesis data stream event source). `redrive`
does that.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from streamcore._redrive_aws import open_messages
from streamcore._redrive_desk import Desk, LeftMessage, RedriveSummary, Tally
from streamcore._redrive_messages import Message, Messages
from streamcore._redrive_source import RedriveSource, ranges_of
from streamcore._stats import WorkerStats
from streamcore._streams import StreamOption
from streamcore.errors import ConfigError, SourceError
from streamcore.mapping import EventSourceMapping
from streamcore.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamcore.protocols import Function, Source

__all__ = ["LeftMessage", "MappingOptions", "Messages", "Redrive", "RedriveSummary", "Streams", "redrive"]

_NO_ACCOUNT = "000000000000"
_HINT = f"; account {_NO_ACCOUNT} is that of files and of local servers: give the file as source, or the server's endpoint"
_SKEW_MS = 1000  # what a stream's creation time may be off by: some servers have whole seconds


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
        self._tally = Tally(messages, delete=delete, delete_expired=delete_expired)
        self._worker: Worker | None = None
        # Touched without a lock: a signal handler may stop the redrive between any two instructions of its own thread.
        self._reason: Literal["stopped", "interrupted"] | None = None

    def run(self) -> RedriveSummary:
        """Redrive everything that is found, and return what came of it.

        The first Ctrl-C lets running batches finish; what is not done stays where it is.

        Raises:
            SourceError: the messages cannot be read.
            ConfigError: an option cannot be right.
        """
        started = time.monotonic()
        tally = self._tally
        while not self._is_stopped() and (received := self._messages.receive()):
            messages = tally.found(received)
            groups: dict[tuple[str, bool], list[Message]] = {}
            for message in messages:
                groups.setdefault((message.stream_arn, message.payload), []).append(message)
            for (stream_arn, payload), group in groups.items():
                if self._is_stopped():
                    tally.leave(group, "not_run", "the redrive was stopped")
                else:
                    self._run(stream_arn, group, payload=payload)
        return tally.summary(reason=self._reason or "ended", elapsed_seconds=time.monotonic() - started)

    def stop(self) -> None:
        """Let running batches finish and run nothing more. May be called from any thread, and more than once."""
        self._reason = self._reason or "stopped"
        worker = self._worker
        if worker is not None:
            worker.stop()

    def _is_stopped(self) -> bool:
        return self._reason is not None

    def stats(self) -> WorkerStats:
        """Return how the worker stands that runs now. May be called from any thread."""
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
        desk = Desk(self._tally, {shard_id: ranges_of(of_shard) for shard_id, of_shard in shards.items()})
        source = RedriveSource(mapping.event_source_arn, desk.ranges, stream, records=self._messages.records, on_read=desk.settle)
        desk.source = source
        # Each range is settled at once: what is deleted lags behind what is done by one save, and the next range waits for it.
        worker = Worker(checkpoints=desk, checkpoint_interval_ms=0)
        worker.add(mapping, source, self._function, desk)
        self._worker = worker
        if self._is_stopped():
            worker.stop()
        failure = "the redrive was stopped"
        try:
            worker.run()
        except SourceError as error:
            failure = str(error)
        finally:
            self._worker = None
            summary = worker.summary()
            self._tally.add(summary)
        if summary.reason == "interrupted":
            self._reason = "interrupted"
        for message in desk.unsettled():
            self._tally.leave([message], "not_run", failure)


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
    last, unless it holds them itself, as Lambda's objects in S3 do. Messages of one shard are run in the order of the shard, each by
    itself: the next one begins when all records of the one before are done. Those whose sequence numbers overlap are run together, each
    record once. Shards run side by side; one that descends from another waits for it.

    A message is deleted when all of its records have succeeded. One that fails stays where it is, and the next one is run. Delivery is at
    least once: what ran when a redrive crashed runs again in the next one. Where the batch was one of several of its shard at a time
    (ParallelizationFactor), or records were filtered out, the stream has other records too between the first and the last; they run again
    as well. Records of a mapping with tumbling windows come without window and state.

    Args:
        messages: an SQS queue (ARN or URL), `s3://BUCKET/PREFIX`, the path of a file with one invocation record on a line, or any object
            with the methods of `Messages`. What SNS has wrapped around a record is taken off.
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

    options = MappingOptions(
        batch_size, parallelization_factor, maximum_retry_attempts, bisect_batch_on_function_error, tuple(function_response_types)
    )
    options.mapping(EventSourceMapping(starting_position="TRIM_HORIZON").event_source_arn, 1)  # a wrong option is told of at once
    with contextlib.ExitStack() as stack:
        invoked: Function
        if isinstance(function, str):
            named = open_function(function, region=region, endpoint_url=endpoint_url, profile=profile)
            invoked = stack.enter_context(contextlib.closing(named))
        elif callable(function):
            invoked = LocalFunction(function)
        else:
            invoked = function
        places: Messages
        if isinstance(messages, (str, os.PathLike)):
            where = os.fspath(messages)
            opened = open_messages(where, region=region, endpoint_url=endpoint_url, profile=profile, shows=not delete)
            places = stack.enter_context(contextlib.closing(opened))
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


def _without_consumer(arn: str) -> str:
    """Return the ARN of the stream where `arn` is that of a consumer of it."""
    consumer = _CONSUMER.fullmatch(arn)
    return consumer["stream"] if consumer else arn


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
        arn = _without_consumer(arn)
        if self._source is not None:
            given = self._source.describe().event_source_arn
            if given == arn:
                return self._source
            if _without_consumer(given) != arn:
                raise SourceError(f"its stream is {arn}, and the one that was given is {given}")
            # What is pushed to a consumer cannot be asked for by range: the stream itself is read.
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
