"""Routing without any HTTP client: what is logical, what a request and an answer say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from resilient import ConfigError
from resilient.outcome import FAILURE, IGNORED, SUCCESS, Outcome
from resilient.transport.options import Options
from resilient.transport.routing import Route, failed_call, host_outcome, route, shortened, single_label

# --- what is logical ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("http", "producer", None, Route("producer", "producer")),
        ("https", "Producer", None, Route("producer", "producer")),
        ("http", "weather_api-2", None, Route("weather_api-2", "weather_api-2")),
        ("http", "producer", 8080, Route("http://producer:8080", None)),
        ("http", "localhost", None, Route("http://localhost:80", None)),
        ("http", "api.example.org", None, Route("http://api.example.org:80", None)),
        ("https", "api.example.org", None, Route("https://api.example.org:443", None)),
        ("https", "api.example.org", 8443, Route("https://api.example.org:8443", None)),
        ("http", "producer.", None, Route("http://producer.:80", None)),
        ("http", "127.0.0.1", None, Route("http://127.0.0.1:80", None)),
        ("http", "::1", None, Route("http://[::1]:80", None)),
        ("http", "", None, Route("http://:80", None)),
        ("ftp", "producer", None, Route("ftp://producer:", None)),
    ],
)
def test_a_single_label_without_a_port_is_a_logical_name(
    scheme: str, host: str, port: int | None, expected: Route
) -> None:
    """The URL alone decides; services and hosts have keys that can not be confused."""
    assert route(scheme, host, port, single_label) == expected


def test_without_discovery_no_name_is_logical() -> None:
    """Nothing is resolved that nobody can resolve."""
    assert route("http", "producer", None, None) == Route("http://producer:80", None)


def test_the_user_says_what_is_logical() -> None:
    """is_logical= sees the host in lower case; a URL with a port is an address all the same."""
    svc = "prices.svc"
    assert route("http", "Prices.SVC", None, lambda host: host == svc) == Route(svc, svc)
    assert route("http", svc, 8080, lambda host: host == svc) == Route("http://prices.svc:8080", None)
    assert route("http", "producer", None, lambda host: host == svc).service is None


# --- options of a request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "has_key", "given", "expected"),
    [
        ("GET", False, None, True),
        ("delete", False, None, True),
        ("POST", False, None, False),
        ("PATCH", False, None, False),
        ("POST", True, None, True),
        ("POST", False, True, True),
        ("GET", False, False, False),
        ("POST", True, False, False),
    ],
)
def test_what_may_be_sent_twice(method: str, *, has_key: bool, given: bool | None, expected: bool) -> None:
    """Idempotent methods and keyed requests may; the request's own word wins."""
    options = Options.of({"idempotent": given})
    assert options.may_repeat(method, has_key=has_key) is expected


def test_options_default_to_what_the_policies_say() -> None:
    """A request that says nothing has no limit of its own."""
    assert Options.of(None) == Options(idempotent=None, key=None, timeout=None, attempts=None)
    assert Options.of({"timeout": 2, "attempts": 1, "key": "u"}) == Options(None, "u", 2.0, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idempotnt": True}, "did you mean 'idempotent'"),
        ({"idempotent": "yes"}, "True or False"),
        ({"key": 7}, "key must be text"),
        ({"timeout": 0}, "more than 0"),
        ({"timeout": "1s"}, "a number"),
        ({"attempts": 0}, "at least 1"),
        ("fast", "a mapping"),
    ],
)
def test_a_wrong_option_is_named(given: object, message: str) -> None:
    """A mistake in a request's options is an error that says what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Options.of(given)


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "retry_after", "outcome"),
    [
        (200, False, SUCCESS),
        (302, False, SUCCESS),
        (404, False, SUCCESS),
        (408, False, FAILURE),
        (409, False, SUCCESS),
        (429, False, IGNORED),
        (500, False, FAILURE),
        (501, False, SUCCESS),
        (503, False, FAILURE),
        (503, True, IGNORED),
        (505, False, SUCCESS),
        (599, False, FAILURE),
    ],
)
def test_what_a_status_says_about_the_instance(status: int, *, retry_after: bool, outcome: Outcome) -> None:
    """5xx other than 501 and 505, and 408, are failures; an instance that says that it is busy is well."""
    assert host_outcome(status, retry_after=retry_after) is outcome


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_these_answers_are_failures_of_the_call(status: int) -> None:
    """What a policy around the whole call counts as a failure."""
    assert failed_call(status)


@pytest.mark.parametrize("status", [200, 304, 400, 401, 404, 409, 501, 505])
def test_these_answers_are_no_failures_of_the_call(status: int) -> None:
    """The caller's own mistakes and what a server does not do say nothing bad about it."""
    assert not failed_call(status)


def test_every_timeout_is_shortened_to_what_is_left() -> None:
    """Connect, read, write and pool; those not given are limited, too."""
    assert shortened({"connect": 5.0, "read": 0.2, "write": None}, 1.5) == {
        "connect": 1.5,
        "read": 0.2,
        "write": 1.5,
        "pool": 1.5,
    }
    assert shortened(None, None) == {}
    assert shortened({"read": None}, None) == {"read": None}


def test_routing_knows_no_client() -> None:
    """The core imports no HTTP client: an adapter for another one shares it."""
    code = (
        "import sys, types, pathlib, resilient\n"
        "room = types.ModuleType('resilient.transport')\n"
        "room.__path__ = [str(pathlib.Path(resilient.__file__).parent / 'transport')]\n"
        "sys.modules['resilient.transport'] = room\n"
        "import resilient.transport.exchange, resilient.transport.targets, resilient.transport.pools\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('httpx', 'requests', 'aiohttp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
