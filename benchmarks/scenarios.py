"""What they are compared at: a call that goes well, that fails, that is rejected, and a pipeline."""

from __future__ import annotations

from collections.abc import Callable

import circuitbreaker
import pybreaker
from interlock import CircuitOpenError

import resilient
from benchmarks.candidates import (
    BARE,
    CIRCUITBREAKER,
    FAR,
    INTERLOCK_TIME,
    OURS,
    PYBREAKER,
    AsyncCall,
    Call,
    Scenario,
    acaught,
    aflaky,
    aguarded,
    ainstead,
    around_block,
    awork,
    caught,
    flaky,
    guarded,
    instead,
    near_by_time,
    ours,
    work,
)

SUCCESS, ASYNC_SUCCESS = "breaker, success", "breaker, success, async"
FAILURE, ASYNC_FAILURE = "breaker, failure below the threshold", "breaker, failure below the threshold, async"
OPEN, ASYNC_OPEN = "breaker open + fallback", "breaker open + fallback, async"
PIPELINE, ASYNC_PIPELINE = "pipeline of fallback and breaker, success", "the same pipeline, async"

SCENARIOS: dict[str, Callable[[], Scenario]] = {
    SUCCESS: lambda: Scenario(SUCCESS, calls=guarded()),
    ASYNC_SUCCESS: lambda: Scenario(ASYNC_SUCCESS, acalls=aguarded()),
    FAILURE: lambda: Scenario(FAILURE, calls=_failing()),
    ASYNC_FAILURE: lambda: Scenario(ASYNC_FAILURE, acalls=_afailing()),
    OPEN: lambda: Scenario(OPEN, calls=_open()),
    ASYNC_OPEN: lambda: Scenario(ASYNC_OPEN, acalls=_aopen()),
    PIPELINE: lambda: Scenario(PIPELINE, calls=_pipelines()),
    ASYNC_PIPELINE: lambda: Scenario(ASYNC_PIPELINE, acalls=_apipelines()),
}
"""Every table of calls by its title; each makes breakers of its own."""

# Four failures and a success, over and over, is what every breaker here stays closed at without being made blunt: the
# peers that count a streak open at five, which is their default and ours. Only the rate has to be told, for four of
# five is more than one half: at 1.0 the window is kept and judged at each failure as by default, and is never full.
_EVERY_CALL = 1.0


def _failing() -> dict[str, Call]:
    calls = guarded(flaky, "failing", _EVERY_CALL)
    return {name: caught(call, ConnectionError) for name, call in calls.items()}


def _afailing() -> dict[str, AsyncCall]:
    calls = aguarded(aflaky, "failing, async", _EVERY_CALL)
    return {name: acaught(call, ConnectionError) for name, call in calls.items()}


def _open() -> dict[str, Call]:
    breaker = ours("open")
    breaker.open(FAR)
    theirs = circuitbreaker.CircuitBreaker(name="open", recovery_timeout=FAR, fallback_function=instead)
    _trip(theirs)
    old = pybreaker.CircuitBreaker(reset_timeout=FAR)
    old.open()
    near = near_by_time("open")
    near.force_open()
    return {
        BARE: work,
        OURS: resilient.Pipeline(resilient.Fallback(instead), breaker)(work),
        CIRCUITBREAKER: theirs(work),
        PYBREAKER: caught(old(work), pybreaker.CircuitBreakerError),
        INTERLOCK_TIME: caught(near(work), CircuitOpenError),
    }


def _aopen() -> dict[str, AsyncCall]:
    breaker = ours("open, async")
    breaker.open(FAR)
    theirs = circuitbreaker.CircuitBreaker(name="open, async", recovery_timeout=FAR, fallback_function=ainstead)
    _trip(theirs)
    old = pybreaker.CircuitBreaker(reset_timeout=FAR)
    old.open()
    near = near_by_time("open, async")
    near.force_open()
    return {
        BARE: awork,
        OURS: resilient.Pipeline(resilient.Fallback(ainstead), breaker)(awork),
        CIRCUITBREAKER: theirs(awork),
        PYBREAKER: acaught(around_block(old, awork), pybreaker.CircuitBreakerError),
        INTERLOCK_TIME: acaught(near(awork), CircuitOpenError),
    }


def _pipelines() -> dict[str, Call]:
    return {
        BARE: work,
        OURS: resilient.Pipeline(resilient.Fallback(instead), ours("pipeline"))(work),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name="pipeline", fallback_function=instead)(work),
        PYBREAKER: caught(pybreaker.CircuitBreaker()(work), Exception),
        INTERLOCK_TIME: caught(near_by_time("pipeline")(work), Exception),
    }


def _apipelines() -> dict[str, AsyncCall]:
    name = "pipeline, async"
    return {
        BARE: awork,
        OURS: resilient.Pipeline(resilient.Fallback(ainstead), ours(name))(awork),
        CIRCUITBREAKER: circuitbreaker.CircuitBreaker(name=name, fallback_function=ainstead)(awork),
        PYBREAKER: acaught(around_block(pybreaker.CircuitBreaker(), awork), Exception),
        INTERLOCK_TIME: acaught(near_by_time(name)(awork), Exception),
    }


def _trip(breaker: circuitbreaker.CircuitBreaker) -> None:
    for _ in range(5):
        try:
            with breaker:
                raise ConnectionError
        except ConnectionError:
            pass
