"""A function's package: folders and archives, the text that names one, and what is said of those that cannot be run."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from runtimes import BOOTSTRAP, TIMEOUT_MS, invoke
from streamcore import ConfigError, RuntimeFunction
from streamcore.functions import _package
from streamcore.functions._open import named_function, open_function
from streamcore.functions.runtime import parse_runtime_function

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
ANSWERING = "import os\ndef handler(event, context): return [os.getcwd(), os.environ['LAMBDA_TASK_ROOT']]\n"


def archive(path: Path, *entries: tuple[str, str], mode: int = stat.S_IFREG | 0o644) -> Path:
    """Write a .zip whose entries are named exactly so."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.external_attr = mode << 16
            file.writestr(info, content)
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_an_archive_is_unpacked_run_and_removed(tmp_path: Path) -> None:
    package = archive(tmp_path / "orders.zip", ("src/app.py", "from lib.answer import handler\n"), ("lib/answer.py", ANSWERING))
    function = RuntimeFunction(package, handler="src/app.handler", timeout_ms=TIMEOUT_MS)
    assert function.name == "orders"
    payload = invoke(function).payload
    assert isinstance(payload, list)
    folder, root = payload
    assert folder == root
    assert folder != str(tmp_path)
    assert os.path.exists(folder)  # noqa: PTH110 - it is text
    function.close()
    assert not os.path.exists(folder)  # noqa: PTH110 - it is text
    function.close()
    assert tree(tmp_path) == {"orders.zip"}


def test_a_bootstrap_in_an_archive_keeps_its_permissions(tmp_path: Path) -> None:
    code = BOOTSTRAP + "request_id, _, _ = next_event()\nrespond(request_id, 'here')\nnext_event()\n"
    package = archive(tmp_path / "go.zip", ("bootstrap", code), mode=stat.S_IFREG | 0o755)
    function = RuntimeFunction(package, handler="none", runtime="provided.al2023", timeout_ms=TIMEOUT_MS)
    assert invoke(function).payload == "here"
    function.close()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/streamcore-out", "..", "a/..", "..\\out", "C:\\out"])
def test_an_archive_cannot_leave_its_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "temporary"
    inside.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(inside))
    package = archive(tmp_path / "bad.zip", ("app.py", ANSWERING), (name, "out"))
    with pytest.raises(ConfigError, match="leads out of the folder") as raised:
        RuntimeFunction(package, handler="app.handler")
    assert raised.value.parameter == "function"
    assert tree(tmp_path) == {"bad.zip", "temporary"}, "nothing is left, inside or outside"


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    package = archive(tmp_path / "bad.zip", ("app.py", "/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    with pytest.raises(ConfigError, match=r"'app\.py' is a link or a device; give the unpacked folder instead"):
        RuntimeFunction(package, handler="app.handler")


def test_an_archive_that_is_too_large_or_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _package._UNZIPPED_MAX == 262_144_000, "Lambda's quota, 250 MB"
    monkeypatch.setattr(_package, "_UNZIPPED_MAX", 1000)
    archive(tmp_path / "large.zip", ("app.py", ANSWERING), ("data", "x" * 1000))
    with pytest.raises(ConfigError, match="Unzipped size must be smaller than 1000 bytes"):
        RuntimeFunction(tmp_path / "large.zip", handler="app.handler")
    whole = archive(tmp_path / "whole.zip", ("app.py", ANSWERING)).read_bytes()
    for content in (b"", b"no archive", whole[:40], whole.replace(b"import os", b"import so")):
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.zip cannot be unpacked"):
            RuntimeFunction(tmp_path / "bad.zip", handler="app.handler")


@pytest.mark.parametrize(
    ("files", "query", "text"),
    [
        ([], "handler=app.handler", r"handler 'app\.handler' needs the file app\.py or app/__init__\.py in .*/code"),
        (["appp.py"], "handler=app.handler", r"Did you mean 'appp\.py'\?"),
        (["app.py"], "handler=app", r"handler 'app' is not of the form file\.function, such as app\.handler"),
        (["app.py"], "", r"say which function to call, as in runtime:code\?handler=app\.handler"),
        (["app.py"], "handlr=app.handler", r"no option 'handlr'; did you mean 'handler'\? The options are: handler, runtime, timeout"),
        (["app.py"], "handler=app.handler&handler=app.other", "the option 'handler' is given twice"),
        (["app.py"], "handler", "the option 'handler' needs a value, as in handler=VALUE"),
        (["app.py"], "handler=app.handler&timeout=soon", "timeout must be a number from 0.001 to 900, not 'soon'"),
        (["app.py"], "handler=app.handler&timeout=0", "timeout must be a number from 0.001 to 900, not '0'"),
        (["app.py"], "handler=app.handler&timeout=901", "timeout must be a number from 0.001 to 900, not '901'"),
        (["app.py"], "handler=app.handler&memory=64", "memory must be a whole number from 128 to 10240, not '64'"),
        (["app.py"], "handler=app.handler&memory=128.5", "memory must be a whole number from 128 to 10240, not '128.5'"),
        (["app.py"], "handler=app.handler&runtime=java21", r"runtime 'java21' is not one of python3\.N, nodejsN\.x and provided"),
        (["app.py"], "handler=app.handler&runtime=python3.99", r"runtime python3\.99 is not on PATH; executable=PATH names another"),
        (["app.py"], "handler=app.handler&executable=/no/python", "/no/python cannot be run"),
        (["app.py"], "handler=app.handler&executable=/bin/false", "/bin/false has no awslambdaric, which runs Python functions"),
        (["app.py"], "handler=index.handler&runtime=nodejs20.x", r"needs the file index\.mjs or index\.js or index\.cjs"),
        ([], "runtime=provided", "there is no file bootstrap in"),
        (["bootstrap"], "", r"bootstrap is not executable; chmod \+x makes it so"),
        (["bootstrap"], "executable=/bin/sh", "a runtime of its own has no executable but its bootstrap"),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], query: str, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    for name in files:
        (tmp_path / "code" / name).write_text(ANSWERING)
    with pytest.raises(ConfigError, match=text):
        parse_runtime_function(f"runtime:code?{query}")


def test_a_package_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"there is no folder or \.zip 'nowhere'"):
        parse_runtime_function("runtime:nowhere?handler=app.handler")
    with pytest.raises(ConfigError, match=r"a function in a runtime is runtime:PATH\?handler=app\.handler, not 'runtime:'"):
        parse_runtime_function("runtime:")


def test_a_text_opens_a_function_with_all_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a?b&c").mkdir()
    (tmp_path / "a?b&c" / "app.py").write_text(
        "import os\n"
        "def handler(event, context): return [context.memory_limit_in_mb, context.function_name, os.environ['AWS_REGION'],\n"
        "                                     context.get_remaining_time_in_millis() > 60_000]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    text = f"runtime:a%3Fb%26c?handler=app.handler&runtime={PYTHON}&timeout=600.5&memory=1024&name=billing&executable={sys.executable}"
    function = open_function(text, region="eu-central-1", processes=1)
    assert isinstance(function, RuntimeFunction)
    assert invoke(function).payload == ["1024", "billing", "eu-central-1", True]
    function.close()
    with pytest.raises(ConfigError, match="the timeout is given twice") as raised:
        open_function(text, timeout_ms=1000)
    assert raised.value.parameter == "timeout"


def test_a_name_is_the_same_from_everywhere_and_with_other_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my orders"
    folder.mkdir()
    (folder / "app.py").touch()
    (tmp_path / "pack.v2.zip").touch()
    monkeypatch.chdir(tmp_path)
    here = named_function("runtime:my orders?handler=app.handler&timeout=5")
    assert here == ("my-orders", f"runtime:{folder}?handler=app.handler")
    monkeypatch.chdir(folder)
    assert named_function("runtime:.?handler=app.handler") == here
    assert named_function("runtime:.?handler=app.handler&name=other") == ("other", here[1])
    assert named_function("runtime:../pack.v2.zip?handler=app.handler")[0] == "pack-v2"
    assert named_function("app.py:handle") == ("handle", f"{folder}/app.py:handle")
    assert named_function("package.module:handle") == ("handle", "package.module:handle")


def test_a_runtime_that_is_not_named_is_the_one_whose_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(ANSWERING)
    environment = subprocess.run(  # what the function would be told, without a run of its own
        [sys.executable, "-P", "-c", GUESS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert environment.stdout.split() == [f"AWS_Lambda_{PYTHON}", "AWS_Lambda_nodejs20.x", "None"]


GUESS = """
import os, pathlib, sys
from streamcore import RuntimeFunction

folder = pathlib.Path(sys.argv[1])

def told(handler):
    function = RuntimeFunction(folder, handler=handler)
    print(function._launch.environment.get("AWS_EXECUTION_ENV"))
    function.close()

told("app.handler")
(folder / "node").write_text("#!/bin/sh\\n")
(folder / "node").chmod(0o755)
os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
(folder / "index.mjs").touch()
told("index.handler")
(folder / "bootstrap").touch(0o755)
told("app.handler")
"""
