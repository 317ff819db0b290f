"""Round robin, the default: plain rotation, in which a host's turn may shrink but never grow."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from resilient.balancing.fleet import Fleet
from resilient.balancing.hosts import Host
from resilient.balancing.strategies import Chooser
from resilient.discovery import Instance

_GOLDEN = 0.618033988749895  # steps of this size spread evenly: hosts with small turns do not get them all at once


class RoundRobin(Chooser):
    """One after the other, from a random start; a host that is slow, new or lighter gets a part of its turns.

    While the fleet is equal, of any k x H picks in a row among H instances each gets exactly k, from however many
    threads. A host more than twice as slow as the median gets its turn only the median's share of times (5 per cent at
    least), so two hosts of twenty that are five times as slow cost nothing; one that weighs less in the registry gets
    that share. Nobody ever gets more than one turn per round, however fast it looks.

    The position goes on when the list changes. The start is drawn at the first pick, once per process and again after a
    fork: clients that start together, and the workers of a prefork server, do not all begin with the same instance.

    Args:
        guarded: False for plain rotation, whatever is known about the hosts.
        rng: gives a float in [0, 1) for the start; default `random.random`.

    Safe for threads and event loops.

    Example:
        >>> from resilient.balancing import RoundRobin
        >>> from resilient.discovery import Instance
        >>> a, b = Instance("db", "10.0.0.1", 5432), Instance("db", "10.0.0.2", 5432)
        >>> rotation = RoundRobin(rng=lambda: 0.0)
        >>> [rotation.pick((a, b), None).host for _ in range(3)]
        ['10.0.0.1', '10.0.0.2', '10.0.0.1']
    """

    def __init__(self, *, guarded: bool = True, rng: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._guarded = guarded
        self._rng = rng or random.random
        self._position: int | None = None

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Draw the start, if there is none."""
        if self._position is None:
            start = int(self._rng() * len(instances))
            with self._lock:  # of two threads that draw at once, one counts
                if self._position is None:
                    self._position = start

    def choose(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> Host:  # rotation knows no keys
        """The next one."""
        hosts, position = fleet.hosts, self._position or 0
        if not tried and (fleet.plain or not self._guarded):
            self._position = position + 1
            return hosts[position % len(hosts)]
        host, self._position = _walk(fleet, position, tried, guarded=self._guarded)
        return host

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:  # rotation knows no keys
        """The next of `instances`, for use without a balancer."""
        return super().pick(instances, key)

    def __repr__(self) -> str:
        return "RoundRobin()" if self._guarded else "RoundRobin(guarded=False)"

    def after_fork_in_child(self) -> None:
        """Draw a new start: the children of one parent must not go in step."""
        super().after_fork_in_child()
        self._position = None


def _walk(fleet: Fleet, position: int, tried: Collection[Host], *, guarded: bool) -> tuple[Host, int]:
    """Go on from `position` to a host whose turn it is; (that one, the position after it).

    Each host is owed its weight per round and is chosen when that adds up to a whole turn: one step per pick while all
    weigh the same, and one divided by the mean weight otherwise, whatever the size of the fleet.
    """
    hosts, size, top = fleet.hosts, len(fleet.hosts), fleet.top
    guarded = guarded and not fleet.plain and top > 0.0
    last = position + size
    while True:
        if position == last:  # the heaviest were tried, or weigh less than when the fleet was made: who is left counts
            top = max(host.weight for host in hosts if host not in tried)
        place = position % size
        host = hosts[place]
        position += 1
        if host in tried:
            continue
        if not guarded or host.weight >= top:
            return host, position
        if host.credit == 0.0:
            host.credit = top * (place * _GOLDEN % 1.0)
        host.credit += host.weight
        if host.credit >= top:
            host.credit = max(host.credit - top, 1e-9)
            return host, position
