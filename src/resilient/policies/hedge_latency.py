"""How long calls take, learned from the last ones: when a call is late, and whether another one would still help."""

from __future__ import annotations

import threading

_KEPT = 256  # durations: the slowest twentieth of them is 13
LEARNED_FROM = 50  # calls before a quantile is used: below, the 95th is one of the two slowest
_REFRESH = 16  # calls between two looks at the order of the kept ones
_LATE = 0.95  # the calls slower than that are hedged: half of what the default budget allows
_SHORTEST = 0.001  # seconds: a timer is not more exact


class Latencies:
    """The durations of the last calls. Safe for threads; a few hundred bytes per call that is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ring: list[float] = []
        self._next = 0
        self._stale = 0
        self._late: float | None = None
        self._usual: float | None = None

    def add(self, seconds: float) -> None:
        """A call took so long; for one that was cancelled for being late, at least so long."""
        with self._lock:
            ring = self._ring
            if len(ring) < _KEPT:
                ring.append(seconds)
            else:
                ring[self._next] = seconds
                self._next = (self._next + 1) % _KEPT
            self._stale += 1
            if len(ring) >= LEARNED_FROM and (self._late is None or self._stale >= _REFRESH):
                ordered = sorted(ring)
                self._late = max(_SHORTEST, ordered[int(_LATE * len(ordered))])
                self._usual = ordered[len(ordered) // 2]
                self._stale = 0

    @property
    def late(self) -> float | None:
        """Seconds after which a call is late: 95 of 100 were faster. None until enough were seen."""
        return self._late

    @property
    def usual(self) -> float | None:
        """Seconds that half of the calls took at most; None until enough were seen."""
        return self._usual

    def after_fork_in_child(self) -> None:
        """A lock of one's own."""
        self._lock = threading.Lock()
