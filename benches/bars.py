"""The bars P1 to P11 of README.md, each measured by a function.

Records of 100 B and 1 KB, keys of Zipf's law over 10,000, ordered lanes, sizes and ages accounted for, UTF-8 checked and checkpoints taken,
unless a name says otherwise. Ratios are of CPU time, round by round; rates are by the clock.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paths
from measure import ROOT, Child, Measurement, Sizes, Taken, by_turns, cpu_ratios, measurement, wall_rates
from records import bodies, dynamodb_bodies
from streamcore import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAYLOADS = {"100 B": 100, "1 KB": 1000}
PAGE_RECORDS = 10_000
DYNAMODB_PAGE_RECORDS = 1000
"""As many as DynamoDB Streams give at most."""


class MissingError(Exception):
    """A part cannot be measured here; the text says what would be needed."""


@functools.cache
def kinesis_pages(records: int, payload_bytes: int) -> list[bytes]:
    """Return the bodies of so many records, of up to 10,000 each."""
    return bodies(*pages_of(records, PAGE_RECORDS), payload_bytes)


@functools.cache
def dynamodb_pages(records: int) -> list[bytes]:
    """Return the bodies of so many updates of items with ten attributes, with new and old images."""
    return dynamodb_bodies(*pages_of(records, DYNAMODB_PAGE_RECORDS))


def pages_of(records: int, largest: int) -> tuple[int, int]:
    """Return how many pages of how many records there are in so many records.

    >>> pages_of(50_000, 10_000), pages_of(2_000, 10_000), pages_of(15_000, 10_000)
    ((5, 10000), (1, 2000), (2, 7500))
    """
    pages = -(-records // largest)
    if records % pages:
        raise ValueError(f"{records} records do not make {pages} equal pages of up to {largest}")
    return pages, records // pages


def p1(sizes: Sizes) -> Iterator[Measurement]:
    """GetRecords body to the bytes of Lambda's event, ten lanes, batches of 1,000."""
    for name, payload_bytes in PAYLOADS.items():
        pages = kinesis_pages(sizes.records, payload_bytes)
        taken = by_turns(
            {
                "event": functools.partial(paths.drive, pages, 1000, Batch.json),
                "orjson": functools.partial(paths.load_all, pages),
            },
            sizes.rounds,
        )
        yield measurement(cpu_ratios(taken, "event", "orjson"), part="P1", name=name, unit="of orjson.loads", bar=0.40)
        yield measurement(wall_rates(taken, "event", sizes.records), part="P1", name=f"{name}, rate", unit="records/s")


def p2(sizes: Sizes) -> Iterator[Measurement]:
    """The same beside LocalStack's poller, whose function answers at once; its records are parsed for it, as the bar has it, or not."""
    count = sizes.records
    with tempfile.TemporaryDirectory() as folder:
        for name, payload_bytes in PAYLOADS.items():
            pages = kinesis_pages(count, payload_bytes)
            asked_for = bodies(*pages_of(count, 1000), payload_bytes)
            made = paths.event_bytes(pages, 1000)
            file = Path(folder, f"{payload_bytes}.pages")
            file.write_bytes(b"\n".join(pages))  # a body is one line
            with localstack(sizes, "--serve", str(file)) as child:
                taken = by_turns(
                    {
                        "event": functools.partial(paths.drive, pages, 1000, Batch.json),
                        "asked for": functools.partial(paths.drive, asked_for, 1000, Batch.json),
                        "copy": functools.partial(paths.copy_all, [*pages, *made]),
                        "records": functools.partial(asked, child, "1000 records"),
                        "bodies": functools.partial(asked, child, "1000 bodies"),
                    },
                    sizes.rounds,
                )
            yield beside_the_poller(taken, name)
            for others, way, what in (
                ("records", "asked for", "its records parsed beforehand, ours in answers of 1,000, as its poller asks for"),
                ("records", "copy", "its records parsed beforehand, beside a copy of our bodies and events alone"),
                ("bodies", "asked for", "both from bodies of 1,000"),
            ):
                yield measurement(cpu_ratios(taken, others, way), part="P2", name=f"{name}, {what}", unit="x its records a second")
            rates = [count / turn.cpu for turn in taken["records"]]
            yield measurement(rates, part="P2", name=f"{name}, LocalStack's rate", unit="records/s of CPU time")
            yield p2_of_one_body(sizes, name, pages, file)


def p2_of_one_body(sizes: Sizes, payload: str, pages: list[bytes], file: Path) -> Measurement:
    """Measure P2 with the first of the bodies in place of each of them, as a harness does that has prepared so many records and no more."""
    times = len(pages)
    file.write_bytes(pages[0])
    with localstack(sizes, "--serve", str(file)) as child:
        taken = by_turns(
            {
                "event": functools.partial(each_alone, pages[:1] * times),
                "records": functools.partial(asked, child, "1000 records", times),
            },
            sizes.rounds,
        )
    again = f"one body of {sizes.records // times:,} records again and again"
    return beside_the_poller(taken, f"{payload}, {again}")


def beside_the_poller(taken: dict[str, list[Taken]], what: str) -> Measurement:
    """Say how the events of bodies stand beside LocalStack's of parsed records, which P2 has its bar for."""
    return measurement(
        cpu_ratios(taken, "records", "event"),
        part="P2",
        name=f"{what}, its records parsed beforehand",
        unit="x its records a second",
        bar=50,
        at="least",
    )


def each_alone(pages: list[bytes]) -> None:
    """Go from each body to its events with an engine of its own, as if there were no other."""
    for page in pages:
        paths.drive([page], 1000, Batch.json)


def asked(child: Child, question: str, times: int = 1) -> Taken:
    """Have a child take its turn, which may be the same thing several times."""
    turns = [Taken(**child.ask(question)) for _ in range(times)]
    return Taken(sum(turn.cpu for turn in turns), sum(turn.wall for turn in turns))


def localstack(sizes: Sizes, *arguments: str) -> Child:
    """Start `localstack_poller.py` in LocalStack's environment."""
    return Child([peer(sizes, "localstack"), "-P", ROOT / "benches" / "localstack_poller.py", *arguments])


def peer(sizes: Sizes, name: str) -> Path:
    """Return the interpreter of a peer's environment."""
    found = sizes.peers / name / "bin" / "python"
    if not found.exists():
        raise MissingError(f"{name} is not installed ({found}); `make bench-peers` installs it")
    return found


def p3(sizes: Sizes) -> Iterator[Measurement]:
    """GetRecords body of DynamoDB Streams to the bytes of Lambda's event."""
    count = sizes.records // 5
    pages = dynamodb_pages(count)
    taken = by_turns(
        {
            "event": functools.partial(paths.drive, pages, 1000, Batch.json, source="dynamodb"),
            "orjson": functools.partial(paths.load_all, pages),
        },
        sizes.rounds,
    )
    name = "ten attributes, new and old images"
    yield measurement(cpu_ratios(taken, "event", "orjson"), part="P3", name=name, unit="of orjson.loads", bar=0.12)
    yield measurement(wall_rates(taken, "event", count), part="P3", name=f"{name}, rate", unit="records/s")
    made: list[bytes] = []
    paths.drive(pages, 1000, lambda batch: made.append(batch.json()), source="dynamodb")
    taken = by_turns(
        {
            "dicts": functools.partial(paths.drive, pages, 1000, paths.events, source="dynamodb"),
            "orjson": functools.partial(paths.load_all, made),
        },
        sizes.rounds,
    )
    yield measurement(cpu_ratios(taken, "dicts", "orjson"), part="P3", name=f"{name}, dicts", unit="of orjson.loads of the events")


def p4(sizes: Sizes) -> Iterator[Measurement]:
    """Body to dicts, an empty handler called, beside `orjson.loads` of the same events; and a handler that keeps them, without a bar."""
    for name, payload_bytes in PAYLOADS.items():
        pages = kinesis_pages(sizes.records, payload_bytes)
        for batch_size, bar in ((1, 0.75), (100, 0.50), (10_000, 0.50)):
            made = paths.event_bytes(pages, batch_size)
            taken = by_turns(
                {
                    "steps": functools.partial(paths.drive, pages, batch_size, paths.events),
                    "one call": functools.partial(paths.invoke_ready, pages, batch_size),
                    "orjson": functools.partial(paths.load_all, made),
                },
                sizes.rounds,
            )
            for way in ("steps", "one call"):
                yield measurement(
                    cpu_ratios(taken, way, "orjson"),
                    part="P4",
                    name=f"{name}, batches of {batch_size:,}{', by invoke_ready' if way == 'one call' else ''}",
                    unit="of orjson.loads",
                    bar=bar,
                )
        # An event of one record may be filled in again, unless its handler keeps it.
        made = paths.event_bytes(pages, 1)
        taken = by_turns(
            {
                "kept": functools.partial(paths.invoke_ready, pages, 1, paths.keeping_handler),
                "orjson": functools.partial(paths.load_all, made, paths.keeping_handler),
            },
            sizes.rounds,
        )
        what = f"{name}, batches of 1, by invoke_ready, a handler that keeps its last event"
        yield measurement(cpu_ratios(taken, "kept", "orjson"), part="P4", name=what, unit="of orjson.loads")


def p5(sizes: Sizes) -> Iterator[Measurement]:
    """A whole worker over pages in memory, real dicts, an empty handler, beside P4."""
    count = 4 * sizes.records  # starting and stopping a worker takes some 30 ms by the clock
    pages = kinesis_pages(count, 100)
    for batch_size in (100, 1000):
        for lanes in (1, 10):
            dicts = functools.partial(paths.drive, pages, batch_size, paths.events, parallelization_factor=lanes)
            taken = by_turns({"worker": functools.partial(worker_turn, pages, batch_size, lanes), "dicts": dicts}, sizes.rounds)
            name = f"batches of {batch_size:,}, {lanes} {'lane' if lanes == 1 else 'lanes'}"
            yield measurement(cpu_ratios(taken, "worker", "dicts"), part="P5", name=name, unit="of P4", bar=1.5)
            rates = wall_rates(taken, "worker", count)
            yield measurement(rates, part="P5", name=f"{name}, rate", unit="records/s", bar=400_000, at="least")


def worker_turn(pages: list[bytes], batch_size: int, lanes: int) -> Taken:
    """Run a worker over the pages; making the stream, as others fill it, is not in the time."""
    worker = paths.worker_over(paths.stream_of(pages), batch_size=batch_size, parallelization_factor=lanes)
    cpu, wall = time.process_time(), time.perf_counter()
    paths.run(worker)
    return Taken(time.process_time() - cpu, time.perf_counter() - wall)


def p6(sizes: Sizes) -> Iterator[Measurement]:
    """Columns (numpy) beside P1, with and without decoded payloads."""
    for name, payload_bytes in PAYLOADS.items():
        pages = kinesis_pages(sizes.records, payload_bytes)
        uses: dict[str, Callable[[Batch], object]] = {
            "numbers": paths.numbers,
            "payloads": paths.numbers_and_payloads,
            "Arrow": Batch.__arrow_c_array__,
            "P1": Batch.json,
        }
        taken = by_turns({way: functools.partial(paths.drive, pages, 1000, use) for way, use in uses.items()}, sizes.rounds)
        bar = 3_000_000 if payload_bytes == 100 else None
        rates = wall_rates(taken, "numbers", sizes.records)
        yield measurement(rates, part="P6", name=f"{name}, numbers", unit="records/s", bar=bar, at="least")
        ratios = cpu_ratios(taken, "payloads", "P1")
        yield measurement(ratios, part="P6", name=f"{name}, numbers and payloads", unit="of P1", bar=1.5)
        yield measurement(cpu_ratios(taken, "Arrow", "P1"), part="P6", name=f"{name}, Arrow record batch", unit="of P1")


def p7(sizes: Sizes) -> Iterator[Measurement]:
    """The core's lanes and outcomes alone, from what Criterion wrote of `dispatch.rs`."""
    started = time.time()
    command = ["cargo", "bench", "--locked", "--package", "streamcore", "--bench", "dispatch", "--", "--noplot"]
    short = ["--warm-up-time", "0.3", "--measurement-time", "1"]
    points = ["dispatch/"] if sizes.records > 10_000 else ["buffered=1000/keys=1/lanes=1"]
    subprocess.run([*command, *short, *points], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for file in sorted((target / "criterion" / "dispatch").glob("*/new/benchmark.json")):
        sample = file.with_name("sample.json")
        if sample.stat().st_mtime < started:
            continue
        what, turns = json.loads(file.read_text()), json.loads(sample.read_text())
        records = what["throughput"]["Elements"]
        values = [taken / iterations / records for taken, iterations in zip(turns["times"], turns["iters"], strict=True)]
        name = what["value_str"].replace("/", ", ").replace("=", " ")
        yield measurement(values, part="P7", name=name, unit="ns a record", bar=50)


def p11(sizes: Sizes) -> Iterator[Measurement]:
    """Batches of one record, one lane, an empty handler."""
    pages = kinesis_pages(sizes.records, 100)
    taken = by_turns({"worker": functools.partial(worker_turn, pages, 1, 1)}, sizes.rounds)
    rates = wall_rates(taken, "worker", sizes.records)
    yield measurement(rates, part="P11", name="batches of 1", unit="invocations/s", bar=100_000, at="least")
