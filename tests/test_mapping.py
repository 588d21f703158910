"""EventSourceMapping: Lambda's defaults, ranges and error texts, and the mapping's identity."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore.errors import ConfigError
from streamcore.mapping import EventSourceMapping, file_stream_arn, local_function_arn, memory_stream_arn

KINESIS = "arn:aws:kinesis:us-east-2:123456789012:stream/orders"
CONSUMER = "arn:aws:kinesis:us-east-2:123456789012:stream/orders/consumer/lambda:1700000000"
DYNAMODB = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2024-06-11T00:00:00.000"
FUNCTION = "arn:aws:lambda:us-east-2:123456789012:function:billing:live"
QUEUE = "arn:aws:sqs:us-east-2:123456789012:failed"


def mapping(**values: Any) -> EventSourceMapping:
    return EventSourceMapping(**{"event_source_arn": KINESIS, "function_arn": FUNCTION, "starting_position": "TRIM_HORIZON"} | values)


def refusal(**values: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        mapping(**values)
    return caught.value


def test_the_defaults_are_lambdas() -> None:
    assert mapping().to_aws() == {
        "UUID": mapping().uuid,
        "StartingPosition": "TRIM_HORIZON",
        "BatchSize": 100,
        "MaximumBatchingWindowInSeconds": 0,
        "ParallelizationFactor": 1,
        "EventSourceArn": KINESIS,
        "FunctionArn": FUNCTION,
        "State": "Enabled",
        "DestinationConfig": {"OnFailure": {}},
        "MaximumRecordAgeInSeconds": -1,
        "BisectBatchOnFunctionError": False,
        "MaximumRetryAttempts": -1,
        "TumblingWindowInSeconds": 0,
        "FunctionResponseTypes": [],
        "EventSourceMappingArn": f"arn:aws:lambda:us-east-2:123456789012:event-source-mapping:{mapping().uuid}",
    }


MODEL = "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: "
MEMBERS = {
    "batch_size": ("batchSize", 1, 10_000),
    "maximum_batching_window_in_seconds": ("maximumBatchingWindowInSeconds", 0, 300),
    "parallelization_factor": ("parallelizationFactor", 1, 10),
    "maximum_retry_attempts": ("maximumRetryAttempts", -1, 10_000),
    "maximum_record_age_in_seconds": ("maximumRecordAgeInSeconds", -1, 604_800),
    "tumbling_window_in_seconds": ("tumblingWindowInSeconds", 0, 900),
}


@pytest.mark.parametrize("parameter", MEMBERS)
def test_a_number_beyond_its_range_is_refused_with_lambdas_text(parameter: str) -> None:
    member, smallest, largest = MEMBERS[parameter]
    for value, text in [
        (smallest - 1, f"Member must have value greater than or equal to {smallest}"),
        (largest + 1, f"Member must have value less than or equal to {largest}"),
    ]:
        error = refusal(**{parameter: value})
        assert str(error) == MODEL.format(value=value, member=member) + text
        assert (error.code, error.parameter) == ("ValidationException", parameter)


@pytest.mark.parametrize("parameter", MEMBERS)
def test_the_ends_of_a_range_are_allowed(parameter: str) -> None:
    for value in MEMBERS[parameter][1:]:
        assert getattr(mapping(**{parameter: value}), parameter) == value


@pytest.mark.parametrize("parameter", MEMBERS)
@pytest.mark.parametrize("value", ["100", 1.0, True, None, [1]])
def test_a_number_must_be_an_integer_and_true_is_none(parameter: str, value: object) -> None:
    error = refusal(**{parameter: value})
    assert str(error) == f"{parameter} must be an integer, not {value!r}"
    assert error.parameter == parameter


@pytest.mark.parametrize("parameter", ["bisect_batch_on_function_error", "enabled"])
def test_a_switch_must_be_true_or_false(parameter: str) -> None:
    assert str(refusal(**{parameter: 1})) == f"{parameter} must be True or False, not 1"


def test_several_faults_are_named_at_once() -> None:
    error = refusal(batch_size=0, parallelization_factor=11)
    assert str(error) == (
        "2 validation errors detected: "
        "Value '0' at 'batchSize' failed to satisfy constraint: Member must have value greater than or equal to 1; "
        "Value '11' at 'parallelizationFactor' failed to satisfy constraint: Member must have value less than or equal to 10"
    )
    assert (error.code, error.parameter) == ("ValidationException", None)


@pytest.mark.parametrize(
    ("values", "code", "parameter", "text"),
    [
        pytest.param(
            {"starting_position": None},
            "InvalidParameterValueException",
            "starting_position",
            "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null.",
            id="no starting position",
        ),
        pytest.param(
            {"starting_position": "BOGUS"},
            "ValidationException",
            "starting_position",
            "1 validation error detected: Value 'BOGUS' at 'startingPosition' failed to satisfy constraint: "
            "Member must satisfy enum value set: [LATEST, AT_TIMESTAMP, TRIM_HORIZON]",
            id="unknown starting position",
        ),
        pytest.param(
            {"event_source_arn": DYNAMODB, "starting_position": "AT_TIMESTAMP", "starting_position_timestamp": 1.0},
            "InvalidParameterValueException",
            "starting_position",
            f"Unsupported starting position for arn type: {DYNAMODB}",
            id="DynamoDB at a timestamp",
        ),
        pytest.param(
            {"starting_position_timestamp": 1.0},
            "InvalidParameterValueException",
            "starting_position_timestamp",
            "Timestamp only valid with StartingPosition AT_TIMESTAMP",
            id="timestamp without AT_TIMESTAMP",
        ),
        pytest.param(
            {"starting_position": "AT_TIMESTAMP"},
            "InvalidParameterValueException",
            "starting_position_timestamp",
            "StartingPositionTimestamp is required with StartingPosition AT_TIMESTAMP",
            id="AT_TIMESTAMP without timestamp",
        ),
        pytest.param(
            {"maximum_record_age_in_seconds": 0},
            "InvalidParameterValueException",
            "maximum_record_age_in_seconds",
            "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 (inclusive)",
            id="age 0",
        ),
        pytest.param(
            {"maximum_record_age_in_seconds": 59},
            "InvalidParameterValueException",
            "maximum_record_age_in_seconds",
            "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 (inclusive)",
            id="age 59",
        ),
        pytest.param(
            {"function_response_types": ["Bad"]},
            "ValidationException",
            "function_response_types",
            "1 validation error detected: Value '[Bad]' at 'functionResponseTypes' failed to satisfy constraint: Member must satisfy "
            "constraint: [Member must satisfy enum value set: [ReportBatchItemFailures], Member must not be null]",
            id="unknown response type",
        ),
        pytest.param(
            {"function_response_types": ("ReportBatchItemFailures",) * 2},
            "ValidationException",
            "function_response_types",
            "1 validation error detected: Value '[ReportBatchItemFailures, ReportBatchItemFailures]' at 'functionResponseTypes' failed to "
            "satisfy constraint: Member must have length less than or equal to 1",
            id="response type twice",
        ),
        pytest.param(
            {"destination_config": {"OnSuccess": {"Destination": QUEUE}}},
            "InvalidParameterValueException",
            "destination_config",
            "OnSuccess configuration is not supported for event source mappings.",
            id="OnSuccess",
        ),
        pytest.param(
            {"filter_criteria": {"Filters": [{"Pattern": "{"}]}},
            "InvalidParameterValueException",
            "filter_criteria",
            "Invalid filter pattern definition.",
            id="broken filter",
        ),
        pytest.param(
            {"event_source_arn": None}, "InvalidParameterValueException", "event_source_arn", "Unrecognized event source.", id="no source"
        ),
        pytest.param(
            {"event_source_arn": QUEUE}, "InvalidParameterValueException", "event_source_arn", "Unrecognized event source.", id="a queue"
        ),
        pytest.param(
            {"parallelization_factor": 2, "tumbling_window_in_seconds": 10},
            "InvalidParameterValueException",
            None,
            "Parallelization factor must be equal to 1 when tumbling window period is configured",
            id="factor and window",
        ),
        pytest.param(
            {"filter_criteria": {"Filters": [{"Pattern": '{"data": {"a": [1]}}'}]}, "tumbling_window_in_seconds": 10},
            "InvalidParameterValueException",
            None,
            "Filter criteria are not supported when tumbling window period is configured",
            id="filter and window",
        ),
    ],
)
def test_what_lambda_refuses_is_refused_with_its_code_and_text(values: dict[str, Any], code: str, parameter: str | None, text: str) -> None:
    error = refusal(**values)
    assert (str(error), error.code, error.parameter) == (text, code, parameter)


def test_an_empty_list_of_filters_goes_with_a_window_and_is_left_out() -> None:
    with_window = mapping(filter_criteria={"Filters": []}, tumbling_window_in_seconds=10)
    assert with_window.filter_criteria is None
    assert "FilterCriteria" not in with_window.to_aws()


@pytest.mark.parametrize(
    "pattern",
    [
        '{"data": {"city": ["Oslo", null, 3, true]}}',
        '{"data": {"city": [{"prefix": "O"}, {"suffix": "o"}, {"equals-ignore-case": "OSLO"}]}}',
        '{"data": {"city": [{"anything-but": ["Bergen"]}], "snow": [{"exists": true}]}}',
        '{"data": {"t": [{"numeric": [">", -10, "<=", 20.5]}]}, "$or": [{"a": [1]}, {"b": [2]}]}',
    ],
)
def test_filter_patterns_are_taken(pattern: str) -> None:
    criteria = {"Filters": [{"Pattern": pattern}]}
    assert mapping(filter_criteria=criteria).to_aws()["FilterCriteria"] == criteria


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "[]",
        "{}",
        '{"data": "Oslo"}',
        '{"data": []}',
        '{"data": [[1]]}',
        '{"data": [{"wildcard": "O*"}]}',
        '{"data": [{"prefix": 1}]}',
        '{"data": [{"numeric": [">"]}]}',
        '{"data": [{"numeric": ["~", 1]}]}',
        '{"data": [{"numeric": [">", "1"]}]}',
        '{"data": [{"exists": "yes"}]}',
        '{"data": [{"anything-but": []}]}',
        '{"$or": [{"a": [1]}]}',
        "[" * 5000,
    ],
)
def test_what_is_no_filter_pattern_is_refused(pattern: str) -> None:
    expected = "Invalid filter pattern definition." if len(pattern) <= 4096 else "Member must have length less than or equal to 4096"
    assert str(refusal(filter_criteria={"Filters": [{"Pattern": pattern}]})).endswith(expected)


def test_at_most_five_filters_or_ten_by_a_setting() -> None:
    def criteria(count: int) -> dict[str, Any]:
        return {"Filters": [{"Pattern": '{"data": {"a": [1]}}'}] * count}

    error = refusal(filter_criteria=criteria(6))
    assert str(error) == "filter_criteria has 6 filters; at most 5 are allowed"
    assert "filters_max=10" in error.__notes__[0]
    ten = mapping(filter_criteria=criteria(10), filters_max=10)
    assert EventSourceMapping.from_aws(ten.to_aws(), filters_max=10) == ten
    assert str(refusal(filter_criteria=criteria(11), filters_max=10)) == "filter_criteria has 11 filters; at most 10 are allowed"
    assert str(refusal(filters_max=11)) == "filters_max must be 5 to 10, not 11"


def test_patterns_are_compiled_once() -> None:
    criteria = {"Filters": [{"Pattern": '{"data": {"city": ["Oslo"]}}'}]}
    one = mapping(filter_criteria=criteria).compiled_filter
    assert one is not None
    assert one is mapping(filter_criteria=criteria, batch_size=7).compiled_filter
    assert mapping().compiled_filter is None


@pytest.mark.parametrize("destination", [QUEUE, "arn:aws:sns:us-east-2:123456789012:failed", "arn:aws:s3:::failed", "file:a/b c.ndjson"])
def test_destinations(destination: str) -> None:
    config = {"OnFailure": {"Destination": destination}}
    assert mapping(destination_config=config).on_failure_destination == destination
    assert mapping(destination_config=config).to_aws()["DestinationConfig"] == config


@pytest.mark.parametrize("config", [None, {}, {"OnFailure": {}}, {"OnFailure": {"Destination": ""}}, {"OnSuccess": {}, "OnFailure": None}])
def test_no_destination_has_many_forms_and_one_meaning(config: Any) -> None:
    assert mapping(destination_config=config) == mapping()
    assert mapping(destination_config=config).on_failure_destination is None


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (QUEUE, "destination_config must be a dictionary with OnFailure and OnSuccess"),
        ({"onFailure": {}}, "Unknown parameter 'onFailure' in destination_config; known are: OnFailure, OnSuccess."),
        ({"OnFailure": {"Dest": QUEUE}}, "Unknown parameter 'Dest' in destination_config.OnFailure; known are: Destination."),
        ({"OnFailure": {"Destination": 3}}, "destination_config must be a string, not 3"),
        ({"OnFailure": {"Destination": "file:" + "x" * 346}}, "Member must have length less than or equal to 350"),
    ],
)
def test_destinations_that_are_refused(config: Any, text: str) -> None:
    error = refusal(destination_config=config)
    assert text in str(error)
    assert error.parameter == "destination_config"


@pytest.mark.parametrize(
    "destination",
    [
        QUEUE + ".fifo",
        "arn:aws:sns:us-east-2:123456789012:failed.fifo",
        "arn:aws:lambda:us-east-2:123456789012:function:failed",
        "arn:aws:events:us-east-2:123456789012:event-bus/failed",
        "arn:aws:s3:::failed/prefix",
        "kafka://topic",
    ],
)
def test_what_is_no_destination_of_a_stream_is_refused_with_the_text_of_lambda(destination: str) -> None:
    error = refusal(destination_config={"OnFailure": {"Destination": destination}})
    config = f"DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={destination}))"
    assert (str(error), error.code) == (f"The provided destination config {config} is invalid.", "InvalidParameterValueException")
    assert error.__notes__ == ["give the ARN of a standard SQS queue, of a standard SNS topic or of an S3 bucket, or file:PATH"]
    assert error.parameter == "destination_config"


def test_what_is_no_arn_is_refused_with_the_text_of_lambda() -> None:
    error = refusal(destination_config={"OnFailure": {"Destination": "discards.ndjson"}})
    text = "Value 'discards.ndjson' at 'destinationConfig.onFailure.destination' failed to satisfy constraint: Member must satisfy regular"
    assert text in str(error)
    assert error.code == "ValidationException"
    assert "or file:PATH" in error.__notes__[0]


def test_metrics() -> None:
    config = {"Metrics": ["EventCount"]}
    assert mapping(metrics_config=config).to_aws()["MetricsConfig"] == config
    assert mapping(metrics_config={"Metrics": []}) == mapping()
    assert refusal(metrics_config={"Metrics": ["Bogus"]}).code == "ValidationException"
    assert "KafkaMetrics: not a metric of a stream" in str(refusal(metrics_config={"Metrics": ["KafkaMetrics"]}))


@pytest.mark.parametrize(
    ("arn", "kind", "region", "account"),
    [
        (KINESIS, "kinesis", "us-east-2", "123456789012"),
        (CONSUMER, "kinesis", "us-east-2", "123456789012"),
        ("arn:aws-us-gov:kinesis:us-gov-west-1:123456789012:stream/a", "kinesis", "us-gov-west-1", "123456789012"),
        ("arn:aws:kinesis:us-east-1:000000000000:stream/of-an-emulator", "kinesis", "us-east-1", "000000000000"),
        ("arn:aws:kinesis:us-east-1:000000000000:stream/file/consumer/c:1", "kinesis", "us-east-1", "000000000000"),
        (DYNAMODB, "dynamodb", "eu-west-1", "123456789012"),
        (file_stream_arn("flights.csv"), "file", "us-east-1", "000000000000"),
        (memory_stream_arn("orders"), "memory", "us-east-1", "000000000000"),
    ],
)
def test_kind_region_and_account_follow_from_the_arn(arn: str, kind: str, region: str, account: str) -> None:
    one = mapping(event_source_arn=arn)
    assert (one.source_kind, one.aws_region, one.account_id) == (kind, region, account)


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "orders",
        KINESIS + "\n",
        "arn:aws:kinesis:us-east-2:123456789012:stream/",
        "arn:aws:dynamodb:us-east-2:123456789012:table/orders",
    ],
)
def test_what_is_no_stream_is_refused_and_told_what_would_be_right(arn: str) -> None:
    error = refusal(event_source_arn=arn)
    assert str(error) == "Unrecognized event source."
    (note,) = error.__notes__
    assert note.startswith(f"event_source_arn is {arn!r}; it must be the ARN of a Kinesis stream or consumer, of a DynamoDB stream, ")


@pytest.mark.parametrize("arn", [None, "", "billing", "arn:aws:lambda:us-east-2:123456789012:function:", FUNCTION + ":x", FUNCTION + "\n"])
def test_what_is_no_function_is_refused(arn: Any) -> None:
    error = refusal(function_arn=arn)
    assert str(error).startswith(
        "function_arn must be the ARN of a function, arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER], not "
    )
    assert error.parameter == "function_arn"


@given(st.text(max_size=200))
def test_any_name_makes_an_arn_that_is_taken(name: str) -> None:
    for arn, kind in [(file_stream_arn(name), "file"), (memory_stream_arn(name), "memory")]:
        one = EventSourceMapping(event_source_arn=arn, function_arn=local_function_arn(name), starting_position="LATEST")
        assert one.source_kind == kind


def test_the_same_mapping_has_the_same_uuid_in_every_run() -> None:
    # A golden value: with another one, no state file would be found again.
    assert mapping().uuid == "fe01f9e7-99af-5352-bcd2-71644597a471"
    assert mapping(batch_size=7).uuid == mapping().uuid
    others = [mapping(function_arn=FUNCTION[:-5]), mapping(event_source_arn=CONSUMER), mapping(event_source_arn=DYNAMODB)]
    assert len({one.uuid for one in [mapping(), *others]}) == 4


def test_identity_can_be_given() -> None:
    uuid = "14e0db71-5d35-4eb5-b481-8945cf9d10c2"
    one = mapping(uuid=uuid, execution_role_arn="arn:aws:iam::123456789012:role/x")
    assert (one.uuid, one.execution_role_arn) == (uuid, "arn:aws:iam::123456789012:role/x")
    assert mapping().execution_role_arn == "arn:aws:iam::123456789012:role/streamcore"
    assert refusal(uuid="1").parameter == "uuid"
    assert refusal(execution_role_arn="admin").parameter == "execution_role_arn"


def test_a_changed_copy_keeps_its_uuid_and_is_checked() -> None:
    changed = dataclasses.replace(mapping(), batch_size=5, function_arn=FUNCTION[:-5])
    assert (changed.uuid, changed.batch_size) == (mapping().uuid, 5)
    with pytest.raises(ConfigError, match="batchSize"):
        dataclasses.replace(mapping(), batch_size=0)


def test_a_mapping_is_a_value() -> None:
    one = mapping(destination_config={"OnFailure": {"Destination": QUEUE}}, function_response_types=["ReportBatchItemFailures"])
    assert one == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)  # noqa: S301 - our own bytes
    assert hash(one) == hash(copy.deepcopy(one))
    assert one != mapping()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.batch_size = 3  # type: ignore[misc] # that is what is tested


def test_the_dictionaries_given_are_copied() -> None:
    config = {"OnFailure": {"Destination": QUEUE}}
    one = mapping(destination_config=config)
    config["OnFailure"]["Destination"] = "elsewhere"
    one.to_aws()["DestinationConfig"]["OnFailure"]["Destination"] = "elsewhere"
    assert one.on_failure_destination == QUEUE


@pytest.mark.parametrize(
    ("timestamp", "ms"),
    [
        (1_700_000_000, 1_700_000_000_000),
        (1_700_000_000.123, 1_700_000_000_123),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 1_700_000_000_000),
        (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), 1_700_000_000_000),
    ],
)
def test_timestamps(timestamp: Any, ms: int) -> None:
    one = mapping(starting_position="AT_TIMESTAMP", starting_position_timestamp=timestamp)
    assert one.starting_position_timestamp_ms == ms
    assert one.to_aws()["StartingPositionTimestamp"] == ms / 1000


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (datetime(2023, 11, 14), "has no time zone"),  # noqa: DTZ001 - that is what is tested
        (float("nan"), "seconds since the Unix epoch, not nan"),
        (-1, "seconds since the Unix epoch, not -1"),
        (True, "not True"),
        ("2023-11-14", "not '2023-11-14'"),
        (10**12, "is in the future"),
        (datetime(9999, 1, 1, tzinfo=UTC), "is in the future"),
    ],
)
def test_timestamps_that_are_refused(timestamp: Any, text: str) -> None:
    error = refusal(starting_position="AT_TIMESTAMP", starting_position_timestamp=timestamp)
    assert text in str(error)
    assert error.parameter == "starting_position_timestamp"


AWS = {"EventSourceArn": KINESIS, "FunctionName": "billing:live", "StartingPosition": "TRIM_HORIZON"}


@pytest.mark.parametrize("name", ["billing:live", "123456789012:function:billing:live", FUNCTION])
def test_a_function_is_named_in_any_of_lambdas_ways(name: str) -> None:
    assert EventSourceMapping.from_aws(AWS | {"FunctionName": name}) == mapping()


def test_a_request_is_read() -> None:
    request = AWS | {
        "BatchSize": 500,
        "BisectBatchOnFunctionError": True,
        "DestinationConfig": {"OnFailure": {"Destination": QUEUE}},
        "Enabled": False,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "MaximumRetryAttempts": None,
        "Tags": {"team": "billing"},
    }
    assert EventSourceMapping.from_aws(request, execution_role_arn="arn:aws:iam::123456789012:role/x") == mapping(
        batch_size=500,
        bisect_batch_on_function_error=True,
        destination_config={"OnFailure": {"Destination": QUEUE}},
        enabled=False,
        function_response_types=("ReportBatchItemFailures",),
        execution_role_arn="arn:aws:iam::123456789012:role/x",
    )


def test_an_answer_is_read() -> None:
    answer = mapping(batch_size=7).to_aws() | {
        "State": "Disabled",
        "StateTransitionReason": "User action",
        "LastProcessingResult": "OK",
        "LastModified": datetime(2024, 1, 1, tzinfo=UTC),
        "ResponseMetadata": {},
    }
    assert EventSourceMapping.from_aws(answer) == mapping(batch_size=7, enabled=False)


def test_a_time_as_the_aws_cli_prints_it_is_read() -> None:
    request = AWS | {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": "2023-11-14T22:13:20+00:00"}
    assert EventSourceMapping.from_aws(request).starting_position_timestamp_ms == 1_700_000_000_000
    with pytest.raises(ConfigError, match=r"'soon' is no time; write it as 2024-01-31T00:00:00\+00:00"):
        EventSourceMapping.from_aws(request | {"StartingPositionTimestamp": "soon"})


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ("ScalingConfig", "Unsupported ScalingConfig parameter for given event source mapping type."),
        ("Topics", "Unsupported Topics parameter for given event source mapping type."),
        ("BatchSise", "Unknown parameter 'BatchSise'. Did you mean 'BatchSize'? Known are: UUID, "),
        ("batch_size", "Unknown parameter 'batch_size'."),
    ],
)
def test_members_that_a_stream_does_not_have_are_refused(member: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EventSourceMapping.from_aws(AWS | {member: {"MaximumConcurrency": 2}})
    assert str(caught.value).startswith(text)
    assert caught.value.code == "InvalidParameterValueException"


@pytest.mark.parametrize(
    ("missing", "text"),
    [("EventSourceArn", "Unrecognized event source."), ("StartingPosition", "Value null at"), ("FunctionName", "function_arn must be")],
)
def test_members_that_are_needed(missing: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        EventSourceMapping.from_aws({name: value for name, value in AWS.items() if name != missing})


def test_two_functions_in_one_mapping_are_refused() -> None:
    with pytest.raises(ConfigError, match="differ"):
        EventSourceMapping.from_aws(AWS | {"FunctionArn": FUNCTION[:-5]})


@given(
    st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 10_000),
            "maximum_batching_window_in_seconds": st.integers(0, 300),
            "parallelization_factor": st.integers(1, 10),
            "maximum_retry_attempts": st.integers(-1, 10_000),
            "maximum_record_age_in_seconds": st.just(-1) | st.integers(60, 604_800),
            "bisect_batch_on_function_error": st.booleans(),
            "function_response_types": st.sampled_from([(), ("ReportBatchItemFailures",)]),
            "destination_config": st.sampled_from([None, {"OnFailure": {"Destination": QUEUE}}]),
            "metrics_config": st.sampled_from([None, {"Metrics": ["EventCount"]}]),
            "kms_key_arn": st.sampled_from(["", "arn:aws:kms:us-east-2:123456789012:key/1"]),
            "filter_criteria": st.sampled_from([None, {"Filters": [{"Pattern": '{"data": {"a": [1]}}'}]}]),
            "enabled": st.booleans(),
            "event_source_arn": st.sampled_from([KINESIS, CONSUMER, DYNAMODB, file_stream_arn("x")]),
        }
    )
)
def test_a_mapping_survives_the_way_through_awss_form(values: dict[str, Any]) -> None:
    one = mapping(**values)
    assert EventSourceMapping.from_aws(one.to_aws()) == one
