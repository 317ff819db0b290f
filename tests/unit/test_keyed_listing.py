"""A Keyed is looked at and reset by key: listing, asking and resetting make no value and hold no lock."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from resilient import CircuitBreaker, Pipeline, State, Timeout, listen
from resilient.keyed import KeyDropped, Keyed


def make(key: str) -> CircuitBreaker:
    return CircuitBreaker(f"db.{key}")


def tripped(breaker: CircuitBreaker) -> CircuitBreaker:
    """Opened by failures."""
    for _ in range(5):
        breaker.acquire().failure()
    assert breaker.state is State.OPEN
    return breaker


def test_keys_and_items_list_the_longest_unused_first() -> None:
    """In the order in which they would go; a key that is used goes to the end."""
    keyed = Keyed(make)
    assert (keyed.keys(), keyed.items(), list(keyed), len(keyed)) == ((), (), [], 0)
    values = {key: keyed[key] for key in ("a", "b", "c")}
    assert keyed.keys() == ("a", "b", "c")
    assert keyed["a"] is values["a"]
    assert keyed.keys() == ("b", "c", "a")
    assert keyed.items() == tuple((key, values[key]) for key in ("b", "c", "a"))
    assert list(keyed) == ["b", "c", "a"]


def test_looking_is_no_use_and_makes_nothing() -> None:
    """Neither a listing nor a question moves a key or makes a value."""
    made: list[str] = []

    def factory(key: str) -> CircuitBreaker:
        made.append(key)
        return make(key)

    keyed = Keyed(factory)
    for key in ("a", "b"):
        keyed[key]
    for _ in range(3):
        assert "a" in keyed
        assert "z" not in keyed
        assert None not in keyed
        dict(keyed.items())
        list(keyed)
    keyed.reset("z")
    assert keyed.keys() == ("a", "b")
    assert made == ["a", "b"]


def test_a_listing_is_a_copy() -> None:
    """What is made or reset while one walks over it changes nothing of it."""
    keyed = Keyed(make)
    keyed["a"]
    keyed["b"]
    seen = []
    for key in keyed:
        keyed[f"{key}{key}"]
        seen.append(key)
    assert seen == ["a", "b"]
    assert keyed.keys() == ("a", "b", "aa", "bb")


def test_a_value_that_was_let_go_and_is_held_is_still_in_it() -> None:
    """Whoever holds it keeps it findable, also to `in` and `reset`; it is not listed."""
    keyed = Keyed(make, max_keys=1)
    held = keyed["a"]
    keyed["b"]
    assert keyed.keys() == ("b",)
    assert "a" in keyed
    tripped(held)
    keyed.reset("a")
    assert held.state is State.CLOSED
    del held


def test_reset_of_a_key_resets_that_one() -> None:
    """Closed, with empty counts; the others stay as they are."""
    keyed = Keyed(make)
    one, other = tripped(keyed["a"]), tripped(keyed["b"])
    keyed.reset("a")
    assert (one.state, one.snapshot().calls, one.snapshot().failed) == (State.CLOSED, 0, 5)
    assert other.state is State.OPEN


def test_reset_of_all_resets_all() -> None:
    """Also those that were set by hand; no key is lost."""
    keyed = Keyed(make)
    tripped(keyed["a"])
    keyed["b"].force_open()
    keyed["c"].disable()
    keyed.reset()
    assert [breaker.state for _, breaker in keyed.items()] == [State.CLOSED] * 3
    assert keyed.keys() == ("a", "b", "c")


def test_values_without_a_reset_are_left_alone() -> None:
    """Pipelines, timeouts, whatever a factory makes."""
    values: dict[str, Any] = {"timeout": Timeout(1.0), "number": 7, "reset": type("Odd", (), {"reset": 3})()}
    keyed: Keyed[str, Any] = Keyed(values.__getitem__)
    for key in values:
        keyed[key]
    keyed.reset()
    keyed.reset("number")
    assert dict(keyed.items()) == values


def test_reset_holds_no_lock_while_it_resets() -> None:
    """A listener that hears of it may use the Keyed, from any thread."""
    answers: list[Any] = []

    def ask(_event: object) -> None:
        other = threading.Thread(target=lambda: answers.append((keyed["new"].name, keyed.keys())), daemon=True)
        other.start()
        other.join(10.0)
        assert not other.is_alive()

    keyed: Keyed[str, CircuitBreaker] = Keyed(
        lambda key: CircuitBreaker(f"db.{key}", listeners=[ask] if key == "a" else [])
    )
    keyed["a"].force_open()
    answers.clear()
    keyed.reset()
    assert answers == [("db.new", ("a", "new"))]


def test_a_reset_that_raises_reaches_its_caller() -> None:
    """It is the value's own code."""

    class Stubborn:
        def reset(self) -> None:
            raise RuntimeError("not now")

    keyed: Keyed[str, Stubborn] = Keyed(lambda _key: Stubborn())
    keyed["a"]
    with pytest.raises(RuntimeError, match="not now"):
        keyed.reset()
    assert "a" in keyed


@pytest.mark.parametrize("wrap", [lambda breaker: breaker, Pipeline], ids=["breaker", "pipeline"])
def test_an_open_breaker_goes_last(wrap: Any) -> None:
    """Full of breakers that remember something, the oldest that is closed goes, not the open one before it."""
    dropped: list[Any] = []

    def busy(key: str) -> Any:
        breaker = make(key)
        tripped(breaker) if key == "open" else breaker.acquire().success()
        return wrap(breaker)

    keyed: Keyed[str, Any] = Keyed(busy, max_keys=2)
    stop = listen(lambda event: dropped.append(event.key), KeyDropped)
    for key in ("open", "b", "c", "d", "e"):
        keyed[key]
    stop()
    assert dropped == ["b"]
    assert keyed.keys() == ("open", "c", "d", "e")


def test_listing_while_threads_make_keys() -> None:
    """Every listing is of one moment: no key twice, the value of each its own."""
    keyed: Keyed[int, list[int]] = Keyed(lambda key: [key], max_keys=50)
    done = threading.Event()
    errors: list[BaseException] = []

    def use(start: int) -> None:
        try:
            for number in range(2000):
                assert keyed[(start + number) % 120] == [(start + number) % 120]
        except BaseException as error:
            errors.append(error)

    def look() -> None:
        try:
            while not done.is_set():
                items = keyed.items()
                assert len({key for key, _ in items}) == len(items)
                assert all(value == [key] for key, value in items)
        except BaseException as error:
            errors.append(error)

    users = [threading.Thread(target=use, args=(30 * number,), daemon=True) for number in range(4)]
    looker = threading.Thread(target=look, daemon=True)
    for thread in (*users, looker):
        thread.start()
    for thread in users:
        thread.join(20.0)
    done.set()
    looker.join(20.0)
    assert errors == []
    assert not any(thread.is_alive() for thread in (*users, looker))
    assert len(keyed) <= 100
