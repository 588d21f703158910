"""`streamcore bench`: its options, and what it says."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamcore._options import add_aws, add_calling, add_failing, add_logging, add_threads, seconds
from streamcore.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from streamcore._console import Say
    from streamcore._redrive_command import Stoppable
    from streamcore.bench import BenchResult, BenchRun, Times, Workload
    from streamcore.mapping import EventSourceMapping
    from streamcore.protocols import Source

__all__ = ["add", "run"]

_HELP = """\
Measures TARGET behind a worker as `streamcore run` has it, over records in memory: pages are taken apart as answers of GetRecords, and
everything is dispatched, made into events and checkpointed. Only the network is missing.

Without --rate all records are there from the beginning, and the worker goes as fast as it can: that tells how much it can do and how
long a call takes, and nothing of how long a record waits. With --rate records arrive at their own instants, whether the worker is ready
or not, and latency is counted from those instants, so that a stall shows in all records that it holds up.

Tumbling windows and filters cannot be measured: records are repeated, and all of them are to be done.

  TARGET  as for `streamcore run`. A function that is not in this process uses CPU that is not counted here.
"""
_EPILOG = """\
A run with --rate that cannot keep up says so; its latency grows with its length. After the runs comes one more that notes where the CPU
time goes, which takes CPU itself: both figures are shown.

exit status: 0 done, 1 records were discarded (the function failed; not with --ignore-failures) or the benchmark failed, 2 wrong usage,
130 stopped by Ctrl-C, which prints what was measured so far.

examples:
  streamcore bench --function handlers.py:handle
  streamcore bench --function handlers.py:handle --record-bytes 200 --shards 4 --parallelization-factor 10 --rate 20000
  streamcore bench --function handlers.py:handle --source 'file:flights.csv.gz?key=carrier' --json bench.json --plot bench.svg
"""
_REFUSED = ("tumbling_window_in_seconds", "filter_criteria")
_GENERATED = ("record_bytes", "keys", "key_skew", "shards")


def add(commands: argparse._SubParsersAction[Any], command: Callable[[argparse.Namespace], int]) -> None:
    """Add the command's parser."""
    bench = commands.add_parser(
        "bench",
        allow_abbrev=False,
        help="measure a function",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.set_defaults(command=command)
    bench.add_argument("--function", required=True, metavar="TARGET", help="what to call")

    records = bench.add_argument_group("records")
    records.add_argument("--source", metavar="SOURCE", help="file:PATH?key=COLUMN or record:PATH, as for `streamcore run`, again and again")
    records.add_argument("--record-bytes", type=int, metavar="N", help="or records of JSON that are made: their size before base64 (1000)")
    records.add_argument("--keys", type=int, metavar="N", help="how many partition keys these have (10000)")
    records.add_argument("--key-skew", type=float, metavar="S", help="exponent of Zipf's law that the keys follow; 0: an even spread (1.0)")
    records.add_argument("--shards", type=int, metavar="N", help="how many shards they are spread over (1)")
    records.add_argument("--seed", type=int, default=0, metavar="N", help="of keys, texts and request ids (0)")

    load = bench.add_argument_group("load")
    load.add_argument("--rate", type=float, metavar="R", help="records a second, over all shards (as fast as it goes)")
    length = load.add_mutually_exclusive_group()
    length.add_argument("--duration", type=seconds, default=2.0, metavar="S", help="about how many seconds a run takes (2)")
    length.add_argument("--records", type=int, metavar="N", help="or how many records it has")
    load.add_argument("--warm-up", type=seconds, default=1.0, metavar="S", help="seconds to run before (1)")
    load.add_argument("--runs", type=int, default=5, metavar="N", help="how many runs; their median and quartiles are shown (5)")

    add_aws(bench)

    lambda_ = bench.add_argument_group("event source mapping", "named and meant as for `streamcore run`")
    lambda_.add_argument("--batch-size", type=int, default=100, metavar="N", help="most records of a batch (100)")
    lambda_.add_argument("--maximum-batching-window-in-seconds", type=int, default=0, metavar="S", help="with --rate only (0)")
    lambda_.add_argument("--parallelization-factor", type=int, default=1, metavar="N", help="most batches of a shard at a time (1)")
    lambda_.add_argument("--maximum-retry-attempts", type=int, default=0, metavar="N", help="before records are discarded (0)")
    add_failing(lambda_)
    for name in _REFUSED:
        lambda_.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)

    running = bench.add_argument_group("running")
    add_calling(running)
    add_threads(running)
    running.add_argument("--state", metavar="FOLDER", help="keep checkpoints in SQLite, in a file that is made in FOLDER (in memory)")
    running.add_argument("--checkpoint-interval", type=seconds, default=1.0, metavar="S", help="seconds between saves (1); 0: each batch")
    running.add_argument("--ignore-failures", action="store_true", help="exit with 0 though records were discarded")

    output = bench.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write the result there, as one JSON object")
    output.add_argument("--plot", metavar="FILE", help="draw times by percentile and CPU time by stage; FILE ends in .svg or .png")
    add_logging(output)


def run(
    arguments: argparse.Namespace,
    write: Callable[[str], object],
    say: Say,
    terminates: Callable[[Stoppable], AbstractContextManager[None]],
) -> int:
    """Measure and return the exit status.

    Args:
        arguments: what was said on the command line.
        write: writes the result to standard output.
        say: writes to standard error.
        terminates: has SIGTERM stop what it is given.
    """
    from streamcore._bench_plot import check_plot, plot  # noqa: PLC0415  (`streamcore --help` does without the engine)
    from streamcore.bench import bench  # noqa: PLC0415
    from streamcore.functions._open import open_function  # noqa: PLC0415

    # What can be wrong is told before anything is measured.
    if arguments.plot is not None:
        check_plot(arguments.plot)
    for name in ("json", "plot"):
        if (path := getattr(arguments, name)) is not None:
            _check_writable(path, name)
    mapping = _mapping(arguments)
    with contextlib.ExitStack() as opened:
        workload = _workload(arguments)
        if (close := getattr(workload, "close", None)) is not None:
            opened.callback(close)
        function = open_function(
            arguments.function,
            timeout_ms=None if arguments.timeout is None else round(arguments.timeout * 1000),
            processes=arguments.processes,
            region=arguments.region,
            endpoint_url=arguments.function_endpoint_url or arguments.endpoint_url,
            profile=arguments.profile,
        )
        opened.callback(function.close)
        opened.enter_context(_interruptible())
        opened.enter_context(terminates(_Interrupt()))
        failures = logging.getLogger("streamcore.function")
        opened.callback(failures.setLevel, failures.level)

        def on_run(text: str) -> None:
            say(text, logging.INFO)
            if arguments.log_level == "warning":
                failures.setLevel(logging.ERROR)  # why the function fails has been said; the next run would say it again

        result = bench(
            function,
            mapping,
            workload,
            rate=arguments.rate,
            duration_s=arguments.duration,
            records=arguments.records,
            warm_up_s=arguments.warm_up,
            runs=arguments.runs,
            seed=arguments.seed,
            state=arguments.state,
            checkpoint_interval_ms=round(arguments.checkpoint_interval * 1000),
            invocation_threads=arguments.invocation_threads,
            on_run=on_run,
        )
    write(_text(arguments, result))
    if arguments.json is not None:
        named = {"function": arguments.function, "source": arguments.source}
        Path(arguments.json).write_text(json.dumps({**named, **result.as_dict()}, indent=2) + "\n")
    if arguments.plot is not None:
        plot(result, arguments.plot)
    if result.reason == "interrupted":
        return 130
    if result.discarded_records and not arguments.ignore_failures:
        say(f"{result.discarded_records:,} records were discarded, so this measures failures too; --ignore-failures says that it may")
        return 1
    return 0


class _Interrupt:
    """SIGTERM does what Ctrl-C does, also between two runs."""

    def stop(self) -> None:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGINT stop what runs also where it is ignored, as a shell has it for a script's `command &`: SIGTERM goes the same way."""
    ignored = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_writable(path: str, name: str) -> None:
    """Refuse a file that cannot be written."""
    file = Path(path).absolute()
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder for {path!r}", parameter=name)
    if file.is_dir():
        raise ConfigError(f"must be a file, and {path!r} is a folder", parameter=name)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ConfigError(f"{path!r} cannot be written: permission denied", parameter=name)


def _mapping(arguments: argparse.Namespace) -> EventSourceMapping:
    from streamcore.mapping import EventSourceMapping  # noqa: PLC0415

    for name in _REFUSED:
        if getattr(arguments, name) is not None:
            text = "tumbling windows and filters cannot be measured: records are repeated, and all of them are to be done"
            raise ConfigError(text, parameter=name)
    if arguments.maximum_batching_window_in_seconds and arguments.rate is None:
        raise ConfigError("goes with --rate: without it all records are there", parameter="maximum_batching_window_in_seconds")
    return EventSourceMapping(
        starting_position="TRIM_HORIZON",
        batch_size=arguments.batch_size,
        maximum_batching_window_in_seconds=arguments.maximum_batching_window_in_seconds,
        parallelization_factor=arguments.parallelization_factor,
        maximum_retry_attempts=arguments.maximum_retry_attempts,
        bisect_batch_on_function_error=arguments.bisect_batch_on_function_error,
        function_response_types=tuple(arguments.function_response_types),
    )


def _workload(arguments: argparse.Namespace) -> Workload | Source:
    from streamcore.bench import Workload  # noqa: PLC0415
    from streamcore.sources._open import open_source, recorded  # noqa: PLC0415

    given = {name: getattr(arguments, name) for name in _GENERATED if getattr(arguments, name) is not None}
    if arguments.source is None:
        return Workload(**given)
    if given:
        raise ConfigError(f"is for records that are made; those of --source {arguments.source} have their own", parameter=next(iter(given)))
    if not recorded(arguments.source):
        raise ConfigError(f"must be file:PATH?key=COLUMN or record:PATH, which have an end, not {arguments.source!r}", parameter="source")
    try:
        return open_source(arguments.source)
    except SourceError as error:
        raise ConfigError(str(error), parameter="source") from error


# The report.


def _text(arguments: argparse.Namespace, result: BenchResult) -> str:
    sections = [_head(arguments, result), _figures(result), _times(result), _stages(result)]
    return "\n\n".join(filter(None, sections))


def _head(arguments: argparse.Namespace, result: BenchResult) -> str:
    machine, settings = result.machine, result.settings
    workload, rate = settings["workload"], settings["rate"]
    shards = f"{settings['shards']} shard{'s' if settings['shards'] > 1 else ''}"
    if workload is None:
        records = f"{settings['lap_records']:,} of {arguments.source}, again and again; {shards}; seed {settings['seed']}"
    else:
        keys = f"{workload['keys']:,} keys by Zipf's law with exponent {workload['key_skew']:g}"
        records = f"{workload['record_bytes']:,} bytes of JSON; {keys}; {shards}; seed {settings['seed']}"
    load = "as fast as it goes" if rate is None else f"{rate:,g} records/s"
    runs = (
        f"{settings['warm_up_s']:g} s of warm-up, {len(result.runs)} run{'s' * (len(result.runs) > 1)} of {settings['records']:,} records"
    )
    batches = f"batch size {settings['batch_size']:,}, ParallelizationFactor {settings['parallelization_factor']}"
    threads = settings["invocation_threads"]
    if threads is not None:
        batches += f", {threads:,} invocation thread{'s' if threads > 1 else ''}"
    busy = "" if machine.load_average is None else f"; load {machine.load_average:g} before"
    lines = [
        ("function", arguments.function),
        ("records", records),
        ("load", f"{load}; {runs}{' (interrupted)' if result.reason == 'interrupted' else ''}"),
        ("mapping", f"{batches}; checkpoints in {'SQLite' if settings['checkpoints'] == 'sqlite' else 'memory'}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.system}{busy}"),
        ("", f"{machine.python}, streamcore {machine.streamcore}"),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in lines)


def _figures(result: BenchResult) -> str:
    def line(name: str, of: Callable[[BenchRun], float], digits: int) -> str:
        found = result.over_runs(of)
        return f"{name:<16}{found.median:>14,.{digits}f}{found.lower:>14,.{digits}f}{found.upper:>14,.{digits}f}"

    calls = sum(run.invocations for run in result.runs)
    failed = sum(run.failed_invocations for run in result.runs)
    discarded = sum(run.discarded_records for run in result.runs)
    lines = [
        f"{'':<16}{'median':>14}{'1st quartile':>14}{'3rd quartile':>14}",
        line("records/s", lambda run: run.records_per_second, 0),
        line("invocations/s", lambda run: run.invocations_per_second, 0),
        line("CPU us/record", lambda run: run.cpu_us_per_record, 3),
        f"failed: {failed:,} of {calls:,} invocations, {discarded:,} records discarded",
    ]
    if result.settings["rate"] is not None:
        lines.append("records/s and invocations/s: from the first arrival to the end of the last call, which is after the last arrival")
    return "\n".join(lines)


def _times(result: BenchResult) -> str:
    service, latency = result.service, result.latency
    if service is None:
        return ""
    columns: list[tuple[str, Times]] = [("call", service)] if latency is None else [("latency", latency), ("call", service)]
    if latency is None:
        says = "time of a call, ms: event, function, answer. No response time: there was always work waiting (--rate measures that)"
    else:
        says = "ms; latency: from the instant at which a record was to arrive to the end of its call. call: event, function, answer"
        if not result.kept_rate:
            says += "\nTHE RATE WAS NOT KEPT: records waited ever longer, and latency tells how long the run was"
    wanted = (50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0)
    lines = [says, "".join([f"{'':<16}", *(f"{name:>14}" for name, _ in columns)])]
    for percentile in wanted:
        found = [times.at(percentile) for _, times in columns]
        if any(ms is not None for ms in found):
            name = "longest" if percentile == 100 else f"{percentile:g} %"
            lines.append("".join([f"{name:<16}", *(f"{'' if ms is None else format(ms, ',.3f'):>14}" for ms in found)]))
    lines.append("".join([f"{'mean':<16}", *(f"{times.mean_ms:>14,.3f}" for _, times in columns)]))
    return "\n".join(lines)


def _stages(result: BenchResult) -> str:
    profile = result.profile
    if profile is None:
        return ""
    without, with_ = result.over_runs(lambda run: run.cpu_us_per_record).median, profile.run.cpu_us_per_record
    stages = profile.us_per_record()
    lines = [f"CPU us/record by stage: of a run of its own that notes them, {with_:,.3f} (the others {without:,.3f})"]
    lines += [f"{stage:<16}{us:>14,.3f}{us / with_ if with_ else 0:>13.0%}" for stage, us in stages.items()]
    return "\n".join(lines)
