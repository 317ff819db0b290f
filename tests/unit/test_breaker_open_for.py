"""`open_for`: what a breaker makes of an answer that says when to come back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitStateChanged,
    FailureInfo,
    Fallback,
    Pipeline,
    RejectedError,
    State,
    retry_after,
)
from resilient.testing import VirtualClock
from tests.drive import Drive


def answer(seconds: str | None = "30") -> httpx.Response:
    """A response of a service that is busy."""
    return httpx.Response(503, headers={} if seconds is None else {"Retry-After": seconds})


def http_error(response: httpx.Response) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=httpx.Request("GET", "http://svc/"), response=response)


Guarded = Callable[[CircuitBreaker, Callable[[], Any]], Callable[[], Any]]


def decorated(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    return breaker(fn)


def decorated_async(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    @breaker
    async def guarded() -> Any:
        return fn()

    return lambda: asyncio.run(guarded())


def piped(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    return Pipeline(breaker)(fn)


def piped_async(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    @Pipeline(breaker)
    async def guarded() -> Any:
        return fn()

    return lambda: asyncio.run(guarded())


def called(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: breaker.call(fn)


def block(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    def guarded() -> Any:
        with breaker.calling():
            return fn()

    return guarded


def block_async(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    async def guarded() -> Any:
        async with breaker.calling():
            return fn()

    return lambda: asyncio.run(guarded())


def held(breaker: CircuitBreaker, fn: Callable[[], Any]) -> Callable[[], Any]:
    def guarded() -> Any:
        permit = breaker.acquire()
        try:
            return fn()
        except Exception as error:
            permit.failure(error)
            raise

    return guarded


FUNCTIONS = [decorated, decorated_async, piped, piped_async, called]
BLOCKS = [block, block_async, held]


@pytest.fixture
def breaker(clock: VirtualClock) -> CircuitBreaker:
    """Opens when it is told to."""
    return CircuitBreaker("svc", open_for=retry_after, clock=clock, rng=lambda: 0.9)


def busy() -> httpx.Response:
    return answer("12")


def refuse() -> None:
    raise http_error(answer("12"))


@pytest.mark.parametrize("guarded", FUNCTIONS, ids=lambda way: way.__name__)
def test_a_result_opens_for_exactly_as_long_as_it_says(guarded: Guarded, breaker: CircuitBreaker) -> None:
    """The caller gets it all the same; the next one is refused, at once and without a failure counted."""
    run = guarded(breaker, busy)
    assert run().status_code == 503
    with pytest.raises(CircuitOpenError) as caught:
        run()
    assert caught.value.retry_after == 12.0
    assert caught.value.last_failure is not None
    assert caught.value.last_failure.kind == "result"
    assert "told to wait 12 s" in str(caught.value)
    assert (breaker.snapshot().successes, breaker.snapshot().failed) == (1, 0)


@pytest.mark.parametrize("guarded", [*FUNCTIONS, *BLOCKS], ids=lambda way: way.__name__)
def test_an_error_opens_for_exactly_as_long_as_it_says(
    guarded: Guarded, breaker: CircuitBreaker, clock: VirtualClock
) -> None:
    """It leaves as it is, and is a failure too."""
    run = guarded(breaker, refuse)
    with pytest.raises(httpx.HTTPStatusError):
        run()
    with pytest.raises(CircuitOpenError) as caught:
        run()
    assert caught.value.retry_after == 12.0
    assert caught.value.last_failure == FailureInfo("HTTPStatusError", "no", clock.monotonic())
    assert breaker.snapshot().failed == 1
    clock.advance(12.0)
    with pytest.raises(httpx.HTTPStatusError):
        run()


@pytest.mark.parametrize("guarded", [*FUNCTIONS, *BLOCKS], ids=lambda way: way.__name__)
def test_an_answer_that_asks_for_nothing_opens_nothing(guarded: Guarded, breaker: CircuitBreaker) -> None:
    """Good ones, and errors without the header."""

    def fail() -> None:
        raise http_error(answer(None))

    assert guarded(breaker, lambda: "fine")() == "fine"
    with pytest.raises(httpx.HTTPStatusError):
        guarded(breaker, fail)()
    assert breaker.state is State.CLOSED


def test_no_longer_than_the_longest_open_time(drive: Drive, clock: VirtualClock) -> None:
    """A day is cut to `max_open_duration`, also to one changed at run time."""
    breaker = CircuitBreaker(open_for=lambda _: 86400.0, max_open_duration=20.0, clock=clock)
    drive(breaker, str)
    assert breaker.snapshot().retry_after == 20.0
    breaker.reset()
    breaker.configure(max_open_duration=8.0)
    drive(breaker, str)
    assert breaker.snapshot().retry_after == 8.0


def test_it_does_not_lengthen_the_open_times_that_follow(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Being told to wait is no trip: the first one after it lasts as long as a first one does."""
    with pytest.raises(httpx.HTTPStatusError):
        breaker.call(refuse)
    clock.advance(12.0)
    breaker.acquire().failure()
    assert breaker.snapshot().retry_after == pytest.approx(5.0 * 1.09)


def broken(_: object) -> float:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("given", [broken, lambda _: "30", lambda _: math.nan, lambda _: math.inf, lambda _: True])
def test_a_function_that_gives_no_seconds_is_logged_and_changes_nothing(
    drive: Drive, clock: VirtualClock, caplog: pytest.LogCaptureFixture, given: Any
) -> None:
    """Neither for the caller nor for the circuit."""
    breaker = CircuitBreaker("svc", open_for=given, clock=clock)
    assert drive(breaker, lambda: "fine") == "fine"
    with pytest.raises(KeyError):
        drive(breaker, {}.__getitem__, "x")
    assert breaker.state is State.CLOSED
    assert [record.getMessage() for record in caplog.records] == [
        "circuit 'svc': open_for raised or gave no seconds; nothing opens"
    ] * 2
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("seconds", [None, 0, 0.0, -3.0])
def test_no_time_is_no_reason_to_open(
    drive: Drive, clock: VirtualClock, caplog: pytest.LogCaptureFixture, seconds: Any
) -> None:
    """And nothing to log."""
    breaker = CircuitBreaker(open_for=lambda _: seconds, clock=clock)
    drive(breaker, str)
    assert (breaker.state, caplog.text) == (State.CLOSED, "")


def test_refusals_are_not_asked(drive: Drive, clock: VirtualClock) -> None:
    """Its own, and those of policies further in: they are no answer of the dependency."""
    asked: list[object] = []
    breaker = CircuitBreaker(open_for=asked.append, clock=clock)

    def refused() -> None:
        raise RejectedError("full", policy="bulkhead", retry_after=3.0)

    with pytest.raises(RejectedError):
        drive(breaker, refused)
    breaker.open()
    with pytest.raises(CircuitOpenError):
        drive(breaker, str)
    with pytest.raises(CircuitOpenError), breaker.calling():
        pass
    assert asked == []
    breaker.close()
    drive(breaker, lambda: "an answer")
    assert asked == ["an answer"]


@pytest.mark.parametrize(("told", "left"), [(3.0, 10.0), (30.0, 30.0)])
def test_in_half_open_the_later_end_wins(drive: Drive, clock: VirtualClock, told: float, left: float) -> None:
    """The failed probe opens for the breaker's own time; what the answer asked for may be longer."""
    heard: list[Any] = []
    breaker = CircuitBreaker(
        open_for=lambda error: told if isinstance(error, OSError) else None,
        open_duration=10.0,
        half_open_timeout=1.0,
        clock=clock,
        rng=lambda: 0.0,
        listeners=[heard.append],
    )
    breaker.open(1.0)
    clock.advance(1.0)
    breaker.configure(open_duration=lambda attempt: 10.0)
    heard.clear()

    def fail() -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        drive(breaker, fail)
    assert breaker.snapshot().retry_after == left
    assert [(event.old, event.new) for event in heard if isinstance(event, CircuitStateChanged)] == [
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.OPEN),
    ]


def test_a_good_probe_may_be_told_to_wait(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """A 503 that is a plain result: half-open ends, and open it is for as long as it says."""
    breaker.open(1.0)
    clock.advance(1.0)
    breaker.call(busy)
    assert (breaker.state, breaker.snapshot().retry_after) == (State.OPEN, 12.0)


def test_a_late_answer_that_asks_for_less_changes_nothing(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """While open the later end wins."""
    late = breaker.acquire()
    breaker.open(20.0)
    late.failure(http_error(answer("12")))
    assert breaker.snapshot().retry_after == 20.0
    clock.advance(15.0)
    breaker.heed(answer("12"))
    assert breaker.snapshot().retry_after == 12.0


@pytest.mark.parametrize("state", [State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY])
def test_in_states_set_by_hand_it_does_nothing(
    breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture, state: State
) -> None:
    """Not even a warning: answers keep coming."""
    permits = [breaker.acquire() for _ in range(2)]
    {
        State.FORCED_OPEN: breaker.force_open,
        State.DISABLED: breaker.disable,
        State.METRICS_ONLY: breaker.metrics_only,
    }[state]()
    caplog.clear()
    permits[0].failure(http_error(answer()))
    if state is not State.FORCED_OPEN:
        breaker.call(busy)
    assert (breaker.state, caplog.text) == (state, "")


def test_a_permit_without_an_error_says_nothing(clock: VirtualClock) -> None:
    """There is nothing to ask about; settled twice, the second error is not asked either."""
    asked: list[object] = []
    breaker = CircuitBreaker(open_for=asked.append, clock=clock)
    permit = breaker.acquire()
    permit.failure()
    permit.failure(ConnectionError())
    breaker.acquire().success()
    assert asked == []


def test_a_fallback_answers_while_it_waits(drive: Drive, breaker: CircuitBreaker) -> None:
    """The fallback outside sees the breaker through what looks at the answers."""
    guard = Pipeline(Fallback(value="unknown"), breaker)
    assert drive(guard, refuse) == "unknown"
    assert [drive(guard, busy) for _ in range(3)] == ["unknown"] * 3
    assert breaker.snapshot().rejected == 3
    assert breaker.snapshot().failed == 1


def test_opening_because_of_an_answer_is_told_and_logged(
    breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING, with the reason; no threshold was reached."""
    heard: list[Any] = []
    breaker._hearers = (heard.append,)
    breaker.call(busy)
    assert [(type(event), event.reason) for event in heard] == [(CircuitStateChanged, "told to wait 12 s")]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "circuit 'svc': closed → open: told to wait 12 s")
    ]
