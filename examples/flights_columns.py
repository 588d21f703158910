"""Departure delays by carrier, as `flights.py` adds them up, from columns: polars reads the batch in place, and no dict is made.

It needs polars, and streamcore to call it: Lambda calls every handler with an event.
"""

from __future__ import annotations

import atexit
import sys
import threading
from typing import TYPE_CHECKING, Any

import polars as pl

import streamcore

if TYPE_CHECKING:
    from streamcore import Batch

FLIGHT = pl.Struct({"carrier": pl.String, "tailnum": pl.String, "dep_delay": pl.String})
MISSING = ["", "NA"]  # "NA" stands in the file where a value is not known

delays: dict[str, list[int]] = {}  # carrier to [flights, minutes late]
lock = threading.Lock()  # several shards, or a ParallelizationFactor above 1, run this handler in several threads


@streamcore.takes_batch
def handler(batch: Batch, context: object) -> dict[str, Any]:  # noqa: ARG001  (what is called with an event has a context too)
    """Add up the delays of a batch, as far as the first flight without a departure delay or a tail number."""
    records = pl.DataFrame(batch)
    flights = records.select(pl.col("data").cast(pl.String).str.json_decode(FLIGHT)).unnest("data")
    bad = (flights["dep_delay"].is_in(MISSING) | flights["tailnum"].is_in(MISSING)).index_of(element=True)
    # This record and all behind it in the batch are sent again, split off, and in the end discarded or done.
    failures = [] if bad is None else [{"itemIdentifier": records["sequence_number"][bad]}]
    done = flights.head(bad) if bad is not None else flights
    sums = done.group_by("carrier").agg(pl.len(), pl.col("dep_delay").cast(pl.Int64).sum())
    with lock:
        for carrier, count, minutes in sums.iter_rows():
            total = delays.setdefault(carrier, [0, 0])
            total[0] += count
            total[1] += minutes
    return {"batchItemFailures": failures}


@atexit.register
def report() -> None:
    """Say what this process has added up: flights and average departure delay in minutes."""
    for carrier, (flights, minutes) in sorted(delays.items(), key=lambda item: -item[1][0]):
        print(f"  {carrier} {flights:>7} flights, {minutes / flights:>5.1f} minutes late on average", file=sys.stderr)
