"""The processes of one function: one for each concurrent invocation, made when it is needed, used again after a good end."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore.functions._process import RuntimeProcess

__all__ = ["ClosedError", "ProcessPool"]

_END_S = 0.5  # how long processes have to end by themselves; what Lambda gives one with an internal extension


class ClosedError(Exception):
    """The pool is closed."""


class ProcessPool:
    """Lends processes, the one used last first, since its memory is warm.

    Args:
        start: starts a process.
        processes_max: most processes at a time; who asks for one more waits. None for no limit.
    """

    def __init__(self, start: Callable[[], RuntimeProcess], processes_max: int | None) -> None:
        self._start = start
        self._max = processes_max
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._idle: list[RuntimeProcess] = []
        self._busy: set[RuntimeProcess] = set()
        self._starting = 0
        self._closing = threading.Event()

    def take(self) -> tuple[RuntimeProcess, bool]:
        """Lend a process; `give_back` or `retire` ends that.

        Returns:
            The process, and whether it is a new one.

        Raises:
            ClosedError: the pool is closed.
            OSError: no process can be started.
        """
        with self._lock:
            while not self._closing.is_set():
                if self._idle:
                    process = self._idle.pop()
                    self._busy.add(process)
                    return process, False
                if self._max is None or len(self._busy) + self._starting < self._max:
                    break
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._waiting -= 1
            else:
                raise ClosedError
            self._starting += 1
        try:
            process = self._start()
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
            raise
        with self._changed:
            self._starting -= 1
            self._busy.add(process)
            self._changed.notify_all()
        if self._closing.is_set():
            self.retire(process)
            raise ClosedError
        return process, True

    def give_back(self, process: RuntimeProcess) -> None:
        """Keep the process for another invocation."""
        with self._lock:
            closed = self._closing.is_set()
            if not closed:
                self._busy.discard(process)
                self._idle.append(process)
                if self._waiting:
                    self._changed.notify()
        if closed:
            self.retire(process)

    def retire(self, process: RuntimeProcess) -> None:
        """End the process."""
        process.retire()
        with self._changed:
            self._busy.discard(process)
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def close(self) -> None:
        """End all processes: idle ones may end by themselves for half a second, those in an invocation are killed. Safe to call twice."""
        with self._changed:
            self._closing.set()
            idle, self._idle = self._idle, []
            for process in self._busy:
                process.kill()
            self._changed.notify_all()
        deadline = time.monotonic() + _END_S
        for process in idle:
            process.terminate()
        for process in idle:
            process.await_end(deadline)
        for process in idle:
            process.retire()
        # Those that were killed are retired by the threads that wait for them.
        with self._changed, contextlib.suppress(KeyboardInterrupt):
            self._changed.wait_for(lambda: not self._busy and not self._starting, timeout=5)
