"""How failures of a function are logged."""

from __future__ import annotations

import logging

__all__ = ["FailureLog"]

_log = logging.getLogger("streamcore.function")
_KINDS_MAX = 100  # kinds of failure that are logged in full


class FailureLog:
    """Logs the first failure of each kind and place in full, since a bad record repeats it many times over.

    Args:
        name: the function's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: set[tuple[str, str]] = set()

    def say(self, error_type: str, message: str, stack_trace: list[str], request_id: str) -> None:
        """Log one failure."""
        kind = (error_type, stack_trace[-1] if stack_trace else "")
        if kind in self._said or len(self._said) >= _KINDS_MAX:
            _log.debug("%s failed again, request %s: %s: %s", self._name, request_id, error_type, message)
            return
        self._said.add(kind)
        text = "%s failed, request %s: %s: %s (others like it are logged at level DEBUG)\n%s"
        _log.warning(text, self._name, request_id, error_type, message, "".join(stack_trace).rstrip())
