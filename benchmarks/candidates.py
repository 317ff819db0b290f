"""Who is compared: the same small calls, and a breaker of every library to put around them."""

from __future__ import annotations

import itertools
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
CRASHBYTES, PYRESILIENCE = "crashbytes 1.1.11", "pyresilience 0.4.1"

FAR = 1e6  # seconds: an open circuit stays open while it is measured
ATTEMPTS, PLACES = 3, 10  # of a retry, of a bulkhead


@dataclass(frozen=True)
class Scenario:
    """One table of calls: the same thing done by each candidate, the bare call among them."""

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


def flaky() -> Call:
    """A function that fails four times of five; each candidate has one, so that all see the same order."""
    fails = itertools.cycle((True, True, True, True, False)).__next__

    def work_or_fail(number: int) -> int:
        if fails():
            raise ConnectionError
        return number

    return work_or_fail


def aflaky() -> AsyncCall:
    """The same, async."""
    fails = itertools.cycle((True, True, True, True, False)).__next__

    async def work_or_fail(number: int) -> int:
        if fails():
            raise ConnectionError
        return number

    return work_or_fail


def ours(name: str, *, failure_rate: float = 0.5) -> resilient.CircuitBreaker:
    """The default breaker, ten seconds in ten buckets, with slow calls counted as well."""
    return resilient.CircuitBreaker(name, slow_call_duration=1.0, failure_rate=failure_rate)


def near(name: str, window: interlock.WindowType, *, failure_rate: float = 0.5) -> interlock.CircuitBreaker:
    """The nearest peer, with the window that is asked for; it counts slow calls by default."""
    config = interlock.Config(
        window_type=window,
        window_size=10 if window is interlock.WindowType.TIME_BASED else 100,
        wait_duration_in_open=FAR,
        failure_rate_threshold=failure_rate,
    )
    return interlock.CircuitBreaker(name=name, config=config)


def near_by_time(name: str) -> interlock.CircuitBreaker:
    """The nearest peer, with the same window as ours."""
    return near(name, interlock.WindowType.TIME_BASED)


def guarded(fn: Callable[[], Call] = lambda: work, name: str = "bench", rate: float = 0.5) -> dict[str, Call]:
    """What `fn` makes, behind the breaker of each library."""
    return {
        BARE: fn(),
        OURS: ours(name, failure_rate=rate)(fn()),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name=name)(fn()),
        PYBREAKER: pybreaker.CircuitBreaker()(fn()),
        INTERLOCK_COUNT: near(name, interlock.WindowType.COUNT_BASED, failure_rate=rate)(fn()),
        INTERLOCK_TIME: near(name, interlock.WindowType.TIME_BASED, failure_rate=rate)(fn()),
    }


def aguarded(
    fn: Callable[[], AsyncCall] = lambda: awork, name: str = "bench, async", rate: float = 0.5
) -> dict[str, AsyncCall]:
    """The same for an async function."""
    return {
        BARE: fn(),
        OURS: ours(name, failure_rate=rate)(fn()),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name=name)(fn()),
        PYBREAKER: around_block(pybreaker.CircuitBreaker(), fn()),
        INTERLOCK_COUNT: near(name, interlock.WindowType.COUNT_BASED, failure_rate=rate)(fn()),
        INTERLOCK_TIME: near(name, interlock.WindowType.TIME_BASED, failure_rate=rate)(fn()),
    }


def around_block(breaker: pybreaker.CircuitBreaker, fn: AsyncCall) -> AsyncCall:
    """Pybreaker guards async functions with tornado only; this is what its users write without."""

    async def guarded(number: int) -> Any:
        with breaker.calling():
            return await fn(number)

    return guarded


def caught(fn: Call, error: type[Exception]) -> Call:
    """`fn` with a fallback written by hand."""

    def with_fallback(number: int) -> Any:
        try:
            return fn(number)
        except error:
            return instead(number)

    return with_fallback


def acaught(fn: AsyncCall, error: type[Exception]) -> AsyncCall:
    """The same, async."""

    async def with_fallback(number: int) -> Any:
        try:
            return await fn(number)
        except error:
            return await ainstead(number)

    return with_fallback
