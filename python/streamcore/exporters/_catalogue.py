"""What the metrics are called outside, with their units: one list for Prometheus and OpenTelemetry.

Counters and distributions are of a mapping, gauges of a shard. A counter of a shard would end with its shard, and those who read counters
take the difference of each series by itself: what moved from one series to another would count twice, and what ended would be lost.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from streamcore._distribution import DISTRIBUTION
from streamcore.errors import ConfigError

__all__ = ["COUNTERS", "DISTRIBUTIONS", "GAUGES", "WORKER_COUNTERS", "Instrument", "needed"]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric.

    Attributes:
        name: without the prefix and without the unit.
        attribute: of `streamcore.metrics.Metrics`.
        text: what it is.
        unit: "seconds" (the attribute has milliseconds), "bytes", "records", or "" for other things that are counted.
    """

    name: str
    attribute: str
    text: str
    unit: Literal["seconds", "bytes", "records", ""] = ""

    def of(self, metrics: object) -> float | None:
        """Return the value in its unit; None where there is none yet."""
        value: float | None = getattr(metrics, self.attribute)
        return value / 1000 if value is not None and self.unit == "seconds" else value


COUNTERS = (
    Instrument("polled_events", "polled_event_count", "Records read from the source (PolledEventCount)"),
    Instrument("filtered_out_events", "filtered_out_event_count", "Records that no filter let pass (FilteredOutEventCount)"),
    Instrument("invoked_events", "invoked_event_count", "Records sent to the function, each time anew (InvokedEventCount)"),
    Instrument("failed_invoke_events", "failed_invoke_event_count", "Records of calls that failed, also in part (FailedInvokeEventCount)"),
    Instrument("dropped_events", "dropped_event_count", "Records given up that reached no destination (DroppedEventCount)"),
    Instrument(
        "on_failure_destination_delivered_events",
        "on_failure_destination_delivered_event_count",
        "Records given up of which the destination was told (OnFailureDestinationDeliveredEventCount)",
    ),
    Instrument(
        "destination_delivery_failures",
        "destination_delivery_failures",
        "Failed tries to send to the destination (DestinationDeliveryFailures)",
    ),
    Instrument("succeeded_events", "succeeded", "Records that the function has processed"),
    Instrument("expired_events", "expired", "Records that the retention of the stream ended"),
    Instrument("duplicate_events", "duplicates", "Records that the source gave twice and that were dropped"),
    Instrument("discarded_events", "discarded_records", "Records given up"),
    Instrument("discards", "discards", "Invocation records made of records given up"),
    Instrument("delivered_discards", "delivered", "Discards that reached their destination"),
    Instrument("undelivered_discards", "undelivered", "Discards that could not be delivered"),
    Instrument("dropped_discards", "dropped", "Discards without a destination"),
    Instrument("invocations", "invocations", "Calls of the function that came to an end"),
    Instrument("failed_invocations", "failed_invocations", "Calls that failed, wholly or in part"),
    Instrument("retries", "retries", "Calls that were not the first of their batch"),
    Instrument("throttles", "throttles", "Calls that did not run: throttles, errors of the service"),
    Instrument("closed_windows", "windows_closed", "Tumbling windows closed"),
    Instrument("early_windows", "windows_ended_early", "Tumbling windows ended early because of their state"),
    Instrument("source_errors", "source_errors", "Failed reads and listings of the source"),
    Instrument("trimmed_reads", "trimmed", "Times that records were trimmed before they were read"),
)
GAUGES = (
    Instrument("held", "held_records", "Records taken in and not done", "records"),
    Instrument("held", "held_bytes", "Memory of the records taken in and not done", "bytes"),
    Instrument("span", "span", "Records from the watermark to the last one taken in", "records"),
    Instrument("in_flight_batches", "in_flight", "Batches that functions work on"),
    Instrument("unconfirmed_discards", "unconfirmed", "Discards on their way"),
    Instrument("checkpoint_lag", "checkpoint_lag_ms", "Time since the last checkpoint, where something done is not saved", "seconds"),
    Instrument("last_iterator_age", "iterator_age_ms", "Age of the last record of the batch that ended last, then", "seconds"),
    Instrument("last_iterator_age_sent", "iterator_age_sent_ms", "Age of the last record of the batch sent last, then", "seconds"),
)
DISTRIBUTIONS = (
    Instrument("batch", "batch_records", "Records of each batch sent to the function", "records"),
    Instrument("event", "event_bytes", "Size of the event of each batch as JSON", "bytes"),
    Instrument("handler", "handler_ms", "Time of each call of the function", "seconds"),
    Instrument("poll", "poll_ms", "Time of each read that had an answer", "seconds"),
    Instrument("iterator_age", "iterator_ages_ms", "Age of a batch's last record when its call ended (IteratorAge)", "seconds"),
    Instrument("iterator_age_sent", "iterator_ages_sent_ms", "Age of a batch's last record when it was sent", "seconds"),
)
WORKER_COUNTERS = (
    Instrument("checkpoints", "checkpoints", "Snapshots of shards saved"),
    Instrument("failed_saves", "failed_saves", "Times that the checkpoint store failed"),
    Instrument("lost_claims", "lost_claims", "Shards that another worker took over"),
)


def needed(module: str, *, who: str, package: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{who} needs {package}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'") from error
