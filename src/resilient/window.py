"""Which calls count: the last seconds, or the last calls.

`TimeWindow` and `CountWindow` are what users write; `counter()` makes the ring behind them. A ring knows no lock and no
clock: its owner calls it under its own lock and hands in the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from resilient.checks import positive_seconds, whole
from resilient.tally import GIL, Tally

Counts: TypeAlias = tuple[int, int, int]
"""What a window holds at one moment: (calls, failures, slow calls)."""


class Ring(Protocol):
    """The counts of a window.

    Its owner records a call by changing them, under its own lock::

        if now >= ring.ends:
            ring.make_room(now)
        ring.failures += 1      # if it failed
        ring.slow += 1          # if it was slow
        ring.quiet_until = NEVER_QUIET  # if either
        next(ring.ticks)

    No call but the last: no signal handler comes in between. The counts only grow; what left is counted apart.

    Attributes:
        ends: before this moment there is room: the bucket goes on.
        quiet_until: before this moment a call that went well and was not slow needs `next(ticks)` only, and no lock:
            nothing bad is in the window, or what is there was judged, and no bucket ends. `-inf`: there is none.
        harmless: so many failures that are not slow may come, until a bucket ends, before anything is to be judged.
        ticks: one for each call that is counted, and one for each look at how many there are.
        looks: how many of the ticks were looks: `next(ticks) - looks` is the number of calls with this one.
        failures: failures ever recorded.
        slow: slow calls ever recorded.
        gone: calls that were recorded and have left.
    """

    ends: float
    quiet_until: float
    harmless: int
    ticks: Iterator[int]
    looks: int
    failures: int
    slow: int
    gone: int

    def make_room(self, now: float) -> None:
        """Let go of what is too old at `now`."""
        ...

    def bad(self) -> bool:
        """Whether the window holds anything bad that was not judged."""
        ...

    def be_quiet(self, harmless: int) -> None:
        """What is in the window was judged.

        Until a bucket leaves, successes can only better its rates, and so many failures do no harm.
        """
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
        return _TimeRing(now, self)


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


class _TimeRing(Tally):
    """Cumulative counts, and what they were when each bucket that still counts began.

    The window's counts are the difference to the oldest mark: recording is an addition, rolling is an append.
    """

    __slots__ = (
        "_index",
        "_marks",
        "_origin",
        "_window",
        "ends",
        "failures",
        "gone",
        "harmless",
        "quiet_until",
        "slow",
    )

    def __init__(self, origin: float, window: TimeWindow) -> None:
        super().__init__()
        self._origin = origin
        self._window = window
        self._index = 0
        self.ends = origin + window.seconds / window.buckets
        self.quiet_until = self.ends if GIL else NEVER_QUIET  # without the interpreter's lock only our own will do
        self.failures = self.slow = self.gone = self.harmless = 0
        self._marks: list[Counts] = [_NOTHING]  # at most one per bucket; a deque would take 600 bytes to begin with

    def make_room(self, now: float) -> None:
        if now < self.ends:  # an older `now` counts into the current bucket: nothing is lost
            return
        buckets = self._window.buckets
        width = self._window.seconds / buckets
        index = math.floor((now - self._origin) / width)
        mark = (self.count(), self.failures, self.slow)
        self._marks.extend([mark] * min(index - self._index, buckets))
        del self._marks[:-buckets]
        self.gone = self._marks[0][0]
        self._index = max(index, self._index)
        self.ends = self._origin + (self._index + 1) * width
        self.quiet_until = self.ends if GIL and self._marks[0][1:] == mark[1:] else NEVER_QUIET
        self.harmless = 0

    def bad(self) -> bool:
        return self.quiet_until == NEVER_QUIET

    def be_quiet(self, harmless: int) -> None:
        self.harmless = harmless
        if GIL:
            self.quiet_until = self.ends

    def counts(self, now: float) -> Counts:
        self.make_room(now)
        calls, failures, slow = self._marks[0]
        return self.count() - calls, self.failures - failures, self.slow - slow

    def totals(self) -> tuple[int, int]:
        return self.count(), self.failures


_FAILED, _SLOW = 1, 2


class _CountRing(Tally):
    """One byte per call that counts; the last call is written when the next one needs room, or somebody looks."""

    __slots__ = (
        "_calls",
        "_failed",
        "_next",
        "_ring",
        "_seen",
        "_slow",
        "ends",
        "failures",
        "gone",
        "harmless",
        "quiet_until",
        "slow",
    )

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ends = self.quiet_until = NEVER_QUIET  # each call needs room of its own
        self._ring = bytearray(size)
        self._next = 0
        self._calls = self._failed = self._slow = 0  # in the window
        self._seen = _NOTHING  # of what was ever recorded, how much is written
        self.failures = self.slow = self.gone = 0
        self.harmless = 0  # always: each call pushes another out, which may have been a success

    def make_room(self, now: float) -> None:
        self._write_last()
        if self._calls == len(self._ring):
            old = self._ring[self._next]
            self._failed -= old & _FAILED
            self._slow -= old >> 1
            self._calls -= 1
            self.gone += 1

    def bad(self) -> bool:
        self._write_last()
        return bool(self._failed or self._slow)

    def be_quiet(self, harmless: int) -> None:
        pass

    def counts(self, now: float) -> Counts:
        self._write_last()
        return self._calls, self._failed, self._slow

    def totals(self) -> tuple[int, int]:
        return self.count(), self.failures

    def _write_last(self) -> None:
        calls, failures, slow = self.count(), self.failures, self.slow
        seen_calls, seen_failures, seen_slow = self._seen
        if calls == seen_calls:
            return
        self._seen = (calls, failures, slow)
        self._failed += failures - seen_failures
        self._slow += slow - seen_slow
        self._calls += 1
        here, ring = self._next, self._ring
        ring[here] = (failures - seen_failures) * _FAILED + (slow - seen_slow) * _SLOW
        self._next = here + 1 if here + 1 < len(ring) else 0
