"""Four policies around one call: ours, and what the peers' users stack for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import circuitbreaker
import crashbytes_resilience as crashbytes
import failsafe
import pyresilience
import tenacity
from interlock.pipeline import Pipeline as InterlockPipeline
from interlock.pipeline import PipelineBuilder

import resilient
from benchmarks.candidates import (
    ATTEMPTS,
    BARE,
    CRASHBYTES,
    INTERLOCK_TIME,
    OURS,
    PLACES,
    PYRESILIENCE,
    AsyncCall,
    Call,
    acaught,
    ainstead,
    awork,
    caught,
    instead,
    near_by_time,
    ours,
    work,
)

PYFAILSAFE, BY_HAND = "pyfailsafe 0.6.0, a semaphore", "tenacity, circuitbreaker, semaphore"


def stacks() -> dict[str, Call]:
    """Fallback, retry, breaker, bulkhead, from the outside in, of each library."""
    return {
        BARE: work,
        OURS: _four("four", instead)(work),
        CRASHBYTES: crashbytes.pipeline(*_crashbytes(), crashbytes.fallback(instead))(work),
        PYRESILIENCE: pyresilience.resilient(**_pyresilience())(work),
        BY_HAND: _by_hand(),
        INTERLOCK_TIME: _interlock("four")(work),
    }


def astacks() -> dict[str, AsyncCall]:
    """The same, async."""
    return {
        BARE: awork,
        OURS: _four("four, async", ainstead)(awork),
        PYFAILSAFE: _pyfailsafe(),
        CRASHBYTES: crashbytes.pipeline(*_crashbytes(), crashbytes.fallback(ainstead))(awork),
        PYRESILIENCE: pyresilience.resilient(**_pyresilience())(awork),
        BY_HAND: _aby_hand(),
        INTERLOCK_TIME: _interlock("four, async")(awork),
    }


def _four(name: str, function: Callable[[int], Any]) -> resilient.Pipeline[Any]:
    return resilient.Pipeline(
        resilient.Fallback(function), resilient.Retry(name), ours(name), resilient.Bulkhead(PLACES, name=name)
    )


def _crashbytes() -> tuple[Any, ...]:
    """From the inside out; its fallback comes last."""
    return crashbytes.bulkhead(PLACES), crashbytes.circuit_breaker(), crashbytes.retry(ATTEMPTS)


def _pyresilience() -> dict[str, Any]:
    return {
        "fallback": pyresilience.FallbackConfig(handler=lambda _error: 1),
        "retry": pyresilience.RetryConfig(max_attempts=ATTEMPTS),
        "circuit_breaker": pyresilience.CircuitBreakerConfig(),
        "bulkhead": pyresilience.BulkheadConfig(max_concurrent=PLACES),
    }


def _interlock(name: str) -> InterlockPipeline:
    made = PipelineBuilder().fallback(lambda _error: 1).retry(attempts=ATTEMPTS)
    return made.circuit_breaker(near_by_time(name)).bulkhead(PLACES).build()


def _by_hand() -> Call:
    places = threading.BoundedSemaphore(PLACES)

    def placed(number: int) -> int:
        if not places.acquire(blocking=False):
            raise RuntimeError
        try:
            return work(number)
        finally:
            places.release()

    repeated = tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS))
    return caught(repeated(circuitbreaker.CircuitBreaker(name="four")(placed)), Exception)


def _aby_hand() -> AsyncCall:
    repeated = tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS))
    breaker = circuitbreaker.CircuitBreaker(name="four, async")
    return acaught(repeated(breaker(_awaiting_a_place())), Exception)


def _pyfailsafe() -> AsyncCall:
    """It has no bulkhead, and its fallback is a list of arguments to try."""
    retry, breaker = failsafe.RetryPolicy(ATTEMPTS - 1), failsafe.CircuitBreaker(5)
    run, placed = failsafe.Failsafe(retry, breaker).run, _awaiting_a_place()

    async def called(number: int) -> Any:
        return await run(placed, number)

    return acaught(called, Exception)


def _awaiting_a_place() -> AsyncCall:
    places = asyncio.Semaphore(PLACES)

    async def placed(number: int) -> int:
        async with places:
            return await awork(number)

    return placed
