"""The real engine against a short readable model, driven by hypothesis: any calls in any order, with crashes in between."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines import NOW, mapping, numbers
from model import Model, Settings
from streamcore import Batch, Checkpoint, Discard, Engine, EventSourceMapping, Outcome, Page, Wait

SHARD = "shardId-000000000000"
_KEYS = st.sampled_from("abcdefgh")
_SETTINGS = st.builds(
    Settings,
    batch_size=st.integers(1, 5),
    factor=st.sampled_from([1, 2, 3, 10]),
    retries=st.sampled_from([None, 0, 1, 2]),
    bisect=st.booleans(),
)


def mapping_of(chosen: Settings) -> EventSourceMapping:
    return mapping(
        batch_size=chosen.batch_size,
        parallelization_factor=chosen.factor,
        maximum_retry_attempts=-1 if chosen.retries is None else chosen.retries,
        bisect_batch_on_function_error=chosen.bisect,
    )


@dataclass(frozen=True)
class Step:
    """Some time, some batches handed out, and how one of those in flight goes."""

    what: str
    which: int
    index: int
    late: bool
    milliseconds: int
    takes: int


_STEP = st.builds(
    Step,
    what=st.sampled_from(["success", "failure", "partial", "throttled", "too_large"]),
    which=st.integers(0, 9),
    index=st.integers(0, 4),
    late=st.booleans(),
    milliseconds=st.sampled_from([0, 1000, 70_000]),
    takes=st.integers(0, 10),
)
_STEPS = st.lists(_STEP, min_size=1, max_size=25)
_PUT = st.lists(_KEYS, min_size=1, max_size=30)


class EngineAgainstModel(RuleBasedStateMachine):
    """Calls of the engine, each told to the model.

    `log` is the stream itself. A crash throws engine and model away; both go on from what was saved, and the model then knows as complete
    only what the engine says is complete, which must be what was complete when it was saved.
    """

    @initialize(chosen=_SETTINGS, seed=st.integers(0, 2**64 - 1), keys=_PUT, steps=_STEPS)
    def begin(self, chosen: Settings, seed: int, keys: list[str], steps: list[Step]) -> None:
        self.seed, self.now = seed, NOW
        self.log: list[tuple[int, str]] = []
        self.succeeded: set[int] = set()  # over all runs
        self.saved: bytes | None = None
        self.saved_complete: set[int] = set()
        self.begin_run(chosen)
        self.put_and_read(keys, 1, len(keys))
        self.work(steps)

    def begin_run(self, chosen: Settings) -> None:
        self.engine = Engine(seed=self.seed)
        self.model = Model(chosen)
        self.shard = self.engine.add_shard(mapping_of(chosen), SHARD, now=self.now, checkpoint=self.saved)

    def fetch(self, limit: int) -> None:
        """Offer the records that follow, and some that were offered before."""
        want = self.engine.wants(self.shard, self.now)
        if want is None:
            return
        after = int(want.after) if want.after is not None else 0
        following = [record for record in self.log if record[0] > after][:limit]
        repeated = [record for record in self.log if record[0] <= after][-2:]
        records = [(key, b"", self.now, str(number)) for number, key in repeated + following]
        offered = self.engine.offer(self.shard, Page.from_records(records), self.now)
        assert (offered.accepted, offered.records, offered.duplicates) == (True, len(following), len(repeated))
        new = {number for number, _ in following}
        # What the checkpoint says is complete it says of its own lanes, and the model must agree.
        known = new & self.saved_complete
        assert offered.complete == len(known), "no less and no more is complete than what was when the checkpoint was saved"
        self.model.offer(following, known)

    @rule(keys=_PUT, gap=st.integers(1, 10**20), limit=st.integers(1, 24))
    def put_and_read(self, keys: list[str], gap: int, limit: int) -> None:
        last = self.log[-1][0] if self.log else 0
        self.log += [(last + gap * index, key) for index, key in enumerate(keys, 1)]
        self.fetch(limit)

    @rule(limit=st.integers(1, 24))
    def read(self, limit: int) -> None:
        self.fetch(limit)

    @rule(steps=_STEPS)
    def work(self, steps: list[Step]) -> None:
        for step in steps:
            self.now += step.milliseconds
            for _ in range(step.takes):
                if not self.take_one():
                    break
            self.finish_one(step)

    def take_one(self) -> bool:
        ready = self.engine.take(self.now)
        if isinstance(ready, Batch):
            records = numbers(ready)
            self.model.hand_out(ready.ticket, records, ready.attempt, ready.request_id)
            assert ready.index_of(str(records[-1])) == len(records) - 1
            return True
        assert isinstance(ready, Wait), "discards come out of finish here"
        running = [part.records for rest in self.model.in_flight.values() for part in rest]
        if not self.model.begun and not running:
            assert not self.model.held(), "nothing runs and nothing is parked, so nothing may be left"
        parked = [lane["until"] for lane in self.engine.stats(self.shard).lanes if lane["state"] == "parked"]
        if parked:  # an update may leave an earlier time behind, at which there is nothing to do
            assert ready.at is not None
            assert self.now < ready.at <= min(parked)
        return False

    def finish_one(self, step: Step) -> None:
        if not self.model.in_flight:
            return
        ticket = sorted(self.model.in_flight)[step.which % len(self.model.in_flight)]
        records = self.model.in_flight[ticket][-1].records
        # One record that is too large alone the model leaves out: it spends its attempts without being handed out.
        what = "throttled" if step.what == "too_large" and len(records) == 1 else step.what
        index = step.index % len(records) if what == "partial" else 0
        outcome = {
            "success": Outcome.success(),
            "failure": Outcome.failure(function_error="Unhandled"),
            "partial": Outcome.partial(index),
            "throttled": Outcome.throttled(),
            "too_large": Outcome.too_large(),
        }[what]
        finished = self.engine.finish(ticket, outcome, self.now)
        cut_at = self.cut_at(records) if what == "too_large" else None
        given_up = self.model.finish(ticket, None if what == "success" else index, ran=what != "throttled", cut_at=cut_at)
        self.succeeded |= set(records) if what == "success" else set(records[:index])
        assert not finished.stale
        assert len(finished.discards) == (given_up is not None)
        for discard in finished.discards:
            assert given_up is not None
            self.check_discard(discard, given_up.records, given_up.count)
            self.model.discard(discard.id, given_up.records)
            if not step.late:
                self.confirm_one(discard.id)

    @staticmethod
    def cut_at(records: list[int]) -> int:
        """Where the larger part has the fewest bytes: records differ in the digits of their numbers, which stand there twice."""
        digits = [len(str(number)) * 2 + 415 for number in records]
        return min(range(1, len(records)), key=lambda at: max(sum(digits[:at]) + at, sum(digits[at:]) + len(records) - at))

    @staticmethod
    def check_discard(discard: Discard, records: list[int], count: int) -> None:
        assert discard.condition == "RetryAttemptsExhausted"
        assert (discard.approximate_invoke_count, discard.record_count) == (count, len(records))
        assert (discard.first_sequence_number, discard.last_sequence_number) == (str(records[0]), str(records[-1]))

    def confirm_one(self, identity: int) -> None:
        self.succeeded |= self.model.given_up[identity]
        self.model.confirm(identity)
        assert self.engine.confirm(identity, "delivered")

    @precondition(lambda self: self.model.given_up)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        self.confirm_one(data.draw(st.sampled_from(sorted(self.model.given_up))))

    @rule()
    def save(self) -> None:
        checkpoint = self.engine.checkpoint(self.shard)
        if checkpoint is None:
            return
        watermark = Checkpoint.inspect(checkpoint.blob)["watermark"]
        expected = self.model.watermark()
        assert watermark == checkpoint.watermark
        if self.model.keys:
            before = max((number for number, _ in self.log if number < min(self.model.keys)), default=None)
            expected = before if expected is None else expected
            assert watermark == (None if expected is None else str(expected))
        self.engine.saved(self.shard, checkpoint.version)
        assert self.engine.checkpoint(self.shard) is None
        self.saved = checkpoint.blob
        self.saved_complete = self.complete_in_checkpoint()

    def complete_in_checkpoint(self) -> set[int]:
        """Records that are complete and whose lane has nothing incomplete before them: what a mark of each lane can say.

        A lane completes in order, so only a discard that is not confirmed holds back what its lane did after it. The model does not know
        lanes; it asks a second engine, which is given the whole log.
        """
        probe = Engine()
        shard = probe.add_shard(mapping_of(self.model.settings), SHARD, now=self.now, checkpoint=self.saved)
        records = [(key, b"", self.now, str(number)) for number, key in self.log]
        probe.offer(shard, Page.from_records(records), self.now)
        left: set[int] = set()
        while isinstance(batch := probe.take(self.now), Batch):
            left |= set(numbers(batch))
            probe.finish(batch.ticket, Outcome.success(), self.now)
        complete = {number for number, _ in self.log} - left
        assert complete <= self.succeeded, "nothing is complete in a checkpoint that is not complete"
        # Not known to be complete though it is: only behind a discard that is not confirmed.
        missing = {number for number in self.model.complete if number not in complete}
        waiting = [min(records) for records in self.model.given_up.values()]
        assert not missing or (waiting and min(missing) > min(waiting)), "only an unconfirmed discard holds completions back"
        return complete

    @precondition(lambda self: self.model.complete)
    @rule(chosen=_SETTINGS)
    def crash(self, chosen: Settings) -> None:
        self.begin_run(chosen)

    @rule(chosen=_SETTINGS)
    @precondition(lambda self: self.model.complete and not self.model.in_flight and not self.model.given_up)
    def update(self, chosen: Settings) -> None:
        self.engine.pause(self.shard)
        self.engine.update(self.shard, mapping_of(chosen), self.now)
        self.engine.resume(self.shard, self.now)
        self.model.forget_attempts()
        self.model.settings = replace(chosen)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        self.engine.check_invariants()
        stats = self.engine.stats(self.shard)
        assert (stats.held_records, stats.in_flight) == (len(self.model.held()), len(self.model.in_flight))
        assert stats.unconfirmed_discards == len(self.model.given_up)

    def teardown(self) -> None:
        """Faults stop: everything that was put ends, within a bound of steps, and nothing is left in the engine."""
        if not hasattr(self, "model"):
            return
        for identity in sorted(self.model.given_up):
            self.confirm_one(identity)
        for _ in range(20 * len(self.log) + 20):
            for ticket in sorted(self.model.in_flight):
                self.succeeded |= set(self.model.in_flight[ticket][-1].records)
                assert self.engine.finish(ticket, Outcome.success(), self.now).discards == []
                self.model.finish(ticket, None)
            self.fetch(1000)
            self.now += 70_000
            while self.take_one():
                pass
            if not self.model.in_flight:
                break
        self.agrees()
        assert self.succeeded == {number for number, _ in self.log}, "nothing is lost"
        assert self.engine.held_bytes == 0
        self.engine.end(self.shard, self.now)
        assert self.engine.stats(self.shard).state == "ended"
        if self.log:
            assert self.engine.stats(self.shard).watermark == str(self.log[-1][0])


# The soak profile of conftest says how many examples; the fast one needs few, since each is many calls.
_SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
EngineAgainstModel.TestCase.settings = settings(
    max_examples=1000 if _SOAK else 120, stateful_step_count=50 if _SOAK else 12, derandomize=not _SOAK, deadline=None
)
TestEngineAgainstModel = EngineAgainstModel.TestCase
if _SOAK:
    pytestmark = pytest.mark.timeout(0)  # so many examples take minutes


def test_the_model_itself_follows_the_sequences_of_the_developer_guide() -> None:
    """Four records, the second always bad: what AWS was seen to do, so that the model is not wrong in the same way as the engine."""
    cases = [
        (Settings(10, 1, 2, bisect=False), "raise", [[1, 2, 3, 4]] * 3, ([1, 2, 3, 4], 3)),
        (Settings(10, 1, 1, bisect=True), "raise", [[1, 2, 3, 4], [1, 2], [1], [2], [2], [3, 4]], ([2], 2)),
        (Settings(10, 1, 1, bisect=False), "partial", [[1, 2, 3, 4], [2, 3, 4], [2, 3, 4]], ([2, 3, 4], 2)),
        (Settings(10, 1, 1, bisect=True), "partial", [[1, 2, 3, 4], [2, 3, 4], [2], [2], [3, 4]], ([2], 2)),
    ]
    for chosen, how, expected, discarded in cases:
        model = Model(chosen)
        model.offer([(number, "key") for number in range(1, 5)], set())
        seen, given_up = [], []
        for ticket in itertools.count():
            if ticket and not model.begun:
                break
            top = model.begun[-1][-1] if model.begun else None
            records = top.records if top else [1, 2, 3, 4]
            identity = top.request_id if top and top.request_id else f"request-{ticket}"
            model.hand_out(ticket, records, top.attempt if top else 1, identity)
            seen.append(records)
            bad = None if 2 not in records else records.index(2) if how == "partial" else 0
            if gone := model.finish(ticket, bad):
                model.discard(ticket, gone.records)
                given_up.append((gone.records, gone.count))
        assert (seen, given_up) == (expected, [discarded])
