"""Tumbling windows: what a function's answer says about the state of its window.

A mapping with `tumbling_window_in_seconds` has its records counted into windows by the time at which they arrived. Every event of a window
carries the state that the invocation before returned, and every answer must carry the next one. The window ends with a closing call, which
has the last state and no records (Lambda developer guide, "Using tumbling windows": "Implementing stateful Kinesis stream processing in
Lambda", "Implementing stateful DynamoDB stream processing in Lambda").

The engine cuts batches at the ends of windows, keeps the state as bytes beside the checkpoint, and makes the closing call. What the state
is, is said here. Pure: no clock, no state of its own, no I/O.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from streamcore._streamcore import Window

__all__ = ["STATE_BYTES_MAX", "ReturnedState", "WindowStateError", "returned_state"]

STATE_BYTES_MAX = 1_048_576
"""The most bytes of state, as JSON, that a window goes on with: 1 MB for each shard. With more the window ends early."""


class WindowStateError(ValueError):
    """An answer without a state that can be handed on; the invocation counts as failed."""


class ReturnedState(NamedTuple):
    """The state that a function returned.

    Attributes:
        state: as JSON in UTF-8, without white space.
        ends_window: it has more than `STATE_BYTES_MAX` bytes. The window ends early: the closing call gets it as it is, with
            `isFinalInvokeForWindow` and `isWindowTerminatedEarly` both true, and what is left of the window begins again with `{}`.
    """

    state: bytes
    ends_window: bool


def returned_state(window: Window, payload: object) -> ReturnedState:
    """Return the state in what a function returned.

    Args:
        window: the window of the batch that the function was invoked with.
        payload: what it returned, as its JSON reads.

    Raises:
        WindowStateError: there is no `state`, it is no JSON object, or it is so large that no closing call could hold it. The closing call
            needs a `state` too, though it is not used.

    Example:
        >>> from types import SimpleNamespace
        >>> window = SimpleNamespace(state_bytes_max=6_000_000)
        >>> returned_state(window, {"state": {"1": 282, "2": 715}, "batchItemFailures": []})
        ReturnedState(state=b'{"1":282,"2":715}', ends_window=False)
        >>> returned_state(window, {"state": {"1": "x" * 1_100_000}}).ends_window
        True
        >>> returned_state(window, None)
        Traceback (most recent call last):
        ...
        streamcore.windows.WindowStateError: the function returned no state: with a tumbling window it must return {"state": {...}}
    """
    state = payload.get("state") if isinstance(payload, dict) else None
    if not isinstance(state, dict):
        what = "no state" if state is None else f"a state that is no JSON object but {type(state).__name__}"
        raise WindowStateError(f'the function returned {what}: with a tumbling window it must return {{"state": {{...}}}}')
    try:
        text = json.dumps(state, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # a UnicodeEncodeError is a ValueError
        raise WindowStateError(f"the function returned a state that is not JSON: {error}") from error
    if len(text) > window.state_bytes_max:
        raise WindowStateError(f"the function returned {len(text)} bytes of state; a closing call can hold {window.state_bytes_max}")
    return ReturnedState(text, len(text) > STATE_BYTES_MAX)
