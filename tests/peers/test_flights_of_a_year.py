"""All flights of 2013 in tumbling windows, 336,776 records, beside pandas."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from flight_hours import by_hour, by_hour_of_pandas, flights_command
from peer_servers import INSTALLED

pytestmark = pytest.mark.skipif(not INSTALLED, reason="the flights of the whole year are fetched by `make test-peers`")


def test_flights_of_the_year_by_carrier_and_hour_are_those_of_pandas(tmp_path: Path) -> None:
    flights = Path(str(INSTALLED), "flights-2013.csv.gz")
    command = flights_command(flights, tmp_path, "--json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]  # --json leaves standard output to the summary
    assert by_hour(lines) == by_hour_of_pandas(flights)
    assert (summary["records"], summary["windows_closed"], summary["failed_invocations"]) == (336_776, len(lines), 0)
