"""HTTP/2 for answers that are streams: one connection carries many of them, and nobody sends more than was asked for.

Whoever reads an answer says with `Exchange.credit` how many bytes of it he has dealt with; so many more may come. The server's other
answers on the same connection are not held up by one that nobody reads. `h2` speaks the protocol, asyncio moves the bytes. Servers at
http:// endpoints are spoken to in HTTP/2 from the first byte ("prior knowledge", RFC 9113), those at https:// must agree to it (ALPN).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from streamcore.errors import ConfigError, StreamcoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Exchange", "Http2Client", "Http2Error"]

_READ_BYTES = 1 << 18
_CONNECTION_WINDOW = (1 << 24) - 1


class Http2Error(StreamcoreError, OSError):
    """A connection cannot be made, or was lost."""


class Exchange:
    """One request and its answer. Used on the event loop only.

    Attributes:
        status: the HTTP status; 0 until it is known.
        headers: of the answer.
    """

    def __init__(self, connection: _Connection, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._chunks: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: Http2Error | None = None
        self.status = 0
        self.headers: dict[str, str] = {}

    async def response(self) -> int:
        """Wait for the status and return it.

        Raises:
            Http2Error: the connection was lost, or the server broke the answer off.
        """
        while not self.status:
            await self._change()
        return self.status

    async def read(self) -> bytes:
        """Wait for the next bytes of the answer's body and return them; none at its end.

        Raises:
            Http2Error: as `response`.
        """
        while not self._chunks:
            if self._ended:
                return b""
            await self._change()
        return self._chunks.popleft()

    def credit(self, size: int) -> None:
        """Let so many more bytes of the body come."""
        if not self._ended and self._error is None:
            self._connection.credit(self._stream_id, size)

    def cancel(self) -> None:
        """Give the answer up. Safe to call at any time."""
        if not self._ended and self._error is None:
            self._ended = True
            self._connection.cancel(self._stream_id)

    async def _change(self) -> None:
        if self._error is not None:
            raise self._error
        self._changed.clear()
        await self._changed.wait()

    # What the connection tells.

    def answered(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.status = int(headers.get(":status", "0"))
        self._changed.set()

    def received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._changed.set()

    def ended(self) -> None:
        self._ended = True
        if not self.status:
            self._error = Http2Error("the server ended the answer before it began")
        self._changed.set()

    def failed(self, error: Http2Error) -> None:
        if not self._ended:
            self._error = error
            self._changed.set()


class Http2Client:
    """Connections to any number of servers. Used on one event loop.

    Args:
        window: how many bytes of an answer may come before `Exchange.credit` is called.
        ca_bundle: the file of the certificates that servers at https:// are checked with.
        connect_timeout_s: how long to wait for a connection.
        silence_s: how long a connection may be silent before the server is asked whether it is still there.
        answer_timeout_s: how long it may take to say so.
    """

    def __init__(self, *, window: int, ca_bundle: str, connect_timeout_s: float, silence_s: float, answer_timeout_s: float) -> None:
        self.window = window
        self.silence_s = silence_s
        self.answer_timeout_s = answer_timeout_s
        self._ca_bundle = ca_bundle
        self._connect_timeout_s = connect_timeout_s
        self._tls: ssl.SSLContext | None = None
        self._connections: dict[str, list[_Connection]] = {}
        self._dialling: dict[str, asyncio.Lock] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    async def request(self, url: str, headers: Mapping[str, str], body: bytes, *, proxy: str | None = None) -> Exchange:
        """Send a POST request and return its exchange; the answer is awaited there.

        Raises:
            Http2Error: there is no connection to be had.
        """
        key = f"{url} {proxy or ''}"
        # A connection takes as many requests as its server allows at a time; one more is made only then.
        async with self._dialling.setdefault(key, asyncio.Lock()):
            connections = self._connections.setdefault(key, [])
            connections[:] = [connection for connection in connections if connection.alive]
            connection = next((connection for connection in connections if connection.has_room), None)
            if connection is None:
                connection = await self._dial(url, proxy)
                connections.append(connection)
            return connection.send(headers, body)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(connection.alive for connections in self._connections.values() for connection in connections)

    async def close(self) -> None:
        """Close every connection."""
        for connections in self._connections.values():
            for connection in connections:
                await connection.close()
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _dial(self, url: str, proxy: str | None) -> _Connection:
        opened: list[asyncio.StreamWriter] = []
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                reader, writer = await self._open(url, proxy, opened)
                connection = _Connection(self, reader, writer, url)
                await connection.greet()
        except BaseException as error:
            for writer in opened:
                writer.close()
            if isinstance(error, TimeoutError):
                raise Http2Error(f"no connection to {url} within {self._connect_timeout_s:g} s") from None
            if isinstance(error, (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)):
                raise Http2Error(f"no connection to {url}: {error}") from error
            raise
        finally:
            self._writers = {writer for writer in self._writers if not writer.is_closing()} | set(opened)
        return connection

    async def _open(
        self, url: str, proxy: str | None, opened: list[asyncio.StreamWriter]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a way; `opened` is given what must be closed, also where there is an error later."""
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        tls = self._context() if secure else None
        if proxy is None:
            options = {"ssl": tls, "server_hostname": host} if tls else {}
            reader, writer = await asyncio.open_connection(host, port, **options)  # type: ignore[arg-type] # the two options are typed apart
            opened.append(writer)
        else:
            reader, writer = await _at_proxy(proxy)
            opened.append(writer)
            await _through(proxy, reader, writer, f"{host}:{port}")
            if tls is not None:
                await writer.start_tls(tls, server_hostname=host)
        if tls is not None:
            agreed: ssl.SSLObject = writer.get_extra_info("ssl_object")
            if agreed.selected_alpn_protocol() != "h2":
                raise Http2Error(f"{url} does not speak HTTP/2, which enhanced fan-out needs")
        return reader, writer

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._ca_bundle)
            self._tls.set_alpn_protocols(["h2"])
        return self._tls


async def _at_proxy(proxy: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"a proxy for enhanced fan-out is a URL like http://proxy:3128, not {proxy!r}", parameter="endpoint_url")
    return await asyncio.open_connection(parts.hostname, parts.port or 80)


async def _through(proxy: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: str) -> None:
    """Open a way through a proxy (RFC 9110, "CONNECT")."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    request = f"CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n"
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request += f"Proxy-Authorization: Basic {base64.b64encode(secret.encode()).decode()}\r\n"
    writer.write(f"{request}\r\n".encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    if answer.split(b" ", 2)[1:2] != [b"200"]:
        raise Http2Error(f"the proxy refused the way: {answer.splitlines()[0].decode(errors='replace')}")


class _Connection:
    """One connection: its exchanges by their stream ids."""

    def __init__(self, client: Http2Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str) -> None:
        import h2.config  # noqa: PLC0415  (only who reads with enhanced fan-out has it)
        import h2.connection  # noqa: PLC0415

        self._client = client
        self._reader = reader
        self.writer = writer
        self._url = url
        parts = urlsplit(url)
        self._scheme, self._authority, self._path = parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/"
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._h2: Any = h2.connection.H2Connection(config)
        self._exchanges: dict[int, Exchange] = {}
        self._unacknowledged = 0
        self._reading: asyncio.Task[None] | None = None
        self.alive = True

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent now."""
        return self.alive and self._h2.open_outbound_streams < self._h2.remote_settings.max_concurrent_streams

    async def greet(self) -> None:
        """Exchange settings: from then on the server's limit of requests is known."""
        from h2.settings import SettingCodes  # noqa: PLC0415

        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self._client.window, SettingCodes.ENABLE_PUSH: 0})
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        self._flush()
        greeted = False
        while not greeted:
            data = await self._reader.read(_READ_BYTES)
            greeted = self._take(data)
            self._flush()
            if not self.alive:
                raise ConnectionResetError("the server closed the connection at once")
        self._reading = asyncio.create_task(self._read(), name="streamcore-http2")

    def send(self, headers: Mapping[str, str], body: bytes) -> Exchange:
        """Send a request."""
        stream_id = self._h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", self._scheme), (":authority", self._authority), (":path", self._path)]
        fields += [(name.lower(), value) for name, value in headers.items() if name.lower() != "host"]
        exchange = self._exchanges[stream_id] = Exchange(self, stream_id)
        self._h2.send_headers(stream_id, [*fields, ("content-length", str(len(body)))])
        # A request is far smaller than the least window that a server may have.
        self._h2.send_data(stream_id, body, end_stream=True)
        self._flush()
        return exchange

    def credit(self, stream_id: int, size: int) -> None:
        """Open the window of an answer."""
        if self.alive and size and stream_id in self._exchanges:
            self._h2.increment_flow_control_window(size, stream_id)
            self._flush()

    def cancel(self, stream_id: int) -> None:
        """End an answer from this side."""
        if self.alive and self._exchanges.pop(stream_id, None) is not None:
            self._h2.reset_stream(stream_id, error_code=8)  # CANCEL
            self._flush()

    async def close(self) -> None:
        """Say goodbye and close."""
        if self.alive:
            self._h2.close_connection()
            self._flush()
        self._lose("the connection was closed")
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        asked = False
        while self.alive:
            try:
                async with asyncio.timeout(self._client.answer_timeout_s if asked else self._client.silence_s):
                    data = await self._reader.read(_READ_BYTES)
            except TimeoutError:
                if asked:
                    self._lose(f"the server says nothing any more for {self._client.answer_timeout_s:g} s")
                    return
                # Answers are silent for long; a server that is gone must be told from one that has nothing to say.
                asked = True
                self._h2.ping(bytes(8))
                self._flush()
                continue
            except OSError as error:
                self._lose(str(error))
                return
            asked = False
            self._take(data)
            self._flush()

    def _take(self, data: bytes) -> bool:
        """Deal with bytes of the server. Returns whether its settings were among them."""
        from h2 import events  # noqa: PLC0415
        from h2.exceptions import ProtocolError  # noqa: PLC0415

        greeted = False
        try:
            happened = self._h2.receive_data(data)
        except ProtocolError as error:
            self._lose(f"the server broke the protocol: {error}")
            return greeted
        for event in happened:
            exchange = self._exchanges.get(getattr(event, "stream_id", None) or 0)
            if isinstance(event, events.RemoteSettingsChanged):
                greeted = True
            elif isinstance(event, events.ConnectionTerminated):
                self._lose(f"the server ended the connection (error code {event.error_code})")
            elif isinstance(event, events.DataReceived):
                self._acknowledge(event.flow_controlled_length or 0)
                if exchange is not None:
                    padding = (event.flow_controlled_length or 0) - len(event.data or b"")
                    self.credit(event.stream_id or 0, padding)
                    exchange.received(event.data or b"")
            elif exchange is None:
                continue
            elif isinstance(event, events.ResponseReceived):
                exchange.answered({str(name): str(value) for name, value in event.headers or ()})
            elif isinstance(event, events.StreamEnded):
                self._exchanges.pop(event.stream_id or 0)
                exchange.ended()
            elif isinstance(event, events.StreamReset):
                self._exchanges.pop(event.stream_id or 0)
                exchange.failed(Http2Error(f"the server broke the answer off (error code {event.error_code})"))
        if not data:
            self._lose("the server closed the connection")
        return greeted

    def _acknowledge(self, size: int) -> None:
        """Keep the window of the connection open: what may come is limited for each answer."""
        self._unacknowledged += size
        if self._unacknowledged > _CONNECTION_WINDOW // 2:
            self._h2.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self.writer.is_closing():
            self.writer.write(data)

    def _lose(self, reason: str) -> None:
        """The connection is of no use any more."""
        self.alive = False
        error = Http2Error(f"{self._url}: {reason}")
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.failed(error)
        self.writer.close()
