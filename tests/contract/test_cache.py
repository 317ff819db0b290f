"""What a Cache promises: one call for many callers, answers for a while, nothing wrong remembered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    Timeout,
)
from resilient.policies.cache import Cache
from resilient.testing import VirtualClock
from tests.drive import Drive
from tests.waiting import wait_until


def by_arguments(*args: Any) -> Any:
    """A key that tells no functions apart: the async driver makes one per call."""
    return args


class Dependency:
    """Counts its calls; answers with their number, or fails."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self, key: str = "a") -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"{key}{self.calls}"


class Gated:
    """A function in both colours that goes on when the test says so."""

    def __init__(self) -> None:
        self.calls = 0
        self.deadlines: list[Deadline | None] = []
        self.go = threading.Event()
        self.error: BaseException | None = None

    def __call__(self, key: str) -> str:
        self.calls += 1
        self.deadlines.append(Deadline.current())
        assert self.go.wait(10.0)
        if self.error is not None:
            raise self.error
        return key.upper()

    async def task(self, key: str) -> str:
        self.calls += 1
        self.deadlines.append(Deadline.current())
        while not self.go.is_set():  # noqa: ASYNC110  # threads wait for the same event
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return key.upper()


async def turns(number: int = 20) -> None:
    """Let the other tasks run."""
    for _ in range(number):
        await asyncio.sleep(0)


def no_task_is_left() -> bool:
    """Whether the running task is the only one."""
    return asyncio.all_tasks() == {asyncio.current_task()}


def test_the_same_call_again_is_answered_from_memory_and_not_counted(drive: Drive, clock: VirtualClock) -> None:
    """Case 1: one call; the second is a hit, and the breaker further in has seen one call."""
    dependency, breaker, cache = Dependency(), CircuitBreaker("inner"), Cache(60.0, key=by_arguments, clock=clock)
    guard = Pipeline(cache, breaker)
    assert [drive(guard, dependency, "a") for _ in range(2)] == ["a1", "a1"]
    assert breaker.snapshot().successes == 1
    assert (cache.snapshot().calls, cache.snapshot().hits) == (1, 1)


def test_an_answer_is_given_for_so_many_seconds(drive: Drive, clock: VirtualClock) -> None:
    """Then the call is made again."""
    dependency, cache = Dependency(), Cache(60.0, key=by_arguments, clock=clock)
    drive(cache, dependency)
    clock.advance(59.9)
    assert drive(cache, dependency) == "a1"
    clock.advance(0.1)
    assert drive(cache, dependency) == "a2"


def test_a_remembered_none_is_an_answer(drive: Drive) -> None:
    """Nothing known and None known are not the same."""
    calls: list[int] = []
    cache = Cache(60.0, key=by_arguments)
    assert [drive(cache, lambda: calls.append(1)) for _ in range(2)] == [None, None]
    assert calls == [1]


def test_errors_are_not_remembered(drive: Drive) -> None:
    """Case 3: the next caller asks again."""
    dependency, cache = Dependency(), Cache(60.0, key=by_arguments)
    dependency.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        drive(cache, dependency)
    dependency.error = None
    assert drive(cache, dependency) == "a2"


@pytest.mark.parametrize("deadline", [False, True], ids=["own thread", "worker"])
def test_threads_that_ask_at_the_same_time_share_one_call(deadline: bool) -> None:
    """Case 2: single flight; the call knows no deadline, whether its caller has one or not (Rule 26)."""
    gated, cache = Gated(), Cache(60.0)
    shared = cache(gated)

    def ask(_: int) -> str:
        if not deadline:
            return shared("x")
        with Deadline(30.0):
            return shared("x")

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(ask, range(8))
        wait_until(lambda: cache.snapshot().shared == 7)
        gated.go.set()
        assert list(answers) == ["X"] * 8
    assert (gated.calls, gated.deadlines) == (1, [None])


async def test_tasks_that_ask_at_the_same_time_share_one_call() -> None:
    """Case 2: the same for tasks."""
    gated, cache = Gated(), Cache(60.0)
    shared = cache(gated.task)
    with Deadline(30.0):
        tasks = [asyncio.create_task(shared("x")) for _ in range(5)]
    await turns()
    gated.go.set()
    assert await asyncio.gather(*tasks) == ["X"] * 5
    assert (gated.calls, gated.deadlines) == (1, [None])
    assert no_task_is_left()


async def test_a_leader_that_is_cancelled_takes_nobody_with_it() -> None:
    """Case 2, Rule 26: the call goes on for the followers; it is made once."""
    gated, cache = Gated(), Cache(60.0)
    shared = cache(gated.task)
    leader = asyncio.create_task(shared("x"))
    await turns()
    followers = [asyncio.create_task(shared("x")) for _ in range(3)]
    await turns()
    leader.cancel()
    await turns()
    assert leader.cancelled()
    gated.go.set()
    assert await asyncio.gather(*followers) == ["X"] * 3
    assert gated.calls == 1


@pytest.mark.parametrize("waited", range(6))
async def test_cancelled_at_any_moment_nothing_is_left_pending(waited: int) -> None:
    """The last caller that is cancelled ends the call; the next one starts anew."""
    gated, cache = Gated(), Cache(60.0)
    shared = cache(gated.task)
    callers = [asyncio.create_task(shared("x")) for _ in range(2)]
    await turns(waited)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await turns()
    assert no_task_is_left()
    assert (cache.snapshot().in_flight, len(cache)) == (0, 0)
    gated.go.set()
    assert await shared("x") == "X"


async def test_an_error_is_everybodys() -> None:
    """Rule 26: the followers of a leader that fails raise its error, and no task's error goes unseen."""
    gated, cache = Gated(), Cache(60.0)
    gated.error = ValueError("bad")
    tasks = [asyncio.create_task(cache.acall(gated.task, "x")) for _ in range(3)]
    await turns()
    gated.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in found] == [ValueError] * 3
    assert (gated.calls, len(cache)) == (1, 0)


async def test_one_follower_makes_the_call_when_the_leaders_timed_out() -> None:
    """Rule 26: the leader raises its timeout, one follower asks again, the rest wait for that."""
    clock = VirtualClock()
    calls: list[int] = []

    @Pipeline(Cache(60.0, clock=clock), Timeout(1.0, clock=clock))
    async def slow_once(key: str) -> str:
        calls.append(1)
        if len(calls) == 1:
            await clock.sleep_async(30.0)
        return key

    tasks = [asyncio.create_task(slow_once("x")) for _ in range(4)]
    await clock.advance_async(1.0)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [CallTimeoutError, str, str, str]
    assert len(calls) == 2


async def test_followers_do_not_wait_for_one_time_limit_after_the_other() -> None:
    """A dependency that hangs costs each caller two limits at most, however many ask."""
    clock = VirtualClock()

    @Pipeline(Cache(60.0, clock=clock), Timeout(1.0, clock=clock))
    async def hung(key: str) -> str:
        await clock.sleep_async(1000.0)
        return key

    tasks = [asyncio.create_task(hung("x")) for _ in range(10)]
    await clock.advance_async(1.0)
    await clock.advance_async(1.0)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in found} == {CallTimeoutError}


async def test_a_followers_own_deadline_ends_its_wait_and_not_the_call() -> None:
    """Rule 26: it waits as long as its deadline allows; the answer is remembered all the same."""
    clock, gated = VirtualClock(), Gated()
    shared = Cache(60.0, clock=clock)(gated.task)
    leader = asyncio.create_task(shared("x"))
    await turns()
    with Deadline(0.5, clock=clock):
        follower = asyncio.create_task(shared("x"))
    await clock.advance_async(0.5)
    with pytest.raises(CallTimeoutError) as caught:
        await follower
    assert (caught.value.by_deadline, caught.value.elapsed) == (True, 0.5)
    gated.go.set()
    assert (await leader, gated.calls) == ("X", 1)


async def test_a_lone_leader_whose_time_is_up_leaves_its_answer_behind() -> None:
    """The call is cut loose from its caller's deadline, so that an impatient caller's work is not thrown away."""
    clock, gated = VirtualClock(), Gated()
    shared = Cache(60.0, clock=clock)(gated.task)
    with Deadline(0.5, clock=clock):
        leader = asyncio.create_task(shared("x"))
    await clock.advance_async(0.5)
    with pytest.raises(CallTimeoutError):
        await leader
    gated.go.set()
    assert (await shared("x"), gated.calls) == ("X", 1)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_timeout_outside_ends_the_wait(colour: str) -> None:
    """Pipeline(Timeout, Cache): the caller goes when time is up, the call that others may share goes on."""
    gated, cache = Gated(), Cache(60.0)
    guard = Pipeline(Timeout(0.05), cache)
    with pytest.raises(CallTimeoutError):
        guard.call(gated, "x") if colour == "sync" else asyncio.run(guard.acall(gated.task, "x"))
    gated.go.set()
    if colour == "sync":
        wait_until(lambda: len(cache) == 1)
        assert (guard.call(gated, "x"), gated.calls) == ("X", 1)
    assert any("not the call" in warning for warning in guard.explain().warnings)


def test_a_sync_caller_whose_deadline_comes_is_free() -> None:
    """The call goes on in a worker thread and is remembered."""
    gated, cache = Gated(), Cache(60.0)
    shared = cache(gated)
    with Deadline(0.05), pytest.raises(CallTimeoutError):
        shared("x")
    gated.go.set()
    assert (shared("x"), gated.calls) == ("X", 1)


def test_a_deadline_that_has_passed_makes_no_call(drive: Drive, clock: VirtualClock) -> None:
    """A rejection: nothing was sent, and the next caller is not kept waiting."""
    dependency, cache = Dependency(), Cache(60.0, key=by_arguments, clock=clock)
    with Deadline(1.0, clock=clock):
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError):
            drive(cache, dependency)
    assert drive(cache, dependency) == "a1"


def test_threads_and_tasks_of_several_loops_share_one_call() -> None:
    """One object serves all of them together, where `key` says that their calls are the same."""
    gated, cache = Gated(), Cache(60.0, key=by_arguments)

    def in_a_loop(_: int) -> str:
        return asyncio.run(cache.acall(gated.task, "x"))

    def in_a_thread(_: int) -> str:
        return cache.call(gated, "x")

    ways: list[Callable[[int], str]] = [in_a_loop, in_a_thread]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ways[number % 2], number) for number in range(6)]
        wait_until(lambda: cache.snapshot().shared == 5)
        gated.go.set()
        assert [answer.result(10.0) for answer in answers] == ["X"] * 6
    assert gated.calls == 1


def test_a_thread_takes_over_from_a_loop_that_ended() -> None:
    """Rule 26: the leader's task was cancelled with its loop; the waiting thread makes the call."""
    gated, cache = Gated(), Cache(60.0, key=by_arguments)
    stop = threading.Event()

    async def leader() -> None:
        asyncio.create_task(cache.acall(gated.task, "x"))  # noqa: RUF006  # cancelled with the loop, on purpose
        while not stop.is_set():  # noqa: ASYNC110  # another thread sets it
            await asyncio.sleep(0.001)

    with ThreadPoolExecutor(2) as pool:
        loop = pool.submit(asyncio.run, leader())
        wait_until(lambda: gated.calls == 1)
        follower = pool.submit(cache.call, gated, "x")
        wait_until(lambda: cache.snapshot().shared == 1)
        stop.set()
        loop.result(10.0)
        gated.go.set()
        assert follower.result(10.0) == "X"
    assert gated.calls == 2
