"""Each marked line must be an error. Never executed.

mypy --strict calls an ignore that ignores nothing an error itself, so a line that became legal is found.
"""

from __future__ import annotations

from resilient import CircuitBreaker, Fallback, Pipeline, Timeout, command
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


@command(timeot=1.0)  # type: ignore[call-overload, untyped-decorator]  # misspelt
def n4(x: int) -> str:
    return ""


p = Pipeline(CircuitBreaker(), Timeout(1.0))
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
Pipeline(fn)  # type: ignore[arg-type]  # not a policy
with CircuitBreaker("db"):  # type: ignore[attr-defined]  # calling() makes a block
    pass
Fallback()  # type: ignore[call-overload]  # nothing to fall back on
