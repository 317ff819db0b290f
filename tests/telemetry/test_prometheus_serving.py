"""Served over HTTP: real scrapes, both kinds of servers, what is missing is named."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from resilient import CircuitBreaker, ConfigError, Keyed
from resilient.telemetry import metrics_app, register, wsgi_metrics_app
from tests.telemetry.scrapes import samples

STATE = "resilient_circuitbreaker_state"


class Quiet(WSGIRequestHandler):
    """Writes no line per request."""

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(app: Any) -> Iterator[str]:
    """A WSGI application on a free port of the loopback interface, in a thread; gives its address."""
    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_real_scrape_over_http_sees_what_another_thread_did() -> None:
    """What Prometheus does: GET, and parse."""
    breaker = CircuitBreaker("scraped")
    with served(wsgi_metrics_app(CollectorRegistry())) as address:
        caller = threading.Thread(target=breaker.call, args=(len, ""))
        caller.start()
        caller.join()
        with urllib.request.urlopen(address, timeout=10) as answer:
            found = samples(answer.read().decode())
            content_type = answer.headers["Content-Type"]
    assert content_type.startswith("text/plain")
    assert found["resilient_circuitbreaker_calls_total", frozenset({("name", "scraped"), ("kind", "successful")})] == 1


def test_the_format_and_the_compression_are_what_the_scraper_asks_for() -> None:
    """OpenMetrics for who prefers it, gzip for who takes it; `name[]` leaves the others out."""
    kept = [CircuitBreaker("formats")]
    with served(wsgi_metrics_app(CollectorRegistry())) as address:
        request = urllib.request.Request(
            f"{address}/?name[]={STATE}",
            headers={"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            body, headers = answer.read(), answer.headers
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert headers["Content-Encoding"] == "gzip"
    text = gzip.decompress(body).decode()
    assert text.endswith("# EOF\n")
    assert STATE in text
    assert "resilient_circuitbreaker_calls" not in text
    assert kept


async def test_the_asgi_application_serves_at_the_path_of_a_route() -> None:
    """Exactly /actuator/prometheus, without a redirect; HEAD has no body, POST is refused."""
    kept = [CircuitBreaker("asgi")]
    app = Starlette(routes=[Route("/actuator/prometheus", metrics_app(CollectorRegistry()))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        got = await client.get("/actuator/prometheus")
        head = await client.head("/actuator/prometheus")
        post = await client.post("/actuator/prometheus")
    assert got.status_code == 200
    assert got.headers["content-encoding"] == "gzip"  # httpx asks for it
    assert samples(got.text)[STATE, frozenset({("name", "asgi"), ("state", "closed")})] == 1
    assert (head.status_code, head.content) == (200, b"")
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")
    assert kept


def test_registering_twice_is_registering_once() -> None:
    """Two modules may both do it; both dialects may stand side by side; more wishes come too late."""
    registry = CollectorRegistry()
    first = register(registry)
    assert register(registry) is first
    assert register(registry, prefix="resilience4j") is not first
    with pytest.raises(ConfigError, match="registered already"):
        register(registry, keyed={"k": Keyed(CircuitBreaker)})


@pytest.mark.parametrize("make", [register, metrics_app, wsgi_metrics_app])
def test_what_is_no_registry_is_refused(make: Any) -> None:
    """Said at once, not at the first scrape."""
    with pytest.raises(ConfigError, match="must be a CollectorRegistry"):
        make("registry")


def test_without_prometheus_client_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is in the message."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for make in (register, metrics_app, wsgi_metrics_app):
        with pytest.raises(ConfigError, match=r"resilient-patterns\[prometheus\]"):
            make()


def test_importing_the_room_loads_neither_prometheus_client_nor_an_http_client() -> None:
    """Paid for by who uses it."""
    code = (
        "import sys, resilient\nassert 'resilient.telemetry' not in sys.modules\nimport resilient.telemetry\n"
        "print(*[m for m in ('prometheus_client', 'asyncio', 'httpx', 'starlette', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == []
