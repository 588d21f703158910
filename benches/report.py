"""What `results.json` holds, and the tables in the documents that are written from it.

    {
      "schema": 1,
      "machine": {"processor", "cores", "memory_gib", "system"},
      "versions": {"streamcore", "Python", "Rust", "orjson", ...},
      "seeds": {"records", "workers"},
      "parts": {
        "P1": {"date", "commit", "load", "measurements": [
          {"name", "value", "unit", "bar", "at", "met", "low", "high", "rounds", "x"}
        ]},
        "P2": {"missing": "why it could not be measured"}
      }
    }

A part is measured as a whole, so what stands in it is of one run. `load` is the machine's load average when it began.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from typing import TYPE_CHECKING, Any

import paths
import records
from measure import ROOT, Measurement, as_json, figure

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA = 1
RESULTS = ROOT / "benches" / "results.json"
DOCUMENTS = [ROOT / "README.md", ROOT / "benches" / "README.md", ROOT / "benches" / "LIMITS.md"]

BARS = {
    "P1": "GetRecords body to event bytes, ten lanes, batches of 1,000",
    "P2": "the same, beside LocalStack's poller",
    "P3": "DynamoDB Streams body to event bytes",
    "P4": "body to event dicts, empty handler",
    "P5": "whole worker, dicts, empty handler",
    "P6": "body to columns",
    "P7": "the core's lanes and outcomes alone",
    "P8": "memory of a full buffer",
    "P9": "restart from a checkpoint of 1,000,000 records",
    "P10": "put to handler start at low load; idle",
    "P11": "batches of one record, one lane, empty handler",
}
AXES = ("records", "shards", "mappings", "threads")
_ROWS_MAX = 14
_BLOCK = re.compile(r"(<!-- (\w+): written by make bench\S* -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def machine() -> dict[str, Any]:
    """Say what this machine is (Linux)."""
    cpus = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+) kB", _read("/proc/meminfo"))
    return {
        "processor": cpus[1] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "system": platform.system(),
    }


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123  (a file of the kernel)
            return file.read()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Say what was measured with what."""
    found = {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Rust": _output("rustc", "--version").removeprefix("rustc ").partition(" (")[0],
    }
    return found | {name: importlib.metadata.version(name) for name in ("orjson", "numpy", "boto3")}


def commit() -> str:
    """Return the commit that is measured, with a plus where files differ from it."""
    name = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    return name + ("+" if _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "rust", "python", "Cargo.lock") else "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def load(file: Path) -> dict[str, Any]:
    """Return earlier results of this machine, to which parts are added; of another machine, none."""
    mine = {
        "schema": SCHEMA,
        "machine": machine(),
        "versions": versions(),
        "seeds": {"records": records.SEED, "workers": paths.SEED},
        "parts": {},
    }
    if file.exists():
        earlier = json.loads(file.read_text())
        if earlier["schema"] == SCHEMA and earlier["machine"] == mine["machine"]:
            mine["parts"] = earlier["parts"]
    return mine


def part_of(measurements: Iterable[Measurement], began_with_load: float) -> dict[str, Any]:
    """Return what results.json holds of a part; `part` itself is the key there."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit(),
        "load": round(began_with_load, 1),
        "measurements": [{name: value for name, value in as_json(found).items() if name != "part"} for found in measurements],
    }


def save(results: dict[str, Any], file: Path) -> None:
    """Write results.json, the parts in order."""
    results["parts"] = dict(sorted(results["parts"].items(), key=lambda part: _order(part[0])))
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _order(part: str) -> tuple[int, str]:
    names = list(BARS)
    return (names.index(part), "") if part in BARS else (len(names), part)


def blocks(results: dict[str, Any]) -> dict[str, str]:
    """Return the Markdown of each block that a document may have."""
    parts = results["parts"]
    return {
        "machine": _machine(results),
        "summary": _summary(parts),
        "bars": _bars(parts),
        "dispatch": _dispatch(parts),
        "peers": _peers(parts),
        "scaling": _scaling(parts),
        "limits": _limits(parts),
    }


def fill(document: str, results: dict[str, Any]) -> str:
    """Return the document with each block written anew.

    >>> fill("<!-- peers: written by make bench -->\\nold\\n<!-- /peers -->", {"parts": {}, "machine": {}, "versions": {}})
    '<!-- peers: written by make bench -->\\nNot measured yet.\\n<!-- /peers -->'
    """
    made = blocks(results)
    return _BLOCK.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", document)


def _machine(results: dict[str, Any]) -> str:
    what = results["machine"]
    if not what:
        return "Not measured yet."
    tools = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"{what['cores']} cores of {what['processor']}, {what['memory_gib']} GiB, {what['system']}; {tools}."


def _bars(parts: dict[str, Any]) -> str:
    lines = ["| # | path | measured | bar | median | quartiles | met |", "|---|---|---|---|---|---|---|"]
    for part, path in BARS.items():
        found = parts.get(part, {"missing": "no benchmark is wired in yet"})
        if "missing" in found:
            lines.append(f"| {part} | {path} | not measured: {found['missing']} | | | | |")
            continue
        for number, what in enumerate(_worst(found["measurements"])):
            cells = [
                part if number == 0 else "",
                path if number == 0 else "",
                what["name"],
                _bar(what),
                _value(what),
                _spread(what),
                _met(what),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _measured([parts[part] for part in BARS if part in parts])])


_SUMMARY = (
    ("P1", "100 B, rate", "GetRecords body to event bytes, records of 100 B"),
    ("P1", "100 B", "the same, time beside `orjson.loads` of the body"),
    ("P3", "ten attributes, new and old images", "body of DynamoDB Streams to event bytes, time beside `orjson.loads` of the body"),
    ("P4", "100 B, batches of 100", "body to event dicts, time beside `orjson.loads` of the same events"),
    ("P5", "batches of 100, 10 lanes, rate", "a whole worker, dicts, an empty handler, ten batches at once"),
    ("P6", "100 B, numbers", "body to columns of numbers"),
    ("P11", "batches of 1", "a whole worker, batches of one record"),
    ("P2", "100 B, both from bodies of 1,000", "body to event bytes, beside LocalStack's poller"),
    ("peers: MiniStack", "streamcore beside it, 1 shard, batches of 100", "reading over HTTP, beside MiniStack's own mapping"),
    ("peers: kcl-rs", "streamcore beside it", "reading over HTTP, beside kcl-rs"),
)


def _summary(parts: dict[str, Any]) -> str:
    """Write the few lines that a reader of the first page wants."""
    lines = ["| what | median | quartiles |", "|---|---|---|"]
    for part, name, what in _SUMMARY:
        measured = parts.get(part, {}).get("measurements", ())
        lines += [f"| {what} | {_value(found)} | {_spread(found)} |" for found in measured if found["name"] == name]
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def _measured(parts: list[dict[str, Any]]) -> str:
    """Say when, what and with how much other work on the machine."""
    known = [part for part in parts if "measurements" in part]
    if not known:
        return "Nothing of it could be measured."
    dates = sorted({part["date"] for part in known})
    commits = sorted({part["commit"] for part in known})
    loads = sorted(part["load"] for part in known)
    when = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else dates[0]
    load = f"{loads[0]} to {loads[-1]}" if loads[0] != loads[-1] else f"{loads[0]}"
    return f"Measured on {when}, commit {', '.join(commits)}; the machine's load was {load} when the parts began."


def _worst(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a person wants to see: of many points how many keep their bar, and the one that is furthest from it."""
    if len(measurements) <= _ROWS_MAX:
        return measurements
    barred = [what for what in measurements if "bar" in what]
    worst = max(barred, key=lambda what: what["value"] / what["bar"] if what["at"] == "most" else what["bar"] / what["value"])
    kept = sum(what["met"] for what in barred)
    return [worst | {"name": f"{kept} of {len(barred)} points keep the bar; the worst: {worst['name']}"}]


def _bar(what: dict[str, Any]) -> str:
    return f"at {what['at']} {figure(what['bar'])}" if "bar" in what else ""


def _value(what: dict[str, Any]) -> str:
    return f"{figure(what['value'])} {what['unit']}"


def _spread(what: dict[str, Any]) -> str:
    return f"{figure(what['low'])} to {figure(what['high'])}" if "low" in what else ""


def _met(what: dict[str, Any]) -> str:
    return "" if "met" not in what else "yes" if what["met"] else "**no**"


def _dispatch(parts: dict[str, Any]) -> str:
    """Write every point of P7: a row for how much there is, a column for how many lanes, those above the bar in bold."""
    measured = parts.get("P7", {}).get("measurements", ())
    if not measured:
        return "Not measured yet."
    rows: dict[tuple[int, int, int], dict[int, str]] = {}
    for what in measured:
        point = {name: int(number) for name, number in (varied.split(" ") for varied in what["name"].split(", "))}
        row = rows.setdefault((point["buffered"], point.get("shards", 1), point["keys"]), {})
        row[point["lanes"]] = figure(what["value"]) if what["met"] else f"**{figure(what['value'])}**"
    lanes = sorted({lanes for row in rows.values() for lanes in row})
    columns = " | ".join("1 lane" if number == 1 else f"{number} lanes" for number in lanes)
    lines = [f"| buffered | shards | keys | {columns} |", "|---|---|---" + "|---" * len(lanes) + "|"]
    for (buffered, shards, keys), row in sorted(rows.items()):
        cells = " | ".join(row.get(number, "") for number in lanes)
        lines.append(f"| {buffered:,} | {shards:,} | {keys:,} | {cells} |")
    return "\n".join([*lines, "", _measured([parts["P7"]])])


def _peers(parts: dict[str, Any]) -> str:
    chosen = {part.removeprefix("peers: "): found for part, found in parts.items() if part.startswith("peers: ")}
    if not chosen:
        return "Not measured yet."
    lines = ["| peer | measured | median | quartiles |", "|---|---|---|---|"]
    for name, found in chosen.items():
        if "missing" in found:
            lines.append(f"| {name} | not measured: {found['missing']} | | |")
        lines += [
            f"| {name if number == 0 else ''} | {what['name']} | {_value(what)} | {_spread(what)} |"
            for number, what in enumerate(found.get("measurements", []))
        ]
    return "\n".join([*lines, "", _measured(list(chosen.values()))])


def _scaling(parts: dict[str, Any]) -> str:
    chosen = {axis: parts[f"scaling: {axis}"] for axis in AXES if f"scaling: {axis}" in parts}
    if not chosen:
        return "Not measured yet."
    made = []
    for axis, found in chosen.items():
        rows: dict[float, dict[str, str]] = {}
        for what in found["measurements"]:
            column = what["name"].partition(" ")[2].removeprefix(axis).removeprefix(", ")  # behind what was varied
            unit = f"{what['unit']} of CPU time" if what["unit"] == "ns a record" and "clock" not in column else what["unit"]
            heading = f"{column}, {unit}".removeprefix(", ")
            rows.setdefault(what["x"], {})[heading] = figure(what["value"])
        headings = list(dict.fromkeys(heading for row in rows.values() for heading in row))
        lines = [f"| {axis} | {' | '.join(headings)} |", f"|---{'|---' * len(headings)}|"]
        lines += [f"| {x:,.0f} | {' | '.join(row.get(heading, '') for heading in headings)} |" for x, row in rows.items()]
        made.append(f"![A record's cost over {axis}](plots/{axis}.svg)\n\n" + "\n".join(lines))
    return "\n\n".join([*made, _measured(list(chosen.values()))])


def _limits(parts: dict[str, Any]) -> str:
    if "limits" not in parts:
        return "Not measured yet."
    rows: dict[str, dict[str, str]] = {}
    for what in parts["limits"]["measurements"]:
        size, _, way = what["name"].partition(", ")
        rows.setdefault(way, {})[size] = _value(what)
    sizes = list(dict.fromkeys(size for row in rows.values() for size in row))
    lines = [f"| for the same records | {' | '.join(sizes)} |", f"|---{'|---' * len(sizes)}|"]
    lines += [f"| {way} | {' | '.join(row.get(size, '') for size in sizes)} |" for way, row in rows.items()]
    return "\n".join([*lines, "", _measured([parts["limits"]])])
