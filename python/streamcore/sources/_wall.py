"""The clock of a source that was given none."""

from __future__ import annotations

import time

__all__ = ["WallClock"]


class WallClock:
    """The machine's time, which may be set but here never goes back."""

    def __init__(self) -> None:
        self._latest = 0

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch."""
        self._latest = max(self._latest, time.time_ns() // 1_000_000)
        return self._latest
