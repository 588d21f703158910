"""What the machine and Python take for the same work at the least, to set the bars' figures beside.

Nothing of streamcore runs in these rows, apart from those that are named so: they are what no event source mapping in Python comes below.
"""

from __future__ import annotations

import base64
import functools
import marshal
import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

import paths
from bars import PAYLOADS, kinesis_pages
from measure import Measurement, Sizes, by_turns, cpu_ratios, measurement
from streamcore import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH_SIZE = 100
CALLS = 20_000
COPY, COPIES = "copy of the body", "copy of the body and of the events"
IN_PLACE = f"{COPIES}, into memory that is there"
P1, P4 = "streamcore, body to event bytes (P1)", "streamcore, body to dicts (P4)"
LOADS, MARSHAL = "orjson.loads of the events", "marshal.loads of the events"
DECODED, LOADS_DECODED = f"{P4}, a handler that decodes payloads", f"{LOADS}, the same handler"
BESIDE = [(P1, COPIES), (P4, MARSHAL), (P4, LOADS), (DECODED, P4)]


def copy_in_place(texts: list[np.ndarray[Any, Any]], room: np.ndarray[Any, Any]) -> None:
    """The same without asking the system for memory: what the machine's memory gives."""
    for text in texts:
        np.copyto(room[: len(text)], text)


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
        arrays = [np.frombuffer(text, dtype=np.uint8) for text in (*pages, *made)]
        room = np.zeros(max(map(len, arrays)), dtype=np.uint8)
        ways: dict[str, Callable[[], object]] = {
            IN_PLACE: functools.partial(copy_in_place, arrays, room),
            COPY: functools.partial(paths.copy_all, pages),
            COPIES: functools.partial(paths.copy_all, [*pages, *made]),
            P1: functools.partial(paths.drive, pages, 1000, Batch.json),
            "orjson.loads of the body": functools.partial(paths.load_all, pages),
            MARSHAL: functools.partial(unmarshal_all, marshalled),
            LOADS: functools.partial(paths.load_all, made),
            P4: functools.partial(paths.drive, pages, BATCH_SIZE, paths.events),
            DECODED: functools.partial(paths.drive, pages, BATCH_SIZE, lambda batch: decode(batch.event())),
            LOADS_DECODED: functools.partial(decode_all, made),
        }
        taken = by_turns(ways, sizes.rounds)
        for way, turns in taken.items():
            values = [turn.cpu / sizes.records * 1e9 for turn in turns]
            yield measurement(values, part="limits", name=f"{name}, {way}", unit="ns a record")
        for way, beside in BESIDE:
            yield measurement(cpu_ratios(taken, way, beside), part="limits", name=f"{name}, {way}, beside {beside}", unit="times")
        body, all_bytes = sum(map(len, pages)), sum(map(len, pages)) + sum(map(len, made))
        for way, count in ((IN_PLACE, all_bytes), (COPY, body), (COPIES, all_bytes)):
            rates = [2 * count / turn.cpu / 1e9 for turn in taken[way]]
            yield measurement(rates, part="limits", name=f"{name}, {way}, bytes read and written", unit="GB/s")

    calls = by_turns({"an empty handler called": call_often, "a value to another thread and back": hand_over_often}, sizes.rounds)
    for way, turns in calls.items():
        yield measurement([turn.wall / CALLS * 1e9 for turn in turns], part="limits", name=f"one batch, {way}", unit="ns by the clock")


def call_often() -> None:
    """Call an empty handler from Python."""
    event: dict[str, Any] = {}
    for _ in range(CALLS):
        paths.handler(event, None)


def hand_over_often() -> None:
    """Give a value to another thread and wait for it to come back: what each batch costs where one thread polls and another one invokes."""
    there: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    back: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def other() -> None:
        while (value := there.get()) is not None:
            back.put(value)

    thread = threading.Thread(target=other)
    thread.start()
    for number in range(CALLS):
        there.put(number)
        back.get()
    there.put(None)
    thread.join()


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
