"""The command with functions behind the Lambda API: a real one that MiniStack runs, and servers that misbehave."""

from __future__ import annotations

import base64
import io
import json
import random
import zipfile
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from engines import one_shard, take
from lambda_server import ARN, NAME, LambdaServer, error, lambda_server
from scenario import KinesisStream, Rows
from servers import REGION, free_port, unique
from streamcore import LambdaFunction
from streamcore.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

CODE = """
import base64

def handle(event, context):
    failures = []
    for record in event["Records"]:
        if base64.b64decode(record["kinesis"]["data"]).endswith(b"7"):
            failures.append({"itemIdentifier": record["kinesis"]["sequenceNumber"]})
    return {"batchItemFailures": failures}
"""


@pytest.fixture(autouse=True)
def environment(aws_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own AWS settings, and a folder of one's own."""
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[LambdaServer]:
    with lambda_server() as made:
        yield made


@pytest.fixture
def rows(tmp_path: Path) -> str:
    (tmp_path / "rows.csv").write_text("key,number\n" + "".join(f"{'abc'[number % 3]},{number}\n" for number in range(100)))
    return "file:rows.csv?key=key"


def deploy(server: Server, code: str) -> str:
    """Make a Python function in a server and return its name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("app.py", code)
    name = unique("function")
    role = server.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    facts = {"Runtime": "python3.11", "Handler": "app.handle", "Role": role, "Timeout": 20}
    server.client("lambda").create_function(FunctionName=name, Code={"ZipFile": archive.getvalue()}, **facts)
    return name


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run the command to its end, which must be a good one, and return its summary."""
    status = main(["run", *arguments, "--until-idle", "--json"])
    said = capfd.readouterr()
    assert status == 0, said.err
    summary: dict[str, Any] = {**json.loads(said.out), "log": said.err}
    return summary


def test_a_real_function_reports_failures_which_reach_the_destination(
    ministack: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = deploy(ministack, CODE)
    stream = KinesisStream(ministack, 2)
    written = Rows(random.Random(1), keys=20).take(60)
    stream.write(written)
    summary = run(
        capfd,
        *("--source", stream.option, "--function", f"lambda:{name}", "--endpoint-url", ministack.endpoint_url),
        *("--batch-size", "10", "--parallelization-factor", "2", "--maximum-retry-attempts", "0", "--bisect-batch-on-function-error"),
        *("--function-response-types", "ReportBatchItemFailures"),
        *("--destination-config", "OnFailure={Destination=file:discards.ndjson}"),
    )
    bad = sum(str(number).endswith("7") for _, number in written)
    assert 0 < bad < 60
    assert (summary["succeeded"], summary["discarded_records"], summary["delivered"]) == (60 - bad, bad, bad)
    given_up = [json.loads(line) for line in (tmp_path / "discards.ndjson").read_text().splitlines()]
    arn = ministack.client("lambda").get_function_configuration(FunctionName=name)["FunctionArn"]
    assert {record["requestContext"]["functionArn"] for record in given_up} == {arn}
    assert {json.dumps(record["responseContext"]) for record in given_up} == {
        '{"statusCode": 200, "executedVersion": "$LATEST", "functionError": null}'
    }
    assert len({record["requestContext"]["requestId"] for record in given_up}) == bad


def test_the_event_arrives_as_it_is_in_a_server_that_gives_it_back(moto: Server) -> None:
    """Moto's Lambda without Docker returns the event."""
    settings = json.dumps({"lambda": {"use_docker": False}}).encode()
    client = moto.client("lambda")
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    configured = URLLib3Session().send(AWSRequest("POST", f"{moto.endpoint_url}/moto-api/config", data=settings).prepare())
    assert configured.status_code == 201
    name = deploy(moto, CODE)
    client.publish_version(FunctionName=name)
    engine, _ = one_shard(*range(1, 8))
    batch = take(engine)
    for qualifier in ("", ":1"):
        function = LambdaFunction(name + qualifier, region=REGION, endpoint_url=moto.endpoint_url)
        assert function.describe() == 20_000
        assert function.function_arn == f"arn:aws:lambda:{REGION}:123456789012:function:{name}{qualifier}"
        answer = function.invoke(batch)
        assert (answer.kind, answer.payload) == ("success", batch.event())
        function.close()


def test_records_are_handled_once_and_in_order_though_the_function_is_throttled(
    server: LambdaServer, rows: str, capfd: pytest.CaptureFixture[str]
) -> None:
    handled: dict[str, list[int]] = defaultdict(list)

    def handle(event: Any) -> None:
        for record in event["Records"]:
            handled[record["kinesis"]["partitionKey"]].append(int(json.loads(base64.b64decode(record["kinesis"]["data"]))["number"]))

    server.function = handle
    server.replies.extend([error(429, "TooManyRequestsException")] * 2)
    options = ("--source", rows, "--function", f"lambda:{NAME}", "--function-endpoint-url", server.endpoint_url)
    summary = run(capfd, *options, "--parallelization-factor", "2", "--batch-size", "20", "--maximum-retry-attempts", "0")
    assert handled == {"abc"[first]: list(range(first, 100, 3)) for first in range(3)}
    assert (summary["succeeded"], summary["throttles"], summary["discards"]) == (100, 2, 0)
    again = run(capfd, *options)
    assert (again["records"], len(server.invocations)) == (0, summary["invocations"] + 2), "the state file knows that all is done"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL"])
def test_the_environment_names_the_functions_server(
    server: LambdaServer, rows: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, server.endpoint_url)
    summary = run(capfd, "--source", rows, "--function", f"{ARN}:live", "--region", "eu-west-1", "--timeout", "60")
    assert summary["succeeded"] == 100
    assert {invocation.qualifier for invocation in server.invocations} == {"live"}


def test_what_was_discarded_is_run_by_a_function_on_another_server(
    ministack: Server, server: LambdaServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text("def handle(event, context):\n    raise ValueError\n")
    stream = KinesisStream(ministack, 1)
    stream.write([("a", number) for number in range(5)])
    here = ("--endpoint-url", ministack.endpoint_url)
    given_up = ("--maximum-retry-attempts", "0", "--destination-config", "OnFailure={Destination=file:discards.ndjson}")
    assert run(capfd, "--source", stream.option, *here, "--function", "failing.py:handle", *given_up)["discarded_records"] == 5
    there = ("--function", f"lambda:{NAME}", "--function-endpoint-url", server.endpoint_url)
    assert main(["redrive", "--from", "discards.ndjson", *here, *there, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["succeeded"] == 5
    assert len(server.invocations) == 1


def test_what_is_wrong_with_the_function_is_said_at_the_start(server: LambdaServer, rows: str, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--source", rows, "--endpoint-url", server.endpoint_url, "--function"]
    assert main([*command, "lambda:nobody"]) == 2
    assert "streamcore: --function: Function not found: arn:aws:lambda:us-east-1:000000000000:function:nobody" in capfd.readouterr().err
    assert main([*command, "lambda:"]) == 2
    assert "streamcore: --function: a function of the Lambda API is named by NAME" in capfd.readouterr().err
    gone = f"http://127.0.0.1:{free_port()}"
    assert main([*command, f"lambda:{NAME}", "--function-endpoint-url", gone]) == 1
    assert f"function:{NAME} cannot be reached (lambda:GetFunctionConfiguration)" in capfd.readouterr().err
    assert main([*command, "handlers.py:handle"]) == 2
    assert "--endpoint-url is for streams, functions, destinations and metrics of AWS" in capfd.readouterr().err
    assert server.invocations == []


def test_the_policy_has_what_the_function_needs(capfd: pytest.CaptureFixture[str]) -> None:
    def statements(*arguments: str) -> list[dict[str, Any]]:
        assert main(["policy", *arguments]) == 0
        found: list[dict[str, Any]] = json.loads(capfd.readouterr().out)["Statement"]
        return found

    actions = ["lambda:InvokeFunction", "lambda:GetFunctionConfiguration"]
    stream = statements("--source", "kinesis:orders")
    expected = {"Effect": "Allow", "Action": actions, "Resource": f"{ARN}:live"}
    assert statements("--source", "kinesis:orders", "--function", f"{ARN}:live") == [*stream, expected]
    by_name = {**expected, "Resource": "arn:aws-cn:lambda:cn-north-1:*:function:billing"}
    assert statements("--source", "file:rows.csv", "--function", "lambda:billing", "--region", "cn-north-1") == [by_name]
    assert statements("--source", "kinesis:orders", "--function", "handlers.py:handle") == stream
    assert main(["policy", "--source", "file:rows.csv", "--function", "handlers.py:handle"]) == 2
    assert "a file needs no permission of AWS" in capfd.readouterr().err
