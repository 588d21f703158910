"""What the parts of a worker share: a mapping with its edges, and a shard that is being read."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Literal

from streamcore._lock import when_free
from streamcore._tally import Tally
from streamcore.protocols import StreamDescription
from streamcore.sources.lineage import Lineage

if TYPE_CHECKING:
    from streamcore.mapping import EventSourceMapping
    from streamcore.protocols import Claim, Destination, Fetched, Function, ShardReader, Source, Start


_UNKNOWN = StreamDescription(identity="", event_source_arn="")


class Task:
    """Something that the poller does when it is due.

    `entry` is the number of its only valid place in the heap, 0 for none. `under_way` says that a thread does it, and `due_again` when it
    is due after that. `pressing` says of a task under way that a run must not end without it.
    """

    __slots__ = ("due_again", "entry", "failures", "pressing", "under_way")

    def __init__(self) -> None:
        self.entry = 0
        self.failures = 0
        self.pressing = False
        self.under_way = False
        self.due_again: int | None = None


class Job(Task):
    """One mapping with its source, function and destination. As a task: the listing of its shards.

    `lineage`, `claims`, `pinned` and `spent` are touched by the listing alone, which one thread at a time runs; other threads leave what
    they learned in `ends` and `children`. Whoever counts holds `counting`; `tally` is for listings and for shards that are gone.
    """

    __slots__ = (
        "blocks",
        "checked",
        "children",
        "claims",
        "clock",
        "contacted",
        "counting",
        "description",
        "destination",
        "discard_budget_ms",
        "discard_tries",
        "ends",
        "failed",
        "function",
        "lineage",
        "mapping",
        "pinned",
        "problem",
        "readings",
        "recorded",
        "running_max",
        "source",
        "spent",
        "tally",
        "window_grace_ms",
    )

    def __init__(
        self,
        mapping: EventSourceMapping,
        source: Source,
        function: Function,
        destination: Destination | None,
        *,
        running_max: int | None,
        blocks: bool,
        discard_tries: int,
        discard_budget_ms: int,
        clock: Literal["wall", "replay"] | None,
        window_grace_ms: int,
    ) -> None:
        super().__init__()
        self.mapping = mapping
        self.source = source
        self.function = function
        self.destination = destination
        self.running_max = running_max
        self.blocks = blocks
        self.discard_tries = discard_tries
        self.discard_budget_ms = discard_budget_ms
        self.clock = clock
        self.window_grace_ms = window_grace_ms
        self.description: StreamDescription = _UNKNOWN  # what the source says at first contact
        self.recorded = False
        self.lineage = Lineage()
        self.claims: dict[str, Claim] = {}
        self.pinned: dict[str, Reading] = {}
        self.checked = False
        self.contacted = False  # whether any shard has been read
        self.failed = False
        self.problem: str | None = None  # why the shards cannot be listed now
        self.ends: deque[Reading] = deque()  # shards whose ends are saved
        self.spent: dict[str, int] = {}  # such shards whose claims are still held, with their handles
        self.children: deque[tuple[str, tuple[str, ...]]] = deque()
        self.readings: dict[str, Reading] = {}  # by shard id: what is in the engine now
        self.counting = threading.Lock()
        self.tally = Tally()


class Reading(Task):
    """One shard in the engine. As a task: one fetch of it, used by one thread at a time.

    `state` is "polling", "ended" (its last page is taken in; more work may be in flight), "failed" (its source cannot be read) or
    "gone" (out of the engine: its end is saved, or its claim is lost). `parked` says that it waits for its source to wake it, and
    `wakeups` is the number of the last time that it did.
    """

    __slots__ = (
        "at_tip",
        "grant",
        "handle",
        "job",
        "parked",
        "pending",
        "problem",
        "reader",
        "shard_id",
        "start",
        "state",
        "tally",
        "told",
        "wakeups",
    )

    def __init__(self, job: Job, shard_id: str, handle: int, start: Start) -> None:
        super().__init__()
        self.job = job
        self.shard_id = shard_id
        self.handle = handle
        self.start = start
        self.reader: ShardReader | None = None
        self.pending: Fetched | None = None
        self.grant = 0
        self.at_tip = False
        self.parked = False
        self.wakeups = 0
        self.problem: str | None = None  # why it cannot be read now
        self.state = "polling"
        self.told = False  # whether the log says that it cannot be read
        self.tally = Tally()

    def leave(self) -> None:
        """Be out of the engine. What is still counted of the shard, such as a delivery under way, counts for the mapping."""
        with when_free(self.job.counting):
            self.state = "gone"
            self.job.tally.add(self.tally)
            self.tally = self.job.tally

    def fields(self, **more: object) -> dict[str, object]:
        """Return what a line of the log tells of the shard."""
        return {"mappingUuid": self.job.mapping.uuid, "shardId": self.shard_id, **more}


def backoff_ms(failures: int, cap_ms: int = 30_000) -> int:
    """Return the pause after the given number of failures in a row: 0.2 s, doubling to the cap."""
    return min(200 << min(failures - 1, 20), cap_ms)
