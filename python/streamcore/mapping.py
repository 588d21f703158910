"""Lambda's parameters of an event source mapping, and the mapping's identity.

`EventSourceMapping` is what a worker, the engine and the local service agree on. Names, defaults, ranges and error texts are those of
Lambda's own API: https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html. Nothing here talks to a service.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
import time
import uuid as uuids
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from streamcore._parameters import (
    compiled_filter,
    destination_config,
    failed,
    filter_criteria,
    metrics_config,
    raise_faults,
    require_type,
)
from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamcore._streamcore import FilterCriteria

__all__ = ["EventSourceMapping", "file_stream_arn", "local_function_arn", "memory_stream_arn"]

_STARTING_POSITIONS = ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON")  # in the order of AWS's error text

# The smallest and the largest value.
_RANGES = {
    "batch_size": (1, 10_000),
    "maximum_batching_window_in_seconds": (0, 300),
    "parallelization_factor": (1, 10),
    "maximum_retry_attempts": (-1, 10_000),
    "maximum_record_age_in_seconds": (-1, 604_800),
    "tumbling_window_in_seconds": (0, 900),
}

# Members of the API that mappings of other sources (SQS, Kafka, MQ, DocumentDB) have and streams do not.
_OTHER_SOURCES = frozenset(
    {
        "AmazonManagedKafkaEventSourceConfig",
        "DocumentDBEventSourceConfig",
        "LoggingConfig",
        "ProvisionedPollerConfig",
        "Queues",
        "ScalingConfig",
        "SelfManagedEventSource",
        "SelfManagedKafkaEventSourceConfig",
        "SourceAccessConfigurations",
        "Topics",
    }
)
# Members of an answer that say how a mapping fares, not what it is; Tags and ResponseMetadata come with boto3's requests and answers.
_IGNORED = frozenset(
    {
        "EventSourceMappingArn",
        "FilterCriteriaError",
        "LastModified",
        "LastProcessingResult",
        "ResponseMetadata",
        "StateTransitionReason",
        "Tags",
    }
)
_FIELDS = {
    "UUID": "uuid",
    "StartingPosition": "starting_position",
    "StartingPositionTimestamp": "starting_position_timestamp",
    "BatchSize": "batch_size",
    "MaximumBatchingWindowInSeconds": "maximum_batching_window_in_seconds",
    "ParallelizationFactor": "parallelization_factor",
    "EventSourceArn": "event_source_arn",
    "FilterCriteria": "filter_criteria",
    "FunctionArn": "function_arn",
    "DestinationConfig": "destination_config",
    "MaximumRecordAgeInSeconds": "maximum_record_age_in_seconds",
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error",
    "MaximumRetryAttempts": "maximum_retry_attempts",
    "TumblingWindowInSeconds": "tumbling_window_in_seconds",
    "FunctionResponseTypes": "function_response_types",
    "KMSKeyArn": "kms_key_arn",
    "MetricsConfig": "metrics_config",
    "Enabled": "enabled",
}

# A mapping that is configured the same way has the same UUID, so that it finds its checkpoints again. Never change this value.
_NAMESPACE = uuids.UUID("6f6c0f43-6d0a-5c9b-9a0e-2f8f6f1b7c11")

_ARN = re.compile(r"arn:(?P<partition>aws[a-z-]*):(?P<service>[a-z0-9-]+):(?P<region>[a-z0-9-]*):(?P<account>\d{12})?:(?P<resource>.+)")
_SOURCES: dict[str, re.Pattern[str]] = {
    "file": re.compile(r"kinesis:us-east-1:000000000000:stream/file/[a-zA-Z0-9_.-]{1,128}"),
    "memory": re.compile(r"kinesis:us-east-1:000000000000:stream/memory/[a-zA-Z0-9_.-]{1,128}"),
    "kinesis": re.compile(r"kinesis:[a-z0-9-]+:\d{12}:stream/[a-zA-Z0-9_.-]{1,128}(/consumer/[a-zA-Z0-9_.-]{1,128}:\d+)?"),
    "dynamodb": re.compile(r"dynamodb:[a-z0-9-]+:\d{12}:table/[a-zA-Z0-9_.-]{3,255}/stream/[0-9A-Za-z:.-]+"),
}
_FUNCTION_NAME = r"[a-zA-Z0-9_-]{1,140}(:(\$LATEST|[a-zA-Z0-9_-]{1,128}))?"
_FUNCTION_ARN = re.compile(rf"arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{{12}}:function:{_FUNCTION_NAME}")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")
_KMS_KEY_ARN = re.compile(r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()")


def file_stream_arn(name: str) -> str:
    """Return the ARN that stands for a file in events: `arn:aws:kinesis:us-east-1:000000000000:stream/file/NAME`.

    Events of a file look like Kinesis events. No Kinesis stream can have this ARN: a stream's name holds no slash, and the account is not
    a real one. Characters that a stream's name cannot hold become `-`; at most 128 are kept.

    Example:
        >>> file_stream_arn("flights.csv.gz")
        'arn:aws:kinesis:us-east-1:000000000000:stream/file/flights.csv.gz'
    """
    return _local_stream_arn("file", name)


def memory_stream_arn(name: str) -> str:
    """Return the ARN that stands for a stream in memory: `arn:aws:kinesis:us-east-1:000000000000:stream/memory/NAME`.

    See `file_stream_arn`.

    Example:
        >>> memory_stream_arn("orders")
        'arn:aws:kinesis:us-east-1:000000000000:stream/memory/orders'
    """
    return _local_stream_arn("memory", name)


def local_function_arn(name: str) -> str:
    """Return the ARN that stands for a local Python function: `arn:aws:lambda:us-east-1:000000000000:function:NAME`.

    Characters that a function's name cannot hold become `-`; at most 64 are kept.

    Example:
        >>> local_function_arn("handler")
        'arn:aws:lambda:us-east-1:000000000000:function:handler'
    """
    return "arn:aws:lambda:us-east-1:000000000000:function:" + (re.sub(r"[^a-zA-Z0-9_-]", "-", name)[:64] or "-")


def _local_stream_arn(kind: str, name: str) -> str:
    return f"arn:aws:kinesis:us-east-1:000000000000:stream/{kind}/" + (re.sub(r"[^a-zA-Z0-9_.-]", "-", name)[:128] or "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSourceMapping:
    """What connects one stream to one function: Lambda's parameters in snake case, and the mapping's identity.

    Defaults and ranges are Lambda's. `dataclasses.replace` makes a changed copy and keeps the UUID, as an update on AWS does.

    Attributes:
        event_source_arn: the stream: a Kinesis stream or one of its consumers, a DynamoDB stream, or the ARN that `file_stream_arn` or
            `memory_stream_arn` gives. Region and account of the events follow from it. By default `memory_stream_arn("stream")`.
        function_arn: the function, with its qualifier if it has one. `local_function_arn` names a Python function. By default
            `local_function_arn("function")`. Mappings that share a checkpoint store need ARNs of their own, or a `uuid` each.
        starting_position: where a shard without a checkpoint begins: TRIM_HORIZON, LATEST or AT_TIMESTAMP (not with DynamoDB).
        starting_position_timestamp: goes with AT_TIMESTAMP: a datetime with a time zone, or seconds since the epoch. Not in the future.
        batch_size: most records of one batch, 1 to 10,000.
        maximum_batching_window_in_seconds: how long a batch may wait for more records, 0 to 300.
        parallelization_factor: most batches of one shard at a time, 1 to 10. Above 1 a local handler runs in several threads.
        maximum_retry_attempts: retries after the first failed attempt, 0 to 10,000, or -1 for no limit.
        maximum_record_age_in_seconds: records older than this are discarded, 60 to 604,800, or -1 for no limit.
        bisect_batch_on_function_error: halve a failed batch instead of retrying it whole.
        tumbling_window_in_seconds: length of a tumbling window, 0 (none) to 900. Needs a parallelization factor of 1.
        function_response_types: empty, or ("ReportBatchItemFailures",).
        destination_config: `{"OnFailure": {"Destination": WHERE}}`: the ARN of an SQS queue, an SNS topic or an S3 bucket, or `file:PATH`,
            which only streamcore knows. None for no destination.
        filter_criteria: `{"Filters": [{"Pattern": JSON}, ...]}`, at most 5, or `filters_max`: only records that one of the patterns
            matches reach the function. A pattern has at most 4,096 characters. None for no filter. Not together with a window.
        kms_key_arn: key that encrypts the filter criteria on AWS; kept, not used.
        metrics_config: `{"Metrics": ["EventCount"]}`, or None.
        enabled: whether the mapping runs.
        filters_max: most filters of the mapping: 5, or up to 10 where AWS has raised the quota of the account. No part of the mapping on
            AWS, and not compared.
        uuid: names the mapping. By default made from event source ARN and function ARN, so that the same mapping finds its checkpoints
            again in the next run.
        execution_role_arn: the role that events name in `invokeIdentityArn`; by default role `streamcore` in the function's account.

    Raises:
        ConfigError: a value is not allowed. `code` and text are those of Lambda's API where AWS has one.

    Example:
        >>> mapping = EventSourceMapping(
        ...     event_source_arn=memory_stream_arn("orders"),
        ...     function_arn=local_function_arn("handler"),
        ...     starting_position="TRIM_HORIZON",
        ...     batch_size=500,
        ... )
        >>> mapping.source_kind, mapping.aws_region
        ('memory', 'us-east-1')
    """

    event_source_arn: str = "arn:aws:kinesis:us-east-1:000000000000:stream/memory/stream"
    function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:function"
    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
    starting_position_timestamp: datetime | float | None = None
    batch_size: int = 100
    maximum_batching_window_in_seconds: int = 0
    parallelization_factor: int = 1
    maximum_retry_attempts: int = -1
    maximum_record_age_in_seconds: int = -1
    bisect_batch_on_function_error: bool = False
    tumbling_window_in_seconds: int = 0
    function_response_types: tuple[str, ...] = ()
    # Dictionaries in AWS's shape, copied at construction. They take part in comparison, not in the hash.
    destination_config: Mapping[str, Any] | None = field(default=None, hash=False)
    filter_criteria: Mapping[str, Any] | None = field(default=None, hash=False)
    kms_key_arn: str = ""
    metrics_config: Mapping[str, Any] | None = field(default=None, hash=False)
    enabled: bool = True
    filters_max: int = field(default=5, compare=False)
    uuid: str = ""
    execution_role_arn: str = ""

    def __post_init__(self) -> None:
        """Check every value, in the order in which Lambda does: the shape of each, then what a stream allows, then what goes together."""
        self._check_types()
        self._check_model()
        self._check_source()
        self._check_combinations()
        self._check_filters_max()
        self._set(destination_config=destination_config(self.destination_config))
        self._set(
            filter_criteria=filter_criteria(self.filter_criteria, self.filters_max), metrics_config=metrics_config(self.metrics_config)
        )
        _ = self.compiled_filter
        if self.tumbling_window_in_seconds and self.filter_criteria:
            raise ConfigError("Filter criteria are not supported when tumbling window period is configured")
        self._check_identity()

    @classmethod
    def from_aws(cls, config: Mapping[str, Any], *, execution_role_arn: str = "", filters_max: int = 5) -> EventSourceMapping:
        """Read a mapping from what AWS's API takes or gives.

        Args:
            config: a request of CreateEventSourceMapping or an answer of GetEventSourceMapping, as boto3 or the AWS CLI have it. Of an
                answer, `State` tells whether the mapping is enabled; members on how it fares are ignored, and so are `Tags`. A
                `FunctionName` that is no full ARN gets region and account of the stream.
            execution_role_arn: see the class; the API does not tell it.
            filters_max: see the class.

        Raises:
            ConfigError: a value is not allowed, a member is unknown or belongs to another kind of source.

        Example:
            >>> mapping = EventSourceMapping.from_aws({
            ...     "EventSourceArn": "arn:aws:kinesis:us-east-2:123456789012:stream/orders",
            ...     "FunctionName": "billing:live",
            ...     "StartingPosition": "LATEST",
            ... })
            >>> mapping.function_arn
            'arn:aws:lambda:us-east-2:123456789012:function:billing:live'
        """
        members = {name: value for name, value in config.items() if value is not None}
        values: dict[str, Any] = {"event_source_arn": None, "function_arn": None, "starting_position": None}
        for name, value in members.items():
            if name in _FIELDS:
                values[_FIELDS[name]] = value
            elif name in _OTHER_SOURCES:
                raise ConfigError(f"Unsupported {name} parameter for given event source mapping type.", parameter=_snake(name))
            elif name not in _IGNORED and name not in ("FunctionName", "State"):
                known = [*_FIELDS, "FunctionName"]
                raise ConfigError(f"Unknown parameter {name!r}.{_near(name, known)} Known are: {', '.join(known)}.", parameter=_snake(name))
        if "FunctionName" in members:
            arn = _function_arn(members["FunctionName"], values["event_source_arn"])
            if values["function_arn"] not in (None, arn):
                raise ConfigError(f"FunctionName {arn} and FunctionArn {values['function_arn']} differ", parameter="function_name")
            values["function_arn"] = arn
        if "State" in members and "Enabled" not in members:
            values["enabled"] = members["State"] not in ("Disabled", "Disabling")
        timestamp = values.get("starting_position_timestamp")
        if isinstance(timestamp, str):
            values["starting_position_timestamp"] = _parsed_timestamp(timestamp)
        return cls(**values, execution_role_arn=execution_role_arn, filters_max=filters_max)

    def to_aws(self) -> dict[str, Any]:
        """Return the members of GetEventSourceMapping's answer that say what the mapping is, in the order in which AWS sends them.

        `State` is Enabled or Disabled. `LastModified`, `LastProcessingResult` and `StateTransitionReason` are for a service to add.
        `EventSourceMapping.from_aws` reads it back, except for the execution role.
        """
        timestamp = self.starting_position_timestamp_ms
        answer: dict[str, Any] = {"UUID": self.uuid, "StartingPosition": self.starting_position}
        if timestamp is not None:
            answer["StartingPositionTimestamp"] = timestamp / 1000
        answer |= {
            "BatchSize": self.batch_size,
            "MaximumBatchingWindowInSeconds": self.maximum_batching_window_in_seconds,
            "ParallelizationFactor": self.parallelization_factor,
            "EventSourceArn": self.event_source_arn,
        }
        if self.filter_criteria is not None:
            answer["FilterCriteria"] = copy.deepcopy(self.filter_criteria)
        answer |= {
            "FunctionArn": self.function_arn,
            "State": "Enabled" if self.enabled else "Disabled",
            "DestinationConfig": {"OnFailure": {"Destination": self.on_failure_destination} if self.on_failure_destination else {}},
            "MaximumRecordAgeInSeconds": self.maximum_record_age_in_seconds,
            "BisectBatchOnFunctionError": self.bisect_batch_on_function_error,
            "MaximumRetryAttempts": self.maximum_retry_attempts,
            "TumblingWindowInSeconds": self.tumbling_window_in_seconds,
            "FunctionResponseTypes": list(self.function_response_types),
        }
        if self.kms_key_arn:
            answer["KMSKeyArn"] = self.kms_key_arn
        answer["EventSourceMappingArn"] = self.event_source_mapping_arn
        if self.metrics_config is not None:
            answer["MetricsConfig"] = copy.deepcopy(self.metrics_config)
        return answer

    @property
    def compiled_filter(self) -> FilterCriteria | None:
        """The filters, compiled once for all shards; None without any."""
        if self.filter_criteria is None:
            return None
        patterns = tuple(one["Pattern"] for one in self.filter_criteria["Filters"])
        return compiled_filter(patterns, has_data=self.source_kind != "dynamodb")

    @property
    def source_kind(self) -> Literal["kinesis", "dynamodb", "file", "memory"]:
        """What kind of stream the event source ARN names."""
        kind = _source_kind(self.event_source_arn)
        return cast("Literal['kinesis', 'dynamodb', 'file', 'memory']", kind)

    @property
    def aws_region(self) -> str:
        """The region of the event source, which events carry as `awsRegion`."""
        return self.event_source_arn.split(":")[3]

    @property
    def account_id(self) -> str:
        """The account of the event source, twelve digits."""
        return self.event_source_arn.split(":")[4]

    @property
    def on_failure_destination(self) -> str | None:
        """Where discards go: an ARN or `file:PATH`; None for nowhere."""
        if self.destination_config is None:
            return None
        destination: str = self.destination_config["OnFailure"]["Destination"]
        return destination

    @property
    def event_source_mapping_arn(self) -> str:
        """The mapping's own ARN, in the function's region and account."""
        partition, region, account = (self.function_arn.split(":")[part] for part in (1, 3, 4))
        return f"arn:{partition}:lambda:{region}:{account}:event-source-mapping:{self.uuid}"

    @property
    def starting_position_timestamp_ms(self) -> int | None:
        """The starting position's time in milliseconds since the Unix epoch; None without one."""
        timestamp = self.starting_position_timestamp
        if timestamp is None:
            return None
        return round((timestamp.timestamp() if isinstance(timestamp, datetime) else timestamp) * 1000)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_types(self) -> None:
        """Refuse values of a wrong Python type; `True` is no integer."""
        for name in _RANGES:
            require_type(name, getattr(self, name), int)
        for name in ("bisect_batch_on_function_error", "enabled"):
            require_type(name, getattr(self, name), bool)
        for name in ("kms_key_arn", "uuid", "execution_role_arn"):
            require_type(name, getattr(self, name), str)
        types: object = self.function_response_types
        if isinstance(types, str) or not hasattr(types, "__iter__"):
            raise ConfigError(f"function_response_types must be a sequence of strings, not {types!r}", parameter="function_response_types")
        self._set(function_response_types=tuple(types))

    def _check_model(self) -> None:
        """Check each value by itself and name every fault at once, as Lambda's API model does."""
        faults: list[tuple[str, str]] = []
        for name, (smallest, largest) in _RANGES.items():
            value = getattr(self, name)
            if value < smallest:
                faults.append((name, f"{failed(name, value)}Member must have value greater than or equal to {smallest}"))
            elif value > largest:
                faults.append((name, f"{failed(name, value)}Member must have value less than or equal to {largest}"))
        position: object = self.starting_position
        if position is not None and position not in _STARTING_POSITIONS:
            text = f"Member must satisfy enum value set: [{', '.join(_STARTING_POSITIONS)}]"
            faults.append(("starting_position", failed("starting_position", position) + text))
        types = self.function_response_types
        shown = failed("function_response_types", f"[{', '.join(map(str, types))}]")
        if any(kind != "ReportBatchItemFailures" for kind in types):
            text = "[Member must satisfy enum value set: [ReportBatchItemFailures], Member must not be null]"
            faults.append(("function_response_types", f"{shown}Member must satisfy constraint: {text}"))
        elif len(types) > 1:
            faults.append(("function_response_types", shown + "Member must have length less than or equal to 1"))
        if not _KMS_KEY_ARN.fullmatch(self.kms_key_arn):
            text = f"Member must satisfy regular expression pattern: {_KMS_KEY_ARN.pattern}"
            faults.append(("kms_key_arn", failed("kms_key_arn", self.kms_key_arn) + text))
        raise_faults(faults)

    def _check_source(self) -> None:
        arn: object = self.event_source_arn
        if not isinstance(arn, str) or not _source_kind(arn):
            error = ConfigError("Unrecognized event source.", parameter="event_source_arn")
            error.add_note(
                f"event_source_arn is {arn!r}; it must be the ARN of a Kinesis stream or consumer, of a DynamoDB stream, "
                "or what file_stream_arn or memory_stream_arn gives"
            )
            raise error
        position: object = self.starting_position
        if position is None:
            text = "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."
            raise ConfigError(text, parameter="starting_position")
        if position == "AT_TIMESTAMP" and self.source_kind == "dynamodb":
            raise ConfigError(f"Unsupported starting position for arn type: {arn}", parameter="starting_position")
        self._check_timestamp()
        if 0 <= self.maximum_record_age_in_seconds < 60:
            text = "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 (inclusive)"
            raise ConfigError(text, parameter="maximum_record_age_in_seconds")

    def _check_timestamp(self) -> None:
        name = "starting_position_timestamp"
        timestamp: object = self.starting_position_timestamp
        if timestamp is None:
            if self.starting_position == "AT_TIMESTAMP":
                raise ConfigError("StartingPositionTimestamp is required with StartingPosition AT_TIMESTAMP", parameter=name)
            return
        if isinstance(timestamp, datetime):
            if timestamp.tzinfo is None:
                raise ConfigError(f"{name} {timestamp} has no time zone; give one, for example datetime.timezone.utc", parameter=name)
        elif isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)) or not math.isfinite(timestamp) or timestamp < 0:
            raise ConfigError(f"{name} must be a datetime or seconds since the Unix epoch, not {timestamp!r}", parameter=name)
        if self.starting_position != "AT_TIMESTAMP":
            raise ConfigError("Timestamp only valid with StartingPosition AT_TIMESTAMP", parameter=name)
        if cast("int", self.starting_position_timestamp_ms) > time.time() * 1000:
            raise ConfigError(f"StartingPositionTimestamp {timestamp} is in the future", parameter=name)

    def _check_filters_max(self) -> None:
        require_type("filters_max", self.filters_max, int)
        if not 5 <= self.filters_max <= 10:
            raise ConfigError(f"filters_max must be 5 to 10, not {self.filters_max}", parameter="filters_max")

    def _check_combinations(self) -> None:
        if self.parallelization_factor > 1 and self.tumbling_window_in_seconds:
            raise ConfigError("Parallelization factor must be equal to 1 when tumbling window period is configured")

    def _check_identity(self) -> None:
        function_arn: object = self.function_arn
        if not isinstance(function_arn, str) or not _FUNCTION_ARN.fullmatch(function_arn):
            text = (
                "function_arn must be the ARN of a function, arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER], "
                f"not {function_arn!r}; for a Python function use local_function_arn(name)"
            )
            raise ConfigError(text, parameter="function_arn")
        if not self.uuid:
            self._set(uuid=str(uuids.uuid5(_NAMESPACE, f"{self.event_source_arn}\n{function_arn}")))
        elif not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", self.uuid):
            raise ConfigError(f"uuid must be 32 hexadecimal digits as 8-4-4-4-12, not {self.uuid!r}", parameter="uuid")
        if not self.execution_role_arn:
            partition, account = (function_arn.split(":")[part] for part in (1, 4))
            self._set(execution_role_arn=f"arn:{partition}:iam::{account}:role/streamcore")
        elif not _ROLE_ARN.fullmatch(self.execution_role_arn):
            text = f"execution_role_arn must be the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME, not {self.execution_role_arn!r}"
            raise ConfigError(text, parameter="execution_role_arn")


def _source_kind(arn: str) -> str | None:
    parts = _ARN.fullmatch(arn)
    rest = arn.split(":", 2)[-1]
    return next((kind for kind, pattern in _SOURCES.items() if pattern.fullmatch(rest)), None) if parts else None


def _function_arn(name: object, event_source_arn: object) -> object:
    """Make a full ARN of a function's name, partial ARN or ARN; what is none of them is left for the constructor to refuse."""
    source = _ARN.fullmatch(event_source_arn) if isinstance(event_source_arn, str) else None
    if not isinstance(name, str) or source is None:
        return name
    if re.fullmatch(_FUNCTION_NAME, name):
        return f"arn:{source['partition']}:lambda:{source['region']}:{source['account']}:function:{name}"
    if re.fullmatch(rf"\d{{12}}:function:{_FUNCTION_NAME}", name):
        return f"arn:{source['partition']}:lambda:{source['region']}:{name}"
    return name


def _parsed_timestamp(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        example = datetime(2024, 1, 31, tzinfo=UTC).isoformat()
        message = f"starting_position_timestamp {text!r} is no time; write it as {example}"
        raise ConfigError(message, parameter="starting_position_timestamp") from None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
