"""The example's data and handler: what examples/README.md says of them is true."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import re
import subprocess
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from streamcore.protocols import Start
from streamcore.sources.file import _FileReader, parse_file_source

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parent.parent / "examples"
FLIGHTS = EXAMPLES / "flights.csv.gz"
README = (EXAMPLES / "README.md").read_text()


def flights(shards: int = 1) -> list[tuple[str, bytes, int, str]]:
    """Every record of the example, read as the demo reads it."""
    source = parse_file_source(f"file:{FLIGHTS}?key=carrier&time=time_hour&shards={shards}")
    found = []
    for shard in source.list_shards():
        reader = source.open(shard.shard_id, Start("TRIM_HORIZON"))
        assert isinstance(reader, _FileReader)
        ended = False
        while not ended:
            records, ended = reader.records(10_000)
            found += records
        reader.close()
    return found


@pytest.fixture(scope="module")
def records() -> list[tuple[str, bytes, int, str]]:
    return flights()


def test_size_and_hashes_are_those_of_the_readme() -> None:
    data = FLIGHTS.read_bytes()
    text = gzip.decompress(data)
    assert len(data) <= 1_000_000
    assert f"{len(data):,} bytes; {len(text):,} unpacked" in README
    assert sha256(data).hexdigest() in README
    assert sha256(text).hexdigest() in README


def test_the_gzip_header_holds_no_time_and_no_name() -> None:
    """What would differ each time the file is made: bytes 3 (flags) and 4 to 7 (time) of RFC 1952."""
    assert FLIGHTS.read_bytes()[3:8] == bytes(5)


def test_the_one_line_count_of_the_readme_is_right() -> None:
    command = re.search(r"```sh\n(gzip -dc .*)\n```", README)
    assert command is not None
    counted = subprocess.run(["sh", "-c", command[1]], cwd=EXAMPLES.parent, capture_output=True, text=True, check=True).stdout
    assert counted == "80789 2643\n"
    assert f"It prints `{counted.strip()}`" in README


def test_records_and_incomplete_ones(records: list[tuple[str, bytes, int, str]]) -> None:
    assert len(records) == 80_789
    rows = [json.loads(payload) for _, payload, _, _ in records]
    assert sum(row["dep_delay"] == "NA" or row["tailnum"] == "NA" for row in rows) == 2_643
    assert len({row["carrier"] for row in rows}) == 16
    assert [int(record[3]) for record in records] == list(range(2, 80_791))
    arrivals = [record[2] for record in records]
    assert arrivals == sorted(arrivals)


def test_several_shards_hold_the_same_records(records: list[tuple[str, bytes, int, str]]) -> None:
    assert sorted(flights(4), key=lambda record: int(record[3])) == records


def load_handler() -> tuple[Callable[[dict[str, Any], object], dict[str, Any]], dict[str, list[int]]]:
    """Load the handler as a fresh module, so that its sums begin at nothing."""
    spec = importlib.util.spec_from_file_location("flights_example", EXAMPLES / "flights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.atexit.unregister(module.report)
    return module.handler, module.delays


def event(records: list[tuple[str, bytes, int, str]]) -> dict[str, Any]:
    """The part of a Lambda event that the handler reads."""
    return {"Records": [{"kinesis": {"sequenceNumber": line, "data": base64.b64encode(data).decode()}} for _, data, _, line in records]}


def test_the_handler_names_the_first_incomplete_row_and_counts_what_lies_before(records: list[tuple[str, bytes, int, str]]) -> None:
    handler, delays = load_handler()
    bad = next(index for index, record in enumerate(records) if b'"NA"' in record[1])
    batch = records[: bad + 50]
    assert handler(event(batch), None) == {"batchItemFailures": [{"itemIdentifier": records[bad][3]}]}
    assert {carrier: flights for carrier, (flights, _) in delays.items()} == Counter(record[0] for record in records[:bad])


def test_the_handler_s_sums_over_all_complete_rows(records: list[tuple[str, bytes, int, str]]) -> None:
    """Batches with the incomplete rows split off, as a mapping ends up with; the sums are those of a plain loop over the file."""
    handler, delays = load_handler()
    expected: dict[str, list[int]] = {}
    begin = refused = 0
    while begin < len(records):
        batch = records[begin : begin + 100]
        failures = handler(event(batch), None)["batchItemFailures"]
        refused += len(failures)
        # Sequence numbers are line numbers, and record 0 is on line 2.
        begin = int(failures[0]["itemIdentifier"]) - 1 if failures else begin + len(batch)
    for row in gzip.decompress(FLIGHTS.read_bytes()).decode().split("\n")[1:-1]:
        carrier, _, tailnum, _, _, dep_delay, _, _ = row.split(",")
        if tailnum != "NA" and dep_delay != "NA":
            total = expected.setdefault(carrier, [0, 0])
            total[0] += 1
            total[1] += int(dep_delay)
    assert delays == expected
    assert refused == 2_643
