"""Functions that run in processes: hands batches to the processes of a pool, and makes answers of what becomes of them."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from streamcore.errors import ConfigError
from streamcore.functions._pool import ClosedError, ProcessPool
from streamcore.functions._process import RESPONSE_MAX, Exited, Launch, Overdue, Reply, RuntimeProcess, TooLarge
from streamcore.protocols import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamcore._streamcore import Batch

__all__ = ["PooledFunction"]

_log = logging.getLogger("streamcore.function")
# What a Lambda that streamcore itself may run in has told its own runtime.
_NOT_OURS = frozenset({"AWS_EXECUTION_ENV", "AWS_LAMBDA_MAX_CONCURRENCY", "_LAMBDA_TELEMETRY_LOG_FD"})
_INIT_S = 10.0  # what Lambda gives the initialization of a function before it counts as part of the invocation


class PooledFunction:
    """What every function that runs in processes has in common.

    Args:
        command: program and arguments of a process.
        folder: the processes' working directory.
        environment: variables of its kind, over those of this process and under those that Lambda sets.
        name: the function's name.
        function_arn: its ARN, None for one of a local function of that name.
        timeout_ms: how long an invocation may take.
        memory: what the function is told.
        processes_max: most processes at a time, None for no limit.
        region: the region that it is told where the environment names none.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        folder: str,
        environment: Mapping[str, str],
        name: str,
        function_arn: str | None,
        timeout_ms: int,
        memory: int,
        processes_max: int | None,
        region: str | None,
    ) -> None:
        limits: list[tuple[str, object, int, int]] = [
            ("timeout_ms", timeout_ms, 1, 900_000),
            ("memory", memory, 128, 10_240),
            ("processes", 1 if processes_max is None else processes_max, 1, 1000),
        ]
        for parameter, value, smallest, largest in limits:
            if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
                raise ConfigError(f"{parameter} must be an integer from {smallest} to {largest}, not {value!r}", parameter=parameter)
        arn = function_arn or f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
        qualifier = (arn.split(":")[7:] or ["$LATEST"])[0]
        self.name = name
        self._version = qualifier if qualifier.isdecimal() else "$LATEST"
        self._timeout = timeout_ms / 1000
        self._memory = memory
        self._arn = arn
        self._success = Answer("success", executed_version=self._version)
        own_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or region or "us-east-1"
        self._launch = Launch(
            command,
            {
                **{variable: value for variable, value in os.environ.items() if variable not in _NOT_OURS},
                **environment,
                "AWS_DEFAULT_REGION": own_region,
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
                "AWS_LAMBDA_FUNCTION_NAME": name,
                "AWS_LAMBDA_FUNCTION_VERSION": self._version,
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
                "AWS_LAMBDA_LOG_STREAM_NAME": f"{datetime.now(UTC):%Y/%m/%d}/[{self._version}]{uuid.uuid4().hex}",
                "AWS_REGION": own_region,
                "TZ": ":UTC",
            },
            folder,
        )
        self._pool = ProcessPool(self._start, processes_max)

    def invoke(self, batch: Batch) -> Answer:
        """Hand a process the batch's event, and return what it answers.

        An error that it reports, its end, an answer above 6,291,556 bytes, and no answer until the timeout are answers of kind
        "function_error", and so is a program that the system cannot run. After the last three, and after an error of its initialization,
        the process is killed with all that it has started, and another takes its place. That no process can be started for another reason
        is a "service_error".

        Raises:
            KeyboardInterrupt: the user wants to stop; the process was killed.
        """
        event = batch.json()
        while True:
            try:
                process, new = self._pool.take()
            except ClosedError:
                return self._closed()
            except OSError as error:
                if error.filename == self._launch.command[0] and os.path.exists(error.filename):  # noqa: PTH110 - it is text
                    return self._not_runnable(error, batch.request_id)
                problem = f"no process can be started: {error}"
                payload = {"errorType": "ServiceException", "errorMessage": problem}
                return Answer("service_error", payload, status_code=500, executed_version=None, problem=f"{self.name}: {problem}")
            try:
                answer = self._run(process, new, batch.request_id, event)
            except BaseException:
                self._pool.retire(process)
                raise
            if answer is not None:
                return answer
            self._pool.retire(process)

    def close(self) -> None:
        """End the processes. Idle ones get half a second to do so by themselves, those in an invocation are killed. Safe to call twice."""
        self._pool.close()

    def _start(self) -> RuntimeProcess:
        return RuntimeProcess(self._launch, self._say_line)

    def _start_one(self) -> None:
        """Have one process ready before the first invocation.

        Raises:
            ConfigError: it does not start.
        """
        try:
            process, _ = self._pool.take()
        except OSError as error:
            raise ConfigError(f"no process can be started: {error}", parameter="processes") from error
        fault = None
        try:
            reply = process.await_ready(process.started + _INIT_S + self._timeout)
            if reply is not None:
                fault = str(_members(_parsed(reply.body)).get("errorMessage"))
        except (Exited, TooLarge) as error:
            fault = f"{error}: {process.tail}"
        except Overdue:
            fault = f"it was not ready after {_INIT_S + self._timeout:g} s"
        except BaseException:
            self._pool.retire(process)
            raise
        if fault is not None:
            self._pool.retire(process)
            raise ConfigError(fault, parameter="function")
        self._pool.give_back(process)

    # One invocation.

    def _run(self, process: RuntimeProcess, new: bool, request_id: str, event: bytes) -> Answer | None:  # noqa: FBT001 - of this class alone
        """Return the answer; None if the process, which was used before, turned out to be gone. It has not seen the event then."""
        begun: float | None = None
        reply = init_ms = None
        verbose = _log.isEnabledFor(logging.INFO)
        status = ""
        keep = False
        try:
            begun = time.monotonic()
            if not (new or verbose):
                reply = process.usual_turn(request_id, self._head(request_id, len(event)), event, self._timeout)
                keep = reply is not None
            if reply is None and not process.under_way:
                waiting, begun = begun, None
                # What a process still does after its answer may take as long as an invocation.
                reply = process.await_ready(waiting + self._timeout + (_INIT_S if new else 0))
                begun = time.monotonic()
                if new:
                    init_ms = (begun - process.started) * 1000
                if verbose:
                    self._say_start(request_id)
                if reply is None:
                    process.hand_out(request_id, self._head(request_id, len(event)), event, begun + self._timeout)
            if process.under_way:
                reply = process.await_answer(request_id, begun + self._timeout)
                keep = True
            assert reply is not None  # noqa: S101 - each way ends with one
            answer = self._answer(reply)
        except (Exited, Overdue, TooLarge) as error:
            if self._pool.closed:
                self._pool.retire(process)
                return self._closed()
            if begun is None and not new:
                text = "%s: process %d is gone, another takes its place: %s"
                _log.debug(text, self.name, process.pid, error, extra=self._fields(request_id))
                return None
            if begun is None and verbose:
                self._say_start(request_id)
            answer, status = self._ended(error, process, request_id)
        if verbose:
            self._report(process, request_id, 0.0 if begun is None else time.monotonic() - begun, init_ms, status)
        if keep:
            self._pool.give_back(process)
        else:
            self._pool.retire(process)
        return answer

    def _head(self, request_id: str, event_bytes: int) -> bytes:
        now = time.time()
        trace = request_id.replace("-", "")
        return (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Lambda-Runtime-Aws-Request-Id: {request_id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {int((now + self._timeout) * 1000)}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {self._arn}\r\n"
            f"Lambda-Runtime-Trace-Id: Root=1-{int(now):08x}-{trace[:24]};Parent={trace[16:32]};Sampled=0\r\n"
            f"Content-Length: {event_bytes}\r\n\r\n"
        ).encode("latin-1", "replace")

    def _answer(self, reply: Reply) -> Answer:
        if reply.kind == "response" and reply.error_type is None:
            if reply.body == b"null":
                return self._success
            return Answer("success", _parsed(reply.body), executed_version=self._version)
        payload = _parsed(reply.error_body if reply.kind == "response" else reply.body)
        said = _members(payload)
        error_type = str(said.get("errorType") or reply.error_type or "Runtime.Unknown")
        return self._function_error(payload if payload is not None else {"errorType": error_type})

    def _ended(self, error: Exception, process: RuntimeProcess, request_id: str) -> tuple[Answer, str]:
        """Return the answer for an invocation that came to no good end, and what REPORT says of it. Ends the process."""
        self._pool.retire(process)
        if isinstance(error, Overdue):
            error_type, text, status = "Sandbox.Timedout", f"Task timed out after {self._timeout:.2f} seconds", "timeout"
            stamp = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
            _log.info("%s %s %s", stamp, request_id, text, extra=self._fields(request_id))
        elif isinstance(error, TooLarge):
            error_type, status = "Function.ResponseSizeTooLarge", "error"
            text = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_MAX} bytes)."
        else:
            error_type, text, status = "Runtime.ExitError", str(error), "error"
        message = text if isinstance(error, TooLarge) else f"RequestId: {request_id} Error: {text}"
        answer = self._function_error({"errorType": error_type, "errorMessage": message}, process.tail)
        return answer, f"\tStatus: {status}" + (f"\tError Type: {error_type}" if status == "error" else "")

    def _not_runnable(self, error: OSError, request_id: str) -> Answer:
        """Return the answer for a program that is there and cannot be run: it is no program, or its interpreter is missing."""
        text = f"fork/exec {error.filename}: {(error.strerror or '').lower()}"
        message = f"RequestId: {request_id} Error: {text}"
        return self._function_error({"errorType": "Runtime.InvalidEntrypoint", "errorMessage": message})

    def _function_error(self, payload: object, tail: str = "") -> Answer:
        detail = f"it wrote last: {tail}" if tail else None
        return Answer("function_error", payload, executed_version=self._version, function_error="Unhandled", detail=detail)

    def _closed(self) -> Answer:
        payload = {"errorType": "ServiceException", "errorMessage": f"function {self.name} is closed"}
        return Answer("service_error", payload, status_code=500, executed_version=None)

    # The log.

    def _fields(self, request_id: str | None) -> dict[str, object]:
        return {"function": self.name, "requestId": request_id}

    def _say_line(self, request_id: str | None, line: str) -> None:
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s %s", request_id or self.name, line, extra=self._fields(request_id))

    def _say_start(self, request_id: str) -> None:
        _log.info("START RequestId: %s Version: %s", request_id, self._version, extra=self._fields(request_id))

    def _report(self, process: RuntimeProcess, request_id: str, seconds: float, init_ms: float | None, status: str) -> None:
        fields = self._fields(request_id)
        _log.info("END RequestId: %s", request_id, extra=fields)
        _log.info(
            "REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: %d MB\tMax Memory Used: %d MB%s%s",
            request_id,
            seconds * 1000,
            math.ceil(seconds * 1000 + (init_ms or 0)),
            self._memory,
            process.memory_mb(),
            "" if init_ms is None else f"\tInit Duration: {init_ms:.2f} ms",
            status,
            extra={**fields, "durationMs": round(seconds * 1000, 2)},
        )


def _parsed(body: bytes) -> object:
    """Return the JSON value of an answer; what is no JSON is kept as text."""
    if not body:
        return None
    text = body.decode(errors="replace")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _members(payload: object) -> dict[str, object]:
    return payload if isinstance(payload, dict) else {}
