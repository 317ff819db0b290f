"""Knowing instances, being known: from a service's name to its addresses, and back."""

from __future__ import annotations

from resilient.discovery.base import Discovery
from resilient.discovery.events import (
    InstancesChanged,
    InstancesStale,
    Registered,
    RegistrationLost,
    RegistrationRegained,
    RegistryAuthFailed,
    RegistryBack,
    RegistryDown,
)
from resilient.discovery.instance import Change, Instance
from resilient.discovery.registry import Registration, Registry

__all__ = [
    "Instance",
    "Change",
    "Discovery",
    "Registry",
    "Registration",
    "InstancesChanged",
    "InstancesStale",
    "Registered",
    "RegistrationLost",
    "RegistrationRegained",
    "RegistryAuthFailed",
    "RegistryBack",
    "RegistryDown",
]
