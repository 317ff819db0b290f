"""The bulkhead's contract: the cases that catch naive implementations, in both colours and across them."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import BulkheadFullError, CircuitBreaker, ConfigError, Deadline, Pipeline, RejectedError, Timeout
from resilient.events import listen
from resilient.policies.bulkhead import Bulkhead, BulkheadRejected
from resilient.testing import VirtualClock
from tests.drive import Drive
from tests.waiting import wait_until


def run_thread(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


async def settle_down() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_call_beyond_the_limit_is_refused_at_once(drive: Drive) -> None:
    """Case 1: two places, the third concurrent call is rejected when nobody may wait."""
    bulkhead = Bulkhead(2, name="db")
    one, two = bulkhead.acquire(), bulkhead.acquire()
    with pytest.raises(BulkheadFullError, match="all 2 places are taken") as caught:
        drive(bulkhead, lambda: "never")
    assert (caught.value.policy, caught.value.retry_after) == ("db", None)
    one.success()
    assert drive(bulkhead, lambda: "in") == "in"
    two.failure()
    assert bulkhead.snapshot().available == 2


async def test_a_task_waits_for_a_place_and_no_longer_than_max_wait(clock: VirtualClock) -> None:
    """Case 2: freed at 50 ms it is admitted; freed later it is rejected at 100 ms."""
    bulkhead = Bulkhead(1, max_wait=0.1, clock=clock)

    async def work() -> float:
        return clock.monotonic()

    permit = bulkhead.acquire()
    task = asyncio.create_task(bulkhead.acall(work))
    await clock.advance_async(0.05)
    assert not task.done()
    permit.success()
    assert await task == pytest.approx(1000.05)

    permit = bulkhead.acquire()
    task = asyncio.create_task(bulkhead.acall(work))
    await clock.advance_async(0.09)
    assert not task.done()
    await clock.advance_async(0.01)
    with pytest.raises(BulkheadFullError, match="none came free in 0.1 s"):
        await task
    permit.success()
    assert (bulkhead.snapshot().waiting, bulkhead.snapshot().available, clock.waiting) == (0, 1, 0)


def test_a_thread_waits_for_a_place_and_no_longer_than_max_wait(clock: VirtualClock) -> None:
    """Case 2, for threads."""
    bulkhead = Bulkhead(1, max_wait=0.1, clock=clock)
    told: list[object] = []

    def call() -> None:
        try:
            told.append(bulkhead.call(clock.monotonic))
        except BulkheadFullError as error:
            told.append(error)

    for wait in (0.05, 0.15):
        permit = bulkhead.acquire()
        thread = run_thread(call)
        wait_until(lambda: clock.waiting, what="the thread to wait")
        clock.advance(wait)
        if wait > 0.1:
            thread.join(10)
        permit.success()
        thread.join(10)
    assert told[0] == pytest.approx(1000.05)
    assert isinstance(told[1], BulkheadFullError)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_place_comes_back_however_the_call_ends(drive: Drive, kind: type[BaseException]) -> None:
    """Case 3: an error or an interrupt gives the place back, exactly once."""
    bulkhead = Bulkhead(2)

    def fail() -> None:
        assert bulkhead.snapshot().in_flight == 1
        raise kind

    for _ in range(3):
        with pytest.raises(kind):
            drive(bulkhead, fail)
        with pytest.raises(kind), bulkhead.calling():
            fail()
    assert bulkhead.snapshot().in_flight == 0


async def test_a_cancelled_call_gives_its_place_back() -> None:
    """Case 3: cancelled while it runs."""
    bulkhead = Bulkhead(1)
    task = asyncio.create_task(bulkhead.acall(asyncio.Event().wait))
    await settle_down()
    assert bulkhead.snapshot().in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bulkhead.snapshot().in_flight == 0


async def test_a_cancelled_waiter_leaks_nothing(clock: VirtualClock) -> None:
    """Case 4: one place, a queue of one; the waiter is cancelled, then two more calls still fit."""
    bulkhead = Bulkhead(1, max_wait=10.0, max_queue=1, clock=clock)
    gate = asyncio.Event()
    running = asyncio.create_task(bulkhead.acall(gate.wait))
    await settle_down()
    waiter = asyncio.create_task(bulkhead.acall(gate.wait))
    await settle_down()
    assert bulkhead.snapshot().waiting == 1
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    again = asyncio.create_task(bulkhead.acall(gate.wait))
    await settle_down()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (1, 1)
    gate.set()
    assert all(await asyncio.gather(running, again))
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting, clock.waiting) == (0, 0, 0)


async def test_a_grant_to_a_waiter_that_is_cancelled_at_that_moment_passes_on(clock: VirtualClock) -> None:
    """Case 5: granted and cancelled before it ran, the place goes to the next in line."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()
    ran: list[str] = []

    async def work(who: str) -> None:
        ran.append(who)

    first = asyncio.create_task(bulkhead.acall(work, "first"))
    second = asyncio.create_task(bulkhead.acall(work, "second"))
    await settle_down()
    permit.success()  # grants to the first
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (1, 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert ran == ["second"]
    assert bulkhead.snapshot().in_flight == 0


async def test_waiters_are_served_in_order_across_threads_and_tasks() -> None:
    """Cases 6 and 8: one limit and one queue for threads and tasks together, first come, first served."""
    bulkhead = Bulkhead(1, max_wait=30.0)
    permit = bulkhead.acquire()
    order: list[int] = []
    threads: list[threading.Thread] = []
    tasks: list[asyncio.Task[None]] = []

    def work(number: int) -> None:
        order.append(number)

    async def awork(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0)

    for number in range(20):
        if number % 2:
            threads.append(run_thread(lambda number=number: bulkhead.call(work, number)))  # type: ignore[misc]
        else:
            tasks.append(asyncio.create_task(bulkhead.acall(awork, number)))
        await settle_down()
        wait_until(lambda number=number: bulkhead.snapshot().waiting == number + 1)  # type: ignore[misc]
    permit.success()
    await asyncio.gather(*tasks)
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert order == list(range(20))
    assert bulkhead.snapshot().as_dict() == {
        "name": "bulkhead", "limit": 1, "in_flight": 0, "waiting": 0, "accepted": 21, "rejected": 0, "available": 1,
    }  # fmt: skip


def test_nobody_overtakes_the_line() -> None:
    """Case 6: a caller who will not wait gets no place that somebody waits for, and one with nobody before it does."""
    bulkhead = Bulkhead(1, max_wait=30.0)
    permit = bulkhead.acquire()
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        assert leave.wait(10)

    thread = run_thread(lambda: bulkhead.call(stay))
    wait_until(lambda: bulkhead.snapshot().waiting)
    permit.success()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    assert inside.wait(10)
    leave.set()
    thread.join(10)
    bulkhead.acquire().success()


def test_shrinking_evicts_nobody_and_admits_nobody_until_usage_is_below() -> None:
    """Case 7: 10 to 2 with 8 in flight; the resizer is not blocked, nothing is negative."""
    bulkhead = Bulkhead(10)
    permits = [bulkhead.acquire() for _ in range(8)]
    bulkhead.resize(2)
    for _ in range(6):
        assert bulkhead.snapshot().available == 0
        with pytest.raises(BulkheadFullError):
            bulkhead.acquire()
        permits.pop().success()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    permits.pop().success()
    bulkhead.acquire().success()
    permits.pop().success()
    assert bulkhead.snapshot().in_flight == 0
    with pytest.raises(ConfigError, match="limit"):
        bulkhead.resize(0)


async def test_growing_admits_those_who_wait(clock: VirtualClock) -> None:
    """Case 7, upwards; `take_settings` does the same with a whole new policy."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()
    held = [asyncio.create_task(bulkhead.acall(asyncio.Event().wait)) for _ in range(3)]
    await settle_down()
    bulkhead.resize(2)
    await settle_down()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (2, 2)
    bulkhead.take_settings(Bulkhead(4, max_wait=5.0))
    await settle_down()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (4, 0)
    assert bulkhead.settings.max_wait == 5.0
    permit.success()
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert bulkhead.snapshot().in_flight == 0


async def test_a_full_queue_refuses_and_counts_a_rejection(clock: VirtualClock) -> None:
    """Case 9: with five waiting the next is refused at once; a breaker outside counts no failure."""
    bulkhead = Bulkhead(1, max_wait=10.0, max_queue=5, clock=clock)
    breaker = CircuitBreaker("outside", clock=clock)
    guard = Pipeline(breaker, bulkhead)
    gate = asyncio.Event()
    tasks = [asyncio.create_task(guard.acall(gate.wait)) for _ in range(6)]
    await settle_down()
    with pytest.raises(BulkheadFullError):
        await guard.acall(gate.wait)
    gate.set()
    await asyncio.gather(*tasks)
    snapshot = bulkhead.snapshot()
    assert (snapshot.accepted, snapshot.rejected) == (6, 1)
    assert (breaker.snapshot().successes, breaker.snapshot().failed, breaker.snapshot().ignored) == (6, 0, 0)


def test_a_rejection_inside_a_breaker_is_no_failure(drive: Drive, clock: VirtualClock) -> None:
    """Composition 7: the breaker learns nothing from a bulkhead that is full."""
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("outside", clock=clock)
    permit = bulkhead.acquire()
    for _ in range(30):
        with pytest.raises(BulkheadFullError):
            drive(Pipeline(breaker, bulkhead), lambda: "never")
    assert breaker.snapshot().calls == 0
    assert breaker.state.value == "closed"
    permit.success()


async def test_the_limit_holds_over_many_random_calls() -> None:
    """Case 10: over 10,000 calls never more than the limit, and available + in use = limit at every look."""
    bulkhead = Bulkhead(7, max_wait=30.0)
    rng = random.Random(7)
    inside, most, ends = 0, 0, [rng.random() for _ in range(10_000)]

    async def work(end: float) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(int(end * 3)):
                await asyncio.sleep(0)
            if end < 0.1:
                raise ValueError("now and then")
        finally:
            inside -= 1

    async def look() -> int:
        looks = 0
        while True:
            snapshot = bulkhead.snapshot()
            assert snapshot.available + snapshot.in_flight == 7
            looks += 1
            await asyncio.sleep(0)

    looker = asyncio.create_task(look())
    tasks = [asyncio.create_task(bulkhead.acall(work, end)) for end in ends]
    for task in tasks[::17]:
        asyncio.get_running_loop().call_later(rng.random() * 0.2, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    looker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looker
    assert most == 7
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)


async def test_the_callers_deadline_cuts_the_wait(clock: VirtualClock) -> None:
    """Rule 22: the wait ends at the deadline, with the bulkhead's own rejection; a passed one is no wait at all."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()

    async def call() -> None:
        with Deadline(2.0, clock=clock):
            await bulkhead.acall(asyncio.Event().wait)

    task = asyncio.create_task(call())
    await clock.advance_async(1.9)
    assert not task.done()
    await clock.advance_async(0.1)
    with pytest.raises(BulkheadFullError):
        await task
    with Deadline(1.0, clock=clock):
        clock.advance(1.0)
        with pytest.raises(BulkheadFullError), bulkhead.calling():
            pass
    permit.success()
    assert clock.waiting == 0


async def test_a_timeout_outside_cuts_the_wait_with_the_bulkheads_rejection(clock: VirtualClock) -> None:
    """Rule 22: in one pipeline too, and nothing was sent."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()
    task = asyncio.create_task(Pipeline(Timeout(1.0, clock=clock), bulkhead).acall(asyncio.Event().wait))
    await clock.advance_async(1.0)
    with pytest.raises(BulkheadFullError):
        await task
    permit.success()


def test_acquire_never_waits_and_calling_does(clock: VirtualClock) -> None:
    """The two-step face refuses at once where the guarded block would wait."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    entered = threading.Event()

    def block() -> None:
        with bulkhead.calling():
            entered.set()

    thread = run_thread(block)
    wait_until(lambda: bulkhead.snapshot().waiting)
    permit.success()
    thread.join(10)
    assert entered.is_set()


async def test_async_calling_waits(clock: VirtualClock) -> None:
    """`async with` waits, gives up at max_wait, and can be used again afterwards."""
    bulkhead = Bulkhead(1, max_wait=1.0, clock=clock)
    permit, block = bulkhead.acquire(), bulkhead.calling()

    async def enter() -> int:
        async with block:
            return bulkhead.snapshot().in_flight

    task = asyncio.create_task(enter())
    await settle_down()
    with pytest.raises(RuntimeError, match="already entered"):
        await enter()
    await clock.advance_async(1.0)
    with pytest.raises(BulkheadFullError):
        await task
    permit.success()
    assert await enter() == 1


def test_a_dropped_permit_gives_its_place_back() -> None:
    """Rule 8: forgotten, also in a cycle, it is not lost."""
    bulkhead = Bulkhead(1)
    permit = bulkhead.acquire()
    del permit
    keeper: list[Any] = [bulkhead.acquire()]
    keeper.append(keeper)
    del keeper
    gc.collect()
    bulkhead.acquire().success()
    assert bulkhead.snapshot().in_flight == 0


def test_a_rejection_further_in_gives_the_place_back(drive: Drive) -> None:
    """Rule 2: nothing was sent, nothing is held."""
    bulkhead = Bulkhead(1)

    def refuse() -> None:
        raise RejectedError("no", policy="inner")

    for _ in range(2):
        with pytest.raises(RejectedError, match="no"):
            drive(bulkhead, refuse)
    assert bulkhead.snapshot().in_flight == 0


def test_rejections_are_heard() -> None:
    """An event for each refused call, outside the lock: a listener may use the bulkhead."""
    bulkhead, heard = Bulkhead(1, name="loud"), list[tuple[str, int, int]]()
    stop = listen(lambda event: heard.append((event.name, event.limit, bulkhead.snapshot().rejected)), BulkheadRejected)
    permit = bulkhead.acquire()
    for _ in range(2):
        with pytest.raises(BulkheadFullError):
            bulkhead.acquire()
    stop()
    permit.success()
    assert heard == [("loud", 1, 1), ("loud", 1, 2)]
