"""`@command`: one decorator that guards a function, Hystrix's command.

Not `command.py`: a submodule of that name would hide the function in `resilient.command`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar, Unpack, overload

from resilient.checks import policy_name
from resilient.clock import Clock
from resilient.command_object import Command, commands
from resilient.command_settings import NAMES, CommandArguments, CommandSettings, Settings, hint
from resilient.errors import ConfigError
from resilient.outcome import Match
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.fallback import Fallback
from resilient.policy import C, F, Fn, P, T, describe_function, refuse_generators

__all__ = ["AsyncOrElse", "Command", "CommandSettings", "Keep", "OrElse", "command", "commands"]

F_co = TypeVar("F_co", covariant=True)

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


@overload
def command(fn: C, /) -> C: ...
@overload
def command(name: str | None = None, /, **settings: Unpack[CommandArguments]) -> Keep: ...
@overload
def command(
    name: str | None = None, /, *, fallback: Fallback[F], **settings: Unpack[CommandArguments]
) -> OrElse[F]: ...
@overload
def command(  # type: ignore[overload-overlap]  # an async fallback is also a callable; the order decides
    name: str | None = None, /, *, fallback: Callable[..., Coroutine[Any, Any, F]], **settings: Unpack[CommandArguments]
) -> AsyncOrElse[F]: ...
@overload
def command(
    name: str | None = None, /, *, fallback: Callable[..., F], **settings: Unpack[CommandArguments]
) -> OrElse[F]: ...
def command(
    name: Any = None,
    /,
    *,
    fallback: Any = None,
    group: str | None = None,
    timeout: float | None = None,
    attempt_timeout: float | None = None,
    retry: Any = None,
    breaker: Any = _OWN_BREAKER,
    rate_limiter: Any = None,
    bulkhead: Any = None,
    hedge: Any = None,
    cache: Any = None,
    chaos: Any = None,
    on: Match = Exception,
    ignore: Match = (),
    on_result: Callable[[Any], bool] | None = None,
    clock: Clock | None = None,
    **unknown: Any,
) -> Any:
    """Guard a function, an async function or a method. Bare `@command` gives it a circuit breaker of its own.

    The order, outermost first, of what was given: fallback, cache, timeout (the whole call, attempts and waits
    included), retry, circuit breaker, rate limiter, bulkhead, hedge, attempt_timeout, chaos, the call. The fallback
    runs although time is up. The decorated function keeps its name, signature and types; what stands behind it is
    `Command.of(function)`. It is listed in `commands()`, counts its calls, and can be changed while it runs.

    Args:
        name: label of the command and of its policies; default "module.qualname". A function made inside another one
            has to be named.
        fallback: a `Fallback`, a `StaleCache`, or a function with the same arguments (and, if it wants the cause, a
            keyword-only `error`).
        group: what it belongs to, for pages and metrics; default the function's module.
        timeout: seconds for the whole call, default None: no limit. A sync call is moved to a worker thread.
        attempt_timeout: seconds for each attempt, default None.
        retry: a `Retry`: try again. Not together with a hedge.
        breaker: a `CircuitBreaker` that was made for it, or shared with other commands; None for no breaker.
        rate_limiter: a `RateLimiter`.
        bulkhead: a `Bulkhead`, a `ThreadPoolBulkhead` (sync functions only) or a `ConcurrencyLimiter`.
        hedge: a `Hedge`: a second call when the first is slow; async functions only.
        cache: a `Cache`: what it answers reaches no other policy.
        chaos: a `Chaos`: break things on purpose.
        on: which exceptions are failures, for every layer that was given none of its own; default every Exception.
        ignore: which exceptions say nothing about the dependency, likewise.
        on_result: a predicate: True for a returned value that is a failure, likewise.
        clock: of its counts and timeouts, and of the breaker that it makes; default the machine's monotonic clock.
        unknown: nothing else is allowed.

    Returns:
        The decorator, or the decorated function when used without parentheses.

    Raises:
        ConfigError: at decoration, for a setting out of range, a name that is missing or misspelt, a fallback with
            other arguments or another colour than the function, a policy that can not guard a function of its colour.
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
        raise ConfigError(f"command: there is no setting {word!r}{hint(word, ('fallback', *NAMES))}", path=word)
    if name is not None and not isinstance(name, str):
        if not callable(name) and not isinstance(name, classmethod):
            raise ConfigError(f"command: the name must be text, not {name!r}", path="name")
        return command()(name)  # used without parentheses
    policy_name("command", name)
    if fallback is not None and not isinstance(fallback, Fallback):
        fallback = Fallback(fallback)
    settings: dict[str, Any] = {
        "group": group,
        "timeout": timeout,
        "attempt_timeout": attempt_timeout,
        "retry": retry,
        "rate_limiter": rate_limiter,
        "bulkhead": bulkhead,
        "hedge": hedge,
        "cache": cache,
        "chaos": chaos,
        "on": on,
        "ignore": ignore,
        "on_result": on_result,
    }
    given = None if breaker is _OWN_BREAKER else breaker
    Settings(**settings, breaker=given)  # checked where it is written, not where a function is decorated

    def decorate(fn: Fn) -> Fn:
        if isinstance(fn, (classmethod, staticmethod)):
            return type(fn)(decorate(fn.__func__))
        refuse_generators(fn)
        label = _label(fn, name)
        own = CircuitBreaker(clock=clock) if breaker is _OWN_BREAKER else given
        return Command(fn, label, Settings(**settings, breaker=own), fallback=fallback, clock=clock).guarded()

    return decorate


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
