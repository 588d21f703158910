"""Which servers a scenario runs on: moto and MiniStack in `make test`, those that are installed for it in `make test-peers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from peer_servers import INSTALLED
from scenario import KinesisStream, Stream, Table

if TYPE_CHECKING:
    from servers import Server

HERE = ("kinesalite", "kinesis-local", "ferrokinesis", "dynamodb-local") if INSTALLED else ("moto", "ministack")
KINESIS = ("moto", "ministack", "kinesalite", "kinesis-local", "ferrokinesis")
DYNAMODB = ("moto", "ministack", "dynamodb-local")


def on(*names: str, fixture: str = "peer") -> pytest.MarkDecorator:
    """Run a test on those of the servers that are here."""
    return pytest.mark.parametrize(fixture, [name for name in names if name in HERE], indirect=True)


def kinds(*names: str, fixture: str = "peer") -> pytest.MarkDecorator:
    """Run a test on the streams of both APIs, on those of the servers that are here; without names on each."""
    both = [(name, KinesisStream) for name in KINESIS] + [(name, Table) for name in DYNAMODB]
    here = [pytest.param(name, kind, id=f"{name}-{kind.__name__}") for name, kind in both if name in HERE and name in (names or HERE)]
    return pytest.mark.parametrize((fixture, "kind"), here, indirect=[fixture])


def make(kind: type[Stream], server: Server, name: str | None = None) -> Stream:
    """Make a stream of two shards, or a table."""
    return KinesisStream(server, 2, name) if issubclass(kind, KinesisStream) else kind(server, name)
