"""Settings for every test, hypothesis and Ctrl-C, and the servers that tests share."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from proxy import Proxy, fault_proxy
from servers import REGION, Server, ministack_server, moto_server
from streams_server import StreamsServer, streams_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The same examples in every run, so that a failure is there again; no deadline, since no test measures time.
settings.register_profile("default", derandomize=True, deadline=None, print_blob=True)
# HYPOTHESIS_PROFILE=soak: many new examples; a failure prints what brings it back.
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# What a shell starts in the background ignores SIGINT, and what nohup starts SIGHUP; so do its children. The tests are about a Ctrl-C
# that arrives, and rotate the shards of a server by SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own AWS settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def aws_region(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region beside the credentials, and nothing else."""
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """One moto for all tests."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def ministack() -> Iterator[Server]:
    """One MiniStack for all tests."""
    with ministack_server() as server:
        yield server


@pytest.fixture(params=["moto", "ministack"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return each server in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def proxy(moto: Server) -> Iterator[Proxy]:
    """What stands before moto and does what it is told."""
    with fault_proxy(moto) as made:
        yield made


@pytest.fixture
def streams() -> Iterator[StreamsServer]:
    """A server of DynamoDB Streams whose shards do what they are told."""
    with streams_server() as made:
        yield made
