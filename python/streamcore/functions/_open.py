"""Opens the function that a text names, as `--function` has it. One place decides which kind it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from streamcore.protocols import Function

__all__ = ["named_function", "open_function"]

_RUNTIME = "runtime:"


def open_function(
    text: str,
    *,
    timeout_ms: int | None = None,
    processes: int | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
) -> Function:
    """Return the function that `text` names.

    Args:
        text: `package.module:function` or `path/to/file.py:function` for a Python function; `runtime:PATH?handler=app.handler` for a
            deployment package in a runtime of its own; `lambda:NAME[:QUALIFIER]` or an ARN for one behind the Lambda API, which is asked
            for its configuration at once.
        timeout_ms: the function's timeout; None for what its kind has by default.
        processes: most worker processes. With it a Python function runs in processes of its own, without it in this one.
        region: where a function of AWS is, and AWS_REGION of a runtime where the environment has none.
        endpoint_url: the server of a function of AWS.
        profile: a profile of the shared configuration files, for a function of AWS.

    Raises:
        ConfigError: the text names no function, or an option cannot be right.
        FunctionUnavailableError: a function behind the Lambda API cannot be reached.
    """
    # Only the kind that is called is loaded.
    from streamcore.functions._names import FunctionName  # noqa: PLC0415

    if (name := FunctionName.parse(text)) is not None:
        from streamcore.functions.remote import LambdaFunction  # noqa: PLC0415

        if processes is not None:
            raise ConfigError("a function behind the Lambda API has no processes here", parameter="processes")
        where = region if name.region is None else None  # an ARN says it already
        remote = LambdaFunction(name, timeout_ms=timeout_ms, region=where, endpoint_url=endpoint_url, profile=profile)
        remote.describe()
        return remote
    if text.startswith(_RUNTIME):
        from streamcore.functions.runtime import parse_runtime_function  # noqa: PLC0415

        return parse_runtime_function(text, timeout_ms=timeout_ms, processes=processes, region=region)
    timeout_ms = 3000 if timeout_ms is None else timeout_ms
    if processes is not None:
        from streamcore.functions.processes import ProcessFunction  # noqa: PLC0415

        return ProcessFunction(text, processes=processes, timeout_ms=timeout_ms)
    from streamcore.functions.local import LocalFunction  # noqa: PLC0415

    return LocalFunction(text, timeout_ms=timeout_ms)


def named_function(text: str) -> tuple[str, str]:
    """Return the name of a local function, and a text that is the same from wherever the function is called and with whichever options.

    Raises:
        ConfigError: the text is not of a form that names a function.
    """
    if text.startswith(_RUNTIME):
        from streamcore.functions.runtime import function_name, split_runtime_text  # noqa: PLC0415

        path, options = split_runtime_text(text)
        real = os.path.realpath(path)
        return options.get("name") or function_name(Path(real)), f"{_RUNTIME}{real}?handler={options.get('handler', '')}"
    where, _, name = text.rpartition(":")
    return name, f"{os.path.realpath(where)}:{name}" if where.endswith(".py") else text
