"""What an adaptive limit learns from: the calls of a window together, and which failures mean overload."""

from __future__ import annotations

from typing import NamedTuple

from resilient.http_answers import http_status

TOO_FAST = 100e-6  # seconds below which a call says nothing: it was answered on this side of the network
_DROPPED_SHARE = 0.05  # of a window's calls: less is background noise, and would hold a busy limit at its minimum
_OVERLOADED = frozenset({408, 429, 503, 504})


class Sample(NamedTuple):
    """What the algorithm is told."""

    rtt: float
    in_flight: int
    dropped: bool


class Window:
    """Adds up calls until there are enough of them. Call it under the owner's lock."""

    __slots__ = ("_begun", "_dropped", "_dropped_seconds", "_in_flight", "_seconds", "_succeeded")

    def __init__(self, now: float) -> None:
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._begun = now
        self._succeeded = self._dropped = self._in_flight = 0
        self._seconds = self._dropped_seconds = 0.0

    def add(
        self, elapsed: float, in_flight: int, dropped: bool, now: float, length: float | None, least: int
    ) -> Sample | None:
        """Count a call; the sample of the window when it is full, which begins a new one.

        Args:
            elapsed: seconds it took.
            in_flight: calls under way when it began, itself included.
            dropped: whether the dependency was overloaded.
            now: when it ended.
            length: seconds of a window; None: each call is a sample.
            least: calls in a window at least; one with fewer goes on.
        """
        if dropped:
            self._dropped += 1
            self._dropped_seconds += elapsed
        elif elapsed < TOO_FAST:
            return None
        else:
            self._succeeded += 1
            self._seconds += elapsed
        self._in_flight = max(self._in_flight, in_flight)
        calls = self._succeeded + self._dropped
        if length is not None and (now - self._begun < length or calls < least):
            return None
        rtt = self._seconds / self._succeeded if self._succeeded else self._dropped_seconds / calls
        sample = Sample(max(rtt, TOO_FAST), self._in_flight, self._dropped >= _DROPPED_SHARE * calls > 0)
        self._restart(now)
        return sample


def is_overload(error: BaseException | None) -> bool:
    """Whether a failed call shows that the dependency has too much to do.

    A timeout of any library; an error with the HTTP status 408, 429, 503 or 504; a failure without an error (a result
    that `on_result` disliked, `permit.failure()`): who said so has looked.
    """
    if error is None or not isinstance(error, Exception):  # no Exception: an expired Timeout cancelled the call
        return True
    status = http_status(error)
    if status is not None:
        return status in _OVERLOADED
    names = {kind.__name__ for kind in type(error).__mro__}
    return "PoolTimeout" not in names and any("Timeout" in name for name in names)  # the pool is on this side
