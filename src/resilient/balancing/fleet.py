"""The instances that may be chosen now: a tuple that is replaced when something changes, never changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from resilient.balancing.hosts import Host
from resilient.discovery import Instance

NOBODY: tuple[Host, ...] = ()


class Fleet:
    """What a strategy chooses among.

    Attributes:
        hosts: those that may be chosen, always in the same order while the list does not change.
        listed: all that discovery knows, those that are out included, in that order.
        instances: of `hosts`.
        top: the greatest weight of `hosts`.
        total: all weights of `hosts` together.
        plain: whether they all weigh that much.
        found: what discovery answered when this was made.
        fresh_until: when it has to be looked at again.
        load: the calls in flight of the whole balancer.
    """

    __slots__ = (
        "_hosts_of",
        "_members",
        "found",
        "fresh_until",
        "hosts",
        "instances",
        "listed",
        "load",
        "plain",
        "top",
        "total",
    )

    def __init__(
        self,
        hosts: Sequence[Host],
        listed: Sequence[Host],
        load: Load,
        found: object = None,
        fresh_until: float = float("-inf"),
    ) -> None:
        self.hosts = tuple(hosts)
        self.listed = tuple(listed)
        self.load = load
        self.instances = tuple(host.instance for host in self.hosts)
        weights = [host.weight for host in self.hosts]
        self.top = max(weights, default=1.0)
        self.total = sum(weights)
        self.plain = min(weights, default=1.0) == self.top
        self.found = found
        self.fresh_until = fresh_until
        self._members: frozenset[Host] | None = None
        self._hosts_of: dict[Instance, Host] | None = None

    def __contains__(self, host: object) -> bool:
        members = self._members
        if members is None:
            members = self._members = frozenset(self.hosts)
        return host in members

    def has_untried(self, tried: Collection[Host]) -> bool:
        """Whether a host may be chosen that was not tried."""
        return len(self.hosts) > sum(host in self for host in tried)

    def only(self, hosts: Iterable[Host], listed: Sequence[Host] | None = None) -> Fleet:
        """A part of it."""
        return Fleet(tuple(hosts), self.listed if listed is None else listed, self.load)

    def host_of(self, instance: Instance) -> Host | None:
        """The host of an instance that a strategy returned; None when it is not one that may be chosen."""
        known = self._hosts_of
        if known is None:
            known = self._hosts_of = dict(zip(self.instances, self.hosts, strict=True))
        return known.get(instance)


class Load:
    """How many calls are in flight, over all hosts. Under the balancer's lock."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0


EMPTY = Fleet((), (), Load(), found=object())
