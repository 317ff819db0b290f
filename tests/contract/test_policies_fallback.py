"""What reaches a fallback, from every policy, in both colours; a fallback with a limit of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    Chaos,
    CircuitBreaker,
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Deadline,
    DeadlineExceededError,
    Fallback,
    NoInstanceError,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
    Vegas,
    command,
)
from resilient.testing import VirtualClock
from tests.drive import Drive
from tests.waiting import wait_until

Trigger = tuple[Policy[Any] | None, Callable[[], Any]]


class Trouble:
    """What makes a call fail or be refused, and what is to be undone afterwards."""

    def __init__(self, clock: VirtualClock, stack: ExitStack) -> None:
        self.clock = clock
        self.stack = stack

    def hold(self, *permits: Any) -> None:
        """Until the test has ended."""
        for permit in permits:
            self.stack.callback(permit.success)

    def failure(self) -> Trigger:
        return None, raises(ConnectionError("down"))

    def refusal_inside(self) -> Trigger:
        return None, raises(NoInstanceError("none", policy="producer"))

    def open(self) -> Trigger:
        breaker = CircuitBreaker(clock=self.clock)
        breaker.open(5.0)
        return breaker, dict

    def half_open(self) -> Trigger:
        breaker = CircuitBreaker(clock=self.clock)
        breaker.open(5.0)
        self.clock.advance(5.0)
        self.hold(breaker.acquire())
        return breaker, dict

    def bulkhead(self) -> Trigger:
        bulkhead = Bulkhead(1, clock=self.clock)
        self.hold(bulkhead.acquire())
        return bulkhead, dict

    def rate(self) -> Trigger:
        limiter = RateLimiter(1, per=60.0, clock=self.clock)
        limiter.acquire()
        return limiter, dict

    def concurrency(self) -> Trigger:
        limiter = ConcurrencyLimiter(Vegas(initial=1), clock=self.clock)
        self.hold(limiter.acquire())
        return limiter, dict

    def deadline(self) -> Trigger:
        self.stack.enter_context(Deadline(1.0, clock=self.clock))
        self.clock.advance(1.0)
        return Timeout(5.0, clock=self.clock), dict

    def retries(self) -> Trigger:
        return Retry(attempts=2, wait=0.0, clock=self.clock), raises(ConnectionError("down"))

    def chaos(self) -> Trigger:
        return Chaos(rate=1.0, error=ConnectionResetError, enabled=True), dict


def raises(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.fixture
def trouble(clock: VirtualClock) -> Iterator[Trouble]:
    """Whatever it holds is given back."""
    with ExitStack() as stack:
        yield Trouble(clock, stack)


TRIGGERS: list[tuple[Callable[[Trouble], Trigger], type[Exception]]] = [
    (Trouble.failure, ConnectionError),
    (Trouble.refusal_inside, NoInstanceError),
    (Trouble.open, CircuitOpenError),
    (Trouble.half_open, CircuitOpenError),
    (Trouble.bulkhead, BulkheadFullError),
    (Trouble.rate, RateLimitedError),
    (Trouble.concurrency, ConcurrencyLimitedError),
    (Trouble.deadline, DeadlineExceededError),
    (Trouble.retries, ConnectionError),
    (Trouble.chaos, ConnectionResetError),
]


@pytest.mark.parametrize(("trigger", "kind"), TRIGGERS, ids=lambda value: value.__name__)
@pytest.mark.parametrize("between", [False, True], ids=["next to it", "a layer between"])
def test_each_trigger_reaches_it_with_its_own_cause(
    drive: Drive, trouble: Trouble, trigger: Callable[[Trouble], Trigger], kind: type[Exception], between: bool
) -> None:
    """Case 2: the first time and the second, when what is refused is turned away without being raised."""
    causes: list[Exception] = []

    def instead(*, error: Exception) -> str:
        causes.append(error)
        return "instead"

    policy, fn = trigger(trouble)
    outside = [Retry(wait=0.0, clock=trouble.clock)] if between and not isinstance(policy, Retry) else []
    guard = Pipeline(Fallback(instead), *outside, *([] if policy is None else [policy]))
    assert drive(guard, fn) == "instead"
    assert drive(guard, fn) == "instead"
    assert [type(cause) for cause in causes] == [kind, kind]
    assert causes[0] is not causes[1] or kind is ConnectionError or kind is NoInstanceError


@pytest.mark.parametrize("shape", ["pipeline", "command"])
async def test_a_timeout_reaches_it_async(clock: VirtualClock, shape: str) -> None:
    """Case 2: the limit of its own, and the caller's deadline before it."""
    causes: list[CallTimeoutError] = []

    def instead(*, error: CallTimeoutError) -> str:
        causes.append(error)
        return "instead"

    async def hangs() -> str:
        await asyncio.Event().wait()
        return "never"

    if shape == "pipeline":
        guarded = Pipeline(Fallback(instead), Timeout(2.0, clock=clock))(hangs)
    else:
        guarded = command("hangs", fallback=instead, attempt_timeout=2.0, clock=clock)(hangs)
    task = asyncio.ensure_future(guarded())
    await clock.advance_async(2.0)
    assert await task == "instead"
    with Deadline(1.0, clock=clock):
        task = asyncio.ensure_future(guarded())
        await clock.advance_async(1.0)
        assert await task == "instead"
    assert [type(cause) for cause in causes] == [CallTimeoutError, CallTimeoutError]
    assert [cause.by_deadline for cause in causes] == [False, True]


@pytest.mark.parametrize("moves", ["timeout", "pool"])
def test_a_timeout_reaches_it_sync(clock: VirtualClock, moves: str) -> None:
    """Case 2: from the worker thread that is left behind, the library's own or one of a pool."""
    causes: list[Exception] = []
    release = threading.Event()

    def instead(seconds: float, *, error: Exception) -> bool:
        causes.append(error)
        return True

    inside = [ThreadPoolBulkhead(1, clock=clock)] if moves == "pool" else []
    guard = Pipeline(Fallback(instead), Timeout(2.0, clock=clock), *inside)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(guard.call(release.wait, 30.0)))
    thread.start()
    wait_until(lambda: clock.waiting == 1)
    clock.advance(2.0)
    thread.join(10)
    if moves == "pool":  # the one thread is busy: the next is refused
        assert guard.call(release.wait, 30.0)
        assert isinstance(causes[1], BulkheadFullError)
    release.set()
    assert answers == [True]
    assert isinstance(causes[0], CallTimeoutError)
    assert not causes[0].by_deadline


def test_it_sees_the_callers_context(clock: VirtualClock, drive: Drive) -> None:
    """Timeout case 8: in the worker, and in the fallback after it, which has the outer deadline only."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    token = user.set("ann")

    def fails() -> list[Any]:
        seen.append((user.get(), Deadline.current() is not None))
        raise ConnectionError

    def instead() -> list[Any]:
        return [*seen, (user.get(), Deadline.current() is not None)]

    seen: list[Any] = []
    try:
        assert drive(Pipeline(Fallback(instead), Timeout(5.0)), fails) == [("ann", True), ("ann", False)]
    finally:
        user.reset(token)


async def test_a_bulkhead_around_it_bounds_it(clock: VirtualClock) -> None:
    """Case 6: ten at once; the eleventh is refused, with the call's own error as the context of the refusal."""
    limit, release = Bulkhead(10, name="fallback", clock=clock), asyncio.Event()

    @limit
    async def instead() -> str:
        await release.wait()
        return "instead"

    @Fallback(instead)
    async def call() -> str:
        raise ConnectionError("down")

    tasks = [asyncio.ensure_future(call()) for _ in range(10)]
    await asyncio.sleep(0)
    assert limit.snapshot().in_flight == 10
    with pytest.raises(BulkheadFullError) as caught:
        await call()
    assert caught.value.policy == "fallback"
    assert isinstance(caught.value.__context__, ConnectionError)
    release.set()
    assert await asyncio.gather(*tasks) == ["instead"] * 10
    assert limit.snapshot().in_flight == 0


async def test_a_cancelled_call_gets_none_wherever_it_is(clock: VirtualClock) -> None:
    """Case 9: cancelled in the call, in the wait for a place, in the wait for the next attempt."""
    asked: list[int] = []
    bulkhead = Bulkhead(1, max_wait=10.0, clock=clock)
    fallback = Fallback(lambda: asked.append(1))

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ConnectionError

    place = bulkhead.acquire()
    for guard, fn in (
        (fallback, hangs),
        (Pipeline(fallback, bulkhead), hangs),
        (Pipeline(fallback, Retry(wait=5.0, clock=clock)), fails),
        (Pipeline(fallback, Timeout(5.0, clock=clock)), hangs),
    ):
        task = asyncio.ensure_future(guard.acall(fn))
        await clock.advance_async(0.0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    place.success()
    assert asked == []
