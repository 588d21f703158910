"""CloudWatch: Lambda's metrics of an event source mapping by PutMetricData, minute by minute. Needs the extra `aws`."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from streamcore._boto import make_client
from streamcore._log import is_told, of_error
from streamcore.errors import ConfigError
from streamcore.metrics import Metrics
from streamcore.sources._wall import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamcore.metrics import Distribution, MappingMetrics, WorkerMetrics
    from streamcore.protocols import Clock

__all__ = ["DEFAULT_NAMESPACE", "CloudWatchExporter", "policy_statement"]

DEFAULT_NAMESPACE = "streamcore"

_log = logging.getLogger("streamcore.metrics")

_MINUTE_MS = 60_000
_REQUEST_MAX = 500  # data in one call; CloudWatch allows 1,000 and a megabyte
_KEPT_MAX = 10_000  # data kept while CloudWatch cannot be reached
# Errors of PutMetricData that are about the data, in the API reference of CloudWatch.
_REFUSALS = frozenset({"InvalidParameterCombination", "InvalidParameterValue", "MissingRequiredParameter", "MissingParameter"})
_NAMESPACE = re.compile(r"[A-Za-z0-9._/#-][A-Za-z0-9._/#: -]{0,254}")
_AWS_HOST = re.compile(r"https?://[^/]+\.(amazonaws\.com(\.cn)?|api\.aws|api\.amazonwebservices\.com\.cn)(:\d+)?(/.*)?")


@dataclass(slots=True)
class _Statistics:
    """A statistic set of CloudWatch."""

    count: int
    sum: int
    least: float
    greatest: float

    def add(self, other: _Statistics) -> None:
        self.count += other.count
        self.sum += other.sum
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)


class CloudWatchExporter:
    """Publishes IteratorAge and DestinationDeliveryFailures, and EventCount of the mappings whose MetricsConfig asks for it.

    Names, units, dimensions and rules are those of "Types of metrics for Lambda functions" (Lambda developer guide): one datum for each
    minute in which there was something to count, with the time of the minute's beginning. IteratorAge stands under FunctionName, under
    Resource too where the function's ARN has a version or alias, with an alias under ExecutedVersion (the version that answered last), and
    once for all functions. The EventCount metrics stand under EventSourceMappingUUID. PolledEventCount is 0 where reads found nothing, and
    FilteredOutEventCount where all records passed.

    Args:
        metrics: `Worker.metrics`; asked once a minute.
        namespace: CloudWatch refuses `AWS/Lambda` and all else that begins with `AWS/` from anyone but AWS. Emulators take it, and then
            dashboards made for Lambda show streamcore.
        region: where to publish; by default what the environment or the profile says.
        endpoint_url: another server than AWS's own; by default what the environment or the profile says.
        profile: a profile of the shared configuration files.
        client: a boto3 client of CloudWatch instead.
        clock: tells the time; the system's by default.

    Raises:
        ConfigError: boto3 is not installed, or namespace, region, profile or endpoint cannot be right.
    """

    def __init__(
        self,
        metrics: Callable[[], WorkerMetrics],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        client: Any = None,
        clock: Clock | None = None,
    ) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            text = f"must be 1 to 255 letters, digits and . - _ / # : and must not begin with a colon; it is {namespace!r}"
            raise ConfigError(text, parameter="namespace")
        self._client = client or make_client(
            "cloudwatch",
            who="CloudWatch",
            region=region,
            endpoint_url=endpoint_url,
            profile=profile,
            connect_timeout=3,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 2},
        )
        if namespace.startswith("AWS/") and _AWS_HOST.fullmatch(self._client.meta.endpoint_url):
            text = f"CloudWatch takes nothing from others under names that begin with AWS/, as {namespace!r}; give another one"
            raise ConfigError(text, parameter="namespace")
        self._namespace = namespace
        self._metrics = metrics
        self._clock: Clock = clock if clock is not None else WallClock()
        self._before: dict[str, MappingMetrics] = {mapping.uuid: mapping for mapping in metrics().mappings}
        self._due = _next_minute(self._clock.now_ms())
        self._kept: deque[dict[str, Any]] = deque()
        self._failures = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Publish in a thread until `close`."""
        thread = self._thread = threading.Thread(target=self._run, name="streamcore-cloudwatch", daemon=True)
        thread.start()

    def _run(self) -> None:
        pause_ms = self._due - self._clock.now_ms()
        while not self._stopping.wait(max(pause_ms, 1) / 1000):
            now = self._clock.now_ms()
            pause_ms = self.step(now) - now

    def step(self, now: int) -> int:
        """Publish the minute that is over, if there is one, and what could not be published before. Returns when the next one is over.

        What cannot be published is logged and kept for the next time, up to 10,000 data, unless CloudWatch has refused it; nothing is
        raised.
        """
        if now >= self._due:
            self._collect_until(now)
            self._publish()
        return self._due

    def close(self) -> None:
        """Publish what was counted in the minute that is not over yet, once, and end the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        now = self._clock.now_ms()
        if now >= self._due:
            self._collect_until(now)
        self._collect(self._due - _MINUTE_MS)
        self._publish()
        if self._kept:
            text = "%d data of metrics could not be published to CloudWatch and are lost"
            _log.warning(text, len(self._kept), extra={"count": len(self._kept)})
            self._kept.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # One minute.

    def _collect_until(self, now: int) -> None:
        self._collect(self._due - _MINUTE_MS)
        self._due = _next_minute(now)

    def _collect(self, begin: int) -> None:
        """Make the data of the minute that began then from what has been counted since the last call."""
        mappings = {mapping.uuid: mapping for mapping in self._metrics().mappings}
        found: dict[tuple[str, tuple[tuple[str, str], ...]], _Statistics] = {}
        for uuid, mapping in mappings.items():
            before = self._before.get(uuid, Metrics())
            for name, dimensions, statistics in _statistics(before, mapping, begin // _MINUTE_MS):
                if (known := found.get((name, dimensions))) is not None:
                    known.add(statistics)  # several mappings of one function
                else:
                    found[name, dimensions] = statistics
        self._before = mappings
        timestamp = datetime.fromtimestamp(begin / 1000, UTC)
        self._kept.extend(_datum(name, dimensions, timestamp, statistics) for (name, dimensions), statistics in found.items())
        if (lost := len(self._kept) - _KEPT_MAX) > 0:
            text = "%d data of metrics could not be published to CloudWatch for too long and are lost"
            _log.warning(text, lost, extra={"count": lost})
            for _ in range(lost):
                self._kept.popleft()

    def _publish(self) -> None:
        while self._kept:
            data = [self._kept[index] for index in range(min(len(self._kept), _REQUEST_MAX))]
            try:
                self._client.put_metric_data(Namespace=self._namespace, MetricData=data)
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on
                if not _refused(error):
                    self._say_failed(error)
                    return
                text = "CloudWatch refused %d data of metrics, which are lost: %s"
                _log.warning(text, len(data), error, extra=of_error(error, count=len(data)))
                self._done_with(data)
                continue
            if self._failures:
                text = "metrics are published to CloudWatch again after %d failures"
                _log.warning(text, self._failures, extra={"failures": self._failures})
            self._failures = 0
            self._done_with(data)

    def _done_with(self, data: list[dict[str, Any]]) -> None:
        for _ in data:
            self._kept.popleft()

    def _say_failed(self, error: Exception) -> None:
        self._failures += 1
        level = logging.WARNING if is_told(self._failures) else logging.DEBUG
        pause_ms = None if self._stopping.is_set() else _MINUTE_MS
        text = "metrics could not be published to CloudWatch (%d times in a row)%s: %s"
        again = ", next try in a minute" if pause_ms is not None else ""
        _log.log(level, text, self._failures, again, error, extra=of_error(error, failures=self._failures, retryInMs=pause_ms))


def policy_statement(namespace: str) -> dict[str, Any]:
    """Return the statement of an IAM policy that publishing needs; PutMetricData has no resources, but a condition on the namespace."""
    condition = {"StringEquals": {"cloudwatch:namespace": namespace}}
    return {"Effect": "Allow", "Action": ["cloudwatch:PutMetricData"], "Resource": "*", "Condition": condition}


def _refused(error: Exception) -> bool:
    """Return whether CloudWatch will never take these data, such as of an instant more than two hours ahead or two weeks ago."""
    code: str = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return code.removesuffix("Exception") in _REFUSALS


def _next_minute(now: int) -> int:
    return now - now % _MINUTE_MS + _MINUTE_MS


def _statistics(before: Metrics, after: MappingMetrics, minute: int) -> Iterator[tuple[str, tuple[tuple[str, str], ...], _Statistics]]:
    """Yield name, dimensions and values of what one mapping has counted between two looks at it."""
    of_function = tuple(_of_function(after))
    ages = _since(before.iterator_ages_ms, after.iterator_ages_ms, minute)
    failures = after.destination_delivery_failures - before.destination_delivery_failures
    for dimensions in of_function:
        if ages is not None:
            yield "IteratorAge", dimensions, _Statistics(ages.count, ages.sum, ages.least, ages.greatest)
        if failures:
            yield "DestinationDeliveryFailures", dimensions, _one(failures)
    if not after.event_count:
        return
    polled = after.polled_event_count - before.polled_event_count
    counts = (
        ("PolledEventCount", polled, after.polls > before.polls),
        ("FilteredOutEventCount", after.filtered_out_event_count - before.filtered_out_event_count, after.filters and polled > 0),
        ("InvokedEventCount", after.invoked_event_count - before.invoked_event_count, False),
        ("FailedInvokeEventCount", after.failed_invoke_event_count - before.failed_invoke_event_count, False),
        ("DroppedEventCount", after.dropped_event_count - before.dropped_event_count, False),
        (
            "OnFailureDestinationDeliveredEventCount",
            after.on_failure_destination_delivered_event_count - before.on_failure_destination_delivered_event_count,
            False,
        ),
    )
    for name, count, also_zero in counts:
        if count or also_zero:
            yield name, (("EventSourceMappingUUID", after.uuid),), _one(count)


def _one(value: int) -> _Statistics:
    return _Statistics(1, value, value, value)


def _of_function(mapping: MappingMetrics) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield the sets of dimensions under which the metrics of a function stand."""
    name, qualifier = mapping.function_name, mapping.qualifier
    yield ()
    yield (("FunctionName", name),)
    if qualifier is None:
        return
    resource = (("FunctionName", name), ("Resource", f"{name}:{qualifier}"))
    yield resource
    if not (qualifier.isdecimal() or qualifier == "$LATEST"):
        yield (*resource, ("ExecutedVersion", mapping.executed_version))


def _since(before: Distribution, after: Distribution, minute: int) -> _Statistics | None:
    """Return the values that came between two looks; None where there were none. The later look may be a little behind the minute's end."""
    count, added_up = after.count - before.count, after.sum - before.sum
    if not count:
        return None
    mean = added_up / count  # after a long suspension the extremes of the first minutes are not known any more
    values = [value for one in after.minutes if one.minute >= minute for value in (one.least, one.greatest)]
    return _Statistics(count, added_up, min([*values, mean]), max([*values, mean]))


def _datum(name: str, dimensions: tuple[tuple[str, str], ...], timestamp: datetime, statistics: _Statistics) -> dict[str, Any]:
    datum: dict[str, Any] = {
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions],
        "Timestamp": timestamp,
        "Unit": "Milliseconds" if name == "IteratorAge" else "Count",
    }
    if name == "IteratorAge":
        values = {"Minimum": statistics.least, "Maximum": statistics.greatest, "Sum": statistics.sum, "SampleCount": statistics.count}
        datum["StatisticValues"] = values
    else:
        datum["Value"] = statistics.sum
    return datum
