"""OpenTelemetry: the metrics as observable instruments of its API. Needs the extra `opentelemetry`."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Self

from streamcore._distribution import version
from streamcore._log import of_error
from streamcore.exporters._catalogue import COUNTERS, DISTRIBUTIONS, GAUGES, WORKER_COUNTERS, Instrument, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamcore.metrics import Metrics, WorkerMetrics

    _Callback = Callable[[object], Iterable[object]]
    _ValueOf = Callable[[Metrics], float | None]

__all__ = ["OpenTelemetryExporter"]

_log = logging.getLogger("streamcore.metrics")

_UNITS = {"seconds": "s", "bytes": "By", "records": "{record}", "": "1"}


class OpenTelemetryExporter:
    """Registers instruments with a meter provider, by default the global one; what that does with them is its own affair.

    Names are `streamcore.polled_events` and the like, in seconds and bytes. Counters have the attribute `streamcore.mapping` (its UUID), so
    that they go on when a shard ends; gauges have `streamcore.shard` too. Its API has no observable histogram, so of a distribution there
    are two counters, as `streamcore.handler.count` and `streamcore.handler.sum`.

    Args:
        metrics: `Worker.metrics`; asked once for each collection.
        meter_provider: of `opentelemetry.metrics`. One that can be flushed, as the SDK's, is flushed by `close`.

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
        # The global one may be set later: asked when it is needed.
        self._provider: Callable[[], Any] = api.get_meter_provider if meter_provider is None else lambda: meter_provider
        meter = api.get_meter("streamcore", version(), meter_provider)
        for one in COUNTERS:
            meter.create_observable_counter(_name(one), [self._by_mapping(_name(one), one.of)], _UNITS[one.unit], one.text)
        for one in GAUGES:
            meter.create_observable_gauge(_name(one), [self._by_shard(_name(one), one.of)], _UNITS[one.unit], one.text)
        for one in DISTRIBUTIONS:
            for part, unit in (("count", "1"), ("sum", _UNITS[one.unit])):
                name = f"streamcore.{one.name}.{part}"
                meter.create_observable_counter(name, [self._by_mapping(name, _part_of(one, part))], unit, f"{one.text}: {part}")
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

    def _by_mapping(self, name: str, value_of: _ValueOf) -> _Callback:
        def observe(_options: object) -> Iterable[object]:
            metrics = self._snapshot(name)
            for mapping in () if metrics is None else metrics.mappings:
                if (value := value_of(mapping)) is not None:
                    yield self._observation(value, {"streamcore.mapping": mapping.uuid})

        return observe

    def _by_shard(self, name: str, value_of: _ValueOf) -> _Callback:
        def observe(_options: object) -> Iterable[object]:
            metrics = self._snapshot(name)
            for mapping in () if metrics is None else metrics.mappings:
                for shard in mapping.shards:
                    if (value := value_of(shard)) is not None:
                        yield self._observation(value, {"streamcore.mapping": mapping.uuid, "streamcore.shard": shard.shard_id})

        return observe

    def _of_worker(self, name: str, instrument: Instrument) -> _Callback:
        def observe(_options: object) -> Iterable[object]:
            metrics = self._snapshot(name)
            if metrics is not None and (value := instrument.of(metrics)) is not None:
                yield self._observation(value, {})

        return observe

    @property
    def is_read(self) -> bool:
        """Whether there is a meter provider that does something; the API's own do nothing until the process sets another one."""
        return not type(self._provider()).__module__.startswith("opentelemetry.metrics")

    def close(self) -> None:
        """Have what was counted since the last collection exported, and observe nothing more. The API cannot take instruments back."""
        # The API has no flush; without it a run that is shorter than the interval of the reader would export nothing.
        if not self._closed and (flush := getattr(self._provider(), "force_flush", None)) is not None:
            try:
                flush()
            except Exception as error:  # noqa: BLE001 - whatever a reader does, the run is over and ends in order
                text = "the last metrics could not be handed to OpenTelemetry: %s"
                _log.warning(text, error, extra=of_error(error))
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
