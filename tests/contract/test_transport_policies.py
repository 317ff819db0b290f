"""Which policies a transport runs around a call and around each attempt, and where it has them from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    ConcurrencyLimiter,
    ConfigError,
    Deadline,
    Pipeline,
    State,
    Timeout,
    listen,
)
from resilient.balancing import RoundRobin
from resilient.config import configure
from resilient.discovery import Instance
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.hedge import Hedge
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.policies.retry_report import RetryBudgetExhausted, RetryScheduled
from resilient.testing import VirtualClock
from resilient.transport import AsyncResilientTransport, ResilientTransport
from tests.colours import Chunks, Colour, Wire, colours, name, opened, status_of
from tests.listed import Listed, instance, instances

colour = colours(opened)


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Nothing is said from outside, before and after."""
    configure({})
    yield
    configure({})


# --- the usual ones -------------------------------------------------------------------------------------------------


def test_a_breaker_around_a_retry_is_the_usual(colour: Colour) -> None:
    """Rule 29, one pair per key, named after it; a page can explain them."""
    colour.open(name, Listed(*instances("ab")))
    policies = colour.transport.pipeline("producer").policies
    assert [type(policy) for policy in policies] == [CircuitBreaker, Retry]
    assert [policy.name for policy in policies] == ["producer", "producer"]
    assert colour.transport.pipeline("producer").explain().worst_case_calls == 3
    assert colour.transport.pipeline("http://example.org:80").policies[0].name == "http://example.org:80"


def test_a_host_that_is_not_logical_is_retried_after_a_wait(colour: Colour) -> None:
    """There is no other one, so it is the same one again, with the Retry's wait."""
    clock, asked = VirtualClock(auto=True), list[float]()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        asked.append(clock.monotonic())
        return httpx.Response(503 if len(asked) < 3 else 200)

    colour.open(handler, None, clock=clock)
    answer = colour.get("http://api.example.org/")
    assert (answer.status_code, answer.extensions["resilient"]["attempts"]) == (200, 3)
    assert 0.0 < asked[2] - asked[0] <= 0.3


def test_a_retry_after_opens_the_circuit_of_a_key_with_one_host_only(colour: Colour) -> None:
    """Where there are others it is that instance's own, and the circuit stays closed."""
    discovery = Listed(*instances("a"))

    def busy(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        return httpx.Response(503, headers={"Retry-After": "40"})

    colour.open(busy, discovery)
    assert colour.get("http://producer/").status_code == 503
    assert colour.breaker().state is State.OPEN
    with pytest.raises(CircuitOpenError) as rejected:
        colour.get("http://producer/")
    assert rejected.value.retry_after == pytest.approx(40.0, abs=1.0)
    discovery.set(*instances("ab", service="other"))
    assert colour.get("http://other/").status_code == 503
    assert colour.breaker("other").state is State.CLOSED


def test_every_retry_and_every_refusal_of_the_budget_is_told(colour: Colour) -> None:
    """One event each, with the key, the attempt and the error."""
    clock = VirtualClock()
    heard: list[Any] = []
    stop = [listen(heard.append, RetryScheduled), listen(heard.append, RetryBudgetExhausted)]
    retry = Retry("producer", wait=0.0, clock=clock)
    colour.open(status_of(a=-2, b=-2), Listed(*instances("ab")), policies=lambda _key: Pipeline(retry), clock=clock)
    permits = [retry.budget.take() for _ in range(3)]
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            colour.get("http://producer/")
        permits.clear()
    for end in stop:
        end()
    assert [type(event) for event in heard] == [RetryBudgetExhausted, RetryScheduled, RetryScheduled]
    assert {(event.name, event.error) for event in heard} == {("producer", "RemoteProtocolError: reset")}


# --- where they stand -----------------------------------------------------------------------------------------------


def test_policies_before_the_retry_see_the_call_those_after_it_each_attempt(colour: Colour) -> None:
    """Two attempts: one success outside; a failure and a success inside."""
    outer, inner = CircuitBreaker("outer"), CircuitBreaker("inner")
    colour.open(
        status_of(a=503, b=200),
        Listed(*instances("ab")),
        policies=lambda _key: Pipeline(outer, Retry(wait=0.0), inner),
    )
    assert colour.get("http://producer/").status_code == 200
    assert (outer.snapshot().successes, outer.snapshot().failures) == (1, 0)
    assert (inner.snapshot().successes, inner.snapshot().failures) == (1, 1)


def test_a_refusal_inside_is_not_repeated_and_holds_no_instance(colour: Colour) -> None:
    """A full bulkhead would refuse again; nothing was sent."""
    bulkhead = Bulkhead(1, name="places")
    colour.open(name, Listed(*instances("ab")), policies=lambda _key: Pipeline(Retry(wait=0.0), bulkhead))
    with bulkhead.calling(), pytest.raises(BulkheadFullError) as full:
        colour.get("http://producer/")
    assert isinstance(full.value, httpx.PoolTimeout)
    assert colour.in_flight() == 0
    assert colour.get("http://producer/").text in {"a", "b"}


def test_a_timeout_inside_the_retry_limits_each_attempt(colour: Colour) -> None:
    """An instance that takes longer than that is left for another one; the limit is the policy's."""
    clock, given = VirtualClock(), list[dict[str, float]]()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        given.append(dict(request.extensions["timeout"]))
        if instance and instance.id == "a":
            clock.advance(1.0)
            raise httpx.ReadTimeout("no bytes")
        return httpx.Response(200, text="b")

    def policies(key: str) -> Pipeline[httpx.Response]:
        return Pipeline(Timeout(5.0, clock=clock), Retry(wait=0.0, clock=clock), Timeout(1.0, name="each", clock=clock))

    colour.open(handler, Listed(*instances("ab")), policies=policies, clock=clock)
    assert colour.get("http://producer/").text == "b"
    assert [one["read"] for one in given] == [1.0, 1.0]
    with pytest.raises(CallTimeoutError, match=r"within 1 s \(each\)") as late:
        colour.request("POST", "http://producer/", extensions={"resilient": {"attempts": 1}})
    assert isinstance(late.value, httpx.ReadTimeout)
    assert not late.value.by_deadline


def test_a_timeout_never_moves_a_sync_call_to_a_thread() -> None:
    """Sockets wait no longer than it: connections and context stay with the caller's thread."""
    import threading

    threads: list[int] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        threads.append(threading.get_ident())
        return httpx.Response(200)

    sync = Colour(is_async=False).open(
        handler, Listed(*instances("a")), policies=lambda _key: Pipeline(Timeout(5.0), CircuitBreaker("x"))
    )
    sync.get("http://producer/")
    assert threads == [threading.get_ident()]
    sync.close()


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (lambda _key: Pipeline(Retry("a"), Retry("b")), "one Retry says how often, not 2"),
        (lambda _key: Pipeline(Retry("a"), Hedge(name="b")), "Retry and Hedge together multiply"),
        (lambda _key: Pipeline(Retry("a", on_result=bool)), "a transport's Retry judges answers by their status"),
    ],
)
def test_what_multiplies_or_would_not_be_asked_is_refused(colour: Colour, policies: Any, message: str) -> None:
    """Rule 21: at the first call of the key, with the key's name."""
    colour.open(name, Listed(*instances("a")), policies=policies)
    with pytest.raises(ConfigError, match=f"policies of 'producer': {message}"):
        colour.get("http://producer/")


# --- from the configuration -----------------------------------------------------------------------------------------


def test_a_service_is_configured_by_its_name(colour: Colour) -> None:
    """[services.NAME]: settings of the usual policies, others added, in their order; other services as usual."""
    configure(
        {
            "services": {
                "producer": {
                    "timeout": 5.0,
                    "attempt_timeout": 1.0,
                    "retry": {"attempts": 2, "wait": 0.0},
                    "breaker": {"failure_rate": 0.3},
                    "bulkhead": {"limit": 7},
                    "rate_limiter": {"limit": 1000, "per": 1.0},
                }
            }
        }
    )
    colour.open(status_of(a=-2, b=-2, c=-2), Listed(*instances("abc")))
    policies = colour.transport.pipeline("producer").policies
    assert [type(policy) for policy in policies] == [Timeout, CircuitBreaker, Retry, RateLimiter, Bulkhead, Timeout]
    assert [policy.name for policy in policies[1:5]] == ["producer"] * 4
    assert policies[1].settings.failure_rate == 0.3
    with pytest.raises(httpx.RemoteProtocolError) as broken:
        colour.get("http://producer/")
    assert "attempt 2 of at most 2" in broken.value.__notes__[0]
    assert len(colour.transport.pipeline("http://example.org:80").policies) == 2


def test_a_policy_of_a_service_can_be_taken_away(colour: Colour) -> None:
    """false: without; without all of them the call is only balanced."""
    configure({"services": {"producer": {"retry": False, "breaker": False}}})
    colour.open(status_of(a=503, b=200), Listed(*instances("ab")))
    assert [colour.get("http://producer/").status_code for _ in range(4)] == [503, 200, 503, 200]


def test_a_configuration_that_changes_is_followed_and_counts_stay(colour: Colour) -> None:
    """Rule 27: the same breaker with other settings; a layer that is new is there at the next call."""
    colour.open(status_of(a=500), Listed(*instances("a")))
    colour.get("http://producer/")
    breaker = colour.breaker()
    configure({"services": {"producer": {"breaker": {"consecutive_failures": 2}, "bulkhead": {"limit": 3}}}})
    colour.get("http://producer/")
    assert colour.breaker() is breaker
    assert breaker.state is State.OPEN
    assert [type(policy) for policy in colour.transport.pipeline("producer").policies] == [
        CircuitBreaker,
        Retry,
        Bulkhead,
    ]
    configure({})
    assert len(colour.transport.pipeline("producer").policies) == 2
    assert breaker.settings.consecutive_failures == 5


def test_the_users_own_policies_are_not_configured(colour: Colour) -> None:
    """policies= says everything."""
    configure({"services": {"producer": {"retry": {"attempts": 9}}}})
    colour.open(name, Listed(*instances("a")), policies=lambda key: Pipeline(CircuitBreaker(key)))
    assert len(colour.transport.pipeline("producer").policies) == 1


# --- idempotency keys -----------------------------------------------------------------------------------------------


def test_with_keys_a_post_to_a_service_is_repeated_with_the_same_key(colour: Colour) -> None:
    """One key per call, the same at each attempt, another one for the next call; none for hosts and for GET."""
    keys: list[str | None] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        keys.append(request.headers.get("Idempotency-Key"))
        return httpx.Response(503 if instance and instance.id == "a" else 200)

    colour.open(
        handler,
        Listed(*instances("ab")),
        idempotency_keys=True,
        policies=lambda _key: Pipeline(Retry(wait=0.0)),
    )
    answers = [colour.request("POST", "http://producer/", content=b"x").status_code for _ in range(2)]
    answers += [colour.request("PATCH", "http://producer/", headers={"Idempotency-Key": "mine"}).status_code]
    answers += [colour.get("http://producer/").status_code, colour.request("POST", "http://h.org/").status_code]
    assert answers == [200] * 5
    assert keys[0] is not None
    assert keys[0] == keys[1] != keys[2]
    assert keys[-1] is None
    assert set(keys[2:]) > {"mine", None}


def test_the_request_may_still_say_that_it_must_not_be_repeated(colour: Colour) -> None:
    """Its own word wins over the key."""
    colour.open(
        status_of(a=503, b=200),
        Listed(*instances("ab")),
        idempotency_keys=True,
        policies=lambda _key: Pipeline(Retry(wait=0.0)),
    )
    extensions = {"resilient": {"idempotent": False}}
    assert colour.request("POST", "http://producer/", extensions=extensions).status_code == 503


def test_keys_are_wanted_or_not() -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigError, match="idempotency_keys must be True or False"):
        ResilientTransport(idempotency_keys="always")  # type: ignore[arg-type]  # that is what is tested


# --- clear sentences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://producer:8080/", "with a port it is an address: 'producer' is a service of"),
        ("http://producer.shop.example/", "'producer' is a service of .*is_logical= says which hosts are names"),
        ("http://other.example/", None),
    ],
)
def test_a_host_that_looks_like_a_name_and_is_none_is_explained(colour: Colour, url: str, hint: str | None) -> None:
    """When it can not be found: in a note of httpx's own error."""

    def unresolved(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        raise httpx.ConnectError("Name or service not known")

    colour.open(unresolved, Listed(instance("a")), policies=lambda _key: Pipeline(Retry(attempts=1)))
    with pytest.raises(httpx.ConnectError) as error:
        colour.get(url)
    [note] = error.value.__notes__
    if hint is None:
        assert "service of" not in note
    else:
        import re

        assert re.search(hint, note)


def test_a_name_without_a_discovery_is_explained(colour: Colour) -> None:
    """It was looked up as a host."""

    def unresolved(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        raise httpx.ConnectError("Name or service not known")

    colour.open(unresolved, None, policies=lambda _key: Pipeline(Retry(attempts=1)))
    with pytest.raises(httpx.ConnectError) as error:
        colour.get("http://producer/")
    assert "'producer' was looked up as a host: without a discovery no name is a service" in error.value.__notes__[0]


def test_the_key_of_no_service_is_explained() -> None:
    """Asking for the policies or the balancer of something else says why."""
    with pytest.raises(ConfigError, match="it has no discovery"):
        ResilientTransport().balancer("producer")
    transport = ResilientTransport(Listed(instance("a")))
    with pytest.raises(ConfigError, match="is not a single label without a port"):
        transport.balancer("producer.example")
    with pytest.raises(ConfigError, match=r"the key of a host is scheme://host:port"):
        transport.pipeline("http://producer.example")


def test_a_repeated_call_logs_no_warning(colour: Colour, caplog: pytest.LogCaptureFixture) -> None:
    """What was made up for is told at DEBUG."""
    with caplog.at_level(logging.DEBUG, "resilient"):
        colour.open(status_of(a=503, b=200), Listed(*instances("ab")), policies=lambda _key: Pipeline(Retry(wait=0.0)))
        with Deadline(5.0):
            colour.get("http://producer/")
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


@pytest.mark.parametrize("make", [lambda: Bulkhead(1), ConcurrencyLimiter], ids=["bulkhead", "concurrency limiter"])
def test_32_a_place_is_held_until_the_body_ends(colour: Colour, make: Callable[[], Any]) -> None:
    """A response is not over at its headers: read or closed, its place comes back once."""
    gate = make()
    colour.open(
        lambda _request, _instance: httpx.Response(200, stream=Chunks(b"fine")),
        Listed(*instances("a")),
        policies=lambda _key: Pipeline(gate),
    )
    for end in (colour.read, colour.close_answer, colour.read):
        answer = colour.stream("http://producer/")
        assert gate.snapshot().in_flight == 1
        end(answer)
        colour.close_answer(answer)
        assert gate.snapshot().in_flight == 0


def test_32_an_answer_that_is_thrown_away_holds_no_place(colour: Colour) -> None:
    """Of a repeated call each answer has its own place, and a failed one gives it back before the next attempt."""
    gate = Bulkhead(1)
    colour.open(
        status_of(a=503, b=200), Listed(*instances("ab")), policies=lambda _key: Pipeline(Retry(wait=0.0), gate)
    )
    assert colour.get("http://producer/").status_code == 200
    assert gate.snapshot().in_flight == 0


async def test_32_the_loser_of_a_hedge_holds_no_place() -> None:
    """The answer that is kept holds its own place until its body ends, not that of the call that was given up."""
    gate, never = Bulkhead(2), asyncio.Event()

    class Slow(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self.instance is not None and self.instance.id == "a":
                await never.wait()
            return httpx.Response(200, stream=Chunks(b"fine"))

    transport = AsyncResilientTransport(
        Listed(*instances("ab")),
        policies=lambda _key: Pipeline(Hedge(delay=0.01, name="places"), gate),
        strategy=lambda: RoundRobin(rng=lambda: 0.0),
        transport=lambda found: Slow(name, found),
    )
    async with (
        httpx.AsyncClient(transport=transport) as client,
        client.stream("GET", "http://producer/") as answer,
    ):
        assert answer.extensions["resilient"]["instance"].id == "b"
        assert gate.snapshot().in_flight == 1
    assert gate.snapshot().in_flight == 0
