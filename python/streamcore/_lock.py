"""Taking a lock that many busy threads want."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

__all__ = ["when_free"]

_PAUSE_S = 0.0001


def _pause() -> None:
    time.sleep(_PAUSE_S)


def when_free(lock: threading.Lock, pause: Callable[[], object] = _pause) -> threading.Lock:
    """Return a lock when nobody holds it, to be taken at once.

    Who waits in a `threading.Lock` gets it before getting the interpreter back, which takes up to 5 ms beside a busy thread
    (`sys.getswitchinterval`). The busy thread runs into the lock meanwhile, lets go of the interpreter and waits in its turn: once two
    threads have met, each further use is a hand-over between them, which costs more than most of what the lock is for. Here a thread
    that finds the lock taken lets the others run for a moment and looks again, so the one that runs can take it any number of times.

    Another thread may still be quicker; then the lock is waited for. It is for locks that are held for a few lines, which as a rule
    wait for nothing.

    Args:
        lock: what to take.
        pause: lets other threads run.

    Example:
        >>> import threading
        >>> lock = threading.Lock()
        >>> with when_free(lock):
        ...     lock.locked()
        True
    """
    while lock.locked():
        pause()
    return lock
