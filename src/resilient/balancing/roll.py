"""Who is there, and who of them may be chosen now: the list, what is out, panic, weights, slow starts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from resilient.balancing import latency, outliers
from resilient.balancing.events import PanicEntered, PanicLeft, tell
from resilient.balancing.fleet import EMPTY, Fleet, Load
from resilient.balancing.hosts import UNREACHABLE, Host, Identity, identity
from resilient.balancing.outliers import Outliers
from resilient.balancing.strategies import weigh
from resilient.discovery import Instance
from resilient.events import Event, Outbox

_NEVER = float("-inf")
_EVERY = 1.0  # seconds between two looks at latencies and slow starts
_SOON = 0.1  # while no median is known
_EVERY_OF_MANY = 0.0005  # seconds per instance: five for ten thousand, so that a look costs a thousandth of the time
_RAMP_FLOOR = 0.1  # of the full share, with which a slow start begins
_PANIC = outliers.DEFAULT.panic  # while nothing is ejected, those that asked for a pause or failed a check are out


class Roll:
    """The hosts of one balancer. One lock, nobody's code in it."""

    def __init__(
        self, service: str, *, settings: Outliers | None, slow_start: float | None, now: Callable[[], float]
    ) -> None:
        self.lock = threading.Lock()
        self.load = Load()
        self.fleet = EMPTY
        self.now = now
        self._service = service
        self._settings = settings
        self._slow_start = slow_start
        self._hosts: dict[Identity, Host] = {}
        self._listed: tuple[Host, ...] = ()
        self._there: frozenset[Host] = frozenset()  # the same, to look up
        self._usable: tuple[Instance, ...] | None = None
        self._outs: dict[Host, None] = {}  # those of the list that are out, in the order in which they left
        self._starting: list[Host] = []  # those in their slow start
        self._began = False  # a list was seen: who comes later starts slowly
        self._median: float | None = None
        self._weighed = float("-inf")  # when the weights are to be found out again
        self._weights_changed = False
        self._panic = False
        self._outbox: Outbox[Event] = Outbox(tell)

    def renew(self, found: object, usable: tuple[Instance, ...], now: float) -> Fleet:
        """The fleet of a list, with everything that is known now; then told what changed."""
        with self.lock:
            self.drain_locked()
            if usable is not self._usable:
                self._list_locked(usable, now)
            fleet = self._fleet_locked(found, now)
        self._outbox.drain()
        return fleet

    def drain_locked(self) -> None:
        """Take back what nobody settled."""

    def _list_locked(self, usable: tuple[Instance, ...], now: float) -> None:
        listed, starting = list[Host](), list(self._starting)
        known: dict[Identity, Host] = {}
        for instance in usable:
            who = identity(instance)
            host = self._hosts.get(who)
            if host is None:
                host = Host(instance, now)
            host.instance = instance  # the same one; its weight and metadata may be new
            if host not in self._there and self._began and self._slow_start is not None:
                host.joined = now
                starting.append(host)
            if who not in known:
                listed.append(host)
            known[who] = host
        for who, host in self._hosts.items():
            if who not in known and host.in_flight:
                known[who] = host  # in the snapshot until its calls have ended
        in_order, there = tuple(listed), frozenset(listed)
        outs = dict.fromkeys([host for host in listed if host.out is not None])
        starting = [host for host in starting if host in there]
        began = self._began or bool(usable)
        # Nothing is called from here on: an interrupt finds the list of before, or this one.
        self._hosts, self._listed, self._there, self._outs, self._starting = known, in_order, there, outs, starting
        self._began = began
        self._weighed = _NEVER
        self._weights_changed = True  # the same hosts may have another zone or other metadata: a fleet shows instances
        self._usable = usable

    def _fleet_locked(self, found: object, now: float) -> Fleet:
        if not self._listed:
            self.fleet = Fleet((), (), self.load)
            return self.fleet
        if now >= self._weighed:
            self._weigh_locked(now)
        hosts: tuple[Host, ...] = self._listed
        ends = self._weighed
        if self._outs:
            hosts, ends = self._selectable_locked(now, ends)
        else:
            self._panic_locked(now, panic=False, selectable=len(hosts), there=len(hosts))
        if any(host.weight <= 0.0 for host in hosts):  # the registry drains them
            hosts = tuple(host for host in hosts if host.weight > 0.0) or hosts
        before = self.fleet
        if before.listed == self._listed and before.hosts == hosts and not self._weights_changed:
            before.found, before.fresh_until = found, ends
            return before
        self._weights_changed = False
        self.fleet = Fleet(hosts, self._listed, self.load, found, ends)
        return self.fleet

    def _weigh_locked(self, now: float) -> None:
        listed = self._listed
        before = [host.weight for host in listed]
        self._median = latency.median_of([host for host in listed if host.out is None], now, self._median)
        self._weighed = now + max(_SOON if self._median is None else _EVERY, _EVERY_OF_MANY * len(listed))
        for host in listed:
            host.guard = latency.guard_of(host, now, self._median) if host.out is None else 1.0
        for host in self._starting:
            full = self._slow_start or 0.0
            age = now - host.joined
            host.ramp = 1.0 if age >= full else _RAMP_FLOOR + (1.0 - _RAMP_FLOOR) * age / full
        self._starting = [host for host in self._starting if host.ramp < 1.0]
        weigh(listed)
        if before != [host.weight for host in listed]:
            self._weights_changed = True

    def _selectable_locked(self, now: float, ends: float) -> tuple[tuple[Host, ...], float]:
        below = _PANIC if self._settings is None else self._settings.panic
        panic, selectable, there = outliers.panics(self._outs, len(self._listed), below)
        self._panic_locked(now, panic=panic, selectable=selectable, there=there)
        gone = set()
        for host in self._outs:
            if host.is_due(now):
                continue
            if not panic or host.out == UNREACHABLE:
                gone.add(host)
            ends = min(ends, host.trial_ends if host.trial else host.until)
        return tuple(host for host in self._listed if host not in gone) or self._listed, max(ends, now + 1e-6)

    def _panic_locked(self, now: float, *, panic: bool, selectable: int, there: int) -> None:
        if panic is not self._panic:
            self._panic = panic
            kind = PanicEntered if panic else PanicLeft
            self._outbox.queue.append(kind(self._service, now, selectable, there))

    def _stale_locked(self) -> None:
        self.fleet.fresh_until = float("-inf")

    def hosts_of(self, instances: tuple[Instance, ...]) -> tuple[Host, ...]:
        """The listed hosts of some instances."""
        found = (self._hosts.get(identity(instance)) for instance in instances)
        return tuple(host for host in found if host is not None)

    def _is_listed_locked(self, host: Host) -> bool:
        return host in self._there
