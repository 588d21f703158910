"""Reads the stream of a DynamoDB table, or of a server with its API, by polling (Lambda developer guide, "Using Lambda with DynamoDB")."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from streamcore.errors import ConfigError, SourceError, SourceUnavailableError
from streamcore.protocols import Fetched, ShardDescription, Start, StreamDescription
from streamcore.sources._aws import AwsClient, AwsError
from streamcore.sources._dynamodb_page import dynamodb_page
from streamcore.sources._polled import PolledReader, PolledSource

if TYPE_CHECKING:
    from streamcore._streamcore import Page
    from streamcore.protocols import Clock

__all__ = ["DynamoDBStreamsSource", "dynamodb_page"]

_log = logging.getLogger("streamcore.sources")

_TABLE = r"[a-zA-Z0-9_.-]{3,255}"
_ARN = re.compile(rf"arn:[a-z-]+:dynamodb:(?P<region>[a-z0-9-]+):[^:]*:table/(?P<table>{_TABLE})(?P<stream>/stream/(?P<label>[^/]+))?")
_NAME = re.compile(_TABLE)

_POLL_INTERVAL_MS = 250
_RETENTION_MS = 24 * 60 * 60 * 1000
_EMPTY_AT_TIP = 3  # reads in a row without a record after which a shard counts as read to its tip
_LEFT_OUT_MAX = 16  # reads in a row of which every record is left out, before others have their turn


class DynamoDBStreamsSource(PolledSource):
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

    format = "dynamodb"
    records_max = 1_000

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
        client = AwsClient(
            "dynamodbstreams",
            region=region or (arn["region"] if arn else None),
            endpoint_url=endpoint_url,
            profile=profile,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        super().__init__(stream, client, clock)
        self._table = arn["table"] if arn else stream
        self._arn = stream if arn and arn["stream"] else None
        self._status = "ENABLED"
        self._tick_ms = 1000 if client.endpoint_url is None else 60_000

    def tick(self, instant_ms: int) -> int:
        """Return the time that the server gives to a record that is created at this instant, or an earlier one."""
        return instant_ms // self._tick_ms * self._tick_ms

    def _described(self) -> tuple[str, StreamDescription]:
        arn = self._resolved()
        said = self._page_of_shards(arn, None)
        before, self._status = self._status, str(said.get("StreamStatus", "ENABLED"))
        if before != self._status and self._status in ("DISABLING", "DISABLED"):
            text = "stream %s is %s: it is read to its end, nothing new will come"
            _log.warning(text, arn, self._status, extra={"stream": arn})
        label = str(said.get("StreamLabel") or arn.rsplit("/", 1)[-1])
        description = StreamDescription(
            identity=label, event_source_arn=arn, retention_ms=_RETENTION_MS, poll_interval_ms=_POLL_INTERVAL_MS, format="dynamodb"
        )
        return self._status, description

    def _listed(self) -> list[ShardDescription]:
        arn = self._resolved()
        listed: dict[str, ShardDescription] = {}
        after: str | None = None
        while True:
            said = self._page_of_shards(arn, after)
            listed |= {shard.shard_id: shard for shard in map(_shard, said.get("Shards") or [])}
            before, after = after, said.get("LastEvaluatedShardId")
            if not after or after == before:
                return list(listed.values())

    def _iterator_parameters(self, start: Start) -> dict[str, object]:
        # There is no reading from an instant: the reader leaves out what is older.
        kind = "TRIM_HORIZON" if start.kind == "AT_TIMESTAMP" else start.kind
        parameters: dict[str, object] = {"ShardIteratorType": kind, "StreamArn": self._resolved()}
        if start.sequence_number is not None:
            parameters["SequenceNumber"] = start.sequence_number
        return parameters

    def _reader(self, shard_id: str, start: Start) -> DynamoDBStreamsReader:
        return DynamoDBStreamsReader(self, shard_id, start)

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
                answer = self._client.ask("ListStreams", parameters, tries=self._tries)
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
            answer = self._client.ask("DescribeStream", parameters, tries=self._tries)
        except AwsError as error:
            self._doubtful = True
            if error.kind == "not_found" and self._identity is not None and self.stream != arn:
                newest = self._newest()
                if newest not in (None, arn):
                    raise self._made_anew(self._identity, str(newest).rsplit("/", 1)[-1]) from error
            raise error.unavailable(arn) from error
        said = answer.get("StreamDescription")
        if not isinstance(said, dict):
            raise SourceError(f"what answers for stream {arn} does not speak the API of DynamoDB Streams: {str(answer)[:200]}")
        return said


class DynamoDBStreamsReader(PolledReader):
    """Reads one shard of a `DynamoDBStreamsSource`."""

    _source: DynamoDBStreamsSource

    def __init__(self, source: DynamoDBStreamsSource, shard_id: str, start: Start) -> None:
        super().__init__(source, shard_id, start)
        # What was created before this instant is old, and left out of what an iterator at the horizon gives. One taken at the tip needs
        # no clock that agrees with the server's.
        self._since_ms: int | None = None
        self._empty = 0

    def stand(self, *, tries: int = 1) -> str:
        """Take the iterator now and return it. A start at the tip is from then on this instant, however often the iterator expires."""
        if self._start.kind == "AT_TIMESTAMP":
            self._since_ms = self._source.tick(self._start.timestamp_ms or 0)
        return super().stand(tries=tries)

    def _fetch(self, limit: int) -> Fetched:
        for _ in range(_LEFT_OUT_MAX):
            page, _ = self._read(limit)
            kept = page if self._since_ms is None else page.arrived_since(self._since_ms)
            if len(kept) or not len(page) or self._iterator is None:
                return self._handed_over(kept)
        return Fetched(None, retry_after_ms=1)

    def _handed_over(self, page: Page) -> Fetched:
        self._empty = 0 if len(page) else self._empty + 1
        ended = self._iterator is None
        # No answer says whether the tip is reached. Until it is likely the reader asks for a pause, which says "not yet".
        unsure = not ended and self._empty > 0 and (self._empty < _EMPTY_AT_TIP or self._source.is_closed(self._shard_id))
        return Fetched(page, None, ended, _POLL_INTERVAL_MS if unsure else 0, self._told_trimmed())


def _shard(described: dict[str, Any]) -> ShardDescription:
    parent = described.get("ParentShardId")
    end = (described.get("SequenceNumberRange") or {}).get("EndingSequenceNumber")
    return ShardDescription(described["ShardId"], (parent,) if parent else (), closed=bool(end))
