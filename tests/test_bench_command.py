"""`streamcore bench`, as a process of its own where that matters, else through `main`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from streamcore.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
HANDLERS = """
import os, signal, time

calls = 0

def handle(event, context):
    pass

def busy(event, context):
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass

def refuse(event, context):
    raise ValueError("no")

def interrupt(event, context):
    global calls
    calls += 1
    if calls == 15:
        os.kill(os.getpid(), signal.SIGINT)

def terminate(event, context):
    global calls
    calls += 1
    if calls == 15:
        os.kill(os.getpid(), signal.SIGTERM)

def interrupt_at_once(event, context):
    os.kill(os.getpid(), signal.SIGINT)
"""
QUICK = ["--records", "1000", "--warm-up", "0", "--runs", "2", "--record-bytes", "50"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of handlers, which is the current one."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "rows.csv").write_text("name,n\n" + "".join(f"{'abc'[n % 3]},{n}\n" for n in range(60)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def bench(*arguments: str, function: str = "handlers.py:handle") -> int:
    return main(["bench", "--function", function, *arguments])


def first_column(text: str) -> list[str]:
    """What stands at the beginning of each line, numbers left out, and percentiles, of which there are more with more calls."""
    return [re.sub(r"[\d,.]+", "N", re.split(r" {2,}|: ", line)[0]) for line in text.splitlines() if not re.match(r"[\d.]+ % ", line)]


def test_the_readme_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "README.md").read_text().partition("\n## How fast a function is\n")[2].partition("\n## ")[0]
    shown = re.search(r"^```text\n(.*?)^```\n", section, re.MULTILINE | re.DOTALL)
    command = re.search(r"^```sh\nstreamcore (bench .*?[^\\])\n", section, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert command is not None
    arguments = [text.strip("'") for text in command[1].replace("\\\n", " ").split()]
    monkeypatch.chdir(ROOT)
    # Fewer records.
    assert main([*arguments, "--records", "5000", "--warm-up", "0", "--runs", "3"]) == 0
    printed = capsys.readouterr().out
    assert first_column(printed) == first_column(shown[1])


def test_figures_are_printed_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch-size", "30", "--seed", "7", "--shards", "2", "--state", ".", "--invocation-threads", "2"]
    assert bench(*QUICK, *options, "--json", "b.json", "--plot", "b.svg") == 0
    said = json.loads((folder / "b.json").read_text())
    assert (said["function"], said["source"]) == ("handlers.py:handle", None)
    assert said["settings"]["workload"] == {"record_bytes": 50, "keys": 10000, "key_skew": 1.0, "shards": 2}
    assert (said["settings"]["batch_size"], said["settings"]["seed"], said["settings"]["checkpoints"]) == (30, 7, "sqlite")
    assert [run["records"] for run in said["runs"]] == [1000, 1000]
    out, err = capsys.readouterr()
    assert f"{round(said['records_per_second']['median']):,}" in out
    assert "No response time" in out
    assert "2 shards; seed 7" in out
    assert "batch size 30, ParallelizationFactor 1, 2 invocation threads; checkpoints in SQLite" in out
    assert err.splitlines()[0].startswith("streamcore: run 1 of 2: 1,000 records, ")
    assert ET.parse(folder / "b.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own file
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == ["b.json", "b.svg", "handlers.py", "rows.csv"]


def test_with_a_rate_latency_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--rate", "5000", "--duration", "0.1", "--warm-up", "0", "--runs", "2", "--json", "b.json", "--plot", "b.PNG") == 0
    said = json.loads((folder / "b.json").read_text())
    assert (said["latency"]["count"], said["settings"]["rate"], said["settings"]["records"]) == (1000, 5000, 500)
    out = capsys.readouterr().out
    assert "latency: from the instant at which a record was to arrive" in out
    assert f"{said['latency']['mean_ms']:.3f}" in out
    assert (folder / "b.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_rate_that_is_not_kept_is_said(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """500 records in 5 ms, each of which takes at least a millisecond."""
    quick = ["--rate", "100000", "--records", "500", "--batch-size", "1", "--warm-up", "0", "--runs", "1", "--record-bytes", "50"]
    assert bench(*quick, "--json", "b.json", function="handlers.py:busy") == 0
    assert json.loads((folder / "b.json").read_text())["kept_rate"] is False
    assert "THE RATE WAS NOT KEPT" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_recorded_records_are_run_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--records", "1000", "--warm-up", "0", "--runs", "1"]
    assert bench(*quick, "--source", "file:rows.csv?key=name&shards=2", "--parallelization-factor", "2") == 0
    out = capsys.readouterr().out
    assert "60 of file:rows.csv?key=name&shards=2, again and again; 2 shards" in out
    assert "1 run of 1,000 records" in out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("more", "status"), [([], 1), (["--ignore-failures"], 0)])
def test_a_function_that_fails_is_told_of(more: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*QUICK, *more, function="handlers.py:refuse") == status
    out, err = capsys.readouterr()
    assert "failed: 20 of 20 invocations, 2,000 records discarded" in out
    assert ("3,000 records were discarded, so this measures failures too" in err) == bool(status)
    assert "ValueError: no" in err


@pytest.mark.parametrize("function", ["interrupt", "terminate"])
def test_ctrl_c_prints_what_was_measured_so_far(folder: Path, function: str) -> None:
    command = [sys.executable, "-m", "streamcore", "bench", "--function", f"handlers.py:{function}", *QUICK, "--json", "b.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    said = json.loads((folder / "b.json").read_text())
    assert said["reason"] == "interrupted"
    assert said["profile"] is None
    # Ten calls are a run; the fifteenth interrupts the second, which ends with what is in flight.
    first, second = said["runs"]
    assert (first["records"], first["interrupted"]) == (1000, False)
    assert (500 <= second["records"] <= 1000, second["interrupted"]) == (True, True)
    assert "(interrupted)" in done.stdout
    assert said["records_per_second"]["median"] == first["records_per_second"]


def test_sigterm_ends_a_run_that_a_shell_keeps_from_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "streamcore", "bench", "--function", "handlers.py:terminate", *QUICK, "--json", "b.json"]
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert json.loads((folder / "b.json").read_text())["reason"] == "interrupted"
    assert "(interrupted)" in done.stdout


def test_ctrl_c_before_anything_was_measured_prints_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "streamcore", "bench", "--function", "handlers.py:interrupt_at_once", "--record-bytes", "10"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "0"], "--rate: must be a number from 0.001 to 10,000,000, not 0.0"),
        (["--rate", "fast"], "argument --rate: invalid float value: 'fast'"),
        (["--record-bytes", "0"], "--record-bytes: must be a whole number from 1 to 4,717,536, not 0"),
        (["--keys", "0"], "--keys: must be a whole number from 1 to 10,000,000, not 0"),
        (["--key-skew", "-1"], "--key-skew: must be a number from 0 to 10, not -1.0"),
        (["--records", "0"], "--records: must be a whole number from 1 to 1,000,000,000, not 0"),
        (["--duration", "0"], "--duration: must be a number from 0.01 to 3,600, not 0.0"),
        (["--runs", "0"], "--runs: must be a whole number from 1 to 1,000, not 0"),
        (["--warm-up", "0"], "--warm-up: without a warm-up say how many records a run has, or give a rate"),
        (["--batch-size", "0"], "--batch-size: "),
        (["--invocation-threads", "0"], "--invocation-threads: must be a whole number from 1 to 1,000, not 0"),
        (["--state", "nowhere"], "--state: must be a folder, in which a file is made, not 'nowhere'"),
        (["--plot", "b.pdf"], "--plot: must end in .svg or .png, not 'b.pdf'"),
        (["--plot", "nowhere/b.svg"], "--plot: there is no folder for 'nowhere/b.svg'"),
        (["--json", "."], "--json: must be a file, and '.' is a folder"),
        (["--plot", "dir.svg"], "--plot: must be a file, and 'dir.svg' is a folder"),
        (["--tumbling-window-in-seconds", "10"], "--tumbling-window-in-seconds: tumbling windows and filters cannot be measured"),
        (["--filter-criteria", "{}"], "--filter-criteria: tumbling windows and filters cannot be measured"),
        (["--maximum-batching-window-in-seconds", "1"], "--maximum-batching-window-in-seconds: goes with --rate"),
        (["--duration", "1", "--records", "5"], "argument --records: not allowed with argument --duration; see "),
        (["--rate", "10000000", "--warm-up", "600", "--records", "5"], "--warm-up: 6,000,000,000 records would arrive"),
        (["--json", "nowhere/b.json"], "--json: there is no folder for 'nowhere/b.json'"),
        (["--source", "kinesis:orders"], "--source: must be file:PATH?key=COLUMN or record:PATH, which have an end, not 'kinesis:orders'"),
        (["--source", "file:none.csv?key=name"], "--source: "),
        (["--source", "file:rows.csv?key=name", "--keys", "5"], "--keys: is for records that are made"),
    ],
)
def test_what_cannot_be_right_is_said_in_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dir.svg").mkdir()
    assert bench(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"streamcore: {says}")


@pytest.mark.usefixtures("folder")
def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert bench("--plot", "b.svg") == 2
    expected = "streamcore: --plot: a plot needs matplotlib, which is not installed: pip install 'streamcore-esm[bench]'\n"
    assert capsys.readouterr().err == expected


def test_matplotlib_is_loaded_for_a_plot_only(folder: Path) -> None:
    script = f"""
import sys
from streamcore.cli import main
assert main(["bench", "--function", "handlers.py:handle", *{QUICK!r}]) == 0
assert not [name for name in sys.modules if name.startswith("matplotlib")]
"""
    done: Any = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
