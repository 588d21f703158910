"""Functions of this process: `(event, context)`, plain or `async def`, as Lambda's Python runtime calls them; or `(batch, context)`."""

from __future__ import annotations

import asyncio
import decimal
import inspect
import json
import logging
import re
import time
import traceback
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from streamcore._log import Rarely, is_told, of_batch
from streamcore.errors import ConfigError
from streamcore.functions._load import load_function
from streamcore.protocols import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from streamcore._streamcore import Batch

__all__ = ["Context", "Identity", "LocalFunction", "load_function", "takes_batch"]

_Handler = TypeVar("_Handler", bound="Callable[[Batch, Any], object]")

_log = logging.getLogger("streamcore.function")
_HERE = str(Path(__file__))
_SCALARS = frozenset({str, int, float, bool})
_JSON_TYPES = _SCALARS | {dict, list}  # looked up first, since `isawaitable` is slow
_TAKES_BATCH = "__streamcore_takes_batch__"


def takes_batch(handler: _Handler) -> _Handler:
    """Mark a handler as one that takes a `Batch` in place of an event. A decorator; it returns the handler itself.

    No dict is made then. The handler reads the columns that it needs (`Batch.columns()`: numpy), or hands the batch to pyarrow, polars
    or DuckDB, which read it in place through the Arrow PyCapsule interface; `Batch.event()` is there too. Of a tumbling window
    `Batch.window` tells the state, as JSON, and whether this is the closing call. What the handler returns means what it always means:
    `batchItemFailures` with the sequence numbers of records that failed, and `state`.

    Only `LocalFunction` knows this; Lambda calls every handler with an event.

    Example:
        >>> import polars
        >>> from streamcore import EventSourceMapping, MemoryCheckpointStore, MemoryStream, Worker
        >>> @takes_batch
        ... def handler(batch, context):
        ...     print(polars.DataFrame(batch).group_by("partition_key").len().sort("partition_key").rows())
        >>> stream = MemoryStream("orders")
        >>> for key in ("ann", "bob", "ann"):
        ...     _ = stream.put(key, b"{}")
        >>> worker = Worker(checkpoints=MemoryCheckpointStore())
        >>> worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, LocalFunction(handler))
        >>> worker.run(until_idle=True).succeeded
        [('ann', 2), ('bob', 1)]
        3
    """
    setattr(handler, _TAKES_BATCH, True)
    return handler


class Identity:
    """What Lambda knows of a mobile app's user: nothing, for a stream."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self) -> None:
        self.cognito_identity_id: str | None = None
        self.cognito_identity_pool_id: str | None = None


class Context:
    """The second argument of a handler, with the attributes of Lambda's ("Using the Lambda context object" in the developer guide).

    Attributes:
        function_name: the function's name.
        function_version: "$LATEST" or the version's number.
        invoked_function_arn: the function's ARN with its qualifier.
        memory_limit_in_mb: digits as text, as Lambda's runtime has it. Nothing limits the memory here.
        aws_request_id: the id of the batch; the same when the same batch is tried again.
        log_group_name: `/aws/lambda/NAME`.
        log_stream_name: day, version and a random number, made once for each function.
        identity: an object without content.
        client_context: None.
        tenant_id: None.
    """

    # Whatever is the same for all invocations is an attribute of a subclass that each function makes for itself.
    function_name: str
    function_version: str
    invoked_function_arn: str
    memory_limit_in_mb: str
    log_group_name: str
    log_stream_name: str
    identity: Identity
    client_context: None = None
    tenant_id: str | None = None

    def __init__(self, aws_request_id: str, deadline: float) -> None:
        self.aws_request_id = aws_request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds left until the timeout, 0 after it. Nothing happens then: the handler goes on."""
        return max(int((self._deadline - time.monotonic()) * 1000), 0)

    def __repr__(self) -> str:
        return f"Context(function_name={self.function_name!r}, aws_request_id={self.aws_request_id!r})"


class LocalFunction:
    """A `Function` that calls a Python function in this process.

    Each attempt gets a fresh event, or the batch itself where the function takes one (see `takes_batch`). What the function returns
    becomes what Lambda's runtime would have sent: JSON. Every exception is an answer of kind "function_error", `SystemExit` and what
    cannot be written as JSON included; only `KeyboardInterrupt` passes. With a ParallelizationFactor above 1, or several shards, the
    function is called by several threads at once, which Lambda never does.

    Args:
        target: the function, or text that names it (see `load_function`). It takes event and context. What an `async def` function
            returns is awaited on the worker's event loop.
        function_name: the name in the context; by default the function's own.
        function_arn: the ARN in the context, with its qualifier; by default
            `arn:aws:lambda:us-east-1:000000000000:function:NAME`.
        timeout_ms: what `get_remaining_time_in_millis` counts down from. An overrun is logged when the function comes back, and has no
            other effect.
        memory_limit_in_mb: what the context says. It limits nothing.
        takes_batch: whether the function is called with a `Batch` in place of an event; by default whether it is marked with the decorator
            `takes_batch`.

    Raises:
        ConfigError: `target` names no function, or an argument is out of range.

    Example:
        >>> def handler(event, context):
        ...     print(context.function_name, "got", len(event["Records"]), "records")
        >>> function = LocalFunction(handler, timeout_ms=60_000)
    """

    def __init__(
        self,
        target: Callable[[Any, Any], Any] | str,
        *,
        function_name: str | None = None,
        function_arn: str | None = None,
        timeout_ms: int = 3000,
        memory_limit_in_mb: int = 128,
        takes_batch: bool | None = None,
    ) -> None:
        handler: Any = load_function(target) if isinstance(target, str) else target
        if not callable(handler):
            raise ConfigError(f"function must be callable or text that names one, not {handler!r}", parameter="function")
        numbers: dict[str, object] = {"timeout_ms": timeout_ms, "memory_limit_in_mb": memory_limit_in_mb}
        for parameter, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{parameter} must be an integer of 1 or more, not {value!r}", parameter=parameter)
        name = function_name or re.sub(r"[^a-zA-Z0-9_-]", "-", getattr(handler, "__name__", type(handler).__name__))[:64]
        arn = function_arn or f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
        qualifier = (arn.split(":")[7:] or ["$LATEST"])[0]
        self._handler = handler
        self.takes_batch: bool = getattr(handler, _TAKES_BATCH, False) if takes_batch is None else takes_batch
        """Whether the function is called with a `Batch` in place of an event."""
        self._timeout = timeout_ms / 1000
        self._version = qualifier if qualifier.isdecimal() else "$LATEST"
        self._success = Answer("success", executed_version=self._version)
        self._overruns = Rarely()
        self._context: type[Context] = type(
            "Context",
            (Context,),
            {
                "function_name": name,
                "function_version": self._version,
                "invoked_function_arn": arn,
                "memory_limit_in_mb": str(memory_limit_in_mb),
                "log_group_name": f"/aws/lambda/{name}",
                "log_stream_name": f"{datetime.now(UTC):%Y/%m/%d}/[{self._version}]{uuid.uuid4().hex}",
                "identity": Identity(),
            },
        )

    def invoke(self, batch: Batch) -> Answer | Awaitable[Answer]:
        """Call the function with the batch's event, or with the batch.

        Returns:
            The answer, or for an asynchronous function an awaitable of it.

        Raises:
            KeyboardInterrupt: the user wants to stop.
        """
        started = time.monotonic()
        request_id = batch.request_id
        try:
            # First the context: an object that is made beside a large event makes the garbage collector look at all of it.
            context = self._context(request_id, started + self._timeout)
            value = self._handler(batch if self.takes_batch else batch.event(), context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its answer
            answer = self._raised(error, request_id)
        else:
            if value is None:
                answer = self._success
            elif type(value) in _JSON_TYPES or not inspect.isawaitable(value):
                answer = self._returned(value, request_id)
            else:
                return self._awaited(value, batch, started)
        if time.monotonic() - started > self._timeout:
            self._say_overrun(batch, started)
        return answer

    def close(self) -> None:
        """Do nothing: nothing is held."""

    async def _awaited(self, awaitable: Awaitable[object], batch: Batch, started: float) -> Answer:
        try:
            value = await awaitable
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the worker wants to stop; a handler that raises CancelledError by itself has failed
            answer = self._raised(error, batch.request_id)
        else:
            answer = self._returned(value, batch.request_id)
        if time.monotonic() - started > self._timeout:
            self._say_overrun(batch, started)
        return answer

    def _returned(self, value: object, request_id: str) -> Answer:
        try:
            payload = _as_json_value(value)
        except Exception as error:  # noqa: BLE001 - an object's own methods run here
            return self._error("Runtime.MarshalError", f"Unable to marshal response: {_text(error)}", [], request_id)
        return Answer("success", payload, executed_version=self._version)

    def _raised(self, error: BaseException, request_id: str) -> Answer:
        return self._error(type(error).__name__, _text(error), _stack_trace(error.__traceback__), request_id)

    def _error(self, error_type: str, message: str, stack_trace: list[str], request_id: str) -> Answer:
        payload = {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": stack_trace}
        return Answer("function_error", payload, executed_version=self._version, function_error="Unhandled")

    def _say_overrun(self, batch: Batch, started: float) -> None:
        now = time.monotonic()
        count = self._overruns.count(None, int(now * 1000))
        level = logging.WARNING if is_told(count) else logging.DEBUG
        if not _log.isEnabledFor(level):
            return
        name, took = self._context.function_name, now - started
        text = "%s took %.1f s for request %s; Lambda would have ended it after %.1f s%s"
        so_far = f" ({count} times so far)" if count > 1 else ""
        fields = of_batch(batch, function=name, durationMs=round(took * 1000), count=count)
        _log.log(level, text, name, took, batch.request_id, self._timeout, so_far, extra=fields)


def _as_json_value(value: object) -> object:
    """Return what a reader of the value's JSON gets: tuples become lists, keys become text."""
    kind = type(value)
    if value is None or kind in _SCALARS:
        return value
    if kind is dict and _is_plain(value):
        return value
    if isinstance(value, bytes):  # Lambda's runtime sends bytes as they are
        return json.loads(value)
    return json.loads(json.dumps(value, default=_default))


def _is_plain(value: Any) -> bool:
    """Whether it is the usual answer, `{"batchItemFailures": [{"itemIdentifier": "..."}]}`, which its JSON would give back unchanged."""
    if not value:
        return True
    failures = value.get("batchItemFailures") if len(value) == 1 else None
    if type(failures) is not list:
        return False
    return all(type(one) is dict and len(one) == 1 and type(one.get("itemIdentifier")) is str for one in failures)


def _default(value: object) -> object:
    """As Lambda's runtime, which writes decimals as numbers."""
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _stack_trace(trace: TracebackType | None) -> list[str]:
    """Return the frames from the handler's own on, as Lambda's runtime writes them."""
    frames = traceback.extract_tb(trace)
    while frames and frames[0].filename == _HERE:
        del frames[0]
    return traceback.format_list(frames)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        return f"<{type(error).__name__} that cannot be written as text>"
