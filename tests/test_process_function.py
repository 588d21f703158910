"""Python functions in several processes: called as in one, at the same time, and cut off at their timeout."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from runtimes import TIMEOUT_MS, alive, batch_of, invoke
from scenario import until
from streamcore import Answer, ConfigError, EventSourceMapping, LocalFunction, MemoryCheckpointStore, MemoryStream, ProcessFunction, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANDLERS = """
import asyncio, datetime, os, pathlib, time

def returning(event, context):
    return event

async def waiting(event, context):
    await asyncio.sleep(0)
    return {"id": context.aws_request_id, "tuple": (1, 2)}

async def waiting_raises(event, context):
    await asyncio.sleep(0)
    raise LookupError("later")

def raising(event, context):
    raise ValueError("bad record")

def leaving(event, context):
    raise SystemExit(3)

def unwritable(event, context):
    return {"when": datetime.datetime.now()}

def told(event, context):
    names = "function_name function_version invoked_function_arn memory_limit_in_mb aws_request_id"
    return [getattr(context, name) for name in names.split()]

def pid(event, context):
    return os.getpid()

def ending(event, context):
    os._exit(9)

def endless(event, context):
    pathlib.Path("pid.tmp").write_text(str(os.getpid()))
    os.rename("pid.tmp", "pid")
    while True:
        pass

def meeting(event, context):
    pathlib.Path(f"{context.aws_request_id}.here").touch()
    while len(list(pathlib.Path().glob("*.here"))) < 3:
        time.sleep(0.005)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder that holds the handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "handlers.py").write_text(HANDLERS)
    yield tmp_path
    sys.modules.pop("handlers", None)


def answer_of(name: str) -> Answer:
    function = ProcessFunction(f"handlers.py:{name}", processes=1, timeout_ms=TIMEOUT_MS)
    answer = invoke(function)
    function.close()
    return answer


@pytest.mark.parametrize("name", ["returning", "raising", "leaving", "unwritable", "told"])
def test_a_process_answers_as_a_function_of_this_process(name: str) -> None:
    here = LocalFunction(f"handlers.py:{name}").invoke(batch_of())
    assert answer_of(name) == here


def test_asynchronous_functions_are_awaited() -> None:
    assert answer_of("waiting").payload == {"id": batch_of().request_id, "tuple": [1, 2]}
    answer = answer_of("waiting_raises")
    assert isinstance(answer.payload, dict)
    assert (answer.kind, answer.payload["errorType"], answer.payload["errorMessage"]) == ("function_error", "LookupError", "later")


def test_a_module_of_the_current_folder_is_found(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "inner.py").write_text("import handlers\nhandle = handlers.pid\n")
    function = ProcessFunction("package.inner:handle", processes=1, timeout_ms=TIMEOUT_MS, function_name="inner")
    pid = invoke(function).payload
    assert function.name == "inner"
    assert isinstance(pid, int)
    assert alive(pid)
    assert invoke(function).payload == pid
    function.close()
    assert not alive(pid)


def test_several_processes_run_at_the_same_time() -> None:
    stream = MemoryStream("orders", shards=3)
    for number in range(30):
        stream.put(f"key-{number}", b"{}")
    function = ProcessFunction("handlers.py:meeting", processes=3, timeout_ms=TIMEOUT_MS)
    worker = Worker(checkpoints=MemoryCheckpointStore())
    worker.add(EventSourceMapping(starting_position="TRIM_HORIZON"), stream, function)
    summary = worker.run(until_idle=True)
    function.close()
    assert (summary.succeeded, summary.failed_invocations) == (30, 0), "each waits for two others, so one process would never answer"


def test_a_function_that_does_not_come_back_is_cut_off(folder: Path) -> None:
    function = ProcessFunction("handlers.py:endless", processes=1, timeout_ms=1000)
    while not (folder / "pid").exists():  # on a busy machine a process may not come to its handler in time
        answer = invoke(function)
        assert isinstance(answer.payload, dict)
        assert (answer.kind, answer.payload["errorType"]) == ("function_error", "Sandbox.Timedout")
    pid = int((folder / "pid").read_text())
    until(lambda: not alive(pid), "its process is gone")
    function.close()


def test_a_process_that_ends_fails_its_batch() -> None:
    answer = answer_of("ending")
    assert isinstance(answer.payload, dict)
    assert answer.payload["errorMessage"].endswith("Runtime exited with error: exit status 9")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("handlers.py:raisin", r"handlers\.py has no 'raisin'\. Did you mean 'raising'\?"),
        ("nothing.here:handle", "there is no module 'nothing'"),
        ("handle", r"function 'handle' is not of the form package\.module:function"),
        ("broken.py:handle", r"importing broken\.py failed: ZeroDivisionError"),
        ("leaving.py:handle", "exit status 7"),
    ],
)
def test_a_target_that_names_no_function_is_said_at_once(folder: Path, target: str, text: str) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "leaving.py").write_text("import os\nos._exit(7)\n")
    with pytest.raises(ConfigError, match=text) as raised:
        ProcessFunction(target, processes=2)
    assert raised.value.parameter == "function"


@pytest.mark.parametrize(("name", "value"), [("processes", 0), ("processes", True), ("timeout_ms", 900_001), ("memory", 127)])
def test_arguments_out_of_range_are_refused(name: str, value: int) -> None:
    options: dict[str, Any] = {"processes": 1, "memory_limit_in_mb" if name == "memory" else name: value}
    with pytest.raises(ConfigError, match=f"{name} must be an integer from") as raised:
        ProcessFunction("handlers.py:pid", **options)
    assert raised.value.parameter == name


def test_a_run_from_the_command_line(folder: Path) -> None:
    (folder / "noting.py").write_text(
        "import os\n"
        "def handle(event, context):\n"
        "    with open(f'{os.getpid()}.seen', 'a') as file:\n"
        "        print(*[one['kinesis']['partitionKey'] for one in event['Records']], file=file)\n"
    )
    (folder / "rows.ndjson").write_text("".join(json.dumps({"key": f"k{number}"}) + "\n" for number in range(400)))
    command = [sys.executable, "-P", "-m", "streamcore", "run", "--source", "file:rows.ndjson?key=key&shards=4", "--json"]
    command += ["--function", "noting.py:handle", "--processes", "2", "--timeout", "60", "--batch-size", "10", "--state", ":memory:"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 400
    seen = [file.read_text().split() for file in folder.glob("*.seen")]
    assert 1 <= len(seen) <= 2
    assert sorted(key for keys in seen for key in keys) == sorted(f"k{number}" for number in range(400))

    missing = subprocess.run([*command, "--function", "noting.py:handl"], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "streamcore: --function: noting.py has no 'handl'. Did you mean 'handle'?\n"
