"""Near before far, with as much spilling over as the near ones can not bear."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

from resilient.balancing.fleet import Fleet
from resilient.balancing.guarded import RoundRobin
from resilient.balancing.hosts import Host
from resilient.balancing.strategies import AnyStrategy, Narrower, Strategy, made, make_ready
from resilient.clock import forget_on_fork
from resilient.discovery import Instance
from resilient.errors import ConfigError

SPARE = 1.4  # a level bears this many times its share before calls spill over; Envoy's over-provisioning factor
_GONE = object()  # the level of an instance that only the list before had: last, for the moment of the change
LEAST_LOCAL = 3  # instances; of fewer, one that fails would cost a third of the calls or more


class Priorities(Narrower):
    """The instances of the first level get all calls, while enough of them may be chosen; else the next get the rest.

    A level gets min(1, 1.4 x chosen from / known) of the calls, the levels after it what is left: with 7 of 10 well all
    calls stay, with 5 of 10 well 30 per cent go on.

    Args:
        level: the level of an instance, something that can be ordered; lower ones are first. Asked once per instance
            and list.
        strategy: makes the object that chooses within a level, one for each; default `RoundRobin`.

    Raises:
        ConfigError: when `level` is no function or `strategy` makes no strategy.

    Safe for threads and event loops.

    Example:
        >>> from resilient.balancing import Balancer, Priorities
        >>> from resilient.discovery import Discovery
        >>> discovery = Discovery.from_url("static://db=10.0.0.1:5432,10.0.0.2:5432")
        >>> def level(instance):
        ...     return 1 if instance.host == "10.0.0.2" else 0  # or int(instance.metadata.get("priority", 0))
        >>> balancer = Balancer("db", discovery, lambda: Priorities(level))
        >>> {balancer.pick().instance.host for _ in range(4)}
        {'10.0.0.1'}
    """

    def __init__(
        self, level: Callable[[Instance], int | float | str], strategy: Callable[[], Strategy] = RoundRobin
    ) -> None:
        if not callable(level):
            raise ConfigError(f"{type(self).__name__}: level must be a function, not {level!r}", path="level")
        self._level: Callable[[Instance], Hashable] = level
        self._strategy = strategy
        self._inner: dict[Hashable, AnyStrategy] = {}
        self._sample = made(type(self).__name__, strategy)  # so that a mistake shows where it was made
        self._levels: tuple[tuple[Instance, ...], dict[Instance, Hashable]] = ((), {})
        self._parts: tuple[Fleet | None, object, list[_Part]] = (None, None, [])  # of a fleet, by these levels
        self._lock = threading.Lock()
        forget_on_fork(self)

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Ask for the levels, and make a strategy for each."""
        if self._levels[0] is not instances:
            levels = {instance: self._level(instance) for instance in instances}
            for level in levels.values():
                if level not in self._inner:
                    self._inner[level] = made(type(self).__name__, self._strategy)
            self._levels = (instances, levels)
        for inner in list(self._inner.values()):
            make_ready(inner, instances)

    def narrow(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> tuple[Fleet, AnyStrategy]:
        """A level by its share."""
        with self._lock:
            levels = self._levels[1]
            if self._parts[0] is not fleet or self._parts[1] is not levels:
                self._parts = (fleet, levels, self._split(fleet, levels))
            parts = self._parts[2]
            if tried:
                parts = [part for part in parts if part.fleet.has_untried(tried)]
            chosen = parts[0] if len(parts) == 1 else _by_share(parts)
        return chosen.fleet, chosen.inner

    def _split(self, fleet: Fleet, levels: Mapping[Instance, Hashable]) -> list[_Part]:
        hosts: dict[Hashable, list[Host]] = {}
        listed: dict[Hashable, list[Host]] = {}
        for known in fleet.listed:
            listed.setdefault(levels.get(known.instance, _GONE), []).append(known)
        for host in fleet.hosts:
            hosts.setdefault(levels.get(host.instance, _GONE), []).append(host)
        left, parts = 1.0, []
        last = [_GONE] if _GONE in listed else []
        for level in [*self._order([level for level in listed if level is not _GONE]), *last]:
            mine = hosts.get(level, [])
            share = min(left, SPARE * len(mine) / len(listed[level]))
            left -= share
            if mine:
                inner = self._inner.get(level, self._sample)
                parts.append(_Part(share, fleet.only(mine, listed[level]), inner))
        return parts

    def _order(self, listed: Collection[Hashable]) -> Sequence[Hashable]:
        return sorted(listed)  # type: ignore[type-var]  # the levels of one function can be compared

    def after_fork_in_child(self) -> None:
        """A new lock."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sample!r})"


class Zoned(Priorities):
    """The instances of one zone, and others as far as those can not bear the load.

    The own zone gets min(1, 1.4 x chosen from / known) of the calls, the other zones the rest, by turns. While the own
    zone has fewer than three instances, or there is no other zone, zones do not matter.

    Args:
        strategy: makes the object that chooses within the own zone, and another for the rest; default `RoundRobin`.
        zone: where this process runs, as the registry spells it (`Instance.zone`).

    Raises:
        ConfigError: when `zone` is no text or `strategy` makes no strategy.

    Safe for threads and event loops.

    Example:
        >>> from resilient.balancing import Balancer, Zoned
        >>> from resilient.discovery import Instance
        >>> from resilient.discovery.static import StaticDiscovery
        >>> known = [Instance("db", f"10.0.{zone}.{n}", 5432, zone=f"eu-{zone}") for zone in (1, 2) for n in range(3)]
        >>> balancer = Balancer("db", StaticDiscovery({"db": known}), lambda: Zoned(zone="eu-1"))
        >>> {balancer.pick().instance.zone for _ in range(12)}
        {'eu-1'}
    """

    def __init__(self, strategy: Callable[[], Strategy] = RoundRobin, *, zone: str) -> None:
        given: object = zone  # what a caller without a type checker may pass
        if not isinstance(given, str) or not given:
            raise ConfigError(f"Zoned: zone must be text that is not empty, not {zone!r}", path="zone")
        super().__init__(lambda instance: int(instance.zone != zone), strategy)
        self._zone = zone

    def _split(self, fleet: Fleet, levels: Mapping[Instance, Hashable]) -> list[_Part]:
        near = sum(host.instance.zone == self._zone for host in fleet.listed)
        if near < LEAST_LOCAL or near == len(fleet.listed):
            return [_Part(1.0, fleet, self._sample)]
        return super()._split(fleet, levels)

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """Ask for the zones."""
        super().ready(instances)
        make_ready(self._sample, instances)

    def __repr__(self) -> str:
        return f"Zoned({self._sample!r}, zone={self._zone!r})"


class _Part:
    """A level of a fleet, and what it is owed."""

    __slots__ = ("fleet", "inner", "owed", "share")

    def __init__(self, share: float, fleet: Fleet, inner: AnyStrategy) -> None:
        self.share = share
        self.fleet = fleet
        self.inner = inner
        self.owed = 0.0


def _by_share(parts: Sequence[_Part]) -> _Part:
    """The part that is owed most: shares are followed exactly, by turns."""
    for part in parts:
        part.owed += part.share
    chosen = max(parts, key=lambda part: part.owed)
    chosen.owed -= sum(part.share for part in parts)
    return chosen
