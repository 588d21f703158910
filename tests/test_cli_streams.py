"""The command over streams of AWS: what it says, what it needs, where it goes on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fanout_server import CONSUMER_ARN as CONSUMER_OF_SERVER
from fanout_server import fanout_server
from proxy import error, fault_proxy
from scenario import Command, KinesisStream, Rows, Table, assert_once_and_in_order
from servers import CREDENTIALS
from streamcore._distribution import DISTRIBUTION
from streamcore._streams import StreamOption
from streamcore.cli import main
from streamcore.kpl import UserRecord, aggregate

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

KINESIS_ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
TABLE_ARN = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders"
CONSUMER_ARN = f"{KINESIS_ARN}/consumer/lambda:1700000000"
KEY_ARN = "arn:aws:kms:eu-west-1:123456789012:key/0b0f6b39"


@pytest.fixture(params=[KinesisStream, Table])
def stream(request: pytest.FixtureRequest, ministack: Server) -> KinesisStream | Table:
    made: KinesisStream | Table = KinesisStream(ministack, 2) if request.param is KinesisStream else Table(ministack)
    return made


def test_a_stream_has_one_mapping_under_its_name_and_under_its_arn(stream: KinesisStream | Table, tmp_path: Path) -> None:
    rows = Rows(random.Random(1))
    stream.write(first := rows.take(50))
    by_name = Command(tmp_path, stream)
    assert by_name.finish()["records"] == 50
    stream.write(second := rows.take(30))
    arn = stream.stream_arn if isinstance(stream, Table) else stream.client.describe_stream_summary(StreamName=stream.name)
    stream.option = arn if isinstance(arn, str) else arn["StreamDescriptionSummary"]["StreamARN"]
    summary = Command(tmp_path, stream).finish()
    assert summary["records"] == 30
    assert_once_and_in_order(by_name.handled(), [*first, *second], "seed 1")


def test_the_start_says_what_polling_costs(stream: KinesisStream | Table, tmp_path: Path) -> None:
    option = StreamOption.parse(stream.option)
    assert option is not None
    lines = [line for line in Command(tmp_path, stream).finish()["log"].splitlines() if line.startswith("streamcore: note:")]
    assert lines == [f"streamcore: note: {option.cost}"]
    assert "free for no poller but Lambda's own" in lines[0]


def test_the_policy_names_the_calls_of_a_run_and_no_others(stream: KinesisStream | Table, tmp_path: Path) -> None:
    stream.write(Rows(random.Random(1)).take(10))
    with fault_proxy(stream.server) as proxy:
        Command(tmp_path, stream, "--endpoint-url", proxy.endpoint_url).finish()
        called = {request.operation for request in proxy.requests}
    option = StreamOption.parse(stream.option)
    assert option is not None
    allowed = [action for statement in option.policy()["Statement"] for action in statement["Action"]]
    assert sorted(allowed) == sorted(f"{option.service}:{operation}" for operation in called)


@pytest.mark.parametrize(
    ("operation", "faulty"),
    [("DescribeStreamSummary", "kinesis"), ("ListShards", "kinesis"), ("DescribeStream", "dynamodb"), ("ListStreams", "dynamodb")],
)
def test_first_contact_without_permission_names_the_action(ministack: Server, tmp_path: Path, operation: str, faulty: str) -> None:
    stream = KinesisStream(ministack, 1) if faulty == "kinesis" else Table(ministack)
    with fault_proxy(ministack) as proxy:
        proxy.fault(operation, error("AccessDeniedException"), times=None)
        with Command(tmp_path, stream, "--endpoint-url", proxy.endpoint_url).start("--until-idle") as process:
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert process.returncode == 1
    assert f"no permission for {faulty}:{operation}" in said


def test_region_endpoint_and_credentials_may_come_from_a_profile(stream: KinesisStream | Table, tmp_path: Path) -> None:
    stream.write(Rows(random.Random(1)).take(20))
    profile = {"region": "eu-west-1", "aws_access_key_id": "of-the-profile", "aws_secret_access_key": "secret"}
    with fault_proxy(stream.server) as proxy:
        profile["endpoint_url"] = proxy.endpoint_url
        settings = "\n".join(f"{name} = {value}" for name, value in profile.items())
        (tmp_path / "config").write_text(f"[profile local]\n{settings}\n")
        command = Command(tmp_path, stream, "--profile", "local")
        command.env = {name: value for name, value in command.env.items() if not name.startswith("AWS_")}
        command.env |= {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_EC2_METADATA_DISABLED": "true"}
        command.finish("--region", "us-east-1")  # an option counts more than the profile
        scopes = {request.headers["authorization"].split("Credential=")[1].split(",")[0] for request in proxy.requests}
    assert {scope.split("/")[0] for scope in scopes} == {"of-the-profile"}
    assert {scope.split("/")[2] for scope in scopes} == {"us-east-1"}
    assert len((tmp_path / "handled.txt").read_text().splitlines()) == 20


def test_a_stream_that_is_not_there_ends_the_run(ministack: Server, tmp_path: Path) -> None:
    stream = KinesisStream(ministack, 1)
    stream.option = "kinesis:missing"
    with Command(tmp_path, stream).start() as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "stream not found: missing" in said


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['botocore'] = sys.modules['boto3'] = None; from streamcore.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--source", "kinesis:orders", "--function", "h.py:handle", "--region", "eu-west-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install '{DISTRIBUTION}[aws]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", [["--region", "eu-west-1"], ["--endpoint-url", "http://127.0.0.1:1"], ["--profile", "p"]])
def test_a_file_has_no_region_endpoint_or_profile(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    assert main(["run", "--source", "file:rows.csv?key=k", "--function", "h:handle", *option]) == 2
    assert f"{option[0]} is for streams, functions, destinations and metrics of AWS; --source is a file" in capsys.readouterr().err


def policy(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[tuple[list[str], str]]:
    """Return actions and resource of each statement that the command prints."""
    assert main(["policy", *arguments]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in printed["Statement"]} == {"Allow"}
    return [(statement["Action"], statement["Resource"]) for statement in printed["Statement"]]


READ_KINESIS = ["kinesis:DescribeStreamSummary", "kinesis:ListShards", "kinesis:GetShardIterator", "kinesis:GetRecords"]
READ_TABLE = ["dynamodb:DescribeStream", "dynamodb:GetShardIterator", "dynamodb:GetRecords"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", KINESIS_ARN], [(READ_KINESIS, KINESIS_ARN)]),
        (["--source", KINESIS_ARN, "--kms-key-arn", KEY_ARN], [(READ_KINESIS, KINESIS_ARN), (["kms:Decrypt"], KEY_ARN)]),
        (
            ["--source", CONSUMER_ARN],
            [
                (["kinesis:DescribeStreamSummary", "kinesis:ListShards"], KINESIS_ARN),
                (["kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"], CONSUMER_ARN),
            ],
        ),
        (["--source", "kinesis:orders"], [(READ_KINESIS, "arn:aws:kinesis:*:*:stream/orders")]),
        (["--source", "kinesis:orders", "--region", "cn-north-1"], [(READ_KINESIS, "arn:aws-cn:kinesis:cn-north-1:*:stream/orders")]),
        (["--source", f"{TABLE_ARN}/stream/2026-01-31T00:00:00.000"], [(READ_TABLE, f"{TABLE_ARN}/stream/2026-01-31T00:00:00.000")]),
        (
            ["--source", TABLE_ARN],
            [(READ_TABLE, f"{TABLE_ARN}/stream/*"), (["dynamodb:ListStreams"], f"{TABLE_ARN}/stream/*")],
        ),
    ],
)
def test_policies(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[tuple[list[str], str]]) -> None:
    assert policy(capsys, *arguments) == expected


def test_a_consumer_is_read_with_what_its_policy_allows(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(
        "def handle(event, context):\n    print([record['kinesis']['partitionKey'] for record in event['Records']])\n"
    )
    env = {**os.environ, **CREDENTIALS, "AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
    with fanout_server() as server:
        server.heartbeats = True
        server.put("shardId-000000000000", aggregate([UserRecord("ann", b"1"), UserRecord("bob", b"2")]))
        command = [sys.executable, "-m", "streamcore", "run", "--source", CONSUMER_OF_SERVER, "--function", "h.py:handle"]
        command += ["--endpoint-url", server.endpoint_url, "--until-idle"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        called = sorted(f"kinesis:{operation}" for operation in server.calls)
    assert done.returncode == 0, done.stderr
    assert "['ann', 'bob']" in done.stdout
    option = StreamOption.parse(CONSUMER_OF_SERVER)
    assert option is not None
    assert f"streamcore: note: {option.cost}" in done.stderr
    assert "a consumer with enhanced fan-out is charged for" in option.cost
    assert called == sorted(action for statement in option.policy()["Statement"] for action in statement["Action"])


def test_a_policy_for_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "--source", "file:rows.csv"]) == 2
    assert "a file needs no permission of AWS; it is 'file:rows.csv'" in capsys.readouterr().err
