"""How failed invocations are logged: by the worker and in one place, so that it is the same for every kind of function.

Lines of the logger `streamcore.function`, with the place of the batch, as text and as fields.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from streamcore._log import Rarely, is_told, of_batch, place
from streamcore.windows import WindowStateError, returned_state

if TYPE_CHECKING:
    from streamcore._streamcore import Batch, Outcome
    from streamcore.protocols import Answer

__all__ = ["FailureLog"]

_log = logging.getLogger("streamcore.function")
_ANSWER_CHARS_MAX = 200
_NOT_RUN = {
    "throttled": "the function was throttled",
    "service_error": "the function's service failed",
    "too_large": "the function's service refused the event as too large",
}


class _Failure(NamedTuple):
    """What went wrong with one invocation.

    Attributes:
        kind: what failures that are alike have in common.
        text: for people.
        error_type: as the function or its service calls it.
        message: its text.
        stack: where it was raised, line by line, and what else helps.
    """

    kind: str
    text: str
    error_type: str | None = None
    message: str | None = None
    stack: str = ""


class FailureLog:
    """Logs failed invocations at level WARNING, those that are like many before them at level DEBUG (see `Rarely`)."""

    def __init__(self) -> None:
        self._rarely = Rarely()

    def say(self, batch: Batch, answer: Answer, outcome: Outcome, now_ms: int) -> None:
        """Log an invocation whose outcome is no success."""
        try:
            failure = _failure(batch, answer, outcome)
        except Exception:  # noqa: BLE001 - what a function gave may be any object, whose own methods run then
            failure = _Failure("unreadable", f"the function gave what cannot be shown: {type(answer.payload).__name__}")
        count = self._rarely.count((batch.mapping_uuid, failure.kind), now_ms)
        level = logging.WARNING if is_told(count) else logging.DEBUG
        if not _log.isEnabledFor(level):
            return
        so_far = f"; {count} like it so far" if count > 1 else ""
        stack = f"\n{failure.stack}" if failure.stack and count == 1 else ""
        fields = of_batch(batch, errorType=failure.error_type, errorMessage=failure.message, failures=count)
        _log.log(level, "%s (%s%s)%s", failure.text, place(batch), so_far, stack, extra=fields)

    def say_raised(self, batch: Batch, error: BaseException, now_ms: int) -> None:
        """Log that `invoke` itself raised, or gave no answer, which no function should."""
        count = self._rarely.count((batch.mapping_uuid, type(error)), now_ms)
        level = logging.ERROR if is_told(count) else logging.DEBUG
        text = "invoking raised, so the batch counts as failed (%s)"
        _log.log(level, text, place(batch), exc_info=error, extra=of_batch(batch, failures=count))

    def say_ended_early(self, batch: Batch, outcome: Outcome, now_ms: int) -> None:
        """Log that the batch's window is ended by its state."""
        if not batch.record_count:
            return  # it is closed, and the state is not used
        count = self._rarely.count((batch.mapping_uuid, "ended early"), now_ms)
        level = logging.WARNING if is_told(count) else logging.DEBUG
        size = len(outcome.window_state or b"")
        text = "the window is ended early: its state has %d bytes, more than 1 MB (%s)"
        _log.log(level, text, size, place(batch), extra=of_batch(batch, count=size, failures=count))


def _failure(batch: Batch, answer: Answer, outcome: Outcome) -> _Failure:
    payload = answer.payload
    said = payload if isinstance(payload, dict) else {}
    if answer.kind in _NOT_RUN:
        text = answer.problem or _NOT_RUN[answer.kind]
        error_type = _text(said.get("errorType")) or answer.kind
        return _Failure(f"{answer.kind} {error_type}", text, error_type, text)
    if answer.kind == "function_error":
        error_type = _text(said.get("errorType")) or answer.function_error or "Unhandled"
        message = _text(said.get("errorMessage")) or ""
        trace = said.get("stackTrace") or said.get("trace")
        lines = [f"{line}".rstrip("\n") for line in trace] if isinstance(trace, list) else []
        stack = "\n".join([*lines, *([answer.detail] if answer.detail else [])])
        kind = f"{error_type} {lines[-1] if lines else ''}"
        return _Failure(kind, f"the function failed: {error_type}: {message}", error_type, message, stack)
    if outcome.kind == "partial":
        done = outcome.index or 0
        return _Failure("partial", f"the function reported failed records; {done} of {batch.record_count} are done")
    if (window := batch.window) is not None:
        try:
            returned_state(window, payload)
        except WindowStateError as error:
            return _Failure("state", str(error), type(error).__name__, str(error))
    shown = repr(payload)[:_ANSWER_CHARS_MAX]
    return _Failure("answer", f"the function's answer names no records of the batch, so all of it counts as failed: {shown}")


def _text(value: object) -> str | None:
    return None if value is None else str(value)
