"""Half-open: a few calls probe, and the gate opens gradually.

One probe at first, one place more for each success while callers are being refused, closed when nobody is refused any
more. A dependency that comes back cold gets the load it can take instead of all at once.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from resilient.errors import FailureInfo
from resilient.outcome import IGNORED, SUCCESS, Outcome
from resilient.policies.circuit_closed import Closed
from resilient.policies.circuit_settings import Settings
from resilient.policies.circuit_states import (
    ROUNDING,
    Circuit,
    CircuitState,
    Durations,
    Open,
    Rejection,
    State,
    Trip,
    because,
)
from resilient.window import Counts

_QUIET = 1.0  # seconds without a refused caller after which half-open may close
_LONGEST_HALF_OPEN = 30.0  # seconds after which it closes although callers are refused
_GONE = (float("inf"), 0.0)
_GRACE = 1.0  # seconds a probe that is limited to n seconds may take beyond n


class HalfOpen(CircuitState):
    """A few calls probe; the others are rejected."""

    __slots__ = (
        "_bad",
        "_cap",
        "_durations",
        "_ended",
        "_live",
        "_ok",
        "_opened",
        "_refused",
        "dropped",
    )
    kind = State.HALF_OPEN

    def __init__(self, opened: Open, circuit: Circuit, now: float, durations: Durations) -> None:
        super().__init__(circuit, now, attempt=opened.attempt, slowest=opened.slowest)
        self._opened = opened
        self._durations = durations
        self._cap = circuit.settings.half_open_probes
        self._ok = self._bad = 0
        self._ended = [0, 0]  # results, failures among them: a hung probe is bad without a result
        # (end of its lease, when it was admitted) by token: a dict of probes would keep dropped ones alive
        self._live: dict[object, tuple[float, float]] = {}
        self._refused = float("-inf")  # when a caller was refused last
        self.dropped: deque[object] = deque()

    def admit(self, now: float, limit: float) -> Probe | Rejection | None:
        circuit = self._circuit
        with circuit.lock:
            now = max(now, circuit.now())
            # A signal handler or a `__del__` that calls through this breaker may come between any two of these steps.
            with suppress(IndexError):
                while self.dropped:
                    self._live.pop(self.dropped.popleft(), None)
            for token in list(self._live):
                lease, _ = self._live.get(token, _GONE)
                if lease <= now and self._live.pop(token, None) is not None:
                    self._failed_locked(now, None, "a probe did not end in time")
            if circuit.state_object is not self:
                return None
            if len(self._live) >= self._cap:
                self._refused = now
                soonest = min((lease for lease, _ in list(self._live.values())), default=now) - now
                info = self._opened.info
                reason = because("half-open, its probes are under way", info)
                return Rejection(min(max(soonest, 0.0), 1.0), info, reason)
            token, lease = object(), now + self._lease(limit)
            probe = Probe(self, token)  # first: when it is lost to an interrupt its place is not
            self._live[token] = (lease, now)
            return probe

    def settle_probe(
        self,
        token: object,
        outcome: Outcome,
        elapsed: float,
        now: float,
        error: BaseException | None,
        sent: bool = True,
    ) -> None:
        """Settle one probe; called once for each."""
        circuit = self._circuit
        with circuit.lock:
            live = self._live.pop(token, None)  # before the state is looked at: see `admit`
            if live is None or circuit.state_object is not self:
                circuit.late += sent  # the period is over, or this probe was given up
            elif outcome is IGNORED:
                circuit.ignored += sent
            elif outcome is SUCCESS:
                self._ended[0] += 1
                if elapsed >= circuit.settings.slow_after:
                    self._failed_locked(now, None, f"a probe took {elapsed:.3g} s")
                else:
                    self._succeeded_locked(now, admitted=live[1])
            else:
                self._ended[0] += 1
                self._ended[1] += 1
                self._failed_locked(now, error, "a probe failed")
        circuit.deliver()

    def counts(self, now: float) -> Counts:
        return self._ok + self._bad, self._bad, 0

    def totals(self) -> tuple[int, int]:
        return self._ended[0], self._ended[1]

    def last_failure(self) -> FailureInfo | None:
        return self._opened.last_failure()

    def adjust_locked(self, old: Settings, new: Settings, durations: Durations, now: float) -> None:
        self._durations = durations

    def after_fork_in_child(self) -> None:
        self._live.clear()  # else a probe of the parent's would take the place here until its lease ends

    def _lease(self, limit: float) -> float:
        if limit != float("inf"):
            return limit + _GRACE
        return max(self._circuit.settings.half_open_timeout, 2 * self.slowest)

    def _succeeded_locked(self, now: float, admitted: float) -> None:
        circuit = self._circuit
        enough = circuit.settings.half_open_successes
        self._ok += 1
        if self._ok < enough or self._refused >= admitted:  # only while the cap binds: it doubles per round trip
            self._cap += 1
        if self._ok >= enough and (now - self._refused >= _QUIET or now - self.since >= _LONGEST_HALF_OPEN):
            closed = Closed(circuit, now, self._durations.first)
            circuit.become_locked(self, closed, f"{self._ok} probes succeeded", None)

    def _failed_locked(self, now: float, error: BaseException | None, what: str) -> None:
        self._bad += 1
        settings = self._circuit.settings
        tried = self._ok + self._bad
        reached = settings.failure_rate is None or self._bad + ROUNDING >= settings.failure_rate * tried
        if self._bad < settings.half_open_failures:
            return
        if not reached and self._bad < 3 * settings.half_open_successes:  # a rate of 1.0 must not stay here for ever
            return
        circuit, opened = self._circuit, self._opened
        recovered = self._ok >= settings.half_open_successes
        reason = f"{what}, {self._bad} of {tried} probes failed"
        trip = Trip(reason, now, error, opened.info, (tried, self._bad, 0))
        again = Open(
            circuit,
            until=now + circuit.jittered(self._durations.first if recovered else self._durations.again),
            attempt=1 if recovered else self.attempt + 1,
            trip=trip,
            slowest=self.slowest,
        )
        circuit.become_locked(self, again, trip.reason, error)


class Probe:
    """The permit of one call in half-open. Dropped unsettled, it gives its place back."""

    __slots__ = ("_state", "_token")  # the token last: with it the probe is whole

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
        if hasattr(self, "_token"):  # else interrupted while it was made
            self._state.dropped.append(self._token)  # an append only: a lock taken inside a GC run can deadlock
