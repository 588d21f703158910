"""A server of the Lambda API on 127.0.0.1 that answers Invoke as the API reference documents, and badly where a test says so.

It knows one function, `billing`, which is a Python function of the test (event -> value). What it is asked it keeps, so that a test can say
how often, with which bytes and over how many connections it was called.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

NAME = "billing"
ARN = f"arn:aws:lambda:us-east-1:123456789012:function:{NAME}"


@dataclass(frozen=True)
class Reply:
    """What becomes of a call instead of its answer; see the functions below."""

    status: int = 200
    body: bytes = b"null"
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    hangs: bool = False
    cut: bool = False


def error(status: int, code: str, message: str = "made by the test", **more: str) -> Reply:
    """Answer with an error of the service, with its code in the header as AWS has it."""
    body = json.dumps({"Type": "User", "message": message, **more}).encode()
    return Reply(status, body, {"x-amzn-ErrorType": code} if code else {})


def function_error(message: str = "boom", kind: str = "Unhandled") -> Reply:
    """Answer as for a function that raised."""
    body = json.dumps({"errorMessage": message, "errorType": "ValueError"}).encode()
    return Reply(200, body, {"X-Amz-Function-Error": kind, "X-Amz-Executed-Version": "$LATEST"})


def lose(*, after_answer: bool = False) -> Reply:
    """Close the connection without an answer, or in the middle of it."""
    return Reply(cut=True, body=b'{"batchItemFailures": []}') if after_answer else Reply(lost=True)


def hang() -> Reply:
    """Send nothing until the server is closed."""
    return Reply(hangs=True)


@dataclass(frozen=True)
class Invocation:
    """One call of Invoke.

    Attributes:
        body: the event's bytes.
        headers: of the request, in lower case.
        qualifier: of the query, if there was one.
        request_id: what it was answered with.
        port: of the client's connection.
    """

    body: bytes
    headers: dict[str, str]
    qualifier: str | None
    request_id: str
    port: int


@dataclass
class LambdaServer:
    """A server that runs; `lambda_server` makes it.

    Attributes:
        endpoint_url: where it listens.
        function: what the function does: takes the decoded event, returns a value or a Reply.
        replies: what the next calls of Invoke get instead.
        configuration: what GetFunctionConfiguration answers; a Reply for an error.
        version: the version that runs.
        invocations: every call of Invoke so far.
        asked: how often the configuration was asked for.
    """

    endpoint_url: str = ""
    function: Callable[[Any], object] = lambda _: None
    replies: deque[Reply] = field(default_factory=deque)
    configuration: dict[str, Any] | Reply = field(default_factory=lambda: {"FunctionArn": ARN, "Timeout": 7})
    version: str = "$LATEST"
    invocations: list[Invocation] = field(default_factory=list)
    asked: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: threading.Event = field(default_factory=threading.Event)

    def await_invocations(self, count: int) -> None:
        """Wait until Invoke was called so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.invocations) >= count, timeout=60), (count, self.invocations)

    def invoke(self, name: str, invocation: Invocation) -> Reply:
        """Answer one call of Invoke."""
        with self._changed:
            self.invocations.append(invocation)
            self._changed.notify_all()
            if self.replies:
                return self.replies.popleft()
        if name not in (NAME, ARN):
            return error(404, "ResourceNotFoundException", f"Function not found: {name}")
        value = self.function(json.loads(invocation.body))
        if isinstance(value, Reply):
            return value
        return Reply(200, json.dumps(value).encode(), {"X-Amz-Executed-Version": self.version})

    def describe(self, name: str) -> Reply:
        """Answer one call of GetFunctionConfiguration."""
        self.asked += 1
        if isinstance(self.configuration, Reply):
            return self.configuration
        if name not in (NAME, ARN):
            return error(404, "ResourceNotFoundException", f"Function not found: {name}")
        return Reply(200, json.dumps(self.configuration).encode())

    def await_close(self) -> None:
        """Wait until the server is closed."""
        self._closing.wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test: LambdaServer

    def do_GET(self) -> None:
        self._answer(self.server_of_test.describe(self._name()), str(uuid.uuid4()))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = parse_qs(urlsplit(self.path).query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        qualifier = query.get("Qualifier", [None])[0]
        invocation = Invocation(body, headers, qualifier, str(uuid.uuid4()), self.client_address[1])
        self._answer(self.server_of_test.invoke(self._name(), invocation), invocation.request_id)

    def _name(self) -> str:
        parts = urlsplit(self.path).path.split("/")  # /2015-03-31/functions/NAME/invocations or .../configuration
        assert parts[1:3] == ["2015-03-31", "functions"], self.path
        return unquote(parts[3])

    def _answer(self, reply: Reply, request_id: str) -> None:
        if reply.hangs:
            self.server_of_test.await_close()
        if reply.hangs or reply.lost:
            self.close_connection = True
            return
        with contextlib.suppress(OSError):
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "x-amzn-RequestId": request_id, **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if reply.cut:
                self.close_connection = True
            self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name of the method it overrides)
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Say nothing: clients that give up are expected."""


@contextlib.contextmanager
def lambda_server() -> Iterator[LambdaServer]:
    """Run a server until the block is left."""
    made = LambdaServer()
    handler = type("_BoundHandler", (_Handler,), {"server_of_test": made})
    server = _Server(("127.0.0.1", 0), handler)
    made.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made._closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
