"""The rate limiter's contract: the cases that catch naive implementations, in both colours."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from resilient import ConfigError, Deadline, Pipeline, RateLimitedError, RejectedError
from resilient.events import listen
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.rate_limiter import RateLimited, RateLimiter
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock
from tests.drive import Drive
from tests.waiting import wait_until


async def settle_down() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def admitted(limiter: RateLimiter, calls: int) -> int:
    """How many of so many calls at once are admitted."""
    found = 0
    for _ in range(calls):
        try:
            limiter.acquire().success()
        except RateLimitedError:
            continue
        found += 1
    return found


async def test_one_is_admitted_one_is_reserved_one_is_refused(clock: VirtualClock) -> None:
    """Case 1: one per 250 ms, waiting up to 250 ms; after six idle cycles one is available, not six."""
    limiter = RateLimiter(1, per=0.25, max_wait=0.25, clock=clock)
    times: list[float] = []

    async def work() -> None:
        times.append(clock.monotonic() - 1000)

    await limiter.acall(work)
    second = asyncio.create_task(limiter.acall(work))
    await settle_down()
    assert (limiter.snapshot().available, limiter.snapshot().waiting) == (-1, 1)
    with pytest.raises(RateLimitedError):
        await limiter.acall(work)
    await clock.advance_async(0.25)
    await second
    assert times == pytest.approx([0.0, 0.25])
    clock.advance(6 * 0.25)
    assert limiter.snapshot().available == 1
    assert admitted(limiter, 6) == 1
    assert clock.waiting == 0


def test_a_thread_waits_for_its_turn(clock: VirtualClock) -> None:
    """Case 1, for threads: parked on the policy's clock."""
    limiter = RateLimiter(1, per=0.25, max_wait=0.5, clock=clock)
    limiter.acquire().success()
    times: list[float] = []
    threads = []
    for number in range(2):
        threads.append(threading.Thread(target=lambda: limiter.call(lambda: times.append(clock.monotonic()))))
        threads[-1].start()
        wait_until(lambda number=number: clock.waiting == number + 1)  # type: ignore[misc]
    for number in range(2):
        clock.advance(0.25)
        wait_until(lambda number=number: len(times) == number + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
    assert times == pytest.approx([1000.25, 1000.5])


def test_what_can_not_succeed_is_refused_without_waiting(drive: Drive) -> None:
    """Case 2: on the real clock, a wait longer than max_wait, or than the deadline, is refused within milliseconds."""
    limiter = RateLimiter(1, per=60.0, max_wait=30.0)
    assert drive(limiter, lambda: "in") == "in"
    took = []
    for _ in range(20):
        started = time.perf_counter()
        with pytest.raises(RateLimitedError):
            limiter.call(lambda: "never")
        took.append(time.perf_counter() - started)
    assert min(took) < 0.001
    patient = RateLimiter(1, per=60.0, max_wait=120.0)
    patient.acquire()
    started = time.perf_counter()
    with Deadline(30.0), pytest.raises(RateLimitedError):
        drive(patient, lambda: "never")
    assert time.perf_counter() - started < 1.0


def test_evenly_spaced_calls_never_exceed_the_limit_in_any_second(clock: VirtualClock) -> None:
    """Case 3: with a burst of one, no sliding second sees more than the limit; with more, burst on top."""
    for burst, most in ((1, 10), (10, 19)):
        limiter = RateLimiter(10, burst=burst, clock=clock)
        times = []
        for _ in range(500):
            if admitted(limiter, 1):
                times.append(clock.monotonic())
            clock.advance(0.0123)
        worst = max(sum(1 for other in times if start <= other < start + 1.0 - 1e-6) for start in times)
        assert worst <= most
        assert len(times) >= 55


async def test_a_heavy_call_waits_for_what_it_lacks(clock: VirtualClock) -> None:
    """Case 4: one per 250 ms, one available, weight 3: ready after two cycles."""
    limiter = RateLimiter(1, per=0.25, max_wait=1.0, clock=clock)
    entered: list[float] = []

    async def block() -> None:
        async with limiter.calling(weight=3):
            entered.append(clock.monotonic())

    task = asyncio.create_task(block())
    await clock.advance_async(0.49)
    assert not entered
    await clock.advance_async(0.01)
    await task
    assert entered == pytest.approx([1000.5])
    with pytest.raises(RateLimitedError) as caught:
        limiter.acquire()
    assert caught.value.retry_after == pytest.approx(0.25)


async def test_a_light_call_does_not_overtake_a_heavy_one(clock: VirtualClock) -> None:
    """Case 4: what is available is kept for the first in line; who comes later is told when it is over."""
    limiter = RateLimiter(1, burst=3, max_wait=10.0, clock=clock)
    limiter.acquire(weight=2).success()

    async def block() -> None:
        async with limiter.calling(weight=3):
            pass

    task = asyncio.create_task(block())
    await settle_down()
    assert not task.done()
    with pytest.raises(RateLimitedError) as caught:
        limiter.acquire()
    assert caught.value.retry_after == pytest.approx(3.0)
    await clock.advance_async(2.0)
    await task

    idle = limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    clock.advance(60.0)
    task = asyncio.create_task(block())
    await settle_down()
    with pytest.raises(RateLimitedError) as caught:
        idle.acquire()
    assert caught.value.retry_after == pytest.approx(3.0)
    await clock.advance_async(2.0)
    await task


def test_weights_are_checked(clock: VirtualClock) -> None:
    """Case 4: one that could never be admitted is a mistake, not a rejection; within the burst it counts as many."""
    limiter = RateLimiter(10, burst=5, clock=clock)
    limiter.acquire(weight=3).success()
    assert limiter.snapshot().available == 2
    with pytest.raises(RateLimitedError) as caught:
        limiter.acquire(weight=4)
    assert caught.value.retry_after == pytest.approx(0.2)
    for weight in (0, -1, 6, float("nan"), "2"):
        with pytest.raises(ConfigError, match="weight"):
            limiter.acquire(weight=weight)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="weight"):
            limiter.calling(weight=weight)  # type: ignore[arg-type]


async def test_a_cancelled_waiter_returns_its_reservation_and_the_next_move_up(clock: VirtualClock) -> None:
    """Case 5: three wait for 1, 2 and 3 s; the first is cancelled, the others run at 1 and 2 s."""
    limiter = RateLimiter(1, max_wait=10.0, clock=clock)
    limiter.acquire()
    times: list[float] = []

    async def work() -> None:
        times.append(clock.monotonic() - 1000)

    tasks = [asyncio.create_task(limiter.acall(work)) for _ in range(3)]
    await settle_down()
    assert limiter.snapshot().available == -3
    tasks[0].cancel()
    await settle_down()
    assert limiter.snapshot().available == -2
    for _ in range(8):
        await clock.advance_async(0.25)
    await asyncio.gather(*tasks[1:])
    assert times == pytest.approx([1.0, 2.0])
    clock.advance(1.0)
    assert (limiter.snapshot().available, limiter.snapshot().waiting, clock.waiting) == (1, 0, 0)


async def test_a_turn_that_came_at_the_moment_of_the_cancellation_passes_on(clock: VirtualClock) -> None:
    """Case 5: granted by another caller's look and cancelled before it ran, it is as if it had never asked."""
    limiter = RateLimiter(1, max_wait=10.0, clock=clock)
    limiter.acquire()
    task = asyncio.create_task(limiter.acall(asyncio.Event().wait))
    await settle_down()
    clock.advance(1.0)
    assert limiter.snapshot().waiting == 0  # looking serves the line
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert admitted(limiter, 2) == 1


def test_many_threads_get_exactly_burst_and_rate() -> None:
    """Case 6: 50 threads, 10 a second, a burst of 10, for 2 seconds of virtual time: 30 are admitted."""
    clock = VirtualClock()
    limiter = RateLimiter(10, burst=10, clock=clock)
    counts, stop = list[int](), threading.Event()

    def hammer() -> None:
        mine = 0
        while not stop.is_set():
            mine += admitted(limiter, 1)
        counts.append(mine)

    threads = [threading.Thread(target=hammer) for _ in range(50)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        seen = limiter.snapshot().rejected
        wait_until(lambda seen=seen: limiter.snapshot().rejected > seen + 50)  # type: ignore[misc]
        clock.advance(0.1)
    seen = limiter.snapshot().rejected
    wait_until(lambda: limiter.snapshot().rejected > seen + 50)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert sum(counts) == limiter.snapshot().accepted
    assert 29 <= sum(counts) <= 30


def test_a_changed_limit_honours_debts(clock: VirtualClock) -> None:
    """Case 7: what was taken too early stays owed, in calls, whatever the new rate."""
    limiter = RateLimiter(1, burst=4, clock=clock)
    assert admitted(limiter, 4) == 4
    limiter.take_settings(RateLimiter(2, burst=4, clock=clock))
    assert limiter.snapshot().available == 0
    clock.advance(0.5)
    assert admitted(limiter, 4) == 1
    limiter.take_settings(RateLimiter(2, burst=1, clock=clock))
    assert limiter.snapshot().available == -3
    clock.advance(1.5)
    assert admitted(limiter, 4) == 0
    clock.advance(0.5)
    assert admitted(limiter, 4) == 1


async def test_waiters_follow_a_changed_limit(clock: VirtualClock) -> None:
    """Case 7: faster, they come earlier; slower, later, and not beyond max_wait."""
    limiter = RateLimiter(1, max_wait=3.0, clock=clock)
    limiter.acquire()
    times: list[float] = []

    async def work() -> None:
        times.append(clock.monotonic() - 1000)

    tasks = [asyncio.create_task(limiter.acall(work)) for _ in range(3)]
    await settle_down()
    limiter.take_settings(RateLimiter(2, max_wait=3.0, burst=1, clock=clock))
    for _ in range(2):
        await clock.advance_async(0.5)
    assert times == pytest.approx([0.5, 1.0])
    limiter.take_settings(RateLimiter(0.1, max_wait=3.0, clock=clock))
    for _ in range(8):
        await clock.advance_async(0.25)
    with pytest.raises(RateLimitedError):
        await tasks[2]
    assert (limiter.snapshot().waiting, clock.waiting) == (0, 0)


def test_retry_after_is_exact(drive: Drive, clock: VirtualClock) -> None:
    """Case 8: a moment earlier it is refused again, at that moment it is admitted."""
    limiter = RateLimiter(3, per=1.0, burst=2, clock=clock)
    assert admitted(limiter, 3) == 2
    clock.advance(0.1)
    with pytest.raises(RateLimitedError, match="next call in") as caught:
        drive(limiter, lambda: "never")
    assert caught.value.retry_after == pytest.approx(1 / 3 - 0.1, abs=1e-9)
    clock.advance((caught.value.retry_after or 0.0) - 0.001)
    assert admitted(limiter, 1) == 0
    clock.advance(0.001)
    assert admitted(limiter, 2) == 1


async def test_a_clock_that_jumps_grants_no_more_than_the_burst(clock: VirtualClock) -> None:
    """Case 9: after an hour's sleep of the machine only the burst is there, also with callers waiting."""
    limiter = RateLimiter(10, burst=2, clock=clock)
    assert admitted(limiter, 2) == 2
    clock.advance(3600.0)
    assert admitted(limiter, 50) == 2

    waiting = RateLimiter(10, burst=1, max_wait=10.0, clock=clock)
    waiting.acquire()
    ran: list[float] = []

    async def work() -> None:
        ran.append(clock.monotonic())

    tasks = [asyncio.create_task(waiting.acall(work)) for _ in range(50)]
    await settle_down()
    clock._now += 5.0  # as a suspended laptop: no timer fires in between
    clock._goal += 5.0
    await clock.advance_async(0.0)
    at_once = len(ran)
    assert 1 <= at_once <= 3
    for _ in range(50):
        await clock.advance_async(0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": float("nan")}, "limit"),
        ({"limit": float("inf")}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": 1, "per": 0}, "per"),
        ({"limit": 1, "burst": 0}, "burst"),
        ({"limit": 1, "burst": 1.5}, "burst"),
        ({"limit": 1, "max_wait": -0.1}, "max_wait"),
        ({"limit": 1, "max_wait": 1e12}, "max_wait"),
        ({"limit": 1, "name": " "}, "name"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments: dict[str, Any], path: str) -> None:
    """Case 10: zero and what is no number."""
    with pytest.raises(ConfigError) as caught:
        RateLimiter(**arguments)
    assert caught.value.path == path


def test_fractional_rates_hold(clock: VirtualClock) -> None:
    """Case 10: one half per second is one every two seconds."""
    limiter = RateLimiter(0.5, clock=clock)
    assert admitted(limiter, 2) == 1
    clock.advance(1.9)
    assert admitted(limiter, 1) == 0
    clock.advance(0.1)
    assert admitted(limiter, 2) == 1


def test_a_call_that_was_refused_further_in_is_refunded(drive: Drive, clock: VirtualClock) -> None:
    """Rule 2: nothing was sent, so nothing was used up."""
    limiter, bulkhead = RateLimiter(1, per=60.0, clock=clock), Bulkhead(1)
    permit = bulkhead.acquire()
    for _ in range(5):
        with pytest.raises(RejectedError, match="places are taken"):
            drive(Pipeline(limiter, bulkhead), lambda: "never")
    permit.success()
    assert drive(Pipeline(limiter, bulkhead), lambda: "in") == "in"
    assert admitted(limiter, 1) == 0


def test_a_refund_admits_those_who_wait(clock: VirtualClock) -> None:
    """A permit given back is somebody's turn at once."""
    limiter = RateLimiter(1, per=60.0, max_wait=100.0, clock=clock)
    permit = limiter.acquire()
    thread = threading.Thread(target=lambda: limiter.call(lambda: None))
    thread.start()
    wait_until(lambda: clock.waiting)
    permit.unused()
    thread.join(10)
    assert not thread.is_alive()
    assert limiter.snapshot().accepted == 2


def test_a_late_refund_breaks_no_promise(clock: VirtualClock) -> None:
    """One that comes after others were admitted gives back only what keeps any interval within burst and rate."""
    limiter = RateLimiter(1, burst=2, clock=clock)
    early = limiter.acquire()
    limiter.acquire().success()
    clock.advance(1.5)
    limiter.acquire().success()
    early.unused()  # a full refund would let two in here, 2.5 calls' worth in no time
    assert admitted(limiter, 2) == 0
    clock.advance(0.5)
    assert admitted(limiter, 2) == 1


def test_rejections_are_heard(clock: VirtualClock) -> None:
    """An event for each refused call, with the time until the next."""
    heard: list[RateLimited] = []
    stop = listen(heard.append, RateLimited)
    assert admitted(RateLimiter(1, name="loud", clock=clock), 2) == 1
    stop()
    assert [(event.name, event.retry_after) for event in heard] == [("loud", 1.0)]


def test_it_explains_itself(clock: VirtualClock) -> None:
    """The sentence, the repr, the numbers, and what bites."""
    limiter = RateLimiter(100, per=60.0, max_wait=2.0, name="maps", clock=clock)
    assert repr(limiter) == "RateLimiter(100, per=60, burst=100, max_wait=2, name='maps')"
    assert limiter.describe() == "RateLimiter 'maps': 100 calls per 60 s, 100 at once, others wait up to 2 s"
    assert limiter.snapshot().as_dict() == {
        "name": "maps", "limit": 100.0, "per": 60.0, "burst": 100, "available": 100, "waiting": 0, "accepted": 0,
        "rejected": 0,
    }  # fmt: skip
    assert Pipeline(limiter).explain().worst_case_wait == float("inf")
    texts = Pipeline(Bulkhead(1), limiter, Retry()).explain().warnings
    assert any("with a place in its hands" in text for text in texts)
    assert any("all its attempts as one" in text for text in texts)
