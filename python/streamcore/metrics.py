"""What a worker measures: the metrics of Lambda's event source mappings under Lambda's names, and those of this engine.

`Worker.metrics` gives them. AWS's are described in "Types of metrics for Lambda functions", Event source mapping metrics
(https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html); DESIGN.md, "Metrics", says where their rules leave a choice.
`streamcore.exporters` hands them to Prometheus, CloudWatch and OpenTelemetry.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Distribution", "Extremes", "LaneMetrics", "MappingMetrics", "Metrics", "ShardMetrics", "WorkerMetrics"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extremes:
    """The smallest and the largest value of one minute.

    Attributes:
        minute: minutes since the Unix epoch.
        least: the smallest value.
        greatest: the largest value.
    """

    minute: int
    least: int
    greatest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """How often which values came, in buckets that never change, so that distributions of shards and workers add up.

    Attributes:
        counts: how many values each bucket has: the first those of 0 and 1, the one at `n` those above 2**(n-1) up to 2**n, and the one
            at 32 all larger ones. Empty buckets at the end are left out.
        sum: the values added up.
        minutes: the extremes of the last two minutes that had a value, the earlier one first.

    Example:
        >>> ten = Distribution(counts=(1, 0, 2), sum=9)
        >>> ten.count, ten.sum, (ten + ten).counts
        (3, 9, (2, 0, 4))
        >>> [Distribution.bound(bucket) for bucket in (0, 1, 2, 32)]
        [1, 2, 4, None]
    """

    BUCKETS = 33

    counts: tuple[int, ...] = ()
    sum: int = 0
    minutes: tuple[Extremes, ...] = ()

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    @staticmethod
    def bound(bucket: int) -> int | None:
        """Return the largest value of a bucket; None for the last one, which has none."""
        return 1 << bucket if bucket < Distribution.BUCKETS - 1 else None

    def __add__(self, other: Distribution) -> Distribution:
        return _together([self, other])


def _together(parts: Iterable[Distribution]) -> Distribution:
    """Return what several distributions have counted, all of them in one go."""
    counted = [part for part in parts if part.counts]
    if len(counted) < 2:
        return counted[0] if counted else Distribution()
    return Distribution(
        counts=tuple(map(sum, zip_longest(*(part.counts for part in counted), fillvalue=0))),
        sum=sum(part.sum for part in counted),
        minutes=_joined(minute for part in counted for minute in part.minutes),
    )


def _joined(minutes: Iterable[Extremes]) -> tuple[Extremes, ...]:
    """Return the last two minutes of several distributions."""
    found: dict[int, Extremes] = {}
    for one in minutes:
        known = found.get(one.minute, one)
        least, greatest = min(known.least, one.least), max(known.greatest, one.greatest)
        found[one.minute] = Extremes(minute=one.minute, least=least, greatest=greatest)
    return tuple(found[minute] for minute in sorted(found)[-2:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What is measured of a shard; of a mapping and of a worker the same of all their shards.

    Counts are from the start of the worker on and never fall. All times are milliseconds. Counts of records are Lambda's "events".

    Attributes:
        polled_event_count: records that were read from the source, those included that it gave twice.
        filtered_out_event_count: records that no filter of the mapping let pass.
        failed_invoke_event_count: records of each call that was no full success: the function failed, or named a failed record (then all
            records of the batch count), or did not run because of a throttle or an error of its service. Each call counts them again.
        dropped_event_count: records given up for their age or after all attempts that have reached no destination: there is none, or
            delivery was given up. Records that the stream's retention ended are not among them.
        on_failure_destination_delivered_event_count: records given up of which the destination has been told.
        destination_delivery_failures: tries to send to the destination that failed.
        iterator_age_ms: age of the last record of a batch when its call came to an end, of the call that ended last; None before the
            first. This is the IteratorAge of "Using Lambda with Kinesis" and "with DynamoDB", and the one that is meant where only one is
            shown. By the clock of the stream: recorded data is as old as it is behind the newest record of its shard handed out.
        iterator_age_sent_ms: the same when the batch was sent to the function. This is the IteratorAge of "Types of metrics for Lambda
            functions".
        succeeded: records that a function has processed.
        expired: records that the stream's retention ended before they succeeded.
        duplicates: records that a source gave twice and the engine dropped.
        discarded_records: records given up.
        discarded_by_condition: the same by condition, RetryAttemptsExhausted and RecordAgeExceeded.
        discards: invocation records made, each of one or more records, or of the closing call of a tumbling window.
        delivered: discards that reached their destination.
        undelivered: discards given up after tries to deliver them that failed.
        dropped: discards of mappings without a destination.
        invocations: calls of functions that came to an end, throttles left out.
        failed_invocations: those of them that failed, wholly or in part.
        retries: invocations that were not the first of their batch.
        throttles: calls that did not run because of a throttle or a service error, or because the event was too large for the service.
        windows_closed: tumbling windows closed.
        windows_ended_early: times that a tumbling window was ended early because its state was too large.
        source_errors: failed reads and listings.
        trimmed: times that a shard's next records were trimmed before they were read.
        batch_records: records of each batch sent to the function.
        event_bytes: bytes of the event of each batch as JSON, also where the function gets it as a dictionary.
        handler_ms: time from taking a batch to the end of its call. A call whose answer was lost lasts until it can no longer run.
        poll_ms: time of each read that had an answer.
        iterator_ages_ms: `iterator_age_ms` of every batch.
        iterator_ages_sent_ms: `iterator_age_sent_ms` of every batch.
        held_records: records taken in and not done, now.
        held_bytes: memory that they hold.
        span: records from the watermark to the last one taken in: how far the checkpoint is behind what was read.
        in_flight: batches that functions work on.
        unconfirmed: discards on their way. The checkpoint does not pass them.
        checkpoint_lag_ms: time since the last checkpoint, where something is done that it does not have; else 0. Of several shards the
            largest.
        sent_at_ms: when a batch was last sent, since the Unix epoch; None before the first.
        finished_at_ms: when a call last came to an end.
    """

    polled_event_count: int = 0
    filtered_out_event_count: int = 0
    failed_invoke_event_count: int = 0
    dropped_event_count: int = 0
    on_failure_destination_delivered_event_count: int = 0
    destination_delivery_failures: int = 0
    iterator_age_ms: int | None = None
    iterator_age_sent_ms: int | None = None

    succeeded: int = 0
    expired: int = 0
    duplicates: int = 0
    discarded_records: int = 0
    discarded_by_condition: Mapping[str, int] = field(default_factory=dict)
    discards: int = 0
    delivered: int = 0
    undelivered: int = 0
    dropped: int = 0
    invocations: int = 0
    failed_invocations: int = 0
    retries: int = 0
    throttles: int = 0
    windows_closed: int = 0
    windows_ended_early: int = 0
    source_errors: int = 0
    trimmed: int = 0

    batch_records: Distribution = Distribution()
    event_bytes: Distribution = Distribution()
    handler_ms: Distribution = Distribution()
    poll_ms: Distribution = Distribution()
    iterator_ages_ms: Distribution = Distribution()
    iterator_ages_sent_ms: Distribution = Distribution()

    held_records: int = 0
    held_bytes: int = 0
    span: int = 0
    in_flight: int = 0
    unconfirmed: int = 0
    checkpoint_lag_ms: int = 0
    sent_at_ms: int | None = None
    finished_at_ms: int | None = None

    @property
    def invoked_event_count(self) -> int:
        """Records sent to the function; each call counts them again, a throttled one too. Those of `batch_records`, added up."""
        return self.batch_records.sum

    @property
    def polls(self) -> int:
        """Reads that had an answer, one without records too. Those of `poll_ms`."""
        return self.poll_ms.count


_SUMS = tuple(one.name for one in dataclasses.fields(Metrics) if one.type == "int" and one.name != "checkpoint_lag_ms")
_DISTRIBUTIONS = tuple(one.name for one in dataclasses.fields(Metrics) if one.type == "Distribution")
# An age is that of the part where it was taken last.
_LAST = {"sent_at_ms": "iterator_age_sent_ms", "finished_at_ms": "iterator_age_ms"}


def total(parts: Iterable[Metrics]) -> dict[str, Any]:
    """Return the fields of `Metrics` of all parts together."""
    parts = tuple(parts)
    if not parts:
        return {}
    values: dict[str, Any] = {}
    for name in _SUMS:
        values[name] = sum(getattr(part, name) for part in parts)
    for name in _DISTRIBUTIONS:
        values[name] = _together(getattr(part, name) for part in parts)
    conditions: Counter[str] = Counter()
    for part in parts:
        conditions.update(part.discarded_by_condition)
    values["discarded_by_condition"] = dict(conditions)
    values["checkpoint_lag_ms"] = max(part.checkpoint_lag_ms for part in parts)
    for at, age in _LAST.items():
        last = max((part for part in parts if getattr(part, at) is not None), key=lambda part: getattr(part, at), default=None)
        if last is not None:
            values |= {at: getattr(last, at), age: getattr(last, age)}
    return values


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneMetrics:
    """One lane of a shard, now.

    Attributes:
        state: "empty", "waiting" (its batch is not full yet), "ready", "in_flight", or "parked" (a batch has failed and waits).
        records: records in it that are not done.
        attempts: tries that its batch has had.
    """

    state: Literal["empty", "waiting", "ready", "in_flight", "parked"]
    records: int
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardMetrics(Metrics):
    """One shard that is being read or worked off.

    Attributes:
        shard_id: its id.
        millis_behind: what the source last said of its distance to the tip; None where it does not tell.
        lanes: its lanes, as many as ParallelizationFactor says.
    """

    shard_id: str
    millis_behind: int | None = None
    lanes: tuple[LaneMetrics, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MappingMetrics(Metrics):
    """One mapping: all its shards together, those included that are done.

    Attributes:
        uuid: the mapping's.
        function_arn: what it invokes.
        event_source_arn: what it reads.
        executed_version: the version of the function that answered last.
        event_count: whether the mapping's MetricsConfig asks for EventCount.
        filters: whether it has filters.
        shards: the shards that are being read or worked off.
        gone: what was counted of shards that were read and worked off to their end or taken over by another worker, and of listings.
            `shards` and `gone` together are the mapping.
    """

    uuid: str
    function_arn: str
    event_source_arn: str
    executed_version: str = "$LATEST"
    event_count: bool = False
    filters: bool = False
    shards: tuple[ShardMetrics, ...] = ()
    gone: Metrics = Metrics()

    @property
    def function_name(self) -> str:
        """The function's name without version or alias."""
        return self.function_arn.split(":")[6]

    @property
    def qualifier(self) -> str | None:
        """The version or alias in the function's ARN; None where it names neither."""
        return self.function_arn.partition(f":function:{self.function_name}:")[2] or None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerMetrics(Metrics):
    """A worker: all its mappings together.

    Attributes:
        at_ms: when this was measured, in milliseconds since the Unix epoch.
        mappings: the mappings, in the order in which they were added.
        checkpoints: snapshots of shards saved.
        failed_saves: times that the checkpoint store failed.
        lost_claims: shards that another worker took over.
        threads: invocation threads made so far.
    """

    at_ms: int
    mappings: tuple[MappingMetrics, ...] = ()
    checkpoints: int = 0
    failed_saves: int = 0
    lost_claims: int = 0
    threads: int = 0
