"""One server of each kind for all scenarios that need no server of their own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from peer_servers import dynamodb_local_server, ferrokinesis_server, kinesalite_server, kinesis_local_server
from servers import Server, ministack_server, moto_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

START: dict[str, Callable[..., AbstractContextManager[Server]]] = {
    "moto": moto_server,
    "ministack": ministack_server,
    "kinesalite": kinesalite_server,
    "kinesis-local": kinesis_local_server,
    "ferrokinesis": ferrokinesis_server,
    "dynamodb-local": dynamodb_local_server,
}


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Callable[[str], Server]]:
    """Start each server when the first test asks for it."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Server] = {}

        def get(name: str) -> Server:
            if name not in running:
                running[name] = stack.enter_context(START[name]())
            return running[name]

        yield get


@pytest.fixture
def peer(request: pytest.FixtureRequest, shared_servers: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return the server that the test's parameter names, with an environment that leads to it and to nothing else."""
    server = shared_servers(request.param)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def own_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[Server]]:
    """Return what starts a server of the kind that the test's parameter names, for tests that stop it."""

    @contextlib.contextmanager
    def start(port: int | None = None, **options: Any) -> Iterator[Server]:
        with START[request.param](port, **options) as server:
            for name, value in server.env.items():
                monkeypatch.setenv(name, value)
            yield server

    return start
