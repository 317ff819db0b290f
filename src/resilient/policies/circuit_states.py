"""The states of a circuit, and every transition between them. Knows no thread, no loop, no colour.

The state that admits a call is that call's ticket. A transition replaces the state object under the breaker's lock, so
a result that comes late speaks to an object that is no longer the state, and moves nothing. No lock is held while a
call runs, and nothing here calls user code: durations are drawn before the lock is taken.

Half-open opens the gate gradually: one probe, one place more for each success while callers are being refused, closed
when nobody is refused any more. A dependency that comes back cold gets the load it can take instead of all at once.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from resilient.errors import FailureInfo
from resilient.outcome import IGNORED, SUCCESS, Outcome
from resilient.window import Counts, CountWindow, TimeWindow

if TYPE_CHECKING:
    import threading

_QUIET = 1.0  # seconds without a refused caller after which half-open may close
_LONGEST_HALF_OPEN = 30.0  # seconds after which it closes although callers are refused
_GRACE = 1.0  # seconds a probe that is limited to n seconds may take beyond n
_ROUNDING = 1e-9  # 0.07 * 100 is 7.000000000000001: 7 failures of 100 must reach a rate of 0.07


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


@dataclass(frozen=True, slots=True)
class Settings:
    """What a breaker was told; one frozen object, read by its states."""

    window: TimeWindow | CountWindow
    minimum_calls: int
    failure_rate: float | None
    consecutive_failures: int | None
    slow_call_duration: float  # inf: no call is slow
    slow_call_rate: float
    half_open_probes: int
    half_open_successes: int
    half_open_failures: int
    half_open_timeout: float


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
    """Why a call is refused, and when to come back."""

    retry_after: float | None
    info: FailureInfo | None
    reason: str


class Circuit(Protocol):
    """What the states need of their breaker. Everything but `now` and `deliver` is used under `lock`."""

    lock: threading.Lock
    settings: Settings
    state_object: CircuitState
    ignored: int
    late: int

    def now(self) -> float:
        """The breaker's clock."""
        ...

    def become_locked(self, old: CircuitState, new: CircuitState, reason: str, error: BaseException | None) -> None:
        """Replace `old` by `new` and queue the event; nothing when `old` is no longer the state."""
        ...

    def threshold_locked(self, reason: str) -> None:
        """Queue the event that a metrics-only circuit would have opened."""
        ...

    def deliver(self) -> None:
        """Deliver what was queued; after the lock."""
        ...


class CircuitState:
    """One period of a circuit."""

    __slots__ = ("_circuit", "attempt", "slowest")
    kind: ClassVar[State]
    admits_all: ClassVar[bool] = False

    def __init__(self, circuit: Circuit, *, attempt: int = 0, slowest: float = 0.0) -> None:
        self._circuit = circuit
        self.attempt = attempt  # openings since it was closed last
        self.slowest = slowest  # seconds of the slowest success while it was closed last

    def admit(self, now: float, limit: float) -> CircuitState | Probe | Rejection | None:
        """A ticket, a refusal, or None when the state was replaced or is due to be: ask again."""
        raise NotImplementedError

    def counts(self, now: float) -> Counts:
        """What this period has counted."""
        return Counts(0, 0, 0)

    def totals(self) -> tuple[int, int]:
        """(calls that ended, failures among them) of this period."""
        return 0, 0

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may be admitted; None when calls are, or when nobody knows."""
        return None

    def success(self, elapsed: float, now: float) -> None:
        """A call went well."""

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """A call ended."""

    def unused(self) -> None:
        """Nothing was sent."""

    def after_fork_in_child(self, lock: threading.Lock) -> None:
        """Take the new lock."""


class Closed(CircuitState):
    """Calls pass and are counted, until too many fail or are slow."""

    __slots__ = ("_first", "_lock", "_ring", "_settings", "_slow_after", "_streak")
    kind = State.CLOSED
    admits_all = True

    def __init__(self, circuit: Circuit, now: float, first: float) -> None:
        super().__init__(circuit)
        self._lock = circuit.lock
        self._settings = circuit.settings
        self._slow_after = circuit.settings.slow_call_duration
        self._ring = circuit.settings.window.counter(now)
        self._streak = 0
        self._first = first

    def admit(self, now: float, limit: float) -> CircuitState:
        return self

    def success(self, elapsed: float, now: float) -> None:
        circuit = self._circuit
        lock = self._lock
        lock.acquire()  # the hot path: `with` costs twice as much
        try:
            if circuit.state_object is not self:
                circuit.late += 1
                return
            self._streak = 0
            if elapsed > self.slowest:
                self.slowest = elapsed
            if elapsed >= self._slow_after:
                self._ring.record(now, False, True)
            elif not self._ring.success(now):
                return
            self._judge_locked(now, None)  # a success too may complete the minimum, or see older successes leave
        finally:
            lock.release()
        circuit.deliver()

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        if outcome is SUCCESS:
            self.success(elapsed, now)
            return
        circuit = self._circuit
        with self._lock:
            if circuit.state_object is not self:
                circuit.late += 1
            elif outcome is IGNORED:
                circuit.ignored += 1
            else:
                self._streak += 1
                self._ring.record(now, True, elapsed >= self._slow_after)
                self._judge_locked(now, error)
        circuit.deliver()

    def counts(self, now: float) -> Counts:
        return self._ring.counts(now)

    def totals(self) -> tuple[int, int]:
        return self._ring.totals()

    def after_fork_in_child(self, lock: threading.Lock) -> None:
        self._lock = lock

    def _judge_locked(self, now: float, error: BaseException | None) -> None:
        counts = self._ring.counts(now)
        reason = self._reason_to_open(counts)
        if reason is not None:
            info = None if error is not None else FailureInfo("result", reason, now)
            self._trip_locked(Trip(reason, now, error, info, counts))

    def _reason_to_open(self, counts: Counts) -> str | None:
        settings = self._settings
        calls, failures, slow = counts
        if calls >= settings.minimum_calls:
            if settings.failure_rate is not None and failures + _ROUNDING >= settings.failure_rate * calls:
                return f"{failures} of {calls} calls failed"
            if slow and slow + _ROUNDING >= settings.slow_call_rate * calls:
                return f"{slow} of {calls} calls were slow"
        if settings.consecutive_failures is not None:
            few = calls < settings.minimum_calls or settings.failure_rate is None
            if self._streak >= (settings.consecutive_failures if few else settings.minimum_calls):
                return f"{self._streak} calls failed in a row"
        return None

    def _trip_locked(self, trip: Trip) -> None:
        circuit = self._circuit
        opened = Open(circuit, until=trip.at + self._first, attempt=1, trip=trip, slowest=self.slowest)
        circuit.become_locked(self, opened, trip.reason, trip.error)


class MetricsOnly(Closed):
    """Counts as closed does, tells once when it would have opened, and never opens."""

    __slots__ = ("_told",)
    kind = State.METRICS_ONLY

    def __init__(self, circuit: Circuit, now: float) -> None:
        super().__init__(circuit, now, first=0.0)
        self._told = False

    def _trip_locked(self, trip: Trip) -> None:
        if not self._told:
            self._told = True
            self._circuit.threshold_locked(trip.reason)


class Open(CircuitState):
    """Calls are rejected until a time; then the caller who asks opens the way for probes."""

    __slots__ = ("_trip", "info", "until")
    kind = State.OPEN

    def __init__(self, circuit: Circuit, *, until: float, attempt: int, trip: Trip, slowest: float) -> None:
        super().__init__(circuit, attempt=attempt, slowest=slowest)
        self.until = until
        self.info = trip.info
        self._trip = trip

    def admit(self, now: float, limit: float) -> Rejection | None:
        left = self.until - now
        if left <= 0:
            return None
        self.describe_failure()
        return Rejection(left, self.info, self._trip.reason)

    def describe_failure(self) -> None:
        """Turn the error that opened the circuit into text and let it go, frames and all.

        Not under the lock: `str()` of an error is the user's code.
        """
        trip = self._trip
        if trip.error is not None:
            self.info = FailureInfo.of(trip.error, trip.at)
            self._trip = trip._replace(error=None)

    def half_open(self, durations: Durations) -> None:
        """Let probes in; only the first of those who ask at once does it."""
        circuit = self._circuit
        with circuit.lock:
            circuit.become_locked(
                self, HalfOpen(self, circuit, circuit.now(), durations), "its open time is over", None
            )
        circuit.deliver()

    def counts(self, now: float) -> Counts:
        return self._trip.counts

    def retry_after(self, now: float) -> float | None:
        return max(0.0, self.until - now)


class Probe:
    """The permit of one call in half-open. Dropped unsettled, it gives its place back."""

    __slots__ = ("_state", "_token")

    def __init__(self, state: HalfOpen, token: object) -> None:
        self._state = state
        self._token = token

    def success(self, elapsed: float, now: float) -> None:
        """The dependency answered."""
        self._state.settle_probe(self._token, SUCCESS, elapsed, now, None)

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """The probe ended."""
        self._state.settle_probe(self._token, outcome, elapsed, now, error)

    def unused(self) -> None:
        """Nothing was sent."""
        self._state.settle_probe(self._token, IGNORED, 0.0, 0.0, None, sent=False)

    def __del__(self) -> None:
        self._state.dropped.append(self._token)  # an append only: a lock taken inside a GC run can deadlock


class HalfOpen(CircuitState):
    """A few calls probe; the others are rejected."""

    __slots__ = (
        "_bad",
        "_cap",
        "_durations",
        "_ended",
        "_entered",
        "_grown",
        "_live",
        "_ok",
        "_opened",
        "_refused",
        "_settings",
        "dropped",
    )
    kind = State.HALF_OPEN

    def __init__(self, opened: Open, circuit: Circuit, now: float, durations: Durations) -> None:
        super().__init__(circuit, attempt=opened.attempt, slowest=opened.slowest)
        self._settings = circuit.settings
        self._opened = opened
        self._durations = durations
        self._cap = circuit.settings.half_open_probes
        self._ok = self._bad = 0
        self._ended = [0, 0]  # results, failures among them: a hung probe is bad without a result
        self._live: dict[object, float] = {}  # by token: a dict of probes would keep dropped ones alive
        self._entered = now
        self._refused = self._grown = float("-inf")
        self.dropped: deque[object] = deque()

    def admit(self, now: float, limit: float) -> Probe | Rejection | None:
        circuit = self._circuit
        with circuit.lock:
            now = max(now, circuit.now())
            while self.dropped:
                self._live.pop(self.dropped.popleft(), None)
            for token in [token for token, lease in self._live.items() if lease <= now]:
                del self._live[token]
                self._failed_locked(now, None, "a probe did not end in time")
            if circuit.state_object is not self:
                return None
            if len(self._live) >= self._cap:
                self._refused = now
                soonest = min(self._live.values(), default=now) - now
                return Rejection(min(max(soonest, 0.0), 1.0), self._opened.info, "half-open, its probes are under way")
            token = object()
            self._live[token] = now + self._lease(limit)
            return Probe(self, token)

    def settle_probe(
        self,
        token: object,
        outcome: Outcome,
        elapsed: float,
        now: float,
        error: BaseException | None,
        sent: bool = True,
    ) -> None:
        """Settle one probe; the first settlement of a token counts."""
        circuit = self._circuit
        with circuit.lock:
            if circuit.state_object is not self:
                circuit.late += sent
            elif self._live.pop(token, None) is not None:
                if outcome is IGNORED:
                    circuit.ignored += sent
                elif outcome is SUCCESS:
                    self._ended[0] += 1
                    if elapsed >= self._settings.slow_call_duration:
                        self._failed_locked(now, None, f"a probe took {elapsed:.3g} s")
                    else:
                        self._succeeded_locked(now)
                else:
                    self._ended[0] += 1
                    self._ended[1] += 1
                    self._failed_locked(now, error, "a probe failed")
        circuit.deliver()

    def counts(self, now: float) -> Counts:
        return Counts(self._ok + self._bad, self._bad, 0)

    def totals(self) -> tuple[int, int]:
        return self._ended[0], self._ended[1]

    def _lease(self, limit: float) -> float:
        if limit != float("inf"):
            return limit + _GRACE
        return max(self._settings.half_open_timeout, 2 * self.slowest)

    def _succeeded_locked(self, now: float) -> None:
        circuit, enough = self._circuit, self._settings.half_open_successes
        self._ok += 1
        if self._ok < enough or self._refused > self._grown:  # only while the cap binds
            self._cap += 1
            self._grown = now
        if self._ok >= enough and (now - self._refused >= _QUIET or now - self._entered >= _LONGEST_HALF_OPEN):
            closed = Closed(circuit, now, self._durations.first)
            circuit.become_locked(self, closed, f"{self._ok} probes succeeded", None)

    def _failed_locked(self, now: float, error: BaseException | None, what: str) -> None:
        self._bad += 1
        settings = self._settings
        tried = self._ok + self._bad
        reached = settings.failure_rate is None or self._bad + _ROUNDING >= settings.failure_rate * tried
        if self._bad < settings.half_open_failures:
            return
        if not reached and self._bad < 3 * settings.half_open_successes:  # a rate of 1.0 must not stay here for ever
            return
        circuit, opened = self._circuit, self._opened
        recovered = self._ok >= settings.half_open_successes
        reason = f"{what}, {self._bad} of {tried} probes failed"
        trip = Trip(reason, now, error, opened.info, Counts(tried, self._bad, 0))
        again = Open(
            circuit,
            until=now + (self._durations.first if recovered else self._durations.again),
            attempt=1 if recovered else self.attempt + 1,
            trip=trip,
            slowest=self.slowest,
        )
        circuit.become_locked(self, again, trip.reason, error)


class ForcedOpen(CircuitState):
    """Rejects every call until `reset()`."""

    __slots__ = ()
    kind = State.FORCED_OPEN

    def admit(self, now: float, limit: float) -> Rejection:
        return Rejection(None, None, "it was forced open")


class Disabled(CircuitState):
    """Passes every call and counts nothing until `reset()`."""

    __slots__ = ()
    kind = State.DISABLED
    admits_all = True

    def admit(self, now: float, limit: float) -> CircuitState:
        return self
