"""What a filter on `data` costs, with JSON payloads of 1 KB: ratios of one run, in CPU time.

    python -P benches/filters.py [--localstack PATH/bin/python]

Every path begins with the bodies of GetRecords answers and ends with the bytes of the events. The yardstick is what a filter in Python has
to do at least: `base64.b64decode` and `orjson.loads` of each payload. With `--localstack` the same payloads and patterns go through the
filter of LocalStack's poller, in its own environment (see `localstack_filter.py`).
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

from records import ARRIVAL_S, SEED, zipf_keys
from streamcore import Batch, Engine, EventSourceMapping, Outcome, Page

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
PAGES, RECORDS, ROUNDS = 5, 10_000, 15
SUCCESS = Outcome.success()
CITIES = ("Oslo", "Bergen", "Narvik", "Hamar")
# What they let pass: everything, about half, and about a hundredth.
FILTERS: dict[str, dict[str, Any]] = {
    "all pass": {"data": {"station": {"country": ["NO"]}, "celsius": [{"numeric": [">", -100]}]}},
    "half pass": {"data": {"station": {"city": ["Oslo", {"prefix": "Ber"}]}}},
    "1 in 100 passes": {"data": {"celsius": [{"numeric": [">=", 49, "<", 50]}]}},
}


def payload(rng: random.Random) -> bytes:
    """Return a measurement of a weather station of about 1 KB: texts, numbers, lists and objects."""
    reading = {
        "id": f"{rng.getrandbits(128):032x}",
        "station": {"city": rng.choice(CITIES), "country": "NO", "lat": rng.uniform(58, 71), "lon": rng.uniform(5, 31), "height_m": 94},
        "celsius": round(rng.uniform(-50, 50), 2),
        "wind": {"speed_ms": round(rng.uniform(0, 30), 1), "direction": rng.randrange(360), "gusts": [round(rng.uniform(0, 40), 1)] * 4},
        "sensors": [
            {"name": name, "ok": rng.random() < 0.9, "raw": rng.randrange(1 << 24), "at": f"2026-01-31T12:{rng.randrange(60):02}:07.250Z"}
            for name in ("thermometer", "anemometer", "barometer", "hygrometer")
        ],
        "tags": ["north", "coast", "automatic", "calibrated"],
        "operator": None,
        "note": "",
    }
    length = len(json.dumps(reading, separators=(",", ":")))
    reading["note"] = ("lorem ipsum dolor sit amet " * 40)[: 1024 - length]
    return json.dumps(reading, separators=(",", ":")).encode()


def bodies() -> list[bytes]:
    """Return GetRecords answers with such payloads."""
    rng = random.Random(SEED)
    base = 49590338271490256608559692538361571095921575989136588898
    answers = []
    for page in range(PAGES):
        records = [
            {
                "ApproximateArrivalTimestamp": ARRIVAL_S + (page * RECORDS + index) / 1000,
                "Data": base64.b64encode(payload(rng)).decode(),
                "PartitionKey": key,
                "SequenceNumber": str(base + (page * RECORDS + index) * 7),
            }
            for index, key in enumerate(zipf_keys(RECORDS, 10_000, rng))
        ]
        answer = {"MillisBehindLatest": 0, "NextShardIterator": "A" * 224, "Records": records}
        answers.append(json.dumps(answer, separators=(",", ":")).encode())
    return answers


def drive(pages: list[bytes], pattern: dict[str, Any] | None) -> int:
    """Take the pages in, make the events, finish them. Returns how many records passed."""
    criteria = None if pattern is None else {"Filters": [{"Pattern": json.dumps(pattern)}]}
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1000, parallelization_factor=10, filter_criteria=criteria)
    engine = Engine()
    shard = engine.add_shard(mapping, "shardId-000000000000", now=0)
    records = 0
    for body in pages:
        engine.wants(shard, 0)
        engine.offer(shard, Page.parse(body), 0)
        while isinstance(batch := engine.take(0), Batch):
            batch.json()
            records += len(batch)
            engine.finish(batch.ticket, SUCCESS, 0)
    return records


def parse(payloads: list[str]) -> None:
    """Do what a filter in Python does at least."""
    b64decode, loads = base64.b64decode, orjson.loads
    for data in payloads:
        loads(b64decode(data))


def seconds(run: Callable[..., object], *arguments: object) -> float:
    """Return the CPU time of a call, which tells less of what else the machine does than the time of a clock."""
    start = time.process_time()
    run(*arguments)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--localstack", metavar="PYTHON", help="an interpreter that has localstack-core[base-runtime]")
    arguments = parser.parse_args()
    pages = bodies()
    payloads = [record["Data"] for body in pages for record in orjson.loads(body)["Records"]]
    count = len(payloads)
    size = statistics.mean(len(base64.b64decode(data)) for data in payloads)
    print(f"{count:,} records of {size:.0f} B on average, medians of {ROUNDS} rounds, ratios within a round")
    print(f"{'':<18}{'ns a record':>12}{'of unfiltered':>15}{'filter, of yardstick':>22}{'passed':>10}")
    passed = {"no filter": count} | {name: drive(pages, pattern) for name, pattern in FILTERS.items()}
    # Round by round, so that a slow moment of the machine meets all of them. Best rounds would favour what is short.
    rounds = []
    for _ in range(ROUNDS):
        times = {"no filter": seconds(drive, pages, None), "yardstick": seconds(parse, payloads)}
        rounds.append(times | {name: seconds(drive, pages, pattern) for name, pattern in FILTERS.items()})
    for name in ("no filter", *FILTERS, "yardstick"):
        time_ns = statistics.median(times[name] for times in rounds) / count * 1e9
        whole = statistics.median(times[name] / times["no filter"] for times in rounds)
        alone = statistics.median((times[name] - times["no filter"]) / times["yardstick"] for times in rounds)
        print(f"{name:<18}{time_ns:>12.0f}{whole:>15.2f}{f'{alone:.2f}' if name in FILTERS else '':>22}{passed.get(name, ''):>10}")
    if arguments.localstack is not None:
        localstack(arguments.localstack, payloads)


def localstack(python: str, payloads: list[str]) -> None:
    """Run LocalStack's filter over the same payloads."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "given.json")
        given.write_text(json.dumps({"patterns": FILTERS, "payloads": payloads[:RECORDS]}))
        script = HERE / "localstack_filter.py"
        print("LocalStack's poller, its filter alone:", flush=True)
        subprocess.run([python, "-P", str(script), str(given)], check=True)


if __name__ == "__main__":
    main()
