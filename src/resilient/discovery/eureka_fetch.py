"""Asking Eureka for everything, again and again."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from resilient.clock import Clock
from resilient.discovery.eureka_wire import read_applications
from resilient.discovery.instance import Known
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.source import CONFIRM, Source
from resilient.discovery.steps import Answer, Exchange

logger = logging.getLogger("resilient")


class Fetch(Source):
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
        super().__init__(servers, roster, interval, clock, rng)
        self._lease = lease
        self._populated = False  # whether any answer named an instance
        self._read: Known = {}
        self._listed = 0  # instances of any status in the last answer
        self._believed = 0  # the same of the answer that is known now
        self._empty: float | None = None  # since when answers name nobody while somebody is known
        self._doubted = False  # whether the last answer lacked half of what is known, and waits for another

    def _look(self) -> Exchange[None]:
        answer = yield from self._servers.ask("GET", "/apps/", self._accept, read=True)
        if answer.good and not answer.error:
            self._populated = self._populated or bool(self._read)
            believed = self._believe()
            if believed and self._populated:
                self._again()
            else:  # empty at first: everybody is starting; or in doubt: look again soon
                most = self._interval if believed else min(self._interval, CONFIRM)
                self._next = self._clock.monotonic() + self._backoff.next(most)
            if believed:
                self._believed = self._listed
                self._roster.replace(self._read)
        else:
            self._empty = None  # a registry that is away may come back empty: its lease begins then
            self._failed(answer)

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
