"""Instruction budgets of the hot paths: what a record costs, counted by callgrind, which a busy machine does not change.

    .venv/bin/python -P benches/budgets.py                        compare with budgets.json; exit 1 where a path costs 3 % more
    .venv/bin/python -P benches/budgets.py --set P1 --why TEXT    write what the paths cost whose names begin so, and why

Each path is run twice in processes of its own, the second time with more rounds. The difference is what the rounds cost; what is needed to
start Python is in both. Time is not measured: see the other benchmarks for that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

from records import bodies, dynamodb_bodies
from streamcore import Batch, Engine, EventSourceMapping, Outcome, Page

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGETS = Path(__file__).with_name("budgets.json")
TOLERANCE = 0.03
RECORDS = 3000
ROUNDS = (1, 3)
SUCCESS = Outcome.success()
ARNS = {
    "kinesis": "arn:aws:kinesis:us-east-1:123456789012:stream/orders",
    "dynamodb": "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026-01-30T12:00:05.123",
}


class HotPath(NamedTuple):
    """A hot path.

    Attributes:
        bodies: makes the answers of GetRecords.
        use: what is done with a batch; "none" leaves parsing out too. "invoke_ready" has an empty handler called with its event.
        batch_size: of the mapping, which has ten lanes.
        source: which API's answers they are.
    """

    bodies: Callable[[], list[bytes]]
    use: Literal["json", "event", "invoke_ready", "none"]
    batch_size: int
    source: Literal["kinesis", "dynamodb"] = "kinesis"


PATHS = {
    "P1, records of 100 B": HotPath(lambda: bodies(1, RECORDS, 100), "json", 1000),
    "P1, records of 1 KB": HotPath(lambda: bodies(1, RECORDS, 1000), "json", 1000),
    "P3, ten attributes": HotPath(lambda: dynamodb_bodies(3, RECORDS // 3), "json", 1000, "dynamodb"),
    "P4, batches of 1": HotPath(lambda: bodies(1, RECORDS, 100), "event", 1),
    "P4, by invoke_ready": HotPath(lambda: bodies(1, RECORDS, 100), "invoke_ready", 1),
    "P4, batches of 100": HotPath(lambda: bodies(1, RECORDS, 100), "event", 100),
    "P7, lanes alone": HotPath(lambda: bodies(1, RECORDS, 100), "none", 1000),
}


def drive(pages: list[Page], path: HotPath) -> None:
    """Take pages in, use every batch, finish it, take the checkpoint."""
    mapping = EventSourceMapping(
        starting_position="TRIM_HORIZON", batch_size=path.batch_size, parallelization_factor=10, event_source_arn=ARNS[path.source]
    )
    uses: dict[str, Callable[[Batch], object]] = {"json": Batch.json, "event": Batch.event}
    use = uses.get(path.use, len)
    engine = Engine()
    shard = engine.add_shard(mapping, "shardId-000000000000", now=0, format=path.source)
    for page in pages:
        engine.wants(shard, 0)
        engine.offer(shard, page, 0)
        if path.use == "invoke_ready":
            engine.invoke_ready(lambda _event: None, int, print)  # nothing is discarded
        while isinstance(batch := engine.take(0), Batch):
            use(batch)
            engine.finish(batch.ticket, SUCCESS, 0)
        for checkpoint in engine.checkpoints():
            engine.saved(checkpoint.shard, checkpoint.version)


def run(name: str, rounds: int, file: str) -> None:
    """Run a path over the answers in a file; the child of `instructions`."""
    path = PATHS[name]
    found = Path(file).read_bytes().splitlines()
    parsed = [Page.parse(body, path.source) for body in found] if path.use == "none" else None
    for _ in range(rounds):
        drive(parsed or [Page.parse(body, path.source) for body in found], path)


def instructions(name: str) -> float:
    """Return how many instructions a record takes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bodies")
        file.write_bytes(b"\n".join(PATHS[name].bodies()))  # a body is one line
        counts = [counted(folder, "--run", name, "--rounds", str(rounds), "--file", str(file)) for rounds in ROUNDS]
    return (counts[1] - counts[0]) / (RECORDS * (ROUNDS[1] - ROUNDS[0]))


def counted(folder: str, *arguments: str) -> int:
    """Return how many instructions a run of this file with other arguments takes."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, "-P", __file__, *arguments]
    # The same hashes in each run, so that dicts are the same.
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"})
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"valgrind failed:\n{done.stderr}")
    return int(found[1])


def main() -> None:
    """Compare the budgets with what the paths cost, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--set", metavar="NAME", help="write the budgets of the paths whose names begin so")
    parser.add_argument("--why", metavar="TEXT", help="why they are what they are now")
    for hidden in ("--run", "--rounds", "--file"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, int(options.rounds), options.file)
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("streamcore: valgrind is missing (on Debian and Ubuntu: the package valgrind)")
    if options.set is not None and not options.why:
        parser.error("--set needs --why: the file says why a budget is what it is")
    budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    above = []
    print(f"{'instructions a record':<24}{'now':>10}{'budget':>10}{'ratio':>8}")
    for name in PATHS:
        if options.set is not None and not name.startswith(options.set):
            continue
        now = instructions(name)
        if options.set is not None:
            budgets[name] = {"instructions": round(now, 1), "why": options.why}
        if name not in budgets:
            raise SystemExit(f"{name}: {BUDGETS.name} has no budget for it")
        budget = budgets[name]["instructions"]
        print(f"{name:<24}{now:>10,.1f}{budget:>10,.1f}{now / budget:>8.3f}", flush=True)
        if now > budget * (1 + TOLERANCE):
            above.append(name)
    if options.set is not None:
        BUDGETS.write_text(json.dumps({name: budgets[name] for name in PATHS if name in budgets}, indent=2) + "\n")
    if above:
        raise SystemExit(f"over budget by more than {TOLERANCE:.0%}: {'; '.join(above)}")


if __name__ == "__main__":
    main()
