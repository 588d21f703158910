"""The event stream encoding: whatever the pieces that the bytes come in, and whatever is wrong with them."""

from __future__ import annotations

import struct
import zlib

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout_server import encode
from streamcore.sources._eventstream import EventStreamError, Message, MessageReader

# One of each type but the string: true, false, byte, short, integer, long, bytes, timestamp, UUID.
OTHER_HEADERS = b"".join(
    bytes([1, 97 + kind, kind]) + value
    for kind, value in [
        (0, b""),
        (1, b""),
        (2, b"\x01"),
        (3, b"\x01\x02"),
        (4, bytes(4)),
        (5, bytes(8)),
        (6, b"\x00\x03abc"),
        (8, bytes(8)),
        (9, bytes(16)),
    ]
)

messages = st.lists(
    st.tuples(st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=40), max_size=4), st.binary(max_size=100)), max_size=4
)


def framed(block: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return message + struct.pack(">I", zlib.crc32(message))


@settings(max_examples=40)
@given(messages, st.data())
def test_messages_come_out_whatever_the_pieces(sent: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    whole = b"".join(encode(headers, payload) for headers, payload in sent)
    expected = [Message(headers, payload) for headers, payload in sent]
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=10).map(sorted))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    for feed in (pieces, [whole], [bytes([byte]) for byte in whole]):
        reader = MessageReader()
        assert [message for piece in feed for message in reader.feed(piece)] == expected
        assert not reader.partial


@settings(max_examples=40)
@given(messages)
def test_messages_are_read_as_botocore_reads_them(sent: list[tuple[dict[str, str], bytes]]) -> None:
    whole = b"".join(encode(headers, payload) for headers, payload in sent)
    theirs = EventStreamBuffer()
    theirs.add_data(whole)
    assert list(MessageReader().feed(whole)) == [Message(message.headers, message.payload) for message in theirs]


@given(st.binary(max_size=60), st.data())
def test_a_bit_that_is_wrong_is_found(payload: bytes, data: st.DataObject) -> None:
    whole = bytearray(encode({":message-type": "event", ":event-type": "SubscribeToShardEvent"}, payload))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(EventStreamError, match="checksum"):
        list(MessageReader().feed(bytes(whole)))


@given(st.binary(max_size=60), st.data())
def test_a_message_that_is_cut_off_is_not_given_out(payload: bytes, data: st.DataObject) -> None:
    whole = encode({":message-type": "event"}, payload)
    reader = MessageReader()
    assert list(reader.feed(whole[: data.draw(st.integers(1, len(whole) - 1))])) == []
    assert reader.partial


def test_headers_of_other_types_are_passed_over() -> None:
    block = OTHER_HEADERS + b"\x04name\x07\x00\x05value" + OTHER_HEADERS
    assert list(MessageReader().feed(framed(block, b"{}"))) == [Message({"name": "value"}, b"{}")]


@pytest.mark.parametrize(
    "block",
    [
        b"\x01",
        b"\x01a",
        b"\x01a\x0a",
        b"\x01a\x07\x00",
        b"\x01a\x07\x00\x05abc",
        b"\x01a\x02",
        b"\x01a\x06\x00\x09",
        b"\x01a\x07\x00\x01\xff",
    ],
    ids=["no-name", "no-type", "unknown-type", "no-length", "short-text", "short-byte", "short-bytes", "not-utf-8"],
)
def test_headers_that_cannot_be_read_are_an_error(block: bytes) -> None:
    with pytest.raises(EventStreamError, match="headers"):
        list(MessageReader().feed(framed(block, b"")))


@pytest.mark.parametrize(("size", "headers"), [(15, 0), (16, 1), (2**25, 0), (2**20, 2**18)], ids=["small", "headers", "large", "long"])
def test_a_length_that_cannot_be_is_an_error(size: int, headers: int) -> None:
    prelude = struct.pack(">II", size, headers)
    with pytest.raises(EventStreamError, match=f"a message has {size} bytes with {headers} bytes of headers"):
        list(MessageReader().feed(prelude + struct.pack(">I", zlib.crc32(prelude))))
