"""Hedging: the first good answer wins, the others are cancelled, nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from resilient import Deadline, RejectedError, listen
from resilient.budget import RetryBudget
from resilient.policies.hedge import Hedge, HedgeStarted
from resilient.testing import VirtualClock

INFINITE = float("inf")
STEP = 0.01  # seconds by which time moves: what is told is exact to two of these


class Service:
    """Answers each call as the script says: (seconds, answer), an exception being raised."""

    def __init__(self, clock: VirtualClock, *script: tuple[float, object]) -> None:
        self._clock = clock
        self._script = list(script)
        self.calls = self.cancelled = 0

    async def __call__(self) -> object:
        """One call; the last line of the script goes on for ever."""
        seconds, answer = self._script[min(self.calls, len(self._script) - 1)]
        self.calls += 1
        try:
            await self._clock.sleep_async(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def started() -> Iterator[list[HedgeStarted]]:
    """Every hedge that is started."""
    heard: list[HedgeStarted] = []
    stop = listen(heard.append, HedgeStarted)
    yield heard
    stop()


def generous(clock: VirtualClock) -> RetryBudget:
    """A budget that is not in the way."""
    return RetryBudget(1.0, minimum_in_flight=100, clock=clock)


async def finished(task: asyncio.Task[object], clock: VirtualClock, *, step: float = STEP) -> float:
    """Move on until the task is done; the seconds that took."""
    began = clock.monotonic()
    await clock.advance_async(0.0)
    while not task.done():
        await clock.advance_async(step)
    return clock.monotonic() - began


def others() -> set[asyncio.Task[object]]:
    """Tasks that should not be there."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_fast_call_is_not_hedged(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 1: primary 50 ms, delay 100 ms: one call."""
    service = Service(clock, (0.05, "first"))
    task = asyncio.ensure_future(Hedge(0.1, clock=clock).acall(service))
    assert await finished(task, clock) == pytest.approx(0.05, abs=2 * STEP)
    assert (await task, service.calls, started) == ("first", 1, [])
    await clock.advance_async(1.0)
    assert (service.calls, others(), clock.waiting) == (1, set(), 0)


async def test_a_slow_call_is_overtaken(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 2: primary 1 s, hedge 10 ms, delay 100 ms: an answer at 110 ms, the loser cancelled and awaited."""
    service = Service(clock, (1.0, "first"), (0.01, "second"))
    hedge = Hedge(0.1, clock=clock)
    task = asyncio.ensure_future(hedge.acall(service))
    assert await finished(task, clock) == pytest.approx(0.11, abs=2 * STEP)
    assert (await task, service.calls, service.cancelled) == ("second", 2, 1)
    assert [(event.number, event.reason) for event in started] == [(1, "late")]
    assert started[0].after == pytest.approx(0.1, abs=STEP)
    assert (others(), clock.waiting) == (set(), 0)
    found = hedge.snapshot()
    assert (found.calls, found.hedges, found.won, found.refused) == (1, 1, 1, 0)


async def test_a_failure_starts_the_next_at_once(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 3: primary fails at 10 ms, delay 1 s: the hedge answers at 20 ms."""
    service = Service(clock, (0.01, ConnectionError("down")), (0.01, "second"))
    task = asyncio.ensure_future(Hedge(1.0, clock=clock).acall(service))
    assert await finished(task, clock) == pytest.approx(0.02, abs=STEP)
    assert await task == "second"
    assert [event.reason for event in started] == ["failed"]


async def test_an_error_that_is_not_handled_leaves_at_once(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 4: no hedge for it; one that runs already is cancelled."""
    service = Service(clock, (0.01, KeyError("a bug")))
    task = asyncio.ensure_future(Hedge(1.0, on=ConnectionError, clock=clock).acall(service))
    await finished(task, clock)
    with pytest.raises(KeyError, match="a bug"):
        await task
    assert (service.calls, started) == (1, [])

    service = Service(clock, (1.0, "first"), (0.01, KeyError("a bug")))
    task = asyncio.ensure_future(Hedge(0.1, on=ConnectionError, clock=clock).acall(service))
    await finished(task, clock)
    with pytest.raises(KeyError, match="a bug"):
        await task
    assert (service.calls, service.cancelled, others()) == (2, 1, set())


async def test_when_all_fail_the_last_error_leaves(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 5: 1 + extra calls, the last handled error."""
    service = Service(clock, *((0.01, ConnectionError(f"number {number}")) for number in range(1, 9)))
    task = asyncio.ensure_future(Hedge(1.0, extra=3, budget=generous(clock), clock=clock).acall(service))
    await finished(task, clock)
    with pytest.raises(ConnectionError, match="number 4"):
        await task
    assert (service.calls, len(started)) == (4, 3)


async def test_without_a_delay_all_start_at_once(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 6: delay 0."""
    service = Service(clock, (1.0, "first"), (1.0, "second"), (0.5, "third"))
    task = asyncio.ensure_future(Hedge(0, extra=2, budget=generous(clock), clock=clock).acall(service))
    await clock.advance_async(0.0)
    assert service.calls == 3
    assert await finished(task, clock) == pytest.approx(0.5, abs=2 * STEP)
    assert (await task, service.cancelled, len(started)) == ("third", 2, 2)


async def test_with_an_infinite_delay_one_follows_the_other(clock: VirtualClock) -> None:
    """Case 6: a hedge after a failure only, however long it takes."""
    service = Service(clock, (100.0, ConnectionError("down")), (100.0, "second"))
    task = asyncio.ensure_future(Hedge(INFINITE, clock=clock).acall(service))
    await clock.advance_async(99.0)
    assert service.calls == 1
    await clock.advance_async(1.0)
    assert service.calls == 2
    await clock.advance_async(100.0)
    assert await task == "second"


async def test_a_caller_who_cancels_cancels_all(clock: VirtualClock) -> None:
    """Case 7: none is left, and the caller sees its own cancellation."""
    service = Service(clock, (1.0, "never"))
    task = asyncio.ensure_future(Hedge(0.0, extra=3, budget=generous(clock), clock=clock).acall(service))
    await clock.advance_async(0.5)
    task.cancel("gone")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (service.calls, service.cancelled) == (4, 4)
    assert (others(), clock.waiting) == (set(), 0)


async def test_an_exhausted_budget_starts_no_more_and_stops_none(clock: VirtualClock) -> None:
    """Case 8: what runs may still answer."""
    budget = RetryBudget(0.0, minimum_in_flight=1, clock=clock)
    hedge = Hedge(0.1, extra=2, budget=budget, clock=clock)
    service = Service(clock, (1.0, "first"), (2.0, "second"), (0.01, "third"))
    task = asyncio.ensure_future(hedge.acall(service))
    assert await finished(task, clock) == pytest.approx(1.0, abs=2 * STEP)
    assert (await task, service.calls) == ("first", 2)
    assert hedge.snapshot().refused == 1
    assert budget.snapshot().in_flight == 0

    service = Service(clock, (0.01, ConnectionError("down")))
    taken = budget.take()
    assert taken is not None
    task = asyncio.ensure_future(hedge.acall(service))
    await finished(task, clock)
    with pytest.raises(ConnectionError, match="down"):
        await task
    assert service.calls == 1


async def test_the_default_budget_is_a_tenth(clock: VirtualClock) -> None:
    """Case 8: of a hundred slow calls ten are hedged, and three may be at any time."""
    hedge = Hedge(0.1, clock=clock)
    service = Service(clock, (0.2, "slow"))
    for _ in range(100):
        await finished(asyncio.ensure_future(hedge.acall(service)), clock, step=0.1)
    assert hedge.snapshot().hedges == 100  # one at a time: never three in flight
    hedge = Hedge(0.1, budget=RetryBudget(0.1, minimum_in_flight=0, window=60.0, clock=clock), clock=clock)
    for _ in range(100):
        await finished(asyncio.ensure_future(hedge.acall(service)), clock, step=0.1)
    assert hedge.snapshot().hedges == 10


async def test_a_learned_delay_needs_samples(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 9: no hedge of a late call until 50 were seen; then the 95th percentile of what succeeded."""
    hedge = Hedge(budget=generous(clock), clock=clock)
    for number in range(49):
        await finished(asyncio.ensure_future(hedge.acall(Service(clock, (0.01 * (1 + number % 4), "ok")))), clock)
    slow = Service(clock, (5.0, ConnectionError("slow and bad")))
    task = asyncio.ensure_future(hedge.acall(slow))
    await finished(task, clock, step=5.0)
    with pytest.raises(ConnectionError):
        await task
    assert [event.reason for event in started] == ["failed"]
    assert hedge.delay is None
    await finished(asyncio.ensure_future(hedge.acall(Service(clock, (0.01, "ok")))), clock)
    assert hedge.delay == pytest.approx(0.04, abs=STEP)

    service = Service(clock, (1.0, "first"), (0.01, "second"))
    task = asyncio.ensure_future(hedge.acall(service))
    assert await finished(task, clock) == pytest.approx(0.05, abs=2 * STEP)
    assert [event.reason for event in started] == ["failed", "late"]


async def test_calls_that_were_overtaken_feed_the_delay(clock: VirtualClock) -> None:
    """Case 9: a superseded call took at least so long; without it the slow would never count."""
    hedge = Hedge(0.1, budget=generous(clock), clock=clock)
    for _ in range(30):
        service = Service(clock, (1.0, "first"), (0.01, "second"))
        await finished(asyncio.ensure_future(hedge.acall(service)), clock)
    hedge.take_settings(Hedge(clock=clock))
    assert hedge.delay == pytest.approx(0.11, abs=2 * STEP)


async def test_each_hedge_is_told_once(clock: VirtualClock, started: list[HedgeStarted]) -> None:
    """Case 10: numbered, never one after the last."""
    service = Service(clock, (10.0, "slow"))
    task = asyncio.ensure_future(Hedge(1.0, extra=2, budget=generous(clock), clock=clock).acall(service))
    await finished(task, clock, step=0.5)
    assert [(event.number, event.at - started[0].at) for event in started] == [(1, 0.0), (2, 1.0)]
    assert service.calls == 3


async def test_no_hedge_is_started_that_can_not_finish(clock: VirtualClock) -> None:
    """Under a deadline: half of the calls take longer than what is left."""
    hedge = Hedge(0.1, budget=generous(clock), clock=clock)
    for _ in range(50):
        await finished(asyncio.ensure_future(hedge.acall(Service(clock, (0.08, "ok")))), clock)
    for seconds, calls in ((0.15, 1), (0.25, 2)):
        service = Service(clock, (0.14, "slow"))
        with Deadline(seconds, clock=clock):
            task = asyncio.ensure_future(hedge.acall(service))
        await finished(task, clock)
        assert service.calls == calls


async def test_a_hedge_that_is_refused_further_in_is_no_answer(clock: VirtualClock) -> None:
    """A full bulkhead inside: the first call is still waited for; when all are refused the refusal leaves."""
    refusal = RejectedError("full", policy="inner")
    service = Service(clock, (0.5, "first"), (0.0, refusal))
    task = asyncio.ensure_future(Hedge(0.1, clock=clock).acall(service))
    assert await finished(task, clock) == pytest.approx(0.5, abs=2 * STEP)
    assert await task == "first"
    service = Service(clock, (0.0, refusal))
    with pytest.raises(RejectedError, match="full"):
        await Hedge(0.1, clock=clock).acall(service)
    assert service.calls == 1
