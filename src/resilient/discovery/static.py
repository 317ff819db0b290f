"""Instances that are written down: `static://producer=a:1,b:2;other=c:3`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self
from urllib.parse import unquote

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.base import Discovery
from resilient.discovery.instance import Instance
from resilient.discovery.plain import read_instance
from resilient.errors import ConfigError

_SHAPE = "write static://producer=host:port,host:port;other=host:port"


class StaticDiscovery(Discovery):
    """Instances that are written down and never change. No thread, no I/O.

    Args:
        services: the instances of each service.
        clock: not needed here; as for every Discovery.

    Safe for threads and event loops.

    Example:
        >>> from resilient.discovery.static import StaticDiscovery
        >>> from resilient.discovery import Instance
        >>> StaticDiscovery({"db": [Instance("db", "10.0.0.5", 5432)]}).instances("db")[0].host
        '10.0.0.5'
    """

    def __init__(self, services: Mapping[str, Iterable[Instance]], *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__("static", clock)
        self._roster.replace({name.lower(): tuple(instances) for name, instances in services.items()})

    @classmethod
    def of_url(cls, url: str, /) -> StaticDiscovery:
        """Read `static://producer=a:1,b:2;other=c:3`; an IPv6 address stands in brackets."""
        services: dict[str, list[Instance]] = {}
        listed, _, query = url.partition("://")[2].partition("?")
        if query:
            option = query.partition("=")[0].rpartition("@")[2]
            raise ConfigError(f"static discovery: unknown option {option!r}; static:// has none", path=f"url.{option}")
        for part in listed.rstrip("/").split(";"):
            if not part.strip():
                continue
            name, equals, addresses = part.partition("=")
            name = unquote(name).strip().lower()
            if not equals or not name:
                raise ConfigError(
                    f"static discovery: {part.rpartition('@')[2]!r} names no service; {_SHAPE}", path="url"
                )
            found = services.setdefault(name, [])
            found.extend(_instance(name, address.strip()) for address in addresses.split(",") if address.strip())
        if not any(services.values()):
            raise ConfigError(f"static discovery: {url.rpartition('@')[2]!r} names no instance; {_SHAPE}", path="url")
        return cls(services)

    def age(self, service: str, /) -> float:
        """Always 0."""
        return 0.0

    def wait(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:
        """The instances, at once, or NoInstanceError at once."""
        return self.instances(service) or self._refuse(service)

    async def wait_async(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:  # noqa: ASYNC109  # nothing is waited for
        """The same for an event loop."""
        return self.instances(service) or self._refuse(service)

    def _refuse(self, service: str) -> tuple[Instance, ...]:
        raise self._nobody(service, 0.0)

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def close(self) -> None:
        """Nothing to stop."""

    async def aclose(self) -> None:
        """Nothing to stop."""


def _instance(service: str, address: str) -> Instance:
    try:
        return read_instance(service, address)
    except ValueError as error:
        raise ConfigError(f"static discovery: {service.rpartition('@')[2]}: {error}; {_SHAPE}", path="url") from None
