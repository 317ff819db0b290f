"""The bulkhead and the rate limiter against naive models, over generated histories."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient import BulkheadFullError, Permit, RateLimitedError
from resilient.gate_waits import Waiter
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.rate_limiter import RateLimiter
from resilient.testing import VirtualClock

TICK = 1 / 64  # exact as a float: the model counts in whole ticks


class NaiveBulkhead(RuleBasedStateMachine):
    """A list of who is inside and a list of who waits, beside the real one; callers are driven by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.bulkhead = Bulkhead(2, max_wait=4 * TICK, max_queue=3, clock=self.clock)
        self.limit = 2
        self.inside: list[Any] = []  # tickets
        self.line: list[tuple[Waiter, int]] = []  # (waiter, ticks left)
        self.rejected = 0

    def admit_from_line(self) -> None:
        """What the model does after each step, and the real one must have done by itself."""
        while self.line and len(self.inside) < self.limit:
            waiter, _ = self.line.pop(0)
            ticket = self.bulkhead.claim(waiter)
            assert ticket is not None
            self.inside.append(ticket)

    @rule()
    def enter(self) -> None:
        room, queue = len(self.inside) < self.limit, len(self.line) < 3
        try:
            found = self.bulkhead.enter(float("inf"))
        except BulkheadFullError:
            assert not room
            assert not queue
            self.rejected += 1
            return
        if isinstance(found, Waiter):
            assert not room
            assert queue
            self.line.append((found, 4))
        else:
            assert room
            self.inside.append(found)

    @rule()
    def acquire(self) -> None:
        room = len(self.inside) < self.limit
        try:
            ticket = self.bulkhead.admit(float("inf"))
        except BulkheadFullError:
            assert not room
            self.rejected += 1
        else:
            assert room
            self.inside.append(ticket)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), how=st.sampled_from(["success", "unused", "drop", "retain"]))
    def finish(self, data: st.DataObject, how: str) -> None:
        ticket = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        if how == "success":
            ticket.success(0.0, 0.0)
        elif how == "unused":
            ticket.unused()
        elif how == "retain":
            assert ticket.retain()
            ticket.success(0.0, 0.0)
            assert self.bulkhead.snapshot().in_flight == len(self.inside) + 1
            ticket.release()
        del ticket
        self.bulkhead.snapshot()  # a dropped one is found by the next who looks
        self.admit_from_line()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter, _ = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        self.bulkhead.leave(waiter)
        self.bulkhead.leave(waiter)

    @precondition(lambda self: self.line and self.inside)
    @rule()
    def cancel_at_the_grant(self) -> None:
        self.inside.pop().success(0.0, 0.0)
        if len(self.inside) < self.limit:
            waiter, _ = self.line.pop(0)
            self.bulkhead.leave(waiter)
        self.admit_from_line()

    @rule(limit=st.integers(1, 4))
    def resize(self, limit: int) -> None:
        self.bulkhead.resize(limit)
        self.limit = limit
        self.admit_from_line()

    @rule()
    def tick(self) -> None:
        self.clock.advance(TICK)
        self.line = [(waiter, left - 1) for waiter, left in self.line]
        while self.line and self.line[0][1] == 0:
            waiter, _ = self.line.pop(0)
            try:
                self.bulkhead.claim(waiter)
            except BulkheadFullError:
                self.rejected += 1
            else:
                raise AssertionError("its time is over")

    @invariant()
    def agrees(self) -> None:
        seen = self.bulkhead.snapshot()
        assert (seen.in_flight, seen.waiting, seen.rejected) == (len(self.inside), len(self.line), self.rejected)
        assert seen.available == max(0, self.limit - len(self.inside))


NaiveBulkhead.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBulkheadAgainstItsModel = NaiveBulkhead.TestCase


class Bucket:
    """The token bucket, in exact fractions: what GCRA computes with one float."""

    def __init__(self, limit: int, burst: int) -> None:
        self.rate, self.burst = Fraction(limit), Fraction(burst)
        self.tokens, self.at = Fraction(burst), Fraction(0)

    def take(self, now: Fraction, weight: int) -> Fraction | None:
        """None when admitted, else the seconds until it would be."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= weight:
            self.tokens -= weight
            return None
        return (weight - self.tokens) / self.rate


@given(
    limit=st.sampled_from([1, 2, 4, 8, 16]),
    burst=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 80), st.integers(1, 3), st.booleans()), max_size=80),
)
@settings(max_examples=150, deadline=None)
def test_the_rate_limiter_is_a_token_bucket(limit: int, burst: int, steps: list[tuple[int, int, bool]]) -> None:
    """Same admissions and same retry_after as exact arithmetic; what is returned at once is as if never taken."""
    clock = VirtualClock(0.0)
    limiter, bucket, now = RateLimiter(limit, burst=burst, clock=clock), Bucket(limit, burst), Fraction(0)
    for ticks, weight, returned in steps:
        clock.advance(ticks * TICK)
        now += Fraction(ticks, 64)
        cost = min(weight, burst)
        wait = bucket.take(now, cost)
        if wait is None:
            permit: Permit = limiter.acquire(weight=cost)
            if returned and cost == 1:
                permit.unused()
                bucket.tokens += cost
        else:
            with pytest.raises(RateLimitedError) as caught:
                limiter.acquire(weight=cost)
            assert caught.value.retry_after == pytest.approx(float(wait), abs=1e-6)


@given(
    limit=st.sampled_from([2, 4, 8]),
    burst=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["call", "call", "cancel", "refund"])), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_no_interval_sees_more_than_burst_and_rate(limit: int, burst: int, steps: list[tuple[int, str]]) -> None:
    """With waiters, cancelled ones and refunds: of the calls that were made, at most burst + rate x time, in order."""

    async def main() -> None:
        clock = VirtualClock(0.0)
        limiter = RateLimiter(limit, burst=burst, max_wait=2.0, clock=clock)
        made: list[tuple[int, float]] = []
        tasks: list[asyncio.Task[None]] = []

        async def call(number: int, refunded: bool) -> None:
            async with limiter.calling() as permit:
                if refunded:
                    permit.unused()
                else:
                    made.append((number, clock.monotonic()))

        for number, (ticks, what) in enumerate(steps):
            for _ in range(ticks):
                if not clock.waiting:
                    clock.advance(TICK)
                    continue
                clock.advance(TICK)
                for _ in range(6):
                    await asyncio.sleep(0)
            if what == "cancel":
                waiting = [task for task in tasks if not task.done()]
                if waiting:
                    waiting[number % len(waiting)].cancel()
            else:
                tasks.append(asyncio.create_task(call(number, what == "refund")))
            for _ in range(6):
                await asyncio.sleep(0)
        for _ in range(200):
            clock.advance(TICK)
            for _ in range(6):
                await asyncio.sleep(0)
        for task in tasks:
            assert task.done()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, _ in made] == sorted(number for number, _ in made)
        times = [at for _, at in made]
        for first, start in enumerate(times):
            for last in range(first, len(times)):
                # A waiter wakes at a tick, up to one late, which counts at its time.
                assert last - first + 1 <= burst + (times[last] - start + TICK) * limit + 1e-6
        assert (limiter.snapshot().waiting, limiter.snapshot().available, clock.waiting) == (0, burst, 0)

    asyncio.run(main())
