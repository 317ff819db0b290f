"""Discoveries that ask for one service at a time: a service is followed from the first time somebody wants it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import ClassVar

from resilient.clock import Clock
from resilient.discovery.instance import Instance
from resilient.discovery.live import LiveDiscovery
from resilient.discovery.servers import Servers
from resilient.discovery.source import Source
from resilient.discovery.wire import Wires

logger = logging.getLogger("resilient")


class FollowingDiscovery(LiveDiscovery):
    """A discovery with one source for each service that was looked up; a kind of its own makes them.

    Args:
        servers: the registry.
        clock: where time comes from.
        wires: make what sends in a thread, and in an event loop.
        services: followed from the start.
    """

    most: ClassVar[int] = 1000  # services: names that come from outside must not fill the memory

    def __init__(self, servers: Servers, clock: Clock, wires: Wires, services: Sequence[str] = ()) -> None:
        super().__init__(servers, clock, wires)
        self._followed: dict[str, Source] = {}
        self._lock = threading.Lock()
        self._full = False
        for service in services:
            self._follow(service)

    def _source(self, service: str) -> Source | None:
        """The job that asks for `service`; None when there can be none of that name."""
        raise NotImplementedError

    def instances(self, service: str, /) -> tuple[Instance, ...]:
        """The usable instances now, from memory: no I/O; empty, never None, when none is known.

        The first time that somebody asks for a service, its answer is on its way: `wait` waits for it.
        """
        if not self._refresh.awake:
            self._first_use()
        found = self._roster.known.get(service)
        return self._follow(service.lower()) if found is None else found

    def _follow(self, service: str) -> tuple[Instance, ...]:
        if service not in self._followed:
            with self._lock:
                source = self._made_locked(service)
            if source is None:
                self._refuse(service)
            elif self._refresh.running:
                self._refresh.add(source, alone=self.watching)
                self._refresh.wake()
        return self._roster.known.get(service, ())

    def _made_locked(self, service: str) -> Source | None:
        found = self._followed.get(service)
        if found is None and len(self._sources) < self.most:
            found = self._source(service)
            if found is not None:
                self._followed[service] = found
                self._sources = (*self._sources, found)
        return found

    def _refuse(self, service: str) -> None:
        """Nothing is kept of a name that is not followed, and of the first only is told that there are too many."""
        if len(self._sources) >= self.most and not self._full:
            self._full = True
            logger.warning("%s: %d services are followed, %r and more are not", self._name, self.most, service)

    def _there(self, service: str) -> bool:
        if self.instances(service):
            return True
        source = self._followed.get(service.lower())
        if source is not None and source.soon():
            self._refresh.wake()
        return False

    def after_fork_in_child(self) -> None:
        """Keep what is known; forget who held the lock."""
        super().after_fork_in_child()
        self._lock = threading.Lock()
