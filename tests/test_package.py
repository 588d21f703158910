"""The tests run against the built wheel, and the wheel holds what it must."""

from __future__ import annotations

import importlib.metadata
import sysconfig
import tomllib
from pathlib import Path

import streamcore

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_package_under_test_is_the_installed_one() -> None:
    assert streamcore.__file__ is not None
    assert Path(streamcore.__file__).parent == Path(sysconfig.get_path("platlib")) / "streamcore"


def test_the_distribution_has_the_name_and_version_of_pyproject() -> None:
    distribution = importlib.metadata.distribution(PROJECT["name"])
    assert distribution.version == PROJECT["version"]
    assert "Private :: Do Not Upload" in distribution.metadata.get_all("Classifier", [])


def test_the_wheel_holds_every_module_the_stub_and_the_type_marker() -> None:
    files = importlib.metadata.files(PROJECT["name"])
    assert files is not None
    installed = {str(file) for file in files}
    source = ROOT / "python"
    expected = {str(path.relative_to(source)) for kind in ("*.py", "*.pyi", "*.mjs", "py.typed") for path in source.rglob(kind)}
    assert "streamcore/py.typed" in expected
    assert expected <= installed
    assert any(name.startswith("streamcore/_streamcore.") and name.endswith(".so") for name in installed)
