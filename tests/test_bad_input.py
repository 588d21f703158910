"""Broken data, broken handlers, broken state files, a full disk: each is said in one line, with the place, and nothing is lost."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HANDLER = """
import base64, json

def handle(event, context):
    with open("handled.txt", "a") as file:
        for record in event["Records"]:
            file.write(record["kinesis"]["sequenceNumber"] + "\\n")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLER)
    return tmp_path


def run(
    folder: Path, source: str, *options: str, function: str = "handlers.py:handle", **keywords: object
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamcore", "run", "--source", source, "--function", function, "--state", "s.sqlite", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def handled(folder: Path) -> list[int]:
    path = folder / "handled.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the command's own last word; no traceback goes before it."""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_broken_csv_line_is_named_and_the_records_before_it_are_kept(folder: Path) -> None:
    rows = [f"A,{number}" for number in range(50)]
    broken = rows.copy()
    broken[29] = "A,29,surplus"
    (folder / "rows.csv").write_text("\n".join(["key,value", *broken]) + "\n")
    done = run(folder, "file:rows.csv?key=key", "--batch-size", "10", "--json")
    assert done.returncode == 1
    assert said(done).startswith("streamcore: rows.csv:31: ")
    assert handled(folder) == list(range(2, 31))
    summary = json.loads(done.stdout)
    assert (summary["records"], summary["reason"]) == (29, "failed")
    assert "rows.csv:31: " in summary["error"]

    # The checkpoint stands before the broken line: another run meets it again and handles nothing twice.
    again = run(folder, "file:rows.csv?key=key")
    assert said(again).startswith("streamcore: rows.csv:31: ")
    assert handled(folder) == list(range(2, 31))


def test_a_broken_json_line_is_named_in_a_compressed_file(folder: Path) -> None:
    lines = [json.dumps({"user": "ann", "n": number}) for number in range(10)]
    lines[4] = '{"user": "ann", "n": '
    with gzip.open(folder / "rows.ndjson.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    done = run(folder, "file:rows.ndjson.gz?key=user&shards=3")
    assert done.returncode == 1
    assert said(done).startswith("streamcore: rows.ndjson.gz:5: ")
    assert handled(folder) == [1, 2, 3, 4]


def test_a_file_cut_off_in_the_middle_of_its_compression_is_said(folder: Path) -> None:
    with gzip.open(folder / "rows.csv.gz", "wt") as file:
        file.write("key,value\n" + "".join(f"k{number},{number * 7919}\n" for number in range(20_000)))
    whole = (folder / "rows.csv.gz").read_bytes()
    (folder / "rows.csv.gz").write_bytes(whole[: len(whole) // 2])
    done = run(folder, "file:rows.csv.gz?key=key", "--batch-size", "1000")
    assert done.returncode == 1
    assert "rows.csv.gz" in said(done)
    numbers = handled(folder)
    assert numbers == list(range(2, len(numbers) + 2))


@pytest.mark.parametrize(
    ("source", "expected"),
    [("file:rows.csv?key=nobody", "nobody"), ("file:rows.csv?key=key&time=never", "never"), ("file:none.csv?key=key", "none.csv")],
)
def test_unknown_columns_and_files_are_wrong_usage(folder: Path, source: str, expected: str) -> None:
    (folder / "rows.csv").write_text("key,value\nA,1\n")
    done = run(folder, source)
    assert done.returncode == 2
    assert said(done).startswith("streamcore: --source: ")
    assert expected in said(done)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("handlers.py:handel", "Did you mean 'handle'?"),
        ("handler.py:handle", "there is no file 'handler.py'"),
        ("no.such.module:handle", "there is no module"),
        ("handlers", "is not of the form package.module:function or path/to/file.py:function"),
        ("broken.py:handle", "importing broken.py failed: ZeroDivisionError: division by zero"),
        ("syntax.py:handle", "importing syntax.py failed: SyntaxError"),
    ],
)
def test_a_handler_that_cannot_be_imported_is_wrong_usage(folder: Path, function: str, expected: str) -> None:
    (folder / "rows.csv").write_text("key,value\nA,1\n")
    (folder / "broken.py").write_text("def handle(event, context): ...\n1 / 0\n")
    (folder / "syntax.py").write_text("def handle(event, context) ...\n")
    done = run(folder, "file:rows.csv?key=key", function=function)
    assert done.returncode == 2
    assert said(done).startswith("streamcore: --function: ")
    assert expected in said(done)


def rows_of_state(folder: Path) -> None:
    (folder / "rows.csv").write_text("key,value\n" + "".join(f"A,{number}\n" for number in range(30)))
    assert run(folder, "file:rows.csv?key=key").returncode == 0


def test_a_state_file_that_is_not_ours_is_left_alone(folder: Path) -> None:
    (folder / "rows.csv").write_text("key,value\nA,1\n")
    (folder / "s.sqlite").write_text("my diary")
    done = run(folder, "file:rows.csv?key=key")
    assert done.returncode == 1
    assert "s.sqlite is not a state file of streamcore" in said(done)
    assert (folder / "s.sqlite").read_text() == "my diary"
    assert handled(folder) == []


def test_a_damaged_state_file_is_refused(folder: Path) -> None:
    rows_of_state(folder)
    path = folder / "s.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)
    done = run(folder, "file:rows.csv?key=key")
    assert done.returncode == 1
    assert "s.sqlite is damaged" in said(done)


def test_a_damaged_checkpoint_is_refused(folder: Path) -> None:
    rows_of_state(folder)
    connection = sqlite3.connect(folder / "s.sqlite")
    connection.execute("UPDATE checkpoint SET blob = substr(blob, 1, length(blob) - 1)")
    connection.commit()
    connection.close()
    done = run(folder, "file:rows.csv?key=key")
    assert done.returncode == 1
    assert "damaged" in said(done)


def test_a_state_file_of_a_newer_version_is_refused(folder: Path) -> None:
    rows_of_state(folder)
    connection = sqlite3.connect(folder / "s.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for done in (
        run(folder, "file:rows.csv?key=key"),
        state(folder, "show", "s.sqlite"),
        state(folder, "rewind", "s.sqlite", "--to", "LATEST"),
    ):
        assert done.returncode == 1
        assert "was written by a newer version of streamcore" in said(done)


def state(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamcore", "state", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_state_file_that_is_not_there_is_not_made_by_looking(folder: Path) -> None:
    for action in (["show", "none.sqlite"], ["export", "none.sqlite"], ["rewind", "none.sqlite", "--to", "LATEST"]):
        done = state(folder, *action)
        assert (done.returncode, done.stderr) == (1, "streamcore: there is no state file none.sqlite\n")
    assert not (folder / "none.sqlite").exists()


def test_a_full_disk_fails_the_run_and_the_next_one_goes_on_from_the_last_save(folder: Path) -> None:
    """A limit on the size of files stands for the full disk: SQLite sees its writes fail either way."""
    (folder / "rows.csv").write_text("key,value\n" + "".join(f"A,{number}\n" for number in range(500)))
    (folder / "full.py").write_text(
        "import os, resource\n"
        "def handle(event, context):\n"
        "    if os.path.exists('full'):\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))\n"
    )
    assert run(folder, "file:rows.csv?key=key", "--max-records", "100", function="full.py:handle").returncode == 0
    (folder / "full").touch()
    done = run(folder, "file:rows.csv?key=key", "--json", function="full.py:handle")
    assert done.returncode == 1
    assert said(done).startswith("streamcore: the last checkpoint could not be saved: ")
    assert json.loads(done.stdout)["reason"] == "failed"
    (folder / "full").unlink()
    again = run(folder, "file:rows.csv?key=key", "--json", function="full.py:handle")
    assert json.loads(again.stdout)["records"] == 400


def test_a_file_made_anew_under_the_same_name_is_read_from_its_beginning(folder: Path) -> None:
    rows_of_state(folder)
    (folder / "rows.csv").write_text("key,value\n" + "".join(f"B,{number}\n" for number in range(5)))
    done = run(folder, "file:rows.csv?key=key", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["records"] == 5
    assert "the stream was made anew" in done.stderr
    shown = json.loads(state(folder, "show", "s.sqlite", "--json").stdout)["checkpoints"]
    assert len(shown) == 2  # the old position is kept


def test_a_destination_that_cannot_be_opened_is_wrong_usage(folder: Path) -> None:
    (folder / "rows.csv").write_text("key,value\nA,1\n")
    done = run(folder, "file:rows.csv?key=key", "--destination-config", "OnFailure={Destination=file:no/such/folder/d.ndjson}")
    assert done.returncode == 2
    assert said(done).startswith("streamcore: --destination-config: ")
    assert handled(folder) == []
    shutil.rmtree(folder)
