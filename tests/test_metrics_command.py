"""`streamcore run` with metrics: a port that is scraped while it runs, CloudWatch on a real moto, what is refused, and the policy."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from servers import Server, free_port, unique
from streamcore._progress import line
from streamcore.cli import main
from streamcore.worker import WorkerStats

if TYPE_CHECKING:
    from pathlib import Path

HANDLER = """
import os

def handle(event, context):
    pass

def wait(event, context):
    if not os.path.exists("waited"):
        os.close(os.open("waited", os.O_CREAT))
        os.close(os.open("go", os.O_RDONLY))  # until the test opens the other end
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.csv").write_text("key,n\n" + "".join(f"{number % 3},{number}\n" for number in range(100)))
    (tmp_path / "handlers.py").write_text(HANDLER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str, function: str = "handlers.py:handle") -> list[str]:
    source = "file:rows.csv?key=key"
    return [sys.executable, "-m", "streamcore", "run", "--source", source, "--function", function, "--state", ":memory:", *arguments]


def test_a_run_is_scraped_and_stops_serving_when_it_is_over(folder: Path) -> None:
    os.mkfifo(folder / "go")
    started = command("--metrics-port", "0", "--batch-size", "10", function="handlers.py:wait")
    with subprocess.Popen(started, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.fullmatch(r"streamcore: note: metrics are at http://127\.0\.0\.1:(\d+)/metrics\n", said)
        assert found is not None, said
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        (folder / "go").open("w").close()
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "records       100\n" in output
    values = dict(sample.rsplit(" ", 1) for sample in text.splitlines() if sample.startswith("streamcore_mapping_info"))
    assert list(values.values()) == ["1.0"]
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10).connect()


def test_cloudwatch_has_the_whole_run_when_it_is_over(folder: Path, moto: Server) -> None:
    namespace = unique("AWS/Lambda-")
    arguments = ["--cloudwatch-metrics", namespace, "--metrics-config", "Metrics=EventCount", "--json"]
    done = subprocess.run(
        command(*arguments, "--endpoint-url", moto.endpoint_url),
        cwd=folder,
        env={**os.environ, **moto.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["records"] == 100
    published = published_to(moto, namespace)
    assert {name for name, _ in published} == {"IteratorAge", "PolledEventCount", "InvokedEventCount"}
    assert {dimensions for name, dimensions in published if name == "PolledEventCount"} == {("EventSourceMappingUUID",)}
    assert {dimensions for name, dimensions in published if name == "IteratorAge"} == {(), ("FunctionName",)}


OPENTELEMETRY = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

out = open("exported", "w")
reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=out), export_interval_millis=3_600_000)
metrics.set_meter_provider(MeterProvider([reader]))

def handle(event, context):
    pass
"""


def test_opentelemetry_has_the_whole_run_when_it_is_over(folder: Path) -> None:
    (folder / "measured.py").write_text(OPENTELEMETRY)
    done = subprocess.run(
        command("--opentelemetry", function="measured.py:handle"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    exported, _ = json.JSONDecoder().raw_decode((folder / "exported").read_text())
    (scope,) = exported["resource_metrics"][0]["scope_metrics"]
    values = {metric["name"]: [point["value"] for point in metric["data"]["data_points"]] for metric in scope["metrics"]}
    assert values["streamcore.succeeded_events"] == [100]


def test_opentelemetry_that_nothing_has_set_up_is_told(folder: Path) -> None:
    done = subprocess.run(command("--opentelemetry"), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("streamcore: note: nothing has set OpenTelemetry up, so metrics go nowhere")


def published_to(moto: Server, namespace: str) -> list[tuple[str, tuple[str, ...]]]:
    metrics: list[dict[str, Any]] = moto.client("cloudwatch").list_metrics(Namespace=namespace)["Metrics"]
    return [(metric["MetricName"], tuple(one["Name"] for one in metric["Dimensions"])) for metric in metrics]


def test_a_cloudwatch_that_does_not_answer_fails_no_run(folder: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    env = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        command("--cloudwatch-metrics", "--endpoint-url", endpoint), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "metrics could not be published to CloudWatch" in done.stderr
    assert "could not be published to CloudWatch and are lost" in done.stderr


def test_who_waits_no_longer_for_the_last_metrics_gets_the_summary(folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": os.devnull}
        started = command("--cloudwatch-metrics", "--endpoint-url", endpoint, "--json")
        with subprocess.Popen(started, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1), "the run is over, and CloudWatch does not answer"
                process.send_signal(signal.SIGINT)
                output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    summary = json.loads(output)
    assert (summary["records"], summary["reason"]) == (100, "ended")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--metrics-port", "70000"], "--metrics-port: must be 0 to 65535, not 70000"),
        (["--metrics-port", "0", "--metrics-address", "203.0.113.1"], "--metrics-port: cannot listen on 203.0.113.1 port 0: "),
        (["--metrics-address", "127.0.0.2"], "--metrics-address: needs --metrics-port"),
        (["--metrics-config", "EventCount"], "--metrics-config: must be Metrics=EventCount or "),
        (["--metrics-config", "Metrics=KafkaMetrics"], "--metrics-config: KafkaMetrics: not a metric of a stream"),
        (["--cloudwatch-metrics", ":"], "--cloudwatch-metrics: must be 1 to 255 letters"),
        (["--cloudwatch-metrics", "AWS/Lambda", "--region", "eu-west-1"], "--cloudwatch-metrics: CloudWatch takes nothing from others"),
    ],
)
def test_what_cannot_be_right_is_one_line_and_status_2(
    folder: Path, aws_environment: None, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert main(command(*arguments)[3:]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"streamcore: {text}")
    assert errors.count("\n") == 1


def test_the_policy_allows_publishing_under_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    stream = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
    assert main(["policy", "--source", stream, "--cloudwatch-metrics"]) == 0
    statements = json.loads(capsys.readouterr().out)["Statement"]
    assert statements[-1] == {
        "Effect": "Allow",
        "Action": ["cloudwatch:PutMetricData"],
        "Resource": "*",
        "Condition": {"StringEquals": {"cloudwatch:namespace": "streamcore"}},
    }
    assert main(["policy", "--source", "file:rows.csv", "--cloudwatch-metrics", "orders"]) == 0
    (statement,) = json.loads(capsys.readouterr().out)["Statement"]
    assert statement["Condition"] == {"StringEquals": {"cloudwatch:namespace": "orders"}}


def test_the_progress_line_tells_filtered_records_and_closed_windows() -> None:
    assert "12 filtered out" in line(WorkerStats(filtered_records=12), 0.0)
    assert "3 windows closed" in line(WorkerStats(windows_closed=3), 0.0)
    assert "filtered" not in line(WorkerStats(), 0.0)
    assert "windows" not in line(WorkerStats(), 0.0)
