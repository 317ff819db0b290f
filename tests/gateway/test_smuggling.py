"""Raw bytes through a real server: nothing of what is refused, and nothing hidden in it, reaches the upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.serving import Served, Upstream, Wire, gateway_to

HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: g\r\n\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Upstream, Served]]:
    """(what notes the requests, the gateway in front of it), for all of these tests."""
    up = Upstream()
    with gateway_to(up) as (front, _):
        yield up, front


@pytest.fixture
def up(served: tuple[Upstream, Served]) -> Upstream:
    """No request has reached it."""
    served[0].requests.clear()
    return served[0]


@pytest.fixture
def front(served: tuple[Upstream, Served]) -> Served:
    """The gateway."""
    return served[1]


def ask(front: Served, data: bytes) -> bytes:
    """Everything that comes back for these bytes, until the connection ends."""
    with Wire(front) as wire:
        return wire.send(data).read_all()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\ncontent-length: 35\r\n\r\n0\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 0\r\ncontent-length: 35\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 0, 35\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length : 0\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: -1\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ntransfer-encoding: identity\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
        + HIDDEN,
        b"POST / HTTP/1.0\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        b"POST / HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n" + HIDDEN,
        b"GET / HTTP/1.1\r\nhost: g\r\nx: a\rGET /hidden HTTP/1.1\r\n\r\n" + HIDDEN,
        b"GET / HTTP/1.1\r\nhost: g\r\nx: a\x00b\r\n\r\n" + HIDDEN,
        b"GET / HTTP/1.1\r\nhost: g\r\nhost: h\r\n\r\n" + HIDDEN,
        b"GET / HTTP/1.1\r\n\r\n" + HIDDEN,
        b"GET / HTTP/1.1\r\nhost: g/x\r\n\r\n" + HIDDEN,
        b"GET http://evil.example/ HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET evil HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET //evil.example/ HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"OPTIONS * HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET /a/../hidden HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET /a/%2e%2e/hidden HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET /a/%252e%252e/hidden HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET /a\\..\\hidden HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
        b"GET /%0d%0aGET%20/hidden HTTP/1.1\r\nhost: g\r\n\r\n" + HIDDEN,
    ],
)
def test_what_is_refused_reaches_nobody_and_ends_the_connection(
    request_bytes: bytes, up: Upstream, front: Served
) -> None:
    """400 by the server or by the gateway; what follows on the connection is not read as a request."""
    found = ask(front, request_bytes)
    assert found.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert found.count(b"HTTP/1.1 ") == 1
    assert up.requests == []


def test_connect_is_not_a_way_through(up: Upstream, front: Served) -> None:
    """The gateway is no proxy."""
    found = ask(front, b"CONNECT evil.example:443 HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400 ")
    assert up.requests == []


def test_an_upgrade_to_http_2_is_not_passed_on(up: Upstream, front: Served) -> None:
    """The upstream would then speak something that nobody checks; the request itself is answered."""
    upgrade = b"connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    found = ask(front, b"GET / HTTP/1.1\r\nhost: g\r\n" + upgrade + b"\r\n")
    assert found.startswith(b"HTTP/1.1 200 ")
    assert {name for name, _ in up.requests[0]["headers"]}.isdisjoint({"upgrade", "http2-settings", "connection"})


def test_two_requests_on_one_connection_are_two_requests(up: Upstream, front: Served) -> None:
    """Pipelined, as the second one is not hidden in the first."""
    body = b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 5\r\n\r\nhello"
    found = ask(front, body + HIDDEN.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert found.count(b"HTTP/1.1 200 ") == 2
    assert [(one["path"], one["body"]) for one in up.requests] == [("/", "hello"), ("/hidden", "")]


def test_the_body_of_a_refused_request_is_not_the_next_request() -> None:
    """404 leaves the connection open; its body is read and forgotten."""
    up = Upstream()
    with gateway_to(up, {"path": "/here"}) as (front, _):
        first = b"POST /lost HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN
        found = ask(front, first + b"GET /here HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 404 ") == 1
    assert [one["path"] for one in up.requests] == ["/here"]
