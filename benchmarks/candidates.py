"""Who is compared, doing what: each scenario holds the same small call behind every library."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import circuitbreaker
import interlock
import pybreaker

import resilient

Call: TypeAlias = Callable[[int], Any]
AsyncCall: TypeAlias = Callable[[int], Awaitable[Any]]

BARE, OURS = "bare", "resilient"
CIRCUITBREAKER, PYBREAKER = "circuitbreaker 2.1.3", "pybreaker 1.4.1"
INTERLOCK_TIME, INTERLOCK_COUNT = "interlock-cb 2.8.2, time window", "interlock-cb 2.8.2, count window"

SUCCESS, ASYNC_SUCCESS = "breaker, success", "breaker, success, async"
OPEN, ASYNC_OPEN = "breaker open + fallback", "breaker open + fallback, async"
PIPELINE, ASYNC_PIPELINE = "pipeline of fallback and breaker, success", "the same pipeline, async"

_FAR = 1e6  # seconds: an open circuit stays open while it is measured


@dataclass(frozen=True)
class Scenario:
    """One table: the same thing done by each candidate, the bare call among them."""

    title: str
    calls: dict[str, Call] | None = None
    acalls: dict[str, AsyncCall] | None = None


def work(number: int) -> int:
    """What is guarded: next to nothing, so that the guard is what is measured."""
    return number


async def awork(number: int) -> int:
    """The same, async."""
    return number


def instead(number: int) -> int:
    """What is answered instead."""
    return number


async def ainstead(number: int) -> int:
    """The same, async."""
    return number


def ours(name: str) -> resilient.CircuitBreaker:
    """The default breaker, ten seconds in ten buckets, with slow calls counted as well."""
    return resilient.CircuitBreaker(name, slow_call_duration=1.0)


def interlock_breaker(name: str, window: interlock.WindowType) -> interlock.CircuitBreaker:
    """The nearest peer, with the window that is asked for; it counts slow calls by default."""
    size = 10 if window is interlock.WindowType.TIME_BASED else 100
    config = interlock.Config(window_type=window, window_size=size, wait_duration_in_open=_FAR)
    return interlock.CircuitBreaker(name=name, config=config)


def around_block(breaker: pybreaker.CircuitBreaker, fn: AsyncCall) -> AsyncCall:
    """Pybreaker guards async functions with tornado only; this is what its users write without."""

    async def guarded(number: int) -> Any:
        with breaker.calling():
            return await fn(number)

    return guarded


def scenarios() -> list[Scenario]:
    """Every table of calls, with breakers of its own."""
    return [
        Scenario(SUCCESS, calls=guarded()),
        Scenario(ASYNC_SUCCESS, acalls=aguarded()),
        Scenario(OPEN, calls=_open()),
        Scenario(ASYNC_OPEN, acalls=_aopen()),
        Scenario(PIPELINE, calls=_pipelines()),
        Scenario(ASYNC_PIPELINE, acalls=_apipelines()),
    ]


def guarded(fn: Call = work, name: str = "bench") -> dict[str, Call]:
    """`fn` behind the breaker of each library."""
    return {
        BARE: fn,
        OURS: ours(name)(fn),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name=name)(fn),
        PYBREAKER: pybreaker.CircuitBreaker()(fn),
        INTERLOCK_COUNT: interlock_breaker(name, interlock.WindowType.COUNT_BASED)(fn),
        INTERLOCK_TIME: interlock_breaker(name, interlock.WindowType.TIME_BASED)(fn),
    }


def aguarded(fn: AsyncCall = awork, name: str = "bench, async") -> dict[str, AsyncCall]:
    """The same for an async function."""
    return {
        BARE: fn,
        OURS: ours(name)(fn),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name=name)(fn),
        PYBREAKER: around_block(pybreaker.CircuitBreaker(), fn),
        INTERLOCK_COUNT: interlock_breaker(name, interlock.WindowType.COUNT_BASED)(fn),
        INTERLOCK_TIME: interlock_breaker(name, interlock.WindowType.TIME_BASED)(fn),
    }


def _open() -> dict[str, Call]:
    breaker = ours("open")
    breaker.open(_FAR)
    theirs = circuitbreaker.CircuitBreaker(name="open", recovery_timeout=_FAR, fallback_function=instead)
    for _ in range(5):
        _fail(theirs)
    old = pybreaker.CircuitBreaker(reset_timeout=_FAR)
    old.open()
    near = interlock_breaker("open", interlock.WindowType.TIME_BASED)
    near.force_open()
    return {
        BARE: work,
        OURS: resilient.Pipeline(resilient.Fallback(instead), breaker)(work),
        CIRCUITBREAKER: theirs(work),
        PYBREAKER: _caught(old(work), pybreaker.CircuitBreakerError),
        INTERLOCK_TIME: _caught(near(work), interlock.CircuitOpenError),
    }


def _aopen() -> dict[str, AsyncCall]:
    breaker = ours("open, async")
    breaker.open(_FAR)
    theirs = circuitbreaker.CircuitBreaker(name="open, async", recovery_timeout=_FAR, fallback_function=ainstead)
    for _ in range(5):
        _fail(theirs)
    old = pybreaker.CircuitBreaker(reset_timeout=_FAR)
    old.open()
    near = interlock_breaker("open, async", interlock.WindowType.TIME_BASED)
    near.force_open()
    return {
        BARE: awork,
        OURS: resilient.Pipeline(resilient.Fallback(ainstead), breaker)(awork),
        CIRCUITBREAKER: theirs(awork),
        PYBREAKER: _acaught(around_block(old, awork), pybreaker.CircuitBreakerError),
        INTERLOCK_TIME: _acaught(near(awork), interlock.CircuitOpenError),
    }


def _pipelines() -> dict[str, Call]:
    near = interlock_breaker("pipeline", interlock.WindowType.TIME_BASED)
    return {
        BARE: work,
        OURS: resilient.Pipeline(resilient.Fallback(instead), ours("pipeline"))(work),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name="pipeline", fallback_function=instead)(work),
        PYBREAKER: _caught(pybreaker.CircuitBreaker()(work), Exception),
        INTERLOCK_TIME: _caught(near(work), Exception),
    }


def _apipelines() -> dict[str, AsyncCall]:
    near = interlock_breaker("pipeline, async", interlock.WindowType.TIME_BASED)
    fallback = resilient.Fallback(ainstead)
    return {
        BARE: awork,
        OURS: resilient.Pipeline(fallback, ours("pipeline, async"))(awork),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name="pipeline, async", fallback_function=ainstead)(awork),
        PYBREAKER: _acaught(around_block(pybreaker.CircuitBreaker(), awork), Exception),
        INTERLOCK_TIME: _acaught(near(awork), Exception),
    }


def _fail(breaker: circuitbreaker.CircuitBreaker) -> None:
    try:
        with breaker:
            raise ConnectionError
    except ConnectionError:
        pass


def _caught(fn: Call, error: type[Exception]) -> Call:
    def with_fallback(number: int) -> Any:
        try:
            return fn(number)
        except error:
            return instead(number)

    return with_fallback


def _acaught(fn: AsyncCall, error: type[Exception]) -> AsyncCall:
    async def with_fallback(number: int) -> Any:
        try:
            return await fn(number)
        except error:
            return await ainstead(number)

    return with_fallback
