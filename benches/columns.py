"""The two handlers of the flights, `examples/flights.py` with events and `examples/flights_columns.py` with batches, on the same batches.

    .venv/bin/python -P benches/columns.py

CPU time of the invocations alone, decoding included, by turns within one run; polars uses as many threads as it is given.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from pathlib import Path
from typing import Any

from streamcore import Batch, Engine, EventSourceMapping, LocalFunction, Outcome, Page, Wait
from streamcore.protocols import Start
from streamcore.sources.file import _FileReader, parse_file_source

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SUCCESS = Outcome.success()
ROUNDS = 7


def example(name: str) -> Any:
    """Load an example, without what it prints at the end."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded: Any = module
    loaded.atexit.unregister(loaded.report)
    return loaded


def flights() -> list[tuple[str, bytes, int, str | None]]:
    """Return the records of the flights."""
    source = parse_file_source(f"file:{EXAMPLES / 'flights.csv.gz'}?key=carrier&time=time_hour")
    reader = source.open(source.list_shards()[0].shard_id, Start("TRIM_HORIZON"))
    assert isinstance(reader, _FileReader)
    found: list[tuple[str, bytes, int, str | None]] = []
    ended = False
    while not ended:
        records, ended = reader.records(10_000)
        found += records
    reader.close()
    return found


def complete(records: list[tuple[str, bytes, int, str | None]]) -> list[tuple[str, bytes, int, str | None]]:
    """Return the records whose rows are complete, which neither handler refuses."""
    return [record for record in records if b'"NA"' not in record[1]]


def batches_of(records: list[tuple[str, bytes, int, str | None]], batch_size: int) -> list[Batch]:
    """Return the batches that a mapping makes of the records."""
    engine = Engine()
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=batch_size)
    shard = engine.add_shard(mapping, "shardId-000000000000", now=0)
    engine.offer(shard, Page.from_records(records), 0)
    engine.end(shard, 0)
    batches = []
    while not isinstance(batch := engine.take(0), Wait):
        assert isinstance(batch, Batch)
        batches.append(batch)
        engine.finish(batch.ticket, SUCCESS, 0)
    return batches


def main() -> None:
    """Print a row of the table in README.md for each batch size."""
    records = complete(flights())
    modules = [example("flights"), example("flights_columns")]
    functions = [LocalFunction(module.handler) for module in modules]
    print(f"{len(records)} records; ns of CPU a record, medians of {ROUNDS} rounds")
    for batch_size in (100, 1000, 10_000):
        batches = batches_of(records, batch_size)
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for function, taken in zip(functions, times, strict=True):
                begun = time.process_time()
                for batch in batches:
                    function.invoke(batch)
                taken.append((time.process_time() - begun) / len(records) * 1e9)
        events, columns = (statistics.median(taken) for taken in times)
        ratio = statistics.median(columns / events for events, columns in zip(*times, strict=True))
        print(f"| {batch_size:,} | {events:,.0f} | {columns:,.0f} | {ratio:.2f} |")
    assert modules[0].delays == modules[1].delays


if __name__ == "__main__":
    main()
