"""The rules of the httpx transports, in both colours: pools, arguments, errors."""

from __future__ import annotations

import pickle
from typing import Any

import httpx
import pytest

from resilient import (
    ConfigError,
)
from resilient.discovery import Instance
from resilient.errors import FailureInfo
from resilient.transport import AsyncResilientTransport, ResilientTransport
from resilient.transport.httpx_errors import TransportCircuitOpenError, TransportTimeoutError
from tests.colours import Chunks, Colour, Wire, colours, name, opened
from tests.listed import Listed, instance, instances

colour = colours(opened)


# --- pools ----------------------------------------------------------------------------------------------------------


def test_every_instance_has_a_pool_of_its_own_closed_with_the_client(colour: Colour) -> None:
    """One pool per instance and TLS name, made at the first call, closed at close."""
    colour.open(name, Listed(*instances("ab"), instance("s", secure=True)))
    assert colour.wires == []
    for _ in range(3):
        colour.get("http://producer/")
        colour.get("https://producer/")
    colour.get("https://producer/", extensions={"sni_hostname": "other"})
    assert [wire.instance.id for wire in colour.wires if wire.instance] == ["a", "s", "b", "s"]
    colour.close()
    assert [wire.closed for wire in colour.wires] == [1, 1, 1, 1]


def test_a_pool_is_closed_when_its_instance_left_and_its_last_call_has_ended(colour: Colour) -> None:
    """At once when nobody uses it, else after the last body; the others stay, and who comes back gets a new pool."""
    discovery = Listed(*instances("abc"))
    colour.open(lambda r, i: httpx.Response(200, stream=Chunks(b"x")), discovery)
    open_answer = colour.stream("http://producer/")
    for _ in range(2):
        colour.get("http://producer/")
    discovery.set(*instances("c"))
    colour.settle()
    assert [wire.closed for wire in colour.wires] == [0, 1, 0]
    colour.read(open_answer)
    colour.settle()
    assert [wire.closed for wire in colour.wires] == [1, 1, 0]
    discovery.set(*instances("abc"))
    for _ in range(3):
        colour.get("http://producer/")
    assert [wire.closed for wire in colour.wires] == [1, 1, 0, 0, 0]


def test_a_factory_that_raises_gives_the_lease_back(colour: Colour) -> None:
    """An error of transport= reaches the caller; nothing stays in flight."""

    def broken(instance: Instance | None) -> Wire:
        raise RuntimeError("no such pool")

    colour.open(name, Listed(*instances("a")), transport=broken)
    with pytest.raises(RuntimeError, match="no such pool"):
        colour.get("http://producer/")
    assert colour.in_flight() == 0


def test_a_factory_must_make_transports(colour: Colour) -> None:
    """Something else is named."""
    colour.open(name, Listed(*instances("a")), transport=lambda _instance: "pool")
    with pytest.raises(ConfigError, match="must make a"):
        colour.get("http://producer/")


# --- arguments and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"discovery": 7}, "discovery"),
        ({"discovery": "eurika://localhost"}, "url"),
        ({"policies": "breaker"}, "policies"),
        ({"strategy": "round robin"}, "strategy"),
        ({"is_logical": "producer"}, "is_logical"),
        ({"verify": "/etc/ca.pem"}, "verify"),
        ({"tls_name": ""}, "tls_name"),
        ({"deadline_header": "X-Deadline"}, "deadline_header"),
        ({"transport": "pool"}, "transport"),
        ({"transport": lambda _i: None, "proxy": "http://proxy:3128"}, "proxy"),
        ({"transport": lambda _i: None, "verify": False}, "verify"),
        ({"transport": lambda _i: None, "http2": True}, "http2"),
    ],
)
@pytest.mark.parametrize("kind", [ResilientTransport, AsyncResilientTransport])
def test_a_wrong_argument_is_refused_at_construction(kind: Any, options: dict[str, Any], path: str) -> None:
    """The error names the argument."""
    given = {"discovery": None, **options}
    with pytest.raises(ConfigError) as refused:
        kind(given.pop("discovery"), **given)
    assert refused.value.path == path


def test_https_to_a_name_does_not_go_through_an_http_proxy() -> None:
    """The certificate could not be verified for the name, so it is refused."""
    discovery = Listed(instance("s", secure=True))
    transport = ResilientTransport(discovery, proxy="http://127.0.0.1:9")
    with httpx.Client(transport=transport) as client, pytest.raises(ConfigError, match="could not be verified"):
        client.get("https://producer/")


def test_the_proxies_of_the_environment_apply_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used for what NO_PROXY does not name; trust_env=False ignores both."""
    monkeypatch.setenv("http_proxy", "127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "producer")
    transport = ResilientTransport(Listed())
    found = transport._core.connections
    assert found.proxy_for("http", "consumer") == "http://127.0.0.1:9"
    assert found.proxy_for("http", "producer") is None
    assert found.proxy_for("https", "consumer") is None
    assert ResilientTransport(trust_env=False)._core.connections.proxy_for("http", "consumer") is None


def test_the_errors_of_a_transport_pickle() -> None:
    """They cross process borders with their data, and are what both sides know."""
    info = FailureInfo("ConnectError", "refused", 1.0)
    error = TransportCircuitOpenError("open", policy="producer", retry_after=2.5, last_failure=info)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is TransportCircuitOpenError
    assert (str(again), again.policy, again.retry_after, again.last_failure) == ("open", "producer", 2.5, info)
    late = TransportTimeoutError("late", policy="p", limit=1.0, elapsed=1.5, by_deadline=True)
    again = pickle.loads(pickle.dumps(late))
    assert type(again) is TransportTimeoutError
    assert issubclass(TransportTimeoutError, TimeoutError)
    assert issubclass(TransportTimeoutError, httpx.TimeoutException)
    assert (again.limit, again.elapsed, again.by_deadline) == (1.0, 1.5, True)
    with pytest.raises(RuntimeError, match="request"):
        _ = again.request


def test_a_discovery_handed_in_is_the_callers(colour: Colour) -> None:
    """Only what the transport made from a URL is closed with it."""
    closed: list[str] = []

    class Mine(Listed):
        def close(self) -> None:
            closed.append("close")

        async def aclose(self) -> None:
            closed.append("aclose")

    colour.open(name, Mine(*instances("a")))
    colour.get("http://producer/")
    colour.close()
    assert closed == []


def test_a_url_makes_a_discovery_of_its_own(colour: Colour) -> None:
    """static:// in the place of a Discovery."""
    colour.open(name, "static://producer=10.0.0.1:80")
    assert colour.get("http://producer/").text == "10.0.0.1:producer:80"
    assert "static" in repr(colour.transport)
