"""Asking Eureka for everything, again and again."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable

from resilient.clock import Clock
from resilient.discovery.eureka_wire import read_applications
from resilient.discovery.instance import Known
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Backoff, Exchange, pace

logger = logging.getLogger("resilient")

_SOONEST = 1.0  # seconds between fetches that somebody asked for


class Fetch:
    """The job that keeps a roster fresh. Decides only; sends nothing itself.

    Args:
        servers: whom to ask.
        roster: who learns the answer.
        interval: seconds between fetches.
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
        self.skipped = 0  # unreadable instances in the last answer
        self._servers = servers
        self._roster = roster
        self._interval = interval
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(interval, rng)
        self._next = self._started = -math.inf
        self._soon = False
        self._populated = False  # whether any answer named an instance
        self._read: Known = {}

    def soon(self) -> bool:
        """Fetch a second after the last one began, or now; whether that was news."""
        news = not self._soon
        self._soon = True
        return news

    def due(self) -> float:
        """The next time of the interval, or sooner when asked."""
        return min(self._next, self._started + _SOONEST) if self._soon else self._next

    def work(self) -> Exchange[None]:
        """Fetch once; a failed fetch changes nothing that is known."""
        self._soon = False
        self._started = self._clock.monotonic()
        answer = yield from self._servers.ask("GET", "/apps/", self._accept, read=True)
        if answer.good and not answer.error:
            self._populated = self._populated or bool(self._read)
            if self._populated:
                self._backoff.reset()
                self._next = self._started + pace(self._interval, self._rng)
            else:  # empty at first: everybody is starting, so look again soon
                self._next = self._clock.monotonic() + self._backoff.next(self._interval)
            self._roster.replace(self._read)
        elif answer.refused:
            self._next = self._started + pace(self._interval, self._rng)
        else:
            self._next = self._clock.monotonic() + self._backoff.next(self._interval)
        self._roster.answers.ring()  # who waits asks again, whatever came of it

    def _accept(self, answer: Answer) -> str:
        if not answer.good:
            return str(answer)
        try:
            self._read, skipped = read_applications(answer.body)
        except ValueError as error:
            return str(error)
        if skipped and skipped != self.skipped:
            logger.warning("registry %s: %d unreadable instances are skipped", self._servers.name, skipped)
        self.skipped = skipped
        return ""

    def __repr__(self) -> str:
        return f"<Fetch {self._servers.name}>"
