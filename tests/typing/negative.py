"""Each marked line must be an error. Never executed.

mypy --strict calls an ignore that ignores nothing an error itself, so a line that became legal is found.
"""

from __future__ import annotations

from resilient import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    Collapser,
    Command,
    ConcurrencyLimiter,
    Fallback,
    Hedge,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    command,
)
from resilient.discovery import Discovery


async def aback(x: int) -> str:
    return ""


def back(x: int) -> int:
    return 0


def fn(x: int) -> str:
    return ""


async def afn(x: int) -> str:
    return ""


@command(fallback=aback)  # type: ignore[arg-type]  # a sync function, an async fallback
def n1(x: int) -> str:
    return ""


@command(timeout="1s")  # type: ignore[call-overload, untyped-decorator]  # seconds are numbers
def n2(x: int) -> str:
    return ""


@command(retry=3)  # type: ignore[call-overload, untyped-decorator]  # a Retry, not a number
def n3(x: int) -> str:
    return ""


@command(timeot=1.0)  # type: ignore[call-overload, untyped-decorator]  # misspelt
def n4(x: int) -> str:
    return ""


@command(bulkhead=RateLimiter(10))  # type: ignore[call-overload, untyped-decorator]  # another kind of policy
def n6(x: int) -> str:
    return ""


p = Pipeline(Retry(), CircuitBreaker())
p.call(fn, "1")  # type: ignore[arg-type]  # wrong argument
p.call(fn)  # type: ignore[call-arg]  # missing argument


async def go() -> None:
    await p.acall(fn, 1)  # type: ignore[arg-type]  # a sync function
    _n: int = await p.acall(afn, 1)  # type: ignore[arg-type]  # the result is a str


@command(fallback=back)
def n5(x: int) -> str:
    return ""


s: str = n5(1)  # type: ignore[assignment]  # the result is str | int
Discovery.from_url("dns://").register("x", port=1)  # type: ignore[attr-defined]  # a Discovery can not register
Timeout(second=3)  # type: ignore[call-arg]  # misspelt
Retry(attempt=3)  # type: ignore[call-arg]  # misspelt
Retry(attempts="3")  # type: ignore[arg-type]  # a number
Retry(budget=0.2)  # type: ignore[arg-type]  # a RetryBudget
Bulkhead(10, wait=1.0)  # type: ignore[call-arg]  # max_wait
RateLimiter()  # type: ignore[call-arg]  # no limit
ConcurrencyLimiter(100)  # type: ignore[arg-type]  # an algorithm
Cache(60.0, scope="session")  # type: ignore[arg-type]  # process or request
Hedge(delay="p95")  # type: ignore[arg-type]  # seconds, or nothing to have it learned
Collapser(fn)  # type: ignore[arg-type]  # one key, not many
Command.of(n5).configure(timout=3)  # type: ignore[call-arg]  # misspelt
Command.of(n5).configure(retry=3)  # type: ignore[arg-type]  # a Retry, not a number
Bulkhead().take_settings(RateLimiter(1))  # type: ignore[arg-type]  # another kind
Pipeline(fn)  # type: ignore[arg-type]  # not a policy
with CircuitBreaker("db"):  # type: ignore[attr-defined]  # calling() makes a block
    pass
Fallback()  # type: ignore[call-overload]  # nothing to fall back on
