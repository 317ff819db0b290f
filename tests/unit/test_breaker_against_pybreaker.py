"""Three breakers, one history: ours that counts failures in a row, pybreaker's, and the drop-in for pybreaker.

Set to count in a row, ours must do what pybreaker does with calls that come one after another. Where the two differ by
design, the settings or the history leave it out:

- Ours lengthens open times by chance and doubles them: here `rng` gives 0.0 and `open_duration` is always the same.
- Ours closes a second after the last refused probe: one call at a time, nobody is refused while half-open.
- Ours drops results of calls from before a change of state; pybreaker makes calls wait for each other.
- An excluded error is a success for pybreaker and says nothing to ours: only the drop-in is told of those.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import CircuitBreaker, CircuitOpenError, names
from resilient.compat import pybreaker as compat
from resilient.testing import VirtualClock

OPEN_TIME = 4.0
STATES = {"closed": "closed", "open": "open", "half-open": "half_open"}


class Excluded(Exception):
    """Says nothing about the dependency."""


class VirtualStorage(pybreaker.CircuitMemoryStorage):
    """Opened as long ago, on the wall clock that pybreaker reads, as it is in virtual time."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.at: float | None = None
        super().__init__("closed")

    @property
    def opened_at(self) -> datetime | None:
        if self.at is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=self.clock.monotonic() - self.at)

    @opened_at.setter
    def opened_at(self, _: datetime) -> None:
        self.at = self.clock.monotonic()


def answer(breaker: Any, error: Exception | None) -> str:
    """How a call ends for its caller."""

    def work() -> str:
        if error:
            raise error
        return "good"

    try:
        return str(breaker.call(work))
    except (pybreaker.CircuitBreakerError, CircuitOpenError):
        return "refused"
    except (ConnectionError, Excluded) as own:
        return type(own).__name__


class ThreeBreakers(RuleBasedStateMachine):
    """Told the same, they must say the same."""

    @initialize(failures=st.integers(1, 4), successes=st.integers(1, 3), exclusions=st.booleans())
    def make(self, failures: int, successes: int, exclusions: bool) -> None:
        self.clock = VirtualClock()
        self.exclusions = exclusions
        self.ours = CircuitBreaker(
            "ours",
            failure_rate=None,
            consecutive_failures=failures,
            half_open_successes=successes,
            open_duration=lambda _: OPEN_TIME,
            clock=self.clock,
            rng=lambda: 0.0,
        )
        self.theirs, self.drop_in = (
            kind(
                fail_max=failures,
                success_threshold=successes,
                reset_timeout=OPEN_TIME,
                exclude=[Excluded],
                state_storage=VirtualStorage(self.clock),
                throw_new_error_on_trip=False,
            )
            for kind in (pybreaker.CircuitBreaker, compat.CircuitBreaker)
        )

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.5, OPEN_TIME, 60.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(times=st.integers(1, 3), error=st.sampled_from([None, ConnectionError("down")]))
    def call(self, times: int, error: Exception | None) -> None:
        for _ in range(times):
            expected = answer(self.theirs, error)
            assert answer(self.drop_in, error) == expected
            if not self.exclusions:
                assert answer(self.ours, error) == expected

    @precondition(lambda self: self.exclusions)
    @rule()
    def excluded(self) -> None:
        assert answer(self.drop_in, Excluded()) == answer(self.theirs, Excluded())

    @rule()
    def open_by_hand(self) -> None:
        self.ours.open()
        assert self.drop_in.open() == self.theirs.open()

    @rule()
    def close_by_hand(self) -> None:
        self.ours.reset()
        self.theirs.close()
        self.drop_in.close()

    @invariant()
    def all_say_the_same(self) -> None:
        if not hasattr(self, "ours"):
            return
        theirs, drop_in = self.theirs, self.drop_in
        assert drop_in.current_state == drop_in.state.name == theirs.current_state
        assert (drop_in.fail_counter, drop_in.success_counter) == (theirs.fail_counter, theirs.success_counter)
        if not self.exclusions:
            assert self.ours.state.value == STATES[theirs.current_state]

    def teardown(self) -> None:
        names.forget()


ThreeBreakers.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestThreeBreakers = ThreeBreakers.TestCase  # the three agree after every step
