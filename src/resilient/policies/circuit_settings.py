"""What a circuit breaker was told: one frozen object that checks itself, read by its states, replaced at run time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, TypedDict

from resilient.checks import did_you_mean, number, positive_seconds, ratio, whole
from resilient.errors import ConfigError
from resilient.window import CountWindow, TimeWindow

logger = logging.getLogger("resilient")

OWNER = "CircuitBreaker"
NEVER_SLOW = math.inf
_KEPT = 256  # distinct settings that are shared: the breakers of a Keyed, one for each tenant, have the same ones


class BreakerSettings(TypedDict, total=False):
    """What `CircuitBreaker.configure` may change while it runs; the same names as at construction."""

    window: TimeWindow | CountWindow
    minimum_calls: int
    failure_rate: float | None
    consecutive_failures: int | None
    slow_call_duration: float | None
    slow_call_rate: float
    open_duration: float | Callable[[int], float]
    max_open_duration: float
    half_open_probes: int
    half_open_successes: int
    half_open_failures: int
    half_open_timeout: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers of a breaker, as given; checked when made."""

    window: TimeWindow | CountWindow
    minimum_calls: int
    failure_rate: float | None
    consecutive_failures: int | None
    slow_call_duration: float | None
    slow_call_rate: float
    open_duration: float | Callable[[int], float]
    max_open_duration: float
    half_open_probes: int
    half_open_successes: int
    half_open_failures: int
    half_open_timeout: float
    slow_after: float = field(init=False)  # seconds; `NEVER_SLOW` where no call is slow
    row: float = field(init=False)  # failures in a row that may open; fewer never do

    def __post_init__(self) -> None:
        if not isinstance(self.window, (TimeWindow, CountWindow)):
            raise ConfigError(
                f"{OWNER}: window must be a TimeWindow or a CountWindow, not {self.window!r}", path="window"
            )
        for path in ("minimum_calls", "half_open_probes", "half_open_successes", "half_open_failures"):
            whole(OWNER, path, getattr(self, path))
        for path in ("max_open_duration", "half_open_timeout"):
            positive_seconds(OWNER, path, getattr(self, path))
        ratio(OWNER, "slow_call_rate", self.slow_call_rate)
        if self.failure_rate is not None:
            ratio(OWNER, "failure_rate", self.failure_rate)
        if self.consecutive_failures is not None:
            whole(OWNER, "consecutive_failures", self.consecutive_failures)
        if self.slow_call_duration is not None:
            positive_seconds(OWNER, "slow_call_duration", self.slow_call_duration)
        if callable(self.open_duration):
            number(OWNER, "open_duration", self.open_duration(1))
        else:
            positive_seconds(OWNER, "open_duration", self.open_duration)
        slow_after = NEVER_SLOW if self.slow_call_duration is None else float(self.slow_call_duration)
        object.__setattr__(self, "slow_after", slow_after)
        row = self.consecutive_failures
        if row is not None and self.failure_rate is not None:
            row = min(row, self.minimum_calls)
        object.__setattr__(self, "row", math.inf if row is None else row)
        self._check_can_open()

    def open_time(self, attempt: int, name: str) -> float:
        """Seconds of the open period `attempt` of the circuit `name`.

        Calls the user's function, if there is one: never under the lock.
        """
        if not callable(self.open_duration):
            return min(self.max_open_duration, self.open_duration * 2.0 ** min(attempt - 1, 60))
        try:
            seconds = number(OWNER, "open_duration", self.open_duration(attempt))
        except Exception:  # the callers of a service that is down must not get this instead, nor the circuit stay open
            logger.exception("circuit %r: open_duration(%d) gave no time, max_open_duration holds", name, attempt)
            return self.max_open_duration
        return min(self.max_open_duration, max(0.0, seconds))

    def describe(self) -> str:
        """When it opens, in words."""
        ways = []
        if self.failure_rate is not None:
            ways.append(f"{self.failure_rate:.0%} of at least {self.minimum_calls} calls in {self.window}")
        if self.consecutive_failures is not None:
            ways.append(f"{self.consecutive_failures} failures in a row")
        if self.slow_call_duration is not None:
            ways.append(f"{self.slow_call_rate:.0%} of calls slower than {self.slow_call_duration:g} s")
        return ", or ".join(ways)

    def changed(self, changes: dict[str, Any]) -> Settings:
        """The same with `changes`, checked as at construction.

        Raises:
            ConfigError: for a name that is no setting, or a value out of range.
        """
        known = [one.name for one in fields(self) if one.init]
        for word in changes:
            if word not in known:
                hint = did_you_mean(word, known) or f"; these can: {', '.join(known)}"
                raise ConfigError(f"{OWNER}.configure: {word!r} can not be changed{hint}", path=word)
        return replace(self, **changes)

    def _check_can_open(self) -> None:
        if self.slow_call_rate != 1.0 and self.slow_call_duration is None:
            raise ConfigError(
                f"{OWNER}: slow_call_rate says nothing without slow_call_duration, from which a call is slow",
                path="slow_call_rate",
            )
        if self.failure_rate is None and self.consecutive_failures is None and self.slow_call_duration is None:
            raise ConfigError(
                f"{OWNER}: it would never open: failure_rate, consecutive_failures and slow_call_duration are None",
                path="failure_rate",
            )
        window = self.window
        if isinstance(window, CountWindow) and self.minimum_calls > window.calls:
            raise ConfigError(
                f"{OWNER}: minimum_calls ({self.minimum_calls}) is more than the window holds"
                f" ({window.calls} calls): its rates would never be judged",
                path="minimum_calls",
            )


_shared = lru_cache(maxsize=_KEPT, typed=True)(Settings)  # typed: True is no 1, and must be refused


def settings_of(*given: Any) -> Settings:
    """`Settings(*given)`, the same object for the same plain numbers: ten thousand breakers check and keep one."""
    if any(map(callable, given)):  # somebody's function is not kept alive by a cache
        return Settings(*given)
    try:
        return _shared(*given)
    except TypeError:  # what can not be hashed is no number; the check says it in a sentence
        return Settings(*given)
