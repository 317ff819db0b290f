"""Which calls count: rings against the naive list of everything that ever happened."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from resilient import CircuitBreaker, CountWindow, TimeWindow
from resilient.testing import VirtualClock
from resilient.window import NEVER_QUIET, Counts, Ring

START = 1000.0


def record(ring: Ring, now: float, failed: bool, slow: bool) -> None:
    """Count a call as a breaker does under its lock."""
    if now >= ring.ends:
        ring.make_room(now)
    ring.failures += failed
    ring.slow += slow
    if failed or slow:
        ring.quiet_until = NEVER_QUIET
    next(ring.ticks)


def ring_of(seconds: float, buckets: int) -> Ring:
    return TimeWindow(seconds, buckets=buckets).counter(START)


def test_the_eleventh_tick_of_ten_buckets_drops_the_oldest() -> None:
    """Case 1: one call per bucket fills the window; the next bucket pushes the first one out."""
    ring = ring_of(160.0, 10)
    for tick in range(10):
        record(ring, START + 16.0 * tick, False, False)
        assert ring.counts(START + 16.0 * tick)[0] == tick + 1
    assert ring.counts(START + 160.0)[0] == 9
    record(ring, START + 160.0, False, False)
    assert ring.counts(START + 160.0)[0] == 10


def test_skipped_buckets_are_empty() -> None:
    """Case 2: after an idle time the old calls leave as early as if every bucket had been visited."""
    ring = ring_of(10.0, 10)
    record(ring, START + 0.5, True, False)
    record(ring, START + 4.5, True, False)
    assert ring.counts(START + 9.5) == (2, 2, 0)
    assert ring.counts(START + 10.0) == (1, 1, 0)
    assert ring.counts(START + 13.9) == (1, 1, 0)
    assert ring.counts(START + 14.0) == (0, 0, 0)


@pytest.mark.parametrize("idle", [10.0, 10.5, 1e9])
def test_an_idle_window_is_empty_and_its_total_is_kept(idle: float) -> None:
    """Case 3: a gap as long as the window or longer empties it; what was ever recorded stays known."""
    ring = ring_of(10.0, 10)
    record(ring, START, True, True)
    record(ring, START, False, False)
    assert ring.counts(START + idle) == (0, 0, 0)
    assert ring.totals() == (2, 1)


def test_reading_rolls_although_no_call_came() -> None:
    """Case 4: calls at 0, 0.1 and 0.8 s are there at 4.8 s and gone at 5.8 s, only by reading."""
    ring = ring_of(5.0, 10)
    for at in (0.0, 0.1, 0.8):
        record(ring, START + at, True, False)
    assert ring.counts(START + 4.8) == (3, 3, 0)
    assert ring.counts(START + 5.8) == (0, 0, 0)


def test_calls_on_both_sides_of_a_boundary_leave_one_after_the_other() -> None:
    """Case 5: 0.999 s and 1.001 s lie in different buckets of one second."""
    ring = ring_of(5.0, 5)
    record(ring, START + 0.999, False, False)
    record(ring, START + 1.001, False, False)
    assert ring.counts(START + 5.0)[0] == 1
    assert ring.counts(START + 6.0)[0] == 0


def test_an_older_time_counts_into_the_current_bucket() -> None:
    """Case 6: a clock reading taken before another thread rolled the window loses nothing."""
    ring = ring_of(10.0, 10)
    record(ring, START + 5.5, True, False)
    record(ring, START + 5.5, True, False)
    record(ring, START + 2.5, True, True)
    record(ring, START - 7.0, False, False)
    assert ring.counts(START + 3.0) == (4, 3, 1)
    assert ring.counts(START + 14.9) == (4, 3, 1)
    assert ring.counts(START + 15.0) == (0, 0, 0)


def test_a_count_window_evicts_the_first_and_never_counts_below_zero() -> None:
    """Case 7: the sixth result of five pushes the first out, with its failure and its slowness."""
    ring = CountWindow(5).counter(START)
    record(ring, START, True, True)
    for _ in range(4):
        record(ring, START, False, False)
    assert ring.counts(START) == (5, 1, 1)
    record(ring, START, False, False)
    assert not ring.bad()
    assert ring.counts(START + 1e9) == (5, 0, 0)
    for _ in range(20):
        record(ring, START, True, False)
        record(ring, START, False, True)
        calls, failures, slow = ring.counts(START)
        assert (calls, failures + slow <= 5, min(failures, slow) >= 0) == (5, True, True)
    assert ring.totals() == (46, 21)


class NaiveTime:
    """Every call with its bucket."""

    def __init__(self, width: float, buckets: int) -> None:
        self.width, self.buckets, self.index = width, buckets, 0
        self.calls: list[tuple[int, bool, bool]] = []

    def roll(self, now: float) -> None:
        self.index = max(self.index, int((now - START) // self.width))
        self.calls = [call for call in self.calls if self.index - call[0] < self.buckets]

    def record(self, now: float, failed: bool, slow: bool) -> None:
        self.roll(now)
        self.calls.append((self.index, failed, slow))

    def counts(self, now: float) -> Counts:
        self.roll(now)
        return len(self.calls), sum(call[1] for call in self.calls), sum(call[2] for call in self.calls)


class NaiveCount:
    """The last calls."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls: list[tuple[bool, bool]] = []

    def record(self, now: float, failed: bool, slow: bool) -> None:
        self.calls = [*self.calls, (failed, slow)][-self.size :]

    def counts(self, now: float) -> Counts:
        return len(self.calls), sum(call[0] for call in self.calls), sum(call[1] for call in self.calls)


@pytest.mark.parametrize(
    ("window", "model"),
    [
        (TimeWindow(10.0, buckets=10), lambda: NaiveTime(1.0, 10)),
        (TimeWindow(0.75, buckets=3), lambda: NaiveTime(0.25, 3)),
        (TimeWindow(2.0, buckets=1), lambda: NaiveTime(2.0, 1)),
        (CountWindow(7), lambda: NaiveCount(7)),
        (CountWindow(1), lambda: NaiveCount(1)),
    ],
    ids=["ten buckets", "three buckets", "one bucket", "seven calls", "one call"],
)
def test_random_operations_agree_with_a_list(
    window: TimeWindow | CountWindow, model: Callable[[], NaiveTime | NaiveCount]
) -> None:
    """Case 8: 20,000 operations per window, 100,000 in all; quiet successes take the hot path of the breaker."""
    rng = random.Random(7)
    ring, naive = window.counter(START), model()
    now, recorded, ever_failed = START, 0, 0
    for _ in range(20_000):
        now += rng.choice((0.0, 0.0, 0.0, 0.0, 0.015625, 0.125, 0.5, 4.0))
        back = now - rng.choice((0.0, 0.0, 0.0, 0.5))
        what = rng.random()
        if what < 0.1:
            failed, slow = rng.random() < 0.7, rng.random() < 0.5
            record(ring, back, failed, slow)
            naive.record(back, failed, slow)
            recorded, ever_failed = recorded + 1, ever_failed + failed
        elif what < 0.7:
            naive.record(back, False, False)
            recorded += 1
            _, failures, slow_calls = naive.counts(back)
            if back < ring.quiet_until:
                next(ring.ticks)
                assert (failures, slow_calls) == (0, 0)
            else:
                record(ring, back, False, False)
                assert ring.bad() is bool(failures or slow_calls)
        assert ring.counts(back) == naive.counts(back)
    assert ring.totals() == (recorded, ever_failed)


@pytest.mark.parametrize(("window", "each"), [(TimeWindow(1000.0), 10_000), (CountWindow(100_000), 1000)], ids=str)
def test_32_threads_lose_no_count(window: TimeWindow | CountWindow, each: int, clock: VirtualClock) -> None:
    """Case 9: 32 threads with 10,000 calls each through one breaker are counted exactly."""
    breaker = CircuitBreaker(window=window, failure_rate=1.0, consecutive_failures=None, clock=clock)
    settle = breaker.standing
    assert settle is not None
    ready = threading.Barrier(32)

    def work() -> None:
        ready.wait(10.0)
        for _ in range(each):
            settle.success(0.0, START)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = breaker.snapshot()
    assert (snapshot.calls, snapshot.successes, snapshot.late) == (32 * each, 32 * each, 0)


def test_a_length_that_its_buckets_do_not_divide_keeps_exact_fractions() -> None:
    """Case 10: a second in three buckets: a call leaves with its third, after a second, not before 2/3 s."""
    ring = ring_of(1.0, 3)
    record(ring, START + 0.3, True, False)
    record(ring, START + 0.4, True, False)
    assert ring.counts(START + 0.99)[1] == 2
    assert ring.counts(START + 1.01)[1] == 1
    assert ring.counts(START + 1.34)[1] == 0
