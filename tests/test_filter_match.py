"""The filters' match: what each operator means, and the engine's compiled one against a slow one that shares nothing with it."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_reference import Generator, matches
from streamcore import ConfigError, FilterCriteria, PageError


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_match_is_that_of_the_slow_one(seed: int) -> None:
    generator = Generator(Random(seed))
    for _ in range(50):
        pattern = generator.pattern()
        event = generator.event() if seed % 4 == 0 else generator.event_for(pattern)
        assert FilterCriteria([pattern]).matches(event) == matches(pattern, event), (pattern, event)


# The table of the Lambda developer guide, "Filter rule syntax", and what its rows leave open. For each leaf: values that match, and others.
OPERATORS = [
    ("[null]", ["null"], ['"null"', '""', "0", "false"]),
    ('[""]', ['""'], ["null", '" "']),
    ('["Alice"]', ['"Alice"', '"\\u0041lice"', '["Bob", "Alice"]', '[["Alice"]]'], ['"alice"', '"Alice "', '{"Alice": "Alice"}']),
    ("[true]", ["true", "[false, true]"], ["false", '"true"', "1"]),
    ("[300]", ["300"], ["300.0", "3.0e2", '"300"', "301"]),
    ('[{"equals-ignore-case": "alice"}]', ['"ALICE"', '"Alice"'], ['"Alicé"', '"alic"', "1"]),
    ('["New York", "Los Angeles"]', ['"New York"', '"Los Angeles"'], ['"Bergen"']),
    ('[{"anything-but": ["Weather"]}]', ['"Price"', "1", "null", '["Weather", "Price"]'], ['"Weather"', '["Weather"]', "[]", "{}"]),
    ('[{"anything-but": "Weather"}]', ['"Price"'], ['"Weather"']),
    ('[{"anything-but": [100, 200]}]', ["300", '"100"', "100.0"], ["100", "200"]),
    ('[{"numeric": ["=", 100]}]', ["100", "100.0", "1e2", "0.001E5"], ["100.00000000000000000001", '"100"', "99"]),
    ('[{"numeric": [">", 10, "<=", 20]}]', ["10.1", "20", "2.0e1"], ["10", "20.1", '"15"', "-15"]),
    ('[{"numeric": ["<", 0]}]', ["-0.1", "-1e300"], ["0", "-0", "1"]),
    ('[{"exists": true}]', ["1", "null", "[null]", '""'], ["{}", "[]", '{"a": 1}', '[{"a": 1}]']),
    ('[{"exists": false}]', ["{}", "[]", '{"a": 1}'], ["1", "null", "[1]"]),
    ('[{"prefix": "us-"}]', ['"us-east-1"', '"us-"'], ['"US-east-1"', '"eu-us-"', "1"]),
    ('[{"suffix": ".png"}]', ['"a.png"', '".png"'], ['"a.PNG"', '"a.png "']),
    ('[{"prefix": ""}]', ['""', '"a"'], ["1", "null"]),
    ('["a", {"prefix": "b"}, {"numeric": [">", 5]}, {"exists": false}]', ['"a"', '"bc"', "6", "{}"], ['"c"', "5", "null"]),
]


@pytest.mark.parametrize(("leaf", "yes", "no"), OPERATORS, ids=[leaf for leaf, _, _ in OPERATORS])
def test_what_an_operator_matches(leaf: str, yes: list[str], no: list[str]) -> None:
    pattern = f'{{"data": {{"field": {leaf}}}}}'
    criteria = FilterCriteria([pattern])
    for values, expected in [(yes, True), (no, False)]:
        for value in values:
            event = f'{{"data": {{"other": 1, "field": {value}}}}}'
            assert criteria.matches(event) is expected, value
            assert matches(pattern, event) is expected, value


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ('{"a": [1], "b": [2]}', ['{"b": 2, "c": 0, "a": 1}'], ['{"a": 1}', '{"a": 1, "b": 1}', "{}"]),
        ('{"$or": [{"a": [1]}, {"b": [2]}]}', ['{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}'], ['{"a": 2, "b": 1}', "{}"]),
        ('{"c": [3], "$or": [{"a": [1]}, {"b": [2]}]}', ['{"a": 1, "c": 3}'], ['{"a": 1}', '{"c": 3}']),
        ('{"x": {"$or": [{"a": [1]}, {"$or": [{"b": [2]}, {"c": [3]}]}]}}', ['{"x": {"c": 3}}'], ['{"c": 3}']),
        # What stands in an array is found in one of its elements.
        (
            '{"items": {"sku": ["a"], "count": [2]}}',
            ['{"items": [{"sku": "b"}, {"sku": "a", "count": 2}]}', '{"items": {"sku": ["x", "a"], "count": 2}}'],
            ['{"items": [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]}'],
        ),
        (
            '{"items": {"count": [2], "sku": [{"exists": false}]}}',
            ['{"items": [{"sku": "a", "count": 1}, {"count": 2}]}', '{"items": [{"sku": "a"}, {"count": 2}]}'],
            ['{"items": [{"sku": "a", "count": 2}]}'],
        ),
        # Of members of the same name the last one counts: in the pattern, and in the event.
        ('{"a": [1], "a": [2]}', ['{"a": 2}', '{"a": 1, "a": 2}', '{"a": {"b": 1}, "a": 2}'], ['{"a": 1}', '{"a": 2, "a": 1}']),
        ('{"é": {"\\u00e9\\n": ["\\u00e9"]}}', ['{"\\u00e9": {"é\\u000a": "é"}}'], ['{"é": {"é": "é"}}']),
        ('{"a.b": [1]}', ['{"a.b": 1}'], ['{"a": {"b": 1}}']),
    ],
)
def test_fields_alternatives_and_arrays(pattern: str, yes: list[str], no: list[str]) -> None:
    criteria = FilterCriteria([pattern])
    for event in yes:
        assert criteria.matches(event), event
        assert matches(pattern, event), event
    for event in no:
        assert not criteria.matches(event), event
        assert not matches(pattern, event), event


def test_an_event_may_be_text_bytes_or_what_json_dumps_takes() -> None:
    criteria = FilterCriteria(['{"body": {"city": ["Tromsø"]}}'])
    event = {"body": {"city": "Tromsø"}}
    assert criteria.matches(event)
    assert criteria.matches(json.dumps(event))
    assert criteria.matches(json.dumps(event, ensure_ascii=False).encode())
    for wrong in ("[]", "7", "{", '{"a": 1} 2', b"", "{'a': 1}", b'{"body": "\xff"}', '{"body": "\ud800"}'):
        with pytest.raises(PageError):
            criteria.matches(wrong)
    with pytest.raises(PageError, match=r"at byte 1: expected an object, found '\['"):
        criteria.matches(" [1]")
    with pytest.raises(TypeError):
        criteria.matches({"body": object()})


def test_one_pattern_of_several_is_enough_and_without_any_all_passes() -> None:
    criteria = FilterCriteria(['{"a": [1]}', '{"b": [2]}'])
    assert criteria.matches('{"b": 2}')
    assert not criteria.matches('{"a": 2, "b": 1}')
    assert FilterCriteria([]).matches("{}"), "to Lambda an empty list of filters is none"
    assert FilterCriteria([]).matches('{"a": [1]}')
    with pytest.raises(PageError):
        FilterCriteria([]).matches("{")
    assert criteria.patterns == ['{"a": [1]}', '{"b": [2]}']
    assert criteria == FilterCriteria(criteria.patterns)
    assert criteria != FilterCriteria(['{"a": [1]}'])


def test_many_alternatives() -> None:
    fields = ", ".join(f'"f{number}": [{{"exists": false}}, {number}]' for number in range(10))
    criteria = FilterCriteria(["{" + fields + "}"])
    assert criteria.matches("{}")
    assert criteria.matches('{"f3": 3, "f9": 9}')
    assert not criteria.matches('{"f3": 3, "f9": 8}')
    with pytest.raises(ConfigError, match="its alternatives have more than 1024 combinations"):
        FilterCriteria(["{" + fields + ', "g": [{"exists": false}, 1]}'])
    absent = ", ".join(f'"f{number}": {{"a": [1], "b": [{{"exists": false}}]}}' for number in range(90))
    criteria = FilterCriteria(["{" + absent + "}"])
    event = {f"f{number}": {"a": 1} for number in range(90)}
    assert criteria.matches(event)
    assert not criteria.matches(event | {"f50": {"a": 1, "b": 0}})


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "it is not JSON: "),
        ("[]", "a pattern must be an object"),
        ("{}", "an object must have a field"),
        ('{"a": {}}', "an object must have a field"),
        ('{"a": "Oslo"}', "the value of a field must be an object or a list"),
        ('{"a": []}', "a list must have a value"),
        ('{"a": [[1]]}', "a list must hold texts, numbers, true, false, null or operators"),
        ('{"a": [{}]}', "an operator must have a name"),
        ('{"a": [{"wildcard": "O*"}]}', "the operators are prefix, suffix"),
        ('{"a": [{"cidr": "10.0.0.0/8"}]}', "the operators are prefix, suffix"),
        ('{"a": [{"prefix": {"equals-ignore-case": "a"}}]}', "prefix must be a text"),
        ('{"a": [{"prefix": "a", "suffix": "b"}]}', "an object in a list must have one operator"),
        ('{"a": [{"numeric": [">"]}]}', "numeric must be a list such as"),
        ('{"a": [{"numeric": []}]}', "numeric must be a list such as"),
        ('{"a": [{"numeric": ["~", 1]}]}', "numeric must be a list such as"),
        ('{"a": [{"numeric": [">", "1"]}]}', "numeric must be a list such as"),
        ('{"a": [{"numeric": ["<", 5, ">", 1]}]}', "numeric must be a list such as"),
        ('{"a": [{"numeric": ["=", 5, "<", 7]}]}', "numeric must be a list such as"),
        ('{"a": [{"numeric": [">=", 5, "<=", 5.0]}]}', "the lower number of numeric must be less than the upper one"),
        ('{"a": [{"exists": "yes"}]}', "exists must be true or false"),
        ('{"a": [{"anything-but": []}]}', "anything-but must be"),
        ('{"a": [{"anything-but": [1, "a"]}]}', "anything-but must be"),
        ('{"a": [{"anything-but": null}]}', "anything-but must be"),
        ('{"a": [{"anything-but": {"prefix": "a"}}]}', "anything-but must be"),
        ('{"$or": [{"a": [1]}]}', "\\$or must have two objects or more"),
        ('{"$or": {"a": [1]}}', "\\$or must be a list"),
        ('{"$or": [{"a": [1]}, [1]]}', "a pattern must be an object"),
        ('{"$or": [{"prefix": [1]}, {"a": [1]}]}', "must not be named as an operator"),
        ('{"a": [NaN]}', "expected a number"),
        ('{"a": [01]}', "found '1'"),
        ('{"a": ["\\ud800"]}', "half of a surrogate pair"),
        ('{"a": ["\ud800"]}', "half of a surrogate pair"),
        ('{"a": [1]} x', "it is not JSON: nothing may follow"),
        ('{"a":' * 200 + "[1]" + "}" * 200, "it is nested too deeply"),
        ('{"a": ["' + "é" * 4096 + '"]}', "it has 4107 characters, and 4096 are allowed"),
    ],
)
def test_what_is_no_pattern_is_refused_and_told_why(pattern: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        FilterCriteria(['{"a": [1]}', pattern])
    assert str(caught.value).startswith("filter 2 cannot be used: ")
    assert caught.value.parameter == "filter_criteria"


@pytest.mark.parametrize("name", ["asked", "other"])
def test_how_deep_an_event_may_be_is_the_same_where_a_pattern_looks_and_where_not(name: str) -> None:
    criteria = FilterCriteria(['{"data": {"asked": {"a": [{"exists": false}]}, "b": [1]}}'])
    for depth, fits in [(127, True), (128, False)]:
        inner = "[" * depth + "]" * depth
        event = f'{{"data": {{"b": 1, "{name}": {inner}}}}}'
        if fits:
            assert criteria.matches(event)
        else:
            with pytest.raises(PageError, match="128 deep"):
                criteria.matches(event)
