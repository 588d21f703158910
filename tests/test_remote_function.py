"""Functions behind the Lambda API: what each answer of the service means, and that a lost run is never joined by a second one."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from botocore.loaders import create_loader

from engines import NOW, one_shard, take
from lambda_server import ARN, NAME, LambdaServer, Reply, error, function_error, hang, lambda_server, lose
from scenario import until
from servers import free_port
from streamcore import (
    Answer,
    Batch,
    ConfigError,
    EventSourceMapping,
    FunctionUnavailableError,
    LambdaFunction,
    MemoryCheckpointStore,
    MemoryStream,
    Worker,
)
from streamcore.functions import remote
from streamcore.functions._names import FunctionName
from streamcore.testing import ManualClock, run_until_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamcore import Discard, Summary

MARGIN_MS = remote._MARGIN_MS
_LOADER = create_loader()


@pytest.fixture(autouse=True)
def environment(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own AWS settings; and botocore reads its description of Lambda once, not in each test."""
    monkeypatch.setattr("botocore.loaders.create_loader", lambda _: _LOADER)


@pytest.fixture
def server() -> Iterator[LambdaServer]:
    with lambda_server() as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def functions(server: LambdaServer, clock: ManualClock) -> Iterator[Callable[..., LambdaFunction]]:
    made: list[LambdaFunction] = []

    def make(name: str = NAME, **options: Any) -> LambdaFunction:
        function = LambdaFunction(name, **{"region": "us-east-1", "endpoint_url": server.endpoint_url, "clock": clock, **options})
        made.append(function)
        return function

    yield make
    for function in made:
        function.close()
        function.close()


def batch_of(*numbers: int, **parameters: Any) -> Batch:
    engine, _ = one_shard(*numbers, **parameters)
    return take(engine)


def numbers(event: Any) -> list[int]:
    return [int(record["kinesis"]["sequenceNumber"]) for record in event["Records"]]


class Recorder:
    """A destination that keeps what it was sent."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def send(self, discard: Discard) -> None:
        self.records.append(discard.invocation_record())

    def close(self) -> None:
        pass


# Names.


@pytest.mark.parametrize(
    ("text", "name", "qualifier", "arn"),
    [
        ("billing", "billing", None, "arn:aws:lambda:eu-west-1:000000000000:function:billing"),
        ("billing:live", "billing", "live", "arn:aws:lambda:eu-west-1:000000000000:function:billing:live"),
        ("billing:$LATEST", "billing", "$LATEST", "arn:aws:lambda:eu-west-1:000000000000:function:billing:$LATEST"),
        (ARN, "billing", None, ARN),
        (f"{ARN}:7", "billing", "7", f"{ARN}:7"),
        ("arn:aws-cn:lambda:cn-north-1:123456789012:function:f", "f", None, "arn:aws-cn:lambda:cn-north-1:123456789012:function:f"),
    ],
)
def test_a_function_is_named_as_lambda_names_it(text: str, name: str, qualifier: str | None, arn: str) -> None:
    found = FunctionName.read(text)
    assert (found.name, found.qualifier, found.arn("eu-west-1")) == (name, qualifier, arn)


@pytest.mark.parametrize(
    "text", ["", "a b", "f:", ":live", "arn:aws:sqs:us-east-1:123456789012:q", f"{ARN}:1:2", "arn:aws:lambda:x:1:function:f"]
)
def test_what_names_no_function_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="named by NAME, NAME:QUALIFIER or arn:aws:lambda:REGION:ACCOUNT:function:NAME") as raised:
        LambdaFunction(text)
    assert raised.value.parameter == "function"


def test_the_command_tells_kinds_of_functions_apart() -> None:
    assert FunctionName.parse("handlers.py:handle") is None
    assert FunctionName.parse("lambda:billing:live") == FunctionName("billing", "live")
    assert FunctionName.parse(ARN) == FunctionName("billing", None, "aws", "us-east-1", "123456789012")
    with pytest.raises(ConfigError, match="not 'a b'"):
        FunctionName.parse("lambda:a b")


@pytest.mark.parametrize(
    ("options", "parameter", "text"),
    [
        ({"timeout_ms": 0}, "timeout_ms", "from 1 to 900000, not 0"),
        ({"timeout_ms": 900_001}, "timeout_ms", "from 1 to 900000, not 900001"),
        ({"timeout_ms": True}, "timeout_ms", "not True"),
        ({"name": ARN, "region": "eu-west-1"}, "region", "the function's ARN says region us-east-1"),
        ({"profile": "nobody"}, "profile", "nobody"),
        ({"endpoint_url": "localhost:1"}, "endpoint_url", "an endpoint is a URL like http://127.0.0.1:4566"),
        ({"endpoint_url": None, "region": None}, "region", "no region: give one with --region"),
    ],
)
def test_bad_options_are_told_of_at_once(functions: Any, options: dict[str, Any], parameter: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as raised:
        functions(options.pop("name", NAME), **options)
    assert raised.value.parameter == parameter


def test_without_boto3_it_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["boto3"] = sys.modules["botocore"] = None
        from streamcore import ConfigError, LambdaFunction
        try:
            LambdaFunction("billing")
        except ConfigError as error:
            print(error)
    """
    said = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True).stdout
    assert "needs boto3, which is not installed: pip install 'streamcore-esm[aws]'" in said


# One call.


def test_the_event_arrives_byte_for_byte_and_the_answer_comes_back_whole(server: LambdaServer, functions: Any) -> None:
    server.version = "42"
    server.function = lambda event: {"got": len(event["Records"])}
    batch = batch_of(1, 2, 3)
    answer = functions().invoke(batch)
    (invocation,) = server.invocations
    assert invocation.body == batch.json()
    assert invocation.headers["x-amz-invocation-type"] == "RequestResponse"
    assert answer == Answer("success", {"got": 3}, 200, "42", None, invocation.request_id)


@pytest.mark.parametrize("name", [NAME, ARN])
@pytest.mark.parametrize("qualifier", [None, "live"])
def test_a_qualifier_is_what_is_invoked_and_what_the_arn_says(
    server: LambdaServer, functions: Any, name: str, qualifier: str | None
) -> None:
    function = functions(name if qualifier is None else f"{name}:{qualifier}")
    assert function.describe() == 7000
    assert function.function_arn == (ARN if qualifier is None else f"{ARN}:{qualifier}")
    assert function.invoke(batch_of(1)).kind == "success"
    assert [invocation.qualifier for invocation in server.invocations] == [qualifier]


@pytest.mark.parametrize("kind", ["Unhandled", "Handled"])
def test_a_function_error_is_the_functions(server: LambdaServer, functions: Any, kind: str) -> None:
    server.replies.append(function_error("boom", kind))
    answer = functions().invoke(batch_of(1))
    assert (answer.kind, answer.function_error, answer.status_code, answer.problem) == ("function_error", kind, 200, None)
    assert answer.payload == {"errorMessage": "boom", "errorType": "ValueError"}
    assert answer.request_id == server.invocations[0].request_id


@pytest.mark.parametrize(("body", "payload"), [(b"", None), (b"null", None), (b"[1]", [1]), (b"not JSON", "not JSON"), (b"\xff", "\ufffd")])
def test_any_payload_is_an_answer(server: LambdaServer, functions: Any, body: bytes, payload: object) -> None:
    server.replies.append(Reply(200, body))
    answer = functions().invoke(batch_of(1))
    assert (answer.kind, answer.payload, answer.executed_version) == ("success", payload, None)


def _service(status: int) -> str:
    return f"(Service: AWSLambda; Status Code: {status}; "


REFUSALS = [
    (
        error(429, "TooManyRequestsException", "Rate Exceeded.", Reason="ConcurrentInvocationLimitExceeded"),
        "throttled",
        f"Function is throttled: Rate Exceeded. [ConcurrentInvocationLimitExceeded] {_service(429)}",
    ),
    (error(413, "RequestTooLargeException", "big"), "too_large", f"Function call failed: the event is too large: big {_service(413)}"),
    (Reply(413, b"<html>"), "too_large", "Function call failed: the event is too large: "),
    (error(404, "ResourceNotFoundException"), "service_error", f"Function not found: {ARN} {_service(404)}"),
    (
        error(403, "AccessDeniedException", "no"),
        "service_error",
        f"no permission for lambda:InvokeFunction on {ARN}; the credentials in use need it: no {_service(403)}",
    ),
    (
        error(403, "ExpiredTokenException", "old"),
        "service_error",
        f"the AWS credentials are missing, expired or not valid: old {_service(403)}",
    ),
    (error(409, "ResourceConflictException", "Pending"), "service_error", f"Function {ARN} cannot be invoked now: Pending {_service(409)}"),
    (error(400, "InvalidRequestContentException", "bad"), "service_error", f"Function call failed: bad {_service(400)}"),
    (error(500, "ServiceException", "oops"), "service_error", f"Function call failed: oops {_service(500)}"),
    (error(502, "EC2ThrottledException", "ec2"), "service_error", f"Function call failed: ec2 {_service(502)}"),
    (error(503, "ServiceUnavailable", "busy"), "service_error", f"Function call failed: busy {_service(503)}"),
    (Reply(503, b"<html>"), "service_error", f"Function call failed: Service Unavailable {_service(503)}Error Code: none; "),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[f"{reply.status}-{kind}-{number}" for number, (reply, kind, _) in enumerate(REFUSALS)])
def test_what_the_service_refuses_did_not_run(
    server: LambdaServer,
    functions: Any,
    monkeypatch: pytest.MonkeyPatch,
    refusal: tuple[Reply, str, str],
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    reply, kind, problem = refusal
    function = functions()
    function.describe()
    server.replies.extend([reply, reply])
    answer = function.invoke(batch_of(1))
    assert (answer.kind, answer.status_code, answer.executed_version, answer.alive_until_ms) == (kind, reply.status, None, None)
    assert answer.problem is not None
    assert answer.problem.startswith(problem)
    assert answer.request_id == server.invocations[0].request_id
    assert answer.request_id in answer.problem
    assert len(server.invocations) == 1, "the client does not try again"
    assert (function.invoke(batch_of(1)).kind, function.invoke(batch_of(1)).kind) == (kind, "success")


def test_credentials_are_read_anew_after_they_were_refused(server: LambdaServer, functions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    function = functions(timeout_ms=1000)
    server.replies.append(error(403, "UnrecognizedClientException"))
    function.invoke(batch_of(1))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert function.invoke(batch_of(1)).kind == "success"
    used = [invocation.headers["authorization"].partition("Credential=")[2].partition("/")[0] for invocation in server.invocations]
    assert used == ["test", "another"]


def test_missing_credentials_are_a_service_error(server: LambdaServer, functions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    function = functions(timeout_ms=1000)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    function._forget_credentials()
    answer = function.invoke(batch_of(1))
    assert (answer.kind, answer.status_code, answer.alive_until_ms, server.invocations) == ("service_error", 0, None, [])
    assert "the AWS credentials are missing, expired or not valid (NoCredentialsError" in answer.problem


def test_where_nobody_listens_nothing_can_run(functions: Any) -> None:
    answer = functions(endpoint_url=f"http://127.0.0.1:{free_port()}").invoke(batch_of(1))
    assert (answer.kind, answer.status_code, answer.alive_until_ms) == ("service_error", 0, None)
    assert "cannot be reached (EndpointConnectionError" in answer.problem


def test_one_connection_serves_call_after_call_and_is_kept_alive(server: LambdaServer, functions: Any) -> None:
    function = functions()
    for _ in range(5):
        assert function.invoke(batch_of(1)).kind == "success"
    assert len({invocation.port for invocation in server.invocations}) == 1
    pool = function._http[1]._manager.connection_from_url(server.endpoint_url)
    connection = pool._get_conn()
    assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 45
    pool._put_conn(connection)


# The function's timeout.


def test_the_timeout_is_that_of_the_function_and_asked_for_once(server: LambdaServer, functions: Any) -> None:
    function = functions()
    assert server.asked == 0, "nothing is called before first contact"
    function.invoke(batch_of(1))
    function.invoke(batch_of(1))
    assert (server.asked, function._awaited_ms()) == (1, 7000 + MARGIN_MS)
    fixed = functions(timeout_ms=60_000)
    fixed.invoke(batch_of(1))
    assert (server.asked, fixed._awaited_ms()) == (1, 60_000 + MARGIN_MS)


def test_without_leave_to_ask_the_longest_timeout_counts(server: LambdaServer, functions: Any, caplog: pytest.LogCaptureFixture) -> None:
    server.configuration = error(403, "AccessDeniedException", "no lambda:GetFunctionConfiguration for you")
    function = functions()
    assert function.describe() == 900_000
    assert "with leave for lambda:GetFunctionConfiguration" in caplog.text
    assert function.invoke(batch_of(1)).kind == "success"


def test_first_contact_says_what_is_wrong(server: LambdaServer, functions: Any) -> None:
    with pytest.raises(ConfigError, match=r"Function not found: .*:function:nobody") as missing:
        functions("nobody").describe()
    assert missing.value.parameter == "function"
    with pytest.raises(FunctionUnavailableError, match="cannot be reached") as unreachable:
        functions(endpoint_url=f"http://127.0.0.1:{free_port()}").describe()
    assert (unreachable.value.code, unreachable.value.action) == ("EndpointConnectionError", "lambda:GetFunctionConfiguration")
    server.configuration = error(403, "ExpiredTokenException")
    with pytest.raises(FunctionUnavailableError, match="credentials are missing, expired or not valid"):
        functions().describe()
    server.configuration = error(500, "ServiceException")
    with pytest.raises(FunctionUnavailableError, match="cannot be described"):
        functions().describe()


# Runs of which no end is known.


def test_a_lost_run_may_be_alive_for_its_timeout_and_a_margin(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    function = functions()
    function.describe()
    server.replies.append(lose())
    answer = function.invoke(batch_of(1))
    assert (answer.kind, answer.status_code, len(server.invocations)) == ("service_error", 0, 1)
    assert answer.alive_until_ms == clock.now_ms() + 7000 + MARGIN_MS
    assert "no answer from" in answer.problem
    assert "it may run on for 37 s" in answer.problem


@pytest.mark.parametrize("status", [502, 504])
def test_a_gateway_that_lost_the_service_does_not_say_that_the_function_ended(
    server: LambdaServer, functions: Any, clock: ManualClock, status: int
) -> None:
    function = functions(timeout_ms=5000)
    server.replies.append(Reply(status, b"<html>"))
    assert function.invoke(batch_of(1)).alive_until_ms == clock.now_ms() + 5000 + MARGIN_MS


def test_an_answer_that_breaks_off_tells_that_the_run_has_ended(server: LambdaServer, functions: Any) -> None:
    server.replies.append(lose(after_answer=True))
    answer = functions().invoke(batch_of(1))
    assert (answer.kind, answer.alive_until_ms, len(server.invocations)) == ("service_error", None, 1)
    assert "the answer broke off" in answer.problem


def test_a_run_whose_whole_time_was_waited_for_is_over(
    server: LambdaServer, functions: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MARGIN_MS", 100)
    server.replies.append(hang())
    answer = functions(timeout_ms=100).invoke(batch_of(1))
    server.await_invocations(1)  # the server may be slow to see it
    assert (answer.kind, answer.alive_until_ms, len(server.invocations)) == ("service_error", clock.now_ms(), 1)
    assert "ReadTimeoutError" in answer.problem
    assert "may run on" not in answer.problem


def test_a_timeout_that_was_raised_meanwhile_counts(
    server: LambdaServer, functions: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MARGIN_MS", -900)
    server.configuration = {"FunctionArn": ARN, "Timeout": 1}
    function = functions()
    function.describe()
    server.configuration = {"FunctionArn": ARN, "Timeout": 600}
    server.replies.append(hang())
    assert function.invoke(batch_of(1)).alive_until_ms == clock.now_ms() - 100 + 599_100


# In a worker, on a clock of its own.


def driven(clock: ManualClock, function: Any, records: list[tuple[str, bytes]], **parameters: Any) -> tuple[Worker, MemoryStream, Recorder]:
    stream, destination = MemoryStream("orders", clock=clock), Recorder()
    for key, data in records:
        stream.put(key, data)
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock, seed=1)
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", function_arn=ARN, **parameters)
    worker.add(mapping, stream, function, destination)
    return worker, stream, destination


def test_a_lane_stays_blocked_until_its_lost_run_can_no_longer_be_alive(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    started: dict[str, list[int]] = {"a": [], "b": []}
    server.function = lambda event: started[event["Records"][0]["kinesis"]["partitionKey"]].append(clock.now_ms() - begin)
    server.replies.append(lose())
    assert len(set(_lanes(["a", "b"], 3).values())) == 2, "each key has a lane of its own"
    records = [("ab"[number % 2], b"") for number in range(6)]
    worker, _, destination = driven(clock, functions(ARN), records, batch_size=1, parallelization_factor=3, maximum_retry_attempts=0)
    begin = clock.now_ms()
    worker.step(begin)
    assert started == {"a": [], "b": [0, 0, 0]}, "the other lane goes on"
    assert worker.stats().in_flight == 1
    (problem,) = worker.stats().problems.values()
    assert problem.startswith(f"PROBLEM: Function call failed: no answer from {ARN}")
    stats = run_until_idle(worker, clock)
    wait = 7000 + MARGIN_MS
    assert len(started["a"]) == 3
    assert wait <= started["a"][0] == started["a"][2] <= wait + 220, "the wait, and one pause of a throttle"
    assert (stats.records, stats.succeeded, stats.throttles, stats.invocations) == (6, 6, 1, 6), "nothing was held against the budget"
    assert (destination.records, stats.problems) == ([], {})
    worker.stop()


def test_age_does_not_let_a_lane_go_on_beside_a_lost_run(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    started: list[int] = []
    server.function = lambda _: started.append(clock.now_ms())
    server.replies.append(lose())
    worker, stream, destination = driven(clock, functions(timeout_ms=300_000), [("a", b"")], batch_size=1, maximum_record_age_in_seconds=60)
    begin = clock.now_ms()
    worker.step(begin)
    clock.advance(300_000)
    stream.put("a", b"")
    run_until_idle(worker, clock)
    assert started == [begin + 300_000 + MARGIN_MS]
    (given_up,) = destination.records
    assert given_up["requestContext"]["condition"] == "RecordAgeExceeded"
    worker.stop()


def test_a_throttled_function_is_called_again_until_it_runs(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    server.replies.extend([error(429, "TooManyRequestsException")] * 8 + [error(500, "ServiceException")] * 3)
    worker, _, destination = driven(clock, functions(), [("a", b"")] * 5, maximum_retry_attempts=0, bisect_batch_on_function_error=True)
    stats = run_until_idle(worker, clock)
    assert (stats.succeeded, stats.throttles, stats.invocations, destination.records) == (5, 11, 1, [])
    assert len({invocation.body for invocation in server.invocations}) == 1
    assert clock.now_ms() - NOW > 60_000, "with pauses that grow to a minute"
    worker.stop()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (error(404, "ResourceNotFoundException"), f"PROBLEM: Function not found: {ARN} "),
        (error(403, "AccessDeniedException"), "PROBLEM: no permission for lambda:InvokeFunction on "),
        (error(409, "ResourceConflictException"), f"PROBLEM: Function {ARN} cannot be invoked now: "),
    ],
)
def test_the_status_says_what_is_wrong_and_that_it_is_over(
    server: LambdaServer, functions: Any, clock: ManualClock, reply: Reply, text: str
) -> None:
    server.replies.extend([reply] * 3)
    worker, _, _ = driven(clock, functions(ARN), [("a", b"")], maximum_retry_attempts=0)
    due = worker.step(clock.now_ms())
    assert due is not None
    assert [problem[: len(text)] for problem in worker.stats().problems.values()] == [text]
    stats = run_until_idle(worker, clock)
    assert (stats.succeeded, stats.throttles, dict(stats.problems)) == (1, 3, {})
    worker.stop()


def test_what_is_too_large_is_cut_by_bytes_and_never_sent_again(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    limit = 3000
    handled: list[int] = []

    def accept(event: Any) -> object:
        if len(server.invocations[-1].body) > limit:
            return error(413, "RequestTooLargeException")
        handled.extend(len(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"])
        return None

    server.function = accept
    sizes = [10, 20, 900, 30, 5000, 40, 50, 800, 700, 60]
    parameters: dict[str, Any] = {"maximum_retry_attempts": 2, "bisect_batch_on_function_error": True}
    worker, _, destination = driven(clock, functions(), [("a", bytes(size)) for size in sizes], **parameters)
    stats = run_until_idle(worker, clock)
    assert handled == [size for size in sizes if size != 5000], "each once, and in order"
    sent = Counter(invocation.body for invocation in server.invocations)
    assert set(sent.values()) == {1}, "the same bytes were never sent again"
    (given_up,) = destination.records
    refused = next(
        invocation for invocation in server.invocations if len(invocation.body) > limit and len(json.loads(invocation.body)["Records"]) == 1
    )
    assert given_up["requestContext"] == {
        "requestId": refused.request_id,
        "functionArn": ARN,
        "condition": "RetryAttemptsExhausted",
        "approximateInvokeCount": 3,
    }
    assert "responseContext" not in given_up
    assert given_up["KinesisBatchInfo"]["batchSize"] == 1
    assert (stats.succeeded, stats.discarded_records) == (9, 1)
    worker.stop()


def test_a_discard_has_the_request_id_and_the_version_of_the_last_attempt(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    server.function = lambda event: {"batchItemFailures": [{"itemIdentifier": event["Records"][-1]["kinesis"]["sequenceNumber"]}]}
    server.version = "3"
    parameters: dict[str, Any] = {"maximum_retry_attempts": 1, "function_response_types": ("ReportBatchItemFailures",)}
    worker, _, destination = driven(clock, functions(), [("a", b"")] * 3, **parameters)
    run_until_idle(worker, clock)
    assert [len(json.loads(invocation.body)["Records"]) for invocation in server.invocations] == [3, 1, 1]
    (given_up,) = destination.records
    assert given_up["requestContext"]["requestId"] == server.invocations[-1].request_id
    assert given_up["requestContext"]["approximateInvokeCount"] == 2
    assert given_up["responseContext"] == {"statusCode": 200, "executedVersion": "3", "functionError": None}
    worker.stop()


def test_function_errors_are_bisected_as_those_of_any_function(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    def handle(event: Any) -> object:
        bad = [record for record in event["Records"] if base64.b64decode(record["kinesis"]["data"]) == b"bad"]
        return function_error() if bad else None

    server.function = handle
    parameters: dict[str, Any] = {"maximum_retry_attempts": 1, "bisect_batch_on_function_error": True}
    records = [("a", b"good"), ("a", b"bad"), ("a", b"good"), ("a", b"good")]
    worker, _, destination = driven(clock, functions(), records, **parameters)
    run_until_idle(worker, clock)
    assert [len(json.loads(invocation.body)["Records"]) for invocation in server.invocations] == [4, 2, 1, 1, 1, 2]
    (given_up,) = destination.records
    assert given_up["requestContext"]["requestId"] == server.invocations[4].request_id
    assert given_up["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    worker.stop()


# In a worker with threads.


def test_a_lost_run_takes_no_thread_and_does_not_hold_up_a_stop(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    handled: list[str] = []
    server.function = lambda event: handled.extend(record["kinesis"]["partitionKey"] for record in event["Records"])
    server.replies.extend([lose(), lose()])
    store, stream = MemoryCheckpointStore(), MemoryStream("orders", clock=clock)
    for number in range(40):
        stream.put(str(number), b"")
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", function_arn=ARN, batch_size=1, parallelization_factor=10)

    def worker() -> Worker:
        made = Worker(checkpoints=store, clock=clock, invocation_threads=1, stop_timeout_s=600)
        made.add(mapping, stream, functions())
        return made

    first = worker()
    first.start()
    # The one thread goes on with the eight lanes that are not blocked.
    held = {json.loads(invocation.body)["Records"][0]["kinesis"]["partitionKey"] for invocation in _awaited(server, 2)}
    lanes = _lanes([str(number) for number in range(40)], 10)
    free = [key for key in lanes if lanes[key] not in {lanes[blocked] for blocked in held}]
    server.await_invocations(2 + len(free))
    first.stop()
    summary = first.join()
    assert (summary.abandoned, summary.reason) == (2, "stopped")
    assert sorted(handled) == sorted(free)
    second = worker()
    second.run(until_idle=True)
    assert sorted(handled) == sorted(str(number) for number in range(40)), "each ran once, and those that were lost again"


def _awaited(server: LambdaServer, count: int) -> list[Any]:
    server.await_invocations(count)
    return server.invocations[:count]


def _lanes(keys: list[str], factor: int) -> dict[str, int]:
    """Return what tells the lanes of the keys apart, as the engine has them."""
    from streamcore import Engine, Page  # noqa: PLC0415

    engine = Engine()
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=len(keys), parallelization_factor=factor)
    shard = engine.add_shard(mapping, "shard", now=NOW)
    engine.offer(shard, Page.from_records([(key, b"", NOW, None) for key in keys]), NOW)
    found: dict[str, int] = {}
    while isinstance(batch := engine.take(NOW), Batch):
        found.update({record["kinesis"]["partitionKey"]: batch.ticket for record in batch.event()["Records"]})
    return found


def test_threads_wait_for_the_end_of_a_lost_run(server: LambdaServer, functions: Any, clock: ManualClock) -> None:
    server.replies.append(lose())
    stream = MemoryStream("orders", clock=clock)
    stream.put("a", b"")
    worker = Worker(checkpoints=MemoryCheckpointStore(), clock=clock)
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", maximum_retry_attempts=0), stream, functions())
    summaries: list[Summary] = []
    thread = threading.Thread(target=lambda: summaries.append(worker.run(until_idle=True)))
    begin = clock.now_ms()
    thread.start()
    server.await_invocations(1)

    def time_goes_on() -> bool:
        clock.advance(5000)
        return len(server.invocations) > 1

    until(time_goes_on, "the batch is invoked again")
    assert clock.now_ms() >= begin + 7000 + MARGIN_MS
    thread.join(60)
    (summary,) = summaries
    assert (summary.succeeded, summary.throttles, summary.discards, len(server.invocations)) == (1, 1, 0, 2)


def test_many_threads_share_a_function(server: LambdaServer, functions: Any) -> None:
    gate = threading.Barrier(4, timeout=60)
    waiting = iter(range(4))
    lock = threading.Lock()

    def handle(_: Any) -> None:
        with lock:
            first = next(waiting, None) is not None
        if first:
            gate.wait()  # four calls at once, or the test fails

    server.function = handle
    stream = MemoryStream("orders", shards=4)
    for number in range(200):
        stream.put(str(number), b"")
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=5), stream, functions(clock=None))
    summary = worker.run(until_idle=True)
    assert (summary.succeeded, summary.failed_invocations, summary.throttles) == (200, 0, 0)
    assert sum(len(json.loads(invocation.body)["Records"]) for invocation in server.invocations) == 200
    assert server.asked == 1
