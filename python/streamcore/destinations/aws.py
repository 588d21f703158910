"""Discards in SQS queues, SNS topics and S3 buckets, where Lambda would put them.

What arrives is Lambda's invocation record, key for key ("Lambda developer guide", Retain discarded records for a DynamoDB event source /
a Kinesis data stream event source). A message tells where the records are and does not hold them; they must be read from the stream before
they expire. An object in S3 holds the event too. boto3 is imported when the first destination is made.
"""

from __future__ import annotations

import abc
import hashlib
import json
import logging
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from streamcore._boto import make_client
from streamcore.errors import ConfigError, DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._streamcore import Discard

__all__ = ["S3Destination", "SnsDestination", "SqsDestination"]

_log = logging.getLogger("streamcore.destinations")

_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 5, 10
_NOT_THERE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NotFound", "NoSuchBucket", "404"})
# Looking needs a right that sending does not. Who lacks it is not told: sending will show.
_MAY_NOT_LOOK = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException", "403"})


@dataclass(frozen=True, slots=True)
class _Arn:
    """The parts of an ARN that are needed; `name` is that of the queue, topic or bucket."""

    text: str
    region: str
    account: str
    name: str


class _AwsDestination(abc.ABC):
    """What the three kinds share: a client, and what its errors mean."""

    _service: ClassVar[str]
    _pattern: ClassVar[re.Pattern[str]]
    _right: ClassVar[str]
    _sending: ClassVar[str]  # the IAM actions of both calls
    _looking: ClassVar[str]

    def __init__(self, arn: str, *, region: str | None = None, endpoint_url: str | None = None, profile: str | None = None) -> None:
        match = self._pattern.fullmatch(arn)
        if match is None or arn.endswith(".fifo"):
            raise ConfigError(f"{arn!r} is not {self._right}", parameter="destination_config")
        self._arn = _Arn(arn, match["region"], match["account"], match["name"])
        # The client tries once: the worker repeats, and knows how long.
        self._client = make_client(
            self._service,
            who="a destination of AWS",
            region=self._arn.region or region,
            endpoint_url=endpoint_url,
            profile=profile,
            retries={"total_max_attempts": 1},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
        )

    @property
    def arn(self) -> str:
        """The ARN, as it was given."""
        return self._arn.text

    def send(self, discard: Discard) -> None:
        """Deliver one discard; returning means that the service has taken it. May be called by several threads at once.

        Raises:
            DeliveryError: it could not be delivered.
        """
        self._call(self._sending, lambda: self._put(discard))

    def check(self) -> None:
        """Look whether it is there, so that a mistyped ARN is found before the first discard. What does not answer now is let pass.

        Raises:
            ConfigError: it does not exist.
        """
        try:
            self._call(self._looking, self._look)
        except DeliveryError as error:
            if error.code in _NOT_THERE:
                raise ConfigError(f"destination {self.arn} does not exist: {error.code}", parameter="destination_config") from error
            level = logging.DEBUG if error.code in _MAY_NOT_LOOK else logging.WARNING
            fields = {"destination": self.arn, "errorType": error.code, "errorMessage": str(error)}
            _log.log(level, "whether destination %s is there cannot be seen now: %s", self.arn, error, extra=fields)

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._client.close()

    @abc.abstractmethod
    def _put(self, discard: Discard) -> object:
        """Send one discard."""

    @abc.abstractmethod
    def _look(self) -> object:
        """Make a call that fails where there is nothing of this ARN."""

    def _call(self, action: str, call: Callable[[], object]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  (only who sends to AWS has it)

        try:
            call()
        except ClientError as error:
            said = error.response.get("Error", {})
            code = str(said.get("Code", ""))
            raise DeliveryError(f"{action} on {self.arn}: {code}: {said.get('Message', '')}", code=code, action=action) from error
        except BotoCoreError as error:
            raise DeliveryError(f"{action} on {self.arn}: {error}", code=type(error).__name__, action=action) from error


class SqsDestination(_AwsDestination):
    """A `Destination` that sends the invocation record of each discard to a standard SQS queue. Needs sqs:SendMessage.

    Args:
        arn: the queue's. It says the region; a FIFO queue is refused, as Lambda refuses it.
        region: not used: the ARN says it.
        endpoint_url: where SQS is; by default what the environment or the profile says, else AWS's own endpoint of the region.
        profile: a profile of the shared configuration files.

    Raises:
        ConfigError: the ARN is not that of a standard queue, profile or endpoint cannot be right, or boto3 is not installed.

    Example:
        >>> queue = SqsDestination("arn:aws:sqs:eu-west-1:123456789012:discards")
        >>> queue.arn
        'arn:aws:sqs:eu-west-1:123456789012:discards'
        >>> queue.close()
    """

    _service = "sqs"
    _pattern = re.compile(r"arn:aws[a-zA-Z0-9-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[A-Za-z0-9_-]+)")
    _right = "the ARN of a standard SQS queue, as arn:aws:sqs:eu-west-1:123456789012:discards"
    _sending, _looking = "sqs:SendMessage", "sqs:GetQueueAttributes"

    @property
    def _url(self) -> str:
        # A queue's URL is where it is, so no right to ask for it is needed.
        return f"{self._client.meta.endpoint_url.rstrip('/')}/{self._arn.account}/{self._arn.name}"

    def _put(self, discard: Discard) -> object:
        return self._client.send_message(QueueUrl=self._url, MessageBody=_message(discard))

    def _look(self) -> object:
        return self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])


class SnsDestination(_AwsDestination):
    """A `Destination` that publishes the invocation record of each discard to a standard SNS topic. Needs sns:Publish.

    Args:
        arn: the topic's. It says the region; a FIFO topic is refused, as Lambda refuses it.
        region: not used: the ARN says it.
        endpoint_url: see `SqsDestination`.
        profile: a profile of the shared configuration files.

    Raises:
        ConfigError: the ARN is not that of a standard topic, profile or endpoint cannot be right, or boto3 is not installed.

    Example:
        >>> topic = SnsDestination("arn:aws:sns:eu-west-1:123456789012:discards")
        >>> topic.arn
        'arn:aws:sns:eu-west-1:123456789012:discards'
        >>> topic.close()
    """

    _service = "sns"
    _pattern = re.compile(r"arn:aws[a-zA-Z0-9-]*:sns:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[A-Za-z0-9_-]+)")
    _right = "the ARN of a standard SNS topic, as arn:aws:sns:eu-west-1:123456789012:discards"
    _sending, _looking = "sns:Publish", "sns:GetTopicAttributes"

    def _put(self, discard: Discard) -> object:
        return self._client.publish(TopicArn=self.arn, Message=_message(discard))

    def _look(self) -> object:
        return self._client.get_topic_attributes(TopicArn=self.arn)


class S3Destination(_AwsDestination):
    """A `Destination` that writes an object for each discard: the invocation record, with the event as a JSON string in `payload`.

    The key is Lambda's: `aws/lambda/<mapping's UUID>/<shard id>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<UUID>`, in UTC, at the time of the discard.
    The last part looks random and is made from the discard, so that a delivery tried twice leaves one object. Needs s3:PutObject, and
    s3:ListBucket to look whether the bucket is there.

    Args:
        arn: the bucket's.
        region: where the bucket is, as its ARN does not say; by default what the environment or the profile says. One in another region
            is found at the price of a second request.
        endpoint_url: see `SqsDestination`. At an endpoint of one's own the bucket's name stands in the path.
        profile: a profile of the shared configuration files.

    Raises:
        ConfigError: the ARN is not that of a bucket, region, profile or endpoint cannot be right, or boto3 is not installed.

    Example:
        >>> bucket = S3Destination("arn:aws:s3:::discards", region="eu-west-1")
        >>> bucket.arn
        'arn:aws:s3:::discards'
        >>> bucket.close()
    """

    _service = "s3"
    _pattern = re.compile(r"arn:aws[a-zA-Z0-9-]*:s3:(?P<region>):(?P<account>):(?P<name>[a-z0-9][a-z0-9._-]+)")
    _right = "the ARN of an S3 bucket, as arn:aws:s3:::discards"
    _sending, _looking = "s3:PutObject", "s3:ListBucket"

    def _put(self, discard: Discard) -> object:
        record = discard.invocation_record()
        key = _key(discard, record["timestamp"])
        body = _object(discard, record)
        return self._client.put_object(Bucket=self._arn.name, Key=key, Body=body, ContentType="application/octet-stream")

    def _look(self) -> object:
        return self._client.head_bucket(Bucket=self._arn.name)


def _message(discard: Discard) -> str:
    return json.dumps(discard.invocation_record(), separators=(",", ":"), ensure_ascii=False)


def _object(discard: Discard, record: dict[str, Any]) -> bytes:
    """Return the record with the event as a string behind `version`, where Lambda puts it."""
    whole: dict[str, Any] = {}
    for name, value in record.items():
        whole[name] = value
        if name == "version":
            whole["payload"] = discard.json().decode()
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()


def _key(discard: Discard, timestamp: str) -> str:
    second = timestamp[:19].replace(":", ".")
    # The closing call of a tumbling window has no records.
    facts = (discard.request_id, discard.first_sequence_number or "", discard.last_sequence_number or "", timestamp)
    name = uuid.UUID(bytes=hashlib.sha256("\n".join(facts).encode()).digest()[:16], version=4)
    return f"aws/lambda/{discard.mapping_uuid}/{discard.shard_id}/{second[:10].replace('-', '/')}/{second}-{name}"
