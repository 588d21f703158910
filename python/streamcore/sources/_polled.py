"""What reading by polling is, for every stream of AWS: one identity, shards, iterators, and what helps when a call fails."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from streamcore._streamcore import Page
from streamcore.errors import PageError, SourceError, SourceUnavailableError
from streamcore.protocols import Fetched, ShardDescription, Start, StreamDescription
from streamcore.sources._aws import AwsClient, AwsError
from streamcore.sources._wall import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamcore.protocols import Clock

__all__ = ["SEQUENCE_KINDS", "PolledReader", "PolledSource"]

_log = logging.getLogger("streamcore.sources")
_Answer = TypeVar("_Answer")

_TRIES = 5  # of each call at first contact
SEQUENCE_KINDS = ("AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER")
"""Starts that name a record, which may have been trimmed."""

_BEING_MADE = ("CREATING", "ENABLING")
_MADE_PAUSE_S, _MADE_TRIES = 2, 150  # a stream that is being made is waited for, five minutes in all
_THROTTLED_MS, _THROTTLED_MAX_MS = 250, 10_000
# What an iterator that the service no longer takes is answered with. DynamoDB Local says "invalid" once its shards have rotated.
_STALE = frozenset({"expired_iterator", "trimmed", "invalid"})


class PolledSource(ABC):
    """A stream of AWS whose shards are listed and read with iterators. May be used from any thread.

    A subclass says how its API describes and lists, and what its answers mean.

    Args:
        stream: how the user names the stream.
        client: calls the service.
        clock: tells the time.
    """

    format: ClassVar[Literal["kinesis", "dynamodb"]]
    records_max: ClassVar[int]  # of one answer
    data_context: ClassVar[Mapping[str, str]] = {}  # what the endpoint rules ask for with a call for data

    def __init__(self, stream: str, client: AwsClient, clock: Clock | None) -> None:
        self.stream = stream
        self._client = client
        self._clock: Clock = clock if clock is not None else WallClock()
        self._lock = threading.Lock()
        self._identity: str | None = None
        self._doubtful = False
        self._fresh = False  # described, and not listed since
        self._closed: frozenset[str] = frozenset()
        self._tries = _TRIES  # until first contact is made: later the worker repeats what failed, each thing at its own pace

    # What differs.

    @abstractmethod
    def _described(self) -> tuple[str, StreamDescription]:
        """Ask what the stream is; return its status too."""

    @abstractmethod
    def _listed(self) -> list[ShardDescription]:
        """Ask for all pages of one listing."""

    @abstractmethod
    def _iterator_parameters(self, start: Start) -> dict[str, object]:
        """Return what GetShardIterator is asked with, but for the shard."""

    def _records_parameters(self) -> dict[str, str]:
        """Return what GetRecords is asked with, but for iterator and limit."""
        return {}

    @abstractmethod
    def _reader(self, shard_id: str, start: Start) -> PolledReader:
        """Return a reader."""

    # What a worker asks.

    def describe(self) -> StreamDescription:
        """Say what the stream is. The first identity seen is the one that this source reads.

        Where it is still being made at the first call, this returns when it is active.

        Raises:
            SourceUnavailableError: there is no such stream, it is not active after five minutes, or it may not be described.
            SourceError: the stream was made anew since the first call.
        """
        tries = _MADE_TRIES if self._identity is None else 1
        while True:
            asked_ms = self.now_ms()
            status, description = self._described()
            tries -= 1
            if status not in _BEING_MADE or not tries:
                break
            if tries == _MADE_TRIES - 1:
                text = "PROBLEM: stream %s is not active yet: its status is %s; reading begins when it is"
                _log.warning(text, self.stream, status, extra={"stream": self.stream})
            time.sleep(_MADE_PAUSE_S)
        if status in (*_BEING_MADE, "DELETING"):
            message = f"stream {self.stream} is not active: its status is {status}"
            raise SourceUnavailableError(message, code="ResourceInUseException")
        with self._lock:
            known = self._identity = self._identity or description.identity
            self._doubtful = False
            self._fresh = True
        if known != description.identity:
            raise self._made_anew(known, description.identity)
        return dataclasses.replace(description, now_ms=self.in_server_time(asked_ms))

    def list_shards(self) -> Sequence[ShardDescription]:
        """Return every shard that can still be read, closed ones too, parents before children.

        Raises:
            SourceUnavailableError: the shards cannot be listed now.
            SourceError: the stream was made anew since the first call of `describe`.
        """
        fresh, self._fresh = self._fresh, False
        if self._identity is not None and not fresh:
            self.describe()
        shards = self._listed()
        # A shard that has a child is closed, though some servers do not say so.
        parents = {parent for shard in shards for parent in shard.parents}
        shards = [dataclasses.replace(shard, closed=shard.closed or shard.shard_id in parents) for shard in shards]
        self._closed = frozenset(shard.shard_id for shard in shards if shard.closed)
        self._tries = 1
        return _parents_first(shards)

    def open(self, shard_id: str, start: Start) -> PolledReader:
        """Return a reader of the shard that begins at `start`; at LATEST it stands at the tip when this returns.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream was made anew.
        """
        reader = self._reader(shard_id, start)
        if start.kind == "LATEST":
            try:
                reader.stand(tries=_TRIES)  # at first contact nobody else would try again
            except AwsError as error:
                raise error.unavailable(f"{self.stream}, shard {shard_id}") from error
        return reader

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:  # noqa: B027  (nothing to do for any of them)
        """Do nothing: the stream is polled."""

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._client.close()

    # What a reader asks of its source.

    def iterator(self, shard_id: str, start: Start, *, tries: int = 1) -> str:
        """Return an iterator of the shard that begins at `start`."""
        if self._doubtful:
            # The server was out of reach, or did not know the stream: what answers now may be another incarnation of it.
            self.describe()
        parameters = {"ShardId": shard_id, **self._iterator_parameters(start)}
        answer = self._noting(lambda: self._client.ask("GetShardIterator", parameters, tries=tries, context=self.data_context))
        found = answer.get("ShardIterator")
        if not isinstance(found, str):
            action = self._client.action("GetShardIterator")
            raise SourceUnavailableError(f"shard {shard_id} of {self.stream}: the server gave no iterator", action=action)
        return found

    def records(self, iterator: str, limit: int) -> bytes:
        """Return the body of one GetRecords answer."""
        parameters = {"ShardIterator": iterator, "Limit": min(limit, self.records_max), **self._records_parameters()}
        body = json.dumps(parameters).encode()
        return self._noting(lambda: self._client.call("GetRecords", body, context=self.data_context))

    def now_ms(self) -> int:
        """Return the time."""
        return self._clock.now_ms()

    def action(self, operation: str) -> str:
        """Return the IAM action of an operation."""
        return self._client.action(operation)

    def is_closed(self, shard_id: str) -> bool:
        """Return whether the latest listing has the shard as closed. Such a shard has no tip: it is read until its end is said."""
        return shard_id in self._closed

    def find(self, shard_id: str) -> ShardDescription | None:
        """Return a shard as a listing made now has it, None where it is not there."""
        return next((shard for shard in self.list_shards() if shard.shard_id == shard_id), None)

    def in_server_time(self, instant_ms: int) -> int:
        """Return an instant right before the latest call by the clock that stamps the records, or a little earlier.

        The server tells whole seconds, some servers the one before. A clock of this machine that agrees is believed to the millisecond.
        """
        second_ms = self._client.date_ms()
        if second_ms is None or instant_ms - 2000 < second_ms <= self.now_ms():
            return instant_ms
        return second_ms

    def _noting(self, call: Callable[[], _Answer]) -> _Answer:
        """Call, and take note where what answers later may not be the same stream."""
        try:
            return call()
        except AwsError as error:
            if error.kind in ("not_found", "transient"):
                self._doubtful = True
            raise

    def _made_anew(self, known: str, found: str) -> SourceError:
        return SourceError(
            f"stream {self.stream} was made anew while it was read: it was {known}, it is {found}; "
            "start again to read the new one from the starting position"
        )


class PolledReader(ABC):
    """Reads one shard of a `PolledSource`."""

    def __init__(self, source: PolledSource, shard_id: str, start: Start) -> None:
        self._source = source
        self._shard_id = shard_id
        self._start = start  # where to go on: behind the last record handed over, once there is one
        self._iterator: str | None = None
        self._throttled = 0
        self._trimmed = False

    @abstractmethod
    def _fetch(self, limit: int) -> Fetched:
        """Read what comes next, with `_read`, and say what it means."""

    def stand(self, *, tries: int = 1) -> str:
        """Take the iterator now and return it. A start at the tip is from then on this instant, however often the iterator expires."""
        now_ms = self._source.now_ms()
        try:
            iterator = self._source.iterator(self._shard_id, self._start, tries=tries)
        except AwsError as error:
            if self._start.kind not in SEQUENCE_KINDS or error.kind not in ("invalid", "trimmed"):
                raise
            return self._to_horizon()
        if self._start.kind == "LATEST":
            self._start = Start("AT_TIMESTAMP", timestamp_ms=self._source.in_server_time(now_ms))
        self._iterator = iterator
        return iterator

    def fetch(self, limit: int) -> Fetched:
        """Return the next records, at most `limit` and at most as many as the service gives at once.

        An iterator that has expired is renewed behind the last record handed over. Where that record is trimmed, or the shard is gone,
        the answer says `trimmed`.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream was made anew.
            AwsError: the service failed, and may not the next time.
        """
        try:
            return self._fetch(limit)
        except AwsError as error:
            if error.kind == "throttled":
                return self._throttle(error)
            if error.kind in ("not_found", "invalid"):
                return self._gone(error)
            if error.kind in ("transient", "expired_iterator"):
                raise  # an iterator that was renewed has expired again: the next try comes after a pause
            raise error.unavailable(self._name) from error

    def close(self) -> None:
        """Forget the iterator."""
        self._iterator = None

    def _read(self, limit: int) -> tuple[Page, int]:
        """Return the next page, and the bytes of the answer it came in."""
        iterator = self._iterator if self._iterator is not None else self.stand()
        try:
            body = self._source.records(iterator, limit)
        except AwsError as error:
            if error.kind not in _STALE:
                raise
            _log.debug("shard %s: %s; a new iterator begins at %s", self._shard_id, error, self._start, extra=self._fields(error))
            self._iterator = None
            body = self._source.records(self._to_horizon() if error.kind == "trimmed" else self.stand(), limit)
        try:
            page = Page.parse(body, self._source.format)
        except PageError as error:
            # A body that broke off, or a server that errs: nothing was taken in, and the same records are asked for again.
            message = f"the answer for shard {self._shard_id} of {self._source.stream} cannot be read: {error}"
            raise SourceUnavailableError(message, action=self._source.action("GetRecords")) from error
        self._throttled = 0
        self._iterator = page.next_iterator
        last = page.last_sequence_number
        if last is not None:
            self._start = Start("AFTER_SEQUENCE_NUMBER", sequence_number=last)
        return page, len(body)

    def _told_trimmed(self) -> bool:
        """Return whether records were trimmed, and say so once."""
        trimmed, self._trimmed = self._trimmed, False
        return trimmed

    def _to_horizon(self) -> str:
        """What comes next is older than what the stream keeps: go on with the oldest record that is left."""
        self._source.describe()  # had the stream been made anew, this would say so
        iterator = self._iterator = self._source.iterator(self._shard_id, Start("TRIM_HORIZON"))
        self._trimmed = True
        return iterator

    @property
    def _name(self) -> str:
        return f"{self._source.stream}, shard {self._shard_id}"

    def _fields(self, error: AwsError) -> dict[str, object]:
        return {"stream": self._source.stream, "shardId": self._shard_id, "errorType": error.code, "errorMessage": error.text}

    def _throttle(self, error: AwsError) -> Fetched:
        pause_ms = min(_THROTTLED_MS << min(self._throttled, 16), _THROTTLED_MAX_MS)
        self._throttled += 1
        fields = {**self._fields(error), "retryInMs": pause_ms, "failures": self._throttled}
        _log.info("shard %s: %s; next read in %.2f s", self._shard_id, error, pause_ms / 1000, extra=fields)
        return Fetched(None, retry_after_ms=pause_ms)

    def _gone(self, error: AwsError) -> Fetched:
        """The stream or the shard is not there. A shard of a stream that is there has been trimmed away: nothing is left of it."""
        self._iterator = None
        if self._source.find(self._shard_id) is not None:
            raise error.unavailable(self._name) from error
        return Fetched(None, ended=True, trimmed=True)


def _parents_first(shards: list[ShardDescription]) -> list[ShardDescription]:
    """Order a listing so that parents come before their children; shards that have no order among them keep theirs."""
    by_id = {shard.shard_id: shard for shard in shards}
    ordered: dict[str, ShardDescription] = {}
    for shard in shards:
        path = [shard]
        while path:
            parents = [
                by_id[parent] for parent in path[-1].parents if parent in by_id and parent not in ordered and by_id[parent] not in path
            ]
            if parents:
                path.append(parents[0])
            else:
                top = path.pop()
                ordered[top.shard_id] = top
    return list(ordered.values())
