"""A worker process of `ProcessFunction`: runs one Python function under the Lambda Runtime API.

    python -P -m streamcore.functions._child package.module:function

The function is called as `LocalFunction` calls it. There is no other client of this API in a program that has no AWS code; it speaks to
nobody but streamcore, and to know what that sends keeps it small.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

from streamcore.errors import ConfigError
from streamcore.functions.local import LocalFunction
from streamcore.protocols import Answer

if TYPE_CHECKING:
    from streamcore._streamcore import Batch

_ROOT = "/2018-06-01/runtime"


class _Invocation:
    """What a `LocalFunction` needs of a batch."""

    __slots__ = ("_event", "request_id")

    def __init__(self, request_id: str, event: bytes) -> None:
        self.request_id = request_id
        self._event = event

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self._event)
        return event


class _Api:
    """The connection to streamcore."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request_id = ""

    def next(self) -> _Invocation:
        head, event = self._call(b"GET", "invocation/next")
        marked = b"\r\nLambda-Runtime-Aws-Request-Id: "
        start = head.index(marked) + len(marked)
        self._request_id = head[start : head.index(b"\r\n", start)].decode()
        return _Invocation(self._request_id, event)

    def answer(self, answer: Answer) -> None:
        kind = "response" if answer.kind == "success" else "error"
        self._call(b"POST", f"invocation/{self._request_id}/{kind}", json.dumps(answer.payload).encode())

    def refuse(self, message: str) -> None:
        error = {"errorType": "Runtime.ImportModuleError", "errorMessage": message}
        self._call(b"POST", "init/error", json.dumps(error).encode())

    def _call(self, method: bytes, path: str, body: bytes = b"") -> tuple[bytes, bytes]:
        self._socket.sendall(
            b"%s %s/%s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (method, _ROOT.encode(), path.encode(), len(body), body)
        )
        got = self._receive(65536)
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._receive(65536)
        head, start = got[:end], end + 4
        length = int(head[head.index(b"Content-Length: ") + 16 :].partition(b"\r\n")[0])
        if len(got) - start == length:
            return head, got[start:]
        event = bytearray(got[start:])
        while len(event) < length:
            event += self._receive(length - len(event))
        return head, bytes(event)

    def _receive(self, most: int) -> bytes:
        got = self._socket.recv(most)
        if not got:
            sys.exit(0)  # streamcore is gone
        return got


def main(target: str) -> None:
    """Answer invocations until streamcore is gone."""
    environment = os.environ
    logging.getLogger("streamcore.function").disabled = True  # streamcore ends what takes too long, and logs that
    api = _Api(environment["AWS_LAMBDA_RUNTIME_API"])
    try:
        function = LocalFunction(
            target,
            function_name=environment["AWS_LAMBDA_FUNCTION_NAME"],
            function_arn=environment["STREAMCORE_FUNCTION_ARN"],
            timeout_ms=int(environment["STREAMCORE_TIMEOUT_MS"]),
            memory_limit_in_mb=int(environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
        )
    except ConfigError as error:
        api.refuse(str(error))
        sys.exit(1)
    if function.takes_batch:
        api.refuse("a function that takes batches is called in streamcore's own process, not in a process of its own")
        sys.exit(1)
    with asyncio.Runner() as runner:
        while True:
            answer = function.invoke(cast("Batch", api.next()))
            if not isinstance(answer, Answer):
                waiting = answer

                async def awaited() -> Answer:
                    return await waiting  # noqa: B023 - awaited before the next turn

                answer = runner.run(awaited())
            api.answer(answer)


if __name__ == "__main__":
    main(sys.argv[1])
