"""The switches reach every kind of policy, by whatever way it is entered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import resilient
from resilient import Command
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.testing import ScriptedDependency, VirtualClock, disabled, fail, ok, reset, use_clock


def both(
    retry: Retry, dependency: ScriptedDependency
) -> tuple[Callable[[], str], Callable[[], Coroutine[Any, Any, str]]]:
    """The dependency decorated, in both colours."""

    def answer() -> str:
        return str(dependency())

    async def aanswer() -> str:
        return str(await dependency.acall())

    return retry(answer), retry(aanswer)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_retry_from_before_waits_on_the_clock_in_use(is_async: bool) -> None:
    """An hour of waits is over at once, in both colours, without a second thread."""
    retry = Retry(attempts=3, wait=1800.0)
    dependency = ScriptedDependency(fail(times=2), ok("at last"))
    guarded, aguarded = both(retry, dependency)
    started = time.monotonic()
    with use_clock(VirtualClock(auto=True)) as clock:
        assert (asyncio.run(aguarded()) if is_async else guarded()) == "at last"
        assert clock.monotonic() == 4600.0
    assert time.monotonic() - started < 60.0
    assert len(dependency.calls) == 3


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_disabled_retry_calls_once(is_async: bool) -> None:
    """Its first error leaves."""
    retry = Retry(attempts=3, wait=0.001)
    dependency = ScriptedDependency(fail())
    guarded, aguarded = both(retry, dependency)
    with disabled(), pytest.raises(ConnectionError):
        asyncio.run(aguarded()) if is_async else guarded()
    assert len(dependency.calls) == 1
    with pytest.raises(ConnectionError):
        asyncio.run(aguarded()) if is_async else guarded()
    assert len(dependency.calls) == 4


async def test_gates_with_doors_of_their_own_are_open_too() -> None:
    """`acquire` and `calling` with arguments, in both colours, take nothing."""
    limiter, bulkhead = RateLimiter(1, per=60.0), Bulkhead(1)
    with bulkhead.calling(), disabled():
        for _ in range(3):
            limiter.acquire(1.0).success()
            with limiter.calling(1.0), bulkhead.calling():
                pass
            async with limiter.calling(), bulkhead.calling():
                pass
            assert await bulkhead.acall(ScriptedDependency(ok(5)).acall) == 5
        assert bulkhead.snapshot().in_flight == 1
    limiter.acquire().success()
    with pytest.raises(resilient.RateLimitedError):
        limiter.acquire()


def test_a_command_counts_nothing_while_disabled_and_is_as_new_after_reset() -> None:
    """Its metrics, and every layer."""

    @resilient.command("counted")
    def counted() -> int:
        return threading.get_ident()

    behind = Command.of(counted)
    with disabled():
        counted()
    assert behind.snapshot().calls == 0
    counted()
    assert behind.snapshot().calls == 1
    reset()
    assert behind.snapshot().calls == 0
    with use_clock(VirtualClock()) as clock:
        counted()
        assert behind.snapshot().calls == 1
        assert behind.snapshot().latency
        clock.advance(3600.0)
        assert not behind.snapshot().latency
