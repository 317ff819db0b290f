"""Who makes a Cache's calls in odd cases: calls inside calls, interrupts, loops that are gone, places held outside."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref

import pytest

from resilient import BulkheadFullError, CallTimeoutError, Pipeline, Timeout
from resilient.deadline import Deadline
from resilient.policies import cache_calls
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.drive import Drive
from tests.waiting import wait_until


def test_a_function_that_asks_for_itself_does_not_wait_for_itself(drive: Drive) -> None:
    """The inner call is made: waiting for the outer one would be for ever."""
    cache = Cache(60.0, key=lambda *args: 0)
    depth: list[int] = []

    def again() -> int:
        depth.append(1)
        return cache.call(again) + 1 if len(depth) < 3 else 0

    assert drive(cache, again) == 2


async def test_an_async_function_that_asks_for_itself_does_not_wait_for_itself() -> None:
    """The same in tasks, also from a task that it starts."""
    depth: list[int] = []

    @Cache(60.0)
    async def again() -> int:
        depth.append(1)
        return await asyncio.create_task(again()) + 1 if len(depth) < 3 else 0

    assert await again() == 2


async def test_a_blocking_call_on_the_loops_thread_does_not_wait_for_its_task() -> None:
    """It would stop the loop that the task needs."""
    cache = Cache(60.0, key=lambda *args: 0)
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "task"

    task = asyncio.create_task(cache.acall(slow))
    await asyncio.sleep(0)
    assert cache.call(lambda: "blocking") == "blocking"
    go.set()
    assert await task == "task"


def test_without_threads_an_impatient_leader_hands_over(clock: VirtualClock) -> None:
    """`thread=False`: the call keeps its caller's thread and deadline; its timeout is not the followers'."""
    cache = Cache(60.0, thread=False, clock=clock)
    first, go, threads = threading.Event(), threading.Event(), list[int]()

    @Pipeline(cache, Timeout(50.0, thread=False, clock=clock))
    def fetch(key: str) -> str:
        threads.append(threading.get_ident())
        if first.is_set():
            return key
        first.set()
        assert Deadline.current() is not None
        go.wait(10.0)
        raise CallTimeoutError("too late", policy="deadline", limit=50.0, elapsed=1.0, by_deadline=True)

    def impatient() -> None:
        with Deadline(1.0, clock=clock):
            try:
                fetch("x")
            except TimeoutError:
                ended.append(threading.get_ident())

    ended: list[int] = []
    answers: list[str] = []
    leader = threading.Thread(target=impatient)
    leader.start()
    assert first.wait(10.0)
    follower = threading.Thread(target=lambda: answers.append(fetch("x")))
    follower.start()
    wait_until(lambda: cache.snapshot().shared == 1)
    go.set()
    leader.join(10.0)
    follower.join(10.0)
    assert answers == ["x"]
    assert ended == threads[:1]


def test_without_a_free_worker_the_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader with a deadline needs one; nobody is kept waiting for a call that never began."""
    monkeypatch.setattr(cache_calls, "WORKERS", Workers(most=0))
    cache = Cache(60.0)
    with Deadline(10.0), pytest.raises(BulkheadFullError):
        cache.call(str, 1)
    assert (cache.call(str, 1), cache.snapshot().in_flight) == ("1", 0)


def test_an_interrupted_leader_leaves_the_call_to_a_follower() -> None:
    """Ctrl-C in the thread that makes the call is that thread's alone."""
    cache, began, go, calls = Cache(60.0), threading.Event(), threading.Event(), list[str]()

    @cache
    def fetch(key: str) -> str:
        calls.append(key)
        if len(calls) == 1:
            began.set()
            go.wait(10.0)
            raise KeyboardInterrupt
        return key

    found: list[str] = []

    def ask() -> None:
        try:
            found.append(fetch("x"))
        except KeyboardInterrupt:
            found.append("interrupted")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    threads[0].start()
    assert began.wait(10.0)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: cache.snapshot().shared == 3)
    go.set()
    for thread in threads:
        thread.join(10.0)
    assert sorted(found) == ["interrupted", "x", "x", "x"]
    assert len(calls) == 2


def test_an_interrupted_follower_goes_alone() -> None:
    """Ctrl-C while waiting for another thread's call ends neither that call nor the others' wait."""

    class Interrupted(VirtualClock):
        def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
            raise KeyboardInterrupt

    cache = Cache(60.0, clock=Interrupted())
    began, go, found = threading.Event(), threading.Event(), list[str]()

    @cache
    def fetch(key: str) -> str:
        began.set()
        go.wait(10.0)
        return key

    leader = threading.Thread(target=lambda: found.append(fetch("x")))
    leader.start()
    assert began.wait(10.0)
    with pytest.raises(KeyboardInterrupt):
        fetch("x")
    go.set()
    leader.join(10.0)
    assert (found, fetch("x")) == (["x"], "x")


async def test_a_call_in_a_loop_that_was_closed_is_made_anew() -> None:
    """Stopped without cancelling its tasks, a loop leaves a call that never ends."""
    cache = Cache(60.0, key=lambda: 0)

    async def never() -> str:
        await asyncio.Event().wait()
        return "never"

    def elsewhere() -> list[asyncio.Task[str]]:
        loop = asyncio.new_event_loop()
        caller = loop.create_task(cache.acall(never))
        loop.run_until_complete(asyncio.sleep(0.01))
        tasks = asyncio.all_tasks(loop)
        loop.close()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # left behind on purpose
        return [caller]

    kept = await asyncio.to_thread(elsewhere)

    async def now() -> str:
        return "now"

    assert await cache.acall(now) == "now"
    assert not kept[0].done()


def test_a_place_taken_outside_is_held_while_the_call_runs() -> None:
    """Rule 17: the caller is gone, its worker thread still uses the dependency."""
    go = threading.Event()
    cache = Cache(60.0)
    guard = Pipeline(Bulkhead(1), cache)
    with Deadline(0.01), pytest.raises(CallTimeoutError):
        guard.call(go.wait, 10.0)
    with pytest.raises(BulkheadFullError):
        guard.call(str, 1)
    go.set()
    wait_until(lambda: len(cache) == 1)
    assert guard.call(str, 1) == "1"


def test_a_wait_that_the_garbage_collector_ends_on_a_closed_loop_is_silent() -> None:
    """The last caller leaves when its frame is torn down; there is no loop any more to cancel the call on."""
    cache, unraisable = Cache(60.0), list[object]()

    async def never() -> None:
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    caller = loop.create_task(cache.acall(never))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert cache.snapshot().in_flight == 1
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # left behind on purpose
    loop.close()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        gone = weakref.ref(caller)
        del cache, caller, task
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert gone() is None
    assert unraisable == []
