"""What is rare in discovery and worth telling; `resilient.listen` hears it."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.discovery.instance import Instance
from resilient.events import Event


@dataclass(frozen=True, slots=True)
class InstancesChanged(Event):
    """The instances of the service `name` are not those of the answer before."""

    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class RegistryDown(Event):
    """No server of the registry `name` answers usefully; what was known stays known.

    Attributes:
        reason: what the last server asked did, in words.
        refused: True when it answered 401 or 403: our credentials are the trouble, not the network.
    """

    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class RegistryBack(Event):
    """The registry `name` answers again, after `RegistryDown`."""


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
class RegistrationRegained(Event):
    """Our instance of the service `name` is listed again, after `RegistrationLost`."""

    instance: Instance
