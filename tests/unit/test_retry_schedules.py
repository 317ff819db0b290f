"""Schedules of retries, for any settings: every wait within its bounds, no attempt beyond what was agreed."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import Deadline
from resilient.budget import RetryBudget
from resilient.policies.retry import Retry
from resilient.policies.retry_report import RetryGaveUp
from tests.drive import drive_async, drive_sync
from tests.jumping import JumpingClock

DRIVES = st.sampled_from([drive_sync, drive_async])
SECONDS = st.floats(0.01, 20.0)
WAITS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.floats(0.0, 10.0),
    st.builds(tenacity.wait_random_exponential, multiplier=st.floats(0.01, 2), max=st.floats(0.1, 9)),
    st.builds(tenacity.wait_exponential, multiplier=st.floats(0.01, 2), max=st.floats(0.1, 9)),
    st.builds(tenacity.wait_random, min=st.just(0), max=st.floats(0.1, 9)),
)


def longest(wait: Any, attempt: int) -> float:
    """The upper end of a wait, said once more in other words."""
    if wait is None:
        return float(min(5.0, 0.1 * 2 ** (attempt - 1)))
    if isinstance(wait, float):
        return wait
    if isinstance(wait, tenacity.wait_random):
        return float(wait.wait_random_max)
    return float(min(wait.max, wait.multiplier * 2 ** (attempt - 1)))


@given(DRIVES, st.integers(1, 12), WAITS, st.none() | SECONDS, st.none() | SECONDS, SECONDS, st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_no_attempt_begins_when_none_should(
    drive: Any,
    attempts: int,
    wait: Any,
    total: float | None,
    deadline: float | None,
    work: float,
    seed: int,
) -> None:
    """Waits are within their bounds; attempts, total and deadline all hold; and it does not stop too early."""
    clock = JumpingClock()
    began = clock.monotonic()
    starts: list[float] = []
    ends: list[float] = []
    given_up: list[RetryGaveUp] = []

    def failing() -> None:
        starts.append(clock.monotonic() - began)
        clock.advance(work)
        ends.append(clock.monotonic() - began)
        raise ConnectionError

    retry = Retry(
        attempts=attempts,
        wait=wait,
        total=total,
        clock=clock,
        rng=random.Random(seed).random,
        listeners=[lambda event: given_up.append(event) if isinstance(event, RetryGaveUp) else None],
    )
    with Deadline(deadline or 1e9, clock=clock), pytest.raises(ConnectionError):
        drive(retry, failing)

    assert len(starts) == len(clock.slept) + 1 <= attempts
    for attempt, slept in enumerate(clock.slept, 1):
        assert 0 <= slept <= longest(wait, attempt) * (1 + 1e-9)
    latest = min(total or math.inf, deadline or math.inf)
    assert all(start < latest for start in starts[1:])
    reason = given_up[0].reason
    if len(starts) == attempts:
        assert reason == f"attempts={attempts} are made"
    else:
        assert ends[-1] + longest(wait, len(starts)) >= latest * (1 - 1e-9)
        assert "total=" in reason or "deadline" in reason


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 3.0)), max_size=60), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_calls_are_first_attempts_and_retries(calls: list[tuple[bool, float]], attempts: int, minimum: int) -> None:
    """Every call the dependency got is in the budget, as one or the other; nothing stays in flight."""
    clock = JumpingClock()
    budget = RetryBudget(0.3, minimum_in_flight=minimum, window=1e6, clock=clock)
    retry = Retry(attempts=attempts, wait=0.01, budget=budget, clock=clock)
    got = 0

    def work(good: bool) -> None:
        nonlocal got
        got += 1
        if not good:
            raise ConnectionError

    ask = retry(work)
    for good, pause in calls:
        clock.advance(pause)
        try:
            ask(good)
        except ConnectionError:
            assert not good
    found = budget.snapshot()
    assert found.first_attempts == len(calls)
    assert found.first_attempts + found.retries == got
    assert found.in_flight == 0
    if not minimum:
        assert found.retries <= 0.3 * len(calls) + 1
