"""Functions in real runtimes: Lambda's deployment packages, run by Lambda's runtimes, without Docker."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

from streamcore.errors import ConfigError
from streamcore.functions._package import command_of, unpack
from streamcore.functions._pooled import PooledFunction

__all__ = ["RuntimeFunction", "parse_runtime_function"]

_OPTIONS = ("handler", "runtime", "timeout", "memory", "name", "executable")


class RuntimeFunction(PooledFunction):
    """A `Function` that runs a Lambda deployment package in processes of its own runtime, which speak the Lambda Runtime API.

    There is one process for each invocation at a time, as on Lambda. Processes are started when they are needed and used again, so what a
    handler keeps in global variables is there in the next invocation. Python is run by AWS's own `awslambdaric`, which must be installed
    for that interpreter; Node.js by a small runtime that comes with streamcore; anything else by the package's own `bootstrap` ("Lambda
    developer guide", Building a custom runtime).

    Each line that a process writes goes to the logger `streamcore.function` at level INFO, behind its request id; so do START, END and
    REPORT lines as in Lambda's log.

    The environment is that of this process and over it what Lambda sets ("Lambda developer guide", Working with environment variables).
    What is not as on Lambda: the memory is not limited, the file system is not read-only, a process is not frozen between invocations,
    there are no extensions and no layers, answers that a function streams are gathered, and a callback of Node.js answers at once, without
    waiting for an empty event loop.

    Args:
        path: a folder, or a .zip, which is unpacked into a temporary folder.
        handler: as in Lambda's configuration: `app.handler`. What a `bootstrap` makes of it is its affair.
        runtime: `python3.N`, `nodejsN.x`, or `provided` (`provided.al2`, `provided.al2023`) for a `bootstrap`. None to take the one whose
            file the package has.
        timeout_ms: how long an invocation may take, 1 to 900,000. After that its process is killed, and the batch has failed. The
            initialization has 10 s more.
        memory: what the function is told, in MiB, 128 to 10,240.
        name: the function's name; by default that of the folder or file.
        function_arn: its ARN with its qualifier; by default `arn:aws:lambda:us-east-1:000000000000:function:NAME`.
        environment: variables of the function.
        executable: the interpreter; by default this one where the version is the same, else the one on PATH.
        processes: most processes at a time; by default as many as there are invocations.
        region: AWS_REGION where the environment has none.

    Raises:
        ConfigError: the package has no such handler, its runtime is not installed, the .zip is damaged or leads out of its folder, or an
            argument is out of range.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "app.py").write_text("def handler(event, context): return len(event['Records'])")
        >>> function = RuntimeFunction(folder, handler="app.handler", timeout_ms=30_000)
        >>> function.close()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        handler: str,
        runtime: str | None = None,
        timeout_ms: int = 3000,
        memory: int = 128,
        name: str | None = None,
        function_arn: str | None = None,
        environment: dict[str, str] | None = None,
        executable: str | None = None,
        processes: int | None = None,
        region: str | None = None,
    ) -> None:
        given = Path(path).resolve()
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        if given.is_dir():
            folder = given
        elif given.is_file():
            self._unpacked = tempfile.TemporaryDirectory(prefix="streamcore-")
            folder = Path(self._unpacked.name).resolve()
        else:
            raise ConfigError(f"there is no folder or .zip {os.fspath(path)!r}", parameter="function")
        try:
            if self._unpacked is not None:
                unpack(given, folder)
            command, runtime = command_of(folder, handler, runtime, executable)
            libraries = [f"{folder}", f"{folder}/lib", *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            super().__init__(
                command=command,
                folder=str(folder),
                environment={
                    **(environment or {}),
                    "_HANDLER": handler,
                    # Lambda does not define it for a runtime of one's own.
                    **({} if runtime.startswith("provided") else {"AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime}"}),
                    "LAMBDA_TASK_ROOT": str(folder),
                    "LD_LIBRARY_PATH": ":".join(libraries),
                },
                name=name or function_name(given),
                function_arn=function_arn,
                timeout_ms=timeout_ms,
                memory=memory,
                processes_max=processes,
                region=region,
            )
        except BaseException:
            self._clean_up()
            raise

    def close(self) -> None:
        """End the processes, and remove what was unpacked. Safe to call twice."""
        super().close()
        self._clean_up()

    def _clean_up(self) -> None:
        if self._unpacked is not None:
            with contextlib.suppress(OSError):  # a process may have written to it in its last moment
                self._unpacked.cleanup()


def function_name(path: Path) -> str:
    """Return the name of a function whose package lies there, in which characters that Lambda does not allow are `-`."""
    return re.sub(r"[^a-zA-Z0-9_-]", "-", path.stem if path.suffix == ".zip" else path.name)[:64] or "function"


def parse_runtime_function(
    text: str, *, timeout_ms: int | None = None, processes: int | None = None, region: str | None = None
) -> RuntimeFunction:
    """Make a `RuntimeFunction` of the text that `--function` takes: `runtime:PATH?handler=app.handler&option=value`.

    The options are handler, runtime, timeout (seconds), memory (MiB), name and executable; `handler` is required but for a `bootstrap`.
    Path and values may be percent-encoded; a "?" in the path, and a "&" or a "%" that two hexadecimal digits follow anywhere, must be.

    Args:
        text: the text.
        timeout_ms: the timeout where the text has none.
        processes: most processes at a time.
        region: see `RuntimeFunction`.

    Raises:
        ConfigError: the text is not of that form, an option is unknown, given twice or has a wrong value, or as for `RuntimeFunction`.
    """
    path, options = split_runtime_text(text)
    if "timeout" in options:
        if timeout_ms is not None:
            raise ConfigError(f"the timeout is given twice, as {options['timeout']} in {text}", parameter="timeout")
        timeout_ms = round(1000 * _number(text, "timeout", options["timeout"], 0.001, 900))
    memory = _number(text, "memory", options.get("memory", "128"), 128, 10_240)
    return RuntimeFunction(
        path,
        handler=options.get("handler", "function.handler"),
        runtime=options.get("runtime"),
        timeout_ms=3000 if timeout_ms is None else timeout_ms,
        memory=int(memory),
        name=options.get("name"),
        executable=options.get("executable"),
        processes=processes,
        region=region,
    )


def split_runtime_text(text: str) -> tuple[str, dict[str, str]]:
    """Return path and options of such a text.

    Raises:
        ConfigError: it is not of that form.
    """
    scheme, _, rest = text.partition(":")
    path, _, query = rest.partition("?")
    if scheme != "runtime" or not path:
        raise _error(f"a function in a runtime is runtime:PATH?handler=app.handler, not {text!r}")
    options: dict[str, str] = {}
    for part in query.split("&") if query else []:
        option, equals, value = part.partition("=")
        if option not in _OPTIONS:
            near = difflib.get_close_matches(option, _OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise _error(f"{text}: there is no option {option!r}; {hint}The options are: {', '.join(_OPTIONS)}")
        if not equals or not value or option in options:
            fault = "is given twice" if option in options else f"needs a value, as in {option}=VALUE"
            raise _error(f"{text}: the option {option!r} {fault}")
        options[option] = unquote(value)
    path = unquote(path)
    if "handler" not in options and not (Path(path) / "bootstrap").is_file() and not options.get("runtime", "").startswith("provided"):
        raise _error(f"{text}: say which function to call, as in runtime:{path}?handler=app.handler")
    return path, options


def _number(text: str, name: str, value: str, smallest: float, largest: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    whole = smallest >= 1
    if not smallest <= number <= largest or (whole and not number.is_integer()):
        kind = "a whole number" if whole else "a number"
        raise _error(f"{text}: {name} must be {kind} from {smallest:g} to {largest:g}, not {value!r}")
    return number


def _error(text: str) -> ConfigError:
    return ConfigError(text, parameter="function")
