"""Try again, not too often, not too soon, not too long."""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Never, Self

from resilient import events
from resilient.budget import RetryBudget
from resilient.checks import whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.deadline import current_limit
from resilient.errors import ConfigError, FailureInfo
from resilient.events import check_listener, publish
from resilient.http_answers import retry_after
from resilient.outcome import Classification, Match, classifier, result_check
from resilient.policies.retry_layers import alone, aretried, lone, retried
from resilient.policies.retry_repetition import Judge
from resilient.policies.retry_report import RetryBudgetExhausted, RetryGaveUp, RetryScheduled, RetrySnapshot
from resilient.policies.retry_settings import OWNER, Settings, Stop, Wait
from resilient.policies.retry_warnings import what_bites
from resilient.policy import UNLIMITED, AsyncCall, Call, Fn, Policy, is_async

if TYPE_CHECKING:
    from resilient.policies.retry_tenacity import State

logger = logging.getLogger("resilient")


class Retry(Policy[Never]):
    """Call again when the call fails: not too often, not too soon, not too long.

    What is repeated is what `on` and `on_result` call a failure; never an HTTP 4xx other than 408, 425 and 429, never a
    cancellation or KeyboardInterrupt, never what a policy further in refused: it would refuse it again. Repeat only
    what is safe to run twice.

    It stops at the first of: `attempts`, `stop`, `total`, the caller's deadline, `max_retry_after`, the budget. Then
    the last outcome leaves as it is: the function's own error, with a note that says which attempt it was and the
    earlier errors as its context, or the last result. Where one Retry lies inside another, the inner one makes one
    attempt once the outer one has begun to repeat.

    A call that goes well costs less than 150 ns. Results that are thrown away are closed, if they have a `close()`.

    Args:
        name: label in events, notes and logs; default "retry", or the name of its command.
        attempts: calls at most, the first included; 1 … 1,000,000, default 3. With `stop`, default: as it says.
        wait: seconds between attempts, 0 or more; or one of tenacity's `wait_*`; or a function of tenacity's call state
            that gives seconds (one that gives less than 0, or raises, ends it). Default: by chance between 0 and 0.1 s
            after the first attempt, 0.2 s after the second, … at most 5 s ("full jitter": a fleet does not retry in
            step). tenacity's own random waits draw from Python's `random`, not from `rng`.
        stop: one of tenacity's `stop_*`, or a function of its call state: True for no more.
        total: seconds after which no attempt begins, counted from the first one's begin; default None: no limit.
        max_retry_after: the longest `Retry-After` of a 429 or 503 that is waited for, in seconds, default 30.0; when
            one asks for more, the answer leaves at once. What it asks for replaces a shorter `wait`.
        on: which exceptions are repeated, default every Exception; or one of tenacity's `retry_*`, which then decides
            alone, of an HTTP 404 too.
        ignore: which exceptions are never repeated; wins over `on`.
        on_result: a predicate: True for a returned value to replace. When attempts end, the last one is returned.
        budget: what limits retries altogether, default an own `RetryBudget`; pass one object to share it.
        listeners: called with every event of this retry: `RetryScheduled`, `RetryGaveUp`, `RetryBudgetExhausted`.
        clock: default the machine's monotonic clock.
        rng: gives a float in [0, 1) for the default wait; default `random.random`.

    Raises:
        ConfigError: at construction, when an argument is out of range.
        TypeError: at construction, for a listener that is async or can not be called.

    Safe for threads and event loops.

    Source: full jitter is described in "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Example:
        >>> from resilient.policies.retry import Retry
        >>> answers = [ConnectionError("down"), "fine"]
        >>> @Retry(attempts=3, wait=0.0)
        ... def ask() -> str:
        ...     answer = answers.pop(0)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> ask()
        'fine'
    """

    kind = "retry"

    def __init__(
        self,
        name: str | None = None,
        *,
        attempts: int | None = None,
        wait: Wait | None = None,
        stop: Stop | None = None,
        total: float | None = None,
        max_retry_after: float = 30.0,
        on: Match | Callable[[Any], bool] = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        budget: RetryBudget | None = None,
        listeners: Sequence[Callable[[Any], object]] = (),
        clock: Clock | None = None,
        rng: Callable[[], float] | None = None,
    ) -> None:
        if hasattr(name, "wait") and hasattr(name, "stop"):
            raise ConfigError(f"{OWNER}: a whole tenacity.Retrying is read by Retry.of(...)", path="name")
        self.settings = Settings(attempts, wait, stop, total, max_retry_after)
        self._asks: Callable[[Any], Any] | None = on if callable(on) and _is_tenacitys(on) else None
        self._own_judge: Judge | None = None
        self._given = Classification(Exception if self._asks is not None else on, ignore, on_result)
        if budget is not None and not isinstance(budget, RetryBudget):
            raise ConfigError(f"{OWNER}: budget must be a RetryBudget, not {budget!r}", path="budget")
        if rng is not None and not callable(rng):
            raise ConfigError(f"{OWNER}: rng must be a function that gives a float in [0, 1), not {rng!r}", path="rng")
        self._hearers = tuple(listeners)
        for listener in self._hearers:
            check_listener(listener)
        self._clock = clock or SYSTEM_CLOCK
        self.now = self._clock.monotonic
        self._rng = rng or random.random
        self._own_budget = budget is None
        self.budget = RetryBudget(clock=self._clock) if budget is None else budget
        self._lock = threading.RLock()  # reentrant: a signal handler may call through here
        self.waiting: set[object] = set()  # for an attempt; added and discarded in one step, even when interrupted
        self._retries = self._recovered = self._gave_up = self._refused = 0
        super().__init__(name)
        forget_on_fork(self)

    @classmethod
    def of(
        cls,
        retrying: Any,
        *,
        name: str | None = None,
        ignore: Match = (),
        budget: RetryBudget | None = None,
        listeners: Sequence[Callable[[Any], object]] = (),
        clock: Clock | None = None,
    ) -> Self:
        """A Retry that does what a whole `tenacity.Retrying` or `AsyncRetrying` does.

        It reads `stop`, `wait`, `retry`, `after`, `before_sleep`, `reraise`, `retry_error_cls`, `retry_error_callback`
        and `enabled`. Without `reraise=True` the end is tenacity's RetryError, as in tenacity. Deadline, Retry-After,
        budget and events are this library's, and it never repeats a cancellation or a rejection.

        Args:
            retrying: the object; of a function decorated with tenacity it is `function.retry`.
            name: as for `Retry`; so are `ignore`, `budget`, `listeners` and `clock`.

        Raises:
            ConfigError: for `before=` and `sleep=`, which have no place here, and for async hooks.

        Example:
            >>> import tenacity
            >>> from resilient.policies.retry import Retry
            >>> Retry.of(tenacity.Retrying(stop=tenacity.stop_after_attempt(5), reraise=True)).settings.most
            5
        """
        from resilient.policies.retry_tenacity import read

        numbers, asks, hooks = read(retrying)
        made = cls(name, ignore=ignore, budget=budget, listeners=listeners, clock=clock, **numbers)
        made.settings = replace(made.settings, hooks=hooks)
        made._asks = asks
        return made

    # --- the face ---------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """Where its time comes from."""
        return self._clock

    def delay(self, attempt: int, outcome: object, *, elapsed: float = 0.0) -> float | None:
        """Decide, without doing anything: for who makes the calls and the waits himself, as transports do.

        The budget is not asked: take a permit of `budget` before the next attempt, and `deposit()` for each first one.

        Args:
            attempt: how many attempts were made, 1 or more.
            outcome: what the last one raised, or returned. A result is judged by `on_result`, if there is one; without
                it, what is handed in is taken as a failure.
            elapsed: seconds since the first attempt began, for `total` and time-based stops; default 0.0.

        Returns:
            Seconds to wait before the next attempt; None when there is to be none.

        Raises:
            ConfigError: when `attempt` is no whole number of 1 or more.

        Example:
            >>> from resilient.policies.retry import Retry
            >>> retry = Retry(attempts=2, wait=0.5)
            >>> retry.delay(1, ConnectionError()), retry.delay(2, ConnectionError())
            (0.5, None)
        """
        whole(f"{OWNER}.delay", "attempt", attempt)
        if (raised := isinstance(outcome, BaseException)) and not isinstance(outcome, Exception):
            return None
        judge, settings = self._judge_of_its_own(), self.settings
        started = self.now() - elapsed
        state: State | None = None
        if settings.needs_state or judge.asks is not None:
            from resilient.policies.retry_tenacity import State

            state = State(None, (), {}, started)
            state.ended(attempt, outcome, started + elapsed, raised=raised)
        if isinstance(outcome, Exception):
            if not judge.repeats(outcome, lambda: state):
                return None
        elif judge.failed is not None and not judge.failed(outcome):
            return None
        planned = self.plan(settings, attempt, outcome, started, state)
        return planned if isinstance(planned, float) else None

    def snapshot(self) -> RetrySnapshot:
        """Counts of one moment: consistent, cheap, plain data."""
        with self._lock:
            return RetrySnapshot(
                self.name, len(self.waiting), self._retries, self._recovered, self._gave_up, self._refused
            )

    def reset(self) -> None:
        """Counts are zero, those of an own budget too; calls under way go on."""
        with self._lock:
            self._retries = self._recovered = self._gave_up = self._refused = 0
        if self._own_budget:
            self.budget.reset()

    def take_settings(self, other: Self) -> None:
        """Go on with the numbers of `other`, and with its budget if it was given one; counts and calls in flight stay.

        What is to be repeated (`on`, `ignore`, `on_result`) stays. First attempts go into a new budget within a tenth
        of the old one's window.
        """
        if not other._own_budget:
            self.budget, self._own_budget = other.budget, False
        self.settings = other.settings

    def describe(self) -> str:
        """One sentence: how often, how long between."""
        budget = self.budget
        return (
            f"Retry {self.name!r}: {self.settings.describe()}; retries at most {budget.ratio:.0%} of the first attempts"
            f" of the last {budget.window:g} s, or {budget.minimum_in_flight} at once"
        )

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """Every attempt takes as long as one can, and every wait too."""
        return self.granted(wait), calls * self.settings.most

    def granted(self, limit: float) -> float:
        """Seconds for all attempts and the waits between them, at most, when one is granted `limit`."""
        settings = self.settings
        if limit == UNLIMITED:
            return UNLIMITED
        longest = settings.most * limit + settings.longest_waits() if settings.bounded else math.inf
        return longest if settings.total is None else min(longest, settings.total + limit)

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """Orders that multiply or hide; calls that may run twice."""
        return what_bites(self, self.settings, outside, inside)

    def __repr__(self) -> str:
        settings = self.settings
        told = [repr(self.name)] if self._named else []
        told += [
            f"{path}={value if isinstance(value, (int, float)) else type(value).__name__ + '(...)'}"
            for path, value in (
                ("attempts", settings.most if settings.bounded else None),
                ("wait", settings.wait),
                ("stop", settings.stop),
                ("total", settings.total),
            )
            if value is not None
        ]
        return f"Retry({', '.join(told)})"

    def after_fork_in_child(self) -> None:
        """Who waits, waits in the parent."""
        self._lock = threading.RLock()
        self.waiting = set()

    # --- layers -----------------------------------------------------------------------------------------------------

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner`, called again when it fails, for functions."""
        return retried(self, self._judge(given), inner)

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner`, called again when it fails, for async functions."""
        return aretried(self, self._judge(given), inner)

    def alone(self, fn: Fn) -> Fn | None:
        """`fn` with this and nothing else: one frame less. Not where results are looked at."""
        judge = self._judge_of_its_own()
        if judge.failed is not None:
            return None
        return alone(self, judge, fn) if is_async(fn) else lone(self, judge, fn)

    def _judge_of_its_own(self) -> Judge:
        if self._own_judge is None:
            self._own_judge = self._judge(Classification())
        return self._own_judge

    def _judge(self, given: Classification) -> Judge:
        asks = self._asks
        if asks is None:
            used = self._given.or_else(given)
            return Judge(classifier(used), result_check(used), None)
        from resilient.policies.retry_tenacity import looks_at_results, results_wanted

        failed = result_check(self._given)
        if failed is None and looks_at_results(asks):
            failed = results_wanted(asks, self.now)
        return Judge(classifier(self._given), failed, asks)

    def plan(
        self, settings: Settings, attempt: int, outcome: object, started: float, state: State | None
    ) -> float | str:
        """Seconds until the attempt after `attempt`, or why there is to be none. The outcome counts as a failure."""
        if attempt >= settings.most:
            return f"attempts={settings.most} are made"
        try:
            delay = settings.delay(attempt, self._rng, state)
            if not 0 <= delay <= threading.TIMEOUT_MAX:
                return f"wait= gave {delay!r}"
            asked = retry_after(outcome)
            if asked is not None:
                if asked > settings.max_retry_after:
                    return f"Retry-After asks for {asked:g} s, max_retry_after={settings.max_retry_after:g}"
                delay = max(delay, asked)
            if settings.stop is not None and state is not None:
                state.upcoming_sleep = delay
                if settings.stop(state):
                    return "stop= said so"
        except Exception as error:
            logger.exception("%r: wait= or stop= raised; the call is not repeated", self)
            return f"wait= or stop= raised {type(error).__name__}"
        now = self.now()
        if settings.total is not None and now - started + delay >= settings.total:
            return f"the next attempt would begin after total={settings.total:g} s"
        limit = current_limit.get()
        if limit is not None and now + delay >= limit.on(self._clock, now).end:
            return f"the next attempt would begin after the deadline set by {limit.name!r}"
        return delay

    # --- telling ----------------------------------------------------------------------------------------------------

    def tell_scheduled(self, attempt: int, delay: float, outcome: object, *, raised: bool) -> None:
        """There will be another attempt."""
        with self._lock:
            self._retries += 1
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%r: attempt %d failed (%s), again in %.3g s", self, attempt, _text(outcome, raised), delay)
        if self._hearers or events.HEARERS.all:
            publish(RetryScheduled(self.name, self.now(), attempt, delay, _text(outcome, raised)), self._hearers)

    def tell_given_up(self, attempt: int, outcome: object, reason: str, *, raised: bool, budget: bool) -> None:
        """There will be no other attempt, although this one failed."""
        with self._lock:
            self._gave_up += 1
            self._refused += budget
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%r: attempt %d failed (%s), not repeated: %s", self, attempt, _text(outcome, raised), reason)
        if self._hearers or events.HEARERS.all:
            kind = RetryBudgetExhausted if budget else RetryGaveUp
            publish(kind(self.name, self.now(), attempt, _text(outcome, raised), reason), self._hearers)

    def tell_recovered(self) -> None:
        """A call went well that did not at first."""
        with self._lock:
            self._recovered += 1


def _text(outcome: object, raised: bool) -> str:
    if not raised or not isinstance(outcome, BaseException):
        return f"result: {type(outcome).__name__}"
    info = FailureInfo.of(outcome, 0.0)
    return f"{info.kind}: {info.message}" if info.message else info.kind


def _is_tenacitys(on: object) -> bool:
    """Whether it is one of tenacity's retry objects. Who has one has imported tenacity."""
    tenacity = sys.modules.get("tenacity")
    return tenacity is not None and isinstance(on, tenacity.retry_base)
