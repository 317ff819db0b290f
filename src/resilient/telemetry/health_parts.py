"""What the library itself knows about the health of a process: its circuits, whom it finds, and whether it is found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import Any
from weakref import WeakSet

from resilient.balancing import Balancer
from resilient.discovery import Registration
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.circuit_report import CircuitBreakerSnapshot
from resilient.policies.circuit_states import State
from resilient.telemetry.health_report import DOWN, OUT_OF_SERVICE, UNKNOWN, UP, ComponentInfo, worst
from resilient.telemetry.prometheus_members import Member, members

CIRCUITS, DISCOVERY, REGISTRATION = "circuitBreakers", "discovery", "registration"
NAMES = frozenset({CIRCUITS, DISCOVERY, REGISTRATION})

_CIRCUIT = {State.OPEN: "CIRCUIT_OPEN", State.FORCED_OPEN: "CIRCUIT_OPEN", State.HALF_OPEN: "CIRCUIT_HALF_OPEN"}


class Parts:
    """Reads what is alive now.

    Args:
        required: the names of circuit breakers without which the process is of no use.
    """

    def __init__(self, required: Collection[str]) -> None:
        self._required = frozenset(required)
        self._found_once: WeakSet[Registration] = WeakSet()

    def read(self) -> dict[str, ComponentInfo]:
        """The parts that there are."""
        living = list(members({}, self._required))
        found = {
            CIRCUITS: self._circuits([one for one in living if isinstance(one.thing, CircuitBreaker)]),
            DISCOVERY: _discovery([one.thing for one in living if isinstance(one.thing, Balancer)]),
            REGISTRATION: self._registrations([one.thing for one in living if isinstance(one.thing, Registration)]),
        }
        return {name: one for name, one in found.items() if one.details}

    def _circuits(self, breakers: list[Member]) -> ComponentInfo:
        details: dict[str, Any] = {name: {"status": UNKNOWN} for name in self._required}
        groups: dict[str, Counter[str]] = {}
        useless = False
        for member in breakers:
            seen = member.thing.snapshot()
            if member.shared:
                groups.setdefault(member.name, Counter())[seen.state.name] += 1
                continue
            details[member.name] = _circuit(seen)
            useless = useless or (member.name in self._required and _refuses(seen))
        details |= {name: {"status": UP, "details": dict(states)} for name, states in groups.items()}
        return ComponentInfo(DOWN if useless else UP, dict(sorted(details.items())))

    def _registrations(self, registrations: list[Registration]) -> ComponentInfo:
        details: dict[str, Any] = {}
        for one in registrations:
            if not getattr(one, "_opened", True):
                continue
            if one.registered:
                self._found_once.add(one)
                status = UP
            else:  # a registry that is away makes nobody unable to answer; but who was never listed is not ready yet
                status = UNKNOWN if one in self._found_once else OUT_OF_SERVICE
            instance = one.instance
            details[instance.id or f"{instance.service}:{instance.port}"] = {"status": status}
        return ComponentInfo(worst(one["status"] for one in details.values()), details)


def _circuit(seen: CircuitBreakerSnapshot) -> dict[str, Any]:
    """As resilience4j's health indicator says it; a rate that is not known is absent."""
    rates = {"failureRate": seen.failure_rate, "slowCallRate": seen.slow_call_rate}
    return {
        "status": _CIRCUIT.get(seen.state, UP),
        "details": {
            "state": seen.state.name,
            **{name: f"{rate:.1%}" for name, rate in rates.items() if rate is not None},
            "bufferedCalls": seen.calls,
            "failedCalls": seen.failures,
            "slowCalls": seen.slow,
            "notPermittedCalls": seen.rejected,
        },
    }


def _refuses(seen: CircuitBreakerSnapshot) -> bool:
    """Whether it would refuse a call now. Not when its time is over: without traffic nobody would ever probe."""
    return seen.state is State.FORCED_OPEN or (seen.state is State.OPEN and bool(seen.retry_after))


def _discovery(balancers: list[Balancer]) -> ComponentInfo:
    """The services that are called; for information: what a service does without another is for its policies to say."""
    details: dict[str, Any] = {}
    for balancer in balancers:
        count, age = len(balancer.snapshot().instances), balancer._discovery.age(balancer.service)
        if count == 0 and balancer.service in details:
            continue  # a transport has one for https and one for http
        details[balancer.service] = {
            "status": UP if count else UNKNOWN,
            "details": {"instances": count, **({"ageSeconds": round(age, 3)} if math.isfinite(age) else {})},
        }
    return ComponentInfo(worst(one["status"] for one in details.values()), dict(sorted(details.items())))
