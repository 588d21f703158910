"""The server's side of HTTP/1.1, as far as runtimes speak it to the Lambda Runtime API: one request after the other on a connection.

A request is parsed in a few microseconds, since this stands between a function's answer and its next event. That is why it is not
`http.server`. What it does not do: answers in chunks, requests ahead of their answers, upgrades.
"""

from __future__ import annotations

__all__ = ["CONTINUE", "BodyTooLargeError", "ProtocolError", "Request", "RequestReader", "response"]

_HEAD_MAX = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What tells a client that waits for it to go on with the body."""


class ProtocolError(Exception):
    """What came is not HTTP."""


class BodyTooLargeError(Exception):
    """A request has a longer body than is allowed. `path` is the request's."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class Request:
    """One request.

    Attributes:
        method: such as `b"GET"`.
        path: what is asked for.
        body: all of it.
    """

    __slots__ = ("_head", "_trailers", "body", "method", "path")

    def __init__(self, head: bytes) -> None:
        try:
            self.method, self.path, _ = head[: head.index(b"\r\n")].split(b" ")
        except ValueError:
            raise ProtocolError("the first line of a request is malformed") from None
        self.body = b""
        self._head = head
        self._trailers = b""

    def header(self, name: bytes) -> bytes | None:
        r"""Return the value of a header, or of a trailer of a body in chunks, None where there is none.

        The name is in lower case and stands between a line break and a colon, as in `b"\r\nexpect:"`.
        """
        # A head of ten lines is searched faster than it is taken apart.
        head = self._head
        start = head.lower().find(name)
        if start < 0 and self._trailers:
            head = self._trailers
            start = head.lower().find(name)
        if start < 0:
            return None
        start += len(name)
        return head[start : head.index(b"\r\n", start)].strip()

    def add_trailers(self, lines: bytes) -> None:
        """Have these lines, each after a line break, count as headers."""
        self._trailers = lines


def response(status: str, headers: list[tuple[str, str]], body_bytes: int) -> bytes:
    """Return the head of an answer whose body has so many bytes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {body_bytes}\r\n\r\n".encode("latin-1")


class RequestReader:
    """Makes requests of the bytes of one connection.

    Args:
        body_max: most bytes of a body.

    Attributes:
        buffer: what has come of a request that is not complete.
    """

    __slots__ = ("_body_max", "_chunks", "_head", "_length", "buffer")

    def __init__(self, body_max: int) -> None:
        self._body_max = body_max
        self.buffer = bytearray()
        self._head: Request | None = None
        self._length: int | None = 0  # of the body of `_head`; None for one in chunks
        self._chunks = bytearray()

    def feed(self, data: bytes) -> Request | None:
        """Take bytes in and return the request that they complete.

        Raises:
            ProtocolError: they are not HTTP.
            BodyTooLargeError: the body is too long.
        """
        if self._head is None:
            if self.buffer:
                self.buffer += data
                data = bytes(self.buffer)
                self.buffer.clear()
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(data) > _HEAD_MAX:
                    raise ProtocolError("the head of a request is too long")
                self.buffer += data
                return None
            request = Request(data[:end])
            length = 0 if request.method == b"GET" else self._length_of(request)
            if length == len(data) - end:  # nearly always
                request.body = data[end:]
                return request
            self._head, self._length = request, length
            data = data[end:]
        self.buffer += data
        return self._finish()

    def more(self) -> Request | None:
        """Return a further request that is there in whole already."""
        return self.feed(b"") if self.buffer and self._head is None else None

    @property
    def busy(self) -> bool:
        """Whether a part of a request is there."""
        return self._head is not None or bool(self.buffer)

    @property
    def awaits_continue(self) -> bool:
        """Whether the client wants to be told to go on before it sends the body."""
        return self._head is not None and not self.buffer and (self._head.header(b"\r\nexpect:") or b"").lower() == b"100-continue"

    def _length_of(self, request: Request) -> int | None:
        length = request.header(b"\r\ncontent-length:")
        if length is None:
            return None if b"chunked" in (request.header(b"\r\ntransfer-encoding:") or b"").lower() else 0
        if not length.isdigit():
            raise ProtocolError(f"the length of a body is {length!r}")
        if int(length) > self._body_max:
            raise BodyTooLargeError(request.path)
        return int(length)

    def _finish(self) -> Request | None:
        request = self._head
        assert request is not None  # noqa: S101 - only called with a head
        if self._length is None:
            if not self._take_chunks(request):
                return None
            request.body = bytes(self._chunks)
            self._chunks.clear()
        elif len(self.buffer) < self._length:
            return None
        else:
            request.body = bytes(self.buffer[: self._length])
            del self.buffer[: self._length]
        self._head = None
        return request

    def _take_chunks(self, request: Request) -> bool:
        """Move whole chunks out of the buffer. Returns whether the last one and the trailers are there."""
        buffer, chunks = self.buffer, self._chunks
        start = 0
        while (end := buffer.find(b"\r\n", start)) >= 0:
            try:
                size = int(bytes(buffer[start:end]).partition(b";")[0], 16)
            except ValueError:
                raise ProtocolError("the size of a chunk is malformed") from None
            if size < 0 or len(chunks) + size > self._body_max:
                raise BodyTooLargeError(request.path)
            if size == 0:
                # No trailers: the empty line follows at once.
                last = end if buffer.startswith(b"\r\n", end + 2) else buffer.find(b"\r\n\r\n", end)
                if last < 0:
                    if len(buffer) - end > _HEAD_MAX:
                        raise ProtocolError("the trailers of a request are too long")
                    break
                request.add_trailers(bytes(buffer[end : last + 2]))
                del buffer[: last + 4]
                return True
            if len(buffer) < end + 2 + size + 2:
                break
            chunks += buffer[end + 2 : end + 2 + size]
            start = end + 2 + size + 2
        del buffer[:start]
        return False
