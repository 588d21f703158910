"""Texts and lists of events are made in place, in memory of Python's.

Its debug allocator looks whether a byte beside it was touched, and whoever asks the collector for all objects sees no list that is half
made.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import gc, json
from streamcore import Engine, EventSourceMapping, Page

NOW = 1_700_000_000_000
LENGTHS = [*range(0, 40), *range(500, 530), 1000, 4095, 4096, 100_000]
for shard_id in ("s", "shardId-000000000000", "sharde\\u0301"):
    for prefix in ("k", "\\u00e9", "\\u4e2d", "\\U0001f600", 'q"', "\\\\"):
        engine = Engine()
        mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=len(LENGTHS))
        shard = engine.add_shard(mapping, shard_id, now=NOW)
        records = [
            (prefix + "k" * min(length, 200), b"d" * length, NOW + length, str(10 ** min(length, 120) + length)) for length in LENGTHS
        ]
        engine.offer(shard, Page.from_records(sorted(records, key=lambda record: int(record[3]))), NOW)
        batch = engine.take(NOW)
        event = batch.event()
        assert event == json.loads(batch.json()), (shard_id, prefix)
        texts = [text for record in event["Records"] for text in (record["eventID"], *record["kinesis"].values()) if isinstance(text, str)]
        assert texts == [text.encode().decode() for text in texts]
        assert {text: 1 for text in texts} == {text.encode().decode(): 1 for text in texts}, "hashes"
        assert all(text[:-1] + text[-1:] == text for text in texts)
        kept = texts[::3]
        del event, texts, records
        gc.collect()
        assert kept == [text.encode().decode() for text in kept]
print("done")
"""


LISTS = """
import gc
from streamcore import Engine, EventSourceMapping, Page

NOW, RECORDS = 1_700_000_000_000, 201
engine = Engine()
shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=RECORDS), "shard", now=NOW)
engine.offer(shard, Page.from_records([("key", b"{}", NOW, str(number)) for number in range(1, RECORDS + 1)]), NOW)
batch = engine.take(NOW)
collected = 0

def look(phase, _info):
    global collected
    collected += 1
    for found in gc.get_objects():
        if type(found) is list and len(found) == RECORDS:
            assert all(isinstance(record, dict) for record in found)

gc.callbacks.append(look)
gc.set_threshold(1)
event = batch.event()
gc.callbacks.clear()
assert collected > RECORDS
assert gc.is_tracked(event["Records"])
print("done")
"""


ONES = """
import gc, random
from streamcore import Engine, EventSourceMapping, Page

NOW, RECORDS, rng = 1_700_000_000_000, 2000, random.Random(1)
engine = Engine()
mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1, parallelization_factor=10)
shard = engine.add_shard(mapping, "shard", now=NOW)
records = [(f"k{number % 50}", b"d" * (number % 97), NOW + number, str(number)) for number in range(1, RECORDS + 1)]
engine.offer(shard, Page.from_records(records), NOW)
kept, came = [], 0

def look(phase, _info):
    assert engine.stats(shard).in_flight <= 1

def handler(event):
    global came
    came += 1
    record = event["Records"][0]
    number = int(record["kinesis"]["sequenceNumber"])
    assert record["kinesis"]["approximateArrivalTimestamp"] == (NOW + number) / 1000
    assert record["eventID"] == f"shard:{number}" and len(record) == 8 and len(record["kinesis"]) == 5
    chosen = rng.randrange(12)
    if chosen < 4:
        kept.append([event, event["Records"], record, record["kinesis"]][chosen])
    elif chosen == 4:
        record["kinesis"].clear()
    elif chosen == 5:
        event["Records"].clear()
    elif chosen == 6:
        record["kinesis"]["data"] = event
    if len(kept) > 20:
        kept.pop(rng.randrange(20))

gc.callbacks.append(look)
gc.set_threshold(5)
engine.invoke_ready(handler, lambda: NOW, print)
gc.callbacks.clear()
assert came == RECORDS == engine.stats(shard).succeeded
print("done")
"""


@pytest.mark.parametrize("script", [SCRIPT, ONES], ids=["batches", "one record each"])
def test_pythons_debug_allocator_finds_nothing_wrong_with_events(script: str) -> None:
    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    done = subprocess.run(
        [sys.executable, "-P", "-X", "dev", "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


NO_MEMORY = """
import sys
import _testcapi
from streamcore import Engine, EventSourceMapping, Page

BATCH_SIZE, failed = int(sys.argv[1]), 0
mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=BATCH_SIZE, maximum_retry_attempts=0)
for at in range(60):
    engine = Engine()
    shard = engine.add_shard(mapping, "shard", now=0)
    engine.offer(shard, Page.from_records([("k", b"data", 5, str(number)) for number in range(1, 3 * BATCH_SIZE + 1)]), 0)
    calls, errors = 0, []

    def handler(event):
        global calls
        calls += 1
        if calls == 2:
            _testcapi.set_nomemory(at, at + 1)

    def on_error(error):
        _testcapi.remove_mem_hooks()
        errors.append(type(error))

    engine.invoke_ready(handler, int, lambda discard: engine.confirm(discard.id, "given_up"), on_error)
    _testcapi.remove_mem_hooks()
    stats = engine.stats(shard)
    assert errors in ([], [MemoryError])
    assert (stats.in_flight, stats.succeeded) == (0, (3 - len(errors)) * BATCH_SIZE)
    failed += len(errors)
assert failed
print("done")
"""


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_whose_event_gets_no_memory_fails_and_the_engine_goes_on(batch_size: int) -> None:
    pytest.importorskip("_testcapi", reason="it makes requests for memory fail; not every Python is installed with it")
    done = subprocess.run([sys.executable, "-P", "-c", NO_MEMORY, str(batch_size)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_nobody_sees_a_list_that_is_half_made() -> None:
    done = subprocess.run([sys.executable, "-P", "-X", "faulthandler", "-c", LISTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
