"""The numbered statements about retrying, counting, identity and the life of pools, through the httpx transports."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from resilient import CircuitBreaker, Deadline, NoInstanceError, Pipeline
from resilient.budget import RetryBudget
from resilient.discovery import Discovery, Instance
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock
from resilient.transport import AsyncResilientTransport, ResilientTransport
from tests.colours import Chunks, Colour, Wire, colours, name, opened, read_body, status_of
from tests.listed import Listed, instance, instances

colour = colours(opened)


def at_once(key: str) -> Pipeline[httpx.Response]:
    """A Retry that does not wait, and no breaker that would hide what it does."""
    return Pipeline(Retry(f"at once {key}", wait=0.0, budget=RetryBudget(ratio=100.0)))


# --- 14: the retry's target -----------------------------------------------------------------------------------------


def test_14_a_retry_goes_to_an_instance_that_was_not_tried(colour: Colour) -> None:
    """Three attempts at three instances, whatever order they come in; with one instance it is that one again."""
    asked: list[str] = []

    def broken(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        asked.append(instance.id if instance else "")
        raise httpx.ReadError("reset")

    discovery = Listed(*instances("abc"))
    colour.open(broken, discovery, policies=at_once)
    for _ in range(5):
        asked.clear()
        with pytest.raises(httpx.ReadError):
            colour.get("http://producer/")
        assert sorted(asked) == ["a", "b", "c"]
    discovery.set(instance("a"))
    asked.clear()
    with pytest.raises(httpx.ReadError):
        colour.get("http://producer/")
    assert asked == ["a", "a", "a"]


def test_14_who_comes_after_a_dead_instance_gets_no_more_than_its_share(colour: Colour) -> None:
    """The retry takes a slot of the rotation: the nine others are even within 5 %."""
    served = Counter[str]()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        assert instance is not None
        if instance.id == "a":
            raise httpx.ReadError("reset")
        served[instance.id] += 1
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("abcdefghij")), policies=at_once)
    for _ in range(900):
        colour.get("http://producer/")
    assert max(served.values()) <= 1.05 * 100
    assert sum(served.values()) == 900


# --- 15: the budget -------------------------------------------------------------------------------------------------


def test_15_one_dead_instance_of_twenty_costs_one_per_cent(colour: Colour) -> None:
    """A thousand calls reach the wire at most 1,010 times; nobody sees an error."""
    sent = Counter[str]()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        assert instance is not None
        sent[instance.id] += 1
        if instance.id == "a":
            raise httpx.ConnectError("refused")
        return httpx.Response(200)

    clock = VirtualClock()
    colour.open(handler, Listed(*instances("abcdefghijklmnopqrst")), clock=clock)
    for _ in range(1000):
        assert colour.get("http://producer/").status_code == 200
        clock.advance(0.01)
    assert sum(sent.values()) <= 1010


def test_15_a_service_that_fails_gets_a_fifth_more(colour: Colour) -> None:
    """Everything answers 503: a hundred concurrent calls would be three hundred attempts; it is 20 % more, or three."""
    clock = VirtualClock()
    waiting = Retry(wait=0.0, clock=clock)
    sent: list[str] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        sent.append(instance.id if instance else "")
        return httpx.Response(503)

    colour.open(handler, Listed(*instances("abcdef")), clock=clock, policies=lambda _key: Pipeline(waiting))
    permits = [waiting.budget.take() for _ in range(3)]  # what is always allowed is in flight
    for _ in range(100):
        assert colour.get("http://producer/").status_code == 503
    assert len(permits) == 3
    assert len(sent) <= 120
    assert waiting.snapshot().refused > 0


# --- 16: what is safe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_16_idempotent_methods_are_sent_again(colour: Colour, method: str) -> None:
    """After an error that may have come when the request was carried out already."""
    colour.open(status_of(a=-2, b=200), Listed(*instances("ab")), policies=at_once)
    assert colour.request(method, "http://producer/").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
def test_16_any_method_goes_elsewhere_when_no_byte_has_left(
    colour: Colour, method: str, error: type[httpx.TransportError]
) -> None:
    """No connection, so nothing was carried out."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            raise error("none")
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("ab")), policies=at_once)
    assert colour.request(method, "http://producer/", content=b"x").status_code == 200


@pytest.mark.parametrize(
    "options", [{"content": b"the same"}, {"json": {"the": "same"}}, {"files": {"f": ("n", b"the same")}}, {}]
)
def test_16_bodies_of_bytes_are_the_same_each_time(colour: Colour, options: dict[str, Any]) -> None:
    """Bytes, JSON, multipart of bytes, none: what the second instance reads is what the first one read."""
    bodies: list[bytes] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        bodies.append(read_body(request))
        return httpx.Response(200 if len(bodies) == 2 else 503)

    colour.open(handler, Listed(*instances("ab")), policies=at_once)
    extensions = {"resilient": {"idempotent": True}}
    assert colour.request("POST", "http://producer/", extensions=extensions, **options).status_code == 200
    assert bodies[0] == bodies[1]


def test_16_files_and_generators_are_never_sent_again() -> None:
    """The first error leaves: no StreamConsumed, no body of 0 bytes."""
    sync = Colour(is_async=False).open(status_of(a=-2, b=200), Listed(*instances("ab")), policies=at_once)

    def parts() -> Iterator[bytes]:
        yield b"once"

    bodies: list[Any] = [io.BytesIO(b"once"), parts()]
    for body in bodies:
        with pytest.raises(httpx.RemoteProtocolError, match="reset"):
            for _ in range(2):  # the rotation may begin with the one that is well
                sync.request("PUT", "http://producer/", content=body)
    sync.close()


# --- 17: before and around a retry ----------------------------------------------------------------------------------


def test_17_the_failed_answer_is_closed_before_the_next_request(colour: Colour) -> None:
    """Its connection is free again by then."""
    first = Chunks(b"sorry")
    closed: list[bool] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        closed.append(first.closed)
        return httpx.Response(503, stream=first) if len(closed) == 1 else httpx.Response(200)

    colour.open(handler, Listed(*instances("ab")), policies=at_once)
    assert colour.get("http://producer/").status_code == 200
    assert closed == [False, True]


def test_17_a_limit_is_for_the_whole_call_not_for_each_attempt(colour: Colour) -> None:
    """Three instances that each take two seconds to fail: after the three of the caller there is no other attempt."""
    clock = VirtualClock()
    asked: list[float] = []

    def slow(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        asked.append(request.extensions["timeout"]["read"])
        clock.advance(2.0)
        raise httpx.ReadError("reset")

    colour.open(slow, Listed(*instances("abc")), clock=clock, policies=at_once)
    with pytest.raises(httpx.TransportError):
        colour.get("http://producer/", extensions={"resilient": {"timeout": 3.0}})
    assert asked == [pytest.approx(3.0), pytest.approx(1.0)]


@pytest.mark.parametrize("handler", [status_of(a=-1, b=-1), status_of(a=-2, b=-2), status_of(a=503, b=503)])
def test_17_there_are_no_more_attempts_than_allowed_whatever_fails(colour: Colour, handler: Any) -> None:
    """Two attempts, with errors, refusals and answers alike."""
    sent: list[None] = []

    def counting(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        sent.append(None)
        found: httpx.Response = handler(request, instance)
        return found

    colour.open(counting, Listed(*instances("ab")), policies=lambda _key: Pipeline(Retry(attempts=2, wait=0.0)))
    with suppress(httpx.TransportError):
        colour.get("http://producer/")
    assert len(sent) == 2


# --- 20: counting ---------------------------------------------------------------------------------------------------


def test_20_nothing_stays_in_flight_after_ten_thousand_calls() -> None:
    """A tenth each: cancelled, timed out, refused, broken in the body, closed early, never read. Never below zero."""
    rng = random.Random(7)
    least = [0]

    async def main() -> int:
        hang = asyncio.Event()

        class Random(Wire):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                kind = rng.randrange(10)
                if kind == 0:
                    await hang.wait()
                if kind in {1, 2}:
                    raise (httpx.ReadTimeout if kind == 1 else httpx.ConnectError)("no")
                return httpx.Response(200, stream=Chunks(b"a", httpx.ReadError("cut") if kind == 3 else b"b"))

        transport = AsyncResilientTransport(
            Listed(*instances("abcd")),
            policies=at_once,
            transport=lambda one: Random(name, one),
        )
        chosen = transport.balancer("producer")
        async with httpx.AsyncClient(transport=transport) as client:

            async def one() -> None:
                request = client.build_request("GET", "http://producer/")
                with suppress(httpx.HTTPError):
                    answer = await client.send(request, stream=True)
                    if rng.randrange(10):
                        await answer.aread()
                    else:
                        await answer.aclose()

            for _ in range(100):
                tasks = [asyncio.create_task(one()) for _ in range(100)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                least.append(min(entry.in_flight for entry in chosen.snapshot().instances))
                for task in tasks:
                    if not rng.randrange(10):
                        task.cancel()
                while not all(task.done() for task in tasks):
                    await asyncio.sleep(0)
                    hang.set()
                hang.clear()
                await asyncio.gather(*tasks, return_exceptions=True)
            return chosen.snapshot().in_flight

    assert asyncio.run(main()) == 0
    assert min(least) >= 0


def test_20_open_streams_are_in_flight(colour: Colour) -> None:
    """Ninety answers that are not read are ninety calls in flight."""
    colour.open(lambda r, i: httpx.Response(200, stream=Chunks(b"a")), Listed(*instances("abc")))
    answers = [colour.stream("http://producer/") for _ in range(90)]
    assert colour.in_flight() == 90
    for answer in answers:
        colour.close_answer(answer)
    assert colour.in_flight() == 0


# --- 21: outer timeouts ---------------------------------------------------------------------------------------------


async def test_21_a_black_hole_behind_an_outer_timeout_loses_half_of_its_share() -> None:
    """`asyncio.timeout` around the calls is a cancellation: no failure, but a lower bound of the latency."""
    clock = VirtualClock()
    asked = Counter[str]()

    class Hole(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert self.instance is not None
            asked[self.instance.id] += 1
            if self.instance.id == "a":
                clock.advance(0.2)
                raise asyncio.CancelledError
            clock.advance(0.005)
            return httpx.Response(200)

    transport = AsyncResilientTransport(
        Listed(*instances("abcdefghij")), clock=clock, transport=lambda one: Hole(name, one)
    )
    async with httpx.AsyncClient(transport=transport) as client:
        for _ in range(500):
            with suppress(asyncio.CancelledError):
                await client.get("http://producer/")
    assert asked["a"] <= 25
    assert transport.balancer("producer").snapshot().instances[0].failures == 0


# --- 22: isolation --------------------------------------------------------------------------------------------------


def test_22_instances_share_no_pool_and_all_share_one_tls_context() -> None:
    """One client transport per instance; the context that knows the authorities is made once."""
    transport = ResilientTransport(Listed(*(instance(one, secure=True) for one in "abc")))
    made = [transport._core.connections.sync(None, "https", None) for _ in range(3)]
    contexts = {id(transport._core.connections._context_for("https", None)) for _ in range(3)}
    assert len({id(pool) for pool in made}) == 3
    assert len(contexts) == 1
    transport.close()


# --- 23: identity ---------------------------------------------------------------------------------------------------


def test_23_the_users_request_is_not_changed(colour: Colour) -> None:
    """Its URL, headers, extensions and stream are what they were, also with a deadline and after a retry."""
    colour.open(status_of(a=503, b=200), Listed(*instances("ab")), policies=at_once)
    request = colour.client.build_request(
        "PUT", "http://producer/x", content=b"x", extensions={"resilient": {"key": "k"}, "timeout": {"read": 9.0}}
    )
    before = (str(request.url), dict(request.headers), dict(request.extensions), request.stream, request.content)
    with Deadline(5.0):
        answer = colour.run(colour.client.send(request))
    assert answer.extensions["resilient"]["attempts"] == 2
    assert (
        str(request.url),
        dict(request.headers),
        dict(request.extensions),
        request.stream,
        request.content,
    ) == before
    assert str(answer.url) == "http://producer/x"
    assert answer.request is request


# --- 24: the list ---------------------------------------------------------------------------------------------------


def test_24_an_instance_that_left_gets_no_new_call_and_finishes_its_own(colour: Colour) -> None:
    """At once; its answer is read to the end, and with that its pool is closed."""
    discovery = Listed(*instances("ab"))
    colour.open(lambda r, i: httpx.Response(200, stream=Chunks(b"whole")), discovery)
    open_answer = colour.stream("http://producer/")
    gone = open_answer.extensions["resilient"]["instance"]
    discovery.set(*(one for one in instances("ab") if one != gone))
    assert all(colour.get("http://producer/").extensions["resilient"]["instance"] != gone for _ in range(20))
    colour.settle()
    pool = next(wire for wire in colour.wires if wire.instance == gone)
    closed = [pool.closed]
    assert colour.read(open_answer) == b"whole"
    colour.settle()
    assert [*closed, pool.closed] == [0, 1]


def test_24_an_unknown_service_is_refused_in_milliseconds() -> None:
    """No name is looked up; it says what is known, and from where."""
    with httpx.Client(transport=ResilientTransport("static://producer=10.0.0.1:80;stock=10.0.0.2:80")) as client:
        client.get  # noqa: B018  # the client exists before the clock runs
        started = time.perf_counter()
        with pytest.raises(NoInstanceError) as unknown:
            client.get("http://typo/")
        assert time.perf_counter() - started < 0.05
    assert str(unknown.value) == ("no instance of 'typo' is known: static answered 0.0 s ago and lists producer, stock")


def test_24_a_registry_that_never_answered_is_named(colour: Colour) -> None:
    """What was known: nothing; since when: never; which registry."""

    class Silent(Discovery):
        def __init__(self) -> None:
            super().__init__("eureka at 10.0.0.9:8761")

        def wait(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:
            raise self._nobody(service, timeout)

        async def wait_async(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:  # noqa: ASYNC109
            return self.wait(service, timeout=timeout)

        def __enter__(self) -> Any:
            return self

        async def __aenter__(self) -> Any:
            return self

        def close(self) -> None:
            pass

        async def aclose(self) -> None:
            pass

    colour.open(name, Silent())
    with pytest.raises(NoInstanceError, match="eureka at 10.0.0.9:8761 has not answered within 5 s"):
        colour.get("http://producer/")


def test_24_the_breaker_of_a_service_without_instances_stays_closed(colour: Colour) -> None:
    """Nothing was sent: when it comes back, it is called at once."""
    discovery = Listed(*instances("a"))
    colour.open(name, discovery)
    colour.get("http://producer/")
    discovery.set(instance("x", service="other"))
    for _ in range(30):
        with pytest.raises(NoInstanceError):
            colour.get("http://producer/")
    discovery.set(*instances("a"))
    assert colour.get("http://producer/").text == "a"
    assert isinstance(colour.breaker(), CircuitBreaker)
