"""What a circuit breaker tells: its events, and a snapshot of one moment."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.events import Event
from resilient.policies.circuit_states import State


@dataclass(frozen=True, slots=True)
class CircuitStateChanged(Event):
    """A circuit went from `old` to `new` because of `reason`."""

    old: State
    new: State
    reason: str


@dataclass(frozen=True, slots=True)
class CircuitRejected(Event):
    """A circuit refused a call; `retry_after` seconds until it may admit one, None when nobody knows."""

    retry_after: float | None


@dataclass(frozen=True, slots=True)
class CircuitThresholdReached(Event):
    """A metrics-only circuit would have opened because of `reason`; told once."""

    reason: str


@dataclass(frozen=True, slots=True)
class CircuitBreakerSnapshot:
    """One moment of a breaker.

    Attributes:
        name: its label.
        state: its state; OPEN also when its time is over and nobody has asked yet.
        calls: how many calls the window holds (half-open: probes that ended; open: what opened it).
        failures: how many of them failed.
        slow: how many of them were slow.
        failure_rate: their ratio; None below `minimum_calls`.
        slow_call_rate: likewise.
        rejected: calls refused since the breaker was made.
        retry_after: seconds until a call may be admitted; None when calls are, or when nobody knows.
        successes: calls since the breaker was made that went well.
        failed: calls since the breaker was made that failed.
        ignored: calls since then that said nothing about the dependency.
        late: calls since then that ended after the state which admitted them, or as probes that were given up.
    """

    name: str
    state: State
    calls: int
    failures: int
    slow: int
    failure_rate: float | None
    slow_call_rate: float | None
    rejected: int
    retry_after: float | None
    successes: int
    failed: int
    ignored: int
    late: int
