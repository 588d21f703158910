"""Enhanced fan-out on kinesis-local and ferrokinesis, the servers of those here that push records.

kinesis-local differs from AWS in what shows here: it sends no initial response; it looks for records once a second; while a subscription is
alive it refuses another one of the same consumer and shard, also after five seconds; and it never says that a closed shard has ended, so
that it is left out where shards are split and merged.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from peer_matrix import on
from scenario import SEED, Command, KinesisConsumer, Rows, Seen, assert_once_and_in_order, consume, reshard, until, worker_of
from streamcore.kpl import UserRecord, aggregate

if TYPE_CHECKING:
    from pathlib import Path

    from scenario import Row
    from servers import Server

pytestmark = pytest.mark.timeout(300)  # catches a hang

pushing = on("kinesis-local", "ferrokinesis")


@pushing
@pytest.mark.parametrize("factor", [1, 10])
def test_many_records_over_eight_shards_come_once_and_in_the_order_of_their_keys(peer: Server, factor: int) -> None:
    stream = KinesisConsumer(peer, 8)
    rows = Rows(random.Random(SEED)).take(3000)
    stream.write(rows)
    seen = Seen()
    summary = consume(stream.source(), seen, parallelization_factor=factor)
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}, ParallelizationFactor {factor}")
    assert (summary.records, summary.succeeded, summary.duplicates) == (len(rows), len(rows), 0)
    assert len(set(seen.shards)) == 8


@pushing
def test_latest_begins_with_what_is_written_after_the_first_contact(peer: Server) -> None:
    stream = KinesisConsumer(peer, 2)
    rows = Rows(random.Random(SEED))
    stream.write(rows.take(200))
    seen = Seen()
    source = stream.source()
    with worker_of(source, seen, starting_position="LATEST") as worker:
        worker.start()
        stream.write(later := rows.take(200))
        until(lambda: len(seen.rows) >= len(later), "everything is handled")
    source.close()
    assert_once_and_in_order(seen.rows, later, f"seed {SEED}")


@pushing
def test_aggregates_are_taken_apart(peer: Server) -> None:
    stream = KinesisConsumer(peer, 1)
    rows = Rows(random.Random(SEED)).take(2000)
    for at in range(0, len(rows), 100):
        packed = aggregate([UserRecord(key, f"{key} {number}".encode()) for key, number in rows[at : at + 100]])
        stream.client.put_record(StreamName=stream.name, PartitionKey=rows[at][0], Data=packed)
    seen = Seen()
    summary = consume(stream.source(), seen, parallelization_factor=10, batch_size=7)
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}")
    assert (summary.records, summary.duplicates) == (len(rows), 0)


@pushing
def test_the_command_reads_on_where_the_run_before_ended(peer: Server, tmp_path: Path) -> None:
    stream = KinesisConsumer(peer, 2)
    rows = Rows(random.Random(SEED))
    written: list[Row] = []
    command = Command(tmp_path, stream)
    for _ in range(2):
        stream.write(more := rows.take(300))
        written += more
        # The second run is refused until the subscriptions of the first are gone, or five seconds old.
        assert command.finish()["records"] == len(more)
    assert_once_and_in_order(command.handled(), written, f"seed {SEED}")


@on("ferrokinesis")
@pytest.mark.parametrize("factor", [1, 10])
def test_shards_are_split_and_merged_while_records_are_pushed(peer: Server, factor: int) -> None:
    stream, rows, seen = KinesisConsumer(peer, 2), Rows(random.Random(SEED)), Seen()
    stream.write(written := rows.take(500))
    source = stream.source()
    with worker_of(source, seen, parallelization_factor=factor) as worker:
        worker.start()
        for generation in range(4):
            reshard(stream, generation)
            stream.write(more := rows.take(500))
            written += more
        until(lambda: len(seen.rows) >= len(written), "everything is handled")
    source.close()
    assert_once_and_in_order(seen.rows, written, f"seed {SEED}")
    assert len(set(seen.shards)) >= 6
