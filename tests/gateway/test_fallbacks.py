"""What users read when a service is away, slow or failing."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from resilient.gateway import Answer, Failure, Gateway
from tests.gateway.serving import App, Served, Upstream, answering, gateway_to, hangs

SORRY = "Patient information is currently unavailable"
ROUTE: dict[str, Any] = {"fallback": "forward:/fallback/patient", "retry": False}


def away(handler: Any, route: dict[str, Any] | None = None, **request: Any) -> httpx.Response:
    """What a caller reads while the upstream is not there."""
    table = {"path": "/", "service": "up", **ROUTE, **(route or {})}
    gateway = Gateway({"up": table}, discovery="static://up=127.0.0.1:1", fallbacks={"/fallback/patient": handler})
    with Served(gateway) as front:
        return httpx.request(request.pop("method", "GET"), front.url + "/patient/1", **request)


@pytest.mark.parametrize(
    ("app", "status"),
    [(answering(500), 502), (answering(502), 502), (answering(503), 503), (answering(504), 504), (hangs, 504)],
)
def test_a_service_that_fails_or_is_slow_is_replaced_by_the_fallback(app: App, status: int) -> None:
    """With the status that tells what happened."""
    handlers = {"/fallback/patient": lambda: SORRY}
    with gateway_to(app, {**ROUTE, "timeout": 0.3}, fallbacks=handlers) as (front, _):
        found = httpx.get(front.url)
    assert (found.status_code, found.text) == (status, SORRY)
    assert found.headers["content-type"] == "text/plain; charset=utf-8"
    assert found.headers["x-request-id"]


def test_when_the_circuit_is_open_the_fallback_answers_at_once_with_retry_after() -> None:
    """The upstream is not asked."""
    up = Upstream()
    up.answers["/"] = answering(500)
    route = {**ROUTE, "breaker": {"consecutive_failures": 2, "open_duration": 30.0}}
    with gateway_to(up, route, fallbacks={"/fallback/patient": lambda: SORRY}) as (front, _):
        found = [httpx.get(front.url + path) for path in ("/", "/", "/other", "/other")]
    assert [one.status_code for one in found] == [502, 502, 503, 503]
    assert {one.text for one in found} == {SORRY}
    assert [one.headers.get("retry-after") is None for one in found] == [True, True, False, False]
    assert 25 <= int(found[2].headers["retry-after"]) <= 33
    assert up.requests == []


def test_the_upstreams_own_retry_after_is_kept() -> None:
    """It knows best."""
    busy = answering(503, b"", [(b"retry-after", b"7")])
    with gateway_to(busy, ROUTE, fallbacks={"/fallback/patient": lambda: SORRY}) as (front, _):
        assert httpx.get(front.url).headers["retry-after"] == "7"


def test_only_the_statuses_that_are_asked_for_are_replaced() -> None:
    """What the caller did wrong is no failure of the service."""
    up = Upstream()
    up.answers = {"/404": answering(404, b"no"), "/501": answering(501, b"no"), "/429": answering(429, b"no")}
    route = {**ROUTE, "fallback_on": [429]}
    with gateway_to(up, ROUTE, fallbacks={"/fallback/patient": lambda: SORRY}) as (front, _):
        assert {httpx.get(front.url + path).text for path in up.answers} == {"no"}
    with gateway_to(up, route, fallbacks={"/fallback/patient": lambda: SORRY}) as (front, _):
        found = httpx.get(front.url + "/429")
    assert (found.status_code, found.text) == (429, SORRY)


def test_a_function_is_told_what_happened() -> None:
    """Sync or async; JSON is what JSON can say."""
    told: list[Failure] = []

    async def handler(failure: Failure) -> dict[str, str]:
        told.append(failure)
        return {"error": SORRY}

    found = away(handler, {"fallback_status": 200}, headers={"X-Request-Id": "id-1"})
    assert (found.status_code, found.json()) == (200, {"error": SORRY})
    failure = told[0]
    assert (failure.route, failure.status, failure.request_id) == ("up", 502, "id-1")
    assert (failure.method, failure.path) == ("GET", "/patient/1")
    assert isinstance(failure.error, httpx.ConnectError)


def test_an_answer_says_its_status_and_headers_itself() -> None:
    """They win over the gateway's own."""
    made = Answer(b"<p>sorry</p>", status=200, headers={"Retry-After": "3", "X-A": "b"}, media_type="text/html")
    found = away(lambda: made)
    assert (found.status_code, found.text, found.headers["content-type"]) == (200, "<p>sorry</p>", "text/html")
    assert (found.headers["retry-after"], found.headers["x-a"]) == ("3", "b")


def test_what_a_file_says_is_enough() -> None:
    """Text, a table with text, or JSON."""
    assert away(SORRY).text == SORRY
    found = away({"text": SORRY, "status": 503})
    assert (found.status_code, found.text) == (503, SORRY)
    assert away({"json": {"error": SORRY}}).json() == {"error": SORRY}


def test_an_application_answers_for_all_that_lies_below_its_path() -> None:
    """A Starlette application, mounted at a part of the URI; it reads the failure from the request's state."""

    async def sorry(request: Request) -> PlainTextResponse:
        failure: Failure = request.state.failure
        assert await request.body() == b""
        return PlainTextResponse(f"{SORRY}: {failure.status} {request.url.path}", status_code=503)

    app = Starlette(routes=[Route("/fallback/{name}", sorry, methods=["POST"])])
    table = {"path": "/", "service": "up", **ROUTE}
    gateway = Gateway({"up": table}, discovery="static://up=127.0.0.1:1", fallbacks={"/fallback": app})
    with Served(gateway) as front:
        found = httpx.post(front.url + "/x", content=b"body", headers={"X-Request-Id": "id-1"})
    assert (found.status_code, found.text) == (503, f"{SORRY}: 502 /fallback/patient")
    assert found.headers["x-request-id"] == "id-1"


def test_an_application_may_stream_its_answer() -> None:
    """Nothing tells it that the caller has left."""

    async def parts() -> Any:
        for _ in range(3):
            yield b"sorry "

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(parts(), status_code=503)(scope, receive, send)

    assert away(app).text == "sorry sorry sorry "


def test_a_fallback_that_fails_is_replaced_by_the_problem(caplog: pytest.LogCaptureFixture) -> None:
    """And its error is logged."""

    def broken(failure: Failure) -> str:
        raise KeyError(failure.route)

    with caplog.at_level(logging.ERROR, "resilient.gateway"):
        found = away(broken)
    assert (found.status_code, found.json()["detail"]) == (502, "'up' could not be reached.")
    assert "the fallback forward:/fallback/patient of route 'up' failed" in caplog.text


def test_a_fallback_answers_a_head_without_a_body() -> None:
    """With the length that a GET would have."""
    found = away(lambda: SORRY, method="HEAD")
    assert (found.content, found.headers["content-length"]) == (b"", str(len(SORRY)))


def test_requests_that_are_refused_are_no_business_of_the_fallback() -> None:
    """A body that is too long is the caller's fault."""
    found = away(lambda: SORRY, {"max_body": 3}, method="POST", content=b"long")
    assert found.status_code == 413


def test_what_the_gateway_answers_itself_is_logged_with_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    """A path can not write lines of its own into the log."""
    with caplog.at_level(logging.INFO, "resilient.gateway"):
        away(lambda: SORRY, headers={"X-Request-Id": "id-7"})
    assert "GET /patient/1 by route 'up': 502: 'up' could not be reached." in caplog.text
    assert "[id-7] TransportConnectError" in caplog.text or "[id-7] ConnectError" in caplog.text
