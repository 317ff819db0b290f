"""Closed: calls pass and are counted, until too many fail or are slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.errors import FailureInfo
from resilient.outcome import IGNORED, SUCCESS, Outcome
from resilient.policies.circuit_states import ROUNDING, Circuit, CircuitState, Open, State, Trip
from resilient.window import Counts

if TYPE_CHECKING:
    import threading


class Closed(CircuitState):
    """Calls pass and are counted, until too many fail or are slow."""

    __slots__ = ("_first", "_last_kind", "_lock", "_ring", "_settings", "_slow_after", "_streak")
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
        self._last_kind = "result"  # of the last failure: a success may open the circuit

    def admit(self, now: float, limit: float) -> CircuitState:
        return self

    def success(self, elapsed: float, now: float) -> None:
        circuit = self._circuit
        lock = self._lock
        try:  # half the cost of `with`; before the `try`, a signal handler that raises would leave it locked for ever
            lock.acquire()
            if circuit.state_object is not self:
                circuit.late += 1
                return
            self._streak = 0
            if elapsed > self.slowest:
                self.slowest = elapsed
            ring = self._ring
            if elapsed >= self._slow_after:
                ring.record(now, False, True)
            elif now < ring.quiet_until:
                ring.recorded += 1
                return
            elif not ring.success(now):
                return
            self._judge_locked(now, None)  # a success too may complete the minimum, or see older successes leave
        finally:
            try:  # noqa: SIM105  # `suppress` is a call more
                lock.release()
            except RuntimeError:  # the handler raised while this thread waited: the lock is another's
                pass
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
                self._last_kind = "result" if error is None else type(error).__name__
                self._ring.record(now, True, elapsed >= self._slow_after)
                self._judge_locked(now, error)
        circuit.deliver()

    def counts(self, now: float) -> Counts:
        return self._ring.counts(now)

    def totals(self) -> tuple[int, int]:
        return self._ring.totals()

    def after_fork_in_child(self, lock: threading.RLock) -> None:
        self._lock = lock

    def _judge_locked(self, now: float, error: BaseException | None) -> None:
        counts = self._ring.counts(now)
        reason = self._reason_to_open(counts)
        if reason is not None:
            info = None if error is not None else FailureInfo(self._last_kind, reason, now)
            self._trip_locked(Trip(reason, now, error, info, counts))

    def _reason_to_open(self, counts: Counts) -> str | None:
        settings = self._settings
        calls, failures, slow = counts
        if calls >= settings.minimum_calls:
            if settings.failure_rate and failures and failures + ROUNDING >= settings.failure_rate * calls:
                return f"{failures} of {calls} calls failed"
            if slow and slow + ROUNDING >= settings.slow_call_rate * calls:
                return f"{slow} of {calls} calls were slow"
        enough = settings.consecutive_failures
        if enough is not None:
            if settings.failure_rate is not None:
                few = calls < settings.minimum_calls
                enough = min(enough, settings.minimum_calls) if few else settings.minimum_calls
            if self._streak >= enough:
                return f"{self._streak} calls failed in a row"
        return None

    def _trip_locked(self, trip: Trip) -> None:
        circuit = self._circuit
        until = trip.at + circuit.jittered(self._first)
        opened = Open(circuit, until=until, attempt=1, trip=trip, slowest=self.slowest)
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
