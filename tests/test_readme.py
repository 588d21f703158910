"""Each Python example of the README runs in a process of its own and prints what the block after it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
EXAMPLE = re.compile(
    r"^## (?P<title>[^\n]+)\n(?:(?!^## ).)*?^```python\n(?P<code>.*?)^```\n(?P<rest>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)
OUTPUT = re.compile(r"\A\n+```text\n(?P<output>.*?)^```\n", re.MULTILINE | re.DOTALL)
EXAMPLES = [(found["title"], found["code"], found["rest"]) for found in EXAMPLE.finditer(README.read_text())]


def test_every_python_block_is_an_example_that_is_run() -> None:
    assert len(EXAMPLES) == README.read_text().count("```python\n") == 4


@pytest.mark.parametrize(("title", "code", "rest"), EXAMPLES, ids=[title for title, _, _ in EXAMPLES])
def test_an_example_prints_what_the_readme_says(title: str, code: str, rest: str, tmp_path: Path) -> None:
    said = OUTPUT.match(rest)
    assert said is not None, f"no text block follows the example under {title!r}"
    script = tmp_path / "example.py"
    script.write_text(code)
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.stdout == said["output"], ran.stderr
    assert ran.returncode == 0, ran.stderr
