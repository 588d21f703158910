"""The order in which shards may be read: parents before children.

A stream that is split or merged closes shards and opens children of them. The records of a key move from parent to child, so a child
may start only when every parent is complete and its end is saved (Kinesis developer guide, "Resharding a Stream"). This module keeps
that order and nothing else: no source, no engine, no time.

A parent that no listing shows has been trimmed away; it holds nothing back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamcore.protocols import ShardDescription

__all__ = ["Lineage"]


class Lineage:
    """Which shards of one stream wait, run and have ended.

    Example:
        >>> from streamcore.protocols import ShardDescription
        >>> lineage = Lineage()
        >>> lineage.update([ShardDescription("a", closed=True), ShardDescription("b", parents=("a",))])
        ['a', 'b']
        >>> lineage.startable()
        ['a']
        >>> lineage.start("a")
        >>> lineage.end("a")
        >>> lineage.startable()
        ['b']
    """

    def __init__(self) -> None:
        # Insertion order is listing order. A shard is in exactly one of the three.
        self._waiting: dict[str, tuple[str, ...]] = {}
        self._running: dict[str, tuple[str, ...]] = {}
        self._ended: set[str] = set()

    def update(self, listing: Iterable[ShardDescription]) -> list[str]:
        """Take a listing in and return the shards that were not known before, in its order.

        A shard that waits and is no longer listed has been trimmed before it was read: it is forgotten, and its children stop
        waiting for it. A shard that runs stays, whatever the listing says. Ended shards that are no longer listed are forgotten.
        """
        listed = {shard.shard_id: shard.parents for shard in listing}
        for gone in [shard for shard in self._waiting if shard not in listed]:
            del self._waiting[gone]
        self._ended.intersection_update(listed)
        return self.add(listed)

    def add(self, shards: dict[str, tuple[str, ...]]) -> list[str]:
        """Make shards known, each with its parents, beside those known already; return the new ones.

        For children that a parent's last page names before the listing shows them.
        """
        new = [shard for shard in shards if shard not in self._waiting and shard not in self._running and shard not in self._ended]
        for shard in new:
            self._waiting[shard] = shards[shard]
        return new

    def startable(self) -> list[str]:
        """Return the waiting shards whose parents have all ended or are gone."""
        return [
            shard
            for shard, parents in self._waiting.items()
            if not any(parent in self._waiting or parent in self._running for parent in parents if parent != shard)
        ]

    def start(self, shard_id: str) -> None:
        """Say that a waiting shard is being read now."""
        self._running[shard_id] = self._waiting.pop(shard_id)

    def end(self, shard_id: str) -> None:
        """Say that a shard is complete and that its end is saved, in this run or in an earlier one."""
        self._waiting.pop(shard_id, None)
        self._running.pop(shard_id, None)
        self._ended.add(shard_id)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The shards that have not started."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[str, ...]:
        """The shards that are being read."""
        return tuple(self._running)

    @property
    def all_ended(self) -> bool:
        """Whether no known shard waits or runs."""
        return not self._waiting and not self._running
