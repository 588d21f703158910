"""What the parts of a worker count of one shard, beside what the engine counts of it."""

from __future__ import annotations

from streamcore.metrics import Distribution, Extremes

__all__ = ["Counted", "Tally"]


class Counted:
    """A distribution that grows, as the engine's do; `streamcore.metrics.Distribution` says what it holds."""

    __slots__ = ("_counts", "_minutes", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * Distribution.BUCKETS
        self._sum = 0
        self._minutes: tuple[Extremes, ...] = ()

    def count(self, value: int, now: int) -> None:
        """Count a value of this moment; one below 0 counts as 0, since a clock may be set back."""
        value = max(value, 0)
        self._counts[min(max(value - 1, 0).bit_length(), Distribution.BUCKETS - 1)] += 1
        self._sum += value
        minute = now // 60_000
        last = self._minutes[-1] if self._minutes else None
        if last is None or last.minute < minute:
            self._minutes = (*self._minutes[-1:], Extremes(minute=minute, least=value, greatest=value))
        elif not last.least <= value <= last.greatest:
            widened = Extremes(minute=last.minute, least=min(last.least, value), greatest=max(last.greatest, value))
            self._minutes = (*self._minutes[:-1], widened)

    def add(self, other: Distribution) -> None:
        """Count all that another one has counted."""
        joined = self.now() + other
        self._counts[: len(joined.counts)] = joined.counts
        self._sum, self._minutes = joined.sum, joined.minutes

    def now(self) -> Distribution:
        """Return what was counted so far."""
        counts = self._counts
        used = len(counts)
        while used and not counts[used - 1]:
            used -= 1
        return Distribution(counts=tuple(counts[:used]), sum=self._sum, minutes=self._minutes)


class Tally:
    """Counts of one shard; the names are those of `streamcore.metrics.Metrics`. Whoever counts holds `Job.counting`."""

    __slots__ = (
        "delivered",
        "delivered_records",
        "discarded_by_condition",
        "discards",
        "dropped",
        "dropped_records",
        "failed_deliveries",
        "poll_ms",
        "source_errors",
        "trimmed",
        "undelivered",
    )

    def __init__(self) -> None:
        self.discards = 0
        self.discarded_by_condition: dict[str, int] = {}
        self.delivered = 0
        self.delivered_records = 0
        self.undelivered = 0
        self.dropped = 0
        self.dropped_records = 0  # of both, undelivered and dropped discards
        self.failed_deliveries = 0
        self.source_errors = 0
        self.trimmed = 0
        self.poll_ms = Counted()

    def add(self, other: Tally) -> None:
        """Count all that another one has counted."""
        for name in self.__slots__:
            if name not in ("discarded_by_condition", "poll_ms"):
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for condition, records in other.discarded_by_condition.items():
            self.discarded_by_condition[condition] = self.discarded_by_condition.get(condition, 0) + records
        self.poll_ms.add(other.poll_ms.now())
