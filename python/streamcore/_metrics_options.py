"""The options of `streamcore run` that are about metrics, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any

from streamcore.errors import ConfigError
from streamcore.exporters.cloudwatch import DEFAULT_NAMESPACE, CloudWatchExporter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from streamcore.mapping import EventSourceMapping
    from streamcore.metrics import WorkerMetrics

__all__ = ["add_cloudwatch", "add_metrics", "exporting", "parse_metrics_config"]


def add_cloudwatch(parser: argparse.ArgumentParser | argparse._ArgumentGroup, text: str) -> None:
    """Add the option that says where in CloudWatch metrics go."""
    parser.add_argument(
        "--cloudwatch-metrics", nargs="?", const=DEFAULT_NAMESPACE, metavar="NAMESPACE", help=f"{text} ({DEFAULT_NAMESPACE})"
    )


def add_metrics(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where metrics go."""
    group = parser.add_argument_group("metrics")
    group.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="serve metrics for Prometheus on this port of this machine; 0 chooses a free one"
    )
    group.add_argument(
        "--metrics-address",
        metavar="ADDRESS",
        help="listen there instead, where nobody is asked who they are; 0.0.0.0 is everywhere (127.0.0.1)",
    )
    add_cloudwatch(
        group, "publish Lambda's metrics to CloudWatch each minute; AWS itself takes no name that begins with AWS/, emulators do"
    )
    group.add_argument("--opentelemetry", action="store_true", help="hand metrics to OpenTelemetry, as opentelemetry-instrument sets it up")


def parse_metrics_config(text: str) -> dict[str, Any]:
    """Read a MetricsConfig as the AWS CLI takes it: `Metrics=EventCount` or the same as JSON.

    Raises:
        ConfigError: it is neither.

    Example:
        >>> parse_metrics_config("Metrics=EventCount") == parse_metrics_config('{"Metrics": ["EventCount"]}')
        True
    """
    if (short := re.fullmatch(r"Metrics=([A-Za-z,]+)", text)) is not None:
        return {"Metrics": short[1].split(",")}
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError:
        right = """Metrics=EventCount or '{"Metrics": ["EventCount"]}'"""
        raise ConfigError(f"must be {right}, not {text!r}", parameter="metrics_config") from None
    return value


@contextlib.contextmanager
def exporting(arguments: argparse.Namespace, mapping: EventSourceMapping, metrics: Callable[[], WorkerMetrics]) -> Iterator[None]:
    """Hand the metrics to whatever the options name, until the block is left.

    Raises:
        ConfigError: an extra is not installed, or an option cannot be right.
    """
    with contextlib.ExitStack() as exporters:
        if arguments.metrics_port is not None:
            from streamcore.exporters.prometheus import PrometheusServer  # noqa: PLC0415 - who exports nothing loads none

            address = arguments.metrics_address or "127.0.0.1"
            server = exporters.enter_context(PrometheusServer(metrics, port=arguments.metrics_port, address=address))
            arguments.say(f"note: metrics are at {server.url}", logging.INFO)
        elif arguments.metrics_address is not None:
            raise ConfigError("needs --metrics-port", parameter="metrics_address")
        if arguments.opentelemetry:
            from streamcore.exporters.opentelemetry import OpenTelemetryExporter  # noqa: PLC0415

            if not exporters.enter_context(OpenTelemetryExporter(metrics)).is_read:
                text = "note: nothing has set OpenTelemetry up, so metrics go nowhere: start the command with opentelemetry-instrument"
                arguments.say(text, logging.WARNING)
        if arguments.cloudwatch_metrics is not None:
            exporters.enter_context(_cloudwatch(arguments, mapping, metrics))
        yield


def _cloudwatch(arguments: argparse.Namespace, mapping: EventSourceMapping, metrics: Callable[[], WorkerMetrics]) -> CloudWatchExporter:
    region = mapping.aws_region if mapping.source_kind in ("kinesis", "dynamodb") else None
    try:
        return CloudWatchExporter(
            metrics,
            namespace=arguments.cloudwatch_metrics,
            region=arguments.region or region,
            endpoint_url=arguments.endpoint_url,
            profile=arguments.profile,
        )
    except ConfigError as error:
        if error.parameter != "namespace":
            raise
        raise ConfigError(str(error), parameter="cloudwatch_metrics") from None
