"""What a snapshot says of a breaker at one moment; and how its half-open gate widens under a load that is counted."""

from __future__ import annotations

import heapq
import json
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, CountWindow, FailureInfo, State
from resilient.testing import VirtualClock
from tests.breakers import bring, in_threads, run

Make = Callable[..., CircuitBreaker]


@pytest.fixture
def make(clock: VirtualClock) -> Make:
    """Make a breaker in virtual time whose open times are not lengthened by chance."""

    def made(name: str = "svc", **settings: Any) -> CircuitBreaker:
        return CircuitBreaker(name, clock=clock, **{"rng": lambda: 0.0, **settings})

    return made


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# --- snapshots ----------------------------------------------------------------------------------------------------


def test_a_snapshot_says_since_when_and_when(make: Make, clock: VirtualClock) -> None:
    """Both on the breaker's clock, in every state."""
    breaker = make(consecutive_failures=1)
    start = clock.monotonic()
    clock.advance(2.0)
    assert (breaker.snapshot().since, breaker.snapshot().at) == (start, start + 2.0)
    run(breaker, "F")
    clock.advance(5.0)
    assert (breaker.snapshot().since, breaker.snapshot().at) == (start + 2.0, start + 7.0)
    breaker.acquire()
    clock.advance(1.0)
    assert (breaker.snapshot().state, breaker.snapshot().since) == (State.HALF_OPEN, start + 7.0)
    breaker.force_open()
    clock.advance(1.0)
    assert (breaker.snapshot().since, breaker.snapshot().at) == (start + 8.0, start + 9.0)


def test_a_later_end_does_not_change_since_when_it_is_open(make: Make, clock: VirtualClock) -> None:
    """It went into that state once."""
    breaker = make()
    breaker.open(5.0)
    start = clock.monotonic()
    clock.advance(2.0)
    breaker.open(10.0)
    assert (breaker.snapshot().since, breaker.snapshot().retry_after) == (start, 10.0)


def test_a_snapshot_names_the_last_failure(make: Make, clock: VirtualClock) -> None:
    """Closed: its kind and time; open and half-open: its text too; after closing: none."""
    breaker = make(consecutive_failures=2, half_open_successes=1)
    at = clock.monotonic()
    assert breaker.snapshot().last_failure is None
    run(breaker, "FS")
    assert breaker.snapshot().last_failure == FailureInfo("ConnectionError", "", at)
    clock.advance(1.0)
    breaker.acquire().failure()
    assert breaker.snapshot().last_failure == FailureInfo("result", "", at + 1.0)
    run(breaker, "F")
    info = FailureInfo("ConnectionError", "down", at + 1.0)
    assert breaker.snapshot().last_failure == info
    clock.advance(5.0)
    probe = breaker.acquire()
    assert breaker.snapshot().last_failure == info
    probe.success()
    assert breaker.snapshot().last_failure is None


@pytest.mark.parametrize("state", list(State))
def test_a_snapshot_is_plain_data(make: Make, clock: VirtualClock, state: State) -> None:
    """It goes through JSON and pickle, in every state, with and without a failure."""
    breaker = make()
    run(breaker, "SF")
    bring(breaker, state, clock)
    if state in {State.CLOSED, State.METRICS_ONLY}:
        run(breaker, "SFFFF" if state is State.CLOSED else "F" * 9)
    snapshot = breaker.snapshot()
    data = json.loads(json.dumps(snapshot.as_dict(), allow_nan=False))
    assert data["state"] == state.value
    assert data == snapshot.as_dict()
    assert set(data) == set(type(snapshot).__dataclass_fields__)
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


def test_snapshots_are_consistent_under_threads(clock: VirtualClock, hectic: None) -> None:
    """Each one adds up, totals never go back, and in the end every attempt is in it once."""
    breaker = CircuitBreaker(
        "svc", clock=clock, open_duration=0.001, half_open_successes=1, consecutive_failures=3, window=CountWindow(20)
    )
    attempts, refused = [0] * 8, [0] * 8
    done = threading.Event()

    def work(number: int) -> Callable[[], None]:
        rng = random.Random(number)

        def calls() -> None:
            for _ in range(300):
                try:
                    permit = breaker.acquire()
                except CircuitOpenError:
                    refused[number] += 1
                    clock.advance(0.001)
                    continue
                attempts[number] += 1
                rng.choice([permit.success, permit.success, permit.failure, permit.ignored])()

        return calls

    def watch() -> None:
        before = breaker.snapshot()
        while not done.is_set():
            now = breaker.snapshot()
            assert 0 <= now.failures <= now.calls
            assert now.calls <= 20 or now.state is not State.CLOSED
            assert now.at >= max(now.since, before.at)
            assert (now.retry_after is None) == (now.state is not State.OPEN)
            for total in ("successes", "failed", "ignored", "late", "rejected"):
                assert getattr(now, total) >= getattr(before, total)
            before = now

    def all_work() -> None:
        try:
            in_threads(*[work(number) for number in range(8)])
        finally:
            done.set()

    in_threads(all_work, watch)
    snapshot = breaker.snapshot()
    assert snapshot.successes + snapshot.failed + snapshot.ignored + snapshot.late == sum(attempts)
    assert snapshot.rejected == sum(refused)


# --- the gate opens gradually ---------------------------------------------------------------------------------------


def test_evenly_spaced_callers_double_the_load_of_half_open_per_round_trip(make: Make, clock: VirtualClock) -> None:
    """Rule 9: 100 callers a second, calls of half a second: 1, 2, 4, 8, … under way, and closed within 10 s."""
    breaker = make()
    breaker.open(1.0)
    clock.advance(1.0)
    ends: list[tuple[int, int]] = []  # in hundredths of a second: (when it ends, its number)
    permits: dict[int, Any] = {}
    most: list[int] = []
    for now in range(1000):
        while ends and ends[0][0] <= now:
            permits.pop(heapq.heappop(ends)[1]).success()
        if breaker.state is State.CLOSED:
            break
        try:
            permits[now] = breaker.acquire()
            heapq.heappush(ends, (now + 50, now))
        except CircuitOpenError:
            pass
        if now % 50 == 0:
            most.append(0)
        most[-1] = max(most[-1], len(permits))
        clock.advance(0.01)
    assert breaker.state is State.CLOSED
    assert most[0] == 1
    for trip, seen in enumerate(most[:6]):
        assert 2**trip / 2 <= seen <= 2**trip * 2, most
    assert max(most) >= 40
