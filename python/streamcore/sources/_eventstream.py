"""Messages of AWS's event stream encoding, as SubscribeToShard sends them (Transcribe developer guide, "Event stream encoding").

A message is: its length and that of its headers, the CRC-32 of these two; the headers; the payload; the CRC-32 of all before it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamcore.errors import StreamcoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventStreamError", "Message", "MessageReader"]

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_OVERHEAD = _PRELUDE.size + _CRC.size
_HEADERS_MAX = 128 * 1024
_PAYLOAD_MAX = 24 * 1024 * 1024  # as AWS's SDKs have it

# Sizes of the header types whose size is fixed: true, false, byte, short, integer, long, timestamp, UUID.
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _STRING = 6, 7


class EventStreamError(StreamcoreError, ValueError):
    """The bytes are no messages: a checksum, a length or a header is wrong. What follows them cannot be read either."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        headers: those whose value is a string, which all of SubscribeToShard's are.
        payload: the body.
    """

    headers: dict[str, str] = field(default_factory=dict)
    payload: bytes = b""


class MessageReader:
    """Makes messages of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._size = 0  # of the message at the front; 0 while its prelude is not there

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes in, and yield the messages that they complete.

        Raises:
            EventStreamError: the bytes are no messages.

        Example:
            >>> import struct, zlib
            >>> prelude = struct.pack(">II", 16 + 2, 0)
            >>> message = prelude + struct.pack(">I", zlib.crc32(prelude)) + b"{}"
            >>> message += struct.pack(">I", zlib.crc32(message))
            >>> reader = MessageReader()
            >>> list(reader.feed(message[:10])), list(reader.feed(message[10:]))
            ([], [Message(headers={}, payload=b'{}')])
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _PRELUDE.size:
            if not self._size:
                self._size = _message_size(buffer)
            if len(buffer) < self._size:
                return
            message = bytes(memoryview(buffer)[: self._size])
            del buffer[: self._size]
            self._size = 0
            yield _message(message)


def _message_size(buffer: bytearray) -> int:
    size, headers_size, checksum = _PRELUDE.unpack_from(buffer)
    if zlib.crc32(memoryview(buffer)[:8]) != checksum:
        raise EventStreamError("the checksum of a message's lengths does not match")
    if headers_size > _HEADERS_MAX or not _OVERHEAD + headers_size <= size <= _OVERHEAD + headers_size + _PAYLOAD_MAX:
        raise EventStreamError(f"a message has {size} bytes with {headers_size} bytes of headers, which cannot be")
    return int(size)


def _message(message: bytes) -> Message:
    end = len(message) - _CRC.size
    if zlib.crc32(memoryview(message)[:end]) != _CRC.unpack_from(message, end)[0]:
        raise EventStreamError("the checksum of a message does not match")
    headers_end = _PRELUDE.size + _PRELUDE.unpack_from(message)[1]
    return Message(_headers(message[_PRELUDE.size : headers_end]), message[headers_end:end])


def _headers(block: bytes) -> dict[str, str]:
    """Return the headers that are strings."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            name, at = _text(block, at + 1, block[at])
            kind, at = block[at], at + 1
            if kind in (_BYTES, _STRING):
                size = int.from_bytes(block[at : at + 2])
                value, at = _text(block, at + 2, size) if kind == _STRING else (None, at + 2 + size)
                if value is not None:
                    found[name] = value
            else:
                at += _FIXED[kind]
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise EventStreamError("the headers of a message cannot be read") from error
    if at != len(block):
        raise EventStreamError("the headers of a message are longer than they say")
    return found


def _text(block: bytes, at: int, size: int) -> tuple[str, int]:
    if at + size > len(block):
        raise IndexError(at)
    return block[at : at + size].decode(), at + size
