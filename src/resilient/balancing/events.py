"""What a balancer tells: instances put aside, ejected and back, and panic."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from resilient.discovery import Instance
from resilient.events import Event, publish

logger = logging.getLogger("resilient")


@dataclass(frozen=True, slots=True)
class InstancePutAside(Event):
    """For `seconds` other instances of the service `name` are preferred.

    Attributes:
        instance: which one is put aside.
        seconds: for how long.
        reason: `"unreachable"`: no connection to it could be made; `"retry-after"`: it asked for a pause.
    """

    instance: Instance
    seconds: float
    reason: str = "unreachable"


@dataclass(frozen=True, slots=True)
class InstanceEjected(Event):
    """An instance of the service `name` gets no calls for `seconds`; then one call tries it.

    Attributes:
        instance: which one.
        reason: `"failures in a row"`, `"failure rate"`, `"trial failed"` or `"health check"`.
        failures: how many of its last `calls` failed.
        calls: the last calls that were looked at.
        seconds: for how long; `inf` after a health check: until one goes well.
    """

    instance: Instance
    reason: str
    failures: int
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class InstanceReturned(Event):
    """An instance that was put aside or ejected is in full use again.

    Attributes:
        instance: which one.
        seconds: how long it was out.
    """

    instance: Instance
    seconds: float


@dataclass(frozen=True, slots=True)
class PanicEntered(Event):
    """So many instances are out that the rest might not bear the load: all that can be connected to are used again.

    Attributes:
        selectable: how many were left.
        instances: of how many that can be connected to.
    """

    selectable: int
    instances: int


@dataclass(frozen=True, slots=True)
class PanicLeft(Event):
    """Enough instances are well again: those that are out get no calls.

    Attributes:
        selectable: how many are well.
        instances: of how many that can be connected to.
    """

    selectable: int
    instances: int


def tell(event: Event) -> None:
    """Log an event of a balancer and hand it to whoever listens. Never called under a lock."""
    where = getattr(event, "instance", None)
    address = f"{where.host}:{where.port} of {event.name!r}" if where is not None else repr(event.name)
    if isinstance(event, InstancePutAside):
        why = "no connection to" if event.reason == "unreachable" else "a pause was asked for by"
        logger.info("%s %s: others first for %.3g s", why, address, event.seconds)
    elif isinstance(event, InstanceEjected):
        logger.warning(
            "%s is ejected for %.3g s: %s, %d of the last %d calls failed",
            address,
            event.seconds,
            event.reason,
            event.failures,
            event.calls,
        )
    elif isinstance(event, InstanceReturned):
        logger.info("%s is in use again after %.3g s", address, event.seconds)
    elif isinstance(event, PanicEntered):
        logger.warning(
            "panic: of %d instances of %s %d are well, so all are used", event.instances, address, event.selectable
        )
    elif isinstance(event, PanicLeft):
        logger.info("panic is over: of %d instances of %s %d are well", event.instances, address, event.selectable)
    publish(event)
