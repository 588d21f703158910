"""Other systems that do a part of the same work, each in an environment of its own, beside streamcore on the same records in one run.

What each of them does not do stands in README.md. `make bench-peers` installs them and runs this by `suite.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the servers are those of the tests

import paths
import streams
from bars import kinesis_pages, peer
from measure import ROOT, Measurement, Sizes, by_turns, measurement
from servers import Server, ministack_server
from streamcore import Batch, EventSourceMapping, KinesisSource, MemoryCheckpointStore, RuntimeFunction, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = """
import os
import time

def handler(event, context):
    with open(os.environ["COUNTS"], "a") as file:
        file.write(f"{time.time()} {len(event['Records'])}\\n")
"""
DEADLINE_S = 300
ROUNDS = 3


@contextlib.contextmanager
def ministack(sizes: Sizes) -> Iterator[Server]:
    """Run MiniStack; meanwhile this process's environment leads to it."""
    with ministack_server(python=peer(sizes, "ministack")) as server:
        before = dict(os.environ)
        os.environ.update(server.env)
        try:
            yield server
        finally:
            os.environ.clear()
            os.environ.update(before)


def localstack_over_http(sizes: Sizes) -> Iterator[Measurement]:
    """LocalStack's poller and streamcore read the same streams of one server; functions that only count."""
    part = "peers: LocalStack"
    with ministack(sizes) as server:
        rates = streams.rates_by_turns(server, ROUNDS, sizes.records, str(peer(sizes, "localstack")))
    theirs = rates["LocalStack's poller, batches of 100"]
    for name, values in rates.items():
        yield measurement(values, part=part, name=name, unit="records/s")
    ratios = [mine / other for mine, other in zip(rates["streamcore, batches of 100"], theirs, strict=True)]
    yield measurement(ratios, part=part, name="streamcore beside it, batches of 100", unit="x its records a second")


def ministack_mapping(sizes: Sizes) -> Iterator[Measurement]:
    """MiniStack's own mapping and streamcore run the same Python function in one process that stays, over a stream of MiniStack."""
    part = "peers: MiniStack"
    for shards in (1, 4):
        rates: dict[str, list[float]] = {"MiniStack's mapping": [], "streamcore": []}
        count = min(sizes.records, 10_000)
        for _ in range(ROUNDS):
            # A server for each round: a stream's age makes it slower.
            with ministack(sizes) as server, tempfile.TemporaryDirectory() as folder:
                streams.fill(server, count, shards)
                rates["streamcore"].append(own_rate(Path(folder), server, count))
                rates["MiniStack's mapping"].append(mapping_rate(Path(folder), server, count))
        what = f"{shards} {'shard' if shards == 1 else 'shards'}, batches of 100"
        for name, values in rates.items():
            yield measurement(values, part=part, name=f"{name}, {what}", unit="records/s")
        ratios = [mine / other for mine, other in zip(rates["streamcore"], rates["MiniStack's mapping"], strict=True)]
        yield measurement(ratios, part=part, name=f"streamcore beside it, {what}", unit="x its records a second")


def own_rate(folder: Path, server: Server, count: int) -> float:
    """Return the records a second of a worker with the function in a process of its own."""
    package = folder / "function"
    package.mkdir()
    (package / "app.py").write_text(APP)
    counts = folder / "streamcore.txt"
    function = RuntimeFunction(package, handler="app.handler", processes=1, environment={"COUNTS": str(counts)})
    source = KinesisSource(streams.STREAM, endpoint_url=server.endpoint_url)
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=paths.SEED)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=100), source, function)
    summary = paths.run(worker)
    function.close()
    source.close()
    assert summary.succeeded == count
    return rate_in(counts, count)


def mapping_rate(folder: Path, server: Server, count: int) -> float:
    """Return the records a second of a mapping that MiniStack runs."""
    counts = folder / "ministack.txt"
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", APP)
    functions = server.client("lambda")
    functions.create_function(
        FunctionName="bench",
        Runtime=f"python3.{sys.version_info.minor}",
        Role="arn:aws:iam::000000000000:role/r",
        Handler="app.handler",
        Code={"ZipFile": code.getvalue()},
        Environment={"Variables": {"COUNTS": str(counts)}},
    )
    arn = server.client("kinesis").describe_stream_summary(StreamName=streams.STREAM)["StreamDescriptionSummary"]["StreamARN"]
    functions.create_event_source_mapping(FunctionName="bench", EventSourceArn=arn, StartingPosition="TRIM_HORIZON", BatchSize=100)
    deadline = time.monotonic() + DEADLINE_S
    while sum(records for _, records in lines_of(counts)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"MiniStack's mapping gave {lines_of(counts)[-3:]} and no more within {DEADLINE_S} s")
        time.sleep(0.2)
    return rate_in(counts, count)


def lines_of(counts: Path) -> list[tuple[float, int]]:
    """Return the time and the records of each invocation so far."""
    if not counts.exists():
        return []
    whole = [line.split() for line in counts.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [(float(at), int(records)) for at, records in whole]


def rate_in(counts: Path, count: int) -> float:
    """Return the records a second from the first invocation to the last: what starts before it is not in the time."""
    lines = sorted(lines_of(counts))
    assert sum(records for _, records in lines) == count, "every record came, none twice"
    return (count - lines[0][1]) / (lines[-1][0] - lines[0][0])


def moto_mapping(sizes: Sizes) -> Iterator[Measurement]:
    """moto calls the function for each record within the put; beside batches of one record up to the event's bytes."""
    part = "peers: moto"
    count = min(sizes.records, 2000)
    pages = kinesis_pages(count, 100)
    command = [str(peer(sizes, "moto")), "-P", str(ROOT / "benches" / "moto_mapping.py"), str(count), "100"]
    found = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) for _ in range(ROUNDS)]
    ours = by_turns({"": lambda: paths.drive(pages, 1, Batch.json)}, ROUNDS)[""]
    for name, key in (
        ("PutRecord without a mapping", "unmapped_s"),
        ("PutRecord with a mapping", "mapped_s"),
        ("moto's delivery alone", "deliveries_s"),
    ):
        yield measurement([turn[key] / count * 1e9 for turn in found], part=part, name=name, unit="ns of CPU a record")
    yield measurement(
        [turn.cpu / count * 1e9 for turn in ours],
        part=part,
        name="streamcore, body to event bytes, batches of 1",
        unit="ns of CPU a record",
    )
    ratios = [turn["deliveries_s"] / mine.cpu for turn, mine in zip(found, ours, strict=True)]
    yield measurement(ratios, part=part, name="streamcore beside its delivery", unit="x its records a second")


def kcl(sizes: Sizes) -> Iterator[Measurement]:
    """kcl-rs and streamcore read the same stream of MiniStack, with functions that only count: plain consumption."""
    part = "peers: kcl-rs"
    count = sizes.records
    with ministack(sizes) as server:
        streams.fill(server, count, 4)
        command = [
            str(peer(sizes, "kcl")),
            "-P",
            str(ROOT / "benches" / "kcl_consumer.py"),
            server.endpoint_url,
            streams.STREAM,
            str(count),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout)
        theirs = found["records"] / found["read_s"]
        ours = []
        for _ in range(ROUNDS):
            source = KinesisSource(streams.STREAM, endpoint_url=server.endpoint_url)
            worker = paths.worker_over(source, batch_size=10_000)
            begun = time.perf_counter()
            assert paths.run(worker).succeeded == count
            ours.append(count / (time.perf_counter() - begun))
            source.close()
    yield Measurement(part=part, name="kcl-rs, to its first shard", value=found["start_s"], unit="s")
    yield Measurement(part=part, name="kcl-rs, 4 shards, from then to the last record", value=theirs, unit="records/s")
    yield measurement(ours, part=part, name="streamcore, 4 shards, its start included", unit="records/s")
    yield measurement([rate / theirs for rate in ours], part=part, name="streamcore beside it", unit="x its records a second")


PARTS = {
    "peers: LocalStack": localstack_over_http,
    "peers: MiniStack": ministack_mapping,
    "peers: moto": moto_mapping,
    "peers: kcl-rs": kcl,
}
