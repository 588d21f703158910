"""Answers of HTTP/1.1 as servers send them, good and bad, over a real socket."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from http.client import HTTPException, RemoteDisconnected
from typing import TYPE_CHECKING

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from streamcore.sources._http1 import Answer, quick

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b'{"Records":[]}'
WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nX-Amzn-RequestId: 1\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n" + BODY[:4] + b"\r\nA\r\n" + BODY[4:] + b"\r\n0\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY
CONTINUED = b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n" + WITH_LENGTH


def read(*pieces: bytes) -> tuple[Answer, bool]:
    """Have a peer send these bytes, piece by piece, and close; read the answer from them."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs, contextlib.suppress(OSError):
            for piece in pieces:
                theirs.sendall(piece)

    thread = threading.Thread(target=send)
    thread.start()
    answer = Answer()
    with ours:
        try:
            return answer, answer.read(ours)
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("sent", "reusable"),
    [(WITH_LENGTH, True), (CHUNKED, True), (UNTIL_CLOSED, False), (OLD, False), (CONTINUED, True)],
    ids=["length", "chunked", "until closed", "HTTP/1.0", "continue"],
)
def test_a_body_ends_where_its_head_says(sent: bytes, reusable: bool) -> None:  # noqa: FBT001
    answer, reused = read(sent)
    assert (answer.status, answer.data, reused) == (200, BODY, reusable)
    assert "x-early" not in answer.headers


@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=6), sent=st.sampled_from([WITH_LENGTH, CHUNKED, UNTIL_CLOSED, CONTINUED]))
def test_an_answer_may_come_in_pieces(cuts: list[int], sent: bytes) -> None:
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    answer, _ = read(*[sent[a:b] for a, b in itertools.pairwise(edges)])
    assert (answer.status, answer.data) == (200, BODY)


@given(length=st.integers(0, len(WITH_LENGTH) - 1))
def test_an_answer_that_breaks_off_is_none(length: int) -> None:
    with pytest.raises(HTTPException):
        read(WITH_LENGTH[:length])


@pytest.mark.parametrize("length", [len(CHUNKED) - 1, len(CHUNKED) - 20])
def test_chunks_that_break_off_are_no_answer(length: int) -> None:
    with pytest.raises(HTTPException):
        read(CHUNKED[:length])


def test_a_large_body_is_whole() -> None:
    body = bytes(range(256)) * 40_000
    answer, reused = read(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert (answer.data == body, reused) == (True, True)


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", WITH_LENGTH + WITH_LENGTH],
    ids=["nonsense", "length", "two"],
)
def test_what_is_no_answer_is_told_of(sent: bytes) -> None:
    with pytest.raises(HTTPException, match="not HTTP"):
        read(sent)


def test_a_server_that_closes_at_once_is_told_of() -> None:
    with pytest.raises(RemoteDisconnected):
        read()


@pytest.fixture
def pool() -> Iterator[urllib3.HTTPConnectionPool]:
    """A pool of our connections to a server that answers, and closes the first connection of all in its answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        made = urllib3.HTTPConnectionPool("127.0.0.1", listening.getsockname()[1], timeout=20)
        made.ConnectionCls = quick(made.ConnectionCls)
        yield made
        made.close()
        thread.join(20)
        assert not thread.is_alive()


def serve(listening: socket.socket) -> None:
    """Answer one request with "Connection: close", then two on a second connection, the last with nonsense."""
    for answers in ([b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n" + BODY], [WITH_LENGTH, b"nonsense"]):
        connection, _ = listening.accept()
        with connection:
            for answer in answers:
                if not connection.recv(65_536):
                    break
                connection.sendall(answer)


def test_a_connection_is_used_again_until_its_server_closes_it(pool: urllib3.HTTPConnectionPool) -> None:
    for _ in range(2):
        assert pool.urlopen("POST", "/", body=b"{}", headers={"Host": "here"}, retries=False, redirect=False).data == BODY
    assert pool.num_connections == 1
    with pytest.raises(ProtocolError, match="not HTTP"):
        pool.urlopen("POST", "/", body=b"{}", headers={"Host": "here"}, retries=False, redirect=False)


def test_a_header_cannot_bring_another_one() -> None:
    connection = quick(urllib3.connection.HTTPConnection)("127.0.0.1", 9)
    with pytest.raises(ValueError, match="line break"):
        connection.request("POST", "/", b"{}", {"X-Amz-Security-Token": "a\r\nX-Other: b"})
