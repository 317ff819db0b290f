"""Choosing among the instances of one service."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

from resilient.balancing.book import BalancerSnapshot, Book
from resilient.balancing.fleet import NOBODY, Fleet
from resilient.balancing.guarded import RoundRobin
from resilient.balancing.hosts import Host, identity
from resilient.balancing.leases import HeldLease, Lease
from resilient.balancing.outliers import DEFAULT, Outliers
from resilient.balancing.strategies import Narrower, Strategy, ask, asked_under_lock, made, make_ready
from resilient.checks import positive_seconds
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError, NoInstanceError

_ROUNDS = 10  # of choosing again because something changed meanwhile; then what was chosen is good enough


class Balancer:
    """Chooses instances of one service and learns from how the calls end.

    The instances are those that discovery knows at the moment of the pick. Of these are preferred those that

    - can be connected to: one that refuses is put aside for 1 s, twice as long each time the one call that then tries
      it fails, at most 30 s; all but one may be. (A process that was killed stays listed until its lease ends.)
    - do not fail: see `Outliers`; at most a third may be ejected for that.
    - have not asked for a pause (Retry-After), and are well by the health checks, if there are any.
    - are not slow: more than twice the median latency costs a share of the turns, see `RoundRobin`.
    - are not new: one that joins a list that was known before begins with a tenth of its share.

    When nobody is left, or less than half because of failures, those that are out are chosen all the same: there is
    never an error while discovery knows an instance. After its time one call tries an instance that is out; a success
    brings it back and forgets what was remembered against it.

    Args:
        service: the logical name.
        discovery: who is there.
        strategy: makes the object that chooses, one per balancer; default `RoundRobin`.
        secure: True to choose only among instances that speak TLS, False only among those that do not; None: all.
        outliers: when an instance is ejected because its calls fail; None: never.
        slow_start: seconds in which a new instance comes to its full share, default 60; None: at once. The first list
            of a balancer starts in full.
        rng: gives a float in [0, 1) for the jitter of ejections; default `random.random`.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when `strategy` is not a function that makes a strategy, or another argument is out of its range.

    Safe for threads and event loops, which may share one; no lock is held while code of yours runs.

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
        outliers: Outliers | None = DEFAULT,
        slow_start: float | None = 60.0,
        rng: Callable[[], float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if outliers is not None and not isinstance(outliers, Outliers):
            raise ConfigError(f"Balancer: outliers must be an Outliers or None, not {outliers!r}", path="outliers")
        if slow_start is not None:
            slow_start = positive_seconds("Balancer", "slow_start", slow_start)
        if rng is not None and not callable(rng):
            raise ConfigError(f"Balancer: rng must be a function, not {rng!r}", path="rng")
        self.service = service
        self._discovery = discovery
        self._strategy = made("Balancer", strategy)
        self._choose = asked_under_lock(self._strategy)
        self._secure = secure
        self._now = (clock or SYSTEM_CLOCK).monotonic
        self._book = Book(
            service,
            settings=outliers,
            slow_start=slow_start,
            rng=rng or random.random,
            now=self._now,
            lost=discovery.refresh_soon,
        )
        self._list: tuple[tuple[Instance, ...], tuple[Instance, ...]] = ((), ())  # as discovered, as usable here
        forget_on_fork(self)

    def instances(self) -> tuple[Instance, ...]:
        """What may be chosen now, always in the same order while the list does not change."""
        found = self._discovery.instances(self.service)
        known = self._list
        if found is known[0]:
            return known[1]
        # In an order of our own: a registry that answers in another order each time would disturb the rotation.
        usable = tuple(sorted((i for i in found if self._secure in (None, i.secure)), key=identity))
        if usable == known[1] and all(a.metadata == b.metadata for a, b in zip(usable, known[1], strict=True)):
            usable = known[1]
        self._list = (found, usable)
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
        now = self._now()
        found = self._discovery.instances(self.service)
        choose, book = self._choose, self._book
        if choose is not None and not exclude:
            with book.lock:
                if book.dropped:
                    book.drain_locked()
                fleet = book.fleet
                if fleet.found is found and now < fleet.fresh_until:
                    host = choose(fleet, key, NOBODY)
                    lease = HeldLease(book, host, now)  # before it counts: from then on it is given back when dropped
                    host.picks += 1
                    host.in_flight += 1
                    book.load.in_flight += 1
                    if host.out is not None:
                        lease.trial = book.trial_locked(host, now)
                    return lease
        return self._pick_with_care(found, now, key, exclude)

    def mark(self, instance: Instance, *, healthy: bool) -> None:
        """Say what a health check of your own found: an instance that is not healthy gets no calls until one is.

        Args:
            instance: which one; nothing happens when it is not listed.
            healthy: what was found.
        """
        found = self._discovery.instances(self.service)
        if self._book.fleet.found is not found:
            self._renewed(found, self._now())
        self._book.mark(instance, healthy=healthy)

    def snapshot(self) -> BalancerSnapshot:
        """Picks, calls in flight, failures, latency and share per instance at one moment."""
        found = self._discovery.instances(self.service)
        self._renewed(found, self._now())
        return self._book.snapshot()

    def __repr__(self) -> str:
        return f"<Balancer {self.service!r} {len(self.instances())} instances, {self._strategy!r}>"

    def after_fork_in_child(self) -> None:
        """The calls in flight are the parent's."""
        self._book.after_fork_in_child()

    def _pick_with_care(
        self, found: tuple[Instance, ...], now: float, key: str | None, exclude: Collection[Instance]
    ) -> HeldLease:
        book = self._book
        for left in reversed(range(_ROUNDS)):
            fleet = self._fleet(found, now)
            tried = book.hosts_of(tuple(exclude)) if exclude else NOBODY
            if tried and not fleet.has_untried(tried):
                rest = [host for host in fleet.listed if host not in tried]
                fleet, tried = (fleet.only(rest) if rest else fleet), NOBODY
            lease = self._from(fleet, key, tried, now, whatever=not left)
            if lease is not None:
                return lease
        raise AssertionError("the last round takes whatever it gets")  # pragma: no cover  # it does

    def _fleet(self, found: tuple[Instance, ...], now: float) -> Fleet:
        fleet = self._book.fleet
        if fleet.found is found and now < fleet.fresh_until:
            return fleet
        fleet = self._renewed(found, now)
        if not fleet.hosts:
            self._discovery.refresh_soon()
            raise self._nobody()
        return fleet

    def _renewed(self, found: tuple[Instance, ...], now: float) -> Fleet:
        usable = self.instances()
        if usable:
            make_ready(self._strategy, usable)  # before anybody can choose from the new fleet
        return self._book.renew(found, usable, now)

    def _from(
        self, fleet: Fleet, key: str | None, tried: tuple[Host, ...], now: float, *, whatever: bool
    ) -> HeldLease | None:
        """A lease on a host of the fleet; None when that changed meanwhile."""
        book, strategy, told = self._book, self._strategy, list[Narrower]()
        while isinstance(strategy, Narrower):
            told.append(strategy)
            fleet, strategy = strategy.narrow(fleet, key, tried)
        choose = asked_under_lock(strategy)
        host = None if choose else ask(strategy, fleet, key, tried)
        with book.lock:
            if book.dropped:
                book.drain_locked()
            if host is None:
                assert choose is not None
                host = choose(fleet, key, tried)
            if not whatever and not book.may_try_locked(host, now):
                return None
            lease = HeldLease(book, host, now)
            host.picks += 1
            host.in_flight += 1
            book.load.in_flight += 1
            if host.out is not None:
                lease.trial = book.trial_locked(host, now)
        for narrower in told:
            narrower.chosen(key, host)
        return lease

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
