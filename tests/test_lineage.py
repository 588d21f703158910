"""Parents before children, in every listing that a stream can give."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from streamcore.protocols import ShardDescription
from streamcore.sources.lineage import Lineage


def shard(name: str, *parents: str, closed: bool = False) -> ShardDescription:
    """Return the description of a shard."""
    return ShardDescription(name, parents, closed)


def test_shards_without_parents_start_at_once() -> None:
    """A fresh stream has roots only, and all of them may start."""
    lineage = Lineage()
    assert lineage.update([shard("a"), shard("b")]) == ["a", "b"]
    assert lineage.startable() == ["a", "b"]
    assert not lineage.all_ended


def test_both_children_of_a_split_wait_for_the_saved_end() -> None:
    """Starting the parent is not enough; its end frees both children together."""
    lineage = Lineage()
    lineage.update([shard("p", closed=True), shard("c1", "p"), shard("c2", "p")])
    lineage.start("p")
    assert lineage.startable() == []
    lineage.end("p")
    assert lineage.startable() == ["c1", "c2"]


def test_a_merged_child_waits_for_both_parents() -> None:
    """One parent of two is not enough."""
    lineage = Lineage()
    lineage.update([shard("a", closed=True), shard("b", closed=True), shard("m", "a", "b")])
    for name in ("a", "b"):
        lineage.start(name)
    lineage.end("b")
    assert lineage.startable() == []
    lineage.end("a")
    assert lineage.startable() == ["m"]


def test_a_trimmed_parent_holds_nothing_back() -> None:
    """A parent that no listing shows is gone."""
    lineage = Lineage()
    lineage.update([shard("c", "trimmed")])
    assert lineage.startable() == ["c"]


def test_a_child_listed_before_its_parent_waits_all_the_same() -> None:
    """The order of the listing does not matter."""
    lineage = Lineage()
    lineage.update([shard("c", "p"), shard("p", closed=True)])
    assert lineage.startable() == ["p"]


def test_a_waiting_shard_that_disappears_frees_its_children() -> None:
    """A shard trimmed before it was read must not hold its children for ever."""
    lineage = Lineage()
    lineage.update([shard("a", closed=True), shard("b", "a", closed=True), shard("c", "b")])
    lineage.update([shard("c", "b")])
    assert lineage.startable() == ["c"]


def test_a_running_parent_that_disappears_still_holds_its_child() -> None:
    """A stale or trimmed listing does not end what is being read."""
    lineage = Lineage()
    lineage.update([shard("p", closed=True), shard("c", "p")])
    lineage.start("p")
    lineage.update([shard("c", "p")])
    assert lineage.startable() == []
    assert lineage.running == ("p",)


def test_children_named_by_the_last_page_are_known_before_the_listing_shows_them() -> None:
    """`add` keeps what is known and returns what is new."""
    lineage = Lineage()
    lineage.update([shard("p")])
    lineage.start("p")
    assert lineage.add({"c": ("p",), "p": ()}) == ["c"]
    assert lineage.waiting == ("c",)
    lineage.end("p")
    assert lineage.startable() == ["c"]


def test_an_end_found_in_the_store_counts_as_an_end() -> None:
    """A shard that ended in an earlier run never starts, and its children do."""
    lineage = Lineage()
    lineage.update([shard("p", closed=True), shard("c", "p")])
    lineage.end("p")
    assert lineage.startable() == ["c"]
    lineage.start("c")
    lineage.end("c")
    assert lineage.all_ended


def test_random_family_trees_start_every_shard_once_and_parents_first() -> None:
    """Random splits and merges, listed in random order with parents trimmed at random: each shard starts once, after its parents."""
    for seed in range(300):
        rng = random.Random(seed)
        shards: list[ShardDescription] = [shard(f"r{i}") for i in range(rng.randint(1, 3))]
        for i in range(rng.randint(0, 12)):
            parents = rng.sample([s.shard_id for s in shards], k=min(len(shards), rng.choice([1, 1, 2])))
            shards.append(shard(f"s{i}", *parents))
        trimmed = {s.shard_id for s in shards if rng.random() < 0.15}
        listed = [s for s in shards if s.shard_id not in trimmed]
        lineage = Lineage()
        ended: list[str] = []
        started: list[str] = []
        while True:
            lineage.update(rng.sample(listed, len(listed)))
            ready = lineage.startable()
            for name in ready:
                lineage.start(name)
                started.append(name)
            running = lineage.running
            if not running:
                break
            end = rng.choice(running)
            parents_of = next(s.parents for s in shards if s.shard_id == end)
            assert all(p in ended or p in trimmed for p in parents_of), f"seed {seed}: {end} ran before {parents_of}"
            lineage.end(end)
            ended.append(end)
        assert sorted(started) == sorted(s.shard_id for s in listed), f"seed {seed}"
        assert lineage.all_ended, f"seed {seed}"


class History:
    """A stream that is split and merged as Kinesis allows it, with a reader of it that may crash and start again.

    A split closes a shard and opens two children; a merge closes two and opens one. Trimming removes closed shards, oldest first. A listing
    may come from a moment before, so it may lack the newest shards, but never shows a child without what was there before it.
    """

    def __init__(self) -> None:
        self.shards: list[ShardDescription] = [shard("s0"), shard("s1")]
        self.open = ["s0", "s1"]
        self.trimmed: set[str] = set()
        self.saved: set[str] = set()  # ends in the checkpoint store
        self.started: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Start a reader that knows nothing but the store."""
        self.lineage = Lineage()
        self.running: set[str] = set()
        self.look(len(self.shards))

    def reshard(self, *parents: str) -> None:
        for parent in parents:
            self.open.remove(parent)
        for _ in range(2 if len(parents) == 1 else 1):
            name = f"s{len(self.shards)}"
            self.shards.append(shard(name, *parents))
            self.open.append(name)

    def trim(self, count: int) -> None:
        """Take away the oldest closed shards, whether or not they were read."""
        closed = [one.shard_id for one in self.shards if one.shard_id not in self.open]
        self.trimmed.update(closed[:count])

    def look(self, known: int) -> None:
        """Take in a listing of the first `known` shards, and the ends that an earlier run saved."""
        self.lineage.update(one for one in self.shards[:known] if one.shard_id not in self.trimmed)
        for name in self.lineage.waiting:
            if name in self.saved:
                self.lineage.end(name)
        for name in self.lineage.startable():
            parents = next(one.parents for one in self.shards if one.shard_id == name)
            unfinished = [parent for parent in parents if parent not in self.saved and parent not in self.trimmed]
            assert not unfinished, f"{name} may start though {unfinished} have not ended (I9)"
            assert name not in self.running
            assert name not in self.saved, f"{name} starts again though its end is saved"
            self.lineage.start(name)
            self.running.add(name)
            self.started.append(name)

    def end(self, name: str) -> None:
        """Read a closed shard to its end and save that."""
        self.saved.add(name)
        self.running.remove(name)
        self.lineage.end(name)

    def finished(self) -> list[str]:
        """Return the shards that can be read to their ends now."""
        return sorted(name for name in self.running if name not in self.open)


@given(st.data())
def test_any_history_of_splits_merges_trimming_and_crashes_keeps_parents_first(data: st.DataObject) -> None:
    """I9, and nothing is left waiting: when the stream comes to rest, every shard that was not trimmed away has been started."""
    history = History()
    for _ in range(data.draw(st.integers(0, 25), label="steps")):
        match data.draw(st.sampled_from(["split", "merge", "trim", "end", "end", "look", "crash"])):
            case "split":
                history.reshard(data.draw(st.sampled_from(history.open)))
            case "merge" if len(history.open) > 1:
                at = data.draw(st.integers(0, len(history.open) - 2))
                history.reshard(*history.open[at : at + 2])
            case "trim":
                history.trim(data.draw(st.integers(1, 3)))
            case "end" if history.finished():
                history.end(data.draw(st.sampled_from(history.finished())))
            case "crash":
                history.begin()
            case _:
                history.look(data.draw(st.integers(max(2, len(history.shards) - 2), len(history.shards))))

    history.look(len(history.shards))
    while history.finished():
        for name in history.finished():
            history.end(name)
        history.look(len(history.shards))
    assert set(history.open) <= history.running, "an open shard is not read"
    assert not history.lineage.waiting
    assert {one.shard_id for one in history.shards} - history.trimmed <= set(history.started)
