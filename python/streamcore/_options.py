"""What options of several commands have in common."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # What argparse gives a group of options; it has no public name.
    from argparse import _ArgumentGroup as Group

__all__ = ["add_aws", "add_calling", "add_failing", "add_logging", "add_output", "add_threads", "seconds"]


def seconds(text: str) -> float:
    """Read a number of seconds; which ones are right, whoever takes them says.

    Raises:
        ArgumentTypeError: it is no number, or not finite.

    Example:
        >>> seconds("0.5")
        0.5
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    return value


def add_aws(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where AWS is and who calls it."""
    aws = parser.add_argument_group("AWS", "named and meant as in the AWS CLI")
    aws.add_argument("--endpoint-url", metavar="URL", help="another server than AWS's own, such as http://127.0.0.1:4566")
    aws.add_argument("--function-endpoint-url", metavar="URL", help="the function's server, where it is another one")
    aws.add_argument("--region", metavar="REGION", help="where stream, function, queue and bucket are; an ARN says it already")
    aws.add_argument("--profile", metavar="NAME", help="a profile of the shared configuration files")


def add_failing(group: Group) -> None:
    """Add the options of a mapping that say what a failed batch means."""
    group.add_argument(
        "--bisect-batch-on-function-error", action=argparse.BooleanOptionalAction, default=False, help="halve failing batches (no)"
    )
    group.add_argument(
        "--function-response-types", nargs="*", default=[], metavar="TYPE", help="ReportBatchItemFailures: the function names what failed"
    )


def add_calling(group: Group) -> None:
    """Add the options that say how the function is called."""
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="the function's timeout (3, or what Lambda says of it); in this process a longer call is logged, not cut off",
    )
    group.add_argument("--processes", type=int, metavar="N", help="call TARGET in so many processes at most, not in this one")


def add_threads(group: Group) -> None:
    """Add the option that says how many threads call functions."""
    group.add_argument(
        "--invocation-threads",
        type=int,
        metavar="N",
        help="most threads that call the function, also one in processes, 1 to 1000 (one for each shard and unit of ParallelizationFactor, "
        "at most 32)",
    )


def add_output(group: Group | argparse.ArgumentParser) -> None:
    """Add the options that say what is written."""
    group.add_argument("--json", action="store_true", help="write the summary as one JSON object, and nothing else, to standard output")
    add_logging(group)


def add_logging(group: Group | argparse.ArgumentParser) -> None:
    """Add the options that say what is written to standard error."""
    group.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="warning", help="(warning)")
    group.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="what standard error holds: text, or one JSON object a line, whoever writes it (text)",
    )
