"""The ways a Fallback can answer: a function, a value, a factory, or those of another Fallback."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from resilient.errors import ConfigError
from resilient.policy import Args, Fn, Kwargs, describe_function, is_async, refuse_generators

NO_ANSWER: Final = object()
"""What a step returns when it knows no answer: the next one is asked, and in the end the call's own error leaves."""

_SHARED = (list, dict, set, bytearray)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Step:
    """One way to answer."""

    is_async = False  # it can serve async functions only
    awaits = False  # aanswer() gives an awaitable
    learns = False
    plain: Fn | None = None  # a function of the call's own arguments that answers whatever the error is, if that is all

    def answer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """The answer, or NO_ANSWER."""
        raise NotImplementedError  # pragma: no cover  # every way has its own

    def aanswer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """The same for async calls: an awaitable when it `awaits`."""
        return self.answer(fn, args, kwargs, error)

    def learn(self, fn: Fn, args: Args, kwargs: Kwargs, result: Any) -> None:
        """See a good answer of the call itself; asked only where `learns`."""

    def check(self, fn: Fn) -> None:
        """Refuse a function for which this can not answer."""


class ValueStep(Step):
    """One value for everybody."""

    def __init__(self, value: Any) -> None:
        if isinstance(value, _SHARED):
            kind = type(value).__name__
            raise ConfigError(
                f"Fallback: value={value!r} would be one {kind} shared by every caller; write factory={kind}",
                path="value",
            )
        self._value = value
        self.plain = lambda *_args, **_kwargs: value

    def answer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """The value."""
        return self._value

    def __repr__(self) -> str:
        return f"value={self._value!r}"


class FactoryStep(Step):
    """A new value for each call."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        if not callable(factory):
            raise ConfigError(f"Fallback: factory must be callable, not {factory!r}", path="factory")
        self._factory = factory
        self.plain = lambda *_args, **_kwargs: factory()
        self.is_async = self.awaits = is_async(factory)

    def answer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """What the factory makes."""
        return self._factory()

    def __repr__(self) -> str:
        return f"factory={describe_function(self._factory)}"


class FunctionStep(Step):
    """A function of the call's own arguments; a keyword-only parameter `error` gets the cause."""

    def __init__(self, function: Fn) -> None:
        if not callable(function):
            raise ConfigError(
                f"Fallback: a function is needed, not {function!r}; for a plain value write value={function!r}",
                path="fallback",
            )
        refuse_generators(function)
        self._function = function
        self.is_async = self.awaits = is_async(function)
        self._signature = _signature(function)
        parameter = self._signature.parameters.get("error") if self._signature else None
        self._wants_error = parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY
        self.plain = None if self._wants_error else function

    def answer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """What the function returns."""
        if self._wants_error and "error" not in kwargs:
            return self._function(*args, **kwargs, error=error)
        return self._function(*args, **kwargs)

    def check(self, fn: Fn) -> None:
        """Refuse a function whose calls this one can not take."""
        called, own = _signature(fn), self._signature
        if called is None or own is None:
            return
        extra = {"error": None} if self._wants_error and "error" not in called.parameters else {}
        for args, kwargs in _calls(called):
            try:
                own.bind(*args, **kwargs, **extra)
            except TypeError as mismatch:
                raise ConfigError(
                    f"Fallback: {self!r}{own} can not stand for {describe_function(fn)}{called}: {mismatch}."
                    " It must take the same arguments (and may take a keyword-only `error`)",
                    path="fallback",
                ) from None

    def __repr__(self) -> str:
        return describe_function(self._function)


class NestedStep(Step):
    """A way of another Fallback, for the errors which that one is for."""

    def __init__(self, step: Step, recovers: Callable[[Exception], bool] | None) -> None:
        self._step = step
        self._recovers = recovers
        self.is_async = step.is_async
        self.awaits = step.awaits
        self.learns = step.learns
        self.learn = step.learn  # type: ignore[method-assign]  # the same step, asked directly
        self.check = step.check  # type: ignore[method-assign]  # likewise

    def answer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """Its answer, for the errors it is for."""
        if self._recovers is not None and not self._recovers(error):
            return NO_ANSWER
        return self._step.answer(fn, args, kwargs, error)

    def aanswer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """The same for async calls."""
        if self._recovers is not None and not self._recovers(error):
            return _no_answer() if self.awaits else NO_ANSWER
        return self._step.aanswer(fn, args, kwargs, error)

    def __repr__(self) -> str:
        return repr(self._step)


async def _no_answer() -> Any:
    return NO_ANSWER


def _signature(function: Fn) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return None


def _calls(signature: inspect.Signature) -> list[tuple[list[str], dict[str, str]]]:
    """The calls that a function of this signature takes, by parameter names: all, by keyword, and the least."""
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind not in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    ]
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    more_args = ["*args"] if inspect.Parameter.VAR_POSITIONAL in kinds else []
    more_kwargs = {"any_other_keyword": ""} if inspect.Parameter.VAR_KEYWORD in kinds else {}
    positional = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    only_positional = [
        parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.POSITIONAL_ONLY
    ]
    required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    keywords = {parameter.name: "" for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    named = {parameter.name: "" for parameter in parameters if parameter.name not in only_positional}
    least = [parameter.name for parameter in required if parameter.kind in _POSITIONAL]
    least_keywords = {parameter.name: "" for parameter in required if parameter.name in keywords}
    return [
        ([*positional, *more_args], {**keywords, **more_kwargs}),
        (only_positional, {**named, **more_kwargs}),
        (least, least_keywords),
    ]
