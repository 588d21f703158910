"""The plot of a benchmark. Needs the extra `bench`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from streamcore._distribution import DISTRIBUTION
from streamcore.errors import ConfigError

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

    from streamcore.bench import BenchResult, Times

__all__ = ["check_plot", "plot"]

_FORMATS = (".svg", ".png")
_TICKS = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def check_plot(path: str | os.PathLike[str]) -> None:
    """Check that a plot can be made there, before anything is measured.

    Raises:
        ConfigError: the name ends otherwise than in .svg or .png, the folder is not there, or matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in _FORMATS:
        raise ConfigError(f"must end in .svg or .png, not {Path(path).name!r}", parameter="plot")
    try:
        importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        message = f"a plot needs matplotlib, which is not installed: pip install '{DISTRIBUTION}[bench]'"
        raise ConfigError(message, parameter="plot") from error


def plot(result: BenchResult, path: str | os.PathLike[str]) -> None:
    """Draw times by percentile, and the CPU time of each stage.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib as mpl  # noqa: PLC0415 - who draws nothing does without it
    from matplotlib.figure import Figure  # noqa: PLC0415 - the same; and no window system is asked for

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    if result.latency is not None:
        _draw_times(left, result.latency, "from when a record should arrive to the end of its call")
    if result.service is not None:
        _draw_times(left, result.service, "one call")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks([100 / (100 - tick) for tick in _TICKS], [f"{tick:g} %" for tick in _TICKS])
    left.minorticks_off()
    left.set_xlabel("percentile")
    left.set_ylabel("milliseconds")
    left.set_title("Latency" if result.latency is not None else "Time of a call (not a response time)")
    left.grid(visible=True, alpha=0.3)
    left.legend()
    _draw_stages(right, result)
    machine, rate = result.machine, result.over_runs(lambda run: run.records_per_second)
    figure.suptitle(f"{rate.median:,.0f} records/s on {machine.cpu}, {machine.cores} cores, {machine.python}", fontsize=10)
    # The same result gives the same file.
    with mpl.rc_context({"svg.hashsalt": "streamcore"}):
        figure.savefig(path, metadata={"Date": None} if Path(path).suffix.lower() == ".svg" else {"Software": None})


def _draw_times(axes: Axes, times: Times, label: str) -> None:
    # The longest has no place on this axis: it is drawn where its rank is.
    last = 100 * times.count
    points = [(last / 100 if percentile == 100 else 100 / (100 - percentile), ms) for percentile, ms in times.percentiles_ms]
    axes.plot([x for x, _ in points], [ms for _, ms in points], marker=".", label=label)


def _draw_stages(axes: Axes, result: BenchResult) -> None:
    axes.set_title("CPU time, microseconds a record")
    if result.profile is None:
        axes.text(0.5, 0.5, "interrupted before it was measured", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    stages = result.profile.us_per_record()
    bars = axes.barh(list(stages), list(stages.values()))
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
