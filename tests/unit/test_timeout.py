"""Give up on an answer that takes too long: both colours, nested, cancelled, left behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    ConfigError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Pipeline,
    Timeout,
)
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.waiting import wait_until


async def advance_when_waiting(clock: VirtualClock, seconds: float) -> None:
    """Move on once somebody waits for it."""
    for _ in range(1000):
        if clock.waiting:
            break
        await asyncio.sleep(0)
    await clock.advance_async(seconds)


async def hang() -> str:
    await asyncio.Event().wait()
    return "never"


class TestAsync:
    """The call is cancelled."""

    async def test_a_slow_call_is_cancelled_and_named(self, clock: VirtualClock) -> None:
        """The caller gets CallTimeoutError at the limit, the coroutine sees its cancellation."""
        seen: list[str] = []

        async def slow() -> None:
            try:
                await hang()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = asyncio.ensure_future(Timeout(0.1, name="slow", clock=clock).acall(slow))
        await advance_when_waiting(clock, 0.1)
        with pytest.raises(CallTimeoutError) as caught:
            await task
        assert seen == ["cancelled"]
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.policy, caught.value.limit, caught.value.by_deadline) == ("slow", 0.1, False)
        assert caught.value.elapsed == pytest.approx(0.1)

    async def test_a_call_in_time_is_untouched(self, clock: VirtualClock) -> None:
        """The result passes, and no timer is left."""

        async def quick() -> int:
            return 42

        assert await Timeout(0.1, clock=clock).acall(quick) == 42
        assert clock.waiting == 0

    async def test_the_callers_cancellation_stays_a_cancellation(self, clock: VirtualClock) -> None:
        """Cancelled from outside before the limit: CancelledError, not a timeout."""
        task = asyncio.ensure_future(Timeout(0.1, clock=clock).acall(hang))
        await advance_when_waiting(clock, 0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.waiting == 0

    async def test_a_cancellation_at_the_same_moment_stays_the_callers(self, clock: VirtualClock) -> None:
        """When both fire at once, the caller's wish wins: the task ends as cancelled."""
        task = asyncio.ensure_future(Timeout(0.1, clock=clock).acall(hang))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.advance(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_a_callee_that_swallows_the_cancellation_is_believed(self, clock: VirtualClock) -> None:
        """Its late result is returned, and the task is not left half cancelled."""

        async def stubborn() -> int:
            try:
                await hang()
            except asyncio.CancelledError:
                return 42
            return 0

        async def outer() -> tuple[int, int]:
            found = await Timeout(0.1, clock=clock).acall(stubborn)
            current = asyncio.current_task()
            assert current is not None
            await asyncio.sleep(0)
            return found, current.cancelling()

        task = asyncio.ensure_future(outer())
        await advance_when_waiting(clock, 0.2)
        assert await task == (42, 0)

    async def test_the_callees_own_timeout_error_passes_through(self, clock: VirtualClock) -> None:
        """A TimeoutError that the call raises is the call's, not the policy's."""

        async def impatient() -> None:
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own") as caught:
            await Timeout(0.1, clock=clock).acall(impatient)
        assert not isinstance(caught.value, CallTimeoutError)

    @pytest.mark.parametrize(("outer", "inner", "fires"), [(0.2, 0.05, "inner"), (0.05, 0.2, "outer")])
    async def test_nested_timeouts_name_themselves(
        self, clock: VirtualClock, outer: float, inner: float, fires: str
    ) -> None:
        """The tighter one fires under its own name, in one pipeline and as separate decorators."""
        one = Timeout(outer, name="outer", clock=clock)
        two = Timeout(inner, name="inner", clock=clock)
        for guarded in (Pipeline(one, two)(hang), one(two(hang))):
            task = asyncio.ensure_future(guarded())
            await advance_when_waiting(clock, 0.05)
            with pytest.raises(CallTimeoutError) as caught:
                await task
            assert caught.value.policy == fires

    async def test_hangs_count_as_failures_in_any_order_of_the_layers(self, clock: VirtualClock) -> None:
        """Timeout outside or inside the breaker, one pipeline or two decorators: the breaker sees the hang."""
        for order in ("timeout outside", "timeout inside", "two decorators"):
            breaker, timeout = CircuitBreaker(order, clock=clock), Timeout(0.1, clock=clock)
            guarded = {
                "timeout outside": Pipeline(timeout, breaker)(hang),
                "timeout inside": Pipeline(breaker, timeout)(hang),
                "two decorators": timeout(breaker(hang)),
            }[order]
            task = asyncio.ensure_future(guarded())
            await advance_when_waiting(clock, 0.1)
            with pytest.raises(CallTimeoutError):
                await task
            assert breaker.snapshot().failures == 1

    async def test_an_outer_fallback_answers_although_time_is_up(self, clock: VirtualClock) -> None:
        """Fallback outside the Timeout: the caller gets an answer at the limit."""
        guard = Pipeline(Fallback(value="old"), Timeout(0.1, clock=clock))
        task = asyncio.ensure_future(guard.acall(hang))
        await advance_when_waiting(clock, 0.1)
        assert await task == "old"

    async def test_a_deadline_shortens_a_timeout(self, clock: VirtualClock) -> None:
        """The caller's Deadline comes first and says so; one that has passed refuses before the call."""

        async def bounded() -> None:
            with Deadline(0.05, clock=clock):
                await Timeout(1.0, clock=clock).acall(hang)

        task = asyncio.ensure_future(bounded())
        await advance_when_waiting(clock, 0.05)
        with pytest.raises(CallTimeoutError) as caught:
            await task
        assert caught.value.by_deadline
        assert caught.value.limit == 1.0
        with Deadline(0.05, clock=clock):
            clock.advance(0.05)
            with pytest.raises(DeadlineExceededError):
                await Timeout(1.0, clock=clock).acall(hang)


class TestSync:
    """The call goes on in its worker, the caller is free."""

    def test_the_caller_is_free_while_the_call_goes_on(self) -> None:
        """CallTimeoutError at the limit; the call left behind is counted until it ends."""
        release, ended = threading.Event(), threading.Event()

        def slow() -> None:
            release.wait()
            ended.set()

        timeout = Timeout(0.02)
        with pytest.raises(CallTimeoutError):
            timeout.call(slow)
        assert timeout.abandoned == 1
        assert not ended.is_set()
        release.set()
        wait_until(lambda: timeout.abandoned == 0, what="the end of the call left behind")

    def test_results_and_errors_come_back_with_their_traceback(self) -> None:
        """What the worker returns or raises is the caller's."""

        def add(left: int, *, right: int) -> int:
            return left + right

        def fail() -> None:
            raise ValueError("from the worker")

        assert Timeout(5.0).call(add, 1, right=2) == 3
        with pytest.raises(ValueError, match="from the worker") as caught:
            Timeout(5.0).call(fail)
        assert "fail" in {entry.name for entry in caught.traceback}

    def test_context_variables_travel_with_the_call(self) -> None:
        """The worker sees the caller's context."""
        user = contextvars.ContextVar("user", default="nobody")
        user.set("ann")
        assert Timeout(5.0).call(user.get) == "ann"

    def test_without_a_thread_the_call_stays_in_the_callers_own(self) -> None:
        """thread=False: only the deadline is set, nobody gives up."""
        seen: list[Any] = []

        def look() -> int:
            seen.append(Deadline.current())
            return threading.get_ident()

        assert Timeout(5.0, thread=False).call(look) == threading.get_ident()
        assert seen[0] is not None
        assert 0 < seen[0].remaining <= 5.0

    def test_abandoned_calls_are_bounded(self) -> None:
        """Beyond max_abandoned a hung dependency gets no more threads: refused at once, and again admitted later."""
        release = threading.Event()
        timeout = Timeout(0.02, max_abandoned=2)
        for _ in range(2):
            with pytest.raises(CallTimeoutError):
                timeout.call(release.wait)
        with pytest.raises(BulkheadFullError, match="max_abandoned=2"):
            timeout.call(release.wait)
        release.set()
        wait_until(lambda: timeout.abandoned == 0, what="the end of the calls left behind")
        assert timeout.call(lambda: "again") == "again"

    def test_a_late_result_is_closed(self) -> None:
        """A connection that comes too late is not leaked; nothing is raised or printed."""
        release, closed = threading.Event(), threading.Event()

        class Connection:
            def close(self) -> None:
                closed.set()

        def connect() -> Connection:
            release.wait()
            return Connection()

        with pytest.raises(CallTimeoutError):
            Timeout(0.02).call(connect)
        release.set()
        assert closed.wait(10.0)

    def test_virtual_time_reaches_the_worker_wait(self, clock: VirtualClock) -> None:
        """The limit is on the policy's clock."""
        release = threading.Event()
        outcome: list[BaseException] = []

        def call() -> None:
            try:
                Timeout(3600.0, clock=clock).call(release.wait)
            except CallTimeoutError as error:
                outcome.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        wait_until(lambda: clock.waiting, what="the caller waiting")
        clock.advance(3600.0)
        caller.join(10.0)
        release.set()
        assert [type(error) for error in outcome] == [CallTimeoutError]

    def test_an_inner_rejection_and_a_success_stay_what_they_are(self) -> None:
        """A breaker inside sees a plain call; one hop is made in all."""
        threads: set[int] = set()
        guard = Pipeline(Timeout(5.0), CircuitBreaker("hop"), Timeout(4.0))
        guard.call(lambda: threads.add(threading.get_ident()))
        assert len(threads) == 1
        assert threading.get_ident() not in threads


class TestWorkers:
    """Daemon threads, one job each."""

    def test_idle_threads_are_used_again_and_leave_after_a_while(self) -> None:
        """One after the other takes one thread; idle it ends."""
        workers = Workers(keep=0.05)
        idents: set[int] = set()
        for _ in range(5):
            done = threading.Event()

            def job(done: threading.Event = done) -> None:
                idents.add(threading.get_ident())
                done.set()

            workers.start(job, policy="test")
            assert done.wait(10.0)
            wait_until(lambda: workers._idle or not workers.threads, what="the thread idle")
        assert len(idents) >= 1
        wait_until(lambda: workers.threads == 0, what="idle threads to end")

    def test_no_more_than_the_most(self) -> None:
        """A job beyond the bound is refused at once, never queued."""
        workers, release = Workers(most=2, keep=0.05), threading.Event()
        for _ in range(2):
            workers.start(release.wait, policy="test")
        with pytest.raises(BulkheadFullError, match="all 2 worker threads"):
            workers.start(release.wait, policy="test")
        release.set()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), None, True, "1s"])
def test_limits_out_of_range_are_refused(seconds: Any) -> None:
    """A limit is a positive, finite number of seconds; the message names what it got."""
    with pytest.raises(ConfigError, match="Timeout: seconds"):
        Timeout(seconds)


def test_deadlines_nest_by_shortening_and_can_be_left() -> None:
    """An inner Deadline can only be earlier; Deadline.none() is for background work."""
    assert Deadline.current() is None
    with Deadline(1.0), Deadline(60.0) as inner:
        assert inner.remaining <= 1.0
        with Deadline.none():
            assert Deadline.current() is None
        assert Deadline.current() is not None
    assert Deadline.current() is None
    with pytest.raises(ConfigError, match="Deadline: seconds"):
        Deadline(0)


class TestCorners:
    """What was found by looking for it."""

    async def test_an_outer_timeout_that_left_no_time_is_no_evidence(self, clock: VirtualClock) -> None:
        """Rule 3 for nested async timeouts: 10 ms of 10 s say nothing about the dependency."""
        breaker = CircuitBreaker("impatient", clock=clock)
        inner = Pipeline(breaker, Timeout(10.0, clock=clock))(hang)
        task = asyncio.ensure_future(Timeout(0.01, clock=clock)(inner)())
        await advance_when_waiting(clock, 0.01)
        with pytest.raises(CallTimeoutError):
            await task
        assert breaker.snapshot().failures == 0

    def test_a_thread_free_timeout_inside_does_not_switch_the_outer_one_off(self) -> None:
        """The innermost Timeout that may hop enforces."""
        release = threading.Event()
        with pytest.raises(CallTimeoutError):
            Pipeline(Timeout(0.02), Timeout(60.0, thread=False)).call(release.wait)
        release.set()

    def test_deadlines_of_different_clocks_are_compared_by_what_is_left(self, clock: VirtualClock) -> None:
        """A virtual deadline around a real timeout: five seconds are five seconds."""
        with Deadline(5.0, clock=clock):
            assert Timeout(1.0).call(lambda: "in time") == "in time"
            clock.advance(5.0)
            with pytest.raises(DeadlineExceededError):
                Timeout(1.0).call(lambda: "too late")

    def test_a_failing_call_in_a_worker_keeps_nothing_alive(self) -> None:
        """Error, traceback and frame are no cycle."""

        class Argument:
            pass

        def fail(argument: Argument) -> None:
            raise ValueError

        argument = Argument()
        alive = weakref.ref(argument)
        gc.collect()
        gc.disable()
        try:
            with contextlib.suppress(ValueError):
                Timeout(5.0).call(fail, argument)
            del argument
            wait_until(lambda: alive() is None, what="the argument freed without a collection")
        finally:
            gc.enable()

    def test_a_generator_that_ends_elsewhere_keeps_its_own_error(self) -> None:
        """Leaving a Deadline in another context than it was entered in replaces nothing."""

        async def ticks() -> AsyncGenerator[int, None]:
            with Deadline(5.0):
                yield 1

        async def run() -> None:
            generator = ticks()

            async def begin() -> int:
                return await anext(generator)

            async def end() -> None:
                await generator.athrow(KeyError("the caller's"))

            assert await asyncio.create_task(begin()) == 1
            with pytest.raises(KeyError):
                await asyncio.create_task(end())

        asyncio.run(run())

    def test_no_thread_to_be_had_is_a_rejection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Our own exhaustion says nothing about the dependency."""

        def refuse(_self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        workers = Workers()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BulkheadFullError, match="can't start new thread"):
            workers.start(lambda: None, policy="test")
        assert workers.threads == 0


@pytest.mark.parametrize("seconds", [1e10, 10**400])
def test_limits_that_no_thread_can_wait_are_refused(seconds: float) -> None:
    """At construction, not at the first call."""
    with pytest.raises(ConfigError, match="Timeout: seconds must be"):
        Timeout(seconds)
