"""Reads the stream of a DynamoDB table, or of a server with its API, by polling (Lambda developer guide, "Using Lambda with DynamoDB")."""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

from streamcore._streamcore import Page
from streamcore.errors import ConfigError, PageError, SourceError, SourceUnavailableError
from streamcore.protocols import Fetched, ShardDescription, Start, StreamDescription
from streamcore.sources._aws import AwsClient, AwsError
from streamcore.sources._dynamodb_page import dynamodb_page
from streamcore.sources._wall import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamcore.protocols import Clock

__all__ = ["DynamoDBStreamsSource", "dynamodb_page"]

_log = logging.getLogger("streamcore.sources")

_TABLE = r"[a-zA-Z0-9_.-]{3,255}"
_ARN = re.compile(rf"arn:[a-z-]+:dynamodb:(?P<region>[a-z0-9-]+):[^:]*:table/(?P<table>{_TABLE})(?P<stream>/stream/(?P<label>[^/]+))?")
_NAME = re.compile(_TABLE)

_TRIES = 5  # of calls that describe and list; reading has a backoff for each shard
_POLL_INTERVAL_MS = 250
_RETENTION_MS = 24 * 60 * 60 * 1000
_RECORDS_MAX = 1_000
_EMPTY_AT_TIP = 3  # reads in a row without a record after which a shard counts as read to its tip
_LEFT_OUT_MAX = 16  # reads in a row of which every record is left out, before others have their turn
_THROTTLED_MS, _THROTTLED_MAX_MS = 250, 10_000


class DynamoDBStreamsSource:
    """The stream of a DynamoDB table.

    Credentials, region and endpoint are found as every AWS tool finds them: environment, shared configuration files, the host's own role.
    A shard is read four times a second while it is at its tip, and again at once while there are records. DynamoDB Streams do not say how
    far a reader is behind; a shard counts as read to its tip after three reads in a row that found nothing.

    The stream's identity is its label. A table that is made anew, or whose stream is switched off and on again, has a stream with another
    label, which is never taken for the old one: a mapping that reads the old one goes on with it until it is empty or gone, and then ends
    with a `SourceError`; at the next start the new stream is read from the starting position. The old stream stays readable by its ARN
    for 24 hours.

    LATEST means the records created from that moment on. DynamoDB Streams know no reading from a point in time, so a shard of which
    nothing is complete yet is read from its oldest record, and what was created before that moment is left out. Times are whole
    seconds, and records of the very second count as new: some may be repeated, none is skipped. With another server than AWS's own it
    is the very minute, since DynamoDB Local cuts times to the minute.

    Args:
        stream: the table's name, its ARN, or the ARN of one of its streams. With a table it is the newest stream.
        region: the region; by default the ARN's, else that of the environment or profile.
        endpoint_url: another server than AWS's own, as `http://127.0.0.1:8000`.
        profile: a profile of the shared configuration files.
        clock: tells the time at which LATEST is.
        connect_timeout_s: how long to wait for a connection.
        read_timeout_s: how long a server may be silent within an answer.

    Raises:
        ConfigError: name, ARN, region, profile or endpoint cannot be right, or boto3 is not installed.

    Example:
        A worker over the stream of a table of a local server::

            source = DynamoDBStreamsSource("orders", endpoint_url="http://127.0.0.1:8000")
            worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), source, LocalFunction(handler))
            worker.run()
    """

    def __init__(
        self,
        stream: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        clock: Clock | None = None,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 10,
    ) -> None:
        arn = _ARN.fullmatch(stream)
        if arn is None and not _NAME.fullmatch(stream):
            message = (
                f"{stream!r} is neither the name of a DynamoDB table (3 to 255 letters, digits, '_', '.', '-') nor its ARN "
                "(arn:aws:dynamodb:REGION:ACCOUNT:table/NAME) nor the ARN of its stream (.../stream/LABEL)"
            )
            raise ConfigError(message, parameter="stream")
        self.stream = stream
        self._table = arn["table"] if arn else stream
        self._arn = stream if arn and arn["stream"] else None
        self._client = AwsClient(
            "dynamodbstreams",
            region=region or (arn["region"] if arn else None),
            endpoint_url=endpoint_url,
            profile=profile,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        self._clock: Clock = clock if clock is not None else WallClock()
        self._tick_ms = 1000 if self._client.endpoint_url is None else 60_000
        self._lock = threading.Lock()
        self._label: str | None = None
        self._doubtful = False

    def describe(self) -> StreamDescription:
        """Say what the stream is. The first one seen is the one that this source reads.

        Raises:
            SourceUnavailableError: there is no such stream, it is not active yet, or it may not be described.
            SourceError: the stream was made anew since the first call.
        """
        arn = self._resolved()
        said = self._page_of_shards(arn, None)
        status = said.get("StreamStatus", "ENABLED")
        if status == "ENABLING":
            message = f"stream {arn} is not active: its status is {status}"
            raise SourceUnavailableError(message, code="ResourceInUseException", action=self._client.action("DescribeStream"))
        if status != "ENABLED":
            _log.warning("stream %s is %s: it is read to its end, nothing new will come", arn, status)
        label = str(said.get("StreamLabel") or arn.rsplit("/", 1)[-1])
        with self._lock:
            known = self._label = self._label or label
            self._doubtful = False
        if known != label:
            raise self._made_anew(known, label)
        return StreamDescription(
            identity=label, event_source_arn=arn, retention_ms=_RETENTION_MS, poll_interval_ms=_POLL_INTERVAL_MS, format="dynamodb"
        )

    def list_shards(self) -> Sequence[ShardDescription]:
        """Return every shard that can still be read, closed ones too, parents before children.

        Raises:
            SourceUnavailableError: the shards cannot be listed now.
            SourceError: the stream was made anew since the first call of `describe`.
        """
        arn = self._resolved()
        listed: dict[str, ShardDescription] = {}
        after: str | None = None
        while True:
            said = self._page_of_shards(arn, after)
            for described in said.get("Shards") or []:
                shard = _shard(described)
                listed[shard.shard_id] = shard
            before, after = after, said.get("LastEvaluatedShardId")
            if not after or after == before:
                return _parents_first(listed)

    def open(self, shard_id: str, start: Start) -> DynamoDBStreamsReader:
        """Return a reader of the shard that begins at `start`; at LATEST it stands at the tip when this returns.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream was made anew.
            AwsError: the service failed, and may not the next time.
        """
        reader = DynamoDBStreamsReader(self, shard_id, start)
        if start.kind == "LATEST":
            try:
                reader.stand()
            except AwsError as error:
                if error.kind in ("transient", "throttled"):
                    raise
                raise error.unavailable(f"{self.stream}, shard {shard_id}") from error
        return reader

    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        """Do nothing: the stream is polled."""

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._client.close()

    # What a reader asks of its source.

    def iterator(self, shard_id: str, kind: str, sequence_number: str | None = None) -> str:
        """Return an iterator of the shard that begins at TRIM_HORIZON, LATEST or AFTER_SEQUENCE_NUMBER."""
        if self._doubtful:
            # The server failed or did not know the stream: what answers now may be another incarnation of it.
            self.describe()
        parameters: dict[str, object] = {"StreamArn": self._resolved(), "ShardId": shard_id, "ShardIteratorType": kind}
        if sequence_number is not None:
            parameters["SequenceNumber"] = sequence_number
        # The tip is asked for at first contact, where nobody else would try again.
        tries = _TRIES if kind == "LATEST" else 1
        answer = self._noting(lambda: self._client.ask("GetShardIterator", parameters, tries=tries))
        found = answer.get("ShardIterator")
        if not isinstance(found, str):
            action = self._client.action("GetShardIterator")
            raise SourceUnavailableError(f"shard {shard_id} of {self.stream}: the server gave no iterator", action=action)
        return found

    def records(self, iterator: str, limit: int) -> bytes:
        """Return the body of one GetRecords answer."""
        body = json.dumps({"ShardIterator": iterator, "Limit": min(limit, _RECORDS_MAX)}).encode()
        answer: bytes = self._noting(lambda: self._client.call("GetRecords", body))
        return answer

    def is_listed(self, shard_id: str) -> bool:
        """Return whether a listing made now has the shard."""
        self.describe()
        return any(shard.shard_id == shard_id for shard in self.list_shards())

    def now_ms(self) -> int:
        """Return the time."""
        return self._clock.now_ms()

    def tick(self, instant_ms: int) -> int:
        """Return the time that the server gives to a record that is created at this instant, or an earlier one."""
        return instant_ms // self._tick_ms * self._tick_ms

    def _noting(self, call: Callable[[], Any]) -> Any:
        """Call, and take note where what answers later may not be the same stream."""
        try:
            return call()
        except AwsError as error:
            if error.kind in ("not_found", "transient"):
                self._doubtful = True
            raise

    def _resolved(self) -> str:
        """Return the stream's ARN. That of a table's newest stream is looked up once."""
        if self._arn is None:
            newest = self._newest()
            if newest is None:
                message = f"table {self._table} has no stream: the table is not there, or its stream was never enabled"
                raise SourceUnavailableError(message, code="ResourceNotFoundException", action=self._client.action("ListStreams"))
            self._arn = newest
        return self._arn

    def _newest(self) -> str | None:
        """Return the ARN of the table's newest stream."""
        streams: list[dict[str, Any]] = []
        parameters: dict[str, object] = {"TableName": self._table}
        while True:
            try:
                answer = self._client.ask("ListStreams", parameters, tries=_TRIES)
            except AwsError as error:
                raise error.unavailable(f"table {self._table}") from error
            streams += answer.get("Streams") or []
            last = answer.get("LastEvaluatedStreamArn")
            if not last:
                break
            parameters["ExclusiveStartStreamArn"] = last
        # Labels are instants of one length, so the greatest one is the newest.
        newest = max(streams, key=lambda stream: str(stream.get("StreamLabel")), default=None)
        return None if newest is None else str(newest["StreamArn"])

    def _page_of_shards(self, arn: str, after: str | None) -> dict[str, Any]:
        parameters: dict[str, object] = {"StreamArn": arn}
        if after is not None:
            parameters["ExclusiveStartShardId"] = after
        try:
            answer = self._client.ask("DescribeStream", parameters, tries=_TRIES)
        except AwsError as error:
            self._doubtful = True
            if error.kind == "not_found" and self._label is not None and self.stream != arn:
                newest = self._newest()
                if newest not in (None, arn):
                    raise self._made_anew(self._label, str(newest).rsplit("/", 1)[-1]) from error
            raise error.unavailable(arn) from error
        said = answer.get("StreamDescription")
        if not isinstance(said, dict):
            raise SourceError(f"what answers for stream {arn} does not speak the API of DynamoDB Streams: {str(answer)[:200]}")
        return said

    def _made_anew(self, known: str, label: str) -> SourceError:
        return SourceError(
            f"the stream of table {self._table} was made anew while it was read: it was {known}, it is {label}; "
            "start again to read the new one from the starting position"
        )


class DynamoDBStreamsReader:
    """Reads one shard of a `DynamoDBStreamsSource`."""

    def __init__(self, source: DynamoDBStreamsSource, shard_id: str, start: Start) -> None:
        self._source = source
        self._shard_id = shard_id
        self._iterator: str | None = None
        self._at_tip = start.kind == "LATEST"  # until the first iterator is there
        self._after = start.sequence_number if start.kind == "AFTER_SEQUENCE_NUMBER" else None
        # Where nothing has been read yet: what was created before this instant is old. It is left out of what an iterator at the horizon
        # gives; one taken at the tip needs no clock that agrees with the server's.
        self._since_ms = source.tick(start.timestamp_ms or 0) if start.kind == "AT_TIMESTAMP" else None
        self._leaves_out = False
        self._empty = 0
        self._throttled = 0
        self._trimmed = False

    def stand(self) -> None:
        """Take an iterator behind the last record handed over. A start at the tip is from then on this instant, whatever happens."""
        if self._at_tip:
            now_ms = self._source.now_ms()
            self._iterator = self._source.iterator(self._shard_id, "LATEST")
            self._at_tip, self._since_ms = False, self._source.tick(now_ms)
        elif self._after is None:
            self._iterator = self._source.iterator(self._shard_id, "TRIM_HORIZON")
            self._leaves_out = self._since_ms is not None
        else:
            try:
                self._iterator = self._source.iterator(self._shard_id, "AFTER_SEQUENCE_NUMBER", self._after)
            except AwsError as error:
                if error.kind not in ("trimmed", "invalid"):
                    raise
                self._to_horizon()

    def fetch(self, limit: int) -> Fetched:
        """Return the next records, at most `limit` and at most 1,000.

        An iterator that has expired, or that the server no longer takes since shards have rotated, is renewed behind the last record
        handed over. Where that record is trimmed, or the shard is gone, the answer says `trimmed`.

        Raises:
            SourceUnavailableError: the stream cannot be read now.
            SourceError: the stream was made anew.
            AwsError: the service failed, and may not the next time.
        """
        try:
            for _ in range(_LEFT_OUT_MAX):
                page = self._page(self._records(limit))
                kept = page.arrived_since(self._since_ms) if self._leaves_out and self._since_ms is not None else page
                if len(kept) or not len(page) or self._iterator is None:
                    return self._handed_over(kept)
        except AwsError as error:
            if error.kind == "throttled":
                return self._throttle(error)
            if error.kind == "not_found" or (error.kind == "invalid" and self._is_of_shard(error)):
                return self._gone(error)
            if error.kind in ("transient", "expired_iterator"):
                raise  # an iterator that was renewed has expired again: the next try comes after a pause
            raise error.unavailable(f"{self._source.stream}, shard {self._shard_id}") from error
        return Fetched(None, retry_after_ms=1)

    def close(self) -> None:
        """Forget the iterator."""
        self._iterator = None

    def _records(self, limit: int) -> bytes:
        if self._iterator is None:
            self.stand()
        try:
            return self._source.records(self._iterator or "", limit)
        except AwsError as error:
            if error.kind not in ("expired_iterator", "trimmed", "invalid"):
                raise
            _log.debug("shard %s: %s; a new iterator begins after %s", self._shard_id, error, self._after)
            if error.kind == "trimmed":
                self._to_horizon()
            else:
                self._iterator = None
                self.stand()
            return self._source.records(self._iterator or "", limit)

    def _page(self, body: bytes) -> Page:
        try:
            page = Page.parse(body, "dynamodb")
        except PageError as error:
            # A body that broke off, or a server that errs: nothing was taken in, and the same records are asked for again.
            message = f"the answer for shard {self._shard_id} of {self._source.stream} cannot be read: {error}"
            raise SourceUnavailableError(message, action="dynamodb:GetRecords") from error
        self._throttled = 0
        self._iterator = page.next_iterator
        self._after = page.last_sequence_number or self._after
        return page

    def _handed_over(self, page: Page) -> Fetched:
        self._empty = 0 if len(page) else self._empty + 1
        ended = self._iterator is None
        # No answer says whether the tip is reached. Until it is likely the reader asks for a pause, which says "not yet".
        unsure = not ended and 0 < self._empty < _EMPTY_AT_TIP
        trimmed, self._trimmed = self._trimmed, False
        return Fetched(page, None, ended, _POLL_INTERVAL_MS if unsure else 0, trimmed)

    def _to_horizon(self) -> None:
        """What comes next is trimmed, which takes 24 hours: go on with the oldest record that is left."""
        self._iterator = self._source.iterator(self._shard_id, "TRIM_HORIZON")
        self._trimmed = True

    @staticmethod
    def _is_of_shard(error: AwsError) -> bool:
        # DynamoDB Local says "Invalid ShardId in ShardIterator" of a shard that has rotated away.
        return "shard" in error.text.lower()

    def _throttle(self, error: AwsError) -> Fetched:
        pause_ms = min(_THROTTLED_MS << min(self._throttled, 16), _THROTTLED_MAX_MS)
        self._throttled += 1
        _log.info("shard %s: %s; next read in %.2f s", self._shard_id, error, pause_ms / 1000)
        return Fetched(None, retry_after_ms=pause_ms)

    def _gone(self, error: AwsError) -> Fetched:
        """The stream or the shard is not there. A shard of a stream that is there has been trimmed away: nothing is left of it."""
        self._iterator = None
        if self._source.is_listed(self._shard_id):
            raise error.unavailable(f"{self._source.stream}, shard {self._shard_id}") from error
        return Fetched(None, ended=True, trimmed=True)


def _shard(described: dict[str, Any]) -> ShardDescription:
    parent = described.get("ParentShardId")
    end = (described.get("SequenceNumberRange") or {}).get("EndingSequenceNumber")
    return ShardDescription(described["ShardId"], (parent,) if parent else (), closed=bool(end))


def _parents_first(listed: dict[str, ShardDescription]) -> list[ShardDescription]:
    """Order a listing by the number of ancestors, of which a shard of DynamoDB Streams has one line."""

    def ancestors(shard: ShardDescription) -> int:
        seen = {shard.shard_id}
        while shard.parents and shard.parents[0] in listed and shard.parents[0] not in seen:
            shard = listed[shard.parents[0]]
            seen.add(shard.shard_id)
        return len(seen)

    return sorted(listed.values(), key=ancestors)
