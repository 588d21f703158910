"""Claims of mappings that die with the process: byte-range locks on a file beside the state file.

POSIX locks belong to the process, which has two pitfalls: a second lock on the same range by the same process succeeds, and closing any
descriptor of the file frees all locks that the process has on it. So a process opens each lock file once, in a table that all stores share,
and the table knows what is held. In exchange the locks are the kernel's: they end with the process, however it ends, and a forked child
does not inherit them.

The file is never deleted: another process might be about to lock it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import uuid as uuids
from pathlib import Path

__all__ = ["LockFile"]


class _Open:
    """One open lock file of this process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 0
        self.held: set[str] = set()  # mappings that any store of this process holds


_lock = threading.Lock()  # guards everything below
_table: dict[tuple[int, int], _Open] = {}  # by device and inode


def _forget_after_fork() -> None:
    """A child has none of the locks, and its parent's stores refuse to work there."""
    global _lock  # noqa: PLW0603 - the parent's lock may have been held by a thread that does not exist here
    _lock = threading.Lock()
    for opened in _table.values():
        os.close(opened.descriptor)
    _table.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class LockFile:
    """The lock file at `path`, as one store sees it; made if it is not there.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._mine: set[str] = set()
        with _lock:
            self._key = _opened(path)
            _table[self._key].users += 1

    def acquire(self, mapping_uuid: str) -> bool:
        """Take the mapping for this store; True also where it has it already, False where another store or process has it.

        Raises:
            OSError: the file system has no locks.
        """
        with _lock:
            if mapping_uuid in self._mine:
                return True
            opened = _table[self._key]
            if mapping_uuid in opened.held:
                return False
            try:
                fcntl.lockf(opened.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(mapping_uuid))
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX allows either
                return False
            opened.held.add(mapping_uuid)
            self._mine.add(mapping_uuid)
            return True

    def release(self, mapping_uuid: str) -> None:
        """Give the mapping up, if this store has it."""
        with _lock:
            self._release(mapping_uuid)

    def _release(self, mapping_uuid: str) -> None:
        if mapping_uuid in self._mine:
            self._mine.remove(mapping_uuid)
            opened = _table[self._key]
            opened.held.remove(mapping_uuid)
            fcntl.lockf(opened.descriptor, fcntl.LOCK_UN, 1, _offset(mapping_uuid))

    def close(self) -> None:
        """Give everything up. The last store of the process closes the file."""
        with _lock:
            for mapping_uuid in tuple(self._mine):
                self._release(mapping_uuid)
            opened = _table[self._key]
            opened.users -= 1
            if opened.users == 0:
                del _table[self._key]
                os.close(opened.descriptor)


def _opened(path: str) -> tuple[int, int]:
    """Return the table's key of the file, which is opened only if this process has not got it open."""
    with contextlib.suppress(FileNotFoundError):
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in _table:
            return status.st_dev, status.st_ino
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    status = os.fstat(descriptor)
    key = (status.st_dev, status.st_ino)
    # If another program has moved files just now, the key can be in the table after all. Closing would free the locks; a leak is harmless.
    _table.setdefault(key, _Open(descriptor))
    return key


def _offset(mapping_uuid: str) -> int:
    """Return the byte that stands for the mapping; a file offset has 63 bits. Nothing is ever written there."""
    return uuids.uuid5(uuids.NAMESPACE_URL, mapping_uuid).int >> 66
