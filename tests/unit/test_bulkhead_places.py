"""The places of a bulkhead: taken and given back without a lock, and none is lost or given twice."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator

import pytest

from resilient import BulkheadFullError, Timeout
from resilient.places import held
from resilient.policies.bulkhead import Bulkhead
from tests.waiting import wait_until


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("max_wait", [0.0, 30.0], ids=["refused", "waiting"])
def test_threads_lose_no_place_and_get_none_twice(hectic: None, max_wait: float) -> None:
    """Case 10, for threads: never more than the limit inside, nobody waits for ever, and every call is counted."""
    bulkhead = Bulkhead(2, max_wait=max_wait)
    inside: list[int] = []
    most, refused, ready = [0] * 8, [0] * 8, threading.Barrier(8)

    def work(number: int) -> None:
        inside.append(number)
        most[number] = max(most[number], len(inside))
        inside.remove(number)

    def run(number: int) -> None:
        ready.wait(10.0)
        for _ in range(300):
            try:
                bulkhead.call(work, number)
            except BulkheadFullError:
                refused[number] += 1

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()
    snapshot = bulkhead.snapshot()
    assert max(most) <= 2
    assert (snapshot.in_flight, snapshot.waiting, snapshot.rejected) == (0, 0, sum(refused))
    assert snapshot.accepted == 8 * 300 - sum(refused)
    assert max_wait == 0.0 or not any(refused)


def test_a_cut_takes_the_places_that_are_free_too() -> None:
    """Case 7: places that were in use and came back before the cut are not given again."""
    bulkhead = Bulkhead(8)
    permits = [bulkhead.acquire() for _ in range(8)]
    while len(permits) > 3:
        permits.pop().success()
    bulkhead.resize(2)
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().available) == (3, 0)
    for _ in range(2):
        with pytest.raises(BulkheadFullError):
            bulkhead.call(len, "")
        permits.pop().success()
    permits.append(bulkhead.acquire())
    with pytest.raises(BulkheadFullError):
        bulkhead.call(len, "")
    bulkhead.resize(3)
    assert bulkhead.call(len, "in") == 2
    assert (bulkhead.snapshot().accepted, bulkhead.snapshot().rejected) == (10, 3)


def test_a_reset_forgets_the_counts_and_no_place() -> None:
    """What was accepted before is not counted; calls in flight keep their places."""
    bulkhead = Bulkhead(2)
    permit = bulkhead.acquire()
    bulkhead.reset()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().accepted) == (1, 0)
    bulkhead.acquire().success()
    permit.success()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().accepted) == (0, 1)


def test_a_place_is_free_when_the_last_who_holds_it_lets_go() -> None:
    """Rule 17: the caller went away, its two workers still run; only then the place is given again."""
    bulkhead, leave = Bulkhead(1), [threading.Event(), threading.Event()]

    @bulkhead
    def call() -> None:
        for number in range(2):
            with contextlib.suppress(TimeoutError):
                Timeout(0.01).call(leave[number].wait)

    call()
    for event in leave:
        with pytest.raises(BulkheadFullError):
            call()
        event.set()
    wait_until(lambda: bulkhead.snapshot().in_flight == 0)
    call()
    assert bulkhead.snapshot().accepted == 2
    assert held.places == []


def test_a_sync_function_that_gives_an_awaitable_is_refused_alone_too() -> None:
    """Nobody would await it under the bulkhead; a future is looked for at the first call, a coroutine at each."""

    async def answer() -> int:
        return 1

    bulkhead, given = Bulkhead(1), list[object]([1, 2])

    @bulkhead
    def decorated() -> object:
        return given.pop() if given else answer()

    assert [decorated(), decorated()] == [2, 1]
    for _ in range(2):
        with pytest.raises(TypeError, match="awaitable"):
            decorated()
    assert bulkhead.snapshot().in_flight == 0


async def test_a_decorated_async_function_waits_and_gives_its_place_back_when_cancelled() -> None:
    """Alone, without a chain, as in one."""
    bulkhead, gate = Bulkhead(1, max_wait=30.0), asyncio.Event()
    call = bulkhead(gate.wait)
    tasks = [asyncio.create_task(call()) for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (1, 2)
    tasks[0].cancel()
    gate.set()
    assert (await asyncio.gather(*tasks, return_exceptions=True))[1:] == [True, True]
    assert tasks[0].cancelled()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)
