"""If not that, then this."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeAlias, TypeVar, overload

from resilient.errors import ConfigError, RejectedError
from resilient.gate import Gate, gate_of
from resilient.outcome import FAILURE, IGNORED, Classification, Match, classifier, result_check
from resilient.policies.fallback_steps import NO_ANSWER, FactoryStep, FunctionStep, NestedStep, Step, ValueStep
from resilient.policy import Args, AsyncCall, Call, F_co, Fn, Kwargs, Policy, describe_function, is_async

logger = logging.getLogger("resilient")

T = TypeVar("T")
Hear: TypeAlias = Callable[[Kwargs, Exception | None], None]

_NO_VALUE: Final = object()
_CAUSES_REMEMBERED = 100  # kinds of errors for which the first fallback is logged with its traceback


class BadResult(Exception):  # noqa: N818  # named for what it holds: a value that on_result calls a failure
    """What a fallback's `error` is when a returned value counts as a failure; the value is `args[0]`."""


class Fallback(Policy[F_co]):
    """Answer something else when the call fails or is refused.

    Ways are tried in turn; the first that answers wins. When none does, the last way's error leaves, with the call's
    own error as its context; both are visible. Cancellation and KeyboardInterrupt never get a fallback, nor does the
    caller's own mistake (an HTTP 4xx other than 408, 425, 429), nor what `ignore` matches.

    A fallback that calls a service should be a command itself: nothing here limits or guards it.

    Args:
        functions: functions of the call's own arguments, in order; each may be a Fallback with `on` of its own, such as
            a `StaleCache`. A keyword-only parameter `error` gets the cause. Async ones only around async functions.
        value: instead of functions, the answer itself; lists, dicts and sets are refused: every caller would share one.
        factory: instead of functions, called without arguments for each answer.
        on: which exceptions, default every failure; rejections by other policies always count, unless ignored.
        ignore: which exceptions leave as they are.
        on_result: a predicate: True for a returned value to replace.

    Raises:
        ConfigError: at construction, and at decoration when a function takes other arguments than the one it stands for
            or is async where that is not.

    Safe for threads and event loops.

    Example:
        >>> from resilient import Fallback
        >>> def price_list(sku: str, *, error: Exception) -> float:
        ...     return {"apple": 1.0}[sku]
        >>> @Fallback(price_list)
        ... def price(sku: str) -> float:
        ...     raise ConnectionError("the price service is down")
        >>> price("apple")
        1.0
    """

    kind = "fallback"

    @overload
    def __init__(
        self,
        *,
        value: F_co,
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        factory: Callable[[], F_co],
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Fallback[T],
        function: Fallback[T] | Callable[..., Coroutine[Any, Any, T]],
        /,
        *functions: Fallback[T] | Callable[..., Coroutine[Any, Any, T]],
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Fallback[T],
        function: Fallback[T] | Callable[..., T],
        /,
        *functions: Fallback[T] | Callable[..., T],
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        *functions: Any,
        value: Any = _NO_VALUE,
        factory: Any = None,
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None:
        self._begin(tuple(_steps(functions, value, factory)), Classification(on, ignore, on_result), name)

    def _begin(self, steps: tuple[Step, ...], given: Classification, name: str | None) -> None:
        self._steps = steps
        self._given = given
        self._told: set[type[Exception]] = set()
        super().__init__(name)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The ways to answer, in order."""
        return self._steps

    @property
    def given(self) -> Classification:
        """Which errors and results get this fallback."""
        return self._given

    def check(self, fn: Fn) -> None:
        """Refuse a function that a way can not stand for."""
        for step in self.steps:
            if step.is_async and not is_async(fn):
                raise ConfigError(
                    f"Fallback: {step!r} is async but {describe_function(fn)} is not: nobody could await it",
                    path="fallback",
                )
            step.check(fn)

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """Who sees no failure any more."""
        blind = [other for other in outside if other.kind in {"retry", "circuit_breaker", "hedge"}]
        return [f"{other!r} outside a Fallback sees its answers, not what failed: put it inside" for other in blind]

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` with this to fall back on, for functions."""
        return self.heard(inner, given, None)

    def heard(self, inner: Call, given: Classification, hear: Hear | None) -> Call:
        """The same; before it answers instead, `hear` gets the call's keyword arguments and the cause.

        The cause is None for a call that the gate just inside turned away without raising.
        """
        steps = self.steps
        if any(step.is_async for step in steps):
            raise ConfigError(f"{self!r} has an async function: it serves async functions only", path="fallback")
        used = self._given.or_else(given)
        recovers, bad = recovering(used), result_check(used)
        learners = [step.learn for step in steps if step.learns]
        gate = None if used.ignore else gate_of(inner)
        plain, told = steps[0].plain, self._told
        kind = RejectedError if gate is None else gate.rejects_with

        def with_fallback(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if gate is not None and gate.standing is None and gate.turn_away():  # no error where nobody looks at it
                if hear is not None:
                    hear(kwargs, None)
                if plain is None or kind not in told:
                    return self._instead(steps, fn, args, kwargs, gate, None)
                try:
                    return plain(*args, **kwargs)
                except Exception as failure:
                    return self._instead(steps[1:], fn, args, kwargs, gate, self._note(steps[0], failure))
            try:
                result = inner(fn, args, kwargs)
            except Exception as error:
                if not recovers(error):
                    raise
                if hear is not None:
                    hear(kwargs, error)
                answer = self._recover(steps, fn, args, kwargs, error)
                if answer is NO_ANSWER:
                    raise
                return answer
            if bad is not None and bad(result):
                if hear is not None:
                    hear(kwargs, BadResult(result))
                answer = self._recover(steps, fn, args, kwargs, BadResult(result))
                return result if answer is NO_ANSWER else answer
            for learn in learners:
                learn(fn, args, kwargs, result)
            return result

        return with_fallback

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` with this to fall back on, for async functions."""
        return self.aheard(inner, given, None)

    def aheard(self, inner: AsyncCall, given: Classification, hear: Hear | None) -> AsyncCall:
        """As `heard`, for async functions."""
        steps = self.steps
        used = self._given.or_else(given)
        recovers, bad = recovering(used), result_check(used)
        learners = [step.learn for step in steps if step.learns]
        gate = None if used.ignore else gate_of(inner)
        plain, told, awaits = steps[0].plain, self._told, steps[0].awaits
        kind = RejectedError if gate is None else gate.rejects_with

        async def with_fallback(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if gate is not None and gate.standing is None and gate.turn_away():  # no error where nobody looks at it
                if hear is not None:
                    hear(kwargs, None)
                if plain is None or kind not in told:
                    return await self._ainstead(steps, fn, args, kwargs, gate, None)
                try:
                    answer = plain(*args, **kwargs)
                    return await answer if awaits or hasattr(type(answer), "__await__") else answer
                except Exception as failure:
                    return await self._ainstead(steps[1:], fn, args, kwargs, gate, self._note(steps[0], failure))
            try:
                result = await inner(fn, args, kwargs)
            except Exception as error:
                if not recovers(error):
                    raise
                if hear is not None:
                    hear(kwargs, error)
                answer = await self._arecover(steps, fn, args, kwargs, error)
                if answer is NO_ANSWER:
                    raise
                return answer
            if bad is not None and bad(result):
                if hear is not None:
                    hear(kwargs, BadResult(result))
                answer = await self._arecover(steps, fn, args, kwargs, BadResult(result))
                return result if answer is NO_ANSWER else answer
            for learn in learners:
                learn(fn, args, kwargs, result)
            return result

        return with_fallback

    def describe(self) -> str:
        """One sentence: what is answered instead."""
        return "Fallback: " + ", then ".join(map(repr, self.steps))

    def __repr__(self) -> str:
        return f"Fallback({', '.join(map(repr, self.steps))})"

    def _instead(
        self, steps: tuple[Step, ...], fn: Fn, args: Args, kwargs: Kwargs, gate: Gate, failed: Exception | None
    ) -> Any:
        """The answer to a call that the gate just inside turned away; `failed` is what the first way raised."""
        try:
            raise gate.rejection()
        except RejectedError as error:
            answer = self._recover(steps, fn, args, kwargs, error, failed)
            if answer is NO_ANSWER:
                raise
            return answer
        finally:
            failed = None  # its traceback holds this frame

    async def _ainstead(
        self, steps: tuple[Step, ...], fn: Fn, args: Args, kwargs: Kwargs, gate: Gate, failed: Exception | None
    ) -> Any:
        """The same for async calls."""
        try:
            raise gate.rejection()
        except RejectedError as error:
            answer = await self._arecover(steps, fn, args, kwargs, error, failed)
            if answer is NO_ANSWER:
                raise
            return answer
        finally:
            failed = None  # its traceback holds this frame

    def _recover(
        self,
        steps: tuple[Step, ...],
        fn: Fn,
        args: Args,
        kwargs: Kwargs,
        error: Exception,
        failed: Exception | None = None,
    ) -> Any:
        self._tell(fn, error)
        for step in steps:
            try:
                answer = step.answer(fn, args, kwargs, error)
            except Exception as failure:
                failed = self._note(step, failure)
            else:
                if answer is not NO_ANSWER:
                    return answer
        if failed is not None:
            try:
                raise failed
            finally:
                failed = None  # its traceback holds this frame
        return NO_ANSWER

    async def _arecover(
        self,
        steps: tuple[Step, ...],
        fn: Fn,
        args: Args,
        kwargs: Kwargs,
        error: Exception,
        failed: Exception | None = None,
    ) -> Any:
        self._tell(fn, error)
        for step in steps:
            try:
                answer = step.aanswer(fn, args, kwargs, error)
                if step.awaits or hasattr(type(answer), "__await__"):  # a lambda may call an async function
                    answer = await answer
            except Exception as failure:
                failed = self._note(step, failure)
            else:
                if answer is not NO_ANSWER:
                    return answer
        if failed is not None:
            try:
                raise failed
            finally:
                failed = None  # its traceback holds this frame
        return NO_ANSWER

    def _note(self, step: Step, failure: Exception) -> Exception:
        note = f"raised by {step!r} of fallback {self.name!r}"
        with contextlib.suppress(Exception):  # an exception may be frozen; the same one may come again and again
            if note not in getattr(failure, "__notes__", ()):
                failure.add_note(note)
        logger.debug("fallback %r: %r raised", self.name, step, exc_info=failure)
        return failure

    def _tell(self, fn: Fn, error: Exception) -> None:
        kind = type(error)
        if kind in self._told or len(self._told) >= _CAUSES_REMEMBERED:
            return
        self._told.add(kind)
        logger.warning(
            "%s failed with %s, its fallback answers (told once per kind of error)",
            describe_function(fn),
            kind.__name__,
            exc_info=error,
        )


def recovering(given: Classification) -> Callable[[Exception], bool]:
    """Which errors get a fallback: failures, and rejections that are not ignored."""
    classify = classifier(given)
    ignores_some = given.ignore != ()

    def recovers(error: Exception) -> bool:
        if isinstance(error, RejectedError):
            return not ignores_some or classify(error) is not IGNORED
        return classify(error) is FAILURE

    return recovers


def _steps(functions: tuple[Any, ...], value: Any, factory: Any) -> Iterator[Step]:
    ways = bool(functions) + (value is not _NO_VALUE) + (factory is not None)
    if ways != 1:
        what = "nothing to fall back on" if ways == 0 else "functions, value= and factory= exclude each other"
        raise ConfigError(f"Fallback: {what}; give functions, or value=, or factory=", path="fallback")
    if value is not _NO_VALUE:
        yield ValueStep(value)
    if factory is not None:
        yield FactoryStep(factory)
    for function in functions:
        if isinstance(function, Fallback):
            own = None if function.given == Classification() else recovering(function.given)
            yield from (NestedStep(step, own) for step in function.steps)
        else:
            yield FunctionStep(function)
