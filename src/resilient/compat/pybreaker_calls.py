"""Guarded work that ends later than the function that began it: coroutines, generators, blocks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import AsyncGeneratorType, GeneratorType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from resilient.compat.pybreaker_trial import Trial

if TYPE_CHECKING:
    from resilient.compat.pybreaker import CBStateType, CircuitBreaker

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def gives_coroutine(func: Callable[..., Any]) -> bool:
    """Whether calling `func` gives a coroutine: `async def`, also behind a partial or as `__call__`."""
    code = getattr(func, "__code__", None)
    if code is not None:  # functions and methods, at a tenth of the cost of asking inspect
        return bool(code.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def guard(func: Callable[..., Any], call: Callable[..., Any], *, detect_async: bool) -> Callable[..., Any]:
    """`func` run by `call`. That is a method of the user's breaker, which a subclass of his may override."""

    @functools.wraps(func)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return call(func, *args, **kwargs)

    @functools.wraps(func)
    async def guarded_async(*args: Any, **kwargs: Any) -> Any:
        return await call(func, *args, **kwargs)

    return guarded_async if detect_async and gives_coroutine(func) else guarded


def follow_any(breaker: CircuitBreaker, state: CBStateType, trial: Trial | None, result: Any) -> Any:
    """What was called has only begun: count it when it ends."""
    if isinstance(result, GeneratorType):
        return follow_generator(breaker, state, trial, result)
    if isinstance(result, AsyncGeneratorType):
        return follow_async_generator(breaker, state, trial, result)
    return follow(breaker, state, trial, lambda: result)


async def follow(
    breaker: CircuitBreaker, state: CBStateType, trial: Trial | None, begin: Callable[[], Awaitable[R]]
) -> R:
    """Await what `begin` gives and count its end."""
    try:
        if trial is None:
            result = await begin()
        else:
            with trial.running():
                result = await begin()
    except BaseException as error:
        breaker._settle(state, trial, error)
        raise
    breaker._settle(state, trial, None)
    return result


def follow_generator(
    breaker: CircuitBreaker, state: CBStateType, trial: Trial | None, wrapped: Generator[Any, Any, R]
) -> Generator[Any, Any, R]:
    """Pass everything through and count how `wrapped` ends."""
    try:
        result = yield from (wrapped if trial is None else trial.steps(wrapped))
    except BaseException as error:
        breaker._settle(state, trial, error)
        raise
    breaker._settle(state, trial, None)
    return result


async def follow_async_generator(
    breaker: CircuitBreaker, state: CBStateType, trial: Trial | None, wrapped: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """Pass everything through and count how `wrapped` ends."""
    step: Any = wrapped.asend
    value: Any = None
    try:
        while True:
            try:
                if trial is None:
                    item = await step(value)
                else:
                    with trial.running():
                        item = await step(value)
            except StopAsyncIteration:
                break
            try:
                value = yield item
                step = wrapped.asend
            except GeneratorExit:
                await wrapped.aclose()
                raise
            except BaseException as error:
                step, value = wrapped.athrow, error
    except BaseException as error:
        breaker._settle(state, trial, error)
        raise
    breaker._settle(state, trial, None)


def tornado_steps(
    breaker: CircuitBreaker, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Generator[Any, Any, Any]:
    """The steps of a Tornado coroutine: yields what `func` gives, is sent its result."""
    state, trial = breaker._admit(func, args, kwargs)
    try:
        result = yield func(*args, **kwargs)
    except BaseException as error:
        breaker._settle(state, trial, error)
        raise
    breaker._settle(state, trial, None)
    return result


class Calling:
    """One guarded block, sync or async; entered once at a time. As a decorator it guards a function."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._entered: tuple[CBStateType, Trial | None] | None = None
        self._mark: Any = None

    def __call__(self, func: F, /) -> F:
        """Guard `func` as the breaker itself does."""
        return self._breaker(func)

    def __enter__(self) -> None:
        if self._entered is not None:
            raise RuntimeError("this calling() block is entered already; call calling() for each block")
        self._entered = _, trial = self._breaker._admit(_block, (), {})
        if trial is not None:
            self._mark = trial.running()
            self._mark.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        assert self._entered is not None
        (state, trial), self._entered = self._entered, None
        if self._mark is not None:
            mark, self._mark = self._mark, None
            mark.__exit__(None, None, None)
        try:
            self._breaker._settle(state, trial, error)
        except BaseException as raised:
            if raised is not error:
                raise

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.__exit__(kind, error, tb)


def _block() -> None:
    """What `before_call` is told that a block calls."""
