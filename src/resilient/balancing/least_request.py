"""The host with the least to do, slow ones counted as busier."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

from resilient.balancing.fleet import Fleet
from resilient.balancing.hosts import Host
from resilient.balancing.strategies import Chooser
from resilient.discovery import Instance

SAMPLED = 10  # rounds after which a host is chosen whatever it looks like: without, one that healed is never found out
WIDEST = 100  # hosts that are compared; more would cost more than they are worth


class LeastRequest(Chooser):
    """The instance with the fewest calls in flight; a slow one counts as if it had more.

    Chooses the least of (calls in flight + 1) divided by the weight, which is less than 1 for a host more than twice as
    slow as the median, for a new one, and for one that weighs less in the registry. Ties go by rotation, so an idle
    fleet gets exactly round robin. Every host gets at least a tenth of its fair share, which is how one that is well
    again is noticed. In fleets of more than 100 the next 100 of the rotation are compared.

    For servers that differ in speed or do one thing at a time, called by few client processes. A process sees only its
    own calls in flight: with dozens of processes it is no better than `RoundRobin`, and slower to trust a host again.

    Args:
        rng: gives a float in [0, 1) for the start of the rotation; default `random.random`.

    Safe for threads and event loops; choosing and counting are one step.

    Example:
        >>> from resilient.balancing import Balancer, LeastRequest
        >>> from resilient.discovery import Discovery
        >>> discovery = Discovery.from_url("static://db=10.0.0.1:5432,10.0.0.2:5432")
        >>> balancer = Balancer("db", discovery, LeastRequest)
        >>> held = balancer.pick()
        >>> others = {balancer.pick().instance.host for _ in range(3)}  # each given back at once
        >>> held.instance.host in others
        False
    """

    def __init__(self, *, rng: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._rng = rng or random.random
        self._position: int | None = None
        self._turns = 0

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Draw the start, if there is none."""
        if self._position is None:
            start = int(self._rng() * len(instances))
            with self._lock:
                if self._position is None:
                    self._position = start

    def choose(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> Host:  # load knows no keys
        """The one with the least to do."""
        hosts = fleet.hosts
        size = len(hosts)
        position = (self._position or 0) % size
        self._turns = turn = self._turns + 1
        step = self._least(fleet, position, size if tried else min(size, WIDEST), tried)
        chosen = hosts[(position + step) % size]
        chosen.turn = turn
        self._position = position + step + 1
        return chosen

    def _least(self, fleet: Fleet, position: int, look: int, tried: Collection[Host]) -> int:
        """How many places after `position` the least is."""
        hosts, top, turn = fleet.hosts, fleet.top, self._turns
        size = len(hosts)
        long_ago = turn - SAMPLED * size
        best, least = 0, float("inf")
        window = hosts[position : position + look]
        if len(window) < look:
            window += hosts[: look - len(window)]
        if fleet.plain and not tried:
            for step, host in enumerate(window):
                busy = host.in_flight
                if not busy or host.turn <= long_ago:
                    return step
                if busy < least:
                    best, least = step, busy
            return best
        for step, host in enumerate(window):
            weight = host.weight
            if weight <= 0.0 or (tried and host in tried):
                continue
            if weight >= top:
                if not host.in_flight:
                    return step  # there is nobody better
                if host.turn <= long_ago:
                    return step
            elif host.turn <= long_ago or (host.guard == 1.0 and (turn - host.turn) * weight >= fleet.total):
                return step  # its turn, as far as its slow start and its weight give it one
            score = (host.in_flight + 1) / weight
            if score < least:
                best, least = step, score
        if least == float("inf"):  # what is left weighs nothing
            return next(step for step, host in enumerate(window) if host not in tried)
        return best

    def after_fork_in_child(self) -> None:
        """Draw a new start."""
        super().after_fork_in_child()
        self._position = None
