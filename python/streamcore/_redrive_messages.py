"""Invocation records that are to be redriven, where they are found: in a file, in an SQS queue, in an S3 bucket.

A message is whatever holds one invocation record: a line, a message of a queue, an object. What holds none, or half of one, is told of
and left where it is.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from streamcore._distribution import DISTRIBUTION, version
from streamcore.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["BucketMessages", "FileMessages", "Message", "Messages", "QueueMessages", "Unreadable", "open_messages", "read_message"]

_log = logging.getLogger("streamcore.redrive")
_Answer = TypeVar("_Answer")

_INFO: dict[str, Literal["kinesis", "dynamodb"]] = {"KinesisBatchInfo": "kinesis", "DDBStreamBatchInfo": "dynamodb"}
VISIBILITY_TIMEOUT_S = 300
"""How long the messages of a queue stay hidden after a crash."""

_WRAPPINGS_MAX = 3  # of a notification within a notification


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One invocation record, and where it was found.

    Attributes:
        name: where it was found, for people.
        stream_arn: the stream of the records that it names.
        shard_id: their shard.
        first_sequence_number: the first of them.
        last_sequence_number: the last of them.
        batch_size: how many records the batch had. The stream may have more between the first and the last.
        format: which API's records the stream has.
        arrived_ms: when the last record arrived in the stream; None where the invocation record does not say.
        payload: whether the message holds the records themselves.
        handle: what the place that it was found in knows it by.
    """

    name: str
    stream_arn: str
    shard_id: str
    first_sequence_number: str
    last_sequence_number: str
    batch_size: int
    format: Literal["kinesis", "dynamodb"]
    arrived_ms: int | None
    payload: bool
    handle: Any

    @property
    def first(self) -> int:
        """The first sequence number, to compare it with."""
        return int(self.first_sequence_number)

    @property
    def last(self) -> int:
        """The last sequence number, to compare it with."""
        return int(self.last_sequence_number)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something in the place of a message that is no invocation record of a stream, and why."""

    name: str
    problem: str


class Messages(Protocol):
    """A place where invocation records are found."""

    def receive(self) -> Sequence[Message | Unreadable]:
        """Return more of what is there; nothing where there is no more.

        Raises:
            SourceError: it cannot be read.
        """

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the message holds, as the event had them.

        Raises:
            ValueError: what it holds is no event of a stream.
            SourceError: it cannot be read.
        """

    def delete(self, message: Message) -> None:
        """Take a message away for good: it has been redriven.

        Raises:
            SourceError: it could not be deleted, and comes again.
        """

    def close(self) -> None:
        """Leave what was received and not deleted to whoever comes next. Safe to call twice."""


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
    client = functools.partial(_client, endpoint_url=endpoint_url, profile=profile)
    if (bucket := _BUCKET.fullmatch(where)) is not None:
        return BucketMessages(client("s3", region=region), bucket["name"], bucket["prefix"] or "")
    if (queue := _QUEUE_ARN.fullmatch(where)) is not None:
        sqs = client("sqs", region=queue["region"])
        asked = {"QueueName": queue["name"], "QueueOwnerAWSAccountId": queue["account"]}
        url = _asked(where, "sqs:GetQueueUrl", lambda: sqs.get_queue_url(**asked)["QueueUrl"])
        return QueueMessages(sqs, url, visibility_timeout_s=visibility_timeout_s)
    if (url := _QUEUE_URL.fullmatch(where)) is not None:
        return QueueMessages(client("sqs", region=url["region"] or region), where, visibility_timeout_s=visibility_timeout_s)
    if where.startswith(("arn:", "s3:")):
        right = "an SQS queue's ARN or URL, s3://BUCKET/PREFIX, or a file of invocation records, one on a line"
        raise ConfigError(f"{where!r} is not {right}", parameter="from")
    return FileMessages(where.removeprefix("file:"), shows=shows)


_BUCKET = re.compile(r"(?:s3://|arn:aws[a-zA-Z0-9-]*:s3:::)(?P<name>[a-z0-9][a-z0-9._-]+)(?:/(?P<prefix>.*))?", re.DOTALL)
_QUEUE_ARN = re.compile(r"arn:aws[a-zA-Z0-9-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[A-Za-z0-9_.-]+)")
_QUEUE_URL = re.compile(r"https?://(?:sqs\.(?P<region>[a-z0-9-]+)\.)?[^/]+/.+")


# Reading one message.


def read_message(name: str, text: str | bytes, handle: Any) -> Message | Unreadable:
    """Return the invocation record that `text` is ("Lambda developer guide", Retain discarded records), or why it is none.

    Example:
        >>> record = {
        ...     "requestContext": {"condition": "RetryAttemptsExhausted"},
        ...     "KinesisBatchInfo": {
        ...         "shardId": "shardId-000000000000",
        ...         "startSequenceNumber": "4959",
        ...         "endSequenceNumber": "4961",
        ...         "batchSize": 3,
        ...         "streamArn": "arn:aws:kinesis:us-east-2:123456789012:stream/orders",
        ...     },
        ... }
        >>> message = read_message("line 1", json.dumps(record), None)
        >>> message.first, message.last, message.format
        (4959, 4961, 'kinesis')
        >>> read_message("line 2", '{"requestContext": {"reque', None)
        Unreadable(name='line 2', problem='not JSON: Unterminated string starting at: line 1 column 21 (char 20)')
    """
    try:
        record = _invocation_record(text)
        return _message(name, record, handle)
    except ValueError as error:
        return Unreadable(name, str(error))


def _invocation_record(text: str | bytes) -> dict[str, Any]:
    """Return the record itself, taken out of what SNS wraps around it (SNS developer guide, "Amazon SNS message formats")."""
    for _ in range(_WRAPPINGS_MAX):
        value = _json(text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  (a fault of the data, not of the caller)
        if value.get("Type") != "Notification" or not isinstance(value.get("Message"), str):
            return value
        text = value["Message"]
    raise ValueError("notifications within notifications")


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _message(name: str, record: dict[str, Any], handle: Any) -> Message:
    kind = next((kind for kind in _INFO if isinstance(record.get(kind), dict)), None)
    if kind is None:
        raise ValueError(f"no invocation record of a stream: it has neither {' nor '.join(_INFO)}")
    info = record[kind]
    if "startSequenceNumber" not in info and "endSequenceNumber" not in info:
        raise ValueError("of the last invocation of a window, which has no records")
    return Message(
        name,
        stream_arn=_text(info, "streamArn"),
        shard_id=_text(info, "shardId"),
        first_sequence_number=_number(info, "startSequenceNumber"),
        last_sequence_number=_number(info, "endSequenceNumber"),
        batch_size=info["batchSize"] if isinstance(info.get("batchSize"), int) else 1,
        format=_INFO[kind],
        arrived_ms=_instant(info.get("approximateArrivalOfLastRecord")),
        payload=record.get("payload") is not None,
        handle=handle,
    )


def _text(info: dict[str, Any], name: str) -> str:
    value = info.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"an invocation record whose {name} is {value!r}")
    return value


def _number(info: dict[str, Any], name: str) -> str:
    value = _text(info, name)
    if not (value.isascii() and value.isdigit() and len(value) <= 129):
        raise ValueError(f"an invocation record whose {name} is {value!r}, which is no sequence number")
    return value


def _instant(value: object) -> int | None:
    try:
        return round(datetime.fromisoformat(str(value)).timestamp() * 1000)
    except ValueError:
        return None


def _records(text: str | bytes) -> list[dict[str, Any]]:
    """Return the records of the event in a message's `payload`, which Lambda writes as a string that holds JSON."""
    payload = _invocation_record(text).get("payload")
    event = _json(payload) if isinstance(payload, str) else payload
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("its payload is no event of a stream: it has no list Records")
    return records


# Files.


class FileMessages:
    """Invocation records in a file, one on a line, as `FileDestination` writes them.

    The file stays as it is: what writes to it may go on. What has been redriven is noted in a file beside it, PATH.redriven, by the hash
    of each line; delete it to redrive everything again.

    Args:
        path: the file.
        shows: nothing will be deleted, so nothing is noted, and no other redrive is in the way.

    Raises:
        SourceError: the file cannot be read, or another redrive works on it.
    """

    def __init__(self, path: str, *, shows: bool = False) -> None:
        self._path = path
        self._notes: int | None = None
        self._received = False
        self._lock = threading.Lock()
        self.skipped = 0
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from None
        if shows:
            return
        try:
            self._notes = os.open(f"{path}.redriven", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._notes, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            busy = isinstance(error, BlockingIOError)
            raise SourceError(f"{path}: another redrive works on it" if busy else f"{path}.redriven: {error.strerror}") from None

    def receive(self) -> Sequence[Message | Unreadable]:
        """Return what the lines hold that have not been redriven. `skipped` says how many have been."""
        if self._received:
            return []
        self._received = True
        done = self._done()
        found: list[Message | Unreadable] = []
        at = 0
        for number, line in enumerate(self._file, 1):
            text = line.rstrip(b"\r\n")
            digest = hashlib.sha256(text).hexdigest()
            if digest in done:
                self.skipped += 1
            elif text.strip():
                found.append(read_message(f"{self._path}, line {number}", text, (at, len(line), digest)))
            at += len(line)
        if self.skipped:
            text = "%s: %d lines were redriven before and are passed over; delete %s.redriven to redrive them again"
            _log.warning(text, self._path, self.skipped, self._path)
        return found

    def _done(self) -> set[str]:
        try:
            return set(Path(f"{self._path}.redriven").read_text(errors="replace").split())
        except FileNotFoundError:
            return set()

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the line holds."""
        at, size, _ = message.handle
        with self._lock:
            self._file.seek(at)
            return _records(self._file.read(size))

    def delete(self, message: Message) -> None:
        """Note that the line has been redriven; when this returns, the note is on the disk."""
        if self._notes is None:
            raise SourceError(f"{self._path} is only shown")
        note = f"{message.handle[2]}\n".encode()
        try:
            with self._lock:
                size = os.fstat(self._notes).st_size
                if size and os.pread(self._notes, 1, size - 1) != b"\n":
                    note = b"\n" + note  # a crash has left half a note
                os.write(self._notes, note)
                os.fsync(self._notes)
        except OSError as error:
            raise SourceError(f"{self._path}.redriven: {error.strerror}") from error

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        notes, self._notes = self._notes, None
        if notes is not None:
            os.close(notes)


# Queues.

_ROUND = 10_000
_BATCH = 10  # the most that SQS takes in one call
_WAIT_S = 1


class QueueMessages:
    """Invocation records in an SQS queue that was an on-failure destination, or is subscribed to the SNS topic that was one.

    All that is in the queue is received first, up to 10,000 messages at a time, since order within a shard takes all messages of the
    shard. While they are held, nobody else sees them: their visibility timeout is extended again and again. What is not deleted in the
    end is visible again at once; after a crash, when the timeout is over.

    Args:
        client: boto3's client of SQS.
        url: the queue's.
        visibility_timeout_s: the visibility timeout, 3 s to 12 hours.
        wait_s: how long SQS waits for a message before it says that there is none (long polling, which asks all of its servers).

    Raises:
        ConfigError: the visibility timeout is out of range.
    """

    def __init__(self, client: Any, url: str, *, visibility_timeout_s: int = VISIBILITY_TIMEOUT_S, wait_s: int = _WAIT_S) -> None:
        if isinstance(visibility_timeout_s, bool) or not isinstance(visibility_timeout_s, int) or not 3 <= visibility_timeout_s <= 43_200:
            text = f"visibility_timeout must be a whole number of seconds from 3 to 43200, not {visibility_timeout_s!r}"
            raise ConfigError(text, parameter="visibility_timeout")
        self._client = client
        self._url = url
        self._visibility_s = visibility_timeout_s
        self._wait_s = wait_s
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
            asked = {"MaxNumberOfMessages": _BATCH, "WaitTimeSeconds": self._wait_s, "VisibilityTimeout": self._visibility_s}
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
            _log.debug("%s", error)
            return
        hidden = int(answer.get("Attributes", {}).get(name, 0))
        if hidden:
            text = "the queue shows no message; %d are held by another reader, or by one that has crashed, until their visibility timeout ends"
            _log.warning(text, hidden)

    def records(self, message: Message) -> list[dict[str, Any]]:
        """Return the records that the message holds."""
        return _records(message.handle[1])

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
                _log.warning("%s; messages may come again while they are redriven", error)
                return
            for failed in answer.get("Failed") or []:
                message_id = some[int(failed["Id"])][0]
                with self._lock:
                    gone = message_id not in self._held
                if not gone:  # else it was deleted meanwhile
                    _log.warning("message %s is visible to others again: %s", message_id, failed.get("Message") or failed.get("Code"))


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
        return _records(self._body(message.handle))

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


def _client(service: str, *, region: str | None, endpoint_url: str | None, profile: str | None) -> Any:
    """Return a boto3 client that tries a few times: everything that is asked of it here may be asked twice."""
    try:
        import boto3  # noqa: PLC0415  (as above)
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, NoRegionError, ProfileNotFound  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = f"a queue or a bucket needs boto3, which is not installed: pip install '{DISTRIBUTION}[aws]'"
        raise ConfigError(message) from error
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 5},
        tcp_keepalive=True,
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
        user_agent_extra=f"{DISTRIBUTION}/{version()}",
    )
    try:
        session = boto3.session.Session(profile_name=profile)
        region = region or session.region_name or ("us-east-1" if endpoint_url else None)
        return session.client(service, region_name=region, endpoint_url=endpoint_url, config=config)
    except NoRegionError:
        message = "no region: give one with --region or region=, in AWS_REGION, AWS_DEFAULT_REGION or in the profile"
        raise ConfigError(message, parameter="region") from None
    except ProfileNotFound as error:
        raise ConfigError(str(error), parameter="profile") from None
    except ValueError as error:  # botocore's words for a URL that cannot be used
        raise ConfigError(f"{error}; an endpoint is a URL like http://127.0.0.1:4566", parameter="endpoint_url") from None
    except BotoCoreError as error:
        raise ConfigError(f"no client of {service} can be made: {error}") from error
