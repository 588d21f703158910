"""`streamcore redrive`: its options, and what it says."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from streamcore._options import add_aws, add_calling, add_failing, add_output
from streamcore.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from streamcore._console import Console
    from streamcore._streamcore import Batch
    from streamcore.protocols import Answer, Function, Source
    from streamcore.redrive import LeftMessage, RedriveSummary

__all__ = ["Stoppable", "add", "run"]

_HELP = """\
Runs TARGET over the records of batches that were discarded: reads the invocation records that an on-failure destination was sent, reads the
records that they name from their stream before they expire, in the order of each shard, and calls TARGET with them. Each message is run by
itself, and deleted when all of its records have succeeded; one that fails stays where it is, and the next one is run.

  WHERE   a file with one invocation record on a line, as OnFailure={Destination=file:PATH} writes it. The file stays as it is; what has
          been redriven is noted beside it, in WHERE.redriven.
          an SQS queue, by its ARN or URL: a destination itself, or subscribed to the SNS topic that is one. Nobody else sees its messages
          meanwhile, and what is left is visible again at the end.
          s3://BUCKET/PREFIX, where each object holds its records: no stream is read.
  TARGET  as for `streamcore run`.
"""
_EPILOG = """\
Where ParallelizationFactor was above 1 or records were filtered out, a stream has other records too between the first and the last of a
batch; they run again as well. Delivery is at least once.

exit status: 0 everything was redriven, 1 messages are left (each is listed with the reason) or the redrive failed, 2 wrong usage,
130 stopped by Ctrl-C. Run the same command again to go on.

examples:
  streamcore redrive --from arn:aws:sqs:eu-west-1:123456789012:discards --print
  streamcore redrive --from arn:aws:sqs:eu-west-1:123456789012:discards --function handlers.py:handle
  streamcore redrive --from discards.ndjson --source 'file:flights.csv.gz?key=carrier&time=time_hour' --function handlers.py:handle
"""


class Stoppable(Protocol):
    """What can be asked to stop."""

    def stop(self) -> None:
        """Let what runs come to an end, and begin nothing more."""


def add(commands: argparse._SubParsersAction[Any], command: Callable[[argparse.Namespace], int]) -> None:
    """Add the command's parser."""
    redrive = commands.add_parser(
        "redrive",
        allow_abbrev=False,
        help="run a function over what was discarded",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    redrive.set_defaults(command=command)
    redrive.add_argument("--from", required=True, metavar="WHERE", help="the invocation records")
    redrive.add_argument("--function", metavar="TARGET", help="what to call")
    redrive.add_argument(
        "--print", action="store_true", help="only show the records, an event on a line; nothing is called and nothing deleted"
    )
    redrive.add_argument(
        "--source",
        metavar="SOURCE",
        help="the stream to read from, as `streamcore run` takes it; by default the one that each message names",
    )
    redrive.add_argument("--delete-expired", action="store_true", help="delete messages, too, whose records the stream no longer has")

    redrive.add_argument(
        "--visibility-timeout",
        type=int,
        default=300,
        metavar="S",
        help="how long a crash leaves messages of a queue hidden, 3 to 43200 seconds (300)",
    )

    add_aws(redrive)

    lambda_ = redrive.add_argument_group("invoking", "named and meant as for `streamcore run`")
    lambda_.add_argument("--batch-size", type=int, metavar="N", help="most records of a batch (as many as the largest that was discarded)")
    lambda_.add_argument("--parallelization-factor", type=int, default=1, metavar="N", help="most batches of a message at a time (1)")
    lambda_.add_argument("--maximum-retry-attempts", type=int, default=0, metavar="N", help="before a message counts as failed (0)")
    add_failing(lambda_)
    add_calling(lambda_)
    add_output(redrive)


def run(
    arguments: argparse.Namespace,
    console: Console,
    write: Callable[[str], object],
    say: Callable[[str], object],
    terminates: Callable[[Stoppable], AbstractContextManager[None]],
) -> int:
    """Redrive and return the exit status.

    Args:
        arguments: what was said on the command line.
        console: shows the progress.
        write: writes the result to standard output.
        say: writes to standard error.
        terminates: has SIGTERM stop what it is given.
    """
    from streamcore._redrive_aws import open_messages  # noqa: PLC0415  (`streamcore --help` does without the engine)
    from streamcore.mapping import EventSourceMapping  # noqa: PLC0415
    from streamcore.redrive import MappingOptions, Redrive, Streams  # noqa: PLC0415

    shows = arguments.print
    if shows and arguments.json:
        raise ConfigError("--print writes events to standard output, and --json nothing but the summary: give one of them")
    options = MappingOptions(
        arguments.batch_size,
        arguments.parallelization_factor,
        arguments.maximum_retry_attempts,
        arguments.bisect_batch_on_function_error,
        tuple(arguments.function_response_types),
    )
    options.mapping(EventSourceMapping(starting_position="TRIM_HORIZON").event_source_arn, 1)  # a wrong option is told of at once
    with contextlib.ExitStack() as stack:
        function = stack.enter_context(contextlib.closing(_Printer(write) if shows else _function(arguments)))
        source = _source(arguments)
        if source is not None:
            stack.enter_context(contextlib.closing(source))
        aws = {"endpoint_url": arguments.endpoint_url, "profile": arguments.profile}
        timeout_s = arguments.visibility_timeout
        where = getattr(arguments, "from")
        messages = open_messages(where, region=arguments.region, shows=shows, visibility_timeout_s=timeout_s, **aws)
        stack.enter_context(contextlib.closing(messages))
        streams = stack.enter_context(contextlib.closing(Streams(source, **aws)))
        redrive = Redrive(
            messages,
            function,
            open_stream=streams.open,
            mapping=options.mapping,
            delete=not shows,
            delete_expired=arguments.delete_expired,
        )
        with terminates(redrive), console.progress(redrive.stats, terminal=not shows):
            summary = redrive.run()
    return _report(arguments, summary, write, say)


def _function(arguments: argparse.Namespace) -> Function:
    from streamcore.functions._open import open_function  # noqa: PLC0415

    if arguments.function is None:
        raise ConfigError("say what to call with --function TARGET, or only show the records with --print")
    return open_function(
        arguments.function,
        timeout_ms=None if arguments.timeout is None else round(arguments.timeout * 1000),
        processes=arguments.processes,
        region=arguments.region,
        endpoint_url=arguments.function_endpoint_url or arguments.endpoint_url,
        profile=arguments.profile,
    )


def _source(arguments: argparse.Namespace) -> Source | None:
    from streamcore.sources._open import open_source  # noqa: PLC0415

    if arguments.source is None:
        return None
    try:
        return open_source(arguments.source, region=arguments.region, endpoint_url=arguments.endpoint_url, profile=arguments.profile)
    except SourceError as error:
        raise ConfigError(str(error), parameter="source") from error


class _Printer:
    """A function that shows each event and succeeds."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._lock = threading.Lock()

    def invoke(self, batch: Batch) -> Answer:
        """Write the event as one line of JSON."""
        from streamcore.protocols import Answer  # noqa: PLC0415

        line = batch.json().decode()
        with self._lock:
            self._write(line)
        return Answer("success")

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _report(arguments: argparse.Namespace, summary: RedriveSummary, write: Callable[[str], object], say: Callable[[str], object]) -> int:
    """Write what came of it, and say what the exit status is."""
    if arguments.json:
        write(json.dumps({**dataclasses.asdict(summary), "complete": summary.complete}))
    else:
        text = "\n".join([*map(_left_text, summary.left), _summary_text(summary, shows=arguments.print)])
        if arguments.print:
            sys.stderr.write(text + "\n")
        else:
            write(text)
    if summary.reason == "interrupted":
        return 130
    if summary.reason == "stopped":
        say("the redrive was stopped before its end")
        return 1
    if not summary.complete:
        count = sum(not message.deleted for message in summary.left)
        say(f"{count} of {summary.messages} messages {'could not be shown as a whole' if arguments.print else 'are left'}")
        return 1
    return 0


def _left_text(left: LeftMessage) -> str:
    where = "" if left.shard_id is None else f" ({left.shard_id}, {left.first_sequence_number} to {left.last_sequence_number})"
    return f"{left.outcome.replace('_', ' ')}: {left.message}{where}: {left.detail}{'; deleted' if left.deleted else ''}"


def _summary_text(summary: RedriveSummary, *, shows: bool) -> str:
    left = dict.fromkeys(("failed", "expired", "unreadable", "not_run", "not_deleted"), 0)
    for message in summary.left:
        left[message.outcome] += 1
    lines = [
        ("messages", f"{summary.messages:,}"),
        ("  shown" if shows else "  redriven", f"{summary.redriven:,}"),
        *((f"  {outcome.replace('_', ' ')}", f"{count:,}" if count else "") for outcome, count in left.items()),
        ("records", f"{summary.records:,}"),
        ("  succeeded", "" if shows else f"{summary.succeeded:,}"),
        ("  failed", f"{summary.failed_records:,}" if summary.failed_records else ""),
        ("invocations", "" if shows else f"{summary.invocations:,}"),
        ("  failed", f"{summary.failed_invocations:,}" if summary.failed_invocations else ""),
        ("  retries", f"{summary.retries:,}" if summary.retries else ""),
        ("  throttled", f"{summary.throttles:,}" if summary.throttles else ""),
        ("elapsed", f"{summary.elapsed_seconds:.2f} s"),
        ("ended", summary.reason if summary.reason != "ended" else ""),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in lines if value)
