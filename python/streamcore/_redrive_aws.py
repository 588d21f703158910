"""Invocation records that are to be redriven, in queues of SQS and buckets of S3."""

from __future__ import annotations

import functools
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from streamcore._boto import make_client
from streamcore._redrive_messages import FileMessages, Message, Messages, Unreadable, read_message, records_in
from streamcore.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["BucketMessages", "QueueMessages", "open_messages"]

_log = logging.getLogger("streamcore.redrive")
_Answer = TypeVar("_Answer")

VISIBILITY_TIMEOUT_S = 300
"""How long the messages of a queue stay hidden after a crash."""


def open_messages(
    where: str,
    *,
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    shows: bool = False,
    visibility_timeout_s: int = VISIBILITY_TIMEOUT_S,
) -> Messages:
    """Return the place that `where` names: an SQS queue (URL or ARN), `s3://BUCKET/PREFIX`, or a file.

    Args:
        where: see above. A bucket may be given by its ARN too, and a file as `file:PATH`.
        region: where queue or bucket are; an ARN or a URL of AWS says where a queue is.
        endpoint_url: another server than AWS's own.
        profile: a profile of the shared configuration files.
        shows: nothing will be deleted.
        visibility_timeout_s: see `QueueMessages`.

    Raises:
        ConfigError: it is none of these, boto3 is not installed, or an option is missing or cannot be right.
        SourceError: the file cannot be read, or another redrive works on it.
    """
    queue_url = _QUEUE_URL.fullmatch(where)
    if queue_url is not None and queue_url["region"] is None:
        endpoint_url = endpoint_url or queue_url["server"]  # no URL of AWS: that of another server says where it is
    # Everything that is asked here may be asked twice, so the client tries a few times.
    client = functools.partial(
        make_client,
        who="a queue or a bucket",
        endpoint_url=endpoint_url,
        profile=profile,
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
    )
    if (bucket := _BUCKET.fullmatch(where)) is not None:
        return BucketMessages(client("s3", region=region), bucket["name"], bucket["prefix"] or "")
    if (queue := _QUEUE_ARN.fullmatch(where)) is not None:
        sqs = client("sqs", region=queue["region"])
        asked = {"QueueName": queue["name"], "QueueOwnerAWSAccountId": queue["account"]}
        url = _asked(where, "sqs:GetQueueUrl", lambda: sqs.get_queue_url(**asked)["QueueUrl"])
        return QueueMessages(sqs, url, visibility_timeout_s=visibility_timeout_s)
    if queue_url is not None:
        return QueueMessages(client("sqs", region=queue_url["region"] or region), where, visibility_timeout_s=visibility_timeout_s)
    if not where or where.startswith(("arn:", "s3:", "http:", "https:")):
        right = "an SQS queue's ARN or URL, s3://BUCKET/PREFIX, or a file of invocation records, one on a line"
        raise ConfigError(f"{where!r} is not {right}", parameter="from")
    return FileMessages(where.removeprefix("file:"), shows=shows)


_BUCKET = re.compile(r"(?:s3://|arn:aws[a-zA-Z0-9-]*:s3:::)(?P<name>[a-z0-9][a-z0-9._-]+)(?:/(?P<prefix>.*))?", re.DOTALL)
_QUEUE_ARN = re.compile(r"arn:aws[a-zA-Z0-9-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[A-Za-z0-9_.-]+)")
_QUEUE_URL = re.compile(r"(?P<server>https?://(?:sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?|[^/]+))/.+")


# Queues.

_ROUND = 10_000
_BATCH = 10  # the most that SQS takes in one call
_WAIT_S = 1  # long polling, which asks all servers of SQS: an empty answer means that there is nothing


class QueueMessages:
    """Invocation records in an SQS queue that was an on-failure destination, or is subscribed to the SNS topic that was one.

    All that is in the queue is received first, up to 10,000 messages at a time, since order within a shard takes all messages of the
    shard. While they are held, nobody else sees them: their visibility timeout is extended again and again. What is not deleted in the
    end is visible again at once; after a crash, when the timeout is over.

    Args:
        client: boto3's client of SQS.
        url: the queue's.
        visibility_timeout_s: the visibility timeout, 3 s to 12 hours.

    Raises:
        ConfigError: the visibility timeout is out of range.
    """

    def __init__(self, client: Any, url: str, *, visibility_timeout_s: int = VISIBILITY_TIMEOUT_S) -> None:
        if not 3 <= visibility_timeout_s <= 43_200:
            text = f"visibility_timeout must be a whole number of seconds from 3 to 43200, not {visibility_timeout_s}"
            raise ConfigError(text, parameter="visibility_timeout")
        self._client = client
        self._url = url
        self._visibility_s = visibility_timeout_s
        self._held: dict[str, str] = {}  # receipt handles by message id
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._more = True
        self._thread = threading.Thread(target=self._extend, name="streamcore-visibility", daemon=True)

    def receive(self) -> Sequence[Message | Unreadable]:
        """Receive what is in the queue, up to 10,000 messages."""
        if not self._more:
            return []
        if not self._seen:
            self._thread.start()
        found: list[Message | Unreadable] = []
        while len(found) < _ROUND:
            asked = {"MaxNumberOfMessages": _BATCH, "WaitTimeSeconds": _WAIT_S, "VisibilityTimeout": self._visibility_s}
            answer = _asked(self._url, "sqs:ReceiveMessage", lambda: self._client.receive_message(QueueUrl=self._url, **asked))  # noqa: B023
            messages = answer.get("Messages") or []
            if not messages:
                self._more = False
                break
            for message in messages:
                message_id = message["MessageId"]
                new = message_id not in self._seen
                with self._lock:
                    self._seen.add(message_id)
                    if new or message_id in self._held:
                        self._held[message_id] = message["ReceiptHandle"]
                if new:
                    found.append(read_message(f"message {message_id}", message["Body"], (message_id, message["Body"])))
        if not self._seen:
            self._say_hidden()
        return found

    def _say_hidden(self) -> None:
        """Say whether messages are there that another reader holds, or one that has crashed."""
        name = "ApproximateNumberOfMessagesNotVisible"
        try:
            answer = _asked(
                self._url,
                "sqs:GetQueueAttributes",
                lambda: self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name]),
            )
        except SourceError as error:
            _log.debug("%s", error, extra={"source": self._url})
            return
        hidden = int(answer.get("Attributes", {}).get(name, 0))
        if hidden:
            text = (
                "the queue shows no message; %d are held by another reader, or by one that has crashed, until their visibility timeout ends"
            )
            _log.warning(text, hidden, extra={"source": self._url, "count": hidden})

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the message holds."""
        return records_in(message.handle[1])

    def delete(self, message: Message) -> None:
        """Delete the message from the queue."""
        message_id = message.handle[0]
        with self._lock:
            receipt = self._held[message_id]
        _asked(self._url, "sqs:DeleteMessage", lambda: self._client.delete_message(QueueUrl=self._url, ReceiptHandle=receipt))
        with self._lock:
            self._held.pop(message_id, None)

    def close(self) -> None:
        """Let everybody see at once what was not deleted."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._set_visibility(0)
        with self._lock:
            self._held.clear()
        self._client.close()

    def _extend(self) -> None:
        while not self._over.wait(self._visibility_s / 3):
            self._set_visibility(self._visibility_s)

    def _set_visibility(self, seconds: int) -> None:
        with self._lock:
            held = list(self._held.items())
        for some in (held[at : at + _BATCH] for at in range(0, len(held), _BATCH)):
            if seconds and self._over.is_set():
                return
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": seconds} for index, (_, receipt) in enumerate(some)
            ]
            try:
                answer = _asked(
                    self._url,
                    "sqs:ChangeMessageVisibility",
                    lambda: self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries),  # noqa: B023
                )
            except SourceError as error:
                _log.warning("%s; messages may come again while they are redriven", error, extra={"source": self._url})
                return
            for failed in answer.get("Failed") or []:
                message_id = some[int(failed["Id"])][0]
                with self._lock:
                    gone = message_id not in self._held
                if not gone:  # else it was deleted meanwhile
                    text = "message %s is visible to others again: %s"
                    fields = {"source": message_id, "errorType": failed.get("Code"), "errorMessage": failed.get("Message")}
                    _log.warning(text, message_id, failed.get("Message") or failed.get("Code"), extra=fields)


# Buckets.

_READERS = 8


class BucketMessages:
    """Invocation records in a bucket, each an object that holds the whole event too ("Lambda developer guide", Retain discarded records).

    Args:
        client: boto3's client of S3.
        name: the bucket.
        prefix: of the keys; Lambda's begin with `aws/lambda/`.
    """

    def __init__(self, client: Any, name: str, prefix: str) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._received = False

    def receive(self) -> Sequence[Message | Unreadable]:
        """Read every object under the prefix; what is kept of each is where its records belong."""
        if self._received:
            return []
        self._received = True
        with ThreadPoolExecutor(_READERS, "streamcore-bucket") as readers:
            return list(readers.map(self._read, self._keys()))

    def _keys(self) -> Iterator[str]:
        more: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._name, "Prefix": self._prefix, **more}
            answer = _asked(self._where, "s3:ListBucket", lambda: self._client.list_objects_v2(**asked))  # noqa: B023
            yield from (found["Key"] for found in answer.get("Contents") or [] if not found["Key"].endswith("/"))
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    @property
    def _where(self) -> str:
        return f"s3://{self._name}/{self._prefix}"

    def _read(self, key: str) -> Message | Unreadable:
        return read_message(f"s3://{self._name}/{key}", self._body(key), key)

    def _body(self, key: str) -> bytes:
        def get() -> bytes:
            found: bytes = self._client.get_object(Bucket=self._name, Key=key)["Body"].read()
            return found

        return _asked(f"s3://{self._name}/{key}", "s3:GetObject", get)

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the object holds."""
        return records_in(self._body(message.handle))

    def delete(self, message: Message) -> None:
        """Delete the object."""
        _asked(message.name, "s3:DeleteObject", lambda: self._client.delete_object(Bucket=self._name, Key=message.handle))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


# Calls of AWS.


def _asked(where: str, action: str, call: Callable[[], _Answer]) -> _Answer:
    """Call, and say of a failure what it is about.

    Raises:
        SourceError: the call failed.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  (only who reads from AWS has it)

    try:
        return call()
    except ClientError as error:
        said = error.response.get("Error", {})
        raise SourceError(f"{where} ({action}): {said.get('Code', '')}: {said.get('Message', '')}") from error
    except BotoCoreError as error:
        raise SourceError(f"{where} ({action}): {error}") from error
