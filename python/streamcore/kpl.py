"""Records that the Kinesis Producer Library has aggregated, for handlers and for tests.

The producer library packs many user records into one Kinesis record. Lambda hands such a record to the function as it is when it reads the
shards itself, without enhanced fan-out, and so does streamcore; the handler takes it apart (Kinesis developer guide, "Consumer
De-aggregation"):

    from streamcore.kpl import deaggregate

    def handler(event, context):
        for record in deaggregate(event["Records"]):
            ...

The format is public (`aggregation-format.md` of awslabs/amazon-kinesis-producer): four magic bytes, an `AggregatedRecord` in protocol
buffers, and the MD5 of that. A record that has another form, also one that is damaged, is one plain record, as it is for the
Kinesis Client Library; it is never an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["MAGIC", "UserRecord", "aggregate", "deaggregate", "split"]

MAGIC = b"\xf3\x89\x9a\xc2"
"""What an aggregated record begins with."""

_DIGEST_SIZE = 16
# The first five characters of the Base64 text of every aggregate: 30 of the 32 bits of the magic. Most records need no decoding.
_MAGIC_TEXT = base64.b64encode(MAGIC)[:5].decode()
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_NESTING_MAX = 100  # of groups, as in Google's parsers


@dataclass(frozen=True, slots=True)
class UserRecord:
    """One record as the producer wrote it, before it was aggregated.

    Attributes:
        partition_key: its own partition key, which may differ from that of the record around it.
        data: its payload.
        explicit_hash_key: its own hash key as decimal text; None where the partition key decides.
    """

    partition_key: str
    data: bytes
    explicit_hash_key: str | None = None


def deaggregate(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the records of a Kinesis event with every aggregate taken apart, in order.

    A user record becomes a copy of the event record around it, with the user record's own `partitionKey` and `data` and one key more in
    `kinesis`: `subSequenceNumber`, its place in the aggregate counted from 0, as the Kinesis Client Library counts. `sequenceNumber`,
    `eventID` and the arrival time are those of the record around it. An answer with `batchItemFailures` can therefore name the whole
    aggregate only, and all of it comes again. What is no aggregate comes out as it went in. An aggregate may hold no user record.

    Hash keys are not compared with the shard's range, which an event does not tell: after a split, a user record may come out here
    that the Kinesis Client Library would leave out.

    Args:
        records: `event["Records"]`. They are not changed.

    Example:
        >>> import base64
        >>> packed = aggregate([UserRecord("ann", b"1"), UserRecord("bob", b"2")])
        >>> event = {"Records": [{"kinesis": {"partitionKey": "a", "sequenceNumber": "7", "data": base64.b64encode(packed).decode()}}]}
        >>> for record in deaggregate(event["Records"]):
        ...     kinesis = record["kinesis"]
        ...     print(kinesis["partitionKey"], base64.b64decode(kinesis["data"]), kinesis["sequenceNumber"], kinesis["subSequenceNumber"])
        ann b'1' 7 0
        bob b'2' 7 1
    """
    for record in records:
        outer = record["kinesis"]
        inner = _split_text(outer["data"])
        if inner is None:
            yield dict(record)
            continue
        for number, user in enumerate(inner):
            kinesis = {
                **outer,
                "partitionKey": user.partition_key,
                "data": base64.b64encode(user.data).decode(),
                "subSequenceNumber": number,
            }
            yield {**record, "kinesis": kinesis}


def split(data: bytes) -> list[UserRecord] | None:
    """Return the user records of an aggregate, in order; None where `data` is no aggregate, or a damaged one.

    Damaged is: a digest that does not match, protocol buffers that cannot be read or lack a required field, a key that is not in its
    table or is not UTF-8. Unknown fields are passed over, as protocol buffers have it.

    Example:
        >>> split(aggregate([UserRecord("ann", b"hello")]))
        [UserRecord(partition_key='ann', data=b'hello', explicit_hash_key=None)]
        >>> split(b"a plain record") is None
        True
    """
    data = bytes(data)
    body = data[len(MAGIC) : -_DIGEST_SIZE]
    # An empty body is not taken for an aggregate by the Kinesis Client Library either.
    if not data.startswith(MAGIC) or not body or hashlib.md5(body, usedforsecurity=False).digest() != data[-_DIGEST_SIZE:]:
        return None
    try:
        return _read_aggregate(body)
    except (_DamagedError, IndexError, UnicodeDecodeError):
        return None


def aggregate(records: Iterable[UserRecord]) -> bytes:
    """Return the user records as one aggregate, byte for byte as the producer library writes it; for tests and emulators.

    Its size is not limited here; Kinesis limits that of a record. The producer library puts an aggregate under the partition key of
    its first user record, and under that record's hash key.

    Raises:
        ValueError: there is no record; what stands for no record is not taken for an aggregate.

    Example:
        >>> aggregate([UserRecord("ann", b"hello")])[:4] == MAGIC
        True
    """
    partition_keys: dict[str, int] = {}
    hash_keys: dict[str, int] = {}
    written = bytearray()
    for record in records:
        message = _field(1, partition_keys.setdefault(record.partition_key, len(partition_keys)))
        if record.explicit_hash_key is not None:
            message += _field(2, hash_keys.setdefault(record.explicit_hash_key, len(hash_keys)))
        written += _field(3, message + _field(3, record.data))
    if not written:
        raise ValueError("an aggregate needs at least one record")
    tables = b"".join(_field(1, key.encode()) for key in partition_keys) + b"".join(_field(2, key.encode()) for key in hash_keys)
    body = tables + bytes(written)
    return MAGIC + body + hashlib.md5(body, usedforsecurity=False).digest()


def _split_text(text: str) -> list[UserRecord] | None:
    """Return what `split` returns for the decoded text."""
    if not text.startswith(_MAGIC_TEXT):
        return None
    try:
        return split(base64.b64decode(text, validate=True))
    except binascii.Error:
        return None


# Protocol buffers, as far as two messages need them (protobuf.dev, "Encoding").


class _DamagedError(ValueError):
    """The bytes are not the message that they should be."""


def _read_aggregate(body: bytes) -> list[UserRecord]:
    partition_keys: list[str] = []
    hash_keys: list[str] = []
    messages: list[tuple[int, int | None, bytes]] = []
    for number, wire, value in _fields(body):
        if wire != _BYTES or not isinstance(value, bytes):
            continue
        if number == 1:
            partition_keys.append(value.decode())
        elif number == 2:
            hash_keys.append(value.decode())
        elif number == 3:
            messages.append(_read_record(value))
    # The tables may stand behind the records.
    return [UserRecord(partition_keys[key], data, None if hash_key is None else hash_keys[hash_key]) for key, hash_key, data in messages]


def _read_record(body: bytes) -> tuple[int, int | None, bytes]:
    key: int | None = None
    hash_key: int | None = None
    data: bytes | None = None
    for number, wire, value in _fields(body):
        if isinstance(value, int):
            if (number, wire) == (1, _VARINT):
                key = value
            elif (number, wire) == (2, _VARINT):
                hash_key = value
        elif (number, wire) == (3, _BYTES):
            data = value
        elif (number, wire) == (4, _BYTES):
            _check_tag(value)
    if key is None or data is None:
        raise _DamagedError("a required field of a record is missing")
    return key, hash_key, data


def _check_tag(body: bytes) -> None:
    """Refuse a damaged tag. Producers write none, and nobody reads them."""
    named = False
    for number, wire, value in _fields(body):
        if wire == _BYTES and isinstance(value, bytes) and number in (1, 2):
            value.decode()
            named |= number == 1
    if not named:
        raise _DamagedError("the key of a tag is missing")


def _fields(body: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield number, wire type and value of each field; groups are passed over, and fixed-size values come as their bytes."""
    at, groups = 0, list[int]()
    while at < len(body):
        tag, at = _varint(body, at)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise _DamagedError(f"there is no field {number}")
        value: int | bytes = b""
        if wire == _VARINT:
            value, at = _varint(body, at)
        elif wire in (_FIXED64, _FIXED32, _BYTES):
            size = 8 if wire == _FIXED64 else 4
            if wire == _BYTES:
                size, at = _varint(body, at)
            value, at = body[at : at + size], at + size
            if at > len(body):
                raise _DamagedError("a field is longer than its message")
        elif wire == _GROUP:
            groups.append(number)
            if len(groups) > _NESTING_MAX:
                raise _DamagedError("groups are nested too deeply")
            continue
        elif wire != _END_GROUP or not groups or groups.pop() != number:
            raise _DamagedError(f"field {number} has wire type {wire}")
        else:
            continue
        if not groups:
            yield number, wire, value
    if groups:
        raise _DamagedError("a group does not end")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number of at most 64 bits that begins at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise _DamagedError("a number is cut off")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise _DamagedError("a number is longer than ten bytes")


def _field(number: int, value: int | bytes) -> bytes:
    """Return a field: an integer, or bytes with their length."""
    if isinstance(value, int):
        return _number(number << 3 | _VARINT) + _number(value)
    return _number(number << 3 | _BYTES) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
