"""Reads one shard by subscriptions to it (Kinesis API reference, SubscribeToShard).

A subscription lasts five minutes at most and is renewed before, behind the last event that came. What stands here is when to subscribe,
from where, and what each way of its end means; the connection is the source's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any

from streamcore._streamcore import Page
from streamcore.errors import PageError, SourceError, SourceUnavailableError
from streamcore.protocols import Fetched, Start
from streamcore.sources._aws import AwsError
from streamcore.sources._eventstream import EventStreamError, Message, MessageReader
from streamcore.sources._http2 import Http2Error

if TYPE_CHECKING:
    from streamcore.sources._http2 import Exchange
    from streamcore.sources.fanout import FanOutSource

__all__ = ["WINDOW_MAX", "ShardSubscription"]

_log = logging.getLogger("streamcore.sources")

OPERATION = "SubscribeToShard"
WINDOW_MAX = 1 << 20
# After a successful call, another one of the same consumer and shard is refused for so long.
_REFUSED_S = 5.0
# A subscription of a worker that has just gone may stand in the way for that long. Refused for longer, another reader is alive.
_PATIENCE_S = 7.0
_REFUSED_PAUSE_S = 1.0
# AWS ends a subscription after 5 minutes. Shards that were subscribed to together are renewed over a while.
_RENEW_AFTER_S, _RENEW_SPREAD_S = 270.0, 15.0
_THROTTLED_S, _THROTTLED_MAX_S = 0.25, 10.0
_UNSURE_S = 1.0
# At first contact, where a reader must stand at the tip.
_TRIES, _TRY_PAUSE_S = 5, 0.2
_ERROR_BODY_MAX = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class _Event:
    """What one event brought: its page, and how many bytes of which answer it took."""

    page: Page
    behind: int
    ended: bool = False
    trimmed: bool = False
    exchange: Exchange | None = None
    size: int = 0


class ShardSubscription:
    """Reads one shard of a `FanOutSource`.

    `fetch` and `close` are called by whoever reads; `run` runs on the source's event loop. Between them stands a queue of pages. What
    the service may send is limited to a window, which opens again as pages are fetched: a reader that is not asked holds no more.
    """

    def __init__(self, source: FanOutSource, shard_id: str, start: Start, hash_keys: tuple[int, int]) -> None:
        self._source = source
        self._shard_id = shard_id
        self._start = start  # where the next subscription begins
        self._hash_keys = hash_keys
        self._opened_ms = source.now_ms()
        self._lock = threading.Lock()
        self._queue: deque[_Event] = deque()
        self._error: Exception | None = None
        self._behind: int | None = None
        self._accepted = threading.Event()
        self._task: asyncio.Task[None] | None = None
        # On the event loop only:
        self._owed = 0  # bytes of the message under way that the window lacks
        self._exchange: Exchange | None = None
        self._fruitful = False  # whether this subscription has brought an event
        self._trimmed = False
        self._throttled = 0
        self._not_before = 0.0
        self._refused_since: float | None = None
        self._tries_left = _TRIES

    @property
    def _name(self) -> str:
        return f"{self._source.consumer_arn}, shard {self._shard_id}"

    # What the poller calls.

    def fetch(self, limit: int) -> Fetched:
        """Return the records of the next event, at most `limit` of them, but an aggregate as a whole.

        Raises:
            SourceUnavailableError: the shard cannot be read now.
            SourceError: the stream was made anew.
            AwsError: the service failed, and may not the next time.
        """
        with self._lock:
            event = self._next(limit)
            more, error = bool(self._queue), self._error
        if event is None:
            if error is not None:
                raise error
            self._credit_message()
            # Before anything was said, that the tip is reached would be a guess.
            return Fetched(None, max(self._source.now_ms() - self._opened_ms, 1) if self._behind is None else self._behind)
        self._behind = max(event.behind, 1) if more else event.behind
        self._credit(event.exchange, event.size)
        if not more:
            self._credit_message()
        return Fetched(event.page, self._behind, event.ended, trimmed=event.trimmed)

    def _next(self, limit: int) -> _Event | None:
        """Take an event from the queue; if it has more records than asked for, a part of it."""
        if not self._queue:
            return None
        event = self._queue.popleft()
        while self._queue and not len(event.page) and not event.trimmed:
            # An event without records says how far behind the shard is; a later one says it better.
            self._credit(event.exchange, event.size)
            event = self._queue.popleft()
        first, rest = event.page.cut(limit)
        if rest is None:
            return event
        self._queue.appendleft(dataclasses.replace(event, page=rest, trimmed=False))
        return dataclasses.replace(event, page=first, ended=False, size=0)

    def close(self) -> None:
        """Give the subscription up."""
        self._source.soon(self._end)

    def begin(self) -> None:
        """Begin to subscribe.

        Raises:
            SourceError: the source is closed.
        """
        if not self._source.soon(self._begin):
            raise SourceError(f"the source of {self._source.consumer_arn} is closed")

    def stand(self) -> None:
        """Wait until the first subscription is accepted.

        Raises:
            SourceError: the shard cannot be read.
        """
        self._accepted.wait()
        with self._lock:
            error = self._error
        if isinstance(error, AwsError):
            raise error.unavailable(self._name) from error
        if error is not None:
            raise error

    def _credit(self, exchange: Exchange | None, size: int) -> None:
        if exchange is not None and size:
            self._source.soon(exchange.credit, size)

    def _credit_message(self) -> None:
        """Let the message that is under way go on: there is room for it."""
        if self._owed:
            self._source.soon(self._pay)

    # On the event loop.

    def _begin(self) -> None:
        self._task = asyncio.create_task(self.run(), name=f"streamcore-{self._shard_id}")

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _pay(self) -> None:
        owed, self._owed = self._owed, 0
        if self._exchange is not None:
            self._exchange.credit(owed)

    async def run(self) -> None:
        """Subscribe again and again until the shard ends, or cannot be read."""
        try:
            while not await self._subscribe():
                pass
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whoever fetches is told, whatever it is
            with self._lock:
                self._error = error
            self._source.wake(self._shard_id)
        finally:
            self._drop()
            self._accepted.set()

    async def _subscribe(self) -> bool:
        """Hold one subscription. Returns whether the shard has ended."""
        loop = asyncio.get_running_loop()
        earliest = max(self._not_before, self._source.accepted_at.get(self._shard_id, -_REFUSED_S) + _REFUSED_S)
        await asyncio.sleep(max(earliest - loop.time(), 0))
        self._fruitful = False
        now_ms = self._source.now_ms()
        try:
            exchange = self._exchange = await self._source.subscribe(self._shard_id, self._start)
            if exchange.status != 200:
                raise await self._read_error(exchange)
            self._source.accepted_at[self._shard_id] = loop.time()
            self._throttled = 0
            if self._start.kind == "LATEST":
                # The tip is from now on this instant, however often the shard is subscribed to before its first event.
                self._start = Start("AT_TIMESTAMP", timestamp_ms=now_ms)
            self._accepted.set()
            spread = zlib.crc32(self._shard_id.encode()) % 1000 / 1000 * _RENEW_SPREAD_S
            async with asyncio.timeout(_RENEW_AFTER_S - spread):
                last = await self._read(exchange)
            return last is not None and await self._at_end(last)
        except TimeoutError:
            _log.debug("shard %s: the subscription is renewed behind %s", self._shard_id, self._start, extra=self._fields())
            return False
        except (Http2Error, EventStreamError) as error:
            broken = AwsError("transient", type(error).__name__, str(error), action=self._source.action(OPERATION))
            return await self._failed(broken)
        except AwsError as error:
            return await self._failed(error)
        finally:
            self._drop()

    def _drop(self) -> None:
        exchange, self._exchange, self._owed = self._exchange, None, 0
        if exchange is not None:
            exchange.cancel()

    async def _read(self, exchange: Exchange) -> _Event | None:
        """Read events until the answer ends. Returns the event that said that the shard ends."""
        messages = MessageReader()
        while data := await exchange.read():
            self._owed += len(data)
            for message in messages.feed(data):
                event = self._event(message)
                if event is not None:
                    event = dataclasses.replace(event, exchange=exchange, size=self._owed)
                    self._owed = 0
                    if event.ended:
                        return event
                    self._hand_over(event)
            if self._owed > self._source.window // 2 and not self._queue:
                self._source.wake(self._shard_id)  # the message is larger than the window, and goes on when there is room
        if messages.partial:
            raise Http2Error("the answer ended within a message")
        if not self._fruitful:
            raise Http2Error("the answer ended before its first event")
        return None

    def _event(self, message: Message) -> _Event | None:
        kind = message.headers.get(":message-type")
        if kind == "exception":
            raise self._source.error(OPERATION, 400, message.payload, message.headers.get(":exception-type"))
        if kind == "error":
            code, text = message.headers.get(":error-code", "InternalFailure"), message.headers.get(":error-message", "")
            raise AwsError("transient", code, text, action=self._source.action(OPERATION))
        if kind != "event" or message.headers.get(":event-type") != "SubscribeToShardEvent":
            return None  # the initial response, which has nothing in it, and which some servers leave out
        try:
            page = Page.parse(message.payload)
        except PageError as error:
            text = f"an event of shard {self._shard_id} of {self._source.consumer_arn} cannot be read: {error}"
            raise SourceUnavailableError(text, action=self._source.action(OPERATION)) from error
        self._fruitful = True
        self._refused_since = None
        continuation, last = page.continuation_sequence_number, page.last_sequence_number
        if (position := continuation or last) is not None:
            self._start = Start("AFTER_SEQUENCE_NUMBER", sequence_number=position)
        # Some servers say that the tip is reached whatever is left. They are believed when there were no records with it.
        behind = page.millis_behind or 0
        if last is not None and not self._source.says_behind:
            behind = max(behind, 1)
        page, foreign = page.deaggregate(*self._hash_keys)
        if foreign:
            _log.warning(
                "shard %s of %s: %d aggregated records left out: a record in them belongs to another shard, to which its producer "
                "writes it again",
                self._shard_id,
                self._source.consumer_arn,
                foreign,
                extra={**self._fields(), "count": foreign},
            )
        trimmed, self._trimmed = self._trimmed, False
        return _Event(page, behind, bool(page.child_shards) or continuation is None, trimmed)

    def _hand_over(self, event: _Event) -> None:
        with self._lock:
            self._queue.append(event)
        self._source.wake(self._shard_id)

    async def _at_end(self, last: _Event) -> bool:
        """Hand the last event over. An end that names no child shards must be in the listing too."""
        if not last.page.child_shards:
            listed = await self._source.aside(self._source.stream.find, self._shard_id)
            if listed is not None and not listed.closed:
                self._not_before = asyncio.get_running_loop().time() + _UNSURE_S
                last = dataclasses.replace(last, ended=False)
        self._hand_over(last)
        return last.ended

    # What goes wrong.

    def _fields(self, error: AwsError | None = None) -> dict[str, object]:
        told = {} if error is None else {"errorType": error.code, "errorMessage": error.text}
        return {"stream": self._source.consumer_arn, "shardId": self._shard_id, **told}

    async def _read_error(self, exchange: Exchange) -> AwsError:
        body = b""
        while len(body) < _ERROR_BODY_MAX and (data := await exchange.read()):
            body += data
        return self._source.error(OPERATION, exchange.status, body, exchange.headers.get("x-amzn-errortype"))

    async def _failed(self, error: AwsError) -> bool:
        """Deal with a failure, so that the shard may be subscribed to again; returns whether it has ended.

        Raises:
            AwsError, SourceError: whoever fetches is to be told.
        """
        now = asyncio.get_running_loop().time()
        name = self._name
        if error.kind == "not_active":
            if self._refused_since is None:
                self._refused_since = now
            if self._fruitful or now - self._refused_since > _PATIENCE_S:
                message = f"another reader has subscribed to {name}; each mapping needs a consumer of its own: {error.text}"
                raise SourceUnavailableError(message, code=error.code, action=error.action) from error
            self._not_before = now + _REFUSED_PAUSE_S
        elif error.kind == "throttled":
            pause = min(_THROTTLED_S * 2**self._throttled, _THROTTLED_MAX_S)
            self._throttled += 1
            self._not_before = now + pause
            fields = {**self._fields(error), "retryInMs": round(pause * 1000), "failures": self._throttled}
            _log.info("shard %s: %s; next subscription in %.2f s", self._shard_id, error, pause, extra=fields)
        elif error.kind == "transient":
            if self._start.kind == "LATEST" and self._tries_left > 1:
                # First contact: who opens the shard waits for it.
                self._tries_left -= 1
                self._not_before = now + _TRY_PAUSE_S
                return False
            if not self._fruitful:
                raise error
            _log.info("shard %s: the subscription broke off: %s", self._shard_id, error, extra=self._fields(error))
        elif error.kind == "not_found":
            if await self._source.aside(self._source.stream.find, self._shard_id) is not None:
                raise error.unavailable(name) from error
            self._hand_over(_Event(Page.from_records([]), 0, ended=True, trimmed=True))
            return True
        elif error.kind in ("invalid", "trimmed") and self._start.kind == "AFTER_SEQUENCE_NUMBER":
            # The record is older than what the stream keeps. Had the stream been made anew, `describe` would say so.
            await self._source.aside(self._source.stream.describe)
            self._start = Start("TRIM_HORIZON")
            self._trimmed = True
        else:
            raise error.unavailable(name) from error
        return False


def parameters(consumer_arn: str, shard_id: str, start: Start) -> dict[str, Any]:
    """Return the parameters of a SubscribeToShard call."""
    position: dict[str, object] = {"Type": start.kind}
    if start.kind == "AT_TIMESTAMP":
        position["Timestamp"] = (start.timestamp_ms or 0) / 1000
    elif start.kind == "AFTER_SEQUENCE_NUMBER":
        position["SequenceNumber"] = start.sequence_number
    return {"ConsumerARN": consumer_arn, "ShardId": shard_id, "StartingPosition": position}
