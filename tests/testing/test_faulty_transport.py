"""`FaultyTransport` and its async twin, in real httpx clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from resilient import ConfigError, State
from resilient.discovery import Discovery
from resilient.testing import AsyncFaultyTransport, Fault, FaultyTransport, VirtualClock
from resilient.transport import ResilientTransport

Get = Callable[..., httpx.Response]
URL = "http://api.example.org/orders/7"


class Pair:
    """A client of one colour with faults, and what its inner transport was asked."""

    def __init__(self, *, is_async: bool) -> None:
        self._is_async = is_async
        self.sent: list[str] = []
        self.transport: FaultyTransport | AsyncFaultyTransport

    def fault(self, *faults: Fault, **settings: Any) -> None:
        inner = httpx.MockTransport(self._answer)
        kind: Any = AsyncFaultyTransport if self._is_async else FaultyTransport
        self.transport = kind(inner, *faults, **settings)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request.url.path)
        return httpx.Response(200, content=b"0123456789")

    def get(self, url: str = URL, method: str = "GET") -> httpx.Response:
        if isinstance(self.transport, FaultyTransport):
            with httpx.Client(transport=self.transport) as client:
                return client.request(method, url)
        return asyncio.run(self._aget(url, method))

    async def _aget(self, url: str, method: str) -> httpx.Response:
        assert isinstance(self.transport, AsyncFaultyTransport)
        async with httpx.AsyncClient(transport=self.transport) as client:
            return await client.request(method, url)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Once per colour."""
    return Pair(is_async=request.param)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.connect_error("no route"), httpx.ConnectError),
        (Fault.timeout(), httpx.ReadTimeout),
        (Fault.timeout(phase="connect"), httpx.ConnectTimeout),
        (Fault.timeout(phase="write"), httpx.WriteTimeout),
        (Fault.timeout(phase="pool"), httpx.PoolTimeout),
    ],
    ids=str,
)
def test_errors_are_the_client_s_own_and_nothing_is_sent_on(
    pair: Pair, fault: Fault, error: type[httpx.TransportError]
) -> None:
    """As they would come from a socket, with the request that they belong to."""
    pair.fault(fault)
    with pytest.raises(error) as caught:
        pair.get()
    assert caught.value.request.url == URL
    assert (pair.sent, len(pair.transport.requests)) == ([], 1)


def test_a_status_is_answered_instead(pair: Pair) -> None:
    """With headers and body; afterwards the inner transport answers."""
    fault = Fault.status(503, headers={"Retry-After": "2"}, body=b"busy", count=1)
    pair.fault(fault)
    response = pair.get()
    assert (response.status_code, response.headers["retry-after"], response.content) == (503, "2", b"busy")
    assert pair.get().status_code == 200
    assert (pair.transport.hits(fault), pair.sent) == (1, ["/orders/7"])


@pytest.mark.parametrize("after", [0, 4, 10, 99])
def test_a_body_breaks_after_some_bytes(pair: Pair, after: int) -> None:
    """The answer begins well; reading it fails."""
    pair.fault(Fault.broken_body(after))
    with pytest.raises(httpx.ReadError, match=f"after {after} bytes"):
        pair.get()
    assert pair.sent == ["/orders/7"]


def test_what_arrived_before_a_body_breaks_can_be_read() -> None:
    """A reader of a stream sees the first bytes."""
    pair = Pair(is_async=False)
    pair.fault(Fault.broken_body(4))
    assert isinstance(pair.transport, FaultyTransport)
    with httpx.Client(transport=pair.transport) as client, client.stream("GET", URL) as response:
        parts = response.iter_bytes()
        assert next(parts) == b"0123"
        with pytest.raises(httpx.ReadError):
            next(parts)


def test_latencies_add_up_and_come_before_another_fault(pair: Pair) -> None:
    """On the transport's clock."""
    clock = VirtualClock(auto=True)
    pair.fault(Fault.latency(1.0), Fault.timeout(5.0), Fault.latency(0.5), clock=clock)
    with pytest.raises(httpx.ReadTimeout):
        pair.get()
    assert clock.monotonic() == 1006.5


def test_of_several_faults_the_first_that_matches_hits(pair: Pair) -> None:
    """When its count is used up, the next one's turn comes."""
    pair.fault(Fault.status(500, count=1), Fault.status(502, count=2), Fault.status(404, path="/other"))
    assert [pair.get().status_code for _ in range(4)] == [500, 502, 502, 200]


@pytest.mark.parametrize(
    ("which", "hit"),
    [
        ({"host": "api.example.org"}, True),
        ({"host": "*.EXAMPLE.org"}, True),
        ({"host": "example.org"}, False),
        ({"path": "/orders/*"}, True),
        ({"path": "/orders"}, False),
        ({"method": "get"}, True),
        ({"method": "POST"}, False),
        ({"host": "api.example.org", "path": "/else"}, False),
    ],
    ids=str,
)
def test_faults_hit_the_requests_they_are_for(pair: Pair, which: dict[str, Any], hit: bool) -> None:
    """By host, path and method, each a pattern."""
    pair.fault(Fault.status(500, **which))
    assert pair.get().status_code == (500 if hit else 200)


def test_a_rate_is_drawn_for_each_request(pair: Pair) -> None:
    """From the given source of chance."""
    drawn = iter([0.1, 0.3, 0.29, 0.9])
    pair.fault(Fault.status(500, rate=0.3), rng=lambda: next(drawn))
    assert [pair.get().status_code for _ in range(4)] == [500, 200, 500, 200]


def test_faults_come_and_go_at_run_time(pair: Pair) -> None:
    """The test says when the service is ill."""
    pair.fault()
    assert pair.get().status_code == 200
    pair.transport.add(Fault.status(500))
    assert pair.get().status_code == 500
    pair.transport.clear()
    assert pair.get().status_code == 200


def test_below_a_resilient_transport_another_instance_answers() -> None:
    """One instance that can not be connected to costs a caller nothing; one that fails opens the circuit."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(200)

    faulty = FaultyTransport(httpx.MockTransport(answer), Fault.connect_error(host="10.0.0.1"))
    discovery = Discovery.from_url("static://producer=10.0.0.1:80,10.0.0.2:80")
    transport = ResilientTransport(discovery, transport=lambda _: faulty)
    with httpx.Client(transport=transport) as client:
        assert {client.get("http://producer/").status_code for _ in range(6)} == {200}
        assert set(asked) == {"10.0.0.2"}
        faulty.add(Fault.timeout(host="10.0.0.2"))
        for _ in range(5):
            with pytest.raises(httpx.TransportError):
                client.post("http://producer/")
        assert transport.pipeline("producer").policies[0].state is State.OPEN  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: Fault.status(99), "code"),
        (lambda: Fault.status(500, rate=0.0), "rate"),
        (lambda: Fault.status(500, count=0), "count"),
        (lambda: Fault.status(500, host=""), "host"),
        (lambda: Fault.status(500, hots="a"), "hots"),
        (lambda: Fault.latency(-1.0), "seconds"),
        (lambda: Fault.timeout(-1.0), "after"),
        (lambda: Fault.timeout(phase="dns"), "phase"),
        (lambda: Fault.broken_body(-1), "after"),
        (lambda: FaultyTransport(httpx.AsyncHTTPTransport()), "inner"),  # type: ignore[arg-type]
        (lambda: AsyncFaultyTransport(httpx.HTTPTransport()), "inner"),  # type: ignore[arg-type]
        (lambda: FaultyTransport(httpx.HTTPTransport(), 500), "faults"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_fault_is_refused(make: Any, path: str) -> None:
    """At construction, naming what is wrong."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.path == path


def test_a_fault_reads_like_its_constructor() -> None:
    """In the list of a failing test one sees what was asked for."""
    assert repr(Fault.latency(0.2, host="a", rate=0.5)) == "Fault.latency(seconds=0.2, host='a', rate=0.5)"
    assert repr(Fault.status(503, method="PUT")) == "Fault.status(503, method='PUT')"
