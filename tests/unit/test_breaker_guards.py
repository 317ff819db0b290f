"""What a breaker can guard, alone and in a pipeline: every kind of callable, in both colours, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, Pipeline, Policy
from resilient.testing import VirtualClock

Wrap = Callable[[CircuitBreaker], Policy[Any]]


@pytest.fixture
def breaker(clock: VirtualClock) -> CircuitBreaker:
    """One that opens at the fifth failure in a row."""
    return CircuitBreaker("svc", clock=clock)


@pytest.fixture(params=[lambda breaker: breaker, Pipeline], ids=["alone", "chain"])
def guard(request: pytest.FixtureRequest, breaker: CircuitBreaker) -> Policy[Any]:
    """The breaker as the only decorator, for which there is a shorter way, and as the one layer of a pipeline."""
    wrap: Wrap = request.param
    return wrap(breaker)


def result(answer: Any) -> Any:
    """The answer of either colour."""
    return asyncio.run(awaiting(answer)) if inspect.isawaitable(answer) else answer


async def awaiting(answer: Awaitable[Any]) -> Any:
    return await answer


def twice(number: int, /, *, plus: int = 0) -> int:
    """Twice a number."""
    if number < 0:
        raise ValueError(number)
    return 2 * number + plus


async def twice_async(number: int, /, *, plus: int = 0) -> int:
    """Twice a number, later."""
    await asyncio.sleep(0)
    return twice(number, plus=plus)


class Caller:
    """An object that is called like a function."""

    def __call__(self, number: int, /, *, plus: int = 0) -> int:
        return twice(number, plus=plus)


class AsyncCaller:
    """An object that is called like an async function."""

    async def __call__(self, number: int, /, *, plus: int = 0) -> int:
        return await twice_async(number, plus=plus)


class Service:
    """Methods of every kind, undecorated."""

    def method(self, number: int, /, *, plus: int = 0) -> int:
        return twice(number, plus=plus)

    async def method_async(self, number: int, /, *, plus: int = 0) -> int:
        return await twice_async(number, plus=plus)

    @classmethod
    def of_class(cls, number: int, /, *, plus: int = 0) -> int:
        return twice(number, plus=plus)


@pytest.mark.parametrize(
    "fn",
    [
        pytest.param(twice, id="function"),
        pytest.param(twice_async, id="async function"),
        pytest.param(functools.partial(twice, plus=0), id="partial"),
        pytest.param(functools.partial(twice_async, plus=0), id="partial of an async function"),
        pytest.param(functools.partial(functools.partial(twice_async), plus=0), id="partial of a partial"),
        pytest.param(Caller(), id="object"),
        pytest.param(AsyncCaller(), id="async object"),
        pytest.param(functools.partial(AsyncCaller(), plus=0), id="partial of an async object"),
        pytest.param(Service().method, id="bound method"),
        pytest.param(Service().method_async, id="bound async method"),
        pytest.param(Service.of_class, id="bound class method"),
        pytest.param(lambda number, /, *, plus=0: twice(number, plus=plus), id="lambda"),
    ],
)
def test_every_kind_of_callable_is_guarded(guard: Policy[Any], breaker: CircuitBreaker, fn: Callable[..., Any]) -> None:
    """Arguments, results and errors pass; successes and failures are counted; open, it is not called any more."""
    guarded: Any = guard(fn)
    assert result(guarded(4, plus=1)) == 9
    for _ in range(5):
        with pytest.raises(ValueError, match="-1"):
            result(guarded(-1))
    assert (breaker.snapshot().successes, breaker.snapshot().failed) == (1, 5)
    with pytest.raises(CircuitOpenError):
        result(guarded(4))


@pytest.mark.parametrize(
    "fn",
    [twice, twice_async, Service.method, Service.method_async, Service.of_class, len, Caller(), AsyncCaller()],
    ids=lambda fn: getattr(fn, "__qualname__", type(fn).__name__),
)
def test_what_is_guarded_looks_as_it_did(guard: Policy[Any], fn: Callable[..., Any]) -> None:
    """Signature, colour, name, module, docstring: for help(), for frameworks that read parameters, for logs."""
    guarded: Any = guard(fn)
    assert inspect.signature(guarded) == inspect.signature(fn)
    is_async = inspect.iscoroutinefunction(fn) or isinstance(fn, AsyncCaller)
    assert inspect.iscoroutinefunction(guarded) is is_async
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        if hasattr(fn, attribute):
            assert getattr(guarded, attribute) == getattr(fn, attribute)
    assert guarded.__wrapped__ is fn


def test_builtins_and_classes_are_guarded(guard: Policy[Any], breaker: CircuitBreaker) -> None:
    """What has no Python code has nothing to look at, and is called all the same."""
    assert guard(len)([1, 2]) == 2
    assert guard(max)(1, 3, 2) == 3
    assert guard(int)("7") == 7
    assert guard("a-b".split)("-") == ["a", "b"]
    assert guard(dict)(a=1) == {"a": 1}
    assert guard.call(sorted, [2, 1], reverse=True) == [2, 1]
    with pytest.raises(ValueError, match="invalid literal"):
        guard(int)("seven")
    assert (breaker.snapshot().successes, breaker.snapshot().failed) == (6, 1)


def test_methods_share_the_breaker_and_keep_their_object(guard: Policy[Any], breaker: CircuitBreaker) -> None:
    """One dependency, many objects: each call gets its own `self`, all are counted together."""

    class Prices:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        @guard
        def price(self, sku: int) -> int:
            """The price."""
            return self.factor * sku

        @guard
        async def price_async(self, sku: int) -> int:
            return self.factor * sku

    one, other = Prices(2), Prices(3)
    assert (one.price(5), other.price(5), Prices.price(one, 1)) == (10, 15, 2)
    assert (result(one.price_async(5)), result(other.price_async(sku=5))) == (10, 15)
    assert list(inspect.signature(one.price).parameters) == ["sku"]
    assert list(inspect.signature(Prices.price).parameters) == ["self", "sku"]
    assert Prices.price.__qualname__.endswith("Prices.price")
    assert inspect.iscoroutinefunction(one.price_async)
    assert breaker.snapshot().successes == 5


def test_class_and_static_methods_in_either_order(guard: Policy[Any], breaker: CircuitBreaker) -> None:
    """`@breaker` above `@classmethod`, or below it: both are written."""

    class Prices:
        @classmethod
        @guard
        def below(cls, sku: int) -> tuple[str, int]:
            return cls.__name__, sku

        @guard
        @classmethod
        def above(cls, sku: int) -> tuple[str, int]:
            return cls.__name__, sku

        @classmethod
        @guard
        async def below_async(cls, sku: int) -> tuple[str, int]:
            return cls.__name__, sku

        @guard
        @classmethod
        async def above_async(cls, sku: int) -> tuple[str, int]:
            return cls.__name__, sku

        @staticmethod
        @guard
        def static_below(sku: int) -> int:
            return sku

        @guard
        @staticmethod
        def static_above(sku: int) -> int:
            return sku

        @staticmethod
        @guard
        async def static_below_async(sku: int) -> int:
            return sku

        @guard
        @staticmethod
        async def static_above_async(sku: int) -> int:
            return sku

    class More(Prices):
        pass

    for owner in (Prices, More, Prices(), More()):
        name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        for class_method in (owner.below, owner.above, owner.below_async, owner.above_async):
            assert result(class_method(7)) == (name, 7)
            assert list(inspect.signature(class_method).parameters) == ["sku"]
        for static_method in (
            owner.static_below,
            owner.static_above,
            owner.static_below_async,
            owner.static_above_async,
        ):
            assert result(static_method(sku=7)) == 7
    assert inspect.iscoroutinefunction(Prices.above_async)
    assert inspect.iscoroutinefunction(Prices.static_above_async)
    assert breaker.snapshot().successes == 32


def numbers() -> Iterator[int]:
    yield 1


async def numbers_async() -> AsyncIterator[int]:
    yield 1


class Numbers:
    """Generators of every kind."""

    def __call__(self) -> Iterator[int]:
        yield 1

    def method(self) -> Iterator[int]:
        yield 1

    @classmethod
    def of_class(cls) -> Iterator[int]:
        yield 1


class NumbersAsync:
    """An async one."""

    async def __call__(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    "fn",
    [
        numbers,
        numbers_async,
        functools.partial(numbers),
        functools.partial(numbers_async),
        Numbers(),
        NumbersAsync(),
        Numbers().method,
        Numbers.method,
        staticmethod(numbers),
        vars(Numbers)["of_class"],
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_generators_are_refused_with_the_way_to_do_it(guard: Policy[Any], fn: Any) -> None:
    """Their work happens after the call that makes them: it would be counted as good at once."""
    with pytest.raises(TypeError, match=r"is a generator: .*with breaker\.calling\(\)"):
        guard(fn)


@pytest.mark.parametrize(
    "thing", [None, 7, "name", property(lambda _: None), object()], ids=lambda it: type(it).__name__
)
def test_what_can_not_be_called_is_refused(guard: Policy[Any], thing: Any) -> None:
    """At decoration, naming it: `@breaker` above `@property`, say."""
    with pytest.raises(TypeError, match="a function is guarded, not"):
        guard(thing)


def returns_a_coroutine() -> Any:
    return twice_async(1)


def returns_a_future() -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


@pytest.mark.parametrize("fn", [returns_a_coroutine, returns_a_future])
def test_a_function_that_returns_an_awaitable_is_refused(
    guard: Policy[Any], breaker: CircuitBreaker, fn: Callable[[], Any]
) -> None:
    """Rule 5: it would count as good before its work has begun; it is no failure of the dependency either."""
    guarded: Any = guard(fn)
    with pytest.raises(TypeError, match=rf"{fn.__name__} returned an awaitable: .*async def"):
        guarded()
    with pytest.raises(TypeError, match=f"{fn.__name__} returned an awaitable"):
        guard.call(fn)
    assert breaker.snapshot().failed == 0


def test_a_coroutine_is_refused_at_any_call(guard: Policy[Any]) -> None:
    """Also by a function that has returned a plain result before."""
    answers: list[Any] = [twice_async(1), 2, twice_async(1), 1]
    guarded: Any = guard(lambda: answers.pop())
    assert guarded() == 1
    with pytest.raises(TypeError, match="returned an awaitable"):
        guarded()
    assert guarded() == 2
    with pytest.raises(TypeError, match="returned an awaitable"):
        guarded()


def test_stacked_breakers_are_layers(clock: VirtualClock) -> None:
    """Each counts; the outer one takes the inner one's refusal for what it is: nothing was sent."""
    outer = CircuitBreaker("outer", clock=clock)
    inner = CircuitBreaker("inner", consecutive_failures=2, clock=clock)

    for guarded in (outer(inner(twice)), outer(inner(twice_async)), Pipeline(outer, inner)(twice)):
        outer.reset()
        inner.reset()
        before = outer.snapshot()
        assert result(guarded(2)) == 4
        assert inspect.signature(guarded) == inspect.signature(twice)
        for _ in range(2):
            with pytest.raises(ValueError, match="-1"):
                result(guarded(-1))
        for _ in range(10):
            with pytest.raises(CircuitOpenError) as caught:
                result(guarded(2))
            assert caught.value.policy == "inner"
        after = outer.snapshot()
        assert (after.successes - before.successes, after.failed - before.failed) == (1, 2)
        assert after.calls == 3


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_alone_and_in_a_chain_it_counts_the_same(clock: VirtualClock, colour: str) -> None:
    """Results that are failures, ignored errors, interrupts, refusals further in: the short cut is only shorter."""

    def work(what: Any) -> Any:
        if isinstance(what, BaseException):
            raise what
        return what

    async def work_async(what: Any) -> Any:
        return work(what)

    seen = []
    wraps: list[Any] = [lambda breaker: breaker, Pipeline]
    for number, wrap in enumerate(wraps):
        breaker = CircuitBreaker(
            f"svc-{number}",
            on=(OSError, LookupError),
            ignore=KeyError,
            on_result=lambda value: value is None,
            consecutive_failures=None,
            slow_call_duration=2.0,
            clock=clock,
        )
        policy: Any = wrap(breaker)
        guarded = policy(work if colour == "sync" else work_async)
        steps = []
        for what in [
            1,
            None,
            OSError(),
            KeyError(),
            ValueError(),
            ExceptionGroup("two", [KeyError(), IndexError()]),
            CircuitOpenError("no", policy="other"),
            ExceptionGroup("refused", [CircuitOpenError("no", policy="other")]),
            KeyboardInterrupt(),
        ]:
            try:
                answer = result(guarded(what))
            except BaseException as error:
                answer = error
            snapshot = breaker.snapshot()
            steps.append((answer, snapshot.successes, snapshot.failed, snapshot.ignored, snapshot.late, snapshot.calls))
        assert [type(answer) for answer, *_ in steps[2:]][:3] == [OSError, KeyError, ValueError]
        seen.append([(type(answer), *counts) for answer, *counts in steps])
    assert seen[0] == seen[1]
    assert seen[0][-1][1:] == (2, 3, 2, 0, 5)
