"""The rules of the httpx transports, in both colours: what goes wrong between two rules."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    Deadline,
    NoInstanceError,
    Pipeline,
)
from resilient.balancing import RoundRobin
from resilient.discovery import Instance
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock
from tests.colours import Chunks, Colour, colours, name, opened, read_body, status_of
from tests.listed import Listed, instances

colour = colours(opened)


def test_a_body_is_not_sent_twice_when_a_transport_calls_a_broken_connection_a_failed_one(colour: Colour) -> None:
    """Some transports raise ConnectError in the middle of a request; what was read was sent."""
    sent: list[str] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        sent.append(read_body(request).decode())
        raise httpx.ConnectError("reset while sending")

    colour.open(handler, Listed(*instances("ab")))
    with pytest.raises(httpx.ConnectError, match="reset while sending"):
        colour.request("POST", "http://producer/", content=b"order")
    assert sent == ["order"]


def test_an_answer_before_a_full_pool_is_not_forgotten(colour: Colour) -> None:
    """503, then no connection free: the call was made, so the breaker counts it."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            return httpx.Response(503)
        raise httpx.PoolTimeout("full")

    colour.open(handler, Listed(*instances("ab")))
    with pytest.raises(httpx.PoolTimeout) as caught:
        colour.request("PUT", "http://producer/", content=b"x", extensions={"resilient": {"attempts": 2}})
    assert not isinstance(caught.value, BulkheadFullError)
    assert colour.breaker().snapshot().failures == 1


@pytest.mark.parametrize("host", ["h:99", "10.0.0.1\r\nX: y", "xn--\u20ac"])
def test_an_address_that_is_no_host_is_an_instance_that_can_not_be_connected_to(colour: Colour, host: str) -> None:
    """What one entry of a registry says does not break a share of all calls."""
    bad = Instance("producer", host, 80, id="bad")
    colour.open(name, Listed(bad, *instances("b")))
    assert [colour.get("http://producer/").text for _ in range(6)] == ["b"] * 6


def test_a_limit_that_ends_at_the_headers_does_not_cut_the_body(colour: Colour) -> None:
    """Once the headers are here the client's own timeouts hold, and the caller's deadline."""
    phases: list[dict[str, float | None]] = []
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        phases.append(dict(request.extensions["timeout"]))
        sent.append(request)
        return httpx.Response(200, stream=Chunks(b"a"))

    colour.open(handler, Listed(*instances("a")), client={"timeout": httpx.Timeout(60.0)})
    colour.get("http://producer/", extensions={"resilient": {"timeout": 0.5}, "timeout": {"read": 60.0}})
    assert phases[0]["read"] is not None
    assert phases[0]["read"] <= 0.5
    assert sent[0].extensions["timeout"]["read"] == 60.0


def test_an_instance_that_answers_is_no_longer_aside_while_its_stream_goes_on(colour: Colour) -> None:
    """The verdict falls at the headers: hours of a stream do not keep the others preferred."""
    clock, well = VirtualClock(), [False]

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a" and not well[0]:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=Chunks(b"a"))

    colour.open(handler, Listed(*instances("ab")), clock=clock)

    answers = [colour.stream("http://producer/")]
    clock.advance(1.0)
    well[0] = True
    answers += [colour.stream("http://producer/") for _ in range(8)]
    aside = {entry.instance.id: entry.aside for entry in colour.transport.balancer("producer").snapshot().instances}
    for answer in answers:
        colour.close_answer(answer)
    assert aside["a"] == 0.0


def test_a_deadline_header_that_cannot_be_a_number_of_milliseconds_is_replaced(colour: Colour) -> None:
    """Whatever a caller's caller wrote."""
    seen: list[str] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request.headers["X-Request-Timeout-Ms"])
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")))
    with Deadline(5.0):
        colour.get("http://producer/", headers={"X-Request-Timeout-Ms": "9" * 5000})
    assert 0 < int(seen[0]) <= 5000


def test_an_error_of_the_socket_itself_is_the_instances(colour: Colour) -> None:
    """A transport that lets an OSError through: another instance is tried."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            raise ConnectionResetError("reset")
        return httpx.Response(200, text="b")

    colour.open(handler, Listed(*instances("ab")))
    assert colour.get("http://producer/").text == "b"
    assert colour.failures()["a"] == 1


def test_a_black_hole_is_put_aside_by_callers_in_a_hurry_too(colour: Colour) -> None:
    """A connection that was not made in 50 ms says something, although the deadline left no more time."""
    clock = VirtualClock()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            clock.advance(0.05)
            raise httpx.ConnectTimeout("no answer")
        return httpx.Response(200, text="b")

    colour.open(handler, Listed(*instances("ab")), clock=clock)
    ends: list[str] = []
    for _ in range(10):
        with Deadline(0.05, clock=clock):
            try:
                ends.append(colour.get("http://producer/").text)
            except httpx.TimeoutException:
                ends.append("late")
    assert ends.count("late") == 1


def test_when_the_others_are_gone_the_answer_is_handed_over(colour: Colour) -> None:
    """A 503 is thrown away only for an instance that is chosen already."""

    class Gone(RoundRobin):
        def pick(self, known: Any, key: str | None, /) -> Instance:
            chosen = super().pick(known, key)
            if chosen.id == "b":
                raise NoInstanceError("nobody is left", policy="producer")
            return chosen

    colour.open(status_of(a=503, b=200), Listed(*instances("ab")), strategy=lambda: Gone(rng=lambda: 0.0))
    answer = colour.get("http://producer/")
    assert (answer.status_code, answer.text, answer.extensions["resilient"]["attempts"]) == (503, "a", 1)
    assert colour.breaker().snapshot().failures == 1
    assert colour.in_flight() == 0


@pytest.mark.parametrize("first", [503, None])
def test_time_that_runs_out_between_two_attempts_is_no_rejection(colour: Colour, first: int | None) -> None:
    """Something was sent: CallTimeoutError, a failure of the call, and no lease stays behind."""
    clock = VirtualClock()

    class Slow(Chunks):
        def close(self) -> None:
            clock.advance(1.0)

        async def aclose(self) -> None:
            clock.advance(1.0)

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if first is None:
            raise httpx.RemoteProtocolError("reset")
        return httpx.Response(first, stream=Slow())

    class Last(RoundRobin):
        def pick(self, known: Any, key: str | None, /) -> Instance:
            chosen = super().pick(known, key)
            if first is None and chosen.id == "b":
                clock.advance(1.0)
            return chosen

    colour.open(
        handler,
        Listed(*instances("ab")),
        clock=clock,
        strategy=lambda: Last(rng=lambda: 0.0),
        policies=lambda key: Pipeline(CircuitBreaker(key, clock=clock), Retry(wait=0.0, clock=clock)),
    )
    with Deadline(1.0, clock=clock), pytest.raises(CallTimeoutError) as late:
        colour.get("http://producer/")
    assert late.value.by_deadline
    assert isinstance(late.value, httpx.ReadTimeout)
    assert colour.breaker().snapshot().failures == 1
    assert colour.failures() == {"a": 1, "b": 0}
    assert colour.in_flight() == 0


def test_the_callers_deadline_goes_on_into_the_body(colour: Colour) -> None:
    """Its timeouts are what is left when the headers come, not what was left before."""
    clock, seen = VirtualClock(), list[dict[str, Any]]()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        clock.advance(0.75)
        seen.append(request.extensions)
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")), client={"timeout": None}, clock=clock)
    with Deadline(1.0, clock=clock):
        colour.get("http://producer/")
    assert seen[0]["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 0.25)


@pytest.mark.parametrize(("passed", "failures"), [(1.0, 0), (0.5, 1)])
def test_a_body_cut_by_the_callers_deadline_is_nobodys_failure(colour: Colour, passed: float, failures: int) -> None:
    """httpx's ReadTimeout in the body counts against the instance only while the caller had time."""
    clock = VirtualClock()

    class Cut(Chunks):
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            clock.advance(passed)
            raise httpx.ReadTimeout("no bytes")

    colour.open(lambda r, i: httpx.Response(200, stream=Cut()), Listed(*instances("a")))
    with Deadline(1.0, clock=clock), pytest.raises(httpx.ReadTimeout):
        colour.get("http://producer/")
    assert colour.failures() == {"a": failures}


@pytest.mark.parametrize("trouble", [-1, -2, 200])
def test_an_error_that_leaves_makes_no_cycle(colour: Colour, trouble: int) -> None:
    """With the collector off, no frame of the transport is kept by the error it raised."""
    colour.open(status_of(a=trouble, b=500 if trouble == -2 else trouble), Listed(*instances("ab")))
    if trouble == 200:
        colour.breaker().force_open()

    async def call() -> None:  # caught in the loop: a future and its error are a cycle of asyncio's own
        with contextlib.suppress(httpx.HTTPError):
            await colour.client.get("http://producer/")

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(httpx.HTTPError):
            colour.run(call()) if colour.is_async else colour.get("http://producer/")
        kept = [one for one in gc.get_objects() if type(one).__name__ == "HttpxCall"]
    finally:
        gc.enable()
    assert kept == []


def test_pools_of_the_gone_are_closed_once(colour: Colour) -> None:
    """When they leave the list, whoever calls; closing the client closes the others."""
    discovery = Listed(*instances("abc"))
    colour.open(name, discovery)
    for _ in range(3):
        colour.get("http://producer/")
    discovery.set(*instances("d"))
    colour.get("http://producer/")
    colour.settle()
    assert [wire.closed for wire in colour.wires] == [1, 1, 1, 0]
    colour.close()
    assert [wire.closed for wire in colour.wires] == [1, 1, 1, 1]
