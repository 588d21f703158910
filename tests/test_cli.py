"""The command, as a process of its own where that matters, else through `main`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from streamcore.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANDLER = """
import base64, json

def payloads(event):
    return [json.loads(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]

def handle(event, context):
    print("a handler may print")

def refuse(event, context):
    for row in payloads(event):
        if row["delay"] == "bad":
            raise ValueError("bad row")

def report(event, context):
    bad = [r["kinesis"]["sequenceNumber"] for r, row in zip(event["Records"], payloads(event)) if row["delay"] == "bad"]
    return {"batchItemFailures": [{"itemIdentifier": number} for number in bad[:1]]}

async def later(event, context):
    return None

def interrupt(event, context):
    raise KeyboardInterrupt
"""


class Folder:
    """A folder with a CSV file and a module of handlers, and the command run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = [f"{'ABC'[number % 3]},{'bad' if number == 17 else number}" for number in range(100)]
        (path / "rows.csv").write_text("carrier,delay\n" + "\n".join(rows) + "\n")
        (path / "handlers.py").write_text(HANDLER)

    def command(self, *arguments: str, function: str = "handlers.py:handle", source: str = "file:rows.csv?key=carrier") -> list[str]:
        return [sys.executable, "-m", "streamcore", "run", "--source", source, "--function", function, *arguments]

    def run(self, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments, **options), cwd=self.path, capture_output=True, text=True, check=False)

    def state(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "streamcore", "state", *arguments]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A folder whose handlers, where a test imports them into this process, leave nothing behind."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield Folder(tmp_path)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_json_is_one_object_on_standard_output_whatever_the_handler_prints(folder: Folder) -> None:
    done = folder.run("--json", "--batch-size", "10", "--state", "s.sqlite")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    expected = {"records": 100, "invocations": 10, "failed_invocations": 0, "discarded_records": 0, "discards": 0, "reason": "ended"}
    assert {name: summary[name] for name in expected} == expected
    assert summary["elapsed_seconds"] > 0
    assert summary["checkpoints"] >= 1
    assert summary["error"] is None
    assert done.stderr.count("a handler may print") == 10


def test_the_summary_is_for_people(folder: Folder) -> None:
    done = folder.run("--maximum-retry-attempts", "0", "--bisect-batch-on-function-error", function="handlers.py:refuse")
    assert done.returncode == 0
    lines = dict(line.strip().split(None, 1) for line in done.stdout.splitlines())
    assert (lines["records"], lines["succeeded"], lines["discarded"]) == ("100", "99", "1 (RetryAttemptsExhausted 1)")
    assert "the mapping has no destination, the records are dropped" in done.stderr
    assert (folder.path / ".streamcore" / "state.sqlite").exists()


def test_partial_failures_go_to_the_destination_and_fail_where_that_is_asked_for(folder: Folder) -> None:
    arguments = [
        "--function-response-types",
        "ReportBatchItemFailures",
        "--bisect-batch-on-function-error",
        "--maximum-retry-attempts",
        "0",
    ]
    arguments += [
        "--destination-config",
        "OnFailure={Destination=file:discards.ndjson}",
        "--parallelization-factor",
        "10",
        "--fail-on-discard",
    ]
    done = folder.run(*arguments, "--json", function="handlers.py:report")
    assert done.returncode == 1
    assert json.loads(done.stdout)["delivered"] == 1
    assert "1 records were discarded, and --fail-on-discard says that this is a failure" in done.stderr
    (line,) = (folder.path / "discards.ndjson").read_text().splitlines()
    assert json.loads(line)["KinesisBatchInfo"]["startSequenceNumber"] == "19"


def test_the_destination_may_be_given_as_json(folder: Folder) -> None:
    config = json.dumps({"OnFailure": {"Destination": "file:discards.ndjson"}})
    done = folder.run("--maximum-retry-attempts", "0", "--destination-config", config, function="handlers.py:refuse")
    assert done.returncode == 0
    assert len((folder.path / "discards.ndjson").read_text().splitlines()) == 1


def test_a_run_goes_on_where_the_last_one_stopped(folder: Folder) -> None:
    first = folder.run("--json", "--max-records", "30", "--batch-size", "7")
    second = folder.run("--json")
    third = folder.run()
    assert [json.loads(done.stdout)["records"] for done in (first, second)] == [30, 70]
    assert json.loads(first.stdout)["reason"] == "max_records"
    assert third.returncode == 0
    assert "nothing was left to process" in third.stderr
    assert "`streamcore state rewind .streamcore/state.sqlite --to TRIM_HORIZON` begins anew" in third.stderr


def test_an_asynchronous_handler_and_a_module_are_found(folder: Folder) -> None:
    done = folder.run("--json", "--state", ":memory:", "--until-idle", function="handlers:later")
    assert json.loads(done.stdout)["succeeded"] == 100
    assert not (folder.path / ".streamcore").exists()


def test_ctrl_c_in_a_handler_stops_with_130(folder: Folder) -> None:
    done = folder.run("--json", function="handlers.py:interrupt")
    assert done.returncode == 130
    assert json.loads(done.stdout)["reason"] == "interrupted"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "status", "reason"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 0, "stopped")])
def test_signals_stop_the_run_and_save(folder: Folder, number: signal.Signals, status: int, reason: str) -> None:
    (folder.path / "slow.py").write_text(
        "import sys, time\nstopped = False\n"
        "def handle(event, context):\n    print('in', file=sys.stderr, flush=True)\n    time.sleep(0.05)\n"
    )
    command = folder.command("--json", "--batch-size", "1", function="slow.py:handle")
    with subprocess.Popen(command, cwd=folder.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "in\n"
        process.send_signal(number)
        output, _ = process.communicate()
    summary = json.loads(output)
    assert (process.returncode, summary["reason"]) == (status, reason)
    assert 1 <= summary["records"] < 100
    rest = folder.run("--json", function="slow.py:handle")
    assert json.loads(rest.stdout)["records"] == 100 - summary["records"]


def test_a_terminal_sees_one_refreshed_line(folder: Folder) -> None:
    (folder.path / "slow.py").write_text("import time\ndef handle(event, context):\n    time.sleep(0.02)\n")
    mine, theirs = pty.openpty()
    command = folder.command("--batch-size", "2", function="slow.py:handle")
    with subprocess.Popen(command, cwd=folder.path, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(mine, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            seen += chunk
            if not chunk:
                break
        process.communicate()
    os.close(mine)
    text = seen.decode()
    assert " in flight  0 retries  0 discards  iterator age " in text
    assert text.endswith("\r\x1b[K")
    assert "\n" not in text


def test_a_second_process_on_the_same_state_is_refused(folder: Folder) -> None:
    (folder.path / "slow.py").write_text(
        "import sys\ndef handle(event, context):\n    print('in', file=sys.stderr, flush=True)\n    sys.stdin.readline()\n"
    )
    command = folder.command("--state", "s.sqlite", function="slow.py:handle")
    with subprocess.Popen(
        command, cwd=folder.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "in\n"
        second = folder.run("--state", "s.sqlite", "--json", function="slow.py:handle")
        rewind = folder.state("rewind", "s.sqlite", "--to", "TRIM_HORIZON")
        process.stdin.write("go on\n")
        process.communicate()
    assert second.returncode == 1
    assert f"is in use by process {process.pid} on host" in second.stderr
    assert json.loads(second.stdout)["reason"] == "failed"
    assert rewind.returncode in (1, 2)


def test_state_show_rewind_and_export(folder: Folder) -> None:
    folder.run("--state", "s.sqlite", source="file:rows.csv?key=carrier&shards=2")
    shown = folder.state("show", "s.sqlite")
    assert shown.returncode == 0
    assert [line.split()[1:3] for line in shown.stdout.splitlines()[1:]] == [[f"shardId-00000000000{n}", "ended"] for n in (0, 1)]
    rows = json.loads(folder.state("show", "s.sqlite", "--json").stdout)["checkpoints"]
    assert [row["ended"] for row in rows] == [True, True]
    exported = [json.loads(line) for line in folder.state("export", "s.sqlite").stdout.splitlines()]
    assert exported == rows

    moved = folder.state("rewind", "s.sqlite", "--to", "TRIM_HORIZON")
    assert (moved.returncode, moved.stdout) == (0, "shardId-000000000000: at TRIM_HORIZON\nshardId-000000000001: at TRIM_HORIZON\n")
    again = folder.run("--state", "s.sqlite", "--json", source="file:rows.csv?key=carrier&shards=2")
    assert json.loads(again.stdout)["records"] == 100


def test_rewinding_to_a_sequence_number_begins_after_it(folder: Folder) -> None:
    folder.run("--state", "s.sqlite")
    moved = folder.state("rewind", "s.sqlite", "--to", "91", "--shard", "shardId-000000000000")
    assert moved.stdout == "shardId-000000000000: after 91\n"
    assert json.loads(folder.run("--state", "s.sqlite", "--json").stdout)["records"] == 10  # the lines 92 to 101


def test_rewinding_to_a_time_begins_there(folder: Folder) -> None:
    rows = "".join(f"A,2013-01-01T0{hour}:00:00Z\n" for hour in range(10))
    (folder.path / "timed.csv").write_text("carrier,at\n" + rows)
    source = "file:timed.csv?key=carrier&time=at"
    folder.run("--state", "s.sqlite", source=source)
    moved = folder.state("rewind", "s.sqlite", "--to", "2013-01-01T07:00:00Z")
    assert moved.stdout == "shardId-000000000000: at AT_TIMESTAMP 2013-01-01T07:00:00.000Z\n"
    assert json.loads(folder.run("--state", "s.sqlite", "--json", source=source).stdout)["records"] == 3


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    options = (
        "source function batch-size maximum-batching-window-in-seconds parallelization-factor starting-position maximum-retry-attempts"
    )
    options += " maximum-record-age-in-seconds bisect-batch-on-function-error no-bisect-batch-on-function-error destination-config"
    options += (
        " function-response-types state until-idle json timeout clock max-records fail-on-discard running-max checkpoint-interval log-level"
        " invocation-threads"
    )
    options += " on-undeliverable discard-tries discard-budget record log-format"
    for option in options.split():
        assert f"--{option} " in text.replace(",", " ").replace("]", " ") + " ", option


def usage(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run with wrong usage; return the one line that says so."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "0"], "Value '0' at 'batchSize' failed to satisfy constraint"),
        (["--batch-size", "many"], "--batch-size: invalid int value: 'many'"),
        (["--parallelization-factor", "11"], "Member must have value less than or equal to 10"),
        (["--maximum-record-age-in-seconds", "59"], "must be either -1 (forever) or between 60 and 604800 (inclusive)"),
        (["--starting-position", "BEGINNING"], "[LATEST, AT_TIMESTAMP, TRIM_HORIZON]"),
        (["--starting-position-timestamp", "yesterday"], "must be a time such as 2026-01-31T12:00:00Z"),
        (["--function-response-types", "Everything"], "[ReportBatchItemFailures]"),
        (["--destination-config", "file:x"], "must be OnFailure={Destination=WHERE} or the same as JSON"),
        (["--destination-config", "{"], "--destination-config: not JSON"),
        (
            ["--destination-config", "OnFailure={Destination=arn:aws:sqs:us-east-1:123456789012:q.fifo}"],
            "q.fifo)) is invalid.; give",
        ),
        (["--destination-config", "OnFailure={Destination=file:missing/x}"], "--destination-config: [Errno 2] No such file"),
        (["--on-undeliverable", "block"], "--on-undeliverable: on_undeliverable 'block' needs a destination"),
        (["--discard-tries", "21"], "discard_tries must be a whole number from 1 to 20, not 21"),
        (["--destination-config", "OnSuccess={Destination=file:x}"], "OnSuccess"),
        (["--clock", "sundial"], "invalid choice: 'sundial'"),
        (["--max-records", "0"], "max_records must be a whole number from 1"),
        (["--running-max", "0"], "running_max must be a whole number from 1"),
        (["--invocation-threads", "0"], "--invocation-threads: invocation_threads must be a whole number from 1 to 1000, not 0"),
        (["--checkpoint-interval", "-1"], "--checkpoint-interval: checkpoint_interval_ms must be a whole number from 0"),
        (["--checkpoint-interval", "nan"], "--checkpoint-interval: must be a number of seconds, not 'nan'"),
        (["--discard-budget", "1e6"], "--discard-budget: discard_budget_s must be a number from 0"),
        (["--timeout", "0"], "--timeout: timeout_ms must be an integer of 1 or more"),
        (["--timeout", "inf"], "--timeout: must be a number of seconds, not 'inf'"),
        (["--timeout", "soon"], "--timeout: must be a number of seconds, not 'soon'"),
        (["--batchsize", "1"], "unrecognized arguments: --batchsize"),
    ],
)
def test_wrong_options_are_answered_in_one_line(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    monkeypatch.chdir(folder.path)
    source = ["run", "--source", "file:rows.csv?key=carrier", "--function", "handlers.py:handle", "--state", ":memory:"]
    assert said in usage(capsys, *source, *options)


def test_nothing_at_all_and_unknown_commands_say_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the following arguments are required: COMMAND; see streamcore --help" in usage(capsys)
    assert "invalid choice: 'walk'" in usage(capsys, "walk")
    assert "--source, --function" in usage(capsys, "run")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("arn:aws:sqs:us-east-1:123456789012:q", "--source: must be kinesis:NAME, dynamodb:TABLE, the ARN of one, file:PATH?key=COLUMN or"),
        ("arn:aws:kinesis:us-east-1:123456789012:table/s", "nor its ARN (arn:aws:kinesis:REGION:ACCOUNT:stream/NAME)"),
        ("kinesis:no blanks", "is neither the name of a Kinesis stream"),
        ("dynamodb:", "is neither the name of a DynamoDB table"),
        ("kafka:topic", "not 'kafka:topic'"),
        ("record:", "reads record:PATH"),
        ("record:missing.ndjson", "--source: missing.ndjson: No such file or directory"),
        ("record:rows.csv", "--source: rows.csv:1: not JSON"),
        ("file:rows.csv", "say which column holds the key"),
        ("file:rows.csv?key=carier", "carrier"),
        ("file:rows.csv?kee=carrier", "did you mean 'key'?"),
        ("file:missing.csv?key=carrier", "missing.csv"),
        ("file:rows.csv?key=carrier&shards=0", "shards"),
        ("file:handlers.py?key=carrier", "handlers.py"),
    ],
)
def test_wrong_sources_are_answered_in_one_line(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, said: str
) -> None:
    monkeypatch.chdir(folder.path)
    assert said in usage(capsys, "run", "--source", source, "--function", "handlers.py:handle")


@pytest.mark.parametrize(
    ("position", "said"),
    [
        ("SOMEWHERE", "--to must be TRIM_HORIZON, LATEST, a time such as 2026-01-31T12:00:00Z, or a sequence number, not 'SOMEWHERE'"),
        ("12", "a sequence number belongs to one shard; say which with --shard"),
    ],
)
def test_wrong_positions_are_answered_in_one_line(folder: Folder, position: str, said: str) -> None:
    folder.run("--state", "s.sqlite", source="file:rows.csv?key=carrier&shards=2")
    done = folder.state("rewind", "s.sqlite", "--to", position)
    assert (done.returncode, done.stderr) == (2, f"streamcore: {said}\n")
    unknown = folder.state("rewind", "s.sqlite", "--to", "LATEST", "--shard", "shard-9")
    assert "there is no shard shard-9; there are: shardId-000000000000, shardId-000000000001" in unknown.stderr


def test_rewinding_one_mapping_of_several_needs_its_name(folder: Folder) -> None:
    for function in ("handlers.py:handle", "handlers.py:later"):
        folder.run("--state", "s.sqlite", function=function)
    refused = folder.state("rewind", "s.sqlite", "--to", "TRIM_HORIZON")
    assert refused.returncode == 2
    assert "the file holds several mappings; say which with --mapping: " in refused.stderr
    rows: list[dict[str, Any]] = json.loads(folder.state("show", "s.sqlite", "--json").stdout)["checkpoints"]
    assert folder.state("rewind", "s.sqlite", "--to", "TRIM_HORIZON", "--mapping", rows[0]["mapping_uuid"]).returncode == 0
