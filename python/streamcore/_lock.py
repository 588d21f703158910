"""A lock for busy threads, which take turns for Python's own."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Lock"]

_PAUSE_S = 0.0001


def _pause() -> None:
    time.sleep(_PAUSE_S)


class Lock:
    """A lock that nobody holds while waiting for the interpreter.

    Who waits for a `threading.Lock` gets it before getting the interpreter back, which takes up to 5 ms beside a busy thread
    (`sys.getswitchinterval`). The busy thread runs into the lock meanwhile, lets go of the interpreter and waits in its turn: once two
    threads have met, each further use is a hand-over between them, which costs more than most of what the lock is for. Here a thread
    that finds the lock taken lets the others run for a moment and looks again, so the one that runs can take it any number of times.

    It is for a few lines of Python that wait for nothing: whoever holds it has at most lost the interpreter for a moment. The order of
    those who wait is not kept. It goes with `threading.Condition`.

    Args:
        pause: lets other threads run.

    Example:
        >>> lock = Lock()
        >>> with lock:
        ...     lock.acquire(blocking=False)
        False
    """

    __slots__ = ("_pause", "_take", "release")

    def __init__(self, pause: Callable[[], object] = _pause) -> None:
        lock = threading.Lock()
        self._take = lock.acquire
        self.release = lock.release
        self._pause = pause

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002  (as `threading.Condition` calls it)
        """Take the lock. Returns whether it was taken."""
        take = self._take
        while not take(blocking=False):
            if not blocking:
                return False
            self._pause()
        return True

    def __enter__(self) -> None:
        """Take the lock."""
        if not self._take(blocking=False):
            self.acquire()

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.release()
