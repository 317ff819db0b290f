"""The layers of a command, in their order, and the function around them that counts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from resilient.command_metrics import FAILED, TURNED_AWAY, Judge, Metrics, Note
from resilient.errors import ConfigError
from resilient.outcome import Classification, result_check
from resilient.pipeline import Pipeline
from resilient.policies.fallback import BadResult, Fallback
from resilient.policy import (
    Args,
    AsyncCall,
    Call,
    Explanation,
    Fn,
    Kwargs,
    Policy,
    WrongColour,
    ainvoke,
    describe_function,
    invoke,
    is_async,
    refuse_awaitable,
)
from resilient.workers import Mover

if TYPE_CHECKING:
    from resilient.command_object import Command

ORDER: Final = (
    "fallback",  # outside the deadline: it runs although time is up
    "cache",
    "timeout",  # of the whole call, attempts and waits included
    "retry",  # outside the breaker: each attempt is judged, and none is made while the circuit is open
    "breaker",
    "rate_limiter",  # before the bulkhead: waiting for a token holds no place
    "bulkhead",  # inside the retry: a place outside would be held while it waits
    "hedge",
    "attempt_timeout",
    "chaos",
)
"""Of the layers of a command, outermost first."""


class CommandPipeline(Pipeline[Any]):
    """The layers of a command: they take its name and its verdicts, where they have none of their own."""

    def __init__(self, layers: Mapping[str, Policy[Any]], given: Classification, metrics: Metrics) -> None:
        super().__init__(*([layers[setting] for setting in _order(layers) if setting in layers] or [_Nothing()]))
        self._verdicts = given
        self._chained = self.policies
        if isinstance(outermost := self.policies[0], Fallback):
            self._chained = (_Heard(outermost, metrics, given), *self.policies[1:])
        if given.on_result is not None:
            place = 1 if "fallback" in layers else 0
            self._chained = (*self._chained[:place], _Noting(metrics, given), *self._chained[place:])

    @property
    def layers(self) -> tuple[Policy[Any], ...]:
        """What the chains are made of: the policies, and what notes how a call ended inside the fallback."""
        return tuple(layer for policy in self._chained for layer in policy.layers)

    def explain(self) -> Explanation:
        """Say what the policies do, what they cost at worst, and what will bite."""
        return Pipeline(*self.policies).explain()

    def ready_for(self, fn: Fn) -> None:
        """Check every policy against `fn`, and build the chain.

        Raises:
            ConfigError: when one can not guard it.
        """
        for policy in self.policies:
            policy.check(fn)
        _refuse_hedges(self.policies, fn)
        if is_async(fn):
            self._async()
        else:
            self._sync()


def _order(layers: Mapping[str, Policy[Any]]) -> tuple[str, ...]:
    """The usual order; a bulkhead that moves calls to its own threads is where they are left behind: one hop."""
    if not isinstance(layers.get("bulkhead"), Mover):
        return ORDER
    outer = ORDER.index("bulkhead")
    return (*ORDER[:outer], "attempt_timeout", "bulkhead", "hedge", "chaos")


def _refuse_hedges(policies: tuple[Policy[Any], ...], fn: Fn) -> None:
    """A sync call can not be cancelled: it could not lose a race."""
    for policy in policies:
        if policy.kind == "hedge" and not is_async(fn):
            raise ConfigError(
                f"command: a Hedge starts a second call beside the first, for which {describe_function(fn)}"
                " has to be async",
                path="hedge",
            )


class _Nothing(Policy[Any]):
    """What a command without any layer consists of."""

    kind = "nothing"

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        def called(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            return inner(fn, args, kwargs)

        return called  # not `inner` itself: that is what tests switch to

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        def called(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            return inner(fn, args, kwargs)

        return called

    def describe(self) -> str:
        return "nothing but counting"

    def __repr__(self) -> str:
        return "nothing"


class _Heard(Policy[Any]):
    """The fallback; notes how a call ended inside it, so that the count outside can tell an answer from another."""

    kind = "heard"

    def __init__(self, fallback: Fallback[Any], metrics: Metrics, given: Classification) -> None:
        notes, judge = metrics.notes, Judge(given)  # no label: nobody sees it
        self._fallback = fallback

        def hear(kwargs: Kwargs, cause: Exception | None) -> None:
            if cause is None:
                notes[id(kwargs)] = TURNED_AWAY
            elif type(cause) is not BadResult:
                notes[id(kwargs)] = judge.note(cause)
            else:
                notes[id(kwargs)] = Note(FAILED, cause.args[0])

        self._hear = hear

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        return self._fallback.heard(inner, given, self._hear)

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        return self._fallback.aheard(inner, given, self._hear)


class _Noting(Policy[Any]):
    """Notes that a result is a bad one, whether a fallback replaces it or not."""

    kind = "noting"

    def __init__(self, metrics: Metrics, given: Classification) -> None:
        self._notes, self._given = metrics.notes, given  # no label: nobody sees it

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        notes, bad = self._notes, result_check(self._given)

        def noted(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            result = inner(fn, args, kwargs)
            if bad is not None and bad(result):
                notes[id(kwargs)] = Note(FAILED, result)
            return result

        return noted

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        notes, bad = self._notes, result_check(self._given)

        async def noted(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            result = await inner(fn, args, kwargs)
            if bad is not None and bad(result):
                notes[id(kwargs)] = Note(FAILED, result)
            return result

        return noted


def counted(command: Command, fn: Fn) -> Fn:
    """`fn` behind the layers of its command, each call counted once."""
    return _acounted(command, fn) if is_async(fn) else _counted(command, fn)


def _counted(command: Command, fn: Fn) -> Fn:
    metrics = command.metrics
    notes, append = metrics.notes, metrics.pending.append
    unchecked = True

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal unchecked
        chain = command.pipeline._chain
        if chain is invoke:  # tests have switched the policies off
            return chain(fn, args, kwargs)
        started = metrics.now()
        try:
            result = chain(fn, args, kwargs)
            if unchecked:
                refuse_awaitable(result, fn)
                unchecked = False  # once: a function that returns a future does so each time
        except BaseException as error:
            _left(command, error, kwargs, started)
            if type(error) is WrongColour:
                refuse_awaitable(error.args[0], fn)
            raise
        ended = metrics.now()
        if ended >= metrics.ends:
            metrics.roll(ended)
        if notes and (note := notes.pop(id(kwargs), None)) is not None:
            metrics.answered(note, result, ended - started, ended)
        else:
            append(ended - started)
        return result

    return guarded


def _acounted(command: Command, fn: Fn) -> Fn:
    metrics = command.metrics
    notes, append = metrics.notes, metrics.pending.append

    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        chain = command.pipeline._achain
        if chain is ainvoke:  # tests have switched the policies off
            return await chain(fn, args, kwargs)
        started = metrics.now()
        try:
            result = await chain(fn, args, kwargs)
        except BaseException as error:
            _left(command, error, kwargs, started)
            raise
        ended = metrics.now()
        if ended >= metrics.ends:
            metrics.roll(ended)
        if notes and (note := notes.pop(id(kwargs), None)) is not None:
            metrics.answered(note, result, ended - started, ended)
        else:
            append(ended - started)
        return result

    return guarded


def _left(command: Command, error: BaseException, kwargs: Kwargs, started: float) -> None:
    """Count a call whose error leaves."""
    metrics = command.metrics
    note = metrics.notes.pop(id(kwargs), None)
    ended = metrics.now()
    metrics.ended(command.judge.kind_of(error) if note is None else note.kind, ended - started, ended)
