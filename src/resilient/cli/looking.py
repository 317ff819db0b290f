"""Looking into a registry from a command: start, first answer, and why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.clock import REAL_CLOCK
from resilient.discovery import Discovery, Instance


def answered(discovery: Discovery, services: Sequence[str]) -> bool:
    """Whether what is asked for is known."""
    if services:
        return all(discovery.age(service) < float("inf") for service in services)
    return discovery._roster.confirmed is not None


def wait_for_answer(discovery: Discovery, services: Sequence[str], timeout: float) -> bool:
    """Wait until what is asked for is known, or something is wrong; whether it is known."""
    for service in services:
        discovery.instances(service)  # a registry that is asked by name asks from now on

    def ready() -> bool:
        return answered(discovery, services) or bool(discovery._trouble())

    return discovery._roster.answers.wait(ready, timeout, REAL_CLOCK) and answered(discovery, services)


def why_not(discovery: Discovery, services: Sequence[str], waited: float) -> str:
    """Why there is no answer yet, in one sentence."""
    trouble = discovery._trouble()
    if trouble:
        return f"{discovery._name} does not answer: {trouble}"
    if not services:
        return f"{discovery._name} lists nothing by itself: name what to ask for with --service"
    return f"{discovery._name} has not answered within {waited:g} s"


def known(discovery: Discovery, services: Sequence[str]) -> dict[str, tuple[Instance, ...]]:
    """The services in the order of their names, those asked for or all."""
    names = services or [name for name, found in discovery._roster.known.items() if found]
    return {name: discovery.instances(name) for name in sorted(set(names))}


def address(instance: Instance) -> str:
    """`host:port`, as it is called."""
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    return f"{'https://' if instance.secure else ''}{host}:{instance.port}"


def described(instance: Instance) -> dict[str, Any]:
    """An instance for another program."""
    return {
        "service": instance.service,
        "host": instance.host,
        "port": instance.port,
        "id": instance.id,
        "secure": instance.secure,
        "zone": instance.zone,
        "weight": instance.weight,
        "metadata": dict(instance.metadata),
    }
