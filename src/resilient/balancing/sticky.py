"""Whoever was chosen once is chosen again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

from resilient.balancing.fleet import Fleet
from resilient.balancing.guarded import RoundRobin
from resilient.balancing.hashing import SLOW
from resilient.balancing.hosts import Host, Identity, identity
from resilient.balancing.strategies import AnyStrategy, Narrower, Strategy, made, make_ready
from resilient.checks import whole
from resilient.clock import forget_on_fork
from resilient.discovery import Instance


class Sticky(Narrower):
    """Calls with the same key keep to the instance that the first of them got, while it may be chosen.

    Calls without a key keep together, too: a process then talks to one instance until that is out, five times as slow
    as the median, or failing. Unlike `ConsistentHash` the first choice is free, and every process makes its own; what
    moved away does not move back. Keeping to an instance does not use up a turn of the others.

    For sessions in memory, digest authentication, caches of connections. Not for spreading load.

    Args:
        strategy: makes the object that chooses first; default `RoundRobin`.
        max_keys: how many keys are remembered, the one longest unused is forgotten first; default 10,000.

    Raises:
        ConfigError: when `strategy` makes no strategy, or `max_keys` is no whole number of at least 1.

    Safe for threads and event loops.

    Example:
        >>> from resilient.balancing import Balancer, Sticky
        >>> from resilient.discovery import Discovery
        >>> balancer = Balancer("db", Discovery.from_url("static://db=10.0.0.1:5432,10.0.0.2:5432"), Sticky)
        >>> len({balancer.pick(key="ann").instance for _ in range(10)})
        1
    """

    def __init__(self, strategy: Callable[[], Strategy] = RoundRobin, *, max_keys: int = 10_000) -> None:
        self._inner = made("Sticky", strategy)
        self._most = whole("Sticky", "max_keys", max_keys)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str | None, Identity] = OrderedDict()
        self._hosts: tuple[Fleet | None, dict[Identity, Host]] = (None, {})
        self._alone: dict[Identity, Fleet] = {}  # a host as a fleet of its own, of those that were asked for
        forget_on_fork(self)

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Hand it on."""
        make_ready(self._inner, instances)

    def narrow(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> tuple[Fleet, AnyStrategy]:
        """The host that is remembered, or all."""
        with self._lock:
            who = self._kept.get(key)
            if who is None:
                return fleet, self._inner
            if self._hosts[0] is not fleet:
                self._hosts, self._alone = (fleet, {identity(host.instance): host for host in fleet.hosts}), {}
            host = self._hosts[1].get(who)
            if host is None or host in tried or host.guard <= SLOW:
                return fleet, self._inner
            alone = self._alone.get(who)
            if alone is None:
                alone = self._alone[who] = fleet.only((host,))
        return alone, _THE_ONE

    def chosen(self, key: str | None, host: Host) -> None:
        """Remember it."""
        with self._lock:
            self._kept[key] = identity(host.instance)
            self._kept.move_to_end(key)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def after_fork_in_child(self) -> None:
        """A new lock; children choose for themselves."""
        self._lock = threading.Lock()
        self._kept.clear()

    def __repr__(self) -> str:
        return f"Sticky({self._inner!r})"


_THE_ONE = RoundRobin()
