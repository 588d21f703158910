"""Checks of single parameters of a mapping, with the texts of Lambda's API. `mapping` puts them together."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, cast

from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamcore._streamcore import FilterCriteria

__all__ = ["compiled_filter", "destination_config", "failed", "filter_criteria", "metrics_config", "raise_faults", "require_type"]

_METRICS = ("EventCount", "ErrorCount", "KafkaMetrics")
_PATTERN_CHARACTERS_MAX = 4096
_DESTINATION = re.compile(
    r"|file:.+|arn:aws[a-zA-Z0-9-]*:(sqs|sns):[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]+|arn:aws[a-zA-Z0-9-]*:s3:::[^:/]+", re.DOTALL
)
# What the API takes in this place at all: the `pattern` of DestinationArn in the Lambda API reference.
_DESTINATION_PATTERN = (
    r"$|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+"
    r":((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)"
)
_DESTINATIONS = "give the ARN of a standard SQS queue, of a standard SNS topic or of an S3 bucket, or file:PATH"
_TYPE_NAMES = {bool: "True or False", int: "an integer", str: "a string"}


def destination_config(config: object) -> dict[str, Any] | None:
    """Return the configuration in its one form, or None where it names no destination."""
    name = "destination_config"
    if config is None:
        return None
    members = _members(name, config, {"OnFailure", "OnSuccess"})
    if members.get("OnSuccess"):
        raise ConfigError("OnSuccess configuration is not supported for event source mappings.", parameter=name)
    on_failure = members.get("OnFailure")
    destination = "" if on_failure is None else _members(f"{name}.OnFailure", on_failure, {"Destination"}).get("Destination") or ""
    require_type(name, destination, str)
    if len(destination) > 350:
        path = "destinationConfig.onFailure.destination"
        text = f"Value '{destination}' at '{path}' failed to satisfy constraint: Member must have length less than or equal to 350"
        raise_faults([(name, text)])
    if not _DESTINATION.fullmatch(destination):
        error = _no_destination(name, destination)
        error.add_note(_DESTINATIONS)
        raise error
    return {"OnFailure": {"Destination": destination}} if destination else None


def _no_destination(name: str, destination: str) -> ConfigError:
    """Return Lambda's answer to what is no destination of a stream."""
    if re.fullmatch(_DESTINATION_PATTERN, destination) is None:
        text = (
            f"1 validation error detected: Value '{destination}' at 'destinationConfig.onFailure.destination' "
            f"failed to satisfy constraint: Member must satisfy regular expression pattern: {_DESTINATION_PATTERN}"
        )
        return ConfigError(text, code="ValidationException", parameter=name)
    # A FIFO queue or topic, and what only other invocations take: a function, an event bus, a topic of Kafka.
    return ConfigError(
        f"The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={destination})) is invalid.",
        parameter=name,
    )


def filter_criteria(criteria: object, filters_max: int) -> dict[str, Any] | None:
    """Return the criteria in their one form, or None where they hold no filter."""
    name = "filter_criteria"
    if criteria is None:
        return None
    filters = _members(name, criteria, {"Filters"}).get("Filters") or []
    if not isinstance(filters, (list, tuple)):
        raise ConfigError(f"{name}.Filters must be a list, not {filters!r}", parameter=name)
    if len(filters) > filters_max:
        error = ConfigError(f"{name} has {len(filters)} filters; at most {filters_max} are allowed", parameter=name)
        error.add_note("AWS allows 5, and up to 10 where the quota of an account is raised: filters_max=10")
        raise error
    patterns = [_members(f"{name}.Filters", one, {"Pattern"}).get("Pattern") for one in filters]
    for number, pattern in enumerate(patterns, start=1):
        if not isinstance(pattern, str):
            raise _invalid_pattern(f"filter {number} is {pattern!r}; a pattern is the text of a JSON object")
        if len(pattern) > _PATTERN_CHARACTERS_MAX:
            path = f"filterCriteria.filters.{number}.member.pattern"
            text = f"Value '{pattern}' at '{path}' failed to satisfy constraint: Member must have length less than or equal to 4096"
            raise_faults([(name, text)])
    return {"Filters": [{"Pattern": pattern} for pattern in patterns]} if patterns else None


@functools.lru_cache(maxsize=64)
def compiled_filter(patterns: tuple[str, ...], *, has_data: bool) -> FilterCriteria:
    """Compile the filters of a mapping, once for all its shards. `has_data` says that records have `data`, as those of Kinesis."""
    from streamcore._streamcore import FilterCriteria  # noqa: PLC0415 - mappings without filters need no engine

    try:
        criteria = FilterCriteria(patterns)
    except ConfigError as error:
        raise _invalid_pattern(str(error)) from None
    if has_data and criteria.wants_value_of("data"):
        text = '"data" must be an object in the pattern, as {"data": {"city": ["Oslo"]}}: the data of a record is filtered as JSON'
        raise _invalid_pattern(text)
    return criteria


def _invalid_pattern(why: str) -> ConfigError:
    error = ConfigError("Invalid filter pattern definition.", parameter="filter_criteria")
    error.add_note(why)
    return error


def metrics_config(config: object) -> dict[str, Any] | None:
    """Return the configuration in its one form, or None where it asks for no metric."""
    name = "metrics_config"
    if config is None:
        return None
    metrics = _members(name, config, {"Metrics"}).get("Metrics") or []
    if not isinstance(metrics, (list, tuple)) or any(metric not in _METRICS for metric in metrics):
        text = (
            f"Value '{metrics}' at 'metricsConfig.metrics' failed to satisfy constraint: "
            f"Member must satisfy constraint: [Member must satisfy enum value set: [{', '.join(_METRICS)}], Member must not be null]"
        )
        raise_faults([(name, text)])
    other = [metric for metric in metrics if metric != "EventCount"]
    if other:
        raise ConfigError(f"{', '.join(other)}: not a metric of a stream; a stream has EventCount", parameter=name)
    return {"Metrics": ["EventCount"]} if metrics else None


def _members(name: str, value: object, known: set[str]) -> dict[str, Any]:
    """Return the members of one of AWS's structures; absent and null are the same."""
    parameter = name.split(".", maxsplit=1)[0]
    if not hasattr(value, "items"):
        raise ConfigError(f"{name} must be a dictionary with {' and '.join(sorted(known))}, not {value!r}", parameter=parameter)
    members = {key: member for key, member in cast("Mapping[Any, Any]", value).items() if member is not None}
    for key in members:
        if key not in known:
            raise ConfigError(f"Unknown parameter {key!r} in {name}; known are: {', '.join(sorted(known))}.", parameter=parameter)
    return members


def require_type(name: str, value: object, kind: type) -> None:
    """Refuse a value of another Python type; `True` is no integer."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} must be {_TYPE_NAMES[kind]}, not {value!r}", parameter=name)


def failed(name: str, value: object) -> str:
    """Return how Lambda's text on a value begins."""
    first, *others = name.split("_")
    member = "kmsKeyArn" if name == "kms_key_arn" else first + "".join(part.capitalize() for part in others)
    return f"Value '{value}' at '{member}' failed to satisfy constraint: "


def raise_faults(faults: Sequence[tuple[str, str]]) -> None:
    """Raise one error for all faults, each a parameter and its text; nothing if there are none."""
    if faults:
        count = f"{len(faults)} validation error{'s' if len(faults) > 1 else ''} detected: "
        parameter = faults[0][0] if len(faults) == 1 else None
        raise ConfigError(count + "; ".join(text for _, text in faults), code="ValidationException", parameter=parameter)
