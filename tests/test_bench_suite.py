"""The benchmarks' suite runs, and what the documents say is what it measured."""

from __future__ import annotations

import doctest
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bars
import measure
import report
from measure import Measurement, by_turns, from_command, measurement

ROOT = Path(__file__).resolve().parent.parent
SUITE = ROOT / "benches" / "suite.py"
# Not P2, P7 and P8, which need another environment and a build; and of the scaling, not what is done by other parts too.
PARTS = ["P1", "P3", "P4", "P5", "P6", "P9", "P10", "P11", "limits", "scaling: records", "scaling: shards"]


def run_suite(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(SUITE), "--results", str(results), "--environments", str(results.parent / "none"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_part_gives_figures(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run_suite(results, "--tiny", "--only", ",".join(PARTS))
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"records.svg", "shards.svg"}
    found = json.loads(results.read_text())
    assert list(found["parts"]) == PARTS
    for part in found["parts"].values():
        assert part["commit"]
        assert part["measurements"]
        for what in part["measurements"]:
            assert math.isfinite(what["value"])
            assert what["value"] > 0
            assert what.get("low", what["value"]) <= what["value"] <= what.get("high", what["value"])
            assert ("met" in what) == ("bar" in what) == ("at" in what)


def test_a_part_that_cannot_be_measured_says_why_and_leaves_an_earlier_figure(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run_suite(results, "--tiny", "--only", "P2")
    assert done.returncode == 1
    missing = json.loads(results.read_text())["parts"]["P2"]["missing"]
    assert "localstack is not installed" in missing
    assert missing in done.stdout
    earlier = report.load(results)
    earlier["parts"]["P2"] = report.part_of([Measurement(part="P2", name="a", value=60.0, unit="x", bar=50, at="least")], 0.1)
    report.save(earlier, results)
    assert run_suite(results, "--tiny", "--only", "P2").returncode == 1
    assert json.loads(results.read_text())["parts"] == earlier["parts"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "P1,P99"), "there is no part P99; there are P1, P2,"),
        (("--tiny", "--results", str(report.RESULTS)), "--tiny needs --results FILE"),
    ],
    ids=["a part that is not there", "tiny figures for the documents"],
)
def test_a_wrong_option_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run_suite(tmp_path / "results.json", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("document", report.DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_the_tables_are_those_of_the_results(document: Path) -> None:
    written = document.read_text()
    assert report.fill(written, json.loads(report.RESULTS.read_text())) == written, "run: python -P benches/suite.py --render"


def test_the_documents_show_every_block_and_every_plot_is_there() -> None:
    results = json.loads(report.RESULTS.read_text())
    written = "".join(document.read_text() for document in report.DOCUMENTS)
    assert [name for name in report.blocks(results) if f"<!-- /{name} -->" not in written] == []
    plots = {f"{part.removeprefix('scaling: ')}.svg" for part in results["parts"] if part.startswith("scaling: ")}
    assert {file.name for file in (ROOT / "benches" / "plots").iterdir()} == plots


def test_ways_have_their_turns_one_after_the_other_and_each_begins_a_round() -> None:
    called: list[str] = []
    taken = by_turns({name: lambda name=name: called.append(name) for name in "ab"}, 3)  # type: ignore[misc] # mypy cannot infer it
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert [len(turns) for turns in taken.values()] == [3, 3]


@pytest.mark.parametrize(
    ("value", "at", "met"), [(0.4, "most", True), (0.41, "most", False), (50.0, "least", True), (49.9, "least", False)]
)
def test_a_bar_is_met_up_to_itself(value: float, at: Any, met: bool) -> None:  # noqa: FBT001
    assert Measurement(part="P0", name="", value=value, unit="", bar=0.4 if at == "most" else 50, at=at).met is met


def test_rounds_give_their_median_and_quartiles() -> None:
    found = measurement([5.0, 1.0, 2.0, 4.0, 3.0], part="P0", name="", unit="s")
    assert (found.value, found.low, found.high, found.rounds) == (3.0, 2.0, 4.0, 5)


def test_a_program_prints_its_measurements(capfd: pytest.CaptureFixture[str]) -> None:
    line = '{"part": "P7", "name": "10 lanes", "value": 21.5, "unit": "ns a record", "bar": 50}'
    found = list(from_command([sys.executable, "-c", f"print('building'); print({line!r})"]))
    assert found == [Measurement(part="P7", name="10 lanes", value=21.5, unit="ns a record", bar=50)]
    assert capfd.readouterr().err == "building\n"
    with pytest.raises(subprocess.CalledProcessError):
        list(from_command([sys.executable, "-c", "raise SystemExit(3)"]))


@pytest.mark.parametrize("module", [bars, measure, report], ids=lambda module: module.__name__)
def test_the_examples_are_true(module: Any) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted > 0
    assert tried.failed == 0
