"""Tumbling windows over real streams: the server gives the arrival times, and real time ends the windows."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from peer_matrix import kinds, make, on
from peer_servers import INSTALLED
from scenario import SEED, Command, KinesisStream, Row, Rows, Stream, assert_once_and_in_order, reshard, row, until, worker_of

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

pytestmark = pytest.mark.timeout(300)  # catches a hang

SIZE_S = 1


@dataclass
class Call:
    """What the handler was called with, and the state that it answered."""

    shard_id: str
    start: str
    end: str
    final: bool
    state: dict[str, list[int]]
    rows: list[Row]
    arrivals: list[float]
    answered: dict[str, list[int]] = field(default_factory=dict)


def arrival(record: dict[str, Any]) -> float:
    """Return when a record came, in seconds since the epoch."""
    if "dynamodb" in record:
        return float(record["dynamodb"]["ApproximateCreationDateTime"])
    return float(record["kinesis"]["approximateArrivalTimestamp"])


def seconds(text: str) -> float:
    """Return the instant that a window's bound names, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def folded(state: dict[str, list[int]], rows: list[Row]) -> dict[str, list[int]]:
    """Return the state with the rows added: the numbers of each key."""
    new = {key: list(numbers) for key, numbers in state.items()}
    for key, number in rows:
        new.setdefault(key, []).append(number)
    return new


class Folding:
    """A handler that adds to its state and notes each call."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)  # a shard has one batch at a time

    def __call__(self, event: dict[str, Any], _context: object) -> dict[str, Any]:
        records = event["Records"]
        call = Call(
            event["shardId"],
            event["window"]["start"],
            event["window"]["end"],
            event["isFinalInvokeForWindow"],
            event["state"],
            [row(record) for record in records],
            [arrival(record) for record in records],
        )
        assert not event["isWindowTerminatedEarly"]
        call.answered = folded(call.state, call.rows)
        self.calls[call.shard_id].append(call)
        return {"state": call.answered}

    @property
    def rows(self) -> list[Row]:
        """The rows so far, those of each shard in order."""
        return [some for calls in self.calls.values() for call in calls for some in call.rows]

    def check(self) -> None:
        """Each record is in the window of its arrival time; states go from call to call; each window is closed once, without records."""
        for shard_id, calls in self.calls.items():
            starts = [seconds(call.start) for call in calls]
            assert starts == sorted(starts), shard_id
            before: Call | None = None
            for call, start in zip(calls, starts, strict=True):
                assert (start % SIZE_S, seconds(call.end) - start) == (0, SIZE_S)
                assert all(start <= moment < start + SIZE_S for moment in call.arrivals), (shard_id, call.start, call.arrivals)
                if before is None or before.start != call.start:
                    assert before is None or before.final, f"a window of {shard_id} was not closed before that of {call.start}"
                    assert (call.state, call.final) == ({}, False)
                else:
                    assert not before.final, f"the window {call.start} of {shard_id} was closed before"
                    assert call.state == before.answered
                assert bool(call.rows) != call.final
                before = call


def wait_for_the_next_window() -> None:
    """Wait until what is put now arrives in another window than what was put before."""
    now = time.time()
    until(lambda: time.time() // SIZE_S > now // SIZE_S, "the next window begins")


@kinds()
def test_records_are_added_up_in_the_windows_of_their_arrival(peer: Server, kind: type[Stream]) -> None:
    stream, rows, folding = make(kind, peer), Rows(random.Random(SEED)), Folding()
    source = stream.source()
    written: list[Row] = []
    with worker_of(source, folding, tumbling_window_in_seconds=SIZE_S, batch_size=30) as worker:
        worker.start()
        for _ in range(3):
            wait_for_the_next_window()
            stream.write(more := rows.take(200))
            written += more
        until(lambda: len(folding.rows) >= len(written), "everything is handled")
    source.close()
    assert_once_and_in_order(folding.rows, written, f"seed {SEED}")
    folding.check()
    # DynamoDB Local tells the minute of a change, where DynamoDB tells the second: there is one window, and the next minute is far.
    windows = 1 if peer.name == "dynamodb-local" else 3
    assert len({call.start for calls in folding.calls.values() for call in calls}) >= windows


@on("kinesalite", "kinesis-local", "ferrokinesis")
def test_the_end_of_a_shard_closes_its_window_and_its_children_begin_anew(peer: Server) -> None:
    stream, rows, folding = KinesisStream(peer, 2), Rows(random.Random(SEED)), Folding()
    source = stream.source()
    stream.write(written := rows.take(200))
    with worker_of(source, folding, tumbling_window_in_seconds=SIZE_S) as worker:
        worker.start()
        parents = [shard["ShardId"] for shard in stream.open_shards()]
        stream.split(stream.open_shards()[0])
        stream.merge(*stream.open_shards()[-2:])
        stream.write(more := rows.take(200))
        written += more
        until(lambda: len(folding.rows) >= len(written), "everything is handled")
    source.close()
    assert_once_and_in_order(folding.rows, written, f"seed {SEED}")
    folding.check()
    assert all(folding.calls[shard_id][-1].final for shard_id in parents)


_FOLDING = """
import base64, json, os

log = os.open("states.ndjson", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def row(record):
    if "dynamodb" in record:
        return record["dynamodb"]["Keys"]["key"]["S"], int(record["dynamodb"]["NewImage"]["number"]["N"])
    key, _, number = base64.b64decode(record["kinesis"]["data"]).decode().partition(" ")
    return key, int(number)

def handle(event, context):
    state = event["state"]
    for key, number in map(row, event["Records"]):
        state.setdefault(key, []).append(number)
    line = json.dumps([event["shardId"], event["window"]["start"], state])
    os.write(log, f"{line}\\n".encode())  # one write, which O_APPEND makes atomic
    os.write(2, b".")
    return {"state": state}
"""


@kinds()
def test_killed_again_and_again_the_sums_are_those_of_a_run_without_faults(peer: Server, kind: type[Stream], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    stream = make(kind, peer)
    rows = Rows(rng)
    options = ["--tumbling-window-in-seconds", str(SIZE_S), "--batch-size", "20", "--checkpoint-interval", "0"]
    command = Command(tmp_path, stream, *options, handler=_FOLDING)
    written: list[Row] = []
    for generation in range(4):
        wait_for_the_next_window()
        stream.write(more := rows.take(400))
        written += more
        command.kill_after(rng.randint(1, 8))
        if INSTALLED:
            reshard(stream, generation)  # moto and MiniStack do it otherwise than AWS
    command.finish()
    # Of a window that was closed twice the last state counts, as a sink would have it that keeps one for each shard and window.
    last = {(shard, start): state for shard, start, state in map(json.loads, (tmp_path / "states.ndjson").read_text().splitlines())}
    sums: defaultdict[str, list[int]] = defaultdict(list)
    for state in last.values():
        for key, numbers in state.items():
            assert numbers == sorted(numbers), f"seed {SEED}: the rows of {key} came in another order within a window"
            sums[key] += numbers
    found = [(key, number) for key, numbers in sums.items() for number in sorted(numbers)]
    assert_once_and_in_order(found, written, f"seed {SEED}")
    assert len(last) >= 4
