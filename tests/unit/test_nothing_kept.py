"""What a call was given lives no longer than the call: without the garbage collector, well or not, in both colours."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, Timeout
from resilient.policies import cache_calls, collapser
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.collapser import Collapser
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.hedge import Hedge
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
from resilient.workers import Workers
from tests.waiting import wait_until

Wrap = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]


class Argument:
    """Something that is large, or holds a connection."""


class Failed(Exception):
    """What the calls fail with."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Cycles stay until somebody collects them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def good(argument: object) -> int:
    return 1


def bad(argument: object) -> int:
    raise Failed


async def agood(argument: object) -> int:
    await asyncio.sleep(0)
    return 1


async def abad(argument: object) -> int:
    await asyncio.sleep(0)
    raise Failed


def kept(call: Callable[[Any], object]) -> bool:
    """Whether the argument is still there after the call; a worker thread may let go a moment later."""
    argument = Argument()
    alive = weakref.ref(argument)
    with contextlib.suppress(Exception):  # its traceback goes with it
        call(argument)
    del argument
    try:
        wait_until(lambda: alive() is None, timeout=0.5)
    except AssertionError:
        return True
    return False


async def akept(call: Callable[[Any], Awaitable[object]]) -> bool:
    """The same for an async function; a task may end a few turns of the loop later."""
    argument = Argument()
    alive = weakref.ref(argument)
    with contextlib.suppress(Exception):
        await call(argument)
    del argument
    for _ in range(10):
        await asyncio.sleep(0)
    return alive() is not None


def collapsed(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def batch(keys: list[Any]) -> list[Any]:
        return [fn(key) for key in keys]

    return Collapser(batch, delay=0.0)


def acollapsed(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def batch(keys: list[Any]) -> list[Any]:
        return [await fn(key) for key in keys]

    return Collapser(batch, delay=0.0)


def within_a_deadline(wrap: Wrap) -> Wrap:
    """Shared calls are then made in a worker thread."""

    def wrapped(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        inner, timeout = wrap(fn), Timeout(60.0, thread=False)
        return lambda argument: timeout.call(inner, argument)

    return wrapped


def cached(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return Cache(60.0, key=lambda argument: 1)(fn)  # the key is kept, as it should be


def cached_by_argument(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return Cache(60.0)(fn)


BOTH: dict[str, Callable[[], Wrap]] = {
    "retry": lambda: Retry(attempts=3, wait=0.0),
    "breaker": CircuitBreaker,
    "concurrency limiter": ConcurrencyLimiter,
    "bulkhead": lambda: Bulkhead(2),
    "bulkhead that waits": lambda: Bulkhead(2, max_wait=1.0),
    "rate limiter": lambda: RateLimiter(100),
    "timeout": lambda: Timeout(60.0),
    "cache": lambda: cached,
    "several": lambda: Pipeline(Retry(attempts=2, wait=0.0), CircuitBreaker(), Timeout(60.0), Bulkhead(2)),
}
SYNC: dict[str, Callable[[], Wrap]] = {
    **BOTH,
    "pool": lambda: ThreadPoolBulkhead(2),
    "collapser": lambda: collapsed,
    "cache in a worker": lambda: within_a_deadline(cached),
    "collapser in a worker": lambda: within_a_deadline(collapsed),
}
ASYNC: dict[str, Callable[[], Wrap]] = {
    **BOTH,
    "hedge": lambda: Hedge(60.0),
    "hedge that hedges": lambda: Hedge(0.0, extra=3),
    "collapser": lambda: acollapsed,
}


@pytest.mark.parametrize("fn", [good, bad])
@pytest.mark.parametrize("policy", SYNC.values(), ids=SYNC)
def test_a_call_keeps_no_argument(policy: Callable[[], Wrap], fn: Callable[[object], int]) -> None:
    """Its error has gone with its traceback, and nothing else holds what the call was given."""
    assert not kept(policy()(fn))


@pytest.mark.parametrize("fn", [agood, abad])
@pytest.mark.parametrize("policy", ASYNC.values(), ids=ASYNC)
async def test_an_async_call_keeps_no_argument(policy: Callable[[], Wrap], fn: Callable[[object], Any]) -> None:
    """The same for coroutines, and for the tasks that are made for them."""
    assert not await akept(policy()(fn))


@pytest.mark.parametrize("wrap", [cached_by_argument, within_a_deadline(cached_by_argument)], ids=["here", "worker"])
def test_a_failed_call_of_a_cache_keeps_no_key(wrap: Wrap) -> None:
    """There is no answer to remember, so there is no key."""
    assert not kept(wrap(bad))


async def test_a_failed_async_call_of_a_cache_keeps_no_key() -> None:
    """The same for the task that makes it."""
    assert not await akept(cached_by_argument(abad))


async def test_a_task_keeps_no_answer_of_a_cache() -> None:
    """The context of a task that asked lives as long as the task: it holds no answer that the cache has dropped."""
    cache = Cache(60.0, key=lambda word: word)
    alive: list[weakref.ref[Argument]] = []

    @cache
    async def ask(word: str) -> Argument:
        answer = Argument()
        alive.append(weakref.ref(answer))
        asyncio.get_running_loop().call_later(60.0, int)  # keeps the context of this call, as a timer of a client does
        await asyncio.sleep(0)
        return answer

    await ask("a")
    cache.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    assert [ref() for ref in alive] == [None]


@pytest.mark.parametrize("answer", [[], {}, None], ids=["too few", "missing", "nothing"])
def test_a_batch_that_answers_wrongly_keeps_no_key(answer: Any) -> None:
    """The error that its callers get is theirs alone."""
    assert not kept(Collapser(lambda keys: answer, delay=0.0))


@pytest.mark.parametrize("answer", [[], {}, None], ids=["too few", "missing", "nothing"])
async def test_an_async_batch_that_answers_wrongly_keeps_no_key(answer: Any) -> None:
    """The same for the task that makes the batch call."""

    async def batch(keys: list[Any]) -> Any:
        return answer

    assert not await akept(Collapser(batch, delay=0.0))


@pytest.mark.parametrize("wrap", [cached_by_argument, collapsed], ids=["cache", "collapser"])
def test_a_call_that_finds_no_worker_keeps_no_argument(wrap: Wrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """All worker threads are busy: the caller is refused, and that is all."""
    none = Workers(most=0)
    monkeypatch.setattr(cache_calls, "WORKERS", none)
    monkeypatch.setattr(collapser, "WORKERS", none)
    assert not kept(within_a_deadline(wrap)(good))
    assert none.threads == 0
