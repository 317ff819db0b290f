"""Eureka as a registry: full fetches, registrations, failover; one loop for all of it."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

from resilient import checks
from resilient.clock import REAL_CLOCK, SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.discovery.eureka_fetch import Fetch
from resilient.discovery.eureka_lease import EurekaLease
from resilient.discovery.eureka_url import DEFAULTS, EurekaUrl
from resilient.discovery.instance import Instance
from resilient.discovery.refresh import Refresh
from resilient.discovery.registration import BUDGET, LeaseRegistration
from resilient.discovery.registry import Registration, Registry
from resilient.discovery.servers import Servers
from resilient.discovery.wire import AsyncHttpWire, HttpWire
from resilient.errors import ConfigError

logger = logging.getLogger("resilient")

_ATTEMPT = 5.0  # seconds in total for one request to one server
_SERVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class EurekaDiscovery(Registry):
    """Eureka: who is there, and being known.

    Services are found by their application name, without regard to case; only instances that are UP are usable. What
    was known last stays known for ever while the registry is away; `age` says how old it is.

    A registry that restarts has forgotten everybody. So an answer that lists nobody, where somebody was known, is
    believed only after `lease` seconds of such answers, asked for every 5 s or sooner; one that lists half as many as
    before, or fewer, only when the next one, within 5 s, does too. Until then what is known stays, and `age` grows.

    Args:
        url: `eureka://user:pw@a:8761,b:8761/eureka` or `http(s)://host:port/eureka/`; user and password
            percent-encoded, for every server or for those up to the next that has its own; the options below may stand
            in its query. One server is kept to until it fails.
        fetch_interval: seconds between fetches, ± 10 %; default 30.
        renew_interval: seconds between renewals, ± 10 %, but at most a third of the lease; default 30.
        lease: seconds after which the registry may drop an instance that was not renewed, and an empty list of a
            registry that named instances before is believed; default 90.
        clock: where time comes from.

    Raises:
        ConfigError: when the URL or an option is wrong.

    Safe for threads and event loops. A fork keeps what is known, and registrations stay with the parent.

    Example:
        >>> from resilient.discovery.eureka import EurekaDiscovery
        >>> EurekaDiscovery("eureka://user:secret@localhost?fetch_interval=1")
        <EurekaDiscovery eureka://localhost:8761/eureka 0 instances of 0 services>
    """

    def __init__(
        self,
        url: str = "eureka://localhost:8761",
        *,
        fetch_interval: float | None = None,
        renew_interval: float | None = None,
        lease: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        where = EurekaUrl.parse(url)
        super().__init__(where.name, clock)
        given = {"fetch_interval": fetch_interval, "renew_interval": renew_interval, "lease": lease}
        options = DEFAULTS | where.options | {key: value for key, value in given.items() if value is not None}
        interval, self._renew_interval, self._lease = (
            checks.positive_seconds("EurekaDiscovery", key, options[key]) for key in DEFAULTS
        )
        if self._lease <= self._renew_interval:
            raise ConfigError(
                f"EurekaDiscovery: lease ({self._lease:g} s) must be longer than renew_interval"
                f" ({self._renew_interval:g} s), best three times as long",
                path="lease",
            )
        # A hung server must not hold the loop so long that renewals at the others come too late.
        self._servers = Servers(where.servers, where.name, clock, min(_ATTEMPT, max(0.5, self._lease / 3)))
        self._fetch = Fetch(self._servers, self._roster, interval, self._lease, clock)
        tls = any(server.base.startswith("https:") for server in where.servers)
        self._refresh = Refresh(
            f"resilient {where.name}", clock, partial(HttpWire, tls=tls), partial(AsyncHttpWire, tls=tls)
        )
        self._registrations: weakref.WeakSet[LeaseRegistration] = weakref.WeakSet()
        forget_on_fork(self)
        # The loop holds no reference to this object: one that nobody holds is ended by the collector.
        weakref.finalize(self, self._refresh.abandon).atexit = False

    @classmethod
    def of_url(cls, url: str, /) -> EurekaDiscovery:
        """The same as the constructor."""
        return cls(url)

    @property
    def skipped(self) -> int:
        """How many instances in the last answer could not be read."""
        return self._fetch.skipped

    def instances(self, service: str, /) -> tuple[Instance, ...]:
        """The usable instances now, from memory: no lock, no I/O; empty, never None, when none is known."""
        if not self._refresh.awake:
            self._first_use()
        return self._roster.get(service)

    def refresh_soon(self) -> None:
        """Ask again before the next interval, at most once a second: somebody saw that what is known is not so."""
        if self._fetch.soon():
            self._refresh.wake()

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
        lease = EurekaLease(
            instance,
            self._servers,
            renew_interval=self._renew_interval,
            lease=self._lease,
            health=health,
            listed=self._fetch.soon,
            clock=self._clock,
        )
        registration = LeaseRegistration(lease, self._refresh, self, sigterm=sigterm)
        self._registrations.add(registration)
        return registration

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
        self._refresh.add(self._fetch)
        self._refresh.settled = True

    def close(self) -> None:
        """End the loop, then take our entries out, ≤ 5 s in all; never raises; twice is fine."""
        end = REAL_CLOCK.monotonic() + BUDGET
        here = self._refresh.here  # called by a listener or a health check
        self._end()
        self._refresh.stop()
        for registration in tuple(self._registrations):
            registration.close_within(end - REAL_CLOCK.monotonic(), here=here)

    async def aclose(self) -> None:
        """The same, for an event loop."""
        end = REAL_CLOCK.monotonic() + BUDGET
        self._end()
        try:
            await self._refresh.astop()
        finally:
            for registration in tuple(self._registrations):
                await registration.aclose_within(end - REAL_CLOCK.monotonic())

    def _end(self) -> None:
        self._refresh.remove(self._fetch)
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
