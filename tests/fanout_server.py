"""A server of enhanced fan-out on 127.0.0.1 that does what AWS documents, over real sockets: SubscribeToShard in HTTP/2, in clear or with
TLS, and beside it the few calls of HTTP/1.1 that a source makes of the same endpoint.

It follows the Kinesis API reference (SubscribeToShard, ListShards, DescribeStreamConsumer) and nothing else. What AWS does by the clock, a
test tells it to do: end a subscription, break it off, take it over.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
import threading
import time
import zlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator

STREAM_ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
CONSUMER_ARN = f"{STREAM_ARN}/consumer/lambda:1700000000"
HASH_KEYS = 2**128


def encode(headers: dict[str, str], payload: bytes) -> bytes:
    """Return a message of the event stream encoding, all its headers strings."""
    block = b""
    for name, value in headers.items():
        text, own = value.encode(), name.encode()
        block += bytes([len(own)]) + own + b"\x07" + struct.pack(">H", len(text)) + text
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return message + struct.pack(">I", zlib.crc32(message))


@dataclass
class Shard:
    """One shard: its records as answers have them, of which the first `trimmed` are gone."""

    shard_id: str
    hash_keys: tuple[int, int]
    parents: tuple[str, ...] = ()
    children: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    trimmed: int = 0


@dataclass(eq=False)
class Subscription:
    """One answer that goes on: what a test wants of it next is in `orders`; `blocked` where the window is used up."""

    shard_id: str
    at: int
    changed: asyncio.Event
    orders: deque[Callable[[Subscription, Answer], Coroutine[Any, Any, bool]]] = field(default_factory=deque)
    sent: int = 0
    blocked: bool = False


class FanOutServer:
    """One stream with one consumer.

    Attributes:
        endpoint_url: where it listens.
        created: when the stream was created, in seconds; a test may change it, as if the stream were made anew.
        consumer_status: what DescribeStreamConsumer says.
        initial_response: whether an answer begins with the initial response, as that of AWS does.
        silent: an answer does not begin with an event, though nothing is to be read.
        heartbeats: once the tip is reached, an event without records says so, as on AWS every few seconds.
        event_records: records of an event, at most.
        frame_bytes: bytes of a DATA frame, at most.
        streams_max: answers on one connection at a time.
        errors: for an operation, error answers of the next calls: status, code, message.
        calls: how many calls of each operation came.
        subscribed: the parameters of every SubscribeToShard.
        headers: those of the last SubscribeToShard.
        connections: HTTP/2 connections that were made.
        open: the subscriptions that are alive, by shard.
    """

    def __init__(self, shards: int = 1) -> None:
        self.endpoint_url = ""
        self.created = 1_700_000_000.25
        self.consumer_status = "ACTIVE"
        self.initial_response = True
        self.silent = False
        self.heartbeats = False
        self.event_records = 1000
        self.frame_bytes = 16_384
        self.streams_max = 100
        self.errors: dict[str, deque[tuple[int, str, str]]] = {}
        self.calls: Counter[str] = Counter()
        self.subscribed: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.connections = 0
        self.open: dict[str, Subscription] = {}
        self.shards: dict[str, Shard] = {}
        self.changed = threading.Condition()
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._sequence = 10**20
        step = HASH_KEYS // shards
        for number in range(shards):
            self.add_shard((number * step, HASH_KEYS - 1 if number == shards - 1 else (number + 1) * step - 1))

    # What a test does.

    def add_shard(self, hash_keys: tuple[int, int], *parents: str) -> str:
        """Open a shard; its parents are closed by it."""
        with self.changed:
            shard_id = f"shardId-{len(self.shards):012d}"
            self.shards[shard_id] = Shard(shard_id, hash_keys, parents)
            for parent in parents:
                self.shards[parent].children.append(shard_id)
        self._notify()
        return shard_id

    def put(self, shard_id: str, *datas: bytes, key: str = "key", arrival: float | None = None) -> list[str]:
        """Append records; return their sequence numbers."""
        with self.changed:
            for data in datas:
                self._sequence += 7
                record = {
                    "ApproximateArrivalTimestamp": round(time.time(), 3) if arrival is None else arrival,
                    "Data": base64.b64encode(data).decode(),
                    "EncryptionType": "NONE",
                    "PartitionKey": key,
                    "SequenceNumber": str(self._sequence),
                }
                self.shards[shard_id].records.append(record)
            numbers = [record["SequenceNumber"] for record in self.shards[shard_id].records[-len(datas) :]]
        self._notify()
        return numbers

    def fail(self, operation: str, *errors: tuple[int, str, str]) -> None:
        """Answer the next calls of an operation with these errors."""
        self.errors.setdefault(operation, deque()).extend(errors)

    def end(self, shard_id: str) -> None:
        """End the shard's subscription, as after five minutes."""
        self._order(shard_id, _end)

    def reset(self, shard_id: str) -> None:
        """Break the shard's subscription off."""
        self._order(shard_id, _reset)

    def throw(self, shard_id: str, code: str, text: str = "for the test") -> None:
        """End the shard's subscription with an exception."""

        async def send(subscription: Subscription, answer: Answer) -> bool:
            await answer.send(encode({":message-type": "exception", ":exception-type": code}, json.dumps({"message": text}).encode()))
            return await _end(subscription, answer)

        self._order(shard_id, send)

    def say(self, shard_id: str, message: bytes) -> None:
        """Send bytes to the shard's subscription."""

        async def send(_: Subscription, answer: Answer) -> bool:
            await answer.send(message)
            return True

        self._order(shard_id, send)

    def drop_connections(self) -> None:
        """Break every connection."""

        def drop() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self.loop.call_soon_threadsafe(drop)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; what it looks at is changed by calls of this server."""
        with self.changed:
            if not self.changed.wait_for(condition, 30):
                raise TimeoutError(f"calls: {self.calls}, subscribed: {self.subscribed}")

    def _order(self, shard_id: str, order: Any) -> None:
        self.wait(lambda: shard_id in self.open)

        def give() -> None:
            if (subscription := self.open.get(shard_id)) is not None:
                subscription.orders.append(order)
                subscription.changed.set()

        self.loop.call_soon_threadsafe(give)

    def _notify(self) -> None:
        def notify() -> None:
            for subscription in self.open.values():
                subscription.changed.set()

        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(notify)

    # What it answers.

    def answer(self, operation: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer a call that has one answer: status and JSON."""
        with self.changed:
            self.calls[operation] += 1
            if operation == "SubscribeToShard":
                self.subscribed.append(asked)
            self.changed.notify_all()
            if self.errors.get(operation):
                status, code, message = self.errors[operation].popleft()
                return status, {"__type": code, "message": message}
            if operation == "DescribeStreamSummary":
                said = {
                    "StreamARN": STREAM_ARN,
                    "StreamStatus": "ACTIVE",
                    "RetentionPeriodHours": 24,
                    "StreamCreationTimestamp": self.created,
                }
                return 200, {"StreamDescriptionSummary": said}
            if operation == "DescribeStreamConsumer":
                return 200, {"ConsumerDescription": {"ConsumerARN": CONSUMER_ARN, "ConsumerStatus": self.consumer_status}}
            if operation == "ListShards":
                return 200, {"Shards": [_described(shard) for shard in self.shards.values()]}
            if asked["ConsumerARN"] != CONSUMER_ARN or asked["ShardId"] not in self.shards:
                return 400, {"__type": "ResourceNotFoundException", "message": "not found"}
            try:
                self._begin(asked)
            except ValueError:
                return 400, {"__type": "InvalidArgumentException", "message": "the sequence number is not in the shard"}
            return 200, {}

    def _begin(self, asked: dict[str, Any]) -> int:
        shard, position = self.shards[asked["ShardId"]], asked["StartingPosition"]
        kind = position["Type"]
        if kind == "LATEST":
            return len(shard.records)
        if kind == "AT_TIMESTAMP":
            return next(
                (at for at, record in enumerate(shard.records) if record["ApproximateArrivalTimestamp"] >= position["Timestamp"]),
                len(shard.records),
            )
        if kind == "TRIM_HORIZON":
            return shard.trimmed
        numbers = [int(record["SequenceNumber"]) for record in shard.records]
        at = sum(number <= int(position["SequenceNumber"]) for number in numbers)
        if at < shard.trimmed:
            raise ValueError(at)
        return at

    def accept(self, asked: dict[str, Any]) -> Subscription:
        """Take a subscription on: from now on its place in the shard is fixed, and an older one is taken over."""
        with self.changed:
            shard_id = asked["ShardId"]
            old = self.open.get(shard_id)
            if old is not None:
                old.orders.append(_taken_over)
                old.changed.set()
            mine = self.open[shard_id] = Subscription(shard_id, self._begin(asked), asyncio.Event())
            self.changed.notify_all()
            return mine

    async def subscribe(self, mine: Subscription, answer: Answer) -> None:
        """Hold one subscription: send what is there and what comes, until the shard, the consumer or the test ends it."""
        shard = self.shards[mine.shard_id]
        try:
            if self.initial_response:
                await answer.send(encode({":message-type": "event", ":event-type": "initial-response"}, b"{}"), mine)
            first = not self.silent
            while True:
                while mine.orders:
                    if not await mine.orders.popleft()(mine, answer):
                        return
                with self.changed:
                    records = shard.records[mine.at : mine.at + self.event_records]
                    left = len(shard.records) - mine.at - len(records)
                    children = [self.shards[child] for child in shard.children] if not left else []
                if records or children or first:
                    mine.at += len(records)
                    await answer.send(_event(shard, records, mine.at, left, children), mine)
                    first = self.heartbeats and bool(records) and not left
                    if children:
                        await _end(mine, answer)
                        return
                    continue
                mine.changed.clear()
                if not mine.orders and len(shard.records) == mine.at and not shard.children:
                    await mine.changed.wait()
        finally:
            with self.changed:
                if self.open.get(shard.shard_id) is mine:
                    del self.open[shard.shard_id]
                self.changed.notify_all()

    # Sockets.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, in the protocol that it begins with."""
        self._writers.add(writer)
        try:
            head = await reader.readexactly(4)
            if head == b"PRI ":
                await _Http2(self, reader, writer).serve(head)
            else:
                await self._http1(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has gone, or the test is over
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _http1(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            lines = (head + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            asked = json.loads(await reader.readexactly(int(headers["content-length"])))
            status, said = self.answer(headers["x-amz-target"].partition(".")[2], asked)
            body = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
            head = await reader.readexactly(1)


def _described(shard: Shard) -> dict[str, Any]:
    first, last = shard.hash_keys
    numbers = {"StartingSequenceNumber": "1"} | ({"EndingSequenceNumber": "9" * 30} if shard.children else {})
    described: dict[str, Any] = {
        "ShardId": shard.shard_id,
        "HashKeyRange": {"StartingHashKey": str(first), "EndingHashKey": str(last)},
        "SequenceNumberRange": numbers,
    }
    parents = dict(zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False))
    return described | parents


def _event(shard: Shard, records: list[dict[str, Any]], at: int, left: int, children: list[Shard]) -> bytes:
    said: dict[str, Any] = {"Records": records, "MillisBehindLatest": left}
    if children:
        said["ChildShards"] = [{"ShardId": child.shard_id, "ParentShards": list(child.parents)} for child in children]
    else:
        # It moves on without records too: to where the shard has been read.
        said["ContinuationSequenceNumber"] = shard.records[at - 1]["SequenceNumber"] if at else "1"
    headers = {":event-type": "SubscribeToShardEvent", ":content-type": "application/x-amz-json-1.1", ":message-type": "event"}
    return encode(headers, json.dumps(said).encode())


async def _end(_: Subscription, answer: Answer) -> bool:
    answer.end()
    return False


async def _reset(_: Subscription, answer: Answer) -> bool:
    answer.reset()
    return False


async def _taken_over(subscription: Subscription, answer: Answer) -> bool:
    text = json.dumps({"message": "Consumer has subscribed again"}).encode()
    await answer.send(encode({":message-type": "exception", ":exception-type": "ResourceInUseException"}, text))
    return await _end(subscription, answer)


class Answer:
    """The answer to one request of HTTP/2."""

    def __init__(self, connection: _Http2, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id

    async def send(self, data: bytes, subscription: Subscription | None = None) -> None:
        """Send bytes as fast as the windows allow."""
        http, stream_id = self._connection.http, self._stream_id
        while data:
            room = min(http.local_flow_control_window(stream_id), self._connection.server.frame_bytes, http.max_outbound_frame_size)
            if not room:
                if subscription is not None:
                    with self._connection.server.changed:
                        subscription.blocked = True
                        self._connection.server.changed.notify_all()
                self._connection.opened.clear()
                await self._connection.opened.wait()
                continue
            piece, data = data[:room], data[room:]
            http.send_data(stream_id, piece)
            if subscription is not None:
                subscription.blocked = False
                subscription.sent += len(piece)
            self._connection.flush()
            await asyncio.sleep(0)

    def end(self) -> None:
        self._connection.http.end_stream(self._stream_id)
        self._connection.flush()

    def reset(self) -> None:
        self._connection.http.reset_stream(self._stream_id, error_code=2)  # INTERNAL_ERROR
        self._connection.flush()


class _Http2:
    """One connection of HTTP/2."""

    def __init__(self, server: FanOutServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self._reader, self._writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.http.local_settings = h2.settings.Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: server.streams_max}
        )
        self.opened = asyncio.Event()
        self._bodies: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def flush(self) -> None:
        self._writer.write(self.http.data_to_send())

    async def serve(self, head: bytes) -> None:
        with self.server.changed:
            self.server.connections += 1
            self.server.changed.notify_all()
        self.http.initiate_connection()
        data = head
        try:
            while data:
                for event in self.http.receive_data(data):
                    self._happened(event)
                self.flush()
                data = await self._reader.read(1 << 16)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            self._bodies[event.stream_id] = ({str(name): str(value) for name, value in event.headers or ()}, bytearray())
        elif isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            self._bodies[event.stream_id][1].extend(event.data or b"")
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            self._asked(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            task = self._tasks.pop(event.stream_id or 0, None)
            if task is not None:
                task.cancel()
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self.opened.set()

    def _asked(self, stream_id: int) -> None:
        headers, body = self._bodies.pop(stream_id)
        self.server.headers = headers
        asked = json.loads(body)
        status, said = self.server.answer(headers["x-amz-target"].partition(".")[2], asked)
        accepted = self.server.accept(asked) if status == 200 else None
        content_type = "application/vnd.amazon.eventstream" if status == 200 else "application/x-amz-json-1.1"
        self.http.send_headers(stream_id, [(":status", str(status)), ("content-type", content_type)])
        answer = Answer(self, stream_id)
        if accepted is not None:
            self._tasks[stream_id] = asyncio.create_task(self.server.subscribe(accepted, answer))
        else:
            self.http.send_data(stream_id, json.dumps(said).encode(), end_stream=True)


@contextlib.contextmanager
def fanout_server(shards: int = 1, *, tls: ssl.SSLContext | None = None) -> Iterator[FanOutServer]:
    """Run a server until the block is left."""
    server = FanOutServer(shards)
    loop = server.loop
    thread = threading.Thread(target=loop.run_forever, name="fanout-server")
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)

    async def stop(listening: asyncio.Server) -> None:
        listening.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    listening = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    port = listening.sockets[0].getsockname()[1]
    server.endpoint_url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{port}"
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(listening), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
