"""Standard error and standard output of a command: its log, its progress, its own words, and what the function writes there.

With `--log-format json` every line of standard error is a JSON object, whoever writes it. So what is written to the file descriptor, by a
handler's `print`, a library or the interpreter, goes through a pipe and becomes a line of the logger `streamcore.output`; a line that is a
JSON object already is left as it is, as on Lambda.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Literal, Protocol, Self

from streamcore.logs import JsonFormatter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from streamcore._progress import Progress
    from streamcore.worker import WorkerStats

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

__all__ = ["Console", "Say", "log_format", "open_closed_streams", "speaker", "standard_output"]

LogFormat = Literal["text", "json"]

_FORMATTER = JsonFormatter()
_TEXT = "%(levelname)s %(name)s: %(message)s"
_LINE_MAX = 256 * 1024  # a longer line becomes several
_OPTION = "--log-format"


def log_format(arguments: Sequence[str]) -> LogFormat:
    """Return which format the arguments of a command ask for; known before they are parsed, since errors of parsing are written too.

    Example:
        >>> log_format(["run", "--log-format", "json", "--batchsize", "1"]), log_format(["run"])
        ('json', 'text')
        >>> log_format(["run", "--log-format=json", "--log-format", "text"])
        'text'
    """
    wanted = ""
    for before, text in itertools.pairwise(["", *arguments]):
        if before == _OPTION:
            wanted = text
        elif text.startswith(f"{_OPTION}="):
            wanted = text.removeprefix(f"{_OPTION}=")
    return "json" if wanted == "json" else "text"


def open_closed_streams() -> None:
    """Lead the standard streams that this process was started without nowhere; the next files opened would take their places."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


class Say(Protocol):
    """Writes a sentence of the command itself to standard error."""

    def __call__(self, message: str, level: int = logging.ERROR, /, *, exc_info: ExcInfo | None = None) -> None:
        """Write it; `exc_info` is of an exception that has led to it."""


def speaker(wanted: LogFormat) -> Say:
    """Return what writes a sentence of the command itself."""

    def as_text(message: str, level: int = logging.ERROR, /, *, exc_info: ExcInfo | None = None) -> None:
        del level, exc_info
        sys.stderr.write(f"streamcore: {message}\n")

    def as_line(message: str, level: int = logging.ERROR, /, *, exc_info: ExcInfo | None = None) -> None:
        sys.stderr.write(_line(message, "streamcore.command", level, exc_info) + "\n")

    return as_line if wanted == "json" else as_text


def _line(message: str, logger: str, level: int, exc_info: ExcInfo | None = None) -> str:
    facts = {"name": logger, "levelno": level, "levelname": logging.getLevelName(level), "msg": message, "exc_info": exc_info}
    return _FORMATTER.format(logging.makeLogRecord(facts))


class Console:
    """Shows the log of streamcore and of the function on standard error while it is entered.

    As JSON lines the log of a process of its own is shown to the end of the process: what its libraries log as it ends, and what its
    threads and exit functions write, are lines too.

    Args:
        arguments: of the command, with `log_format` and `log_level`, and with `own_process` where the process does nothing else.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from streamcore._progress import ProgressHandler  # noqa: PLC0415 - `streamcore --help` does without the engine

        self._json = arguments.log_format == "json"
        self._stays = self._json and arguments.own_process
        self._level = arguments.log_level.upper()
        self._handler = ProgressHandler(sys.stderr)
        self._handler.setFormatter(_FORMATTER if self._json else logging.Formatter(_TEXT))
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as entered:
            if self._json:
                self._handler.stream = entered.enter_context(_captured(closing=not self._stays))
            root = logging.getLogger()
            before = root.level
            root.setLevel(self._level)
            root.addHandler(self._handler)
            if self._stays:
                # Registered before the function is loaded, so called after what that registers.
                atexit.register(entered.pop_all().close)
            else:
                entered.callback(root.setLevel, before)
                entered.callback(root.removeHandler, self._handler)
                self._entered = entered.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered.close()

    @contextlib.contextmanager
    def progress(self, stats: Callable[[], WorkerStats], *, terminal: bool = True) -> Iterator[Progress]:
        """Show how a run stands: one refreshed line on a terminal, lines now and then elsewhere; as JSON lines at level INFO.

        Args:
            stats: gives what is shown.
            terminal: whether a terminal may be used as one.
        """
        from streamcore._progress import Progress  # noqa: PLC0415

        terminal = terminal and sys.stderr.isatty()
        with Progress(stats, self._handler.stream, terminal=terminal, logged=self._json) as progress:
            self._handler.progress = progress
            try:
                yield progress
            finally:
                self._handler.progress = None


@contextlib.contextmanager
def _captured(*, closing: bool) -> Iterator[_Lines]:
    """Give the real standard error, while whatever else is written to it becomes lines of JSON there.

    With `closing` nothing can be written by what was given once this is left.
    """
    sys.stderr.flush()
    try:
        real = os.dup(2)
    except OSError:  # standard error is closed
        yield _Lines(None)
        return
    lines, mine = _Lines(real), os.getpid()
    source, sink = os.pipe()
    os.dup2(sink, 2)
    end = os.urandom(16).hex().encode()
    thread = threading.Thread(target=_relay, args=(source, lines, end), name="streamcore-output", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        if os.getpid() == mine:  # and not one that a function has forked, and that ends in order
            sys.stderr.flush()
            os.dup2(real, 2)
            # Not the end of the pipe: a process that the function has left behind may hold it open.
            os.write(sink, b"\n" + end + b"\n")
            thread.join()
            for descriptor in (source, sink):
                os.close(descriptor)
            if closing:
                lines.close()


class _Lines:
    """Writes whole lines to a file descriptor; what handlers take for a stream."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()  # a long line to a pipe is written in parts

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        with self._lock:
            while data and self._descriptor is not None:
                data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _relay(source: int, lines: _Lines, end: bytes) -> None:
    rest = b""
    while data := os.read(source, 65536):
        rest += data
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line == end:
                return
            _relay_line(line, lines)
        while len(rest) > _LINE_MAX:
            _relay_line(rest[:_LINE_MAX], lines)
            rest = rest[_LINE_MAX:]


def _relay_line(line: bytes, lines: _Lines) -> None:
    text = line.decode(errors="replace").rstrip("\r")
    if text.strip():
        with contextlib.suppress(OSError):  # who read standard error is gone
            lines.write((text if _is_object(text) else _line(text, "streamcore.output", logging.INFO)) + "\n")


def _is_object(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text, parse_constant=_refused), dict)
    except (ValueError, RecursionError):
        return False


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON, though Python reads it")


@contextlib.contextmanager
def standard_output(arguments: argparse.Namespace) -> Iterator[Callable[[str], object]]:
    """Give the function that writes the result. With --json whatever else is written to standard output goes to standard error."""
    if not arguments.json:
        yield print
        return
    sys.stdout.flush()
    try:
        output = os.dup(1)
    except OSError:  # standard output is closed
        yield print
        return
    os.dup2(2, 1)
    try:
        yield lambda text: os.write(output, text.encode() + b"\n")
    finally:
        sys.stdout.flush()
        os.dup2(output, 1)
        os.close(output)
