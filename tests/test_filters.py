"""Filters in an engine and a worker: which records reach the function, unchanged, and what is counted."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from filter_reference import Generator, matches
from streamcore import (
    Batch,
    ConfigError,
    Engine,
    EventSourceMapping,
    LocalFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Outcome,
    Page,
    Worker,
)

if TYPE_CHECKING:
    from pathlib import Path

KINESIS = "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"
DYNAMODB = "arn:aws:dynamodb:us-east-2:123456789012:table/Orders/stream/2026-01-31T00:00:00.000"


def criteria(*patterns: str) -> dict[str, Any]:
    return {"Filters": [{"Pattern": pattern} for pattern in patterns]}


def mapping(arn: str, *patterns: str, **values: Any) -> EventSourceMapping:
    return EventSourceMapping(
        event_source_arn=arn, starting_position="TRIM_HORIZON", batch_size=10_000, filter_criteria=criteria(*patterns), **values
    )


def body(payloads: list[bytes]) -> bytes:
    records = [
        {
            "ApproximateArrivalTimestamp": 1_700_000_000.5,
            "Data": base64.b64encode(payload).decode(),
            "PartitionKey": f"key-{number % 3}",
            "SequenceNumber": str(number),
        }
        for number, payload in enumerate(payloads, start=1)
    ]
    return json.dumps({"Records": records, "MillisBehindLatest": 0, "NextShardIterator": "A"}).encode()


def events(made: EventSourceMapping | None, page: Page, format_: Any = "kinesis") -> list[dict[str, Any]]:
    """Return the records that reach the function, from the event's bytes."""
    engine = Engine()
    made = made or EventSourceMapping(event_source_arn=KINESIS, starting_position="TRIM_HORIZON", batch_size=10_000)
    shard = engine.add_shard(made, "shardId-000000000000", now=0, format=format_)
    offered = engine.offer(shard, page, 0)
    seen: list[dict[str, Any]] = []
    while isinstance(batch := engine.take(0), Batch):
        seen += json.loads(batch.json())["Records"]
        engine.finish(batch.ticket, Outcome.success(), 0)
        engine.check_invariants()
    stats = engine.stats(shard)
    assert (offered.records, offered.filtered) == (len(page), len(page) - len(seen)) == (len(page), stats.filtered)
    assert (stats.watermark, stats.held_records, stats.held_bytes) == (page.last_sequence_number, 0, 0)
    return seen


def test_data_reaches_the_function_bit_by_bit() -> None:
    given = [b'{"a" :1, "n":1.10,\t"e":1E2,"b":"\\u00e9\xc3\xa9"}', b'{"a":2}', b'[{"a":1},  {"a":2}]\n', b"\x00\xff", b"", b'{"a":1}x']
    page = Page.parse(body(given))
    records = events(mapping(KINESIS, '{"data": {"a": [1]}}'), page)
    assert [base64.b64decode(record["kinesis"]["data"]) for record in records] == [given[0], given[2]]
    assert records == [events(None, page)[index] for index in (0, 2)]


@pytest.mark.parametrize("seed", range(4))
def test_the_engine_filters_as_the_slow_match_does(seed: int) -> None:
    generator = Generator(Random(seed))
    patterns = [f'{{"data": {generator.pattern()}}}' for _ in range(3)] + ['{"data": {"a": [1]}, "partitionKey": ["key-1"]}']
    data = [generator.event_for(generator.pattern()) for _ in range(200)]
    data += [generator.event_for(json.dumps(json.loads(pattern)["data"], ensure_ascii=False)) for pattern in patterns for _ in range(30)]
    page = Page.parse(body([text.encode() for text in data]))
    passed = {record["kinesis"]["sequenceNumber"] for record in events(mapping(KINESIS, *patterns), page)}
    for number, text in enumerate(data, start=1):
        seen = f'{{"data": {text}, "partitionKey": "key-{number % 3}"}}'
        expected = any(matches(pattern, seen) for pattern in patterns)
        assert (str(number) in passed) == expected, (seed, patterns, seen)


@pytest.mark.parametrize(
    ("pattern", "passed"),
    [
        ('{"data": {"a": [1]}}', [1]),
        ('{"partitionKey": ["key-1"]}', [1]),
        ('{"partitionKey": ["key-2"]}', [2]),
        ('{"partitionKey": [{"prefix": "key"}], "data": {"a": [{"exists": false}]}}', []),
        ('{"approximateArrivalTimestamp": [{"numeric": [">", 1700000000]}]}', [1, 2]),
    ],
)
def test_the_table_of_formats(pattern: str, passed: list[int]) -> None:
    """Lambda developer guide, "Using event filtering with a Kinesis event source": what is not JSON is dropped by a pattern on data."""
    records = events(mapping(KINESIS, pattern), Page.parse(body([b'{"a": 1}', b"not JSON"])))
    assert [int(record["kinesis"]["sequenceNumber"]) for record in records] == passed


@pytest.mark.parametrize(
    "pattern", ['{"data": ["plain"]}', '{"data": [{"exists": true}]}', '{"a": [1], "$or": [{"data": [1]}, {"b": [1]}]}']
)
def test_a_pattern_on_data_that_is_not_json_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^Invalid filter pattern definition\.") as caught:
        mapping(KINESIS, pattern)
    assert str(caught.value) == "Invalid filter pattern definition."
    assert '"data" must be an object in the pattern' in caught.value.__notes__[0]
    assert mapping(DYNAMODB, pattern).compiled_filter is not None


def test_records_of_dynamodb() -> None:
    changes = [
        {
            "eventID": f"{number}",
            "eventName": name,
            "dynamodb": {
                "ApproximateCreationDateTime": 1.7e9,
                "Keys": {"pk": {"S": f"item-{number}"}},
                "NewImage": {"Age": {"N": str(20 + number)}, "Tags": {"L": [{"S": "a"}, {"S": "b"}]}},
                "SequenceNumber": str(number),
                "StreamViewType": "NEW_IMAGE",
            },
        }
        for number, name in enumerate(["INSERT", "MODIFY", "INSERT"], start=1)
    ]
    page = Page.parse(json.dumps({"Records": changes}).encode(), "dynamodb")
    plain = events(EventSourceMapping(event_source_arn=DYNAMODB, starting_position="TRIM_HORIZON", batch_size=100), page, "dynamodb")

    def passed(pattern: str) -> list[str]:
        records = events(mapping(DYNAMODB, pattern), page, "dynamodb")
        assert all(record in plain for record in records)
        return [record["eventID"] for record in records]

    assert passed('{"eventName": ["INSERT"], "eventSource": ["aws:dynamodb"]}') == ["1", "3"]
    assert passed('{"dynamodb": {"NewImage": {"Age": {"N": ["22", "23"]}}}}') == ["2", "3"]
    assert passed('{"dynamodb": {"NewImage": {"Age": {"N": [{"numeric": [">", 0]}]}}}}') == []
    assert passed('{"dynamodb": {"NewImage": {"Tags": {"L": {"S": ["b"]}}}, "Keys": {"pk": {"S": [{"suffix": "-1"}]}}}}') == ["1"]
    assert passed('{"dynamodb": {"ApproximateCreationDateTime": [{"numeric": ["=", 1700000000]}]}}') == ["1", "2", "3"]


@pytest.mark.parametrize("interval_ms", [1000, 0])
def test_a_worker_counts_what_it_filters_out(interval_ms: int) -> None:
    stream = MemoryStream("orders", shards=2)
    for number in range(100):
        stream.put(f"customer-{number}", json.dumps({"total": number}).encode())
    seen: list[int] = []

    def handler(event: dict[str, Any], _context: object) -> None:
        seen.extend(json.loads(base64.b64decode(record["kinesis"]["data"]))["total"] for record in event["Records"])

    store = MemoryCheckpointStore()
    made = EventSourceMapping(starting_position="TRIM_HORIZON", filter_criteria=criteria('{"data": {"total": [{"numeric": [">=", 90]}]}}'))
    for _ in range(2):
        worker = Worker(checkpoints=store, checkpoint_interval_ms=interval_ms)
        worker.add(made, stream, LocalFunction(handler))
        summary = worker.run(until_idle=True)
        assert sorted(seen) == list(range(90, 100))
        if summary.filtered_records == 0:
            break
        assert (summary.records, summary.succeeded, summary.filtered_records) == (10, 10, 90)
        assert worker.stats().filtered_records == 90
    else:
        pytest.fail("what was filtered out is complete, and does not come again after a restart")


def test_the_command_filters(tmp_path: Path) -> None:
    (tmp_path / "cities.ndjson").write_text(
        "".join(f'{{"city": "{city}", "n": {n}}}\n' for n, city in enumerate(["Oslo", "Bergen", "Oslo"]))
    )
    (tmp_path / "handlers.py").write_text("def handle(event, context):\n    pass\n")
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:cities.ndjson?key=city", "--function", "handlers.py:handle"]
    option = json.dumps(criteria('{"data": {"city": ["Oslo"]}}'))

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "--state", ":memory:", *more], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("--filter-criteria", option, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["records"], summary["filtered_records"]) == (2, 1)
    done = run("--filter-criteria", option)
    assert "filtered out  1\n" in done.stdout
    assert "filtered" not in run().stdout
    done = run("--filter-criteria", '{"Filters": [{"Pattern": "{"}]}')
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("streamcore: --filter-criteria: Invalid filter pattern definition.; filter 1 cannot be used: ")
    done = run("--filter-criteria", '{"Filters": [{"Pattern": "{\\"data\\": {\\"city\\": [\\"\\ud800\\"]}}"}]}')
    assert done.returncode == 2
    assert done.stderr.endswith("filter 1 cannot be used: it holds half of a surrogate pair, which no JSON has, at byte 0\n")
    done = run("--filter-criteria", "data")
    assert done.returncode == 2
    assert done.stderr.startswith("streamcore: --filter-criteria is not JSON: ")
    six = json.dumps(criteria(*['{"data": {"city": ["Oslo"]}}'] * 6))
    assert "at most 5 are allowed" in run("--filter-criteria", six).stderr
    assert run("--filter-criteria", six, "--filters-max", "10").returncode == 0
