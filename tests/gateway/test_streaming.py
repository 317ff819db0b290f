"""Bodies pass as they come, in both directions; a caller that leaves ends what was done for it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from resilient.gateway import Gateway
from tests.gateway.serving import RawServer, Served, Upstream, Wire, answer, answering, gateway_to, hangs, lifespan
from tests.waiting import wait_until

ASK = b"GET / HTTP/1.1\r\nhost: g\r\n\r\n"


class Stepping:
    """Sends an answer in parts, each when the test says so; notes what it got, and how it ended."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        import asyncio

        loop = asyncio.get_running_loop()
        gone = loop.create_task(self._until_gone(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        number = 0
        while not gone.done():
            if await loop.run_in_executor(None, self.steps.acquire, True, 0.05):
                number += 1
                await send({"type": "http.response.body", "body": b"part %d;" % number, "more_body": True})
        return None

    async def _until_gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.events.append("gone")


def test_each_part_of_an_answer_is_passed_on_before_the_next_one_is_made() -> None:
    """By the order of events: the second part is made only when the first one has arrived."""
    app = Stepping()
    with gateway_to(app) as (front, _), Wire(front) as wire:
        wire.send(ASK)
        assert b"200 OK" in wire.read(b"\r\n\r\n")
        for number in (1, 2, 3):
            app.steps.release()
            assert b"part %d;" % number in wire.read(b"part %d;" % number)


def test_a_caller_that_leaves_ends_the_call_of_the_upstream() -> None:
    """While the answer is under way."""
    app = Stepping()
    with gateway_to(app) as (front, _):
        with Wire(front) as wire:
            wire.send(ASK).read(b"\r\n\r\n")
            assert app.events == []
        wait_until(lambda: app.events == ["gone"], what="the end of the upstream's call")


def test_a_caller_that_leaves_before_there_is_an_answer_ends_it_too() -> None:
    """The upstream is still thinking."""
    events: list[str] = []

    async def thinks(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        while True:
            message = await receive()
            events.append(message["type"])
            if message["type"] == "http.disconnect":
                return None

    gateway_route = {"breaker": {"consecutive_failures": 1}}
    with gateway_to(thinks, gateway_route) as (front, _):
        with Wire(front) as wire:
            wire.send(ASK)
            wait_until(lambda: events == ["http.request"], what="the request")
        wait_until(lambda: events[-1] == "http.disconnect", what="the end of the upstream's call")
        with Wire(front) as wire:  # and the circuit is closed: that was not the upstream's failure
            wire.send(ASK)
            wait_until(lambda: events.count("http.request") == 2, what="the next request")


class Noting:
    """Notes each part of a request's body when it comes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        while True:
            message = await receive()
            self.parts.append(message.get("body", b""))
            if message["type"] == "http.disconnect":
                self.parts.append(b"gone")
                return None
            if not message.get("more_body"):
                break
        await answer(send, 200, b"".join(self.parts))
        return None


def arrived(app: Noting, so_far: bytes) -> bool:
    """Whether that much has arrived, and no more."""
    return b"".join(app.parts) == so_far


@pytest.mark.parametrize("chunked", [True, False])
def test_each_part_of_an_upload_arrives_before_the_next_one_is_sent(chunked: bool) -> None:
    """With a length and in chunks; the upstream gets it as it was sent."""
    app = Noting()
    how = b"transfer-encoding: chunked" if chunked else b"content-length: 15"
    with gateway_to(app) as (front, _), Wire(front) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: g\r\n" + how + b"\r\n\r\n")
        for number, part in enumerate((b"part1", b"part2", b"part3")):
            wire.send(b"5\r\n" + part + b"\r\n" if chunked else part)
            wait_until(functools.partial(arrived, app, b"part1part2part3"[: 5 * (number + 1)]), what="that part")
        if chunked:
            wire.send(b"0\r\n\r\n")
        assert b"part1part2part3" in wire.read(b"part3")


def test_a_caller_that_leaves_in_the_middle_of_an_upload_ends_it() -> None:
    """The upstream sees that it is not complete, and the circuit stays closed."""
    app = Noting()
    with gateway_to(app, {"breaker": {"consecutive_failures": 1}}) as (front, _):
        with Wire(front) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 10\r\n\r\npart1")
            wait_until(lambda: app.parts == [b"part1"], what="the first part")
        wait_until(lambda: app.parts[-1] == b"gone", what="the end")
        app.parts.clear()
        assert httpx.post(front.url, content=b"x").text == "x"


def test_an_upload_that_does_not_come_is_408_and_no_failure_of_the_upstream() -> None:
    """Slow callers can not open a circuit."""
    app = Noting()
    route = {"timeout": 0.6, "breaker": {"consecutive_failures": 1}}
    with gateway_to(app, route) as (front, _):
        with Wire(front) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 10\r\n\r\npart1")
            assert b"408 " in wire.read(b"\r\n\r\n")
        with Wire(front) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 10\r\n\r\n")
            assert b"408 " in wire.read(b"\r\n\r\n")
        app.parts.clear()
        assert httpx.post(front.url, content=b"x").text == "x"


def test_a_caller_that_expects_to_continue_is_asked_for_its_body() -> None:
    """When the connection to the upstream is there."""
    app = Noting()
    with gateway_to(app) as (front, _), Wire(front) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert wire.read(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        assert wire.send(b"body").read(b"body").startswith(b"HTTP/1.1 200 ")


def test_a_caller_that_expects_to_continue_is_refused_before_its_body() -> None:
    """It is told to keep it, and the connection ends: whether the body comes now is its own choice."""
    up = Upstream()
    with gateway_to(up, {"max_body": 10}) as (front, _), Wire(front) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n")
        found = wire.read_all()
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in found


def test_a_large_body_passes_in_both_directions() -> None:
    """More than any buffer on the way, unchanged."""
    body = bytes(range(256)) * 16_384  # 4 MiB
    app = Noting()

    def parts() -> Iterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    with gateway_to(app) as (front, _):
        assert httpx.post(front.url, content=parts()).content == body


def test_an_answer_that_breaks_off_is_seen_to_be_incomplete() -> None:
    """It is not ended as if it were whole."""
    for reply in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ):
        with RawServer(reply) as behind:
            gateway = Gateway({"up": {"path": "/", "url": f"http://{behind.address}"}})
            with Served(gateway) as front, pytest.raises(httpx.RemoteProtocolError):
                httpx.get(front.url)


def test_an_answer_that_stands_still_is_broken_off() -> None:
    """After the route's idle_timeout; the time up to the headers does not count."""
    app = Stepping()
    with gateway_to(app, {"idle_timeout": 0.2}) as (front, _), pytest.raises(httpx.RemoteProtocolError):
        httpx.get(front.url)


def test_a_service_that_hangs_does_not_touch_another() -> None:
    """By counts: with 150 requests stuck in one service, more than its connections, another answers all of 60."""
    up = Upstream()
    with Served(hangs) as stuck, Served(up) as fine:
        routes = {
            "stuck": {"path": "/stuck", "service": "stuck", "timeout": 30.0, "connect_timeout": 30.0},
            "fine": {"path": "/fine", "service": "fine", "timeout": 5.0},
        }
        made = Gateway(routes, discovery=f"static://stuck={stuck.address};fine={fine.address}")
        with Served(made) as front:
            wires = [Wire(front) for _ in range(150)]
            try:
                for wire in wires:
                    wire.send(b"GET /stuck HTTP/1.1\r\nhost: g\r\n\r\n")
                wait_until(lambda: ", 150 requests under way" in repr(made), what="the stuck requests")
                with ThreadPoolExecutor(4) as crowd, httpx.Client(base_url=front.url) as client:
                    found = list(crowd.map(lambda _: client.get("/fine").status_code, range(60)))
                assert ", 150 requests under way" in repr(made)
            finally:
                for wire in wires:
                    wire.reset()
            wait_until(lambda: ", 0 requests under way" in repr(made), what="the end of the stuck requests")
    assert found == [200] * 60
    assert len(up.requests) == 60


def test_a_rate_that_is_used_up_is_told_as_such() -> None:
    """With the seconds until there is room again."""
    with gateway_to(Upstream(), {"rate_limiter": {"limit": 1, "per": 60.0}}) as (front, _):
        assert httpx.get(front.url).status_code == 200
        late = httpx.get(front.url)
    assert (late.status_code, late.json()["detail"]) == (503, "'up' has had as many requests lately as it may have.")
    assert 50 <= int(late.headers["retry-after"]) <= 60


def test_a_full_bulkhead_refuses_at_once_and_keeps_others_out_of_it() -> None:
    """A place is held until the answer's body has ended."""
    app = Stepping()
    with gateway_to(app, {"bulkhead": {"limit": 1}}) as (front, _):
        with Wire(front) as wire:
            wire.send(ASK).read(b"\r\n\r\n")
            full = httpx.get(front.url)
            assert (full.status_code, full.json()["detail"]) == (
                503,
                "'up' has as many requests under way as it may have.",
            )
        wait_until(lambda: app.events == ["gone"], what="the end of the first")
        with Wire(front) as wire:
            assert b" 200 " in wire.send(ASK).read(b"\r\n\r\n")


def test_answers_are_read_no_faster_than_the_caller_takes_them() -> None:
    """Backpressure: an upstream can not fill the memory of the gateway."""
    sent = 0

    async def floods(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"a" * 65_536, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})
        return None

    with gateway_to(floods) as (front, _), Wire(front) as wire:
        wire.send(ASK).read(b"\r\n\r\n")
        seen: list[int] = []

        def stands_still() -> bool:
            seen.append(sent)
            return len(seen) > 20 and seen[-1] == seen[-20] > 0

        wait_until(stands_still, what="the end of what fits into buffers")
        assert sent < 1000


def test_an_answer_is_used_in_tests_without_servers() -> None:
    """`transport=` takes the place of the connections."""
    import asyncio

    async def ask() -> httpx.Response:
        up = httpx.ASGITransport(answering(201, b"made"))
        gateway = Gateway({"p": {"path": "/", "url": "http://p"}}, transport=lambda _instance: up)
        async with gateway, httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://g") as client:
            return await client.get("/")

    assert asyncio.run(ask()).text == "made"
