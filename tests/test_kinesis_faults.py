"""The Kinesis source behind a proxy that does what services and networks do on a bad day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import proxy as faults
from kinesis_streams import FIRST, Handled, made_sources, put, read, stream_on, worker_over
from proxy import Proxy
from streamcore import (
    MemoryCheckpointStore,
    SourceUnavailableError,
)
from streamcore.protocols import Start
from streamcore.sources.routing import hash_key
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server
    from streamcore.sources.kinesis import KinesisSource


pytestmark = pytest.mark.usefixtures("aws_region")


@pytest.fixture
def sources() -> Iterator[Callable[..., KinesisSource]]:
    with made_sources() as make:
        yield make


def test_an_expired_iterator_is_renewed_behind_the_last_record(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream = stream_on(moto)
    put(moto, stream, range(10))
    reader = sources(stream, proxy).open(FIRST, Start("TRIM_HORIZON"))
    first = read(reader, 4)
    proxy.fault("GetRecords", faults.error("ExpiredIteratorException"))
    second = read(reader)
    assert first.page is not None
    assert second.page is not None
    assert (len(first.page), len(second.page)) == (4, 6)
    asked = [request.parameters for request in proxy.requests if request.operation == "GetShardIterator"]
    assert asked[1]["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER"
    assert asked[1]["StartingSequenceNumber"] == first.page.last_sequence_number


def test_an_iterator_at_the_tip_that_expires_loses_nothing(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream = stream_on(moto)
    put(moto, stream, range(10))
    reader = sources(stream, proxy).open(FIRST, Start("LATEST"))
    put(moto, stream, range(10, 15))
    proxy.fault("GetRecords", faults.error("ExpiredIteratorException"))
    fetched = read(reader)
    assert fetched.page is not None
    assert len(fetched.page) == 5


def test_iterators_that_expire_at_once_end_nothing(moto: Server, proxy: Proxy, sources: Any) -> None:
    """At first contact too, where a stream that cannot be read ends the run."""
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    proxy.fault("GetRecords", faults.error("ExpiredIteratorException"), times=5)
    assert worker_over(sources(stream, proxy), handled).run(until_idle=True).records == 10
    assert handled.numbers == list(range(10))


def test_a_record_without_its_time_is_refused_and_says_so(moto: Server, proxy: Proxy, sources: Any) -> None:
    """Kinesis gives every record one; without it neither the age of a record nor the event that Lambda documents can be told."""
    stream = stream_on(moto)
    put(moto, stream, range(10))
    reader = sources(stream, proxy).open(FIRST, Start("TRIM_HORIZON"))
    proxy.fault("GetRecords", faults.change(lambda said: said["Records"][5].pop("ApproximateArrivalTimestamp")))
    with pytest.raises(SourceUnavailableError, match="has no ApproximateArrivalTimestamp"):
        reader.fetch(100)
    fetched = read(reader)
    assert fetched.page is not None
    assert len(fetched.page) == 10


def test_a_throttled_shard_is_asked_ever_less_often(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream = stream_on(moto)
    put(moto, stream, range(10))
    reader = sources(stream, proxy).open(FIRST, Start("TRIM_HORIZON"))
    proxy.fault("GetRecords", faults.error("ProvisionedThroughputExceededException"), times=8)
    pauses = [read(reader) for _ in range(8)]
    assert [fetched.retry_after_ms for fetched in pauses] == [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]
    assert all(fetched.page is None and not fetched.ended for fetched in pauses)
    fetched = read(reader)
    assert fetched.page is not None
    assert len(fetched.page) == 10
    proxy.fault("GetRecords", faults.error("KMSThrottlingException"))
    assert read(reader).retry_after_ms == 250


@pytest.mark.parametrize(
    "fault",
    [
        faults.error("InternalFailure", 500),
        faults.error("ProvisionedThroughputExceededException"),
        faults.error("ExpiredIteratorException"),
        faults.refuse(),
        faults.cut(),
        faults.hang(),
        faults.change(lambda said: said.pop("Records")),
    ],
    ids=["500", "throttled", "expired", "refused", "cut", "hangs", "malformed"],
)
def test_a_read_that_fails_spends_nothing_and_loses_nothing(moto: Server, proxy: Proxy, sources: Any, fault: faults.Fault) -> None:
    """With no retries for the function, every record is delivered once all the same."""
    stream, handled = stream_on(moto, 2), Handled()
    put(moto, stream, range(100))
    # Only where an answer never comes is it worth a short wait: a busy machine must not look like a sick one.
    read_timeout_s = 1 if fault.hangs else 10
    worker = worker_over(sources(stream, proxy, read_timeout_s=read_timeout_s), handled, maximum_retry_attempts=0, batch_size=10)
    with worker:
        worker.start()
        handled.await_count(100)
        proxy.fault("GetRecords", fault, times=3)
        put(moto, stream, range(100, 200))
        handled.await_count(200)
        worker.stop()
        summary = worker.join()
    assert handled.numbers == list(range(200))
    assert (summary.succeeded, summary.discarded_records, summary.retries) == (200, 0, 0)


def test_a_shard_that_hangs_slows_no_other(moto: Server, proxy: Proxy, sources: Any) -> None:
    """One thread would wait for the sick shard's answer for ever."""
    stream, handled = stream_on(moto, 8), Handled()
    put(moto, stream, range(800), keys=100)
    proxy.fault("GetRecords", faults.hang(), times=None, shard_id=FIRST)
    worker = worker_over(sources(stream, proxy, read_timeout_s=3600), handled)
    ranges = [shard["HashKeyRange"] for shard in moto.client("kinesis").list_shards(StreamName=stream)["Shards"]]
    sick = range(int(ranges[0]["StartingHashKey"]), int(ranges[0]["EndingHashKey"]) + 1)
    healthy = sum(hash_key(f"key-{number % 100}") not in sick for number in range(800))
    worker.start()
    handled.await_count(healthy)
    proxy.await_count("GetRecords", 1, FIRST)
    put(moto, stream, range(800, 1600), keys=100)
    handled.await_count(2 * healthy)
    assert set(handled.shards) == {f"shardId-{number:012d}" for number in range(1, 8)}
    worker.stop()
    worker.join()


@pytest.mark.parametrize("operation", ["DescribeStreamSummary", "ListShards", "GetShardIterator", "GetRecords"])
def test_at_first_contact_a_missing_permission_is_named(moto: Server, proxy: Proxy, sources: Any, operation: str) -> None:
    stream, handled = stream_on(moto), Handled()
    proxy.fault(operation, faults.error("AccessDeniedException"), times=None)
    with pytest.raises(SourceUnavailableError, match=f"no permission for kinesis:{operation}") as caught:
        worker_over(sources(stream, proxy), handled).run(until_idle=True)
    assert (caught.value.action, caught.value.code) == (f"kinesis:{operation}", "AccessDeniedException")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("AccessDeniedException", "no permission for kinesis:GetRecords"),
        ("KMSDisabledException", "the KMS key"),
        ("ExpiredTokenException", "the AWS credentials are missing, expired or not valid"),
    ],
)
def test_a_stream_that_cannot_be_read_for_a_time_is_a_problem_and_no_end(
    moto: Server, proxy: Proxy, sources: Any, code: str, text: str
) -> None:
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    worker = worker_over(sources(stream, proxy), handled, maximum_retry_attempts=0)
    with worker:
        worker.start()
        handled.await_count(10)
        assert not worker.stats().problems
        proxy.fault("GetRecords", faults.error(code), times=None)
        put(moto, stream, range(10, 20))
        before = proxy.count("GetRecords")
        proxy.await_count("GetRecords", before + 3)  # two have failed
        (problem,) = worker.stats().problems.values()
        assert problem.startswith("PROBLEM: ")
        assert text in problem
        proxy.heal()
        # A read that was under way as the fault began may have brought the last ten: these come after the problem is over.
        put(moto, stream, range(20, 30))
        handled.await_count(30)
        assert not worker.stats().problems
        worker.stop()
        summary = worker.join()
    assert handled.numbers == list(range(30))
    assert (summary.retries, summary.discards, summary.reason) == (0, 0, "stopped")


def test_a_listing_that_is_not_permitted_for_a_time_is_a_problem_too(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled, clock = stream_on(moto), Handled(), ManualClock()
    put(moto, stream, range(10))
    worker = worker_over(sources(stream, proxy), handled, clock=clock)
    worker.step(clock.now_ms())
    proxy.fault("ListShards", faults.error("AccessDeniedException"), times=None)
    clock.advance(30_000)
    worker.step(clock.now_ms())
    (problem,) = worker.stats().problems.values()
    assert "no permission for kinesis:ListShards" in problem
    proxy.heal()
    clock.advance(1000)
    worker.step(clock.now_ms())
    assert not worker.stats().problems
    worker.stop()


def status(value: str) -> faults.Fault:
    return faults.change(lambda said: said["StreamDescriptionSummary"].update(StreamStatus=value))


def test_a_stream_that_is_being_made_is_waited_for(
    moto: Server, proxy: Proxy, sources: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamcore.sources._polled._MADE_PAUSE_S", 0)
    monkeypatch.setattr("streamcore.sources._polled._MADE_TRIES", 5)
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    proxy.fault("DescribeStreamSummary", status("CREATING"), times=3)
    assert worker_over(sources(stream, proxy), handled).run(until_idle=True).records == 10
    (line,) = [message for message in caplog.messages if "PROBLEM" in message]
    assert line == f"PROBLEM: stream {stream} is not active yet: its status is CREATING; reading begins when it is"
    # Not for ever.
    proxy.fault("DescribeStreamSummary", status("CREATING"), times=None)
    before = proxy.count("DescribeStreamSummary")
    with pytest.raises(SourceUnavailableError, match="is not active: its status is CREATING"):
        sources(stream, proxy).describe()
    assert proxy.count("DescribeStreamSummary") - before == 5


def test_a_stream_that_is_being_deleted_is_not_waited_for(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream = stream_on(moto)
    proxy.fault("DescribeStreamSummary", status("DELETING"))
    source = sources(stream, proxy)
    with pytest.raises(SourceUnavailableError, match="is not active: its status is DELETING"):
        source.describe()
    assert proxy.count("DescribeStreamSummary") == 1
    assert source.describe().poll_interval_ms == 1000


def test_a_stream_that_is_being_made_again_while_it_is_read_holds_up_nothing(moto: Server, proxy: Proxy, sources: Any) -> None:
    source = sources(stream_on(moto), proxy)
    source.describe()
    proxy.fault("DescribeStreamSummary", status("CREATING"))
    with pytest.raises(SourceUnavailableError, match="is not active: its status is CREATING"):
        source.describe()
    assert proxy.count("DescribeStreamSummary") == 2


def test_a_stream_or_a_server_that_is_not_there_is_told_of(
    moto: Server, proxy: Proxy, sources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcore.sources._aws.time.sleep", lambda _: None)
    with pytest.raises(SourceUnavailableError, match="stream not found: nowhere"):
        sources("nowhere", proxy).describe()
    proxy.fault("DescribeStreamSummary", faults.refuse(), times=None)
    with pytest.raises(SourceUnavailableError, match="orders cannot be reached"):
        sources("orders", proxy).describe()


def test_a_stream_that_is_deleted_is_a_problem_until_it_is_there_again(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled, clock = stream_on(moto), Handled(), ManualClock()
    put(moto, stream, range(10))
    worker = worker_over(sources(stream, proxy), handled, clock=clock)
    worker.step(clock.now_ms())
    for operation in ("GetRecords", "GetShardIterator", "DescribeStreamSummary", "ListShards"):
        proxy.fault(operation, faults.error("ResourceNotFoundException"), times=None)
    clock.advance(1000)
    worker.step(clock.now_ms())
    (problem,) = worker.stats().problems.values()
    assert "stream not found" in problem
    proxy.heal()
    put(moto, stream, range(10, 20))
    clock.advance(60_000)
    worker.step(clock.now_ms())
    assert handled.numbers == list(range(20))
    assert not worker.stats().problems
    worker.stop()


def test_a_closed_shard_has_no_tip_and_is_read_to_its_end(moto: Server, proxy: Proxy, sources: Any) -> None:
    """Whatever an answer says of the distance to the tip: a run that ended there would never read the children."""
    stream = stream_on(moto)
    put(moto, stream, range(10))
    child = {"ShardId": "shardId-000000000001", "ParentShardId": FIRST, "SequenceNumberRange": {"StartingSequenceNumber": "1"}}
    open_parent = {"ShardId": FIRST, "SequenceNumberRange": {"StartingSequenceNumber": "1"}}
    proxy.fault("ListShards", faults.answer({"Shards": [open_parent, child]}))  # kinesis-local does not say that the parent is closed
    source = sources(stream, proxy)
    assert [shard.closed for shard in source.list_shards()] == [True, False]
    reader = source.open(FIRST, Start("TRIM_HORIZON"))
    proxy.fault("GetRecords", faults.change(lambda said: said.update(MillisBehindLatest=0)), times=2)
    fetched = [read(reader), read(reader)]
    assert [(len(one.page or ()), one.millis_behind, one.ended) for one in fetched] == [(10, None, False), (0, None, False)]
    assert fetched[1].retry_after_ms > 0
    proxy.fault("GetRecords", faults.change(lambda said: said.update(NextShardIterator=None)))
    assert read(reader).ended


def test_where_the_position_is_trimmed_reading_goes_on_with_the_oldest(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled, store = stream_on(moto), Handled(), MemoryCheckpointStore()
    put(moto, stream, range(10))
    assert worker_over(sources(stream, proxy), handled, store).run(until_idle=True).records == 10
    put(moto, stream, range(10, 20))
    proxy.fault("GetShardIterator", faults.error("InvalidArgumentException"))
    summary = worker_over(sources(stream, proxy), handled, store).run(until_idle=True)
    assert (summary.trimmed, summary.records) == (1, 10)
    assert handled.numbers == list(range(20))


def test_a_page_without_a_next_iterator_ends_only_a_shard_that_is_closed(moto: Server, proxy: Proxy, sources: Any) -> None:
    """Some servers forget the next iterator of an open shard."""
    stream = stream_on(moto)
    put(moto, stream, range(10))
    source = sources(stream, proxy)
    reader = source.open(FIRST, Start("TRIM_HORIZON"))
    proxy.fault("GetRecords", faults.change(lambda said: said.update(NextShardIterator=None)), times=2)
    fetched = read(reader)
    assert not fetched.ended
    assert fetched.retry_after_ms == 1000
    moto.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey="99")
    fetched = read(reader)
    assert fetched.ended
    assert fetched.page is not None
    assert len(fetched.page) == 0
