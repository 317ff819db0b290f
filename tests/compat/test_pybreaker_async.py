"""Coroutines and async generators behind the drop-in: counted when they end, one trial, cancellation is no verdict."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pybreaker
import pytest

from resilient.compat.pybreaker import CircuitBreaker, CircuitBreakerError
from tests.compat.both import expired


async def good(value: str = "fine") -> str:
    await asyncio.sleep(0)
    return value


async def bad() -> str:
    await asyncio.sleep(0)
    raise ConnectionError("down")


class Service:
    """Async where it is called, and by a method."""

    async def __call__(self) -> str:
        return await bad()

    async def method(self) -> str:
        return await bad()


WAYS: dict[str, Callable[[CircuitBreaker], Any]] = {
    "decorated": lambda breaker: breaker(bad)(),
    "decorated with parentheses": lambda breaker: breaker()(bad)(),
    "call": lambda breaker: breaker.call(bad),
    "acall": lambda breaker: breaker.acall(bad),
    "calling as decorator": lambda breaker: breaker.calling()(bad)(),
    "partial": lambda breaker: breaker.call(functools.partial(bad)),
    "method": lambda breaker: breaker.call(Service().method),
    "callable object": lambda breaker: breaker.call(Service()),
    "plain function that returns a coroutine": lambda breaker: breaker.call(lambda: bad()),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
async def test_a_coroutine_counts_when_it_ends(way: Callable[[CircuitBreaker], Any]) -> None:
    """Each way: failures count, the last one trips, and then the call is refused."""
    breaker = CircuitBreaker(fail_max=2)
    with pytest.raises(ConnectionError):
        await way(breaker)
    assert breaker.fail_counter == 1
    with pytest.raises(CircuitBreakerError, match="Failures threshold reached"):
        await way(breaker)
    with pytest.raises(CircuitBreakerError, match="still open"):
        await way(breaker)
    assert (breaker.fail_counter, breaker.current_state) == (2, "open")


async def test_a_good_coroutine_gives_its_result_and_resets_the_counter() -> None:
    """Arguments and result pass through."""
    breaker = CircuitBreaker()
    with pytest.raises(ConnectionError):
        await breaker.call(bad)
    assert await breaker.call(good, value="x") == "x"
    assert breaker.fail_counter == 0


def test_a_decorated_coroutine_function_is_one_still() -> None:
    """Frameworks ask."""
    guarded = CircuitBreaker()(good)
    assert inspect.iscoroutinefunction(guarded)
    assert guarded.__name__ == "good"


async def test_an_async_block_is_guarded() -> None:
    """`async with`, and `with` in a coroutine."""
    breaker = CircuitBreaker(fail_max=2, throw_new_error_on_trip=False)
    with pytest.raises(ConnectionError):
        async with breaker.calling():
            await bad()
    with pytest.raises(ConnectionError), breaker.calling():
        await bad()
    with pytest.raises(CircuitBreakerError):
        async with breaker.calling():
            pytest.fail("entered")
    assert breaker.fail_counter == 2


async def test_one_block_object_is_entered_once_at_a_time() -> None:
    """Entered twice, it could not tell which of the two ends."""
    block = CircuitBreaker().calling()
    with block, pytest.raises(RuntimeError, match="entered already"):
        block.__enter__()
    with block:
        pass


async def test_one_trial_of_many_tasks() -> None:
    """Sixteen at once while half-open: one tries, fifteen are refused."""
    breaker = CircuitBreaker()
    expired(breaker)
    results = await asyncio.gather(*(breaker.call(good) for _ in range(16)), return_exceptions=True)
    assert (results.count("fine"), breaker.current_state) == (1, "closed")
    assert all(result == "fine" or isinstance(result, CircuitBreakerError) for result in results)


async def test_tasks_run_side_by_side() -> None:
    """Closed, sixteen meet inside."""
    breaker, meeting = CircuitBreaker(), asyncio.Barrier(16)
    async with asyncio.timeout(5):
        await asyncio.gather(*(breaker.call(meeting.wait) for _ in range(16)))
    assert meeting.n_waiting == 0


async def test_tasks_of_a_trial_are_part_of_it() -> None:
    """What it starts and awaits through the same breaker is not refused."""
    breaker = CircuitBreaker(success_threshold=3)
    expired(breaker)

    async def fan_out() -> list[str]:
        return list(await asyncio.gather(breaker.call(good), breaker.call(good)))

    assert await breaker.call(fan_out) == ["fine", "fine"]
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("half_open", [False, True])
async def test_cancellation_is_no_verdict(half_open: bool) -> None:
    """Not counted; a trial gives its place back."""
    breaker = CircuitBreaker(fail_max=1)
    if half_open:
        expired(breaker)
    task = asyncio.create_task(breaker.acall(asyncio.sleep, 3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (breaker.fail_counter, breaker.current_state) == (0, "half-open" if half_open else "closed")
    assert await breaker.call(good) == "fine"


async def test_a_time_limit_inside_is_a_failure() -> None:
    """There it is an error of the call."""
    breaker = CircuitBreaker()

    async def limited() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        await breaker.call(limited)
    assert breaker.fail_counter == 1


async def numbers(error: Exception | None = None) -> AsyncIterator[Any]:
    got = yield 0
    while got is not None:
        try:
            got = yield got
        except KeyError:
            got = yield "handled"
    if error:
        raise error


@pytest.mark.parametrize("half_open", [False, True])
async def test_an_async_generator_counts_when_it_ends(half_open: bool) -> None:
    """Values and errors pass in and out; its end is a success, its error a failure."""
    breaker = CircuitBreaker(fail_max=9)
    if half_open:
        expired(breaker)
    guarded: Any = breaker(numbers)
    talk = guarded()
    assert [await anext(talk), await talk.asend("a"), await talk.athrow(KeyError())] == [0, "a", "handled"]
    with pytest.raises(StopAsyncIteration):
        await talk.asend(None)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)
    with pytest.raises(ConnectionError):
        [item async for item in guarded(ConnectionError())]
    assert breaker.fail_counter == 1


async def test_an_async_generator_closed_early_is_no_failure() -> None:
    """The trial gives its place back."""
    breaker = CircuitBreaker()
    expired(breaker)
    generator: Any = breaker(numbers)()
    assert await anext(generator) == 0
    await generator.aclose()
    assert (breaker.current_state, await breaker.call(good)) == ("half-open", "fine")


async def test_a_subclass_that_overrides_call_sees_the_coroutine_functions_too() -> None:
    """The decorator goes through `call`, as pybreaker's does."""
    seen: list[str] = []

    class Counting(CircuitBreaker):
        def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            seen.append(func.__name__)
            return super().call(func, *args, **kwargs)

    breaker = Counting()
    assert (await breaker(good)(), breaker(len)("ab")) == ("fine", 2)
    assert seen == ["good", "len"]


def test_the_steps_of_a_tornado_coroutine() -> None:
    """What the function gives is yielded, its result sent in, its error thrown in; both are counted."""
    from resilient.compat.pybreaker_calls import tornado_steps

    breaker = CircuitBreaker()
    steps = tornado_steps(breaker, str.upper, ("a",), {})
    assert next(steps) == "A"
    with pytest.raises(ConnectionError):
        steps.throw(ConnectionError())
    assert breaker.fail_counter == 1
    steps = tornado_steps(breaker, str.upper, ("a",), {})
    next(steps)
    with pytest.raises(StopIteration, match="result"):
        steps.send("result")
    assert breaker.fail_counter == 0


async def test_pybreaker_itself_counts_no_coroutine() -> None:
    """The fault that this is about: five failures, and it says all is well."""
    breaker = pybreaker.CircuitBreaker()
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await breaker.call(bad)
    assert (breaker.fail_counter, breaker.current_state) == (0, "closed")
