"""What a run shows while it runs: one refreshed line on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore.worker import WorkerStats

__all__ = ["Progress", "duration", "line"]

_log = logging.getLogger("streamcore.progress")

_TERMINAL_INTERVAL_S = 0.25
_PLAIN_INTERVAL_S = 10.0


def duration(milliseconds: float) -> str:
    """Return a time span for people.

    Example:
        >>> duration(250), duration(61_000), duration(90_000_000)
        ('250 ms', '1 min 1 s', '1 d 1 h')
    """
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, rest = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {rest} min"
    days, rest = divmod(hours, 24)
    return f"{days} d {rest} h"


def line(stats: WorkerStats, records_per_second: float) -> str:
    """Return the line that says how a worker stands."""
    age = "-" if stats.iterator_age_ms is None else duration(stats.iterator_age_ms)
    windows = f"{stats.windows_closed:,} windows closed  " if stats.windows_closed else ""
    waiting = f" ({stats.unconfirmed:,} on their way)" if stats.unconfirmed else ""
    filtered = f"{stats.filtered_records:,} filtered out  " if stats.filtered_records else ""
    return (
        f"{stats.records:,} records  {filtered}{records_per_second:,.0f}/s  {stats.in_flight} in flight  {stats.retries:,} retries  "
        f"{stats.discards:,} discards{waiting}  {windows}iterator age {age}"
    )


class Stream(Protocol):
    """What text is written to."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Hold nothing back."""


class Progress:
    """Writes the line while it is entered, from a thread of its own.

    On a terminal, log records go above the line; `ProgressHandler` sees to it. What is logged is no line of its own but one of the log, at
    level INFO and with fields.
    """

    def __init__(self, stats: Callable[[], WorkerStats], stream: Stream, *, terminal: bool, logged: bool = False) -> None:
        self._stats = stats
        self._stream = stream
        self._terminal = terminal and not logged
        self._logged = logged
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._shown = False
        self._thread = threading.Thread(target=self._run, name="streamcore-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            self._clear()

    def _run(self) -> None:
        interval = _TERMINAL_INTERVAL_S if self._terminal else _PLAIN_INTERVAL_S
        records, at = 0, time.monotonic()
        while not self._over.wait(interval):
            stats, now = self._stats(), time.monotonic()
            rate = (stats.records - records) / max(now - at, 1e-9)
            records, at = stats.records, now
            if self._logged:
                _log.info("%s", line(stats, rate), extra=_fields(stats, rate))
                continue
            with self._lock:
                self._write(line(stats, rate))

    def _write(self, text: str) -> None:
        if not self._terminal:
            self._stream.write(text + "\n")
        else:
            width = shutil.get_terminal_size().columns
            self._clear()
            self._stream.write(text[: width - 1])
            self._shown = True
        self._stream.flush()

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False

    def say(self, text: str) -> None:
        """Write a line above the progress line."""
        with self._lock:
            self._clear()
            self._stream.write(text + "\n")
            self._stream.flush()


def _fields(stats: WorkerStats, records_per_second: float) -> dict[str, object]:
    return {
        "records": stats.records,
        "recordsPerSecond": round(records_per_second, 1),
        "inFlight": stats.in_flight,
        "retries": stats.retries,
        "discards": stats.discards,
        "iteratorAgeMs": stats.iterator_age_ms,
    }


class ProgressHandler(logging.Handler):
    """A logging handler that keeps log records and the progress line apart."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self.progress: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one log record."""
        try:
            text = self.format(record)
            if self.progress is not None:
                self.progress.say(text)
            else:
                self.stream.write(text + "\n")
                self.stream.flush()
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)
