"""Parents before children, in every listing that a stream can give."""

from __future__ import annotations

import random

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
