"""What a worker has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StopReason", "StuckBatch", "Summary", "Totals", "WorkerStats"]

StopReason = Literal["idle", "ended", "max_records", "timeout", "stopped", "interrupted", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Counts since the worker was started.

    Attributes:
        records: records that are done: succeeded, discarded or expired.
        succeeded: records of batches that succeeded, or of the part of a batch that did.
        filtered_records: records that no filter of their mapping let pass. They count nowhere else.
        expired: records that the stream's retention ended before they succeeded.
        duplicates: records that a source gave twice and the engine dropped.
        invocations: calls of functions that came to an end, throttles left out.
        failed_invocations: those of them that failed, wholly or in part.
        retries: invocations that were not the first of their batch.
        throttles: calls that did not run because of a throttle or a service error, or because the event was too large for the service.
        windows_closed: tumbling windows closed, those included whose closing call was given up.
        windows_ended_early: times that a tumbling window was ended early because its state was too large.
        discards: discards made, each of one or more records, or of the closing call of a tumbling window.
        discarded_records: records discarded.
        discarded_by_condition: the same by condition, RetryAttemptsExhausted and RecordAgeExceeded.
        delivered: discards that reached their destination.
        undelivered: discards given up after tries to deliver them that failed.
        dropped: discards of mappings without a destination.
        unconfirmed: discards that are none of these yet. At most 1,000 for each shard and a few more; the checkpoint does not pass them. Of
            those that are left at the end of a run the records come again.
        failed_deliveries: tries to deliver a discard that failed.
        checkpoints: snapshots of shards saved.
        failed_saves: times that the checkpoint store failed.
        lost_claims: shards that another worker took over.
        other_identities: mappings whose stream was made anew since their last checkpoint.
        source_errors: failed reads and listings.
        trimmed: times that a shard's next records were trimmed before they were read, so that reading went on with the oldest left.
        elapsed_seconds: time since the start.
    """

    records: int = 0
    succeeded: int = 0
    filtered_records: int = 0
    expired: int = 0
    duplicates: int = 0
    invocations: int = 0
    failed_invocations: int = 0
    retries: int = 0
    throttles: int = 0
    windows_closed: int = 0
    windows_ended_early: int = 0
    discards: int = 0
    discarded_records: int = 0
    discarded_by_condition: Mapping[str, int] = field(default_factory=dict)
    delivered: int = 0
    undelivered: int = 0
    dropped: int = 0
    unconfirmed: int = 0
    failed_deliveries: int = 0
    checkpoints: int = 0
    failed_saves: int = 0
    lost_claims: int = 0
    other_identities: int = 0
    source_errors: int = 0
    trimmed: int = 0
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary(Totals):
    """What a run has done, and why it ended.

    Attributes:
        reason: "idle" (`until_idle`), "ended" (recorded data was read to its end), "max_records", "timeout", "stopped" (`stop`),
            "interrupted" (Ctrl-C), or "failed" (`run` raises the error).
        abandoned: batches in flight whose functions had not come to an end when the worker gave up waiting for them, or may run on
            without an answer to come.
    """

    reason: StopReason
    abandoned: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StuckBatch:
    """A batch that has failed and waits for its next try.

    Attributes:
        mapping_uuid: its mapping.
        shard_id: its shard.
        lane: the lane, 0 to ParallelizationFactor - 1.
        first_sequence_number: of its first record; None for the closing call of a tumbling window.
        attempts: tries so far.
        next_try_ms: when it is tried again, in milliseconds since the Unix epoch.
    """

    mapping_uuid: str
    shard_id: str
    lane: int
    first_sequence_number: str | None
    attempts: int
    next_try_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStats(Totals):
    """The totals, and how the worker stands at this moment.

    Attributes:
        in_flight: batches that functions work on.
        held_records: records taken in and not done.
        held_bytes: memory that they hold.
        iterator_age_ms: age of the last record of the batch that finished last; None before the first. Recorded data is as old as it is
            behind the newest record of its shard handed out.
        shards: shards being read.
        stuck: batches that wait for another try.
        threads: invocation threads made so far.
        problems: for each mapping whose stream cannot be read now or whose last batch went wrong, by UUID, why: "PROBLEM: " and a
            sentence. It is tried again, and the mapping goes on when that helps.
    """

    in_flight: int = 0
    held_records: int = 0
    held_bytes: int = 0
    iterator_age_ms: int | None = None
    shards: int = 0
    stuck: tuple[StuckBatch, ...] = ()
    threads: int = 0
    problems: Mapping[str, str] = field(default_factory=dict)
