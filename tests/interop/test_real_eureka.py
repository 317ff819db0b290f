"""EurekaDiscovery against a real Eureka server: its life, its overrides, its leases, its crash and its hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from resilient import DiscoveryError, listen
from resilient.discovery import Discovery, Instance, RegistrationLost, RegistrationRegained, Registry
from resilient.discovery.eureka import EurekaDiscovery
from resilient.events import Event
from tests.eureka_server import EurekaServer
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(150)
FAST = "?fetch_interval=0.2&renew_interval=0.3&lease=3&confirm=false"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[EurekaServer]:
    with EurekaServer() as found:
        yield found


@pytest.fixture
def server(shared: EurekaServer) -> EurekaServer:
    """The one of this module, without the entries of the test before."""
    for name in shared.listed():
        httpx.delete(f"{shared.http}/apps/{name.split(':')[0]}/{quote(name, safe='')}")
    wait_until(lambda: not shared.listed(), what="an empty registry")
    return shared


class Spy(httpx.Auth):
    """What was asked, and the status of each answer."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield request
        self.seen.append((request.method, request.url.path.removeprefix("/eureka"), response.status_code))

    def of(self, method: str) -> list[tuple[str, int]]:
        return [(path, status) for asked, path, status in self.seen if asked == method]


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


def entry(name: str) -> str:
    """An id from which the fixture reads the service."""
    return f"{name}:1"


def test_register_renew_full_delta_override_cancel(server: EurekaServer) -> None:
    """With the statuses of the protocol at each step, and a delta for whatever changed."""
    spy = Spy()
    found = EurekaDiscovery(server.url + FAST, auth=spy)
    with found:
        mine = found.register(
            "producer", port=8080, id=entry("producer"), zone="z1", weight=2.5, metadata={"a b": "ü<&>\"'", "_x": "1"}
        )
        with mine:
            (seen,) = found.wait("producer")
            assert seen == mine.instance
            assert seen.metadata == {"a b": "ü<&>\"'", "_x": "1", "zone": "z1", "weight": "2.5"}
            wait_until(lambda: len(spy.of("PUT")) >= 2, what="renewals")
            with found.register("other", port=1, id=entry("other")) as other:
                found.wait("other")
                found.override_status(seen, "OUT_OF_SERVICE")
                wait_until(lambda: not found.instances("producer"), what="the override")
                renewals = len(spy.of("PUT"))
                wait_until(lambda: len(spy.of("PUT")) > renewals + 3, what="renewals")
                assert server.listed()[entry("producer")] == "OUT_OF_SERVICE"
                found.override_status(seen, None)
                wait_until(lambda: found.instances("producer"), what="the end of the override")
            wait_until(lambda: not found.instances("other"), what="the departure")
            assert other.instance.id == entry("other")
        wait_until(lambda: not found.instances("producer"), what="the departure")
    assert server.listed() == {}
    assert spy.of("POST") == [("/apps/PRODUCER", 204), ("/apps/OTHER", 204)]
    assert {status for _, status in spy.of("PUT")} == {200}
    assert {(path, status) for path, status in spy.of("DELETE") if "status" not in path} == {
        ("/apps/PRODUCER/producer:1", 200),
        ("/apps/OTHER/other:1", 200),
    }
    fetches = [path for path, _ in spy.of("GET") if path in {"/apps/", "/apps/delta"}]
    assert fetches.count("/apps/delta") >= 5
    assert fetches.count("/apps/") <= 3  # the first, empty ones until somebody is there


async def test_the_same_on_an_event_loop(server: EurekaServer) -> None:
    """Tasks register, find, override and leave."""
    async with EurekaDiscovery(server.url + FAST) as found:
        async with found.register("producer", port=8080, id=entry("producer")) as mine:
            (seen,) = await found.wait_async("producer")
            assert seen.id == mine.instance.id
            await found.override_status_async(seen, "DOWN")
            await until(lambda: not found.instances("producer"))
            await found.override_status_async(seen, None)
            await until(lambda: found.instances("producer"))
        await until(lambda: not found.instances("producer"))
    assert server.listed() == {}


def test_every_status_that_is_set_arrives(server: EurekaServer) -> None:
    """OUT_OF_SERVICE and UP too, between which a real server would keep what it has."""
    with Registry.from_url(server.url + FAST).register("producer", port=8080, id=entry("producer")) as mine:
        wait_until(lambda: mine.registered, what="the registration")
        for status in ("OUT_OF_SERVICE", "UP", "DOWN", "UP"):
            mine.set_status(status)
            wait_until(lambda status=status: server.listed()[entry("producer")] == status, what=status)  # type: ignore[misc]  # bound now


@pytest.mark.parametrize(
    ("host", "secure", "name"),
    [("::1", False, "ipv6:1"), ("shop.local", True, "tls:1"), ("10.0.0.9", False, "odd:a b|c%d+ü")],
)
def test_addresses_ports_and_ids_come_back_as_they_were(
    server: EurekaServer, host: str, secure: bool, name: str
) -> None:
    """IPv6, a TLS port, an id with characters that need care."""
    found = Registry.from_url(server.url + FAST)
    with found, found.register(name.split(":", maxsplit=1)[0], port=8443, host=host, id=name, secure=secure) as mine:
        (seen,) = found.wait(mine.instance.service)
        assert (seen.host, seen.port, seen.secure, seen.id) == (host, 8443, secure, name)
        wait_until(lambda: mine.registered, what="a renewal")
    assert server.listed() == {}


def test_an_entry_that_somebody_deleted_comes_back(server: EurekaServer) -> None:
    """The next renewal is answered 404, and the registration told as lost and regained."""
    heard: list[Event] = []
    stop = listen(heard.append, Event)
    with Registry.from_url(server.url + FAST).register("producer", port=8080, id=entry("producer")) as mine:
        wait_until(lambda: mine.registered, what="the registration")
        assert httpx.delete(f"{server.http}/apps/PRODUCER/{entry('producer')}").status_code == 200
        wait_until(lambda: any(isinstance(event, RegistrationRegained) for event in heard), what="the new registration")
        assert list(server.listed()) == [entry("producer")]
    stop()
    assert [type(event) for event in heard if isinstance(event, (RegistrationLost, RegistrationRegained))] == [
        RegistrationLost,
        RegistrationRegained,
    ]


def test_who_is_not_listed_can_not_be_overridden(server: EurekaServer) -> None:
    """A sentence that names both."""
    with pytest.raises(DiscoveryError, match="does not list 'x' of 'nobody'"):
        EurekaDiscovery(server.url).override_status(Instance("nobody", "h", 1, "x"), "DOWN")


def test_a_killed_process_is_evicted_and_seen_to_be_gone(server: EurekaServer) -> None:
    """Its lease ends on the real server's terms: twice its length, once it was renewed."""
    code = f"""
import time
from resilient.discovery import Registry
url = {server.url!r} + "?renew_interval=0.3&lease=1"
with Registry.from_url(url).register("crashing", port=8080, id="crashing:1"):
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        with Discovery.from_url(server.url + FAST) as found:
            found.wait("crashing", timeout=15)
            process.kill()
            process.wait(10)
            wait_until(lambda: not found.instances("crashing"), what="the eviction")
    finally:
        process.kill()
        process.wait(10)


def test_a_hung_server_holds_nobody_and_is_back_when_it_goes_on(server: EurekaServer) -> None:
    """Lookups read memory, the list grows old, closing ends in time; afterwards all is as before."""
    found = Registry.from_url(server.url + FAST)
    with found, found.register("producer", port=8080, id=entry("producer")) as mine:
        known = found.wait("producer")
        server.hang()
        try:
            wait_until(lambda: found.age("producer") > 1.5, what="an older list")
            assert found.instances("producer") is known
            with Registry.from_url(server.url + FAST) as another:
                began = time.monotonic()
                another.register("late", port=1, host="127.0.0.1").__enter__()
            assert time.monotonic() - began < 5.5
        finally:
            server.resume()
        wait_until(lambda: found.age("producer") < 0.5 and mine.registered, timeout=20, what="the server to be back")
        assert [instance.id for instance in found.instances("producer")] == [entry("producer")]


def test_a_killed_server_is_survived_and_filled_again(shared: EurekaServer) -> None:
    """What was known stays known; the empty new server is filled by renewals that are answered 404."""
    found = Registry.from_url(shared.url + "?fetch_interval=0.2&renew_interval=0.3&lease=3")
    with found, found.register("producer", port=8080, id=entry("producer")) as mine:
        known = found.wait("producer")
        shared.kill()
        wait_until(lambda: found.age("producer") > 1.0, what="an outage")
        assert found.instances("producer") is known
        shared.start()
        wait_until(lambda: mine.registered and found.age("producer") < 0.5, timeout=20, what="the new registration")
        assert [instance.id for instance in found.instances("producer")] == [entry("producer")]
