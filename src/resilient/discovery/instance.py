"""One address of a service, and a difference between two lists of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Instance:
    """One address of a service.

    Attributes:
        service: the logical name, in lower case when a registry gave it.
        host: an address or host name; an IPv6 address stands here without brackets.
        port: 1 … 65,535.
        id: the registry's name of the instance; unique within the service.
        secure: True when the port speaks TLS.
        zone: where it runs, for zone preference; None when that is not known.
        weight: its share of the calls beside the others' shares, default 1.0.
        metadata: what the instance said about itself. Not part of equality, and not to be changed.

    Immutable, so safe for threads and event loops.

    Example:
        >>> from resilient.discovery import Instance
        >>> Instance("producer", "10.0.0.1", 8080).port
        8080
    """

    service: str
    host: str
    port: int
    id: str = ""
    secure: bool = False
    zone: str | None = None
    weight: float = 1.0
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], hash=False, compare=False)


Known = Mapping[str, tuple[Instance, ...]]
"""One answer of a registry: the usable instances of every service."""


@dataclass(frozen=True, slots=True)
class Change:
    """What changed in a service's instances; one that moved or was reweighted is in both tuples."""

    service: str
    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]
