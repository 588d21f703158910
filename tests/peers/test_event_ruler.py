"""The filters' match beside AWS's own Event Ruler, and each way in which the two differ."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest

from filter_reference import Generator, matches
from peer_servers import INSTALLED, java_folder
from streamcore import ConfigError, FilterCriteria

pytestmark = pytest.mark.skipif(not INSTALLED, reason="Event Ruler is installed by `make test-peers`")

SEEDS, PAIRS = 120, 100
# Event Ruler is asked so often where its answer is a matter of chance. It is one in two, so that all are equal once in 2 ** 63 runs.
TRIES = 64


def event_ruler(pairs: list[tuple[str, str]]) -> list[str]:
    """Return for each pattern and event "true", "false", or what Event Ruler has against the pattern."""
    program = Path(__file__).with_name("EventRuler.java")
    given = "".join(f"{pattern}\n{event}\n" for pattern, event in pairs)
    command = ["java", "-cp", f"{java_folder('event-ruler')}/*", str(program)]
    done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", check=True)
    answers = done.stdout.splitlines()
    assert len(answers) == len(pairs), done.stderr
    return answers


def test_the_match_is_that_of_event_ruler_but_for_bare_numbers_and_quotes() -> None:
    """12,000 pairs of the operators that Lambda has.

    The slow match, told to compare bare numbers and suffixes as Event Ruler does, gives its every answer. Where Event Ruler is asked again
    and gives both answers, it has none: see the test after this one.
    """
    pairs = []
    for seed in range(SEEDS):
        generator = Generator(Random(seed))
        for _ in range(PAIRS):
            pattern = generator.pattern()
            pairs.append((pattern, generator.event() if seed % 4 == 0 else generator.event_for(pattern)))
    differences = matched = 0
    others = []
    for number, ((pattern, event), answer) in enumerate(zip(pairs, event_ruler(pairs), strict=True)):
        ours = FilterCriteria([pattern]).matches(event)
        shown = (f"seed {number // PAIRS}", pattern, event)
        assert ours == matches(pattern, event), shown
        if answer != str(matches(pattern, event, as_event_ruler=True)).lower():
            others.append(shown)
        matched += ours
        differences += answer != str(ours).lower()
    again = event_ruler([(pattern, event) for _, pattern, event in others for _ in range(TRIES)])
    for index, shown in enumerate(others):
        assert set(again[index * TRIES : (index + 1) * TRIES]) == {"true", "false"}, shown
    assert matched > 1000
    assert 0 < differences < len(pairs) / 50


def test_event_ruler_may_lose_a_text_that_stands_with_a_range_in_two_alternatives() -> None:
    """Of its machines for the same pattern some find the event and some do not; each gives the same answer for ever.

    It compiles the alternatives into one machine, one after the other. The second has the same list, a text and a range of numbers, and
    takes the way behind the text away from the first or does not. That goes by the order of a set whose hashes are the identities of
    objects: with `-XX:hashCode=2`, which makes them all equal, Java finds the event each time.
    """
    pattern = '{"a": ["x", {"numeric": ["<=", 5]}], "$or": [{"c": ["a"]}, {"d": ["b"]}]}'
    by_text, by_number = '{"a": "x", "c": "a"}', '{"a": 1, "c": "a"}'
    assert FilterCriteria([pattern]).matches(by_text)
    assert FilterCriteria([pattern]).matches(by_number)
    assert set(event_ruler([(pattern, by_text)] * TRIES)) == {"true", "false"}
    assert set(event_ruler([(pattern, by_number)] * TRIES)) == {"true"}


@pytest.mark.parametrize(
    ("pattern", "event", "ours", "theirs"),
    [
        # A bare number is compared by its text, as the Lambda developer guide says of filters.
        ('{"a": [300]}', '{"a": 300.0}', False, True),
        ('{"a": [{"anything-but": 300}]}', '{"a": 3e2}', True, False),
        # Event Ruler takes the two halves of a character outside of the first 65,536 for characters, and then matches none.
        ('{"a": [{"equals-ignore-case": "😀"}]}', '{"a": "😀"}', True, False),
        # Event Ruler compares numbers that a double holds; here every number is compared exactly.
        ('{"a": [{"numeric": [">", 1]}]}', '{"a": 9007199254740993}', True, False),
        ('{"a": [{"numeric": ["<", 1]}]}', '{"a": 0.1234567890123456789}', True, False),
        # Event Ruler puts texts in quotes, and takes the quote for the text's end.
        ('{"a": [{"suffix": "\\""}]}', '{"a": ""}', False, True),
        # A point in a name may be a step for Event Ruler.
        ('{"a.b": [1]}', '{"a": {"b": 1}}', False, True),
        # Of members of one name in the event the last one counts here, each of them for Event Ruler; in a pattern of objects likewise.
        ('{"a": [1]}', '{"a": 1, "a": 2}', False, True),
        ('{"a": {"b": [1]}, "a": {"c": [2]}}', '{"a": {"c": 2}}', True, False),
        # A field that is to have a value and members too: Event Ruler finds both in an array that mixes them.
        ('{"$or": [{"a": {"b": [1]}}, {"c": [1]}], "a": [2]}', '{"a": [2, {"b": 1}]}', False, True),
    ],
)
def test_each_difference(pattern: str, event: str, *, ours: bool, theirs: bool) -> None:
    assert FilterCriteria([pattern]).matches(event) is ours
    assert event_ruler([(pattern, event)]) == [str(theirs).lower()]


def test_what_both_refuse_and_what_only_lambda_does_not_have() -> None:
    wrong = ["{}", '{"a": []}', '{"a": {}}', '{"a": [[1]]}', '{"a": 1}', '{"a": [{"prefix": 1}]}', '{"a": [{"numeric": [">", 2, "<", 1]}]}']
    wrong += [
        '{"a": [{"anything-but": [1, "a"]}]}',
        '{"a": [{"numeric": ["<", 5, ">", 1]}]}',
        '{"$or": [{"a": [1]}]}',
        '{"$or": [{"cidr": [1]}, {"a": [1]}]}',
    ]
    more = [
        '{"a": [{"wildcard": "a*"}]}',
        '{"a": [{"cidr": "10.0.0.0/8"}]}',
        '{"a": [{"exactly": "a"}]}',
        '{"a": [{"anything-but": {"prefix": "a"}}]}',
    ]
    more += ['{"a": [{"prefix": {"equals-ignore-case": "a"}}]}']
    answers = event_ruler([(pattern, '{"a": "b"}') for pattern in wrong + more])
    for pattern, answer in zip(wrong + more, answers, strict=True):
        with pytest.raises(ConfigError):
            FilterCriteria([pattern])
        assert (answer in ("true", "false")) == (pattern in more), (pattern, answer)
