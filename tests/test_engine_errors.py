"""Every error of the engine: its class, its facts, its text, and that a failed call changes nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, mapping, one_shard, page, take
from streamcore import (
    Checkpoint,
    CheckpointError,
    ConfigError,
    Engine,
    EventSourceMapping,
    Outcome,
    Page,
    StreamcoreError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCESS, FAILURE = Outcome.success(), Outcome.failure()
HUGE = 10**30


@dataclass
class Scene:
    """An engine in the middle of its work.

    `shard` holds records, has a batch in flight and an unconfirmed discard; `closed` has ended.
    """

    engine: Engine
    shard: int
    closed: int
    ticket: int
    finished: int
    discard: int
    blob: bytes

    def looks(self) -> list[Any]:
        names = [name for name in dir(type(self.engine.stats(self.shard))) if not name.startswith("_")]
        stats = [self.engine.stats(shard) for shard in (self.shard, self.closed)]
        checkpoints = [(checkpoint.shard, checkpoint.version, checkpoint.blob) for checkpoint in self.engine.checkpoints()]
        self.engine.check_invariants()
        return [[getattr(stat, name) for name in names] for stat in stats] + [self.engine.held_bytes, checkpoints, self.engine.trace()]


@pytest.fixture
def scene() -> Scene:
    engine, shard = one_shard(1, 2, 3, 4, batch_size=1, maximum_retry_attempts=0)
    first = take(engine)
    (given_up,) = engine.finish(first.ticket, FAILURE, NOW).discards
    second = take(engine)
    closed = engine.add_shard(mapping(), "closed", now=NOW)
    engine.end(closed, NOW)
    checkpoint = engine.checkpoint(shard)
    assert checkpoint is not None
    engine.trace()
    return Scene(engine, shard, closed, second.ticket, first.ticket, given_up.id, checkpoint.blob)


Call = tuple["Callable[[Scene], object]", type[Exception], str, dict[str, object]]


def add(**arguments: Any) -> Callable[[Scene], object]:
    def call(scene: Scene) -> object:
        return scene.engine.add_shard(**{"mapping": mapping(), "shard_id": "new", "now": NOW, **arguments})

    return call


def other_blob(scene: Scene, **arguments: Any) -> object:
    return scene.engine.add_shard(
        **{"mapping": mapping(), "shard_id": "other", "now": NOW, "identity": "", "checkpoint": scene.blob, **arguments}
    )


UNKNOWN = "there is no shard 99"
NOT_IN_FLIGHT = "the batch of this ticket is not in flight: it was finished before, or never handed out"
MS = "must be milliseconds, -8640000000000000 to 8640000000000000"

CALLS: dict[str, Call] = {
    # shards that are not there
    "offer_unknown": (lambda s: s.engine.offer(99, page(9), NOW), UsageError, UNKNOWN, {}),
    "wants_unknown": (lambda s: s.engine.wants(99, NOW), UsageError, UNKNOWN, {}),
    "fetch_failed_unknown": (lambda s: s.engine.fetch_failed(99), UsageError, UNKNOWN, {}),
    "end_unknown": (lambda s: s.engine.end(99, NOW), UsageError, UNKNOWN, {}),
    "checkpoint_unknown": (lambda s: s.engine.checkpoint(99), UsageError, UNKNOWN, {}),
    "saved_unknown": (lambda s: s.engine.saved(99, 1), UsageError, UNKNOWN, {}),
    "pause_unknown": (lambda s: s.engine.pause(99), UsageError, UNKNOWN, {}),
    "resume_unknown": (lambda s: s.engine.resume(99, NOW), UsageError, UNKNOWN, {}),
    "drain_unknown": (lambda s: s.engine.drain(99, NOW), UsageError, UNKNOWN, {}),
    "update_unknown": (lambda s: s.engine.update(99, mapping(), NOW), UsageError, UNKNOWN, {}),
    "remove_unknown": (lambda s: s.engine.remove(99), UsageError, UNKNOWN, {}),
    "stats_unknown": (lambda s: s.engine.stats(99), UsageError, UNKNOWN, {}),
    "shard_negative": (lambda s: s.engine.stats(-1), UsageError, "there is no shard -1", {}),
    "shard_huge": (lambda s: s.engine.wants(HUGE, NOW), UsageError, f"there is no shard {HUGE}", {}),
    # batches
    "finish_twice": (lambda s: s.engine.finish(s.finished, SUCCESS, NOW), UsageError, NOT_IN_FLIGHT, {}),
    "finish_made_up": (lambda s: s.engine.finish(s.ticket + 1, SUCCESS, NOW), UsageError, NOT_IN_FLIGHT, {}),
    "finish_unknown_shard": (lambda s: s.engine.finish(2**63, SUCCESS, NOW), UsageError, NOT_IN_FLIGHT, {}),
    "finish_negative": (lambda s: s.engine.finish(-1, SUCCESS, NOW), UsageError, NOT_IN_FLIGHT, {}),
    "finish_huge": (lambda s: s.engine.finish(HUGE, SUCCESS, NOW), UsageError, NOT_IN_FLIGHT, {}),
    "partial_beyond": (
        lambda s: s.engine.finish(s.ticket, Outcome.partial(1), NOW),
        UsageError,
        "record 1 of a batch of 1 records cannot have failed",
        {},
    ),
    "window_state": (
        lambda s: s.engine.finish(s.ticket, Outcome.success(window_state=b"{}"), NOW),
        UsageError,
        "window state was given, and the mapping has no tumbling window",
        {},
    ),
    # life cycle
    "offer_closed": (
        lambda s: s.engine.offer(s.closed, page(1), NOW),
        UsageError,
        "the shard is closed, and a page with records was offered",
        {},
    ),
    "update_busy": (
        lambda s: s.engine.update(s.shard, mapping(batch_size=5), NOW),
        UsageError,
        "1 batches are in flight and 1 discards unconfirmed; pause or drain the shard first",
        {},
    ),
    "shard_exists": (
        add(shard_id="shardId-000000000000"),
        UsageError,
        'the mapping already has a shard "shardId-000000000000"',
        {},
    ),
    # checkpoints
    "blob_not_ours": (add(checkpoint=b"hello, world"), CheckpointError, "not a streamcore checkpoint", {}),
    "blob_empty": (add(checkpoint=b""), CheckpointError, "not a streamcore checkpoint", {}),
    "blob_cut": (
        lambda s: other_blob(s, checkpoint=s.blob[:-1]),
        CheckpointError,
        "the checkpoint is damaged: the checksum does not match",
        {},
    ),
    "blob_newer": (
        lambda s: other_blob(s, checkpoint=s.blob[:8] + struct.pack("<H", 7) + s.blob[10:]),
        CheckpointError,
        "the checkpoint has format 7, and this version reads formats up to 2",
        {},
    ),
    "blob_of_another_shard": (other_blob, CheckpointError, 'the checkpoint is of shard "shardId-000000000000" of stream', {}),
    "blob_of_another_stream": (
        lambda s: other_blob(s, shard_id="shardId-000000000001", identity="made anew"),
        CheckpointError,
        "made anew",
        {},
    ),
    "inspect": (lambda _: Checkpoint.inspect(b"x"), CheckpointError, "not a streamcore checkpoint", {}),
    "rewound_blob": (lambda _: Checkpoint.rewound(b"x", "TRIM_HORIZON"), CheckpointError, "not a streamcore checkpoint", {}),
    "rewound_latest": (
        lambda s: Checkpoint.rewound(s.blob, "LATEST"),
        ConfigError,
        "start is LATEST, and timestamp_ms, the instant it stands for, is missing",
        {"parameter": "timestamp_ms"},
    ),
    "rewound_timestamp": (
        lambda s: Checkpoint.rewound(s.blob, "AT_TIMESTAMP"),
        ConfigError,
        "start is AT_TIMESTAMP, and timestamp_ms is missing",
        {"parameter": "timestamp_ms"},
    ),
    "rewound_timestamp_stray": (
        lambda s: Checkpoint.rewound(s.blob, "TRIM_HORIZON", timestamp_ms=5),
        ConfigError,
        "timestamp_ms goes with LATEST and AT_TIMESTAMP, and start is TRIM_HORIZON",
        {"parameter": "timestamp_ms"},
    ),
    "rewound_number": (
        lambda s: Checkpoint.rewound(s.blob, "AFTER_SEQUENCE_NUMBER"),
        ConfigError,
        "start is AFTER_SEQUENCE_NUMBER, and sequence_number is missing",
        {"parameter": "sequence_number"},
    ),
    "rewound_number_wrong": (
        lambda s: Checkpoint.rewound(s.blob, "AFTER_SEQUENCE_NUMBER", sequence_number="x"),
        ConfigError,
        "a sequence number is decimal digits only, found 'x' at index 0",
        {"parameter": "sequence_number"},
    ),
    "rewound_number_stray": (
        lambda s: Checkpoint.rewound(s.blob, "LATEST", timestamp_ms=5, sequence_number="5"),
        ConfigError,
        "sequence_number goes with AFTER_SEQUENCE_NUMBER, and start is LATEST",
        {"parameter": "sequence_number"},
    ),
    "rewound_both": (
        lambda s: Checkpoint.rewound(s.blob, "AFTER_SEQUENCE_NUMBER", timestamp_ms=5, sequence_number="5"),
        ConfigError,
        "timestamp_ms goes with LATEST and AT_TIMESTAMP, and start is AFTER_SEQUENCE_NUMBER",
        {"parameter": "timestamp_ms"},
    ),
    "rewound_start": (
        lambda s: Checkpoint.rewound(s.blob, "NOW"),  # type: ignore[arg-type] # what the case is about
        ConfigError,
        "start is \"NOW\", and must be 'TRIM_HORIZON', 'LATEST', 'AT_TIMESTAMP' or 'AFTER_SEQUENCE_NUMBER'",
        {"parameter": "start"},
    ),
    # arguments
    "mapping_none": (add(mapping="m"), TypeError, "mapping must be an EventSourceMapping, not str", {}),
    "update_mapping": (
        lambda s: s.engine.update(s.closed, None, NOW),  # type: ignore[arg-type] # what the case is about
        TypeError,
        "mapping must be an EventSourceMapping, not NoneType",
        {},
    ),
    "window_grace_ms": (
        add(window_grace_ms=-1),
        ConfigError,
        "window_grace_ms is -1, and must be milliseconds, 0 to 8640000000000000",
        {"parameter": "window_grace_ms"},
    ),
    "start": (
        add(start="NOW"),
        ConfigError,
        "start is \"NOW\", and must be 'TRIM_HORIZON', 'LATEST' or 'AT_TIMESTAMP'",
        {"parameter": "start"},
    ),
    "start_timestamp": (
        add(start="AT_TIMESTAMP"),
        ConfigError,
        "start is AT_TIMESTAMP, and start_timestamp_ms is missing",
        {"parameter": "start_timestamp_ms"},
    ),
    "start_timestamp_stray": (
        add(start_timestamp_ms=5),
        ConfigError,
        "start_timestamp_ms goes with LATEST and AT_TIMESTAMP, and start is TRIM_HORIZON",
        {"parameter": "start_timestamp_ms"},
    ),
    "clock": (add(clock="sun"), ConfigError, "clock is \"sun\", and must be 'wall' or 'replay'", {"parameter": "clock"}),
    "retention_zero": (
        add(retention_ms=0),
        ConfigError,
        "retention_ms is 0, and must be milliseconds, 1 to 8640000000000000",
        {"parameter": "retention_ms"},
    ),
    "retention_huge": (add(retention_ms=2**63 - 1), ConfigError, "retention_ms is 9223372036854775807", {"parameter": "retention_ms"}),
    "running_max_zero": (add(running_max=0), ConfigError, "running_max is 0, and must be 1 or more, or None", {"parameter": "running_max"}),
    "running_max_negative": (add(running_max=-1), ConfigError, "running_max is -1, and", {"parameter": "running_max"}),
    "now_huge": (lambda s: s.engine.take(HUGE), ConfigError, f"now is {HUGE}, and {MS}", {"parameter": "now"}),
    "now_early": (lambda s: s.engine.end(s.shard, -(2**63)), ConfigError, f"now is {-(2**63)}, and {MS}", {"parameter": "now"}),
    "now_float": (lambda s: s.engine.take(1.5), TypeError, "'float' object cannot be interpreted as an integer", {}),  # type: ignore[arg-type] # what the case is about
    "millis_behind": (
        lambda s: s.engine.offer(s.shard, page(9), NOW, -1),
        ConfigError,
        "millis_behind is -1, and must be milliseconds, 0 to 8640000000000000",
        {"parameter": "millis_behind"},
    ),
    "version": (lambda s: s.engine.saved(s.shard, -1), ConfigError, "version is -1, and", {"parameter": "version"}),
    "discard": (lambda s: s.engine.confirm(-1, "delivered"), ConfigError, "discard is -1, and must be the id of", {"parameter": "discard"}),
    "how": (
        lambda s: s.engine.confirm(s.discard, "lost"),  # type: ignore[arg-type] # what the case is about
        ConfigError,
        "how is \"lost\", and must be 'delivered' or 'given_up'",
        {"parameter": "how"},
    ),
    "timeout": (lambda s: s.engine.wait(float("nan")), ConfigError, "timeout is not a number", {"parameter": "timeout"}),
    "index": (lambda _: Outcome.partial(-1), ConfigError, "index is -1, and must be that of a record", {"parameter": "index"}),
    "status_code": (lambda _: Outcome.failure(status_code=65_536), ConfigError, "status_code is 65536, and", {"parameter": "status_code"}),
    "seed": (lambda _: Engine(seed=-1), ConfigError, "seed is -1, and must be 0 to 18446744073709551615", {"parameter": "seed"}),
    "budget": (lambda _: Engine(budget_bytes=-1), ConfigError, "budget_bytes is -1, and must be 0 or more", {"parameter": "budget_bytes"}),
    "outcome": (lambda s: s.engine.finish(s.ticket, "success", NOW), TypeError, "is not an instance of 'Outcome'", {}),  # type: ignore[arg-type] # what the case is about
    "state_type": (lambda _: Outcome.success(window_state="{}"), TypeError, "is not an instance of 'bytes'", {}),  # type: ignore[arg-type] # what the case is about
    "page": (lambda s: s.engine.offer(s.shard, b"{}", NOW), TypeError, "is not an instance of 'Page'", {}),  # type: ignore[arg-type] # what the case is about
    "callback": (lambda s: s.engine.set_wakeup(5), TypeError, "callback must be callable or None, not int", {}),  # type: ignore[arg-type] # what the case is about
}


@pytest.mark.parametrize(("call", "error", "text", "facts"), CALLS.values(), ids=CALLS)
def test_a_failed_call_says_what_is_wrong_and_changes_nothing(
    scene: Scene, call: Callable[[Scene], object], error: type[Exception], text: str, facts: dict[str, object]
) -> None:
    before = scene.looks()
    with pytest.raises(error) as caught:
        call(scene)
    assert type(caught.value) is error
    assert text in str(caught.value)
    assert {name: getattr(caught.value, name) for name in facts} == facts
    assert issubclass(error, StreamcoreError) == (error is not TypeError)
    assert scene.looks() == before
    # The engine goes on as if nothing had been.
    assert scene.engine.finish(scene.ticket, SUCCESS, NOW).stale is False
    assert scene.engine.confirm(scene.discard, "delivered") is True
    assert take(scene.engine).first_sequence_number == "3"


def test_no_sequence_number_follows_the_largest_one() -> None:
    engine, shard = one_shard()
    engine.offer(shard, Page.from_records([("key", b"", NOW, "9" * 129)]), NOW)
    before = (engine.stats(shard).records, engine.held_bytes)
    with pytest.raises(UsageError, match=r"no sequence number follows 9{129}"):
        engine.offer(shard, Page.from_records([("key", b"", NOW, None)]), NOW)
    assert (engine.stats(shard).records, engine.held_bytes) == before


def test_an_error_of_a_mapping_comes_through_and_no_shard_is_made() -> None:
    class Broken(EventSourceMapping):
        @property
        def aws_region(self) -> str:
            raise KeyError("region")

    engine = Engine()
    with pytest.raises(KeyError, match="region"):
        engine.add_shard(Broken(starting_position="TRIM_HORIZON"), "shard", now=NOW)
    assert engine.add_shard(mapping(), "shard", now=NOW) == 0


def test_handles_tickets_and_times_may_be_any_integers() -> None:
    class Index:
        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            return self.value

    engine, shard = one_shard(1)
    number: Any = Index
    batch = engine.take(number(-5))
    assert engine.finish(number(batch.ticket), SUCCESS, number(-5)).stale is False  # type: ignore[union-attr] # a batch
    assert engine.stats(number(shard)).succeeded == 1
