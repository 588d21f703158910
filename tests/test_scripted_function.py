"""The manual clock and the scripted function, driven by the engine itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from streamcore import EventSourceMapping
from streamcore._streamcore import Batch, Engine, Outcome
from streamcore.protocols import Answer, Start
from streamcore.sources.memory import MemoryStream
from streamcore.testing import ManualClock, ScriptedFunction

if TYPE_CHECKING:
    from collections.abc import Sequence


def batches_of(payloads: Sequence[bytes], **parameters: Any) -> tuple[list[Batch], list[str]]:
    """Return the batches that an engine makes of the payloads, two records each, and the records' sequence numbers."""
    clock = ManualClock()
    stream = MemoryStream("orders", clock=clock)
    numbers = [number for _, number in stream.put_many([("k", payload) for payload in payloads])]
    page = stream.open("shardId-000000000000", Start("TRIM_HORIZON")).fetch(10_000).page
    assert page is not None
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=2, parallelization_factor=1, **parameters)
    engine = Engine()
    engine.offer(engine.add_shard(mapping, "shardId-000000000000", now=clock.now_ms()), page, clock.now_ms(), 0)
    found = []
    while isinstance(batch := engine.take(clock.now_ms()), Batch):
        found.append(batch)
        engine.finish(batch.ticket, Outcome.success(), clock.now_ms())
    return found, numbers


def test_answers_come_first_and_then_success() -> None:
    batches, numbers = batches_of([b"a", b"b", b"c"])
    script = [ScriptedFunction.throttled(), ScriptedFunction.error("boom"), ScriptedFunction.partial(numbers[1])]
    function = ScriptedFunction(script)
    answers = [function.invoke(batch) for batch in [batches[0], batches[0], batches[0], batches[1]]]
    assert answers == [*script, Answer("success")]
    assert [answer.kind for answer in answers] == ["throttled", "function_error", "success", "success"]
    assert function.batches == [numbers[:2]] * 3 + [numbers[2:]]
    assert [invocation.payloads for invocation in function.invocations] == [[b"a", b"b"]] * 3 + [[b"c"]]
    assert [invocation.answer for invocation in function.invocations] == answers
    assert {(invocation.shard_id, invocation.attempt) for invocation in function.invocations} == {("shardId-000000000000", 1)}
    function.close()


@pytest.mark.parametrize("partial", [False, True], ids=["whole batch", "batch item failures"])
def test_poison(partial: bool) -> None:  # noqa: FBT001  (a parameter of the table)
    batches, numbers = batches_of([b"a", b"bad", b"c"], function_response_types=("ReportBatchItemFailures",) if partial else ())
    function = ScriptedFunction(poison=lambda record: record["kinesis"]["sequenceNumber"] == numbers[1])
    refused, passed = function.invoke(batches[0]), function.invoke(batches[1])
    if partial:
        assert refused == Answer("success", {"batchItemFailures": [{"itemIdentifier": numbers[1]}]})
    else:
        assert (refused.kind, refused.function_error) == ("function_error", "Unhandled")
    assert passed == Answer("success")


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock(1_000)
    clock.advance(5)
    clock.set(1_005)
    with pytest.raises(ValueError, match="never goes back: it is 1005, and 1004 is earlier"):
        clock.set(1_004)
    with pytest.raises(ValueError, match="never goes back, not even by 1 ms"):
        clock.advance(-1)
    assert clock.now_ms() == 1_005
