"""The breaker against a naive model, written from its rules alone, through any history that hypothesis finds."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import CircuitBreaker, CircuitOpenError, CircuitStateChanged, CountWindow, Permit, TimeWindow, names
from resilient.testing import VirtualClock

NEVER = -math.inf


class Model:
    """One thread, no state objects, no running totals: every call is kept and counted again."""

    def __init__(self, given: dict[str, Any], now: float) -> None:
        self.given = given
        self.period = 0
        self.state = "closed"
        self.changes: list[tuple[str, str]] = []
        self.totals = {"successes": 0, "failed": 0, "ignored": 0, "late": 0, "rejected": 0}
        self.enter("closed", now, tell=False)

    def enter(self, state: str, now: float, tell: bool = True) -> None:
        if tell and state != self.state:
            self.changes.append((self.state, state))
        if state == "open" and self.state not in {"open", "half_open"}:
            self.tripped = self.counts(now)
        if state not in {"open", "half_open"}:
            self.attempt, self.slowest = 0, 0.0
        self.state, self.since = state, now
        self.period += 1
        self.calls: list[tuple[float, bool, bool]] = []
        self.streak = self.ok = self.bad = 0
        self.live: dict[int, float] = {}
        self.cap, self.refused = self.given["half_open_probes"], NEVER

    def open(self, now: float, seconds: float, attempt: int) -> None:
        tripped = (self.ok + self.bad, self.bad, 0) if self.state == "half_open" else None
        self.enter("open", now)
        self.tripped = tripped or self.tripped
        self.until, self.attempt = now + seconds, attempt

    def counts(self, now: float) -> tuple[int, int, int]:
        if self.state == "open":
            return self.tripped
        if self.state == "half_open":
            return self.ok + self.bad, self.bad, 0
        window = self.given["window"]
        if isinstance(window, CountWindow):
            kept = self.calls[-window.calls :]
        else:
            width = window.seconds / window.buckets
            first = (now - self.since) // width - window.buckets + 1
            kept = [call for call in self.calls if (call[0] - self.since) // width >= first]
        return len(kept), sum(call[1] for call in kept), sum(call[2] for call in kept)

    def acquire(self, now: float, token: int) -> float | tuple[int, int] | None:
        """(period, token), or the seconds to come back after."""
        if self.state == "open" and now >= self.until:
            attempt, tripped, slowest = self.attempt, self.tripped, self.slowest
            self.enter("half_open", now)
            self.attempt, self.tripped, self.slowest = attempt, tripped, slowest
        if self.state == "half_open":
            for hung in [one for one, lease in self.live.items() if lease <= now]:
                if self.state == "half_open":
                    del self.live[hung]
                    self.probe_failed(now)
        if self.state in {"open", "forced_open"}:
            self.totals["rejected"] += 1
            return self.until - now if self.state == "open" else None
        if self.state == "half_open":
            if len(self.live) >= self.cap:
                self.refused = now
                self.totals["rejected"] += 1
                return min(1.0, min(self.live.values()) - now)
            self.live[token] = now + max(self.given["half_open_timeout"], 2 * self.slowest)
        return self.period, token

    def settle(self, ticket: tuple[int, int], admitted_by: str, outcome: str, elapsed: float, now: float) -> None:
        period, token = ticket
        if outcome == "unused":
            self.live.pop(token, None)
        elif admitted_by == "disabled":
            return
        elif period != self.period or (self.state == "half_open" and token not in self.live):
            self.totals["late"] += 1
        elif outcome == "ignored":
            self.live.pop(token, None)
            self.totals["ignored"] += 1
        else:
            failed = outcome == "failure"
            self.totals["failed" if failed else "successes"] += 1
            self.count(token, failed, elapsed >= (self.given["slow_call_duration"] or math.inf), elapsed, now)

    def count(self, token: int, failed: bool, slow: bool, elapsed: float, now: float) -> None:
        if self.state == "half_open":
            del self.live[token]
            self.probe_failed(now) if failed or slow else self.probe_succeeded(now, elapsed)
            return
        self.calls.append((now, failed, slow))
        self.streak = self.streak + 1 if failed else 0
        if not failed:
            self.slowest = max(self.slowest, elapsed)
        if self.state == "closed" and self.is_bad(now):
            slowest = self.slowest
            self.open(now, 4.0, 1)
            self.slowest = slowest

    def is_bad(self, now: float) -> bool:
        given, (calls, failures, slow) = self.given, self.counts(now)
        row = given["consecutive_failures"]
        rate, enough = given["failure_rate"], calls >= given["minimum_calls"]
        return bool(
            (enough and rate is not None and failures and failures >= rate * calls)
            or (enough and slow and slow >= given["slow_call_rate"] * calls)
            or (row is not None and self.streak >= row and (rate is None or not enough))
            or (row is not None and self.streak >= given["minimum_calls"] and rate is not None)
        )

    def probe_succeeded(self, now: float, elapsed: float) -> None:
        self.ok += 1
        if self.ok < self.given["half_open_successes"] or self.refused >= now - elapsed:
            self.cap += 1
        if self.ok >= self.given["half_open_successes"] and (now - self.refused >= 1 or now - self.since >= 30):
            self.enter("closed", now)

    def probe_failed(self, now: float) -> None:
        self.bad += 1
        rate, successes = self.given["failure_rate"], self.given["half_open_successes"]
        at_rate = rate is None or self.bad >= rate * (self.ok + self.bad)
        if self.bad >= self.given["half_open_failures"] and (at_rate or self.bad >= 3 * successes):
            attempt = 1 if self.ok >= successes else self.attempt + 1
            slowest = self.slowest
            self.open(now, min(20.0, 4.0 * 2 ** (attempt - 1)), attempt)
            self.slowest = slowest


class BreakerMachine(RuleBasedStateMachine):
    """One breaker and its model, told the same."""

    @initialize(
        given=st.fixed_dictionaries(
            {
                "window": st.sampled_from([TimeWindow(4.0, buckets=4), TimeWindow(2.0, buckets=1), CountWindow(6)]),
                "minimum_calls": st.integers(1, 6),
                "failure_rate": st.sampled_from([None, 0.25, 0.5, 1.0]),
                "consecutive_failures": st.sampled_from([None, 1, 2, 3, 8]),
                "slow_call_duration": st.sampled_from([None, 1.0]),
                "slow_call_rate": st.sampled_from([0.5, 1.0]),
                "half_open_probes": st.integers(1, 3),
                "half_open_successes": st.integers(1, 3),
                "half_open_failures": st.integers(1, 2),
                "half_open_timeout": st.sampled_from([2.0, 10.0]),
            }
        )
    )
    def make(self, given: dict[str, Any]) -> None:
        if given["slow_call_duration"] is None:
            given["slow_call_rate"] = 1.0  # another rate would be refused: no call is slow
        assume(any(given[way] is not None for way in ("failure_rate", "consecutive_failures", "slow_call_duration")))
        self.clock = VirtualClock()
        self.events: list[CircuitStateChanged] = []
        self.breaker = CircuitBreaker(
            "machine",
            **given,
            open_duration=4.0,
            max_open_duration=20.0,
            clock=self.clock,
            rng=lambda: 0.0,
            listeners=[lambda event: self.events.append(event) if isinstance(event, CircuitStateChanged) else None],
        )
        self.model = Model(given, self.clock.monotonic())
        self.held: list[tuple[Permit, tuple[int, int], str, float]] = []
        self.tokens = 0

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(repeat=st.integers(1, 4))
    def acquire(self, repeat: int) -> None:
        for _ in range(repeat):
            self.tokens += 1
            expected = self.model.acquire(self.now, self.tokens)
            try:
                permit = self.breaker.acquire()
            except CircuitOpenError as refused:
                assert refused.retry_after == expected  # noqa: PT017  # either end is asserted
            else:
                assert isinstance(expected, tuple)
                self.held.append((permit, expected, self.model.state, self.now))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["success", "success", "failure", "failure", "ignored"]))
    def settle(self, which: int, outcome: str) -> None:
        permit, ticket, admitted_by, started = self.held.pop(which % len(self.held))
        self.model.settle(ticket, admitted_by, outcome, self.now - started, self.now)
        getattr(permit, outcome)()
        permit.failure()  # a second settlement does nothing

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), drop=st.booleans())
    def never_sent(self, which: int, drop: bool) -> None:
        permit, ticket, admitted_by, _ = self.held.pop(which % len(self.held))
        self.model.settle(ticket, admitted_by, "unused", 0.0, self.now)
        if not drop:
            permit.unused()
        del permit

    @rule(how=st.sampled_from(["force_open", "disable", "metrics_only", "reset", "reset"]))
    def by_hand(self, how: str) -> None:
        states = {"force_open": "forced_open", "disable": "disabled", "metrics_only": "metrics_only", "reset": "closed"}
        self.model.enter(states[how], self.now)
        getattr(self.breaker, how)()

    @rule(seconds=st.sampled_from([None, 1.0, 3.0, 30.0]))
    def open(self, seconds: float | None) -> None:
        model, length = self.model, 4.0 if seconds is None else seconds
        if model.state in {"closed", "half_open"} or (model.state == "open" and self.now + length > model.until):
            slowest = model.slowest
            model.open(self.now, length, max(model.attempt, 0 if seconds is not None else 1))
            model.slowest = slowest
        self.breaker.open(seconds)

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        model, snapshot = self.model, self.breaker.snapshot()
        assert snapshot.state.value == self.breaker.state.value == model.state
        assert (snapshot.calls, snapshot.failures, snapshot.slow) == (
            (0, 0, 0) if model.state in {"disabled", "forced_open"} else model.counts(self.now)
        )
        assert {what: getattr(snapshot, what) for what in model.totals} == model.totals
        assert snapshot.retry_after == (max(0.0, model.until - self.now) if model.state == "open" else None)
        assert [(event.old.value, event.new.value) for event in self.events] == model.changes

    def teardown(self) -> None:
        names.forget()


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase  # the breaker and its naive model agree after every step
