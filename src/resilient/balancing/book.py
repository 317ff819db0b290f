"""How the calls to a service end, and what that means for its instances."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from resilient.balancing import latency
from resilient.balancing.events import InstanceEjected, InstancePutAside, InstanceReturned
from resilient.balancing.fleet import EMPTY
from resilient.balancing.hosts import (
    LONGEST_PAUSE,
    PAUSED,
    TRIAL,
    UNHEALTHY,
    UNREACHABLE,
    WINDOW,
    Host,
    InstanceSnapshot,
    identity,
)
from resilient.balancing.leases import UNREACHED, HeldLease
from resilient.balancing.outliers import Outliers
from resilient.balancing.roll import Roll
from resilient.discovery import Instance
from resilient.outcome import FAILURE, IGNORED, SUCCESS, Outcome


@dataclass(frozen=True, slots=True)
class BalancerSnapshot:
    """One moment of a balancer.

    Attributes:
        service: whose.
        instances: one entry per instance that is known or still has calls in flight.
        panic: whether so many are out that all that can be connected to are used.
    """

    service: str
    instances: tuple[InstanceSnapshot, ...]
    panic: bool = False

    @property
    def in_flight(self) -> int:
        """Leases that are not settled."""
        return sum(entry.in_flight for entry in self.instances)


class Book(Roll):
    """What one balancer remembers."""

    def __init__(
        self,
        service: str,
        *,
        settings: Outliers | None,
        slow_start: float | None,
        rng: Callable[[], float],
        now: Callable[[], float],
        lost: Callable[[], object],
    ) -> None:
        super().__init__(service, settings=settings, slow_start=slow_start, now=now)
        self.dropped: deque[tuple[Host, int]] = deque()
        self._rng = rng
        self._lost = lost  # somebody who is listed is not there
        self._usual: float | None = None  # seconds that a good answer takes, over all hosts
        self._trials = itertools.count(1)

    def drain_locked(self) -> None:
        """Take back the leases that nobody settled."""
        while self.dropped:
            host, trial = self.dropped.popleft()
            self._release_locked(host)
            self._untry_locked(host, trial)

    def trial_locked(self, host: Host, now: float) -> int:
        """A host that is out was chosen: the number of its trial, or 0 when this is none."""
        if not host.is_due(now):
            return 0
        host.trial = next(self._trials)
        host.trial_ends = now + TRIAL
        self._stale_locked()  # one call tries; the others go elsewhere until it knows
        return host.trial

    def may_try_locked(self, host: Host, now: float) -> bool:
        """Whether a host that was chosen outside the lock may still be had."""
        return host.out is None or not host.trial or host.is_due(now)

    def _release_locked(self, host: Host) -> None:
        if host.in_flight > 0:  # after a fork a lease of the parent may end here
            host.in_flight -= 1
            self.load.in_flight -= 1

    def settle(self, lease: HeldLease, how: object, elapsed: float | None) -> None:
        """A call has ended; of several who say so the first one counts."""
        bad = how is FAILURE or how is UNREACHED
        chance = self._rng() if bad else 0.0
        host = lease.host
        with self.lock:
            if lease.settled:
                return
            lease.settled = True
            if host.in_flight > 0:
                host.in_flight -= 1
                self.load.in_flight -= 1
            if lease.judged and not bad:  # its verdict fell before, nothing is to be learned from its end
                return
            now = self.now()
            if elapsed is None:
                elapsed = lease.answer_after
            if elapsed is None or not 0.0 <= elapsed < inf:  # nobody said, or it is no number of seconds
                elapsed = now - lease.started
            if bad:
                if how is UNREACHED:
                    self._unreachable_locked(host, now, lease.trial)
                self._failure_locked(host, elapsed, now, lease.trial, chance)
            elif how is SUCCESS:
                self._success_locked(host, elapsed, now, lease.trial)
            else:
                if how is IGNORED:
                    self._given_up_locked(host, elapsed, now, lease.trial)
                self._untry_locked(host, lease.trial)
        if self._outbox.queue:
            self._outbox.drain()
        if how is UNREACHED:
            self._lost()

    def judge(self, lease: HeldLease, outcome: Outcome, elapsed: float | None) -> None:
        """The verdict of a call that goes on; the first one counts."""
        now = self.now()
        chance = self._rng() if outcome is FAILURE else 0.0
        host = lease.host
        with self.lock:
            if lease.settled:
                return
            if elapsed is None or not 0.0 <= elapsed < inf:
                elapsed = now - lease.started  # nobody said, or it is no number of seconds: one nan would stay for ever
            lease.answer_after = elapsed
            if lease.judged:
                return
            lease.judged = True
            if host.aside_for or host.out is not None:
                self._reached_locked(host, now)
            if outcome is SUCCESS:
                self._success_locked(host, elapsed, now, lease.trial)
            elif outcome is FAILURE:
                self._failure_locked(host, elapsed, now, lease.trial, chance)
            else:
                self._untry_locked(host, lease.trial)
        if self._outbox.queue:
            self._outbox.drain()

    def reached(self, host: Host) -> None:
        """It can be connected to."""
        if host.aside_for:  # rarely; no lock for that
            now = self.now()
            with self.lock:
                self._reached_locked(host, now)
            self._outbox.drain()

    def pause(self, host: Host, seconds: float) -> None:
        """It asked for a pause."""
        now = self.now()
        seconds = min(seconds, LONGEST_PAUSE)
        with self.lock:
            self._reached_locked(host, now)  # it answered
            if host.out != UNHEALTHY and self._is_listed_locked(host):
                news = host.out is None or host.trial  # of many calls that hear it at once one tells
                host.leave(host.out or PAUSED, now, max(host.until if host.out else 0.0, now + seconds))
                self._outs[host] = None
                self._stale_locked()
                if news:
                    self._outbox.queue.append(InstancePutAside(self._service, now, host.instance, seconds, PAUSED))
        self._outbox.drain()

    def drop(self, host: Host, trial: int) -> None:
        """Nobody settled a lease; a finaliser takes no lock."""
        self.dropped.append((host, trial))

    def mark(self, instance: Instance, *, healthy: bool) -> None:
        """What a health check found."""
        now = self.now()
        with self.lock:
            host = self._hosts.get(identity(instance))
            if host is None:
                return
            if healthy and host.out == UNHEALTHY:
                self._back_locked(host, now)
            elif not healthy and host.out != UNHEALTHY and self._is_listed_locked(host):
                self._eject_locked(host, now, UNHEALTHY, float("inf"))
        self._outbox.drain()

    def _success_locked(self, host: Host, elapsed: float, now: float, trial: int) -> None:
        if host.out is not None and (host.out == UNREACHABLE or (trial and host.trial == trial)):
            self._back_locked(host, now)  # its memory begins with this call
        if host.window or host.outcomes < WINDOW:  # else nothing would change
            host.record(failed=False)
        latency.sample(host, elapsed, now)
        usual = self._usual
        self._usual = elapsed if usual is None else usual + latency.LEAST_PART * (elapsed - usual)
        host.aside_for = 0.0

    def _failure_locked(self, host: Host, elapsed: float, now: float, trial: int, chance: float) -> None:
        host.record(failed=True)
        latency.sample_failure(host, elapsed, now, self._median, self._usual)
        settings = self._settings
        if settings is None:
            self._untry_locked(host, trial)
        elif host.out is not None:
            if trial and host.trial == trial:
                seconds = settings.eject(host, now, chance)
                self._eject_locked(host, now, "trial failed", seconds)
        else:
            reason = settings.reason(host)
            if reason is not None and self._is_listed_locked(host) and settings.allows(self._outs, len(self._listed)):
                self._eject_locked(host, now, reason, settings.eject(host, now, chance))

    def _unreachable_locked(self, host: Host, now: float, trial: int) -> None:
        others = len(self._listed) - sum(other.out == UNREACHABLE for other in self._outs)
        if host.out != UNREACHABLE:
            others -= 1
        if others < 1 or not self._is_listed_locked(host):
            self._untry_locked(host, trial)
            return
        seconds = host.put_aside(now, trial=bool(trial) and host.trial == trial)
        if seconds is not None:
            self._outs[host] = None
            self._stale_locked()
            self._outbox.queue.append(InstancePutAside(self._service, now, host.instance, seconds))

    def _eject_locked(self, host: Host, now: float, reason: str, seconds: float) -> None:
        if seconds == float("inf"):
            host.leave(UNHEALTHY, now, seconds)
        self._outs[host] = None
        self._stale_locked()
        failed = host.window.bit_count()
        self._outbox.queue.append(
            InstanceEjected(self._service, now, host.instance, reason, failed, host.outcomes, seconds)
        )

    def _reached_locked(self, host: Host, now: float) -> None:
        host.aside_for = 0.0
        if host.out == UNREACHABLE:
            self._back_locked(host, now)

    def _back_locked(self, host: Host, now: float) -> None:
        seconds = host.come_back(now)
        if self._outs.pop(host, self) is None:
            self._stale_locked()
            self._weighed = float("-inf")
            self._outbox.queue.append(InstanceReturned(self._service, now, host.instance, seconds))

    def _given_up_locked(self, host: Host, elapsed: float, now: float, trial: int) -> None:
        """A call was cancelled: no failure, but it would have taken at least this long."""
        latency.sample_at_least(host, elapsed, now, self._median)
        normal = self._usual if self._median is None else self._median  # of two hosts with one out there is no median
        slow = normal is not None and elapsed > max(latency.BAND * normal, normal + latency.SLACK)
        if slow and trial and host.trial == trial and self._settings is not None:
            host.until = now + self._settings.base  # callers in a hurry must not be one trial after the other

    def _untry_locked(self, host: Host, trial: int) -> None:
        """A trial ended without a verdict: another call may try, at once."""
        if trial and host.trial == trial:
            host.trial = 0
            self._stale_locked()

    def snapshot(self) -> BalancerSnapshot:
        """One moment."""
        now = self.now()
        with self.lock:
            self.drain_locked()
            hosts = [host for host in self._hosts.values() if host in self._there or host.in_flight]
            return BalancerSnapshot(self._service, tuple(host.snapshot(now) for host in hosts), self._panic)

    def after_fork_in_child(self) -> None:
        """The calls in flight, the trials and the health checks are the parent's."""
        self.lock = threading.Lock()
        self._outbox.after_fork_in_child()
        self.dropped.clear()
        self.load.in_flight = 0
        for host in self._hosts.values():
            host.in_flight = host.trial = 0
            if host.out == UNHEALTHY:
                host.come_back(host.returned)
                self._outs.pop(host, None)
        self._usable, self.fleet = None, EMPTY
