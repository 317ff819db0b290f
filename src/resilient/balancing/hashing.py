"""The same key to the same host, from every process, with a bound on its load."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Collection
from typing import TypeAlias

from resilient.balancing.fleet import Fleet
from resilient.balancing.guarded import RoundRobin
from resilient.balancing.hosts import Host, Identity, identity
from resilient.balancing.strategies import Chooser
from resilient.checks import number
from resilient.discovery import Instance
from resilient.errors import ConfigError

POINTS = 160  # per host of weight 1; libketama's number: shares then differ by 10 per cent or so
MOST_POINTS = 65_536  # on the ring of a large fleet
LEAST_POINTS = 8
SLOW = 0.2  # guard from which a host loses keys: five times as slow as the median, or failing
_Ring: TypeAlias = tuple[tuple[Instance, ...], list[int], list[int]]  # whose, the points, whose each is
_PER_DIGEST = 8  # points of 8 bytes in one digest


class ConsistentHash(Chooser):
    """Calls with the same key go to the same instance, in every process; when the list changes few keys move.

    A ring of hashes (Karger et al. 1997) with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): an instance with
    more than `bound` times the mean of this process's calls in flight is passed over, the next on the ring gets the
    call. So is one that is out, and for most calls one that is five times as slow as the median or fails. Calls without
    a key go round robin.

    For caches and shards. Not for spreading load: with few keys some instances get none.

    Args:
        bound: how many times the mean load one instance may have, more than 1, default 1.25; `inf`: any.
        rng: gives a float in [0, 1) for the start of calls without a key; default `random.random`.

    Raises:
        ConfigError: when `bound` is not more than 1.

    Safe for threads and event loops. The hash is BLAKE2b, the same on every machine.

    Example:
        >>> from resilient.balancing import Balancer, ConsistentHash
        >>> from resilient.discovery import Discovery
        >>> discovery = Discovery.from_url("static://cache=10.0.0.1:11211,10.0.0.2:11211,10.0.0.3:11211")
        >>> balancer = Balancer("cache", discovery, ConsistentHash)
        >>> len({balancer.pick(key="user-7").instance for _ in range(10)})
        1
    """

    def __init__(self, *, bound: float = 1.25, rng: Callable[[], float] | None = None) -> None:
        super().__init__()
        if bound != math.inf and number("ConsistentHash", "bound", bound) <= 1:
            raise ConfigError(f"ConsistentHash: bound must be more than 1, not {bound!r}", path="bound")
        self._bound = bound
        self._rotation = RoundRobin(rng=rng or random.random)
        self._points_of: dict[tuple[Identity, int], list[int]] = {}
        self._whole: _Ring = ((), [], [])  # of the list
        self._ring: _Ring = ((), [], [])  # of the fleet `_for`, which may be a part of it
        self._for: Fleet | None = None

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Make the ring, outside the lock."""
        self._rotation.ready(instances)
        if self._whole[0] is not instances:
            self._whole = self._made(instances)

    def choose(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> Host:
        """The host of the key, or the next on the ring that may have it."""
        if key is None:
            return self._rotation.choose(fleet, None, tried)
        listed = fleet.listed
        if self._for is not fleet:
            self._fit(fleet)
        _, points, owners = self._ring
        mean = (fleet.load.in_flight + 1) / len(fleet.hosts)
        allowed = math.inf if self._bound == math.inf else math.ceil(self._bound * mean)
        place = bisect_left(points, _hash(key))
        seen: set[int] = set()
        spare = None
        for step in range(len(owners)):
            owner = owners[(place + step) % len(owners)]
            if owner in seen:
                continue
            seen.add(owner)
            host = listed[owner]
            if host not in fleet or host in tried:
                continue
            if host.in_flight < allowed and (host.guard > SLOW or _its_turn(host)):
                return host
            spare = spare or host
            if len(seen) == len(listed):
                break
        return spare or self._rotation.choose(fleet, None, tried)

    def _fit(self, fleet: Fleet) -> None:
        instances = tuple(host.instance for host in fleet.listed)
        if self._whole[0] == instances:
            self._ring = self._whole
        elif self._ring[0] != instances:
            self._ring = self._made(instances)
        self._for = fleet

    def _made(self, instances: tuple[Instance, ...]) -> _Ring:
        top = max((instance.weight for instance in instances), default=1.0) or 1.0
        most = min(POINTS, max(LEAST_POINTS, MOST_POINTS // max(1, len(instances))))
        before, self._points_of = self._points_of, {}
        pairs: list[tuple[int, int]] = []
        for owner, instance in enumerate(instances):
            count = max(1, round(most * max(0.0, instance.weight) / top)) if top < math.inf else most
            who = (identity(instance), count)
            mine = self._points_of[who] = before.get(who) or _points(instance, count)
            pairs.extend((point, owner) for point in mine)
        pairs.sort()
        return instances, [point for point, _ in pairs], [owner for _, owner in pairs]


def _its_turn(host: Host) -> bool:
    """Whether a slow host is owed a call; it is owed its guard per call that asks."""
    host.credit += host.guard
    if host.credit < 1.0:
        return False
    host.credit -= 1.0
    return True


def _hash(key: str) -> int:
    given: object = key  # what a caller without a type checker may pass
    if not isinstance(given, str):
        raise TypeError(f"key must be text, not {key!r}")
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _points(instance: Instance, count: int) -> list[int]:
    """Where an instance stands on the ring: by its id if it has one, so that a new address keeps its keys."""
    name = instance.id or f"{instance.host}:{instance.port}"
    found: list[int] = []
    for turn in range(-(-count // _PER_DIGEST)):
        digest = hashlib.blake2b(f"{name}#{turn}".encode(errors="surrogatepass"), digest_size=64).digest()
        found.extend(int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8))
    return found[:count]
