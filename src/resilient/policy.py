"""What every policy is: a layer around a call, callable, composable, explainable.

A policy turns the call inside it into a guarded call: `layer` for functions, `alayer` for async functions. Chains of
layers are closures, built once, independent of the function they guard: `chain(fn, args, kwargs)`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import CoroutineType, FunctionType
from typing import Any, ClassVar, Generic, Never, ParamSpec, Self, TypeAlias, TypeVar, overload
from weakref import WeakValueDictionary

from resilient import names
from resilient.checks import policy_name
from resilient.errors import ConfigError
from resilient.outcome import Classification

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
C = TypeVar("C", bound=Callable[..., Any])

Fn: TypeAlias = Callable[..., Any]
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[Fn, Args, Kwargs], Any]
"""A guarded call: (function, its arguments, its keyword arguments) -> its result."""
AsyncCall: TypeAlias = Callable[[Fn, Args, Kwargs], Awaitable[Any]]

UNLIMITED = float("inf")

ALONE = "__resilient_alone__"  # of a function guarded by `alone`: (its policy, what it guards)
alone_functions: WeakValueDictionary[int, Fn] = WeakValueDictionary()
"""Those functions by id, for the tests' switches: unlike chains, they are not looked up at each call."""
transparent = False  # set by `resilient.testing.disabled`: the chains made meanwhile only call


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a pipeline does, in words and numbers; `str()` is the text.

    Attributes:
        layers: one sentence per layer, outermost first.
        worst_case_wait: seconds a caller can wait at most for an answer or an error; `inf` when nothing limits it.
        worst_case_calls: how many calls the dependency can get at most for one caller's call.
        warnings: what will bite.
    """

    layers: tuple[str, ...]
    worst_case_wait: float
    worst_case_calls: int
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        wait = "as long as the call takes" if self.worst_case_wait == UNLIMITED else f"{self.worst_case_wait:g} s"
        lines = [f"{number}. {layer}" for number, layer in enumerate(self.layers, 1)]
        lines.append(f"A caller waits at most: {wait}. Calls per caller's call, at most: {self.worst_case_calls}.")
        lines.extend(f"Warning: {warning}" for warning in self.warnings)
        return "\n".join(lines)


class SyncOnly(str):
    """A warning that concerns functions only, not async ones."""

    __slots__ = ()


class Policy(Generic[F_co]):
    """Something between a caller and a call; F_co is what it may return instead of the call's own result.

    One object serves threads and event loops at once. To write your own: subclass, set `kind`, and implement `layer`
    and `alayer`; the rest (decorator, `call`, `acall`, Pipeline, `explain`) follows.

    Args:
        name: the label in metrics, events and errors; default the policy's kind.

    Example:
        >>> from resilient import Policy
        >>> class Shout(Policy[str]):
        ...     kind = "shout"
        ...     def layer(self, inner, limit, given):
        ...         return lambda fn, args, kwargs: inner(fn, args, kwargs).upper()
        >>> Shout().call(lambda name: f"hello {name}", "ann")
        'HELLO ANN'
    """

    kind: ClassVar[str] = "policy"
    _chain: Call
    _achain: AsyncCall
    _verdicts = Classification()

    def __init__(self, name: str | None = None) -> None:
        given = policy_name(type(self).__name__, name)
        self._named = given is not None
        self._name = names.claim(self.kind, given, self)

    @property
    def name(self) -> str:
        """The label in metrics, events and errors."""
        return self._name

    @property
    def layers(self) -> tuple[Policy[Any], ...]:
        """What it consists of, outermost first: itself, unless it composes others."""
        return (self,)

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` guarded, for functions.

        Args:
            inner: the call further in.
            limit: seconds that policies further in grant it at most; `inf` when none does.
            given: the verdicts of the command around it, for a policy that was given none of its own.

        Raises:
            ConfigError: when this policy guards async functions only.
        """
        raise ConfigError(f"{self!r} guards async functions only", path=self.kind)

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` guarded, for async functions; arguments as for `layer`."""
        raise ConfigError(f"{self!r} guards functions only, not async ones", path=self.kind)

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`, a policy of the same kind; counts and calls in flight stay.

        Raises:
            ConfigError: when this kind has no settings that change at run time.
        """
        raise ConfigError(f"{type(self).__name__} can not be changed while it runs: make a new one", path=self.kind)

    def alone(self, fn: Fn) -> Fn | None:
        """`fn` guarded by this policy and nothing else, if it knows a shorter way than a chain of one layer.

        A plain function, made anew at each request, that holds `fn` in a variable.
        """
        return None

    def granted(self, limit: float) -> float:
        """Seconds the call is granted at most, seen from outside, when it is granted `limit` further in."""
        return limit

    def check(self, fn: Fn) -> None:
        """Refuse a function that this policy can not guard, at decoration.

        Raises:
            ConfigError: saying why.
        """

    def adopt_name(self, name: str) -> None:
        """Take the name of what holds it (a command, a transport's key), unless it has one of its own."""
        if not self._named:
            names.release(self.kind, self._name, self)
            self._named = True
            self._name = names.claim(self.kind, name, self, warn=False)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | F_co:
        """Call a function under this policy.

        Args:
            fn: the function; `args` and `kwargs` are its arguments.

        Returns:
            What `fn` returns, or what a fallback returns instead.

        Raises:
            TypeError: when `fn` is async, or returns an awaitable: use `acall`.
            RejectedError: when the policy refuses the call, and whatever `fn` raises.
        """
        if is_async(fn):
            raise TypeError(f"{describe_function(fn)} is async: await {type(self).__name__}.acall(...) instead")
        return call_sync(self._sync(), fn, args, kwargs)  # type: ignore[no-any-return]  # layers pass any result on

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | F_co:
        """Await an async function under this policy; arguments, result and errors as for `call`."""
        return await call_async(self._async(), fn, args, kwargs)  # type: ignore[no-any-return]  # likewise

    @overload
    def __call__(self: Policy[Never], fn: C, /) -> C: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F_co]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | F_co]: ...
    def __call__(self, fn: Fn, /) -> Fn:
        """Decorate a function, an async function or a method.

        Raises:
            TypeError: for generator functions: guard the block that reads them with `calling()`.
            ConfigError: when this policy can not guard `fn`, for instance for a fallback of another signature.
        """
        return guard(self, fn)

    def explain(self) -> Explanation:
        """Say what this does, what it costs at worst, and what will bite."""
        wait, calls, warnings = UNLIMITED, 1, list[str]()
        for position, policy in reversed(list(enumerate(self.layers))):
            wait, calls = policy.worst_case(wait, calls)
            warnings[:0] = policy.warnings(self.layers[:position], self.layers[position + 1 :])
        return Explanation(tuple(policy.describe() for policy in self.layers), wait, calls, tuple(warnings))

    def describe(self) -> str:
        """One sentence: what this layer does."""
        return repr(self)

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """(seconds a caller waits, calls made) at worst, given the same of what lies inside."""
        return wait, calls

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """What will bite, given its neighbours."""
        return []

    def _sync(self) -> Call:
        try:
            return self._chain
        except AttributeError:
            chain = compose(self.layers, self._verdicts)
            self._chain = invoke if transparent else chain
            return self._chain

    def _async(self) -> AsyncCall:
        try:
            return self._achain
        except AttributeError:
            chain = acompose(self.layers, self._verdicts)
            self._achain = ainvoke if transparent else chain
            return self._achain


class WrongColour(BaseException):
    """A function turned out to be of the other colour. No Exception: no policy judges, repeats or replaces it."""


def invoke(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
    """The innermost call, for functions."""
    result = fn(*args, **kwargs)
    if type(result) is CoroutineType:
        raise WrongColour(result)
    return result


def ainvoke(fn: Fn, args: Args, kwargs: Kwargs) -> Awaitable[Any]:
    """The innermost call, for async functions: the awaitable, for the layer around it to await."""
    result = fn(*args, **kwargs)
    if type(result) is not CoroutineType and not hasattr(type(result), "__await__"):
        raise WrongColour(result)
    return result  # type: ignore[no-any-return]  # an awaitable: looked at above


def call_sync(chain: Call, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
    """Run a chain once; a function that turns out to be async is a TypeError."""
    try:
        return refuse_awaitable(chain(fn, args, kwargs), fn)
    except WrongColour as wrong:
        refuse_awaitable(wrong.args[0], fn)
        raise


async def call_async(chain: AsyncCall, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
    """The same for async functions; a function that turns out to be none is a TypeError."""
    try:
        return await chain(fn, args, kwargs)
    except WrongColour:
        raise TypeError(f"{describe_function(fn)} is not async: use call(...) instead") from None


def compose(policies: Sequence[Policy[Any]], given: Classification) -> Call:
    """The layers of `policies` around a call, outermost first, for functions."""
    limit = UNLIMITED
    call: Call = invoke
    enforcer = next((policy for policy in reversed(policies) if isinstance(policy, Enforcer) and policy.hops), None)
    if enforcer is not None:
        call = enforcer.enforce(call, policies)
    for policy in reversed(policies):
        call = policy.layer(call, limit, given)
        limit = policy.granted(limit)
    return call


def acompose(policies: Sequence[Policy[Any]], given: Classification) -> AsyncCall:
    """The same for async functions."""
    limit = UNLIMITED
    call: AsyncCall = ainvoke
    enforcer = next((policy for policy in reversed(policies) if isinstance(policy, Enforcer)), None)
    if enforcer is not None:
        if enforcer is policies[-1]:
            call, policies = enforcer.alimit(call, policies), policies[:-1]
            limit = enforcer.granted(limit)
        else:
            call = enforcer.aenforce(call, policies)
    for policy in reversed(policies):
        call = policy.alayer(call, limit, given)
        limit = policy.granted(limit)
    return call


class Enforcer(Policy[Never]):
    """A policy that limits time: its layer lowers the deadline, and one point directly around the call enforces it.

    With one point of enforcement in a chain the gates between see a plain error, not a cancellation, in any order of
    the layers, and there is one hop to a worker thread at most.
    """

    @property
    def hops(self) -> bool:
        """Whether sync calls are moved to a worker thread."""
        raise NotImplementedError  # pragma: no cover  # Timeout is the only one

    def enforce(self, call: Call, policies: Sequence[Policy[Any]]) -> Call:
        """Return `call` ended at the deadline."""
        raise NotImplementedError  # pragma: no cover  # Timeout is the only one

    def aenforce(self, call: AsyncCall, policies: Sequence[Policy[Any]]) -> AsyncCall:
        """The same for async functions."""
        raise NotImplementedError  # pragma: no cover  # Timeout is the only one

    def alimit(self, call: AsyncCall, policies: Sequence[Policy[Any]]) -> AsyncCall:
        """The same and its layer in one, where nothing lies between: half the cost."""
        raise NotImplementedError  # pragma: no cover  # Timeout is the only one


def guard(policy: Policy[Any], fn: Fn) -> Fn:
    """Decorate `fn` with `policy`: same name, signature, colour."""
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(guard(policy, fn.__func__))
    refuse_generators(fn)
    policy.check(fn)
    if not transparent and (shorter := policy.alone(fn)) is not None:
        functools.update_wrapper(shorter, fn)
        setattr(shorter, ALONE, (policy, fn))
        alone_functions[id(shorter)] = shorter
        return shorter
    if is_async(fn):
        policy._async()  # a policy that can not guard it says so now

        @functools.wraps(fn)
        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            return await policy._achain(fn, args, kwargs)

        return guarded_async
    policy._sync()
    unchecked = True

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal unchecked
        try:
            result = policy._chain(fn, args, kwargs)
        except WrongColour as wrong:
            refuse_awaitable(wrong.args[0], fn)
            raise
        if unchecked:  # once: a function that returns a future does so each time
            refuse_awaitable(result, fn)
            unchecked = False
        return result

    return guarded


def is_async(fn: Fn) -> bool:
    """Whether calling `fn` gives a coroutine: async functions, partials of them, objects with an async `__call__`."""
    if type(fn) is FunctionType and not fn.__dict__:  # nearly always, and `call` asks each time
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  # the method is asked for


def refuse_generators(fn: Fn) -> None:
    """A generator does its work after the guarded call has returned."""
    if not callable(fn):
        raise TypeError(f"a function is guarded, not {fn!r}")
    called = getattr(type(fn), "__call__", None)  # noqa: B004  # the method is asked for
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in (fn, called)):
        raise TypeError(
            f"{describe_function(fn)} is a generator: its work happens after the call that makes it."
            " Guard the block that reads it: `with breaker.calling(): ...`"
        )


def describe_function(fn: Fn) -> str:
    """How a function is named in errors."""
    return str(getattr(fn, "__qualname__", None) or repr(fn))


def refuse_awaitable(result: T, fn: Fn) -> T:
    """`result`, unless it is a coroutine or a future: nobody would await it."""
    if hasattr(type(result), "__await__"):
        if isinstance(result, CoroutineType):
            result.close()
        raise TypeError(f"{describe_function(fn)} returned an awaitable: await acall(...), or decorate an `async def`")
    return result
