"""Discards in a file, one invocation record on a line."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamcore._streamcore import Discard

__all__ = ["FileDestination"]


class FileDestination:
    r"""A `Destination` that appends the invocation record of each discard to a file, as one line of JSON.

    The record is what Lambda sends to an on-failure destination of a stream ("Retain discarded records" in the Lambda developer guide):
    it tells where the records are, and does not hold them. Several processes may append to one file. Where a crash has left half a line,
    the next record begins on a line of its own, so a reader may meet a broken line, but never loses a whole one. The file is opened for
    each record: it may be moved away while the worker runs.

    Args:
        path: the file. It is made if it is not there; its folder must exist.

    Raises:
        OSError: the file cannot be opened for writing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     destination = FileDestination(folder + "/discards.ndjson")
        ...     destination.path
        ...     destination.close()
        '.../discards.ndjson'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        os.close(self._opened())

    @property
    def path(self) -> str:
        """The file, as it was given."""
        return self._path

    def send(self, discard: Discard) -> None:
        """Append one record; when this returns it is on the disk.

        Raises:
            OSError: it could not be written. Part of a line may have been.
        """
        line = json.dumps(discard.invocation_record(), separators=(",", ":")).encode() + b"\n"
        with self._lock:
            descriptor = self._opened()
            try:
                if _ends_within_a_line(descriptor):
                    line = b"\n" + line
                # One write to a file opened with O_APPEND: lines of several processes do not mix.
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self._path, flags)
        except FileNotFoundError:
            descriptor = os.open(self._path, flags | os.O_CREAT, 0o666)
        try:
            _sync_folder(Path(self._path).absolute().parent)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _ends_within_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _sync_folder(path: Path) -> None:
    """A new file outlasts a power failure only when its name does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
