"""Cancelled at any await of any policy: permits, places, timers and tasks are back, and so is the context."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    Cache,
    Chaos,
    CircuitBreaker,
    Collapser,
    Command,
    ConcurrencyLimiter,
    Deadline,
    Fallback,
    Hedge,
    Permit,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    State,
    Timeout,
    command,
)
from resilient.deadline import current_limit, current_scope
from resilient.places import held
from resilient.testing import VirtualClock

Call = Callable[[], Coroutine[Any, Any, Any]]
NUMBERS = itertools.count()  # two commands of one name are warned about


@dataclass
class Case:
    """A guarded call, what others hold meanwhile, and what must be as before when it was cancelled."""

    call: Call
    back: Callable[[], object] = lambda: None
    others: list[Permit] = field(default_factory=list)
    least: int = 3  # suspensions that a whole call has

    def free(self) -> None:
        """The others leave, so that whoever waits gets a turn."""
        while self.others:
            self.others.pop().success()


def work(clock: VirtualClock, failures: int = 0) -> Call:
    """Two turns of the loop and a second between them; fails the first times."""
    left = [failures]

    async def working() -> str:
        await asyncio.sleep(0)
        await clock.sleep_async(1.0)
        await asyncio.sleep(0)
        if left[0]:
            left[0] -= 1
            raise ConnectionError("not yet")
        return "done"

    return working


def half_open(clock: VirtualClock) -> CircuitBreaker:
    """A breaker whose next call is the only probe."""
    breaker = CircuitBreaker(clock=clock)
    breaker.open(1.0)
    clock.advance(1.0)
    return breaker


def probes_again(breaker: CircuitBreaker) -> None:
    """A cancelled probe has taught nothing, and the next caller is the probe."""
    if breaker.state is State.CLOSED:  # the probe had ended before: it is one of three successes
        return
    breaker.acquire().unused()
    found = breaker.snapshot()
    assert (found.failed, found.late) == (0, 0)


def a_breaker(clock: VirtualClock) -> Case:
    breaker = half_open(clock)
    return Case(lambda: breaker.acall(work(clock)), lambda: probes_again(breaker))


def a_timeout(clock: VirtualClock) -> Case:
    limit = Timeout(1000.0, clock=clock)
    return Case(lambda: limit.acall(work(clock)))


def a_retry(clock: VirtualClock) -> Case:
    budget = RetryBudget(1.0, minimum_in_flight=1, clock=clock)
    retry = Retry(wait=0.5, budget=budget, clock=clock)

    def back() -> None:
        assert (retry.snapshot().waiting, budget.snapshot().in_flight) == (0, 0)

    return Case(lambda: retry.acall(work(clock, failures=1)), back, least=7)


def a_bulkhead(clock: VirtualClock) -> Case:
    bulkhead = Bulkhead(1, max_wait=1000.0, clock=clock)

    def back() -> None:
        assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)
        bulkhead.acquire().success()

    return Case(lambda: bulkhead.acall(work(clock)), back, [bulkhead.acquire()], least=4)


def a_rate_limiter(clock: VirtualClock) -> Case:
    limiter = RateLimiter(1, per=2.0, max_wait=1000.0, clock=clock)

    def back() -> None:
        clock.advance(2.0)
        assert (limiter.snapshot().available, limiter.snapshot().waiting) == (1, 0)
        limiter.acquire().success()

    return Case(lambda: limiter.acall(work(clock)), back, [limiter.acquire()], least=4)


def a_concurrency_limiter(clock: VirtualClock) -> Case:
    limiter = ConcurrencyLimiter(clock=clock)

    def back() -> None:
        assert (limiter.snapshot().in_flight, limiter.snapshot().dropped) == (0, 0)

    return Case(lambda: limiter.acall(work(clock)), back)


def a_hedge(clock: VirtualClock) -> Case:
    budget = RetryBudget(0.0, minimum_in_flight=1, clock=clock)
    hedge = Hedge(0.5, budget=budget, clock=clock)

    def back() -> None:
        assert budget.snapshot().in_flight == 0

    return Case(lambda: hedge.acall(work(clock)), back, least=2)


def a_cache(clock: VirtualClock) -> Case:
    cache = Cache(60.0, clock=clock)

    def back() -> None:
        assert cache.snapshot().in_flight == 0

    return Case(lambda: cache.acall(work(clock)), back, least=1)


def a_collapser(clock: VirtualClock) -> Case:
    async def batch(keys: list[int]) -> list[int]:
        await work(clock)()
        return keys

    collapser = Collapser(batch, delay=0.5, clock=clock)

    def back() -> None:
        assert collapser.snapshot().waiting == 0

    return Case(lambda: collapser(1), back, least=1)


def a_fallback(clock: VirtualClock) -> Case:
    async def instead() -> str:
        return str(await work(clock)())

    fallback = Fallback(instead)
    return Case(lambda: fallback.acall(work(clock, failures=1)), least=6)


def a_stale_cache(clock: VirtualClock) -> Case:
    stale = StaleCache(clock=clock)
    return Case(lambda: stale.acall(work(clock)))


def a_chaos(clock: VirtualClock) -> Case:
    chaos = Chaos(rate=1.0, latency=0.5, enabled=True, clock=clock)
    return Case(lambda: chaos.acall(work(clock)), least=4)


def a_deadline(clock: VirtualClock) -> Case:
    async def call() -> Any:
        with Deadline(1000.0, clock=clock):
            return await work(clock)()

    return Case(call)


def four_policies(clock: VirtualClock) -> Case:
    """Fallback, retry, breaker, bulkhead: the usual stack, with an attempt that fails and one that waits."""
    budget = RetryBudget(1.0, minimum_in_flight=1, clock=clock)
    retry = Retry(attempts=2, wait=0.5, budget=budget, clock=clock)
    breaker = CircuitBreaker(clock=clock)
    bulkhead = Bulkhead(1, max_wait=1000.0, clock=clock)
    guard = Pipeline(Fallback(work(clock)), retry, breaker, bulkhead)

    def back() -> None:
        assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)
        assert (retry.snapshot().waiting, budget.snapshot().in_flight) == (0, 0)
        seen = breaker.snapshot()
        assert seen.failed + seen.successes + seen.ignored <= 2
        assert seen.late == 0
        assert seen.ignored <= 1

    return Case(lambda: guard.acall(work(clock, failures=2)), back, [bulkhead.acquire()], least=11)


def a_command(clock: VirtualClock, **more: Any) -> Case:
    """Every layer that a command can have, a probe in the middle."""
    breaker, bulkhead = half_open(clock), Bulkhead(1, max_wait=1000.0, clock=clock)
    limiter = RateLimiter(1, per=2.0, max_wait=1000.0, clock=clock)
    cache = Cache(60.0, clock=clock)

    guarded = command(
        f"everything {next(NUMBERS)}",
        fallback=Fallback(value=None),
        timeout=1000.0,
        attempt_timeout=900.0,
        breaker=breaker,
        rate_limiter=limiter,
        bulkhead=bulkhead,
        cache=cache,
        chaos=Chaos(rate=1.0, latency=0.1, enabled=True, clock=clock),
        clock=clock,
        **more,
    )
    everything: Call = guarded(work(clock))

    def back() -> None:
        probes_again(breaker)
        assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting) == (0, 0)
        assert cache.snapshot().in_flight == 0
        clock.advance(2.0)
        assert (limiter.snapshot().available, limiter.snapshot().waiting) == (1, 0)
        found = Command.of(everything).snapshot()
        assert (found.calls, found.successes, found.fallbacks) == (found.ignored, 0, 0)

    return Case(everything, back, [bulkhead.acquire(), limiter.acquire()], least=1)


def a_command_with_retry(clock: VirtualClock) -> Case:
    return a_command(clock, retry=Retry(wait=0.5, clock=clock))


def a_command_with_hedge(clock: VirtualClock) -> Case:
    return a_command(clock, hedge=Hedge(0.5, clock=clock))


CASES = [
    a_breaker,
    a_timeout,
    a_retry,
    a_bulkhead,
    a_rate_limiter,
    a_concurrency_limiter,
    a_hedge,
    a_cache,
    a_collapser,
    a_fallback,
    a_stale_cache,
    a_chaos,
    a_deadline,
    four_policies,
    a_command_with_retry,
    a_command_with_hedge,
]
every = pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)


async def go_on(waits_for: Any, clock: VirtualClock) -> None:
    """Let the loop do what a coroutine driven by hand waits for."""
    if waits_for is None:
        await asyncio.sleep(0)
        return
    waits_for._asyncio_future_blocking = False
    for _ in range(100):
        if waits_for.done():
            return
        await clock.advance_async(0.1)
    raise AssertionError(f"{waits_for!r} is never done")


async def nothing_is_left(case: Case, clock: VirtualClock, before: set[asyncio.Task[Any]]) -> None:
    """No permit, no timer, no task, nothing in the context."""
    case.free()
    await clock.advance_async(0.0)
    assert asyncio.all_tasks() == before
    assert clock.waiting == 0
    assert (current_limit.get(), current_scope.get(), held.places) == (None, None, [])
    case.back()


@every
@pytest.mark.parametrize("granted", [False, True], ids=["as it waits", "as its turn comes"])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt])
async def test_what_is_thrown_in_at_any_await_leaves_nothing_behind(
    make: Callable[[VirtualClock], Case], granted: bool, kind: type[BaseException], clock: VirtualClock
) -> None:
    """Driven by hand: CancelledError or Ctrl-C at each suspension in turn leaves as it is, and all is given back."""
    before, stop = asyncio.all_tasks(), 0
    while True:
        case = make(clock)
        coro = case.call()
        suspended = True
        waits_for: Any = None
        for number in range(stop + 1):
            try:
                waits_for = coro.send(None)
            except StopIteration:
                suspended = False
                break
            if number < stop:
                case.free()
                await go_on(waits_for, clock)
        if not suspended:
            break
        if waits_for is not None:
            waits_for._asyncio_future_blocking = False
        if granted:
            case.free()
        thrown = kind()
        with pytest.raises(kind) as caught:
            waits_for = coro.throw(thrown)
            while True:  # a hedge waits for the calls that it has cancelled
                await go_on(waits_for, clock)
                waits_for = coro.send(None)
        assert caught.value is thrown
        await nothing_is_left(case, clock, before)
        stop += 1
    assert stop >= case.least


@every
async def test_a_task_cancelled_in_any_turn_of_the_loop_leaves_nothing_behind(
    make: Callable[[VirtualClock], Case], clock: VirtualClock
) -> None:
    """With `task.cancel()` after 0, 1, 2, … turns: also between a grant and the moment it is taken."""
    before, turns = asyncio.all_tasks(), 0
    while True:
        case = make(clock)
        task = asyncio.ensure_future(case.call())
        for turn in range(turns):
            await asyncio.sleep(0)
            if turn == 3:
                case.free()
            clock.advance(0.05)
        if task.done():
            break
        task.cancel()
        case.free()  # in the same turn: what is granted now goes to nobody
        for _ in range(20):  # a hedge waits for the calls that it has cancelled
            if not task.done():
                await clock.advance_async(0.0)
        assert task.cancelled()
        await nothing_is_left(case, clock, before)
        turns += 1
    assert turns >= 3
    with contextlib.suppress(ConnectionError):
        await task


@every
async def test_a_call_that_was_never_cancelled_leaves_nothing_behind_either(
    make: Callable[[VirtualClock], Case], clock: VirtualClock
) -> None:
    """The cases do end, with an answer, when nobody cancels them."""
    before = asyncio.all_tasks()
    case = make(clock)
    task = asyncio.ensure_future(case.call())
    case.free()
    for _ in range(100):
        await clock.advance_async(0.1)
        if task.done():
            break
    assert await task in {"done", 1}
    case.back = lambda: None  # what was learned is another matter
    await nothing_is_left(case, clock, before)
