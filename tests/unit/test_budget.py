"""Retry budgets: what is allowed, exactness under threads, and a model of a few lines."""

from __future__ import annotations

import gc
import json
import math
import pickle
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import ConfigError
from resilient.budget import RetryBudget, RetryPermit
from resilient.testing import VirtualClock


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"ratio": -0.1}, "from 0 to 100"),
        ({"ratio": 150}, "for 150 % write 1.5"),
        ({"ratio": True}, "a number"),
        ({"ratio": math.nan}, "finite"),
        ({"minimum_in_flight": -1}, "at least 0"),
        ({"minimum_in_flight": 1.5}, "a whole number"),
        ({"minimum_in_flight": True}, "a whole number"),
        ({"window": 0}, "more than 0"),
        ({"window": math.inf}, "finite"),
        ({"ratio": 0, "minimum_in_flight": 0}, "never allow"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], told: str) -> None:
    """At construction, with the value and what is allowed."""
    with pytest.raises(ConfigError, match=told):
        RetryBudget(**arguments)


def test_what_it_was_told_can_be_read(clock: VirtualClock) -> None:
    """Its numbers, its counts, and a repr worth reading."""
    budget = RetryBudget(0.5, minimum_in_flight=1, window=20.0, clock=clock)
    for _ in range(4):
        budget.deposit()
    permit = budget.take()
    assert (budget.ratio, budget.minimum_in_flight, budget.window, budget.clock) == (0.5, 1, 20.0, clock)
    assert repr(budget) == "<RetryBudget 50% of the last 20 s: 1 of 4 first attempts, 1 in flight>"
    assert repr(permit) == "<permit of a RetryBudget, held>"
    found = budget.snapshot()
    assert json.loads(json.dumps(found.as_dict())) == {
        "first_attempts": 4,
        "retries": 1,
        "in_flight": 1,
        "refused": 0,
    }
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_share_of_the_first_attempts(clock: VirtualClock) -> None:
    """15 first attempts at 20 % allow 3 retries, whether or not 0.2 x 15 is a hair more than 3."""
    budget = RetryBudget(0.2, minimum_in_flight=0, clock=clock)
    for _ in range(15):
        budget.deposit()
    taken = [budget.take() for _ in range(5)]
    assert [permit is not None for permit in taken] == [True] * 3 + [False] * 2
    assert budget.snapshot().refused == 2


def test_released_retries_still_count(clock: VirtualClock) -> None:
    """The ratio is of calls made, not of calls under way."""
    budget = RetryBudget(0.5, minimum_in_flight=0, clock=clock)
    budget.deposit()
    permit = budget.take()
    assert permit is not None
    permit.release()
    assert repr(permit) == "<permit of a RetryBudget, settled>"
    assert budget.take() is None


def test_an_unused_one_counts_for_nothing(clock: VirtualClock) -> None:
    """Refunded once, however often it is settled."""
    budget = RetryBudget(0.5, minimum_in_flight=0, clock=clock)
    budget.deposit()
    permit = budget.take()
    assert permit is not None
    for _ in range(3):
        permit.unused()
        permit.release()
    assert budget.snapshot().retries == 0
    assert budget.take() is not None


def test_release_then_unused_refunds_nothing(clock: VirtualClock) -> None:
    """The first settlement counts."""
    budget = RetryBudget(clock=clock)
    permit = budget.take()
    assert permit is not None
    permit.release()
    permit.unused()
    assert budget.snapshot().retries == 1


def test_a_dropped_permit_gives_its_place_back(clock: VirtualClock) -> None:
    """Also one that a garbage collection finds."""
    budget = RetryBudget(0.0, minimum_in_flight=1, clock=clock)
    cycle: list[object] = [budget.take()]
    cycle.append(cycle)
    assert budget.take() is None
    del cycle
    gc.collect()
    assert budget.snapshot().in_flight == 0
    assert budget.take() is not None


def test_reading_rolls(clock: VirtualClock) -> None:
    """Nobody calls, and the counts leave all the same."""
    budget = RetryBudget(clock=clock)
    for second in range(3):
        clock.advance(1.0)
        for _ in range(second + 1):
            budget.deposit()
    assert budget.snapshot().first_attempts == 6
    clock.advance(7.0)
    assert budget.snapshot().first_attempts == 6
    clock.advance(1.0)
    assert budget.snapshot().first_attempts == 5
    clock.advance(1000.0)
    assert budget.snapshot().first_attempts == 0


def test_counting_is_exact_under_threads() -> None:
    """32 threads deposit and take: no first attempt is lost, none counted twice, and no retry too many allowed."""
    budget = RetryBudget(0.25, minimum_in_flight=0, window=1000.0)
    allowed: list[RetryPermit] = []
    start = threading.Barrier(32)

    def work() -> None:
        start.wait()
        for _ in range(500):
            budget.deposit()
            permit = budget.take()
            if permit is not None:
                allowed.append(permit)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = budget.snapshot()
    assert found.first_attempts == 16_000
    assert found.retries == found.in_flight == len(allowed) == 4000
    assert found.refused == 12_000


def test_no_first_attempt_is_lost_when_the_step_changes(clock: VirtualClock) -> None:
    """A counter that another thread has just replaced still counts, into its own tenth of the window."""
    budget = RetryBudget(clock=clock)
    hits, _ = budget.counting(clock.monotonic())
    clock.advance(1.0)
    budget.deposit()
    hits.append(None)
    assert budget.snapshot().first_attempts == 2
    clock.advance(9.0)
    assert budget.snapshot().first_attempts == 1


def test_reset(clock: VirtualClock) -> None:
    """As new; what counts and is kept at hand goes on counting, and an old permit settles nothing."""
    budget = RetryBudget(0.0, minimum_in_flight=1, clock=clock)
    for _ in range(3):
        budget.deposit()
        clock.advance(1.0)
    hits, _ = budget.counting(clock.monotonic())
    hits.append(None)
    permit = budget.take()
    assert permit is not None
    assert budget.take() is None
    budget.reset()
    assert budget.snapshot().as_dict() == {"first_attempts": 0, "retries": 0, "in_flight": 0, "refused": 0}
    hits.append(None)
    permit.unused()
    assert (budget.snapshot().first_attempts, budget.snapshot().retries) == (1, 0)
    clock.advance(100.0)
    budget.reset()
    budget.deposit()
    assert budget.snapshot().first_attempts == 1


def test_who_comes_second_finds_the_step_done(clock: VirtualClock) -> None:
    """Of two threads that see a step end, one makes the next; both count into it."""
    budget = RetryBudget(clock=clock)
    clock.advance(1.0)
    budget._roll(clock.monotonic())
    _, ends = budget.counting(clock.monotonic())
    budget._roll(clock.monotonic())
    assert budget.counting(clock.monotonic())[1] == ends


def test_a_child_begins_anew(clock: VirtualClock) -> None:
    """What is in flight is the parent's; a permit of the parent's settles nothing in the child."""
    budget = RetryBudget(clock=clock)
    permit = budget.take()
    assert permit is not None
    budget.after_fork_in_child()
    permit.unused()
    found = budget.snapshot()
    assert (found.in_flight, found.retries) == (0, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.integers(1, 30)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("unused"), st.just(0)),
        st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 3.0, 9.5, 30.0])),
    ),
    max_size=60,
)


@given(ACTIONS, st.sampled_from([0.0, 0.1, 0.2, 1.0]), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_it_does_what_a_list_of_moments_does(actions: list[tuple[str, float]], ratio: float, minimum: int) -> None:
    """Against a model that keeps every moment, in steps of a second."""
    clock = VirtualClock(0.0)
    budget = RetryBudget(ratio, minimum_in_flight=max(minimum, int(ratio == 0)), clock=clock)
    minimum = budget.minimum_in_flight
    firsts: list[int] = []
    retries: list[int] = []
    held: list[tuple[RetryPermit, int]] = []
    for action, number in actions:
        step = math.floor(clock.monotonic())
        live = [one for one in firsts if one > step - 10]
        if action == "advance":
            clock.advance(number)
        elif action == "deposit":
            for _ in range(int(number)):
                budget.deposit()
                firsts.append(step)
        elif action == "take":
            made = [one for one in retries if one > step - 10]
            expected = len(held) < minimum or len(made) + 1e-9 < ratio * len(live)
            permit = budget.take()
            assert (permit is not None) is expected
            if permit is not None:
                retries.append(step)
                held.append((permit, step))
        elif held:
            permit, taken = held.pop(0)
            if action == "unused":
                permit.unused()
                retries.remove(taken)
            else:
                permit.release()
    step = math.floor(clock.monotonic())
    found = budget.snapshot()
    assert found.first_attempts == sum(one > step - 10 for one in firsts)
    assert found.retries == sum(one > step - 10 for one in retries)
    assert found.in_flight == len(held)
