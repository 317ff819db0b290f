"""Requests that an application answers, named as Spring Boot names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount, Route

from resilient import ConfigError
from resilient.telemetry import HttpRequestMetrics
from resilient.telemetry.prometheus_client_extra import Receive, Scope, Send
from resilient.testing import VirtualClock
from tests.telemetry.scrapes import openmetrics_names, samples

NAME = "http_server_requests_seconds"


async def hello(request: Request) -> PlainTextResponse:
    """An endpoint."""
    return PlainTextResponse("hello")


async def broken(request: Request) -> PlainTextResponse:
    """Another one."""
    raise ValueError("broken")


async def away(request: Request) -> RedirectResponse:
    """A third."""
    return RedirectResponse("/")


def application() -> Starlette:
    """Routes of every kind."""
    return Starlette(
        routes=[
            Route("/", hello),
            Route("/weather/{zip_code:int}", hello),
            Route("/broken", broken),
            Route("/away", away),
            Mount("/users/{user}", routes=[Route("/orders/{order}", hello)]),
            Mount("/files", app=PlainTextResponse("file")),
        ]
    )


def counts(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """(method, uri, status, outcome, exception) -> requests."""
    return {
        tuple(dict(labels)[name] for name in ("method", "uri", "status", "outcome", "exception")): value
        for (name, labels), value in samples(generate_latest(registry).decode()).items()
        if name == f"{NAME}_count"
    }


async def ask(app: Any, *paths: str, method: str = "GET") -> None:
    """Send requests, one after the other; what the application raises stays here."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in paths:
            await client.request(method, path)


async def test_requests_are_counted_by_the_template_of_their_route() -> None:
    """Converters, mounts and their parameters: never a value that a user sent."""
    registry, app = CollectorRegistry(), application()
    app.add_middleware(HttpRequestMetrics, registry=registry)
    await ask(app, "/", "/weather/94107", "/weather/10001", "/users/ann/orders/7", "/users/bob/orders/8", "/files/a/b")
    assert counts(registry) == {
        ("GET", "/", "200", "SUCCESS", "None"): 1,
        ("GET", "/weather/{zip_code}", "200", "SUCCESS", "None"): 2,
        ("GET", "/users/{user}/orders/{order}", "200", "SUCCESS", "None"): 2,
        ("GET", "/files/{path}", "200", "SUCCESS", "None"): 1,
    }
    assert openmetrics_names(registry) == {NAME, f"{NAME}_max"}


async def test_what_has_no_route_has_a_name_of_its_kind() -> None:
    """NOT_FOUND, REDIRECTION; an exception is a 500 and named; an odd method is OTHER."""
    registry, app = CollectorRegistry(), application()
    app.add_middleware(HttpRequestMetrics, registry=registry)
    await ask(app, "/nothing/1", "/nothing/2", "/weather/1/", "/broken", "/away")
    await ask(app, "/weather/1", method="BREW")
    assert counts(registry) == {
        ("GET", "NOT_FOUND", "404", "CLIENT_ERROR", "None"): 2,
        ("GET", "REDIRECTION", "307", "REDIRECTION", "None"): 1,
        ("GET", "/broken", "500", "SERVER_ERROR", "ValueError"): 1,
        ("GET", "/away", "307", "REDIRECTION", "None"): 1,
        ("OTHER", "/weather/{zip_code}", "405", "CLIENT_ERROR", "None"): 1,
    }


async def test_fastapi_routes_have_templates_with_the_prefix_of_their_router() -> None:
    """Included routers too."""
    registry, app, router = CollectorRegistry(), FastAPI(), APIRouter(prefix="/v1")

    @router.get("/items/{item}")
    async def item(item: int) -> int:
        return item

    app.include_router(router, prefix="/api")
    app.add_middleware(HttpRequestMetrics, registry=registry)
    await ask(app, "/api/v1/items/1", "/api/v1/items/2", "/api/v1/items/x")
    assert counts(registry) == {
        ("GET", "/api/v1/items/{item}", "200", "SUCCESS", "None"): 2,
        ("GET", "/api/v1/items/{item}", "422", "CLIENT_ERROR", "None"): 1,
    }


async def test_templates_are_bounded() -> None:
    """Beyond `max_uris` all others are one; those that were there first stay."""
    registry = CollectorRegistry()
    app = HttpRequestMetrics(
        PlainTextResponse("x"), registry=registry, template=lambda scope: scope["path"], max_uris=2
    )
    await ask(app, "/a", "/b", "/c", "/d", "/a")
    assert {uri: value for (_, uri, *_), value in counts(registry).items()} == {"/a": 2, "/b": 1, "OTHER": 2}


async def test_without_a_router_there_is_no_template() -> None:
    """The path as sent is no label."""
    registry = CollectorRegistry()
    await ask(HttpRequestMetrics(PlainTextResponse("x"), registry=registry), "/secret/1", "/secret/2", "/")
    assert {uri: value for (_, uri, *_), value in counts(registry).items()} == {"UNKNOWN": 2, "root": 1}


async def test_a_mounted_value_is_no_label_however_it_is_spelled() -> None:
    """A converter reads 007 as 7: what was sent is not what the route has."""
    registry = CollectorRegistry()
    app = Starlette(routes=[Mount("/tenants/{tenant:int}", routes=[Route("/orders", hello)])])
    await ask(HttpRequestMetrics(app, registry=registry), "/tenants/007/orders", "/tenants/0007/orders")
    assert list(counts(registry).values()) == [2]
    [(_, uri, *_)] = counts(registry)
    assert "07" not in uri


async def test_a_template_that_fails_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """The request is counted, and what went wrong is logged."""
    registry = CollectorRegistry()
    app = HttpRequestMetrics(PlainTextResponse("x"), registry=registry, template=lambda scope: str(scope["nothing"]))
    await ask(app, "/a", "/b")
    assert list(counts(registry).values()) == [2]
    assert "nothing" in caplog.text


async def test_sum_and_maximum_are_seconds_and_the_maximum_fades(clock: VirtualClock) -> None:
    """The sum stays; the maximum is that of the last one to two minutes."""
    registry, seconds = CollectorRegistry(), [0.5, 2.0, 1.0]

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(seconds.pop(0))
        await PlainTextResponse("x")(scope, receive, send)

    def value(part: str) -> float:
        found = samples(generate_latest(registry).decode())
        return next(value for (name, _), value in found.items() if name == f"{NAME}_{part}")

    await ask(HttpRequestMetrics(slow, registry=registry, clock=clock), "/", "/", "/")
    assert (value("count"), value("sum"), value("max")) == (3, 3.5, 2.0)
    clock.advance(60.0)
    assert value("max") == 2.0
    clock.advance(60.0)
    assert (value("count"), value("sum"), value("max")) == (3, 3.5, 0.0)


async def test_a_request_that_is_cancelled_is_counted_as_unknown() -> None:
    """The client left before there was a status; the cancellation goes on."""
    registry, entered = CollectorRegistry(), asyncio.Event()

    async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(HttpRequestMetrics(hangs, registry=registry), "/"))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts(registry) == {("GET", "root", "UNKNOWN", "UNKNOWN", "CancelledError"): 1}


async def test_two_applications_share_a_registry() -> None:
    """An application that is built anew, as tests do, adds to the same metrics."""
    registry = CollectorRegistry()
    for _ in range(2):
        await ask(HttpRequestMetrics(PlainTextResponse("x"), registry=registry), "/")
    assert list(counts(registry).values()) == [2]


async def test_what_is_no_http_request_is_passed_on() -> None:
    """Lifespan and websockets are not counted."""
    registry, seen = CollectorRegistry(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_args: Any) -> Any:
        return None

    await HttpRequestMetrics(app, registry=registry)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
    assert counts(registry) == {}


@pytest.mark.parametrize(
    ("options", "path"), [({"max_uris": 0}, "max_uris"), ({"template": 3}, "template"), ({"registry": 3}, "registry")]
)
def test_a_wrong_argument_is_refused(options: dict[str, Any], path: str) -> None:
    """ConfigError names it."""
    make: Callable[..., object] = HttpRequestMetrics
    with pytest.raises(ConfigError) as caught:
        make(PlainTextResponse("x"), **options)
    assert caught.value.path == path
