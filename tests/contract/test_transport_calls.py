"""The rules of the httpx transports, in both colours: policies, bodies, deadlines, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Iterator
from typing import cast

import httpx
import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    NoInstanceError,
    Pipeline,
    State,
)
from resilient.discovery import Instance
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock
from tests.colours import Chunks, Colour, colours, name, opened, status_of
from tests.listed import Listed, instance, instances

colour = colours(opened)


# --- policies -------------------------------------------------------------------------------------------------------


def test_answers_of_5xx_open_the_circuit_and_reach_the_caller(colour: Colour) -> None:
    """Five 500s in a row open it; the sixth call is rejected with an error that httpx knows."""
    colour.open(status_of(a=500), Listed(*instances("a")))
    for _ in range(5):
        answer = colour.get("http://producer/")
        assert (answer.status_code, answer.text) == (500, "a")
    assert colour.breaker().state is State.OPEN
    with pytest.raises(httpx.HTTPError) as rejected:
        colour.get("http://producer/")
    assert isinstance(rejected.value, CircuitOpenError)
    assert rejected.value.policy == "producer"
    assert rejected.value.retry_after is not None
    assert rejected.value.last_failure is not None
    assert rejected.value.request.url.host == "producer"
    assert "500" in rejected.value.last_failure.message
    assert colour.failures() == {"a": 5}


@pytest.mark.parametrize(("status", "counted"), [(408, 1), (425, 1), (429, 1), (501, 0), (404, 0), (503, 1)])
def test_the_breaker_judges_the_status(colour: Colour, status: int, counted: int) -> None:
    """5xx other than 501 and 505, and 408, 425, 429, are failures of the call."""
    colour.open(status_of(a=status), Listed(*instances("a")))
    assert colour.get("http://producer/").status_code == status
    assert colour.breaker().snapshot().failures == counted


def test_the_breaker_judges_what_is_left_after_other_instances(colour: Colour) -> None:
    """Two of three instances answer 503: every call is good, and so is the circuit."""
    at_once = Retry(wait=0.0)
    colour.open(
        status_of(a=503, b=503, c=200),
        Listed(*instances("abc")),
        policies=lambda key: Pipeline(CircuitBreaker(key), at_once),
    )
    assert {colour.get("http://producer/").status_code for _ in range(30)} == {200}
    assert colour.breaker().snapshot().failures == 0


def test_a_breaker_of_the_users_own_counts_answers_too(colour: Colour) -> None:
    """policies= is asked once per key; its breaker needs no on_result."""
    keys: list[str] = []

    def policies(key: str) -> Pipeline[httpx.Response]:
        keys.append(key)
        return Pipeline(CircuitBreaker(f"mine.{key}", consecutive_failures=2))

    colour.open(status_of(a=503, other=200), Listed(*instances("a")), policies=policies)
    for _ in range(2):
        assert colour.get("http://producer/").status_code == 503
    with pytest.raises(CircuitOpenError, match=r"mine\.producer"):
        colour.get("http://producer/")
    colour.get("http://example.org/")
    assert keys == ["producer", "http://example.org:80"]


def test_a_fallback_in_the_transport_sees_the_failure(colour: Colour) -> None:
    """It is called with the request, for an error, a failed answer and a rejection; what it replaces is closed."""
    failed = Chunks(b"sorry")
    seen: list[Exception] = []

    def empty(request: httpx.Request, *, error: Exception) -> httpx.Response:
        seen.append(error)
        return httpx.Response(200, text=f"instead of {request.url.path}")

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        return httpx.Response(500, stream=failed)

    colour.open(
        handler,
        Listed(*instances("a")),
        policies=lambda key: Pipeline(Fallback(empty), CircuitBreaker(key, consecutive_failures=1)),
    )
    for _ in range(2):
        assert colour.get("http://producer/x").text == "instead of /x"
    assert isinstance(seen[0], httpx.HTTPStatusError)
    assert seen[0].response.status_code == 500
    assert isinstance(seen[1], CircuitOpenError)
    assert failed.closed
    assert colour.in_flight() == 0


def test_a_fallback_that_gives_no_response_is_told(colour: Colour) -> None:
    """A transport answers with responses."""
    colour.open(status_of(a=500), Listed(*instances("a")), policies=lambda _key: Pipeline(Fallback(value="empty")))
    with pytest.raises(TypeError, match=r"gives an httpx\.Response"):
        colour.get("http://producer/")
    assert colour.in_flight() == 0


def test_a_full_pool_is_our_own_fault(colour: Colour) -> None:
    """PoolTimeout everywhere: BulkheadFullError, httpx's PoolTimeout too; no failure of instance or circuit."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        raise httpx.PoolTimeout("full")

    colour.open(handler, Listed(*instances("ab")))
    with pytest.raises(httpx.PoolTimeout) as full:
        colour.get("http://producer/")
    assert isinstance(full.value, BulkheadFullError)
    assert colour.failures() == {"a": 0, "b": 0}
    seen = colour.breaker().snapshot()
    assert (seen.calls, seen.failures, seen.ignored) == (0, 0, 0)


def test_policies_must_give_a_pipeline(colour: Colour) -> None:
    """A lone policy in its place is named with the key."""
    colour.open(name, Listed(*instances("a")), policies=CircuitBreaker)
    with pytest.raises(ConfigError, match="policies must return a Pipeline for the key 'producer'"):
        colour.get("http://producer/")


def test_a_page_can_show_a_circuit_that_was_not_called_yet(colour: Colour) -> None:
    """pipeline(key) gives the policies that a call will use."""
    colour.open(name, Listed(*instances("a")))
    breaker = colour.breaker("producer")
    assert breaker.state is State.CLOSED
    colour.get("http://producer/")
    assert breaker.snapshot().successes == 1
    for wrong in ("a.b", "", "http://nowhere"):
        with pytest.raises(ConfigError):
            colour.transport.pipeline(wrong)


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_an_answer_holds_its_instance_until_its_end(colour: Colour) -> None:
    """The circuit has its verdict at the headers; the instance is in flight until the body ends."""
    colour.open(lambda r, i: httpx.Response(200, stream=Chunks(b"a", b"b")), Listed(*instances("a")))
    read, closed = colour.stream("http://producer/"), colour.stream("http://producer/")
    assert colour.in_flight() == 2
    assert colour.breaker().snapshot().successes == 2
    assert colour.read(read) == b"ab"
    assert colour.in_flight() == 1
    colour.close_answer(closed)
    assert colour.in_flight() == 0


def test_a_reader_may_stop_early(colour: Colour) -> None:
    """Who closes an answer after its first part has had a good one; what lies below is closed."""
    body = Chunks(b"a", b"b", b"c")
    colour.open(lambda r, i: httpx.Response(200, stream=body), Listed(*instances("a")))
    answer = colour.stream("http://producer/")

    async def first() -> bytes:
        async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", answer.aiter_raw())) as parts:
            found = await anext(parts)
        del parts
        gc.collect()  # httpx nests generators; the event loop closes the inner ones when they are collected
        for _ in range(5):
            await asyncio.sleep(0)
        return found

    assert (colour.run(first()) if colour.is_async else next(answer.iter_raw())) == b"a"
    colour.close_answer(answer)
    assert body.closed
    assert colour.failures() == {"a": 0}
    assert colour.in_flight() == 0


def test_a_body_that_breaks_is_the_instances_failure(colour: Colour) -> None:
    """The reader gets httpx's error; the instance failed, the circuit had its verdict before."""
    broken = Chunks(b"a", httpx.ReadError("reset"))
    colour.open(lambda r, i: httpx.Response(200, stream=broken), Listed(*instances("ab")))
    with pytest.raises(httpx.ReadError, match="reset"):
        colour.get("http://producer/")
    assert colour.failures() == {"a": 1, "b": 0}
    assert colour.in_flight() == 0
    assert broken.closed
    assert colour.breaker().snapshot().failures == 0


def test_the_callers_deadline_holds_for_the_body(colour: Colour) -> None:
    """Checked at each part: a timeout that httpx knows, and no failure of the instance."""
    clock = VirtualClock()

    class Slow(Chunks):
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            clock.advance(2.0)
            yield b"b"

    colour.open(lambda r, i: httpx.Response(200, stream=Slow()), Listed(*instances("a")))
    with Deadline(1.0, clock=clock), pytest.raises(httpx.ReadTimeout) as late:
        colour.get("http://producer/")
    assert isinstance(late.value, CallTimeoutError)
    assert colour.failures() == {"a": 0}
    assert colour.in_flight() == 0


def test_an_answer_that_is_forgotten_gives_its_place_back() -> None:
    """Neither read nor closed: a ResourceWarning, and nothing stays in flight."""
    sync = Colour(is_async=False).open(lambda r, i: httpx.Response(200, stream=Chunks(b"a")), Listed(*instances("a")))
    answer = sync.transport.handle_request(httpx.Request("GET", "http://producer/"))
    assert sync.in_flight() == 1
    answers = [answer]
    del answer
    with pytest.warns(ResourceWarning, match="neither read to its end nor closed"):
        answers.clear()
    gc.collect()
    assert sync.in_flight() == 0
    sync.close()


def test_redirects_and_cookies_stay_with_the_name(colour: Colour) -> None:
    """A redirect to the name is balanced again; a cookie set by one instance is sent to the next."""
    cookies: list[tuple[str, str | None]] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        assert instance is not None
        cookies.append((instance.id, request.headers.get("cookie")))
        if request.url.path == "/old":
            headers = {"location": "http://producer/new", "set-cookie": "s=1; Path=/"}
            return httpx.Response(302, headers=headers)
        return httpx.Response(200, text=instance.id)

    colour.open(handler, Listed(*instances("ab")), client={"follow_redirects": True})
    answer = colour.get("http://producer/old")
    assert (answer.text, str(answer.url)) == ("b", "http://producer/new")
    assert cookies == [("a", None), ("b", "s=1")]


# --- deadlines and TLS ----------------------------------------------------------------------------------------------


def test_a_deadline_shortens_the_timeouts_and_travels(colour: Colour) -> None:
    """Each timeout is at most what is left; a service hears it in a header, another host does not."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")), client={"timeout": httpx.Timeout(5.0, read=0.5)})
    with Deadline(2.0, clock=VirtualClock()):
        colour.get("http://producer/")
        colour.get("http://example.org/")
        colour.get("http://producer/", headers={"x-request-timeout-ms": "100"})
    colour.get("http://producer/")
    assert seen[0].extensions["timeout"] == {"connect": 2.0, "read": 0.5, "write": 2.0, "pool": 2.0}
    assert [r.headers.get("x-request-timeout-ms") for r in seen] == ["2000", None, "100", None]
    assert seen[3].extensions["timeout"]["connect"] == 5.0


@pytest.mark.parametrize(("wanted", "sent"), [(True, ["2000", "2000"]), (False, [None, None])])
def test_the_deadline_header_can_be_chosen(colour: Colour, wanted: object, sent: list[str | None]) -> None:
    """deadline_header= says who hears it."""
    heard: list[str | None] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        heard.append(request.headers.get("x-request-timeout-ms"))
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")), deadline_header=wanted)
    with Deadline(2.0, clock=VirtualClock()):
        colour.get("http://producer/")
        colour.get("http://example.org/")
    assert heard == sent


def test_a_deadline_that_has_passed_sends_nothing(colour: Colour) -> None:
    """DeadlineExceededError, httpx's TimeoutException too; nobody was asked, nothing is counted."""
    clock = VirtualClock()
    colour.open(name, Listed(*instances("a")))
    with Deadline(1.0, clock=clock):
        clock.advance(1.0)
        with pytest.raises(httpx.TimeoutException) as late:
            colour.get("http://producer/")
    assert isinstance(late.value, DeadlineExceededError)
    assert colour.wires == []
    assert colour.breaker().snapshot().calls == 0


@pytest.mark.parametrize(("given", "failures"), [(0.05, 0), (1.0, 1)])
def test_a_timeout_by_the_deadline_says_so(colour: Colour, given: float, failures: int) -> None:
    """CallTimeoutError, httpx's ReadTimeout too; evidence only when the call had 100 ms."""
    clock = VirtualClock()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        clock.advance(given)
        raise httpx.ReadTimeout("no bytes")

    colour.open(handler, Listed(*instances("ab")), clock=clock)
    with Deadline(given, clock=clock), pytest.raises(httpx.ReadTimeout) as late:
        colour.get("http://producer/")
    assert isinstance(late.value, CallTimeoutError)
    assert late.value.by_deadline
    assert late.value.elapsed == pytest.approx(given)
    assert colour.failures() == {"a": failures, "b": 0}
    assert colour.breaker().snapshot().failures == failures


def test_https_is_verified_for_the_name(colour: Colour) -> None:
    """SNI and certificate are those of the name, or of tls_name; only instances that speak TLS are called."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    known = (instance("a"), instance("s", 443, secure=True))
    colour.open(handler, Listed(*known))
    colour.get("https://producer/")
    colour.get("http://producer/")
    colour.get("https://example.org/")
    assert str(seen[0].url) == "https://s.test/"
    assert seen[0].extensions["sni_hostname"] == "producer"
    assert str(seen[1].url) == "http://a.test/"
    assert "sni_hostname" not in seen[1].extensions
    assert "sni_hostname" not in seen[2].extensions
    shop = instance("t", 443, service="shop", secure=True)
    other = Colour(is_async=colour.is_async).open(handler, Listed(shop), tls_name="shop.internal")
    other.get("https://shop/")
    other.close()
    assert seen[3].extensions["sni_hostname"] == "shop.internal"


def test_https_is_never_sent_in_plain_text(colour: Colour) -> None:
    """No instance speaks TLS: NoInstanceError that says so."""
    colour.open(name, Listed(*instances("ab")))
    with pytest.raises(NoInstanceError, match="2 are known, none of them speaks TLS"):
        colour.get("https://producer/")
