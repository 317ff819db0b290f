"""Who is there: the face of every discovery, and the way from a URL to the right kind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from resilient import checks
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.instance import Change, Instance
from resilient.discovery.roster import Roster
from resilient.errors import ConfigError, NoInstanceError
from resilient.events import check_listener

_PROVIDERS = {
    "eureka": ("resilient.discovery.eureka", "EurekaDiscovery"),
    "http": ("resilient.discovery.eureka", "EurekaDiscovery"),
    "https": ("resilient.discovery.eureka", "EurekaDiscovery"),
    "consul": ("resilient.discovery.consul", "ConsulDiscovery"),
    "etcd": ("resilient.discovery.etcd", "EtcdDiscovery"),
    "kubernetes": ("resilient.discovery.kubernetes", "KubernetesDiscovery"),
    "file": ("resilient.discovery.file", "FileDiscovery"),
    "dns": ("resilient.discovery.dns", "DnsDiscovery"),
    "srv": ("resilient.discovery.dns", "DnsDiscovery"),
    "static": ("resilient.discovery.static", "StaticDiscovery"),
}


class Runs:
    """Something that works in the background while a `with` or `async with` block runs."""

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Stop and tell the registry; never raises; twice is fine."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """The same, for an event loop."""
        raise NotImplementedError


class Discovery(Runs):
    """Who is there. `with` refreshes in a daemon thread, `async with` in tasks; lookups read memory in both.

    Without either, the first lookup starts the daemon thread, in async programs too. After `close` lookups go on with
    what was known last; `with` may begin again. Safe for threads and event loops.

    Example:
        >>> from resilient.discovery import Discovery
        >>> with Discovery.from_url("static://producer=10.0.0.1:80,10.0.0.2:80") as discovery:
        ...     [instance.host for instance in discovery.instances("producer")]
        ['10.0.0.1', '10.0.0.2']
    """

    def __init__(self, name: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._name = name
        self._clock = clock
        self._roster = Roster(clock)

    @classmethod
    def from_url(cls, url: str | None = None, /) -> Self:
        """A discovery of the kind that the URL's scheme names.

        Args:
            url: `eureka://user:pw@a:8761,b:8761/eureka?fetch_interval=30`, `http(s)://host:8761/eureka/` (Eureka too),
                `consul://token@host:8500?dc=eu`, `etcd://host:2379/services`, `kubernetes://namespace`,
                `dns://tasks.{service}:8080`,
                `srv://_{service}._tcp.example.org`, `file:///etc/services.json?poll=2` or
                `static://producer=a:1,b:2;other=c:3`; default: the environment's $RESILIENT_DISCOVERY.

        Raises:
            ConfigError: when there is no URL, its scheme is unknown, or a part of it is wrong; for
                `Registry.from_url` also when it names something that can only be read.
        """
        if url is None:
            url = os.environ.get("RESILIENT_DISCOVERY")
            if not url:
                raise ConfigError(
                    "no discovery is configured: give a URL like eureka://localhost:8761 or set $RESILIENT_DISCOVERY",
                    path="url",
                )
        provider = _provider(url)
        if not issubclass(provider, cls):
            raise ConfigError(
                f"{url.partition(':')[0]}:// can be read, but nothing can be registered in it: use Discovery.from_url,"
                " or a registry (eureka://, consul://, etcd://)",
                path="url",
            )
        return cast("Self", provider.of_url(url))

    @classmethod
    def of_url(cls, url: str, /) -> Discovery:
        """One of this kind; the scheme has been looked at."""
        raise NotImplementedError

    def instances(self, service: str, /) -> tuple[Instance, ...]:
        """The usable instances now, from memory: no lock, no I/O; empty, never None, when none is known.

        Args:
            service: the logical name, in any case.
        """
        return self._roster.get(service)

    def age(self, service: str, /) -> float:
        """Seconds since the registry last confirmed them; inf before the first answer."""
        return self._roster.age(service)

    def wait(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:
        """Block until the service is known; meanwhile the registry is asked once a second.

        Args:
            service: the logical name.
            timeout: seconds to wait, default 5.

        Raises:
            NoInstanceError: when none is known by then; says what is known, since when, from which registry.
            ConfigError: when it would block the event loop or thread that refreshes: use `wait_async`; in a listener,
                do not wait.
        """
        if not self.instances(service):
            self._may_block()
            if not self._roster.answers.wait(lambda: self._there(service), timeout, self._clock):
                raise self._nobody(service, timeout)
        return self.instances(service)

    async def wait_async(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:  # noqa: ASYNC109  # on the injected clock
        """The same for an event loop."""
        if not self.instances(service) and not await self._roster.answers.wait_async(
            lambda: self._there(service), timeout, self._clock
        ):
            raise self._nobody(service, timeout)
        return self.instances(service)

    def subscribe(self, service: str, listener: Callable[[Change], object], /) -> Callable[[], None]:
        """Hear later changes, in the thread or loop that refreshes; what is known now is `instances()`.

        Args:
            service: the logical name.
            listener: called outside every lock; one that raises is logged. Keep it short.

        Returns:
            The function that stops it; calling it twice is fine.

        Raises:
            TypeError: when `listener` is a coroutine function: nobody would await it.
        """
        check_listener(listener)
        stop = self._roster.subscribe(service, listener)
        self.instances(service)  # first use
        return stop

    def refresh_soon(self) -> None:
        """Ask again before the next interval, at most once a second: somebody saw that what is known is not so."""

    def _there(self, service: str) -> bool:
        if self.instances(service):
            return True
        self.refresh_soon()
        return False

    def _may_block(self) -> None:
        """Raise when blocking this thread would block the refresh."""

    def _trouble(self) -> str:
        """Why the registry does not answer, or nothing."""
        return ""

    def _nobody(self, service: str, waited: float) -> NoInstanceError:
        known = {name for name, found in self._roster.known.items() if found}
        age = self._roster.age(service)
        if age == math.inf:
            what = f"{self._name} has not answered within {waited:g} s"
        else:
            others = ", ".join(sorted(known)[:8]) or "nothing"
            more = f" and {len(known) - 8} more" if len(known) > 8 else ""
            what = f"{self._name} answered {age:.1f} s ago and lists {others}{more}"
        trouble = self._trouble()
        return NoInstanceError(
            f"no instance of {service!r} is known: {what}{f' ({trouble})' if trouble else ''}", policy=service
        )

    def __repr__(self) -> str:
        known = self._roster.known
        count = sum(map(len, known.values()))
        return f"<{type(self).__name__} {self._name} {count} instances of {len(known)} services>"


def _provider(url: str) -> type[Discovery]:
    import importlib

    scheme, found, _ = url.partition("://")
    if not found or scheme.lower() not in _PROVIDERS:
        known = ", ".join(f"{name}://" for name in _PROVIDERS)
        named = bool(found) and scheme.isalnum()  # else it may be a password
        problem = f"{scheme}:// is not known here" if named else f"{url.rpartition('@')[2]!r} has no scheme"
        raise ConfigError(
            f"discovery URL: {problem}; known are {known}{checks.did_you_mean(scheme, _PROVIDERS) if named else ''}",
            path="url",
        )
    module, name = _PROVIDERS[scheme.lower()]
    provider: type[Discovery] = getattr(importlib.import_module(module), name)
    return provider
