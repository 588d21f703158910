"""The usual turn with a process: what is done in one call, and that whatever is not usual is handed back whole."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from streamcore._streamcore import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD, EVENT = b"HTTP/1.1 200 OK\r\n\r\n", b'{"Records": []}'
ACCEPTED = b"HTTP/1.1 202 Accepted\r\n\r\n"
TEXTS = (b"GET /next ", b"POST /id/response ", ACCEPTED)
ANSWER = b"POST /id/response HTTP/1.1\r\nX: y\r\nCONTENT-Length: 4\r\n\r\nnull"
LIMIT_MS = 60_000


class Peer:
    """Both ends of a connection, and three descriptors that are silent until they are told to speak."""

    def __init__(self) -> None:
        self.mine, self.theirs = socket.socketpair()
        self.mine.setblocking(False)  # noqa: FBT003 - the name says it
        self.pipes = [os.pipe() for _ in range(3)]

    def turn(self, *, asked: bool = False, event: bytes = EVENT, limit_ms: int = LIMIT_MS) -> tuple[int | None, bytes, bool]:
        descriptors = (self.mine.fileno(), self.pipes[0][0], self.pipes[1][0], self.pipes[2][0])
        return exchange(descriptors, asked, limit_ms, (HEAD, event), TEXTS)

    def speak(self, number: int) -> None:
        os.write(self.pipes[number][1], b"!")

    def received(self) -> bytes:
        self.mine.close()
        got = b""
        while data := self.theirs.recv(65536):
            got += data
        return got

    def after_event(self, *pieces: bytes) -> threading.Thread:
        """Have the process take the event in and then send these pieces, each when the one before has been read."""

        def run() -> None:
            got = b""
            while len(got) < len(HEAD) + len(EVENT):
                got += self.theirs.recv(65536)
            assert got == HEAD + EVENT
            for piece in pieces:
                self.theirs.sendall(piece)

        thread = threading.Thread(target=run)
        thread.start()
        return thread


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.mine.close()
    made.theirs.close()
    for pipe in made.pipes:
        for end in pipe:
            with contextlib.suppress(OSError):
                os.close(end)


def test_a_whole_turn(peer: Peer) -> None:
    peer.theirs.sendall(NEXT)
    thread = peer.after_event(ANSWER)
    assert peer.turn() == (len(HEAD) + len(EVENT), b"null", True)
    thread.join()
    assert peer.received() == ACCEPTED


def test_a_turn_of_a_process_that_has_asked_with_an_answer_in_pieces(peer: Peer) -> None:
    thread = peer.after_event(*(ANSWER[at : at + 1] for at in range(len(ANSWER))))
    assert peer.turn(asked=True) == (len(HEAD) + len(EVENT), b"null", True)
    thread.join()
    assert peer.received() == ACCEPTED


def test_an_answer_without_a_body(peer: Peer) -> None:
    answer = b"POST /id/response HTTP/1.1\r\ncontent-length:0\r\n\r\n"
    thread = peer.after_event(answer)
    assert peer.turn(asked=True) == (len(HEAD) + len(EVENT), b"", True)
    thread.join()


@pytest.mark.parametrize("sent", [b"", b"GET /ne", b"GET /next HTTP/1.1\r\n", b"GET /other HTTP/1.1\r\n\r\n", NEXT + NEXT, ANSWER])
def test_what_is_no_request_for_an_event_is_handed_back(peer: Peer, sent: bytes) -> None:
    peer.theirs.sendall(sent)
    assert peer.turn() == (None, sent, False)
    assert peer.received() == b"", "no event went out"


@pytest.mark.parametrize(
    "answer",
    [
        b"POST /id/error HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /other/response HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /id/response HTTP/1.1\r\nLambda-Runtime-Function-Error-Type: E\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /id/response HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        b"POST /id/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /id/response HTTP/1.1\r\nContent-Length: two\r\n\r\n{}",
        b"POST /id/response HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /id/response HTTP/1.1\r\nContent-Length: 65537\r\n\r\n{}",
        ANSWER + NEXT,
    ],
)
def test_an_unusual_answer_is_handed_back_and_not_acknowledged(peer: Peer, answer: bytes) -> None:
    thread = peer.after_event(answer)
    assert peer.turn(asked=True) == (len(HEAD) + len(EVENT), answer, False)
    thread.join()
    assert peer.received() == b""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_whatever_else_happens_ends_the_turn(peer: Peer, number: int) -> None:
    peer.theirs.sendall(NEXT)
    peer.speak(number)
    assert peer.turn() == (None, b"", False), "what came stays where it is"

    def process() -> None:
        os.read(peer.pipes[number][0], 1)
        peer.theirs.recv(65536)
        peer.speak(number)

    thread = threading.Thread(target=process)
    thread.start()
    sent, received, whole = peer.turn(asked=False)
    while sent is None:
        sent, received, whole = peer.turn(asked=False)
    thread.join()
    assert (sent, received, whole) == (len(HEAD) + len(EVENT), b"", False)


def test_a_connection_that_closes_ends_the_turn(peer: Peer) -> None:
    peer.theirs.shutdown(socket.SHUT_WR)
    assert peer.turn() == (None, b"", False)
    assert peer.turn(asked=True) == (len(HEAD) + len(EVENT), b"", False)


def test_an_event_that_is_not_taken_in_is_sent_in_part(peer: Peer) -> None:
    event = bytes(50_000_000)
    sent, received, whole = peer.turn(asked=True, event=event, limit_ms=1)
    assert sent is not None
    assert 0 < sent < len(event)
    assert (received, whole) == (b"", False)
    assert len(peer.received()) == sent


def test_no_answer_within_the_limit_ends_the_turn(peer: Peer) -> None:
    assert peer.turn(asked=True, limit_ms=1) == (len(HEAD) + len(EVENT), b"", False)
