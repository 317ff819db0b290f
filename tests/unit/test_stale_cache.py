"""The last good answer, when there is no new one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import ConfigError, Fallback, Pipeline, StaleCache
from resilient.policies.stale_cache import StaleCache as Cache
from resilient.testing import VirtualClock
from tests.drive import Drive


class Dependency:
    """Answers until told to fail."""

    def __init__(self, answer: Any = "sunny") -> None:
        self.answer = answer
        self.down = False
        self.__qualname__ = "dependency"

    def __call__(self, place: str, unit: str = "c") -> Any:
        if self.down:
            raise ConnectionError("down")
        return self.answer


def test_the_last_good_answer_serves_until_it_is_too_old(drive: Drive, clock: VirtualClock) -> None:
    """Case 7: success is stored, a later failure gets it until max_age, then the error leaves."""
    dependency, cache = Dependency(), StaleCache(max_age=60.0, clock=clock)
    assert drive(cache, dependency, "Rome") == "sunny"
    dependency.down = True
    clock.advance(59.0)
    assert drive(cache, dependency, "Rome") == "sunny"
    clock.advance(1.0)
    with pytest.raises(ConnectionError):
        drive(cache, dependency, "Rome")


def test_a_stored_none_is_a_value(drive: Drive) -> None:
    """Case 7: nothing known and None known are not the same."""
    dependency, cache = Dependency(None), StaleCache()
    drive(cache, dependency, "Rome")
    dependency.down = True
    assert drive(cache, dependency, "Rome") is None


def test_answers_are_per_arguments_however_they_are_written(drive: Drive) -> None:
    """Positions, keywords and defaults of one call are one entry; other arguments are another."""
    dependency, cache = Dependency(), StaleCache()
    drive(cache, dependency, "Rome")
    dependency.down = True
    assert Cache.__len__(cache) == 1
    if drive.__name__ == "drive_sync":  # the async twin has another signature, without names
        assert drive(cache, dependency, place="Rome", unit="c") == "sunny"
    with pytest.raises(ConnectionError):
        drive(cache, dependency, "Oslo")


def test_mark_says_that_the_answer_is_old(drive: Drive, clock: VirtualClock) -> None:
    """`mark` gets the answer and its age; a fresh answer is not marked."""
    dependency = Dependency()
    cache = StaleCache(mark=lambda answer, age: f"{answer}, {age:g} s old", clock=clock)
    assert drive(cache, dependency, "Rome") == "sunny"
    clock.advance(12.5)
    dependency.down = True
    assert drive(cache, dependency, "Rome") == "sunny, 12.5 s old"


def test_an_answer_that_is_fresh_enough_is_not_marked(drive: Drive, clock: VirtualClock) -> None:
    """Younger than `fresh_for`: as it is; older: marked; older than `max_age`: not given."""
    dependency = Dependency()
    cache = StaleCache(max_age=60.0, fresh_for=5.0, mark=lambda answer, age: f"{answer}, {age:g} s old", clock=clock)
    drive(cache, dependency, "Rome")
    dependency.down = True
    clock.advance(4.9)
    assert drive(cache, dependency, "Rome") == "sunny"
    clock.advance(0.1)
    assert drive(cache, dependency, "Rome") == "sunny, 5 s old"
    clock.advance(55.0)
    with pytest.raises(ConnectionError):
        drive(cache, dependency, "Rome")


def test_the_next_way_is_asked_when_nothing_is_known(drive: Drive) -> None:
    """StaleCache first, then an empty answer; the cache learns inside a chain too."""
    dependency = Dependency()
    dependency.down = True
    guard = Fallback(StaleCache(), lambda place, unit="c": "empty")
    assert drive(guard, dependency, "Rome") == "empty"
    dependency.down = False
    drive(guard, dependency, "Rome")
    dependency.down = True
    assert drive(guard, dependency, "Rome") == "sunny"


def test_a_fallbacks_answer_is_not_remembered_as_a_good_one(drive: Drive, clock: VirtualClock) -> None:
    """Only what the call itself returned renews an entry: age goes on."""
    dependency = Dependency()
    cache = StaleCache(mark=lambda answer, age: f"{age:g}", clock=clock)
    drive(cache, dependency, "Rome")
    dependency.down = True
    clock.advance(1.0)
    assert drive(cache, dependency, "Rome") == "1"
    clock.advance(1.0)
    assert drive(cache, dependency, "Rome") == "2"


def test_the_number_of_answers_is_bounded(drive: Drive) -> None:
    """The answer used least recently makes room."""
    dependency, cache = Dependency(), StaleCache(max_entries=2)
    for place in ("Rome", "Oslo", "Bern"):
        drive(cache, dependency, place)
    assert len(cache) == 2
    dependency.down = True
    with pytest.raises(ConnectionError):
        drive(cache, dependency, "Rome")
    cache.clear()
    assert len(cache) == 0


def test_arguments_that_can_not_be_keys_never_make_a_good_call_fail(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    """An unhashable argument is told once in the log; `key=` makes it work."""
    caplog.set_level(logging.ERROR, "resilient")
    dependency, cache = Dependency(), StaleCache()
    assert drive(cache, dependency, ["Rome"]) == "sunny"
    assert drive(cache, dependency, ["Rome"]) == "sunny"
    assert sum("can not be remembered" in record.message for record in caplog.records) == 1
    keyed = StaleCache(key=lambda place, unit="c": tuple(place))
    drive(keyed, dependency, ["Rome"])
    dependency.down = True
    assert drive(keyed, dependency, ["Rome"]) == "sunny"


def test_many_threads_share_one_cache() -> None:
    """cachetools' caches break without a lock; ours holds one, never while user code runs."""
    dependency, cache = Dependency(), StaleCache(max_entries=8)
    guarded: Callable[[str], Any] = cache(lambda place: dependency(place))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(500):
                guarded(str((seed * number) % 16))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(cache) <= 8


def test_methods_and_async_methods_are_remembered_per_object() -> None:
    """`self` is part of the arguments."""

    class Station:
        def __init__(self, name: str) -> None:
            self.name, self.down = name, False

        @Pipeline(StaleCache())
        async def report(self) -> str:
            if self.down:
                raise ConnectionError
            return self.name

    async def run() -> None:
        north, south = Station("north"), Station("south")
        assert await north.report() == "north"
        north.down = south.down = True
        assert await north.report() == "north"
        with pytest.raises(ConnectionError):
            await south.report()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_age": 0}, "more than 0"),
        ({"max_age": "1h"}, "must be a number"),
        ({"max_entries": 0}, "at least 1"),
        ({"mark": "old"}, "must be a function"),
        ({"key": 3}, "must be a function"),
        ({"fresh_for": 5.0}, "give mark= too"),
        ({"fresh_for": 0, "mark": print}, "more than 0"),
        ({"fresh_for": 7200.0, "mark": print}, "at most max_age=3600"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(settings: dict[str, Any], message: str) -> None:
    """Each names itself and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        StaleCache(**settings)


def test_the_calls_own_error_leaves_when_its_arguments_can_not_be_keys(drive: Drive) -> None:
    """An unhashable argument does not turn a ConnectionError into a TypeError."""
    dependency = Dependency()
    dependency.down = True
    with pytest.raises(ConnectionError):
        drive(StaleCache(), dependency, ["Rome"])


def test_positions_and_names_are_never_taken_for_each_other() -> None:
    """f(1, ("x", 2)) and f(1, x=2) are two calls."""

    def pairs(*args: Any, **kwargs: Any) -> str:
        if down:
            raise ConnectionError
        return f"{args} {kwargs}"

    down: list[bool] = []
    cache = StaleCache()
    cache.call(pairs, 1, ("x", 2))
    down.append(True)
    with pytest.raises(ConnectionError):
        cache.call(pairs, 1, x=2)


def test_bound_methods_of_two_objects_are_two_functions() -> None:
    """What one client answered is not the other's."""

    class Client:
        def __init__(self, tenant: str) -> None:
            self.tenant, self.down = tenant, False

        def fetch(self, number: int) -> str:
            if self.down:
                raise ConnectionError
            return f"data of {self.tenant}"

    one, other, cache = Client("A"), Client("B"), StaleCache()
    cache.call(one.fetch, 1)
    other.down = one.down = True
    assert cache.call(one.fetch, 1) == "data of A"
    with pytest.raises(ConnectionError):
        cache.call(other.fetch, 1)


class Shelf:
    """A shared cache in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def put(self, key: str, value: Any, max_age: float) -> None:
        self.kept[key] = value

    def get(self, key: str) -> tuple[Any, float] | None:
        return (self.kept[key], 1.0) if key in self.kept else None


def test_a_function_without_a_name_of_its_own_is_not_shared() -> None:
    """Closures share a qualified name: one tenant would get another's data."""

    def fetch(number: int) -> str:
        return "data"

    with pytest.raises(ConfigError, match="give the cache a name|Give the cache a name"):
        StaleCache(shared=Shelf())(fetch)
    assert StaleCache(name="tenant A", shared=Shelf())(fetch)(1) == "data"


def test_arguments_without_a_text_of_their_own_are_not_shared() -> None:
    """An address is another object in another process."""
    shelf, dependency = Shelf(), Dependency()
    cache = StaleCache(name="shelf", shared=shelf)
    cache.call(dependency, object())  # type: ignore[arg-type]  # any argument will do
    assert shelf.kept == {}
    cache.call(dependency, "Rome")
    assert len(shelf.kept) == 1


def test_what_is_no_cache_can_not_be_shared() -> None:
    """A URL is not a cache; the message says what is."""
    with pytest.raises(ConfigError, match="such as RedisCache"):
        StaleCache(shared="redis://localhost")  # type: ignore[arg-type]  # the mistake under test


def test_an_answer_of_this_process_does_not_wait_for_the_others() -> None:
    """With every thread of the loop's executor hung, what is in memory still answers."""

    async def scene() -> str:
        loop, hung = asyncio.get_running_loop(), threading.Event()
        waiting = [loop.run_in_executor(None, hung.wait) for _ in range(64)]
        cache = StaleCache(name="hung", shared=Shelf())
        down = False

        async def fetch(place: str) -> str:
            if down:
                raise ConnectionError
            return "sunny"

        await cache.acall(fetch, "Rome")
        down = True
        try:
            return await asyncio.wait_for(cache.acall(fetch, "Rome"), 10.0)
        finally:
            hung.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(scene()) == "sunny"
