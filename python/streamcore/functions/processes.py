"""Python functions in worker processes of their own, for handlers that need the CPU."""

from __future__ import annotations

import os
import re
import sys

from streamcore.functions._pooled import PooledFunction

__all__ = ["ProcessFunction"]


class ProcessFunction(PooledFunction):
    """A `Function` that calls a Python function in one of several processes, so that several run at the same time.

    Each process imports the function's module for itself and calls the function as `LocalFunction` does, one call at a time, as Lambda
    does too. It works in the current folder, with this process's environment. At most one process runs for each batch in flight, so several
    need a ParallelizationFactor above 1 or several shards. What a process writes goes to the logger `streamcore.function` at level INFO.

    Unlike with `LocalFunction` the timeout is one: the process is killed, and the batch has failed. So does a batch whose process ends.

    Args:
        target: `package.module:function` or `path/to/file.py:function`, plain or `async def`. It takes event and context; one that takes
            a batch (see `streamcore.takes_batch`) is refused.
        processes: most processes, 1 to 1,000. They are started as they are needed.
        function_name: the name in the context; by default the function's own.
        function_arn: the ARN in the context, with its qualifier; by default `arn:aws:lambda:us-east-1:000000000000:function:NAME`.
        timeout_ms: how long an invocation may take, 1 to 900,000.
        memory_limit_in_mb: what the context says, 128 to 10,240. It limits nothing.

    Raises:
        ConfigError: `target` names no function (one process is started to see that), or an argument is out of range.

    Example:
        >>> function = ProcessFunction("json:dumps", processes=4, timeout_ms=60_000)
        >>> function.close()
    """

    def __init__(
        self,
        target: str,
        *,
        processes: int,
        function_name: str | None = None,
        function_arn: str | None = None,
        timeout_ms: int = 3000,
        memory_limit_in_mb: int = 128,
    ) -> None:
        name = function_name or re.sub(r"[^a-zA-Z0-9_-]", "-", target.rpartition(":")[2])[:64] or "function"
        super().__init__(
            # With -P the current folder is no place to find streamcore or Python's own modules in; the function's are looked for there.
            command=[sys.executable, "-P", "-m", "streamcore.functions._child", target],
            folder=os.getcwd(),  # noqa: PTH109 - text is what is needed
            environment={
                "_HANDLER": target,
                "PYTHONUNBUFFERED": "1",
                "STREAMCORE_FUNCTION_ARN": function_arn or f"arn:aws:lambda:us-east-1:000000000000:function:{name}",
                "STREAMCORE_TIMEOUT_MS": str(timeout_ms),
            },
            name=name,
            function_arn=function_arn,
            timeout_ms=timeout_ms,
            memory=memory_limit_in_mb,
            processes_max=processes,
            region=None,
        )
        self._start_one()
