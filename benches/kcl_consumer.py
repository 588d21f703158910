"""Read a stream with kcl-rs and a processor that only counts; print when records came.

Run by `peers.py` in an environment of its own that has `kcl-rs` (Apache-2.0), which is used as it is installed:

    python -P benches/kcl_consumer.py ENDPOINT_URL STREAM RECORDS

Its leases are in a DynamoDB table of the same server. It polls, asks for up to 10,000 records and pauses for 200 ms between two reads, the
least that it allows; each call of the processor ends with a checkpoint, as in its documentation. Prints a line of JSON: seconds until the
first shard is opened, which is when its fetching begins, and seconds from then to the last record.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from typing import Any

from kcl_rs import RecordProcessorBase, Scheduler


class Arrivals:
    """When records came; shared by the processors."""

    def __init__(self, count: int) -> None:
        self.lock = threading.Lock()
        self.count = count
        self.records = 0
        self.opened_at = self.last_at = 0.0
        self.done = threading.Event()

    def add(self, records: int) -> None:
        with self.lock:
            self.last_at = time.perf_counter()
            self.records += records
            if self.records >= self.count:
                self.done.set()


def main() -> None:
    endpoint_url, stream, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    arrivals = Arrivals(count)

    class Processor(RecordProcessorBase):  # type: ignore[misc] # it comes without types, in another environment
        """Counts, and checkpoints."""

        def initialize(self, initialize_input: Any) -> None:  # noqa: ARG002  (so it is called)
            with arrivals.lock:
                arrivals.opened_at = arrivals.opened_at or time.perf_counter()

        def process_records(self, process_records_input: Any) -> None:
            if records := len(process_records_input.records):
                arrivals.add(records)
                process_records_input.checkpointer.checkpoint()

        def lease_lost(self, lease_lost_input: Any) -> None:
            """Do nothing."""

        def shard_ended(self, shard_ended_input: Any) -> None:
            shard_ended_input.checkpointer.checkpoint()

        def shutdown_requested(self, shutdown_requested_input: Any) -> None:
            shutdown_requested_input.checkpointer.checkpoint()

    started = time.perf_counter()
    scheduler = Scheduler(
        stream_name=stream,
        application_name=f"bench-{uuid.uuid4().hex[:8]}",
        record_processor_factory=Processor,
        region="us-east-1",
        endpoint_url=endpoint_url,
        access_key_id="test",
        secret_access_key="test",  # noqa: S106  (of a server on this machine)
        initial_position="TRIM_HORIZON",
        retrieval_mode="POLLING",
        max_records=10_000,
        idle_time_between_reads_millis=200,  # the least that it takes
    )
    scheduler.start()
    came = arrivals.done.wait(300)
    answer = {
        "start_s": arrivals.opened_at - started,
        "read_s": arrivals.last_at - arrivals.opened_at,
        "records": arrivals.records,
    }
    print(json.dumps(answer), flush=True)
    os._exit(0 if came else 1)  # its shutdown waits for leases; they go with the server


if __name__ == "__main__":
    main()
