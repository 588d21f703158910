"""A function's code: a folder or a .zip, and the command that runs it."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from streamcore.errors import ConfigError

__all__ = ["command_of", "unpack"]

_UNZIPPED_MAX = 262_144_000  # "Lambda developer guide", Lambda quotas
_RUNTIME = re.compile(r"python3\.\d+|nodejs\d+\.x|provided(\.al2|\.al2023)?")
_NODE_ENDINGS = (".mjs", ".js", ".cjs")
_NODE_RUNTIME = Path(__file__).with_name("_node_runtime.mjs")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip into an empty folder, with the files' permissions. Nothing is written outside of it.

    Raises:
        ConfigError: the archive is damaged, too large, or has an entry that leads out of the folder or is no file.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            if sum(entry.file_size for entry in entries) > _UNZIPPED_MAX:
                raise _error(f"{archive}: Unzipped size must be smaller than {_UNZIPPED_MAX} bytes")
            for entry in entries:
                target = folder / _inside(archive, entry.filename)
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                elif kind not in {0, stat.S_IFREG}:
                    raise _error(f"{archive}: {entry.filename!r} is a link or a device; give the unpacked folder instead")
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(entry) as packed, target.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked)
                    target.chmod(0o644 | (entry.external_attr >> 16 & 0o111))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _error(f"{archive} cannot be unpacked: {error}") from error


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise _error(f"{archive}: entry {name!r} leads out of the folder that it is unpacked into")
    return path


def command_of(folder: Path, handler: str, runtime: str | None, executable: str | None) -> tuple[list[str], str]:
    """Return the command that runs a function, and the runtime's name.

    Args:
        folder: the function's code.
        handler: as Lambda has it: `module.function`, or what a bootstrap makes of it.
        runtime: `python3.N`, `nodejsN.x` or `provided`; None to take the one whose file is there.
        executable: the interpreter; None to look for it.

    Raises:
        ConfigError: there is no such runtime, the handler's file is not there, or the interpreter is not installed.
    """
    runtime = runtime or _guess(folder, handler)
    if not _RUNTIME.fullmatch(runtime):
        raise _error(f"runtime {runtime!r} is not one of python3.N, nodejsN.x and provided")
    if runtime.startswith("provided"):
        bootstrap = folder / "bootstrap"
        if executable is not None:
            raise _error("a runtime of its own has no executable but its bootstrap")
        if not bootstrap.is_file():
            raise _error(f"there is no file bootstrap in {folder}")
        if not os.access(bootstrap, os.X_OK):
            raise _error(f"{bootstrap} is not executable; chmod +x makes it so")
        return [str(bootstrap)], runtime
    module, dot, _ = handler.rpartition(".")
    if not dot or not module:
        raise _error(f"handler {handler!r} is not of the form file.function, such as app.handler")
    if runtime.startswith("python"):
        _require_file(folder, [f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"], handler)
        python = executable or _python(runtime)
        _require_awslambdaric(python)
        return [python, "-m", "awslambdaric", handler], runtime
    _require_file(folder, [module + ending for ending in _NODE_ENDINGS], handler)
    node = executable or shutil.which("node")
    if node is None:
        raise _error(f"runtime {runtime} needs node, which is not on PATH")
    return [node, str(_NODE_RUNTIME), handler], runtime


def _guess(folder: Path, handler: str) -> str:
    if (folder / "bootstrap").is_file():
        return "provided"
    module = handler.rpartition(".")[0]
    if any((folder / (module + ending)).is_file() for ending in _NODE_ENDINGS):
        return "nodejs20.x"
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _require_file(folder: Path, names: list[str], handler: str) -> None:
    if any((folder / name).is_file() for name in names):
        return
    there = [path.name for path in folder.iterdir() if path.is_file()]
    near = difflib.get_close_matches(names[0], there, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise _error(f"handler {handler!r} needs the file {' or '.join(names)} in {folder}.{hint}")


def _python(runtime: str) -> str:
    """Return the interpreter of that version: the one that runs this, or the one on PATH."""
    if runtime == f"python{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    python = shutil.which(runtime)
    if python is None:
        raise _error(f"runtime {runtime} is not on PATH; executable=PATH names another interpreter")
    return python


def _require_awslambdaric(python: str) -> None:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('awslambdaric') is None)"
    try:
        done = subprocess.run([python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603 - the user names the interpreter
    except OSError as error:
        raise _error(f"{python} cannot be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise _error(f"{python} has no awslambdaric, which runs Python functions: {said or f'{python} -m pip install awslambdaric'}")


def _error(text: str) -> ConfigError:
    return ConfigError(text, parameter="function")
