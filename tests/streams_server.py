"""A server of the DynamoDB Streams API on 127.0.0.1 that does what no local server does and AWS does all the time: shards rotate,
listings have pages, iterators expire, records and shards are trimmed.

It follows the DynamoDB API reference (DescribeStream, GetShardIterator, GetRecords) and nothing else; a test changes its shards itself.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/"


class ApiError(Exception):
    """An error answer: code and message."""


@dataclass
class Shard:
    """One shard: its records, of which the first `trimmed` are gone."""

    shard_id: str
    parent: str | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False
    trimmed: int = 0


@dataclass
class StreamsServer:
    """One table's stream.

    Attributes:
        endpoint_url: where it listens.
        label: names the stream; a test may change it, as if the table were made anew.
        status: of the stream.
        date: what its answers say as the time, in seconds; None for nothing.
        page_shards: shards of a page of a listing, at most; 100 on AWS.
        page_records: records of a page, at most.
        errors: for an operation, error answers of the next calls, each a code and a message.
        calls: how many calls of each operation came.
        requests: the parameters of every call, with the operation.
    """

    endpoint_url: str = ""
    label: str = "2026-01-30T12:00:05.123"
    status: str = "ENABLED"
    date: float | None = None
    page_shards: int = 100
    page_records: int = 1000
    shards: dict[str, Shard] = field(default_factory=dict)
    errors: dict[str, deque[tuple[str, str]]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    generation: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _sequence: int = 400000000000000499660

    @property
    def arn(self) -> str:
        """The stream's ARN."""
        return ARN + self.label

    def add_shard(self, parent: str | None = None) -> str:
        """Open a shard; one that has a parent closes it."""
        with self._lock:
            shard_id = f"shardId-{len(self.shards):020d}-a1b2c3d4"
            self.shards[shard_id] = Shard(shard_id, parent)
            if parent is not None:
                self.shards[parent].closed = True
            return shard_id

    def put(self, shard_id: str, key: str, number: int, second: int | None = None) -> None:
        """Append the record of an item's new version, written now if no second is given."""
        with self._lock:
            self._sequence += 1
            change = {
                "ApproximateCreationDateTime": float(int(time.time()) if second is None else second),
                "Keys": {"key": {"S": key}},
                "NewImage": {"key": {"S": key}, "number": {"N": str(number)}},
                "SequenceNumber": str(self._sequence),
                "SizeBytes": 26,
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            }
            record = {"awsRegion": "us-east-1", "dynamodb": change, "eventID": f"{self._sequence:032x}", "eventName": "MODIFY"}
            self.shards[shard_id].records.append(record)

    def fail(self, operation: str, *errors: tuple[str, str]) -> None:
        """Answer the next calls of an operation with these errors."""
        self.errors.setdefault(operation, deque()).extend(errors)

    def expire_iterators(self) -> None:
        """Let every iterator given out so far be expired."""
        self.generation += 1

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer one call."""
        with self._lock:
            self.calls[operation] += 1
            self.requests.append((operation, asked))
            if self.errors.get(operation):
                raise ApiError(*self.errors[operation].popleft())
            found: dict[str, Any] = getattr(self, f"_{operation}")(asked)
            return found

    def _ListStreams(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802  (as the operation)
        newest = {"StreamArn": self.arn, "StreamLabel": self.label, "TableName": "orders"}
        oldest = {**newest, "StreamArn": f"{ARN}2025", "StreamLabel": "2025-01-30T12:00:05.123"}
        return {"Streams": [newest, oldest] if asked["TableName"] == "orders" else []}

    def _DescribeStream(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._check(asked["StreamArn"])
        ids = list(self.shards)
        start = ids.index(asked["ExclusiveStartShardId"]) + 1 if "ExclusiveStartShardId" in asked else 0
        page = ids[start : start + self.page_shards]
        described: dict[str, Any] = {"StreamArn": self.arn, "StreamLabel": self.label, "StreamStatus": self.status}
        described["Shards"] = [self._described(self.shards[shard_id]) for shard_id in page]
        if start + len(page) < len(ids):
            described["LastEvaluatedShardId"] = page[-1]
        return {"StreamDescription": described}

    def _GetShardIterator(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._check(asked["StreamArn"])
        shard = self._shard(asked["ShardId"])
        kind, at = asked["ShardIteratorType"], shard.trimmed
        if kind == "LATEST":
            at = len(shard.records)
        elif kind == "AFTER_SEQUENCE_NUMBER":
            numbers = [int(record["dynamodb"]["SequenceNumber"]) for record in shard.records]
            at = sum(number <= int(asked["SequenceNumber"]) for number in numbers)
            if at < shard.trimmed:
                raise ApiError("TrimmedDataAccessException", "the sequence number is trimmed")
        return {"ShardIterator": self._iterator(shard, at)}

    def _GetRecords(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        arn, shard_id, generation, text = asked["ShardIterator"].replace("\n", "").split("|")
        self._check(arn)
        shard, at = self._shard(shard_id), int(text)
        if int(generation) != self.generation:
            raise ApiError("ExpiredIteratorException", "the iterator has expired")
        if at < shard.trimmed:
            raise ApiError("TrimmedDataAccessException", "the records are trimmed")
        if asked.get("Limit", 1000) > 1000:
            raise ApiError("ValidationException", "Limit is at most 1000")
        page = shard.records[at : at + min(asked.get("Limit", 1000), self.page_records)]
        at += len(page)
        ended = shard.closed and at == len(shard.records)
        return {"Records": page} if ended else {"Records": page, "NextShardIterator": self._iterator(shard, at)}

    def _check(self, arn: str) -> None:
        if arn != self.arn:
            raise ApiError("ResourceNotFoundException", "Requested resource not found: Stream not found")

    def _shard(self, shard_id: str) -> Shard:
        if shard_id not in self.shards:
            raise ApiError("ResourceNotFoundException", "Requested resource not found: Shard does not exist")
        return self.shards[shard_id]

    def _iterator(self, shard: Shard, at: int) -> str:
        # As some servers make them: an ARN in it, and a line feed after every 76 characters.
        text = f"{self.arn}|{shard.shard_id}|{self.generation}|{at:020d}"
        return "\n".join(text[start : start + 76] for start in range(0, len(text), 76)) + "\n"

    @staticmethod
    def _described(shard: Shard) -> dict[str, Any]:
        numbers = {"StartingSequenceNumber": "1"} | ({"EndingSequenceNumber": "2"} if shard.closed else {})
        described: dict[str, Any] = {"ShardId": shard.shard_id, "SequenceNumberRange": numbers}
        return described | ({"ParentShardId": shard.parent} if shard.parent else {})


@contextlib.contextmanager
def streams_server() -> Iterator[StreamsServer]:
    """Run a server until the block is left."""
    server = StreamsServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service, _, operation = self.headers["X-Amz-Target"].partition(".")
            assert service == "DynamoDBStreams_20120810"
            try:
                status, answer = 200, server.answer(operation, asked)
            except ApiError as error:
                code, message = error.args
                status = 500 if code == "InternalServerError" else 400
                answer = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
            body = json.dumps(answer).encode()
            self.send_response_only(status)
            if server.date is not None:
                self.send_header("Date", self.date_time_string(server.date))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.endpoint_url = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
