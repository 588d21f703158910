"""The ways out of the metrics: Prometheus over HTTP, and OpenTelemetry through its SDK with a reader in memory."""

from __future__ import annotations

import base64
import http.client
import importlib
import socket
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from streamcore import ConfigError, EventSourceMapping, MemoryCheckpointStore, MemoryStream, Worker
from streamcore.exporters.opentelemetry import OpenTelemetryExporter
from streamcore.exporters.prometheus import PrometheusServer
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore.metrics import WorkerMetrics

UUID = "00000000-0000-4000-8000-000000000001"


def bad(record: dict[str, Any]) -> bool:
    return base64.b64decode(record["kinesis"]["data"]) == b"bad"


@pytest.fixture
def worker() -> Worker:
    """Return a worker that has dropped one record of four; one of its two shards is gone, and a retry waits in the other."""
    clock = ManualClock()
    stream = MemoryStream("orders", clock=clock)
    for payload in (b"1", b"bad", b"3"):
        stream.put("k", payload)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", uuid=UUID, maximum_retry_attempts=0, bisect_batch_on_function_error=True)
    worker.add(mapping, stream, ScriptedFunction(poison=bad))
    run_until_idle(worker, clock)
    stream.rotate(stream.list_shards()[0].shard_id)
    stream.put("k", b"4")
    clock.advance(1_500)
    run_until_idle(worker, clock)
    return worker


# Prometheus.


def scraped(server: PrometheusServer) -> tuple[int, str, dict[tuple[str, tuple[str, ...]], float]]:
    """Return the status, the type of the content, and the samples by name and label values."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, tuple(sample.labels.values())): sample.value for sample in samples}
    assert len(found) == len(samples), "a sample is there twice"
    return answer.status, answer.headers["Content-Type"], found


def test_prometheus_gets_the_counts_of_a_mapping_and_how_each_shard_stands(worker: Worker) -> None:
    shard = worker.metrics().mappings[0].shards[0].shard_id
    with PrometheusServer(worker.metrics, port=0) as server:
        status, kind, found = scraped(server)
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert found["streamcore_polled_events_total", (UUID,)] == 4
    # Three fail, the first succeeds, the other two fail, the bad one fails and is dropped, the last one succeeds.
    assert found["streamcore_invoked_events_total", (UUID,)] == 3 + 1 + 2 + 1 + 1 + 1
    assert found["streamcore_dropped_events_total", (UUID,)] == 1
    assert found["streamcore_held_bytes", (UUID, shard)] == 0
    assert found["streamcore_last_iterator_age_seconds", (UUID, shard)] == 1.5
    assert found["streamcore_lanes", (UUID, shard, "empty")] == 1
    assert found["streamcore_checkpoints_total", ()] == worker.stats().checkpoints


def test_prometheus_gets_distributions_as_histograms_of_a_mapping(worker: Worker) -> None:
    with PrometheusServer(worker.metrics, port=0) as server:
        found = scraped(server)[2]
    assert found["streamcore_batch_records_count", (UUID,)] == 6
    assert found["streamcore_batch_records_sum", (UUID,)] == 9
    buckets = [found["streamcore_batch_records_bucket", (bound, UUID)] for bound in ("1.0", "2.0", "4.0", "+Inf")]
    assert buckets == [4, 5, 6, 6]
    assert found["streamcore_iterator_age_seconds_sum", (UUID,)] == 1.5
    assert found["streamcore_iterator_age_seconds_bucket", ("1.024", UUID)] == 5
    assert found["streamcore_iterator_age_seconds_bucket", ("2.048", UUID)] == 6


def test_every_scrape_asks_anew_and_a_closed_server_is_gone(worker: Worker) -> None:
    asked: list[WorkerMetrics] = []

    def metrics() -> WorkerMetrics:
        asked.append(worker.metrics())
        return asked[-1]

    before = threading.active_count()
    server = PrometheusServer(metrics, port=0)
    scraped(server)
    scraped(server)
    server.close()
    assert len(asked) == 2
    with pytest.raises(ConnectionRefusedError):
        scraped(server)
    assert "streamcore" not in " ".join(thread.name for thread in threading.enumerate())
    assert threading.active_count() <= before + 2  # a thread of the server that has answered may be ending


def test_a_port_in_use_is_said_in_one_line(worker: Worker) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^cannot listen on 127.0.0.1 port {port}: Address already in use$") as caught:
            PrometheusServer(worker.metrics, port=port)
    assert caught.value.parameter == "metrics_port"
    with pytest.raises(ConfigError, match="must be 0 to 65535, not 65536"):
        PrometheusServer(worker.metrics, port=65_536)


# OpenTelemetry.


def collected(reader: InMemoryMetricReader) -> dict[tuple[str, tuple[str, ...]], float]:
    data = reader.get_metrics_data()
    return (
        {}
        if data is None
        else {
            (metric.name, tuple(str(value) for value in (point.attributes or {}).values())): point.value  # type: ignore[union-attr]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }
    )


def test_opentelemetry_gets_the_same_counts(worker: Worker) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    asked: list[WorkerMetrics] = []

    def metrics() -> WorkerMetrics:
        asked.append(worker.metrics())
        return asked[-1]

    shard = worker.metrics().mappings[0].shards[0].shard_id
    with OpenTelemetryExporter(metrics, meter_provider=provider):
        found = collected(reader)
        assert len(asked) == 1
        assert found["streamcore.polled_events", (UUID,)] == 4
        assert found["streamcore.last_iterator_age", (UUID, shard)] == 1.5
        assert found["streamcore.batch.count", (UUID,)] == 6
        assert found["streamcore.iterator_age.sum", (UUID,)] == 1.5
        assert found["streamcore.held.bytes", (UUID, shard)] == 0
        assert found["streamcore.checkpoints", ()] == worker.stats().checkpoints
        assert collected(reader) == found
        assert len(asked) == 2
    assert len(asked) == 3, "what was counted since the last collection is exported"
    collected(reader)
    assert len(asked) == 3
    provider.shutdown()


def test_differences_add_up_while_shards_end() -> None:
    """Whoever adds up the differences of each series, as `rate` of Prometheus does and exporters of differences do, gets the counts."""
    stream = MemoryStream("orders")
    for number in range(10):
        stream.put(f"key-{number}", b"{}")
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=ManualClock(1_000), seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, ScriptedFunction())
    reader = InMemoryMetricReader(preferred_temporality={ObservableCounter: AggregationTemporality.DELTA})
    added_up: Counter[str] = Counter()

    def look() -> None:
        for (name, _), value in collected(reader).items():
            added_up[name] += int(value)

    with OpenTelemetryExporter(worker.metrics, meter_provider=MeterProvider([reader], shutdown_on_exit=False)):
        worker.step(1_000)
        look()
        stream.split(stream.list_shards()[0].shard_id)
        for now in (5_000, 10_000):
            worker.step(now)
            look()
    metrics = worker.metrics()
    assert metrics.mappings[0].gone.polled_event_count == 10, "the shard has ended"
    assert (added_up["streamcore.polled_events"], added_up["streamcore.batch.count"]) == (10, metrics.batch_records.count)


class Broken(InMemoryMetricReader):
    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        raise OSError("no collector")


def test_a_reader_that_fails_at_the_end_is_told_and_stops_nothing(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    exporter = OpenTelemetryExporter(worker.metrics, meter_provider=MeterProvider([Broken()], shutdown_on_exit=False))
    exporter.close()
    exporter.close()
    (record,) = [record for record in caplog.records if record.name == "streamcore.metrics"]
    assert "the last metrics could not be handed to OpenTelemetry" in record.getMessage()
    assert "no collector" in record.getMessage()


# What is not installed.


@pytest.mark.parametrize(
    ("module", "make", "text"),
    [
        (
            "prometheus_client",
            lambda metrics: PrometheusServer(metrics, port=0),
            "Prometheus needs prometheus-client, which is not installed: pip install 'streamcore-esm[prometheus]'",
        ),
        (
            "opentelemetry",
            OpenTelemetryExporter,
            "OpenTelemetry needs opentelemetry-api, which is not installed: pip install 'streamcore-esm[opentelemetry]'",
        ),
    ],
)
def test_a_missing_extra_is_named(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[Callable[[], WorkerMetrics]], object], text: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)
    with pytest.raises(ConfigError) as caught:
        make(worker.metrics)
    assert str(caught.value) == text
