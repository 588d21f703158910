"""The servers that `make test-peers` installs, started as those of `servers` are: empty, on 127.0.0.1, with a free port.

kinesalite and kinesis-local are Kinesis in JavaScript, ferrokinesis is Kinesis in Rust; DynamoDB Local is AWS's own, in Java.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from servers import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

HERE = Path(__file__).resolve().parent / "peers"
# Where they are installed; set by `make test-peers`.
INSTALLED = os.environ.get("STREAMCORE_PEERS")


@contextlib.contextmanager
def kinesalite_server(port: int | None = None, *, create_ms: int = 5) -> Iterator[Server]:
    """Run kinesalite, empty, which takes so long to make a stream. With the `port` of one that was stopped it is that server restarted."""
    port = port or free_port()
    times = ["--createStreamMs", str(create_ms), "--deleteStreamMs", "5", "--updateStreamMs", "5"]
    command = [*_node("kinesalite/cli.js"), "--port", str(port), *times, "--shardLimit", "200"]
    with running("kinesalite", command, port) as server:
        yield server


@contextlib.contextmanager
def kinesis_local_server(port: int | None = None) -> Iterator[Server]:
    """Run kinesis-local, empty. With the `port` of one that was stopped it is that server restarted."""
    port = port or free_port()
    steps = ("CREATE_STREAM", "DELETE_STREAM", "SPLIT_SHARD", "MERGE_SHARDS", "UPDATE_SHARD_COUNT", "REGISTER_STREAM_CONSUMER")
    env = {
        "KINESIS_MOCK_PLAIN_PORT": str(port),
        "KINESIS_MOCK_TLS_PORT": str(free_port()),
        "KINESIS_MOCK_CERT_PATH": str(_folder("node/node_modules/kinesis-local/server.json")),
        "SHARD_LIMIT": "1000",
        "LOG_LEVEL": "ERROR",
        **{f"{step}_DURATION": "5ms" for step in steps},
    }
    with running("kinesis-local", _node("kinesis-local/main.js"), port, env=env) as server:
        yield server


@contextlib.contextmanager
def ferrokinesis_server(port: int | None = None, *, create_ms: int = 5) -> Iterator[Server]:
    """Run ferrokinesis, empty, which takes so long to make a stream. With a `port` as `kinesalite_server`."""
    port = port or free_port()
    times = ["--create-stream-ms", str(create_ms), "--delete-stream-ms", "5", "--update-stream-ms", "5"]
    command = [str(_folder("ferrokinesis/bin/ferrokinesis")), "--port", str(port), *times, "--shard-limit", "1000", "--log-level", "error"]
    with running("ferrokinesis", command, port) as server:
        yield server


@contextlib.contextmanager
def dynamodb_local_server(port: int | None = None) -> Iterator[Server]:
    """Run DynamoDB Local, empty. SIGHUP makes it rotate its shards, see DynamoDbLocal.java."""
    port = port or free_port()
    java = java_folder("dynamodb-local")
    command = [
        "java",
        "-XX:TieredStopAtLevel=1",
        f"-Dsqlite4java.library.path={java}",
        "-cp",
        f"{java}/*",
        str(HERE / "DynamoDbLocal.java"),
    ]
    with running("dynamodb-local", [*command, str(port)], port, ready=_listens) as server:
        yield server


def java_folder(program: str) -> Path:
    """Return where a program from Maven is, and what it needs."""
    return _folder(f"java/{program}")


def _folder(path: str) -> Path:
    if INSTALLED is None:
        raise RuntimeError("STREAMCORE_PEERS does not say where the servers are installed; `make test-peers` does")
    return Path(INSTALLED) / path


def _node(program: str) -> list[str]:
    return ["node", "--require", str(HERE / "loopback.js"), str(_folder("node/node_modules") / program)]


def _listens(port: int) -> bool:
    # It answers nothing but signed requests.
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
