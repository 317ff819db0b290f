"""The line of a gate: what happens between two of its steps, and the places that worker threads hold."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest

from resilient import BulkheadFullError, Pipeline, Timeout
from resilient.gate_waits import Waiter
from resilient.outcome import Classification
from resilient.places import held
from resilient.policies import thread_pool_bulkhead
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
from resilient.policy import UNLIMITED, ainvoke, invoke
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.drive import Drive
from tests.waiting import wait_until


async def settle_down() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("way", ["acquire", "call", "snapshot", "resize"])
async def test_a_dropped_permit_goes_to_who_waits_when_anybody_looks(clock: VirtualClock, way: str) -> None:
    """Garbage collection only notes it; the next use of the bulkhead serves the line with it."""
    bulkhead = Bulkhead(1, max_wait=10.0, max_queue=1, clock=clock)
    permit = bulkhead.acquire()
    gate = asyncio.Event()
    calls = [asyncio.create_task(bulkhead.acall(gate.wait))]
    await settle_down()
    del permit
    if way == "acquire":
        with pytest.raises(BulkheadFullError):
            bulkhead.acquire()
    elif way == "call":
        calls.append(asyncio.create_task(bulkhead.acall(gate.wait)))
        await settle_down()
        assert bulkhead.snapshot().waiting == 1
    elif way == "snapshot":
        assert bulkhead.snapshot().waiting == 0
    else:
        bulkhead.resize(1)
    gate.set()
    assert all(await asyncio.gather(*calls))


def test_a_place_that_comes_free_before_the_caller_stands_in_line_is_taken(drive: Drive, clock: VirtualClock) -> None:
    """Between finding no place and joining the line another thread may have left."""

    class Racing(Bulkhead):
        def _patience(self) -> tuple[float, int | None]:
            permit.success()
            return super()._patience()

    bulkhead = Racing(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()
    assert drive(bulkhead, lambda: "in") == "in"
    assert bulkhead.snapshot().in_flight == 0


def test_a_ticket_for_somebody_who_left_between_two_steps_goes_back(clock: VirtualClock) -> None:
    """A signal handler cancelled the waiter after the ticket was made, before or after it was handed over."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    for gone in (False, True):
        waiter, woken = Waiter(0.0, 1.0, 1.0, 1.0), list[Waiter]()
        waiter.gone = gone
        if gone:
            bulkhead._line[waiter] = None
        ticket = bulkhead.admit(float("inf"))
        bulkhead._grant_locked(waiter, ticket, woken)
        assert woken == []
        assert bulkhead.snapshot().in_flight == 0
        assert bulkhead.snapshot().waiting == 0


def test_a_waiter_that_is_not_parked_yet_needs_no_waking(clock: VirtualClock) -> None:
    """It looks once more before it parks."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    permit = bulkhead.acquire()
    waiter = bulkhead.enter(float("inf"))
    assert isinstance(waiter, Waiter)
    permit.success()
    ticket = bulkhead.claim(waiter)
    assert ticket is not None
    ticket.success(0.0, 0.0)
    assert bulkhead.snapshot().in_flight == 0


def test_rejections_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, with the gate's name."""
    bulkhead = Bulkhead(1, name="quiet")
    permit = bulkhead.acquire()
    with caplog.at_level(logging.DEBUG, "resilient"), pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    permit.success()
    assert "'quiet': all 1 places are taken" in caplog.text


def test_places_are_seen_by_the_chain_and_by_no_worker(clock: VirtualClock) -> None:
    """Rule 17: the place is held in the thread of the call, in a worker thread it is not, afterwards it is gone."""
    bulkhead, seen = Bulkhead(2, clock=clock), list[int]()

    def look() -> None:
        seen.append(len(held.places))

    bulkhead.call(look)
    Pipeline(bulkhead, bulkhead).call(look)
    Pipeline(bulkhead, Timeout(1.0)).call(look)
    Pipeline(bulkhead, ThreadPoolBulkhead(1)).call(look)  # the pool's own
    RateLimiter(10, clock=clock).call(look)
    with pytest.raises(ValueError, match="boom"):
        bulkhead.call(int, "boom")
    look()
    assert seen == [1, 2, 0, 1, 0, 0]


@pytest.mark.parametrize("outer", [Timeout(1.0), ThreadPoolBulkhead(1)], ids=["timeout", "pool"])
def test_a_place_is_free_at_once_when_its_worker_has_ended(clock: VirtualClock, outer: Any) -> None:
    """Rule 17: a call that ended in time leaves nothing to garbage collection."""
    bulkhead = Bulkhead(1, clock=clock)
    for _ in range(3):
        assert Pipeline(bulkhead, outer).call(lambda: 42) == 42
        assert (bulkhead._usage.in_flight, len(bulkhead._dropped)) == (0, 0)


def test_a_place_is_free_at_once_when_no_worker_took_the_call(clock: VirtualClock) -> None:
    """Rule 17: refused by a full pool, nothing is left to garbage collection either."""
    bulkhead, pool = Bulkhead(2, clock=clock), ThreadPoolBulkhead(1, clock=clock)
    pool._active = 1
    with pytest.raises(BulkheadFullError, match="threads are busy"):
        Pipeline(bulkhead, pool).call(lambda: 42)
    pool._active = 0
    assert (bulkhead._usage.in_flight, len(bulkhead._dropped)) == (0, 0)


async def test_reset_forgets_what_was_counted_and_taken(clock: VirtualClock) -> None:
    """Calls in flight keep their places; a rate limiter is full again, and who waited goes first."""
    bulkhead = Bulkhead(2, clock=clock)
    permit = bulkhead.acquire()
    bulkhead.reset()
    assert (bulkhead.snapshot().accepted, bulkhead.snapshot().in_flight) == (0, 1)
    permit.success()

    limiter = RateLimiter(1, per=60.0, max_wait=100.0, clock=clock)
    limiter.acquire()
    waiting = asyncio.create_task(limiter.acall(settle_down))
    await settle_down()
    limiter.reset()
    await waiting
    assert (limiter.snapshot().accepted, limiter.snapshot().available) == (1, 0)

    pool = ThreadPoolBulkhead(1, clock=clock)
    pool.call(int)
    wait_until(lambda: pool.snapshot().completed == 1)
    pool.reset()
    assert pool.snapshot().completed == 0


def test_a_block_that_was_refused_after_waiting_can_be_entered_again(clock: VirtualClock) -> None:
    """The wait of `with` ends at max_wait with the rejection; the same object serves the next block."""
    bulkhead = Bulkhead(1, max_wait=1.0, clock=clock)
    permit, block, told = bulkhead.acquire(), bulkhead.calling(), list[str]()

    def enter() -> None:
        with pytest.raises(BulkheadFullError, match="none came free"), block:
            pass
        told.append("refused")

    thread = threading.Thread(target=enter)
    thread.start()
    wait_until(lambda: clock.waiting)
    clock.advance(1.0)
    thread.join(10)
    permit.success()
    with block:
        told.append("in")
    assert told == ["refused", "in"]


def test_a_failure_that_only_the_result_shows_is_none_of_the_bulkheads_business(clock: VirtualClock) -> None:
    """Whatever the verdict of a command's `on_result`, the place comes back."""
    bulkhead = Bulkhead(1, clock=clock)
    given = Classification(on_result=lambda result: bool(result == 42))

    async def answer() -> int:
        return 42

    async def aguarded() -> object:
        return await bulkhead.alayer(ainvoke, UNLIMITED, given)(answer, (), {})

    assert bulkhead.layer(invoke, UNLIMITED, given)(lambda: 42, (), {}) == 42
    assert asyncio.run(aguarded()) == 42
    assert bulkhead.snapshot().in_flight == 0


def test_a_forked_child_has_a_pool_of_its_own(clock: VirtualClock) -> None:
    """Rule 28: the parent's threads are busy there, not here."""
    pool, go = ThreadPoolBulkhead(1, clock=clock), threading.Event()
    thread = threading.Thread(target=lambda: pool.call(go.wait, 10))
    thread.start()
    wait_until(lambda: pool.snapshot().active)
    pool.after_fork_in_child()
    assert pool.call(lambda: 42) == 42
    go.set()
    thread.join(10)
    wait_until(lambda: pool.snapshot().completed == 2)
    assert pool.snapshot().active == 0


def test_a_job_that_an_interrupt_kept_from_starting_leaves_its_thread_free(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between taking a place in the pool and starting the thread: the next call finds it free."""

    class Interrupted(Workers):
        def start(self, job: object, *, policy: str) -> None:
            raise KeyboardInterrupt

    pool = ThreadPoolBulkhead(1, clock=clock)
    monkeypatch.setattr(thread_pool_bulkhead, "WORKERS", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        pool.call(lambda: 42)
    monkeypatch.undo()
    gc.collect()
    assert pool.call(lambda: 42) == 42
