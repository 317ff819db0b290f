"""Threads of its own for a dependency, and places that stay taken while a worker thread runs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    ConfigError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    Timeout,
)
from resilient.events import listen
from resilient.policies import thread_pool_bulkhead
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead, ThreadPoolRejected
from resilient.testing import VirtualClock
from resilient.workers import Workers
from tests.waiting import wait_until


class Caller:
    """One call in a thread of its own, and how it ended."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    def join(self) -> Caller:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self


class Hanging:
    """A function that hangs until it is let go, and who ran it."""

    def __init__(self) -> None:
        self.running = 0
        self.threads: list[str] = []
        self.go = threading.Event()

    def __call__(self) -> str:
        self.running += 1
        self.threads.append(threading.current_thread().name)
        assert self.go.wait(10)
        return "late"


@pytest.fixture
def hanging() -> Hanging:
    return Hanging()


def test_calls_run_in_threads_of_the_pool_with_the_callers_context(clock: VirtualClock) -> None:
    """Timeout case 8: a context variable of the caller's is seen; what the call sets stays there."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    var.set("caller")

    def call(sign: str, *, more: int) -> tuple[str, str, int, bool]:
        found = var.get()
        var.set("worker")
        return sign, found, more, threading.current_thread().daemon

    pool = ThreadPoolBulkhead(1, clock=clock)
    assert pool.call(call, "x", more=1) == ("x", "caller", 1, True)
    assert var.get() == "caller"
    with pytest.raises(ValueError, match="its own"):
        pool.call(int, "its own")


def test_threads_and_queue_are_bounded(clock: VirtualClock, hanging: Hanging) -> None:
    """Two run, one waits, the fourth is refused; the snapshot counts them all."""
    pool = ThreadPoolBulkhead(2, name="legacy", max_queue=1, clock=clock)
    callers = [Caller(lambda: pool.call(hanging)) for _ in range(3)]
    wait_until(lambda: hanging.running == 2 and pool.snapshot().queued == 1)
    heard: list[ThreadPoolRejected] = []
    stop = listen(heard.append, ThreadPoolRejected)
    with pytest.raises(BulkheadFullError, match="2 threads are busy, and all 1 places") as caught:
        pool.call(hanging)
    stop()
    assert (caught.value.policy, [event.threads for event in heard]) == ("legacy", [2])
    hanging.go.set()
    assert [caller.join().result for caller in callers] == ["late"] * 3
    wait_until(lambda: pool.snapshot().completed == 3)
    assert pool.snapshot().as_dict() == {
        "name": "legacy", "threads": 2, "max_queue": 1, "active": 0, "queued": 0, "completed": 3, "rejected": 1,
    }  # fmt: skip


def test_without_a_queue_the_caller_beyond_the_threads_is_refused(clock: VirtualClock, hanging: Hanging) -> None:
    """The default: no queue, as in Hystrix."""
    pool = ThreadPoolBulkhead(1, clock=clock)
    caller = Caller(lambda: pool.call(hanging))
    wait_until(lambda: hanging.running)
    with pytest.raises(BulkheadFullError, match="all 1 threads are busy$"):
        pool.call(hanging)
    hanging.go.set()
    assert caller.join().result == "late"


@pytest.mark.parametrize("shape", ["one pipeline", "two decorators"])
def test_a_call_whose_deadline_passed_in_the_queue_never_runs(
    clock: VirtualClock, hanging: Hanging, shape: str
) -> None:
    """Timeout case 7: a pool of one is busy, the second call's limit passes: refused, and its function never runs."""
    pool = ThreadPoolBulkhead(1, max_queue=1, clock=clock)
    busy = Caller(lambda: pool.call(hanging))
    wait_until(lambda: hanging.running)
    ran: list[int] = []
    timeout = Timeout(0.1, clock=clock)
    guarded = Pipeline(timeout, pool)(ran.append) if shape == "one pipeline" else timeout(pool(ran.append))
    second = Caller(lambda: guarded(1))
    wait_until(lambda: pool.snapshot().queued)
    wait_until(lambda: clock.waiting)
    clock.advance(0.1)
    kind = BulkheadFullError if shape == "one pipeline" else (BulkheadFullError, CallTimeoutError)
    assert isinstance(second.join().error, kind)
    wait_until(lambda: pool.snapshot().queued == 0)
    hanging.go.set()
    busy.join()
    wait_until(lambda: pool.snapshot().active == 0)
    assert pool.call(lambda: "next") == "next"
    assert ran == []


def test_a_thread_that_is_free_too_late_does_not_start_what_its_caller_gave_up(hanging: Hanging) -> None:
    """Timeout case 7: the deadline has passed, its caller has not woken up yet, and a thread comes free."""
    slow_to_wake = threading.Event()

    class Sleepy(VirtualClock):
        def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
            return event.wait(10) if timeout is None else slow_to_wake.wait(10) and event.is_set()

    clock = Sleepy()
    pool = ThreadPoolBulkhead(1, max_queue=1, clock=clock)
    busy, ran = Caller(lambda: pool.call(hanging)), list[int]()
    wait_until(lambda: hanging.running)
    second = Caller(lambda: Pipeline(Timeout(0.1, clock=clock), pool).call(ran.append, 1))
    wait_until(lambda: pool.snapshot().queued)
    clock.advance(0.1)
    hanging.go.set()
    busy.join()
    wait_until(lambda: pool.snapshot().active == 0)
    slow_to_wake.set()
    assert isinstance(second.join().error, BulkheadFullError)
    assert ran == []


def test_the_deadline_frees_the_caller_and_the_thread_stays_busy(clock: VirtualClock, hanging: Hanging) -> None:
    """Timeout case 6: the caller leaves at the limit, the pool's thread is busy until the work ends."""
    pool = ThreadPoolBulkhead(1, clock=clock)
    guard = Pipeline(Timeout(0.1, name="limit", clock=clock), pool)
    caller = Caller(lambda: guard.call(hanging))
    wait_until(lambda: hanging.running and clock.waiting)
    clock.advance(0.1)
    error = caller.join().error
    assert isinstance(error, CallTimeoutError)
    assert (error.policy, error.limit, error.by_deadline) == ("limit", 0.1, False)
    assert pool.snapshot().active == 1
    with pytest.raises(BulkheadFullError):
        guard.call(hanging)
    hanging.go.set()
    wait_until(lambda: pool.snapshot().active == 0)
    assert guard.call(lambda: "again") == "again"
    assert hanging.threads == ["resilient-worker"]


def test_a_callers_deadline_is_named_as_such(clock: VirtualClock, hanging: Hanging) -> None:
    """A Deadline around it ends the wait as `by_deadline`; one that has passed starts nothing."""
    pool = ThreadPoolBulkhead(1, clock=clock)

    def call() -> None:
        with Deadline(0.5, clock=clock):
            pool.call(hanging)

    caller = Caller(call)
    wait_until(lambda: hanging.running and clock.waiting)
    clock.advance(0.5)
    error = caller.join().error
    assert isinstance(error, CallTimeoutError)
    assert (error.by_deadline, error.limit) == (True, float("inf"))
    hanging.go.set()
    wait_until(lambda: pool.snapshot().active == 0)
    with Deadline(0.5, clock=clock):
        clock.advance(0.5)
        with pytest.raises(DeadlineExceededError):
            pool.call(hanging)
    assert hanging.running == 1


def test_a_late_error_is_not_raised_and_a_late_result_is_closed(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Timeout case 10: nobody waits for it any more; one DEBUG line, no traceback elsewhere."""
    closed, go = threading.Event(), [threading.Event(), threading.Event()]

    class Connection:
        def close(self) -> None:
            closed.set()

    def fail() -> None:
        assert go[0].wait(10)
        raise ConnectionError("too late")

    def give() -> Connection:
        assert go[1].wait(10)
        return Connection()

    pool = ThreadPoolBulkhead(2, clock=clock)
    guard = Pipeline(Timeout(0.1, clock=clock), pool)
    with caplog.at_level(logging.DEBUG, "resilient"):
        for number, call in enumerate((fail, give)):
            caller = Caller(lambda call=call: guard.call(call))  # type: ignore[misc]
            wait_until(lambda: clock.waiting)
            clock.advance(0.1)
            assert isinstance(caller.join().error, CallTimeoutError)
            go[number].set()
            wait_until(lambda: pool.snapshot().active == 0)
    assert closed.wait(10)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert "too late" in caplog.text


def test_async_functions_are_refused_with_a_sentence(clock: VirtualClock) -> None:
    """At decoration and in `acall`: a coroutine runs on its loop, not in a thread."""

    async def fetch() -> None: ...

    pool = ThreadPoolBulkhead(1, clock=clock)
    with pytest.raises(ConfigError, match=r"fetch is async: .* use Bulkhead"):
        pool(fetch)
    with pytest.raises(ConfigError, match="not async ones"):
        asyncio.run(pool.acall(fetch))
    with pytest.raises(ConfigError, match="use Bulkhead"):
        Pipeline(pool)(fetch)
    with pytest.raises(TypeError, match="acall"):
        asyncio.run(pool.call(lambda: fetch()))


@pytest.mark.parametrize("shape", ["timeout inside", "pool inside", "two decorators"])
def test_a_bulkheads_place_is_held_while_the_worker_runs(clock: VirtualClock, hanging: Hanging, shape: str) -> None:
    """Rule 17, Timeout case 6: the caller is free at the limit, its place is not until the work has ended."""
    bulkhead = Bulkhead(1, clock=clock)
    timeout = Timeout(0.1, clock=clock)
    guarded = {
        "timeout inside": Pipeline(bulkhead, timeout)(hanging),
        "pool inside": Pipeline(timeout, bulkhead, ThreadPoolBulkhead(1, clock=clock))(hanging),
        "two decorators": bulkhead(timeout(hanging)),
    }[shape]
    caller = Caller(guarded)
    wait_until(lambda: hanging.running and clock.waiting)
    clock.advance(0.1)
    assert isinstance(caller.join().error, CallTimeoutError)
    assert bulkhead.snapshot().in_flight == 1
    with pytest.raises(BulkheadFullError):
        guarded()
    hanging.go.set()
    wait_until(lambda: bulkhead.snapshot().in_flight == 0)
    hanging.running = 0
    assert guarded() == "late"
    assert hanging.running == 1
    wait_until(lambda: bulkhead.snapshot().in_flight == 0)


def test_a_timeout_inside_the_pool_keeps_its_thread_busy_too(clock: VirtualClock, hanging: Hanging) -> None:
    """Rule 17: the pool's own place counts the worker that a Timeout further in left behind."""
    pool = ThreadPoolBulkhead(1, max_queue=1, clock=clock)
    guard = Pipeline(pool, Timeout(0.1, clock=clock))
    assert any("second thread" in text for text in guard.explain().warnings)
    caller = Caller(lambda: guard.call(hanging))
    wait_until(lambda: hanging.running and clock.waiting)
    clock.advance(0.1)
    assert isinstance(caller.join().error, CallTimeoutError)
    assert pool.snapshot().active == 1
    waiting = Caller(lambda: pool.call(lambda: "next"))
    wait_until(lambda: pool.snapshot().queued)
    hanging.go.set()
    assert waiting.join().result == "next"
    wait_until(lambda: pool.snapshot().active == 0)


def test_a_place_comes_back_when_no_worker_can_be_started(
    clock: VirtualClock, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all of the process's threads busy the call is refused, and so is whoever waits; nothing leaks."""
    monkeypatch.setattr(thread_pool_bulkhead, "WORKERS", Workers(most=1))
    bulkhead, pool = Bulkhead(5, clock=clock), ThreadPoolBulkhead(3, clock=clock)
    guard = Pipeline(bulkhead, pool)
    caller = Caller(lambda: guard.call(hanging))
    wait_until(lambda: hanging.running)
    with pytest.raises(BulkheadFullError, match="worker threads are busy"):
        guard.call(hanging)
    assert (pool.snapshot().active, pool.snapshot().rejected, bulkhead.snapshot().in_flight) == (1, 1, 1)
    hanging.go.set()
    assert caller.join().result == "late"
    wait_until(lambda: pool.snapshot().active == 0)
    assert bulkhead.snapshot().in_flight == 0


def test_those_who_wait_are_refused_when_the_thread_for_them_can_not_be_started(
    clock: VirtualClock, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last worker of the pool is gone and the process has no other: nobody waits for ever."""
    pool = ThreadPoolBulkhead(1, max_queue=2, clock=clock)
    guard = Pipeline(pool, Timeout(0.1, clock=clock))
    caller = Caller(lambda: guard.call(hanging))
    wait_until(lambda: hanging.running and clock.waiting)
    clock.advance(0.1)
    caller.join()
    waiting = [Caller(lambda: pool.call(lambda: "next")) for _ in range(2)]
    wait_until(lambda: pool.snapshot().queued == 2)
    monkeypatch.setattr(thread_pool_bulkhead, "WORKERS", Workers(most=0))
    hanging.go.set()
    for one in waiting:
        assert isinstance(one.join().error, BulkheadFullError)
    assert (pool.snapshot().active, pool.snapshot().queued) == (0, 0)


def test_an_interrupted_caller_leaves_its_call_behind(hanging: Hanging) -> None:
    """Ctrl-C while waiting: the caller leaves, a queued call never runs, a running one ends by itself."""

    class Interrupting(VirtualClock):
        def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
            raise KeyboardInterrupt

    pool = ThreadPoolBulkhead(1, max_queue=1, clock=Interrupting())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pool.call(hanging)
    assert pool.snapshot().queued == 0
    hanging.go.set()
    wait_until(lambda: pool.snapshot().active == 0)
    gc.collect()
    assert hanging.running <= 1


def test_more_threads_take_those_who_wait(clock: VirtualClock, hanging: Hanging) -> None:
    """`take_settings` of a larger pool starts queued calls; of a smaller one, evicts nobody."""
    pool = ThreadPoolBulkhead(1, max_queue=5, clock=clock)
    callers = [Caller(lambda: pool.call(hanging)) for _ in range(4)]
    wait_until(lambda: hanging.running == 1 and pool.snapshot().queued == 3)
    pool.take_settings(ThreadPoolBulkhead(3, max_queue=5))
    wait_until(lambda: hanging.running == 3)
    pool.take_settings(ThreadPoolBulkhead(1))
    assert (pool.snapshot().active, pool.snapshot().queued) == (3, 1)
    hanging.go.set()
    assert [caller.join().result for caller in callers] == ["late"] * 4


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"threads": 0}, "threads"),
        ({"threads": 257}, "threads"),
        ({"threads": 1.0}, "threads"),
        ({"max_queue": -1}, "max_queue"),
        ({"name": ""}, "name"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments: dict[str, Any], path: str) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigError) as caught:
        ThreadPoolBulkhead(**arguments)
    assert caught.value.path == path


def test_it_explains_itself() -> None:
    """The sentence, the repr, and what bites."""
    pool = ThreadPoolBulkhead(3, name="legacy", max_queue=4)
    assert repr(pool) == "ThreadPoolBulkhead(3, name='legacy', max_queue=4)"
    assert repr(ThreadPoolBulkhead(3, name="other")) == "ThreadPoolBulkhead(3, name='other')"
    assert pool.describe() == "ThreadPoolBulkhead 'legacy': 3 threads of its own, 4 more calls wait"
    assert any("without a Timeout" in text for text in pool.explain().warnings)
    assert Pipeline(Timeout(1.0), pool).explain().worst_case_wait == 1.0
