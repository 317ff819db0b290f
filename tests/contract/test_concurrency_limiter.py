"""Adaptive concurrency: the numbers of Netflix's algorithms, and what a limiter promises whatever its algorithm."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable

import pytest

from resilient import (
    CallTimeoutError,
    ConcurrencyLimitedError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    Timeout,
)
from resilient.gate import Permit
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.limit_algorithms import AIMD, Gradient2, LimitAlgorithm, Vegas
from resilient.testing import VirtualClock
from tests.waiting import wait_until


class Fixed:
    """A limit that moves when the test says so."""

    def __init__(self, limit: int) -> None:
        self.initial = limit
        self.next = float(limit)
        self.samples: list[tuple[float, int, bool]] = []

    def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
        """The limit it was told."""
        self.samples.append((rtt, in_flight, dropped))
        return self.next


def test_vegas_grows_by_beta_while_there_is_no_queue() -> None:
    """Case 1: the first sample sets the fastest latency; the same again with 11 in flight: 10 -> 16."""
    vegas = Vegas(initial=10)
    assert vegas.update(10.0, 0.010, 10, False) == 10
    assert vegas.update(10.0, 0.010, 11, False) == 16


def test_vegas_shrinks_when_the_queue_is_long() -> None:
    """Case 2: five times the fastest latency: 10 -> 9."""
    vegas = Vegas(initial=10)
    vegas.update(10.0, 0.010, 10, False)
    assert vegas.update(10.0, 0.050, 10, False) == 9


def test_vegas_stays_between_alpha_and_beta() -> None:
    """Case 3: 1.4 times the fastest latency is a queue of 3: 10 stays."""
    vegas = Vegas(initial=10)
    vegas.update(10.0, 0.010, 10, False)
    assert vegas.update(10.0, 0.014, 10, False) == 10


def test_vegas_stays_while_callers_use_less_than_half() -> None:
    """Case 4: 10000 with 4999 in flight stays, with 6000 it grows to 10024."""
    vegas = Vegas(initial=10_000, maximum=20_000)
    assert vegas.update(10_000.0, 0.010, 5000, False) == 10_000
    assert vegas.update(10_000.0, 0.010, 4999, False) == 10_000
    assert vegas.update(10_000.0, 0.010, 6000, False) == 10_024


def test_vegas_takes_a_share_of_each_change() -> None:
    """Case 5: smoothing 0.5 of halving: 100 -> 75 -> 56."""
    vegas = Vegas(initial=100, maximum=200, smoothing=0.5, decrease=lambda limit: limit / 2)
    limit = vegas.update(100.0, 0.010, 100, False)
    assert limit == 100
    limit = vegas.update(limit, 0.020, 100, False)
    assert limit == 75
    assert int(vegas.update(limit, 0.020, 100, False)) == 56


def test_aimd_drops_by_a_tenth_and_stops_at_its_maximum() -> None:
    """Case 6: 30 after a drop is 27, after an answer of more than 5 s too; at the maximum it stays."""
    assert AIMD(initial=30).update(30.0, 0.010, 30, True) == 27
    assert AIMD(initial=30).update(30.0, 5.1, 30, False) == 27
    assert AIMD().update(200.0, 0.010, 200, False) == 200
    assert AIMD().update(100.0, 0.010, 100, False) == 101
    assert AIMD().update(20.0, 0.010, 20, True) == 20


def test_gradient2_shrinks_by_the_ratio_of_latencies() -> None:
    """Case 7: 100 after ten samples of 10 ms and one of 30 ms is about 90."""
    gradient = Gradient2(initial=100)
    for _ in range(10):
        assert gradient.update(100.0, 0.010, 10, False) == 100
    assert gradient.update(100.0, 0.030, 100, False) == pytest.approx(90.8, abs=0.1)


def test_gradient2_never_goes_below_its_minimum() -> None:
    """Case 7: the default minimum is 20; drops do not pass it either."""
    gradient, limit = Gradient2(initial=100), 100.0
    for rtt in [0.010] * 10 + [1.0] * 20:
        limit = gradient.update(limit, rtt, 100, False)
    assert limit == 20
    assert gradient.update(limit, 0.010, 20, True) == 20
    assert Gradient2(minimum=1).update(20.0, 0.010, 20, True) == 18


def test_an_ignored_outcome_gives_its_place_back_without_a_sample(clock: VirtualClock) -> None:
    """Case 8: cancelled, refused further in, or failed in a way that says nothing about load."""
    fixed = Fixed(1)
    limiter = ConcurrencyLimiter(fixed, window=None, clock=clock)
    settle: list[Callable[[Permit], None]] = [
        lambda permit: permit.ignored(),
        lambda permit: permit.unused(),
        lambda permit: permit.failure(ValueError("a bug, not a load")),
    ]
    for how in settle:
        permit = limiter.acquire()
        clock.advance(0.1)
        how(permit)
        how(permit)
        assert limiter.in_flight == 0
    assert fixed.samples == []
    assert limiter.snapshot().ignored == 3


def test_a_limit_below_what_is_in_flight_admits_nobody_until_usage_is_under(clock: VirtualClock) -> None:
    """Case 9: nobody is evicted; attempts are successes and rejections together."""
    fixed = Fixed(5)
    limiter = ConcurrencyLimiter(fixed, window=None, clock=clock)
    permits = [limiter.acquire() for _ in range(5)]
    fixed.next = 2
    clock.advance(0.1)
    permits.pop().success()
    assert (limiter.limit, limiter.in_flight) == (2, 4)
    rejected = 0
    while permits:
        if limiter.in_flight >= 2:
            with pytest.raises(ConcurrencyLimitedError) as caught:
                limiter.acquire()
            assert caught.value.policy == "concurrency_limiter"
            rejected += 1
        permits.pop().success()
    limiter.acquire().success()
    found = limiter.snapshot()
    assert (found.accepted, found.rejected, found.in_flight) == (6, rejected, 0)
    assert found.succeeded + found.rejected == found.accepted + rejected


def test_no_more_than_the_limit_are_under_way_in_threads() -> None:
    """Case 9: sixteen threads against a limit of four never pass it, and the count is exact."""
    limiter = ConcurrencyLimiter(Fixed(4), window=None)
    lock, seen, inside, attempts = threading.Lock(), 0, 0, 16 * 500
    admitted = 0

    def work() -> None:
        nonlocal seen, inside, admitted
        for _ in range(500):
            try:
                permit = limiter.acquire()
            except ConcurrencyLimitedError:
                continue
            with lock:
                inside += 1
                admitted += 1
                seen = max(seen, inside)
            with lock:
                inside -= 1
            permit.success()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = limiter.snapshot()
    assert 1 <= seen <= 4
    assert (found.in_flight, found.accepted, found.accepted + found.rejected) == (0, admitted, attempts)
    assert found.succeeded + found.dropped + found.ignored == admitted


class SimulatedServer:
    """A server of `places` that queues, and callers who ask `rate` times per second, whatever they get."""

    def __init__(self, limiter: ConcurrencyLimiter, clock: VirtualClock, *, places: int, rate: float) -> None:
        self.service = 0.05
        self._limiter, self._clock = limiter, clock
        self._free, self._rate = places, rate
        self._queue: deque[Permit] = deque()
        self._events: list[tuple[float, int, Permit | None]] = [(clock.monotonic(), 0, None)]
        self._order = 0

    def run(self, seconds: float) -> list[int]:
        """Go on for `seconds`; the limit at the end of each."""
        limits: list[int] = []
        end = self._clock.monotonic() + seconds
        while self._events[0][0] <= end:
            at, _, ended = heapq.heappop(self._events)
            while len(limits) < at - end + seconds:
                limits.append(self._limiter.limit)
            self._clock.advance(max(0.0, at - self._clock.monotonic()))
            if ended is None:
                self._add(at + 1 / self._rate, None)
                try:
                    self._queue.append(self._limiter.acquire())
                except ConcurrencyLimitedError:
                    continue
            else:
                self._free += 1
                ended.success()
            while self._free and self._queue:
                self._free -= 1
                self._add(self._clock.monotonic() + self.service, self._queue.popleft())
        return limits

    def _add(self, at: float, permit: Permit | None) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, permit))


@pytest.mark.parametrize("make", [Gradient2, lambda: Gradient2(minimum=1), Vegas], ids=["default", "low", "vegas"])
def test_it_converges_to_what_a_server_can_take(make: Callable[[], LimitAlgorithm], clock: VirtualClock) -> None:
    """Case 10: a server of 20 places, 2.5 times as many calls: 15 to 40 within a minute, and again after a spike."""
    limiter = ConcurrencyLimiter(make(), clock=clock)
    server = SimulatedServer(limiter, clock, places=20, rate=1000.0)
    server.run(55.0)
    assert all(15 <= limit <= 40 for limit in server.run(5.0))
    server.service *= 10
    assert min(server.run(10.0)) < 24
    server.service /= 10
    server.run(55.0)
    assert all(15 <= limit <= 40 for limit in server.run(5.0))


def test_gradient2_does_not_take_its_own_queue_for_normal(clock: VirtualClock) -> None:
    """Case 10, for five minutes more: under a load that never ends the limit does not drift to its maximum."""
    limiter = ConcurrencyLimiter(clock=clock)
    server = SimulatedServer(limiter, clock, places=20, rate=600.0)
    assert max(server.run(300.0)) <= 45


def test_a_worker_that_is_left_behind_keeps_its_place() -> None:
    """Rule 17: the dependency is still at work for a caller who has gone."""
    limiter = ConcurrencyLimiter(Fixed(1), window=None)
    guard = Pipeline(limiter, Timeout(0.02))
    go = threading.Event()
    with pytest.raises(CallTimeoutError):
        guard.call(go.wait)
    assert limiter.in_flight == 1
    with pytest.raises(ConcurrencyLimitedError):
        guard.call(go.wait)
    go.set()
    wait_until(lambda: limiter.in_flight == 0, what="the place coming back")
    assert limiter.snapshot().dropped == 1


def test_a_deadline_that_has_passed_is_no_sample(clock: VirtualClock) -> None:
    """Rule 2: a call that was refused further in gives its place back and teaches nothing."""
    fixed = Fixed(1)
    guard = Pipeline(ConcurrencyLimiter(fixed, window=None, clock=clock), Timeout(1.0, thread=False, clock=clock))
    with Deadline(0.5, clock=clock):
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError):
            guard.call(lambda: "never")
    assert fixed.samples == []
