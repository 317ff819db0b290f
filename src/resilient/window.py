"""Which calls count: the last seconds, or the last calls.

`TimeWindow` and `CountWindow` are what users write; `counter()` makes the ring behind them. A ring knows no lock and no
clock: its owner calls it under its own lock and hands in the time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from resilient.checks import positive_seconds, whole


class Counts(NamedTuple):
    """What a window holds at one moment."""

    calls: int
    failures: int
    slow: int


class Ring(Protocol):
    """The counts of a window. Call it under the owner's lock.

    Attributes:
        quiet_until: before this moment nothing bad is in the window and no bucket ends: a call that went well and was
            not slow needs `recorded += 1` only. The hot path; `-inf` where there is none.
        recorded: calls ever recorded.
    """

    quiet_until: float
    recorded: int

    def success(self, now: float) -> bool:
        """Count a call that went well and was not slow; True when the window holds anything bad."""
        ...

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended at `now`."""
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


_NOTHING = Counts(0, 0, 0)
_NEVER_QUIET = float("-inf")


class _TimeRing:
    """Cumulative counts, and what they were when each bucket that still counts began.

    The window's counts are the difference to the oldest mark: recording is an addition, rolling is an append.
    """

    __slots__ = ("_ends", "_failures", "_index", "_marks", "_origin", "_slow", "_width", "quiet_until", "recorded")

    def __init__(self, origin: float, width: float, buckets: int) -> None:
        self._origin = origin
        self._width = width
        self._index = 0
        self.quiet_until = self._ends = origin + width
        self.recorded = self._failures = self._slow = 0
        self._marks: deque[Counts] = deque([_NOTHING], maxlen=buckets)

    def success(self, now: float) -> bool:
        if now >= self._ends:  # an older `now` counts into the current bucket: nothing is lost
            self._roll(now)
        self.recorded += 1
        return self.quiet_until == _NEVER_QUIET

    def record(self, now: float, failed: bool, slow: bool) -> None:
        self.success(now)
        self._failures += failed
        self._slow += slow
        if failed or slow:
            self.quiet_until = _NEVER_QUIET

    def counts(self, now: float) -> Counts:
        if now >= self._ends:
            self._roll(now)
        calls, failures, slow = self._marks[0]
        return Counts(self.recorded - calls, self._failures - failures, self._slow - slow)

    def totals(self) -> tuple[int, int]:
        return self.recorded, self._failures

    def _roll(self, now: float) -> None:
        index = math.floor((now - self._origin) / self._width)
        mark = Counts(self.recorded, self._failures, self._slow)
        self._marks.extend([mark] * min(index - self._index, self._marks.maxlen or 1))
        self._index = max(index, self._index)
        self._ends = self._origin + (self._index + 1) * self._width
        self.quiet_until = self._ends if self._marks[0][1:] == mark[1:] else _NEVER_QUIET


_FAILED, _SLOW = 1, 2


class _CountRing:
    """One byte per call that counts, with running totals."""

    __slots__ = ("_calls", "_ever_failed", "_failures", "_next", "_ring", "_slow", "quiet_until", "recorded")

    def __init__(self, size: int) -> None:
        self.quiet_until = _NEVER_QUIET  # every call pushes an older one out
        self._ring = bytearray(size)
        self._next = 0
        self._calls = self._failures = self._slow = 0
        self.recorded = self._ever_failed = 0

    def success(self, now: float) -> bool:
        self.record(now, False, False)
        return bool(self._failures or self._slow)

    def record(self, now: float, failed: bool, slow: bool) -> None:
        ring, here = self._ring, self._next
        if self._calls == len(ring):
            old = ring[here]
            if old:
                self._failures -= old & _FAILED
                self._slow -= old >> 1
        else:
            self._calls += 1
        self._failures += failed
        self._slow += slow
        ring[here] = failed | slow << 1
        self._next = here + 1 if here + 1 < len(ring) else 0
        self.recorded += 1
        self._ever_failed += failed

    def counts(self, now: float) -> Counts:
        return Counts(self._calls, self._failures, self._slow)

    def totals(self) -> tuple[int, int]:
        return self.recorded, self._ever_failed
