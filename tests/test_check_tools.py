"""What `make` says when a tool is missing: one line that names what would be right."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("sh", "bash", "sed", "head", "sort", "dirname", "grep")
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

    def check(self, script: str = "check-tools", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(ROOT / "scripts" / script)],
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


@pytest.fixture
def peers_machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.write("node", "echo v20.1.0")
    machine.write("java", "case $1 in --list-modules) echo jdk.compiler@17.0.1 ;; *) echo 'openjdk version \"17.0.1\"' >&2 ;; esac")
    for name in ("npm", "mvn"):
        machine.write(name, "exit 0")
    return machine


def test_a_machine_with_everything_for_the_peers_passes(peers_machine: Machine) -> None:
    answer = peers_machine.check("check-peers")
    assert (answer.returncode, answer.stderr) == (0, "")


def test_all_that_the_peers_lack_is_named_at_once(peers_machine: Machine) -> None:
    for name in ("npm", "mvn"):
        (peers_machine.folder / name).unlink()
    answer = peers_machine.check("check-peers")
    assert answer.returncode == 1
    first, *missing = answer.stderr.splitlines()
    assert first == "streamcore: make test-peers needs these too, and they are not on PATH:"
    assert [line.split(":")[0].strip() for line in missing] == ["npm", "mvn"]


@pytest.mark.parametrize(
    ("tool", "body", "said"),
    [
        ("node", "echo v16.20.2", "needs Node.js 18 or newer; node is v16.20.2"),
        ("java", "echo 'openjdk version \"11.0.2\"' >&2", "needs a JDK of version 17 or newer"),
        ("java", "[ $1 = --list-modules ] || echo 'openjdk version \"17.0.2\"' >&2", "not a runtime alone"),
    ],
)
def test_a_tool_of_the_peers_that_is_too_old_is_named(peers_machine: Machine, tool: str, body: str, said: str) -> None:
    peers_machine.write(tool, body)
    answer = peers_machine.check("check-peers")
    assert answer.returncode == 1
    assert said in answer.stderr
