"""How many extra calls a service may get when it fails: a share of its first attempts."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from resilient.checks import number, positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.errors import ConfigError

_BUCKETS = 10
_MOST = 100.0  # extra calls per first attempt; more is no limit
_AT_HAND = 1.0  # seconds for which a caller may keep the counter: then the hits are folded into a number
_MANY = 10_000  # hits in the list, for who keeps no counter
_ROUNDING = 1e-9  # 0.2 x 15 may be a hair more than 3


class Hits(Protocol):
    """Where first attempts are counted."""

    def append(self, hit: None, /) -> None:
        """One more."""
        ...


@dataclass(frozen=True, slots=True)
class RetryBudgetSnapshot:
    """One moment of a budget: plain data; `as_dict()` fits JSON.

    Attributes:
        first_attempts: of the last `window` seconds.
        retries: extra calls of the same seconds.
        in_flight: extra calls that were allowed and have not ended.
        refused: extra calls refused since the budget was made.
    """

    first_attempts: int
    retries: int
    in_flight: int
    refused: int

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict."""
        return asdict(self)


class RetryBudget:
    """Extra calls: at most `ratio` of the first attempts of the last `window` seconds, or `minimum_in_flight` at once.

    Three attempts each make an outage three times as expensive for the service that is down. A budget lets single
    failures be repeated and an outage not: then callers get the first error. Every `Retry` has one of its own; share
    one between those that call the same service by passing the same object.

    Safe for threads and event loops; counting is exact. A first attempt takes no lock.

    Args:
        ratio: extra calls per first attempt, 0 … 100, default 0.2: at most a fifth more load.
        minimum_in_flight: with fewer extra calls than this under way one more is always allowed, 0 or more, default 3:
            a service that is called once a minute would never see a retry else.
        window: seconds that count, more than 0, default 10.0; in ten steps.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is out of range, or nothing would ever be allowed.

    Source: the ratio and the window are those of Finagle's RetryBudget, the minimum is failsafe-go's.

    Example:
        >>> from resilient.budget import RetryBudget
        >>> budget = RetryBudget(ratio=0.5, minimum_in_flight=0)
        >>> for _ in range(2):
        ...     budget.deposit()
        >>> budget.take()
        <permit of a RetryBudget, held>
        >>> budget.take() is None  # one of two is half: no more until older calls leave or new ones come
        True
    """

    __slots__ = (
        "__weakref__",
        "_buckets",
        "_clock",
        "_ends",
        "_hits",
        "_live",
        "_lock",
        "_minimum",
        "_now",
        "_ratio",
        "_refused",
        "_width",
        "_window",
    )

    def __init__(
        self, ratio: float = 0.2, *, minimum_in_flight: int = 3, window: float = 10.0, clock: Clock | None = None
    ) -> None:
        self._ratio = number("RetryBudget", "ratio", ratio)
        if not 0 <= self._ratio <= _MOST:
            hint = f"; for {ratio:g} % write {ratio / 100:g}" if ratio > _MOST else ""
            raise ConfigError(f"RetryBudget: ratio must be from 0 to {_MOST:g}, not {ratio!r}{hint}", path="ratio")
        self._minimum = whole("RetryBudget", "minimum_in_flight", minimum_in_flight, least=0)
        self._window = positive_seconds("RetryBudget", "window", window)
        if not self._ratio and not self._minimum:
            raise ConfigError("RetryBudget: ratio and minimum_in_flight are 0: it would never allow one", path="ratio")
        self._clock = clock or SYSTEM_CLOCK
        self._now = self._clock.monotonic
        self._width = self._window / _BUCKETS
        self._refused = 0
        self._begin()
        forget_on_fork(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may call through here
        self._live: set[object] = set()  # tokens, not permits: a permit that is dropped gives its place back
        bucket = _Bucket(self._now() + self._width)
        self._buckets = deque([bucket])
        # Read without the lock: who reads it just before a step counts into the older bucket.
        self._ends, self._hits = bucket.ends, bucket.hits

    @property
    def clock(self) -> Clock:
        """Where its time comes from."""
        return self._clock

    @property
    def ratio(self) -> float:
        """Extra calls per first attempt."""
        return self._ratio

    @property
    def minimum_in_flight(self) -> int:
        """So many extra calls at once are always allowed."""
        return self._minimum

    @property
    def window(self) -> float:
        """Seconds that count."""
        return self._window

    def deposit(self) -> None:
        """A first attempt is made."""
        now = self._now()
        if now >= self._ends:
            self._roll(now)
        hits = self._hits
        hits.append(None)
        if len(hits) > _MANY:
            with self._lock:
                self._buckets[-1].fold_locked()

    def counting(self, now: float) -> tuple[Hits, float]:
        """Where to append a first attempt, and until when: for whoever reads this clock at each call anyway.

        Who does it a moment later counts into the older tenth of the window, which hurts nobody.
        """
        if now >= self._ends:
            self._roll(now)
        with self._lock:
            self._buckets[-1].fold_locked()  # a tenth of a long window holds millions
            return self._hits, min(self._ends, now + _AT_HAND)

    def take(self) -> RetryPermit | None:
        """Allow an extra call: a permit to release when that call has ended, or None. Never waits."""
        now = self._now()
        if now >= self._ends:
            self._roll(now)
        with self._lock:
            allowed = len(self._live) < self._minimum
            if not allowed:
                firsts, retries = self._sums_locked()
                allowed = retries + _ROUNDING < self._ratio * firsts
            if not allowed:
                self._refused += 1
                return None
            token, bucket = object(), self._buckets[-1]
            permit = RetryPermit(self, token, bucket)  # first: when it is lost to an interrupt its place is not
            self._live.add(token)
            bucket.retries += 1
        return permit

    def snapshot(self) -> RetryBudgetSnapshot:
        """Counts of one moment."""
        now = self._now()
        if now >= self._ends:
            self._roll(now)
        with self._lock:
            firsts, retries = self._sums_locked()
            return RetryBudgetSnapshot(firsts, retries, len(self._live), self._refused)

    def reset(self) -> None:
        """As new: nothing counted, nothing in flight."""
        now = self._now()
        with self._lock:
            self._live.clear()
            self._refused = 0
            current = self._buckets[-1]
            if current.ends - self._width <= now < current.ends:
                current.forget_locked()  # it stays: whoever counts may keep it at hand until it ends
                self._buckets = deque([current])
                return
        self._begin()

    def after_fork_in_child(self) -> None:
        """The calls under way are the parent's."""
        self._begin()

    def __repr__(self) -> str:
        found = self.snapshot()
        return (
            f"<RetryBudget {self._ratio:.0%} of the last {self._window:g} s: {found.retries} of"
            f" {found.first_attempts} first attempts, {found.in_flight} in flight>"
        )

    def _roll(self, now: float) -> None:
        with self._lock:
            buckets, width = self._buckets, self._width
            ends = buckets[-1].ends
            if now < ends:  # another thread was faster
                return
            ends += width * ((now - ends) // width + 1)
            bucket = _Bucket(ends if ends > now else now + width)
            buckets.append(bucket)
            self._hits = bucket.hits
            self._ends = bucket.ends
            buckets[-2].fold_locked()  # after the step: a signal handler in between finds nothing to do
            oldest = bucket.ends - self._window + width / 2
            while buckets[0].ends < oldest:
                buckets.popleft()

    def _sums_locked(self) -> tuple[int, int]:
        return (
            sum(bucket.first_attempts_locked() for bucket in self._buckets),
            sum(bucket.retries for bucket in self._buckets),
        )


class RetryPermit:
    """One extra call that was allowed; the first settlement counts. One that is dropped gives its place back."""

    __slots__ = ("_bucket", "_budget", "_token")  # the token last: with it the permit is whole

    def __init__(self, budget: RetryBudget, token: object, bucket: _Bucket) -> None:
        self._budget = budget
        self._bucket = bucket
        self._token = token

    def release(self) -> None:
        """The call has ended, well or not."""
        self._budget._live.discard(self._token)  # one step, no lock: also from a garbage collection

    def unused(self) -> None:
        """The call was not made: it counts for nothing."""
        budget = self._budget
        with budget._lock:
            if self._token in budget._live:
                budget._live.discard(self._token)
                self._bucket.retries -= 1

    def __del__(self) -> None:
        if hasattr(self, "_token"):  # else interrupted while it was made
            self.release()

    def __repr__(self) -> str:
        return f"<permit of a RetryBudget, {'held' if self._token in self._budget._live else 'settled'}>"


class _Bucket:
    """A tenth of the window."""

    __slots__ = ("_folded", "ends", "hits", "retries")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.retries = 0
        self.hits: list[None] = []  # appending is the cheapest step that no other thread can split
        self._folded = 0

    def first_attempts_locked(self) -> int:
        """How many were counted."""
        return self._folded + len(self.hits)

    def fold_locked(self) -> None:
        """Keep the number only; who is late still appends."""
        hits = len(self.hits)
        del self.hits[:hits]
        self._folded += hits

    def forget_locked(self) -> None:
        """Count from zero."""
        self.hits.clear()
        self._folded = self.retries = 0
