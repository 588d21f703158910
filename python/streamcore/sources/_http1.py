"""HTTP/1.1 at a low price, on the connections that urllib3 makes.

urllib3 makes connections, with certificates, proxies and timeouts, keeps them in its pool and tells what became of them; what goes over
them is its most expensive part, and a request that is the same each time and an answer of which two headers are looked at need little of
it. A request is one write here, and `httptools` reads the answer: the parser of Node.js.

urllib3 and httptools are imported when the first connection is made.
"""

from __future__ import annotations

import functools
from http.client import HTTPException, RemoteDisconnected
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

__all__ = ["Answer", "quick"]

_READ_BYTES, _READ_BYTES_MAX = 1 << 16, 1 << 20


class Answer:
    """An answer, whole.

    Attributes:
        status: the HTTP status.
        headers: by their names in lower case; of one that came several times the last.
        data: the body.
    """

    version_string = "HTTP/1.1"  # this and the next are for urllib3's log
    length_remaining = 0

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.data = b""
        self._pieces: list[bytes] = []
        self._parser: Any = None
        self._in_body = self._complete = self._keep_alive = False

    def read(self, sock: socket.socket) -> bool:
        """Read the answer from a socket. Returns whether the connection can be used again.

        Raises:
            HTTPException: the server closes the connection before the answer is there, or what it sends is none.
            OSError: the connection fails; TimeoutError, where the server is silent for too long.
        """
        from httptools import HttpParserError, HttpResponseParser  # noqa: PLC0415  (only who reads from AWS has it)

        parser = self._parser = HttpResponseParser(self)
        size = _READ_BYTES
        while not self._complete:
            data = sock.recv(size)
            if not data:
                self._end()
                return False
            try:
                parser.feed_data(data)
            except HttpParserError as error:
                raise HTTPException(f"the server's answer is not HTTP: {error}") from error
            if len(data) == size and size < _READ_BYTES_MAX:
                size *= 2
        return self._keep_alive

    def _end(self) -> None:
        """The connection is closed: that ends a body without a length, and breaks off every other (RFC 9112, "Message Body Length")."""
        if not self._in_body:
            raise RemoteDisconnected("Remote end closed connection without response")
        if "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise HTTPException(f"the answer breaks off after {sum(map(len, self._pieces))} bytes of its body")
        self.on_message_complete()

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise HTTPException("the server sends more than its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:  # "100 Continue" and the like; the answer is still to come
            self.headers.clear()
            self._in_body = False
            return
        self._keep_alive = self._parser.should_keep_alive()
        self.data = b"".join(self._pieces)
        self._complete = True


@functools.cache
def quick(connection: type[Any]) -> type[Any]:
    """Return a class of connections like this one of urllib3, of which each request is one write and each answer an `Answer`.

    For pools that are asked to follow no redirect: an `Answer` leads nowhere.
    """

    class Quick(connection):  # type: ignore[misc] # one of urllib3's, which only who reads from AWS has
        def request(self, method: str, url: str, body: bytes, headers: Mapping[str, str], **_: object) -> None:
            lines = [f"{method} {url} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()], f"Content-Length: {len(body)}"]
            head = "\r\n".join(lines)
            if head.count("\n") != len(lines) - 1:
                raise ValueError("a header of the request holds a line break")
            if self.sock is None:
                self.connect()
            self.sock.sendall(f"{head}\r\n\r\n".encode("latin-1") + body)

        def getresponse(self) -> Answer:
            answer = Answer()
            sock = self.sock
            if sock is None:
                raise RemoteDisconnected("the connection was closed")
            sock.settimeout(self.timeout)
            if not answer.read(sock):
                self.close()
            return answer

    Quick.__name__ = connection.__name__  # urllib3's errors say it
    return Quick
