"""What the tests of functions in processes share: batches, packages, and whether a process is alive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamcore import Batch, Engine, EventSourceMapping, Page

if TYPE_CHECKING:
    from streamcore import Answer
    from streamcore.functions._pooled import PooledFunction

NOW = 1_700_000_000_000
TIMEOUT_MS = 60_000  # of functions whose timeout is not what is tested

# A runtime of our own in a few lines: `call` is one request on a new connection, so that whatever a runtime may send can be tried.
BOOTSTRAP = f"""#!{sys.executable}
import http.client, json, os, sys

API = "/2018-06-01/runtime"

def connect():
    return http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])

def call(method, path, body=None, headers={{}}, connection=None, **options):
    connection = connection or connect()
    connection.request(method, API + path, body, headers, **options)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()

def next_event():
    status, headers, event = call("GET", "/invocation/next")
    assert status == 200, status
    return headers["Lambda-Runtime-Aws-Request-Id"], headers, json.loads(event)

def respond(request_id, value):
    return call("POST", f"/invocation/{{request_id}}/response", json.dumps(value))

"""


def batch_of(records: int = 2, payload_bytes: int = 4, seed: int = 1) -> Batch:
    """Return a batch in flight."""
    engine = Engine(seed=seed)
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=10_000)
    shard = engine.add_shard(mapping, "shardId-000000000000", now=NOW)
    engine.offer(shard, Page.from_records([("key", b"d" * payload_bytes, NOW, str(number + 1)) for number in range(records)]), NOW)
    batch = engine.take(NOW)
    assert isinstance(batch, Batch)
    return batch


def invoke(function: PooledFunction, batch: Batch | None = None) -> Answer:
    """Return the answer to a batch."""
    return function.invoke(batch or batch_of())


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False
