"""Reads a stream of Kinesis Data Streams, or of a server with its API, by polling (Lambda developer guide, "Using Lambda with Kinesis")."""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from streamcore._streamcore import Page
from streamcore.errors import ConfigError, PageError, SourceError, SourceUnavailableError
from streamcore.protocols import Fetched, ShardDescription, Start, StreamDescription
from streamcore.sources._aws import AwsClient, AwsError
from streamcore.sources._wall import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamcore.protocols import Clock

__all__ = ["KinesisSource"]

_log = logging.getLogger("streamcore.sources")
_Answer = TypeVar("_Answer")

_ARN = re.compile(r"arn:[a-z-]+:kinesis:(?P<region>[a-z0-9-]+):\d*:stream/(?P<name>[a-zA-Z0-9_.-]{1,128})")
_CONSUMER = re.compile(r"arn:[^:]+:kinesis:.*:stream/[^/]+/consumer/")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")

_CONTROL, _DATA = {"OperationType": "control"}, {"OperationType": "data"}
_TRIES = 5  # of each call at first contact
_LISTINGS = 3  # of a listing whose token expires between two pages
_RECORDS_MAX = 10_000

_POLL_INTERVAL_MS = 1000
# The limits of one shard, all its consumers together: five reads and 2 MiB a second (Kinesis API reference, GetRecords).
_READ_INTERVAL_MS = 200
_READ_BYTES_PER_MS = 2 * 1024 * 1024 / 1000
_THROTTLED_MS, _THROTTLED_MAX_MS = 250, 10_000
_UNSURE_MS = 1000
# Empty reads at the tip of a closed shard after which a server that never says "end" is taken to mean it.
_ENDLESS_READS = 3
# Some servers list this as the last sequence number of an open shard.
_NO_END = str(2**63 - 1)
# Some servers say that they are 0 ms behind whatever is left to be read. Where the answer is also smaller than what was asked for, and than
# what any of them cuts an answer at, nothing is left.
_CUT_BYTES = 1_500_000


class KinesisSource:
    """A stream of Kinesis Data Streams.

    Credentials, region and endpoint are found as every AWS tool finds them: environment, shared configuration files, the host's own role.
    A shard is read once a second while it is at its tip and again at once while it is behind, within the limits that Kinesis sets for a
    shard: five reads and 2 MiB a second, shared by all that read it.

    The stream's identity is its creation time, so that a stream made anew under the same name is never taken for the old one. A stream
    that is made anew while it is read ends the mapping with a `SourceError`; at the next start it is read from the starting position.

    Args:
        stream: the stream's name or ARN. With the ARN requests carry it (which cross-account access needs), unless the server knows
            names only.
        region: the region; by default the ARN's, else that of the environment or profile.
        endpoint_url: another server than AWS's own, as `http://127.0.0.1:4566`.
        profile: a profile of the shared configuration files.
        limits: keep to the limits of a shard of Kinesis. By default only where no other endpoint is given: local servers have none.
        clock: tells the time that limits go by.
        connect_timeout_s: how long to wait for a connection.
        read_timeout_s: how long a server may be silent within an answer.

    Raises:
        ConfigError: name, ARN, region, profile or endpoint cannot be right, or boto3 is not installed.

    Example:
        A worker over a stream of a local server::

            source = KinesisSource("orders", endpoint_url="http://127.0.0.1:4566")
            worker.add(EventSourceMapping(starting_position="LATEST"), source, LocalFunction(handler))
            worker.run()
    """

    def __init__(
        self,
        stream: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        limits: bool | None = None,
        clock: Clock | None = None,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 10,
    ) -> None:
        if _CONSUMER.match(stream):
            message = f"{stream} is a consumer with enhanced fan-out, which FanOutSource reads; give the stream's ARN to poll it"
            raise ConfigError(message, parameter="stream")
        arn = _ARN.fullmatch(stream)
        if arn is None and not _NAME.fullmatch(stream):
            message = (
                f"{stream!r} is neither the name of a Kinesis stream (1 to 128 letters, digits, '_', '.', '-') "
                "nor its ARN (arn:aws:kinesis:REGION:ACCOUNT:stream/NAME)"
            )
            raise ConfigError(message, parameter="stream")
        self.stream = stream
        self._name = arn["name"] if arn else stream
        self._address = {"StreamARN": stream} if arn else {"StreamName": stream}
        self._client = AwsClient(
            "kinesis",
            region=region or (arn["region"] if arn else None),
            endpoint_url=endpoint_url,
            profile=profile,
            context={"StreamARN": stream} if arn else None,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        self._clock: Clock = clock if clock is not None else WallClock()
        own_endpoint = self._client.endpoint_url is None
        self._limits = own_endpoint if limits is None else limits
        self._says_end = own_endpoint
        self._lock = threading.Lock()
        self._identity: str | None = None
        self._doubtful = False
        self._fresh = False  # described, and not listed since
        self._closed: frozenset[str] = frozenset()
        self._tries = _TRIES  # until first contact is made: later the worker repeats what failed, each thing at its own pace

    def describe(self) -> StreamDescription:
        """Say what the stream is. The first identity seen is the one that this source reads.

        Raises:
            SourceUnavailableError: there is no such stream, it is not active, or it may not be described.
            SourceError: the stream was made anew since the first call.
        """
        said = self._summary()
        status = said.get("StreamStatus", "ACTIVE")
        if status not in ("ACTIVE", "UPDATING"):
            message = f"stream {self.stream} is not active: its status is {status}"
            raise SourceUnavailableError(message, code="ResourceInUseException", action=self._client.action("DescribeStreamSummary"))
        arn = str(said.get("StreamARN") or self.stream)
        created = said.get("StreamCreationTimestamp")
        identity = f"created-{round(float(created) * 1000)}" if created is not None else arn
        with self._lock:
            known = self._identity = self._identity or identity
            self._doubtful = False
            self._fresh = True
        if known != identity:
            raise SourceError(
                f"stream {self.stream} was made anew while it was read: it was {known}, it is {identity}; "
                "start again to read the new one from the starting position"
            )
        return StreamDescription(
            identity=identity,
            event_source_arn=arn,
            retention_ms=int(said.get("RetentionPeriodHours") or 24) * 3_600_000,
            poll_interval_ms=_POLL_INTERVAL_MS,
        )

    def list_shards(self) -> Sequence[ShardDescription]:
        """Return every shard that can still be read, closed ones too, parents before children.

        Raises:
            SourceUnavailableError: the shards cannot be listed now.
            SourceError: the stream was made anew since the first call of `describe`.
        """
        fresh, self._fresh = self._fresh, False
        if self._identity is not None and not fresh:
            self.describe()
        found: list[dict[str, Any]] | None = None
        listings = 0
        while found is None:
            listings += 1
            try:
                found = self._listing()
            except AwsError as error:
                if error.kind != "expired_token" or listings == _LISTINGS:
                    raise error.unavailable(self.stream) from error
        shards = [_shard(described) for described in found]
        self._closed = frozenset(shard.shard_id for shard in shards if shard.closed)
        self._tries = 1
        return _parents_first(shards)

    def open(self, shard_id: str, start: Start) -> KinesisReader:
        """Return a reader of the shard that begins at `start`.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream was made anew.
        """
        reader = KinesisReader(self, shard_id, start)
        if start.kind == "LATEST":
            try:
                reader.stand(tries=_TRIES)
            except AwsError as error:
                raise error.unavailable(f"{self.stream}, shard {shard_id}") from error
        return reader

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
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
        parameters: dict[str, object] = {"ShardId": shard_id, "ShardIteratorType": start.kind, **self._address}
        if start.kind == "AT_TIMESTAMP":
            parameters["Timestamp"] = (start.timestamp_ms or 0) / 1000
        elif start.kind == "AFTER_SEQUENCE_NUMBER":
            parameters["StartingSequenceNumber"] = start.sequence_number
        answer = self._noting(lambda: self._client.ask("GetShardIterator", parameters, tries=tries, context=_DATA))
        found = answer.get("ShardIterator")
        if not isinstance(found, str):
            raise SourceUnavailableError(
                f"shard {shard_id} of {self.stream}: the server gave no iterator", action="kinesis:GetShardIterator"
            )
        return found

    def records(self, iterator: str, limit: int) -> bytes:
        """Return the body of one GetRecords answer."""
        body = json.dumps({"ShardIterator": iterator, "Limit": min(limit, _RECORDS_MAX), **self._by_arn()}).encode()
        return self._noting(lambda: self._client.call("GetRecords", body, context=_DATA))

    def pause_ms(self, body_bytes: int) -> int:
        """Return how long a shard must not be read after an answer of so many bytes."""
        return max(_READ_INTERVAL_MS, round(body_bytes / _READ_BYTES_PER_MS)) if self._limits else 0

    def now_ms(self) -> int:
        """Return the time."""
        return self._clock.now_ms()

    def is_listed(self, shard_id: str) -> tuple[bool, bool]:
        """Return whether a listing made now has the shard, and whether it is closed there."""
        shards = {shard.shard_id: shard for shard in self.list_shards()}
        return shard_id in shards, shard_id in shards and shards[shard_id].closed

    def is_closed(self, shard_id: str) -> bool:
        """Return whether the latest listing has the shard as closed."""
        return shard_id in self._closed

    @property
    def says_end(self) -> bool:
        """Whether the end of a shard is certainly said by the absence of a next iterator."""
        return self._says_end

    def _by_arn(self) -> dict[str, str]:
        return self._address if "StreamARN" in self._address else {}

    def _noting(self, call: Callable[[], _Answer]) -> _Answer:
        """Call, and take note where what answers later may not be the same stream."""
        try:
            return call()
        except AwsError as error:
            if error.kind in ("not_found", "transient"):
                self._doubtful = True
            raise

    def _summary(self) -> dict[str, Any]:
        try:
            try:
                answer = self._client.ask("DescribeStreamSummary", self._address, tries=self._tries, context=_CONTROL)
            except AwsError as error:
                if error.kind != "invalid" or "StreamARN" not in self._address or self._client.endpoint_url is None:
                    raise
                # Some servers know the API as it was before requests could carry an ARN.
                by_name = {"StreamName": self._name}
                answer = self._client.ask("DescribeStreamSummary", by_name, tries=self._tries, context=_CONTROL)
                self._address = by_name
        except AwsError as error:
            raise error.unavailable(self.stream) from error
        said = answer.get("StreamDescriptionSummary")
        if not isinstance(said, dict):
            raise SourceError(f"what answers for stream {self.stream} does not speak the API of Kinesis: {str(answer)[:200]}")
        return said

    def _listing(self) -> list[dict[str, Any]]:
        """Return all pages of one listing."""
        found: list[dict[str, Any]] = []
        parameters: dict[str, object] = dict(self._address)
        while True:
            answer = self._client.ask("ListShards", parameters, tries=self._tries, context=_CONTROL)
            found += answer.get("Shards") or []
            token = answer.get("NextToken")
            if not token:
                return found
            parameters = {"NextToken": token, **self._by_arn()} if self._client.endpoint_url is None else {"NextToken": token}


class KinesisReader:
    """Reads one shard of a `KinesisSource`."""

    def __init__(self, source: KinesisSource, shard_id: str, start: Start) -> None:
        self._source = source
        self._shard_id = shard_id
        self._start = start  # where to go on: behind the last record handed over, once there is one
        self._iterator: str | None = None
        self._not_before_ms = 0
        self._throttled = 0
        self._empty_at_tip = 0
        self._trimmed = False

    def stand(self, *, tries: int = 1) -> str:
        """Take the iterator now and return it. A start at the tip is from then on this instant, however often the iterator expires."""
        now = self._source.now_ms()
        iterator = self._iterator = self._ask_iterator(tries)
        if self._start.kind == "LATEST":
            self._start = Start("AT_TIMESTAMP", timestamp_ms=now)
        return iterator

    def fetch(self, limit: int) -> Fetched:
        """Return the next records, at most `limit` and at most 10,000.

        An iterator that has expired is renewed behind the last record handed over. Where that record is trimmed, or the shard is gone,
        the answer says `trimmed`.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream was made anew.
            AwsError: the service failed, and may not the next time.
        """
        wait_ms = self._not_before_ms - self._source.now_ms()
        if wait_ms > 0:
            return Fetched(None, retry_after_ms=wait_ms)
        try:
            return self._fetch(limit)
        except AwsError as error:
            if error.kind == "throttled":
                return self._throttle(error)
            if error.kind == "not_found":
                return self._gone(error)
            if error.kind == "transient":
                raise
            raise error.unavailable(f"{self._source.stream}, shard {self._shard_id}") from error

    def close(self) -> None:
        """Forget the iterator."""
        self._iterator = None

    def _fetch(self, limit: int) -> Fetched:
        iterator = self._iterator if self._iterator is not None else self.stand()
        try:
            body = self._source.records(iterator, limit)
        except AwsError as error:
            if error.kind != "expired_iterator":
                raise
            _log.debug("shard %s: the iterator has expired; a new one begins at %s", self._shard_id, self._start)
            self._iterator = None
            body = self._source.records(self.stand(), limit)
        try:
            page = Page.parse(body)
        except PageError as error:
            # A body that broke off, or a server that errs: nothing was taken in, and the same records are asked for again.
            message = f"the answer for shard {self._shard_id} of {self._source.stream} cannot be read: {error}"
            raise SourceUnavailableError(message, action="kinesis:GetRecords") from error
        return self._handed_over(page, len(body), cut=len(page) >= min(limit, _RECORDS_MAX) or len(body) >= _CUT_BYTES)

    def _handed_over(self, page: Page, size: int, *, cut: bool) -> Fetched:
        self._throttled = 0
        pause_ms = self._source.pause_ms(size)
        self._not_before_ms = self._source.now_ms() + pause_ms if pause_ms else 0
        self._iterator = page.next_iterator
        last = page.last_sequence_number
        if last is not None:
            self._start = Start("AFTER_SEQUENCE_NUMBER", sequence_number=last)
        ended = self._iterator is None
        if ended and not self._source.is_closed(self._shard_id):
            listed, closed = self._source.is_listed(self._shard_id)
            if listed and not closed and not page.child_shards:
                # No next iterator of a shard that is open: the listing lags, or the server is wrong. Reading goes on until both agree.
                ended, pause_ms = False, max(pause_ms, _UNSURE_MS)
        elif not ended and not len(page) and not page.millis_behind and not self._source.says_end:
            self._empty_at_tip = self._empty_at_tip + 1 if self._source.is_closed(self._shard_id) else 0
            ended = self._empty_at_tip >= _ENDLESS_READS
        trimmed, self._trimmed = self._trimmed, False
        behind = None if cut and not self._source.says_end else page.millis_behind
        return Fetched(page, behind, ended, 0 if ended else pause_ms, trimmed)

    def _ask_iterator(self, tries: int) -> str:
        try:
            return self._source.iterator(self._shard_id, self._start, tries=tries)
        except AwsError as error:
            if self._start.kind != "AFTER_SEQUENCE_NUMBER" or error.kind not in ("invalid", "trimmed"):
                raise
            # The record is older than what the stream keeps. Had the stream been made anew, `describe` would say so.
            self._source.describe()
            iterator = self._source.iterator(self._shard_id, Start("TRIM_HORIZON"))
            self._trimmed = True
            return iterator

    def _throttle(self, error: AwsError) -> Fetched:
        pause_ms = min(_THROTTLED_MS << min(self._throttled, 16), _THROTTLED_MAX_MS)
        self._throttled += 1
        _log.info("shard %s: %s; next read in %.2f s", self._shard_id, error, pause_ms / 1000)
        return Fetched(None, retry_after_ms=pause_ms)

    def _gone(self, error: AwsError) -> Fetched:
        """The stream or the shard is not there. A shard of a stream that is there has been trimmed away: nothing is left of it."""
        self._iterator = None
        listed, _ = self._source.is_listed(self._shard_id)
        if listed:
            raise error.unavailable(f"{self._source.stream}, shard {self._shard_id}") from error
        return Fetched(None, None, ended=True, trimmed=True)


def _shard(described: dict[str, Any]) -> ShardDescription:
    parents = tuple(parent for key in ("ParentShardId", "AdjacentParentShardId") if (parent := described.get(key)))
    end = described.get("SequenceNumberRange", {}).get("EndingSequenceNumber")
    keys = described.get("HashKeyRange") or {}
    hash_keys = (int(keys["StartingHashKey"]), int(keys["EndingHashKey"])) if keys else None
    return ShardDescription(described["ShardId"], parents, closed=end is not None and end != _NO_END, hash_keys=hash_keys)


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
