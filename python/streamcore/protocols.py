"""The edges of streamcore: what others implement.

Sources, functions, destinations and checkpoint stores know this module and nothing else of the package. Every edge is a small
`typing.Protocol`; any object with these methods will do. Times are milliseconds since the Unix epoch unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from streamcore._streamcore import Batch, Discard, Page

__all__ = [
    "Answer",
    "CheckpointKey",
    "CheckpointStore",
    "Claim",
    "Clock",
    "Destination",
    "Fetched",
    "Function",
    "ShardDescription",
    "ShardReader",
    "Source",
    "Start",
    "StreamDescription",
    "Wakeup",
]


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What a source says of its stream at first contact.

    Attributes:
        identity: names one incarnation of the stream (a creation time, a stream label); a stream made anew has another one.
        event_source_arn: the ARN that events carry.
        retention_ms: how long the stream keeps a record; None for ever (memory, files).
        poll_interval_ms: pause between two reads of a shard at its tip; 0 for a source that wakes its reader itself.
        clock: "wall", or "replay" where time is the largest arrival time handed out (recorded data).
        format: which API's records the stream has; it decides the shape of the events.
        now_ms: the time when this was asked for, by the clock that gives the records their times, or a little earlier; None where that
            is the worker's own. A start at LATEST is this instant.
        created_ms: when this incarnation was made; None where the source does not say.
    """

    identity: str
    event_source_arn: str
    retention_ms: int | None = None
    poll_interval_ms: int = 1000
    clock: Literal["wall", "replay"] = "wall"
    format: Literal["kinesis", "dynamodb"] = "kinesis"
    now_ms: int | None = None
    created_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ShardDescription:
    """One shard of a listing.

    Attributes:
        shard_id: its name, unique in the stream.
        parents: the shards that must be complete before this one starts; empty where there are none.
        closed: whether no further record will be written to it.
        hash_keys: the first and the last hash key of it, 0 to 2^128 - 1; None where the stream has none.
    """

    shard_id: str
    parents: tuple[str, ...] = ()
    closed: bool = False
    hash_keys: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin to read a shard.

    `timestamp_ms` goes with AT_TIMESTAMP, `sequence_number` with AFTER_SEQUENCE_NUMBER, which is how reading resumes after a checkpoint,
    and with AT_SEQUENCE_NUMBER, which begins with that record itself. Only redriving asks for the last: a source that is never redriven
    from need not know it.
    """

    kind: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER"]
    timestamp_ms: int | None = None
    sequence_number: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """One answer of a shard reader.

    Attributes:
        page: the records, or None for none.
        millis_behind: how far the reader is from the tip, 0 at the tip; None where the source does not say.
        ended: the shard is closed and this was its last page.
        retry_after_ms: the source asks for a pause before the next read (it is throttled, or keeps to the limits of the service); 0 for
            none.
        trimmed: records were trimmed before they could be read; reading went on with the oldest that is left.
    """

    page: Page | None
    millis_behind: int | None = None
    ended: bool = False
    retry_after_ms: int = 0
    trimmed: bool = False


class ShardReader(Protocol):
    """Reads one shard in order. Used by one thread at a time."""

    def fetch(self, limit: int) -> Fetched:
        """Return the next records, at most `limit` of them. Never waits for records to come.

        Raises:
            SourceUnavailableError: the data cannot be read now; reading is tried again, ever more slowly.
            SourceError: the data cannot be read, and never will be.
            Exception: whatever else; reading is tried again after a pause.
        """

    def close(self) -> None:
        """Free what the reader holds. Safe to call twice."""


class Wakeup(Protocol):
    """What `Source.set_wakeup` takes. May be called from any thread."""

    def __call__(self, shard_id: str | None = None, /) -> None:
        """Say that the shard has something to fetch; None: any of them may have, or the listing has changed."""


@runtime_checkable
class Source(Protocol):
    """A stream: a set of shards, each an ordered log of records."""

    def describe(self) -> StreamDescription:
        """Say what the stream is.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream is not there or cannot be read.
        """

    def list_shards(self) -> Sequence[ShardDescription]:
        """Return every shard that can still be read, parents before children.

        Raises:
            SourceUnavailableError: the shards cannot be listed now.
            SourceError: the stream cannot be read any more.
        """

    def open(self, shard_id: str, start: Start) -> ShardReader:
        """Return a reader of the shard that begins at `start`; at LATEST it stands at the tip when this returns.

        Raises what `ShardReader.fetch` does.
        """

    def set_wakeup(self, callback: Wakeup | None) -> None:
        """Call `callback` from any thread when a shard has something to fetch (records, an error, an end) or the listing has changed.

        A source whose `poll_interval_ms` is 0 is asked again only then, once a fetch has brought no record.

        A source that is only polled does nothing here.
        """

    def close(self) -> None:
        """Free what the source holds. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function gave for one invocation.

    Attributes:
        kind: "success"; "function_error" (it ran and failed); "throttled", "service_error" or "too_large" (its service refused the event:
            it is never sent again as it is) where it did not run.
        payload: the decoded JSON value that it returned, or the error object.
        status_code: the HTTP status of the invocation, 0 where no answer came.
        executed_version: the version that ran; None where it did not.
        function_error: "Unhandled" where the function raised.
        request_id: the id that the service gave to this attempt; None where the engine's own id holds.
        alive_until_ms: with "service_error", where the run may go on though no answer will come: the instant at which it can no longer.
            The batch stays in flight until then, and is finished with this answer at that instant.
        problem: for the mapping's status: a sentence on what went wrong; None where there is nothing to tell.
        detail: for the log: what else helps who looks for the cause of a failure; None where there is nothing.
    """

    kind: Literal["success", "function_error", "throttled", "service_error", "too_large"]
    payload: object = None
    status_code: int = 200
    executed_version: str | None = "$LATEST"
    function_error: str | None = None
    request_id: str | None = None
    alive_until_ms: int | None = None
    problem: str | None = None
    detail: str | None = None


class Function(Protocol):
    """What is invoked with a batch. Called from several threads at once."""

    def invoke(self, batch: Batch) -> Answer | Awaitable[Answer]:
        """Run the function once over the batch's event.

        An asynchronous function returns an awaitable, which the worker awaits on its event loop.
        Every failure of the function is an answer; only KeyboardInterrupt leaves this method.
        """

    def close(self) -> None:
        """Free what the function holds. Safe to call twice."""


class Destination(Protocol):
    """Where the metadata of discarded records goes. Called from several threads at once."""

    def send(self, discard: Discard) -> None:
        """Deliver one discard; returning means that it has arrived and will survive a crash.

        Raises:
            OSError: it could not be delivered; the worker tries again.
        """

    def close(self) -> None:
        """Free what the destination holds. Safe to call twice."""


@dataclass(frozen=True, slots=True, order=True)
class CheckpointKey:
    """Names one checkpoint: a shard of one incarnation of a stream, read by one mapping."""

    mapping_uuid: str
    stream_identity: str
    shard_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed checkpoint.

    Attributes:
        checkpoint: the stored blob, or None where there is none yet.
        token: the fencing token that `save` and `release` take; a later claim of the same key makes it void.
        other_identities: identities of other incarnations of the stream that this mapping has checkpoints of.
    """

    checkpoint: bytes | None
    token: str
    other_identities: tuple[str, ...] = ()


class CheckpointStore(Protocol):
    """Keeps checkpoints. `claim`, `save` and `release` may be called from any thread."""

    def claim(self, key: CheckpointKey, owner: str) -> Claim:
        """Take the checkpoint for `owner`.

        Raises:
            ClaimError: a live owner holds the mapping.
            CheckpointError: the store cannot be read.
        """

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Store blobs under their tokens, all in one commit, each by compare-and-set.

        Returns:
            For each, True if saved, False if the token is void (the claim is lost).

        Raises:
            CheckpointError: nothing was stored (a full disk, a locked file).
        """

    def release(self, token: str) -> None:
        """Give a claim up. A void token is ignored."""

    def close(self) -> None:
        """Free what the store holds. Safe to call twice."""


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch. Never goes back."""
