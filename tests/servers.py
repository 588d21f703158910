"""Servers of the AWS API for tests: each a process of its own on 127.0.0.1 with a free port, stopped by its process id.

A test says which by a context manager, `moto_server()` or `ministack_server()`; the fixtures `moto` and `ministack` (conftest.py) share one
server over the whole run, for tests that make streams of their own names and need no empty server.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

_READY_S = 60.0
_STOP_S = 2.0


@dataclass
class Server:
    """A server that runs now.

    Attributes:
        name: "moto", "ministack", ...: for tests that expect different things of different servers.
        endpoint_url: where it listens.
        pid: its process.
    """

    name: str
    endpoint_url: str
    pid: int
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def port(self) -> int:
        """The port of `endpoint_url`."""
        return int(self.endpoint_url.rsplit(":", 1)[1])

    @property
    def env(self) -> dict[str, str]:
        """What a command needs in its environment to talk to this server and to nothing else."""
        return {
            **CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """Return the boto3 client of "kinesis", "dynamodb", "dynamodbstreams", ...; it is closed with the server."""
        if service in self._clients:
            return self._clients[service]
        import boto3  # noqa: PLC0415  (takes half a second, and not every test needs it)
        from botocore.config import Config  # noqa: PLC0415

        made = boto3.session.Session().client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 3}, tcp_keepalive=True, max_pool_connections=16),
        )
        self._clients[service] = made
        return made

    def close_clients(self) -> None:
        """Close every client that `client` made."""
        while self._clients:
            self._clients.popitem()[1].close()


def unique(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready: Callable[[int], bool] | None = None,
) -> Iterator[Server]:
    """Run a server until the block is left.

    Args:
        name: the server's name.
        command: how it is started; it must listen on 127.0.0.1 and on `port`.
        port: a free port.
        env: what is added to this process's environment.
        cwd: the folder it runs in; by default an empty one that goes with it.
        ready: whether it answers; by default whether it answers HTTP at all.
    """
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as empty, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=cwd or empty,
            env={**os.environ, **CREDENTIALS, "AWS_DEFAULT_REGION": REGION, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        server = Server(name, f"http://127.0.0.1:{port}", process.pid)
        try:
            _await_ready(process, port, ready or _answers, log)
            yield server
        finally:
            server.close_clients()
            stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End one process: SIGINT, and SIGKILL where it has not gone after two seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _await_ready(process: subprocess.Popen[Any], port: int, ready: Callable[[int], bool], log: Any) -> None:
    deadline = time.monotonic() + _READY_S
    while not ready(port):
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            log.seek(0)
            said = log.read().decode(errors="replace")[-4000:]
            what = f"ended with status {code}" if code is not None else f"did not answer within {_READY_S:g} s"
            raise RuntimeError(f"{process.args!r} {what}:\n{said}")
        time.sleep(0.02)  # another process's start has no event to wait for


@contextlib.contextmanager
def moto_server(port: int | None = None) -> Iterator[Server]:
    """Run moto, empty. With the `port` of one that was stopped it is that server restarted."""
    port = port or free_port()
    with running("moto", [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as server:
        yield server


@contextlib.contextmanager
def ministack_server(port: int | None = None, *, python: Path | None = None) -> Iterator[Server]:
    """Run MiniStack, empty. With the `port` of one that was stopped it is that server restarted; `python` is of its environment."""
    port = port or free_port()
    env = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "LAMBDA_EXECUTOR": "local"}
    command = [str((python or Path(sys.executable)).with_name("ministack"))]
    with running("ministack", command, port, env=env) as server:
        yield server
