"""Counting exactly from any thread, at the price of one call into C."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator

GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether the interpreter switches threads between its instructions only: then no thread comes in between two lines
that call nothing."""


class Tally:
    """A number that any thread may add to, by `next(tally.ticks)`, and its owner reads under its lock.

    With the interpreter's lock a tick is one step in C; without it, the same behind a lock.
    """

    __slots__ = ("looks", "ticks")

    def __init__(self) -> None:
        self.ticks: Iterator[int] = itertools.count(1) if GIL else _Locked()
        self.looks = 0  # a look at the number is a tick that does not count

    def count(self) -> int:
        """How many ticks counted so far."""
        self.looks = looks = self.looks + 1  # before the tick, after which a signal handler may look too
        return next(self.ticks) - looks


class _Locked:
    """`itertools.count` where two threads could get the same number of it."""

    __slots__ = ("_lock", "_numbers")

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._numbers)
