"""Choosing among the instances of one service."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from resilient.balancing.hosts import HeldLease, Host, InstanceSnapshot, Lease
from resilient.balancing.strategies import RoundRobin, Strategy
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError, NoInstanceError
from resilient.events import Event, publish

__all__ = ["Balancer", "BalancerSnapshot", "InstancePutAside", "InstanceSnapshot", "Lease"]

logger = logging.getLogger("resilient")

_Identity: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class InstancePutAside(Event):
    """No connection to `instance` of the service `name` could be made: for `seconds` others are preferred."""

    instance: Instance
    seconds: float


@dataclass(frozen=True, slots=True)
class BalancerSnapshot:
    """One moment of a balancer.

    Attributes:
        service: whose.
        instances: one entry per instance that is known or still has calls in flight.
    """

    service: str
    instances: tuple[InstanceSnapshot, ...]

    @property
    def in_flight(self) -> int:
        """Leases that are not settled."""
        return sum(entry.in_flight for entry in self.instances)


class Balancer:
    """Chooses instances of one service and learns from how the calls end.

    The instances are those that discovery knows at the moment of the pick. An instance to which no connection could be
    made is put aside: others are preferred for 1 s, twice as long each time the one call that then tries it fails, at
    most 30 s; the first success forgets it. (A process that was killed stays listed until its registry lease ends.)
    The last one is never put aside, and when all others have been tried an instance that is aside is chosen too.

    Args:
        service: the logical name.
        discovery: who is there.
        strategy: makes the object that chooses, one per balancer; default `RoundRobin`.
        secure: True to choose only among instances that speak TLS, False only among those that do not; None: all.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when `strategy` is not a function that makes a strategy.

    Safe for threads and event loops; no lock is held while the strategy chooses.

    Example:
        >>> from resilient.balancing import Balancer
        >>> from resilient.discovery import Discovery
        >>> balancer = Balancer("db", Discovery.from_url("static://db=10.0.0.1:5432"))
        >>> with balancer.pick() as lease:
        ...     lease.instance.port
        5432
    """

    def __init__(
        self,
        service: str,
        discovery: Discovery,
        strategy: Callable[[], Strategy] = RoundRobin,
        *,
        secure: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.service = service
        self._discovery = discovery
        self._strategy = _made(strategy)
        self._secure = secure
        self._clock = clock or SYSTEM_CLOCK
        self._lock = threading.Lock()
        self._hosts: dict[_Identity, Host] = {}
        self._aside: dict[_Identity, Host] = {}  # those that could not be connected to last time
        self._dropped: deque[Host] = deque()
        self._changes = 0  # of who is aside
        self._kept: tuple[tuple[Instance, ...], int, float, tuple[Instance, ...]] | None = None
        self._list: tuple[tuple[Instance, ...], tuple[Instance, ...]] = ((), ())  # as discovered, as usable here
        forget_on_fork(self)

    def instances(self) -> tuple[Instance, ...]:
        """What may be chosen now, always in the same order while the list does not change."""
        found = self._discovery.instances(self.service)
        known = self._list
        if found is known[0]:
            return known[1]
        # In an order of our own: a registry that answers in another order each time would disturb the rotation.
        usable = tuple(sorted((i for i in found if self._secure in (None, i.secure)), key=_identity))
        self._list = (found, usable)
        self._forget_the_gone(usable)
        return usable

    def untried(self, tried: Collection[Instance], /) -> bool:
        """Whether there is an instance that is not among `tried`."""
        return any(instance not in tried for instance in self.instances())

    def pick(self, *, key: str | None = None, exclude: Collection[Instance] = ()) -> Lease:
        """A lease on an instance, at once.

        Args:
            key: what calls that belong together have in common, for strategies that keep them together.
            exclude: instances that were tried already: not chosen while there is another one.

        Raises:
            NoInstanceError: when none is known; says what is known, and to whom.
        """
        instances = self.instances()
        if not instances:
            self._discovery.refresh_soon()
            raise self._nobody()
        now = self._clock.monotonic()
        choice = self._choose(instances, key, exclude, now)
        with self._lock:
            self._drain_locked()
            host = self._host_locked(choice)
            trial = host.picked(now)
            self._changes += trial
        return HeldLease(host, trial=trial, settle=self._settle, reached=self._reached, dropped=self._dropped.append)

    def snapshot(self) -> BalancerSnapshot:
        """Picks, calls in flight and failures per instance at one moment."""
        listed = self.instances()
        with self._lock:
            self._drain_locked()
            now = self._clock.monotonic()
            for instance in listed:
                self._host_locked(instance)
            return BalancerSnapshot(self.service, tuple(host.snapshot(now) for host in self._hosts.values()))

    def __repr__(self) -> str:
        return f"<Balancer {self.service!r} {len(self.instances())} instances, {self._strategy!r}>"

    def after_fork_in_child(self) -> None:
        """The calls in flight are the parent's."""
        self._lock = threading.Lock()
        self._dropped.clear()
        self._kept = None
        for host in self._hosts.values():
            host.in_flight = 0

    def _choose(
        self, instances: tuple[Instance, ...], key: str | None, exclude: Collection[Instance], now: float
    ) -> Instance:
        preferred = self._preferred(instances, now)
        if not exclude:
            return self._strategy.pick(preferred, key)
        # Walk on in the whole rotation, past what was tried: rotating among the rest alone would stay in step with the
        # failures and send the same instance the load of two (measured: 1.8 times its share).
        for _ in range(len(exclude) + 1):
            choice = self._strategy.pick(preferred, key)
            if choice not in exclude:
                return choice
        untried = [instance for instance in preferred if instance not in exclude]
        untried = untried or [instance for instance in instances if instance not in exclude]
        return self._strategy.pick(untried or preferred, key)

    def _preferred(self, instances: tuple[Instance, ...], now: float) -> tuple[Instance, ...]:
        if not self._aside:  # nearly always; no lock for that
            return instances
        kept = self._kept  # a scan of the list per pick would be felt at a thousand instances
        if kept is not None and kept[0] is instances and kept[1] == self._changes and now < kept[2]:
            return kept[3]
        with self._lock:
            preferred = tuple(instance for instance in instances if not self._is_aside_locked(instance, now))
            ends = [host.aside_until for host in self._aside.values() if host.is_aside(now)]
            self._kept = (instances, self._changes, min(ends, default=float("inf")), preferred or instances)
        return preferred or instances

    def _is_aside_locked(self, instance: Instance, now: float) -> bool:
        host = self._aside.get(_identity(instance))
        return host is not None and host.is_aside(now)

    def _host_locked(self, instance: Instance) -> Host:
        identity = _identity(instance)
        host = self._hosts.get(identity)
        if host is None:
            host = self._hosts[identity] = Host(instance)
        else:
            host.instance = instance  # the same one; its metadata may be new
        return host

    def _settle(self, host: Host, how: str, trial: bool) -> None:
        listed = self.instances() if how == "unreachable" else ()
        aside = None
        with self._lock:
            now = self._clock.monotonic()
            host.in_flight = max(0, host.in_flight - 1)  # after a fork a lease of the parent may end here
            if how == "success":
                host.answered()
                self._reached_locked(host)
            elif how in {"failure", "unreachable"}:
                host.failed()
            if how == "unreachable" and any(
                other != host.instance and not self._is_aside_locked(other, now) for other in listed
            ):
                aside = host.put_aside(now, trial=trial)
                self._aside[_identity(host.instance)] = host
                self._changes += 1
        if how == "unreachable":
            self._discovery.refresh_soon()
        if aside is not None:
            instance = host.instance
            logger.info(
                "no connection to %s:%d of %r: others first for %g s", instance.host, instance.port, self.service, aside
            )
            publish(InstancePutAside(self.service, now, instance, aside))

    def _reached(self, host: Host) -> None:
        if self._aside:  # rarely; no lock for that
            with self._lock:
                self._reached_locked(host)

    def _reached_locked(self, host: Host) -> None:
        host.reached()
        if self._aside.pop(_identity(host.instance), None) is not None:
            self._changes += 1

    def _drain_locked(self) -> None:
        while self._dropped:
            host = self._dropped.popleft()
            host.in_flight = max(0, host.in_flight - 1)

    def _forget_the_gone(self, listed: tuple[Instance, ...]) -> None:
        stay = {_identity(instance) for instance in listed}
        with self._lock:
            for identity in [one for one, host in self._hosts.items() if one not in stay and not host.in_flight]:
                del self._hosts[identity]
                self._aside.pop(identity, None)

    def _nobody(self) -> NoInstanceError:
        known = self._discovery.instances(self.service)
        if known:
            speak = "none of them speaks TLS" if self._secure else "all of them speak TLS: use https"
            what = f"{len(known)} are known, {speak}"
        else:
            age = self._discovery.age(self.service)
            when = "has not answered yet" if age == float("inf") else f"was confirmed {age:.1f} s ago"
            what = f"{self._discovery!r} {when}"
        return NoInstanceError(f"no instance of {self.service!r} can be called: {what}", policy=self.service)


def _identity(instance: Instance) -> _Identity:
    """Who it is: counts survive an update, a move to another address begins anew."""
    return instance.id, instance.host, instance.port


def _made(strategy: Callable[[], Strategy]) -> Strategy:
    wanted = "Balancer: strategy must be a class or function that makes a strategy, such as RoundRobin"
    if not callable(strategy):
        raise ConfigError(f"{wanted}, not {strategy!r}", path="strategy")
    made = strategy()
    if not callable(getattr(made, "pick", None)):
        raise ConfigError(f"{wanted}; {strategy!r} made {made!r}, which has no pick()", path="strategy")
    return made
