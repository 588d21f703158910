"""The flights by carrier and hour: as the example adds them up in tumbling windows, and as pandas does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FLIGHTS = EXAMPLES / "flights.csv.gz"


def flights_command(flights: Path, folder: Path, *options: str) -> list[str]:
    """Return the command that runs the example over a file of flights, with its state in a folder."""
    source = f"file:{flights}?key=carrier&time=time_hour&shards=2"
    return [
        *(sys.executable, "-m", "streamcore", "run", "--source", source, "--tumbling-window-in-seconds", "900"),
        *("--function", f"{EXAMPLES / 'flights_by_hour.py'}:handler", "--batch-size", "1000", "--state", str(folder / "state.sqlite")),
        *options,
    ]


def by_hour_of_pandas(flights: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """Departures and mean delay by carrier and hour, as pandas computes them."""
    import pandas as pd  # type: ignore[import-untyped] # it has no types  # noqa: PLC0415 - the other tests do without it

    rows = pd.read_csv(flights, keep_default_na=False, na_values={"dep_delay": ["NA"]})
    by_hour = rows.groupby(["carrier", "time_hour"])["dep_delay"].agg(["count", "mean"])
    return {key: (int(count), float(mean)) for key, count, mean in by_hour[by_hour["count"] > 0].itertuples()}


def by_hour(lines: list[str]) -> dict[tuple[str, str], tuple[int, float]]:
    """The same from the lines of the example; of lines for one window the last one counts."""
    windows = {(row["shard"], row["hour"]): row["carriers"] for row in map(json.loads, lines)}
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for (_, hour), carriers in windows.items():
        for carrier, (count, delay) in carriers.items():
            before = sums.get((carrier, hour), (0, 0))
            sums[carrier, hour] = (before[0] + count, before[1] + delay)
    return {key: (count, delay / count) for key, (count, delay) in sums.items()}
