"""Standard error with `--log-format json`: every line is a JSON object, whoever writes it and however the run ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from streamcore import WorkerStats, _progress
from streamcore.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

HANDLERS = r"""
import logging, os, sys, threading, warnings

log = logging.getLogger("orders")

def talk(event, context):
    print("printed")
    sys.stderr.write("to stderr\n")
    os.write(2, b'{"already": "an object"}\n["no object"]\n{"share": NaN}\nbroken \xff\r\n\n')
    log.warning("order %d", 7, extra={"orderId": 7, "share": float("nan"), "self": logging})
    log.warning("does not fit %d", "x")
    log.info("not shown")
    warnings.warn("careful")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

def fail(event, context):
    raise ValueError("bad\n\u00e9 \ud800 row")

def long(event, context):
    os.write(2, b"x" * 600_000)

def stop(event, context):
    raise KeyboardInterrupt
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "rows.csv").write_text("key,value\n" + "".join(f"{number % 3},{number}\n" for number in range(30)))

    def started(
        *arguments: str, function: str = "handlers.py:talk", command: str = "run", environment: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        given = ["--source", "file:rows.csv?key=key", "--function", function, "--state", ":memory:"] if command == "run" else []
        line = [sys.executable, "-m", "streamcore", command, *given, "--log-format", "json", *arguments]
        return subprocess.run(line, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False)

    return started


def lines(text: str) -> list[dict[str, Any]]:
    """Return every line of standard error as the object that it must be."""
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert isinstance(line, dict)
        if "timestamp" in line:
            assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
            assert len(line["timestamp"]) == len("2026-01-31T12:00:00.000Z")
            assert {"level", "logger", "message"} <= set(line)
    return found


def of(found: list[dict[str, Any]], logger: str) -> list[str]:
    return [line["message"] for line in found if line.get("logger") == logger]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_whatever_a_handler_writes_is_a_line(run: Callable[..., Any], options: list[str]) -> None:
    done = run(*options)
    assert done.returncode == 0
    found = lines(done.stderr)
    output = of(found, "streamcore.output")
    assert {"to stderr", '["no object"]', '{"share": NaN}', "broken \ufffd"} <= set(output)
    assert ("printed" in output) == bool(options), "with --json standard output holds the summary alone"
    assert {"already": "an object"} in found
    assert any("UserWarning: careful" in text for text in output)
    assert "ZeroDivisionError: division by zero" in output
    (order,) = [line for line in found if line.get("orderId") == 7]
    assert (order["level"], order["logger"], order["message"], order["share"]) == ("WARNING", "orders", "order 7", "nan")
    assert order["self"].startswith("<module 'logging'")
    assert "does not fit %d ('x',)" in of(found, "orders")
    assert "not shown" not in done.stderr
    if options:
        assert json.loads(done.stdout)["succeeded"] == 30


ENDING = """
import atexit, logging, os, sys

def handle(event, context):
    if not (child := os.fork()):
        atexit._run_exitfuncs()  # as a child does that ends in order
        os._exit(0)
    os.waitpid(child, 0)
    os.write(2, b"still heard\\n")

atexit.register(lambda: logging.getLogger("library").error("no collector"))
atexit.register(lambda: sys.stderr.write("bye\\n"))
"""


def test_what_is_written_as_the_process_ends_is_lines_too(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(ENDING)
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, logging\natexit.register(lambda: logging.getLogger('earlier').error('not flushed'))\n"
    )
    done = run(function="ending.py:handle", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0
    found = lines(done.stderr)
    assert of(found, "streamcore.output") == ["bye", "still heard", "bye"], "the child ends, and the parent does"
    assert of(found, "library") == ["no collector"] * 2
    assert of(found, "earlier") == ["not flushed"] * 2


def test_a_failed_invocation_says_where_and_why(run: Callable[..., Any]) -> None:
    done = run("--maximum-retry-attempts", "3", "--fail-on-discard", function="handlers.py:fail")
    assert done.returncode == 1
    found = lines(done.stderr)
    failed = [line for line in found if line.get("logger") == "streamcore.function"]
    assert [(line["attempt"], line["failures"]) for line in failed] == [(1, 1), (2, 2), (4, 4)]
    first = failed[0]
    assert (first["errorType"], first["errorMessage"]) == ("ValueError", "bad\n\u00e9 \ud800 row")
    assert (first["shardId"], first["startSequenceNumber"], first["endSequenceNumber"], first["batchSize"]) == (
        "shardId-000000000000",
        "2",
        "31",
        30,
    )
    assert 'raise ValueError("bad' in first["message"]
    (discarded,) = [line for line in found if "condition" in line]
    assert (discarded["requestId"], discarded["condition"], discarded["approximateInvokeCount"]) == (
        first["requestId"],
        "RetryAttemptsExhausted",
        4,
    )
    assert of(found, "streamcore.command") == ["30 records were discarded, and --fail-on-discard says that this is a failure"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch-size", "many"], "invalid int value: 'many'"),
        (["--batch-size", "0"], "failed to satisfy constraint"),
        (["--no-such-option"], "unrecognized arguments"),
        (["--source", "file:missing.csv?key=key"], "missing.csv"),
        (["--source", "record:missing.ndjson"], "--source: missing.ndjson: No such file or directory"),
        (["--function", "handlers.py:nothing"], "has no 'nothing'"),
        (["--record", "missing/events.ndjson"], "--record: [Errno 2] No such file or directory"),
        (["--record", "handlers.py"], "--record: handlers.py is there and no recording"),
        (["--log-level", "loud"], "invalid choice: 'loud'"),
    ],
)
def test_errors_of_the_command_are_lines(run: Callable[..., Any], arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = lines(done.stderr)
    assert (line["level"], line["logger"]) == ("ERROR", "streamcore.command")
    assert said in line["message"]


def test_a_run_that_fails_and_one_that_is_stopped_write_lines(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('key,value\n1,1\n2,"never closed\n')
    broken = run()
    assert broken.returncode == 1
    assert any("the quote that opens in this record is never closed" in text for text in of(lines(broken.stderr), "streamcore.command"))
    (tmp_path / "rows.csv").write_text("key,value\n1,1\n")
    stopped = run("--json", function="handlers.py:stop")
    assert (stopped.returncode, json.loads(stopped.stdout)["reason"]) == (130, "interrupted")
    assert any(text.startswith("stopping: ") for text in of(lines(stopped.stderr), "streamcore.worker"))


def test_a_fault_in_streamcore_is_a_line_too(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del run  # which has made the files
    monkeypatch.chdir(tmp_path)

    def broken(_text: str, **_options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("streamcore.functions._open.open_function", broken)
    command = ["run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:talk", "--state", ":memory:"]
    assert main([*command, "--log-format", "json"]) == 1
    (line,) = lines(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["errorType"], line["errorMessage"]) == (
        *("CRITICAL", "streamcore.command"),
        *("ZeroDivisionError", "a bug"),
    )
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    with pytest.raises(ZeroDivisionError):
        main(command)


def test_progress_is_a_line_of_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_progress, "_PLAIN_INTERVAL_S", 0.001)
    caplog.set_level(logging.INFO)
    asked = threading.Semaphore(0)

    def stats() -> WorkerStats:
        asked.release()
        return WorkerStats(records=70, in_flight=3, iterator_age_ms=1500)

    with _progress.Progress(stats, sys.stderr, terminal=True, logged=True):
        for _ in range(3):  # the third is asked for when the second has been written
            asked.acquire()
    records = [vars(record) for record in caplog.records if record.name == "streamcore.progress"]
    assert {"records": 70, "inFlight": 3, "iteratorAgeMs": 1500, "recordsPerSecond": 0.0, "retries": 0}.items() <= records[1].items()
    assert records[1]["levelname"] == "INFO"


def test_a_long_line_becomes_several_and_none_is_lost(run: Callable[..., Any]) -> None:
    done = run("--batch-size", "30", function="handlers.py:long")
    texts = of(lines(done.stderr), "streamcore.output")
    assert "".join(texts) == "x" * 600_000
    assert max(map(len, texts)) == 256 * 1024


def test_what_processes_write_carries_the_request_id(run: Callable[..., Any]) -> None:
    done = run("--processes", "2", "--log-level", "info", "--batch-size", "30")
    found = [line for line in lines(done.stderr) if line.get("logger") == "streamcore.function"]
    written = [line for line in found if line["message"].endswith(" printed")]
    assert written
    assert all(line["message"].startswith(line["requestId"]) and line["function"] == "talk" for line in written)
    assert any(line["message"].startswith("REPORT RequestId: ") and line["durationMs"] >= 0 for line in found)


def test_a_process_that_outlives_the_run_does_not_hold_it_up(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(
        "import subprocess\n"
        "def handle(event, context):\n"
        "    left = subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "    open('pid', 'w').write(str(left.pid))\n"
    )
    command = [sys.executable, "-m", "streamcore", "run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:handle"]
    try:
        done = subprocess.run([*command, "--log-format=json"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, "standard error was handed back and has an end"
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_redrive_writes_lines_too(run: Callable[..., Any], tmp_path: Path) -> None:
    destination = ["--destination-config", "OnFailure={Destination=file:discards.ndjson}"]
    sent = run("--maximum-retry-attempts", "0", "--log-level", "info", *destination, function="handlers.py:fail")
    (line,) = [line for line in lines(sent.stderr) if line.get("destination")]
    assert (line["level"], line["destination"], line["batchSize"]) == ("INFO", "file:discards.ndjson", 30)
    arguments = ["--from", "discards.ndjson", "--source", "file:rows.csv?key=key"]
    done = run(*arguments, "--function", "handlers.py:talk", command="redrive")
    assert done.returncode == 0
    assert "to stderr" in of(lines(done.stderr), "streamcore.output")
    assert lines(run("--from", "missing.ndjson", command="redrive").stderr)[0]["logger"] == "streamcore.command"
    (tmp_path / "discards.ndjson.redriven").unlink()
    shown = run(*arguments, "--print", command="redrive")
    assert len(json.loads(shown.stdout)["Records"]) == 30
    assert any(text.startswith("messages ") for text in of(lines(shown.stderr), "streamcore.output"))


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.usefixtures("run")
def test_without_standard_error_a_run_is_a_run(tmp_path: Path, log_format: str) -> None:
    line = [sys.executable, "-m", "streamcore", "run", "--source", "file:rows.csv?key=key", "--function", "handlers.py:talk"]
    line += ["--state", ":memory:", "--log-format", log_format, "--json"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *line], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["succeeded"] == 30
