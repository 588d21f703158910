"""The engine as a reader would explain it: short, slow, and without lanes, pages or bytes.

The model knows records and keys. Which keys share a lane it does not know; it learns what is handed out together and checks that this
was allowed. It is told of every call that a test makes of the real engine, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """What the model needs to know of a mapping."""

    batch_size: int
    factor: int
    retries: int | None
    bisect: bool


@dataclass(slots=True)
class Attempt:
    """What may be handed out next of a batch that was begun: these records, as this attempt, with this request id (None: a new one)."""

    records: list[int]
    attempt: int
    request_id: str | None = None


@dataclass(slots=True)
class Discarded:
    """Records given up after so many calls."""

    records: list[int]
    count: int


@dataclass
class Model:
    """One shard.

    Attributes:
        keys: of each record taken in, by its sequence number.
        complete: succeeded, or discarded and confirmed.
        given_up: discarded and not confirmed, by the discard's id.
        begun: what is left of each batch that was begun, the next attempt last: a batch that is split becomes several.
        in_flight: what runs, by ticket: the rest of its batch, with the running attempt last.
    """

    settings: Settings
    keys: dict[int, str] = field(default_factory=dict)
    complete: set[int] = field(default_factory=set)
    given_up: dict[int, set[int]] = field(default_factory=dict)
    begun: list[list[Attempt]] = field(default_factory=list)
    in_flight: dict[int, list[Attempt]] = field(default_factory=dict)
    request_ids: set[str] = field(default_factory=set)

    def waits_for_nothing(self, number: int) -> bool:
        """Whether a record is complete as far as order goes."""
        return number in self.complete or any(number in records for records in self.given_up.values())

    def held(self) -> set[int]:
        """Records that are neither complete nor given up."""
        return {number for number in self.keys if not self.waits_for_nothing(number)}

    def watermark(self) -> int | None:
        """The last record before the first one that is not complete."""
        below: int | None = None
        for number in sorted(self.keys):
            if number not in self.complete:
                break
            below = number
        return below

    def offer(self, records: list[tuple[int, str]], already_complete: set[int]) -> None:
        """Take records in; those that a restored checkpoint knew are complete."""
        for number, key in records:
            self.keys[number] = key
        self.complete |= already_complete

    def hand_out(self, ticket: int, records: list[int], attempt: int, request_id: str) -> None:
        """Check a batch that the engine hands out."""
        running = {number for rest in self.in_flight.values() for part in rest for number in part.records}
        assert not running & set(records), "a record is in one batch at a time"
        keys = {self.keys[number] for number in records}
        assert not keys & {self.keys[number] for number in running}, "a key is in one batch at a time"
        assert len(self.in_flight) < self.settings.factor, "at most ParallelizationFactor batches run"
        for number in records:
            earlier = [other for other in self.held() if self.keys[other] == self.keys[number] and other < number]
            assert set(earlier) <= set(records), "a record starts when all earlier ones of its key are complete"
        assert records == sorted(records), "in the order of the stream"
        rest = next((rest for rest in self.begun if set(records) & set(rest[-1].records)), None)
        if rest is None:
            assert attempt == 1
            assert 1 <= len(records) <= self.settings.batch_size
            assert not any(self.waits_for_nothing(number) for number in records), "what is complete is not handed out"
            rest = [Attempt(records, 1)]
        else:
            self.begun.remove(rest)
        expected = rest[-1]
        assert (records, attempt) == (expected.records, expected.attempt)
        if expected.request_id is None:
            assert request_id not in self.request_ids, "another batch has another request id"
            self.request_ids.add(request_id)
            expected.request_id = request_id
        assert request_id == expected.request_id, "a retry keeps its request id"
        self.in_flight[ticket] = rest

    def finish(self, ticket: int, failed_from: int | None, *, ran: bool = True, cut_at: int | None = None) -> Discarded | None:
        """Apply an outcome: all complete, failed from an index on, not run, or cut in two. Returns what is given up because of it."""
        rest = self.in_flight.pop(ticket)
        top = rest.pop()
        given_up = None
        if cut_at is not None:
            rest += [Attempt(top.records[cut_at:], 1), Attempt(top.records[:cut_at], 1)]
        elif not ran:
            rest.append(top)
        elif failed_from is None:
            self.complete |= set(top.records)
        elif failed_from > 0:
            self.complete |= set(top.records[:failed_from])
            rest.append(Attempt(top.records[failed_from:], 1))
        elif self.settings.bisect and len(top.records) > 1:
            middle = len(top.records) // 2
            rest += [Attempt(top.records[middle:], 1), Attempt(top.records[:middle], 1)]
        elif self.settings.retries is not None and top.attempt > self.settings.retries:
            given_up = Discarded(top.records, top.attempt)
        else:
            rest.append(Attempt(top.records, top.attempt + 1, top.request_id))
        if rest:
            self.begun.append(rest)
        return given_up

    def discard(self, identity: int, records: list[int]) -> None:
        """Keep records as given up until they are confirmed."""
        self.given_up[identity] = set(records)

    def confirm(self, identity: int) -> None:
        """Let a discard be complete."""
        self.complete |= self.given_up.pop(identity)

    def forget_attempts(self) -> None:
        """Forget what was begun, as an update of the mapping does."""
        assert not self.in_flight
        self.begun.clear()
