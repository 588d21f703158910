"""What every measurement of the suite is: functions that are called by turns, and a `Measurement` of what that gave.

A benchmark takes part in the suite with a function that takes `Sizes` and returns (or yields) measurements, named in `PARTS` of `suite.py`.
One that is a program of its own, such as a bench of Cargo, prints one JSON object a line; `from_command` reads those:

    {"part": "P7", "name": "1,000 keys, 10 lanes", "value": 21.4, "unit": "ns a record", "bar": 50, "at": "most"}

`part`, `name`, `value` and `unit` must be there; the other fields of `Measurement` may be. Lines that do not begin with `{"part"` are
passed on as progress.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        records: of a stream that is read in one turn.
        rounds: how often each way has its turn.
        largest: records of the longest run of the scaling.
        peers: the folder that holds the peers' environments.
    """

    records: int = 50_000
    rounds: int = 15
    largest: int = 100_000_000
    peers: Path = ROOT / ".peers"


TINY = Sizes(records=2_000, rounds=2, largest=20_000)
"""Says that everything runs, and nothing about speed."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure.

    Attributes:
        part: what it belongs to: a bar ("P1"), "peers", "scaling: shards", "limits".
        name: what was measured, told apart from others of its part.
        value: the figure; of rounds, the median.
        unit: of the value.
        bar: what the value has to be at most, or at least; None where there is no bar.
        at: which of them.
        low: the lower quartile of the rounds.
        high: the upper quartile.
        rounds: how many there were.
        x: what was varied, for a figure of a row of them.
    """

    part: str
    name: str
    value: float
    unit: str
    bar: float | None = None
    at: Literal["most", "least"] = "most"
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    x: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at == "most" else self.value >= self.bar

    def line(self) -> str:
        """Write it for a person who waits."""
        spread = "" if self.low is None or self.high is None else f" ({figure(self.low)} to {figure(self.high)})"
        verdict = "" if self.bar is None else f"; at {self.at} {figure(self.bar)}: {'met' if self.met else 'missed'}"
        return f"{self.part}, {self.name}: {figure(self.value)} {self.unit}{spread}{verdict}"


def figure(value: float) -> str:
    """Write a value with three digits that matter.

    >>> figure(0.32849), figure(21.449), figure(1_234_567.8)
    ('0.328', '21.4', '1,234,568')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Taken(NamedTuple):
    """The seconds that one turn took.

    Attributes:
        cpu: of this process's threads, which tells less of what else the machine does.
        wall: by the clock.
    """

    cpu: float
    wall: float


def by_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Taken]]:
    """Call each of the ways once to warm it up, then all of them by turns, each round beginning with another one.

    The collector is on, and begins each turn with nothing to do. A way that returns `Taken` has timed itself.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    names = list(ways)
    for name in names:
        ways[name]()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            own = ways[name]()
            spent = Taken(time.process_time() - cpu, time.perf_counter() - wall)
            taken[name].append(own if isinstance(own, Taken) else spent)
    return taken


def measurement(values: Sequence[float], **fields: Any) -> Measurement:
    """Make a measurement of the values of the rounds: their median and their quartiles."""
    if len(values) < 2:
        return Measurement(value=values[0], **fields)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Measurement(value=statistics.median(values), low=low, high=high, rounds=len(values), **fields)


def cpu_ratios(taken: Mapping[str, Sequence[Taken]], way: str, beside: str) -> list[float]:
    """Return the CPU time of one way as a part of another's, round by round."""
    return [mine.cpu / other.cpu for mine, other in zip(taken[way], taken[beside], strict=True)]


def wall_rates(taken: Mapping[str, Sequence[Taken]], way: str, count: int) -> list[float]:
    """Return how many a second one way has done, by the clock, round by round."""
    return [count / turn.wall for turn in taken[way]]


def from_command(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Measurement]:
    """Run a program in the project's folder and yield the measurements that it prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"part"'):
                yield Measurement(**json.loads(line))
            else:
                sys.stderr.write(line)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, list(command))


class Child:
    """A program that answers each line on its standard input with a line of JSON, so that it can have turns in a process of its own."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ask(self, question: str) -> Any:
        """Return the answer to one line.

        Raises:
            RuntimeError: the program has ended; what it had to say is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} ended without an answer")
        return json.loads(answer)


def as_json(found: Measurement) -> dict[str, Any]:
    """Return a measurement's fields, those that are None left out, and `met` where there is a bar."""
    fields = {name: value for name, value in dataclasses.asdict(found).items() if value is not None}
    if found.bar is None:
        del fields["at"]
    else:
        fields["met"] = found.met
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in fields.items()}
