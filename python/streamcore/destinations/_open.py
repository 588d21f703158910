"""Destinations as `--destination-config` names them: how they are opened, and what sending to them needs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from streamcore.protocols import Destination

__all__ = ["destination_policy", "open_destination", "parse_destination_config"]

_SHORTHAND = re.compile(r"(?P<kind>\w+)=\{\s*Destination=(?P<where>[^{}]*)\}")

# The parts of S3's keys that do not depend on the discard.
_OBJECTS = "aws/lambda/*"
# Encrypting needs a data key; a message is encrypted for a queue or topic that must be able to use its key again.
_KEY_ACTIONS = {
    "sqs": ["kms:GenerateDataKey", "kms:Decrypt"],
    "sns": ["kms:GenerateDataKey", "kms:Decrypt"],
    "s3": ["kms:GenerateDataKey"],
}


def parse_destination_config(text: str) -> dict[str, Any]:
    """Read a destination configuration as the AWS CLI takes it: as JSON, or in shorthand.

    Raises:
        ConfigError: it is neither.

    Example:
        >>> parse_destination_config("OnFailure={Destination=file:discards.ndjson}")
        {'OnFailure': {'Destination': 'file:discards.ndjson'}}
    """
    if text.lstrip().startswith("{"):
        try:
            config: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"not JSON: {error}", parameter="destination_config") from None
        return config
    match = _SHORTHAND.fullmatch(text.strip())
    if match is None:
        right = "OnFailure={Destination=WHERE} or the same as JSON"
        raise ConfigError(f"must be {right}, not {text!r}", parameter="destination_config")
    return {match["kind"]: {"Destination": match["where"].strip().strip("\"'")}}


def open_destination(where: str, *, region: str | None = None, endpoint_url: str | None = None, profile: str | None = None) -> Destination:
    """Return the destination that `where` names: `file:PATH`, or the ARN of a standard SQS queue, a standard SNS topic or an S3 bucket.

    Args:
        where: what a mapping's `on_failure_destination` says.
        region: where a bucket is; the ARN of a queue or topic says it.
        endpoint_url: another server than AWS's own.
        profile: a profile of the shared configuration files.

    Raises:
        ConfigError: it is none of these, the queue, topic or bucket does not exist, or see `SqsDestination`.
        OSError: the file cannot be opened for writing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     destination = open_destination(f"file:{folder}/discards.ndjson")
        >>> type(destination).__name__
        'FileDestination'
    """
    if where.startswith("file:"):
        from streamcore.destinations.file import FileDestination  # noqa: PLC0415  (only the kind that is used is loaded)

        return FileDestination(where.removeprefix("file:"))
    from streamcore.destinations.aws import S3Destination, SnsDestination, SqsDestination  # noqa: PLC0415

    kinds: dict[str, type[SqsDestination | SnsDestination | S3Destination]] = {
        "sqs": SqsDestination,
        "sns": SnsDestination,
        "s3": S3Destination,
    }
    kind = kinds.get(_service(where))
    if kind is None:
        text = f"{where!r} is no destination; give file:PATH, or the ARN of a standard SQS queue, a standard SNS topic or an S3 bucket"
        raise ConfigError(text, parameter="destination_config")
    destination = kind(where, region=region, endpoint_url=endpoint_url, profile=profile)
    try:
        destination.check()
    except BaseException:
        destination.close()
        raise
    return destination


def destination_policy(where: str, *, kms_key_arn: str | None = None) -> list[dict[str, Any]]:
    """Return the statements of an IAM policy that sending to a destination needs ("Lambda developer guide", Retain discarded records).

    Args:
        where: see `open_destination`. A file needs none.
        kms_key_arn: the customer managed key that the queue, topic or bucket is encrypted with.

    Example:
        >>> [statement["Action"] for statement in destination_policy("arn:aws:s3:::discards")]
        [['s3:PutObject'], ['s3:ListBucket']]
    """
    service = _service(where)
    if service == "s3":
        found = [(["s3:PutObject"], f"{where}/{_OBJECTS}"), (["s3:ListBucket"], where)]
    elif service in _KEY_ACTIONS:
        found = [(["sqs:SendMessage"] if service == "sqs" else ["sns:Publish"], where)]
    else:
        return []
    if kms_key_arn is not None:
        found.append((_KEY_ACTIONS[service], kms_key_arn))
    return [{"Effect": "Allow", "Action": actions, "Resource": resource} for actions, resource in found]


def _service(where: str) -> str:
    parts = where.split(":", 3)
    return parts[2] if len(parts) > 3 and parts[0] == "arn" else ""
