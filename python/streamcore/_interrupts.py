"""Ctrl-C as a request to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["interrupts"]


@contextlib.contextmanager
def interrupts(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `on_interrupt` for each Ctrl-C while this runs on the main thread, unless the program has a handler of its own.

    It is called between two instructions of whatever the main thread does just then, so it may do only what is safe everywhere:
    set an attribute, put something into a `queue.SimpleQueue`.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        on_interrupt()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
