"""A discovery that a test writes: what is known changes when the test says so."""

from __future__ import annotations

from typing import Self

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery import Discovery, Instance


def instance(name: str, port: int = 80, *, service: str = "producer", secure: bool = False) -> Instance:
    """An instance of `service` whose id is `name`."""
    return Instance(service, f"{name}.test", port, id=name, secure=secure)


def instances(names: str, *, service: str = "producer") -> tuple[Instance, ...]:
    """One instance per letter of `names`."""
    return tuple(instance(name, service=service) for name in names)


class Listed(Discovery):
    """In memory; counts how often somebody asked for a refresh."""

    def __init__(self, *known: Instance, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__("listed", clock)
        self.refreshes = 0
        if known:
            self.set(*known)

    def set(self, *known: Instance) -> None:
        """Know exactly these from now on."""
        services: dict[str, tuple[Instance, ...]] = {}
        for one in known:
            services[one.service] = (*services.get(one.service, ()), one)
        self._roster.replace(services)

    def refresh_soon(self) -> None:
        """Count it."""
        self.refreshes += 1

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def close(self) -> None:
        """Nothing to stop."""

    async def aclose(self) -> None:
        """Nothing to stop."""
