"""Adds up what a worker has done: what the engine counts of each shard, what the other parts count, also of shards that are gone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from streamcore._stats import StuckBatch
from streamcore.metrics import Distribution, Extremes, LaneMetrics, MappingMetrics, Metrics, ShardMetrics, WorkerMetrics, total

if TYPE_CHECKING:
    from streamcore._delivery import Delivery
    from streamcore._invoker import Invoker
    from streamcore._job import Job, Reading
    from streamcore._saver import Saver
    from streamcore._shards import Shards
    from streamcore._streamcore import Engine, ShardStats
    from streamcore._tally import Tally
    from streamcore.protocols import Clock

__all__ = ["Ledger", "stuck_batches"]

# What the engine counts: its name in `Metrics`, in `ShardStats`, and in `Totals`.
_COUNTS = (
    ("succeeded", "succeeded", "succeeded"),
    ("filtered_out_event_count", "filtered", "filtered_records"),
    ("expired", "expired", "expired"),
    ("duplicates", "duplicates", "duplicates"),
    ("invocations", "invocations", "invocations"),
    ("failed_invocations", "failed_invocations", "failed_invocations"),
    ("retries", "retries", "retries"),
    ("throttles", "throttles", "throttles"),
    ("windows_closed", "windows_closed", "windows_closed"),
    ("windows_ended_early", "windows_ended_early", "windows_ended_early"),
    ("discarded_records", "discarded", None),
    ("failed_invoke_event_count", "failed_records", None),
)
_DISTRIBUTIONS = ("batch_records", "event_bytes", "handler_ms", "iterator_ages_ms", "iterator_ages_sent_ms")
# What the worker counts itself: its name in `Metrics` and in `Tally`.
_TALLIED = (
    ("dropped_event_count", "dropped_records"),
    ("on_failure_destination_delivered_event_count", "delivered_records"),
    ("destination_delivery_failures", "failed_deliveries"),
    ("discards", "discards"),
    ("delivered", "delivered"),
    ("undelivered", "undelivered"),
    ("dropped", "dropped"),
    ("source_errors", "source_errors"),
    ("trimmed", "trimmed"),
)


def stuck_batches(shard: ShardStats) -> list[StuckBatch]:
    """Return the batches of a shard that wait for another try."""
    return [
        StuckBatch(
            mapping_uuid=shard.mapping_uuid,
            shard_id=shard.shard_id,
            lane=number,
            first_sequence_number=lane["first_sequence_number"],
            attempts=lane["attempts"],
            next_try_ms=lane["until"],
        )
        for number, lane in enumerate(shard.lanes)
        if lane["state"] == "parked"
    ]


def _counted(shard: ShardStats) -> dict[str, Any]:
    """Return the counts of a shard in the engine, as fields of `Metrics`."""
    values: dict[str, Any] = {name: getattr(shard, mine) for name, mine, _ in _COUNTS}
    values["polled_event_count"] = shard.records + shard.duplicates
    for name in _DISTRIBUTIONS:
        counts, added_up, minutes = getattr(shard, name)
        extremes = tuple(Extremes(minute=minute, least=least, greatest=greatest) for minute, least, greatest in minutes)
        values[name] = Distribution(counts=tuple(counts), sum=added_up, minutes=extremes)
    values["iterator_age_sent_ms"], values["sent_at_ms"] = shard.sent or (None, None)
    values["iterator_age_ms"], values["finished_at_ms"] = shard.finished or (None, None)
    return values


def _tallied(tally: Tally) -> dict[str, Any]:
    """Return the counts of a tally, as fields of `Metrics`. Its lock is held."""
    values: dict[str, Any] = {name: getattr(tally, mine) for name, mine in _TALLIED}
    values["discarded_by_condition"] = dict(tally.discarded_by_condition)
    values["poll_ms"] = tally.poll_ms.now()
    return values


class Ledger:
    """The counts of one worker. May be asked from any thread."""

    def __init__(
        self,
        engine: Engine,
        jobs: list[Job],
        *,
        shards: Shards,
        invoker: Invoker,
        delivery: Delivery,
        saver: Saver,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._shards = shards
        self._delivery = delivery
        self._saver = saver
        self._invoker = invoker
        self._jobs = jobs
        self._clock = clock
        self._lock = threading.Lock()
        self._gone: dict[str, Metrics] = {}  # by mapping: what the engine has counted of shards that have left it
        self._closed = False
        self._started_at = self._ended_at = 0.0

    def start(self, now: int) -> None:
        """Count the time from now on."""
        self._started_at = time.monotonic()
        self._saver.saved_at = now

    def leave(self, handle: int) -> None:
        """Take a shard out of the engine and keep its counts."""
        with self._lock:
            reading = self._shards.leave(handle)
            self._keep([self._engine.stats(handle)])
            reading.leave()  # before it is removed: a poll under way that does not find it knows why
            self._engine.remove(handle)

    def close(self) -> None:
        """Stop the time, keep the counts, and empty the engine: functions that never came to an end find their tickets stale."""
        with self._lock:
            self._ended_at = time.monotonic()
            live = self._live()
            self._keep([shard for _, shard in live])
            for reading, _ in live:
                reading.leave()
            self._closed = True
            self._engine.reset()

    def _keep(self, shards: list[ShardStats]) -> None:
        """Add the counts of shards to what is gone: of all of a mapping at once, since each addition goes over every field."""
        by_mapping: dict[str, list[ShardStats]] = {}
        for shard in shards:
            by_mapping.setdefault(shard.mapping_uuid, []).append(shard)
        for uuid, mine in by_mapping.items():
            known = self._gone.get(uuid, Metrics())
            self._gone[uuid] = Metrics(**total([known, *(Metrics(**_counted(shard)) for shard in mine)]))

    def _live(self) -> list[tuple[Reading, ShardStats]]:
        if self._closed:
            return []
        return [(reading, self._engine.stats(reading.handle)) for reading in list(self._shards.readings.values())]

    def live(self) -> list[ShardStats]:
        """Return the stats of the shards in the engine."""
        with self._lock:
            return [shard for _, shard in self._live()]

    def iterator_age_ms(self, live: list[ShardStats]) -> int | None:
        """Return the age of the last record of the batch that ended last."""
        with self._lock:
            ages = [(one.finished_at_ms, one.iterator_age_ms) for one in self._gone.values() if one.finished_at_ms is not None]
        ages.extend((at, age) for age, at in (shard.finished for shard in live if shard.finished))
        return max(ages, key=lambda age: age[0])[1] if ages else None

    def totals(self) -> dict[str, Any]:
        """Return the fields of `Totals`."""
        with self._lock:
            live = self._live()
            gone = list(self._gone.values())
            tallies = [values for job, readings in self._by_job([reading for reading, _ in live]) for values in _tallies(job, readings)]
        sums: Counter[str] = Counter()
        for name, mine, shown in _COUNTS:
            sums[shown or name] = sum(getattr(shard, mine) for _, shard in live) + sum(getattr(one, name) for one in gone)
        conditions: Counter[str] = Counter()
        for values in tallies:
            conditions.update(values["discarded_by_condition"])
            sums.update({name: values[name] for name, _ in _TALLIED})
        saver = self._saver
        end = self._ended_at or time.monotonic()
        return {
            "records": sums["succeeded"] + sums["discarded_records"] + sums["expired"],
            **{shown: sums[shown] for _, _, shown in _COUNTS if shown is not None},
            "discards": sums["discards"],
            "discarded_records": conditions.total(),
            "discarded_by_condition": dict(conditions),
            "delivered": sums["delivered"],
            "undelivered": sums["undelivered"],
            "dropped": sums["dropped"],
            "unconfirmed": len(self._delivery),
            "failed_deliveries": sums["destination_delivery_failures"],
            "checkpoints": saver.checkpoints,
            "failed_saves": saver.failed_saves,
            "lost_claims": saver.lost,
            "other_identities": self._shards.other_identities,
            "source_errors": sums["source_errors"],
            "trimmed": sums["trimmed"],
            "elapsed_seconds": end - self._started_at if self._started_at else 0.0,
        }

    def metrics(self) -> WorkerMetrics:
        """Return what is measured, all of it at one moment."""
        now = self._clock.now_ms()
        with self._lock:
            live = self._live()
            stats = {id(reading): shard for reading, shard in live}
            mappings = []
            for job, readings in self._by_job([reading for reading, _ in live]):
                known = self._gone.get(job.mapping.uuid, Metrics())
                gone, *tallied = _tallies(job, readings)
                shards = tuple(self._shard(stats[id(reading)], values, now) for reading, values in zip(readings, tallied, strict=True))
                mappings.append(self._mapping(job, shards, Metrics(**total([known, Metrics(**gone)]))))
        saver = self._saver
        return WorkerMetrics(
            **total(mappings),
            at_ms=now,
            mappings=tuple(mappings),
            checkpoints=saver.checkpoints,
            failed_saves=saver.failed_saves,
            lost_claims=saver.lost,
            threads=self._invoker.threads,
        )

    def _shard(self, shard: ShardStats, tallied: dict[str, Any], now: int) -> ShardMetrics:
        return ShardMetrics(
            **_counted(shard),
            **tallied,
            held_records=shard.held_records,
            held_bytes=shard.held_bytes,
            span=shard.span,
            in_flight=shard.in_flight,
            unconfirmed=shard.unconfirmed_discards,
            checkpoint_lag_ms=max(now - self._saver.saved_at, 0) if shard.unsaved else 0,
            shard_id=shard.shard_id,
            millis_behind=shard.millis_behind,
            lanes=tuple(LaneMetrics(state=lane["state"], records=lane["records"], attempts=lane["attempts"]) for lane in shard.lanes),
        )

    def _mapping(self, job: Job, shards: tuple[ShardMetrics, ...], gone: Metrics) -> MappingMetrics:
        mapping = job.mapping
        return MappingMetrics(
            **total([*shards, gone]),
            uuid=mapping.uuid,
            function_arn=mapping.function_arn,
            event_source_arn=mapping.event_source_arn,
            executed_version=self._invoker.versions.get(mapping.uuid, "$LATEST"),
            event_count=mapping.metrics_config is not None,
            filters=mapping.filter_criteria is not None,
            shards=shards,
            gone=gone,
        )

    def _by_job(self, readings: list[Reading]) -> list[tuple[Job, list[Reading]]]:
        """Return every mapping with those of its shards."""
        found: dict[int, list[Reading]] = {id(job): [] for job in self._jobs}
        for reading in readings:
            found[id(reading.job)].append(reading)
        return [(job, found[id(job)]) for job in self._jobs]


def _tallies(job: Job, readings: list[Reading]) -> list[dict[str, Any]]:
    """Return what is tallied of a mapping's listings and shards that are gone, and then of each of these shards."""
    with job.counting:
        return [_tallied(tally) for tally in (job.tally, *(reading.tally for reading in readings))]
