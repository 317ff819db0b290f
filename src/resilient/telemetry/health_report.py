"""What a look at the health of a process says, in the form of Spring Boot's Actuator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

UP: Final = "UP"
DOWN: Final = "DOWN"
OUT_OF_SERVICE: Final = "OUT_OF_SERVICE"
UNKNOWN: Final = "UNKNOWN"
ORDER: Final = (DOWN, OUT_OF_SERVICE, UP, UNKNOWN)
"""Of several, the first in this order is the status of all; Spring Boot's own order."""

REFUSING: Final = frozenset({DOWN, OUT_OF_SERVICE})


@dataclass(frozen=True, slots=True)
class ComponentInfo:
    """One part of a process.

    Attributes:
        status: `UP`, `DOWN`, `OUT_OF_SERVICE` or `UNKNOWN`.
        details: what else is known, fit for JSON.
    """

    status: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class HealthInfo:
    """The health of a process, or of one group of its parts.

    Attributes:
        status: the worst of its parts'; `UP` when there are none.
        components: the parts by name.
        groups: the names of the groups there are, in the whole report only.
    """

    status: str
    components: Mapping[str, ComponentInfo]
    groups: tuple[str, ...] = ()

    @property
    def http_status(self) -> int:
        """503 for `DOWN` and `OUT_OF_SERVICE`, else 200."""
        return 503 if self.status in REFUSING else 200

    def as_dict(self, *, details: bool = True) -> dict[str, Any]:
        """The document of Spring Boot's Actuator; without `details` the status alone."""
        found: dict[str, Any] = {"status": self.status}
        if details and self.components:
            found["components"] = {
                name: {"status": one.status, **({"details": dict(one.details)} if one.details else {})}
                for name, one in self.components.items()
            }
        if self.groups:
            found["groups"] = list(self.groups)
        return found


def worst(statuses: Iterable[str]) -> str:
    """The status of all; `UP` of none."""
    return min(statuses, key=ORDER.index, default=UP)
