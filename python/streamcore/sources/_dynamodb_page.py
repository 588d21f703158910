"""Records of DynamoDB Streams that are Python objects, made into a page."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from streamcore._streamcore import Page
from streamcore.errors import PageError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["dynamodb_page"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND = dt.timedelta(seconds=1)


def dynamodb_page(records: Iterable[Mapping[str, Any] | str | bytes]) -> Page:
    """Make a page of records of DynamoDB Streams that do not come as the body of an answer; for emulators, and for tests.

    Events made of it have the same bytes as those of the same records from the wire.

    Args:
        records: in order, each as a dict or as JSON text, with the members that GetRecords answers with: `eventName`, `dynamodb` and in
            it `Keys`, `SequenceNumber` and `ApproximateCreationDateTime`; `eventID` (made of the sequence number where there is none),
            `userIdentity`, images and all else as there are. A dict may hold what boto3 gives and what emulators keep: times as datetime
            (one without a time zone is UTC), int, float or Decimal seconds; sequence numbers as int; in typed attributes
            `N` and `NS` as Decimal or int, `B` and `BS` as bytes (str is base64 already), sets as set, frozenset, list or tuple.
            A set has no order, so its elements are sorted.

    Raises:
        PageError: a record cannot be one; `offset` is its index.

    Example:
        >>> page = dynamodb_page([{
        ...     "eventID": "7de3041dd709b024af6f29e4fa13d34c",
        ...     "eventName": "INSERT",
        ...     "dynamodb": {
        ...         "ApproximateCreationDateTime": 1769774405,
        ...         "Keys": {"Id": {"N": Decimal(101)}},
        ...         "SequenceNumber": "400000000000000499660",
        ...     },
        ... }])
        >>> len(page), page.last_sequence_number
        (1, '400000000000000499660')
    """
    texts: list[str] = []
    for index, record in enumerate(records):
        try:
            texts.append(_text(record))
        except (TypeError, ValueError) as error:
            raise PageError(f"record {index}: {error}", index) from None
    try:
        return _page(texts)
    except PageError:
        for index, text in enumerate(texts):
            try:
                _page([text])
            except PageError as error:
                raise PageError(f"record {index}: {error}", index) from None
        raise


def _page(texts: list[str]) -> Page:
    return Page.parse(f'{{"Records":[{",".join(texts)}]}}'.encode(), "dynamodb")


def _text(record: Mapping[str, Any] | str | bytes) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, bytes):
        return record.decode()
    if not isinstance(record, Mapping):
        raise TypeError(f"a record is a dict or JSON text, not {type(record).__name__}")
    wire = dict(record)
    change = wire.get("dynamodb")
    if isinstance(change, Mapping):
        wire["dynamodb"] = {name: _member(name, value) for name, value in change.items()}
    return json.dumps(wire, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_other)


def _member(name: str, value: Any) -> Any:
    """Return a member of the `dynamodb` object as the wire has it."""
    if value is None:
        return None
    if name in ("Keys", "NewImage", "OldImage"):
        return _item(name, value)
    if name == "ApproximateCreationDateTime":
        return _seconds(value)
    if name == "SequenceNumber" and isinstance(value, int):
        return str(value)
    return value


def _seconds(value: Any) -> Any:
    """Return whole seconds since the epoch, which is what events have."""
    if isinstance(value, dt.datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=dt.UTC)) - _EPOCH) // _SECOND
    if isinstance(value, Decimal):
        return int(value // 1)
    return value


def _item(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise TypeError(f"{where} is a dict of attributes, not {type(item).__name__}")
    return {name: _attribute(f"{where}.{name}", value) for name, value in item.items()}


def _attribute(where: str, typed: Any) -> dict[str, Any]:
    if not isinstance(typed, Mapping) or len(typed) != 1:
        raise TypeError(f"{where} is a typed attribute like {{'S': 'text'}}, not {typed!r}")
    ((kind, value),) = typed.items()
    if kind == "N":
        value = _number(where, value)
    elif kind == "B":
        value = _binary(where, value)
    elif kind == "M":
        value = _item(where, value)
    elif kind == "L":
        value = [_attribute(f"{where}[{index}]", element) for index, element in enumerate(value)]
    elif kind in ("SS", "NS", "BS"):
        one = {"SS": _string, "NS": _number, "BS": _binary}[kind]
        elements = [one(where, element) for element in value]
        value = sorted(elements) if isinstance(value, (set, frozenset)) else elements
    elif kind == "S":
        value = _string(where, value)
    elif kind not in ("BOOL", "NULL"):
        raise ValueError(f"{where} has the type {kind!r}; the types are S, N, B, BOOL, NULL, L, M, SS, NS, BS")
    return {kind: value}


def _string(where: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{where} is a string, not {value!r}")


def _number(where: str, value: Any) -> str:
    if isinstance(value, (str, int, Decimal)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{where} is a number as str, int or Decimal, not {value!r}")


def _binary(where: str, value: Any) -> str:
    value = getattr(value, "value", value)  # boto3's own Binary
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    raise TypeError(f"{where} is binary data as bytes, or base64 text, not {value!r}")


def _other(value: object) -> object:
    """Return what stands for a value that JSON does not have, outside of typed attributes."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dt.datetime):
        return _seconds(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} has no place in a record")
