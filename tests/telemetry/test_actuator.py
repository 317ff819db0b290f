"""Health and metrics over HTTP, under Spring Boot's paths."""

from __future__ import annotations

import os
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount

from resilient import CircuitBreaker, ConfigError
from resilient.telemetry import Actuator, Health, HttpRequestMetrics
from tests.gateway.serving import Served
from tests.telemetry.scrapes import samples


def app_with(health: Health | None = None, **options: Any) -> Starlette:
    """An application with an actuator."""
    options.setdefault("registry", CollectorRegistry())
    return Starlette(routes=[Mount("/actuator", Actuator(health, **options))])


def client_of(app: Any) -> httpx.AsyncClient:
    """A client of it, without a network."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_health_and_its_groups_have_a_path_each_without_a_redirect() -> None:
    """As Spring Boot's: 200, or 503 when the process takes no traffic."""
    health = Health({"db": lambda: False})
    async with client_of(app_with(health)) as client:
        answers = {path: await client.get(f"/actuator/health{path}") for path in ("", "/liveness", "/readiness")}
        missing = await client.get("/actuator/health/other")
        links = (await client.get("/actuator/")).json()["_links"]
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "": 503,
        "/liveness": 200,
        "/readiness": 503,
    }
    assert answers["/readiness"].json()["components"]["db"] == {"status": "DOWN"}
    assert answers[""].headers["cache-control"] == "no-store"
    assert missing.status_code == 404
    assert links["health-liveness"]["href"] == "/actuator/health/liveness"


async def test_head_has_no_body_and_nothing_can_be_written() -> None:
    """A health check of a load balancer may be a HEAD."""
    async with client_of(app_with()) as client:
        head = await client.head("/actuator/health")
        post = await client.post("/actuator/health")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")


async def test_without_details_there_is_the_status_alone() -> None:
    """For who can be reached from outside."""
    async with client_of(app_with(Health({"db": lambda: {"url": "secret"}}), details=False)) as client:
        assert (await client.get("/actuator/health/readiness")).json() == {"status": "UP"}


async def test_metrics_are_beside_health_unless_they_are_not_wanted() -> None:
    """The library's and the application's own, in one page."""
    registry = CollectorRegistry()
    app = app_with(registry=registry)
    app.add_middleware(HttpRequestMetrics, registry=registry)
    kept = [CircuitBreaker("beside")]
    async with client_of(app) as client:
        await client.get("/actuator/health")
        found = samples((await client.get("/actuator/prometheus")).text)
    assert found["resilient_circuitbreaker_state", frozenset({("name", "beside"), ("state", "closed")})] == 1
    counted = [dict(labels)["uri"] for name, labels in found if name == "http_server_requests_seconds_count"]
    assert counted == ["/actuator/{path}"]
    async with client_of(app_with(metrics=False)) as client:
        assert (await client.get("/actuator/prometheus")).status_code == 404
        assert "prometheus" not in (await client.get("/actuator/")).json()["_links"]
    assert kept


async def test_it_is_mounted_in_fastapi_and_stands_alone() -> None:
    """With the path that the mount leaves, or the whole one."""
    app = FastAPI()
    app.mount("/actuator", Actuator(registry=CollectorRegistry()))
    async with client_of(app) as client:
        assert (await client.get("/actuator/health")).json()["status"] == "UP"
    async with client_of(Actuator(registry=CollectorRegistry())) as client:
        assert (await client.get("/health/liveness")).json()["status"] == "UP"


def test_a_check_that_hangs_holds_up_no_other_request_of_a_real_server() -> None:
    """Liveness answers while readiness waits for its time."""
    import threading

    released = threading.Event()
    app = app_with(Health({"db": released.wait}, timeout=0.5))
    try:
        with Served(app) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
            answers: list[httpx.Response] = []
            waiting = threading.Thread(target=lambda: answers.append(client.get("/actuator/health/readiness")))
            began = time.monotonic()
            waiting.start()
            assert client.get("/actuator/health/liveness").status_code == 200
            waiting.join()
            assert time.monotonic() - began < 10.0
            assert answers[0].status_code == 503
            assert answers[0].json()["components"]["db"]["details"]["error"] == "no answer within 0.5 s"
    finally:
        released.set()


def test_a_forked_child_asks_for_itself() -> None:
    """What hangs in the parent does not hang in the child."""
    import threading

    parent, released = os.getpid(), threading.Event()
    health = Health({"db": lambda: released.wait() if os.getpid() == parent else True}, timeout=0.05)
    assert health.report().status == "DOWN"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if health.report().status == "UP" else 1)
    released.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_no_health_is_refused() -> None:
    """A function is a check, and belongs into a Health."""
    with pytest.raises(ConfigError, match="health must be a Health or None"):
        Actuator(lambda: True)  # type: ignore[arg-type]
