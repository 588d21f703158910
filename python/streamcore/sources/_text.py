"""Reads a plain, gzip or zip file as chunks of whole lines, in constant memory.

Knows bytes and line numbers only; what a line means is `_records`' part.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from streamcore.errors import SourceError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

__all__ = ["RECORD_BYTES_MAX", "Lines", "open_text"]

CHUNK_BYTES = 256 * 1024
RECORD_BYTES_MAX = 16 * 1024 * 1024
"""The longest line, and the longest CSV record over several lines. A Kinesis record has at most 10 MiB."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = b"PK\x03\x04"
_BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)


class Lines:
    """What remains of a file, handed out in chunks of whole lines. Used by one thread at a time."""

    def __init__(self, name: str, inner_name: str, raw: io.BufferedIOBase, owned: list[Callable[[], None]]) -> None:
        self.name = name
        self.inner_name = inner_name
        """The name of the unpacked file: a zip's member, or the path without .gz."""
        self.number = 1
        """The 1-based number of the next line that `chunk` gives."""
        self._raw = raw
        self._owned = owned
        self._rest = b""
        self._eof = False
        self._failure: str | None = None
        self._fill(4)
        if self._rest.startswith(b"\xef\xbb\xbf"):
            self._rest = self._rest[3:]

    def chunk(self) -> bytes:
        """Return the next whole lines, about 256 KiB of them or one longer line; empty at the end.

        Every line but the last of the file ends in LF.

        Raises:
            SourceError: the file cannot be read on. Lines before the fault have been handed out.
        """
        self._fill(CHUNK_BYTES)
        while b"\n" not in self._rest and not self._eof and self._failure is None:
            if len(self._rest) > RECORD_BYTES_MAX:
                raise SourceError(f"{self.name}:{self.number}: the line is longer than {RECORD_BYTES_MAX} bytes")
            self._fill(len(self._rest) + CHUNK_BYTES)
        cut = len(self._rest) if self._eof else self._rest.rfind(b"\n") + 1
        if cut == 0 and self._failure is not None:
            raise SourceError(f"{self.name}:{self.number}: {self._failure}")
        data, self._rest = self._rest[:cut], self._rest[cut:]
        self.number += data.count(b"\n")
        return data

    def give_back(self, data: bytes) -> None:
        """Take back the end of what `chunk` gave last; it must begin at the start of a line."""
        self.number -= data.count(b"\n")
        self._rest = data + self._rest

    def skip_to(self, number: int) -> None:
        """Skip whole lines until line `number` is the next one, or the file ends. Only counts, decodes nothing."""
        while self.number < number:
            before = self.number
            data = self.chunk()
            if not data:
                return
            if self.number > number:
                at = -1
                for _ in range(number - before):
                    at = data.find(b"\n", at + 1)
                self.give_back(data[at + 1 :])

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        while self._owned:
            self._owned.pop()()

    def _fill(self, size: int) -> None:
        # read1 and not read: a compressed file that is cut off gives all it has before it fails.
        parts = [self._rest]
        held = len(self._rest)
        while held < size and not self._eof and self._failure is None:
            try:
                data = self._raw.read1(CHUNK_BYTES)
            except EOFError:
                self._failure = "the compressed data ends too early; the file is cut off"
            except _BROKEN as error:
                self._failure = f"the file cannot be read on: {error}"
            else:
                parts.append(data)
                held += len(data)
                self._eof = not data
        self._rest = b"".join(parts)


def open_text(path: str, member: str | None) -> Lines:
    """Open a file at its first line. What it is packed in is told by its first bytes.

    Raises:
        SourceError: the file is not there, cannot be opened, or is a zip without exactly the one member that is meant.
    """
    owned: list[Callable[[], None]] = []
    try:
        plain = Path(path).open("rb")  # noqa: SIM115  (closed by Lines.close)
        owned.append(plain.close)
        return _unpacked(path, member, plain, owned)
    except SourceError:
        _close(owned)
        raise
    except _BROKEN as error:
        _close(owned)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(f"{path}: {reason}") from error


def _unpacked(path: str, member: str | None, plain: io.BufferedReader, owned: list[Callable[[], None]]) -> Lines:
    magic = plain.peek(4)[:4]
    extension = Path(path).suffix.lower()
    if magic == _ZIP_MAGIC or extension == ".zip":
        archive = zipfile.ZipFile(plain)
        owned.append(archive.close)
        inner = _member(path, archive, member)
        packed = cast("io.BufferedIOBase", archive.open(inner))
        owned.append(packed.close)
        return Lines(path, inner, packed, owned)
    if member is not None:
        raise SourceError(f"{path}: member={member} is for zip files, and this is none")
    if magic[:2] == _GZIP_MAGIC:
        unpacked = gzip.GzipFile(fileobj=plain, mode="rb")
        owned.append(unpacked.close)
        return Lines(path, path[:-3] if extension == ".gz" else path, unpacked, owned)
    if extension == ".gz":
        raise SourceError(f"{path}: named .gz, but it does not begin as a gzip file does")
    return Lines(path, path, plain, owned)


def _member(path: str, archive: zipfile.ZipFile, member: str | None) -> str:
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if member is None:
        if len(names) == 1:
            return names[0]
        raise SourceError(f"{path}: the zip holds {len(names)} files, say which with member=NAME: {', '.join(names[:10]) or 'none'}")
    if member not in names:
        raise SourceError(f"{path}: the zip has no member {member!r}; it holds: {', '.join(names[:10]) or 'nothing'}")
    return member


def _close(owned: list[Callable[[], None]]) -> None:
    while owned:
        owned.pop()()
