"""A proxy on 127.0.0.1 between a source and a server, which does to chosen requests what networks and services do on a bad day."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from servers import Server


@dataclass(frozen=True)
class Request:
    """A request that came to the proxy. `shard_id` is that of its iterator, where the proxy has seen how it was made."""

    operation: str
    parameters: dict[str, Any]
    shard_id: str | None
    headers: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """What becomes of a request instead of its answer; see the functions below."""

    status: int = 200
    body: bytes | None = None
    hangs: bool = False
    cut: bool = False
    refused: bool = False
    change: Callable[[dict[str, Any]], object] | None = None


def error(code: str, status: int = 400, message: str = "made by the proxy") -> Fault:
    """Answer with an error of the service."""
    return Fault(status, json.dumps({"__type": f"com.amazonaws.kinesis#{code}", "message": message}).encode())


def answer(value: object) -> Fault:
    """Answer with this JSON value without asking the server."""
    return Fault(body=json.dumps(value).encode())


def hang() -> Fault:
    """Send nothing and keep the connection open until the proxy is closed."""
    return Fault(hangs=True)


def refuse() -> Fault:
    """Close the connection without an answer."""
    return Fault(refused=True)


def cut() -> Fault:
    """Send the answer's head and half of its body, then close the connection."""
    return Fault(cut=True)


def change(how: Callable[[dict[str, Any]], object]) -> Fault:
    """Send the answer after `how` has changed its decoded body in place."""
    return Fault(change=how)


@dataclass
class _Rule:
    operation: str
    fault: Fault
    shard_id: str | None
    times: int | None


@dataclass
class Proxy:
    """A proxy that runs; `fault_proxy` makes it.

    Attributes:
        endpoint_url: where it listens.
        requests: what came, in order.
    """

    target: Server
    endpoint_url: str = ""
    requests: deque[Request] = field(default_factory=deque)
    _rules: list[_Rule] = field(default_factory=list)
    _shards: dict[str, str] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: threading.Event = field(default_factory=threading.Event)

    def fault(self, operation: str, fault: Fault, *, times: int | None = 1, shard_id: str | None = None) -> None:
        """Do this to the next `times` requests of an operation (None: to all until `heal`), of one shard or of any."""
        with self._changed:
            self._rules.append(_Rule(operation, fault, shard_id, times))

    def heal(self) -> None:
        """Do nothing to requests from now on. Those that hang go on hanging."""
        with self._changed:
            self._rules.clear()

    def count(self, operation: str, shard_id: str | None = None) -> int:
        """Return how many requests of an operation have come, of one shard or of any."""
        with self._changed:
            return sum(request.operation == operation and shard_id in (None, request.shard_id) for request in self.requests)

    def await_count(self, operation: str, count: int, shard_id: str | None = None) -> None:
        """Wait until so many requests of an operation have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(operation, shard_id) >= count, timeout=60), (operation, count, self.requests)

    def _seen(self, operation: str, parameters: dict[str, Any], headers: dict[str, str]) -> tuple[Request, Fault | None]:
        with self._changed:
            shard_id = parameters.get("ShardId") or self._shards.get(parameters.get("ShardIterator", ""))
            request = Request(operation, parameters, shard_id, headers)
            self.requests.append(request)
            self._changed.notify_all()
            for rule in self._rules:
                if rule.operation == operation and rule.shard_id in (None, shard_id) and rule.times != 0:
                    if rule.times is not None:
                        rule.times -= 1
                    return request, rule.fault
            return request, None

    def _learn(self, request: Request, said: dict[str, Any]) -> None:
        """Take note of which iterator belongs to which shard."""
        iterator = said.get("ShardIterator") or said.get("NextShardIterator")
        if iterator and request.shard_id:
            with self._changed:
                self._shards[iterator] = request.shard_id

    def serve(self, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, Fault | None]:
        """Return what becomes of a request: status, body, and what is done to them on the way."""
        request, fault = self._seen(target.rsplit(".", 1)[-1], json.loads(body or b"{}"), headers)
        if fault is not None:
            if fault.hangs:
                self._closing.wait()
                return 0, b"", Fault(refused=True)
            if fault.refused or fault.body is not None:
                return fault.status, fault.body or b"", fault
        connection = http.client.HTTPConnection("127.0.0.1", self.target.port, timeout=60)
        try:
            connection.request("POST", "/", body, headers)
            response = connection.getresponse()
            status, got = response.status, response.read()
        finally:
            connection.close()
        if status == 200:
            said = json.loads(got)
            if fault is not None and fault.change is not None:
                fault.change(said)
                got = json.dumps(said).encode()
            self._learn(request, said)
        return status, got, fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    proxy: Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = ("content-type", "x-amz-target", "x-amz-date", "authorization", "x-amz-security-token", "proxy-authorization")
        headers = {name: self.headers[name] for name in kept if name in self.headers}
        try:
            status, got, fault = self.proxy.serve(self.headers.get("X-Amz-Target", ""), body, headers)
        except (OSError, http.client.HTTPException):
            status, got, fault = 0, b"", Fault(refused=True)  # the server is gone: so is the proxy, for this request
        if fault is not None and fault.refused:
            self.close_connection = True
            return
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(got)))
            self.end_headers()
            if fault is not None and fault.cut:
                self.close_connection = True
                got = got[: len(got) // 2]
            self.wfile.write(got)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name of the method it overrides)
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Say nothing: clients that give up are what the proxy is for."""


@contextlib.contextmanager
def fault_proxy(target: Server) -> Iterator[Proxy]:
    """Run a proxy in front of a server until the block is left."""
    proxy = Proxy(target)
    handler = type("_BoundHandler", (_Handler,), {"proxy": proxy})
    server = _Server(("127.0.0.1", 0), handler)
    proxy.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy._closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
