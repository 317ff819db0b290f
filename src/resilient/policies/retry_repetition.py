"""One call that failed at least once: whether it is made again, when, and how its last outcome leaves."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, NamedTuple

from resilient.errors import RejectedError
from resilient.outcome import FAILURE, IGNORED, Classifier
from resilient.policies.retry_leftovers import aclose, close, note, show_before
from resilient.policies.retry_settings import Settings
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs

if TYPE_CHECKING:
    from resilient.budget import RetryPermit
    from resilient.policies.retry import Retry
    from resilient.policies.retry_tenacity import State

logger = logging.getLogger("resilient")

_ERRORS_KEPT = 10  # earlier errors that the last one shows as its context
_MAY_BE_UNSENT = (RejectedError, ExceptionGroup)


class _Repeating:
    """Marks the context in which an outer Retry has begun to repeat; tasks that outlive it inherit a mark gone out."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active = False


_repeating: ContextVar[_Repeating | None] = ContextVar("resilient.repeating", default=None)


class Judge(NamedTuple):
    """Who says what is to be repeated."""

    classify: Classifier
    failed: Callable[[Any], bool] | None  # of a result
    asks: Callable[[Any], Any] | None  # one of tenacity's retry objects: then it decides

    def repeats(self, error: Exception, state: Callable[[], State | None]) -> bool:
        """Whether a call that raised `error` is one to repeat. Never raises."""
        if isinstance(error, _MAY_BE_UNSENT) and _all_rejected(error):
            return False  # nothing was sent, and who refused it will refuse it again
        verdict = self.classify(error)
        if self.asks is None or verdict is IGNORED:
            return verdict is FAILURE
        try:
            from resilient.policies.retry_tenacity import wants

            found = state()
            return found is not None and wants(self.asks, found)
        except Exception:
            logger.exception("a retry object raised; the call is not repeated")
            return False


class Repetition:
    """One call from its first failure on.

    It holds errors that hold its frames, so it lets go of them when it ends; what is left is no cycle.
    """

    __slots__ = (
        "_args",
        "_discarded",
        "_earlier",
        "_fn",
        "_instead",
        "_judge",
        "_kwargs",
        "_mark",
        "_permit",
        "_retry",
        "_sent",
        "_settings",
        "_started",
        "_state",
        "attempt",
        "delay",
    )

    def __init__(self, retry: Retry, judge: Judge, fn: Fn, args: Args, kwargs: Kwargs, started: float) -> None:
        self._retry = retry
        self._settings: Settings = retry.settings
        self._judge = judge
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._started = started
        self._state: State | None = None
        self._mark = _Repeating()
        self._permit: RetryPermit | None = None
        self._sent = True
        self._earlier: deque[tuple[int, Exception]] = deque(maxlen=_ERRORS_KEPT)
        self._discarded: Any = None
        self._instead: tuple[Any] | None = None
        self.attempt = 1
        self.delay = 0.0

    # --- deciding ---------------------------------------------------------------------------------------------------

    def failed(self, error: Exception) -> bool:
        """An attempt raised: True when `run` is to go on, False when the error leaves."""
        again = False
        try:
            again = self._failed(error)
        finally:
            if not again:
                self.end()
        return again

    def _failed(self, error: Exception) -> bool:
        if not self._judge.repeats(error, lambda: self._asked(error, raised=True, asks=True)):
            self._settle(unused=isinstance(error, _MAY_BE_UNSENT) and _all_rejected(error))
            if self.attempt > 1:
                self._tell_history(error, f"attempt {self._of()}")
            return False
        self._settle()
        reason = self._next(error, raised=True)
        if reason is None:
            self._earlier.append((self.attempt, error))
            return True
        if reason is _INNER:
            return False
        self._tell_history(error, f"attempt {self._of()}, not repeated: {reason}")
        return self._hooked(error)

    def unwanted(self, result: Any) -> bool:
        """An attempt returned what counts as a failure: True when `run` is to go on, False when it is returned."""
        again = False
        try:
            again = self._unwanted(result)
        finally:
            if not again:
                self.end()
        return again

    def _unwanted(self, result: Any) -> bool:
        self._settle()
        reason = self._next(result, raised=False)
        if reason is None:
            self._discarded = result
            return True
        return reason is not _INNER and self._hooked(None)

    def _next(self, outcome: object, *, raised: bool) -> str | None:
        """None when there is a next attempt, after `delay`; else why not."""
        retry = self._retry
        outer = _repeating.get()
        if outer is not None and outer is not self._mark and outer.active:
            logger.debug("%r: not repeated: a Retry further out repeats", retry)
            return _INNER
        state = self._asked(outcome, raised=raised)
        hooks = self._settings.hooks
        if hooks is not None and hooks.after is not None:
            _call_hook(hooks.after, state)
        planned = retry.plan(self._settings, self.attempt, outcome, self._started, state)
        if isinstance(planned, float):
            self._permit = retry.budget.take()
            if self._permit is not None:
                self.delay, self._sent = planned, False
                if state is not None:
                    state.will_sleep(planned)
                    if hooks is not None and hooks.before_sleep is not None:
                        _call_hook(hooks.before_sleep, state)
                retry.tell_scheduled(self.attempt, planned, outcome, raised=raised)
                return None
        reason = planned if isinstance(planned, str) else "the retry budget is used up"
        retry.tell_given_up(self.attempt, outcome, reason, raised=raised, budget=not isinstance(planned, str))
        return reason

    def _asked(self, outcome: object, *, raised: bool, asks: bool = False) -> State | None:
        """The state that tenacity's objects read, if there are any."""
        if self._state is None:
            if not (asks or self._settings.needs_state):
                return None
            from resilient.policies.retry_tenacity import State

            self._state = State(self._fn, self._args, self._kwargs, self._started)
        self._state.ended(self.attempt, outcome, self._retry.now(), raised=raised)
        return self._state

    def _hooked(self, error: Exception | None) -> bool:
        """What a whole tenacity.Retrying does at its end, if it is one: True when there is another answer."""
        hooks, state = self._settings.hooks, self._state
        if hooks is None or state is None or hooks.leaves(error):
            return False
        self._instead = (hooks.give_up(state),)
        return True

    def _settle(self, *, unused: bool = False) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            if unused:
                permit.unused()
            else:
                permit.release()

    def _of(self) -> str:
        most = self._settings.most
        return f"{self.attempt} of {most}" if self._settings.bounded else str(self.attempt)

    def _tell_history(self, last: Exception, what: str) -> None:
        """Say in its notes which attempt it was, and show the earlier errors as its context."""
        label = f"{self._retry.kind} {self._retry.name!r}"
        note(last, f"{label}: {what}")
        newer: BaseException = last
        for attempt, older in reversed(self._earlier):
            if older is not newer:
                note(older, f"{label}: attempt {attempt}")
                show_before(newer, older)
            newer = older

    # --- doing ------------------------------------------------------------------------------------------------------

    def run(self, call: Call) -> Any:
        """Wait and call until an outcome is to leave, for functions."""
        token: Token[_Repeating | None] | None = None
        try:
            self._mark.active = True  # inside: an interrupt must not leave a mark that is active in the context
            token = _repeating.set(self._mark)
            return self._repeat(call)  # a loop of its own: its jumps back are outside this `try` in CPython 3.13
        finally:
            self._mark.active = False
            self._leave(token)

    def _repeat(self, call: Call) -> Any:
        sleep, failed = self._retry.clock.sleep, self._judge.failed
        while self._instead is None:
            discarded, self._discarded = self._discarded, None
            if discarded is not None:
                close(discarded)
                del discarded
            waiting = self._retry.waiting
            try:
                waiting.add(self)
                sleep(self.delay)
            finally:
                waiting.discard(self)
            self._begin()
            try:
                result = call(self._fn, self._args, self._kwargs)
            except Exception as error:
                if not self.failed(error):
                    raise
            else:
                if failed is None or not failed(result):
                    self._retry.tell_recovered()
                    return result
                if not self.unwanted(result):
                    return result
        return self._instead[0]

    async def arun(self, call: AsyncCall) -> Any:
        """The same for async functions."""
        token: Token[_Repeating | None] | None = None
        try:
            self._mark.active = True  # inside: an interrupt must not leave a mark that is active in the context
            token = _repeating.set(self._mark)
            return await self._arepeat(call)  # a loop of its own: its jumps back are outside this `try` in CPython 3.13
        finally:
            self._mark.active = False
            self._leave(token)

    async def _arepeat(self, call: AsyncCall) -> Any:
        sleep, failed = self._retry.clock.sleep_async, self._judge.failed
        while self._instead is None:
            discarded, self._discarded = self._discarded, None
            if discarded is not None:
                await aclose(discarded)
                del discarded
            waiting = self._retry.waiting
            try:
                waiting.add(self)
                await sleep(self.delay)
            finally:
                waiting.discard(self)
            self._begin()
            try:
                result = await call(self._fn, self._args, self._kwargs)
            except Exception as error:
                if not self.failed(error):
                    raise
            else:
                if failed is None or not failed(result):
                    self._retry.tell_recovered()
                    return result
                if not self.unwanted(result):
                    return result
        return self._instead[0]

    def _begin(self) -> None:
        self.attempt += 1
        self._sent = True

    def _leave(self, token: Token[_Repeating | None] | None) -> None:
        if token is not None:
            with suppress(ValueError):  # a generator that ends in another context than it began has nothing to restore
                _repeating.reset(token)
        self.end()

    def end(self) -> None:
        """Let go of everything: the permit, and the errors that hold this."""
        self._settle(unused=not self._sent)
        self._earlier.clear()
        self._discarded = None
        if self._state is not None:
            self._state.outcome = None


_INNER = "a Retry further out repeats"


def _all_rejected(error: RejectedError | ExceptionGroup[Any]) -> bool:
    return isinstance(error, RejectedError) or error.split(RejectedError)[1] is None


def _call_hook(hook: Callable[[Any], object], state: State | None) -> None:
    try:
        hook(state)
    except Exception:
        logger.exception("%r raised; nothing else changes", hook)
