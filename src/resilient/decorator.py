"""`@command`: one decorator that guards a function, Hystrix's command.

Not `command.py`: a submodule of that name would hide the function in `resilient.command`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypedDict, TypeVar, Unpack, cast, overload
from weakref import WeakValueDictionary

from resilient import names
from resilient.checks import did_you_mean, policy_name, positive_seconds
from resilient.errors import ConfigError
from resilient.outcome import Classification, Match
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.fallback import Fallback
from resilient.policies.timeout import Timeout
from resilient.policy import C, Explanation, F, Fn, P, Policy, T, describe_function, refuse_generators

F_co = TypeVar("F_co", covariant=True)

_MARK = "__resilient_command__"
_OWN_BREAKER: Final = object()


class Keep(Protocol):
    """A decorator that changes no type."""

    def __call__(self, fn: C, /) -> C:
        """Decorate."""
        ...


class OrElse(Protocol[F_co]):
    """A decorator that adds the fallback's type to the result."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F_co]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | F_co]: ...


class AsyncOrElse(Protocol[F_co]):
    """The same for an async fallback: fits async functions only."""

    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F_co]]:
        """Decorate."""
        ...


class CommandSettings(TypedDict, total=False):
    """The settings of a command beside its fallback."""

    group: str
    timeout: float
    attempt_timeout: float
    breaker: CircuitBreaker | None
    on: Match
    ignore: Match
    on_result: Callable[[Any], bool]


@overload
def command(fn: C, /) -> C: ...
@overload
def command(name: str | None = None, /, **settings: Unpack[CommandSettings]) -> Keep: ...
@overload
def command(name: str | None = None, /, *, fallback: Fallback[F], **settings: Unpack[CommandSettings]) -> OrElse[F]: ...
@overload
def command(  # type: ignore[overload-overlap]  # an async fallback is also a callable; the order decides
    name: str | None = None, /, *, fallback: Callable[..., Coroutine[Any, Any, F]], **settings: Unpack[CommandSettings]
) -> AsyncOrElse[F]: ...
@overload
def command(
    name: str | None = None, /, *, fallback: Callable[..., F], **settings: Unpack[CommandSettings]
) -> OrElse[F]: ...
def command(
    name: Any = None,
    /,
    *,
    fallback: Any = None,
    group: str | None = None,
    timeout: float | None = None,
    attempt_timeout: float | None = None,
    breaker: Any = _OWN_BREAKER,
    on: Match = Exception,
    ignore: Match = (),
    on_result: Callable[[Any], bool] | None = None,
    **unknown: Any,
) -> Any:
    """Guard a function, an async function or a method. Bare `@command` gives it a circuit breaker of its own.

    The order, outermost first: fallback, timeout (the whole call), circuit breaker, attempt_timeout, the call. The
    fallback runs although time is up. The decorated function keeps its name, signature and types; what stands behind
    it is `Command.of(function)`. It is listed in `commands()`.

    Args:
        name: label of the command and of its breaker; default "module.qualname". A function made inside another one
            has to be named.
        fallback: a `Fallback`, a `StaleCache`, or a function with the same arguments (and, if it wants the cause, a
            keyword-only `error`).
        group: what it belongs to, for pages and metrics; default the function's module.
        timeout: seconds for the whole call, default None: no limit. A sync call is moved to a worker thread.
        attempt_timeout: seconds for each attempt, default None.
        breaker: a `CircuitBreaker` that was made for it, or shared with other commands; None for no breaker.
        on: which exceptions are failures, for every layer that was given none of its own; default every Exception.
        ignore: which exceptions say nothing about the dependency, likewise.
        on_result: a predicate: True for a returned value that is a failure, likewise.
        unknown: nothing else is allowed.

    Returns:
        The decorator, or the decorated function when used without parentheses.

    Raises:
        ConfigError: at decoration, for a setting out of range, a name that is missing or misspelt, a fallback with
            other arguments or another colour than the function.
        TypeError: for generator functions.

    The decorated function is safe for threads and event loops, as far as the function is.

    Example:
        >>> import resilient
        >>> def unknown(zip_code: str) -> str:
        ...     return "unknown"
        >>> @resilient.command("forecast", fallback=unknown, timeout=1.0)
        ... def forecast(zip_code: str) -> str:
        ...     raise ConnectionError("the weather service is down")
        >>> forecast("94107")
        'unknown'
        >>> resilient.Command.of(forecast).breaker.state
        <State.CLOSED: 'closed'>
    """
    if unknown:
        word = next(iter(unknown))
        known = ("fallback", *CommandSettings.__annotations__)
        raise ConfigError(f"command: there is no setting {word!r}{did_you_mean(word, known)}", path=word)
    if name is not None and not isinstance(name, str):
        if not callable(name):
            raise ConfigError(f"command: the name must be text, not {name!r}", path="name")
        return command()(name)  # used without parentheses
    given = Classification(on, ignore, on_result)
    if fallback is not None and not isinstance(fallback, Fallback):
        fallback = Fallback(fallback)
    if breaker is not _OWN_BREAKER and breaker is not None and not isinstance(breaker, CircuitBreaker):
        raise ConfigError(f"command: breaker must be a CircuitBreaker or None, not {breaker!r}", path="breaker")
    policy_name("command", name)
    for path, seconds in (("timeout", timeout), ("attempt_timeout", attempt_timeout)):
        if seconds is not None:
            positive_seconds("command", path, seconds)

    def decorate(fn: Fn) -> Fn:
        if isinstance(fn, (classmethod, staticmethod)):
            return type(fn)(decorate(fn.__func__))
        refuse_generators(fn)
        made = Command(
            _label(fn, name),
            group or getattr(fn, "__module__", None) or "",
            fallback=fallback,
            timeout=None if timeout is None else Timeout(timeout, name=_label(fn, name)),
            breaker=CircuitBreaker() if breaker is _OWN_BREAKER else cast("CircuitBreaker | None", breaker),
            attempt=None if attempt_timeout is None else Timeout(attempt_timeout, name=f"{_label(fn, name)} attempt"),
            given=given,
        )
        guarded = made.pipeline(fn)
        setattr(guarded, _MARK, made)
        return guarded

    return decorate


class Command:
    """What stands behind a decorated function.

    Attributes:
        name: its label.
        group: what it belongs to.
        pipeline: its layers.
        breaker: its circuit breaker, None when it has none.

    Example:
        >>> from resilient import Command, command
        >>> @command("greeting")
        ... def greet() -> str:
        ...     return "hello"
        >>> Command.of(greet).name
        'greeting'
    """

    kind = "command"

    def __init__(
        self,
        name: str,
        group: str,
        *,
        fallback: Fallback[Any] | None,
        timeout: Timeout | None,
        breaker: CircuitBreaker | None,
        attempt: Timeout | None,
        given: Classification,
    ) -> None:
        self.name = names.claim(self.kind, name, self)
        self.group = group
        self.breaker = breaker
        layers: list[Policy[Any]] = [layer for layer in (fallback, timeout, breaker, attempt) if layer is not None]
        self.pipeline = Pipeline.of_command(tuple(layers) or (_Transparent(),), self.name, given)
        _commands[self.name] = self

    @classmethod
    def of(cls, fn: Callable[..., Any], /) -> Command:
        """The command behind a decorated function or method.

        Raises:
            ConfigError: when `fn` is not decorated with `@command`.
        """
        found = getattr(fn, _MARK, None)
        if found is None:
            found = getattr(getattr(fn, "fget", None), _MARK, None)  # a property around it
        if not isinstance(found, cls):
            raise ConfigError(f"{describe_function(fn)} is not decorated with @command", path="fn")
        return found

    def explain(self) -> Explanation:
        """What this command does, costs at worst, and what will bite."""
        return self.pipeline.explain()

    def reset(self) -> None:
        """As new: the breaker closed and empty."""
        if self.breaker is not None:
            self.breaker.reset()

    def __repr__(self) -> str:
        return f"<Command {self.name!r}: {', '.join(map(repr, self.pipeline.policies))}>"


class _Transparent(Policy[Any]):
    """What a command without any layer consists of."""

    kind = "transparent"

    def layer(self, inner: Any, limit: float, given: Classification) -> Any:
        return inner

    def alayer(self, inner: Any, limit: float, given: Classification) -> Any:
        return inner


_commands: WeakValueDictionary[str, Command] = WeakValueDictionary()


def commands() -> Mapping[str, Command]:
    """Every command of this process by name, as of now.

    Example:
        >>> from resilient import command, commands
        >>> @command("listed")
        ... def listed() -> None: ...
        >>> "listed" in commands()
        True
    """
    alive = [ref() for ref in _commands.valuerefs()]  # one step: others may make and drop commands meanwhile
    return MappingProxyType({found.name: found for found in alive if found is not None})


def _label(fn: Fn, name: str | None) -> str:
    if name is not None:
        return name
    qualname = getattr(fn, "__qualname__", "")
    if not qualname or "<" in qualname:
        why = "is made inside a function" if qualname else "has no name of its own"
        raise ConfigError(
            f"command: {describe_function(fn)} {why}: nobody could tell which one is meant; name it: @command('name')",
            path="name",
        )
    return f"{fn.__module__}.{qualname}"
