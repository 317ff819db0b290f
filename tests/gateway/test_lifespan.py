"""From start to stop: what the gateway owns, what it waits for, what it does not speak."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from resilient.gateway import Gateway
from tests.gateway.serving import Served, Upstream, Wire, answer, gateway_to, hangs
from tests.servers import RegistryProcess

ROUTES = {"up": {"path": "/", "url": "http://up.example"}}


class Slow(httpx.AsyncBaseTransport):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        await self.go.wait()
        return httpx.Response(200, content=b"done")


async def ask(gateway: Gateway) -> httpx.Response:
    """One request."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://g") as client:
        return await client.get("/")


async def test_a_stop_waits_for_requests_under_way_and_refuses_new_ones() -> None:
    """503 with Connection: close, so that the caller goes elsewhere."""
    up = Slow()
    gateway = Gateway(ROUTES, transport=lambda _instance: up)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ask(gateway))
        await up.asked.wait()
        stop = group.create_task(gateway.aclose())
        await asyncio.sleep(0)
        refused = await ask(gateway)
        assert not stop.done()
        up.go.set()
    assert (first.result().text, refused.status_code) == ("done", 503)
    assert refused.headers["connection"] == "close"
    assert refused.json()["detail"] == "The gateway is being stopped."


async def test_a_stop_does_not_wait_for_ever() -> None:
    """After `drain` seconds what is left is cancelled."""
    up = Slow()
    gateway = Gateway(ROUTES, transport=lambda _instance: up, settings={"drain": 0.05})
    first = asyncio.create_task(ask(gateway))
    await up.asked.wait()
    await gateway.aclose()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert repr(gateway) == "<Gateway 1 routes, 0 requests under way>"


async def test_a_gateway_can_be_started_again() -> None:
    """A stop is no end."""
    gateway = Gateway(ROUTES, transport=lambda _instance: httpx.MockTransport(lambda _request: httpx.Response(200)))
    for _ in range(2):
        async with gateway:
            assert (await ask(gateway)).status_code == 200


def test_a_discovery_given_as_a_url_is_started_and_stopped_with_the_server() -> None:
    """A service that registers is found; the registry is real."""
    from resilient.discovery import Registry

    up = Upstream()
    with RegistryProcess(eviction_interval=0.2) as registry, Served(up) as behind:
        with Registry.from_url(registry.url) as client, client.register("up", port=behind.port, host="127.0.0.1"):
            made = Gateway({"up": {"path": "/", "service": "up"}}, discovery=registry.url)
            with Served(made) as front:
                assert httpx.get(front.url).status_code == 200
        assert made._discovery is not None
        assert made._stopping


async def test_a_start_that_fails_is_told_to_the_server() -> None:
    """It must not begin to serve."""
    gateway = Gateway({"up": {"path": "/", "service": "up"}}, discovery="static://up=127.0.0.1:1")
    sent: list[Any] = []

    class Broken:
        async def __aenter__(self) -> None:
            raise OSError("no network")

    gateway._discovery = Broken()  # type: ignore[assignment]  # a discovery that can not be started

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no network"}]


async def _websocket(extensions: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []
    gateway = Gateway(ROUTES)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway({"type": "websocket", "headers": [], "extensions": extensions}, receive, send)
    return sent


async def test_a_websocket_is_refused_with_501_or_closed() -> None:
    """501 where the server can say it, else a close before the handshake."""
    start, body = await _websocket({"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 501)
    assert json.loads(body["body"])["detail"] == "WebSockets are not passed on."
    assert [one["type"] for one in await _websocket({})] == ["websocket.close"]


async def test_an_unknown_scope_is_an_error() -> None:
    """Of the server's."""
    with pytest.raises(ValueError, match="knows no ASGI scope"):
        await Gateway(ROUTES)({"type": "tea"}, None, None)  # type: ignore[arg-type]  # nothing is called


def http_2(body: list[bytes], *headers: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    """What reaches the upstream when an HTTP/2 server passes a request on: it needs no length."""
    up: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = b""
        while True:
            message = await receive()
            found += message["body"]
            if not message["more_body"]:
                break
        up.append({"headers": dict(scope["headers"]), "body": found})
        await answer(send, 200)

    async def run() -> None:
        gateway = Gateway(ROUTES, transport=lambda _instance: httpx.ASGITransport(app))
        parts = iter(body)
        left = len(body)

        async def receive() -> dict[str, Any]:
            nonlocal left
            left -= 1
            if left < 0:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": next(parts), "more_body": left > 0}

        async def send(message: Any) -> None:
            assert message.get("status", 200) == 200

        scope = {"type": "http", "http_version": "2", "method": method, "path": "/", "raw_path": b"/"}
        await gateway({**scope, "query_string": b"", "headers": [(b"host", b"g"), *headers]}, receive, send)

    asyncio.run(run())
    return up[0]


def test_a_body_of_http_2_needs_no_length() -> None:
    """In one piece it gets one; in several it goes in chunks; a GET has none."""
    whole, parts, none = http_2([b"body"]), http_2([b"bo", b"dy"]), http_2([b""], method="GET")
    assert (whole["body"], whole["headers"][b"content-length"]) == (b"body", b"4")
    assert (parts["body"], parts["headers"][b"transfer-encoding"]) == (b"body", b"chunked")
    assert {b"content-length", b"transfer-encoding"}.isdisjoint(none["headers"])


def test_requests_under_way_at_a_servers_stop_are_answered() -> None:
    """The server stops listening, the gateway goes on until the answer is there."""
    with gateway_to(hangs, {"timeout": 0.3, "retry": False}) as (front, _), Wire(front) as wire:
        wire.send(b"GET / HTTP/1.1\r\nhost: g\r\n\r\n")
        assert b" 504 " in wire.read(b"\r\n\r\n")
        front.stop()
