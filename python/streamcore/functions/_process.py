"""One process of a function, and the Lambda Runtime API that it talks to ("Lambda developer guide", Building a custom runtime).

Each process has a port of its own on 127.0.0.1, so that a request needs no other name for the process it comes from. The thread that
invokes is the server: it hands out the event, waits for the answer, and meanwhile reads what the process writes and watches over its life.
Between invocations nobody listens; on Lambda the process is frozen then.

A process is in a group with a *keeper*, a shell that waits for the end of a pipe that this process holds. When this process ends, however
that comes about, the keeper kills the group. So no process of a function outlives streamcore, nor do those that it started itself.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamcore._streamcore import exchange
from streamcore.functions._http import CONTINUE, BodyTooLargeError, ProtocolError, Request, RequestReader, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["RESPONSE_MAX", "Exited", "Launch", "Overdue", "Reply", "RuntimeProcess", "TooLarge"]

RESPONSE_MAX = 6_291_556
"""Most bytes of an answer, as Lambda's error text says it."""

_INVOCATION = b"/2018-06-01/runtime/invocation"
_NEXT = _INVOCATION + b"/next"
_INIT_ERROR = b"/2018-06-01/runtime/init/error"
_JSON = ("Content-Type", "application/json")
_LINE_MAX = 256 * 1024
_TAIL_MAX = 2048
_KEEPER = 'trap "" HUP INT QUIT TERM; read -r _; kill -9 0'


_KINDS = {b"response": "response", b"error": "error"}


def _error(status: str, error_type: str, message: str) -> bytes:
    body = f'{{"errorType":"{error_type}","errorMessage":"{message}"}}'.encode()
    return response(status, [_JSON], len(body)) + body


_ACCEPTED_BODY = b'{"status":"OK"}\n'
_ACCEPTED = response("202 Accepted", [_JSON], len(_ACCEPTED_BODY)) + _ACCEPTED_BODY
_NOT_FOUND = _error("404 Not Found", "NotFound", "the Lambda Runtime API has no such path and method")
_WRONG_ID = _error("400 Bad Request", "InvalidRequestID", "Invalid request ID")
_WRONG_STATE = _error("403 Forbidden", "InvalidStateTransition", "State transition is not allowed")


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a process.

    Attributes:
        command: program and arguments.
        environment: all of it, but for AWS_LAMBDA_RUNTIME_API, which is each process's own.
        folder: the working directory.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a runtime posted.

    Attributes:
        kind: "response", "error" or "init_error".
        body: the JSON text, as it came.
        error_type: what a header says, or for a response in chunks that broke off a trailer; None where nothing does.
        error_body: the JSON text of the error of such a response.
    """

    kind: str
    body: bytes
    error_type: str | None
    error_body: bytes = b""


class Exited(Exception):  # noqa: N818 - an end, which need not be an error
    """The process has ended. The text says how, in Lambda's words."""


class Overdue(Exception):  # noqa: N818 - as Exited
    """The time is over."""


class TooLarge(Exception):  # noqa: N818 - as Exited
    """The process posted more than `RESPONSE_MAX` bytes."""


class _Connection:
    """One connection of a process: its requests come out of a reader, answers go in as far as the socket takes them."""

    __slots__ = ("reader", "socket", "unsent")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.reader = RequestReader(RESPONSE_MAX)
        self.unsent: list[bytes | memoryview] = []

    def send(self, *parts: bytes) -> bool:
        """Send the parts, or begin to. Returns whether all is sent. Nothing else is being sent: a client asks one thing at a time."""
        self.unsent.extend(parts)
        return self.flush()

    def flush(self) -> bool:
        """Go on sending. Returns whether all is sent."""
        while self.unsent:
            try:
                sent = self.socket.sendmsg(self.unsent)
            except BlockingIOError:
                return False
            except OSError:  # the other end is gone; that it is, reading tells
                self.unsent.clear()
                return True
            unsent = self.unsent
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.pop(0))
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]
        return True


class RuntimeProcess:
    """A process that asks for events and posts answers. Used by one thread at a time.

    For an invocation, `usual_turn` is tried first; `await_ready`, `hand_out` and `await_answer` do the same step by step, whatever happens.

    Args:
        launch: how to start it.
        on_line: is given each line that the process writes, after the request id of its current or last invocation, None before the first.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, launch: Launch, on_line: Callable[[str | None, str], None]) -> None:
        self._on_line = on_line
        self._request_id: str | None = None
        self._line = bytearray()  # what was written of a line that has no end yet
        self._tail = bytearray()
        self.under_way = False
        self._asking: _Connection | None = None  # waits for an event
        self._connections: dict[int, _Connection] = {}
        self._inbox: deque[tuple[_Connection, Request]] = deque()
        self._gone = False
        self._retired = False
        self._fate = threading.Lock()
        self._memory_mb = 0
        with contextlib.ExitStack() as undo:
            self._listener = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
            self._listener.setblocking(False)  # noqa: FBT003 - the name says it
            host, port = self._listener.getsockname()
            self._output, written = os.pipe()
            undo.callback(os.close, self._output)
            os.set_blocking(self._output, False)
            try:
                self._keeper = subprocess.Popen(  # noqa: S603 - the text is ours
                    ["/bin/sh", "-c", _KEEPER], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
                )
                undo.callback(self._end_keeper)
                self._process = subprocess.Popen(  # noqa: S603 - to run what it is given is its purpose
                    launch.command,
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=written,
                    cwd=launch.folder,
                    env={**launch.environment, "AWS_LAMBDA_RUNTIME_API": f"{host}:{port}"},
                    process_group=self._keeper.pid,
                )
                undo.callback(self._end_process)
            finally:
                os.close(written)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        self.started = time.monotonic()
        self.pid = self._process.pid
        self._poll = select.poll()
        self._listen(self._output)
        self._listen(self._listener.fileno())
        self._listen(self._pidfd)

    def await_ready(self, deadline: float) -> Reply | None:
        """Wait until the process asks for an event; the deadline is of `time.monotonic`.

        Returns:
            None, or what the process posted as the error of its initialization.

        Raises:
            Exited: it ended.
            Overdue: it did neither until the deadline.
            TooLarge: it posted too much.
        """
        while self._asking is None:
            connection, request = self._next_request(deadline)
            if request.path == _NEXT and request.method == b"GET":
                self._asking = connection
            elif request.path == _INIT_ERROR and request.method == b"POST":
                self._answer(connection, _ACCEPTED, deadline)
                return _reply("init_error", request)
            else:
                self._refuse(connection, request, deadline)
        if self._gone:  # it ended after it had asked
            raise Exited(self._how_it_ended())
        return None

    def usual_turn(self, request_id: str, head: bytes, event: bytes, limit_s: float) -> Reply | None:
        """Hand out an event and return the answer, if nothing happens but what happens in nearly every invocation.

        Otherwise return None. If `under_way` is true then, the event is handed out and `await_answer` is next, else `await_ready`.
        """
        connection = self._only_connection()
        if connection is None:
            return None
        number = connection.socket.fileno()
        sent, received, whole = exchange(
            (number, self._output, self._listener.fileno(), self._pidfd),
            self._asking is not None,
            int(limit_s * 1000) + 1,
            (head, event),
            (b"GET %s " % _NEXT, b"POST %s/%s/response " % (_INVOCATION, request_id.encode()), _ACCEPTED),
        )
        if sent is not None:
            self._asking = None
            self._request_id = request_id
            self._tail.clear()
        if whole:
            return Reply("response", received, None)
        if sent is not None:
            self.under_way = True
            connection.unsent = [memoryview(head)[sent:], memoryview(event)[max(sent - len(head), 0) :]]
            self._listen(number, select.POLLIN | select.POLLOUT)
        if received:
            self._take_in(connection, received)
        return None

    def hand_out(self, request_id: str, head: bytes, event: bytes, deadline: float) -> None:
        """Hand the process that is ready an event.

        Raises:
            Overdue: it did not take the event in until the deadline.
            TooLarge: it posted too much.
        """
        connection, self._asking = self._asking, None
        assert connection is not None  # noqa: S101 - `await_ready` comes first
        self.under_way = True
        self._request_id = request_id
        self._tail.clear()
        self._answer(connection, head, deadline, event)

    def await_answer(self, request_id: str, deadline: float) -> Reply:
        """Return what the process posts for the event that was handed out.

        Raises:
            Exited: it ended before it had posted.
            Overdue: it did not post until the deadline.
            TooLarge: it posted too much.
        """
        mine = b"%s/%s/" % (_INVOCATION, request_id.encode())
        while True:
            connection, request = self._next_request(deadline)
            place, _, kind = request.path.rpartition(b"/")
            if request.method != b"POST" or kind not in _KINDS or not place.startswith(_INVOCATION):
                self._refuse(connection, request, deadline)
            elif not request.path.startswith(mine):
                self._answer(connection, _WRONG_ID, deadline)
            else:
                self._answer(connection, _ACCEPTED, deadline)
                self.under_way = False
                return _reply(_KINDS[kind], request)

    @property
    def tail(self) -> str:
        """The end of what it wrote since the invocation began."""
        return self._tail.decode(errors="replace").strip()

    def memory_mb(self) -> int:
        """Return the most memory that it has had so far, in MiB; 0 where that is not known, as after its end."""
        if self._retired:
            return self._memory_mb
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{self.pid}/status", encoding="ascii") as status:  # noqa: PTH123 - this is on the way of each invocation
            for line in status:
                if line.startswith("VmHWM:"):
                    return math.ceil(int(line.split()[1]) / 1024)
        return 0

    # Its end.

    def terminate(self) -> None:
        """Ask the process, and all that it started, to end."""
        self._signal(signal.SIGTERM)

    def await_end(self, deadline: float) -> None:
        """Wait until the process has ended, or until the deadline."""
        with contextlib.suppress(Overdue, TooLarge):
            while not self._gone:
                self._turn(deadline)

    def kill(self) -> None:
        """End the process and all that it started, at once. May be called by another thread; then the one that waits sees the end."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # The keeper's number is the group's, and nobody else's until the keeper has been waited for.
        with self._fate, contextlib.suppress(OSError):
            if not self._retired:
                os.killpg(self._keeper.pid, number)

    def retire(self) -> None:
        """Kill it, read what it wrote last, and free everything. Safe to call twice; by the thread that uses it."""
        if self._retired:
            return
        self._memory_mb = self.memory_mb()
        self.kill()
        with self._fate:
            self._retired = True
        self._process.wait()
        self._read_output()
        if self._line:
            self._say(bytes(self._line))
        self._keeper.wait()
        self._end_keeper()
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._listener.close()
        os.close(self._output)
        os.close(self._pidfd)

    def _end_process(self) -> None:
        self._process.kill()
        self._process.wait()

    def _end_keeper(self) -> None:
        assert self._keeper.stdin is not None  # noqa: S101 - asked for above
        self._keeper.stdin.close()
        self._keeper.wait()

    # One turn of the loop.

    def _next_request(self, deadline: float) -> tuple[_Connection, Request]:
        inbox = self._inbox
        while not inbox:
            if self._gone:
                raise Exited(self._how_it_ended())
            self._turn(deadline)
        return inbox.popleft()

    def _turn(self, deadline: float) -> None:
        """Wait for something to happen until the deadline, and see to it."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Overdue
        events = self._poll.poll(int(left * 1000) + 1)
        if len(events) > 1:
            # What was written before an answer belongs to its invocation, and an answer that was posted before the end counts.
            events.sort(key=lambda event: (event[0] == self._pidfd, event[0] != self._output))
        for number, event in events:
            connection = self._connections.get(number)
            if connection is not None:
                self._serve(connection, event)
            elif number == self._output:
                self._read_output()
            elif number == self._pidfd:
                self._see_end()
            else:
                self._accept()

    def _listen(self, number: int, event: int = select.POLLIN) -> None:
        self._poll.register(number, event)

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:  # nobody is waiting any more
                return
            connected.setblocking(False)  # noqa: FBT003 - as above
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[connected.fileno()] = _Connection(connected)
            self._listen(connected.fileno())

    def _serve(self, connection: _Connection, event: int) -> bool:
        """Send and receive what can be. Returns whether something came."""
        if event & select.POLLOUT and connection.flush():
            self._listen(connection.socket.fileno())
        if not event & ~select.POLLOUT:
            return False
        try:
            data = connection.socket.recv(256 * 1024)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return False
        return self._take_in(connection, data)

    def _take_in(self, connection: _Connection, data: bytes) -> bool:
        """Make requests of what came. Returns whether the connection goes on."""
        reader = connection.reader
        try:
            request = reader.feed(data)
            while request is not None:
                self._inbox.append((connection, request))
                request = reader.more() if reader.buffer else None
        except BodyTooLargeError as error:
            if not error.path.endswith((b"/response", b"/error")):
                self._close(connection)
                return False
            raise TooLarge from None
        except ProtocolError:
            self._close(connection)
            return False
        if reader.awaits_continue:
            connection.send(CONTINUE)
        return True

    def _only_connection(self) -> _Connection | None:
        """Return the connection, if there is but one and nothing of a request is there but what the kernel holds."""
        if len(self._connections) != 1 or self._inbox or self._gone:
            return None
        (connection,) = self._connections.values()
        return None if connection.reader.busy or connection.unsent else connection

    def _close(self, connection: _Connection) -> None:
        self._poll.unregister(connection.socket.fileno())
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        if connection is self._asking:
            self._asking = None
        for entry in [entry for entry in self._inbox if entry[0] is connection and entry[1].path == _NEXT]:
            self._inbox.remove(entry)

    def _answer(self, connection: _Connection, head: bytes, deadline: float, *body: bytes) -> None:
        if connection.send(head, *body):
            return
        self._listen(connection.socket.fileno(), select.POLLIN | select.POLLOUT)
        while connection.unsent and not self._gone and connection.socket.fileno() >= 0:
            self._turn(deadline)

    def _refuse(self, connection: _Connection, request: Request, deadline: float) -> None:
        known = request.path == _INIT_ERROR or request.path.startswith(_INVOCATION)
        self._answer(connection, _WRONG_STATE if known else _NOT_FOUND, deadline)

    def _see_end(self) -> None:
        """Read what the process sent before it ended."""
        self._gone = True
        self._poll.unregister(self._pidfd)
        self._read_output()
        self._accept()
        for connection in list(self._connections.values()):
            while self._serve(connection, select.POLLIN):
                pass

    def _how_it_ended(self) -> str:
        status = self._process.wait()
        if status == 0:
            return "Runtime exited without providing a reason"
        if status > 0:
            return f"Runtime exited with error: exit status {status}"
        description = signal.strsignal(-status) or f"signal {-status}"
        return f"Runtime exited with error: signal: {description.lower()}"

    # What it writes.

    def _read_output(self) -> None:
        while True:
            try:
                data = os.read(self._output, 64 * 1024)
            except BlockingIOError:
                return
            if not data:
                with contextlib.suppress(KeyError):
                    self._poll.unregister(self._output)
                return
            self._tail += data
            del self._tail[:-_TAIL_MAX]
            *lines, rest = (bytes(self._line) + data if self._line else data).split(b"\n")
            self._say_all(lines)
            while len(rest) > _LINE_MAX:
                self._say(rest[:_LINE_MAX])
                rest = rest[_LINE_MAX:]
            self._line[:] = rest
            if len(data) < 64 * 1024:
                return

    def _say_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._say(line)

    def _say(self, line: bytes) -> None:
        self._on_line(self._request_id, line.decode(errors="replace").rstrip("\r").replace("\r", "\n"))


def _reply(kind: str, request: Request) -> Reply:
    error_type = request.header(b"\r\nlambda-runtime-function-error-type:")
    if error_type is None:
        return Reply(kind, request.body, None)
    try:
        error_body = base64.b64decode(request.header(b"\r\nlambda-runtime-function-error-body:") or b"")
    except ValueError:
        error_body = b""
    return Reply(kind, request.body, error_type.decode("latin-1"), error_body)
