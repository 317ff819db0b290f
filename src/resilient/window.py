"""Which calls count: the last seconds, or the last calls.

`TimeWindow` and `CountWindow` are what users write; `counter()` makes the ring behind them. A ring knows no lock and no
clock: its owner calls it under its own lock and hands in the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from resilient.checks import positive_seconds, whole

Counts: TypeAlias = tuple[int, int, int]
"""What a window holds at one moment: (calls, failures, slow calls)."""


class Ring(Protocol):
    """The counts of a window. Call it under the owner's lock.

    Attributes:
        quiet_until: before this moment nothing bad is in the window and no bucket ends: a call that went well and was
            not slow needs `recorded += 1` only. The hot path; `-inf` where there is none.
        ends: before this moment no bucket ends: a call that failed and was not slow needs `recorded += 1`,
            `failures += 1` and `quiet_until = NEVER_QUIET` only, and the window holds `recorded - gone` calls.
        recorded: calls ever recorded.
        failures: failures ever recorded.
        gone: calls that were recorded and have left.
    """

    quiet_until: float
    ends: float
    recorded: int
    failures: int
    gone: int

    def record(self, now: float, failed: bool, slow: bool) -> bool:
        """Count a call that ended at `now`; True when the window holds anything bad."""
        ...

    def counts(self, now: float) -> Counts:
        """The counts at `now`; what is too old has left, although no call came."""
        ...

    def totals(self) -> tuple[int, int]:
        """(calls, failures) ever recorded."""
        ...


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The calls of the last `seconds`, in `buckets`.

    A call leaves the window with its bucket, so between `seconds - seconds / buckets` and `seconds` of calls count.

    Args:
        seconds: length, default 10.0 (Hystrix); more than 0 and finite.
        buckets: how finely old calls leave, default 10; 1 to 3600.

    Raises:
        ConfigError: when a value is out of range.

    Example:
        >>> from resilient import CircuitBreaker, TimeWindow
        >>> breaker = CircuitBreaker("orders", window=TimeWindow(30.0, buckets=6))
    """

    seconds: float = 10.0
    buckets: int = 10

    def __post_init__(self) -> None:
        positive_seconds("TimeWindow", "seconds", self.seconds)
        whole("TimeWindow", "buckets", self.buckets, most=3600)

    def counter(self, now: float) -> Ring:
        """An empty ring whose first bucket begins now."""
        return _TimeRing(now, self.seconds / self.buckets, self.buckets)


@dataclass(frozen=True, slots=True)
class CountWindow:
    """The last `calls` calls, however long ago they were.

    Args:
        calls: how many, default 100 (resilience4j); 1 to 1,000,000.

    Raises:
        ConfigError: when `calls` is out of range.

    Example:
        >>> from resilient import CircuitBreaker, CountWindow
        >>> breaker = CircuitBreaker("stock", window=CountWindow(50), minimum_calls=10)
    """

    calls: int = 100

    def __post_init__(self) -> None:
        whole("CountWindow", "calls", self.calls, most=1_000_000)

    def counter(self, now: float) -> Ring:
        """An empty ring."""
        return _CountRing(self.calls)


_NOTHING = (0, 0, 0)
NEVER_QUIET = float("-inf")


class _TimeRing:
    """Cumulative counts, and what they were when each bucket that still counts began.

    The window's counts are the difference to the oldest mark: recording is an addition, rolling is an append.
    """

    __slots__ = (
        "_buckets",
        "_index",
        "_marks",
        "_origin",
        "_slow",
        "_width",
        "ends",
        "failures",
        "gone",
        "quiet_until",
        "recorded",
    )

    def __init__(self, origin: float, width: float, buckets: int) -> None:
        self._origin = origin
        self._width = width
        self._buckets = buckets
        self._index = 0
        self.quiet_until = self.ends = origin + width
        self.recorded = self.failures = self.gone = self._slow = 0
        self._marks: list[Counts] = [_NOTHING]  # at most one per bucket; a deque would take 600 bytes to begin with

    def record(self, now: float, failed: bool, slow: bool) -> bool:
        if now >= self.ends:  # an older `now` counts into the current bucket: nothing is lost
            self._roll(now)
        self.recorded += 1
        if failed:
            self.failures += 1
        if slow:
            self._slow += 1
        if failed or slow:
            self.quiet_until = NEVER_QUIET
        return self.quiet_until == NEVER_QUIET

    def counts(self, now: float) -> Counts:
        if now >= self.ends:
            self._roll(now)
        calls, failures, slow = self._marks[0]
        return self.recorded - calls, self.failures - failures, self._slow - slow

    def totals(self) -> tuple[int, int]:
        return self.recorded, self.failures

    def _roll(self, now: float) -> None:
        index = math.floor((now - self._origin) / self._width)
        mark = (self.recorded, self.failures, self._slow)
        self._marks.extend([mark] * min(index - self._index, self._buckets))
        del self._marks[: -self._buckets]
        self.gone = self._marks[0][0]
        self._index = max(index, self._index)
        self.ends = self._origin + (self._index + 1) * self._width
        self.quiet_until = self.ends if self._marks[0][1:] == mark[1:] else NEVER_QUIET


_FAILED, _SLOW = 1, 2


class _CountRing:
    """One byte per call that counts, with running totals."""

    __slots__ = ("_calls", "_failed", "_next", "_ring", "_slow", "ends", "failures", "gone", "quiet_until", "recorded")

    def __init__(self, size: int) -> None:
        self.quiet_until = self.ends = NEVER_QUIET  # every call pushes an older one out
        self._ring = bytearray(size)
        self._next = 0
        self._calls = self._failed = self._slow = 0
        self.recorded = self.failures = self.gone = 0

    def record(self, now: float, failed: bool, slow: bool) -> bool:
        ring, here = self._ring, self._next
        if self._calls == len(ring):
            self.gone += 1
            old = ring[here]
            if old:
                self._failed -= old & _FAILED
                self._slow -= old >> 1
        else:
            self._calls += 1
        self._failed += failed
        self._slow += slow
        ring[here] = failed | slow << 1
        self._next = here + 1 if here + 1 < len(ring) else 0
        self.recorded += 1
        self.failures += failed
        return bool(self._failed or self._slow)

    def counts(self, now: float) -> Counts:
        return self._calls, self._failed, self._slow

    def totals(self) -> tuple[int, int]:
        return self.recorded, self.failures
