"""What every gate does: permits, guarded blocks, and how the layers settle what ends oddly."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from resilient import CallTimeoutError, CircuitBreaker, CircuitOpenError, Pipeline, RejectedError, State, Timeout
from resilient.testing import VirtualClock
from tests.drive import Drive


@pytest.fixture
def breaker(clock: VirtualClock) -> CircuitBreaker:
    """A breaker about to let its first probe in: one place, so that whatever leaks is seen."""
    made = CircuitBreaker("gate", clock=clock)
    made.open(1.0)
    clock.advance(1.0)
    return made


def counted(breaker: CircuitBreaker) -> dict[str, int]:
    """What it has counted, without the zeros."""
    snapshot = breaker.snapshot()
    counts = {what: getattr(snapshot, what) for what in ("successes", "failed", "ignored", "late")}
    return {what: count for what, count in counts.items() if count}


@pytest.mark.parametrize(
    ("first", "counts"),
    [("success", {"successes": 1}), ("failure", {"failed": 1}), ("ignored", {"ignored": 1}), ("unused", {})],
)
def test_the_first_settlement_of_a_permit_counts(breaker: CircuitBreaker, first: str, counts: dict[str, int]) -> None:
    """Later ones do nothing, nor does leaving a block with it."""
    permit = breaker.acquire()
    assert "held" in repr(permit)
    with permit:
        getattr(permit, first)()
    for again in ("success", "failure", "ignored", "unused"):
        getattr(permit, again)()
    assert counted(breaker) == counts
    assert "settled" in repr(permit)


def test_a_dropped_permit_gives_its_place_back(breaker: CircuitBreaker) -> None:
    """Rule 8: forgotten is not failed; the next caller is the probe."""
    permit = breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    del permit
    breaker.acquire().success()
    assert counted(breaker) == {"successes": 1}


def test_a_permit_dropped_in_a_cycle_comes_back_when_it_is_collected(breaker: CircuitBreaker) -> None:
    """A permit kept by an object that keeps itself is freed with it."""

    class Holder:
        def __init__(self) -> None:
            self.permit = breaker.acquire()
            self.itself = self

    gone = weakref.ref(Holder())
    gc.collect()
    assert gone() is None
    breaker.acquire().success()


def test_a_block_settles_by_how_it_ends(breaker: CircuitBreaker) -> None:
    """Left normally: success; by an error: its verdict, and the error goes on."""
    with breaker.calling():
        pass
    with pytest.raises(ValueError, match="boom"), breaker.calling():
        raise ValueError("boom")
    assert counted(breaker) == {"successes": 1, "failed": 1}


async def test_an_async_block_settles_by_how_it_ends(breaker: CircuitBreaker) -> None:
    """The same with `async with`."""
    async with breaker.calling():
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="boom"):
        async with breaker.calling():
            raise ValueError("boom")
    assert counted(breaker) == {"successes": 1, "failed": 1}


def test_a_block_may_settle_earlier(breaker: CircuitBreaker) -> None:
    """The permit in a block is the block's own: what it was told counts, not how the block ends."""
    with breaker.calling() as permit:
        permit.failure(ConnectionError("half of the stream is missing"))
    assert counted(breaker) == {"failed": 1}
    with pytest.raises(CircuitOpenError) as caught, breaker.calling():
        pass
    assert caught.value.last_failure is not None
    assert caught.value.last_failure.message == "half of the stream is missing"


def test_a_calling_serves_one_block_at_a_time(breaker: CircuitBreaker) -> None:
    """Nested use is refused, use one after the other is fine."""
    guard = breaker.calling()
    with guard, pytest.raises(RuntimeError, match="already entered"), guard:
        pass
    with guard:
        pass
    assert counted(breaker) == {"successes": 2}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_is_no_verdict(breaker: CircuitBreaker, drive: Drive, kind: type[BaseException]) -> None:
    """Neither through the layers nor in a block; it leaves unchanged."""
    error = kind()

    def interrupted() -> None:
        raise error

    with pytest.raises(kind) as caught:
        drive(breaker, interrupted)
    assert caught.value is error
    with pytest.raises(kind), breaker.calling():
        raise error
    assert counted(breaker) == {"ignored": 2}


async def test_a_cancelled_call_is_no_verdict(breaker: CircuitBreaker) -> None:
    """The caller's own cancel, and a foreign `asyncio.timeout`, say nothing about the dependency."""
    task = asyncio.create_task(breaker.acall(asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await breaker.acall(asyncio.Event().wait)
    assert counted(breaker) == {"ignored": 2}
    assert breaker.state is State.HALF_OPEN


async def test_an_expired_timeout_further_out_is_a_failure(clock: VirtualClock) -> None:
    """Rule 16: the Timeout of another decorator that cancels through the gate is a slow dependency."""
    breaker = CircuitBreaker("slow", clock=clock, consecutive_failures=2)
    guarded = Timeout(5.0, clock=clock)(breaker(asyncio.Event().wait))
    for _ in range(2):
        task = asyncio.create_task(guarded())
        await clock.advance_async(5.0)
        with pytest.raises(CallTimeoutError):
            await task
    assert counted(breaker) == {"failed": 2}
    assert breaker.state is State.OPEN


async def test_a_cancel_before_an_outer_timeout_expires_is_no_verdict(clock: VirtualClock) -> None:
    """Rule 16: only a scope that has expired makes a failure of a cancellation."""
    breaker = CircuitBreaker("left", clock=clock)
    guarded = Timeout(5.0, clock=clock)(breaker(asyncio.Event().wait))
    task = asyncio.create_task(guarded())
    await clock.advance_async(4.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counted(breaker) == {"ignored": 1}


async def test_a_timeout_in_the_same_pipeline_is_a_plain_failure(clock: VirtualClock) -> None:
    """Rule 16: in either order the gate sees CallTimeoutError."""
    breaker = CircuitBreaker("order", clock=clock)
    for guard in (Pipeline(breaker, Timeout(1.0, clock=clock)), Pipeline(Timeout(1.0, clock=clock), breaker)):
        task = asyncio.create_task(guard.acall(asyncio.Event().wait))
        await clock.advance_async(1.0)
        with pytest.raises(CallTimeoutError):
            await task
    assert counted(breaker) == {"failed": 2}


def test_a_rejection_further_in_is_unused(breaker: CircuitBreaker, drive: Drive) -> None:
    """Rule 2: whatever policy refused, nothing was sent; place back, nothing counted."""

    def refuse() -> None:
        raise RejectedError("full", policy="inner")

    for _ in range(3):
        with pytest.raises(RejectedError, match="full"):
            drive(breaker, refuse)
        with pytest.raises(RejectedError, match="full"), breaker.calling():
            refuse()
    assert counted(breaker) == {}
    assert breaker.state is State.HALF_OPEN


def test_a_predicate_that_raises_settles_as_ignored(
    drive: Drive, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the user's predicate is logged; the caller gets the error of the call."""

    def predicate(error: Exception) -> bool:
        raise LookupError("a bug in the predicate")

    breaker = CircuitBreaker("predicate", ignore=predicate, clock=clock)

    def fail() -> None:
        raise ConnectionError("down")

    with caplog.at_level(logging.ERROR, "resilient"), pytest.raises(ConnectionError):
        drive(breaker, fail)
    assert "a bug in the predicate" in caplog.text
    assert counted(breaker) == {"ignored": 1}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_predicate_that_is_interrupted_settles_all_the_same(
    drive: Drive, clock: VirtualClock, kind: type[BaseException]
) -> None:
    """Ctrl-C while a predicate runs must not keep the probe's place."""

    def predicate(error: Exception) -> bool:
        raise kind

    breaker = CircuitBreaker("interrupted", on=predicate, clock=clock)
    breaker.open(1.0)
    clock.advance(1.0)

    def fail() -> None:
        raise ConnectionError("down")

    for _ in range(2):
        with pytest.raises(kind):
            drive(breaker, fail)
    assert counted(breaker) == {"ignored": 2}


def test_a_result_check_judges_and_its_bugs_do_not(
    drive: Drive, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A result that `on_result` dislikes is a failure; one it chokes on is a success, logged."""
    breaker = CircuitBreaker("results", on_result=lambda result: result["bad"], clock=clock)
    assert drive(breaker, lambda: {"bad": True}) == {"bad": True}
    assert drive(breaker, lambda: {"bad": False}) == {"bad": False}
    with caplog.at_level(logging.ERROR, "resilient"):
        assert drive(breaker, dict) == {}
    assert "on_result raised" in caplog.text
    assert counted(breaker) == {"successes": 2, "failed": 1}


def test_a_result_check_that_is_interrupted_gives_the_place_back(drive: Drive, clock: VirtualClock) -> None:
    """Ctrl-C while `on_result` runs: nothing is known, nothing leaks."""

    def interrupted(result: object) -> bool:
        raise KeyboardInterrupt

    breaker = CircuitBreaker("results", on_result=interrupted, clock=clock)
    breaker.open(1.0)
    clock.advance(1.0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            drive(breaker, lambda: "fine")
    assert breaker.state is State.HALF_OPEN


def test_a_function_that_returns_an_awaitable_is_refused(clock: VirtualClock) -> None:
    """Rule 5: at the first call, naming the way to do it; async functions are refused by `call` at once."""
    breaker = CircuitBreaker("colours", clock=clock)

    async def fetch() -> str:
        return "fine"

    def hidden() -> object:
        return fetch()

    with pytest.raises(TypeError, match="acall"):
        asyncio.run(breaker.call(fetch))
    with pytest.raises(TypeError, match="acall"):
        breaker.call(hidden)
    with pytest.raises(TypeError, match="acall"):
        breaker(hidden)()
