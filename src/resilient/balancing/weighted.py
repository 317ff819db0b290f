"""Weights, followed exactly and evenly."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection

from resilient.balancing.fleet import Fleet
from resilient.balancing.hosts import Host
from resilient.balancing.strategies import Chooser
from resilient.checks import number
from resilient.discovery import Instance
from resilient.errors import ConfigError

_LEAST = 1e-6  # of the greatest weight; a turn of its own every million picks is no turn


class WeightedRoundRobin(Chooser):
    """Round robin in which an instance of weight 3 gets three turns for one of weight 1, spread over the round.

    Each host has a time at which its next turn is due, 1 / weight after the last; the earliest is next (earliest
    deadline first, as in Envoy; nginx's smooth weighted round robin gives the same shares). A host that is slow or new
    gets a part of its turns, as with `RoundRobin`. When the list or a weight changes, everybody's next turn stays due
    when it was.

    `RoundRobin` follows the registry's weights, too, and costs less; use this one for weights of your own, or when they
    differ by more than 1 to 20.

    Args:
        weight: the weight of an instance, a number of 0 or more; default the registry's, `Instance.weight`. Asked once
            per instance and list.
        rng: gives a float in [0, 1) for the start; default `random.random`.

    Raises:
        ConfigError: at a pick, when `weight` gives no such number.

    Safe for threads and event loops. A pick takes time with the logarithm of the number of instances.

    Example:
        >>> from resilient.balancing import WeightedRoundRobin
        >>> from resilient.discovery import Instance
        >>> big, small = Instance("db", "10.0.0.1", 5432, weight=3.0), Instance("db", "10.0.0.2", 5432)
        >>> rotation = WeightedRoundRobin(rng=lambda: 0.0)
        >>> instances = (big, small)
        >>> [rotation.pick(instances, None).host[-1] for _ in range(8)]
        ['1', '1', '2', '1', '1', '1', '2', '1']
    """

    def __init__(
        self, *, weight: Callable[[Instance], float] | None = None, rng: Callable[[], float] | None = None
    ) -> None:
        super().__init__()
        if weight is not None and not callable(weight):
            raise ConfigError(f"WeightedRoundRobin: weight must be a function, not {weight!r}", path="weight")
        self._weight = weight
        self._rng = rng or random.random
        self._start: float | None = None
        self._weights: tuple[tuple[Instance, ...], dict[Instance, float], float] = ((), {}, 1.0)  # the greatest last
        self._time = 0.0
        self._due: dict[Host, tuple[float, float]] = {}  # when, and with which weight that was found out
        self._heap: list[tuple[float, int, float, Host]] = []
        self._for: Fleet | None = None

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Draw the start; ask for weights."""
        if self._start is None:
            self._start = self._rng()
        if self._weight is not None and self._weights[0] is not instances:
            found = {instance: number("WeightedRoundRobin", "weight", self._weight(instance)) for instance in instances}
            if min(found.values(), default=0.0) < 0:
                raise ConfigError("WeightedRoundRobin: weight must be 0 or more, not negative", path="weight")
            self._weights = (instances, found, max(found.values(), default=1.0) or 1.0)

    def choose(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> Host:  # weights know no keys
        """The one whose turn is due first."""
        if self._for is not fleet:
            self._arrange(fleet)
        heap = self._heap
        if not tried:
            due, order, weight, host = heap[0]
            heapq.heapreplace(heap, (due + 1.0 / weight, order, weight, host))
            self._time = due
            return host
        later = []
        while heap[0][3] in tried:
            later.append(heapq.heappop(heap))
        due, order, weight, host = heap[0]
        heapq.heapreplace(heap, (due + 1.0 / weight, order, weight, host))
        for entry in later:
            heapq.heappush(heap, entry)
        self._time = max(self._time, due)
        return host

    def _arrange(self, fleet: Fleet) -> None:
        for due, _, weight, host in self._heap:
            self._due[host] = (due, weight)
        self._for = fleet
        size = len(fleet.hosts)
        start = int((self._start or 0.0) * size)
        listed = set(fleet.listed)
        self._due = {host: kept for host, kept in self._due.items() if host in listed}
        self._heap = []
        for place, host in enumerate(fleet.hosts):
            weight = max(self._weight_of(host), _LEAST)
            due, before = self._due.get(host, (self._time + 0.5 / weight, weight))
            if due < self._time:  # it was out: it is not owed what it missed
                due, before = self._time + 0.5 / weight, weight
            if before != weight:
                due = self._time + (due - self._time) * before / weight
            self._heap.append((due, (place - start) % size, weight, host))
        heapq.heapify(self._heap)

    def _weight_of(self, host: Host) -> float:
        if self._weight is None:
            return host.weight
        _, known, top = self._weights
        return known.get(host.instance, top) / top * host.guard * host.ramp

    def after_fork_in_child(self) -> None:
        """Draw a new start."""
        super().after_fork_in_child()
        self._start = self._for = None
        self._due, self._heap = {}, []
