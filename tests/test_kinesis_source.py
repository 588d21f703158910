"""The Kinesis source against servers of the API, and against a proxy that does what services do on a bad day.

Where a server differs from Kinesis, the test that meets it says so.
"""

from __future__ import annotations

import base64
import collections
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import proxy as faults
from proxy import Proxy, fault_proxy
from servers import Server, ministack_server, unique
from streamcore import (
    ConfigError,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    SourceError,
    SourceUnavailableError,
    Worker,
)
from streamcore.protocols import Start
from streamcore.sources.kinesis import KinesisSource
from streamcore.testing import ManualClock, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamcore.protocols import Fetched

FIRST = "shardId-000000000000"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, moto: Server) -> None:
    """Credentials that every server takes, and nothing of the machine's own settings."""
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")


@pytest.fixture
def proxy(moto: Server) -> Iterator[Proxy]:
    with fault_proxy(moto) as made:
        yield made


@pytest.fixture
def sources() -> Iterator[Callable[..., KinesisSource]]:
    """Make sources that are closed after the test."""
    made: list[KinesisSource] = []

    def make(stream: str, endpoint: Server | Proxy, **options: Any) -> KinesisSource:
        source = KinesisSource(stream, endpoint_url=endpoint.endpoint_url, **{"read_timeout_s": 5, **options})
        made.append(source)
        return source

    yield make
    for source in made:
        source.close()


Sources = "Callable[..., KinesisSource]"


def stream_on(server: Server, shards: int = 1) -> str:
    name = unique("orders")
    server.client("kinesis").create_stream(StreamName=name, ShardCount=shards)
    return name


def put(server: Server, stream: str, numbers: range, *, keys: int = 17) -> None:
    """Put a record for each number, the number its payload, under one of so many keys."""
    client = server.client("kinesis")
    for start in range(numbers.start, numbers.stop, 500):
        part = range(start, min(start + 500, numbers.stop))
        records = [{"Data": b"%d" % number, "PartitionKey": f"key-{number % keys}"} for number in part]
        assert client.put_records(StreamName=stream, Records=records)["FailedRecordCount"] == 0


class Handled:
    """A handler that notes the numbers it got, per key and in order."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.by_key: dict[str, list[int]] = collections.defaultdict(list)
        self.shards: collections.Counter[str] = collections.Counter()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        with self.changed:
            for record in event["Records"]:
                number = int(base64.b64decode(record["kinesis"]["data"]))
                self.by_key[record["kinesis"]["partitionKey"]].append(number)
                self.shards[record["eventID"].split(":")[0]] += 1
            self.changed.notify_all()

    @property
    def numbers(self) -> list[int]:
        return sorted(number for numbers in self.by_key.values() for number in numbers)

    def await_count(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.numbers) >= count, timeout=60), (count, self.numbers)


def mapping(**options: Any) -> EventSourceMapping:
    return EventSourceMapping(**{"starting_position": "TRIM_HORIZON", **options})


def worker_over(
    source: KinesisSource, handler: Handled, store: MemoryCheckpointStore | None = None, *, clock: ManualClock | None = None, **options: Any
) -> Worker:
    worker = Worker(checkpoints=store or MemoryCheckpointStore(), seed=1, clock=clock)
    worker.add(mapping(**options), source, LocalFunction(handler))
    return worker


def read(reader: Any, limit: int = 10_000) -> Fetched:
    """Fetch once; Fetched is what a worker would get."""
    fetched: Fetched = reader.fetch(limit)
    return fetched


# Reading it all.


@pytest.mark.parametrize("parallelization_factor", [1, 10])
def test_every_record_is_delivered_once_in_the_order_of_its_key(server: Server, parallelization_factor: int, sources: Any) -> None:
    stream, handled = stream_on(server, 4), Handled()
    put(server, stream, range(3000))
    worker = worker_over(sources(stream, server), handled, parallelization_factor=parallelization_factor)
    summary = worker.run(until_idle=True)
    assert (summary.records, summary.duplicates, summary.source_errors) == (3000, 0, 0)
    assert handled.numbers == list(range(3000))
    assert all(numbers == sorted(numbers) for numbers in handled.by_key.values())
    assert len(handled.shards) == 4


def test_a_stream_is_addressed_by_its_arn_too(server: Server, sources: Any) -> None:
    stream, handled = stream_on(server), Handled()
    put(server, stream, range(10))
    arn = server.client("kinesis").describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    source = sources(arn, server)
    assert worker_over(source, handled).run(until_idle=True).records == 10
    assert source.describe().event_source_arn == arn == sources(stream, server).describe().event_source_arn


def test_a_server_that_knows_no_arns_is_asked_by_name(moto: Server, proxy: Proxy, sources: Any) -> None:
    """kinesalite does not know StreamARN."""
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    proxy.fault("DescribeStreamSummary", faults.error("ValidationException"))
    source = sources(f"arn:aws:kinesis:us-east-1:123456789012:stream/{stream}", proxy)
    assert worker_over(source, handled).run(until_idle=True).records == 10
    assert all("StreamARN" not in request.parameters for request in list(proxy.requests)[1:])


def test_the_description_has_identity_and_retention(server: Server, sources: Any) -> None:
    stream = stream_on(server)
    server.client("kinesis").increase_stream_retention_period(StreamName=stream, RetentionPeriodHours=48)
    described = sources(stream, server).describe()
    assert described.identity == sources(stream, server).describe().identity
    assert described.identity.startswith("created-")
    assert (described.retention_ms, described.poll_interval_ms, described.format) == (48 * 3_600_000, 1000, "kinesis")


def test_a_listing_of_several_pages_begins_again_where_its_token_expires(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream = stream_on(moto)
    client = moto.client("kinesis")
    shard = client.list_shards(StreamName=stream)["Shards"][0]
    pages = [{"Shards": [{**shard, "ShardId": f"shardId-{page:012d}"}], "NextToken": f"token-{page}"} for page in range(3)]
    del pages[2]["NextToken"]
    for said in (faults.answer(pages[0]), faults.error("ExpiredNextTokenException"), *map(faults.answer, pages)):
        proxy.fault("ListShards", said)
    listed = sources(stream, proxy).list_shards()
    assert [shard.shard_id for shard in listed] == [f"shardId-{page:012d}" for page in range(3)]
    assert [request.parameters.get("NextToken") for request in proxy.requests] == [None, "token-0", None, "token-0", "token-1"]


def test_parents_are_listed_before_their_children(moto: Server, proxy: Proxy, sources: Any) -> None:
    def shard(name: str, *parents: str, end: str | None = None) -> dict[str, Any]:
        links = dict(zip(("ParentShardId", "AdjacentParentShardId"), parents, strict=False))
        return {
            "ShardId": name,
            "SequenceNumberRange": {"StartingSequenceNumber": "1", **({"EndingSequenceNumber": end} if end else {})},
            **links,
        }

    shards = [
        shard("d", "b", "c"),
        shard("c", "a", end="9"),
        shard("b", "a", end="9"),
        shard("a", "gone", end="9"),
        shard("e", end=str(2**63 - 1)),
    ]
    proxy.fault("ListShards", faults.answer({"Shards": shards}))
    listed = sources("orders", proxy).list_shards()
    assert [found.shard_id for found in listed] == ["a", "b", "c", "d", "e"]
    assert listed[3].parents == ("b", "c")
    # kinesis-mock lists 2**63 - 1 as the end of an open shard.
    assert [found.closed for found in listed] == [True, True, True, False, False]


def test_children_follow_their_parent_on_moto(moto: Server, sources: Any) -> None:
    """moto never says that a closed shard has ended, unlike Kinesis; its listing does."""
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(100))
    moto.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    source, store = sources(stream, moto), MemoryCheckpointStore()
    worker = worker_over(source, handled, store)
    assert worker.run(until_idle=True).records == 100
    assert [shard.closed for shard in source.list_shards()] == [True, False, False]


def test_a_parent_that_the_server_deletes_holds_nothing_back(ministack: Server, sources: Any) -> None:
    """MiniStack deletes a shard when it is split, with its records, unlike Kinesis. Its children are read."""
    stream, handled = stream_on(ministack), Handled()
    worker = worker_over(sources(stream, ministack), handled)
    with worker:
        put(ministack, stream, range(10))
        worker.start()
        handled.await_count(10)
        ministack.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
        put(ministack, stream, range(10, 200))
        handled.await_count(200)
        stats = worker.stats()
        assert stats.trimmed == 1
        assert not stats.problems
    assert handled.numbers == list(range(200))
    assert len(handled.shards) == 3


# Where reading begins.


def test_latest_is_the_moment_of_first_contact(server: Server, sources: Any) -> None:
    stream, handled, store = stream_on(server, 2), Handled(), MemoryCheckpointStore()
    put(server, stream, range(50))
    assert worker_over(sources(stream, server), handled, store, starting_position="LATEST").run(until_idle=True).records == 0
    put(server, stream, range(50, 80))  # nobody reads; the moment is saved
    assert worker_over(sources(stream, server), handled, store, starting_position="LATEST").run(until_idle=True).records == 30
    assert handled.numbers == list(range(50, 80))


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_latest_goes_by_the_clock_of_the_server(moto: Server, proxy: Proxy, sources: Any, skew_s: int) -> None:
    """Records get their times there: a clock here that is fast would skip some, one that is slow would bring what is old."""
    stream, handled, store = stream_on(moto), Handled(), MemoryCheckpointStore()
    began = int(time.time())
    clock = ManualClock((began + skew_s) * 1000)

    def run() -> None:
        worker = worker_over(sources(stream, proxy, clock=clock), handled, store, clock=clock, starting_position="LATEST")
        run_until_idle(worker, clock)
        worker.stop()

    proxy.fault("GetRecords", faults.error("ExpiredIteratorException"))  # of the tip
    run()
    put(moto, stream, range(10))
    run()
    assert handled.numbers == list(range(10))
    asked = [request.parameters for request in proxy.requests if request.operation == "GetShardIterator"]
    assert [one["ShardIteratorType"] for one in asked] == ["LATEST", "AT_TIMESTAMP", "AT_TIMESTAMP"]
    assert all(began <= one["Timestamp"] <= time.time() for one in asked[1:])


def test_at_latest_closed_shards_are_done_and_their_children_are_read(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled, store = stream_on(moto, 2), Handled(), MemoryCheckpointStore()
    put(moto, stream, range(100))
    moto.client("kinesis").split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey="99")
    worker = worker_over(sources(stream, proxy), handled, store, starting_position="LATEST")
    assert worker.run(until_idle=True).records == 0
    asked = [request for request in proxy.requests if request.operation == "GetShardIterator"]
    assert {request.parameters["ShardId"] for request in asked} == {f"shardId-{number:012d}" for number in (1, 2, 3)}
    assert {request.parameters["ShardIteratorType"] for request in asked} == {"LATEST"}
    # Another start: the closed one has stayed done.
    assert worker_over(sources(stream, proxy), handled, store, starting_position="LATEST").run(until_idle=True).records == 0
    assert not proxy.count("GetRecords", FIRST)


def test_a_timestamp_is_where_reading_begins(server: Server, sources: Any) -> None:
    stream, handled = stream_on(server), Handled()
    put(server, stream, range(20))
    reader = sources(stream, server).open(FIRST, Start("TRIM_HORIZON"))
    body = json.loads(reader._source.records(reader._source.iterator(FIRST, Start("TRIM_HORIZON")), 100))
    last_ms = round(body["Records"][-1]["ApproximateArrivalTimestamp"] * 1000)
    for timestamp_ms, expected in ((0, 20), (last_ms + 1, 0)):
        handled = Handled()
        worker = worker_over(
            sources(stream, server), handled, starting_position="AT_TIMESTAMP", starting_position_timestamp=timestamp_ms / 1000
        )
        assert worker.run(until_idle=True).records == expected


def test_reading_resumes_behind_the_checkpoint(server: Server, sources: Any) -> None:
    stream, handled, store = stream_on(server, 2), Handled(), MemoryCheckpointStore()
    for round_number in range(3):
        put(server, stream, range(round_number * 100, round_number * 100 + 100))
        summary = worker_over(sources(stream, server), handled, store).run(until_idle=True)
        assert (summary.records, summary.duplicates) == (100, 0)
    assert handled.numbers == list(range(300))


def made_after(server: Server, other: Any) -> Any:
    """Make the stream "orders" at another time than `other` and return that; MiniStack tells whole seconds, Kinesis tells milliseconds."""
    client = server.client("kinesis")
    while True:
        client.create_stream(StreamName="orders", ShardCount=1)
        born = client.describe_stream_summary(StreamName="orders")["StreamDescriptionSummary"]["StreamCreationTimestamp"]
        if born != other:
            return born
        client.delete_stream(StreamName="orders")


def test_a_stream_made_anew_is_read_from_its_beginning(sources: Any) -> None:
    """The server is restarted empty between two runs: its sequence numbers begin again."""
    handled, store = Handled(), MemoryCheckpointStore()
    with ministack_server() as first:
        born = made_after(first, None)
        put(first, "orders", range(20))
        assert worker_over(sources("orders", first), handled, store).run(until_idle=True).records == 20
        port = first.port
    with ministack_server(port) as second:
        made_after(second, born)
        put(second, "orders", range(20, 40))
        summary = worker_over(sources("orders", second), handled, store).run(until_idle=True)
    assert (summary.records, summary.other_identities) == (20, 1)
    assert handled.numbers == list(range(40))


def test_a_stream_made_anew_while_it_is_read_ends_the_mapping(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled = stream_on(moto), Handled()
    put(moto, stream, range(10))
    worker = worker_over(sources(stream, proxy), handled)
    worker.start()
    handled.await_count(10)
    before = proxy.count("DescribeStreamSummary")
    anew = faults.change(lambda said: said["StreamDescriptionSummary"].update(StreamCreationTimestamp=1))
    proxy.fault("DescribeStreamSummary", anew, times=None)
    proxy.fault("GetRecords", faults.refuse())
    proxy.await_count("DescribeStreamSummary", before + 1)
    with pytest.raises(SourceError, match="was made anew while it was read"):
        worker.join()


# Faults of reading.


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
    healthy = sum(shard_of(moto, stream, number) != FIRST for number in range(800))
    worker.start()
    handled.await_count(healthy)
    proxy.await_count("GetRecords", 1, FIRST)
    put(moto, stream, range(800, 1600), keys=100)
    handled.await_count(2 * healthy)
    assert set(handled.shards) == {f"shardId-{number:012d}" for number in range(1, 8)}
    worker.stop()
    worker.join()


def shard_of(server: Server, stream: str, number: int, keys: int = 100) -> str:
    from streamcore.sources.routing import hash_key  # noqa: PLC0415

    shards = server.client("kinesis").list_shards(StreamName=stream)["Shards"] if stream not in _RANGES else _RANGES[stream]
    _RANGES[stream] = shards
    key = hash_key(f"key-{number % keys}")
    return next(
        str(shard["ShardId"])
        for shard in shards
        if int(shard["HashKeyRange"]["StartingHashKey"]) <= key <= int(shard["HashKeyRange"]["EndingHashKey"])
    )


_RANGES: dict[str, Any] = {}


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


# How often.


def test_a_shard_at_its_tip_is_read_once_a_second(moto: Server, proxy: Proxy, sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, handled, clock = stream_on(moto, 3), Handled(), ManualClock()
    worker = worker_over(sources(stream, proxy), handled, clock=clock)
    worker.step(clock.now_ms())
    monkeypatch.setattr(worker._poller, "refresh", lambda _: None)  # a step by hand reads at once what waits
    before = proxy.count("GetRecords")
    for _ in range(100):
        clock.advance(100)
        worker.step(clock.now_ms())
    assert proxy.count("GetRecords") - before == 3 * 10
    worker.stop()


def test_a_shard_that_is_behind_is_read_within_the_limits_of_kinesis(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, clock = stream_on(moto), ManualClock()
    put(moto, stream, range(20))
    reader = sources(stream, proxy, limits=True, clock=clock).open(FIRST, Start("TRIM_HORIZON"))
    assert read(reader, 2).retry_after_ms == 200
    clock.advance(50)
    early = read(reader, 2)
    assert (early.page, early.retry_after_ms) == (None, 150)
    assert proxy.count("GetRecords") == 1
    # Two mebibytes take a second: Kinesis refuses the reads in between.
    big = {"SequenceNumber": "99", "PartitionKey": "k", "ApproximateArrivalTimestamp": 1, "Data": base64.b64encode(bytes(3 << 20)).decode()}
    proxy.fault("GetRecords", faults.change(lambda said: said.update(Records=[big])))
    clock.advance(150)
    assert 1900 < read(reader, 2).retry_after_ms < 2200
    without = sources(stream, proxy).open(FIRST, Start("TRIM_HORIZON"))
    assert [read(without, 2).retry_after_ms for _ in range(3)] == [0, 0, 0]


def test_two_hundred_idle_shards_need_few_threads(moto: Server, proxy: Proxy, sources: Any) -> None:
    stream, handled = stream_on(moto, 200), Handled()
    worker = worker_over(sources(stream, proxy), handled)
    with worker:
        worker.start()
        proxy.await_count("GetRecords", 400)
        threads = sum(thread.name.startswith("streamcore-poll") for thread in threading.enumerate())
        worker.stop()
        worker.join()
    assert threads <= 32
    assert min(proxy.count("GetRecords", f"shardId-{number:012d}") for number in range(200)) >= 1


# What is refused.


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("", "neither the name of a Kinesis stream"),
        ("a b", "neither the name"),
        ("x" * 129, "neither the name"),
        ("arn:aws:dynamodb:us-east-1:123456789012:table/T/stream/L", "nor its ARN"),
        ("arn:aws:kinesis:us-east-1:123456789012:stream/s/consumer/c:1", "enhanced fan-out"),
    ],
)
def test_what_names_no_stream_is_refused(stream: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KinesisSource(stream, region="us-east-1")


def test_the_region_of_an_arn_is_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = KinesisSource("arn:aws:kinesis:eu-west-1:123456789012:stream/orders")
    assert source._client._url({"OperationType": "data"}) == "https://123456789012.data-kinesis.eu-west-1.amazonaws.com"
    assert source._limits
