"""The calls of the engine one by one: intake, batches, checkpoints and the life of a shard."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from engines import NOW, mapping, numbers, one_shard, page, take, wait_until
from streamcore import Batch, Checkpoint, Engine, Outcome, Page, Wait

SUCCESS, FAILURE = Outcome.success(), Outcome.failure()
MIN_MS = 60_000


# Intake.


def test_offer_says_what_became_of_each_record() -> None:
    engine, shard = one_shard(1, 2, 3)
    offered = engine.offer(shard, page(2, 3, 4), NOW, millis_behind=70)
    assert (offered.accepted, offered.records, offered.duplicates, offered.complete) == (True, 1, 2, 0)
    stats = engine.stats(shard)
    assert (stats.records, stats.duplicates, stats.held_records, stats.last_taken_in) == (4, 2, 4, "4")
    assert stats.millis_behind == 70
    assert numbers(take(engine)) == [1, 2, 3, 4]
    engine.offer(shard, Page.from_records([]), NOW, millis_behind=0)
    assert engine.stats(shard).millis_behind == 0


def test_sequence_numbers_are_compared_as_integers_and_kept_as_text() -> None:
    engine, shard = one_shard()
    records = [("key", b"", NOW, "9"), ("key", b"", NOW, "010"), ("key", b"", NOW, "9" * 129)]
    assert engine.offer(shard, Page.from_records(records), NOW).records == 3
    assert engine.offer(shard, page(10), NOW).duplicates == 1
    batch = take(engine)
    assert (batch.first_sequence_number, batch.last_sequence_number) == ("9", "9" * 129)
    assert (batch.index_of("010"), batch.index_of("10"), batch.index_of("9")) == (1, None, 0)


def test_wants_says_from_where_and_how_many_until_the_fetch_is_over() -> None:
    engine, shard = one_shard()
    want = engine.wants(shard, NOW)
    assert want is not None
    assert (want.after, want.limit) == (None, 10_000)
    assert engine.wants(shard, NOW) is None, "a fetch is under way"
    engine.fetch_failed(shard)
    assert engine.wants(shard, NOW) is not None
    engine.offer(shard, page(5, 6), NOW)
    want = engine.wants(shard, NOW)
    assert want is not None
    assert want.after == "6"


def test_the_budget_refuses_a_page_that_nobody_asked_for_and_an_empty_shard_may_always_fetch() -> None:
    engine = Engine(budget_bytes=1000)
    shard = engine.add_shard(mapping(), "shardId-000000000000", now=NOW)
    large = page(1, key="key", data=b"x" * 5000)
    assert engine.wants(shard, NOW) is not None
    assert engine.offer(shard, large, NOW).accepted
    assert engine.wants(shard, NOW) is None, "there is no room"
    before = (engine.held_bytes, engine.stats(shard).records)
    refused = engine.offer(shard, page(2, key="key", data=b"x" * 5000), NOW)
    assert (refused.accepted, refused.records, refused.duplicates, refused.complete) == (False, 0, 0, 0)
    assert (engine.held_bytes, engine.stats(shard).records) == before
    assert engine.held_bytes >= large.held_bytes
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    assert engine.held_bytes == 0
    assert engine.wants(shard, NOW) is not None
    engine.check_invariants()


def test_two_shards_of_one_engine_each_get_a_share_of_the_budget() -> None:
    engine = Engine(budget_bytes=200_000)
    shards = [engine.add_shard(mapping(), f"shard-{n}", now=NOW) for n in range(2)]
    accepted = [0, 0]
    for number, (index, shard) in itertools.product(range(1, 41), enumerate(shards)):
        accepted[index] += engine.offer(shard, page(number, key="key", data=b"x" * 7500), NOW).accepted
    assert min(accepted) >= 5
    assert engine.held_bytes <= 200_000 + 11_000
    engine.check_invariants()


# Batches.


def test_batches_come_oldest_lane_first_and_one_a_lane() -> None:
    engine, shard = one_shard(*range(1, 41), key=None, parallelization_factor=10, batch_size=3)
    firsts = []
    while isinstance(batch := engine.take(NOW), Batch):
        assert 1 <= len(batch) == batch.record_count <= 3
        assert numbers(batch) == sorted(numbers(batch))
        firsts.append(numbers(batch)[0])
    assert firsts == sorted(firsts)
    assert firsts[0] == 1
    stats = engine.stats(shard)
    assert stats.in_flight == len(firsts) == len([lane for lane in stats.lanes if lane["state"] == "in_flight"])
    assert 5 < len(firsts) <= 10


def test_shards_are_served_first_ready_first_served() -> None:
    engine = Engine()
    for name in ("a", "b", "c"):
        engine.offer(engine.add_shard(mapping(batch_size=1), name, now=NOW), page(1, 2, key="key"), NOW)
    order = []
    for _ in range(6):
        batch = take(engine)
        order.append(batch.shard_id)
        engine.finish(batch.ticket, SUCCESS, NOW)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_take_names_the_instant_to_ask_again() -> None:
    engine, shard = one_shard(maximum_batching_window_in_seconds=5, batch_size=3)
    assert wait_until(engine) is None
    engine.offer(shard, page(1, 2, key="key"), NOW)
    assert wait_until(engine) == NOW + 5000
    assert wait_until(engine, NOW + 4999) == NOW + 5000
    assert engine.stats(shard).lanes == [
        {"state": "waiting", "records": 2, "attempts": 0, "until": NOW + 5000, "first_sequence_number": "1"}
    ]
    assert numbers(take(engine, NOW + 5000)) == [1, 2]


def test_a_full_batch_does_not_wait_for_its_window() -> None:
    engine, _ = one_shard(1, 2, 3, 4, maximum_batching_window_in_seconds=5, batch_size=3)
    batch = take(engine)
    assert numbers(batch) == [1, 2, 3]
    engine.finish(batch.ticket, SUCCESS, NOW + 10)
    assert wait_until(engine, NOW + 10) == NOW + 5010, "the window begins with the end of the batch before"


def test_a_failed_batch_comes_again_after_a_pause_with_the_same_request_id() -> None:
    engine, shard = one_shard(1, 2)
    first = take(engine)
    engine.finish(first.ticket, FAILURE, NOW)
    at = wait_until(engine)
    assert at is not None
    assert NOW + 180 <= at <= NOW + 220
    assert [engine.stats(shard).lanes[0][name] for name in ("state", "attempts", "until")] == ["parked", 1, at]
    second = take(engine, at)
    assert (second.attempt, second.request_id, numbers(second)) == (2, first.request_id, [1, 2])
    assert second.ticket != first.ticket
    engine.finish(second.ticket, Outcome.throttled(), at)
    again = wait_until(engine, at)
    assert again is not None
    third = take(engine, again)
    assert (third.attempt, third.request_id) == (2, first.request_id), "a throttle spends nothing"
    engine.finish(third.ticket, SUCCESS, again)
    stats = engine.stats(shard)
    assert (stats.invocations, stats.failed_invocations, stats.retries, stats.throttles, stats.succeeded) == (2, 1, 1, 1, 2)


def test_a_partial_answer_gives_the_suffix_at_once_as_a_new_batch() -> None:
    engine, shard = one_shard(1, 2, 3, 4)
    first = take(engine)
    engine.finish(first.ticket, Outcome.partial(1), NOW)
    suffix = take(engine)
    assert (numbers(suffix), suffix.attempt) == ([2, 3, 4], 1)
    assert suffix.request_id != first.request_id
    assert engine.stats(shard).watermark == "1"


def test_bisect_goes_left_first_to_the_end() -> None:
    engine, _ = one_shard(1, 2, 3, 4, bisect_batch_on_function_error=True, maximum_retry_attempts=1)
    now, seen = NOW, []
    while True:
        ready = engine.take(now)
        if isinstance(ready, Batch):
            seen.append(numbers(ready))
            for given_up in engine.finish(ready.ticket, FAILURE if 2 in numbers(ready) else SUCCESS, now).discards:
                engine.confirm(given_up.id, "delivered")
        elif isinstance(ready, Wait) and ready.at is not None:
            now = ready.at
        else:
            break
    assert seen == [[1, 2, 3, 4], [1, 2], [1], [2], [2], [3, 4]]


def test_running_max_caps_a_mapping_over_all_its_shards() -> None:
    engine = Engine()
    for name in ("a", "b", "c"):
        engine.offer(engine.add_shard(mapping(), name, now=NOW, running_max=2), page(1), NOW)
    first, second = take(engine), take(engine)
    assert wait_until(engine) is None
    engine.finish(first.ticket, FAILURE, NOW)
    assert {first.shard_id, second.shard_id, take(engine).shard_id} == {"a", "b", "c"}


# Checkpoints.


def test_a_checkpoint_is_there_once_for_each_change_until_it_is_saved() -> None:
    engine, shard = one_shard(1, 2)
    fresh = engine.checkpoint(shard)
    assert fresh is not None
    assert (fresh.shard, fresh.watermark, fresh.ended) == (shard, None, False)
    assert engine.checkpoint(shard) is not None, "it has not been saved"
    engine.saved(shard, fresh.version)
    assert engine.checkpoint(shard) is None
    assert engine.checkpoints() == []
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    (changed,) = engine.checkpoints()
    assert (changed.shard, changed.watermark) == (shard, "2")
    assert changed.version > fresh.version
    engine.saved(shard, fresh.version)
    assert engine.checkpoint(shard) is not None, "an older version is saved, not this one"
    engine.saved(shard, changed.version)
    assert engine.checkpoint(shard) is None


def test_inspect_shows_what_a_blob_holds() -> None:
    engine = Engine()
    of = mapping(parallelization_factor=2)
    shard = engine.add_shard(of, "shard", now=NOW, identity="made on Monday", start="AT_TIMESTAMP", start_timestamp_ms=NOW - 5)
    engine.offer(shard, page(7, 8, key="key"), NOW)
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    checkpoint = engine.checkpoint(shard)
    assert checkpoint is not None
    assert type(checkpoint.blob) is bytes
    inspected = Checkpoint.inspect(checkpoint.blob)
    (lanes,) = inspected.pop("lanes")
    assert lanes["lane_function"] == 1
    assert sorted(lanes["marks"], key=str) == ["8", None]
    assert inspected == {
        "mapping_uuid": of.uuid,
        "stream_identity": "made on Monday",
        "shard_id": "shard",
        "starting_position": "AT_TIMESTAMP",
        "starting_position_timestamp_ms": NOW - 5,
        "watermark": "8",
        "window": None,
        "ended": False,
    }


@pytest.mark.parametrize(
    ("start", "arguments", "expected"),
    [
        ("TRIM_HORIZON", {}, ("TRIM_HORIZON", None, None)),
        ("LATEST", {"timestamp_ms": 5}, ("LATEST", 5, None)),
        ("AT_TIMESTAMP", {"timestamp_ms": -5}, ("AT_TIMESTAMP", -5, None)),
        ("AFTER_SEQUENCE_NUMBER", {"sequence_number": "1"}, ("TRIM_HORIZON", None, "1")),
    ],
)
def test_rewound_begins_elsewhere(start: Any, arguments: dict[str, Any], expected: tuple[str, int | None, str | None]) -> None:
    engine, shard = one_shard(1, 2, 3)
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    checkpoint = engine.checkpoint(shard)
    assert checkpoint is not None
    blob = Checkpoint.rewound(checkpoint.blob, start, **arguments)
    inspected = Checkpoint.inspect(blob)
    assert (inspected["starting_position"], inspected["starting_position_timestamp_ms"], inspected["watermark"]) == expected
    assert inspected["lanes"] == []
    other = Engine()
    again = other.add_shard(mapping(), "shardId-000000000000", now=NOW, checkpoint=blob)
    want = other.wants(again, NOW)
    assert want is not None
    assert want.after == expected[2]
    assert other.offer(again, page(1, 2, 3, key="key"), NOW).records == (3 if expected[2] is None else 2)


@pytest.mark.parametrize("factor", [1, 3, 10])
def test_a_restart_under_another_factor_hands_out_what_is_not_complete(factor: int) -> None:
    engine, shard = one_shard(*range(1, 31), key=None, parallelization_factor=4)
    batches = [take(engine) for _ in range(4)]
    done = sorted(number for batch in batches[1:] for number in numbers(batch))
    for batch in batches[1:]:
        engine.finish(batch.ticket, SUCCESS, NOW)
    checkpoint = engine.checkpoint(shard)
    assert checkpoint is not None
    other = Engine()
    again = other.add_shard(mapping(parallelization_factor=factor), "shardId-000000000000", now=NOW, checkpoint=checkpoint.blob)
    offered = other.offer(again, page(*range(1, 31)), NOW)
    assert offered.complete + offered.duplicates == len(done)
    left = []
    while isinstance(ready := other.take(NOW), Batch):
        left += numbers(ready)
        other.finish(ready.ticket, SUCCESS, NOW)
    assert sorted(left) == sorted(set(range(1, 31)) - set(done)) == numbers(batches[0])
    assert other.stats(again).watermark == "30"
    assert other.stats(again).already_complete == offered.complete


def test_sync_checkpoints_hands_out_nothing_between_a_completion_and_its_save() -> None:
    engine = Engine()
    shard = engine.add_shard(mapping(batch_size=1), "shard", now=NOW, sync_checkpoints=True)
    engine.offer(shard, page(1, 2, key="key"), NOW)
    assert wait_until(engine) is None, "the start itself is to be saved first"
    for number in (1, 2):
        (checkpoint,) = engine.checkpoints()
        engine.saved(shard, checkpoint.version)
        batch = take(engine)
        assert numbers(batch) == [number]
        engine.finish(batch.ticket, SUCCESS, NOW)
        assert wait_until(engine) is None


# The life of a shard.


def test_pause_stops_and_resume_goes_on() -> None:
    engine, shard = one_shard(1, 2, batch_size=1)
    batch = take(engine)
    engine.pause(shard)
    assert engine.stats(shard).state == "paused"
    assert engine.wants(shard, NOW) is None
    engine.finish(batch.ticket, SUCCESS, NOW)
    assert wait_until(engine) is None
    engine.resume(shard, NOW)
    assert engine.stats(shard).state == "running"
    assert numbers(take(engine)) == [2]


def test_drain_hands_out_what_is_held_without_its_window_and_update_changes_the_lanes() -> None:
    engine, shard = one_shard(1, 2, 3, maximum_batching_window_in_seconds=60)
    assert wait_until(engine) == NOW + MIN_MS
    engine.drain(shard, NOW)
    assert engine.stats(shard).state == "draining"
    assert engine.wants(shard, NOW) is None
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    assert engine.stats(shard).state == "drained"
    engine.update(shard, mapping(parallelization_factor=5, batch_size=1), NOW)
    engine.resume(shard, NOW)
    assert len(engine.stats(shard).lanes) == 5
    engine.offer(shard, page(4, 5, key="key"), NOW)
    assert numbers(take(engine)) == [4]
    assert "updated parallelization_factor=5" in " ".join(engine.trace())


def test_a_shard_ends_when_it_is_closed_and_complete() -> None:
    engine, shard = one_shard(1)
    batch = take(engine)
    engine.end(shard, NOW)
    assert engine.stats(shard).state == "running"
    assert engine.wants(shard, NOW) is None
    engine.finish(batch.ticket, SUCCESS, NOW)
    assert engine.stats(shard).state == "ended"
    (checkpoint,) = engine.checkpoints()
    assert (checkpoint.ended, checkpoint.watermark) == (True, "1")
    assert engine.offer(shard, Page.from_records([]), NOW).accepted, "an empty page does no harm"


def test_the_engine_knows_without_a_look_at_its_shards_whether_all_is_done_and_whether_ends_are_to_be_saved() -> None:
    engine = Engine()
    shards = [engine.add_shard(mapping(maximum_retry_attempts=0), f"shard {number}", now=NOW) for number in range(3)]
    seen = [(engine.done, engine.unsaved_ends)]

    def look() -> None:
        seen.append((engine.done, engine.unsaved_ends))
        engine.check_invariants()

    engine.offer(shards[0], page(1), NOW)
    look()
    engine.end(shards[0], NOW)
    engine.end(shards[1], NOW)
    look()
    discard = engine.finish(take(engine).ticket, FAILURE, NOW).discards[0]
    look()
    engine.confirm(discard.id, "delivered")
    look()
    for saved in engine.checkpoints():
        engine.saved(saved.shard, saved.version)
    look()
    engine.offer(shards[2], page(1), NOW)
    look()
    engine.remove(shards[2])
    look()
    assert seen == [(True, 0), (False, 0), (False, 1), (False, 1), (True, 2), (True, 0), (False, 0), (True, 0)]


def test_a_window_that_is_to_be_closed_is_not_done() -> None:
    engine = Engine()
    shard = engine.add_shard(mapping(tumbling_window_in_seconds=60), "shard", now=NOW)
    engine.offer(shard, page(1), NOW)
    engine.finish(take(engine).ticket, Outcome.success(window_state=b"{}"), NOW)
    assert engine.done
    engine.end(shard, NOW)
    assert (engine.done, engine.unsaved_ends) == (False, 0)
    engine.finish(take(engine).ticket, Outcome.success(window_state=b"{}"), NOW)
    assert (engine.done, engine.unsaved_ends) == (True, 1)


def test_a_snapshot_tells_how_many_records_have_expired() -> None:
    engine = Engine()
    shard = engine.add_shard(mapping(), "shard", now=NOW, retention_ms=MIN_MS)
    engine.offer(shard, page(1, 2), NOW)
    assert [saved.expired for saved in engine.checkpoints()] == [0]
    assert isinstance(engine.take(NOW + MIN_MS + 1), Wait)
    assert [saved.expired for saved in engine.checkpoints()] == [2]


def test_tickets_of_a_removed_shard_are_stale_and_change_nothing() -> None:
    engine, shard = one_shard(1, maximum_retry_attempts=0)
    batch = take(engine)
    engine.remove(shard)
    for _ in range(2):
        finished = engine.finish(batch.ticket, FAILURE, NOW)
        assert (finished.stale, finished.discards) == (True, [])
    assert engine.held_bytes == 0
    again = engine.add_shard(mapping(maximum_retry_attempts=0), "shardId-000000000000", now=NOW)
    assert again == shard + 1, "handles are never used again"
    engine.offer(again, page(1), NOW)
    other = take(engine)
    assert engine.finish(batch.ticket, SUCCESS, NOW).stale
    (given_up,) = engine.finish(other.ticket, FAILURE, NOW).discards
    engine.remove(again)
    assert engine.confirm(given_up.id, "delivered") is False
    assert numbers(batch) == [1], "a batch can still be read"


def test_reset_removes_every_shard() -> None:
    engine, first = one_shard(1)
    second = engine.add_shard(mapping(), "other", now=NOW)
    engine.offer(second, page(1), NOW)
    batches = [take(engine), take(engine)]
    engine.reset()
    assert [engine.finish(batch.ticket, SUCCESS, NOW).stale for batch in batches] == [True, True]
    assert (engine.held_bytes, wait_until(engine), engine.checkpoints()) == (0, None, [])
    for shard in (first, second):
        with pytest.raises(RuntimeError, match=f"there is no shard {shard}"):
            engine.stats(shard)
    third = engine.add_shard(mapping(), "other", now=NOW)
    engine.offer(third, page(1), NOW)
    assert take(engine).event()["Records"][0]["eventID"] == "other:1"


# Seeds and the trace.


def requests(seed: int, shard_id: str = "shard", **identity: str) -> list[str]:
    engine = Engine(seed=seed)
    shard = engine.add_shard(mapping(batch_size=1, parallelization_factor=10, **identity), shard_id, now=NOW)
    engine.offer(shard, page(*range(1, 30)), NOW)
    found = []
    while isinstance(batch := engine.take(NOW), Batch):
        found.append(batch.request_id)
    return found


def test_the_same_seed_gives_the_same_request_ids_and_another_seed_others() -> None:
    ids = requests(7)
    assert ids == requests(7)
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", name) for name in ids)
    others = [requests(8), requests(2**64 - 1), requests(7, "other"), requests(7, uuid="11111111-2222-3333-4444-555555555555")]
    assert len({name for names in (ids, *others) for name in names}) == sum(map(len, (ids, *others)))


def test_the_trace_tells_every_step_in_order_and_is_emptied_by_reading() -> None:
    engine, shard = one_shard(1, 2, maximum_retry_attempts=0)
    batch = take(engine)
    (given_up,) = engine.finish(batch.ticket, FAILURE, NOW).discards
    engine.confirm(given_up.id, "delivered")
    engine.saved(shard, 5)
    engine.pause(shard)
    engine.resume(shard, NOW)
    engine.drain(shard, NOW)
    engine.end(shard, NOW)
    expected = [
        "offered records=2 duplicates=0 complete=0",
        f"batch lane=0 1..2 records=2 attempt=1 request={batch.request_id}",
        "failed lane=0 records=2 attempts=1",
        "discarded lane=0 1..2 records=2 condition=RetryAttemptsExhausted count=1",
        "confirmed lane=0 delivered",
        "saved version=5",
        "paused",
        "resumed",
        "draining",
        "closed",
        "ended",
    ]
    assert engine.trace() == [f"shard={shard} {event}" for event in expected]
    assert engine.trace() == []


def test_an_engine_without_a_trace_keeps_none() -> None:
    engine, _ = one_shard(1, engine=Engine())
    take(engine)
    assert engine.trace() == []
