"""What is rare in discovery and worth telling; `resilient.listen` hears it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resilient.discovery.instance import Instance
from resilient.events import Event


@dataclass(frozen=True, slots=True)
class InstancesChanged(Event):
    """The usable instances of the service `name` are not those of the answer before.

    Attributes:
        added: those that were not there.
        removed: those that are no longer there.
        changed: those that are there as before, by their id, but with another address, weight, zone or metadata: as
            it was, as it is.
    """

    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]
    changed: tuple[tuple[Instance, Instance], ...] = ()

    @classmethod
    def between(
        cls, service: str, at: float, came: Sequence[Instance], went: Sequence[Instance]
    ) -> InstancesChanged | None:
        """What happened when the objects `came` stand where the objects `went` stood; None when it is all the same."""
        were, are = ({_key(instance): instance for instance in these} for these in (went, came))
        added = tuple(instance for key, instance in are.items() if key not in were)
        removed = tuple(instance for key, instance in were.items() if key not in are)
        pairs = ((were[key], instance) for key, instance in are.items() if key in were)
        changed = tuple(pair for pair in pairs if pair[0] != pair[1] or pair[0].metadata != pair[1].metadata)
        return cls(service, at, added, removed, changed) if added or removed or changed else None


def _key(instance: Instance) -> tuple[str, int] | str:
    return instance.id or (instance.host, instance.port)


@dataclass(frozen=True, slots=True)
class InstancesStale(Event):
    """What is known from the registry `name` was not confirmed for three intervals; it stays known. Told once.

    Attributes:
        age: seconds since it was confirmed.
        reason: why, in words; "" when the registry answers, but its list is doubted.
    """

    age: float
    reason: str


@dataclass(frozen=True, slots=True)
class RegistryDown(Event):
    """No server of the registry `name` answers usefully; what was known stays known.

    Attributes:
        reason: what the last server asked did, in words.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RegistryAuthFailed(RegistryDown):
    """The registry `name` answers 401 or 403: our credentials are the trouble, not the network. Told once."""


@dataclass(frozen=True, slots=True)
class RegistryBack(Event):
    """The registry `name` answers again, after `RegistryDown`."""


@dataclass(frozen=True, slots=True)
class Registered(Event):
    """Our instance of the service `name` is listed.

    Attributes:
        instance: what was registered.
    """

    instance: Instance


@dataclass(frozen=True, slots=True)
class RegistrationLost(Event):
    """Our instance of the service `name` is, or must be taken to be, no longer listed; it is registered again.

    Attributes:
        instance: what was registered.
        reason: why it is believed lost, in words.
    """

    instance: Instance
    reason: str


@dataclass(frozen=True, slots=True)
class RegistrationRegained(Registered):
    """The same, after `RegistrationLost`."""
