"""Prometheus: the metrics as its text format, on a port of this machine. Needs the extra `prometheus`."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, Self

from streamcore._parameters import require_type
from streamcore.errors import ConfigError
from streamcore.exporters._catalogue import COUNTERS, DISTRIBUTIONS, GAUGES, WORKER_COUNTERS, Instrument, needed
from streamcore.metrics import Distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamcore.metrics import WorkerMetrics

__all__ = ["PrometheusCollector", "PrometheusServer"]

_BY_MAPPING = ["mapping"]
_BY_SHARD = [*_BY_MAPPING, "shard"]


class PrometheusCollector:
    """A collector for a registry of `prometheus_client`, for who serves one already.

    Names are those of Prometheus: `streamcore_polled_events_total`, seconds and bytes. Counters and histograms have the label `mapping`,
    its UUID, so that they go on when a shard ends; gauges have `shard` too.

    Args:
        metrics: `Worker.metrics`; asked once for each scrape.

    Raises:
        ConfigError: `prometheus_client` is not installed.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> from streamcore import EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, Worker
        >>> worker = Worker(checkpoints=MemoryCheckpointStore())
        >>> worker.add(EventSourceMapping(starting_position="LATEST"), MemoryStream("orders"), LocalFunction(print))
        >>> registry = CollectorRegistry()
        >>> registry.register(PrometheusCollector(worker.metrics))
        >>> [line for line in generate_latest(registry).decode().splitlines() if line.startswith("streamcore_checkpoints")]
        ['streamcore_checkpoints_total 0.0']
    """

    def __init__(self, metrics: Callable[[], WorkerMetrics]) -> None:
        self._core = _client("core")
        self._metrics = metrics

    def describe(self) -> list[Any]:
        """Return nothing, so that registering asks for no metrics."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of this moment."""
        metrics = self._metrics()
        core = self._core
        for counter in COUNTERS:
            family = core.CounterMetricFamily(_name(counter), counter.text, labels=_BY_MAPPING)
            for mapping in metrics.mappings:
                family.add_metric([mapping.uuid], counter.of(mapping))
            yield family
        for gauge in GAUGES:
            family = core.GaugeMetricFamily(_name(gauge), gauge.text, labels=_BY_SHARD)
            for mapping in metrics.mappings:
                for shard in mapping.shards:
                    if (value := gauge.of(shard)) is not None:
                        family.add_metric([mapping.uuid, shard.shard_id], value)
            yield family
        yield from self._of_shards(metrics)
        for distribution in DISTRIBUTIONS:
            family = core.HistogramMetricFamily(_name(distribution), distribution.text, labels=_BY_MAPPING)
            for mapping in metrics.mappings:
                family.add_metric([mapping.uuid], *_histogram(distribution, getattr(mapping, distribution.attribute)))
            yield family
        for counter in WORKER_COUNTERS:
            yield core.CounterMetricFamily(_name(counter), counter.text, value=counter.of(metrics))

    def _of_shards(self, metrics: WorkerMetrics) -> Iterator[Any]:
        core = self._core
        behind = core.GaugeMetricFamily("streamcore_behind_seconds", "Distance to the tip, as the source tells it", labels=_BY_SHARD)
        lanes = core.GaugeMetricFamily("streamcore_lanes", "Lanes by what they do", labels=[*_BY_SHARD, "state"])
        info = core.GaugeMetricFamily("streamcore_mapping_info", "The mappings", labels=["mapping", "function", "event_source"])
        for mapping in metrics.mappings:
            info.add_metric([mapping.uuid, mapping.function_arn, mapping.event_source_arn], 1)
            for shard in mapping.shards:
                if shard.millis_behind is not None:
                    behind.add_metric([mapping.uuid, shard.shard_id], shard.millis_behind / 1000)
                for state in ("empty", "waiting", "ready", "in_flight", "parked"):
                    lanes.add_metric([mapping.uuid, shard.shard_id, state], sum(lane.state == state for lane in shard.lanes))
        yield from (behind, lanes, info)


class PrometheusServer:
    """Serves the metrics at `http://ADDRESS:PORT/metrics` from a thread of its own, until it is closed.

    Args:
        metrics: `Worker.metrics`; asked once for each scrape.
        port: 0 to 65535; 0 lets the system choose a free one, which `port` then tells.
        address: where to listen. By default only this machine can ask; "0.0.0.0" is every network it is in, and nobody is asked who they
            are.

    Attributes:
        url: where the metrics are.
        port: the port.

    Raises:
        ConfigError: `prometheus_client` is not installed, or nothing can listen there.
    """

    def __init__(self, metrics: Callable[[], WorkerMetrics], *, port: int, address: str = "127.0.0.1") -> None:
        require_type("metrics_port", port, int)
        if not 0 <= port <= 65_535:
            raise ConfigError(f"must be 0 to 65535, not {port}", parameter="metrics_port")
        registry = _client("core").CollectorRegistry()
        registry.register(PrometheusCollector(metrics))
        try:
            self._server, self._thread = _client("exposition").start_http_server(port, address, registry)
        except OSError as error:  # also what name resolution raises
            raise ConfigError(f"cannot listen on {address} port {port}: {error.strerror or error}", parameter="metrics_port") from error
        self.port: int = self._server.server_port
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Listen no more. A scrape under way is not waited for."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _client(module: str) -> Any:
    return needed(f"prometheus_client.{module}", who="Prometheus", package="prometheus-client", extra="prometheus")


def _name(instrument: Instrument) -> str:
    return "_".join(part for part in ("streamcore", instrument.name, instrument.unit) if part)


def _histogram(instrument: Instrument, distribution: Distribution) -> tuple[list[tuple[str, float]], float]:
    """Return the buckets as Prometheus has them: how many values are at most so large."""
    scale = 1000 if instrument.unit == "seconds" else 1
    counts = (*distribution.counts, *(0,) * (Distribution.BUCKETS - len(distribution.counts)))
    bounds = [_bound(bucket, scale) for bucket in range(Distribution.BUCKETS)]
    return list(zip(bounds, accumulate(counts), strict=True)), distribution.sum / scale


def _bound(bucket: int, scale: int) -> str:
    bound = Distribution.bound(bucket)
    return "+Inf" if bound is None else repr(bound / scale)
