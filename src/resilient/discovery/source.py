"""What every job that keeps a roster fresh has: when it works, and when again after it went wrong."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence

from resilient.clock import Clock
from resilient.discovery.events import InstancesStale
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Backoff, Exchange, pace
from resilient.events import publish

logger = logging.getLogger("resilient")

_SHOWN = 5  # problems named in one line of the log
_STALE = 3  # intervals without a confirmed answer
_SOONEST = 1.0  # seconds between looks that somebody asked for
CONFIRM = 4.0  # seconds, ± 20 %, at most until an answer that lacks too much is confirmed


class Source:
    """A job that looks who is there, again and again. Decides only; sends nothing itself.

    Args:
        servers: whom to ask.
        roster: who learns the answer.
        interval: seconds between looks that go well, and the longest between those that do not.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        servers: Servers,
        roster: Roster,
        interval: float,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._servers = servers
        self._roster = roster
        self._interval = interval
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(interval, rng)
        self._next = self._started = -math.inf
        self._soon = False
        self._stale = False  # whether that was told

    def _look(self) -> Exchange[None]:
        """Ask once; ends in `_again` or `_failed`."""
        raise NotImplementedError

    def soon(self) -> bool:
        """Look a second after the last look began, or now; whether that was news."""
        news = not self._soon
        self._soon = True
        return news

    def due(self) -> float:
        """The next time of the interval, or sooner when asked."""
        return min(self._next, self._started + _SOONEST) if self._soon else self._next

    def work(self) -> Exchange[None]:
        """Look once; a look that fails changes nothing that is known."""
        self._soon = False
        self._started = self._clock.monotonic()
        try:
            yield from self._look()
        finally:
            self._tell_age()
            self._roster.answers.ring()  # who waits asks again, whatever came of it

    def _age(self) -> float:
        """Seconds since what this job looks for was confirmed."""
        return self._roster.age()

    def _tell_age(self) -> None:
        """Tell once when what is known was not confirmed for three intervals."""
        age = self._age()
        stale = _STALE * self._interval < age < math.inf
        if stale and not self._stale:
            reason = self._servers.trouble
            logger.warning("registry %s: what is known is %.0f s old: %s", self._servers.name, age, reason or "doubted")
            publish(InstancesStale(self._servers.name, self._clock.monotonic(), age, reason))
        self._stale = stale

    def _again(self, seconds: float | None = None) -> None:
        """It went well: look again after the interval, or after `seconds`."""
        self._backoff.reset()
        self._next = self._started + pace(self._interval if seconds is None else seconds, self._rng)

    def _failed(self, answer: Answer) -> None:
        """It went wrong: look again after a while that grows; what refuses our credentials is asked at the interval."""
        if answer.refused:
            self._next = self._started + pace(self._interval, self._rng)
        else:
            self._next = self._clock.monotonic() + self._backoff.next(self._interval)

    def _confirm(self) -> None:
        """It went well, but too little is there to be believed: look again soon."""
        self._next = self._clock.monotonic() + min(self._interval, CONFIRM) * (0.8 + 0.4 * self._rng())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._servers.name}>"


class Doubt:
    """A list that lost half of its instances, or all, is believed when the next one lacks them too.

    A registry that restarts, and a file that is being written, say so for a moment; an instance that is kept for a
    few seconds too long costs a retry.
    """

    def __init__(self) -> None:
        self._doubted = False

    def believes(self, before: int, after: int) -> bool:
        """Whether a list of `after` instances may replace one of `before`."""
        self._doubted = 2 * after <= before and before > 0 and not self._doubted
        return not self._doubted


def told_once(what: str) -> Callable[[Sequence[str]], None]:
    """A function that warns of a list of problems when it is not the one that it warned of last."""
    last: list[str] = []

    def tell(problems: Sequence[str]) -> None:
        if list(problems) == last:
            return
        last[:] = problems
        if problems:
            more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            logger.warning("%s %s%s", what, "; ".join(problems[:_SHOWN]), more)

    return tell
