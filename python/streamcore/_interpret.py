"""What a function's answer means for the records of its batch. Pure: no clock, no state, no I/O."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from streamcore._streamcore import Outcome
from streamcore.protocols import Answer
from streamcore.windows import WindowStateError, returned_state

if TYPE_CHECKING:
    from streamcore._streamcore import Batch

__all__ = ["interpret"]


def interpret(batch: Batch, answer: Answer) -> Outcome:
    """Return what `answer` means for `batch`.

    A throttle or a service error did not run the function and spends no attempt; an event that is too large for the service is cut. What an
    answer with `alive_until_ms` means holds from that instant on, and not before. A function error fails the whole batch. A returned value
    counts only where the mapping's `function_response_types` holds ReportBatchItemFailures; then, as the Lambda developer guide says under
    "Configuring partial batch response with Kinesis Data Streams and Lambda":

    - nothing (None, `""`, `[]`, `{}`), an object without `batchItemFailures`, and an empty or null `batchItemFailures` are success;
    - item identifiers of the batch: the records before the lowest of them are complete, all from it on failed, whatever their order in the
      list;
    - anything else fails the whole batch: an empty, null or missing `itemIdentifier`, one that is no string or not in the batch (also
      beside valid ones), and a value of another shape.

    A batch of a tumbling window fails too where the answer has no `state` (see `streamcore.windows`); else the outcome carries it.

    Args:
        batch: the batch that was invoked.
        answer: what the function gave for it.

    Returns:
        The outcome for `Engine.finish`.
    """
    if answer.kind in ("throttled", "service_error"):
        return Outcome.throttled()
    if answer.kind == "too_large":
        return Outcome.too_large(request_id=answer.request_id)
    if answer.kind == "function_error":
        return _failure(answer, answer.function_error or "Unhandled")
    payload = answer.payload
    window = batch.window
    state: bytes | None = None
    ends_window = False
    if window is not None:
        try:
            state, ends_window = returned_state(window, payload)
        except WindowStateError:
            return _failure(answer, None)
    if not batch.reports_item_failures or payload is None or (isinstance(payload, (str, list, dict)) and not payload):
        return Outcome.success(window_state=state, ends_window=ends_window)
    if not isinstance(payload, dict):
        return _failure(answer, None)
    failures = payload.get("batchItemFailures")
    if failures is None or failures == []:
        return Outcome.success(window_state=state, ends_window=ends_window)
    index = _lowest_failed(batch, failures)
    if index is None:
        return _failure(answer, None)
    return Outcome.partial(
        index,
        status_code=answer.status_code,
        executed_version=answer.executed_version,
        request_id=answer.request_id,
        window_state=state,
        ends_window=ends_window,
    )


def interpret_returned(batch: Batch, value: object) -> Outcome:
    """Return what a handler's value means, for `Engine.invoke_ready`, which sees itself to handlers that return nothing.

    Raises:
        TypeError: the handler is asynchronous.
    """
    if inspect.iscoroutine(value):
        value.close()
    elif not inspect.isawaitable(value):
        return interpret(batch, Answer("success", value))
    raise TypeError("the handler returned an awaitable; Engine.invoke_ready calls synchronous handlers")


def _lowest_failed(batch: Batch, failures: object) -> int | None:
    """Return the index of the first failed record; None if one of the identifiers names no record of the batch."""
    if not isinstance(failures, list):
        return None
    lowest = len(batch)
    for failure in failures:
        identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
        index = batch.index_of(identifier) if isinstance(identifier, str) else None
        if index is None:
            return None
        lowest = min(lowest, index)
    return lowest


def _failure(answer: Answer, function_error: str | None) -> Outcome:
    return Outcome.failure(
        function_error=function_error,
        status_code=answer.status_code,
        executed_version=answer.executed_version,
        request_id=answer.request_id,
    )
