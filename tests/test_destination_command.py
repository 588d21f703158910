"""`streamcore run` with a queue as destination: what it says, kill -9 on the way of a discard, and the policy that it needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import proxy as faults
from discards import Bucket, Queue
from proxy import Proxy, fault_proxy
from scenario import KinesisStream, Table
from streamcore._distribution import DISTRIBUTION
from streamcore.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

HANDLER = """
import os

log = os.open("handled.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def key(record):
    return record["dynamodb"]["Keys"]["key"]["S"] if "dynamodb" in record else record["kinesis"]["partitionKey"]

def handle(event, context):
    keys = [key(record) for record in event["Records"]]
    if "bad" in keys:
        raise ValueError("a bad record")
    os.write(log, "".join(name + "\\n" for name in keys).encode())
"""


@pytest.fixture(params=[KinesisStream, Table])
def stream(request: pytest.FixtureRequest, ministack: Server) -> KinesisStream | Table:
    made: KinesisStream | Table = KinesisStream(ministack, 1) if request.param is KinesisStream else Table(ministack)
    for key in ("a", "bad", "c", "d"):
        made.write([(key, 0)])
    return made


@pytest.fixture
def proxy(ministack: Server) -> Iterator[Proxy]:
    """What stands before SQS, and before nothing else."""
    with fault_proxy(ministack) as made:
        yield made


class Run:
    """`streamcore run` over a stream, in a folder that keeps its state."""

    def __init__(self, folder: Path, stream: KinesisStream | Table, queue: Queue, proxy: Proxy) -> None:
        (folder / "handlers.py").write_text(HANDLER)
        self._folder = folder
        self._env = {**os.environ, **stream.server.env, "AWS_ENDPOINT_URL_SQS": proxy.endpoint_url}
        self._command = [sys.executable, "-m", "streamcore", "run", "--source", stream.option, "--function", "handlers.py:handle"]
        self._command += ["--state", "s.sqlite", "--maximum-retry-attempts", "1", "--bisect-batch-on-function-error"]
        self._command += ["--destination-config", json.dumps({"OnFailure": {"Destination": queue.arn}})]

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start it; nothing but its end saves a checkpoint."""
        command = [*self._command, "--checkpoint-interval", "3600", *options]
        return subprocess.Popen(command, cwd=self._folder, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it until the stream is idle."""
        command = [*self._command, "--until-idle", *options]
        return subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False)

    def summary(self) -> dict[str, Any]:
        """Run it until the stream is idle and return its summary."""
        done = self.finish("--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def handled(self) -> list[str]:
        """Return the keys that the handler has accepted so far."""
        return (self._folder / "handled.txt").read_text().split()


def message_of(body: str) -> tuple[int, int]:
    """Return invocations and records of a discard, whose record must be the bad one."""
    record = json.loads(body)
    info = record.get("KinesisBatchInfo") or record["DDBStreamBatchInfo"]
    assert info["startSequenceNumber"] == info["endSequenceNumber"]
    return record["requestContext"]["approximateInvokeCount"], info["batchSize"]


def test_killed_between_a_discard_and_its_checkpoint_nothing_is_lost(
    stream: KinesisStream | Table, ministack: Server, proxy: Proxy, tmp_path: Path
) -> None:
    queue = Queue(ministack)
    run = Run(tmp_path, stream, queue, proxy)

    # The discard is on its way.
    proxy.fault("SendMessage", faults.hang())
    with run.start() as process:
        proxy.await_count("SendMessage", 1)
        process.send_signal(signal.SIGKILL)
    assert queue.receive(0) == []

    # The discard has arrived; no checkpoint knows it.
    with run.start() as process:
        (second,) = queue.receive(1)
        process.send_signal(signal.SIGKILL)

    summary = run.summary()
    (third,) = queue.receive(1)
    assert message_of(second) == message_of(third) == (2, 1)
    assert json.loads(second)["requestContext"]["requestId"] != json.loads(third)["requestContext"]["requestId"]
    names = ("records", "succeeded", "discarded_records", "discards", "delivered", "undelivered", "dropped", "unconfirmed")
    assert [summary[name] for name in names] == [4, 3, 1, 1, 1, 0, 0, 0]
    assert set(run.handled()) == {"a", "c", "d"}

    # Now the checkpoint has passed it.
    assert run.summary()["records"] == 0
    assert queue.receive(0) == []


def test_the_summary_says_what_became_of_the_discards(ministack: Server, proxy: Proxy, tmp_path: Path) -> None:
    queue, stream = Queue(ministack), KinesisStream(ministack, 1)
    stream.write([("a", 0), ("bad", 0)])
    run = Run(tmp_path, stream, queue, proxy)
    proxy.fault("SendMessage", faults.error("AccessDenied", 403), times=2)
    done = run.finish("--discard-tries", "2", "--discard-budget", "0.2")
    assert done.returncode == 0, done.stderr
    assert "  undelivered 1 (given up; nothing tells of them but the log)" in done.stdout
    assert "given up after" in done.stderr
    stream.write([("bad", 1)])
    again = run.finish("--on-undeliverable", "block")
    assert "  delivered   1\n" in again.stdout
    assert "undelivered" not in again.stdout
    assert message_of(*queue.receive(1)) == (2, 1)


def test_a_file_may_have_a_queue_as_destination(ministack: Server, tmp_path: Path) -> None:
    queue = Queue(ministack)
    (tmp_path / "rows.csv").write_text("key,value\na,1\nbad,2\nc,3\n")
    (tmp_path / "handlers.py").write_text(HANDLER)
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:handle"]
    command += ["--maximum-retry-attempts", "0", "--bisect-batch-on-function-error", "--endpoint-url", ministack.endpoint_url]
    command += ["--destination-config", f"OnFailure={{Destination={queue.arn}}}", "--json"]
    env = {**os.environ, **ministack.env}
    del env["AWS_ENDPOINT_URL"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["delivered"] == 1
    assert message_of(*queue.receive(1)) == (1, 1)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("arn:aws:sqs:us-east-1:000000000000:missing", "arn:aws:sqs:us-east-1:000000000000:missing does not exist"),
        ("arn:aws:sqs:us-east-1:000000000000:missing.fifo", "missing.fifo)) is invalid.; give the ARN of a standard SQS queue"),
    ],
)
def test_a_destination_that_is_not_there_is_wrong_usage(ministack: Server, tmp_path: Path, where: str, said: str) -> None:
    (tmp_path / "rows.csv").write_text("key\na\n")
    (tmp_path / "handlers.py").write_text(HANDLER)
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:handle"]
    command += ["--state", ":memory:", "--destination-config", json.dumps({"OnFailure": {"Destination": where}})]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **ministack.env}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("streamcore: --destination-config: ")
    assert said in done.stderr


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("key\na\n")
    (tmp_path / "handlers.py").write_text(HANDLER)
    code = "import sys; sys.modules['botocore'] = sys.modules['boto3'] = None; from streamcore.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:handle"]
    command += ["--destination-config", "OnFailure={Destination=arn:aws:sqs:us-east-1:000000000000:q}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install '{DISTRIBUTION}[aws]'" in done.stderr
    assert "Traceback" not in done.stderr


# The policy.

STREAM = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
QUEUE = "arn:aws:sqs:eu-west-1:123456789012:discards"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:discards"
BUCKET = "arn:aws:s3:::discards"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/0b0f6b39"
KEY_OPTION = ["--destination-kms-key-arn", KEY]


def statements(capsys: pytest.CaptureFixture[str], source: str, where: str, *options: str) -> list[tuple[list[str], str]]:
    """Return actions and resource of each statement that the command prints."""
    config = json.dumps({"OnFailure": {"Destination": where}})
    assert main(["policy", "--source", source, "--destination-config", config, *options]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in printed["Statement"]} == {"Allow"}
    return [(statement["Action"], statement["Resource"]) for statement in printed["Statement"]]


@pytest.mark.parametrize(
    ("where", "options", "expected"),
    [
        (QUEUE, [], [(["sqs:SendMessage"], QUEUE)]),
        (QUEUE, KEY_OPTION, [(["sqs:SendMessage"], QUEUE), (["kms:GenerateDataKey", "kms:Decrypt"], KEY)]),
        (TOPIC, [], [(["sns:Publish"], TOPIC)]),
        (
            "arn:aws:s3:::discards",
            [],
            [(["s3:PutObject"], "arn:aws:s3:::discards/aws/lambda/*"), (["s3:ListBucket"], "arn:aws:s3:::discards")],
        ),
        ("file:discards.ndjson", KEY_OPTION, []),
    ],
)
def test_the_policy_holds_what_the_destination_needs(
    capsys: pytest.CaptureFixture[str], where: str, options: list[str], expected: list[tuple[list[str], str]]
) -> None:
    reading, *sending = statements(capsys, STREAM, where, *options)
    assert reading[1] == STREAM
    assert sending == expected


def test_a_file_needs_the_permissions_of_its_destination_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert statements(capsys, "file:rows.csv", QUEUE) == [(["sqs:SendMessage"], QUEUE)]
    assert main(["policy", "--source", "file:rows.csv", "--destination-config", "OnFailure={Destination=file:x}"]) == 2
    assert "--source: must be kinesis:NAME" in capsys.readouterr().err


def test_the_key_of_an_object_is_one_that_the_policy_permits(ministack: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = Bucket(ministack)
    (tmp_path / "rows.csv").write_text("key,value\nbad,1\n")
    (tmp_path / "handlers.py").write_text(HANDLER)
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:handle"]
    command += ["--maximum-retry-attempts", "0", "--destination-config", f"OnFailure={{Destination={bucket.arn}}}"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **ministack.env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ((key, _, _),) = bucket.objects()
    (_, permitted), _ = statements(capsys, "file:rows.csv", bucket.arn)
    assert f"{bucket.arn}/{key}".startswith(permitted.removesuffix("*"))
