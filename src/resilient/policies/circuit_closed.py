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
        ring = self._ring
        if now < ring.quiet_until and elapsed < self._slow_after and self._circuit.state_object is self:
            # No lock, and no call before the tick: no thread and no signal handler comes in between. Threads that are
            # busy succeeding would queue for a lock.
            self._streak = 0
            if elapsed > self.slowest:
                self.slowest = elapsed
            next(ring.ticks)
            return
        with self._circuit.lock:
            self._succeeded_locked(elapsed, now)
        self._circuit.deliver()

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        if outcome is SUCCESS:
            self.success(elapsed, now)
            return
        circuit = self._circuit
        lock = circuit.lock
        try:  # a third of the cost of `with`; before the `try`, a signal handler that raises would leave it locked
            lock.acquire()
            last = (type(error), now)  # a call: a signal handler may come in, so before the state is looked at
            if circuit.state_object is not self:
                circuit.late += 1
                return
            if outcome is IGNORED:
                circuit.ignored += 1
                return
            ring, settings = self._ring, circuit.settings
            slow = elapsed >= self._slow_after
            if now >= ring.ends:
                ring.make_room(now)
                if circuit.state_object is not self:  # a signal handler replaced it meanwhile
                    circuit.late += 1
                    return
            self._streak = streak = self._streak + 1
            self._last = last
            ring.failures += 1
            if slow:
                ring.slow += 1
            elif ring.harmless > 0:
                ring.harmless -= 1
                next(ring.ticks)
                return
            ring.quiet_until = NEVER_QUIET
            calls = next(ring.ticks) - ring.looks - ring.gone
            if streak < settings.row and calls < settings.minimum_calls:
                return  # too few to be judged
            counts = ring.counts(now)
            reason = self._reason_to_open(counts)
            if reason is None:
                return
            info = FailureInfo("result", reason, now) if error is None else None
            self._trip_locked(Trip(reason, now, error, info, counts))
        finally:
            try:  # noqa: SIM105  # `suppress` is a call more
                lock.release()
            except RuntimeError:  # the handler raised while this thread waited: the lock is another's
                pass
        circuit.deliver()

    def _succeeded_locked(self, elapsed: float, now: float) -> None:
        circuit, ring = self._circuit, self._ring
        if now >= ring.ends:
            ring.make_room(now)
        if circuit.state_object is not self:
            circuit.late += 1
            return
        self._streak = 0
        if elapsed > self.slowest:
            self.slowest = elapsed
        if elapsed >= self._slow_after:
            ring.slow += 1
            ring.quiet_until = NEVER_QUIET
        next(ring.ticks)
        if not ring.bad():
            return
        counts = ring.counts(now)
        reason = self._reason_to_open(counts)  # a success may complete the minimum, or see older successes leave
        if reason is not None:
            last = self.last_failure()
            info = FailureInfo("result" if last is None else last.kind, reason, now)
            self._trip_locked(Trip(reason, now, None, info, counts))

    def counts(self, now: float) -> Counts:
        return self._ring.counts(now)

    def last_failure(self) -> FailureInfo | None:
        return None if self._last is None else brief(*self._last)

    def totals(self) -> tuple[int, int]:
        return self._ring.totals()

    def adjust_locked(self, old: Settings, new: Settings, durations: Durations, now: float) -> None:
        self._slow_after = new.slow_after
        self._first = durations.first
        self._ring.quiet_until, self._ring.harmless = NEVER_QUIET, 0  # the next call is judged
        if new.window != old.window:  # what it counted was of another geometry: the window begins anew, empty
            ended, self._ring = self._ring, new.window.counter(now)
            self._circuit.fold_locked(*ended.totals())  # after it: a success counts without the lock while it is there

    def _reason_to_open(self, counts: Counts) -> str | None:
        settings = self._circuit.settings
        calls, failures, slow = counts
        if calls >= settings.minimum_calls:
            if failures and settings.failure_rate and failures + ROUNDING >= settings.failure_rate * calls:
                return f"{failures} of {calls} calls failed"
            if slow and slow + ROUNDING >= settings.slow_call_rate * calls:
                return f"{slow} of {calls} calls were slow"
            rate, streak = settings.failure_rate, self._streak
            if rate is not None and streak < settings.minimum_calls:
                left = settings.minimum_calls - streak - 1
                if rate < 1.0:
                    left = min(left, int((rate * calls - failures) / (1.0 - rate) - ROUNDING))
                self._ring.be_quiet(left)
                return None
        if self._streak < settings.row:
            return None
        return "a call failed" if self._streak == 1 else f"{self._streak} calls failed in a row"

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
