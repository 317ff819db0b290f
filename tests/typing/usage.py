"""What users write; every line must type-check under mypy --strict. Never executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Never, TypeVar, assert_type, overload

import httpx

import resilient
from resilient import (
    AIMD,
    Bulkhead,
    BulkheadFullError,
    BulkheadRejected,
    BulkheadSnapshot,
    Cache,
    CacheSnapshot,
    CallTimeoutError,
    Chaos,
    CircuitBreaker,
    CircuitBreakerSnapshot,
    Collapser,
    Command,
    CommandSnapshot,
    ConcurrencyLimiter,
    Deadline,
    Explanation,
    Fallback,
    Gradient2,
    Hedge,
    Keyed,
    MissingResultError,
    Permit,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    RateLimiterSnapshot,
    Retry,
    RetryBudget,
    RetryScheduled,
    RetrySnapshot,
    StaleCache,
    ThreadPoolBulkhead,
    Timeout,
    TimeWindow,
    Vegas,
    command,
    is_transient,
    listen,
    priority,
    retry_after,
)
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


@resilient.command(timeout=1.0, retry=Retry(attempts=3, on=is_transient), breaker=CircuitBreaker(failure_rate=0.5))
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


@command(
    "everything",
    group="weather",
    fallback=last_known,
    timeout=2.0,
    attempt_timeout=0.5,
    retry=Retry(attempts=2, wait=0.1, total=1.5, budget=RetryBudget(0.1)),
    breaker=CircuitBreaker(window=TimeWindow(10.0), minimum_calls=10),
    rate_limiter=RateLimiter(100, per=60.0, burst=10, max_wait=0.5),
    bulkhead=Bulkhead(10, max_wait=0.1, max_queue=20),
    cache=Cache(60.0, scope="request"),
    chaos=Chaos(rate=0.01, latency=0.2, error=ConnectionError),
    on=(OSError, TimeoutError),
    ignore=lambda error: isinstance(error, KeyError),
    on_result=lambda weather: not weather.text,
)
def w15(zip_code: str, country: str = "us") -> Weather:
    return Weather()


@command(hedge=Hedge(0.1, extra=2), bulkhead=ConcurrencyLimiter(Gradient2(maximum=100)), breaker=None)
async def w16(zip_code: str) -> Weather:
    return Weather()


@command(bulkhead=ThreadPoolBulkhead(4, max_queue=10), timeout=1.0)
def w17(zip_code: str) -> Weather:
    return Weather()


assert_type(w1("9", country="us"), Weather)
assert_type(w2("9"), Weather)
assert_type(w3("9", country="us"), Weather)
assert_type(w4("9"), Weather | None)
assert_type(w10("9"), list[int])
assert_type(w11("9"), Weather)
assert_type(w12("9"), Weather)
assert_type(w14("9"), Weather)
assert_type(w15("9", country="us"), Weather)
assert_type(w17("9"), Weather)


async def commands() -> None:
    assert_type(await w5("9"), Weather)
    assert_type(await w6("9"), Weather)
    assert_type(await w7("9"), Weather)
    assert_type(await w8("9", country="x"), Weather | str)
    assert_type(await w13("9"), Weather)
    assert_type(await w16("9"), Weather)


# --- pipeline


def fetch(zip_code: str, country: str = "us") -> Weather:
    return Weather()


async def afetch(zip_code: str, country: str = "us") -> Weather:
    return Weather()


guard = Pipeline(Fallback(value=None), Retry(), CircuitBreaker("x"), Timeout(1.0))
plain = Pipeline(Retry(), CircuitBreaker("x"), Timeout(1.0))
every = Pipeline(
    Cache(60.0),
    Timeout(2.0, name="whole"),
    Retry(),
    CircuitBreaker(),
    RateLimiter(10),
    Bulkhead(),
    ConcurrencyLimiter(AIMD(initial=30)),
    ThreadPoolBulkhead(),
    Chaos(error=OSError),
    Timeout(0.5, thread=False, max_abandoned=8),
)
assert_type(guard, Pipeline[None])
assert_type(plain, Pipeline[Never])
assert_type(guard.call(fetch, "9", country="us"), Weather | None)
assert_type(plain.call(fetch, "9"), Weather)
assert_type(CircuitBreaker("x").call(fetch, "9"), Weather)
assert_type(guard.call(lambda: 3), int | None)
nested = Pipeline(Fallback(value=0), plain)
assert_type(nested.call(fetch, "9"), Weather | int)
assert_type(every, Pipeline[Never])
assert_type(every.call(fetch, "9"), Weather)
assert_type(every.explain(), Explanation)
assert_type(StaleCache().call(fetch, "9"), Weather)


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


@Retry(attempts=2)
@CircuitBreaker("stacked")
def f8(xs: Sequence[T]) -> T:
    return xs[0]


@Fallback(value=None)
@CircuitBreaker("stacked2")
def f9(x: int) -> str:
    return ""


assert_type(f1(x=1), str | None)
assert_type(f3(x=1), str)
assert_type(f5([1]), int)
assert_type(f8([1]), int)
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


# --- one policy at a time


@Cache(60.0, key=str.lower)
def cached(zip_code: str) -> Weather:
    return Weather()


@Hedge()
async def hedged(zip_code: str) -> Weather:
    return Weather()


@RateLimiter(10, per=60.0)
@ConcurrencyLimiter(Vegas(initial=10), priorities={"high": 1.0, "low": 0.5})
def limited(zip_code: str) -> Weather:
    return Weather()


@Timeout(1.0)
def timed(zip_code: str) -> Weather:
    return Weather()


def fetch_users(numbers: Sequence[int]) -> dict[int, str]:
    return dict.fromkeys(numbers, "ann")


async def afetch_users(numbers: Sequence[int]) -> list[str]:
    return ["ann" for _ in numbers]


@Collapser.decorate
def user(numbers: Sequence[int]) -> dict[int, str]:
    return fetch_users(numbers)


@Collapser.decorate(max_size=10)
async def auser(numbers: Sequence[int]) -> list[str]:
    return await afetch_users(numbers)


assert_type(cached("9"), Weather)
assert_type(limited("9"), Weather)
assert_type(timed("9"), Weather)
assert_type(Collapser(fetch_users, delay=0.005)(1), str)
assert_type(user(1), str)


async def one_at_a_time() -> None:
    assert_type(await hedged("9"), Weather)
    assert_type(await Collapser(afetch_users)(1), str)
    assert_type(await auser(1), str)
    assert_type(await Bulkhead().acall(afetch, "9"), Weather)


def errors(answer: httpx.Response) -> None:
    try:
        with Deadline(3.0) as deadline, priority("high"), Cache.scope():
            assert_type(deadline.remaining, float)
            w1("9")
        with Deadline.none():
            assert_type(Deadline.current(), Deadline | None)
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
    except BulkheadFullError as error:
        assert_type(error.policy, str)
    except CallTimeoutError as error:
        assert_type((error.limit, error.elapsed, error.by_deadline), tuple[float, float, bool])
    except MissingResultError as error:
        assert_type(error.key, object)
    except OSError as error:
        assert_type(is_transient(error), bool)
    assert_type(retry_after(answer), float | None)


def tell(event: RetryScheduled) -> None:
    assert_type((event.name, event.at, event.attempt, event.delay), tuple[str, float, int, float])


stop = listen(tell, RetryScheduled)
stop()
listen(lambda event: print(event.limit), BulkheadRejected)
Retry(listeners=[print], rng=lambda: 0.5)

# --- gates, discovery, transport

with CircuitBreaker("db").calling() as permit:
    permit.failure()
with RateLimiter(10).acquire(weight=2.0):
    pass
assert_type(Bulkhead(10).acquire(), Permit)


async def blocks() -> None:
    async with Bulkhead(10).calling():
        pass
    async with (
        Registry.from_url("eureka://localhost:8761") as registry,
        registry.register("producer", port=80),
    ):
        assert_type(registry, Registry)
    transport = AsyncResilientTransport(
        "eureka://localhost:8761", policies=lambda service: Pipeline(Retry(), CircuitBreaker(service))
    )
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://producer/weather")


d = Discovery.from_url("static://producer=localhost:1")
with httpx.Client(transport=ResilientTransport(d)) as http:
    http.get("http://producer/weather")

# --- at run time


def per_tenant(tenant: str) -> CircuitBreaker:
    return CircuitBreaker(f"db.{tenant}", failure_rate=0.4)


breakers = Keyed(per_tenant, max_keys=100)
assert_type(breakers["tenant"], CircuitBreaker)
assert_type(breakers["tenant"].call(fetch, "9"), Weather)
assert_type(Command.of(w3).breaker, CircuitBreaker | None)
assert_type(Command.of(w3).snapshot(), CommandSnapshot)
Command.of(w3).configure(timeout=2.0, retry=Retry(attempts=2), bulkhead=None)
resilient.configure("resilient.toml")
resilient.configure({"commands": {"weather": {"timeout": 2.0}}})
assert_type(CircuitBreaker().snapshot(), CircuitBreakerSnapshot)
assert_type(Bulkhead().snapshot(), BulkheadSnapshot)
assert_type(RateLimiter(1).snapshot(), RateLimiterSnapshot)
assert_type(Retry().snapshot(), RetrySnapshot)
assert_type(Cache(1.0).snapshot(), CacheSnapshot)
limit = Bulkhead(10)
limit.resize(5)
limit.take_settings(Bulkhead(20, max_wait=1.0))
