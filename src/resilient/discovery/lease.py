"""What every kept entry has: when it is renewed, how its loss is told, how it is taken out. Sends nothing itself."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import math
import os
import random
from collections import deque
from collections.abc import Callable

from resilient.clock import REAL_CLOCK, Clock
from resilient.discovery.bell import Bell
from resilient.discovery.condition import Condition
from resilient.discovery.events import Registered, RegistrationLost, RegistrationRegained
from resilient.discovery.instance import Instance
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Backoff, Exchange, Send, Server, pace, until
from resilient.events import publish

logger = logging.getLogger("resilient")

_CHANGES, _SPELL = 4, 2  # so many changes at once in so many intervals, as Netflix's client: 4 a minute


class KeptLease:
    """The job that keeps one instance listed; a registry's own kind says with which requests. Safe for threads.

    Args:
        instance: what is registered; an empty host is found out, an empty id becomes `host:service:port`.
        servers: whom to tell.
        renew_interval: seconds between renewals.
        lease: seconds after which the registry may drop it unrenewed.
        health: asked before each renewal; None: always well.
        listed: called when it was registered.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        instance: Instance,
        servers: Servers,
        *,
        renew_interval: float,
        lease: float,
        health: Callable[[], bool] | None,
        listed: Callable[[], object],
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.instance = instance
        self.idle = Bell()  # rung when a request of ours has ended
        self.busy = False
        self.closed = True
        self.drain = 0.0  # seconds between telling callers and leaving
        self._servers = servers
        self._interval = renew_interval
        self._lease = lease
        self._listed = listed
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(renew_interval, rng)
        self._condition = Condition(instance.service, health)
        self._told: tuple[int, str] | None = None  # the change and status that the registry confirmed last
        self._sent = False  # whether the registry may list us
        self._next = -math.inf
        self._confirmed: float | None = None
        self._failed = False  # whether the last attempt did; the next one then keeps to its time
        self._changes = deque([-math.inf] * _CHANGES, _CHANGES)  # when the last changes were told at once
        self._missing = False  # between RegistrationLost and RegistrationRegained
        self._address = ""
        self._forked = False  # whether what is known here is the parent's
        self._suffix = ""

    def _beat(self) -> Exchange[None]:
        """Renew, or register when the registry does not have what is true now; ends in `_settle`."""
        raise NotImplementedError

    def _greet(self) -> Exchange[Answer]:
        """Any question, so that the connection shows our own address."""
        raise NotImplementedError

    def _farewell(self, server: Server, timeout: float) -> Send:
        """The request that takes the entry out."""
        raise NotImplementedError

    @property
    def registered(self) -> bool:
        """Whether the registry confirmed it, not longer ago than the lease, and did not drop it since."""
        confirmed = self._confirmed
        if confirmed is None or self._missing or self.closed:
            return False
        return self._clock.monotonic() - confirmed <= self._lease

    def open(self) -> None:
        """Begin, or begin again after `close`; in a forked child as another one, whose id ends in its process's."""
        self._told, self._confirmed, self._missing = None, None, False
        self._condition.change()
        self._next = -math.inf
        if self._forked:
            self._forked = False
            self._suffix = f"-{os.getpid()}"
            if self.instance.id:
                self.instance = dataclasses.replace(self.instance, id=f"{self.instance.id}{self._suffix}")
        self.closed = False

    def close(self) -> None:
        """Work no more; a request in flight ends on its own."""
        self.closed = True
        self._servers.forget_writing()

    def set_status(self, status: str) -> bool:
        """Want `status` from now on; whether that is a change."""
        return self._condition.want(status)

    def due(self) -> float:
        """When to renew, or to try again; at once after a change, unless the last attempt failed.

        Only so many changes are told at once: a health check that flickers must not hammer the registry.
        """
        if self.closed:
            return math.inf
        told = self._told
        changed = told is not None and told[0] != self._condition.dirty_ms and not self._failed
        if not changed:
            return self._next
        return min(self._next, self._changes[0] + _SPELL * self._interval)

    def work(self) -> Exchange[None]:
        """Renew, or register when the registry does not have what is true now."""
        self.busy = True  # before `closed` is looked at: who closes looks at it after
        try:
            if not self.closed:
                self._condition.ask()
                if self._told is not None and self._told[0] != self._condition.dirty_ms:
                    self._changes.append(self._clock.monotonic())
                yield from until(lambda: self.closed, self._beat())
        finally:
            self.busy = False
            self.idle.ring()

    def leave(self, budget: float) -> Exchange[None]:
        """Take the entry out, if it may be there: one attempt per server, all within `budget` seconds of real time.

        The time left is shared among the servers left, so that one that hangs leaves some for the next.
        """
        if not self._sent:
            return
        answer = yield from self._to_one(budget, self._farewell)
        if _heard(answer) and not answer.refused:  # 404: not there, which is what was wanted
            self._sent = False
            return
        logger.warning(
            "%s could not be taken out of %s (%s); its lease will end",
            self.instance.id or self,
            self._servers.name,
            answer,
        )

    def fade(self, budget: float) -> Exchange[None]:
        """Tell callers to come no more, if the registry has a word for it."""
        return
        yield  # an exchange without a step

    def _to_one(self, budget: float, make: Callable[[Server, float], Send]) -> Exchange[Answer]:
        """Ask each server once until one answers, all within `budget` seconds of real time; the last answer."""
        answer = Answer(error="no server")
        end = REAL_CLOCK.monotonic() + budget  # sockets live in real time, whatever clock the policies run on
        servers = self._servers.order()
        for left, server in zip(range(len(servers), 0, -1), servers, strict=True):
            share = max((end - REAL_CLOCK.monotonic()) / left, 0.001)  # none left: the attempt fails at once
            answer = yield make(server, min(self._servers.timeout, share))
            if _heard(answer):
                break
        return answer

    def after_fork_in_child(self) -> None:
        """The entry is the parent's: the child says nothing about it."""
        self._condition.after_fork_in_child()
        self.idle.forget()
        self.closed, self.busy, self._sent, self._forked = True, False, False, True

    def _locate(self) -> Exchange[bool]:
        """Find the address that reaches the registry: any answer shows it."""
        host = self.instance.host
        self._address = host if is_address(host) else self._servers.local or ""
        if not self._address:
            answer = yield from self._greet()
            self._address = answer.local or self._servers.local or ""
            if not self._address:
                self._settle(answer)
                return False
        host = host or self._address
        name = self.instance.id or f"{host}:{self.instance.service}:{self.instance.port}{self._suffix}"
        self.instance = dataclasses.replace(self.instance, host=host, id=name)
        return True

    def _settle(self, answer: Answer) -> None:
        """Learn from how it went, and say when to come again."""
        now = self._clock.monotonic()
        steady = min(pace(self._interval, self._rng), self._lease / 3)
        if answer.good and self._told is not None:
            fresh = self._confirmed is None or self._missing
            self._confirmed = now
            self._failed = False
            self._backoff.reset()
            self._next = now + steady
            if fresh:
                self._gain()
            return
        self._failed = True
        confirmed = self._confirmed
        if answer.refused:
            self._next = now + steady
        else:
            listed = confirmed is not None and not self._missing
            self._next = now + self._backoff.next(self._interval / 3 if listed else self._interval)
        if confirmed is not None and now - confirmed > self._lease:
            self._lose(f"not renewed for {now - confirmed:.0f} s, {answer}")

    def _gain(self) -> None:
        again, self._missing = self._missing, False
        logger.info("%s registered%s in %s", self.instance.id, " again" if again else "", self._servers.name)
        kind = RegistrationRegained if again else Registered
        publish(kind(self.instance.service, self._clock.monotonic(), self.instance))
        self._listed()

    def _lose(self, reason: str) -> None:
        if self._missing:
            return
        self._missing = True
        logger.warning("registration of %s in %s is lost: %s", self.instance.id, self._servers.name, reason)
        publish(RegistrationLost(self.instance.service, self._clock.monotonic(), self.instance, reason))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.instance.service} in {self._servers.name}>"


def _heard(answer: Answer) -> bool:
    """Whether a server that works said this: others know the same entries and refuse the same users."""
    return 0 < answer.status < 500


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
