"""What `make` says when a tool is missing: one line that names what would be right."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("sh", "bash", "sed", "head", "sort", "dirname")
GOOD_RUST = 'echo "rustc 1.200.0 (0 2030-01-01)"'


class Machine:
    """A folder that is all of PATH. It holds small scripts and no links, so writing here cannot reach the real tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NEEDED:
            real = shutil.which(name)
            assert real is not None, f"{name} is not on this machine"
            self.write(name, f'exec {real} "$@"')

    def write(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def check(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(ROOT / "scripts" / "check-tools")],
            env={"PATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.write("python3", f'exec {sys.executable} "$@"')
    machine.write("rustc", GOOD_RUST)
    machine.write("cargo", "exit 0")
    return machine


def refusal(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 1
    assert answer.stdout == ""
    lines = answer.stderr.splitlines()
    assert len(lines) == 1, answer.stderr
    return lines[0]


def test_a_machine_with_everything_passes(machine: Machine) -> None:
    answer = machine.check()
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "python3\n", "")


def test_no_python(machine: Machine) -> None:
    (machine.folder / "python3").unlink()
    assert refusal(machine.check()).startswith("streamcore: needs Python 3.11 or newer; found none.")


def test_an_old_python_is_named_with_its_version(machine: Machine) -> None:
    machine.write("python3", '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; exit 1')
    assert "found python3 (Python 3.9.2)" in refusal(machine.check())


def test_a_newer_python_beside_an_old_one_is_taken(machine: Machine) -> None:
    machine.write("python3", "exit 1")
    machine.write("python3.12", f'exec {sys.executable} "$@"')
    assert machine.check().stdout == "python3.12\n"


def test_a_python_without_venv(machine: Machine) -> None:
    machine.write("python3", 'case "$2" in *ensurepip*) exit 1 ;; esac; exit 0')
    assert "python3 has no venv module" in refusal(machine.check())


def test_a_named_python_that_is_not_there(machine: Machine) -> None:
    assert "there is no 'nonesuch'" in refusal(machine.check(PYTHON="nonesuch"))


def test_no_rust(machine: Machine) -> None:
    (machine.folder / "cargo").unlink()
    assert "needs a Rust toolchain (cargo and rustc, 1.95 or newer)" in refusal(machine.check())


def test_an_old_rust(machine: Machine) -> None:
    machine.write("rustc", 'echo "rustc 1.84.1 (e71f9a9a9 2025-01-27)"')
    assert "needs Rust 1.95 or newer; rustc is 1.84" in refusal(machine.check())


def test_a_rustup_without_a_toolchain(machine: Machine) -> None:
    machine.write("rustc", "echo 'error: no default toolchain' >&2; exit 1")
    assert "'rustc --version' gives no answer" in refusal(machine.check())
