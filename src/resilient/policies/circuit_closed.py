"""Closed: calls pass and are counted, until too many fail or are slow."""

from __future__ import annotations

from resilient.errors import FailureInfo
from resilient.outcome import IGNORED, SUCCESS, Outcome
from resilient.policies.circuit_settings import Settings
from resilient.policies.circuit_states import ROUNDING, Circuit, CircuitState, Durations, Open, State, Trip, brief
from resilient.window import NEVER_QUIET, Counts


class Closed(CircuitState):
    """Calls pass and are counted, until too many fail or are slow."""

    __slots__ = ("_first", "_last", "_ring", "_slow_after", "_streak")
    kind = State.CLOSED
    admits_all = True

    def __init__(self, circuit: Circuit, now: float, first: float) -> None:
        super().__init__(circuit, now)
        self._slow_after = circuit.settings.slow_after
        self._ring = circuit.settings.window.counter(now)
        self._streak = 0
        self._first = first
        self._last: tuple[type, float] | None = None  # the last failure: its text would cost a tenth of a failed call

    def admit(self, now: float, limit: float) -> CircuitState:
        return self

    def success(self, elapsed: float, now: float) -> None:
        circuit = self._circuit
        lock = circuit.lock
        held = True  # until told otherwise: a signal handler may raise when it is acquired and that is not yet noted
        try:  # a third of the cost of `with`
            held = lock.acquire(False)
            if not held:  # never waits: whoever has the lock counts for all, else threads queue for it
                circuit.let_wait(self, elapsed, now)
                return
            ring = self._ring
            if circuit.waiting:
                circuit.count_waiting_locked()
            elif circuit.state_object is self and now < ring.quiet_until and elapsed < self._slow_after:
                self._streak = 0
                if elapsed > self.slowest:
                    self.slowest = elapsed
                ring.recorded += 1
                return
            self.success_locked(elapsed, now)
        finally:
            if held:
                try:  # noqa: SIM105  # `suppress` is a call more
                    lock.release()
                except RuntimeError:  # it was not acquired
                    pass
        circuit.deliver()

    def success_locked(self, elapsed: float, now: float) -> None:
        """Count a call that went well, and judge."""
        circuit, ring = self._circuit, self._ring
        if circuit.state_object is not self:
            circuit.late += 1
            return
        bad = ring.record(now, False, elapsed >= self._slow_after)
        if circuit.state_object is not self:  # a signal handler replaced it before this call was recorded
            circuit.late += 1
            return
        self._streak = 0
        if elapsed > self.slowest:
            self.slowest = elapsed
        if not bad:
            return
        counts = ring.counts(now)
        reason = self._reason_to_open(counts)  # a success may complete the minimum, or see older successes leave
        if reason is not None:
            last = self.last_failure()
            info = FailureInfo("result" if last is None else last.kind, reason, now)
            self._trip_locked(Trip(reason, now, None, info, counts))

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        if outcome is SUCCESS:
            self.success(elapsed, now)
            return
        circuit = self._circuit
        lock = circuit.lock
        waited = False
        try:  # as in `success`
            lock.acquire()
            if circuit.waiting:
                waited = True
                circuit.count_waiting_locked()
            if circuit.state_object is not self:
                circuit.late += 1
                return
            if outcome is IGNORED:
                circuit.ignored += 1
                return
            self._streak = streak = self._streak + 1
            self._last = (type(error), now)
            ring, settings = self._ring, circuit.settings
            slow = elapsed >= self._slow_after
            if slow or now >= ring.ends:
                ring.record(now, True, slow)
                if circuit.state_object is not self:  # as in `success`
                    circuit.late += 1
                    return
            else:
                ring.recorded += 1
                ring.failures += 1
                ring.quiet_until = NEVER_QUIET
            if streak < settings.row and ring.recorded - ring.gone < settings.minimum_calls:
                return  # too few to be judged
            counts = ring.counts(now)
            reason = self._reason_to_open(counts)
            if reason is None:
                return
            info = FailureInfo("result", reason, now) if error is None else None
            self._trip_locked(Trip(reason, now, error, info, counts))
        finally:
            try:  # noqa: SIM105  # as in `success`
                lock.release()
            except RuntimeError:
                pass
            if waited:
                circuit.deliver()
        circuit.deliver()

    def counts(self, now: float) -> Counts:
        return self._ring.counts(now)

    def last_failure(self) -> FailureInfo | None:
        return None if self._last is None else brief(*self._last)

    def totals(self) -> tuple[int, int]:
        return self._ring.totals()

    def adjust_locked(self, old: Settings, new: Settings, durations: Durations, now: float) -> None:
        self._slow_after = new.slow_after
        self._first = durations.first
        self._ring.quiet_until = NEVER_QUIET  # the next call is judged
        if new.window != old.window:  # what it counted was of another geometry: the window begins anew, empty
            self._circuit.fold_locked(self)
            self._ring = new.window.counter(now)

    def _reason_to_open(self, counts: Counts) -> str | None:
        settings = self._circuit.settings
        calls, failures, slow = counts
        if calls >= settings.minimum_calls:
            if failures and settings.failure_rate and failures + ROUNDING >= settings.failure_rate * calls:
                return f"{failures} of {calls} calls failed"
            if slow and slow + ROUNDING >= settings.slow_call_rate * calls:
                return f"{slow} of {calls} calls were slow"
            if self._streak < settings.minimum_calls and settings.failure_rate is not None:
                self._ring.quiet_until = self._ring.ends  # successes can only better the rates until a bucket leaves
                return None
        return f"{self._streak} calls failed in a row" if self._streak >= settings.row else None

    def _trip_locked(self, trip: Trip) -> None:
        circuit = self._circuit
        circuit.threshold_locked(self, trip.reason)
        until = trip.at + circuit.jittered(self._first)
        opened = Open(circuit, until=until, attempt=1, trip=trip, slowest=self.slowest)
        circuit.become_locked(self, opened, trip.reason, trip.error)


class MetricsOnly(Closed):
    """Counts as closed does, tells once when it would have opened, and never opens."""

    __slots__ = ("_told",)
    kind = State.METRICS_ONLY
    by_hand = True

    def __init__(self, circuit: Circuit, now: float) -> None:
        super().__init__(circuit, now, first=0.0)
        self._told = False

    def _trip_locked(self, trip: Trip) -> None:
        if not self._told:
            self._told = True
            self._circuit.threshold_locked(self, trip.reason)
