"""What the states of a circuit share, and those that calls do not change: open, forced open, disabled.

The state that admits a call is that call's ticket. A transition replaces the state object under the breaker's lock, so
a result that comes late speaks to an object that is no longer the state, and moves nothing. No lock is held while a
call runs, and nothing here calls user code: durations are computed before the lock is taken.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from resilient.errors import FailureInfo
from resilient.gate_layers import Ticket
from resilient.outcome import Outcome
from resilient.policies.circuit_settings import Settings
from resilient.tally import Tally
from resilient.window import Counts

if TYPE_CHECKING:
    import threading

ROUNDING = 1e-9  # 0.07 * 100 is 7.000000000000001: 7 failures of 100 must reach a rate of 0.07


class State(enum.Enum):
    """States of a circuit.

    `CLOSED`: calls pass and are counted. `OPEN`: calls are rejected until a time. `HALF_OPEN`: a few calls probe.
    By hand, left by `reset()` only: `FORCED_OPEN` rejects all, `DISABLED` passes all and counts nothing,
    `METRICS_ONLY` passes all and counts.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


TRANSITIONS: Mapping[tuple[State, State], str] = {
    (State.CLOSED, State.OPEN): "too many calls failed or were slow, or open()",
    (State.OPEN, State.HALF_OPEN): "its time is over, and a caller asks",
    (State.HALF_OPEN, State.CLOSED): "enough probes succeeded, or close() or reset()",
    (State.HALF_OPEN, State.OPEN): "probes failed, or open()",
    (State.OPEN, State.CLOSED): "close() or reset()",
    **{(state, State.FORCED_OPEN): "force_open()" for state in State if state is not State.FORCED_OPEN},
    **{(state, State.DISABLED): "disable()" for state in State if state is not State.DISABLED},
    **{(state, State.METRICS_ONLY): "metrics_only()" for state in State if state is not State.METRICS_ONLY},
    (State.FORCED_OPEN, State.CLOSED): "reset()",
    (State.DISABLED, State.CLOSED): "reset()",
    (State.METRICS_ONLY, State.CLOSED): "reset()",
}
"""Every way from one state to another, and when it is taken; the picture in the documents is drawn from it."""


class Durations(NamedTuple):
    """How long the circuit will be open: drawn before the lock is taken, for both ways it may go."""

    first: float  # at the next trip from closed
    again: float  # when the probes of this half-open period fail


class Trip(NamedTuple):
    """Why the circuit opened."""

    reason: str
    at: float
    error: BaseException | None
    info: FailureInfo | None  # where there is no error: a result, a slow call, a hung probe
    counts: Counts


class Rejection(NamedTuple):
    """Why a call is refused, the last failure included, and when to come back."""

    retry_after: float | None
    info: FailureInfo | None
    reason: str


class Circuit(Protocol):
    """What the states need of their breaker. Everything but `now` and `deliver` is used under `lock`."""

    lock: threading.RLock  # reentrant: a signal handler or a `__del__` may call through the breaker that it interrupts
    settings: Settings  # replaced at run time
    state_object: CircuitState
    ignored: int
    late: int

    def now(self) -> float:
        """The breaker's clock."""
        ...

    def jittered(self, seconds: float) -> float:
        """`seconds`, a little longer by chance: anew for each opening."""
        ...

    def become_locked(
        self, old: CircuitState, new: CircuitState, reason: str, error: BaseException | None, local: bool = True
    ) -> None:
        """Replace `old` by `new` and queue the event; nothing when `old` is no longer the state."""
        ...

    def fold_locked(self, ended: int, failed: int, turned_away: int = 0) -> None:
        """Add what a state or a window that is over has counted to the totals."""
        ...

    def threshold_locked(self, state: CircuitState, reason: str) -> None:
        """Queue the event that a threshold was reached."""
        ...

    def deliver(self) -> None:
        """Deliver what was queued; after the lock."""
        ...


class CircuitState:
    """One period of a circuit."""

    __slots__ = ("_circuit", "attempt", "since", "slowest")
    kind: ClassVar[State]
    admits_all: ClassVar[bool] = False
    by_hand: ClassVar[bool] = False  # left by `reset()`, or for another such state, only
    turns_away_until: float = float("-inf")  # before this moment a call needs a tick of `refusals` only to be refused
    refusals: Tally

    def __init__(self, circuit: Circuit, since: float, *, attempt: int = 0, slowest: float = 0.0) -> None:
        self._circuit = circuit
        self.since = since
        self.attempt = attempt  # openings since it was closed last
        self.slowest = slowest  # seconds of the slowest success while it was closed last

    def admit(self, now: float, limit: float) -> Ticket | Rejection | None:
        """A ticket, a refusal, or None when the state was replaced or is due to be: ask again."""
        raise NotImplementedError

    def counts(self, now: float) -> Counts:
        """What this period has counted."""
        return 0, 0, 0

    def totals(self) -> tuple[int, int]:
        """(calls that ended, failures among them) of this period."""
        return 0, 0

    def last_failure(self) -> FailureInfo | None:
        """What failed last, as far as this period knows."""
        return None

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may be admitted; None when calls are, or when nobody knows."""
        return None

    def turned_away(self) -> int:
        """How many calls were refused without an error being made."""
        return 0

    def adjust_locked(self, old: Settings, new: Settings, durations: Durations, now: float) -> None:
        """Go on with `new` settings, under which the next openings last `durations`."""

    def success(self, elapsed: float, now: float) -> None:
        """A call went well."""

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """A call ended."""

    def unused(self) -> None:
        """Nothing was sent."""

    def after_fork_in_child(self) -> None:
        """Forget the calls of threads that this process does not have."""


class Open(CircuitState):
    """Calls are rejected until a time; then the caller who asks opens the way for probes."""

    __slots__ = ("_reason", "_trip", "info", "refusals", "turns_away_until", "until")
    kind = State.OPEN

    def __init__(self, circuit: Circuit, *, until: float, attempt: int, trip: Trip, slowest: float) -> None:
        super().__init__(circuit, trip.at, attempt=attempt, slowest=slowest)
        self.until = until
        self.turns_away_until = float("-inf")  # until it was told to whom it concerns
        self.refusals = Tally()
        self.info = trip.info
        self._reason = because(trip.reason, trip.info)
        self._trip = trip

    def admit(self, now: float, limit: float) -> Rejection | None:
        left = self.until - now
        if left <= 0:
            return None
        if self._trip.error is not None:
            self.describe_failure()
        return Rejection(left, self.info, self._reason)

    def describe_failure(self) -> None:
        """Turn the error that opened the circuit into text and let it go, frames and all.

        Not under the lock: `str()` of an error is the user's code.
        """
        trip = self._trip
        if trip.error is not None:
            self.info = FailureInfo.of(trip.error, trip.at)
            self._reason = because(trip.reason, self.info)
            self._trip = trip._replace(error=None)

    def counts(self, now: float) -> Counts:
        return self._trip.counts

    def last_failure(self) -> FailureInfo | None:
        return self.info if self._trip.error is None else brief(type(self._trip.error), self._trip.at)

    def retry_after(self, now: float) -> float | None:
        return max(0.0, self.until - now)

    def turned_away(self) -> int:
        return self.refusals.count()


class ForcedOpen(CircuitState):
    """Rejects every call until `reset()`."""

    __slots__ = ()
    kind = State.FORCED_OPEN
    by_hand = True

    def admit(self, now: float, limit: float) -> Rejection:
        return Rejection(None, None, "it was forced open")


class Disabled(CircuitState):
    """Passes every call and counts nothing until `reset()`."""

    __slots__ = ()
    kind = State.DISABLED
    admits_all = True
    by_hand = True

    def admit(self, now: float, limit: float) -> CircuitState:
        return self


def because(reason: str, info: FailureInfo | None) -> str:
    """`reason` with the last failure, if that was an error."""
    return reason if info is None or info.kind == "result" else f"{reason}; last failure {info.kind}: {info.message}"


def brief(kind: type, at: float) -> FailureInfo:
    """What is known of a failure while nobody has asked for its text: `str()` of an error is the user's code."""
    return FailureInfo("result" if kind is NoneType else kind.__name__, "", at)
