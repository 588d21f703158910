"""The tests of functions under Node.js, which `make test` leaves out where there is no node."""

from __future__ import annotations

import shutil

from test_runtime_function import make, test_node_handlers_of_every_form, test_node_modules_and_their_faults

__all__ = ["make", "test_node_handlers_of_every_form", "test_node_modules_and_their_faults"]


def test_node_is_there() -> None:
    assert shutil.which("node") is not None, "the tests beside this one would be left out"
