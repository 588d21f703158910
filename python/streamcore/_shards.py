"""Which shards there are, which may be read, and from where: listings, claims, lineage, starting positions."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Literal, cast

from streamcore._job import Job, Reading
from streamcore._streamcore import Checkpoint
from streamcore.errors import CheckpointError
from streamcore.protocols import CheckpointKey, Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._saver import Saver
    from streamcore._streamcore import Engine
    from streamcore.protocols import CheckpointStore

    _Kind = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]

_log = logging.getLogger("streamcore.worker")


def _readable(start: Start) -> Start:
    """Return where a reader begins: a tip of the past is an instant."""
    if start.kind == "LATEST" and start.timestamp_ms is not None:
        return Start("AT_TIMESTAMP", timestamp_ms=start.timestamp_ms)
    return start


class Shards:
    """The shards of all mappings: claims them, adds them to the engine in lineage order.

    Reads no record. Called by one thread at a time for each mapping.
    """

    def __init__(
        self,
        engine: Engine,
        store: CheckpointStore,
        saver: Saver,
        *,
        owner: str,
        sync_checkpoints: bool,
        on_add: Callable[[Reading], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._saver = saver
        self._owner = owner
        self._sync_checkpoints = sync_checkpoints
        self._on_add = on_add
        self._jobs: list[Job] = []
        self.readings: dict[int, Reading] = {}  # by handle: what is in the engine now
        self.other_identities = 0

    def contact(self, jobs: list[Job], now: int) -> list[tuple[Job, list[Reading]]]:
        """Make first contact with every source; return the shards that may be read, by mapping.

        Raises:
            SourceError: a stream is not there or cannot be read.
            ClaimError: a live worker holds a mapping.
            CheckpointError: the store or a stored checkpoint cannot be read, or the start position cannot be saved.
        """
        self._jobs = jobs
        pinned = False
        for job in jobs:
            description = job.source.describe()
            job.recorded = description.clock == "replay"
            job.description = description if job.clock is None else dataclasses.replace(description, clock=job.clock)
            listing = job.source.list_shards()
            listed = job.lineage.update(listing)
            self._claim(job)
            # Without any checkpoint of this stream, an end included, this is the mapping's first contact with it.
            if len(job.claims) == len(listed) and all(claim.checkpoint is None for claim in job.claims.values()):
                self._say_made_anew(job)
                if job.mapping.starting_position == "LATEST":
                    pinned = True
                    self._pin(job, {shard.shard_id for shard in listing if shard.closed}, now)
        if pinned and not self._saver.save(now):
            error = self._saver.error
            raise CheckpointError(f"the start position could not be saved: {error}") from error
        for job in jobs:
            self._note_ends(job)
        started = [(job, self._start(job, now)) for job in jobs]
        for job in jobs:
            job.checked = True
        return started

    def relist(self, job: Job, now: int) -> list[Reading]:
        """List the shards again, take note of saved ends, and return the shards that may be read since.

        Raises:
            Exception: what the source or the store raises; the call may be repeated.
        """
        self._note_ends(job)
        job.lineage.update(job.source.list_shards())
        children = list(job.children)
        job.lineage.add(dict(children))
        self._claim(job)
        started = self._start(job, now)
        for _ in children:
            job.children.popleft()
        return started

    def _note_ends(self, job: Job) -> None:
        while job.ends:
            reading = job.ends.popleft()
            job.lineage.end(reading.shard_id)
            job.spent[reading.shard_id] = reading.handle

    def give_up(self, job: Job) -> None:
        """Give up the claims of shards that are done. One of the mapping is always held, so that no other worker can take the mapping."""
        if job.claims or job.readings.keys() - job.spent:
            while job.spent:
                self._saver.forget(job.spent.popitem()[1])

    def release(self) -> None:
        """Give up the claims of shards that were never started."""
        for job in self._jobs:
            for claim in job.claims.values():
                self._store.release(claim.token)

    def _claim(self, job: Job) -> None:
        """Claim the checkpoints of the shards that are new. What ended in an earlier run has ended."""
        for shard_id in job.lineage.waiting:
            if shard_id not in job.claims:
                claim = self._store.claim(CheckpointKey(job.mapping.uuid, job.description.identity, shard_id), self._owner)
                if claim.checkpoint is not None and Checkpoint.inspect(claim.checkpoint)["ended"]:
                    job.lineage.end(shard_id)
                    self._store.release(claim.token)
                else:
                    job.claims[shard_id] = claim
        for shard_id in job.claims.keys() - set(job.lineage.waiting):  # trimmed before they were read
            self._store.release(job.claims.pop(shard_id).token)

    def _say_made_anew(self, job: Job) -> None:
        others = sorted({identity for claim in job.claims.values() for identity in claim.other_identities})
        if others:
            self.other_identities += 1
            _log.warning(
                "mapping %s: the stream was made anew: there are checkpoints of %s, this stream is %s; "
                "reading starts at %s and the old checkpoints are kept",
                job.mapping.uuid,
                ", ".join(others),
                job.description.identity,
                job.mapping.starting_position,
                extra={"mappingUuid": job.mapping.uuid, "startingPosition": job.mapping.starting_position},
            )

    def _pin(self, job: Job, closed: set[str], now: int) -> None:
        """Fix where LATEST is: every open shard's reader stands at its tip now, and the first checkpoint says what time that was.

        Without it a crash before the first completed record would move the start to a later tip, past records already handed out.
        Closed shards get no more records: they are done, and saved as such, so that only what descends from the open ones is read later.
        """
        instant = job.description.now_ms
        start = Start("LATEST", timestamp_ms=now if instant is None else instant)
        for shard_id, claim in list(job.claims.items()):
            reading = self._add(job, shard_id, None, start, now)
            self._saver.own(reading.handle, claim.token)
            if shard_id in closed:
                del job.claims[shard_id]
                reading.state = "ended"
                self._saver.ending.add(reading.handle)
                self._engine.end(reading.handle, now)
            else:
                reading.reader = job.source.open(shard_id, Start("LATEST"))
                job.pinned[shard_id] = reading

    def _add(self, job: Job, shard_id: str, checkpoint: bytes | None, start: Start, now: int) -> Reading:
        description = job.description
        handle = self._engine.add_shard(
            job.mapping,
            shard_id,
            now=now,
            identity=description.identity,
            checkpoint=checkpoint,
            start=cast("_Kind", start.kind),
            start_timestamp_ms=start.timestamp_ms,
            retention_ms=description.retention_ms,
            clock=description.clock,
            format=description.format,
            sync_checkpoints=self._sync_checkpoints,
            running_max=job.running_max,
            window_grace_ms=job.window_grace_ms,
        )
        reading = Reading(job, shard_id, handle, _readable(start))
        self.readings[handle] = job.readings[shard_id] = reading
        self._on_add(reading)
        return reading

    def has(self, reading: Reading) -> bool:
        """Return whether a shard is in the engine."""
        return reading.handle in self.readings

    def leave(self, handle: int) -> Reading:
        """Forget a shard that is to leave the engine, and return it. That its end is saved is known to the lineage and to the store."""
        reading = self.readings.pop(handle)
        del reading.job.readings[reading.shard_id]
        return reading

    def _start_of(self, job: Job, checkpoint: bytes | None) -> Start:
        """Return where a shard begins while nothing of it is complete."""
        if checkpoint is not None:
            stored = Checkpoint.inspect(checkpoint)
            return Start(stored["starting_position"], timestamp_ms=stored["starting_position_timestamp_ms"])
        mapping = job.mapping
        if mapping.starting_position == "AT_TIMESTAMP":
            return Start("AT_TIMESTAMP", timestamp_ms=mapping.starting_position_timestamp_ms)
        # LATEST is for the shards of the first contact, which are pinned. A shard found later is read from its beginning: what was
        # written to it before it was found is new to the mapping.
        return Start("TRIM_HORIZON")

    def _start(self, job: Job, now: int) -> list[Reading]:
        """Add the shards that may be read now to the engine and return them."""
        started: list[Reading] = []
        for shard_id in job.lineage.startable():
            reading = job.pinned.pop(shard_id, None)
            claim = job.claims.pop(shard_id)
            if reading is None:
                reading = self._add(job, shard_id, claim.checkpoint, self._start_of(job, claim.checkpoint), now)
                self._saver.own(reading.handle, claim.token)
            job.lineage.start(shard_id)
            started.append(reading)
            _say_begun(reading, resumed=claim.checkpoint is not None)
        return started


def _say_begun(reading: Reading, *, resumed: bool) -> None:
    if _log.isEnabledFor(logging.INFO):
        where = "its checkpoint" if resumed else reading.start.kind
        text = "mapping %s: shard %s is read from %s on"
        _log.info(text, reading.job.mapping.uuid, reading.shard_id, where, extra=reading.fields(startingPosition=reading.start.kind))
