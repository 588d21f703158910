"""The file destination: whole lines, on the disk when `send` returns, whatever a crash has left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streamcore import Batch, Discard, Engine, EventSourceMapping, FileDestination, Outcome, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_700_000_000_000


def discard_of(records: int = 3) -> Discard:
    """Return the discard of a batch that has failed."""
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", maximum_retry_attempts=0)
    engine = Engine(seed=1)
    shard = engine.add_shard(mapping, "shardId-000000000000", now=NOW)
    engine.offer(shard, Page.from_records([("key", b"data", NOW, str(number + 1)) for number in range(records)]), NOW)
    batch = engine.take(NOW)
    assert isinstance(batch, Batch)
    (discard,) = engine.finish(batch.ticket, Outcome.failure(function_error="Unhandled"), NOW).discards
    return discard


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "discards.ndjson"


def test_each_discard_is_its_invocation_record_on_a_line(path: Path) -> None:
    destination = FileDestination(path)
    assert path.read_bytes() == b""
    discards = [discard_of(records) for records in (1, 2, 3)]
    for number, discard in enumerate(discards, start=1):
        destination.send(discard)
        assert path.read_bytes().count(b"\n") == number
    destination.close()
    destination.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [discard.invocation_record() for discard in discards]
    assert list(json.loads(lines[0])) == list(discards[0].invocation_record())  # AWS's order
    assert [json.loads(line)["KinesisBatchInfo"]["batchSize"] for line in lines] == [1, 2, 3]


def test_a_later_run_appends(path: Path) -> None:
    for _ in range(2):
        FileDestination(path).send(discard_of())
    assert len(path.read_text().splitlines()) == 2


def test_half_a_line_of_a_crash_spoils_no_other(path: Path) -> None:
    destination = FileDestination(path)
    destination.send(discard_of())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    destination.send(discard_of())
    assert path.read_bytes() == whole + whole[:50] + b"\n" + whole


def test_a_file_that_was_moved_away_is_made_anew(path: Path) -> None:
    destination = FileDestination(path)
    destination.send(discard_of())
    path.rename(path.with_suffix(".1"))
    destination.send(discard_of())
    assert len(path.read_text().splitlines()) == 1


def test_a_record_is_synced_before_send_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    destination = FileDestination(path)
    assert [name for name, _ in synced] == [str(path.parent)]  # the new name
    destination.send(discard_of())
    assert synced[1:] == [(str(path), path.stat().st_size)]


def test_lines_of_threads_do_not_mix(path: Path) -> None:
    destination, discard = FileDestination(path), discard_of()

    def send() -> None:
        for _ in range(10):
            destination.send(discard)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 40
    assert all(json.loads(line) == discard.invocation_record() for line in lines)


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no/discards"):
        FileDestination(tmp_path / "no" / "discards.ndjson")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        FileDestination(tmp_path)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_an_error_and_the_next_try_is_whole(path: Path) -> None:
    destination, discard = FileDestination(path), discard_of()
    destination.send(discard)
    whole = path.read_bytes()
    with files_of_at_most(len(whole) + 10), pytest.raises(OSError, match=str(path)) as partly:
        destination.send(discard)
    assert path.read_bytes() == whole + whole[:10]
    with files_of_at_most(len(whole) + 10), pytest.raises(OSError, match="File too large") as not_at_all:
        destination.send(discard)
    assert (partly.value.errno, not_at_all.value.errno) == (errno.ENOSPC, errno.EFBIG)
    destination.send(discard)
    assert path.read_bytes() == whole + whole[:10] + b"\n" + whole
