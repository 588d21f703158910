"""Checkpoints in one SQLite file: durable, for one host."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import uuid as uuids
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamcore.checkpoints._lockfile import LockFile
from streamcore.errors import CheckpointError, ClaimError, ForkError
from streamcore.protocols import CheckpointKey, Claim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["CheckpointRow", "SqliteCheckpointStore"]

_APPLICATION_ID = 0x53_43_6F_72  # "SCor", in the file's header
_VERSION = 1
_BUSY_TIMEOUT_SECONDS = 5.0

# `token` is NULL while nobody holds the checkpoint, `blob` until the first save. `holder` is for the text of ClaimError alone: who holds a
# mapping is decided by a lock that the kernel frees when the process ends.
_SCHEMA = (
    """CREATE TABLE checkpoint (
        mapping_uuid TEXT NOT NULL,
        stream_identity TEXT NOT NULL,
        shard_id TEXT NOT NULL,
        token TEXT UNIQUE,
        blob BLOB,
        saved_at_ms INTEGER,
        PRIMARY KEY (mapping_uuid, stream_identity, shard_id)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE holder (
        mapping_uuid TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A stored checkpoint; `saved_at_ms` is when it was written, in milliseconds since the Unix epoch."""

    key: CheckpointKey
    blob: bytes
    saved_at_ms: int


class SqliteCheckpointStore:
    """A `CheckpointStore` in a file, for the workers of one host.

    The file survives a crash of the process, of the system and of the power supply; each `save` is one transaction. Beside it lies
    `FILE.lock`, on which a store locks the mappings that it has claimed. The lock ends with the process, so the checkpoints of a killed
    worker can be claimed at once. Do not delete it while a worker runs; if it is done nevertheless, the tokens in the file see to it that
    only the latest claim can save. Both are readable by their owner only, since checkpoints may hold what a handler keeps. Keep them on
    a local disk: locks of network file systems cannot be relied upon.

    Thread-safe. After a fork, use a new store in the child.

    Args:
        path: the file. It is made if it is not there or is empty; its folder must exist.
        read_only: only look: change nothing, make nothing, claim nothing. The file must exist.

    Raises:
        CheckpointError: the file is not a state file, is damaged, was written by a newer version, or cannot be read or written. It is left
            as it was.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = SqliteCheckpointStore(folder.name + "/state.sqlite")
        >>> key = CheckpointKey("mapping", "stream", "shardId-000000000000")
        >>> claim = store.claim(key, "me")
        >>> store.save([(claim.token, b"checkpoint")])
        [True]
        >>> [row.blob for row in store.rows()]
        [b'checkpoint']
        >>> store.close(); folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self._path = Path(os.path.realpath(path))  # through a link, so that the lock file is the same for all names of the file
        self._read_only = read_only
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._tokens: dict[CheckpointKey, str] = {}
        self._owners: dict[str, str] = {}  # by mapping, of this store
        self._closed = False
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._lockfile: LockFile | None = None
        self._check_file()
        self._connection = self._connected()
        try:
            self._check_contents()
            if not read_only:
                self._lockfile = self._opened_lockfile()
        except BaseException:
            self.close()
            raise

    def claim(self, key: CheckpointKey, owner: str) -> Claim:
        """Take the checkpoint for `owner`.

        One store of one process holds a mapping at a time, for one owner. It may claim any number of the mapping's shards, and a shard
        again, which makes the older token void.

        Raises:
            ClaimError: a live process holds the mapping; the text names it.
            CheckpointError: the file cannot be read or written.
        """
        with self._writing(f"claim shard {key.shard_id}"):
            held_by = self._owners.get(key.mapping_uuid)
            if held_by is not None and held_by != owner:
                raise self._claim_error(key.mapping_uuid)
            if not self._acquire(key.mapping_uuid):
                raise self._claim_error(key.mapping_uuid)
            try:
                claim = self._claimed(key, owner)
            except BaseException:
                self._release_mapping_if_unused(key.mapping_uuid)
                raise
            self._tokens[key] = claim.token
            self._owners[key.mapping_uuid] = owner
            return claim

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Store blobs under their tokens, all in one durable transaction.

        Returns:
            For each, True if saved, False if the token is void.

        Raises:
            CheckpointError: nothing was stored (a full disk, a file that another program has locked). It may be tried again.
        """
        now_ms = time.time_ns() // 1_000_000
        with self._writing("save"), self._transaction() as connection:
            update = "UPDATE checkpoint SET blob = ?, saved_at_ms = ? WHERE token = ?"
            mine = set(self._tokens.values())  # a token in the file may be that of a store that is no more
            return [token in mine and connection.execute(update, (blob, now_ms, token)).rowcount == 1 for token, blob in checkpoints]

    def release(self, token: str) -> None:
        """Give a claim up. A void token is ignored.

        Raises:
            CheckpointError: the file cannot be written. The mapping can be claimed by others nevertheless.
        """
        with self._writing("release a claim"):
            key = next((key for key, held in self._tokens.items() if held == token), None)
            if key is None:
                return
            del self._tokens[key]
            try:
                with self._transaction() as connection:
                    connection.execute("DELETE FROM checkpoint WHERE token = ? AND blob IS NULL", (token,))
                    connection.execute("UPDATE checkpoint SET token = NULL WHERE token = ?", (token,))
            finally:
                self._release_mapping_if_unused(key.mapping_uuid)

    def rows(self) -> list[CheckpointRow]:
        """Return all checkpoints, sorted by key.

        Raises:
            CheckpointError: the file cannot be read.
        """
        select = "SELECT mapping_uuid, stream_identity, shard_id, blob, saved_at_ms FROM checkpoint WHERE blob IS NOT NULL ORDER BY 1, 2, 3"
        with self._using("read"):
            return [CheckpointRow(CheckpointKey(*row[:3]), row[3], row[4]) for row in self._connection.execute(select)]

    def put(self, key: CheckpointKey, blob: bytes) -> None:
        """Write a checkpoint that nobody holds, to move a position by hand.

        Raises:
            ClaimError: the mapping is held, be it by this store.
            CheckpointError: the file cannot be written.
        """
        with self._writing(f"write shard {key.shard_id}"):
            if key.mapping_uuid in self._owners or not self._acquire(key.mapping_uuid):
                raise self._claim_error(key.mapping_uuid)
            try:
                with self._transaction() as connection:
                    connection.execute(
                        "INSERT INTO checkpoint VALUES (?, ?, ?, NULL, ?, ?) "
                        "ON CONFLICT DO UPDATE SET token = NULL, blob = excluded.blob, saved_at_ms = excluded.saved_at_ms",
                        (key.mapping_uuid, key.stream_identity, key.shard_id, blob, time.time_ns() // 1_000_000),
                    )
            finally:
                self._release_mapping_if_unused(key.mapping_uuid)

    def close(self) -> None:
        """Give every claim up and close the file. Safe to call twice."""
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return  # a forked child must not touch its parent's connection
            self._closed = True
            if self._lockfile is not None:
                self._lockfile.close()
            self._connection.close()
            if self._copy is not None:
                self._copy.cleanup()

    # Opening

    def _check_file(self) -> None:
        """Find what can be said without SQLite, and make the file if it is to be made."""
        path = self._path
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; give the name of a file in it")
        if not path.exists():
            if self._read_only:
                raise CheckpointError(f"{path} does not exist; give the name of a state file")
            if not path.parent.is_dir():
                raise CheckpointError(f"{path} cannot be made: the folder {path.parent} does not exist; make it first")
            try:
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise CheckpointError(f"{path} cannot be made: {error.strerror}; choose a folder that can be written") from error
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file; give the name of a file")
        if not os.access(path, os.R_OK if self._read_only else os.R_OK | os.W_OK):
            need = "read" if self._read_only else "read and written"
            raise CheckpointError(f"{path} may not be {need} by this user; change its permissions or choose another file")

    def _connected(self) -> sqlite3.Connection:
        with self._explained("open"):
            # Without a journal, a first look needs no lock and changes nothing, whosever file it is. With one, a writer is at work or has
            # crashed, and only SQLite's own locking and recovery tell what the file holds.
            if self._path.stat().st_size > 0 and not self._has_journal():
                with contextlib.closing(self._connect("mode=ro&immutable=1")) as connection:
                    self._check_header(connection)
            if not self._read_only:
                return self._connect("mode=rw")
            connection = self._connect("mode=ro")
            try:
                self._check_header(connection)
            except sqlite3.OperationalError:
                connection.close()
                if not self._has_journal():
                    raise
                # A crash has left a journal, which must be put back before the file can be read: do that to a copy.
                return self._connect_to_copy()
            return connection

    def _connect(self, mode: str, path: Path | None = None) -> sqlite3.Connection:
        uri = f"{(path or self._path).as_uri()}?{mode}"
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)

    def _connect_to_copy(self) -> sqlite3.Connection:
        self._copy = tempfile.TemporaryDirectory(prefix="streamcore-")
        copy = Path(self._copy.name) / self._path.name
        shutil.copyfile(self._path, copy)
        shutil.copyfile(self._journal, f"{copy}-journal")
        return self._connect("mode=rw", copy)

    @property
    def _journal(self) -> Path:
        return Path(f"{self._path}-journal")

    def _has_journal(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._journal.stat().st_size > 0
        return False

    def _check_header(self, connection: sqlite3.Connection) -> None:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application_id != _APPLICATION_ID:
            raise CheckpointError(f"{self._path} is not a state file of streamcore; give the name of one, or of a new file")
        if version != _VERSION:
            text = f"{self._path} was written by a newer version of streamcore: its format is {version}, this version reads {_VERSION}"
            raise CheckpointError(f"{text}; update streamcore, or use another file")

    def _check_contents(self) -> None:
        with self._explained("open"):
            connection = self._connection
            if not self._read_only:
                # A rollback journal, not a write-ahead log: between two saves the state is one file, which can be copied, and read without
                # writing anything. EXTRA waits for the disk at each step of a commit and when the journal's name goes, so that what `save`
                # has confirmed outlasts a power failure. A save takes some fsyncs; there is one a second by default, for all shards.
                connection.execute("PRAGMA synchronous = EXTRA")
                if self._is_empty():
                    with self._transaction():
                        if self._is_empty():  # another process may have been faster
                            for statement in _SCHEMA:
                                connection.execute(statement)
            self._check_header(connection)
            if not self._read_only:
                connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            problems = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            connection.execute("SELECT mapping_uuid, stream_identity, shard_id, token, blob, saved_at_ms FROM checkpoint").close()
            connection.execute("SELECT mapping_uuid, owner, host, pid FROM holder").close()
        if problems != "ok":
            raise CheckpointError(self._damaged(problems))

    def _is_empty(self) -> bool:
        empty: bool = self._connection.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0] == 1
        return empty and self._connection.execute("PRAGMA application_id").fetchone()[0] == 0

    def _opened_lockfile(self) -> LockFile:
        path = f"{self._path}.lock"
        try:
            return LockFile(path)
        except OSError as error:
            text = f"{path}, which says who uses {self._path.name}, cannot be opened: {error.strerror}; choose a folder that can be written"
            raise CheckpointError(text) from error

    # Claims

    def _acquire(self, mapping_uuid: str) -> bool:
        if self._lockfile is None:
            raise CheckpointError(f"{self._path} is open for reading only")
        try:
            return self._lockfile.acquire(mapping_uuid)
        except OSError as error:
            text = f"{self._path}.lock cannot be locked: {error.strerror}; keep the state file on a local disk"
            raise CheckpointError(text) from error

    def _claimed(self, key: CheckpointKey, owner: str) -> Claim:
        token = uuids.uuid4().hex
        mapping_uuid, identity, shard_id = key.mapping_uuid, key.stream_identity, key.shard_id
        with self._transaction() as connection:
            others = connection.execute(
                "SELECT DISTINCT stream_identity FROM checkpoint "
                "WHERE mapping_uuid = ? AND stream_identity <> ? AND blob IS NOT NULL ORDER BY stream_identity",
                (mapping_uuid, identity),
            ).fetchall()
            ((blob,),) = connection.execute(
                "INSERT INTO checkpoint (mapping_uuid, stream_identity, shard_id, token) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET token = excluded.token RETURNING blob",
                (mapping_uuid, identity, shard_id, token),
            ).fetchall()
            connection.execute("REPLACE INTO holder VALUES (?, ?, ?, ?)", (mapping_uuid, owner, socket.gethostname(), os.getpid()))
        return Claim(blob, token, tuple(other for (other,) in others))

    def _release_mapping_if_unused(self, mapping_uuid: str) -> None:
        if not any(key.mapping_uuid == mapping_uuid for key in self._tokens):
            self._owners.pop(mapping_uuid, None)
            if self._lockfile is not None:
                self._lockfile.release(mapping_uuid)

    def _claim_error(self, mapping_uuid: str) -> ClaimError:
        row = self._connection.execute("SELECT pid, host, owner FROM holder WHERE mapping_uuid = ?", (mapping_uuid,)).fetchone()
        by = f"process {row[0]} on host {row[1]} ({row[2]})" if row else "another process"
        return ClaimError(f"{self._path}: mapping {mapping_uuid} is in use by {by}; stop that, or use another state file")

    # Calls of SQLite

    @contextlib.contextmanager
    def _using(self, doing: str) -> Iterator[None]:
        if self._pid != os.getpid():
            raise ForkError(f"the checkpoint store of {self._path} was made before this process was forked; make a new one")
        with self._lock:
            if self._closed:
                raise CheckpointError(f"{self._path}: cannot {doing}, the store is closed")
            with self._explained(doing):
                yield

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        if self._read_only:
            raise CheckpointError(f"{self._path}: cannot {doing}, the store is open for reading only")
        with self._using(doing):
            yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the first error says more
                    connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn what SQLite raises into a CheckpointError that says what would be right."""
        try:
            yield
        except sqlite3.Error as error:
            # Errors of Python's module itself have no name.
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_NOTADB"):
                text = f"{self._path} is not a state file of streamcore; give the name of one, or of a new file"
            elif name.startswith("SQLITE_CORRUPT") or str(error).startswith("no such"):
                text = self._damaged(str(error))
            elif name.startswith("SQLITE_FULL"):
                text = f"{self._path}: cannot {doing}, the disk is full; free some space"
            elif name.startswith("SQLITE_BUSY"):
                wait = f"{_BUSY_TIMEOUT_SECONDS:g} s"
                text = f"{self._path}: cannot {doing}, another program has locked the file for more than {wait}; close that program"
            elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
                text = f"{self._path}: cannot {doing}, {error}; make the file and its folder writable, or use another file"
            else:
                text = f"{self._path}: cannot {doing}, {error} ({name}); is the disk full or failing?"
            raise CheckpointError(text) from error

    def _damaged(self, problem: str) -> str:
        return f"{self._path} is damaged ({problem}); put back a copy of it, or move it away to begin anew"
