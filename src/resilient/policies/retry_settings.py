"""What a retry was told: one frozen object that checks itself."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from resilient.checks import number, positive_seconds, whole
from resilient.errors import ConfigError

if TYPE_CHECKING:
    from resilient.policies.retry_tenacity import Hooks, State

OWNER = "Retry"
MOST_ATTEMPTS = 1_000_000  # for one call: what `stop=` alone may come to
ATTEMPTS = 3
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds: enough for a blip to pass, and no longer than a caller has patience
_DOUBLINGS = 60  # 2.0 ** 1024 overflows; long before that the cap holds
_ADDED_UP = 200  # waits that are added up one by one for the worst case

Wait: TypeAlias = float | Callable[[Any], float]
"""Seconds, or tenacity's `wait_*`, or any function of tenacity's call state that gives seconds."""
Stop: TypeAlias = Callable[[Any], bool]
"""tenacity's `stop_*`, or any function of tenacity's call state: True for no more."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers of a retry, as given; checked when made."""

    attempts: int | None
    wait: Wait | None
    stop: Stop | None
    total: float | None
    max_retry_after: float
    hooks: Hooks | None = None
    most: int = field(init=False)  # attempts for one call, whatever limits them
    bounded: bool = field(init=False)  # `most` says something: `stop=` alone may never stop
    needs_state: bool = field(init=False)  # a function of tenacity's call state is to be asked

    def __post_init__(self) -> None:
        if self.attempts is not None:
            whole(OWNER, "attempts", self.attempts, most=MOST_ATTEMPTS)
        if self.total is not None:
            positive_seconds(OWNER, "total", self.total)
        positive_seconds(OWNER, "max_retry_after", self.max_retry_after)
        if callable(self.wait):
            _plain_function("wait", self.wait)
        elif self.wait is not None:
            if number(OWNER, "wait", self.wait) < 0:
                raise ConfigError(f"{OWNER}: wait must be at least 0 seconds, not {self.wait!r}", path="wait")
            if self.wait:
                positive_seconds(OWNER, "wait", self.wait)
        if self.stop is not None:
            if not callable(self.stop):
                raise ConfigError(
                    f"{OWNER}: stop must be one of tenacity's stop_* or a function of its call state, not"
                    f" {self.stop!r}; a number of attempts is attempts=, of seconds total=",
                    path="stop",
                )
            _plain_function("stop", self.stop)
        known = None if self.stop is None else known_attempts(self.stop)
        most = self.attempts or (ATTEMPTS if self.stop is None else MOST_ATTEMPTS)
        object.__setattr__(self, "most", most if known is None else max(1, min(most, known)))
        object.__setattr__(self, "bounded", self.attempts is not None or self.stop is None or known is not None)
        needs_state = callable(self.wait) or self.stop is not None or self.hooks is not None
        object.__setattr__(self, "needs_state", needs_state)

    def delay(self, attempt: int, rng: Callable[[], float], state: State | None) -> float:
        """Seconds to wait after `attempt`; NaN or less than 0 where `wait=` gave no time. May raise what it raises."""
        wait = self.wait
        if wait is None:
            return min(max(rng(), 0.0), 1.0) * _ceiling(attempt)
        if not callable(wait):
            return float(wait)
        return float(wait(state))

    def longest_waits(self) -> float:
        """Seconds a caller waits between `most` attempts, at most; `inf` when `wait=` may give anything."""
        waits = self.most - 1
        added = sum(self._longest(attempt) for attempt in range(1, min(waits, _ADDED_UP) + 1))
        return added + ((waits - _ADDED_UP) * self._longest(waits) if waits > _ADDED_UP else 0.0)

    def _longest(self, attempt: int) -> float:
        if self.wait is None:
            own = _ceiling(attempt)
        elif callable(self.wait):
            own = longest_wait(self.wait, attempt)
        else:
            own = float(self.wait)
        return max(own, self.max_retry_after)

    def describe(self) -> str:
        """How often, and how long between, in words."""
        if self.wait is None:
            pause = f"waits by chance up to {FIRST_WAIT:g} s, doubling to {LONGEST_WAIT:g} s"
        else:
            pause = f"waits {self.wait if callable(self.wait) else format(self.wait, 'g') + ' s'}"
        often = f"at most {self.most} attempts" if self.bounded else "attempts until stop= says no"
        within = "" if self.total is None else f", no attempt begins after {self.total:g} s"
        return f"{often}{within}, {pause}, or as Retry-After asks, up to {self.max_retry_after:g} s"


def _ceiling(attempt: int) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, _DOUBLINGS))


def _plain_function(path: str, given: Any) -> None:
    if isinstance(given, type):
        raise ConfigError(f"{OWNER}: {path} must be made first: {given.__name__}(...)", path=path)
    if inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(getattr(given, "__call__", None)):  # noqa: B004  # the bound method itself is asked for
        raise ConfigError(f"{OWNER}: {path} must be a plain function, {given!r} is async", path=path)


def known_attempts(stop: object) -> int | None:
    """How many attempts one of tenacity's stops allows at most; None when it does not say."""
    tenacity = sys.modules.get("tenacity")  # who has one of its objects has imported it
    if tenacity is None:
        return None
    if isinstance(stop, tenacity.stop_after_attempt):
        return int(stop.max_attempt_number)
    if isinstance(stop, (tenacity.stop_any, tenacity.stop_all)):
        found = [known_attempts(one) for one in stop.stops]
        known = [one for one in found if one is not None]
        if isinstance(stop, tenacity.stop_any):
            return min(known, default=None)
        return max(known) if known and len(known) == len(found) else None
    return None


def longest_wait(wait: object, attempt: int) -> float:
    """Seconds that one of tenacity's waits gives at most; `inf` when it does not say."""
    tenacity = sys.modules.get("tenacity")
    if tenacity is None:
        return math.inf
    if isinstance(wait, tenacity.wait_combine):
        return sum(longest_wait(one, attempt) for one in wait.wait_funcs)
    if isinstance(wait, tenacity.wait_chain):
        return longest_wait(wait.strategies[min(attempt, len(wait.strategies)) - 1], attempt)
    if isinstance(wait, tenacity.wait_random):
        return float(wait.wait_random_max)
    if isinstance(wait, (tenacity.wait_fixed, tenacity.wait_incrementing, tenacity.wait_exponential)):
        from resilient.policies.retry_tenacity import State

        kind = tenacity.wait_exponential if isinstance(wait, tenacity.wait_exponential) else type(wait)
        return float(kind.__call__(wait, State(None, (), {}, 0.0, attempt)))  # of random ones: the upper end
    return float(wait.max) if isinstance(wait, tenacity.wait_exponential_jitter) else math.inf
