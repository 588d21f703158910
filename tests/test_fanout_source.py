"""Enhanced fan-out against a server that does what AWS documents, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import datetime as dt
import functools
import json
import logging
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fanout_server import CONSUMER_ARN, HASH_KEYS, STREAM_ARN, FanOutServer, encode, fanout_server
from streamcore import (
    ConfigError,
    EventSourceMapping,
    FanOutSource,
    Fetched,
    LocalFunction,
    MemoryCheckpointStore,
    SourceError,
    SourceUnavailableError,
    Start,
    Worker,
)
from streamcore.kpl import UserRecord, aggregate
from streamcore.sources import _subscription
from streamcore.sources._aws import AwsError
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Readings = Callable[..., "Reading"]

FIRST = "shardId-000000000000"
TRIM_HORIZON = Start("TRIM_HORIZON")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, nothing of the machine's own settings, and no pauses that AWS asks for."""
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_CA_BUNDLE",
        "AWS_SESSION_TOKEN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_subscription, "_REFUSED_S", 0.0)
    monkeypatch.setattr(_subscription, "_REFUSED_PAUSE_S", 0.01)


@pytest.fixture
def server() -> Iterator[FanOutServer]:
    with fanout_server() as made:
        yield made


class Reading:
    """Reads a shard as the worker does: fetches when it is woken, and at once while records come."""

    def __init__(self, server: FanOutServer, **options: Any) -> None:
        self.source = FanOutSource(CONSUMER_ARN, endpoint_url=server.endpoint_url, **options)
        self._woken = collections.defaultdict[str, threading.Semaphore](lambda: threading.Semaphore(0))
        self.source.set_wakeup(self._wake)
        self.fetched: list[Fetched] = []

    def _wake(self, shard_id: str | None = None, /) -> None:
        assert shard_id is not None
        self._woken[shard_id].release()

    def open(self, start: Start = TRIM_HORIZON, shard_id: str = FIRST) -> _subscription.ShardSubscription:
        self.source.describe()
        self.source.list_shards()
        return self.source.open(shard_id, start)

    def await_woken(self, shard_id: str = FIRST) -> None:
        assert self._woken[shard_id].acquire(timeout=30), "nothing came"

    def until(self, reader: _subscription.ShardSubscription, done: Callable[[list[Fetched]], object], limit: int = 10_000) -> list[Fetched]:
        """Fetch until a condition holds of all pages that brought something."""
        found: list[Fetched] = []
        while not done(found):
            fetched = reader.fetch(limit)
            if fetched.page is not None:
                found.append(fetched)
            elif not done(found):
                self.await_woken(reader._shard_id)
        return found

    def records(self, reader: _subscription.ShardSubscription, count: int, limit: int = 10_000) -> list[Fetched]:
        return self.until(reader, lambda found: sum(len(fetched.page or ()) for fetched in found) >= count, limit)


@pytest.fixture
def readings() -> Iterator[Callable[..., Reading]]:
    made: list[Reading] = []

    def make(server: FanOutServer, **options: Any) -> Reading:
        made.append(Reading(server, **options))
        return made[-1]

    yield make
    for reading in made:
        reading.source.close()


def sizes(found: list[Fetched]) -> list[int]:
    return [len(fetched.page or ()) for fetched in found]


def mapping(**values: Any) -> EventSourceMapping:
    return EventSourceMapping(
        event_source_arn=CONSUMER_ARN,
        function_arn="arn:aws:lambda:us-east-1:123456789012:function:f",
        **{"starting_position": "TRIM_HORIZON", **values},
    )


class Handler:
    """A function that takes note of its records, and lets a test wait for them."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._changed = threading.Condition()

    def __call__(self, event: dict[str, Any], _context: object) -> None:
        with self._changed:
            self.records += event["Records"]
            self._changed.notify_all()

    def datas(self) -> list[bytes]:
        return [base64.b64decode(record["kinesis"]["data"]) for record in self.records]

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.records) >= count, 60), f"{len(self.records)} of {count} records came"


# What is asked, and what comes.


@pytest.mark.parametrize("initial_response", [True, False], ids=["initial-response", "events-only"])
@pytest.mark.parametrize("frame_bytes", [16_384, 1], ids=["frames", "bytes"])
def test_events_come_with_and_without_an_initial_response_in_any_pieces(
    server: FanOutServer, readings: Readings, *, initial_response: bool, frame_bytes: int
) -> None:
    server.initial_response, server.frame_bytes = initial_response, frame_bytes
    numbers = server.put(FIRST, b"1", b"2")
    reading = readings(server)
    reader = reading.open()
    (first,) = reading.records(reader, 2)
    assert first.page is not None
    assert (len(first.page), first.page.last_sequence_number, first.page.continuation_sequence_number) == (2, numbers[1], numbers[1])
    server.put(FIRST, b"3")
    assert sizes(reading.records(reader, 1)) == [1]
    assert server.subscribed == [{"ConsumerARN": CONSUMER_ARN, "ShardId": FIRST, "StartingPosition": {"Type": "TRIM_HORIZON"}}]
    assert server.headers["x-amz-target"] == "Kinesis_20131202.SubscribeToShard"
    assert server.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")
    assert server.headers[":authority"] == server.endpoint_url.removeprefix("http://")


def test_the_stream_says_what_it_is(server: FanOutServer, readings: Readings) -> None:
    source = readings(server).source
    said = source.describe()
    polled = source.stream.describe()
    assert (said.event_source_arn, said.poll_interval_ms, said.retention_ms) == (CONSUMER_ARN, 0, 86_400_000)
    assert said.identity != polled.identity, "a position in an aggregate is not one of the stream"
    assert said.identity.startswith(polled.identity)
    assert source.list_shards()[0].hash_keys == (0, HASH_KEYS - 1)


@pytest.mark.parametrize(
    ("start", "position"),
    [
        (TRIM_HORIZON, {"Type": "TRIM_HORIZON"}),
        (Start("AT_TIMESTAMP", timestamp_ms=1_700_000_000_125), {"Type": "AT_TIMESTAMP", "Timestamp": 1_700_000_000.125}),
        (Start("AFTER_SEQUENCE_NUMBER", sequence_number="42"), {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": "42"}),
        (Start("LATEST"), {"Type": "LATEST"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Start) else "",
)
def test_each_start_is_asked_for_as_it_is(server: FanOutServer, readings: Readings, start: Start, position: dict[str, Any]) -> None:
    readings(server).open(start)
    server.wait(lambda: server.subscribed)
    assert server.subscribed[0]["StartingPosition"] == position


def test_latest_stands_at_the_tip_when_open_returns(server: FanOutServer, readings: Readings) -> None:
    server.put(FIRST, b"old")
    reading = readings(server)
    reader = reading.open(Start("LATEST"))
    numbers = server.put(FIRST, b"new")
    found = reading.records(reader, 1)
    assert sum(sizes(found)) == 1
    assert found[-1].page is not None
    assert found[-1].page.last_sequence_number == numbers[0]


def test_first_contact_at_the_tip_is_tried_five_times(server: FanOutServer, readings: Readings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subscription, "_TRY_PAUSE_S", 0.0)
    server.fail("SubscribeToShard", *[(500, "InternalFailure", "busy")] * 4)
    readings(server).open(Start("LATEST"))
    assert server.calls["SubscribeToShard"] == 5
    server.fail("SubscribeToShard", *[(503, "ServiceUnavailable", "busy")] * 5)
    with pytest.raises(SourceUnavailableError, match="ServiceUnavailable"):
        readings(server).open(Start("LATEST"))
    assert server.calls["SubscribeToShard"] == 10


def test_latest_stays_the_instant_at_which_it_was_taken(server: FanOutServer, readings: Readings) -> None:
    server.silent = True
    reading = readings(server, clock=ManualClock(1_800_000_000_250))
    reading.open(Start("LATEST"))
    server.throw(FIRST, "ResourceInUseException")
    server.wait(lambda: len(server.subscribed) == 2)
    assert server.subscribed[1]["StartingPosition"] == {"Type": "AT_TIMESTAMP", "Timestamp": 1_800_000_000.25}


def test_a_fetch_never_waits_and_does_not_claim_the_tip_before_it_was_told(server: FanOutServer, readings: Readings) -> None:
    server.fail("SubscribeToShard", *[(400, "LimitExceededException", "slower")] * 2)
    reading = readings(server)
    reader = reading.open()
    fetched = reader.fetch(10)
    assert (fetched.page, fetched.ended) == (None, False)
    assert fetched.millis_behind is not None
    assert fetched.millis_behind > 0
    (fetched,) = reading.until(reader, len)
    assert (sizes([fetched]), fetched.millis_behind) == ([0], 0)
    assert server.calls["SubscribeToShard"] == 3
    assert reader.fetch(10).millis_behind == 0, "nothing has come since the tip was reached"


def test_a_page_has_at_most_so_many_records(server: FanOutServer, readings: Readings) -> None:
    server.put(FIRST, *[b"x"] * 7)
    reading = readings(server)
    found = reading.records(reading.open(), 7, limit=3)
    assert sizes(found) == [3, 3, 1]
    assert all(fetched.millis_behind for fetched in found[:2]), "there is more"


# Aggregates.


def test_aggregates_are_taken_apart_and_not_cut(server: FanOutServer, readings: Readings) -> None:
    server.put(FIRST, b"plain", aggregate([UserRecord("ann", b"1"), UserRecord("bob", b"2"), UserRecord("ann", b"3")]), b"last")
    reading = readings(server)
    assert sizes(reading.records(reading.open(), 5, limit=2)) == [1, 3, 1]


def test_an_aggregate_with_a_record_of_another_shard_is_left_out(
    server: FanOutServer, readings: Readings, caplog: pytest.LogCaptureFixture
) -> None:
    child = server.add_shard((0, 99), FIRST)
    own, foreign = UserRecord("ann", b"own", "99"), UserRecord("bob", b"foreign", "100")
    server.put(child, aggregate([own, foreign]), aggregate([own, own]), b"plain")
    reading = readings(server)
    with caplog.at_level(logging.WARNING):
        assert sizes(reading.records(reading.open(shard_id=child), 3)) == [3]
    assert "1 aggregated records left out" in caplog.text


# Renewal.


@pytest.mark.parametrize("how", ["end", "reset", "drop", "InternalFailure", "KMSThrottlingException"])
def test_after_any_end_the_subscription_goes_on_behind_the_last_event(server: FanOutServer, readings: Readings, how: str) -> None:
    numbers = server.put(FIRST, b"1", b"2")
    reading = readings(server)
    reader = reading.open()
    reading.records(reader, 2)
    if how == "drop":
        server.drop_connections()
    elif how in ("end", "reset"):
        getattr(server, how)(FIRST)
    else:
        server.throw(FIRST, how)
    server.wait(lambda: len(server.subscribed) == 2)
    assert server.subscribed[1]["StartingPosition"] == {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": numbers[1]}
    server.put(FIRST, b"3")
    assert sum(sizes(reading.records(reader, 1))) == 1


def test_an_event_without_records_moves_the_position_on(server: FanOutServer, readings: Readings) -> None:
    reading = readings(server)
    reader = reading.open()
    assert sizes(reading.until(reader, len)) == [0]
    server.end(FIRST)
    server.wait(lambda: len(server.subscribed) == 2)
    assert server.subscribed[1]["StartingPosition"] == {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": "1"}


@pytest.mark.parametrize(
    "message",
    [b"\0" * 16, encode({":message-type": "event", ":event-type": "SubscribeToShardEvent"}, b"{}")[:-1] + b"\0", b"\0\0\1"],
    ids=["prelude", "checksum", "cut-off"],
)
def test_damaged_bytes_end_the_subscription_and_lose_nothing(server: FanOutServer, readings: Readings, message: bytes) -> None:
    numbers = server.put(FIRST, b"1")
    reading = readings(server)
    reader = reading.open()
    reading.records(reader, 1)
    server.say(FIRST, message)
    if len(message) < 4:
        server.end(FIRST)
    server.wait(lambda: len(server.subscribed) == 2)
    assert server.subscribed[1]["StartingPosition"]["SequenceNumber"] == numbers[0]
    server.put(FIRST, b"2")
    assert sum(sizes(reading.records(reader, 1))) == 1


def test_a_refused_call_is_made_again(server: FanOutServer, readings: Readings) -> None:
    server.fail("SubscribeToShard", *[(400, "ResourceInUseException", "subscribed less than 5 seconds ago")] * 3)
    server.put(FIRST, b"1")
    reading = readings(server)
    assert sizes(reading.records(reading.open(), 1)) == [1]
    assert server.calls["SubscribeToShard"] == 4


def test_a_subscription_that_another_reader_takes_over_is_a_problem(server: FanOutServer, readings: Readings) -> None:
    reading = readings(server)
    reader = reading.open()
    reading.until(reader, len)
    readings(server).open()
    with pytest.raises(
        SourceUnavailableError, match=r"another reader has subscribed to .*each mapping needs a consumer of its own"
    ) as caught:
        reading.until(reader, lambda _: False)
    assert caught.value.code == "ResourceInUseException"


def test_a_reader_that_is_closed_ends_its_subscription(server: FanOutServer, readings: Readings) -> None:
    reading = readings(server)
    reader = reading.open()
    server.wait(lambda: FIRST in server.open)
    reader.close()
    server.wait(lambda: FIRST not in server.open)
    reader.close()


# What goes wrong.


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        ((400, "AccessDeniedException", "not you"), SourceUnavailableError, "no permission for kinesis:SubscribeToShard on"),
        ((400, "KMSDisabledException", "off"), SourceUnavailableError, "the KMS key of"),
        ((400, "ResourceNotFoundException", "no consumer"), SourceUnavailableError, "not found"),
        ((400, "InvalidArgumentException", "what"), SourceUnavailableError, "cannot be read"),
        ((500, "InternalFailure", "oops"), AwsError, "InternalFailure"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("in_stream", [False, True], ids=["call", "in-stream"])
def test_an_error_is_told_to_whoever_fetches(
    server: FanOutServer, readings: Readings, error: tuple[int, str, str], expected: type[Exception], text: str, *, in_stream: bool
) -> None:
    reading = readings(server)
    if in_stream:
        reader = reading.open()
        reading.until(reader, len)
        server.fail("SubscribeToShard", error)
        server.throw(FIRST, error[1], error[2])
    else:
        server.fail("SubscribeToShard", error)
        reader = reading.open()
    with pytest.raises(expected, match=text):
        reading.until(reader, lambda _: False)


def test_trimmed_records_are_told_and_reading_goes_on_with_the_oldest(server: FanOutServer, readings: Readings) -> None:
    numbers = server.put(FIRST, b"1", b"2", b"3")
    server.shards[FIRST].trimmed = 2
    reading = readings(server)
    (fetched,) = reading.records(reading.open(Start("AFTER_SEQUENCE_NUMBER", sequence_number=numbers[0])), 1)
    assert fetched.trimmed
    assert fetched.page is not None
    assert fetched.page.last_sequence_number == numbers[2]


def test_a_shard_that_is_gone_has_ended(server: FanOutServer, readings: Readings) -> None:
    reading = readings(server)
    (fetched,) = reading.until(reading.open(shard_id="shardId-000000000009"), len)
    assert (fetched.ended, fetched.trimmed) == (True, True)


def test_a_closed_shard_ends_with_its_children(server: FanOutServer, readings: Readings) -> None:
    server.put(FIRST, b"1")
    server.add_shard((0, 9), FIRST)
    server.add_shard((10, HASH_KEYS - 1), FIRST)
    reading = readings(server)
    found = reading.until(reading.open(), lambda found: found and found[-1].ended)
    assert sum(sizes(found)) == 1
    assert found[-1].page is not None
    assert [child.shard_id for child in found[-1].page.child_shards] == ["shardId-000000000001", "shardId-000000000002"]


def test_an_end_that_the_listing_denies_is_not_one(server: FanOutServer, readings: Readings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subscription, "_UNSURE_S", 0.0)
    reading = readings(server)
    reader = reading.open()
    reading.until(reader, len)
    headers = {":event-type": "SubscribeToShardEvent", ":message-type": "event"}
    server.say(FIRST, encode(headers, json.dumps({"Records": [], "MillisBehindLatest": 0}).encode()))
    server.wait(lambda: len(server.subscribed) == 2)
    server.put(FIRST, b"1")
    found = reading.records(reader, 1)
    assert not any(fetched.ended for fetched in found)


def test_a_stream_made_anew_is_another_one(server: FanOutServer, readings: Readings) -> None:
    numbers = server.put(FIRST, b"1", b"2")
    reading = readings(server)
    reading.source.describe()
    server.shards[FIRST].trimmed = 2
    server.created += 100
    reader = reading.source.open(FIRST, Start("AFTER_SEQUENCE_NUMBER", sequence_number=numbers[0]))
    with pytest.raises(SourceError, match="made anew"):
        reading.until(reader, lambda _: False)


def test_a_consumer_that_is_not_active_cannot_be_read(server: FanOutServer, readings: Readings) -> None:
    server.consumer_status = "CREATING"
    with pytest.raises(SourceUnavailableError, match="its status is CREATING"):
        readings(server).source.describe()
    server.fail("DescribeStreamConsumer", (400, "ResourceNotFoundException", "none"))
    with pytest.raises(SourceUnavailableError, match="kinesis:DescribeStreamConsumer"):
        readings(server).source.describe()


def test_a_server_that_is_not_there_is_told(server: FanOutServer, readings: Readings) -> None:
    with fanout_server() as other:
        reading = readings(other)
        reading.source.describe()
    with pytest.raises(AwsError, match="no connection to"):
        reading.until(reading.source.open(FIRST, TRIM_HORIZON), lambda _: False)


@pytest.mark.parametrize(
    "arn", [STREAM_ARN, f"{STREAM_ARN}/consumer/c", "orders", f"{STREAM_ARN}/consumer/c:x"], ids=["stream", "no-time", "name", "no-number"]
)
def test_what_is_no_consumer_is_refused(arn: str) -> None:
    with pytest.raises(ConfigError, match="is not the ARN of a consumer of a Kinesis stream"):
        FanOutSource(arn, endpoint_url="http://127.0.0.1:9")


# Threads, connections and memory.


def test_many_shards_share_one_connection_and_one_thread() -> None:
    before = {thread.name for thread in threading.enumerate()}
    with fanout_server(40) as server:
        server.streams_max = 100
        reading = Reading(server)
        readers = {shard_id: reading.open(shard_id=shard_id) for shard_id in server.shards}
        for shard_id, reader in readers.items():
            server.put(shard_id, shard_id.encode())
            assert sum(sizes(reading.records(reader, 1))) == 1
        assert server.connections == 1
        ours = {thread.name for thread in threading.enumerate()} - before - {"fanout-server"}
        assert ours == {"streamcore-fanout", "streamcore-fanout-aside_0"}
        reading.source.close()
        reading.source.close()
    assert {thread.name for thread in threading.enumerate()} == before


def test_a_connection_that_is_full_gets_another_one_beside_it() -> None:
    with fanout_server(5) as server:
        server.streams_max = 2
        reading = Reading(server)
        for shard_id in server.shards:
            reading.until(reading.open(shard_id=shard_id), len)
        assert server.connections == 3
        reading.source.close()


def test_no_more_is_sent_than_the_window_until_pages_are_fetched(
    server: FanOutServer, readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcore.sources.fanout.WINDOW_MAX", 1 << 16)
    server.event_records = 10
    server.put(FIRST, *[bytes(1000)] * 300)
    server.put(FIRST, bytes(500_000))  # an event larger than the window
    reading = readings(server)
    reader = reading.open()
    server.wait(lambda: FIRST in server.open and server.open[FIRST].blocked)
    subscription = server.open[FIRST]
    assert subscription.sent == 1 << 16
    reading.await_woken()
    assert sizes(reading.records(reader, 10)) == [10]
    event = 10 * (4 * 334 + 200) + 300
    server.wait(lambda: subscription.sent > 1 << 16 and subscription.blocked)
    # Where the page was fetched before the next message had come as a whole, what had come of that is let go on too.
    assert subscription.sent < (1 << 16) + 2 * event, "as much again as one page took"
    assert sum(sizes(reading.records(reader, 291))) == 291


# The way to the server.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate of localhost for it that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(begin).not_valid_after(begin.replace(year=2120))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    folder = tmp_path_factory.mktemp("tls")
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return folder / "key.pem", folder / "cert.pem"


def tls(certificate: tuple[Path, Path], *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    context.set_alpn_protocols(list(protocols))
    return context


def test_with_tls_the_server_must_agree_to_http_2(
    certificate: tuple[Path, Path], readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[1]))
    with fanout_server(tls=tls(certificate, "h2", "http/1.1")) as server:
        server.put(FIRST, b"1")
        reading = readings(server)
        assert sizes(reading.records(reading.open(), 1)) == [1]
        reading.source.close()
    with fanout_server(tls=tls(certificate, "http/1.1")) as server:
        reading = readings(server)
        with pytest.raises(AwsError, match="does not speak HTTP/2, which enhanced fan-out needs"):
            reading.until(reading.open(), lambda _: False)
        reading.source.close()


def test_a_certificate_that_nobody_vouches_for_is_refused(
    certificate: tuple[Path, Path], readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fanout_server(tls=tls(certificate, "h2")) as server:
        reading = readings(server)
        with pytest.raises(AwsError, match="certificate verify failed"):
            reading.until(reading.source.open(FIRST, TRIM_HORIZON), lambda _: False)
        reading.source.close()


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_the_environments_proxy_is_gone_through(
    certificate: tuple[Path, Path], readings: Readings, monkeypatch: pytest.MonkeyPatch, *, secure: bool
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[1]))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with fanout_server(tls=tls(certificate, "h2", "http/1.1") if secure else None) as server, connect_proxy() as (port, asked):
        monkeypatch.setenv("https_proxy" if secure else "http_proxy", f"http://us%40er:secret@127.0.0.1:{port}")
        server.put(FIRST, b"1")
        reading = readings(server)
        reader = reading.source.open(FIRST, TRIM_HORIZON)
        assert sizes(reading.records(reader, 1)) == [1]
        reading.source.close()
    line, *headers = asked[0].split("\r\n")
    assert line == f"CONNECT {server.endpoint_url.partition('//')[2]} HTTP/1.1"
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'us@er:secret').decode()}" in headers


def test_a_proxy_that_refuses_is_told(server: FanOutServer, readings: Readings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with connect_proxy(b"HTTP/1.1 407 Proxy Authentication Required") as (port, _):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        reading = readings(server)
        with pytest.raises(AwsError, match=r"the proxy refused the way: HTTP/1.1 407 Proxy Authentication Required"):
            reading.until(reading.source.open(FIRST, TRIM_HORIZON), lambda _: False)
        reading.source.close()


@contextlib.contextmanager
def connect_proxy(answer: bytes = b"HTTP/1.1 200 OK") -> Iterator[tuple[int, list[str]]]:
    """Run a proxy that knows CONNECT; yield its port, and the requests that came."""
    asked: list[str] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        await closed(writer)

    async def closed(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(request)
        writer.write(answer + b"\r\n\r\n")
        if b"200" in answer:
            host, _, port = request.split()[1].rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, back), pump(there, writer))
        await closed(writer)

    with fanout_server() as host:  # its loop runs the proxy too
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), host.loop).result(30)
        yield listening.sockets[0].getsockname()[1], asked
        host.loop.call_soon_threadsafe(listening.close)


# With a worker. That the tip is reached is believed of a server other than AWS's when it says so without records.


def test_a_worker_reads_aggregates_with_the_consumers_arn_in_lineage_order(server: FanOutServer) -> None:
    server.heartbeats = True
    server.put(FIRST, b"plain", aggregate([UserRecord("ann", b"inner-1"), UserRecord("bob", b"inner-2")]))
    child = server.add_shard((0, HASH_KEYS - 1), FIRST)
    server.put(child, b"child")
    handler = Handler()
    source = FanOutSource(CONSUMER_ARN, endpoint_url=server.endpoint_url)
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(), source, LocalFunction(handler))
    summary = worker.run(until_idle=True, timeout_s=60)
    source.close()
    assert summary.reason == "idle"
    assert handler.datas() == [b"plain", b"inner-1", b"inner-2", b"child"]
    one, inner, other = handler.records[0], handler.records[1]["kinesis"], handler.records[2]["kinesis"]
    assert {record["eventSourceARN"] for record in handler.records} == {CONSUMER_ARN}
    assert (inner["partitionKey"], other["partitionKey"]) == ("ann", "bob")
    assert inner["sequenceNumber"] == other["sequenceNumber"] > one["kinesis"]["sequenceNumber"]
    assert handler.records[1]["eventID"] == handler.records[2]["eventID"] == f"{FIRST}:{inner['sequenceNumber']}"


def test_a_restart_goes_on_after_the_last_whole_record_and_repeats_nothing_that_was_complete(server: FanOutServer) -> None:
    server.heartbeats = True
    keys = [f"key-{number}" for number in range(20)]
    server.put(FIRST, b"plain", aggregate([UserRecord(key, key.encode()) for key in keys]))
    store = MemoryCheckpointStore()
    seen: list[str] = []
    for broken in (True, False):
        worker = Worker(checkpoints=store)

        def handler(event: dict[str, Any], context: object, *, worker: Worker = worker, broken: bool = broken) -> None:
            (record,) = event["Records"]
            key = record["kinesis"]["partitionKey"]
            if broken and key == "key-7":
                worker.stop()
                raise ValueError(key)
            seen.append(key)

        source = FanOutSource(CONSUMER_ARN, endpoint_url=server.endpoint_url)
        worker.add(mapping(batch_size=1, parallelization_factor=10), source, LocalFunction(handler))
        worker.run(until_idle=True, timeout_s=60)
        source.close()
        if broken:
            assert "key" in seen
            assert "key-7" not in seen
    assert collections.Counter(seen) == collections.Counter(["key", *keys]), "each record once, those of the aggregate too"
    plain = server.shards[FIRST].records[0]["SequenceNumber"]
    assert server.subscribed[-1]["StartingPosition"] == {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": plain}


def subscribed_more(server: FanOutServer, calls: int) -> bool:
    return len(server.subscribed) > calls and FIRST in server.open


def test_records_come_without_polling_and_faults_lose_none(server: FanOutServer) -> None:
    handler = Handler()
    source = FanOutSource(CONSUMER_ARN, endpoint_url=server.endpoint_url)
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(starting_position="LATEST"), source, LocalFunction(handler))
    running = threading.Thread(target=worker.run)
    running.start()
    sent: list[bytes] = []
    server.wait(lambda: FIRST in server.open)

    def drop(_: str) -> None:
        server.drop_connections()

    faults: list[Callable[[str], None]] = [server.end, server.reset, drop, server.end]
    for number in range(5):
        if number:
            calls = len(server.subscribed)
            faults[number - 1](FIRST)
            server.wait(functools.partial(subscribed_more, server, calls))
        sent += [f"{number}-{nth}".encode() for nth in range(10)]
        server.put(FIRST, *sent[-10:])
        handler.wait(len(sent))
    worker.stop()
    running.join()
    source.close()
    assert handler.datas() == sent, "each once, and in order"


def test_a_greatest_number_of_records_may_be_exceeded_by_the_rest_of_an_aggregate_only(server: FanOutServer) -> None:
    server.put(FIRST, b"plain", aggregate([UserRecord("ann", bytes([number])) for number in range(5)]), b"never")
    handler = Handler()
    source = FanOutSource(CONSUMER_ARN, endpoint_url=server.endpoint_url)
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(mapping(), source, LocalFunction(handler))
    summary = worker.run(max_records=3, timeout_s=60)
    source.close()
    assert (summary.reason, summary.records, handler.datas()[0]) == ("max_records", 6, b"plain")
