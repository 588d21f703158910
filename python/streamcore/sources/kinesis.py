"""Reads a stream of Kinesis Data Streams, or of a server with its API, by polling (Lambda developer guide, "Using Lambda with Kinesis")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from streamcore.errors import ConfigError, SourceError
from streamcore.protocols import Fetched, ShardDescription, Start, StreamDescription
from streamcore.sources._aws import AwsClient, AwsError
from streamcore.sources._polled import SEQUENCE_KINDS, PolledReader, PolledSource

if TYPE_CHECKING:
    from streamcore.protocols import Clock

__all__ = ["KinesisSource"]

_ARN = re.compile(r"arn:[a-z-]+:kinesis:(?P<region>[a-z0-9-]+):\d*:stream/(?P<name>[a-zA-Z0-9_.-]{1,128})")
_CONSUMER = re.compile(r"arn:[^:]+:kinesis:.*:stream/[^/]+/consumer/")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")

_CONTROL, _DATA = {"OperationType": "control"}, {"OperationType": "data"}
_LISTINGS = 3  # of a listing whose token expires between two pages

_POLL_INTERVAL_MS = 1000
# The limits of one shard, all its consumers together: five reads and 2 MiB a second (Kinesis API reference, GetRecords).
_READ_INTERVAL_MS = 200
_READ_BYTES_PER_MS = 2 * 1024 * 1024 / 1000
_UNSURE_MS = 1000
# Empty reads at the tip of a closed shard after which a server that never says "end" is taken to mean it.
_ENDLESS_READS = 3
# Some servers list this as the last sequence number of an open shard.
_NO_END = str(2**63 - 1)
# Some servers say that they are 0 ms behind whatever is left to be read. Where the answer is also smaller than what was asked for, and than
# what any of them cuts an answer at, nothing is left.
_CUT_BYTES = 1_500_000


class KinesisSource(PolledSource):
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

    format = "kinesis"
    records_max = 10_000
    data_context = _DATA

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
        client = AwsClient(
            "kinesis",
            region=region or (arn["region"] if arn else None),
            endpoint_url=endpoint_url,
            profile=profile,
            context={"StreamARN": stream} if arn else None,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        super().__init__(stream, client, clock)
        self._name = arn["name"] if arn else stream
        self._address = {"StreamARN": stream} if arn else {"StreamName": stream}
        own_endpoint = client.endpoint_url is None
        self._limits = own_endpoint if limits is None else limits
        self.says_end = own_endpoint  # whether the end of a shard is certainly said by the absence of a next iterator

    def pause_ms(self, body_bytes: int) -> int:
        """Return how long a shard must not be read after an answer of so many bytes."""
        return max(_READ_INTERVAL_MS, round(body_bytes / _READ_BYTES_PER_MS)) if self._limits else 0

    def _described(self) -> tuple[str, StreamDescription]:
        said = self._summary()
        arn = str(said.get("StreamARN") or self.stream)
        created = said.get("StreamCreationTimestamp")
        description = StreamDescription(
            identity=f"created-{round(float(created) * 1000)}" if created is not None else arn,
            event_source_arn=arn,
            retention_ms=int(said.get("RetentionPeriodHours") or 24) * 3_600_000,
            poll_interval_ms=_POLL_INTERVAL_MS,
            created_ms=None if created is None else round(float(created) * 1000),
        )
        return said.get("StreamStatus", "ACTIVE"), description

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

    def _listed(self) -> list[ShardDescription]:
        listings = 0
        while True:
            listings += 1
            try:
                return self._listing()
            except AwsError as error:
                if error.kind != "expired_token" or listings == _LISTINGS:
                    raise error.unavailable(self.stream) from error

    def _listing(self) -> list[ShardDescription]:
        """Return all pages of one listing."""
        found: list[ShardDescription] = []
        parameters: dict[str, object] = dict(self._address)
        while True:
            answer = self._client.ask("ListShards", parameters, tries=self._tries, context=_CONTROL)
            found += map(_shard, answer.get("Shards") or [])
            token = answer.get("NextToken")
            if not token:
                return found
            parameters = {"NextToken": token, **(self._records_parameters() if self._client.endpoint_url is None else {})}

    def _iterator_parameters(self, start: Start) -> dict[str, object]:
        parameters: dict[str, object] = {"ShardIteratorType": start.kind, **self._address}
        if start.kind == "AT_TIMESTAMP":
            parameters["Timestamp"] = (start.timestamp_ms or 0) / 1000
        elif start.kind in SEQUENCE_KINDS:
            parameters["StartingSequenceNumber"] = start.sequence_number
        return parameters

    def _records_parameters(self) -> dict[str, str]:
        return self._address if "StreamARN" in self._address else {}

    def _reader(self, shard_id: str, start: Start) -> KinesisReader:
        return KinesisReader(self, shard_id, start)


class KinesisReader(PolledReader):
    """Reads one shard of a `KinesisSource`."""

    _source: KinesisSource

    def __init__(self, source: KinesisSource, shard_id: str, start: Start) -> None:
        super().__init__(source, shard_id, start)
        self._not_before_ms = 0
        self._empty_at_tip = 0

    def _fetch(self, limit: int) -> Fetched:
        wait_ms = self._not_before_ms - self._source.now_ms()
        if wait_ms > 0:
            return Fetched(None, retry_after_ms=wait_ms)
        page, size = self._read(limit)
        pause_ms = self._source.pause_ms(size)
        self._not_before_ms = self._source.now_ms() + pause_ms if pause_ms else 0
        ended, closed = self._iterator is None, self._source.is_closed(self._shard_id)
        if ended and not closed:
            listed = self._source.find(self._shard_id)
            if listed is not None and not listed.closed and not page.child_shards:
                # No next iterator of a shard that is open: the listing lags, or the server is wrong. Reading goes on until both agree.
                ended, pause_ms = False, max(pause_ms, _UNSURE_MS)
        elif not ended and not len(page) and not page.millis_behind and not self._source.says_end:
            self._empty_at_tip = self._empty_at_tip + 1 if closed else 0
            ended = self._empty_at_tip >= _ENDLESS_READS
        cut = len(page) >= min(limit, self._source.records_max) or size >= _CUT_BYTES
        behind = None if closed or (cut and not self._source.says_end) else page.millis_behind
        if closed and not len(page):
            pause_ms = max(pause_ms, _READ_INTERVAL_MS)
        return Fetched(page, behind, ended, 0 if ended else pause_ms, self._told_trimmed())


def _shard(described: dict[str, Any]) -> ShardDescription:
    parents = tuple(parent for key in ("ParentShardId", "AdjacentParentShardId") if (parent := described.get(key)))
    end = described.get("SequenceNumberRange", {}).get("EndingSequenceNumber")
    keys = described.get("HashKeyRange") or {}
    hash_keys = (int(keys["StartingHashKey"]), int(keys["EndingHashKey"])) if keys else None
    return ShardDescription(described["ShardId"], parents, closed=end is not None and end != _NO_END, hash_keys=hash_keys)
