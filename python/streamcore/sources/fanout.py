"""Reads a stream of Kinesis with enhanced fan-out: records are pushed to a registered consumer.

Kinesis developer guide, "Develop enhanced fan-out consumers with dedicated throughput".
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from streamcore._distribution import DISTRIBUTION
from streamcore.errors import ConfigError, SourceError, SourceUnavailableError
from streamcore.sources._aws import AwsClient, AwsError
from streamcore.sources._http2 import Http2Client, Http2Error
from streamcore.sources._subscription import OPERATION, WINDOW_MAX, ShardSubscription, parameters
from streamcore.sources._wall import WallClock
from streamcore.sources.kinesis import KinesisSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamcore.protocols import Clock, ShardDescription, Start, StreamDescription, Wakeup
    from streamcore.sources._http2 import Exchange

__all__ = ["FanOutSource"]

_log = logging.getLogger("streamcore.sources")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_CONSUMER_ARN = re.compile(
    r"(?P<stream>arn:[a-z-]+:kinesis:(?P<region>[a-z0-9-]+):\d*:stream/[a-zA-Z0-9_.-]{1,128})/consumer/[a-zA-Z0-9_.-]{1,128}:\d+"
)
_TRIES = 5  # of each call at first contact
_ALL_HASH_KEYS = (0, 2**128 - 1)
# All shards together may have so much on its way to the engine, and each of them at least so much.
_WINDOWS_BYTES, _WINDOW_MIN = 64 << 20, 1 << 16
_SILENCE_S = 30.0
_CLOSE_S = 5.0


class FanOutSource:
    """A stream of Kinesis Data Streams, read by a consumer with enhanced fan-out.

    Records come as they are written, with 2 MiB a second for each shard that no other consumer shares, and are not polled for. The
    consumer is registered beforehand (`aws kinesis register-stream-consumer`); each mapping needs one of its own. Events carry the
    consumer's ARN, and records that the Kinesis Producer Library has aggregated are taken apart before the function gets them: each comes
    with its own partition key and data, and with the sequence number of the record around it (Lambda developer guide, "Using Lambda
    with Kinesis"). A checkpoint stands between two records of the stream, so after a restart an aggregate is read again as a whole, and
    those of its records that were complete are not handed out again.

    All shards share one connection and one thread. Each shard has at most 1 MiB on its way, of at most 64 MiB or 64 KiB a shard for all
    of them together, and gets more only as the engine takes pages in.

    Credentials, region and endpoint are found as for `KinesisSource`. Endpoints at https:// must speak HTTP/2, those at http:// are spoken
    to in HTTP/2 at once. Proxies of the environment are gone through.

    Args:
        consumer_arn: `arn:aws:kinesis:REGION:ACCOUNT:stream/NAME/consumer/CONSUMER:CREATED`, as RegisterStreamConsumer returns it.
        region: the region; by default the ARN's.
        endpoint_url: another server than AWS's own, as `http://127.0.0.1:4566`.
        profile: a profile of the shared configuration files.
        clock: tells the time at which LATEST is.
        connect_timeout_s: how long to wait for a connection.
        read_timeout_s: how long a server may take to answer a call.

    Raises:
        ConfigError: the ARN, region, profile or endpoint cannot be right, or the extra `aws` is not installed.

    Example:
        A worker over a consumer of a local server::

            source = FanOutSource(consumer["ConsumerARN"], endpoint_url="http://127.0.0.1:4566")
            worker.add(EventSourceMapping(starting_position="LATEST"), source, LocalFunction(handler))
            worker.run()
    """

    def __init__(
        self,
        consumer_arn: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        clock: Clock | None = None,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 10,
    ) -> None:
        arn = _CONSUMER_ARN.fullmatch(consumer_arn)
        if arn is None:
            message = (
                f"{consumer_arn!r} is not the ARN of a consumer of a Kinesis stream "
                "(arn:aws:kinesis:REGION:ACCOUNT:stream/NAME/consumer/CONSUMER:CREATED)"
            )
            raise ConfigError(message, parameter="consumer_arn")
        if importlib.util.find_spec("h2") is None:
            raise ConfigError(f"enhanced fan-out needs h2, which is not installed: pip install '{DISTRIBUTION}[aws]'")
        self.consumer_arn = consumer_arn
        self._clock: Clock = clock if clock is not None else WallClock()
        region = region or arn["region"]
        options: dict[str, Any] = {"region": region, "endpoint_url": endpoint_url, "profile": profile}
        options |= {"connect_timeout_s": connect_timeout_s, "read_timeout_s": read_timeout_s}
        self.stream = KinesisSource(arn["stream"], clock=self._clock, **options)
        self._client = AwsClient("kinesis", context={"ConsumerARN": consumer_arn}, **options)
        self._wakeup: Wakeup | None = None
        self._hash_keys: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None
        self._http: Http2Client | None = None
        self._closed = False
        self._tries = _TRIES
        self.window = WINDOW_MAX
        # On the event loop only: when each shard was last subscribed to, by the loop's clock.
        self.accepted_at: dict[str, float] = {}

    def describe(self) -> StreamDescription:
        """Say what the stream is, and that the consumer is there.

        The identity differs from the one that polling the stream has: a checkpoint of one does not fit the other, since a position of
        the one is that of an aggregate, and of the other that of a record in it.

        Raises:
            SourceUnavailableError: there is no such stream or consumer, it is not active, or it may not be described.
            SourceError: the stream was made anew since the first call.
        """
        said = self.stream.describe()
        try:
            answer = self._client.ask("DescribeStreamConsumer", {"ConsumerARN": self.consumer_arn}, tries=self._tries)
        except AwsError as error:
            raise error.unavailable(self.consumer_arn) from error
        consumer = answer.get("ConsumerDescription")
        if not isinstance(consumer, dict):
            raise SourceError(f"what answers for {self.consumer_arn} does not speak the API of Kinesis: {str(answer)[:200]}")
        status = consumer.get("ConsumerStatus", "ACTIVE")
        if status != "ACTIVE":
            message = f"consumer {self.consumer_arn} is not active: its status is {status}"
            raise SourceUnavailableError(message, code="ResourceInUseException", action=self._client.action("DescribeStreamConsumer"))
        self._tries = 1
        return dataclasses.replace(said, identity=f"{said.identity}/deaggregated", event_source_arn=self.consumer_arn, poll_interval_ms=0)

    def list_shards(self) -> Sequence[ShardDescription]:
        """Return every shard that can still be read, closed ones too, parents before children; see `KinesisSource.list_shards`."""
        shards = self.stream.list_shards()
        self._hash_keys = {shard.shard_id: shard.hash_keys for shard in shards if shard.hash_keys is not None}
        if self._http is None:
            self.window = max(min(WINDOW_MAX, _WINDOWS_BYTES // max(len(shards), 1)), _WINDOW_MIN)
        return shards

    def open(self, shard_id: str, start: Start) -> ShardSubscription:
        """Return a reader of the shard that begins at `start`; at LATEST the shard is subscribed to when this returns.

        Raises:
            SourceUnavailableError: the shard cannot be read now.
            SourceError: the stream was made anew, or the source is closed.
        """
        reader = ShardSubscription(self, shard_id, start, self._hash_keys.get(shard_id, _ALL_HASH_KEYS))
        reader.begin()
        if start.kind == "LATEST":
            reader.stand()
        return reader

    def set_wakeup(self, callback: Wakeup | None) -> None:
        """Call `callback` from the source's own thread when a shard has something to fetch."""
        self._wakeup = callback

    def close(self) -> None:
        """End every subscription, close the connection and end the thread. Safe to call twice."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
            http, self._http = self._http, None
        if loop is not None and http is not None:
            loop.close(http)
        self._client.close()
        self.stream.close()

    # What a subscription asks of its source.

    @property
    def says_behind(self) -> bool:
        """Whether what the server says of the way to the tip is to be believed in any case."""
        return self._client.endpoint_url is None

    def now_ms(self) -> int:
        """Return the time."""
        return self._clock.now_ms()

    def action(self, operation: str) -> str:
        """Return the IAM action of an operation."""
        return self._client.action(operation)

    def error(self, operation: str, status: int, body: bytes, header: str | None) -> AwsError:
        """Return what an error answer means."""
        return self._client.error(operation, status, body, header)

    def wake(self, shard_id: str) -> None:
        """Say that the shard has something to fetch."""
        if (wakeup := self._wakeup) is not None:
            wakeup(shard_id)

    def soon(self, function: Callable[..., object], *args: object) -> bool:
        """Call a function on the event loop, from any thread. Returns False, and calls nothing, once the source is closed."""
        with self._lock:
            if self._loop is None:
                if self._closed:
                    return False
                self._loop, self._http = _LoopThread(), self._make_client()
            loop = self._loop
        return loop.call(function, *args)

    async def aside(self, function: Callable[_Parameters, _Result], *args: _Parameters.args, **_: _Parameters.kwargs) -> _Result:
        """Call a function that waits in the source's second thread."""
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def subscribe(self, shard_id: str, start: Start) -> Exchange:
        """Send a SubscribeToShard call and wait for its status.

        Raises:
            AwsError: there are no credentials.
            Http2Error: there is no connection, or no answer.
        """
        http = self._http
        if http is None:
            raise Http2Error("the source is closed")
        request, body = await self.aside(self._sign, shard_id, start)
        exchange = await http.request(request.url, request.headers, body, proxy=request.proxy)
        try:
            async with asyncio.timeout(self._client.read_timeout_s):
                await exchange.response()
        except TimeoutError:
            exchange.cancel()
            raise Http2Error(f"no answer within {self._client.read_timeout_s:g} s") from None
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        return exchange

    def _sign(self, shard_id: str, start: Start) -> Any:
        return self._client.sign(OPERATION, parameters(self.consumer_arn, shard_id, start), context={"OperationType": "data"})

    def _make_client(self) -> Http2Client:
        from botocore.httpsession import get_cert_path  # noqa: PLC0415  (only who reads from AWS has it)

        return Http2Client(
            window=self.window,
            ca_bundle=self._client.ca_bundle or get_cert_path(True),  # noqa: FBT003  (positional only in botocore)
            connect_timeout_s=self._client.connect_timeout_s,
            silence_s=_SILENCE_S,
            answer_timeout_s=self._client.read_timeout_s,
        )


class _LoopThread:
    """An event loop in a thread of its own, and one more thread for what waits."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="streamcore-fanout-aside")
        self._loop.set_default_executor(self._aside)
        self._thread = threading.Thread(target=self._loop.run_forever, name="streamcore-fanout", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: object) -> bool:
        """Call a function on the loop. Returns whether the loop was still there."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def close(self, http: Http2Client) -> None:
        """Cancel what runs, close the connections and end the threads."""

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and task.get_name() != "streamcore-http2"]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await http.close()

        ending = asyncio.run_coroutine_threadsafe(end(), self._loop)
        try:
            ending.result(_CLOSE_S)
        except Exception:  # noqa: BLE001 - there is nothing left to lose
            _log.exception("the connection for enhanced fan-out could not be closed in order")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        self._aside.shutdown(cancel_futures=True)
        if not self._thread.is_alive():
            self._loop.close()
