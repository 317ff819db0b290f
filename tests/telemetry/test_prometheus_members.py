"""Who is shown: registrations, commands of a Keyed, what comes and goes during a scrape, and what a fork leaves."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import resilient
from resilient import CircuitBreaker, Command, Keyed
from resilient.discovery import Registry
from resilient.registry_server import RegistryServer
from resilient.telemetry import HttpRequestMetrics, metrics_app
from resilient.telemetry.prometheus_ledger import Ledger
from resilient.transport import ResilientTransport
from tests.listed import Listed, instance
from tests.telemetry.scrapes import Scrapes
from tests.waiting import wait_until


def test_a_registration_says_whether_the_registry_lists_it() -> None:
    """1 while it is listed; closed, it is shown no longer."""
    scrapes = Scrapes()
    with RegistryServer(port=0) as server, Registry.from_url(server.url) as registry:
        registration = registry.register("shop", port=8080, host="127.0.0.1")
        assert scrapes.value("resilient_registration_registered", name="shop") is None
        with registration:
            wait_until(
                lambda: scrapes.value("resilient_registration_registered", name="shop") == 1, what="being listed"
            )
        assert scrapes.value("resilient_registration_registered", name="shop") is None


def test_commands_of_a_keyed_are_one_series() -> None:
    """A command per tenant: calls are added up, quantiles of several are absent."""
    functions: list[Callable[[], int]] = []

    def make(tenant: str) -> Command:
        @resilient.command(f"report.{tenant}", group="reports")
        def report() -> int:
            return 1

        functions.append(report)
        return Command.of(report)

    reports: Keyed[str, Command] = Keyed(make)
    for tenant in "abc":
        assert reports[tenant].name == f"report.{tenant}"
    for function in functions:
        function()
    scrapes = Scrapes(keyed={"reports": reports})
    found = scrapes.value("resilient_command_calls_total", name="reports", group="reports", kind="successful")
    assert found == 3
    assert scrapes.value("resilient_circuitbreaker_state", name="reports", state="closed") == 3
    assert not any(name == "resilient_command_latency_seconds" for name, _ in scrapes.values())


def test_what_is_made_and_dropped_during_a_scrape_does_not_break_it(caplog: pytest.LogCaptureFixture) -> None:
    """Policies and Keyed objects come and go in another thread; one that is half made is left out without a word."""
    caplog.set_level("WARNING", "resilient")
    over = threading.Event()

    def restless() -> None:
        while not over.is_set():
            many: Keyed[int, CircuitBreaker] = Keyed(lambda key: CircuitBreaker())
            for key in range(5):
                many[key].call(len, "")

    scrapes, interval = Scrapes(), sys.getswitchinterval()
    thread = threading.Thread(target=restless, daemon=True)
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        scraped = [len(scrapes.values()) for _ in range(25)]
    finally:
        over.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert len(scraped) == 25
    assert "no metrics" not in caplog.text


def test_a_host_behind_a_discovery_that_raises_is_one_of_the_hosts() -> None:
    """Whether it is known can not be found out; the scrape goes on."""

    class Broken(Listed):
        broken = False

        def instances(self, service: str, /) -> Any:
            if self.broken:
                raise RuntimeError("broken")
            return super().instances(service)

    discovery, answers = Broken(instance("a")), httpx.MockTransport(lambda request: httpx.Response(200))
    transport = ResilientTransport(discovery, transport=lambda instance: answers)
    with httpx.Client(transport=transport) as client:
        client.get("http://producer/")
        discovery.broken = True
        found = Scrapes().value("resilient_circuitbreaker_calls_total", name="hosts", kind="successful")
        discovery.broken = False
    assert found == 1


def test_a_fork_leaves_no_lock_held() -> None:
    """A child that was forked during a scrape can be scraped; requests of the parent are not the child's."""
    ledger, thing = Ledger(), CircuitBreaker("forked")
    ledger._lock.acquire()
    ledger.after_fork_in_child()
    assert ledger.totals({("calls",): {weakref.ref(thing): 1.0}}, ledger.begin()) == {("calls",): 1.0}

    async def nothing(*_args: object) -> None:
        return None

    registry = CollectorRegistry()
    requests = HttpRequestMetrics(nothing, registry=registry)._requests
    requests.count(("None", "GET", "SUCCESS", "200", "/"), 1.0)
    requests._lock.acquire()
    requests.after_fork_in_child()
    assert b"http_server_requests_seconds_count" not in generate_latest(registry)


async def test_the_metrics_application_speaks_http_only() -> None:
    """A server's lifespan message is refused, which tells it that there is none."""

    async def nothing(*_args: Any) -> Any:
        return None

    with pytest.raises(ValueError, match="lifespan"):
        await metrics_app(CollectorRegistry())({"type": "lifespan"}, nothing, nothing)
