"""What an answer means for a batch: the response table of "Configuring partial batch response" in the Lambda developer guide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore import Answer, Batch, Engine, EventSourceMapping, Outcome, Page, interpret

NOW = 1_700_000_000_000
# In the order of the stream, which is not the order of the text.
NUMBERS = ["98", "99", "100", "101", "102"]


def batch_of(*response_types: str) -> Batch:
    mapping = EventSourceMapping(starting_position="TRIM_HORIZON", function_response_types=response_types)
    engine = Engine()
    shard = engine.add_shard(mapping, "shardId-000000000000", now=NOW)
    engine.offer(shard, Page.from_records([("key", b"data", NOW, number) for number in NUMBERS]), NOW)
    batch = engine.take(NOW)
    assert isinstance(batch, Batch)
    assert len(batch) == len(NUMBERS)
    return batch


REPORTING = batch_of("ReportBatchItemFailures")
SILENT = batch_of()

SUCCESS, FAILURE = Outcome.success(), Outcome.failure()


def failed(*identifiers: object) -> dict[str, list[dict[str, object]]]:
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


TABLE: list[tuple[Any, Outcome]] = [
    # nothing at all
    ("", SUCCESS),
    ([], SUCCESS),
    (None, SUCCESS),
    ({}, SUCCESS),
    # no failures
    ({"batchItemFailures": []}, SUCCESS),
    ({"batchItemFailures": None}, SUCCESS),
    ({"statusCode": 200}, SUCCESS),
    # the lowest sequence number counts, in whatever order they are reported
    (failed("98"), Outcome.partial(0)),
    (failed("99"), Outcome.partial(1)),
    (failed("100"), Outcome.partial(2)),
    (failed("102", "99", "101"), Outcome.partial(1)),
    (failed("100", "99"), Outcome.partial(1)),
    (failed("101", "101"), Outcome.partial(3)),
    ({"batchItemFailures": [{"itemIdentifier": "102", "reason": "more members do no harm"}], "state": {}}, Outcome.partial(4)),
    # identifiers that are none
    (failed(""), FAILURE),
    (failed(None), FAILURE),
    ({"batchItemFailures": [{"foo": "99"}]}, FAILURE),
    ({"batchItemFailures": [{"ItemIdentifier": "99"}]}, FAILURE),
    ({"batchItemFailures": [{}]}, FAILURE),
    ({"batchItemFailures": [{"itemIdentifier": True}]}, FAILURE),
    ({"batchItemFailures": ["99"]}, FAILURE),
    ({"batchItemFailures": [None]}, FAILURE),
    # identifiers that are not in the batch, be it for how they are written
    (failed("97"), FAILURE),
    (failed("099"), FAILURE),
    (failed(" 99"), FAILURE),
    (failed(99), FAILURE),
    (failed(99.0), FAILURE),
    (failed(["99"]), FAILURE),
    # one bad identifier spoils the good ones
    (failed("101", "97"), FAILURE),
    (failed("97", "101"), FAILURE),
    (failed("101", ""), FAILURE),
    (failed("101", 99), FAILURE),
    # other shapes
    ({"batchItemFailures": {"itemIdentifier": "99"}}, FAILURE),
    ({"batchItemFailures": "99"}, FAILURE),
    ({"batchItemFailures": ""}, FAILURE),
    ({"batchItemFailures": {}}, FAILURE),
    ({"batchItemFailures": False}, FAILURE),
    ({"batchItemFailures": 0}, FAILURE),
    ([{"itemIdentifier": "99"}], FAILURE),
    ([{"itemIdentifier": None}], FAILURE),
    ([{"foo": "99"}], FAILURE),
    ("done", FAILURE),
    (0, FAILURE),
    (1, FAILURE),
    (False, FAILURE),
    (True, FAILURE),
]


@pytest.mark.parametrize(("payload", "outcome"), [pytest.param(*row, id=f"{number}-{row[0]!r}") for number, row in enumerate(TABLE)])
def test_a_returned_value(payload: object, outcome: Outcome) -> None:
    assert interpret(REPORTING, Answer("success", payload)) == outcome


@pytest.mark.parametrize("payload", [pytest.param(row[0], id=f"{number}-{row[0]!r}") for number, row in enumerate(TABLE)])
def test_a_returned_value_is_ignored_where_the_mapping_does_not_ask_for_it(payload: object) -> None:
    assert interpret(SILENT, Answer("success", payload)) == SUCCESS


@pytest.mark.parametrize("batch", [REPORTING, SILENT], ids=["reporting", "silent"])
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer("throttled", status_code=429, executed_version=None), Outcome.throttled()),
        (Answer("service_error", status_code=500, executed_version=None), Outcome.throttled()),
        (Answer("service_error", status_code=0, alive_until_ms=NOW), Outcome.throttled()),
        (Answer("too_large", status_code=413, executed_version=None), Outcome.too_large()),
        (Answer("too_large", status_code=413, request_id="id"), Outcome.too_large(request_id="id")),
        (Answer("function_error", function_error="Unhandled"), Outcome.failure(function_error="Unhandled")),
        (Answer("function_error", function_error="Handled"), Outcome.failure(function_error="Handled")),
        (Answer("function_error"), Outcome.failure(function_error="Unhandled")),
        (Answer("function_error", failed("99"), function_error="Unhandled"), Outcome.failure(function_error="Unhandled")),
    ],
)
def test_what_is_no_success_is_judged_by_its_kind_alone(batch: Batch, answer: Answer, outcome: Outcome) -> None:
    assert interpret(batch, answer) == outcome


def test_what_the_service_said_goes_with_the_outcome() -> None:
    facts: dict[str, Any] = {"status_code": 202, "executed_version": "7", "request_id": "an id of the service"}
    assert interpret(REPORTING, Answer("success", failed("99"), **facts)) == Outcome.partial(1, **facts)
    assert interpret(REPORTING, Answer("success", failed(""), **facts)) == Outcome.failure(**facts)
    raised = Answer("function_error", function_error="Unhandled", **facts)
    assert interpret(REPORTING, raised) == Outcome.failure(function_error="Unhandled", **facts)
    assert interpret(REPORTING, raised) != Outcome.failure(function_error="Unhandled")


@given(st.lists(st.sampled_from(NUMBERS), min_size=1))
def test_the_lowest_of_the_reported_records_counts(identifiers: list[str]) -> None:
    outcome = interpret(REPORTING, Answer("success", failed(*identifiers)))
    assert outcome == Outcome.partial(min(NUMBERS.index(identifier) for identifier in identifiers))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(NUMBERS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["batchItemFailures", "itemIdentifier", "x"]), inner, max_size=3)
    ),
)


@given(json_values)
def test_any_returned_value_has_a_meaning(payload: object) -> None:
    assert interpret(REPORTING, Answer("success", payload)).kind in ("success", "partial", "failure")
