"""Routing without any HTTP client: what is logical, which instance is next, whether to go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from resilient import CallTimeoutError, ConfigError, Deadline, DeadlineExceededError, NoInstanceError
from resilient.balancing import Balancer, RoundRobin
from resilient.testing import VirtualClock
from resilient.transport.options import Options
from resilient.transport.routing import (
    Exchange,
    Route,
    Trouble,
    failed_call,
    header_ms,
    route,
    shortened,
    single_label,
)
from tests.listed import Listed, instances


def exchange(
    chosen: Balancer | None,
    clock: VirtualClock,
    *,
    repeat: bool = True,
    sendable: bool = True,
    options: Options | None = None,
) -> Exchange:
    """One call of `producer`."""
    return Exchange("producer", chosen, options or Options(), repeat=repeat, sendable=lambda: sendable, clock=clock)


def of(names: str, clock: VirtualClock) -> Balancer:
    """A balancer that begins with the first instance."""
    return Balancer("producer", Listed(*instances(names)), lambda: RoundRobin(rng=lambda: 0.0), clock=clock)


def counts(chosen: Balancer) -> dict[str, tuple[int, int, bool]]:
    """(failures, in flight, aside) per instance."""
    return {e.instance.id: (e.failures, e.in_flight, e.aside > 0) for e in chosen.snapshot().instances if e.picks}


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
    options = Options.of({"resilient": {"idempotent": given}})
    assert options.may_repeat(method, has_key=has_key) is expected


def test_options_default_to_three_attempts() -> None:
    """A request that says nothing gets three attempts and no limit of its own."""
    assert Options.of({}) == Options(idempotent=None, key=None, timeout=None, attempts=3)
    assert Options.of({"resilient": {"timeout": 2, "attempts": 1, "key": "u"}}) == Options(None, "u", 2.0, 1)


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
        Options.of({"resilient": given})


# --- attempts -------------------------------------------------------------------------------------------------------


def test_a_connection_failure_goes_on_to_an_untried_instance(clock: VirtualClock) -> None:
    """Nothing was sent, so any request may go elsewhere: each instance once, three at most."""
    chosen = of("abcd", clock)
    call = exchange(chosen, clock, repeat=False)
    tried = []
    for expected in (True, True, False):
        found = call.choose()
        assert found is not None
        tried.append(found.id)
        assert call.failed(OSError("refused"), Trouble.UNSENT) is expected
    assert len(set(tried)) == call.attempts == 3
    assert counts(chosen) == dict.fromkeys(sorted(tried), (1, 0, True))


def test_there_is_no_second_attempt_when_nobody_is_untried(clock: VirtualClock) -> None:
    """One instance, or a host that is not logical: the error leaves at once."""
    alone = exchange(of("a", clock), clock)
    alone.choose()
    assert alone.failed(OSError("refused"), Trouble.UNSENT) is False
    plain = exchange(None, clock)
    assert plain.choose() is None
    assert plain.failed(OSError("refused"), Trouble.UNSENT) is False


@pytest.mark.parametrize(
    ("trouble", "repeat", "sendable", "again"),
    [
        (Trouble.BROKEN, True, True, True),
        (Trouble.BROKEN, False, True, False),
        (Trouble.BROKEN, True, False, False),
        (Trouble.UNSENT, False, False, False),
        (Trouble.LOCAL, False, True, True),
        (Trouble.OTHER, True, True, False),
    ],
)
def test_what_may_have_been_sent_is_repeated_only_when_that_is_safe(
    clock: VirtualClock, trouble: Trouble, *, repeat: bool, sendable: bool, again: bool
) -> None:
    """Sent, or perhaps: idempotent and a body that can be sent again. Not sent: a body that can be sent."""
    call = exchange(of("ab", clock), clock, repeat=repeat, sendable=sendable)
    call.choose()
    assert call.failed(OSError("no"), trouble) is again


@pytest.mark.parametrize(
    ("trouble", "failures", "aside"),
    [
        (Trouble.UNSENT, 1, True),
        (Trouble.BROKEN, 1, False),
        (Trouble.LOCAL, 0, False),
        (Trouble.OTHER, 0, False),
    ],
)
def test_the_balancer_learns_what_the_trouble_was(
    clock: VirtualClock, trouble: Trouble, failures: int, *, aside: bool
) -> None:
    """A full pool of our own and a mistake in the request are not the instance's failures."""
    chosen = of("ab", clock)
    call = exchange(chosen, clock)
    call.choose()
    call.failed(OSError("no"), trouble)
    assert counts(chosen)["a"] == (failures, 0, aside)


def test_a_cancelled_attempt_says_nothing(clock: VirtualClock) -> None:
    """A BaseException gives the lease back and is not repeated, whatever it is taken for."""
    chosen = of("ab", clock)
    call = exchange(chosen, clock)
    call.choose()
    assert call.failed(KeyboardInterrupt(), Trouble.OTHER) is False
    assert counts(chosen) == {"a": (0, 0, False)}


@pytest.mark.parametrize(
    ("status", "retry_after", "repeat", "again"),
    [
        (200, False, True, False),
        (404, False, True, False),
        (500, False, True, False),
        (502, False, True, True),
        (503, False, True, True),
        (503, True, True, True),
        (504, False, True, True),
        (503, False, False, False),
        (429, True, True, False),
        (408, False, True, False),
        (501, False, True, False),
    ],
)
def test_which_answers_are_asked_for_elsewhere(
    clock: VirtualClock, status: int, *, retry_after: bool, repeat: bool, again: bool
) -> None:
    """502, 503 and 504 of what is safe to repeat."""
    chosen = of("ab", clock)
    call = exchange(chosen, clock, repeat=repeat)
    call.choose()
    assert call.answered(status, retry_after=retry_after) is again
    assert counts(chosen)["a"][1] == (0 if again else 1)  # an answer that is kept holds its instance


@pytest.mark.parametrize(
    ("status", "retry_after", "failures"),
    [
        (200, False, 0),
        (302, False, 0),
        (404, False, 0),
        (408, False, 1),
        (429, False, 0),
        (500, False, 1),
        (501, False, 0),
        (503, False, 1),
        (503, True, 0),
        (505, False, 0),
        (599, False, 1),
    ],
)
def test_what_a_status_says_about_the_instance(
    clock: VirtualClock, status: int, *, retry_after: bool, failures: int
) -> None:
    """The verdict falls at the headers and is told at the end of the body."""
    chosen = of("a", clock)
    call = exchange(chosen, clock)
    call.choose()
    call.answered(status, retry_after=retry_after)
    held = call.hand_over()
    assert counts(chosen) == {"a": (0, 1, False)}
    held.ended()
    held.ended()
    assert counts(chosen) == {"a": (failures, 0, False)}


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_these_answers_are_failures_of_the_call(status: int) -> None:
    """What a policy around the whole call counts as a failure."""
    assert failed_call(status)


@pytest.mark.parametrize("status", [200, 304, 400, 401, 404, 409, 501, 505])
def test_these_answers_are_no_failures_of_the_call(status: int) -> None:
    """The caller's own mistakes and what a server does not do say nothing bad about it."""
    assert not failed_call(status)


def test_a_body_that_breaks_is_the_instances_failure(clock: VirtualClock) -> None:
    """A read error after good headers counts against the instance, once."""
    chosen = of("a", clock)
    call = exchange(chosen, clock)
    call.choose()
    call.answered(200, retry_after=False)
    held = call.hand_over()
    held.broke(OSError("reset"), Trouble.BROKEN)
    held.ended()
    assert counts(chosen) == {"a": (1, 0, False)}


def test_nobody_known_leaves_at_once(clock: VirtualClock) -> None:
    """NoInstanceError of the balancer is not repeated."""
    with pytest.raises(NoInstanceError):
        exchange(Balancer("producer", Listed(), clock=clock), clock).choose()


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_a_deadline_that_has_passed_sends_nothing(clock: VirtualClock) -> None:
    """Less than a millisecond left: DeadlineExceededError, no instance chosen."""
    chosen = of("a", clock)
    with Deadline(1.0, clock=clock):
        call = exchange(chosen, clock)
        assert call.left() == 1.0
        assert call.left_ms() == 1000
        clock.advance(0.9995)
        with pytest.raises(DeadlineExceededError):
            call.choose()
    assert counts(chosen) == {}


def test_there_is_no_other_attempt_when_time_is_up(clock: VirtualClock) -> None:
    """What can not be answered in time is not sent again."""
    with Deadline(1.0, clock=clock):
        call = exchange(of("ab", clock), clock)
        call.choose()
        clock.advance(1.0)
        assert call.failed(OSError("refused"), Trouble.UNSENT) is False


def test_impatience_is_no_evidence(clock: VirtualClock) -> None:
    """A deadline that left the instance less than 100 ms says nothing about it; one that left more does."""
    for given, failures in ((0.05, 0), (0.3, 1)):
        chosen = of("a", clock)
        with Deadline(given, clock=clock):
            call = exchange(chosen, clock)
            call.choose()
            assert call.timed_out() is None
            clock.advance(given)
            late = call.timed_out()
            assert isinstance(late, CallTimeoutError)
            assert late.by_deadline
            assert late.elapsed == pytest.approx(given)
            call.failed(late, Trouble.BROKEN)
        assert counts(chosen) == {"a": (failures, 0, False)}


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


@pytest.mark.parametrize(
    ("left", "present", "sent"),
    [(1500, None, "1500"), (1500, "200", "200"), (1500, "9000", "1500"), (1500, "soon", "1500"), (1500, "0", "1")],
)
def test_the_smaller_deadline_travels(left: int, present: str | None, sent: str) -> None:
    """A deadline header already on the request wins when it is smaller; what is no number is replaced."""
    assert header_ms(left, present) == sent


def test_routing_knows_no_client() -> None:
    """The core imports no HTTP client: an adapter for another one shares it."""
    code = (
        "import sys, types, pathlib, resilient\n"
        "room = types.ModuleType('resilient.transport')\n"
        "room.__path__ = [str(pathlib.Path(resilient.__file__).parent / 'transport')]\n"
        "sys.modules['resilient.transport'] = room\n"
        "import resilient.transport.routing, resilient.transport.targets, resilient.transport.pools\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('httpx', 'requests', 'aiohttp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
