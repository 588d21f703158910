"""`streamcore policy`: the permissions that a run needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamcore._parameters import destination_config
from streamcore._streams import StreamOption
from streamcore.destinations._open import destination_policy, parse_destination_config
from streamcore.errors import ConfigError
from streamcore.exporters.cloudwatch import policy_statement
from streamcore.functions._names import FunctionName

if TYPE_CHECKING:
    import argparse

__all__ = ["policy"]


def policy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the IAM policy that a run needs: to read the source, invoke the function, send to the destination, publish metrics.

    Raises:
        ConfigError: the source is none, or a file, and there is neither function, destination nor metrics of AWS.
    """
    config = None if arguments.destination_config is None else destination_config(parse_destination_config(arguments.destination_config))
    where = "" if config is None else config["OnFailure"]["Destination"]
    function = None if arguments.function is None else FunctionName.parse(arguments.function)
    invoking = [] if function is None else [function.policy_statement(arguments.region)]
    publishing = [] if arguments.cloudwatch_metrics is None else [policy_statement(arguments.cloudwatch_metrics)]
    others = [*invoking, *destination_policy(where, kms_key_arn=arguments.destination_kms_key_arn), *publishing]
    stream = StreamOption.parse(arguments.source)
    if stream is not None:
        found = stream.policy(region=arguments.region, kms_key_arn=arguments.kms_key_arn)
        return {**found, "Statement": [*found["Statement"], *others]}
    if not others or not arguments.source.startswith("file:"):
        right = "kinesis:NAME, dynamodb:TABLE or the ARN of one; a file needs no permission of AWS"
        raise ConfigError(f"must be {right}; it is {arguments.source!r}", parameter="source")
    return {"Version": "2012-10-17", "Statement": others}
