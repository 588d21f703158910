"""Functions in real runtimes: awslambdaric, Node.js and bootstraps; how they answer, fail, end, and what is logged."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from runtimes import BOOTSTRAP, TIMEOUT_MS, alive, batch_of, invoke
from scenario import until
from streamcore import EventSourceMapping, MemoryCheckpointStore, MemoryStream, RuntimeFunction, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamcore import Answer

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH; `make test-peers` demands it")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., RuntimeFunction]]:
    """Return what makes a function of the text of its file; it is closed after the test."""
    with contextlib.ExitStack() as stack:
        count = 0

        def made(text: str, file: str = "app.py", **options: Any) -> RuntimeFunction:
            nonlocal count
            count += 1
            folder = tmp_path / f"orders-{count}"
            folder.mkdir()
            (folder / file).write_text(text)
            (folder / file).chmod(0o755)
            function = RuntimeFunction(folder, **{"handler": "app.handler", "timeout_ms": TIMEOUT_MS, **options})
            stack.callback(function.close)
            return function

        yield made


def failed(answer: Answer) -> tuple[str, str]:
    """Return type and message of a function error."""
    assert (answer.kind, answer.function_error, answer.status_code) == ("function_error", "Unhandled", 200)
    assert isinstance(answer.payload, dict)
    return answer.payload["errorType"], answer.payload["errorMessage"]


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# awslambdaric


def test_awslambdaric_gets_event_context_and_environment(make: Callable[..., RuntimeFunction]) -> None:
    function = make(
        "import os\n"
        "def handler(event, context):\n"
        "    names = ['function_name', 'function_version', 'invoked_function_arn', 'memory_limit_in_mb', 'aws_request_id']\n"
        "    names += ['log_group_name', 'log_stream_name']\n"
        "    left = context.get_remaining_time_in_millis()\n"
        "    return [event, {name: getattr(context, name) for name in names}, left, dict(os.environ), os.getcwd()]\n",
        memory=512,
        name="billing",
        environment={"TABLE": "orders", "_HANDLER": "not.this"},
        function_arn="arn:aws:lambda:eu-west-1:123456789012:function:billing:7",
    )
    batch = batch_of()
    answer = invoke(function, batch)
    assert (answer.kind, answer.status_code, answer.executed_version, answer.request_id) == ("success", 200, "7", None)
    assert isinstance(answer.payload, list)
    event, context, left, environment, folder = answer.payload
    assert event == batch.event()
    stream = context.pop("log_stream_name")
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[7\][0-9a-f]{32}", stream)
    assert context == {
        "function_name": "billing",
        "function_version": "7",
        "invoked_function_arn": "arn:aws:lambda:eu-west-1:123456789012:function:billing:7",
        "memory_limit_in_mb": "512",
        "aws_request_id": batch.request_id,
        "log_group_name": "/aws/lambda/billing",
    }
    assert 0 < left <= TIMEOUT_MS
    expected = {
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_NAME": "billing",
        "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/billing",
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "LAMBDA_TASK_ROOT": folder,
        "TABLE": "orders",
        "TZ": ":UTC",
        "_HANDLER": "app.handler",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert environment["PATH"] == os.environ["PATH"], "what this process has, the function has too"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", environment["AWS_LAMBDA_RUNTIME_API"])
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", environment["_X_AMZN_TRACE_ID"])


def test_a_process_is_used_again_and_keeps_its_globals_also_after_a_handled_error(make: Callable[..., RuntimeFunction]) -> None:
    function = make(
        "import os\n"
        "calls = []\n"
        "def handler(event, context):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        raise ValueError('no')\n"
        "    return [os.getpid(), len(calls)]\n"
    )
    first = invoke(function).payload
    error = invoke(function)
    assert failed(error) == ("ValueError", "no")
    assert isinstance(error.payload, dict)
    assert "raise ValueError('no')" in error.payload["stackTrace"][-1]
    third = invoke(function).payload
    assert isinstance(first, list)
    assert third == [first[0], 3]


def test_what_awslambdaric_refuses_at_its_start_fails_each_invocation(make: Callable[..., RuntimeFunction]) -> None:
    function = make("import nothing_of_that_name\n")
    for _ in range(2):
        kind, message = failed(invoke(function))
        assert kind == "Runtime.ImportModuleError"
        assert "nothing_of_that_name" in message


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("os._exit(3)", "Runtime exited with error: exit status 3"),
        ("os._exit(0)", "Runtime exited without providing a reason"),
        ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
    ],
)
def test_a_process_that_ends_in_an_invocation_is_a_function_error_and_replaced(
    make: Callable[..., RuntimeFunction], code: str, text: str
) -> None:
    function = make(
        "import os, pathlib\n"
        "def handler(event, context):\n"
        "    if not pathlib.Path('seen').exists():\n"
        "        pathlib.Path('seen').touch()\n"
        f"        {code}\n"
        "    return 'well'\n"
    )
    batch = batch_of()
    assert failed(invoke(function, batch)) == ("Runtime.ExitError", f"RequestId: {batch.request_id} Error: {text}")
    assert invoke(function, batch).payload == "well"


def test_a_process_that_ends_at_its_start_is_a_function_error(make: Callable[..., RuntimeFunction]) -> None:
    function = make("import os\nprint('cannot find my table', flush=True)\nos._exit(5)\n")
    answer = invoke(function)
    kind, message = failed(answer)
    assert kind == "Runtime.ExitError"
    assert message.endswith("Runtime exited with error: exit status 5")
    assert answer.detail == "it wrote last: cannot find my table", "the log shows why"


def test_a_timeout_kills_the_process_with_all_that_it_started_and_the_next_has_another(
    make: Callable[..., RuntimeFunction], tmp_path: Path
) -> None:
    function = make(
        "import os, signal, subprocess\n"
        "def handler(event, context):\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        f"    with open({str(tmp_path / 'pids')!r}, 'a') as file:\n"
        "        print(os.getpid(), child.pid, file=file, flush=True)\n"
        "    signal.pause()\n",
        timeout_ms=1000,
    )
    batch = batch_of()
    pids: list[int] = []
    while len(pids) < 4:  # on a busy machine a process may not come to its handler in time
        answer = invoke(function, batch)
        assert failed(answer) == ("Sandbox.Timedout", f"RequestId: {batch.request_id} Error: Task timed out after 1.00 seconds")
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()] if (tmp_path / "pids").exists() else []
    assert len(set(pids)) == len(pids)
    until(lambda: not any(alive(pid) for pid in pids), "the processes and their children are gone")


def test_an_answer_of_the_limit_is_taken_and_one_above_fails(make: Callable[..., RuntimeFunction]) -> None:
    function = make("import os\ndef handler(event, context):\n    return 'x' * (6_291_554 + len(event['Records']) - 2)\n")
    whole = invoke(function, batch_of(2)).payload
    assert isinstance(whole, str)
    assert len(whole) == 6_291_554, "with its two quotes, 6,291,556 bytes"
    text = "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
    assert failed(invoke(function, batch_of(3))) == ("Function.ResponseSizeTooLarge", text)
    assert len(str(invoke(function, batch_of(2)).payload)) == 6_291_554


def test_an_event_of_six_megabytes_arrives_whole(make: Callable[..., RuntimeFunction]) -> None:
    function = make("def handler(event, context):\n    return [len(record['kinesis']['data']) for record in event['Records']]\n")
    batch = batch_of(1100, 4000)
    assert len(batch.json()) > 6_000_000
    assert invoke(function, batch).payload == [5336] * len(batch)


# The life of processes


def test_a_process_that_ended_between_invocations_is_replaced_and_nothing_fails(make: Callable[..., RuntimeFunction]) -> None:
    function = make("import os\ndef handler(event, context):\n    return os.getpid()\n")
    first = invoke(function).payload
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first), "the process is gone")
    second = invoke(function)
    assert second.kind == "success"
    assert second.payload != first


def test_invocations_at_the_same_time_have_a_process_each(make: Callable[..., RuntimeFunction], tmp_path: Path) -> None:
    meet = (
        "import os, pathlib, time\n"
        "def handler(event, context):\n"
        f"    here = pathlib.Path({str(tmp_path)!r})\n"
        "    (here / f'{context.aws_request_id}.here').touch()\n"
        "    while len(list(here.glob('*.here'))) < 3:\n"
        "        time.sleep(0.005)\n"
        "    return os.getpid()\n"
    )
    function = make(meet)
    pids: list[object] = []
    threads = [in_thread(lambda seed=seed: pids.append(invoke(function, batch_of(seed=seed)).payload)) for seed in range(3)]  # type: ignore[misc] # a default is no type
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 3, "each waits for the others, so one process alone would never answer"


def test_no_more_processes_than_allowed(make: Callable[..., RuntimeFunction]) -> None:
    function = make("import os\ndef handler(event, context):\n    return os.getpid()\n", processes=2)
    pids: list[object] = []

    def work() -> None:
        pids.extend(invoke(function).payload for _ in range(20))

    for thread in [in_thread(work) for _ in range(5)]:
        thread.join()
    assert len(pids) == 100
    assert 1 <= len(set(pids)) <= 2


def test_close_kills_what_ignores_sigterm_and_what_is_in_an_invocation(make: Callable[..., RuntimeFunction], tmp_path: Path) -> None:
    function = make(
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def handler(event, context):\n"
        "    if len(event['Records']) == 3:\n"
        f"        pathlib.Path({str(tmp_path / 'busy.tmp')!r}).write_text(str(os.getpid()))\n"
        f"        os.rename({str(tmp_path / 'busy.tmp')!r}, {str(tmp_path / 'busy')!r})\n"
        "        time.sleep(1000)\n"
        "    return os.getpid()\n"
    )
    answers: list[Answer] = []
    thread = in_thread(lambda: answers.append(invoke(function, batch_of(3))))
    until((tmp_path / "busy").exists, "an invocation hangs")
    idle = invoke(function).payload
    assert isinstance(idle, int)
    busy = int((tmp_path / "busy").read_text())
    assert alive(idle)
    assert alive(busy)
    function.close()
    thread.join()
    function.close()
    assert not alive(idle)
    assert not alive(busy)
    assert [answer.kind for answer in answers] == ["service_error"], "the stop is not the function's fault"
    assert invoke(function).kind == "service_error"


def test_a_process_that_cannot_be_started_is_a_service_error(make: Callable[..., RuntimeFunction], tmp_path: Path) -> None:
    function = make("def handler(event, context): pass\n")
    (tmp_path / "orders-1").rename(tmp_path / "elsewhere")
    answer = invoke(function)
    assert (answer.kind, answer.status_code, answer.executed_version) == ("service_error", 500, None)
    (tmp_path / "elsewhere").rename(tmp_path / "orders-1")
    assert invoke(function).kind == "success"


@pytest.mark.parametrize(("code", "reason"), [("no program\n", "exec format error"), ("#!/no/interpreter\n", "no such file or directory")])
def test_a_program_that_cannot_be_run_is_a_function_error(make: Callable[..., RuntimeFunction], code: str, reason: str) -> None:
    function = make(code, "bootstrap")
    batch = batch_of()
    error_type, text = failed(invoke(function, batch))
    assert error_type == "Runtime.InvalidEntrypoint"
    assert text.startswith(f"RequestId: {batch.request_id} Error: fork/exec /")
    assert text.endswith(f"/bootstrap: {reason}")


def test_processes_and_their_children_die_with_streamcore_killed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "def handler(event, context):\n"
        "    print(os.getpid(), child.pid, file=open('pids.tmp', 'w'), flush=True)\n"
        "    os.rename('pids.tmp', 'pids')\n"
        "    time.sleep(1000)\n"
    )
    (tmp_path / "rows.ndjson").write_text('{"key": "a"}\n')
    command = [sys.executable, "-P", "-m", "streamcore", "run", "--source", "file:rows.ndjson?key=key", "--state", ":memory:"]
    command += ["--function", "runtime:.?handler=app.handler&timeout=900"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as streamcore:
        until((tmp_path / "pids").exists, "the function runs")
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(alive(pid) for pid in pids)
        streamcore.kill()
    until(lambda: not any(alive(pid) for pid in pids), "its processes are gone")


# The log


def test_the_log_is_as_lambdas(make: Callable[..., RuntimeFunction], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamcore.function")
    function = make(
        "import os, sys\n"
        "print('starting')\n"
        "def handler(event, context):\n"
        "    print('to stdout')\n"
        "    print('to stderr', file=sys.stderr)\n"
        "    os.write(1, b'no end of line \\xff')\n"
    )
    batch = batch_of()
    assert invoke(function, batch).kind == "success"
    function.close()
    identifier, ms, memory = re.escape(batch.request_id), r"\d+\.\d\d ms", r"Max Memory Used: [1-9]\d* MB"
    expected = [
        r"orders-1 starting",
        rf"START RequestId: {identifier} Version: \$LATEST",
        rf"{identifier} to stdout",
        rf"{identifier} to stderr",
        rf"END RequestId: {identifier}",
        rf"REPORT RequestId: {identifier}\tDuration: {ms}\tBilled Duration: \d+ ms\tMemory Size: 128 MB\t{memory}\tInit Duration: {ms}",
        rf"{identifier} no end of line \ufffd",
    ]
    lines = [record.getMessage() for record in caplog.records if record.name == "streamcore.function"]
    assert len(lines) == len(expected), lines
    for pattern, line in zip(expected, lines, strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)


def test_a_timeout_and_an_end_are_in_the_report(make: Callable[..., RuntimeFunction], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamcore.function")
    batch = batch_of()
    invoke(make("import time\ndef handler(event, context): time.sleep(1000)\n", timeout_ms=300), batch)
    invoke(make("import os\ndef handler(event, context): os._exit(1)\n"), batch)
    lines = [record.getMessage() for record in caplog.records]
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert any(re.fullmatch(rf"{stamp} {re.escape(batch.request_id)} Task timed out after 0\.30 seconds", line) for line in lines)
    reports = [line for line in lines if line.startswith("REPORT")]
    assert re.search(r"Max Memory Used: [1-9]\d* MB.*\tStatus: timeout$", reports[0])
    assert reports[1].endswith("\tStatus: error\tError Type: Runtime.ExitError")


def test_much_output_is_logged_whole_and_does_not_stop_the_function(
    make: Callable[..., RuntimeFunction], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamcore.function")
    function = make(
        "import sys\n"
        "def handler(event, context):\n"
        "    for number in range(5000):\n"
        "        sys.stdout.stream.write(f'line {number} ' + 'x' * 100 + '\\n')\n"
        "    sys.stdout.stream.write('y' * 600_000 + '\\n')\n"
        "    sys.stdout.flush()\n"
    )
    batch = batch_of()
    assert invoke(function, batch).kind == "success"
    mine = [line for record in caplog.records if (line := record.getMessage()).startswith(f"{batch.request_id} ")]
    assert [line.split()[2] for line in mine if " line " in line] == [str(number) for number in range(5000)]
    long = [line.partition(" ")[2] for line in mine if " y" in line]
    assert "".join(long) == "y" * 600_000
    assert max(len(line) for line in long) == 256 * 1024


# Bootstraps, and what a runtime may send


def test_a_bash_bootstrap(make: Callable[..., RuntimeFunction]) -> None:
    function = make(
        "#!/bin/bash\n"
        'api="${AWS_LAMBDA_RUNTIME_API/:/\\/}"\n'
        "path=/2018-06-01/runtime/invocation\n"
        "while true; do\n"
        '    exec 3<>"/dev/tcp/$api"\n'
        "    printf 'GET %s/next HTTP/1.1\\r\\nHost: api\\r\\n\\r\\n' $path >&3\n"
        "    while IFS= read -r line <&3 && line=${line%$'\\r'} && [ -n \"$line\" ]; do\n"
        "        case $line in\n"
        "            Lambda-Runtime-Aws-Request-Id:*) id=${line#*: } ;;\n"
        "            Content-Length:*) length=${line#*: } ;;\n"
        "        esac\n"
        "    done\n"
        '    event=$(head -c "$length" <&3)\n'
        '    answer="[\\"$_HANDLER\\", $length, ${#event}, $$]"\n'
        "    printf 'POST %s/%s/response HTTP/1.1\\r\\nContent-Length: %d\\r\\n\\r\\n%s' $path $id ${#answer} \"$answer\" >&3\n"
        "    read -r line <&3\n"
        "    exec 3>&-\n"
        "done\n",
        "bootstrap",
        handler="what.ever",
    )
    batch = batch_of()
    size = len(batch.json())
    first = invoke(function, batch).payload
    assert isinstance(first, list)
    assert first[:3] == ["what.ever", size, size]
    assert invoke(function, batch).payload == first, "the same process"


def raw(make: Callable[..., RuntimeFunction], code: str, **options: Any) -> RuntimeFunction:
    return make(BOOTSTRAP + code, "bootstrap", **options)


def test_streamed_answers_are_gathered_and_a_stream_that_breaks_off_is_an_error(make: Callable[..., RuntimeFunction]) -> None:
    function = raw(
        make,
        "import base64\n"
        "MODE = {'Lambda-Runtime-Function-Response-Mode': 'streaming', 'Transfer-Encoding': 'chunked'}\n"
        "request_id, _, _ = next_event()\n"
        "call('POST', f'/invocation/{request_id}/response', iter([b'{\"a\"', b': [1, ', b'2]}']), MODE, encode_chunked=True)\n"
        "request_id, _, _ = next_event()\n"
        "connection = connect()\n"
        "connection.putrequest('POST', f'{API}/invocation/{request_id}/response')\n"
        "for name, value in MODE.items():\n"
        "    connection.putheader(name, value)\n"
        "connection.putheader('Trailer', 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body')\n"
        "connection.endheaders()\n"
        'body = base64.b64encode(b\'{"errorType": "Broken", "errorMessage": "in the middle"}\').decode()\n'
        "connection.send(b'5\\r\\n{\"a\":\\r\\n0\\r\\nLambda-Runtime-Function-Error-Type: Broken\\r\\n')\n"
        "connection.send(f'Lambda-Runtime-Function-Error-Body: {body}\\r\\n\\r\\n'.encode())\n"
        "connection.getresponse().read()\n"
        "request_id, _, _ = next_event()\n"
        "respond(request_id, 'still here')\n"
        "next_event()\n",
    )
    assert invoke(function).payload == {"a": [1, 2]}
    assert failed(invoke(function)) == ("Broken", "in the middle")
    assert invoke(function).payload == "still here"


def test_a_streamed_answer_above_the_limit_fails(make: Callable[..., RuntimeFunction]) -> None:
    function = raw(
        make,
        "request_id, _, _ = next_event()\n"
        "call('POST', f'/invocation/{request_id}/response', (b'x' * 100_000 for _ in range(64)), encode_chunked=True,\n"
        "     headers={'Transfer-Encoding': 'chunked'})\n",
    )
    assert failed(invoke(function))[0] == "Function.ResponseSizeTooLarge"


def test_requests_out_of_turn_are_refused_and_change_nothing(make: Callable[..., RuntimeFunction]) -> None:
    function = raw(
        make,
        "before = [call('POST', '/invocation/none/response', '1')[0], call('GET', '/nothing')[0]]\n"
        "request_id, headers, _ = next_event()\n"
        "wrong = [call('GET', '/invocation/next'), call('POST', '/invocation/00000000-0000-4000-8000-000000000000/response', '1')]\n"
        "wrong += [call('POST', '/init/error', '{}'), call('PUT', f'/invocation/{request_id}/response', '1'), call('GET', '/other')]\n"
        "connection = connect()\n"
        "connection.sock = None\n"
        "import socket\n"
        "garbage = socket.create_connection(os.environ['AWS_LAMBDA_RUNTIME_API'].split(':'))\n"
        "garbage.sendall(b'\\x16\\x03\\x01 hello\\r\\n\\r\\n')\n"
        "closed = garbage.recv(100) == b''\n"
        "states = [(status, json.loads(body)['errorType']) for status, _, body in wrong]\n"
        "respond(request_id, [before, states, closed, headers])\n"
        "next_event()\n",
    )
    batch = batch_of()
    payload = invoke(function, batch).payload
    assert isinstance(payload, list)
    before, states, closed, headers = payload
    assert before == [403, 404]
    turn = [403, "InvalidStateTransition"]
    assert states == [turn, [400, "InvalidRequestID"], turn, turn, [404, "NotFound"]]
    assert closed
    assert headers["Lambda-Runtime-Aws-Request-Id"] == batch.request_id
    assert headers["Lambda-Runtime-Invoked-Function-Arn"] == "arn:aws:lambda:us-east-1:000000000000:function:orders-1"
    assert headers["Lambda-Runtime-Deadline-Ms"].isdecimal()


def test_a_client_that_waits_to_be_told_to_go_on_is_told(make: Callable[..., RuntimeFunction]) -> None:
    function = raw(
        make,
        "import socket\n"
        "request_id, _, _ = next_event()\n"
        "connection = socket.create_connection(os.environ['AWS_LAMBDA_RUNTIME_API'].split(':'))\n"
        "connection.sendall(f'POST {API}/invocation/{request_id}/response HTTP/1.1\\r\\nExpect: 100-continue\\r\\n'.encode())\n"
        "connection.sendall(b'Content-Length: 4\\r\\n\\r\\n')\n"
        "assert connection.recv(100).startswith(b'HTTP/1.1 100 ')\n"
        "connection.sendall(b'1234')\n"
        "connection.recv(100)\n",
    )
    assert invoke(function).payload == 1234


def test_an_answer_that_was_posted_before_the_end_counts(make: Callable[..., RuntimeFunction]) -> None:
    function = raw(
        make,
        "import socket\n"
        "request_id, _, _ = next_event()\n"
        "connection = socket.create_connection(os.environ['AWS_LAMBDA_RUNTIME_API'].split(':'))\n"
        "connection.sendall(f'POST {API}/invocation/{request_id}/response HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n[]'.encode())\n"
        "os._exit(1)\n",
    )
    for _ in range(3):
        answer = invoke(function)
        assert (answer.kind, answer.payload) == ("success", [])


@pytest.mark.parametrize(("body", "payload"), [("", None), ("null", None), ("not JSON", "not JSON"), ('{"a": NaN}', None)])
def test_answers_of_any_kind(make: Callable[..., RuntimeFunction], body: str, payload: object) -> None:
    function = raw(make, f"request_id, _, _ = next_event()\ncall('POST', f'/invocation/{{request_id}}/response', {body!r})\nnext_event()\n")
    answer = invoke(function)
    assert answer.kind == "success"
    if body.startswith("{"):
        assert isinstance(answer.payload, dict), "as Python's own reader has it"
    else:
        assert answer.payload == payload


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        ('\'{"errorType": "Mine", "errorMessage": "m"}\', {}', ("Mine", "m")),
        ("'nothing', {'Lambda-Runtime-Function-Error-Type': 'Runtime.Odd'}", None),
        ("'', {}", None),
    ],
)
def test_errors_of_any_kind(make: Callable[..., RuntimeFunction], post: str, expected: tuple[str, str] | None) -> None:
    function = raw(make, f"request_id, _, _ = next_event()\ncall('POST', f'/invocation/{{request_id}}/error', {post})\nnext_event()\n")
    answer = invoke(function)
    assert (answer.kind, answer.function_error) == ("function_error", "Unhandled")
    if expected is not None:
        assert failed(answer) == expected


# Node.js


@needs_node
def test_node_handlers_of_every_form(make: Callable[..., RuntimeFunction]) -> None:
    function = make(
        "let calls = 0;\n"
        "exports.asynchronous = async (event, context) => {\n"
        "  const left = context.getRemainingTimeInMillis();\n"
        "  return [event.Records.length, context.awsRequestId, context.functionName, context.memoryLimitInMB, left > 0, ++calls];\n"
        "};\n"
        "exports.callback = (event, context, callback) => setImmediate(callback, null, {answer: event.Records.length});\n"
        "exports.failing = async () => { throw new TypeError('no'); };\n"
        "exports.refusing = (event, context, callback) => callback('only text');\n"
        "exports.leaving = async () => process.exit(4);\n"
        "exports.throwing = (event, context, callback) => setImmediate(() => { throw new RangeError('later'); });\n"
        "exports.choose = (event, context, callback) => exports[['', '', 'asynchronous', 'callback', 'failing', 'refusing', 'leaving',\n"
        "  'throwing'][event.Records.length]](event, context, callback);\n",
        "index.js",
        handler="index.choose",
        runtime="nodejs20.x",
    )
    batch = batch_of(2)
    assert invoke(function, batch).payload == [2, batch.request_id, "orders-1", "128", True, 1]
    assert invoke(function, batch_of(3)).payload == {"answer": 3}
    error = invoke(function, batch_of(4))
    assert failed(error) == ("TypeError", "no")
    assert isinstance(error.payload, dict)
    assert "index.js" in error.payload["trace"][1]
    assert failed(invoke(function, batch_of(5))) == ("string", "only text")
    again = invoke(function, batch).payload
    assert isinstance(again, list)
    assert again[-1] == 2, "the same process"
    assert failed(invoke(function, batch_of(6)))[1].endswith("Runtime exited with error: exit status 4")
    assert failed(invoke(function, batch_of(7))) == ("Runtime.UncaughtException", "later")
    after = invoke(function, batch).payload
    assert isinstance(after, list)
    assert after[-1] == 1, "another process"


@needs_node
def test_a_plain_node_function_without_a_callback_answers_null_when_nothing_is_left_to_do(
    make: Callable[..., RuntimeFunction], tmp_path: Path
) -> None:
    function = make(
        "const {appendFileSync} = require('node:fs');\n"
        "exports.plain = (event) => { setTimeout(appendFileSync, 20, '../seen', 'x'); };\n"
        "exports.returning = (event) => ({batchItemFailures: [{itemIdentifier: ''}]});\n"
        "exports.choose = (event) => exports[['', '', 'plain', 'returning'][event.Records.length]](event);\n",
        "index.js",
        handler="index.choose",
        runtime="nodejs20.x",
    )
    for count, seen in ((2, "x"), (3, "x"), (2, "xx")):
        answer = invoke(function, batch_of(count))
        assert (answer.kind, answer.payload) == ("success", None)
        assert (tmp_path / "seen").read_text() == seen
    promising = make("exports.handler = async () => { await new Promise(() => {}); };\n", "index.js", handler="index.handler")
    for _ in range(2):
        assert failed(invoke(promising))[0] == "Runtime.NodeJsExit"


@needs_node
def test_since_node_24_what_a_function_returns_is_its_answer(make: Callable[..., RuntimeFunction]) -> None:
    plain = make("exports.handler = (event) => [event.Records.length];\n", "index.js", handler="index.handler", runtime="nodejs24.x")
    assert invoke(plain, batch_of(3)).payload == [3]
    calling = make("exports.handler = (event, context, done) => done();\n", "index.js", handler="index.handler", runtime="nodejs24.x")
    assert failed(invoke(calling))[0] == "Runtime.CallbackHandlerDeprecated"


@needs_node
def test_node_modules_and_their_faults(make: Callable[..., RuntimeFunction]) -> None:
    function = make("export const handler = async (event) => event;\n", "index.mjs", handler="index.handler")
    batch = batch_of(2, 40_000)
    assert invoke(function, batch).payload == batch.event()
    broken = make("export const handler = ;\n", "index.mjs", handler="index.handler")
    assert failed(invoke(broken))[0] == "SyntaxError"
    other = make("export const other = 1;\n", "index.mjs", handler="index.handler")
    assert failed(invoke(other)) == ("Runtime.HandlerNotFound", "index.handler is undefined or not exported")


# Whole runs


def test_killed_processes_lose_nothing_and_keep_the_order_of_every_key(make: Callable[..., RuntimeFunction], tmp_path: Path) -> None:
    """A process in about four of ten invocations is killed with -9: before the records are noted, after it, or in the middle."""
    seed, records = 20, 1000
    function = make(
        "import base64, os, pathlib, random, signal\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "log = os.open(here / 'handled', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "def handler(event, context):\n"
        "    with open(here / context.aws_request_id, 'a') as attempts:\n"
        "        print('', file=attempts, flush=True)\n"
        f"        dice = random.Random(f'{seed} {{context.aws_request_id}} {{attempts.tell()}}')\n"
        "    lines = [base64.b64decode(record['kinesis']['data']) + b'\\n' for record in event['Records']]\n"
        "    cut = len(lines) if dice.random() > 0.3 else dice.randrange(len(lines) + 1)\n"
        "    os.write(log, b''.join(lines[:cut]))\n"
        "    if cut < len(lines) or dice.random() < 0.1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    stream = MemoryStream("orders", shards=2)
    for number in range(records):
        stream.put(f"key-{number % 41}", f"key-{number % 41} {number}".encode())
    worker = Worker(checkpoints=MemoryCheckpointStore(), seed=seed)
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=25, parallelization_factor=5)
    worker.add(mapping, stream, function)
    summary = worker.run(until_idle=True)
    assert summary.failed_invocations > 0, "processes were killed"
    assert (summary.succeeded, summary.discarded_records) == (records, 0)
    firsts: dict[int, str] = {}
    for line in (tmp_path / "handled").read_text().splitlines():
        key, text = line.split()
        firsts.setdefault(int(text), key)
    assert sorted(firsts) == list(range(records))
    last: dict[str, int] = {}
    for first, of_key in firsts.items():
        assert first > last.get(of_key, -1), f"seed {seed}: {first} of {of_key} came after {last[of_key]}"
        last[of_key] = first


def test_item_failures_of_a_runtime_count(make: Callable[..., RuntimeFunction]) -> None:
    function = make(
        "import base64\n"
        "def handler(event, context):\n"
        "    bad = [one['kinesis']['sequenceNumber'] for one in event['Records'] if base64.b64decode(one['kinesis']['data']) == b'bad']\n"
        "    return {'batchItemFailures': [{'itemIdentifier': number} for number in bad]}\n"
    )
    stream = MemoryStream("orders")
    for number in range(20):
        stream.put("key", b"bad" if number == 7 else b"good")
    worker = Worker(checkpoints=MemoryCheckpointStore())
    mapping = EventSourceMapping(
        starting_position="TRIM_HORIZON",
        function_response_types=("ReportBatchItemFailures",),
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=0,
    )
    worker.add(mapping, stream, function)
    summary = worker.run(until_idle=True)
    assert (summary.succeeded, summary.discarded_records) == (19, 1)


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    code = "import json\ndef handler(event, context):\n    print('got', len(event['Records']), context.function_name)\n"
    with zipfile.ZipFile(tmp_path / "billing.zip", "w") as package:
        package.writestr("app.py", code)
    (tmp_path / "rows.ndjson").write_text("".join(json.dumps({"key": f"k{number % 5}"}) + "\n" for number in range(250)))
    command = [sys.executable, "-P", "-m", "streamcore", "run", "--source", "file:rows.ndjson?key=key", "--json", "--log-level", "info"]
    command += ["--function", "runtime:billing.zip?handler=app.handler&timeout=60&memory=256", "--state", ":memory:"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 250
    assert len(re.findall(r"INFO streamcore\.function: [0-9a-f-]{36} got (?:100|50) billing$", done.stderr, re.MULTILINE)) == 3
    assert len(re.findall(r"REPORT RequestId: .*Memory Size: 256 MB", done.stderr)) == 3
