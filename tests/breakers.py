"""A breaker that a test brings to a state, and work that threads begin at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from resilient import CircuitBreaker, State
from resilient.testing import VirtualClock

BY_HAND = (State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY)


def run(breaker: CircuitBreaker, calls: str) -> None:
    """Make the calls: S succeeds, F fails."""
    for call in calls:
        permit = breaker.acquire()
        permit.success() if call == "S" else permit.failure(ConnectionError("down"))


def bring(breaker: CircuitBreaker, state: State, clock: VirtualClock) -> None:
    """Bring a breaker, in any state, to `state`."""
    breaker.reset()
    if state in {State.OPEN, State.HALF_OPEN}:
        breaker.open(1.0)
    if state is State.HALF_OPEN:
        clock.advance(1.0)
        breaker.acquire().ignored()
    if state in BY_HAND:
        by_hand(breaker, state)
    assert breaker.state is state


def by_hand(breaker: CircuitBreaker, state: State) -> None:
    {
        State.FORCED_OPEN: breaker.force_open,
        State.DISABLED: breaker.disable,
        State.METRICS_ONLY: breaker.metrics_only,
    }[state]()


def in_threads(*work: Callable[[], object]) -> None:
    """Run them at once; what one raises is raised here."""
    ready, errors = threading.Barrier(len(work)), list[BaseException]()

    def begin(one: Callable[[], object]) -> None:
        try:
            ready.wait(10.0)
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive(), "a thread is stuck"
    if errors:
        raise errors[0]
