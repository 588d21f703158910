"""What a benchmark measures: arrivals and latency by hand-made clocks, CPU stages by work of a known amount."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamcore import (
    Answer,
    Batch,
    ConfigError,
    EventSourceMapping,
    FileSource,
    LocalFunction,
    MemoryCheckpointStore,
    ProcessFunction,
    RecordedFunction,
    RecordingSource,
    SourceError,
    Start,
    Worker,
    takes_batch,
)
from streamcore._bench_load import Lap, Load, generated, recorded
from streamcore._bench_meter import Meter, Stages
from streamcore.bench import BenchResult, BenchRun, Machine, Profile, Times, Workload, bench
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = LocalFunction(lambda _event, _context: None)


def lap(**options: Any) -> Lap:
    return generated(**{"record_bytes": 40, "keys": 50, "key_skew": 1.0, "shards": 3, "seed": 5, "records_max": 97, **options})


# Latency, with coordinated omission corrected.


class Stall:
    """A function that takes no time, but for its first call, which takes 100 ms."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.calls = 0

    def invoke(self, _batch: Batch) -> Answer:
        self.calls += 1
        if self.calls == 1:
            self.clock.advance(100)
        return Answer("success")

    def close(self) -> None:
        pass


def test_a_stall_shows_in_every_record_that_it_held_up() -> None:
    """1,000 records, one each millisecond; the first call takes 100 ms.

    So record 0 takes 100 ms, record 1 arrives one millisecond into the stall and waits for 99 of it, ..., record 99 for 1, and record 100
    and all after it for nothing: 900 of 1,000 take 0 ms. By rank: 90 % in 0 ms, 95 % in 50, 99 % in 90, 99.9 % in 99, all in 100. Who takes
    the time from the beginning of each call sees one slow call of 1,000, and 99.9 % in 0 ms.
    """
    clock = ManualClock()

    def now_ns() -> int:
        return clock.now_ms() * 1_000_000

    load = Load(lap(shards=1), total=1000, rate=1000, now_ns=now_ns, paced=False)
    meter = Meter(Stall(clock), load, now_ns=now_ns)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1), load, meter, clock="wall")
    for instant in range(1000):
        clock.set(max(clock.now_ms(), ManualClock.START_MS + instant))
        load.wake()
        worker.step(clock.now_ms())
    worker.stop()

    latency, service = Times.of(meter.latencies_ns()), Times.of(meter.service_ns())
    assert latency is not None
    assert service is not None
    assert meter.calls == latency.count == service.count == 1000
    assert [latency.at(percentile) for percentile in (0, 50, 90, 95, 99, 99.9, 100)] == [0, 0, 0, 50, 90, 99, 100]
    assert latency.mean_ms == pytest.approx(sum(range(101)) / 1000)
    assert [service.at(percentile) for percentile in (50, 99, 99.9, 100)] == [0, 0, 0, 100]
    assert latency.at(99.99) is None  # there are too few times for it


def test_records_arrive_by_the_schedule_whoever_reads_them() -> None:
    now = 0
    made = lap()
    load = Load(made, total=1000, rate=250, now_ns=lambda: now, paced=False)
    load.begin()
    for now, arrived in ((0, 1), (3_999_999, 1), (4_000_000, 2), (1_000_000_000, 251), (10**12, 1000)):  # noqa: B007 - the clock
        assert load.arrived() == arrived
    instants = np.sort(np.concatenate([load.intended_ns(shard, np.arange(made.count(shard, 1000))) for shard in range(3)]))
    assert instants.tolist() == [number * 4_000_000 for number in range(1000)]


def test_a_reader_gets_what_has_arrived_and_ends_with_the_last_record() -> None:
    now = 0
    load = Load(lap(shards=1), total=200, rate=1000, now_ns=lambda: now, paced=False)
    (shard,) = load.list_shards()
    reader = load.open(shard.shard_id, Start("TRIM_HORIZON"))
    seen = []
    for now in (0, 9_000_000, 9_100_000, 150_000_000, 10**9):  # noqa: B007 - the clock
        fetched = reader.fetch(120)
        seen.append((len(fetched.page) if fetched.page is not None else 0, fetched.millis_behind, fetched.ended))
    assert seen == [(1, 0, False), (9, 0, False), (0, 0, False), (120, 1, False), (70, 0, True)]


# The records.


def test_laps_repeat_with_growing_numbers_and_one_order_over_all_shards() -> None:
    made = lap()
    assert (made.records, len(made.shard_ids)) == (97, 3)
    for arrived in range(300):
        assert sum(made.count(shard, arrived) for shard in range(3)) == arrived
    for shard in range(3):
        count = made.count(shard, 300)
        records = json.loads(made.body(shard, 0, count))["Records"]
        numbers = [int(record["SequenceNumber"]) for record in records]
        assert len(numbers) == count > 2 * len(made.texts[shard])
        assert numbers == sorted(set(numbers))
        assert json.loads(made.body(shard, 3, count - 1))["Records"] == records[3:-1]
        at = count - 2
        assert made.after(shard, records[at]["SequenceNumber"]) == at + 1
        order = made.order(shard, np.arange(count)).tolist()
        assert order == sorted(order)
        assert [made.count(shard, place + 1) - made.count(shard, place) for place in order] == [1] * count


@pytest.mark.parametrize("size", [1, 2, 23, 24, 1000])
def test_a_record_is_json_of_exactly_the_size(size: int) -> None:
    made = generated(record_bytes=size, keys=3, key_skew=0, shards=1, seed=1, records_max=20)
    for record in json.loads(made.body(0, 0, 20))["Records"]:
        data = base64.b64decode(record["Data"])
        assert len(data) == size
        json.loads(data)


def test_keys_follow_zipfs_law_and_the_seed() -> None:
    def counts(key_skew: float, seed: int) -> list[int]:
        made = generated(record_bytes=10, keys=4, key_skew=key_skew, shards=1, seed=seed, records_max=5000)
        keys = [record["PartitionKey"] for record in json.loads(made.body(0, 0, 5000))["Records"]]
        return [keys.count(f"key-{rank}") for rank in (1, 2, 3, 4)]

    for skew in (0.0, 1.0, 2.0):
        weights = [rank**-skew for rank in (1, 2, 3, 4)]
        for count, weight in zip(counts(skew, 3), weights, strict=True):
            expected = 5000 * weight / sum(weights)
            assert abs(count - expected) < 6 * math.sqrt(expected), (skew, 3)
    assert counts(1.0, 3) == counts(1.0, 3) != counts(1.0, 4)
    assert generated(record_bytes=10, keys=9, key_skew=1, shards=4, seed=3, records_max=50) is not None


def test_recorded_records_keep_shards_keys_times_and_data(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "name,at,n\n" + "".join(f"{'abcdefg'[n % 7]},2026-01-01T00:00:{n % 60:02}Z,{n}\n" for n in range(90))
    )
    source = FileSource(tmp_path / "rows.csv", key="name", time="at", shards=3)
    events: dict[str, list[Any]] = {}

    def keep(event: dict[str, Any], _context: object) -> None:
        for record in event["Records"]:
            shard = record["eventID"].partition(":")[0]
            kinesis = record["kinesis"]
            events.setdefault(shard, []).append((kinesis["partitionKey"], kinesis["data"], kinesis["approximateArrivalTimestamp"]))

    function = RecordedFunction(LocalFunction(keep), tmp_path / "events.ndjson")
    result = bench(function, workload=source, records=180, warm_up_s=0, runs=1)
    function.close()
    assert (result.settings["lap_records"], result.settings["shards"], result.settings["workload"]) == (90, 3, None)
    assert [(run.records, run.failed_invocations) for run in result.runs] == [(180, 0)]
    for shard, kept in events.items():
        lap_records = len(kept) // 4  # two laps of the run, two of the one with stages
        assert kept == kept[:lap_records] * 4, shard
    assert sum(map(len, events.values())) == 360

    again = recorded(RecordingSource(tmp_path / "events.ndjson"))
    assert again.records == 180  # both runs have the same records, with the same numbers


def test_records_of_dynamodb_streams_are_run_as_such(tmp_path: Path) -> None:
    record = {
        "eventID": "1",
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1700000000,
            "Keys": {"id": {"N": "1"}},
            "NewImage": {"id": {"N": "1"}, "text": {"S": 'é"'}},
            "SequenceNumber": "400000000000000000001",
            "SizeBytes": 20,
            "StreamViewType": "NEW_IMAGE",
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/items/stream/2026-01-01T00:00:00.000",
    }
    line = {
        "shardId": "shardId-1",
        "startSequenceNumber": "400000000000000000001",
        "event": {"Records": [record]},
        "outcome": {"kind": "success"},
    }
    (tmp_path / "events.ndjson").write_text(json.dumps(line) + "\n")
    seen: list[Any] = []
    function = LocalFunction(lambda event, _context: seen.extend(event["Records"]))
    result = bench(function, workload=RecordingSource(tmp_path / "events.ndjson"), records=3, warm_up_s=0, runs=1)
    assert result.runs[0].records == 3
    numbers = [one["dynamodb"].pop("SequenceNumber") for one in seen]
    assert len(set(numbers)) == 3
    expected = {**record, "dynamodb": {k: v for k, v in record["dynamodb"].items() if k != "SequenceNumber"}}  # type: ignore[attr-defined] # a record is a dict of dicts
    assert seen == [expected] * 6


def test_a_source_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name\n")
    with pytest.raises(SourceError, match="the source has no records"):
        bench(NOTHING, workload=FileSource(tmp_path / "rows.csv", key="name"))


# CPU time by stage.


class CpuClock:
    """A CPU clock that moves by hand, and by 10 ns when it is read."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 10
        return self.now


def test_stages_add_up_and_reading_the_clock_is_the_benchmarks_own() -> None:
    clock = CpuClock()
    stages = Stages(clock)
    stages.mark()  # this thread is older than the stages: what it did before is not counted
    for stage, ns in (("handler", 5000), ("event", 2000), ("handler", 1000), (None, 700)):
        clock.now += ns
        stages.mark(stage)
    seconds = {stage: round(value * 1e9) for stage, value in stages.seconds(20e-6).items()}
    assert seconds["handler"] == 6000
    assert seconds["event"] == 2000
    assert seconds["bench"] == 50  # the five times that the clock was read
    assert seconds["other"] == 20_000 - 8050  # with the 700 ns of a thread that is no worker's
    assert sum(seconds.values()) == 20_000


def test_calls_that_are_not_noted_are_shared_out_as_the_others() -> None:
    """Of four calls of a thread one is noted; each takes 100 ns of event, 300 of handler, and 200 pass until the next."""
    clock = CpuClock()
    stages = Stages(clock, every=4)
    stages.mark()
    noted = []
    for _ in range(41):
        if stages.begin_call():
            noted.append(True)
            clock.now += 100
            stages.mark("event")
            clock.now += 300
            stages.mark("handler")
        else:
            noted.append(False)
            clock.now += 400
        clock.now += 200
    assert noted == [True, False, False, False] * 10 + [True]
    seconds = stages.seconds(1)
    # This thread is there for nothing of a worker, so what passes between its calls is "other".
    assert seconds["handler"] == pytest.approx(3 * seconds["event"], rel=0.001)
    # The last call is noted, and 30 that are not are shared out among two stages: 24,000 ns less 30 clocks' and the first's.
    assert (seconds["handler"] + seconds["event"]) * 1e9 == pytest.approx(11 * 400 + 30 * 600, rel=0.01)


BURN_NS = 2_000_000


def burn() -> None:
    until = time.thread_time_ns() + BURN_NS
    while time.thread_time_ns() < until:
        pass


def burning(_event: object, _context: object) -> None:
    burn()


async def burning_later(_event: object, _context: object) -> None:
    burn()


@takes_batch
def burning_columns(_batch: Batch, _context: object) -> None:
    burn()


@pytest.mark.parametrize("handler", [burning, burning_later, burning_columns])
def test_what_the_handler_uses_is_the_handlers(handler: Any) -> None:
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", parallelization_factor=3)
    result = bench(LocalFunction(handler), mapping, Workload(record_bytes=50, shards=2), records=2000, warm_up_s=0, runs=1)
    profile = result.profile
    assert profile is not None
    calls_s = profile.run.invocations * BURN_NS / 1e9
    # The corrections for reading the clock are the only difference, and small beside 2 ms a call.
    assert calls_s * 0.95 < profile.stages_s["handler"] <= profile.run.cpu_s
    assert sum(profile.stages_s.values()) == pytest.approx(profile.run.cpu_s, rel=0.001)
    used = {stage for stage, seconds in profile.stages_s.items() if seconds > 0}
    assert used >= {"poll", "decode", "dispatch", "handler", "checkpoint", "bench"}
    assert ("event" in used) == (handler is not burning_columns)


# The whole.


def test_a_rate_is_kept_and_every_record_has_a_latency(tmp_path: Path) -> None:
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=7, parallelization_factor=2)
    result = bench(
        NOTHING, mapping, Workload(record_bytes=50, shards=3), rate=2000, duration_s=0.1, warm_up_s=0.02, runs=2, seed=9, state=tmp_path
    )
    assert [run.records for run in result.runs] == [200, 200]
    assert result.latency is not None
    assert result.service is not None
    assert result.latency.count == 400
    assert result.service.count == sum(run.invocations for run in result.runs)
    assert result.latency.percentiles_ms[0][1] > 0
    assert all(run.elapsed_s >= 199 / 2000 for run in result.runs)
    assert list(tmp_path.iterdir()) == []
    assert (result.settings["checkpoints"], result.settings["seed"], result.reason) == ("sqlite", 9, "done")


def test_without_a_rate_there_is_no_latency_and_the_warm_up_says_how_many_records_a_run_has() -> None:
    told: list[str] = []
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=50)
    result = bench(NOTHING, mapping, Workload(record_bytes=50), duration_s=0.05, warm_up_s=0.05, runs=2, on_run=told.append)
    assert result.latency is None
    assert result.kept_rate
    assert [run.records for run in result.runs] == [result.settings["records"]] * 2
    assert [text.partition(":")[0] for text in told] == ["warm-up", "run 1 of 2", "run 2 of 2", "run with stages"]


def test_threads_are_as_many_as_asked_for() -> None:
    names: set[str] = set()
    function = LocalFunction(lambda _event, _context: names.add(threading.current_thread().name))
    result = bench(function, workload=Workload(record_bytes=50, shards=4), records=4000, warm_up_s=0, runs=2, invocation_threads=1)
    assert names == {"streamcore-invoke-0"}
    assert result.settings["invocation_threads"] == 1


def test_shards_without_a_record_end_at_once() -> None:
    result = bench(NOTHING, workload=Workload(record_bytes=10, keys=1, shards=5), rate=10_000, records=100, warm_up_s=0, runs=1)
    assert result.latency is not None
    assert (result.runs[0].records, result.latency.count) == (100, 100)


def test_a_function_in_processes_is_measured(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text("def handle(event, context):\n    pass\n")
    with contextlib.closing(ProcessFunction(f"{tmp_path / 'handlers.py'}:handle", processes=1)) as function:
        result = bench(function, workload=Workload(record_bytes=10), records=500, warm_up_s=0, runs=1)
    assert [(run.records, run.invocations, run.failed_invocations) for run in result.runs] == [(500, 5, 0)]
    assert result.profile is not None
    assert result.profile.stages_s["event"] > 0


def test_failures_are_counted() -> None:
    def refuse(_event: object, _context: object) -> None:
        raise ValueError("no")

    result = bench(LocalFunction(refuse), workload=Workload(record_bytes=50), records=500, warm_up_s=0, runs=2)
    assert [(run.invocations, run.failed_invocations, run.discarded_records) for run in result.runs] == [(5, 5, 500)] * 2
    assert (result.failed_invocations, result.discarded_records) == (15, 1500)  # with the run that notes the stages


def result_of(*runs: BenchRun, rate: float | None = None, window_s: int = 0) -> BenchResult:
    settings = {"rate": rate, "maximum_batching_window_in_seconds": window_s}
    return BenchResult(machine=Machine.this(), settings=settings, runs=runs, service=None, latency=None, profile=None, reason="done")


RUN = BenchRun(records=1000, discarded_records=0, invocations=10, failed_invocations=0, elapsed_s=0.5, cpu_s=0.25, longest_call_s=0.0)


def test_figures_are_medians_and_quartiles_of_the_runs_that_came_to_their_end() -> None:
    runs = [dataclasses.replace(RUN, elapsed_s=elapsed) for elapsed in (0.1, 0.2, 0.5, 1.0, 2.0)]
    result = result_of(*runs, dataclasses.replace(RUN, elapsed_s=100, interrupted=True))
    found = result.over_runs(lambda run: run.records_per_second)
    assert (found.lower, found.median, found.upper) == (1000, 2000, 5000)
    assert result.over_runs(lambda run: run.cpu_us_per_record).median == 250
    assert result_of(dataclasses.replace(RUN, interrupted=True)).over_runs(lambda run: run.invocations_per_second).median == 20


@pytest.mark.parametrize(
    ("elapsed_s", "longest_call_s", "window_s", "kept"),
    [
        (0.5, 0.0, 0, True),
        (0.59, 0.0, 0, True),
        (0.61, 0.0, 0, False),
        (1.59, 0.0, 1, True),
        (1.61, 0.0, 1, False),
        (1.19, 0.3, 0, True),  # a record may wait for one call before its own
        (1.21, 0.3, 0, False),
    ],
)
def test_a_rate_is_kept_where_the_work_is_done_soon_after_the_last_arrival(
    elapsed_s: float,
    longest_call_s: float,
    window_s: int,
    kept: bool,  # noqa: FBT001  (pytest passes it by name)
) -> None:
    run = dataclasses.replace(RUN, elapsed_s=elapsed_s, longest_call_s=longest_call_s)
    assert result_of(run, rate=2000, window_s=window_s).kept_rate == kept


def test_a_slow_function_that_keeps_up_keeps_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes 150 ms, and records come every 100 ms: the last call ends 150 to 300 ms after the last arrival."""
    passed_ns = 0

    def now_ns() -> int:
        return time.perf_counter_ns() + passed_ns

    def slow(_event: object, _context: object) -> None:
        nonlocal passed_ns
        passed_ns += 150_000_000

    monkeypatch.setattr("streamcore.bench.Load", functools.partial(Load, now_ns=now_ns))
    monkeypatch.setattr("streamcore.bench.Meter", functools.partial(Meter, now_ns=now_ns))
    result = bench(LocalFunction(slow), workload=Workload(record_bytes=50), rate=10, records=4, warm_up_s=0, runs=1)
    assert result.runs[0].longest_call_s >= 0.15
    assert result.kept_rate


def test_the_largest_record_fits_an_event() -> None:
    largest = Workload(record_bytes=4_717_536, keys=10_000_000, key_skew=0)
    result = bench(NOTHING, workload=largest, records=2, warm_up_s=0, runs=1)
    assert [(run.records, run.discarded_records, run.invocations) for run in result.runs] == [(2, 0, 2)]
    with pytest.raises(ConfigError, match="must be a whole number from 1 to 4,717,536, not 4717537"):
        Workload(record_bytes=4_717_537)


def test_a_recorded_record_that_fits_no_event_is_no_hang_and_no_interrupt(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"name,text\na,{'x' * 5_000_000}\n")
    with pytest.raises(SourceError, match="no records"):
        bench(NOTHING, workload=FileSource(tmp_path / "rows.csv", key="name"), records=2, warm_up_s=0, runs=1)


def test_a_mapping_runs_though_it_is_disabled_or_begins_elsewhere() -> None:
    for mapping in (
        EventSourceMapping(starting_position="LATEST", enabled=False),
        EventSourceMapping(starting_position="AT_TIMESTAMP", starting_position_timestamp=1_700_000_000),
    ):
        assert bench(NOTHING, mapping, Workload(record_bytes=50), records=100, warm_up_s=0, runs=1).runs[0].records == 100


def test_an_age_of_records_is_refused_with_a_rate() -> None:
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", maximum_record_age_in_seconds=60)
    with pytest.raises(ConfigError, match="cannot be measured with a rate") as raised:
        bench(NOTHING, mapping, rate=100)
    assert raised.value.parameter == "maximum_record_age_in_seconds"


def test_the_json_says_all_of_it() -> None:
    result = bench(NOTHING, workload=Workload(record_bytes=50), rate=5000, records=100, warm_up_s=0, runs=3)
    said = json.loads(json.dumps(result.as_dict()))
    assert list(said) == [
        "schema",
        "machine",
        "settings",
        "runs",
        "service",
        "latency",
        "profile",
        "reason",
        "records_per_second",
        "invocations_per_second",
        "cpu_us_per_record",
        "failed_invocations",
        "discarded_records",
        "kept_rate",
    ]
    assert set(said["machine"]) == {"cpu", "cores", "system", "python", "streamcore", "load_average"}
    for run in said["runs"]:
        assert run["records_per_second"] == pytest.approx(run["records"] / run["elapsed_s"])
        assert run["invocations_per_second"] == pytest.approx(run["invocations"] / run["elapsed_s"])
        assert run["cpu_us_per_record"] == pytest.approx(run["cpu_s"] * 1e6 / run["records"])
    assert said["records_per_second"]["median"] == sorted(run["records_per_second"] for run in said["runs"])[1]
    assert said["latency"]["percentiles_ms"][-1][0] == 100
    profile = said["profile"]
    assert sum(profile["cpu_us_per_record_by_stage"].values()) == pytest.approx(profile["run"]["cpu_us_per_record"], rel=0.001)
    assert Profile(run=result.runs[0], stages_s={"poll": 1.0}).us_per_record() == {"poll": 10_000.0}


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"rate": True}, "rate"),
        ({"duration_s": 0}, "duration_s"),
        ({"records": 0}, "records"),
        ({"records": 1.5}, "records"),
        ({"warm_up_s": -1}, "warm_up_s"),
        ({"warm_up_s": 0}, "warm_up_s"),
        ({"runs": 0}, "runs"),
        ({"seed": -1}, "seed"),
        ({"state": "/nowhere/at/all"}, "state"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bench(NOTHING, **options)
    assert raised.value.parameter == parameter


@pytest.mark.parametrize(
    ("options", "parameter"),
    [({"record_bytes": 0}, "record_bytes"), ({"keys": 0}, "keys"), ({"key_skew": -0.1}, "key_skew"), ({"shards": 0}, "shards")],
)
def test_a_workload_that_cannot_be_is_refused_by_name(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Workload(**options)
    assert raised.value.parameter == parameter


def test_more_times_than_memory_is_meant_for_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"50,000,000 records would be measured, and at most 20,000,000 can be"):
        bench(NOTHING, rate=5_000_000, duration_s=2)
    with pytest.raises(ConfigError, match=r"25,000,000 calls would be measured"):
        bench(NOTHING, records=500_000_000)
    with pytest.raises(ConfigError, match=r"6,000,000,000 records would arrive meanwhile, and at most 20,000,000 may") as raised:
        bench(NOTHING, rate=10_000_000, duration_s=0.01, warm_up_s=600, runs=1)
    assert raised.value.parameter == "warm_up_s"


def test_windows_and_filters_are_refused() -> None:
    for mapping in (
        EventSourceMapping(starting_position="TRIM_HORIZON", tumbling_window_in_seconds=10),
        EventSourceMapping(starting_position="TRIM_HORIZON", filter_criteria={"Filters": [{"Pattern": '{"partitionKey": ["1"]}'}]}),
    ):
        with pytest.raises(ConfigError, match="neither tumbling windows nor filters"):
            bench(NOTHING, mapping)
