"""A worker over a stream that is split and merged in any way, killed at any batch."""

from __future__ import annotations

import base64
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from streamcore import Checkpoint, ConfigError, EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
from streamcore.testing import ManualClock, run_until_idle

if TYPE_CHECKING:
    from streamcore.protocols import CheckpointKey


class Consumer:
    """Reads a stream with one worker after the other; each goes on from what the store held when the one before was killed."""

    def __init__(self, parallelization_factor: int) -> None:
        self.clock = ManualClock()
        self.stream = MemoryStream("orders", shards=2, clock=self.clock)
        self.store = MemoryCheckpointStore()
        self.parallelization_factor = parallelization_factor
        self.written: defaultdict[str, list[int]] = defaultdict(list)
        self.seen: defaultdict[str, list[int]] = defaultdict(list)
        self.too_early: list[tuple[str, str]] = []
        self.kill_at = 0
        self.at_kill: list[dict[CheckpointKey, bytes]] = []  # what the store held, once the process was killed

    def put(self, count: int) -> None:
        for number in range(count):
            key = f"key-{number % 7}"
            self.stream.put(key, b"%d" % len(self.written[key]))
            self.written[key].append(len(self.written[key]))
            self.clock.advance(1)

    def open_shards(self) -> list[str]:
        return [shard.shard_id for shard in self.stream.list_shards() if not shard.closed]

    def reshard(self, choice: int) -> None:
        """Split an open shard, or merge two neighbours where some are."""
        shards = self.open_shards()
        one = shards[choice % len(shards)]
        if choice % 2 == 0:
            self.stream.split(one)
            return
        for other in shards:
            with contextlib.suppress(ConfigError):  # no neighbour
                self.stream.merge(one, other)
                return

    def run(self, kill_at: int = 0) -> None:
        """Read all that is there; what happens behind the given batch is forgotten, as if the process had been killed there."""
        self.kill_at = kill_at
        self.at_kill.clear()
        worker = Worker(checkpoints=self.store, clock=self.clock, seed=1, checkpoint_interval_ms=0)
        mapping = EventSourceMapping(
            starting_position="TRIM_HORIZON", batch_size=3, parallelization_factor=self.parallelization_factor, maximum_retry_attempts=0
        )
        worker.add(mapping, self.stream, LocalFunction(self._handle))
        run_until_idle(worker, self.clock)
        worker.stop()
        if self.at_kill:
            self.store = MemoryCheckpointStore(self.at_kill[0])

    def _handle(self, event: dict[str, Any], _context: object) -> None:
        if self.at_kill:
            return
        ended = {key.shard_id for key, blob in self.store.rows().items() if Checkpoint.inspect(blob)["ended"]}
        parents = {shard.shard_id: shard.parents for shard in self.stream.list_shards()}
        for record in event["Records"]:
            shard_id = record["eventID"].split(":")[0]
            self.too_early += [(shard_id, parent) for parent in parents[shard_id] if parent not in ended]
            self.seen[record["kinesis"]["partitionKey"]].append(int(base64.b64decode(record["kinesis"]["data"])))
        self.kill_at -= 1
        if self.kill_at == 0:
            self.at_kill.append(self.store.rows())


@given(st.data())
def test_whatever_becomes_of_shards_and_processes_every_key_keeps_its_order(data: st.DataObject) -> None:
    """I1, I3 and I9: nothing is lost, first deliveries are in order, and no child begins before its parents' ends are saved."""
    consumer = Consumer(data.draw(st.sampled_from([1, 2, 10]), label="ParallelizationFactor"))
    for _ in range(data.draw(st.integers(1, 12), label="steps")):
        match data.draw(st.sampled_from(["put", "put", "reshard", "reshard", "run", "kill"])):
            case "put":
                consumer.put(data.draw(st.integers(1, 20)))
            case "reshard":
                consumer.reshard(data.draw(st.integers(0, 20)))
            case "run":
                consumer.run()
            case _:
                consumer.run(kill_at=data.draw(st.integers(1, 8)))
    consumer.run()
    assert not consumer.too_early, "a child began before its parent's end was saved (I9)"
    firsts = {key: list(dict.fromkeys(numbers)) for key, numbers in consumer.seen.items()}
    assert firsts == dict(consumer.written)
