"""What becomes of messages that are redriven: which are done and are deleted, which are left, and why."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from streamcore._redrive_messages import Message, Unreadable
from streamcore._streamcore import Checkpoint
from streamcore.errors import SourceError, UsageError
from streamcore.protocols import Claim
from streamcore.sources._events import sequence_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamcore._redrive_messages import Messages
    from streamcore._redrive_source import Range, RedriveSource
    from streamcore._streamcore import Discard
    from streamcore.protocols import CheckpointKey
    from streamcore.worker import Summary

__all__ = ["Desk", "LeftMessage", "Outcome", "RedriveSummary", "Tally"]

_log = logging.getLogger("streamcore.redrive")

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
        reason: "ended" (all that was found was tried), "stopped" (`Redrive.stop`) or "interrupted" (Ctrl-C).
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
    reason: Literal["ended", "stopped", "interrupted"] = "ended"
    elapsed_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be redriven."""
        return self.reason == "ended" and all(message.deleted for message in self.left)


class Tally:
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
        _log.info(
            "%s: %s: %s",
            left.message,
            left.outcome,
            left.detail,
            extra={
                "source": left.message,
                "outcome": left.outcome,
                "stream": left.stream_arn,
                "shardId": left.shard_id,
                "startSequenceNumber": left.first_sequence_number,
                "endSequenceNumber": left.last_sequence_number,
            },
        )
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

    def summary(self, *, reason: Literal["ended", "stopped", "interrupted"], elapsed_seconds: float) -> RedriveSummary:
        """Return the sums."""
        return RedriveSummary(
            messages=self._count,
            redriven=self._redriven,
            left=tuple(self._left),
            reason=reason,
            elapsed_seconds=elapsed_seconds,
            **self._totals,
        )


class Desk:
    """What a worker takes for its checkpoint store and its destination: here both say what has become of the messages.

    A saved watermark says that everything up to it is done; a range that lies below is settled. A discard is a failure of its messages.
    """

    def __init__(self, tally: Tally, ranges: dict[str, list[Range]]) -> None:
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
        return [message for ranges in self.ranges.values() for one in ranges if id(one) not in self._settled for message in one.messages]

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
            numbers = [sequence_of(record) for record in json.loads(discard.json())["Records"]]
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
