"""Run the benchmarks of the bars, of other systems and of growing work, and write results.json and the tables of the documents.

    .venv/bin/python -P benches/suite.py                     the bars and the limits (make bench)
    .venv/bin/python -P benches/suite.py --only P1,P4        some parts; the others keep what an earlier run on this machine gave
    .venv/bin/python -P benches/suite.py --peers             other systems (make bench-peers)
    .venv/bin/python -P benches/suite.py --scaling           growing work, to 100,000,000 records, and plots (make bench-scaling)
    .venv/bin/python -P benches/suite.py --render            the documents alone, from results.json

What is compared has its turns in one run, since only ratios of one run mean something on a machine that does other work too. To add a
part, write a function from `Sizes` to measurements (see `measure.py`) and name it in `PARTS`. One that is a program of its own prints its
measurements as lines of JSON and is named with its command: `"P7": printed_by("cargo", "bench", "--locked", "--bench", "dispatch")`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

import bars
import latency
import limits
import peers
import report
import restart
import scaling
from measure import TINY, Measurement, Sizes, from_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Part = Callable[[Sizes], Iterator[Measurement]]


def printed_by(*command: str) -> Part:
    """Return a part that a program measures."""
    return lambda _sizes: from_command(command)


PARTS: dict[str, Part] = {
    "P1": bars.p1,
    "P2": bars.p2,
    "P3": bars.p3,
    "P4": bars.p4,
    "P5": bars.p5,
    "P6": bars.p6,
    "P7": bars.p7,
    "P8": printed_by("cargo", "bench", "--locked", "--package", "streamcore", "--bench", "memory"),
    "P9": restart.p9,
    "P10": latency.p10,
    "P11": bars.p11,
    "limits": limits.limits,
}


def run(chosen: Mapping[str, Part], sizes: Sizes, results: Path) -> bool:
    """Measure the parts in turn, and write each into the results as soon as it is done. Returns whether every one could be measured."""
    whole = True
    for number, (name, measure) in enumerate(chosen.items(), 1):
        print(f"[{number}/{len(chosen)}] {name}", flush=True)
        load, began = os.getloadavg()[0], time.monotonic()
        found = []
        try:
            for measured in measure(sizes):
                print(f"  {measured.line()}", flush=True)
                found.append(measured)
            part = report.part_of(found, load)
        except bars.MissingError as missing:
            print(f"  not measured: {missing}", flush=True)
            part, whole = {"missing": str(missing)}, False
        kept = report.load(results)
        if not ("missing" in part and "measurements" in kept["parts"].get(name, {})):
            kept["parts"][name] = part
        report.save(kept, results)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return whole


def render(results: Path, documents: Sequence[Path]) -> None:
    """Write the tables of the documents."""
    found = json.loads(results.read_text())
    for document in documents:
        document.write_text(report.fill(document.read_text(), found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PARTS", help=f"some of {', '.join([*PARTS, *peers.PARTS, *scaling.PARTS])}")
    parser.add_argument("--peers", action="store_true", help="other systems")
    parser.add_argument("--scaling", action="store_true", help="growing work, and plots")
    parser.add_argument("--render", action="store_true", help="write the documents from the results and measure nothing")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds, help="turns of each way (default %(default)s)")
    parser.add_argument("--records", type=int, default=Sizes.records, help="records of a turn (default %(default)s)")
    parser.add_argument("--largest", type=int, default=Sizes.largest, help="records of the longest run of --scaling (default %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="see in seconds that everything runs; the figures say nothing")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where the results go; elsewhere, documents are left alone")
    parser.add_argument("--environments", type=Path, default=Sizes.peers, help="the folder of the peers' environments")
    options = parser.parse_args()
    if options.tiny and options.results == report.RESULTS:
        parser.error("--tiny needs --results FILE: its figures say nothing, and are not for the documents")
    documents = report.DOCUMENTS if options.results == report.RESULTS else []
    if options.render:
        render(options.results, documents)
        return
    every: dict[str, Part] = PARTS | peers.PARTS | scaling.PARTS
    chosen: Mapping[str, Part] = peers.PARTS if options.peers else scaling.PARTS if options.scaling else PARTS
    if options.only:
        unknown = [name for name in options.only.split(",") if name not in every]
        if unknown:
            parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(every)}")
        chosen = {name: every[name] for name in options.only.split(",")}
    sizes = Sizes(records=options.records, rounds=options.rounds, largest=options.largest, peers=options.environments.resolve())
    if options.tiny:
        sizes = Sizes(records=TINY.records, rounds=TINY.rounds, largest=TINY.largest, peers=sizes.peers)
    whole = run(chosen, sizes, options.results)
    if any(name in scaling.PARTS for name in chosen):
        import plots  # noqa: PLC0415  (what is measured runs without matplotlib in the process)

        plots.draw(options.results, options.results.with_name("plots"))
    render(options.results, documents)
    if not whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
