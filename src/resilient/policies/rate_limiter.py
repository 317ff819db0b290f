"""At most so many calls in so many seconds: what one dependency allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

from resilient.checks import number, positive_seconds, whole
from resilient.clock import Clock
from resilient.errors import ConfigError, RateLimitedError, RejectedError
from resilient.events import Event
from resilient.gate import Calling, HeldPermit, Permit
from resilient.gate_waits import Waiter
from resilient.outcome import Outcome
from resilient.policy import UNLIMITED, Policy
from resilient.queued_gate import ROUNDING, QueuedGate

OWNER = "RateLimiter"
_LATE = (
    0.05  # seconds by which a waiter may wake late and still count at its time: a thread switch, no suspended laptop
)


@dataclass(frozen=True, slots=True)
class RateSettings:
    """What may change while calls wait."""

    limit: float
    per: float
    burst: int
    max_wait: float
    every: float  # seconds that one call costs


@dataclass(frozen=True, slots=True)
class RateLimiterSnapshot:
    """One moment of a rate limiter: plain data; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        limit: calls per `per` seconds.
        per: seconds.
        burst: calls that may come at once after a pause.
        available: calls that would be admitted at once now; below 0: as many are waiting for their time.
        waiting: callers that wait for their time.
        accepted: calls admitted since it was made.
        rejected: calls refused since then.
    """

    name: str
    limit: float
    per: float
    burst: int
    available: int
    waiting: int
    accepted: int
    rejected: int

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, logs and pages."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RateLimited(Event):
    """A rate limiter refused a call; `retry_after` seconds until one would be admitted."""

    retry_after: float | None


class RateLimiter(QueuedGate):
    """At most `limit` calls per `per` seconds, in bursts of up to `burst`.

    After a pause `burst` calls may come at once, then one each `per / limit` seconds: in any interval of t seconds at
    most `burst + t * limit / per`. With `burst=1` calls are evenly spaced and no interval of `per` seconds sees more
    than `limit` (and one at its very end).

    A call that can not be admitted within `max_wait`, or before the caller's deadline, is refused at once; the others
    wait, first come, first served, across threads and event loops. A waiter that is cancelled gives its turn to the
    next, and a call that was refused further in gives back what it took. `acquire()` never waits.

    Args:
        limit: calls per `per` seconds, more than 0; 0.5 is one every two seconds.
        per: seconds, more than 0, default 1.0.
        burst: calls that may come at once, 1 or more; default `limit`, rounded down, at least 1.
        max_wait: seconds a call may wait for its turn, 0 or more, default 0.0: refused at once.
        name: label in metrics, events and errors; default "rate_limiter".
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: at construction, when an argument is out of range.
        RateLimitedError: from a guarded call; `retry_after` says when a call would be admitted at once.

    Safe for threads and event loops. One process counts for itself: for a limit that processes share see
    `SharedRateLimiter`.

    Source: GCRA, the cell rate algorithm of ITU-T I.371: one float says how far ahead of its schedule the traffic is.

    Example:
        >>> from resilient.policies.rate_limiter import RateLimiter
        >>> limiter = RateLimiter(100, per=60.0, burst=2, name="maps")
        >>> @limiter
        ... def look_up(place: str) -> str:
        ...     return place.title()
        >>> look_up("bern"), look_up("basel")
        ('Bern', 'Basel')
        >>> limiter.snapshot().available
        0
    """

    kind = "rate_limiter"
    rejects_with = RateLimitedError
    holds = False

    def __init__(
        self,
        limit: float,
        *,
        per: float = 1.0,
        burst: int | None = None,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = _settings(limit, per, burst, max_wait)
        self._ahead = -math.inf  # when traffic so far would have ended, had it come evenly
        self._pending = 0.0  # what the line will take
        self._low = -math.inf  # when a call last found less than one call's time ahead of it
        super().__init__(name, clock=clock)

    def acquire(self, weight: float = 1.0) -> Permit:
        """Admit a call at once, or raise; never waits.

        Args:
            weight: as how many calls it counts, more than 0 and at most `burst`, default 1.

        Raises:
            RateLimitedError: when the rate is used up.
            ConfigError: for a weight that could never be admitted.
        """
        if weight != 1.0:
            self._check_weight(weight, 0.0)
        return HeldPermit(self, self.admit(UNLIMITED, weight))

    def calling(self, weight: float = 1.0) -> Calling:
        """Guard a block, waiting for its turn up to `max_wait`; `with` or `async with`.

        Args:
            weight: as how many calls it counts, more than 0, default 1; more than `burst` only where the wait for the
                rest is at most `max_wait`.

        Raises:
            RateLimitedError: on entering, when the rate is used up for longer than that.
            ConfigError: for a weight that could never be admitted.
        """
        if weight != 1.0:
            self._check_weight(weight, self.settings.max_wait)
        return Calling(self, partial(self.enter, weight=weight))

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`; what was taken too early stays owed, in calls."""
        with self._lock:
            now, old, new = self._now(), self.settings, other.settings
            owed = (self._ahead - now) / old.every
            if owed > 0:
                self._ahead = now + owed * new.every
            self._low = now  # what was given out before is not given back in full
            self.settings = new
            woken = self._serve_locked(now)
        self._wake(woken)

    def reset(self) -> None:
        """As new: nothing taken, nothing counted; who waits goes first."""
        with self._lock:
            now = self._now()
            self._ahead, self._low = -math.inf, now
            self._accepted = self._rejected = 0
            woken = self._serve_locked(now)
        self._wake(woken)

    def snapshot(self) -> RateLimiterSnapshot:
        """Counts of one moment: consistent, cheap."""
        with self._lock:
            now, settings = self._now(), self.settings
            woken = self._serve_locked(now)
            owed = max(0.0, (self._ahead - now) / settings.every) + self._pending
            found = RateLimiterSnapshot(
                self.name,
                settings.limit,
                settings.per,
                settings.burst,
                math.floor(settings.burst - owed + 1e-6),
                len(self._line),
                self._accepted,
                self._rejected,
            )
        self._wake(woken)
        return found

    def describe(self) -> str:
        """One sentence: the rate, the burst, the wait."""
        settings = self.settings
        text = f"RateLimiter {self.name!r}: {settings.limit:g} calls per {settings.per:g} s, {settings.burst} at once"
        return f"{text}, others wait up to {settings.max_wait:g} s" if settings.max_wait else f"{text}, others refused"

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """The wait comes on top."""
        return wait + self.settings.max_wait, calls

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """What is not counted, what is held for nothing."""
        found = []
        if any(policy.kind == "retry" for policy in inside):
            found.append(f"{self!r} outside Retry counts a call with all its attempts as one: put it inside")
        if self.settings.max_wait and any(policy.kind == "bulkhead" for policy in outside):
            found.append(f"{self!r} inside a Bulkhead waits with a place in its hands: put it outside")
        return found

    def __repr__(self) -> str:
        settings = self.settings
        text = f"RateLimiter({settings.limit:g}, per={settings.per:g}, burst={settings.burst}"
        if settings.max_wait:
            text += f", max_wait={settings.max_wait:g}"
        return f"{text}, name={self.name!r})"

    def after_fork_in_child(self) -> None:
        """Who waits does so in the parent; what was taken stays taken."""
        super().after_fork_in_child()
        self._pending = 0.0

    # --- the line's questions ---------------------------------------------------------------------------------------

    def _take_locked(self, now: float, weight: float) -> _Token | None:
        settings = self.settings
        every, ahead = settings.every, self._ahead
        if ahead < now:
            ahead = now
        if ahead + (weight - settings.burst) * every > now + ROUNDING:
            return None
        if ahead - now < every:
            self._low = now
        self._ahead = ahead + weight * every
        self._accepted += 1
        return _Token(self, weight, now)

    def _next_locked(self, head: Waiter, now: float) -> _Token | None:
        turn = self._turn_locked(head)
        if turn > now + ROUNDING:
            return None
        settings = self.settings
        ahead = max(self._ahead, head.since)
        if now - turn > _LATE:  # this machine stood still: what it missed is not made up for in one burst
            ahead += now - turn - _LATE
        if ahead - now < settings.every:
            self._low = now
        self._ahead = ahead + head.weight * settings.every
        self._parted_locked(head)
        self._accepted += 1
        return _Token(self, head.weight, now)

    def _turn_locked(self, head: Waiter) -> float:
        """When it is the turn of the first in line."""
        settings = self.settings
        ahead = max(self._ahead, head.since)
        return max(head.since, ahead + (head.weight - settings.burst) * settings.every)

    def _is_early_locked(self, head: Waiter, now: float) -> bool:
        turn = self._turn_locked(head)
        if turn >= head.due - ROUNDING:
            return False
        head.due = turn
        return True

    def _due_locked(self, waiter: Waiter, now: float) -> float:
        head = self._head_locked()
        return waiter.due if head is None or waiter.due > now else min(waiter.until, self._turn_locked(head))

    def _outlook_locked(self, now: float, weight: float) -> float:
        settings = self.settings
        ahead = max(self._ahead + self._pending * settings.every, now)
        return max(0.0, ahead + (weight - settings.burst) * settings.every - now)

    def _joined_locked(self, waiter: Waiter, now: float) -> None:
        if not self._line:
            self._pending = 0.0  # whatever sums of fractions have left
            self._ahead = max(self._ahead, now)
        self._pending += waiter.weight

    def _parted_locked(self, waiter: Waiter) -> None:
        self._pending = max(0.0, self._pending - waiter.weight)

    def _return_locked(self, ticket: _Token) -> None:
        self._accepted = max(0, self._accepted - 1)  # a reset may have come between
        self._refund_locked(ticket)

    def _refund_locked(self, ticket: _Token) -> None:
        """Take back what a call took that was not made, as far as the promise of the class still holds then.

        While there was always a call's time ahead, all of it. Else somebody may have been admitted who would have been
        without it as well: then the time since has given back as much already.
        """
        cost = ticket.weight * self.settings.every
        if ticket.weight > 1 or ticket.at < self._low:
            cost = max(0.0, cost - (self._now() - ticket.at))
        self._ahead -= cost

    def _patience(self) -> tuple[float, int | None]:
        return self.settings.max_wait, None

    def _refusal(self, wait: float, waited: float) -> RejectedError:
        settings = self.settings
        text = f"{self.name!r}: more than {settings.limit:g} calls per {settings.per:g} s; next call in {wait:.3g} s"
        return RateLimitedError(text, policy=self.name, retry_after=wait)

    def _refused(self, now: float, error: RejectedError) -> Event:
        return RateLimited(self.name, now, error.retry_after)

    def refund(self, token: _Token) -> None:
        """The call of `token` was not made."""
        with self._lock:
            self._refund_locked(token)
            woken = self._serve_locked(self._now()) if self._line else None
        if woken:
            self._wake(woken)

    def _check_weight(self, weight: float, patience: float) -> None:
        settings = self.settings
        if number(OWNER, "weight", weight) <= 0:
            raise ConfigError(f"{OWNER}: weight must be more than 0, not {weight!r}", path="weight")
        if (weight - settings.burst) * settings.every > patience + ROUNDING:
            raise ConfigError(
                f"{OWNER}: weight {weight:g} could never be admitted: burst is {settings.burst}"
                f" and the wait for the rest is longer than {patience:g} s",
                path="weight",
            )


class _Token:
    """One admitted call. Dropped unsettled it stays taken: nobody knows whether it was made."""

    __slots__ = ("_limiter", "at", "weight")

    def __init__(self, limiter: RateLimiter, weight: float, at: float) -> None:
        self._limiter = limiter
        self.weight = weight
        self.at = at

    def success(self, elapsed: float, now: float) -> None:
        """It was made."""

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """It was made."""

    def unused(self) -> None:
        """It was not."""
        self._limiter.refund(self)

    def retain(self) -> bool:
        """Nothing to hold: time gives it back."""
        return False

    def release(self) -> None:
        """Likewise."""


def _settings(limit: float, per: float, burst: int | None, max_wait: float) -> RateSettings:
    rate = number(OWNER, "limit", limit)
    if rate <= 0:
        raise ConfigError(
            f"{OWNER}: limit must be more than 0 calls, not {limit!r}; to stop all calls, force a breaker open",
            path="limit",
        )
    seconds = positive_seconds(OWNER, "per", per)
    wait = number(OWNER, "max_wait", max_wait)
    if wait < 0:
        raise ConfigError(
            f"{OWNER}: max_wait must be 0 seconds (never wait) or more, not {max_wait!r}", path="max_wait"
        )
    if wait:
        positive_seconds(OWNER, "max_wait", wait)
    at_once = max(1, math.floor(rate)) if burst is None else whole(OWNER, "burst", burst)
    return RateSettings(rate, seconds, at_once, wait, seconds / rate)
