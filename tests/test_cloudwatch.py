"""What is published to CloudWatch: the data of one minute on a manual clock, and the way to a real moto."""

from __future__ import annotations

import base64
import json
import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from servers import REGION, unique
from streamcore import ConfigError, EventSourceMapping, MemoryCheckpointStore, MemoryStream, Worker
from streamcore.exporters import cloudwatch
from streamcore.exporters.cloudwatch import CloudWatchExporter
from streamcore.testing import ManualClock, ScriptedFunction, run_until_idle

if TYPE_CHECKING:
    from servers import Server

UUID = "00000000-0000-4000-8000-000000000001"
# A whole minute.
BEGIN = 1_700_000_040_000


class Recorder:
    """Stands in for a client where a test is about what is sent when, not about CloudWatch. Fails as often as it is told."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or ConnectionError("nobody listens")
        self.calls: list[dict[str, Any]] = []

    class meta:  # noqa: N801 - as boto3 names it
        endpoint_url = "http://127.0.0.1:4566"

    def put_metric_data(self, **call: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.calls.append(call)

    def data(self) -> dict[tuple[str, str], Any]:
        """Return values by name and dimensions of everything sent."""
        found = {}
        for call in self.calls:
            for datum in call["MetricData"]:
                dimensions = ",".join(f"{one['Name']}={one['Value']}" for one in datum["Dimensions"])
                found[datum["MetricName"], dimensions] = datum.get("Value", datum.get("StatisticValues"))
        return found


class World:
    """A worker on a manual clock that stands at the beginning of a minute."""

    def __init__(self, function_arn: str = f"arn:aws:lambda:{REGION}:123456789012:function:billing", **parameters: Any) -> None:
        self.clock = ManualClock(BEGIN)
        self.stream = MemoryStream("orders", clock=self.clock)
        self.worker = Worker(checkpoints=MemoryCheckpointStore(), clock=self.clock, seed=1)
        parameters = {"metrics_config": {"Metrics": ["EventCount"]}, "maximum_retry_attempts": 0, **parameters}
        mapping = EventSourceMapping(starting_position="TRIM_HORIZON", function_arn=function_arn, uuid=UUID, **parameters)
        self.worker.add(mapping, self.stream, ScriptedFunction(poison=lambda record: base64.b64decode(record["kinesis"]["data"]) == b"bad"))

    def exporter(self, client: Any, **options: Any) -> CloudWatchExporter:
        return CloudWatchExporter(self.worker.metrics, client=client, clock=self.clock, **options)

    def put(self, *payloads: bytes, age_ms: int = 0) -> None:
        for payload in payloads:
            self.stream.put("k", payload)
        self.clock.advance(age_ms)
        run_until_idle(self.worker, self.clock)

    def over(self, exporter: CloudWatchExporter) -> None:
        """Go on to the end of the minute."""
        now = self.clock.now_ms()
        self.clock.advance(60_000 - now % 60_000)
        exporter.step(self.clock.now_ms())


def test_a_minute_is_published_when_it_is_over_with_the_time_it_began() -> None:
    world, client = World(), Recorder()
    exporter = world.exporter(client)
    world.put(b"1", age_ms=2_000)
    world.put(b"2", b"3", age_ms=7_000)
    assert exporter.step(world.clock.now_ms()) == BEGIN + 60_000
    assert client.calls == []
    world.over(exporter)
    ages = {"Minimum": 2_000, "Maximum": 7_000, "Sum": 9_000, "SampleCount": 2}
    assert client.data() == {
        ("IteratorAge", ""): ages,
        ("IteratorAge", "FunctionName=billing"): ages,
        ("PolledEventCount", f"EventSourceMappingUUID={UUID}"): 3,
        ("InvokedEventCount", f"EventSourceMappingUUID={UUID}"): 3,
    }
    (call,) = client.calls
    assert call["Namespace"] == "streamcore"
    assert {datum["Timestamp"] for datum in call["MetricData"]} == {datetime.fromtimestamp(BEGIN / 1000, UTC)}
    assert {datum["Unit"] for datum in call["MetricData"]} == {"Milliseconds", "Count"}
    assert all(("Value" in datum) != ("StatisticValues" in datum) for datum in call["MetricData"])


def test_each_minute_has_only_what_was_counted_in_it() -> None:
    world, client = World(), Recorder()
    exporter = world.exporter(client)
    world.put(b"1", age_ms=9_000)
    world.over(exporter)
    client.calls.clear()
    world.put(b"2", b"3", age_ms=1_000)
    world.over(exporter)
    data = client.data()
    assert data["IteratorAge", ""] == {"Minimum": 1_000, "Maximum": 1_000, "Sum": 1_000, "SampleCount": 1}
    assert data["PolledEventCount", f"EventSourceMappingUUID={UUID}"] == 2
    assert client.calls[0]["MetricData"][0]["Timestamp"] == datetime.fromtimestamp(BEGIN / 1000 + 60, UTC)


def test_a_minute_of_empty_polls_has_a_zero_and_one_without_polls_has_nothing() -> None:
    world, client = World(), Recorder()
    exporter = world.exporter(client)
    world.put()
    world.over(exporter)
    assert client.data() == {("PolledEventCount", f"EventSourceMappingUUID={UUID}"): 0}
    client.calls.clear()
    world.over(exporter)
    assert client.calls == []


def test_filters_that_let_all_pass_have_a_zero() -> None:
    pattern = json.dumps({"data": {"n": [1]}})
    world, client = World(filter_criteria={"Filters": [{"Pattern": pattern}]}), Recorder()
    exporter = world.exporter(client)
    world.put(b'{"n": 1}')
    world.over(exporter)
    assert client.data()["FilteredOutEventCount", f"EventSourceMappingUUID={UUID}"] == 0
    world.put(b'{"n": 2}', b'{"n": 2}', b'{"n": 1}')
    world.over(exporter)
    assert client.data()["FilteredOutEventCount", f"EventSourceMappingUUID={UUID}"] == 2


def test_failures_and_drops_are_published_where_there_are_any() -> None:
    world, client = World(), Recorder()
    exporter = world.exporter(client)
    world.put(b"bad", b"2")
    world.over(exporter)
    data = client.data()
    assert data["FailedInvokeEventCount", f"EventSourceMappingUUID={UUID}"] == 2
    assert data["DroppedEventCount", f"EventSourceMappingUUID={UUID}"] == 2
    assert ("OnFailureDestinationDeliveredEventCount", f"EventSourceMappingUUID={UUID}") not in data


def test_without_metrics_config_there_is_no_event_count() -> None:
    world, client = World(metrics_config=None), Recorder()
    exporter = world.exporter(client)
    world.put(b"1")
    world.over(exporter)
    assert {name for name, _ in client.data()} == {"IteratorAge"}


@pytest.mark.parametrize(
    ("qualifier", "dimensions"),
    [
        ("", ["", "FunctionName=billing"]),
        (":7", ["", "FunctionName=billing", "FunctionName=billing,Resource=billing:7"]),
        (
            ":live",
            [
                "",
                "FunctionName=billing",
                "FunctionName=billing,Resource=billing:live",
                "FunctionName=billing,Resource=billing:live,ExecutedVersion=$LATEST",
            ],
        ),
    ],
)
def test_the_dimensions_are_lambda_s(qualifier: str, dimensions: list[str]) -> None:
    world = World(f"arn:aws:lambda:{REGION}:123456789012:function:billing{qualifier}", metrics_config=None)
    client = Recorder()
    exporter = world.exporter(client)
    world.put(b"1")
    world.over(exporter)
    assert [where for _, where in client.data()] == dimensions


def test_what_cannot_be_published_is_kept_for_the_next_minute(caplog: pytest.LogCaptureFixture) -> None:
    world, client = World(), Recorder(failures=3)
    exporter = world.exporter(client)
    with caplog.at_level(logging.WARNING, "streamcore.metrics"):
        for _ in range(4):
            world.put(b"1")
            world.over(exporter)
    assert client.failures == 0
    polled = [datum for call in client.calls for datum in call["MetricData"] if datum["MetricName"] == "PolledEventCount"]
    assert [(datum["Timestamp"].minute, datum["Value"]) for datum in polled] == [(14, 1), (15, 1), (16, 1), (17, 1)]
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "metrics could not be published to CloudWatch",
        "metrics could not be published to CloudWatch",
        "metrics are published to CloudWatch again after 3 failures",
    ]


@pytest.mark.parametrize("code", ["InvalidParameterValue", "InvalidParameterValueException"])
def test_what_cloudwatch_refuses_does_not_stand_in_the_way_of_the_rest(caplog: pytest.LogCaptureFixture, code: str) -> None:
    said = {"Error": {"Code": code, "Message": "The parameter MetricData.member.1.Timestamp must not be more than two hours in the future"}}
    world = World()
    client = Recorder(failures=1, error=ClientError(said, "PutMetricData"))
    exporter = world.exporter(client)
    world.put(b"1")
    world.over(exporter)
    assert client.calls == []
    (record,) = [record for record in caplog.records if record.name == "streamcore.metrics"]
    assert "CloudWatch refused" in record.getMessage()
    assert "two hours in the future" in record.getMessage()
    world.put(b"2", b"3")
    world.over(exporter)
    assert client.data()["PolledEventCount", f"EventSourceMappingUUID={UUID}"] == 2, "what was refused is not sent again"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cloudwatch, "_KEPT_MAX", 5)
    world, client = World(), Recorder(failures=2)
    exporter = world.exporter(client)
    for _ in range(2):
        world.put(b"1")
        world.over(exporter)
    world.over(exporter)
    assert sum(len(call["MetricData"]) for call in client.calls) == 5
    assert client.calls[0]["MetricData"][-1]["Timestamp"].minute == 15
    assert "3 data of metrics could not be published to CloudWatch for too long and are lost" in caplog.text


def test_closing_publishes_the_minute_that_is_not_over() -> None:
    world, client = World(), Recorder()
    exporter = world.exporter(client)
    world.put(b"1")
    exporter.close()
    assert client.data()["PolledEventCount", f"EventSourceMappingUUID={UUID}"] == 1
    assert client.calls[0]["MetricData"][0]["Timestamp"] == datetime.fromtimestamp(BEGIN / 1000, UTC)


def test_the_thread_publishes_when_the_minute_is_over() -> None:
    world = World()
    world.put(b"1")
    world.clock.advance(59_950)
    published = threading.Event()

    class Client(Recorder):
        def put_metric_data(self, **call: Any) -> None:
            super().put_metric_data(**call)
            published.set()

    class Ticking:
        """Goes on by ten milliseconds each time it is looked at."""

        def now_ms(self) -> int:
            world.clock.advance(10)
            return world.clock.now_ms()

    client = Client()
    exporter = CloudWatchExporter(world.worker.metrics, client=client, clock=Ticking())
    world.put(b"2")
    with exporter:
        assert published.wait(60)
    assert client.data()["PolledEventCount", f"EventSourceMappingUUID={UUID}"] == 1


def test_mappings_of_one_function_are_one_datum_of_it() -> None:
    world, client = World(), Recorder()
    other = MemoryStream("returns", clock=world.clock)
    mapping = EventSourceMapping(
        event_source_arn=f"arn:aws:kinesis:{REGION}:123456789012:stream/returns",
        function_arn=f"arn:aws:lambda:{REGION}:123456789012:function:billing",
        starting_position="TRIM_HORIZON",
        metrics_config={"Metrics": ["EventCount"]},
    )
    exporter = world.exporter(client)
    world.worker.add(mapping, other, ScriptedFunction())
    other.put("k", b"x")
    world.clock.advance(1_000)
    world.put(b"1", age_ms=2_000)
    world.over(exporter)
    data = client.data()
    assert data["IteratorAge", "FunctionName=billing"] == {"Minimum": 2_000, "Maximum": 3_000, "Sum": 5_000, "SampleCount": 2}
    assert data["PolledEventCount", f"EventSourceMappingUUID={UUID}"] == 1
    assert data["PolledEventCount", f"EventSourceMappingUUID={mapping.uuid}"] == 1


def test_a_name_that_cloudwatch_would_refuse_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    world, client = World(), Recorder()
    for name in ("", ":x", "x" * 256):
        with pytest.raises(ConfigError, match="must be 1 to 255"):
            world.exporter(client, namespace=name)
    world.exporter(client, namespace="AWS/Lambda")
    monkeypatch.setattr(client.meta, "endpoint_url", "https://monitoring.eu-west-1.amazonaws.com")
    with pytest.raises(ConfigError, match="begin with AWS/, as 'AWS/Lambda'") as caught:
        world.exporter(client, namespace="AWS/Lambda")
    assert caught.value.parameter == "namespace"


def test_moto_has_what_was_published_under_aws_s_own_name(moto: Server, aws_environment: None) -> None:
    name = unique("billing")
    world = World(f"arn:aws:lambda:{REGION}:123456789012:function:{name}:live")
    world.clock.advance(int(datetime.now(UTC).timestamp()) // 60 * 60_000 - BEGIN)
    begin = world.clock.now_ms()
    exporter = CloudWatchExporter(
        world.worker.metrics, namespace="AWS/Lambda", endpoint_url=moto.endpoint_url, region=REGION, clock=world.clock
    )
    world.put(b"1", age_ms=2_000)
    world.put(b"2", b"3", age_ms=7_000)
    world.over(exporter)
    client = moto.client("cloudwatch")

    def statistics(metric: str, **dimensions: str) -> dict[str, Any]:
        (found,) = client.get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName=metric,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=datetime.fromtimestamp(begin / 1000, UTC),
            EndTime=datetime.fromtimestamp(begin / 1000 + 60, UTC),
            Period=60,
            Statistics=["Sum", "Minimum", "Maximum", "SampleCount"],
        )["Datapoints"]
        return {key: found[key] for key in ("Sum", "Minimum", "Maximum", "SampleCount", "Unit", "Timestamp")}

    age = statistics("IteratorAge", FunctionName=name, Resource=f"{name}:live", ExecutedVersion="$LATEST")
    assert (age["Sum"], age["Minimum"], age["Maximum"], age["SampleCount"]) == (9_000, 2_000, 7_000, 2)
    assert (age["Unit"], age["Timestamp"]) == ("Milliseconds", datetime.fromtimestamp(begin / 1000, UTC))
    polled = statistics("PolledEventCount", EventSourceMappingUUID=UUID)
    assert (polled["Sum"], polled["Unit"]) == (3, "Count")
