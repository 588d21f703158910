"""Opens the function that a text names, as `--function` has it. One place decides which kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamcore.protocols import Function

__all__ = ["open_function"]


def open_function(
    text: str,
    *,
    timeout_ms: int | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
) -> Function:
    """Return the function that `text` names.

    Args:
        text: `package.module:function` or `path/to/file.py:function` for a Python function of this process; `lambda:NAME[:QUALIFIER]` or
            an ARN for one behind the Lambda API, which is asked for its configuration at once.
        timeout_ms: the function's timeout; None for what its kind has by default.
        region: where a function of AWS is.
        endpoint_url: the server of a function of AWS.
        profile: a profile of the shared configuration files, for a function of AWS.

    Raises:
        ConfigError: the text names no function, or an option cannot be right.
        FunctionUnavailableError: a function behind the Lambda API cannot be reached.
    """
    from streamcore.functions._names import FunctionName  # noqa: PLC0415  (only the kind that is called is loaded)

    if (name := FunctionName.parse(text)) is not None:
        from streamcore.functions.remote import LambdaFunction  # noqa: PLC0415

        where = region if name.region is None else None  # an ARN says it already
        remote = LambdaFunction(name, timeout_ms=timeout_ms, region=where, endpoint_url=endpoint_url, profile=profile)
        remote.describe()
        return remote
    from streamcore.functions.local import LocalFunction  # noqa: PLC0415

    return LocalFunction(text, timeout_ms=3000 if timeout_ms is None else timeout_ms)
