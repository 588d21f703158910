"""`streamcore redrive`: what it takes, prints and leaves, over files; no server is needed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from invocation_records import held, payload, write
from streamcore.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["redrive", *arguments])
    said = capfd.readouterr()
    return status, said.out, said.err


def target(tmp_path: Path, body: str) -> str:
    path = tmp_path / f"handlers{zlib.crc32(body.encode())}.py"
    path.write_text(f"def handle(event, context):\n    {body}\n")
    return f"{path}:handle"


def test_the_command_says_what_came_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "d.ndjson", held(("a", "a1", "1")), {}, held(("a", "a2", "2")))
    body = "assert event['Records'][0]['kinesis']['sequenceNumber'] == '1'"
    status, out, err = command(capfd, "--from", path, "--function", target(tmp_path, body))
    assert status == 1
    first, second, *summary = out.splitlines()
    assert first.startswith(f"unreadable: {path}, line 2: no invocation record")
    assert second.startswith(f"failed: {path}, line 3 (shardId-000000000000, 2 to 2): RetryAttemptsExhausted at record 2, invoked once")
    counts = {tuple(line[:14].rstrip().split("  ")): line[14:] for line in summary}
    assert counts[("messages",)] == "3"
    assert (counts[("", "redriven")], counts[("", "unreadable")], counts[("", "succeeded")]) == ("1", "1", "1")
    assert "2 of 3 messages are left" in err

    status, out, _ = command(capfd, "--from", path, "--function", target(tmp_path, "pass"), "--json")
    found = json.loads(out)
    assert (status, found["redriven"], found["complete"], len(found["left"])) == (1, 1, False, 1)
    (tmp_path / "d.ndjson").write_text("")
    status, out, _ = command(capfd, "--from", path, "--function", target(tmp_path, "pass"), "--json")
    assert (status, json.loads(out)["complete"]) == (0, True)


@pytest.mark.parametrize(("kind", "options"), [("python", ["--processes", "2"]), ("runtime", []), ("runtime", ["--processes", "1"])])
def test_functions_in_processes_of_their_own_are_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, options: list[str]
) -> None:
    path = write(tmp_path / "d.ndjson", *(held(("a", f"a{number}", str(number))) for number in range(1, 5)))
    body = f"open({str(tmp_path / 'seen')!r}, 'a').write(f\"{{__import__('os').getpid()}} {{event['Records'][0]['eventID']}}\\n\")"
    handler = target(tmp_path, body)
    if kind == "runtime":
        module = handler.rpartition("/")[2].removesuffix(".py:handle")
        handler = f"runtime:{tmp_path}?handler={module}.handle"
    status, out, err = command(capfd, "--from", path, "--function", handler, *options, "--timeout", "60", "--json")
    assert (status, json.loads(out)["redriven"]) == (0, 4), err
    rows = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert [event_id for _, event_id in rows] == [f"shardId-000000000000:{number}" for number in range(1, 5)]
    assert str(os.getpid()) not in {pid for pid, _ in rows}


def test_printing_shows_an_event_on_a_line_and_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "d.ndjson", held(("b", "b2", "2"), ("b", "b3", "3")), held(("a", "a1", "1")))
    for _ in range(2):
        status, out, err = command(capfd, "--from", path, "--print")
        assert status == 0
        assert [json.loads(line) for line in out.splitlines()] == [payload(("a", "a1", "1")), payload(("b", "b2", "2"), ("b", "b3", "3"))]
        assert "  shown       2" in err
    assert [found.name for found in tmp_path.iterdir()] == ["d.ndjson"]


def test_the_discards_of_a_run_over_a_file_are_read_from_it_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f'{"ab"[number % 2]},"{number}\n{"x" * number}"\n' for number in range(20))
    (tmp_path / "rows.csv").write_text("key,text\n" + rows)
    source = f"file:{tmp_path / 'rows.csv'}?key=key&shards=2"
    path = str(tmp_path / "d.ndjson")
    run = ["run", "--source", source, "--batch-size", "3", "--maximum-retry-attempts", "0", "--state", ":memory:", "--json"]
    run += ["--function", target(tmp_path, "raise ValueError"), "--destination-config", f"OnFailure={{Destination=file:{path}}}"]
    assert main(run) == 0
    discarded = json.loads(capfd.readouterr().out)["discards"]
    status, out, _ = command(capfd, "--from", path, "--print", "--source", source)
    events = [json.loads(line)["Records"] for line in out.splitlines()]
    assert (status, len(events)) == (0, discarded)
    texts = [json.loads(base64.b64decode(one["kinesis"]["data"]))["text"] for records in events for one in records]
    assert sorted(texts) == sorted(f"{number}\n{'x' * number}" for number in range(20))
    assert max(map(len, events)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "d"], "say what to call with --function TARGET"),
        (["--from", "d", "--print", "--json"], "give one of them"),
        (["--from", "arn:x", "--print"], "--from: 'arn:x' is not an SQS queue's ARN"),
        (["--from", "https://sqs.us-east-1.amazonaws.com", "--print"], "--from: 'https://sqs.us-east-1.amazonaws.com' is not an SQS"),
        (["--from", "", "--print"], "--from: '' is not an SQS queue's ARN"),
        (["--from", "d", "--print", "--source", "x"], "--source: must be kinesis:NAME"),
        (["--from", "d", "--print", "--batch-size", "0"], "--batch-size: "),
        (["--from", "d", "--function", "json:dumps", "--timeout", "nan"], "--timeout: must be a number of seconds, not 'nan'"),
        (["--from", "d", "--function", "lambda:f", "--processes", "2"], "--processes: a function behind the Lambda API has no processes"),
        (["--from", "https://sqs.us-east-1.amazonaws.com/1/q", "--print", "--visibility-timeout", "1"], "--visibility-timeout: "),
        (["--print"], "the following arguments are required: --from"),
    ],
)
def test_wrong_usage_says_what_would_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").write_text("")
    status, _, err = command(capfd, *arguments)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(("number", "status", "reason"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 1, "stopped")])
def test_a_signal_lets_the_batch_finish_and_leaves_the_rest(tmp_path: Path, number: int, status: int, reason: str) -> None:
    path = write(tmp_path / "d.ndjson", *(held(("a", f"a{n}", str(n))) for n in range(1, 6)))
    body = "import sys; print('in', flush=True, file=sys.stderr); sys.stdin.readline()"
    arguments = [sys.executable, "-m", "streamcore", "redrive", "--from", path, "--function", target(tmp_path, body), "--json"]
    arguments += ["--log-level", "info"]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        while (line := process.stderr.readline()) != "in\n":
            assert line
        process.send_signal(number)
        # The handler is let go when the log says that the run is stopping.
        while "stopping: " not in (line := process.stderr.readline()):
            assert line
        process.stdin.write("\n" * 5)
        process.stdin.close()
        summary = json.loads(process.stdout.read())
    assert (process.returncode, summary["reason"], summary["complete"]) == (status, reason, False)
    assert summary["redriven"] == 1
    assert [left["outcome"] for left in summary["left"]] == ["not_run"] * 4
    assert len((tmp_path / "d.ndjson.redriven").read_text().split()) == 1


def test_a_file_that_is_missing_ends_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = command(capfd, "--from", str(tmp_path / "d"), "--print")
    assert (status, err) == (1, f"streamcore: {tmp_path / 'd'}: No such file or directory\n")
