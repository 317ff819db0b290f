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
_SHORT = 4.0  # seconds, ± 20 %, at most between the fetches that confirm an answer which lacks too much


class Fetch:
    """The job that keeps a roster fresh. Decides only; sends nothing itself.

    Args:
        servers: whom to ask.
        roster: who learns the answer.
        interval: seconds between fetches.
        lease: seconds after which every producer that lives has renewed, so that an empty answer is believed.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        servers: Servers,
        roster: Roster,
        interval: float,
        lease: float,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.skipped = 0  # unreadable instances in the last answer
        self._servers = servers
        self._roster = roster
        self._interval = interval
        self._lease = lease
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(interval, rng)
        self._next = self._started = -math.inf
        self._soon = False
        self._populated = False  # whether any answer named an instance
        self._read: Known = {}
        self._listed = 0  # instances of any status in the last answer
        self._believed = 0  # the same of the answer that is known now
        self._empty: float | None = None  # since when answers name nobody while somebody is known
        self._doubted = False  # whether the last answer lacked half of what is known, and waits for another

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
            believed = self._believe()
            if believed and self._populated:
                self._backoff.reset()
                self._next = self._started + pace(self._interval, self._rng)
            else:  # empty at first: everybody is starting; or in doubt: look again soon
                most = self._interval if believed else min(self._interval, _SHORT)
                self._next = self._clock.monotonic() + self._backoff.next(most)
            if believed:
                self._believed = self._listed
                self._roster.replace(self._read)
        else:
            self._empty = None  # a registry that is away may come back empty: its lease begins then
            if answer.refused:
                self._next = self._started + pace(self._interval, self._rng)
            else:
                self._next = self._clock.monotonic() + self._backoff.next(self._interval)
        self._roster.answers.ring()  # who waits asks again, whatever came of it

    def _believe(self) -> bool:
        """Whether the answer may replace what is known: a registry that restarted has forgotten everybody.

        One that names nobody must stay so for a lease, until the producers that live have renewed; one that lacks half
        must come twice.
        """
        if self._believed and not self._listed:
            now = self._clock.monotonic()
            if self._empty is None:
                self._empty = now
                logger.warning(
                    "registry %s: the registry answers an empty list; going on with the last known instances",
                    self._servers.name,
                )
            return now - self._empty >= self._lease
        self._empty = None
        self._doubted = 0 < 2 * self._listed <= self._believed and not self._doubted
        return not self._doubted

    def _accept(self, answer: Answer) -> str:
        if not answer.good:
            return str(answer)
        try:
            self._read, skipped, self._listed = read_applications(answer.body)
        except ValueError as error:
            return str(error)
        if skipped and skipped != self.skipped:
            logger.warning("registry %s: %d unreadable instances are skipped", self._servers.name, skipped)
        self.skipped = skipped
        return ""

    def __repr__(self) -> str:
        return f"<Fetch {self._servers.name}>"
