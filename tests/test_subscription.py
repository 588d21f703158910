"""When a shard is subscribed to, by a clock that stands still unless something waits for it."""

from __future__ import annotations

import asyncio
import json
import selectors
from typing import TYPE_CHECKING, Any

import pytest

from fanout_server import CONSUMER_ARN, encode
from streamcore._aws_errors import classify
from streamcore.errors import SourceUnavailableError
from streamcore.protocols import Start
from streamcore.sources._aws import AwsError
from streamcore.sources._http2 import Http2Error
from streamcore.sources._subscription import ShardSubscription

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SHARD = "shardId-000000000000"


class Jumping(selectors.DefaultSelector):
    """Waits for nothing: the time that it should wait for has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen"
        self.now += max(timeout, 0)
        return super().select(0)


def simulated(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in no time."""
    selector = Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


class Exchange:
    """An answer with a script: a pause, then bytes or an error; it is silent behind its last line."""

    def __init__(self, *script: tuple[float, bytes | Exception], status: int = 200) -> None:
        self.script = list(script)
        self.status = status
        self.headers: dict[str, str] = {}
        self.cancelled = False

    async def read(self) -> bytes:
        if not self.script:
            await asyncio.sleep(1e9)
        pause, said = self.script.pop(0)
        await asyncio.sleep(pause)
        if isinstance(said, Exception):
            raise said
        return said

    def credit(self, size: int) -> None:
        """Take note of nothing."""

    def cancel(self) -> None:
        self.cancelled = True


class Source:
    """What a subscription asks of its source, on the same loop."""

    consumer_arn = CONSUMER_ARN
    window = 1 << 16
    says_behind = True
    stream = None

    def __init__(self, answer: Callable[[], Exchange]) -> None:
        self.accepted_at: dict[str, float] = {}
        self.times: list[float] = []
        self.starts: list[Start] = []
        self.exchanges: list[Exchange] = []
        self.wakes = 0
        self._answer = answer

    def now_ms(self) -> int:
        return 1_800_000_000_000

    async def subscribe(self, _: str, start: Start) -> Exchange:
        self.times.append(asyncio.get_running_loop().time())
        self.starts.append(start)
        self.exchanges.append(self._answer())
        return self.exchanges[-1]

    def wake(self, _: str) -> None:
        self.wakes += 1

    def soon(self, function: Callable[..., object], *args: object) -> bool:
        function(*args)
        return True

    def action(self, operation: str) -> str:
        return f"kinesis:{operation}"

    def error(self, operation: str, status: int, body: bytes, header: str | None) -> AwsError:
        code = json.loads(body)["__type"] if header is None else header
        return AwsError(classify(status, code), code, "", action=self.action(operation), status=status)


def event(continuation: str | None) -> bytes:
    said: dict[str, Any] = {"Records": [], "ContinuationSequenceNumber": continuation, "MillisBehindLatest": 0}
    return encode({":message-type": "event", ":event-type": "SubscribeToShardEvent"}, json.dumps(said).encode())


def refused(code: str) -> Exchange:
    return Exchange((0, json.dumps({"__type": code}).encode()), (0, b""), status=400)


def run(source: Source, *, until: float, shard_id: str = SHARD) -> ShardSubscription:
    reader = ShardSubscription(source, shard_id, Start("TRIM_HORIZON"), (0, 2**128 - 1))  # type: ignore[arg-type] # it has what is used

    async def main() -> None:
        task = asyncio.create_task(reader.run())
        await asyncio.wait([task], timeout=until)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    simulated(main())
    return reader


@pytest.mark.parametrize("shard_id", [f"shardId-{number:012d}" for number in range(5)])
def test_a_subscription_is_renewed_before_its_five_minutes_end(shard_id: str) -> None:
    source = Source(lambda: Exchange((0, event(str(len(source.exchanges) + 1)))))
    run(source, until=3600, shard_id=shard_id)
    gaps = [later - earlier for earlier, later in zip(source.times, source.times[1:], strict=False)]
    assert len(gaps) >= 12
    assert all(240 < gap < 300 for gap in gaps), gaps
    assert all(exchange.cancelled for exchange in source.exchanges)
    assert [start.sequence_number for start in source.starts] == [None, *map(str, range(1, len(source.starts)))]


def test_shards_that_were_subscribed_to_together_are_not_renewed_together() -> None:
    renewed = set()
    for number in range(20):
        source = Source(lambda: Exchange((0, event("1"))))
        run(source, until=300, shard_id=f"shardId-{number:012d}")
        renewed.add(round(source.times[1], 3))
    assert len(renewed) >= 15


@pytest.mark.parametrize("how", [b"", Http2Error("lost")], ids=["ended", "lost"])
def test_a_shard_is_not_subscribed_to_again_within_five_seconds(how: bytes | Exception) -> None:
    source = Source(lambda: Exchange((0.5, event("1")), (0.5, how)))
    run(source, until=22)
    assert source.times == [0, 5, 10, 15, 20]


def test_after_five_seconds_it_is_subscribed_to_at_once() -> None:
    source = Source(lambda: Exchange((60, event("1")), (0, b"")))
    run(source, until=200)
    assert source.times == [0, 60, 120, 180]


def test_a_new_reader_of_the_shard_keeps_to_the_five_seconds_too() -> None:
    source = Source(lambda: Exchange((0, event("1"))))
    source.accepted_at[SHARD] = -2.0
    run(source, until=10)
    assert source.times == [3]


def test_a_worker_that_has_just_gone_is_waited_for() -> None:
    source = Source(lambda: refused("ResourceInUseException") if len(source.times) < 6 else Exchange((0, event("1"))))
    reader = run(source, until=100)
    assert source.times == [0, 1, 2, 3, 4, 5]
    assert reader.fetch(10).millis_behind == 0


def test_another_reader_that_stays_is_a_problem() -> None:
    source = Source(lambda: refused("ResourceInUseException"))
    reader = run(source, until=100)
    assert source.times == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(SourceUnavailableError, match="another reader has subscribed"):
        reader.fetch(10)


def test_throttled_calls_are_made_ever_more_slowly() -> None:
    source = Source(lambda: refused("LimitExceededException"))
    run(source, until=60)
    gaps = [later - earlier for earlier, later in zip(source.times, source.times[1:], strict=False)]
    assert gaps[:7] == [0.25, 0.5, 1, 2, 4, 8, 10]


def test_an_answer_that_ends_before_its_first_event_is_told() -> None:
    source = Source(lambda: Exchange((0, b"")))
    reader = run(source, until=10)
    assert source.times == [0]
    with pytest.raises(AwsError, match="ended before its first event"):
        reader.fetch(10)
