"""What the policies beside the breaker cost: each alone, four of them together, and the decorator around them."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any, Final

import cachetools
import circuitbreaker
import crashbytes_resilience as crashbytes
import pyresilience
import tenacity
from aiolimiter import AsyncLimiter
from hyx.bulkhead import bulkhead as hyx_bulkhead

import resilient
from benchmarks import stacks
from benchmarks.candidates import (
    ATTEMPTS,
    BARE,
    CIRCUITBREAKER,
    CRASHBYTES,
    FAR,
    OURS,
    PLACES,
    PYRESILIENCE,
    AsyncCall,
    Call,
    Scenario,
    ainstead,
    awork,
    instead,
    work,
)
from benchmarks.measure import Costs
from benchmarks.report import Goal

STACK, ASYNC_STACK = "fallback, retry, breaker, bulkhead, success", "the same four, async, success"
RETRY, ASYNC_RETRY = "retry, success", "retry, async, success"
TIMEOUT = "timeout, async, in time"
BULKHEAD, ASYNC_BULKHEAD = "bulkhead, a place is free", "bulkhead, async, a place is free"
RATE, ASYNC_RATE = "rate limiter, granted", "rate limiter, async, granted"
CACHE, ASYNC_CACHE = "cache, hit", "cache, async, hit"
COMMAND, ASYNC_COMMAND = "command, success", "command, async, success"

TENACITY, HYX, AIOLIMITER = "tenacity 9.2.1", "hyx 0.0.2", "aiolimiter 1.3.0"
CACHETOOLS, ASYNCIO_TIMEOUT = "cachetools 8.0.0", "asyncio.timeout"
WITH_FALLBACK = "resilient, with a fallback"

_SECONDS: Final = 5.0
_PLENTY: Final = 10**9  # calls per second: never used up

SCENARIOS: dict[str, Callable[[], Scenario]] = {
    STACK: lambda: Scenario(STACK, calls=stacks.stacks()),
    ASYNC_STACK: lambda: Scenario(ASYNC_STACK, acalls=stacks.astacks()),
    RETRY: lambda: Scenario(RETRY, calls=_retries()),
    ASYNC_RETRY: lambda: Scenario(ASYNC_RETRY, acalls=_aretries()),
    TIMEOUT: lambda: Scenario(TIMEOUT, acalls=_timeouts()),
    BULKHEAD: lambda: Scenario(BULKHEAD, calls=_bulkheads()),
    ASYNC_BULKHEAD: lambda: Scenario(ASYNC_BULKHEAD, acalls=_abulkheads()),
    RATE: lambda: Scenario(RATE, calls=_limiters()),
    ASYNC_RATE: lambda: Scenario(ASYNC_RATE, acalls=_alimiters()),
    CACHE: lambda: Scenario(CACHE, calls=_caches()),
    ASYNC_CACHE: lambda: Scenario(ASYNC_CACHE, acalls=_acaches()),
    COMMAND: lambda: Scenario(COMMAND, calls=_commands()),
    ASYNC_COMMAND: lambda: Scenario(ASYNC_COMMAND, acalls=_acommands()),
}
"""Every table of calls by its title; each makes policies of its own."""


def goals(title: str, more: Costs) -> list[Goal]:
    """What one of these tables says about the goals; `more` is what each candidate adds to the bare call."""
    if title in {STACK, ASYNC_STACK}:
        limit = 900.0 if title == STACK else 1200.0
        best = min(cost for name, cost in more.items() if name not in {BARE, OURS})
        return [
            Goal(f"{title}: ns added <= {limit:,.0f}", more[OURS], limit),
            Goal(f"{title}: added cost <= the cheapest peer's", more[OURS] / best, 1.0),
        ]
    if title == RETRY:
        return [Goal(f"{title}: ns added <= 150", more[OURS], 150.0)]
    if title == TIMEOUT:
        return [Goal(f"{title}: added cost <= 1.1 x asyncio.timeout's", more[OURS] / more[ASYNCIO_TIMEOUT], 1.1)]
    return []


def _retries() -> dict[str, Call]:
    return {
        BARE: work,
        OURS: resilient.Retry("alone")(work),
        CRASHBYTES: crashbytes.retry(ATTEMPTS)(work),
        TENACITY: tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS))(work),
    }


def _aretries() -> dict[str, AsyncCall]:
    return {
        BARE: awork,
        OURS: resilient.Retry("alone, async")(awork),
        CRASHBYTES: crashbytes.retry(ATTEMPTS)(awork),
        TENACITY: tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS))(awork),
    }


def _timeouts() -> dict[str, AsyncCall]:
    async def limited(number: int) -> int:
        async with asyncio.timeout(_SECONDS):
            return await awork(number)

    return {
        BARE: awork,
        OURS: resilient.Timeout(_SECONDS)(awork),
        ASYNCIO_TIMEOUT: limited,
        CRASHBYTES: crashbytes.timeout(_SECONDS)(awork),
    }


def _bulkheads() -> dict[str, Call]:
    return {
        BARE: work,
        OURS: resilient.Bulkhead(PLACES, name="alone")(work),
        CRASHBYTES: crashbytes.bulkhead(PLACES)(work),
    }


def _abulkheads() -> dict[str, AsyncCall]:
    return {
        BARE: awork,
        OURS: resilient.Bulkhead(PLACES, name="alone, async")(awork),
        CRASHBYTES: crashbytes.bulkhead(PLACES)(awork),
        HYX: hyx_bulkhead(PLACES, PLACES)(awork),
    }


def _limiters() -> dict[str, Call]:
    return {
        BARE: work,
        OURS: resilient.RateLimiter(_PLENTY, name="alone")(work),
        CRASHBYTES: crashbytes.rate_limiter(_PLENTY)(work),
    }


def _alimiters() -> dict[str, AsyncCall]:
    theirs = AsyncLimiter(_PLENTY, 1.0)

    async def limited(number: int) -> int:
        async with theirs:
            return await awork(number)

    return {
        BARE: awork,
        OURS: resilient.RateLimiter(_PLENTY, name="alone, async")(awork),
        AIOLIMITER: limited,
    }


def _caches() -> dict[str, Call]:
    ttl: cachetools.TTLCache[Any, int] = cachetools.TTLCache(1000, FAR)
    return {
        BARE: work,
        OURS: resilient.Cache(FAR, name="alone")(work),
        CACHETOOLS: cachetools.cached(ttl, lock=threading.RLock())(work),
        PYRESILIENCE: pyresilience.resilient(cache=pyresilience.CacheConfig(ttl=FAR))(work),
    }


def _acaches() -> dict[str, AsyncCall]:
    return {
        BARE: awork,
        OURS: resilient.Cache(FAR, name="alone, async")(awork),
        PYRESILIENCE: pyresilience.resilient(cache=pyresilience.CacheConfig(ttl=FAR))(awork),
    }


_numbers = itertools.count(1)  # a command's name is listed: none twice


def _commands() -> dict[str, Call]:
    number = next(_numbers)
    return {
        BARE: work,
        OURS: resilient.command(f"bare {number}")(work),
        WITH_FALLBACK: resilient.command(f"with a fallback {number}", fallback=instead)(work),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name="command", fallback_function=instead)(work),
    }


def _acommands() -> dict[str, AsyncCall]:
    number = next(_numbers)
    return {
        BARE: awork,
        OURS: resilient.command(f"bare, async {number}")(awork),
        WITH_FALLBACK: resilient.command(f"with a fallback, async {number}", fallback=ainstead)(awork),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name="command, async", fallback_function=ainstead)(awork),
    }
