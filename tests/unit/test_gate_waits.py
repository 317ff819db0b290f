"""Waiting for a gate: whatever happens at whatever await, no permit is lost; loops that are closed, many tasks."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilient import BulkheadFullError, CircuitBreaker, Pipeline, RateLimitedError
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.rate_limiter import RateLimiter
from resilient.testing import VirtualClock
from tests.waiting import wait_until

Coro = Coroutine[Any, Any, Any]


async def work() -> str:
    for _ in range(3):
        await asyncio.sleep(0)
    return "done"


async def in_block(bulkhead: Bulkhead) -> str:
    async with bulkhead.calling():
        return await work()


async def step_to(coro: Coro, stop: int, go_on: Callable[[], object]) -> bool:
    """Drive `coro` to its suspension number `stop`; False when it ends before. `go_on` after each earlier one."""
    for number in range(stop + 1):
        try:
            waits_for = coro.send(None)
        except StopIteration:
            return False
        if number == stop:
            return True
        go_on()
        if waits_for is None:
            await asyncio.sleep(0)
        else:
            waits_for._asyncio_future_blocking = False
            await asyncio.wait([waits_for])
    return True


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("granted", [False, True], ids=["still waiting", "granted meanwhile"])
@pytest.mark.parametrize("shape", ["layer", "block", "pipeline"])
async def test_ended_at_any_await_it_gives_back_what_it_had(
    clock: VirtualClock, kind: type[BaseException], granted: bool, shape: str
) -> None:
    """Thrown in at each suspension in turn, also when its turn has come at that moment: every permit is back."""
    stop = 0
    while True:
        bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
        limiter = RateLimiter(1, max_wait=10.0, clock=clock)
        permits = [bulkhead.acquire()]
        if shape == "pipeline":
            permits.append(limiter.acquire())

        def go_on(permits: list[Any] = permits) -> None:
            clock.advance(1.0)
            while permits:
                permits.pop().success()

        if shape == "layer":
            coro: Coro = bulkhead.acall(work)
        elif shape == "block":
            coro = in_block(bulkhead)
        else:
            coro = Pipeline(CircuitBreaker(clock=clock), limiter, bulkhead).acall(work)
        suspended = await step_to(coro, stop, go_on)
        if not suspended:
            break
        if granted:
            go_on()
        with pytest.raises(kind):
            coro.throw(kind())
        go_on()
        clock.advance(10.0)
        assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)
        assert (limiter.snapshot().available, limiter.snapshot().waiting) == (1, 0)
        bulkhead.acquire().success()
        stop += 1
    assert stop >= 4  # the queue, and each await of the call
    assert clock.waiting == 0


def test_a_loop_closed_while_its_tasks_wait_hands_its_turn_on() -> None:
    """The grant to a task of a closed loop, however many there are, goes to the next that is alive."""
    bulkhead = Bulkhead(1, max_wait=30.0)
    permit = bulkhead.acquire()
    loop = asyncio.new_event_loop()
    dead = [loop.create_task(bulkhead.acall(work)) for _ in range(3_000)]
    loop.run_until_complete(asyncio.sleep(0))
    assert bulkhead.snapshot().waiting == 3_000
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(bulkhead.call(lambda: "alive")))
    thread.start()
    wait_until(lambda: bulkhead.snapshot().waiting == 3_001)
    loop.close()
    permit.success()
    thread.join(10)
    assert told == ["alive"]
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)
    bury(dead)


def test_a_loop_closed_after_the_grant_and_before_the_task_ran_keeps_no_place() -> None:
    """It was woken and will never come: the next caller who finds no place takes it back."""
    bulkhead = Bulkhead(1, max_wait=5.0)
    permit = bulkhead.acquire()
    loop = asyncio.new_event_loop()
    dead = [loop.create_task(bulkhead.acall(work))]
    loop.run_until_complete(asyncio.sleep(0))
    permit.success()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (1, 0)
    loop.close()
    assert bulkhead.call(lambda: "in") == "in"
    assert bulkhead.snapshot().in_flight == 0
    bury(dead)


def bury(dead: list[asyncio.Task[str]]) -> None:
    """Let tasks of a closed loop go without asyncio's complaint."""
    for task in dead:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    dead.clear()
    gc.collect()


def test_waiting_tasks_that_are_dropped_leave_the_line() -> None:
    """A coroutine that is thrown away while it waits is no longer in the way."""
    bulkhead = Bulkhead(1, max_wait=30.0)
    permit = bulkhead.acquire()

    async def main() -> None:
        coro = bulkhead.acall(work)
        coro.send(None)
        assert bulkhead.snapshot().waiting == 1
        del coro
        gc.collect()

    asyncio.run(main())
    assert bulkhead.snapshot().waiting == 0
    permit.success()


def test_two_loops_and_threads_share_one_limit() -> None:
    """Never more than the limit inside, nobody lost, all served."""
    bulkhead = Bulkhead(3, max_wait=30.0)
    lock, inside, most, done = threading.Lock(), 0, 0, 0

    def enter() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)

    def leave() -> None:
        nonlocal inside, done
        with lock:
            inside -= 1
            done += 1

    def call() -> None:
        enter()
        time.sleep(0)
        leave()

    async def acall() -> None:
        enter()
        await asyncio.sleep(0)
        leave()

    async def main() -> None:
        await asyncio.gather(*(bulkhead.acall(acall) for _ in range(300)))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    threads += [threading.Thread(target=lambda: [bulkhead.call(call) for _ in range(100)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most, done) == (3, 1200)
    snapshot = bulkhead.snapshot()
    assert (snapshot.in_flight, snapshot.waiting, snapshot.accepted, snapshot.rejected) == (0, 0, 1200, 0)


async def test_a_hundred_thousand_tasks_lose_and_leak_nothing() -> None:
    """Through one breaker and one bulkhead with a long queue, some cancelled: all accounted for, within 15 s."""
    bulkhead, breaker = Bulkhead(1_000, max_wait=60.0), CircuitBreaker("many")
    guard = Pipeline(breaker, bulkhead)
    ran = 0

    async def one() -> None:
        nonlocal ran
        await asyncio.sleep(0)
        ran += 1

    started = time.thread_time()  # what others on this machine do is not ours
    tasks = [asyncio.ensure_future(guard.acall(one)) for _ in range(100_000)]
    await asyncio.sleep(0)
    assert bulkhead.snapshot().waiting == 99_000
    for task in tasks[50_000::100]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(1 for one in ended if isinstance(one, asyncio.CancelledError))
    assert (ran, cancelled) == (99_500, 500)
    snapshot, seen = bulkhead.snapshot(), breaker.snapshot()
    assert (snapshot.in_flight, snapshot.waiting, snapshot.accepted, snapshot.rejected) == (0, 0, 99_500, 0)
    assert (seen.successes, seen.ignored, seen.failed, seen.late) == (99_500, 500, 0, 0)
    assert time.thread_time() - started < 15


def test_an_interrupted_thread_leaves_the_line() -> None:
    """Ctrl-C while it waits; what it may have been granted passes on."""

    class Interrupting(VirtualClock):
        granting: Any = None

        def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
            if self.granting is not None:
                self.granting.success()
            raise KeyboardInterrupt

    clock = Interrupting()
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    for granted in (False, True):
        held = bulkhead.acquire()
        clock.granting = held if granted else None
        with pytest.raises(KeyboardInterrupt):
            bulkhead.call(lambda: "never")
        assert len(bulkhead._line) == 0  # looked at here: looking by `snapshot` would serve it
        held.success()
        assert (bulkhead._usage.in_flight, len(bulkhead._dropped)) == (0, 0)


def test_a_signal_handler_may_use_the_gates_it_interrupts() -> None:
    """A handler that calls through the same bulkhead and limiter, at any moment, neither hangs nor miscounts."""
    bulkhead, limiter = Bulkhead(5, max_wait=1.0), RateLimiter(1e6, burst=1_000_000)
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        bulkhead.call(lambda: None)
        limiter.call(lambda: None)
        bulkhead.snapshot()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        calls, until = 0, time.monotonic() + 1.0
        while time.monotonic() < until:
            bulkhead.call(lambda: None)
            limiter.call(lambda: None)
            calls += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled > 100
    assert bulkhead.snapshot().in_flight == 0
    assert bulkhead.snapshot().accepted == limiter.snapshot().accepted == calls + handled


def test_a_forked_child_begins_empty() -> None:
    """Rule 28: places and waiters are the parent's; one of them settled here changes nothing."""
    bulkhead, limiter = Bulkhead(2), RateLimiter(1, per=60.0)
    permit = bulkhead.acquire()
    limiter.acquire()
    for gate in (bulkhead, limiter):
        gate.after_fork_in_child()
    assert bulkhead.snapshot().in_flight == 0
    permit.success()
    assert bulkhead.snapshot().in_flight == 0
    with pytest.raises(RateLimitedError):
        limiter.acquire()
    held = [bulkhead.acquire(), bulkhead.acquire()]
    with pytest.raises(BulkheadFullError):
        bulkhead.acquire()
    for one in held:
        one.success()
