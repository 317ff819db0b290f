"""A deadline shortens everything inside it: waits, attempts, limits, shared calls; alone and in stacks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Cache,
    CallTimeoutError,
    CircuitBreaker,
    Collapser,
    ConcurrencyLimiter,
    Deadline,
    DeadlineExceededError,
    Hedge,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from resilient.testing import VirtualClock
from tests.waiting import wait_until

STEP = 1 / 32  # a fraction of two: sums of it are exact


class Ended(NamedTuple):
    """How and when a call ended."""

    told: Any
    after: float


Run = Callable[..., Ended]


def run_async(policy: Policy[Any], fn: Callable[[], Any], clock: VirtualClock, seconds: float) -> Ended:
    """The call under a Deadline, on a loop of its own, while time goes on."""

    async def afn() -> Any:
        answer = fn()
        if answer is HANGS:
            await asyncio.Event().wait()
        return answer

    async def main() -> Ended:
        started = clock.monotonic()

        async def call() -> Ended:
            try:
                with Deadline(seconds, clock=clock):
                    told = await policy.acall(afn)
            except Exception as error:
                told = error
            return Ended(told, clock.monotonic() - started)

        task = asyncio.ensure_future(call())
        while not task.done():
            await clock.advance_async(STEP)
        return await task

    return asyncio.run(main())


def run_sync(policy: Policy[Any], fn: Callable[[], Any], clock: VirtualClock, seconds: float) -> Ended:
    """The same in a thread; time goes on only while it waits for that."""
    release, found = threading.Event(), list[Ended]()

    def plain() -> Any:
        answer = fn()
        if answer is HANGS:
            release.wait(30)
        return answer

    started = clock.monotonic()

    def call() -> None:
        try:
            with Deadline(seconds, clock=clock):
                told = policy.call(plain)
        except Exception as error:
            told = error
        found.append(Ended(told, clock.monotonic() - started))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        while not found:
            wait_until(lambda: clock.waiting or found)
            if not found:
                clock.advance(STEP)
    finally:
        release.set()
        thread.join(10)
    return found[0]


HANGS = object()


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """In one colour; the test runs once per colour."""
    found: Run = request.param
    return found


def fails() -> Any:
    raise ConnectionError("down")


def hangs() -> Any:
    return HANGS


def test_a_retry_begins_no_wait_that_would_pass_it(run: Run, clock: VirtualClock) -> None:
    """Attempts at 0, 0.375 and 0.75 s; the next would be at 1.125: the last error leaves at 0.75."""
    retry = Retry(attempts=10, wait=0.375, clock=clock)
    ended = run(retry, fails, clock, 1.0)
    assert isinstance(ended.told, ConnectionError)
    assert (ended.after, retry.snapshot().retries) == (0.75, 2)


def test_a_wait_for_a_place_ends_at_it(run: Run, clock: VirtualClock) -> None:
    """Rule 22: the bulkhead's own rejection, although it would wait for ten seconds."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    place = bulkhead.acquire()
    ended = run(bulkhead, fails, clock, 0.5)
    place.success()
    assert isinstance(ended.told, BulkheadFullError)
    assert (ended.after, bulkhead.snapshot().waiting) == (0.5, 0)


def test_a_wait_for_the_rate_that_would_pass_it_is_not_begun(run: Run, clock: VirtualClock) -> None:
    """Rule 22: the next call may be made after 4 s, so it is refused at once."""
    limiter = RateLimiter(1, per=4.0, max_wait=10.0, clock=clock)
    limiter.acquire()
    ended = run(limiter, fails, clock, 0.5)
    assert isinstance(ended.told, RateLimitedError)
    assert (ended.after, ended.told.retry_after) == (0.0, 4.0)


def test_a_wait_for_the_rate_that_fits_is_waited(run: Run, clock: VirtualClock) -> None:
    """The next call may be made after 0.5 s: then it is made."""
    limiter = RateLimiter(2, burst=1, max_wait=10.0, clock=clock)
    limiter.acquire()
    ended = run(limiter, lambda: "made", clock, 1.0)
    assert ended == ("made", 0.5)


def test_a_timeout_ends_at_it_and_says_so(run: Run, clock: VirtualClock) -> None:
    """`by_deadline`: the limit of ten seconds is not to blame."""
    ended = run(Timeout(10.0, clock=clock), hangs, clock, 0.5)
    assert isinstance(ended.told, CallTimeoutError)
    assert (ended.told.by_deadline, ended.told.policy, ended.after) == (True, "deadline", 0.5)


def test_an_attempt_gets_what_the_waits_before_it_have_left(run: Run, clock: VirtualClock) -> None:
    """0.25 s for a place, the rest for a call that would have 10 s of its own; nothing is retried after that."""
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    place = bulkhead.acquire()
    retry, breaker = Retry(wait=0.25, clock=clock), CircuitBreaker(clock=clock)
    limiter = RateLimiter(1, per=0.25, max_wait=10.0, clock=clock)
    limiter.acquire()

    def seen() -> Any:
        deadline = Deadline.current()
        assert deadline is not None
        left.append(deadline.remaining)
        return HANGS

    left: list[float] = []
    cancel = clock._after(0.5, place.success)[1]
    ended = run(Pipeline(retry, breaker, limiter, bulkhead, Timeout(10.0, clock=clock)), seen, clock, 1.0)
    cancel()
    assert isinstance(ended.told, CallTimeoutError)
    assert (ended.told.by_deadline, left, ended.after) == (True, [0.5], 1.0)
    assert retry.snapshot().retries == 0


def test_a_pool_of_threads_starts_nothing_after_it(clock: VirtualClock) -> None:
    """A queued call whose deadline comes is refused, and its function never runs."""
    pool, release, ran = ThreadPoolBulkhead(1, max_queue=1, clock=clock), threading.Event(), list[int]()
    busy = threading.Thread(target=pool.call, args=(release.wait, 30))
    busy.start()
    wait_until(lambda: pool.snapshot().active == 1)
    ended = run_sync(pool, lambda: ran.append(1), clock, 0.5)
    assert isinstance(ended.told, BulkheadFullError)
    release.set()
    busy.join(10)
    wait_until(lambda: pool.snapshot().active == 0)
    assert (ended.after, ran, pool.snapshot().queued) == (0.5, [], 0)


def test_hedged_calls_share_it(clock: VirtualClock) -> None:
    """The hedge of 0.25 s ends with the first call at 0.5, not a limit after its own start."""
    hedge = Hedge(0.25, clock=clock)
    ended = run_async(Pipeline(hedge, Timeout(10.0, clock=clock)), hangs, clock, 0.5)
    assert isinstance(ended.told, CallTimeoutError)
    assert (ended.told.by_deadline, ended.after, hedge.snapshot().hedges) == (True, 0.5, 1)


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
async def test_a_caller_of_a_shared_call_waits_no_longer(leads: bool, clock: VirtualClock) -> None:
    """Rule 26: CallTimeoutError for the one who has no time; the call goes on and is remembered."""
    cache, calls = Cache(60.0, clock=clock), 0

    async def slow() -> str:
        nonlocal calls
        calls += 1
        await clock.sleep_async(2.0)
        return "answer"

    guarded = cache(slow)

    async def impatient() -> str:
        with Deadline(0.5, clock=clock):
            return await guarded()

    tasks = [asyncio.ensure_future(one()) for one in ((impatient, guarded) if leads else (guarded, impatient))]
    await clock.advance_async(0.5)
    late = tasks[0 if leads else 1]
    with pytest.raises(CallTimeoutError) as caught:
        await late
    assert caught.value.by_deadline
    await clock.advance_async(1.5)
    assert await tasks[1 if leads else 0] == "answer"
    assert (await guarded(), calls) == ("answer", 1)


async def test_a_caller_of_a_batch_waits_no_longer(clock: VirtualClock) -> None:
    """The one who has time gets its answer."""

    async def batch(keys: list[int]) -> list[int]:
        await clock.sleep_async(2.0)
        return keys

    collapser = Collapser(batch, delay=0.25, clock=clock)

    async def impatient() -> int:
        with Deadline(0.5, clock=clock):
            return await collapser(1)

    tasks = [asyncio.ensure_future(impatient()), asyncio.ensure_future(collapser(2))]
    await clock.advance_async(0.5)
    with pytest.raises(CallTimeoutError):
        await tasks[0]
    await clock.advance_async(2.0)
    assert await tasks[1] == 2


GATES: list[Callable[[VirtualClock], Policy[Any]]] = [
    lambda clock: CircuitBreaker(clock=clock),
    lambda clock: Bulkhead(clock=clock),
    lambda clock: RateLimiter(10, clock=clock),
    lambda clock: ConcurrencyLimiter(clock=clock),
    lambda clock: Retry(clock=clock),
]


@pytest.mark.parametrize("gate", GATES)
def test_one_that_has_passed_refuses_before_the_call(
    run: Run, gate: Callable[[VirtualClock], Policy[Any]], clock: VirtualClock
) -> None:
    """Around any policy with a limit inside: DeadlineExceededError, nothing was sent, nothing is counted or retried."""
    ran: list[int] = []
    policy = gate(clock)

    class Late(Policy[Any]):
        """Takes a second before it goes on."""

        def layer(self, inner: Any, limit: float, given: Any) -> Any:
            def late(fn: Any, args: Any, kwargs: Any) -> Any:
                clock.advance(1.0)
                return inner(fn, args, kwargs)

            return late

        alayer = layer

    guard = Pipeline(policy, Late(), Timeout(5.0, clock=clock))
    ended = run(guard, lambda: ran.append(1), clock, 0.5)
    assert isinstance(ended.told, DeadlineExceededError)
    assert ran == []
    snapshot = policy.snapshot()  # type: ignore[attr-defined]  # each of these has one
    counted = {"failed", "successes", "dropped", "succeeded", "retries", "in_flight"} & set(snapshot.as_dict())
    assert all(snapshot.as_dict()[count] == 0 for count in counted)


moments = st.integers(1, 96).map(lambda number: number * STEP)


@settings(max_examples=60, deadline=None)
@given(
    deadline=moments,
    place_free=moments,
    rate_per=moments,
    wait=moments,
    own=moments,
    whole=moments,
    takes=moments,
    failures=st.integers(0, 4),
    shape=st.permutations(["retry", "breaker", "limiter", "bulkhead"]),
)
def test_nobody_waits_longer_whatever_lies_inside(
    deadline: float,
    place_free: float,
    rate_per: float,
    wait: float,
    own: float,
    whole: float,
    takes: float,
    failures: int,
    shape: list[str],
) -> None:
    """Any order, any limits, any length of the call: it ends at the deadline or before, and holds nothing then."""
    clock = VirtualClock()
    bulkhead = Bulkhead(1, max_wait=50.0, clock=clock)
    limiter = RateLimiter(1, per=rate_per, max_wait=50.0, clock=clock)
    place = bulkhead.acquire()
    limiter.acquire()
    policies: dict[str, Policy[Any]] = {
        "retry": Retry(attempts=5, wait=wait, clock=clock),
        "breaker": CircuitBreaker(clock=clock),
        "limiter": limiter,
        "bulkhead": bulkhead,
    }
    guard = Pipeline(Timeout(whole, clock=clock), *(policies[name] for name in shape), Timeout(own, clock=clock))
    left, starts = [failures], list[float]()

    async def call() -> str:
        starts.append(clock.monotonic())
        await clock.sleep_async(takes)
        if left[0]:
            left[0] -= 1
            raise ConnectionError
        return "made"

    async def main() -> float:
        started = clock.monotonic()
        clock.call_later(asyncio.get_running_loop(), place_free, place.success)

        async def caller() -> float:
            try:
                with Deadline(deadline, clock=clock):
                    await guard.acall(call)
            except (ConnectionError, CallTimeoutError, BulkheadFullError, RateLimitedError, DeadlineExceededError):
                pass
            return clock.monotonic() - started

        task = asyncio.ensure_future(caller())
        while not task.done():
            await clock.advance_async(STEP)
        assert all(start - started < min(deadline, whole) for start in starts)
        return await task

    assert asyncio.run(main()) <= min(deadline, whole)
    place.success()
    assert (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting, limiter.snapshot().waiting) == (0, 0, 0)
