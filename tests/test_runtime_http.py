"""The HTTP that runtimes speak: however the bytes of a request are cut into pieces, the same requests come of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore.functions._http import BodyTooLargeError, ProtocolError, Request, RequestReader

if TYPE_CHECKING:
    from collections.abc import Iterable

WIRE = (
    b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nUser-Agent: x\r\n\r\n"
    b"POST /one/response HTTP/1.1\r\nContent-Type: application/json\r\nCONTENT-LENGTH:  6 \r\n\r\n\r\n\r\n{}"
    b"POST /two/response HTTP/1.1\r\ntransfer-encoding: Chunked\r\nX-Mine: first\r\n\r\n"
    b"3\r\nabc\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n"
    b"POST /three/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n\r\n\r\n0\r\nLambda-Runtime-Function-Error-Type: Odd\r\nX-Last: Value\r\n\r\n"
    b"POST /four/error HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
)
EXPECTED = [
    (b"GET", b"/2018-06-01/runtime/invocation/next", b"", None, None),
    (b"POST", b"/one/response", b"\r\n\r\n{}", None, None),
    (b"POST", b"/two/response", b"abc0123456789", b"first", None),
    (b"POST", b"/three/response", b"\r\n", None, b"Value"),
    (b"POST", b"/four/error", b"", None, None),
]


def read(pieces: Iterable[bytes], body_max: int = 1000) -> list[Request]:
    reader = RequestReader(body_max)
    requests = []
    for piece in pieces:
        request = reader.feed(piece)
        while request is not None:
            requests.append(request)
            request = reader.more()
    return requests


def told(requests: list[Request]) -> list[tuple[bytes, bytes, bytes, bytes | None, bytes | None]]:
    return [(one.method, one.path, one.body, one.header(b"\r\nx-mine:"), one.header(b"\r\nx-last:")) for one in requests]


@given(st.lists(st.integers(1, len(WIRE) - 1), unique=True).map(sorted))
def test_requests_may_be_cut_anywhere(cuts: list[int]) -> None:
    bounds = [0, *cuts, len(WIRE)]
    assert told(read(WIRE[start:end] for start, end in itertools.pairwise(bounds))) == EXPECTED


def test_requests_may_come_byte_by_byte() -> None:
    assert told(read(WIRE[at : at + 1] for at in range(len(WIRE)))) == EXPECTED


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1 more\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 70_000,
    ],
)
def test_what_is_no_http_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        read([wire])
    with pytest.raises(ProtocolError):
        read([wire[:5], wire[5:]])


@pytest.mark.parametrize(
    "wire",
    [
        b"POST /long HTTP/1.1\r\nContent-Length: 11\r\n\r\n",
        b"POST /long HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nB\r\n",
        b"POST /long HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n5\r\n",
    ],
)
def test_a_body_above_the_limit_is_refused_before_it_has_come(wire: bytes) -> None:
    with pytest.raises(BodyTooLargeError) as raised:
        read([wire], body_max=10)
    assert raised.value.path == b"/long"


def test_a_client_that_waits_before_its_body_is_seen() -> None:
    reader = RequestReader(10)
    assert reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n") is None
    assert reader.awaits_continue
    assert reader.feed(b"o") is None
    told_once = reader.awaits_continue
    request = reader.feed(b"k")
    assert request is not None
    assert request.body == b"ok"
    assert [told_once, reader.awaits_continue] == [False, False]
