"""The tests of functions under Node.js, which `make test` leaves out where there is no node."""

from __future__ import annotations

import shutil

from test_runtime_function import (
    make,
    test_a_plain_node_function_without_a_callback_answers_null_when_nothing_is_left_to_do,
    test_node_handlers_of_every_form,
    test_node_modules_and_their_faults,
    test_since_node_24_what_a_function_returns_is_its_answer,
)

__all__ = [
    "make",
    "test_a_plain_node_function_without_a_callback_answers_null_when_nothing_is_left_to_do",
    "test_node_handlers_of_every_form",
    "test_node_modules_and_their_faults",
    "test_since_node_24_what_a_function_returns_is_its_answer",
]


def test_node_is_there() -> None:
    assert shutil.which("node") is not None, "the tests beside this one would be left out"
