"""Callers who wait for somebody else's call: whatever goes wrong in between, they are told, and nothing piles up."""

from __future__ import annotations

import asyncio
import signal
import threading
import weakref
from collections import UserDict
from collections.abc import Coroutine, Hashable
from typing import Any

import pytest

from resilient import Retry, RetryBudget
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.collapser import Collapser
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.shared_rate import SharedRateLimiter
from resilient.testing import VirtualClock
from tests.waiting import wait_until

_SOON = 2.0


async def outcomes(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """What the calls return or raise; TimeoutError when one of them hangs."""
    return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), _SOON)


# --- event loops ----------------------------------------------------------------------------------------------------


def old_factory(loop: asyncio.AbstractEventLoop, coro: Any) -> asyncio.Task[Any]:
    """As the documentation of Python showed it until 3.11: a task has no context of its own choice."""
    return asyncio.Task(coro, loop=loop)


@pytest.fixture
async def complaints() -> list[Any]:
    """What the event loop of the test, with an old task factory, was told instead of a caller."""
    told: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    return told


async def test_a_task_factory_without_contexts_fails_the_callers_of_a_batch(complaints: list[Any]) -> None:
    """They get its error, and do not wait for a task that was never made; so does the next batch."""

    async def batch(keys: list[int]) -> list[int]:
        return keys

    collapser = Collapser(batch, delay=0.0)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        calls = [asyncio.ensure_future(collapser(number)) for number in (1, 2)]
        loop.set_task_factory(old_factory)
        done, waiting = await asyncio.wait(calls, timeout=_SOON)
        loop.set_task_factory(None)
        assert not waiting
        assert [type(call.exception()) for call in done] == [TypeError, TypeError]
    assert await collapser(3) == 3
    assert collapser.snapshot().waiting == 0


async def test_a_task_factory_without_contexts_fails_the_caller_of_a_cache() -> None:
    """Nobody waits for a call that was never made: the next caller tries again."""
    cache = Cache(60.0)

    @cache
    async def ask(number: int) -> int:
        return number

    loop = asyncio.get_running_loop()
    loop.set_task_factory(old_factory)
    try:
        for tried in (1, 2):
            with pytest.raises(TypeError, match="context"):
                await ask(1)
            assert (cache.snapshot().in_flight, cache.snapshot().calls) == (0, tried)
    finally:
        loop.set_task_factory(None)
    assert await ask(1) == 1


def test_a_leader_whose_loop_was_closed_is_replaced_by_the_next_caller() -> None:
    """The next one makes the call, and who waited on another loop for the one that never ends gets that answer."""
    cache = Cache(60.0)
    calls = 0

    @cache
    async def ask(number: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return number

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: None)  # "Task was destroyed"
    leader = loop.create_task(ask(1))
    while not calls:
        loop.run_until_complete(asyncio.sleep(0))
    told: list[int] = []
    waiter = threading.Thread(target=lambda: told.append(asyncio.run(ask(1))), daemon=True)
    waiter.start()
    wait_until(lambda: cache.snapshot().shared == 1)
    loop.close()
    assert asyncio.run(ask(1)) == 1
    waiter.join(_SOON)
    assert told == [1]
    for task in (leader, *asyncio.all_tasks(loop)):
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_batches_of_closed_loops_are_forgotten() -> None:
    """A loop that was closed while its batch waited for more keys is not kept, however many there are."""

    async def batch(keys: list[int]) -> list[int]:
        return keys

    collapser = Collapser(batch, delay=60.0)
    for _ in range(10):
        loop = asyncio.new_event_loop()
        task = loop.create_task(collapser(1))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        assert len(collapser._open) == 1


async def test_a_place_that_is_freed_before_the_task_parks_is_not_missed(clock: VirtualClock) -> None:
    """Between the look and the wait a signal handler may free it: no clock moves, so nothing else would wake it."""

    class Freed(Bulkhead):
        permit: Any = None

        def claim(self, waiter: Any) -> Any:
            ticket = super().claim(waiter)
            permit, self.permit = self.permit, None
            if permit is not None:
                permit.success()
            return ticket

    bulkhead = Freed(1, max_wait=60.0, clock=clock)
    bulkhead.permit = bulkhead.acquire()

    async def enter() -> str:
        async with bulkhead.calling():
            return "in"

    assert await outcomes(enter()) == ["in"]


# --- batch functions ------------------------------------------------------------------------------------------------


class Lazy(UserDict[Any, Any]):
    """Rows that are read when they are asked for."""

    def __getitem__(self, key: Any) -> Any:
        if key == 2:
            raise ConnectionError("row 2")
        return self.data[key]


class Silent:
    """A key that can not be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


async def test_a_mapping_that_reads_late_fails_those_who_were_not_told_yet() -> None:
    """Who comes before the row that can not be read has an answer, the others have the error."""

    async def batch(keys: list[int]) -> Lazy:
        return Lazy({key: key for key in keys})

    collapser: Any = Collapser(batch, delay=0.0)
    first, *others = await outcomes(*(collapser(number) for number in (1, 2, 3)))
    assert first == 1
    assert [str(error) for error in others] == ["row 2", "row 2"]


async def test_a_key_that_can_not_be_shown_hangs_nobody() -> None:
    """The sentence about a missing key shows it; when that raises, its error is everybody's who waits still."""

    async def batch(keys: list[Hashable]) -> dict[Hashable, int]:
        return {key: 1 for key in keys if key == 1}

    collapser: Any = Collapser(batch, delay=0.0)
    first, *others = await outcomes(collapser(1), collapser(Silent()), collapser(2))
    assert first == 1
    assert [str(error) for error in others] == ["no repr", "no repr"]


def test_an_interrupt_while_answers_are_handed_out_hangs_nobody() -> None:
    """The thread that made the batch call goes; a worker makes it again for those who have no answer yet."""
    interrupted = False

    class Interrupting(UserDict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal interrupted
            if key == "second" and not interrupted:
                interrupted = True
                signal.raise_signal(signal.SIGINT)
            return super().get(key, default)

    collapser: Any = Collapser(lambda keys: Interrupting({key: key for key in keys}), delay=_SOON, max_size=3)
    told: list[str] = []

    def join(key: str, before: int) -> None:
        wait_until(lambda: collapser.snapshot().waiting == before)
        told.append(collapser(key))

    threads = [
        threading.Thread(target=join, args=(key, before), daemon=True)
        for before, key in enumerate(("second", "third"), start=1)
    ]
    for thread in threads:
        thread.start()
    with pytest.raises(KeyboardInterrupt):
        collapser("first")
    for thread in threads:
        thread.join(_SOON)
    assert sorted(told) == ["second", "third"]


# --- what must not grow ---------------------------------------------------------------------------------------------


class HangingStore:
    """A store that lets everybody wait, and then does not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_asked = threading.Event()
        self.answers = threading.Event()

    def hit(self, *_: Any) -> bool:
        self.asked += 1
        self.is_asked.set()
        self.answers.wait(_SOON)
        raise ConnectionError


async def test_a_store_that_hangs_is_asked_by_those_who_are_in_a_thread_already() -> None:
    """Hundreds of callers wait for a thread meanwhile: they go on at once, and do not wait for the store in turn."""
    limiter = SharedRateLimiter(10**6, storage="memory://", name="maps", clock=VirtualClock())
    store = limiter._counter = HangingStore()  # type: ignore[assignment]  # what Redis does behind a dead network

    async def call() -> int:
        return 1

    calls = [asyncio.ensure_future(limiter.acall(call)) for _ in range(300)]
    assert await asyncio.to_thread(store.is_asked.wait, _SOON)
    store.answers.set()
    assert await outcomes(*calls) == [1] * 300  # type: ignore[arg-type]  # futures will do
    assert store.asked <= 40  # asyncio's default threads are 32 at most


def test_an_error_that_is_raised_again_and_again_keeps_no_history() -> None:
    """One error object, as a pool keeps its last one: it does not collect the errors and arguments of all calls."""
    frozen = ConnectionError("the same object each time")
    calls = 0

    class Request:
        pass

    def call(request: Request) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise TimeoutError("the first attempt")
        raise frozen.with_traceback(None)

    guarded = Retry(attempts=2, wait=0.0, budget=RetryBudget(100.0))(call)
    requests: list[weakref.ref[Request]] = []

    def once() -> None:
        request = Request()
        requests.append(weakref.ref(request))
        with pytest.raises(ConnectionError):
            guarded(request)

    for _ in range(200):
        once()
    depth, error = 0, frozen.__context__
    while error is not None:
        depth, error = depth + 1, error.__context__
    assert 1 <= depth <= 30
    assert sum(ref() is not None for ref in requests) <= 30


@pytest.mark.parametrize("through", ["retry", "deposit"])
def test_a_budget_takes_no_memory_per_call(clock: VirtualClock, through: str) -> None:
    """A window of an hour, millions of calls in its tenth: they are a number, not a list."""
    budget = RetryBudget(window=3600.0, clock=clock)
    guarded = Retry(budget=budget, clock=clock)(int)
    longest = 0
    for _ in range(30):
        for _ in range(1_000):
            guarded() if through == "retry" else budget.deposit()
        clock.advance(1.0)
        longest = max(longest, len(budget._hits))
    assert longest <= 15_000
    assert budget.snapshot().first_attempts == 30_000


def test_samples_do_not_pile_up_for_an_algorithm_that_is_slow(clock: VirtualClock) -> None:
    """While it is at one sample the others wait, but not all that ever come: then newer ones are left out."""
    goes_on, began = threading.Event(), threading.Event()

    class Slow:
        initial = 100
        seen = 0

        def update(self, limit: float, *_: Any) -> float:
            Slow.seen += 1
            began.set()
            assert goes_on.wait(_SOON)
            return limit

    def work() -> None:
        clock.advance(0.01)

    limiter = ConcurrencyLimiter(Slow(), window=None, clock=clock)
    slow = threading.Thread(target=limiter.call, args=(work,), daemon=True)
    slow.start()
    assert began.wait(_SOON)
    for _ in range(1_000):
        limiter.call(work)
    waiting = len(limiter._samples.queue)
    goes_on.set()
    slow.join(_SOON)
    assert waiting <= 200
    assert 1 <= Slow.seen <= 201
