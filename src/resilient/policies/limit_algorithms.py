"""How an adaptive limit moves: three algorithms, each a small object that turns a sample into the next limit.

A sample is what one call saw, or the calls of one window together: how long they took, how many were under way, and
whether they were dropped (timed out, or refused by the dependency for being overloaded). The formulas and their numbers
are those of Netflix's `concurrency-limits`; where ours differ the docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from resilient.checks import number, positive_seconds, ratio, whole
from resilient.errors import ConfigError

INITIAL = 20  # the limit that an algorithm without an `initial` of its own begins with


class LimitAlgorithm(Protocol):
    """How an adaptive limit moves. Write your own with this one method.

    An attribute `initial` says where the limit begins; without one it is 20. An algorithm keeps state: make one per
    limiter. It is asked by one thread at a time, and no lock is held meanwhile.
    """

    def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
        """The next limit.

        Args:
            limit: the limit now.
            rtt: seconds the sample took, more than 0.
            in_flight: how many calls were under way.
            dropped: whether the dependency was overloaded: it refused, or did not answer in time.
        """
        ...


class _Bounds:
    """Where a limit begins and may go; checked."""

    def __init__(self, owner: str, initial: object, minimum: object, maximum: object) -> None:
        self.minimum = whole(owner, "minimum", minimum)
        self.maximum = whole(owner, "maximum", maximum, least=self.minimum)
        self.initial = whole(owner, "initial", initial, least=self.minimum, most=self.maximum)

    def clamped(self, limit: float) -> float:
        """`limit`, or the bound it passed."""
        return max(float(self.minimum), min(float(self.maximum), limit))


def app_limited(limit: float, in_flight: int) -> bool:
    """Whether the callers used less than half of the limit: then a good answer is no reason to raise it."""
    return in_flight * 2 < limit


class AIMD(_Bounds):
    """Additive increase, multiplicative decrease, as TCP's congestion avoidance does.

    One more per good sample, a tenth less per dropped one. It knows no latency but `timeout`: for dependencies that
    refuse, or time out, when they are overloaded.

    Args:
        initial: where the limit begins, default 20.
        minimum: never lower, default 20. Lower it for a dependency that takes less from one process.
        maximum: never higher, default 200.
        backoff: what is left of the limit after a drop, in [0.5, 1), default 0.9.
        timeout: seconds from which an answer counts as dropped, more than 0, default 5.0.

    Raises:
        ConfigError: when an argument is out of range.

    Source: Chiu and Jain 1989; `AIMDLimit` of Netflix's concurrency-limits. One per limiter.

    Example:
        >>> from resilient.policies.limit_algorithms import AIMD
        >>> AIMD().update(30.0, 0.1, 30, True)
        27.0
    """

    def __init__(
        self,
        *,
        initial: int = INITIAL,
        minimum: int = 20,
        maximum: int = 200,
        backoff: float = 0.9,
        timeout: float = 5.0,
    ) -> None:
        super().__init__("AIMD", initial, minimum, maximum)
        self._backoff = _backoff("AIMD", backoff)
        self._timeout = positive_seconds("AIMD", "timeout", timeout)

    def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
        """The next limit."""
        if dropped or rtt > self._timeout:
            limit *= self._backoff
        elif not app_limited(limit, in_flight):
            limit += 1
        return self.clamped(limit)

    def __repr__(self) -> str:
        return "AIMD()"


class _Lull:
    """Now and then half the limit for two samples: the second shows how fast the dependency is with a shorter queue.

    Under a load that never ends every sample contains queueing. A baseline that only averages or ages them takes the
    queue for normal, and the limit drifts up for ever. In the first sample of the two the queue drains.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._left = 0
        self._back = 0.0

    def due(self, every: float) -> bool:
        """Whether it is time; counts the samples."""
        self._samples += 1
        return self._samples >= every

    def begin(self, limit: float) -> float:
        """The limit for the lull."""
        self._samples, self._left, self._back = 0, 2, limit
        return limit / 2

    def next(self, limit: float, dropped: bool) -> float | None:
        """The limit after a sample of the lull; None when it is no such sample. A drop ends it: the sample counts."""
        if self._left == 0:
            return None
        self._left = 0 if dropped else self._left - 1
        if dropped:
            return None
        return limit if self._left else self._back

    @property
    def measured(self) -> bool:
        """Whether the sample just given to `next` is the second."""
        return self._left == 0


class Vegas(_Bounds):
    """Keep a short queue in front of the dependency, as TCP Vegas does.

    The queue is estimated from latency: limit x (1 - fastest / sample). It grows fast while there is none, slowly below
    `alpha`, shrinks above `beta`; both count in units of log10(limit). A dropped sample shrinks it. It reacts faster
    than Gradient2 and is misled more by latencies that differ by nature: for dependencies whose calls are alike.

    Args:
        initial: where the limit begins, default 20.
        maximum: never higher, default 1000; never lower than 1.
        alpha: queue below which the limit grows, default 3.
        beta: queue above which it shrinks, default 6.
        smoothing: share of each change that is taken, in (0, 1], default 1.0.
        decrease: a function of the limit that gives the smaller one; default limit - log10(limit).

    Raises:
        ConfigError: when an argument is out of range.

    Source: Brakmo and Peterson 1995; `VegasLimit` of Netflix's concurrency-limits. There the fastest latency is taken
    anew from whatever sample comes after 30 x limit of them; here from one at half the limit. One per limiter.

    Example:
        >>> from resilient.policies.limit_algorithms import Vegas
        >>> vegas = Vegas(initial=10)
        >>> vegas.update(10.0, 0.010, 10, False)  # the first sample says how fast it is
        10.0
        >>> vegas.update(10.0, 0.050, 10, False)
        9.0
    """

    def __init__(
        self,
        *,
        initial: int = INITIAL,
        maximum: int = 1000,
        alpha: int = 3,
        beta: int = 6,
        smoothing: float = 1.0,
        decrease: Callable[[float], float] | None = None,
    ) -> None:
        super().__init__("Vegas", initial, 1, maximum)
        self._alpha = whole("Vegas", "alpha", alpha)
        self._beta = whole("Vegas", "beta", beta, least=self._alpha)
        self._smoothing = ratio("Vegas", "smoothing", smoothing)
        if decrease is not None and not callable(decrease):
            raise ConfigError(f"Vegas: decrease must be a function of the limit, not {decrease!r}", path="decrease")
        self._decrease = decrease or _by_its_logarithm
        self._fastest: float | None = None
        self._lull = _Lull()

    def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
        """The next limit."""
        lull = self._lull.next(limit, dropped)
        if dropped:
            return self._moved(limit, self._decrease(limit))
        if lull is not None:
            if self._lull.measured:
                self._fastest = rtt
            return lull
        if self._fastest is None or rtt < self._fastest:
            self._fastest = rtt
            return limit
        if app_limited(limit, in_flight):
            return limit
        if self._lull.due(_LULL_VEGAS * limit):
            return self.clamped(self._lull.begin(limit))
        queue = math.ceil(limit * (1 - self._fastest / rtt))
        unit = _log10(limit)
        if queue <= unit:
            wanted = limit + self._beta * unit
        elif queue < self._alpha * unit:
            wanted = limit + unit
        elif queue > self._beta * unit:
            wanted = self._decrease(limit)
        else:
            return limit
        return self._moved(limit, wanted)

    def _moved(self, limit: float, wanted: float) -> float:
        return limit + self._smoothing * (self.clamped(wanted) - limit)

    def __repr__(self) -> str:
        return "Vegas()"


class Gradient2(_Bounds):
    """Compare the latency of now with the latency of long: shrink by their ratio, grow by a short queue.

    next = limit x gradient + queue, gradient = tolerance x long / now, in [0.5, 1]; a fifth of the change is taken per
    sample. A dropped sample leaves `backoff` of the limit. It bears calls that differ by nature better than Vegas.

    Args:
        initial: where the limit begins, default 20.
        minimum: never lower, default 20. Lower it for a dependency that takes less from one process: with the default
            the limiter never protects more than a bulkhead of 20 does.
        maximum: never higher, default 200.
        queue: calls that may queue, default 4; what the limit grows by.
        tolerance: how much slower than usual is still fine, at least 1, default 1.5.
        smoothing: share of each change that is taken, in (0, 1], default 0.2.
        long: samples in the long average, default 600: with windows of a second, ten minutes.
        backoff: what is left of the limit after a drop, in [0.5, 1), default 0.9.

    Raises:
        ConfigError: when an argument is out of range.

    Source: `Gradient2Limit` of Netflix's concurrency-limits. Ours differs in three points, each found with a simulated
    server of 20 places. Drops shrink the limit: there they are not looked at, and a dependency that refuses fast makes
    the limit grow. A sample counts in the long average for twice that average at most: ten slow seconds do not make
    slow usual. Of 30 samples two are taken at half the limit: else a load that never ends makes its own queue
    usual, and the limit drifts to its maximum. One per limiter.

    Example:
        >>> from resilient.policies.limit_algorithms import Gradient2
        >>> gradient = Gradient2(initial=100)
        >>> for _ in range(10):
        ...     limit = gradient.update(100.0, 0.010, 10, False)
        >>> int(gradient.update(limit, 0.030, 100, False))
        90
    """

    def __init__(
        self,
        *,
        initial: int = INITIAL,
        minimum: int = 20,
        maximum: int = 200,
        queue: int = 4,
        tolerance: float = 1.5,
        smoothing: float = 0.2,
        long: int = 600,
        backoff: float = 0.9,
    ) -> None:
        super().__init__("Gradient2", initial, minimum, maximum)
        self._queue = whole("Gradient2", "queue", queue)
        self._tolerance = number("Gradient2", "tolerance", tolerance)
        if self._tolerance < 1:
            raise ConfigError(f"Gradient2: tolerance must be at least 1, not {tolerance!r}", path="tolerance")
        self._smoothing = ratio("Gradient2", "smoothing", smoothing)
        self._backoff = _backoff("Gradient2", backoff)
        self._share = 2 / (whole("Gradient2", "long", long) + 1)
        self._long = 0.0
        self._warm = 0
        self._lull = _Lull()

    def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
        """The next limit."""
        lull = self._lull.next(limit, dropped)
        if dropped:
            return self.clamped(limit * self._backoff)
        if lull is not None:
            if self._lull.measured:
                self._long = min(self._long, rtt)
            return lull
        long = self._averaged(rtt)
        if app_limited(limit, in_flight):
            return limit
        if self._lull.due(_LULL_GRADIENT):
            return self.clamped(self._lull.begin(limit))
        gradient = max(0.5, min(1.0, self._tolerance * long / rtt))
        wanted = limit * gradient + self._queue
        return self.clamped(limit + self._smoothing * (wanted - limit))

    def _averaged(self, rtt: float) -> float:
        """The long average with this sample in it."""
        if self._warm < _WARM_UP:  # the plain average of the first ones
            self._warm += 1
            self._long += (rtt - self._long) / self._warm
        else:
            self._long += (min(rtt, 2 * self._long) - self._long) * self._share
        long = self._long
        if long > 2 * rtt:  # it was slow for long and is fast again: do not wait for the average
            self._long *= 0.95
        return long

    def __repr__(self) -> str:
        return "Gradient2()"


_WARM_UP = 10  # samples that make the first long average
_LULL_GRADIENT = 30  # samples between two lulls: half the limit for two of 30 costs a thirtieth at most
_LULL_VEGAS = 30  # times the limit: Netflix's probe multiplier


def _log10(limit: float) -> int:
    return max(1, int(math.log10(max(1.0, limit))))


def _by_its_logarithm(limit: float) -> float:
    return limit - _log10(limit)


def _backoff(owner: str, value: object) -> float:
    found = number(owner, "backoff", value)
    if not 0.5 <= found < 1:
        raise ConfigError(f"{owner}: backoff must be from 0.5 to less than 1, not {value!r}", path="backoff")
    return found
