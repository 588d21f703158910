"""The texts of events are written straight into memory of Python's: here its debug allocator looks whether a byte beside it was touched."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_pythons_debug_allocator_finds_nothing_wrong_with_events() -> None:
    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    done = subprocess.run([sys.executable, "-P", "-X", "dev", "-c", SCRIPT], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
