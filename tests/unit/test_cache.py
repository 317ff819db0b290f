"""The corners of a Cache: keys, requests, clearing, settings and forks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, ConfigError, Fallback, Pipeline, Timeout
from resilient.outcome import Classification
from resilient.policies.cache import Cache
from resilient.testing import VirtualClock
from tests.drive import Drive


def counted(
    answer: Callable[..., Any] = lambda *args, **kwargs: (args, kwargs),
) -> tuple[Callable[..., Any], list[Any]]:
    """A function and the calls it got."""
    calls: list[Any] = []

    def fn(a: int, b: int = 2, *, c: int = 3) -> Any:
        calls.append((a, b, c))
        return a, b, c

    return fn, calls


def test_arguments_are_one_key_however_they_are_written() -> None:
    """Positions, keywords and defaults."""
    fn, calls = counted()
    cached: Callable[..., Any] = Cache(60.0)(fn)
    for _ in (cached(1), cached(a=1), cached(1, 2), cached(1, b=2, c=3), cached(c=3, a=1)):
        pass
    cached(1, 2, c=4)
    assert calls == [(1, 2, 3), (1, 2, 4)]


def test_a_name_in_the_arguments_is_not_taken_for_a_keyword() -> None:
    """Positions and names stay apart in a key, whatever the positions hold."""
    cached: Callable[..., Any] = Cache(60.0)(lambda *args, **kwargs: (args, kwargs))
    assert cached("**", ("x", 2)) == (("**", ("x", 2)), {})
    assert cached(x=2) == ((), {"x": 2})


def test_two_functions_have_answers_of_their_own() -> None:
    """One cache may serve several functions."""
    cache = Cache(60.0)
    double: Callable[[int], int] = cache(lambda number: number * 2)
    triple: Callable[[int], int] = cache(lambda number: number * 3)
    assert (double(2), triple(2)) == (4, 6)


def test_methods_are_remembered_per_object() -> None:
    """`self` is part of the arguments, bound or not."""

    class Client:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @Cache(60.0)
        def fetch(self, number: int) -> str:
            return f"{self.tenant} {number}"

        def load(self, number: int) -> str:
            return f"{self.tenant} {number}"

    one, other, cache = Client("A"), Client("B"), Cache(60.0)
    assert (one.fetch(1), other.fetch(1)) == ("A 1", "B 1")
    assert (cache.call(one.load, 1), cache.call(other.load, 1)) == ("A 1", "B 1")
    assert cache.call(one.load, 1) == "A 1"
    assert cache.snapshot().hits == 1


def test_arguments_that_can_not_be_a_key_pass_through(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    """Each is a call of its own; told once, and `key=` makes it work."""
    caplog.set_level(logging.ERROR, "resilient")
    cache, calls = Cache(60.0), list[Any]()
    for _ in range(2):
        drive(cache, calls.append, ["Rome"])
    assert (len(calls), cache.snapshot().passed) == (2, 2)
    assert sum("give it key=" in record.message for record in caplog.records) == 1
    keyed = Cache(60.0, key=tuple)
    for _ in range(2):
        drive(keyed, calls.append, ["Rome"])
    assert len(calls) == 3


def test_arguments_that_do_not_fit_raise_the_calls_own_error(caplog: pytest.LogCaptureFixture) -> None:
    """The key never hides a TypeError of the function, and nothing is logged for it."""
    fn, _ = counted()
    with pytest.raises(TypeError, match="unexpected keyword"):
        Cache(60.0).call(fn, 1, z=2)
    assert caplog.records == []


def test_the_number_of_answers_is_bounded() -> None:
    """The one used least recently goes."""
    cache = Cache(60.0, max_entries=2)
    cached = cache(str)
    for number in (1, 2, 1, 3):
        cached(number)
    assert len(cache) == 2
    cached(1)
    assert cache.snapshot().hits == 2


def test_results_that_count_as_failures_are_not_remembered() -> None:
    """The command's `on_result` decides, as for StaleCache."""
    chain = Cache(60.0).layer(
        lambda fn, args, kwargs: fn(*args), float("inf"), Classification(on_result=lambda r: r < 0)
    )
    answers = iter([-1, 5])
    assert [chain(lambda: next(answers), (), {}) for _ in range(1)] == [-1]

    def fn() -> int:
        return next(answers, -2)

    assert [chain(fn, (), {}), chain(fn, (), {})] == [5, 5]


def test_a_request_remembers_for_itself(drive: Drive) -> None:
    """Inside `Cache.scope()` one call per key and request; outside of it every call is made."""
    calls: list[str] = []
    cache = Cache(60.0, scope="request", key=lambda user: user)
    for _ in range(2):
        with Cache.scope():
            for _ in range(3):
                drive(cache, calls.append, "ann")
            assert (len(cache), len(calls)) in {(1, 1), (1, 2)}
    assert len(calls) == 2
    drive(cache, calls.append, "ann")
    drive(cache, calls.append, "ann")
    assert (len(calls), len(cache)) == (4, 0)


def test_a_request_inside_another_one_begins_anew() -> None:
    """The inner block knows nothing of the outer one, which goes on afterwards."""
    calls: list[str] = []
    cached: Callable[[str], None] = Cache(60.0, scope="request")(lambda user: calls.append(user))
    with Cache.scope():
        cached("ann")
        with Cache.scope():
            cached("ann")
        cached("ann")
    assert calls == ["ann", "ann"]


async def test_a_task_that_outlives_its_request_remembers_nothing() -> None:
    """What a request has seen is gone with it."""
    calls: list[str] = []

    @Cache(60.0, scope="request")
    async def load(user: str) -> None:
        calls.append(user)

    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        await load("ann")
        await load("ann")

    with Cache.scope():
        await load("ann")
        await asyncio.gather(load("ann"), load("ann"))
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    go.set()
    await task
    assert calls == ["ann"] * 3


def test_clear_forgets_calls_that_run_too(drive: Drive) -> None:
    """An answer from before a write is not remembered after it."""
    cache = Cache(60.0, key=lambda: 0)

    def cleared_meanwhile() -> str:
        cache.clear()
        return "old"

    assert drive(cache, cleared_meanwhile) == "old"
    assert drive(cache, lambda: "new") == "new"
    cache.reset()
    assert len(cache) == 0


def test_the_wrong_colour_is_a_type_error_for_everybody() -> None:
    """An async function in `call` is named; nothing is remembered."""
    cache = Cache(60.0)

    async def fetch() -> None: ...

    with pytest.raises(TypeError, match="awaitable"):
        cache.call(lambda: fetch())  # type: ignore[unused-coroutine]  # the mistake under test
    assert len(cache) == 0


def test_new_settings_keep_the_answers_where_they_can(clock: VirtualClock) -> None:
    """Rule 27: another time or size begins anew, anything else does not."""
    cache = Cache(60.0, clock=clock)
    fn, calls = counted()
    cached: Callable[..., Any] = cache(fn)
    cached(1)
    cache.take_settings(Cache(60.0, thread=False, name="other"))
    cached(1)
    assert len(calls) == 1
    cache.take_settings(Cache(5.0, name="another"))
    cached(1)
    clock.advance(5.0)
    cached(1)
    assert len(calls) == 3


def test_a_snapshot_is_plain_data() -> None:
    """It fits JSON."""
    cache = Cache(60.0, name="rates")
    cached = cache(str)
    cached(1)
    cached(1)
    assert json.loads(json.dumps(cache.snapshot().as_dict())) == {
        "name": "rates",
        "entries": 1,
        "in_flight": 0,
        "hits": 1,
        "shared": 0,
        "calls": 1,
        "passed": 0,
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_the_parents_threads() -> None:
    """Rule 28: a call that runs in the parent is made by the child itself; answers are kept."""
    cache, go, began = Cache(60.0), threading.Event(), threading.Event()

    @cache
    def slow(key: str) -> str:
        began.set()
        if key == "wait" and not forked:
            go.wait(10.0)
        return key

    forked: list[int] = []
    slow("known")
    thread = threading.Thread(target=slow, args=("wait",))
    thread.start()
    assert began.wait(10.0)
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        forked.append(1)
        ok = len(cache) == 1 and slow("wait") == "wait" and cache.snapshot().in_flight == 0
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_fork_inside_a_request_begins_that_request_anew() -> None:
    """Rule 28: the child keeps the process's answers; what a request has seen may be half written."""
    calls: list[str] = []
    cache = Cache(60.0, scope="request")
    load: Callable[[str], None] = cache(calls.append)
    shared = Cache(60.0)
    answer: Callable[[int], str] = shared(str)
    with Cache.scope():
        load("ann")
        answer(1)
        cache.after_fork_in_child()
        shared.after_fork_in_child()
        load("ann")
    assert (calls, len(shared)) == (["ann", "ann"], 1)


def test_explain_says_what_bites() -> None:
    """Orders that remember too much or count too much; the worst case is two limits."""
    guard = Pipeline(CircuitBreaker("out"), Cache(60.0), Fallback(value=1), Timeout(2.0))
    explained = guard.explain()
    assert explained.worst_case_wait == 4.0
    text = str(explained)
    assert "what it answers is remembered" in text
    assert "counts answers from memory" in text
    assert "given again for 60 s" in text
    assert repr(Cache(5.0, scope="request")) == "Cache(5, scope='request')"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0}, "more than 0"),
        ({"seconds": "1h"}, "must be a number"),
        ({"max_entries": 0}, "at least 1"),
        ({"key": 3}, "must be a function"),
        ({"scope": "thread"}, "'process' or 'request'"),
        ({"thread": 1}, "True or False"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(settings: dict[str, Any], message: str) -> None:
    """Each names itself and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Cache(**{"seconds": 60.0, **settings})


def test_many_threads_get_right_answers_and_exact_counts() -> None:
    """cachetools' caches break without a lock; every call is a hit, shared, or made."""
    cache = Cache(60.0, max_entries=8)
    cached: Callable[[int], int] = cache(lambda number: number * 2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for number in range(500):
            asked = (seed * number) % 16
            if cached(asked) != asked * 2:
                wrong.append(asked)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = cache.snapshot()
    assert wrong == []
    assert snapshot.hits + snapshot.shared + snapshot.calls == 4000
    assert (snapshot.in_flight, snapshot.entries) == (0, 8)
