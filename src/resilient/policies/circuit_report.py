"""What a circuit breaker tells: its events, and a snapshot of one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resilient.errors import FailureInfo
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
    """A closed circuit opens because of `reason`: heard before its state change. A metrics-only one tells it once."""

    reason: str


@dataclass(frozen=True, slots=True)
class CircuitBreakerSnapshot:
    """One moment of a breaker: plain data, can be pickled; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        state: its state; OPEN also when its time is over and nobody has asked yet.
        since: when it went into that state, in seconds of its monotonic clock.
        at: the moment of this snapshot, on the same clock.
        calls: how many calls the window holds (half-open: probes that ended; open: what opened it).
        failures: how many of them failed.
        slow: how many of them were slow.
        failure_rate: their ratio; None below `minimum_calls`.
        slow_call_rate: likewise.
        rejected: calls refused since the breaker was made.
        retry_after: seconds until a call may be admitted; None when calls are, or when nobody knows.
        last_failure: what failed last in this state, or opened it; None when nothing has. While closed its message is
            empty: only its kind and time are kept.
        successes: calls since the breaker was made that went well.
        failed: calls since the breaker was made that failed.
        ignored: calls since then that said nothing about the dependency.
        late: calls since then that ended after the state which admitted them, or as probes that were given up.
    """

    name: str
    state: State
    since: float
    at: float
    calls: int
    failures: int
    slow: int
    failure_rate: float | None
    slow_call_rate: float | None
    rejected: int
    retry_after: float | None
    last_failure: FailureInfo | None
    successes: int
    failed: int
    ignored: int
    late: int

    def as_dict(self) -> dict[str, Any]:
        """The same as text, numbers and None: for JSON, logs and pages."""
        return {**asdict(self), "state": self.state.value}
