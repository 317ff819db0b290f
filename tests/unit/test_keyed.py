"""Keyed: one value per key, bounded, never two for one key."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Hashable

import pytest

from resilient import CircuitBreaker, ConfigError, listen
from resilient.keyed import KeyDropped, Keyed


def busy(key: str) -> CircuitBreaker:
    """A breaker that has counted a call."""
    breaker = CircuitBreaker(f"db.{key}")
    breaker.acquire().success()
    return breaker


def test_a_key_has_one_value() -> None:
    """The factory is called once per key, with the key."""
    made: list[str] = []

    def factory(key: str) -> list[str]:
        made.append(key)
        return [key]

    keyed = Keyed(factory)
    assert keyed["a"] is keyed["a"]
    assert keyed["b"] == ["b"]
    assert made == ["a", "b"]
    assert len(keyed) == 2


def test_threads_that_ask_at_once_get_the_same_value() -> None:
    """32 threads that meet at a new key share one value, made once; the factory holds no lock."""
    made: list[object] = []
    barrier = threading.Barrier(32)
    found: list[object] = []
    started = threading.Event()

    def factory(key: str) -> object:
        started.wait(5.0)
        value = CircuitBreaker(key)
        made.append(value)
        return value

    keyed = Keyed(factory)

    def ask() -> None:
        barrier.wait()
        started.set()
        found.append(keyed["a"])

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(one is made[0] for one in found)
    assert len(found) == 32


def test_a_factory_that_raises_is_asked_again() -> None:
    """An error of the factory reaches its caller and leaves nothing behind."""
    errors = [RuntimeError("not yet")]

    def factory(key: str) -> str:
        if errors:
            raise errors.pop()
        return key.upper()

    keyed: Keyed[str, str] = Keyed(factory)
    with pytest.raises(RuntimeError, match="not yet"):
        keyed["a"]
    assert keyed["a"] == "A"


def test_a_factory_that_asks_for_its_own_key_is_told() -> None:
    """A factory that needs the value it is making gets an error, not a deadlock."""

    def factory(key: str) -> str:
        return keyed[key]

    keyed: Keyed[str, str] = Keyed(factory)
    with pytest.raises(RuntimeError, match="the key that it is making"):
        keyed["a"]


def test_idle_values_go_first() -> None:
    """Over max_keys, a closed breaker with an empty window goes; one that has counted something stays."""
    keyed: Keyed[str, CircuitBreaker] = Keyed(
        lambda key: busy(key) if key == "busy" else CircuitBreaker(f"db.{key}"), max_keys=2
    )
    first = keyed["busy"]
    for key in ("b", "c", "d"):
        assert keyed[key].name == f"db.{key}"
    assert len(keyed) == 2
    assert keyed["busy"] is first
    assert first.snapshot().calls == 1


def test_an_open_breaker_stays() -> None:
    """A breaker that is not closed is no idle one."""
    keyed: Keyed[str, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(f"db.{key}"), max_keys=1)
    opened = keyed["open"]
    opened.force_open()
    keyed["b"]
    assert keyed["open"] is opened


def test_busy_values_may_double_the_number_and_then_the_oldest_goes() -> None:
    """While all remember something the number grows to twice max_keys; then the longest unused goes, with an event."""
    dropped: list[Hashable] = []
    stop = listen(lambda event: dropped.append(event.key), KeyDropped)
    try:
        keyed = Keyed(busy, max_keys=2)
        for key in ("a", "b", "c", "d"):
            keyed[key]
        assert len(keyed) == 4
        assert dropped == []
        keyed["a"]
        keyed["e"]
    finally:
        stop()
    assert len(keyed) == 4
    assert dropped == ["b"]


def test_a_dropped_value_that_somebody_holds_is_found_again() -> None:
    """Whoever holds a value keeps it findable: there are never two for one key."""
    keyed: Keyed[str, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(f"db.{key}"), max_keys=1)
    held = keyed["a"]
    keyed["b"]
    assert len(keyed) == 1
    assert keyed["a"] is held


def test_a_dropped_value_that_nobody_holds_is_made_anew() -> None:
    """What is let go is really let go."""
    made: list[str] = []

    def factory(key: str) -> CircuitBreaker:
        made.append(key)
        return CircuitBreaker(f"db.{key}")

    keyed = Keyed(factory, max_keys=1)
    for key in ("a", "b", "a"):
        keyed[key]
        gc.collect()
    assert made == ["a", "b", "a"]


def test_values_that_can_not_be_weakly_held_are_kept_all_the_same() -> None:
    """Numbers and texts are values too."""
    keyed: Keyed[str, int] = Keyed(len, max_keys=2)
    assert [keyed["a"], keyed["bb"], keyed["ccc"], keyed["a"]] == [1, 2, 3, 1]
    assert len(keyed) == 2


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5])
def test_a_wrong_bound_is_refused(wrong: int) -> None:
    """max_keys is a whole number of at least 1."""
    with pytest.raises(ConfigError, match="max_keys") as refused:
        Keyed(str, max_keys=wrong)
    assert refused.value.path == "max_keys"


def test_a_factory_must_be_callable() -> None:
    """A policy in the place of a factory is refused at once."""
    with pytest.raises(ConfigError, match="factory must be a function"):
        Keyed("db")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12+ warns of the very thing tested
def test_a_forked_child_does_not_wait_for_the_parents_threads() -> None:
    """A value that a thread of the parent was making at the fork is made again in the child."""
    entered, go_on = threading.Event(), threading.Event()

    def factory(key: str) -> str:
        if threading.current_thread() is maker:
            entered.set()
            go_on.wait(10.0)
        return key.upper()

    keyed = Keyed(factory)
    maker = threading.Thread(target=lambda: keyed["a"])
    maker.start()
    assert entered.wait(10.0)
    child = os.fork()
    if child == 0:
        os._exit(0 if keyed["a"] == "A" else 1)
    go_on.set()
    maker.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
