"""Asking Eureka who is there: everything at first, what changed afterwards, everything again when in doubt."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable

from resilient.clock import Clock
from resilient.discovery.eureka_mirror import Mirror
from resilient.discovery.eureka_wire import Applications, read_applications
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.source import CONFIRM, Source, told_once
from resilient.discovery.steps import Answer, Exchange

logger = logging.getLogger("resilient")

_USELESS = 5  # deltas in a row that were of no use, until none is asked for
_FULL_MODE = 600.0  # seconds without deltas then


class Fetch(Source):
    """The job that keeps a roster fresh. Decides only; sends nothing itself.

    A delta is applied when the server's hash of everything confirms the outcome; else everything is fetched in the
    same cycle, as Netflix's client does. Five useless deltas in a row end them for ten minutes.

    Args:
        servers: whom to ask.
        roster: who learns the answer.
        interval: seconds between fetches.
        lease: seconds after which every producer that lives has renewed, so that an empty answer is believed.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
        delta: whether to ask for changes.
        confirm: whether an answer that lacks half or all of what is known is doubted at first.
    """

    def __init__(
        self,
        servers: Servers,
        roster: Roster,
        interval: float,
        lease: float,
        clock: Clock,
        rng: Callable[[], float] = random.random,
        *,
        delta: bool = True,
        confirm: bool = True,
    ) -> None:
        super().__init__(servers, roster, interval, clock, rng)
        self._lease = lease
        self._delta = delta
        self._doubts = confirm
        self._mirror = Mirror()
        self._synced = False  # whether the roster is what the mirror says, so that a delta can be applied to both
        self._useless = 0  # deltas in a row
        self._full_until = -math.inf
        self._populated = False  # whether any answer named an instance
        self._believed = 0  # instances of any status in the answer that is known now
        self._was_away = False  # whether the registry failed since its last answer, and so may have restarted
        self._refilling: float | None = None  # since when one that may have restarted names fewer than are known
        self._doubted = False  # whether the last answer lacked half of what is known, and waits for another
        self._answer: Applications | None = None  # the last one that could be read
        self._tell = told_once(f"registry {servers.name}: skipped:")

    @property
    def skipped(self) -> int:
        """How many instances of those listed can not be read."""
        return len(self._mirror.problems)

    def _look(self) -> Exchange[None]:
        if self._changes() and (yield from self._change()):
            return
        self._synced = False
        answer = yield from self._servers.ask("GET", "/apps/", self._readable, read=True)
        if not answer.good or answer.error or self._answer is None:
            self._away(answer)
            return
        said = self._answer.hashcode
        known = self._mirror.fill(self._answer)
        if said and said != self._mirror.hashcode:  # servers count while they change: the next one will do
            logger.debug(
                "registry %s: the full list is %s, its hash %s", self._servers.name, self._mirror.hashcode, said
            )
        if self._learn():
            self._roster.replace(known)
            self._synced = True

    def _changes(self) -> bool:
        """Whether a delta is worth asking for."""
        return self._synced and self._delta and self._clock.monotonic() >= self._full_until

    def _change(self) -> Exchange[bool]:
        """Ask what changed; whether that settles this look."""
        answer = yield from self._servers.ask("GET", "/apps/delta", _accept_delta, read=True)
        if answer.error or answer.status == 401:
            self._away(answer)
            return True
        if self._readable(answer) or self._answer is None or self._answer.hashcode is None:
            return self._useful(False, str(answer))
        changed = self._mirror.apply(self._answer)
        said = self._answer.hashcode
        if said != self._mirror.hashcode:
            return self._useful(False, f"its hash is {said}, ours {self._mirror.hashcode}")
        self._useful(True, "")
        if self._learn():
            self._roster.amend(changed)
        else:
            self._synced = False  # what confirms it is a full answer
        return True

    def _useful(self, useful: bool, why: str) -> bool:
        """Count the deltas that were of no use."""
        self._useless = 0 if useful else self._useless + 1
        if not useful:
            logger.debug("registry %s: a delta is of no use: %s", self._servers.name, why)
        if self._useless == _USELESS:
            self._useless = 0
            self._full_until = self._clock.monotonic() + _FULL_MODE
            logger.info("registry %s: no deltas for %.0f s: %s", self._servers.name, _FULL_MODE, why)
        return useful

    def _away(self, answer: Answer) -> None:
        self._was_away, self._refilling = True, None  # it may come back without memory: its lease begins then
        self._failed(answer)

    def _learn(self) -> bool:
        """Say when to look again, and whether the mirror is believed."""
        listed = self._mirror.listed
        self._tell(
            [f"instance {name!r} of {service!r}: {why}" for (service, name), why in self._mirror.problems.items()]
        )
        self._populated = self._populated or listed > 0
        believed = self._believe(listed)
        if believed and self._populated:
            self._again()
        else:  # empty at first: everybody is starting; or in doubt: look again soon
            most = self._interval if believed else min(self._interval, CONFIRM)
            self._next = self._clock.monotonic() + self._backoff.next(most)
        if believed:
            self._believed = listed
        return believed

    def _believe(self, listed: int) -> bool:
        """Whether the mirror may replace what is known: a registry that restarted has forgotten everybody.

        One that was away, or names nobody, may have restarted. While it names fewer than are known, it must do so for a
        lease, until the producers that live have renewed. Else one that lacks half must come twice.
        """
        if not self._doubts or listed >= self._believed:
            self._refilling, self._was_away, self._doubted = None, False, False
            return True
        now = self._clock.monotonic()
        if self._refilling is None and (self._was_away or not listed):
            self._refilling, self._was_away = now, False
            logger.warning(
                "registry %s: the registry answers %s; going on with the last known instances",
                self._servers.name,
                f"{listed} of {self._believed} instances after it was away" if listed else "an empty list",
            )
        if self._refilling is not None:
            return now - self._refilling >= self._lease
        self._doubted = 2 * listed <= self._believed and not self._doubted
        return not self._doubted

    def _readable(self, answer: Answer) -> str:
        """Why an answer can not be read, or "" when it is kept in `_answer`."""
        self._answer = None
        if not answer.good:
            return str(answer)
        try:
            self._answer = read_applications(answer.body)
        except ValueError as error:
            return str(error)
        return ""


def _accept_delta(answer: Answer) -> str:
    """What a server says when it has no deltas, or not yet, is an answer: it is asked for everything instead."""
    return "" if answer.good or answer.status in {403, 404} else str(answer)
