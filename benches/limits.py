"""What the machine and Python take for the same work at the least, to set the bars' figures beside.

Nothing of streamcore runs in these rows, apart from those that are named so: they are what no event source mapping in Python comes below.
"""

from __future__ import annotations

import base64
import functools
import marshal
from typing import TYPE_CHECKING, Any

import orjson

import paths
from bars import PAYLOADS, kinesis_pages
from measure import Measurement, Sizes, by_turns, measurement
from streamcore import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH_SIZE = 100


def copy_all(texts: list[bytes]) -> int:
    """Read every byte once and write it once."""
    return sum(len(bytearray(text)) for text in texts)


def decode_all(texts: list[bytes]) -> None:
    """What a handler does that wants its payloads: parse the event, decode each payload."""
    for text in texts:
        decode(orjson.loads(text))


def decode(event: dict[str, Any]) -> int:
    """Decode each payload of an event."""
    return sum(len(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"])


def unmarshal_all(values: list[bytes]) -> None:
    """Make the same dicts with what reads Python's compiled files: nothing is parsed, and equal texts of an event are one object."""
    for value in values:
        paths.handler(marshal.loads(value))  # noqa: S302  (made here)


def limits(sizes: Sizes) -> Iterator[Measurement]:
    """Copies of the same bytes, and the same dicts made by other means, beside what streamcore takes."""
    for name, payload_bytes in PAYLOADS.items():
        pages = kinesis_pages(sizes.records, payload_bytes)
        made = paths.event_bytes(pages, BATCH_SIZE)
        marshalled = [marshal.dumps(interned(orjson.loads(text))) for text in made]
        ways: dict[str, Callable[[], object]] = {
            "copy of the body": functools.partial(copy_all, pages),
            "copy of the body and of the events": lambda pages=pages, made=made: (copy_all(pages), copy_all(made)),  # type: ignore[misc]
            "streamcore, body to event bytes (P1)": functools.partial(paths.drive, pages, 1000, Batch.json),
            "orjson.loads of the body": functools.partial(paths.load_all, pages),
            "marshal.loads of the events": functools.partial(unmarshal_all, marshalled),
            "orjson.loads of the events": functools.partial(paths.load_all, made),
            "streamcore, body to dicts (P4)": functools.partial(paths.drive, pages, BATCH_SIZE, paths.events),
            "streamcore, body to dicts, payloads decoded by the handler": functools.partial(
                paths.drive, pages, BATCH_SIZE, lambda batch: decode(batch.event())
            ),
            "orjson.loads of the events, payloads decoded": functools.partial(decode_all, made),
        }
        taken = by_turns(ways, sizes.rounds)
        for way, turns in taken.items():
            values = [turn.cpu / sizes.records * 1e9 for turn in turns]
            yield measurement(values, part="limits", name=f"{name}, {way}", unit="ns a record")
        body, all_bytes = sum(map(len, pages)), sum(map(len, pages)) + sum(map(len, made))
        for way, count in (("copy of the body", body), ("copy of the body and of the events", all_bytes)):
            rates = [2 * count / turn.cpu / 1e9 for turn in taken[way]]
            yield measurement(rates, part="limits", name=f"{name}, {way}, bytes read and written", unit="GB/s")


def interned(value: Any) -> Any:
    """Return the value with one object for equal texts, which marshal writes once."""
    texts: dict[str, str] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {texts.setdefault(name, name): walk(below) for name, below in value.items()}
        if isinstance(value, list):
            return [walk(below) for below in value]
        return texts.setdefault(value, value) if isinstance(value, str) else value

    return walk(value)
