"""What every discovery with a loop has: its first use, its blocks, its end, and what a fork leaves of it."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

from resilient import checks
from resilient.clock import REAL_CLOCK, Clock, forget_on_fork
from resilient.discovery.base import Discovery
from resilient.discovery.instance import Instance
from resilient.discovery.leaving import BUDGET, aleave, leave
from resilient.discovery.refresh import Refresh
from resilient.discovery.registration import Lease, LeaseRegistration
from resilient.discovery.registry import Registration, Registry
from resilient.discovery.servers import Servers
from resilient.discovery.source import Source
from resilient.discovery.wire import Wires
from resilient.errors import ConfigError

logger = logging.getLogger("resilient")

_SERVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class LiveDiscovery(Discovery):
    """A discovery whose sources a loop keeps fresh.

    A kind of its own says what its sources are and how they are asked; the rest is here.

    Args:
        servers: the registry.
        clock: where time comes from.
        wires: make what sends in a thread, and in an event loop.
    """

    watching: ClassVar[bool] = False  # whether its sources' requests are answered only when something happens

    def __init__(self, servers: Servers, clock: Clock, wires: Wires) -> None:
        super().__init__(servers.name, clock)
        self._servers = servers
        self._sources: tuple[Source, ...] = ()
        self._refresh = Refresh(f"resilient {servers.name}", clock, *wires, watching=self.watching)
        forget_on_fork(self)
        # The loop holds no reference to this object: one that nobody holds is ended by the collector.
        weakref.finalize(self, self._refresh.abandon).atexit = False

    @classmethod
    def of_url(cls, url: str, /) -> Self:
        """The same as the constructor."""
        return cls(url)  # type: ignore[arg-type, call-arg]  # a kind of its own is made from its URL alone

    def instances(self, service: str, /) -> tuple[Instance, ...]:
        """The usable instances now, from memory: no lock, no I/O; empty, never None, when none is known."""
        if not self._refresh.awake:
            self._first_use()
        return self._roster.get(service)

    def refresh_soon(self) -> None:
        """Ask again before the next interval, at most once a second: somebody saw that what is known is not so."""
        news = [source.soon() for source in self._sources]
        if any(news):
            self._refresh.wake()

    def __enter__(self) -> Self:
        self._begin()
        self._refresh.start()
        return self

    async def __aenter__(self) -> Self:
        self._begin()
        self._refresh.start_tasks()
        return self

    def _first_use(self) -> None:
        self._begin()
        try:
            self._refresh.start()
        except RuntimeError:  # no more threads, or the interpreter is ending: a lookup reads memory all the same
            logger.warning("%s: the refresh thread can not be started", self._name, exc_info=True)

    def _begin(self) -> None:
        for source in self._sources:
            self._refresh.add(source, alone=self.watching)
        self._refresh.settled = True

    def close(self) -> None:
        """End the loop; never raises; twice is fine."""
        self._end()
        self._refresh.stop()

    async def aclose(self) -> None:
        """The same, for an event loop."""
        self._end()
        await self._refresh.astop()

    def _end(self) -> None:
        for source in self._sources:
            self._refresh.remove(source)
        self._refresh.settled = True  # lookups go on from memory and start nothing

    def _may_block(self) -> None:
        if self._refresh.here:
            raise ConfigError(
                "wait() would block the thread or event loop that refreshes: on an event loop await wait_async(),"
                " in a listener or health check do not wait",
                path="wait",
            )

    def _trouble(self) -> str:
        return self._servers.trouble

    def after_fork_in_child(self) -> None:
        """Keep what is known; the loop, its connections and the registrations are the parent's."""
        self._roster.after_fork_in_child()


class LiveRegistry(LiveDiscovery, Registry):
    """The same for a registry that can be written; a kind of its own makes its leases."""

    def __init__(self, servers: Servers, clock: Clock, wires: Wires) -> None:
        super().__init__(servers, clock, wires)
        self._registrations: weakref.WeakSet[LeaseRegistration] = weakref.WeakSet()

    def _keep(self, instance: Instance, health: Callable[[], bool] | None) -> Lease:
        """What keeps `instance` listed."""
        raise NotImplementedError

    def register(
        self,
        service: str,
        /,
        *,
        port: int,
        host: str | None = None,
        id: str | None = None,  # noqa: A002  # the registries' own word
        secure: bool = False,
        zone: str | None = None,
        weight: float = 1.0,
        metadata: Mapping[str, str] | None = None,
        health: Callable[[], bool] | None = None,
        sigterm: bool = False,
    ) -> Registration:
        """Be found while the `with` or `async with` block of the returned object runs; see `Registry.register`."""
        instance = _instance(service, port, host, id, secure, zone, weight, metadata)
        if health is not None and not callable(health):
            raise ConfigError(f"register: health must be a function without arguments, not {health!r}", path="health")
        registration = LeaseRegistration(self._keep(instance, health), self._refresh, self, sigterm=sigterm)
        self._registrations.add(registration)
        return registration

    def close(self) -> None:
        """End the loop, then take our entries out, ≤ 5 s in all beside draining; never raises; twice is fine."""
        here = self._refresh.here  # called by a listener or a health check
        end = REAL_CLOCK.monotonic() + BUDGET
        super().close()
        leave(self._refresh, self._shut(), end - REAL_CLOCK.monotonic(), here=here)

    async def aclose(self) -> None:
        """The same, for an event loop."""
        end = REAL_CLOCK.monotonic() + BUDGET
        try:
            await super().aclose()
        finally:
            await aleave(self._refresh, self._shut(), end - REAL_CLOCK.monotonic())

    def _shut(self) -> list[Lease]:
        return [lease for registration in tuple(self._registrations) if (lease := registration.shut()) is not None]


def _instance(
    service: str,
    port: int,
    host: str | None,
    name: str | None,
    secure: bool,
    zone: str | None,
    weight: float,
    metadata: Mapping[str, str] | None,
) -> Instance:
    if not _SERVICE.fullmatch(_text("service", service) or ""):
        raise ConfigError(
            f"register: service must be letters, digits, '.', '_' and '-', not {service!r}", path="service"
        )
    checks.whole("register", "port", port, least=1, most=65535)
    if checks.number("register", "weight", weight) <= 0:
        raise ConfigError(f"register: weight must be more than 0, not {weight!r}", path="weight")
    given = dict(metadata or {})
    for key, value in given.items():
        if not _text("metadata", key) or not isinstance(value, str):
            raise ConfigError(f"register: metadata must be text by text, not {key!r}: {value!r}", path="metadata")
    bare = (_text("host", host) or "").strip("[]")
    return Instance(
        service.lower(), bare, port, _text("id", name) or "", secure, _text("zone", zone), float(weight), given
    )


def _text(path: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ConfigError(f"register: {path} must be text that is not empty, not {value!r}", path=path)
