"""What users write; every line must type-check under mypy --strict. Never executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Never, TypeVar, assert_type, overload

import httpx

import resilient
from resilient import CircuitBreaker, Command, Fallback, Pipeline, StaleCache, Timeout, command
from resilient.discovery import Discovery, Registry
from resilient.transport import AsyncResilientTransport, ResilientTransport

T = TypeVar("T")


@dataclass(frozen=True)
class Weather:
    text: str = ""
    message: str = ""


def last_known(zip_code: str, country: str = "us", *, error: Exception) -> Weather:
    return Weather()


def empty(zip_code: str, country: str = "us") -> Weather:
    return Weather()


async def alast_known(zip_code: str, country: str = "us") -> Weather:
    return Weather()


def mark_old(weather: Weather, age: float) -> Weather:
    return replace(weather, message="CAUTION - Response out of date!")


# --- command


@command
def w1(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@resilient.command(timeout=1.0, breaker=CircuitBreaker(failure_rate=0.5))
def w2(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command("weather", fallback=last_known)
def w3(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(fallback=Fallback(value=None))
def w4(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(fallback=alast_known)
async def w5(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(fallback=last_known)
async def w6(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command
async def w7(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(fallback=Fallback(value="n/a"), timeout=1.0)
async def w8(zip_code: str, *, country: str = "us") -> Weather:
    return Weather()


@command(fallback=Fallback(factory=list[int]))
def w10(zip_code: str) -> list[int]:
    return []


@command(fallback=StaleCache(mark=mark_old))
def w11(zip_code: str) -> Weather:
    return Weather()


@command(fallback=Fallback(StaleCache(mark=mark_old), empty))
def w12(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(fallback=Fallback(StaleCache(mark=mark_old), alast_known))
async def w13(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(fallback=lambda zip_code: Weather())
def w14(zip_code: str) -> Weather:
    return Weather()


assert_type(w1("9", country="us"), Weather)
assert_type(w2("9"), Weather)
assert_type(w3("9", country="us"), Weather)
assert_type(w4("9"), Weather | None)
assert_type(w10("9"), list[int])
assert_type(w11("9"), Weather)
assert_type(w12("9"), Weather)
assert_type(w14("9"), Weather)


async def commands() -> None:
    assert_type(await w5("9"), Weather)
    assert_type(await w6("9"), Weather)
    assert_type(await w7("9"), Weather)
    assert_type(await w8("9", country="x"), Weather | str)
    assert_type(await w13("9"), Weather)


# --- pipeline


def fetch(zip_code: str, country: str = "us") -> Weather:
    return Weather()


async def afetch(zip_code: str, country: str = "us") -> Weather:
    return Weather()


guard = Pipeline(Fallback(value=None), CircuitBreaker("x"), Timeout(1.0))
plain = Pipeline(CircuitBreaker("x"), Timeout(1.0))
assert_type(guard, Pipeline[None])
assert_type(plain, Pipeline[Never])
assert_type(guard.call(fetch, "9", country="us"), Weather | None)
assert_type(plain.call(fetch, "9"), Weather)
assert_type(CircuitBreaker("x").call(fetch, "9"), Weather)
assert_type(guard.call(lambda: 3), int | None)
nested = Pipeline(Fallback(value=0), plain)
assert_type(nested.call(fetch, "9"), Weather | int)


async def pipelines() -> None:
    assert_type(await guard.acall(afetch, "9", country="x"), Weather | None)
    assert_type(await plain.acall(afetch, "9"), Weather)
    async with httpx.AsyncClient() as client:
        assert_type(await plain.acall(client.get, "http://x"), httpx.Response)
        assert_type(await guard.acall(client.get, "http://x"), httpx.Response | None)


@guard
def f1(x: int) -> str:
    return ""


@guard
async def f2(x: int) -> str:
    return ""


@plain
def f3(x: int) -> str:
    return ""


@plain
def f5(xs: Sequence[T]) -> T:
    return xs[0]


@plain
async def f7(xs: Sequence[T]) -> T:
    return xs[0]


@Fallback(value=None)
@CircuitBreaker("stacked2")
def f9(x: int) -> str:
    return ""


assert_type(f1(x=1), str | None)
assert_type(f3(x=1), str)
assert_type(f5([1]), int)
assert_type(f9(x=1), str | None)


async def decorated() -> None:
    assert_type(await f2(1), str | None)
    assert_type(await f7([1]), int)


@overload
def o(x: int) -> int: ...
@overload
def o(x: str) -> str: ...
@command
def o(x: int | str) -> int | str:
    return x


assert_type(o("a"), str)


class K:
    def _cached(self, x: int, *, error: Exception) -> str:
        return ""

    @command(fallback=_cached)
    def n3(self, x: int) -> str:
        return ""

    @guard
    def m(self, x: int) -> str:
        return ""

    @guard
    async def am(self, x: int) -> str:
        return ""

    @command("n2", timeout=1.0)
    async def n2(self, x: int) -> str:
        return ""

    @property
    @command(fallback=Fallback(value=None))
    def p(self) -> str:
        return ""

    @classmethod
    @guard
    def c(cls, x: int) -> str:
        return ""

    @staticmethod
    @command
    def s(x: int) -> str:
        return ""


assert_type(K().m(x=1), str | None)
assert_type(K().n3(1), str)
assert_type(K().p, str | None)
assert_type(K.c(1), str | None)
assert_type(K.s(1), str)


async def methods() -> None:
    assert_type(await K().am(x=1), str | None)
    assert_type(await K().n2(1), str)


# --- gates, discovery, transport

with CircuitBreaker("db").calling() as permit:
    permit.failure()


async def blocks() -> None:
    async with CircuitBreaker("block").calling():
        pass
    async with (
        Registry.from_url("eureka://localhost:8761") as registry,
        registry.register("producer", port=80),
    ):
        assert_type(registry, Registry)
    transport = AsyncResilientTransport(
        "eureka://localhost:8761", policies=lambda service: Pipeline(CircuitBreaker(service))
    )
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://producer/weather")


d = Discovery.from_url("static://producer=localhost:1")
with httpx.Client(transport=ResilientTransport(d)) as http:
    http.get("http://producer/weather")
assert_type(Command.of(w3).breaker, CircuitBreaker | None)
