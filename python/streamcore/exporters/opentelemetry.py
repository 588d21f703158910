"""OpenTelemetry: the metrics as observable instruments of its API. Needs the extra `opentelemetry`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from streamcore._distribution import version
from streamcore.exporters._catalogue import COUNTERS, DISTRIBUTIONS, GAUGES, WORKER_COUNTERS, Instrument, by_shard, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamcore.metrics import Metrics, WorkerMetrics

__all__ = ["OpenTelemetryExporter"]

_UNITS = {"seconds": "s", "bytes": "By", "records": "{record}", "": "1"}


class OpenTelemetryExporter:
    """Registers instruments with a meter provider, by default the global one; what that does with them is its own affair.

    Names are `streamcore.polled_events` and the like, in seconds and bytes, with the attributes `streamcore.mapping` (its UUID) and
    `streamcore.shard`; what shards that are done have counted has the shard `gone`. Its API has no observable histogram, so of a
    distribution there are two counters, as `streamcore.handler.count` and `streamcore.handler.sum`.

    Args:
        metrics: `Worker.metrics`; asked once for each collection.
        meter_provider: of `opentelemetry.metrics`.

    Raises:
        ConfigError: `opentelemetry-api` is not installed.
    """

    def __init__(self, metrics: Callable[[], WorkerMetrics], *, meter_provider: Any = None) -> None:
        api = needed("opentelemetry.metrics", who="OpenTelemetry", package="opentelemetry-api", extra="opentelemetry")
        self._metrics = metrics
        self._observation = api.Observation
        self._lock = threading.Lock()
        self._seen: WorkerMetrics | None = None
        self._asked: set[str] = set()
        self._closed = False
        meter = api.get_meter("streamcore", version(), meter_provider)
        for one in COUNTERS:
            meter.create_observable_counter(_name(one), [self._by_shard(_name(one), one.of)], _UNITS[one.unit], one.text)
        for one in GAUGES:
            meter.create_observable_gauge(_name(one), [self._by_shard(_name(one), one.of, now=True)], _UNITS[one.unit], one.text)
        for one in DISTRIBUTIONS:
            for part, unit in (("count", "1"), ("sum", _UNITS[one.unit])):
                name = f"streamcore.{one.name}.{part}"
                meter.create_observable_counter(name, [self._by_shard(name, _part_of(one, part))], unit, f"{one.text}: {part}")
        for one in WORKER_COUNTERS:
            meter.create_observable_counter(_name(one), [self._of_worker(_name(one), one)], _UNITS[one.unit], one.text)

    def _snapshot(self, name: str) -> WorkerMetrics | None:
        """Return the metrics, the same for all instruments of one collection: who asks a second time begins the next one."""
        with self._lock:
            if self._closed:
                return None
            if self._seen is None or name in self._asked:
                self._seen = self._metrics()
                self._asked.clear()
            self._asked.add(name)
            return self._seen

    def _by_shard(
        self, name: str, value_of: Callable[[Metrics], float | None], *, now: bool = False
    ) -> Callable[[object], Iterable[object]]:
        def observe(_options: object) -> Iterable[object]:
            metrics = self._snapshot(name)
            for mapping in () if metrics is None else metrics.mappings:
                for shard, part in by_shard(mapping, now=now):
                    if (value := value_of(part)) is not None:
                        yield self._observation(value, {"streamcore.mapping": mapping.uuid, "streamcore.shard": shard})

        return observe

    def _of_worker(self, name: str, instrument: Instrument) -> Callable[[object], Iterable[object]]:
        def observe(_options: object) -> Iterable[object]:
            metrics = self._snapshot(name)
            if metrics is not None and (value := instrument.of(metrics)) is not None:
                yield self._observation(value, {})

        return observe

    def close(self) -> None:
        """Observe nothing more. The API cannot take instruments back."""
        with self._lock:
            self._closed = True
            self._seen = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _name(instrument: Instrument) -> str:
    # Two metrics may share a name and differ in the unit, as held records and held bytes.
    return f"streamcore.{instrument.name}" + (f".{instrument.unit}" if instrument.name == "held" else "")


def _part_of(instrument: Instrument, part: str) -> Callable[[Metrics], float]:
    scale = 1000 if part == "sum" and instrument.unit == "seconds" else 1

    def value_of(metrics: Metrics) -> float:
        value: float = getattr(getattr(metrics, instrument.attribute), part)
        return value / scale

    return value_of
