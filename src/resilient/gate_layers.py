"""The layers of a gate: the hot path of the library, in the two colours.

Each colour stands here twice: as a layer of a chain, and alone around one function. Alone it needs one frame less, a
fifth of what a breaker costs, and a breaker as the only decorator is what most users write.
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any, Protocol

from resilient.clock import Clock
from resilient.deadline import current_scope
from resilient.errors import RejectedError
from resilient.outcome import FAILURE, IGNORED, SUCCESS, Classification, Classifier, Outcome, Verdicts, had_time
from resilient.policy import (
    UNLIMITED,
    Args,
    AsyncCall,
    Call,
    Fn,
    Kwargs,
    WrongColour,
    ainvoke,
    invoke,
    refuse_awaitable,
)


class Ticket(Protocol):
    """One admitted call as the layers hold it: they know when it ended and how long it took."""

    def success(self, elapsed: float, now: float) -> None:
        """It went well after `elapsed` seconds, at `now`."""
        ...

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """It ended with `outcome`."""
        ...

    def unused(self) -> None:
        """Nothing was sent."""
        ...


class Admitting(Protocol):
    """What the layers need of their gate."""

    standing: Ticket | None
    _clock: Clock

    def admit(self, limit: float) -> Ticket:
        """A ticket, or RejectedError."""
        ...

    def judge(self, given: Classification) -> Verdicts:
        """How errors and results are judged."""
        ...


def gated(gate: Admitting, inner: Call, limit: float, given: Classification) -> Call:
    """`inner` behind `gate`, for functions."""
    admit, now = gate.admit, gate._clock.monotonic
    classify, known, failed = gate.judge(given)
    innermost = inner is invoke  # then its three lines stand here: a call less is a tenth of the cost

    def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        ticket = gate.standing or admit(limit)
        started = now()
        try:
            if innermost:
                result = fn(*args, **kwargs)
                if type(result) is CoroutineType:
                    raise WrongColour(result)
            else:
                result = inner(fn, args, kwargs)
            ended = now()
            bad = failed is not None and failed(result)
        except BaseException as error:
            ended = now()
            if (outcome := known.get(type(error))) is not None:
                ticket.settle(outcome, ended - started, ended, error)
            else:
                settle_error(ticket, error, classify, ended - started, ended, limit)
            raise
        if bad:
            ticket.settle(FAILURE, ended - started, ended, None)
        else:
            ticket.success(ended - started, ended)
        return result

    return guarded


def agated(gate: Admitting, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
    """`inner` behind `gate`, for async functions."""
    admit, now = gate.admit, gate._clock.monotonic
    classify, known, failed = gate.judge(given)
    innermost = inner is ainvoke  # as in `gated`

    async def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        ticket = gate.standing or admit(limit)
        started = now()
        try:
            if innermost:
                result = fn(*args, **kwargs)
                if type(result) is not CoroutineType and not hasattr(type(result), "__await__"):
                    raise WrongColour(result)
                result = await result
            else:
                result = await inner(fn, args, kwargs)
            ended = now()
            bad = failed is not None and failed(result)
        except BaseException as error:
            ended = now()
            if (outcome := known.get(type(error))) is not None:
                ticket.settle(outcome, ended - started, ended, error)
            else:
                settle_error(ticket, error, classify, ended - started, ended, limit)
            raise
        if bad:
            ticket.settle(FAILURE, ended - started, ended, None)
        else:
            ticket.success(ended - started, ended)
        return result

    return guarded


def lone(gate: Admitting, fn: Fn, given: Classification) -> Fn:
    """`fn` behind `gate` and nothing else."""
    admit, now = gate.admit, gate._clock.monotonic
    classify, known, failed = gate.judge(given)
    unchecked = True

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal unchecked
        ticket = gate.standing or admit(UNLIMITED)
        started = now()
        try:
            result = fn(*args, **kwargs)
            if unchecked or type(result) is CoroutineType:
                if hasattr(type(result), "__await__"):
                    raise WrongColour(result)
                unchecked = False  # once: a function that returns a future does so each time
            ended = now()
            bad = failed is not None and failed(result)
        except BaseException as error:
            ended = now()
            if (outcome := known.get(type(error))) is not None:
                ticket.settle(outcome, ended - started, ended, error)
            else:
                settle_error(ticket, error, classify, ended - started, ended)
                if type(error) is WrongColour:
                    refuse_awaitable(error.args[0], fn)
            raise
        if bad:
            ticket.settle(FAILURE, ended - started, ended, None)
        else:
            ticket.success(ended - started, ended)
        return result

    return guarded


def alone(gate: Admitting, fn: Fn, given: Classification) -> Fn:
    """The async `fn` behind `gate` and nothing else."""
    admit, now = gate.admit, gate._clock.monotonic
    classify, known, failed = gate.judge(given)

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        ticket = gate.standing or admit(UNLIMITED)
        started = now()
        try:
            result = await fn(*args, **kwargs)
            ended = now()
            bad = failed is not None and failed(result)
        except BaseException as error:
            ended = now()
            if (outcome := known.get(type(error))) is not None:
                ticket.settle(outcome, ended - started, ended, error)
            else:
                settle_error(ticket, error, classify, ended - started, ended)
            raise
        if bad:
            ticket.settle(FAILURE, ended - started, ended, None)
        else:
            ticket.success(ended - started, ended)
        return result

    return guarded


def settle_error(
    ticket: Ticket,
    error: BaseException,
    classify: Classifier,
    elapsed: float,
    now: float,
    limit: float = UNLIMITED,
) -> None:
    """Settle a call that ended with `error`, whatever the classifier does."""
    if isinstance(error, _MAY_BE_UNSENT) and _all_rejected(error):  # a policy further in refused: nothing was sent
        ticket.unused()
        return
    outcome = IGNORED
    try:
        if isinstance(error, Exception):
            outcome = classify(error)
        elif _timed_out(error) and had_time(elapsed, limit):
            outcome = FAILURE
    finally:
        if outcome is SUCCESS:
            ticket.success(elapsed, now)
        else:
            ticket.settle(outcome, elapsed, now, error)


_MAY_BE_UNSENT = (RejectedError, ExceptionGroup)


def _all_rejected(error: RejectedError | ExceptionGroup[Any]) -> bool:
    return isinstance(error, RejectedError) or error.split(RejectedError)[1] is None


def _timed_out(error: BaseException) -> bool:
    """Whether this cancellation is a Timeout further out that has expired: a slow dependency, not a caller gone."""
    scope = current_scope.get()
    return scope is not None and scope.expired and type(error).__name__ == "CancelledError"
