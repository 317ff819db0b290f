"""The layers of a retry, in the two colours: a call that goes well passes through here and nowhere else.

Each colour stands here twice: as a layer of a chain, and alone around one function, where it needs one frame less.
Each counts its calls for the budget, whose counter it keeps at hand until that ends. What they hold is little, and each
thing costs a nanosecond or two at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.policies.retry_repetition import Judge, Repetition
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs, WrongColour, ainvoke, invoke, refuse_awaitable

if TYPE_CHECKING:
    from resilient.budget import Hits, RetryBudget
    from resilient.policies.retry import Retry

_PASSED = float("-inf")
_NOWHERE: Hits = []


class _Deposits:
    """Counts first attempts for a budget on another clock, which is asked at each call."""

    __slots__ = ("append",)

    def __init__(self, budget: RetryBudget) -> None:
        self.append = lambda _hit: budget.deposit()


def counter(retry: Retry) -> Callable[[float], tuple[Hits, float]]:
    """A function that says where first attempts are counted, and until when; stored in this order, none is lost."""

    def counting(now: float) -> tuple[Hits, float]:
        budget = retry.budget
        if budget.clock is retry.clock:
            return budget.counting(now)
        return _Deposits(budget), _PASSED

    return counting


def retried(retry: Retry, judge: Judge, inner: Call) -> Call:
    """`inner`, called again when it fails, for functions."""
    now, failed, begin, counting = retry.now, judge.failed, partial(Repetition, retry, judge), counter(retry)
    hits, ends = _NOWHERE, _PASSED  # the first call looks: the clock may be another one by then

    def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        nonlocal hits, ends
        started = now()
        if started >= ends:
            hits, ends = counting(started)
        hits.append(None)
        try:
            result = inner(fn, args, kwargs)
        except Exception as error:
            repetition = begin(fn, args, kwargs, started)
            if not repetition.failed(error):
                raise
        else:
            if failed is None or not failed(result):
                return result
            repetition = begin(fn, args, kwargs, started)
            if not repetition.unwanted(result):
                return result
        return repetition.run(inner)

    return guarded


def aretried(retry: Retry, judge: Judge, inner: AsyncCall) -> AsyncCall:
    """`inner`, called again when it fails, for async functions."""
    now, failed, begin, counting = retry.now, judge.failed, partial(Repetition, retry, judge), counter(retry)
    hits, ends = _NOWHERE, _PASSED  # the first call looks: the clock may be another one by then

    async def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        nonlocal hits, ends
        started = now()
        if started >= ends:
            hits, ends = counting(started)
        hits.append(None)
        try:
            result = await inner(fn, args, kwargs)
        except Exception as error:
            repetition = begin(fn, args, kwargs, started)
            if not repetition.failed(error):
                raise
        else:
            if failed is None or not failed(result):
                return result
            repetition = begin(fn, args, kwargs, started)
            if not repetition.unwanted(result):
                return result
        return await repetition.arun(inner)

    return guarded


def lone(retry: Retry, judge: Judge, fn: Fn) -> Fn:
    """`fn` with `retry`, which looks at no results, and nothing else."""
    now, begin, counting = retry.now, partial(Repetition, retry, judge), counter(retry)
    hits, ends = _NOWHERE, _PASSED  # the first call looks: the clock may be another one by then
    checked = False

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal hits, ends, checked
        started = now()
        if started >= ends:
            hits, ends = counting(started)
        hits.append(None)
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            repetition = begin(fn, args, kwargs, started)
            if not repetition.failed(error):
                raise
        else:
            if checked:
                return result
            refuse_awaitable(result, fn)
            checked = True  # once: a function that returns a future does so each time
            return result
        try:
            return repetition.run(invoke)
        except WrongColour as wrong:
            return refuse_awaitable(wrong.args[0], fn)  # raises

    return guarded


def alone(retry: Retry, judge: Judge, fn: Fn) -> Fn:
    """The async `fn` with `retry`, which looks at no results, and nothing else."""
    now, begin, counting = retry.now, partial(Repetition, retry, judge), counter(retry)
    hits, ends = _NOWHERE, _PASSED  # the first call looks: the clock may be another one by then

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal hits, ends
        started = now()
        if started >= ends:
            hits, ends = counting(started)
        hits.append(None)
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            repetition = begin(fn, args, kwargs, started)
            if not repetition.failed(error):
                raise
        return await repetition.arun(ainvoke)

    return guarded
