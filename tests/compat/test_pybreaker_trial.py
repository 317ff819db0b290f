"""One call tries a half-open circuit; its place never gets lost."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pybreaker
import pytest

from resilient.compat.pybreaker import CircuitBreaker, CircuitHalfOpenState
from resilient.testing import VirtualClock
from tests.compat.both import HeldTrial, bad, expired, good, in_thread, refused

BUSY = "^Trial call in progress, circuit breaker still half-open$"


def test_one_trial_at_a_time() -> None:
    """While it runs, other threads are refused at once and told when to come back."""
    breaker = CircuitBreaker()
    expired(breaker)
    trial = HeldTrial(breaker)
    error = refused(breaker)
    assert str(error) == BUSY[1:-1]
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 1
    trial.end()
    assert (breaker.current_state, breaker.call(good)) == ("closed", "fine")


def test_threads_that_race_half_open_once() -> None:
    """Of five at once one tries; the circuit changes to half-open once."""

    class Changes(pybreaker.CircuitBreakerListener):
        seen: list[str] = []  # noqa: RUF012  # of this one test

        def before_call(self, cb: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            time.sleep(0)

        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            self.seen.append(new_state.name)

    breaker = CircuitBreaker(fail_max=1, listeners=[Changes()])
    expired(breaker)
    Changes.seen.clear()
    for thread in [in_thread(lambda: breaker.call(bad)) for _ in range(5)]:
        thread.join(5)
    assert Changes.seen == ["half-open", "open"]


def test_a_hung_trial_gives_way_when_its_lease_ends(clock: VirtualClock) -> None:
    """After `reset_timeout` seconds the next call takes the place; the result of the hung one moves nothing."""
    breaker = CircuitBreaker(reset_timeout=60, success_threshold=2, clock=clock)
    breaker.half_open()
    hung = HeldTrial(breaker, ConnectionError("too late"))
    clock.advance(59)
    refused(breaker)
    clock.advance(1)
    assert breaker.call(good) == "fine"
    hung.end()
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)


def test_the_shortest_lease_is_ten_seconds(clock: VirtualClock) -> None:
    """A reset time of milliseconds says nothing about how long an honest call takes."""
    breaker = CircuitBreaker(reset_timeout=0.01, clock=clock)
    breaker.half_open()
    trial = HeldTrial(breaker)
    clock.advance(9.9)
    refused(breaker)
    clock.advance(0.1)
    assert breaker.call(good) == "fine"
    trial.end()


def test_a_slow_trial_counts_while_nobody_has_taken_its_place(clock: VirtualClock) -> None:
    """Its lease is over, but there is no other word on the dependency."""
    breaker = CircuitBreaker(clock=clock)
    breaker.half_open()
    trial = HeldTrial(breaker)
    clock.advance(3600)
    trial.end()
    assert breaker.current_state == "closed"


def test_a_trial_may_call_through_its_own_breaker() -> None:
    """A guarded function that calls a guarded function would never close the circuit otherwise."""
    breaker = CircuitBreaker()
    expired(breaker)
    assert breaker.call(breaker.call, good) == "fine"
    expired(breaker)
    with breaker.calling():
        assert breaker.call(good) == "fine"
    expired(breaker)
    assert list(breaker(lambda: (breaker.call(good) for _ in "ab"))()) == ["fine", "fine"]
    assert breaker.current_state == "closed"


def test_what_a_generators_consumer_calls_is_no_part_of_its_trial() -> None:
    """Between two steps the trial waits; another call is another call."""
    breaker = CircuitBreaker()
    expired(breaker)
    trial = breaker(lambda: (item for item in "ab"))()
    assert next(trial) == "a"
    refused(breaker)
    assert list(trial) == ["b"]
    assert breaker.current_state == "closed"


def test_a_generator_that_is_never_started_gives_the_place_back() -> None:
    """It was admitted as the trial, and then dropped."""
    breaker = CircuitBreaker()
    expired(breaker)
    generator = breaker(lambda: (item for item in "ab"))()
    refused(breaker)
    del generator
    gc.collect()
    assert breaker.call(good) == "fine"


def test_a_blocked_trial_gives_the_place_back() -> None:
    """A `before_call` that raised: the function never ran."""

    class Gate(pybreaker.CircuitBreakerListener):
        shut = True

        def before_call(self, cb: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            if self.shut:
                raise PermissionError

    gate = Gate()
    breaker = CircuitBreaker(listeners=[gate])
    expired(breaker)
    with pytest.raises(PermissionError):
        breaker.call(good)
    gate.shut = False
    assert (breaker.call(good), breaker.current_state) == ("fine", "closed")


def test_a_fork_frees_the_place_in_the_child() -> None:
    """The result of a trial that goes on there moves nothing."""
    breaker = CircuitBreaker(success_threshold=2)
    expired(breaker)
    trial = HeldTrial(breaker)
    breaker.after_fork_in_child()
    assert breaker.call(good) == "fine"
    trial.end()
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
    breaker.close()
    breaker.after_fork_in_child()
    assert breaker.call(good) == "fine"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_waits_neither_for_the_parents_trial_nor_for_its_lock() -> None:
    """The threads that hold them are not in the child."""
    breaker, locked, leave = CircuitBreaker(), threading.Event(), threading.Event()
    expired(breaker)
    trial = HeldTrial(breaker)

    def hold_lock() -> None:
        with breaker._lock:
            locked.set()
            assert leave.wait(5)

    holder = in_thread(hold_lock)
    assert locked.wait(5)
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        os._exit(0 if breaker.call(good) == "fine" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    holder.join(5)
    trial.end()


def test_half_opened_again_the_place_is_free() -> None:
    """A trial of a former half-open period holds nothing."""
    breaker = CircuitBreaker()
    breaker.half_open()
    former = HeldTrial(breaker)
    breaker.open()
    breaker.half_open()
    assert isinstance(breaker.state, CircuitHalfOpenState)
    assert breaker.call(good) == "fine"
    former.end()
    assert breaker.current_state == "closed"
