"""A part of a large fleet for each process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection

from resilient.balancing.fleet import Fleet
from resilient.balancing.guarded import RoundRobin
from resilient.balancing.hosts import Host
from resilient.balancing.strategies import AnyStrategy, Narrower, Strategy, made, make_ready
from resilient.checks import whole
from resilient.clock import forget_on_fork
from resilient.discovery import Instance
from resilient.errors import ConfigError


class Subset(Narrower):
    """A process calls `size` instances of a large fleet: fewer connections, and more calls from which to learn.

    Rendezvous hashing of the process's own name with each instance's id (gRPC's random subsetting, A68): when an
    instance comes or goes, at most one of a process's subset changes. When one is out, the next by rank takes its place
    meanwhile. With P processes an instance is called by P x size / H of them, more or less by chance: keep that above
    20 or so.

    Args:
        size: how many instances, at least 1, default 20; Ribbon's number.
        strategy: makes the object that chooses within the subset; default `RoundRobin`.
        client: the name of this process; default a random one, and another in each forked child. A name that survives
            a restart keeps the subset.

    Raises:
        ConfigError: when an argument is out of its range.

    Safe for threads and event loops.

    Example:
        >>> from resilient.balancing import Balancer, Subset
        >>> from resilient.discovery import Instance
        >>> from resilient.discovery.static import StaticDiscovery
        >>> fleet = StaticDiscovery({"db": [Instance("db", f"10.0.0.{n}", 5432) for n in range(100)]})
        >>> balancer = Balancer("db", fleet, lambda: Subset(5))
        >>> len({balancer.pick().instance for _ in range(50)})
        5
    """

    def __init__(
        self, size: int = 20, strategy: Callable[[], Strategy] = RoundRobin, *, client: str | None = None
    ) -> None:
        self._size = whole("Subset", "size", size)
        self._inner = made("Subset", strategy)
        given: object = client  # what a caller without a type checker may pass
        if given is not None and (not isinstance(given, str) or not given):
            raise ConfigError(f"Subset: client must be text that is not empty, not {client!r}", path="client")
        self._client = client
        self._name: str | None = client
        self._ranked: tuple[tuple[Instance, ...], dict[Instance, int]] = ((), {})
        self._part: tuple[Fleet | None, Fleet | None] = (None, None)
        forget_on_fork(self)

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Rank the instances of a new list."""
        if self._name is None:
            self._name = f"{random.getrandbits(64):x}"  # no secret
        if self._ranked[0] is not instances:
            name = self._name
            ranked = sorted(instances, key=lambda instance: _rank(name, instance))
            self._ranked = (instances, {instance: place for place, instance in enumerate(ranked)})
        make_ready(self._inner, instances)

    def narrow(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> tuple[Fleet, AnyStrategy]:
        """The subset of those that may be chosen."""
        known, part = self._part
        if known is not fleet or part is None:
            part = self._cut(fleet)
            self._part = (fleet, part)
        if tried and not part.has_untried(tried):
            return fleet, self._inner
        return part, self._inner

    def _cut(self, fleet: Fleet) -> Fleet:
        if len(fleet.hosts) <= self._size:
            return fleet
        places = self._ranked[1]
        last = len(places)
        mine = sorted(fleet.hosts, key=lambda host: places.get(host.instance, last))[: self._size]
        chosen = set(mine)
        listed = [host for host in fleet.listed if host in chosen or places.get(host.instance, last) < self._size]
        return fleet.only((host for host in fleet.hosts if host in chosen), listed)

    def after_fork_in_child(self) -> None:
        """A child is a process of its own."""
        self._name = self._client
        self._ranked = ((), {})
        self._part = (None, None)

    def __repr__(self) -> str:
        return f"Subset({self._size}, {self._inner!r})"


def _rank(client: str, instance: Instance) -> bytes:
    name = f"{client}|{instance.id or f'{instance.host}:{instance.port}'}"
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
