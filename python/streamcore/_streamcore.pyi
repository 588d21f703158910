"""The engine. Times are milliseconds since the Unix epoch, sizes are bytes. Every class is frozen."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

from streamcore.mapping import EventSourceMapping

__all__ = [
    "Batch",
    "Checkpoint",
    "ChildShard",
    "Columns",
    "Discard",
    "Engine",
    "FilterCriteria",
    "Finished",
    "Offered",
    "Outcome",
    "Page",
    "ShardStats",
    "Wait",
    "Want",
    "Window",
    "__version__",
    "exchange",
]

__version__: str

@final
class ChildShard:
    """A shard that follows one that has ended, as its last page names it."""

    @property
    def shard_id(self) -> str: ...
    @property
    def parent_shards(self) -> list[str]: ...

@final
class Page:
    """One answer of a source: records in order, and what stood around them."""

    @staticmethod
    def parse(body: bytes, format: Literal["kinesis", "dynamodb"] = "kinesis") -> Page:
        """Read the JSON body of a GetRecords answer as it came from the wire.

        A page of DynamoDB Streams keeps each record's `dynamodb` object as it came, but for white space and
        ApproximateCreationDateTime, which Lambda gives in whole seconds. `streamcore.dynamodb_page` makes a page of records that are Python
        objects.

        Args:
            body: the answer's body, UTF-8.
            format: the API that it comes from: Kinesis Data Streams or DynamoDB Streams.

        Raises:
            ConfigError: there is no such format.
            PageError: the body is malformed; `offset` tells where.
        """

    @staticmethod
    def from_records(records: Iterable[tuple[str, bytes, int, str | None]]) -> Page:
        """Make a page of (partition key, payload, arrival time in ms, sequence number or None).

        A record without a sequence number gets the one after the record before it when the engine takes the page in.

        Raises:
            PageError: a record cannot be one; `offset` is its index.
            TypeError: a record is not such a tuple.
        """

    def arrived_since(self, instant_ms: int) -> Page:
        """Return a page of the records that arrived at this instant or later; what stood around them is kept only if all did."""
    def up_to(self, sequence_number: str) -> Page:
        """Return a page of the records up to and including this sequence number, without what stood around them.

        Raises:
            ConfigError: it is no sequence number.
        """

    def deaggregate(self, first_hash_key: int, last_hash_key: int) -> tuple[Page, int]:
        """Return a page with the aggregates of the Kinesis Producer Library taken apart, and how many of them were left out.

        A record of an aggregate has its own partition key and data, and the sequence number and arrival time of the record around it.
        What is damaged stays one plain record. An aggregate is left out where one of its records has a hash outside the range, which is
        the shard's: Lambda and the Kinesis Client Library leave it out too, and the producer writes it again.

        Args:
            first_hash_key: the first hash key of the shard, 0 to 2^128 - 1.
            last_hash_key: the last one, which belongs to the shard.

        Example:
            >>> from streamcore.kpl import UserRecord, aggregate
            >>> packed = aggregate([UserRecord("ann", b"1"), UserRecord("bob", b"2")])
            >>> page = Page.from_records([("a", packed, 0, "7")])
            >>> len(page), len(page.deaggregate(0, 2**128 - 1)[0])
            (1, 2)
        """

    def cut(self, limit: int) -> tuple[Page, Page | None]:
        """Return the first records, at most `limit`, and the rest, None where there is none.

        An aggregate is not cut: one that the page begins with is in the first part whatever its size.
        """
    def __len__(self) -> int: ...
    @property
    def held_bytes(self) -> int:
        """What the page costs of the engine's budget."""
    @property
    def next_iterator(self) -> str | None: ...
    @property
    def millis_behind(self) -> int | None: ...
    @property
    def continuation_sequence_number(self) -> str | None:
        """Where a subscription goes on after this event of SubscribeToShard; None in other answers and at the end of a shard."""
    @property
    def child_shards(self) -> list[ChildShard]: ...
    @property
    def first_sequence_number(self) -> str | None: ...
    @property
    def last_sequence_number(self) -> str | None: ...

@final
class FilterCriteria:
    """The filters of a mapping, compiled: an event passes if one of the patterns matches it, or if there are no patterns.

    Patterns are those of the Lambda developer guide, "Control which events Lambda sends to your function". Lambda shows a pattern the
    record with its data parsed: of Kinesis `{"data": ...}` beside `partitionKey` and the like, of DynamoDB Streams the record as in the
    event, of Amazon SQS `{"body": ...}`. An engine whose mapping has filters does this by itself; this class is for other sources.

    Args:
        patterns: each a JSON object whose leaves are lists of values and operators.

    Raises:
        ConfigError: a pattern is not one, is longer than 4,096 characters, or has more than 1,024 combinations of alternatives.

    Example:
        >>> from streamcore import FilterCriteria
        >>> cold = FilterCriteria(['{"body": {"celsius": [{"numeric": ["<", 0]}]}}'])
        >>> cold.matches({"body": {"celsius": -3.5, "station": "Oslo"}})
        True
        >>> cold.matches('{"body": {"station": "Oslo"}}')
        False
    """

    def __new__(cls, patterns: Iterable[str]) -> FilterCriteria: ...
    @property
    def patterns(self) -> list[str]: ...
    def matches(self, event: str | bytes | Mapping[str, Any]) -> bool:
        """Return whether one of the patterns matches an event, or there are none. It is given as JSON or as what `json.dumps` takes.

        As JSON nothing is lost: a number is compared with a pattern's number by its text, so 300, 300.0 and 3.0e2 differ.

        Raises:
            PageError: the event is not a JSON object in UTF-8.
        """
    def wants_value_of(self, name: str) -> bool:
        """Return whether a pattern has a list of values, not an object, for `name` at its top."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class Offered:
    """What became of a page."""

    @property
    def accepted(self) -> bool:
        """False where the budget or the span of the shard is used up; nothing was taken in, offer the page again later."""
    @property
    def records(self) -> int:
        """Records taken in, those included that are already complete or filtered out."""
    @property
    def duplicates(self) -> int:
        """Records dropped because their position had been taken in before."""
    @property
    def complete(self) -> int:
        """Records that the restored checkpoint says are complete; they are not handed out again."""
    @property
    def filtered(self) -> int:
        """Records that no filter of the mapping let pass; they are complete too."""

@final
class Want:
    """Leave to fetch. Its expected size is reserved until the next `offer` or `fetch_failed` of the shard."""

    @property
    def after(self) -> str | None:
        """The last sequence number taken in, or the checkpoint's watermark; None before the first record."""
    @property
    def limit(self) -> int:
        """Fetch at most so many records (1..10,000)."""

@final
class Wait:
    """Nothing may run now."""

    @property
    def at(self) -> int | None:
        """The instant at which to ask again if nothing else happens; None for never. The engine may have nothing to give then."""

@final
class Columns:
    """The records of a batch as numpy arrays. An array is made when it is first asked for, and is the reader's own.

    Numbers have one element a record. Texts and payloads stand one after the other in an array of bytes, and record i's are
    `payload[payload_offsets[i]:payload_offsets[i + 1]]`; offsets have one element more than there are records.

    Example:
        >>> from streamcore import Engine, EventSourceMapping, Page
        >>> engine = Engine()
        >>> shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON"), "shardId-000000000000", now=0)
        >>> _ = engine.offer(shard, Page.from_records([("ann", b"first", 0, "7"), ("bob", b"second", 1, "8")]), 0)
        >>> columns = engine.take(0).columns()
        >>> columns.payload_offsets.tolist(), columns.payload.tobytes()
        ([0, 5, 11], b'firstsecond')
        >>> columns.partition_key.tobytes(), columns.arrival_time_ms.tolist()
        (b'annbob', [0, 1])
    """

    @property
    def ordinal(self) -> npt.NDArray[np.uint64]:
        """The record's number among those of its shard, in the order of the shard and from 0 in each run."""
    @property
    def arrival_time_ms(self) -> npt.NDArray[np.int64]:
        """When it arrived in the stream; of DynamoDB Streams ApproximateCreationDateTime, in whole seconds."""
    @property
    def size(self) -> npt.NDArray[np.uint32]:
        """Bytes that the record adds to the event."""
    @property
    def key_hash(self) -> npt.NDArray[np.uint64]:
        """XXH3 of the partition key, or of the item's key: records of one key have the same."""
    @property
    def sequence_number(self) -> npt.NDArray[np.uint8]:
        """The sequence numbers, decimal digits."""
    @property
    def sequence_number_offsets(self) -> npt.NDArray[np.uint64]: ...
    @property
    def partition_key(self) -> npt.NDArray[np.uint8]:
        """The partition keys in UTF-8; records of DynamoDB Streams have none, so theirs are empty."""
    @property
    def partition_key_offsets(self) -> npt.NDArray[np.uint64]: ...
    @property
    def payload(self) -> npt.NDArray[np.uint8]:
        """The decoded payloads; of DynamoDB Streams the JSON texts of the `dynamodb` objects.

        Raises:
            PageError: a payload is not base64; `offset` is the record's index.
        """
    @property
    def payload_offsets(self) -> npt.NDArray[np.uint64]:
        """Where the payloads begin. Raises what `payload` does."""

@final
class Window:
    """The tumbling window of a batch, as its event tells it."""

    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int:
        """The first instant after the window."""
    @property
    def state(self) -> bytes:
        """The state that the event holds, JSON."""
    @property
    def state_bytes_max(self) -> int:
        """The most bytes of state that can be handed on: more would not fit into the closing call."""
    @property
    def is_final(self) -> bool:
        """Whether this is the closing call, which has no records."""
    @property
    def is_terminated_early(self) -> bool:
        """Whether the window is closed before its time because of its state."""

@final
class Batch:
    """A batch in flight; the closing call of a tumbling window is one without records. Building the event takes no lock of the engine.

    It is a table for whoever knows the Arrow PyCapsule interface: `polars.DataFrame(batch)`, `pyarrow.table(batch)`,
    `duckdb.sql("FROM batch")`. The columns of a Kinesis stream are `sequence_number` and `partition_key` (utf8),
    `approximate_arrival_timestamp` (timestamp[ms, UTC]) and `data` (binary, decoded); of DynamoDB Streams `event_id`, `event_name` and
    `sequence_number` (utf8), `approximate_creation_date_time` (timestamp[ms, UTC]) and `dynamodb` (utf8: the JSON text of that object).
    The decoded columns are written once and read in place. They belong to whoever has the table, and outlive the batch.

    Example:
        >>> import pyarrow
        >>> from streamcore import Engine, EventSourceMapping, Page
        >>> engine = Engine()
        >>> shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON"), "shardId-000000000000", now=0)
        >>> _ = engine.offer(shard, Page.from_records([("ann", b"first", 0, "7"), ("bob", b"second", 1, "8")]), 0)
        >>> batch = engine.take(0)
        >>> pyarrow.table(batch).select(["sequence_number", "partition_key", "data"]).to_pylist()
        [{'sequence_number': '7', 'partition_key': 'ann', 'data': b'first'}, {'sequence_number': '8', 'partition_key': 'bob', 'data': b'second'}]
    """

    @property
    def ticket(self) -> int: ...
    @property
    def shard(self) -> int:
        """The handle that `Engine.add_shard` gave."""
    @property
    def shard_id(self) -> str: ...
    @property
    def mapping_uuid(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def attempt(self) -> int:
        """1 for the first time that this batch is handed out; what did not run does not count."""
    @property
    def record_count(self) -> int: ...
    @property
    def reports_item_failures(self) -> bool:
        """Whether the mapping's function_response_types holds ReportBatchItemFailures."""
    @property
    def window(self) -> Window | None:
        """The tumbling window that the records are in; None for a mapping without one."""
    @property
    def first_sequence_number(self) -> str | None:
        """None for the closing call of a tumbling window."""
    @property
    def last_sequence_number(self) -> str | None: ...
    @property
    def last_arrival_ms(self) -> int | None: ...
    def __len__(self) -> int: ...
    def index_of(self, sequence_number: str) -> int | None:
        """Return the index of the record with this sequence number, compared as text; None if it is not in the batch."""
    def event(self) -> dict[str, Any]:
        """Return the Lambda event as a fresh dict."""
    def json(self) -> bytes:
        """Return the Lambda event as JSON. `json.loads` of it equals `event()`."""
    def columns(self) -> Columns:
        """Return the records as numpy arrays."""
    def __arrow_c_schema__(self) -> CapsuleType:
        """Return the names and types of the columns: an `ArrowSchema` of the Arrow C data interface."""
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[CapsuleType, CapsuleType]:
        """Return the schema and the records as one record batch, an `ArrowArray`; each call makes a new one.

        Args:
            requested_schema: not looked at. There is one schema, and who wants another casts, as the interface allows.

        Raises:
            PageError: a payload is not base64; `offset` is the record's index.
        """
    def __arrow_c_stream__(self, requested_schema: object = None) -> CapsuleType:
        """Return the same record batch as an `ArrowArrayStream` of one. Arguments and errors are those of `__arrow_c_array__`."""

@final
class Outcome:
    """What an answer means for the records of a batch."""

    @staticmethod
    def success(*, window_state: bytes | None = None, ends_window: bool = False) -> Outcome:
        """All records are complete.

        Args:
            window_state: the state that the next event of the tumbling window holds, JSON; without one the old state stays. The state that
                a closing call returns is not used.
            ends_window: the window ends now, with a closing call that gets this state, and begins again without one.
        """
    @staticmethod
    def failure(
        *,
        function_error: str | None = None,
        status_code: int = 200,
        executed_version: str | None = "$LATEST",
        request_id: str | None = None,
    ) -> Outcome:
        """The function ran and the whole batch failed; spends an attempt."""
    @staticmethod
    def partial(
        index: int,
        *,
        status_code: int = 200,
        executed_version: str | None = "$LATEST",
        request_id: str | None = None,
        window_state: bytes | None = None,
        ends_window: bool = False,
    ) -> Outcome:
        """The records before `index` are complete, those from it on failed.

        The window state is kept, for those that failed too, where `index` is not 0; see `success`.
        """
    @staticmethod
    def throttled() -> Outcome:
        """The function did not run: a throttle or a service error. Spends nothing."""
    @staticmethod
    def too_large(*, request_id: str | None = None) -> Outcome:
        """The function's service refused the event as too large; the function did not run.

        The batch is cut where the larger of the two events is smallest, which spends nothing. What was refused is never sent again: one
        record alone spends its attempts without the function seeing it, as one that is above the payload limit.
        """
    @property
    def kind(self) -> Literal["success", "failure", "partial", "throttled", "too_large"]: ...
    @property
    def index(self) -> int | None: ...
    @property
    def window_state(self) -> bytes | None: ...
    @property
    def ends_window(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Discard:
    """Records given up. The checkpoint does not pass them before `Engine.confirm`."""

    @property
    def id(self) -> int: ...
    @property
    def shard(self) -> int: ...
    @property
    def shard_id(self) -> str: ...
    @property
    def mapping_uuid(self) -> str: ...
    @property
    def condition(self) -> Literal["RetryAttemptsExhausted", "RecordAgeExceeded"]: ...
    @property
    def approximate_invoke_count(self) -> int: ...
    @property
    def request_id(self) -> str: ...
    @property
    def record_count(self) -> int: ...
    @property
    def first_sequence_number(self) -> str | None:
        """None for the closing call of a tumbling window, which has no records."""
    @property
    def last_sequence_number(self) -> str | None: ...
    def invocation_record(self) -> dict[str, Any]:
        """Return the invocation record that AWS sends to an on-failure destination, without `payload`."""
    def json(self) -> bytes:
        """Return the event of the discarded records as JSON."""

@final
class Finished:
    """What `finish` led to."""

    @property
    def stale(self) -> bool:
        """The ticket is of a shard that was removed or reset meanwhile; nothing was changed."""
    @property
    def discards(self) -> list[Discard]: ...

@final
class Checkpoint:
    """One consistent snapshot of a shard."""

    @property
    def shard(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def ended(self) -> bool:
        """The shard is closed and everything in it is complete."""
    @property
    def expired(self) -> int:
        """Records of the shard that the stream's retention has ended until then."""
    @property
    def watermark(self) -> str | None: ...
    @property
    def blob(self) -> bytes:
        """What a store keeps; `add_shard(checkpoint=...)` takes it back."""
    @staticmethod
    def inspect(blob: bytes) -> dict[str, Any]:
        """Return what a stored blob holds, for people.

        Raises:
            CheckpointError: the blob is not ours, damaged or newer.
        """
    @staticmethod
    def rewound(
        blob: bytes,
        start: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "AFTER_SEQUENCE_NUMBER"],
        *,
        timestamp_ms: int | None = None,
        sequence_number: str | None = None,
    ) -> bytes:
        """Return a blob of the same shard that begins elsewhere and has nothing complete beyond that."""

@final
class ShardStats:
    """One shard, at one moment."""

    @property
    def shard_id(self) -> str: ...
    @property
    def mapping_uuid(self) -> str: ...
    @property
    def state(self) -> Literal["running", "paused", "draining", "drained", "ended"]: ...
    @property
    def held_records(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def span(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def unconfirmed_discards(self) -> int: ...
    @property
    def watermark(self) -> str | None: ...
    @property
    def last_taken_in(self) -> str | None: ...
    @property
    def records(self) -> int:
        """Records taken in since the shard was added."""
    @property
    def millis_behind(self) -> int | None:
        """What the source last said of its distance to the tip."""
    @property
    def duplicates(self) -> int:
        """Records dropped because their position had been taken in before."""
    @property
    def already_complete(self) -> int:
        """Records that the restored checkpoint knew as complete."""
    @property
    def filtered(self) -> int:
        """Records that no filter of the mapping let pass."""
    @property
    def succeeded(self) -> int:
        """Records whose function succeeded."""
    @property
    def discarded(self) -> int:
        """Records given up."""
    @property
    def discards(self) -> int:
        """Discards made of them."""
    @property
    def expired(self) -> int:
        """Records that the stream no longer kept."""
    @property
    def invocations(self) -> int:
        """Results of invocations; what did not run does not count."""
    @property
    def failed_invocations(self) -> int:
        """Invocations that failed in part or as a whole."""
    @property
    def failed_records(self) -> int:
        """Records of every call that was no full success: it failed in part or as a whole, or did not run. Each call counts them again."""
    @property
    def unsaved(self) -> bool:
        """Whether something is done that no saved checkpoint has."""
    @property
    def sent(self) -> tuple[int, int] | None:
        """Age of the last record of the batch that was handed out last, by the clock of the stream, and when that was; milliseconds."""
    @property
    def finished(self) -> tuple[int, int] | None:
        """The same of the batch whose outcome came last."""
    @property
    def batch_records(self) -> tuple[list[int], int, list[tuple[int, int, int]]]:
        """Records of each batch handed out: counts by size as in `streamcore.metrics.Distribution`, their sum, extremes by minute."""
    @property
    def event_bytes(self) -> tuple[list[int], int, list[tuple[int, int, int]]]:
        """Bytes of each batch's event as JSON."""
    @property
    def handler_ms(self) -> tuple[list[int], int, list[tuple[int, int, int]]]:
        """Time from handing a batch out to its outcome."""
    @property
    def iterator_ages_sent_ms(self) -> tuple[list[int], int, list[tuple[int, int, int]]]:
        """Age of each batch's last record when the batch was handed out."""
    @property
    def iterator_ages_ms(self) -> tuple[list[int], int, list[tuple[int, int, int]]]:
        """Age of each batch's last record when its outcome came."""
    @property
    def retries(self) -> int:
        """Invocations that were the second or a later attempt of their batch."""
    @property
    def throttles(self) -> int:
        """Invocations that did not run: throttles, errors of the service, events refused as too large."""
    @property
    def windows_closed(self) -> int:
        """Tumbling windows closed, those included whose closing call was given up."""
    @property
    def windows_ended_early(self) -> int:
        """Times that a tumbling window was ended early because of its state."""
    @property
    def window(self) -> dict[str, Any] | None:
        """The last tumbling window; None where there was none.

        `start_ms`, `end_ms`, `phase` ("open", "ends_early", "restarted", "closed"), `state_bytes`, and `closing`: whether its closing call
        is due or under way.
        """
    @property
    def lanes(self) -> list[dict[str, Any]]:
        """For each lane: `state` ("empty", "waiting", "ready", "in_flight", "parked"), `records`, `attempts`, `until`, `first_sequence_number`."""

@final
class Engine:
    """Many shards behind one lock. Every method may be called from any thread; none calls Python with the lock held."""

    def __new__(cls, *, budget_bytes: int = 268435456, seed: int = 0, trace: bool = False) -> Engine: ...
    def add_shard(
        self,
        mapping: EventSourceMapping,
        shard_id: str,
        *,
        now: int,
        identity: str = "",
        checkpoint: bytes | None = None,
        start: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] = "TRIM_HORIZON",
        start_timestamp_ms: int | None = None,
        retention_ms: int | None = None,
        clock: Literal["wall", "replay"] = "wall",
        format: Literal["kinesis", "dynamodb"] = "kinesis",
        sync_checkpoints: bool = False,
        running_max: int | None = None,
        window_grace_ms: int = 120000,
    ) -> int:
        """Add a shard and return its handle.

        Args:
            identity: the stream's incarnation; a checkpoint of another one is refused.
            checkpoint: a stored blob to go on from.
            start: kept in the checkpoint until the first record is complete.
            format: which API's records the shard has; it decides the shape of its events and what discards tell.
            sync_checkpoints: hand out nothing between a completion and its `saved`.
            running_max: at most so many batches of the mapping run at once, over all its shards; 1 or more.
            window_grace_ms: how long the source must say that it is at its tip (`millis_behind` 0) before a tumbling window that has ended is
                closed; `fetch_failed` and any other distance break that. With the replay clock a shard never idles.
            retention_ms: how long the stream keeps a record, 1 or more; None for ever.
            start_timestamp_ms: goes with AT_TIMESTAMP, and with LATEST, which is `now` without it.

        Raises:
            CheckpointError: the blob is not ours, damaged, newer, or of another shard.
            ConfigError: an argument is out of its range.
            UsageError: the mapping has a shard of that name already.
        """
    def offer(self, shard: int, page: Page, now: int, millis_behind: int | None = None) -> Offered:
        """Take a page in, whole or not at all.

        Raises:
            UsageError: the page is of another format than the shard, or the shard is closed or gone.
        """
    def wants(self, shard: int, now: int) -> Want | None: ...
    def fetch_failed(self, shard: int) -> None: ...
    def end(self, shard: int, now: int) -> None:
        """Say that the shard is closed and its last page has been offered."""
    def take(self, now: int) -> Batch | Discard | Wait:
        """Return the next thing to do: a discard to deliver, a batch to run, or when to ask again. Never waits.

        The shard that was ready first is served first, one batch at a time. A shard with several ready lanes has up to ten in a row where each
        is finished in the millisecond in which it was taken.
        """
    def finish(self, ticket: int, outcome: Outcome, now: int) -> Finished:
        """Report the outcome of a batch.

        Raises:
            UsageError: the ticket was finished before, or was never given out; the outcome names a record that the batch does not have, or
                carries a window state where there is no window or none so large can be handed on.
        """
    def invoke_ready(
        self,
        handler: Callable[[dict[str, Any]], object],
        clock: Callable[[], int],
        on_discard: Callable[[Discard], object],
        on_error: Callable[[BaseException], object] | None = None,
    ) -> int | None:
        """Invoke a handler with the event of every batch that is ready, one after the other on this thread, and finish each.

        The same as `take`, `Batch.event`, `interpret` and `finish` in a loop, in less time: no object is made for the batch. For those who
        have a synchronous handler and no need for the batch itself. What the handler returns means what it means in Lambda: nothing is
        success, `batchItemFailures` counts where the mapping reports them, and with a tumbling window `state` must be there. What it raises
        fails the batch; a KeyboardInterrupt is raised here, and its batch spends no attempt.

        Args:
            handler: called with the event of each batch. It may keep and change what it gets; dicts that it has left alone are used again.
            clock: gives the instant in milliseconds; called once at the beginning and after each batch.
            on_discard: called with each discard, which waits for `confirm`.
            on_error: called with what the handler raised; without it that goes to `sys.unraisablehook`.

        Returns:
            When to ask again if nothing else happens before; None for never.

        Raises:
            TypeError, ConfigError: the clock gave no instant.

        What a callback raises is raised when the batch is finished and all its discards are told.

        Example:
            >>> from streamcore import Engine, EventSourceMapping, Page
            >>> engine, now = Engine(), 1_700_000_000_000
            >>> shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON"), "shardId-000000000000", now=now)
            >>> _ = engine.offer(shard, Page.from_records([("ann", b"{}", now, "1"), ("bob", b"{}", now, "2")]), now)
            >>> def handler(event):
            ...     print(len(event["Records"]), "records")
            >>> engine.invoke_ready(handler, lambda: now, lambda discard: engine.confirm(discard.id, "given_up"))
            2 records
        """
    def confirm(self, discard: int, how: Literal["delivered", "given_up"]) -> bool:
        """Let the checkpoint pass a discard. False where its shard was removed or reset meanwhile."""
    def checkpoint(self, shard: int) -> Checkpoint | None:
        """Return a snapshot if anything has changed since the last one that was `saved`."""
    def checkpoints(self) -> list[Checkpoint]:
        """Return a snapshot of every shard that has changed."""
    def saved(self, shard: int, version: int) -> None: ...
    def pause(self, shard: int) -> None: ...
    def resume(self, shard: int, now: int) -> None: ...
    def drain(self, shard: int, now: int) -> None: ...
    def update(self, shard: int, mapping: EventSourceMapping, now: int) -> None: ...
    def remove(self, shard: int) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until a batch or discard may be ready, or may become so earlier than `take` last told this thread.

        Returns:
            True if woken: call `take` again. False after `timeout` seconds.
        """
    def wake(self) -> None:
        """Wake every waiter, and every thread that was told to wait by `take` and has not begun to."""
    def set_wakeup(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called, by whichever thread caused it, at most once per change from idle to ready.

        Idle means that `take` has said `Wait`. An instant earlier than it then named is a change too. The callback is called without the
        lock; what it raises goes to `sys.unraisablehook`. None takes it away.
        """
    def stats(self, shard: int) -> ShardStats: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def done(self) -> bool:
        """Whether all that was taken in is done: no record is incomplete, no discard unconfirmed, no closing call due or under way."""
    @property
    def unsaved_ends(self) -> int:
        """How many shards are complete to their ends without a saved checkpoint that says so."""
    def reset(self) -> None:
        """Remove every shard; tickets given out become stale."""
    def trace(self) -> list[str]:
        """Return the trace since the last call and empty it. Empty unless the engine was made with `trace=True`."""
    def check_invariants(self) -> None:
        """Verify the engine's invariants. A broken one is a bug: a panic names it, and the engine is broken from then on."""

def exchange(
    descriptors: tuple[int, int, int, int],
    asked: bool,
    limit_ms: int,
    event: tuple[bytes, bytes],
    texts: tuple[bytes, bytes, bytes],
) -> tuple[int | None, bytes, bool]:
    """Hand a process that runs a function an event and receive its answer, if nothing unusual happens. For `streamcore.functions` alone.

    The interpreter is released until then. Only what every invocation does is done here; the caller sees to everything else.

    Args:
        descriptors: the connection of the process, which does not block, and three that must stay silent meanwhile.
        asked: whether the process has asked for the event already.
        limit_ms: how long the answer may take.
        event: head and body of the answer that carries the event.
        texts: how the request for an event begins, how the expected answer begins, and what acknowledges that.

    Returns:
        How many bytes of the event were sent, None where the process has not asked for it yet; what was received after the request for the
        event; and whether the turn is whole. After a whole turn what was received is the body of the answer, and it is acknowledged.
    """
