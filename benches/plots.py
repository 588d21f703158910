"""Draw the scaling in results.json as SVG files, which are the same whenever the figures are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "scaling: "


def draw(results: Path, folder: Path) -> None:
    """Draw every part of the scaling that the results have."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "streamcore", "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(exist_ok=True)
    for part, found in json.loads(results.read_text())["parts"].items():
        if part.startswith(PREFIX):
            axis = part.removeprefix(PREFIX)
            _draw(axis, found["measurements"], folder / f"{axis}.svg")


def _draw(axis: str, measurements: list[dict[str, Any]], file: Path) -> None:
    """Draw the rows of one part: what a record costs over what was varied."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for found in measurements:
        if found["unit"] == "ns a record":
            what = found["name"].partition(" ")[2].removeprefix(axis).removeprefix(", ")  # behind what was varied
            rows.setdefault(what if "by the clock" in what else f"{what}, CPU".removeprefix(", "), []).append(found)
    figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    for what, row in rows.items():
        middle = [found["value"] for found in row]
        spread = [
            [found["value"] - found.get("low", found["value"]) for found in row],
            [found.get("high", found["value"]) - found["value"] for found in row],
        ]
        axes.errorbar([found["x"] for found in row], middle, yerr=spread, marker="o", markersize=3, capsize=2, linewidth=1, label=what)
    values = [found["value"] for row in rows.values() for found in row]
    axes.set(xscale="log", xlabel=axis, ylabel="ns a record")
    if max(values) > 10 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.2 * max(values))
    axes.grid(visible=True, alpha=0.3)
    varied = sorted({found["x"] for row in rows.values() for found in row})
    axes.set_xticks(varied, [f"{x:,.0f}" if x < 10_000 else f"$10^{len(str(round(x))) - 1}$" for x in varied])
    axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)
