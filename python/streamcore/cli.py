"""The command `streamcore`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from streamcore import _bench_command, _redrive_command
from streamcore._console import Console, log_format, open_closed_streams, speaker, standard_output
from streamcore._distribution import DISTRIBUTION, version
from streamcore._metrics_options import add_cloudwatch, add_metrics, exporting, parse_metrics_config
from streamcore._options import add_aws, add_calling, add_failing, add_output, add_threads, seconds
from streamcore.errors import ConfigError, SourceError, StreamcoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamcore._redrive_command import Stoppable
    from streamcore.mapping import EventSourceMapping
    from streamcore.protocols import CheckpointStore, Destination, Function, Source
    from streamcore.worker import Summary

__all__ = ["main"]

_DEFAULT_STATE = Path(".streamcore", "state.sqlite")
_NO_STATE = ":memory:"
# The same source and function find their checkpoints again. Never change this value.
_NAMESPACE = uuid.UUID("0b0f6b39-2c57-5d6e-8b11-5f6f0a9c5a3e")

_RUN_HELP = """\
Reads SOURCE as AWS Lambda reads a stream: in batches, in parallel, in order per key, failing records set aside; and calls TARGET with each
batch, as TARGET(event, context). The options named as in `aws lambda create-event-source-mapping` mean the same as there.

  SOURCE  kinesis:NAME or arn:aws:kinesis:REGION:ACCOUNT:stream/NAME
          a stream of Kinesis Data Streams. Needs the extra: pip install '{distribution}[aws]'.
          arn:aws:kinesis:REGION:ACCOUNT:stream/NAME/consumer/CONSUMER:CREATED
          the same with enhanced fan-out: records are pushed to this consumer. Needs the extra.
          dynamodb:TABLE, arn:aws:dynamodb:REGION:ACCOUNT:table/TABLE or .../stream/LABEL
          the newest stream of a DynamoDB table, or a certain one. Needs the extra too.
          file:PATH?key=COLUMN[&time=COLUMN][&shards=N][&...]
          a CSV or NDJSON file, plain, gzip or zip. Records of one key are processed in order. A run ends at the end of the file.
          record:PATH
          the records of a run with --record PATH, each once, as they were.
  TARGET  package.module:function or path/to/file.py:function, plain or async. With --parallelization-factor above 1, or several shards,
          it is called by several threads at once, or with --processes in several processes.
          runtime:PATH?handler=app.handler[&runtime=python3.12][&timeout=30][&memory=512]
          a deployment package of Lambda, folder or .zip, in processes of its own runtime: python3.N (needs awslambdaric there), nodejsN.x,
          or provided for a bootstrap. What it writes is shown with --log-level info.
          lambda:NAME[:QUALIFIER] or arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]
          a function behind the Lambda API, AWS's own or another server's, invoked as Lambda invokes it. Needs the extra.
          Delivery is at least once: after a crash some records come again.
"""
_RUN_EPILOG = """\
Credentials, region and endpoint are found as the AWS CLI finds them (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL, ...). With --until-idle a
run over a stream ends when every open shard has been read to its tip and all that was read is done and saved.

exit status: 0 done, 1 the run failed (or --fail-on-discard and there were discards), 2 wrong usage, 130 stopped by Ctrl-C.
The first Ctrl-C lets running batches finish and saves; a second one stops at once. Run the same command again to go on.

With --log-format json every line of standard error is a JSON object, whoever writes it; `python -m pydoc streamcore.logs`
tells the fields. How a run stands is a line of the log then, at level info.

examples:
  streamcore run --source kinesis:orders --function handlers.py:handle --starting-position LATEST --endpoint-url http://127.0.0.1:4566
  streamcore run --source 'file:flights.csv.gz?key=carrier&time=time_hour' --function handlers.py:handle \\
      --parallelization-factor 10 --bisect-batch-on-function-error --maximum-retry-attempts 2 \\
      --destination-config 'OnFailure={Destination=arn:aws:sqs:eu-west-1:123456789012:discards}'
  streamcore run --source kinesis:orders --function handlers.py:handle --record events.ndjson
  streamcore run --source record:events.ndjson --function handlers.py:mended --state :memory:
"""


class _UsageError(Exception):
    """Wrong usage; the text says what would be right."""


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Without arguments it is what this process is for, and has those of the process."""
    if arguments is None:
        open_closed_streams()
    wanted = log_format(sys.argv[1:] if arguments is None else arguments)
    say = speaker(wanted)
    parsed = argparse.Namespace(say=say, own_process=arguments is None)
    try:
        _parser().parse_args(arguments, parsed)
        status: int = parsed.command(parsed)
    except _UsageError as error:
        say(str(error))
        return 2
    except ConfigError as error:
        say(_option(parsed, error.parameter) + _with_notes(error))
        return 2
    except (StreamcoreError, OSError) as error:
        say(_with_notes(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        if wanted == "text":
            raise
        say("a fault in streamcore itself", logging.CRITICAL, exc_info=sys.exc_info())
        return 1
    return status


def _option(parsed: argparse.Namespace, parameter: str | None) -> str:
    """Return what stands before the text of an error about a parameter: the option that it comes from, if there is one."""
    for name in () if parameter is None else (parameter, parameter.removesuffix("_ms").removesuffix("_s")):
        if hasattr(parsed, name):
            return f"--{name.replace('_', '-')}: "
    return ""


def _with_notes(error: BaseException) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", [])])


# What can be said on the command line.


def _parser() -> _Parser:
    parser = _Parser(
        prog="streamcore",
        allow_abbrev=False,
        description="Runs AWS Lambda's event source mappings: batches, order per key, retries, bisect, checkpoints.",
    )
    parser.add_argument("--version", action="version", version=f"streamcore {version()} ({DISTRIBUTION})")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _redrive_command.add(commands, _redrive)
    _add_state(commands)
    _add_policy(commands)
    _bench_command.add(commands, _bench)
    return parser


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run a function over a source",
        description=_RUN_HELP.format(distribution=DISTRIBUTION),
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(command=_run)
    run.add_argument("--source", required=True, metavar="SOURCE", help="what to read")
    run.add_argument("--function", required=True, metavar="TARGET", help="what to call")

    add_aws(run)

    lambda_ = run.add_argument_group("event source mapping", "named and meant as in the AWS CLI")
    lambda_.add_argument("--batch-size", type=int, metavar="N", help="most records of a batch, 1 to 10000 (100)")
    lambda_.add_argument(
        "--maximum-batching-window-in-seconds", type=int, metavar="S", help="how long a batch waits for more records, 0 to 300 (0)"
    )
    lambda_.add_argument(
        "--tumbling-window-in-seconds",
        type=int,
        metavar="S",
        help="size of the windows in which the function keeps its state, 1 to 900; 0 for none (0)",
    )
    lambda_.add_argument("--parallelization-factor", type=int, metavar="N", help="most batches of a shard at a time, 1 to 10 (1)")
    lambda_.add_argument(
        "--starting-position",
        default="TRIM_HORIZON",
        metavar="POSITION",
        help="TRIM_HORIZON, LATEST or AT_TIMESTAMP, where there is no checkpoint yet (TRIM_HORIZON)",
    )
    lambda_.add_argument("--starting-position-timestamp", metavar="TIME", help="ISO 8601 or epoch seconds, with AT_TIMESTAMP")
    lambda_.add_argument("--maximum-retry-attempts", type=int, metavar="N", help="0 to 10000, or -1 for no limit (-1)")
    lambda_.add_argument("--maximum-record-age-in-seconds", type=int, metavar="S", help="60 to 604800, or -1 for no limit (-1)")
    add_failing(lambda_)
    lambda_.add_argument(
        "--destination-config",
        metavar="CONFIG",
        help="where discards are reported: OnFailure={Destination=WHERE} or the same as JSON; WHERE is file:PATH, or the ARN of a standard "
        "SQS queue, a standard SNS topic or an S3 bucket",
    )
    lambda_.add_argument(
        "--filter-criteria", metavar="CRITERIA", help="""which records are processed: '{"Filters": [{"Pattern": "{...}"}]}'"""
    )
    lambda_.add_argument("--metrics-config", metavar="CONFIG", help="Metrics=EventCount: the EventCount metrics go to CloudWatch too")

    running = run.add_argument_group("running")
    running.add_argument(
        "--state",
        metavar="FILE",
        help=f"keeps the positions, so that the next run goes on where this one stops; {_NO_STATE} keeps nothing ({_DEFAULT_STATE})",
    )
    running.add_argument(
        "--until-idle", action="store_true", help="end when all that is there has been processed; with a file that is so anyway"
    )
    running.add_argument("--max-records", type=int, metavar="N", help="end after so many records")
    add_calling(running)
    add_threads(running)
    running.add_argument(
        "--clock", choices=["replay", "wall"], help="time of windows and ages: that of the recorded data, or of the wall (a file: replay)"
    )
    running.add_argument("--filters-max", type=int, metavar="N", help="most filters: 5, or up to 10 where AWS has raised the quota (5)")
    running.add_argument(
        "--window-grace",
        type=seconds,
        default=120.0,
        metavar="S",
        help="seconds that a stream must be at its tip before a tumbling window that is over is closed without a later record (120)",
    )
    running.add_argument("--running-max", type=int, metavar="N", help="most batches at a time, over all shards")
    running.add_argument("--checkpoint-interval", type=seconds, default=1.0, metavar="S", help="seconds between saves (1); 0: each batch")
    running.add_argument(
        "--on-undeliverable",
        choices=["continue", "block"],
        default="continue",
        help="a discard that cannot be delivered is given up, as Lambda does, or tried for ever, and holds back the checkpoint (continue)",
    )
    running.add_argument("--discard-tries", type=int, default=5, metavar="N", help="most tries to deliver a discard, 1 to 20 (5)")
    running.add_argument("--discard-budget", type=seconds, default=30.0, metavar="S", help="most seconds to deliver a discard in (30)")
    running.add_argument(
        "--record",
        metavar="FILE",
        help="append each event with its outcome to FILE, one JSON object a line; `--source record:FILE` runs them again",
    )
    running.add_argument("--fail-on-discard", action="store_true", help="exit with 1 if records were discarded")
    add_output(running)
    add_metrics(run)


def _add_state(commands: argparse._SubParsersAction[_Parser]) -> None:
    state = commands.add_parser("state", allow_abbrev=False, help="look at positions, and move them")
    actions = state.add_subparsers(metavar="ACTION", required=True)

    show = actions.add_parser("show", allow_abbrev=False, help="list the positions")
    show.add_argument("file", metavar="FILE", help=f"a state file; runs without --state use {_DEFAULT_STATE}")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    show.set_defaults(command=_state("show"))

    rewind = actions.add_parser("rewind", allow_abbrev=False, help="move positions; the next run begins there. Not while a run uses them")
    rewind.add_argument("file", metavar="FILE")
    rewind.add_argument(
        "--to", required=True, metavar="POSITION", help="TRIM_HORIZON, LATEST, a time (ISO 8601), or the sequence number to go on after"
    )
    rewind.add_argument("--shard", metavar="ID", help="this shard only")
    rewind.add_argument("--mapping", metavar="UUID", help="this mapping only; needed where the file holds several")
    rewind.set_defaults(command=_state("rewind"))

    export = actions.add_parser("export", allow_abbrev=False, help="write every checkpoint as one line of JSON")
    export.add_argument("file", metavar="FILE")
    export.set_defaults(command=_state("export"))


def _state(action: str) -> Callable[[argparse.Namespace], int]:
    def command(arguments: argparse.Namespace) -> int:
        from streamcore import _state_command  # noqa: PLC0415 - `streamcore run` does without it

        function: Callable[[argparse.Namespace, Callable[[str], object]], int] = getattr(_state_command, action)
        return function(arguments, print)

    return command


def _add_policy(commands: argparse._SubParsersAction[_Parser]) -> None:
    policy = commands.add_parser(
        "policy",
        allow_abbrev=False,
        help="print the IAM policy that a run needs",
        description="Prints the IAM policy that a run needs, as JSON. Calls nothing and needs no credentials.",
    )
    policy.add_argument("--source", required=True, metavar="SOURCE", help="the stream, as `streamcore run` takes it")
    policy.add_argument("--function", metavar="TARGET", help="the function, as `streamcore run` takes it; one behind the Lambda API counts")
    policy.add_argument("--region", metavar="REGION", help="where a stream or function given by name is (any)")
    policy.add_argument("--kms-key-arn", metavar="ARN", help="the customer managed key that the stream is encrypted with")
    policy.add_argument("--destination-config", metavar="CONFIG", help="where discards are reported, as `streamcore run` takes it")
    policy.add_argument("--destination-kms-key-arn", metavar="ARN", help="the customer managed key that the destination is encrypted with")
    add_cloudwatch(policy, "metrics are published under this name")
    policy.set_defaults(command=_policy)


def _policy(arguments: argparse.Namespace) -> int:
    from streamcore._policy_command import policy  # noqa: PLC0415 - `streamcore --help` does without it

    print(json.dumps(policy(arguments), indent=2))
    return 0


def _redrive(arguments: argparse.Namespace) -> int:
    with Console(arguments) as console, standard_output(arguments) as write:
        return _redrive_command.run(arguments, console, write, arguments.say, _termination)


def _bench(arguments: argparse.Namespace) -> int:
    with Console(arguments):
        return _bench_command.run(arguments, print, arguments.say, _termination)


# streamcore run


def _run(arguments: argparse.Namespace) -> int:
    from streamcore.functions._open import open_function  # noqa: PLC0415 - `streamcore --help` does without the engine
    from streamcore.worker import Worker  # noqa: PLC0415

    with Console(arguments) as console, standard_output(arguments) as write:
        with contextlib.ExitStack() as opened:
            source = opened.enter_context(contextlib.closing(_source(arguments)))
            function = open_function(
                arguments.function,
                timeout_ms=None if arguments.timeout is None else round(arguments.timeout * 1000),
                processes=arguments.processes,
                region=arguments.region,
                endpoint_url=arguments.function_endpoint_url or arguments.endpoint_url,
                profile=arguments.profile,
            )
            opened.callback(function.close)
            mapping = _mapping(arguments, source, function)
            if arguments.record is not None:
                function = _recorded(function, arguments.record)
                opened.callback(function.close)
            with _destination(mapping, arguments) as destination, contextlib.closing(_store(arguments.state)) as store:
                worker = Worker(
                    checkpoints=store,
                    checkpoint_interval_ms=round(arguments.checkpoint_interval * 1000),
                    invocation_threads=arguments.invocation_threads,
                )
                worker.add(
                    mapping,
                    source,
                    function,
                    destination,
                    running_max=arguments.running_max,
                    on_undeliverable=arguments.on_undeliverable,
                    discard_tries=arguments.discard_tries,
                    discard_budget_s=arguments.discard_budget,
                    clock=arguments.clock,
                    window_grace_s=arguments.window_grace,
                )
                error: BaseException | None = None
                over = False
                exports = exporting(arguments, mapping, worker.metrics)
                try:
                    with exports, _termination(worker), console.progress(worker.stats):
                        try:
                            worker.run(until_idle=arguments.until_idle, max_records=arguments.max_records)
                        except ConfigError:
                            raise
                        except (StreamcoreError, OSError) as raised:
                            error = raised
                        over = True
                except KeyboardInterrupt:
                    if not over:
                        raise
                    # All is done and saved; only the last metrics are not waited for any more.
                summary = worker.summary()
        return _report(arguments, summary, error, write)


def _recorded(function: Function, path: str) -> Function:
    from streamcore.recording import RecordedFunction  # noqa: PLC0415

    try:
        return RecordedFunction(function, path)
    except OSError as error:
        raise _UsageError(f"--record: {error}") from error


def _report(arguments: argparse.Namespace, summary: Summary, error: BaseException | None, write: Callable[[str], object]) -> int:
    """Write the summary, and say what the exit status is."""
    failure = None if error is None else _with_notes(error)
    if arguments.json:
        write(json.dumps({**dataclasses.asdict(summary), "records_per_second": _rate(summary), "error": failure}))
    else:
        write(_summary_text(summary))
    if failure is not None:
        arguments.say(failure)
        return 1
    if summary.lost_claims:
        arguments.say(f"another process took over {summary.lost_claims} shards; what they hold is processed there")
        return 1
    if summary.reason == "interrupted":
        return 130
    if arguments.fail_on_discard and summary.discards:
        arguments.say(f"{summary.discarded_records} records were discarded, and --fail-on-discard says that this is a failure")
        return 1
    done = summary.records or summary.filtered_records
    if summary.reason == "ended" and not done and not arguments.json and arguments.state != _NO_STATE:
        arguments.say(
            "nothing was left to process: the state file says that all of it is done; "
            f"`streamcore state rewind {arguments.state or _DEFAULT_STATE} --to TRIM_HORIZON` begins anew"
        )
    return 0


def _rate(summary: Summary) -> float:
    return summary.records / summary.elapsed_seconds if summary.elapsed_seconds else 0.0


def _summary_text(summary: Summary) -> str:
    conditions = ", ".join(f"{condition} {count:,}" for condition, count in sorted(summary.discarded_by_condition.items()) if count)
    lines = [
        ("records", f"{summary.records:,}"),
        ("  succeeded", f"{summary.succeeded:,}"),
        ("  discarded", f"{summary.discarded_records:,}" + (f" ({conditions})" if conditions else "")),
        ("  expired", f"{summary.expired:,}" if summary.expired else ""),
        ("filtered out", f"{summary.filtered_records:,}" if summary.filtered_records else ""),
        ("invocations", f"{summary.invocations:,}"),
        ("  failed", f"{summary.failed_invocations:,}"),
        ("  retries", f"{summary.retries:,}"),
        ("  throttled", f"{summary.throttles:,}" if summary.throttles else ""),
        ("windows", _windows(summary)),
        ("discards", f"{summary.discards:,}"),
        ("  delivered", f"{summary.delivered:,}" if summary.delivered else ""),
        ("  undelivered", f"{summary.undelivered:,} (given up; nothing tells of them but the log)" if summary.undelivered else ""),
        ("  dropped", f"{summary.dropped:,} (there is no destination)" if summary.dropped else ""),
        ("  unconfirmed", f"{summary.unconfirmed:,} (their records come again)" if summary.unconfirmed else ""),
        ("checkpoints", f"{summary.checkpoints:,}"),
        ("elapsed", f"{summary.elapsed_seconds:.2f} s ({_rate(summary):,.0f} records/s)"),
        ("ended", summary.reason.replace("_", " ")),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in lines if value)


def _windows(summary: Summary) -> str:
    if not summary.windows_closed and not summary.windows_ended_early:
        return ""
    early = f" ({summary.windows_ended_early:,} ended early)" if summary.windows_ended_early else ""
    return f"{summary.windows_closed:,} closed{early}"


@contextlib.contextmanager
def _termination(worker: Stoppable) -> Iterator[None]:
    """Have SIGTERM stop what runs as the first Ctrl-C does."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    except ValueError:  # not on the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _source(arguments: argparse.Namespace) -> Source:
    from streamcore._streams import StreamOption  # noqa: PLC0415
    from streamcore.sources._open import open_source, recorded  # noqa: PLC0415

    text = arguments.source
    if recorded(text) and not _calls_aws(arguments):
        for name in ("endpoint_url", "region", "profile"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise _UsageError(f"{option} is for streams, functions, destinations and metrics of AWS; --source is a file")
    try:
        source = open_source(text, region=arguments.region, endpoint_url=arguments.endpoint_url, profile=arguments.profile)
        if (stream := StreamOption.parse(text)) is not None:
            arguments.say(f"note: {stream.cost}", logging.INFO)
        return source
    except ConfigError as error:
        if error.parameter is not None and hasattr(arguments, error.parameter) and error.parameter != "record":
            raise
        raise _UsageError(f"--source: {error}") from error
    except SourceError as error:
        raise _UsageError(f"--source: {error}") from error


def _calls_aws(arguments: argparse.Namespace) -> bool:
    """Whether a run over recorded data has a function, a destination or metrics of AWS."""
    from streamcore.functions._names import FunctionName  # noqa: PLC0415

    others = ":aws" in (arguments.destination_config or "") or arguments.cloudwatch_metrics is not None
    return others or FunctionName.parse(arguments.function) is not None


def _mapping(arguments: argparse.Namespace, source: Source, function: Function) -> EventSourceMapping:
    from streamcore.destinations._open import parse_destination_config  # noqa: PLC0415
    from streamcore.functions._open import named_function  # noqa: PLC0415
    from streamcore.mapping import EventSourceMapping, local_function_arn  # noqa: PLC0415

    options = (
        "batch_size",
        "maximum_batching_window_in_seconds",
        "parallelization_factor",
        "tumbling_window_in_seconds",
        "maximum_retry_attempts",
        "maximum_record_age_in_seconds",
    )
    values: dict[str, Any] = {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None}
    if arguments.destination_config is not None:
        values["destination_config"] = parse_destination_config(arguments.destination_config)
    if arguments.filter_criteria is not None:
        values["filter_criteria"] = _json_option("--filter-criteria", arguments.filter_criteria)
    if arguments.metrics_config is not None:
        values["metrics_config"] = parse_metrics_config(arguments.metrics_config)
    if arguments.filters_max is not None:
        values["filters_max"] = arguments.filters_max
    if arguments.starting_position_timestamp is not None:
        values["starting_position_timestamp"] = _timestamp(arguments.starting_position_timestamp)
    arn = source.describe().event_source_arn
    function_name, target = named_function(arguments.function)
    return EventSourceMapping(
        event_source_arn=arn,
        function_arn=getattr(function, "function_arn", None) or local_function_arn(function_name),
        starting_position=arguments.starting_position,
        bisect_batch_on_function_error=arguments.bisect_batch_on_function_error,
        function_response_types=tuple(arguments.function_response_types),
        uuid=str(uuid.uuid5(_NAMESPACE, f"{_named(arguments.source, arn)}\n{target}")),
        **values,
    )


def _named(source: str, arn: str) -> str:
    """Return what names a source: a stream's ARN, or the table's, or a file from wherever it is called. Options do not count.

    A stream that was made anew has the name, and another identity.
    """
    scheme, _, path = source.partition(":")
    if scheme == "file":
        return "file:" + os.path.realpath(path.partition("?")[0])
    if scheme == "record":
        return "record:" + os.path.realpath(path)
    return arn.partition("/stream/")[0]


def _timestamp(text: str) -> Any:
    from datetime import UTC, datetime  # noqa: PLC0415

    with contextlib.suppress(ValueError):
        return float(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        right = "a time such as 2026-01-31T12:00:00Z, or epoch seconds"
        raise _UsageError(f"--starting-position-timestamp must be {right}, not {text!r}") from None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _json_option(name: str, text: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise _UsageError(f"{name} is not JSON: {error}") from None
    return value


@contextlib.contextmanager
def _destination(mapping: EventSourceMapping, arguments: argparse.Namespace) -> Iterator[Destination | None]:
    from streamcore.destinations._open import open_destination  # noqa: PLC0415

    where = mapping.on_failure_destination
    if not where:
        yield None
        return
    # The ARN of a bucket does not say where it is.
    region = arguments.region or (mapping.aws_region if mapping.source_kind in ("kinesis", "dynamodb") else None)
    try:
        destination = open_destination(where, region=region, endpoint_url=arguments.endpoint_url, profile=arguments.profile)
    except OSError as error:
        raise _UsageError(f"--destination-config: {error}") from error
    with contextlib.closing(destination):
        yield destination


def _store(state: str | None) -> CheckpointStore:
    from streamcore.checkpoints.memory import MemoryCheckpointStore  # noqa: PLC0415
    from streamcore.checkpoints.sqlite import SqliteCheckpointStore  # noqa: PLC0415

    if state == _NO_STATE:
        return MemoryCheckpointStore()
    if state is None:
        _DEFAULT_STATE.parent.mkdir(exist_ok=True)
    return SqliteCheckpointStore(state or _DEFAULT_STATE)


if __name__ == "__main__":
    sys.exit(main())
