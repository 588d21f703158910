"""What must hold on real streams, on every server that can show it.

`make test` runs this on moto and MiniStack, `make test-peers` on kinesalite, kinesis-local and DynamoDB Local. Where a scenario leaves
a server out, that server does something else than AWS, and the test says what.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from peer_matrix import DYNAMODB, KINESIS, kinds, make, on
from proxy import error, fault_proxy
from scenario import (
    SEED,
    Command,
    KinesisStream,
    Rows,
    Seen,
    Stream,
    Table,
    assert_once_and_in_order,
    by_key,
    consume,
    firsts,
    reshard,
    until,
    worker_of,
)
from streamcore import KinesisSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from servers import Server


pytestmark = pytest.mark.timeout(300)  # catches a hang


# kinesis-local and moto take 400 and 2,000 records a second, so they get fewer.
RECORDS = {"kinesis-local": 10_000, "moto": 20_000}


@on(*KINESIS)
def test_many_records_over_eight_shards_come_once_and_in_the_order_of_their_keys(peer: Server) -> None:
    stream = KinesisStream(peer, 8)
    rows = Rows(random.Random(SEED)).take(RECORDS.get(peer.name, 100_000))
    stream.write(rows)
    for factor in (1, 10):
        seen = Seen()
        summary = consume(stream.source(), seen, parallelization_factor=factor)
        assert_once_and_in_order(seen.rows, rows, f"seed {SEED}, ParallelizationFactor {factor}")
        assert (summary.records, summary.succeeded, summary.duplicates) == (len(rows), len(rows), 0)
        assert len(set(seen.shards)) == 8


# Not moto: what is put after a split stays in the closed parent. Not MiniStack: a split deletes the parent with its records.
@on("kinesalite", "kinesis-local", "ferrokinesis")
@pytest.mark.parametrize("factor", [1, 10])
def test_shards_are_split_and_merged_while_records_are_put(peer: Server, factor: int) -> None:
    stream = KinesisStream(peer, 2)
    rows = Rows(random.Random(SEED))
    written = rows.take(1000)
    stream.write(written)
    seen = Seen()
    source = stream.source()
    worker = worker_of(source, seen, parallelization_factor=factor)
    with worker:
        worker.start()

        def put() -> None:
            more = rows.take(1000)
            stream.write(more)
            written.extend(more)

        def open_shard(number: int) -> dict[str, Any]:
            return stream.open_shards()[number]

        put()
        stream.split(open_shard(0))
        put()
        stream.split(open_shard(0))  # a child of the split before
        put()
        stream.merge(open_shard(1), open_shard(2))  # of different parents
        put()
        stream.split(open_shard(1))
        stream.merge(open_shard(0), open_shard(1))
        put()
        until(lambda: len(seen.rows) >= len(written), "everything is handled")
    source.close()

    assert_once_and_in_order(seen.rows, written, f"seed {SEED}")
    first = {shard: seen.shards.index(shard) for shard in set(seen.shards)}
    last = {shard: index for index, shard in enumerate(seen.shards)}
    children = 0
    for shard in stream.shards():
        for parent in (shard.get("ParentShardId"), shard.get("AdjacentParentShardId")):
            if parent in last and shard["ShardId"] in first:
                children += 1
                assert last[parent] < first[shard["ShardId"]], f"{shard['ShardId']} began before {parent} was done (I9)"
    assert children >= 6


@on("kinesalite", "kinesis-local", "ferrokinesis")
def test_a_run_that_begins_after_the_resharding_reads_every_generation(peer: Server) -> None:
    stream = KinesisStream(peer, 1)
    rows = Rows(random.Random(SEED))
    written = rows.take(500)
    stream.write(written)
    for _ in range(3):
        stream.split(stream.open_shards()[0])
        written += (more := rows.take(500))
        stream.write(more)
    seen = Seen()
    assert consume(stream.source(), seen).reason == "idle"
    assert_once_and_in_order(seen.rows, written, f"seed {SEED}")


# Not moto and MiniStack, as above.
@on("kinesalite", "kinesis-local")  # ferrokinesis begins at the oldest record where an instant has a fraction of a second
def test_at_latest_what_descends_from_the_open_shards_is_read_from_its_beginning(peer: Server, tmp_path: Path) -> None:
    stream = KinesisStream(peer, 2)
    rows = Rows(random.Random(SEED))
    stream.write(rows.take(200))
    stream.split(stream.open_shards()[0])
    stream.write(rows.take(200))
    before = time.time()
    until(lambda: time.time() > before + 1, "the next second")  # kinesalite keeps whole seconds
    command = Command(tmp_path, stream, "--starting-position", "LATEST")
    with command.start() as process:
        until(lambda: len(command.checkpoints()) >= len(stream.shards()), "the first contact is saved")
        process.send_signal(signal.SIGKILL)
    # Nobody reads while the shards that were at their tip close.
    stream.write(written := rows.take(200))
    stream.split(stream.open_shards()[0])
    stream.write(more := rows.take(200))
    written += more
    stream.merge(*stream.open_shards()[-2:])
    stream.write(more := rows.take(200))
    written += more
    command.finish()
    assert_once_and_in_order(command.handled(), written, f"seed {SEED}")


@kinds("kinesalite", "kinesis-local", "ferrokinesis", "dynamodb-local")
def test_killed_again_and_again_while_shards_change_the_order_holds(peer: Server, kind: type[Stream], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    stream = make(kind, peer)
    rows = Rows(rng)
    command = Command(tmp_path, stream, "--parallelization-factor", "10", "--batch-size", "10", "--checkpoint-interval", "0")
    stream.write(written := rows.take(500))
    for generation in range(5):
        reshard(stream, generation)
        stream.write(more := rows.take(500))
        written += more
        command.kill_after(rng.randint(10, 40))
    command.finish()
    assert_once_and_in_order(firsts(command.handled()), written, f"seed {SEED}")


@on(*KINESIS)
def test_a_hundred_and_fifty_shards(peer: Server) -> None:
    stream = KinesisStream(peer, 150)
    assert len(stream.shards()) == 150
    rows = Rows(random.Random(SEED), keys=3000).take(3000)
    stream.write(rows)
    seen = Seen()
    summary = consume(stream.source(), seen, parallelization_factor=2)
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}")
    assert summary.records == len(rows)
    assert len(set(seen.shards)) > 100


@kinds()
def test_latest_begins_with_what_is_written_after_the_first_contact(peer: Server, kind: type[Stream]) -> None:
    stream = make(kind, peer)
    rows = Rows(random.Random(SEED))
    stream.write(rows.take(200))
    if kind is Table:
        # Records of the second in which LATEST was taken may come again.
        before = time.time()
        until(lambda: int(time.time()) > int(before), "the next second")
    seen = Seen()
    source = stream.source()
    with worker_of(source, seen, starting_position="LATEST") as worker:
        worker.start()
        after = rows.take(200)
        stream.write(after)
        until(lambda: len(seen.rows) >= len(after), "what was written afterwards is handled")
    source.close()
    assert_once_and_in_order(seen.rows, after, f"seed {SEED}")


@on("kinesalite", "ferrokinesis", fixture="own_server")  # the others have made a stream at once
def test_a_stream_that_is_being_made_is_waited_for(
    own_server: Callable[..., AbstractContextManager[Server]], caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows(random.Random(SEED)).take(100)
    with own_server(create_ms=1000) as server:
        server.client("kinesis").create_stream(StreamName="orders", ShardCount=2)
        seen, source = Seen(), KinesisSource("orders", endpoint_url=server.endpoint_url)
        worker = worker_of(source, seen)
        assert "stream orders is not active yet: its status is CREATING" in caplog.text
        for key, number in rows:
            server.client("kinesis").put_record(StreamName="orders", PartitionKey=key, Data=f"{key} {number}".encode())
        worker.run(until_idle=True)
        source.close()
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}")


@on(*(name for name in KINESIS if name != "ferrokinesis"))  # see above
def test_at_timestamp_begins_at_that_instant(peer: Server) -> None:
    stream = KinesisStream(peer, 2)
    rows = Rows(random.Random(SEED))
    stream.write(rows.take(200))
    written = time.time()
    until(lambda: time.time() > written + 1, "the next second")  # some servers keep whole seconds
    instant = time.time()
    until(lambda: time.time() > instant + 0.01, "later")
    after = rows.take(200)
    stream.write(after)
    seen = Seen()
    consume(stream.source(), seen, starting_position="AT_TIMESTAMP", starting_position_timestamp=instant)
    assert_once_and_in_order(seen.rows, after, f"seed {SEED}")


@kinds()
def test_a_quiet_stream_loses_nothing_between_a_kill_and_the_next_run(peer: Server, kind: type[Stream], tmp_path: Path) -> None:
    stream = make(kind, peer)
    command = Command(tmp_path, stream, "--starting-position", "LATEST")
    with command.start() as process:
        until(lambda: len(command.checkpoints()) >= len(stream.shards()), "the first contact is saved")
        process.send_signal(signal.SIGKILL)
    rows = Rows(random.Random(SEED)).take(300)
    stream.write(rows)
    command.finish()
    assert_once_and_in_order(command.handled(), rows, f"seed {SEED}")


@kinds(fixture="own_server")
def test_a_server_that_comes_back_empty_is_read_from_the_beginning(
    own_server: Callable[..., AbstractContextManager[Server]], kind: type[Stream], tmp_path: Path
) -> None:
    rows = Rows(random.Random(SEED))
    with own_server() as server:
        stream = make(kind, server, "orders")
        born = int(time.time())
        stream.write(first := rows.take(400))
        assert Command(tmp_path, stream).finish()["records"] == 400
    # MiniStack tells when a stream was made in whole seconds, Kinesis in milliseconds.
    until(lambda: int(time.time()) > born, "the next second")
    # Sequence numbers may begin again at 1, and the checkpoints say that these are done. The stream's identity says otherwise.
    with own_server(server.port) as server:
        stream = make(kind, server, "orders")
        stream.write(second := rows.take(300))
        command = Command(tmp_path, stream)
        summary = command.finish()
        assert summary["records"] == 300
        assert "the stream was made anew" in summary["log"]
        assert command.finish()["records"] == 0
    assert_once_and_in_order(command.handled(), [*first, *second], f"seed {SEED}")


@kinds()
@pytest.mark.parametrize("code", ["ExpiredIteratorException", "ProvisionedThroughputExceededException", "InternalFailure"])
def test_faults_of_reading_cost_no_record_and_no_retry(peer: Server, kind: type[Stream], code: str) -> None:
    stream = make(kind, peer)
    rows = Rows(random.Random(SEED)).take(3000)
    stream.write(rows)
    seen = Seen()
    with fault_proxy(peer) as proxy:
        for shard in stream.shards():
            proxy.fault("GetRecords", error(code), shard_id=shard["ShardId"])
        summary = consume(stream.source(proxy.endpoint_url), seen, batch_size=500)
        assert proxy.count("GetRecords") >= 2 * len(stream.shards()), "each shard is read again after its fault"
    assert_once_and_in_order(seen.rows, rows, f"seed {SEED}, {code}")
    assert (summary.failed_invocations, summary.retries, summary.records) == (0, 0, len(rows))


@kinds()
def test_killed_ten_times_in_the_middle_nothing_is_lost_and_the_order_holds(peer: Server, kind: type[Stream], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    stream = make(kind, peer)
    rows = Rows(rng).take(5000)
    stream.write(rows)
    command = Command(tmp_path, stream, "--parallelization-factor", "10", "--batch-size", "10", "--checkpoint-interval", "0")
    for _ in range(10):
        command.kill_after(rng.randint(1, 20))
    command.finish()
    assert_once_and_in_order(firsts(command.handled()), rows, f"seed {SEED}")
    # What came again was in flight when its run was killed: one batch of each lane at most (I12).
    assert len(command.handled()) - len(rows) <= 10 * 2 * 10 * 10


@on(*DYNAMODB)
def test_items_are_put_updated_deleted_and_written_in_batches(peer: Server) -> None:
    rng = random.Random(SEED)
    table = Table(peer)
    client, name = table.client, table.name
    expected: dict[str, list[tuple[str, int | None, int | None]]] = {}
    current: dict[str, int] = {}

    def happened(key: str, event: str, new: int | None) -> None:
        expected.setdefault(key, []).append((event, current.get(key), new))
        if new is None:
            del current[key]
        else:
            current[key] = new

    for number in range(600):
        key = f"item-{rng.randrange(40)}"
        known = key in current
        match rng.choice(["put", "update", "delete", "batch"]):
            case "put":
                client.put_item(TableName=name, Item={"key": {"S": key}, "number": {"N": str(number)}})
                happened(key, "MODIFY" if known else "INSERT", number)
            # moto writes two records for an update that makes an item: one of the bare key, and one of the change.
            case "update" if known or peer.name != "moto":
                values = {":n": {"N": str(number)}}
                names = {"#n": "number"}
                client.update_item(
                    TableName=name,
                    Key={"key": {"S": key}},
                    UpdateExpression="SET #n = :n",
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues=values,
                )
                happened(key, "MODIFY" if known else "INSERT", number)
            case "delete" if known:
                client.delete_item(TableName=name, Key={"key": {"S": key}})
                happened(key, "REMOVE", None)
            case _:
                others = sorted({key, *(f"item-{rng.randrange(40)}" for _ in range(5))})
                requests: list[dict[str, Any]] = []
                for other in others:
                    if other in current and rng.random() < 0.3:
                        requests.append({"DeleteRequest": {"Key": {"key": {"S": other}}}})
                        happened(other, "REMOVE", None)
                    else:
                        requests.append({"PutRequest": {"Item": {"key": {"S": other}, "number": {"N": str(number)}}}})
                        happened(other, "MODIFY" if other in current else "INSERT", number)
                client.batch_write_item(RequestItems={name: requests})

    seen: dict[str, list[tuple[str, int | None, int | None]]] = {}

    def handler(event: dict[str, Any], context: object) -> None:
        for record in event["Records"]:
            change = record["dynamodb"]
            old, new = (int(change[image]["number"]["N"]) if image in change else None for image in ("OldImage", "NewImage"))
            assert (record["eventSource"], record["eventVersion"]) == ("aws:dynamodb", "1.1")
            assert isinstance(change["ApproximateCreationDateTime"], int)
            seen.setdefault(change["Keys"]["key"]["S"], []).append((record["eventName"], old, new))

    summary = consume(table.source(), handler, parallelization_factor=10, batch_size=7, maximum_retry_attempts=0)
    assert summary.failed_invocations == 0
    assert seen == expected, f"seed {SEED}"
    assert summary.records == sum(map(len, expected.values()))


# AWS rotates the shards of a table about every four hours; of the servers only DynamoDB Local can, when it is told to.
@on("dynamodb-local")
@pytest.mark.parametrize("factor", [1, 10])
def test_shards_of_a_table_rotate_while_items_are_written(peer: Server, factor: int) -> None:
    table = Table(peer)
    rows = Rows(random.Random(SEED))
    written = []
    seen = Seen()
    source = table.source()
    with worker_of(source, seen, parallelization_factor=factor) as worker:
        worker.start()
        for generation in range(1, 6):
            for _ in range(2):
                table.write(more := rows.take(150))
                written += more
            os.kill(peer.pid, signal.SIGHUP)
            until(lambda wanted=generation + 1: len(table.shards()) >= wanted, "the shards are rotated")  # type: ignore[misc]
        table.write(more := rows.take(150))
        written += more
        until(lambda: len(seen.rows) >= len(written), "everything is handled")
    source.close()
    assert_once_and_in_order(seen.rows, written, f"seed {SEED}")

    again = Seen()
    assert consume(table.source(), again, parallelization_factor=factor).reason == "idle"
    assert by_key(again.rows) == by_key(written), f"seed {SEED}: a run that begins after the rotations"
