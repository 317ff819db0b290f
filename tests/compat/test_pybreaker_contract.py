"""pybreaker's order and settings, asked of pybreaker itself and of the drop-in: both must agree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pybreaker
import pytest

from tests.compat.both import bad, expired, good, traced, traced_call, tripped

KEYWORDS = ("fail_max", "reset_timeout", "success_threshold")

# --- order --------------------------------------------------------------------------------------------------------


def test_a_new_breaker_reads_its_state_and_tells_nobody(lib: Any) -> None:
    """Listeners hear of changes, not of the beginning."""
    _, trace = traced(lib, "half-open")
    assert trace == ["get state"]


def test_order_of_a_good_call(lib: Any) -> None:
    """Asked, told, called, counted, told."""
    breaker, trace = traced(lib)
    assert traced_call(lib, breaker, trace, good) == ("get state | before_call | <func> | reset_counter | success")


def test_order_of_a_trip(lib: Any) -> None:
    """The failure is counted and told before the circuit opens; listeners hear of that before the storage does."""
    breaker, trace = traced(lib, fail_max=1)
    assert traced_call(lib, breaker, trace, bad) == (
        "get state | before_call | <func> | increment_counter | failure | get counter | set opened_at"
        " | reset_success_counter | closed->open | set state | raise"
    )


def test_order_of_a_good_trial(lib: Any) -> None:
    """Half-open, tried, closed, and then `success`."""
    breaker, trace = traced(lib)
    expired(breaker)
    assert traced_call(lib, breaker, trace, good) == (
        "get state | get opened_at | reset_success_counter | open->half-open | set state | get state | before_call"
        " | <func> | reset_counter | increment_success_counter | get success_counter | reset_success_counter"
        " | reset_counter | half-open->closed | set state | success"
    )


def test_order_of_a_failed_trial(lib: Any) -> None:
    """One failure opens again; the threshold is not asked."""
    breaker, trace = traced(lib)
    expired(breaker)
    assert traced_call(lib, breaker, trace, bad).endswith(
        "before_call | <func> | increment_counter | failure | set opened_at | reset_success_counter"
        " | half-open->open | set state | raise"
    )


def test_order_of_a_refusal(lib: Any) -> None:
    """No listener hears of a refused call, and the function is not called."""
    breaker, trace = traced(lib)
    breaker.open()
    assert traced_call(lib, breaker, trace, good) == "get state | get opened_at | raise"


def test_order_of_closing_by_hand(lib: Any) -> None:
    """Both counters go to zero before listeners and storage hear of it."""
    breaker, trace = traced(lib)
    breaker.open()
    trace.clear()
    breaker.close()
    assert trace == ["reset_success_counter", "reset_counter", "open->closed", "set state"]


def test_listeners_are_called_in_the_order_they_were_registered(lib: Any) -> None:
    """First registered, first told; a removed one is not told."""
    seen: list[str] = []

    class Named(pybreaker.CircuitBreakerListener):
        def __init__(self, name: str) -> None:
            self.name = name

        def success(self, cb: Any) -> None:
            seen.append(self.name)

    first, second, third = Named("first"), Named("second"), Named("third")
    breaker = lib.CircuitBreaker(listeners=(first,))
    breaker.add_listeners(second, third)
    breaker.remove_listener(second)
    breaker.call(good)
    assert seen == ["first", "third"]
    assert breaker.listeners == (first, third)


def test_inside_state_change_the_storage_still_has_the_old_state(lib: Any) -> None:
    """Listeners may compare the two."""
    seen: list[tuple[str, str]] = []

    class Peek(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            seen.append((cb.current_state, new_state.name))

    lib.CircuitBreaker(listeners=[Peek()]).open()
    assert seen == [("closed", "open")]


def test_a_listener_that_raises_before_the_call_blocks_it(lib: Any) -> None:
    """The error reaches the caller; nothing is called or counted."""
    called: list[int] = []

    class Guard(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            raise PermissionError(func.__name__)

    breaker = lib.CircuitBreaker(listeners=[Guard()])
    with pytest.raises(PermissionError, match="append"):
        breaker.call(called.append, 1)
    assert (called, breaker.fail_counter) == ([], 0)


def test_before_call_gets_the_function_and_its_arguments(lib: Any) -> None:
    """What is about to be called, with what."""
    seen: list[Any] = []

    class Spy(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            seen.append((cb, func, args, kwargs))

    breaker = lib.CircuitBreaker(listeners=[Spy()])
    assert breaker.call(dict, [("a", 1)], b=2) == {"a": 1, "b": 2}
    assert seen == [(breaker, dict, ([("a", 1)],), {"b": 2})]


# --- configuration --------------------------------------------------------------------------------------------------


def test_defaults(lib: Any) -> None:
    """The documented ones, in memory."""
    breaker = lib.CircuitBreaker()
    assert [getattr(breaker, name) for name in KEYWORDS] == [5, 60, 1]
    assert (breaker.excluded_exceptions, breaker.listeners, breaker.name) == ((), (), None)
    assert (breaker.fail_counter, breaker.success_counter, breaker.current_state) == (0, 0, "closed")
    assert breaker._state_storage.name == "memory"


def test_arguments_are_positional_too(lib: Any) -> None:
    """In pybreaker's order."""
    listener, storage = pybreaker.CircuitBreakerListener(), pybreaker.CircuitMemoryStorage("open")
    breaker = lib.CircuitBreaker(3, 9.5, 2, [KeyError], [listener], storage, "svc", False)
    assert [getattr(breaker, name) for name in KEYWORDS] == [3, 9.5, 2]
    assert (breaker.excluded_exceptions, breaker.listeners, breaker.name) == ((KeyError,), (listener,), "svc")
    assert (breaker.state.name, breaker.open()) == ("open", False)


def test_settings_can_be_changed_while_it_runs(lib: Any) -> None:
    """Each is read when it is needed."""
    breaker = lib.CircuitBreaker()
    breaker.fail_max, breaker.reset_timeout, breaker.success_threshold, breaker.name = 1, 0, 2, "late"
    tripped(lib, breaker)
    assert breaker.call(good) == "fine"
    assert (breaker.current_state, breaker.success_counter, breaker.name) == ("half-open", 1, "late")


@pytest.mark.parametrize("state", ["closed", "open", "half-open"])
def test_a_breaker_takes_over_what_the_storage_holds(lib: Any, state: str) -> None:
    """State, counter and time of opening, with or without a time zone, survive a second breaker on one storage."""
    storage = pybreaker.CircuitMemoryStorage(state)
    storage.increment_counter()
    storage.opened_at = naive = datetime(2026, 1, 1)  # noqa: DTZ001  # as some store it
    breaker = lib.CircuitBreaker(state_storage=storage)
    assert (breaker.state.name, breaker.fail_counter, storage.opened_at) == (state, 1, naive)


def test_a_state_that_does_not_exist_is_refused(lib: Any) -> None:
    """ValueError, naming it."""
    with pytest.raises(ValueError, match="'foo'"):
        lib.CircuitBreaker()._create_new_state("foo")


def test_setting_the_state_leaves_the_storage_alone(lib: Any) -> None:
    """The next look at `state` finds the storage's again, and tells so."""
    breaker, trace = traced(lib)
    breaker.state = "open"
    assert (breaker.current_state, breaker.state.name) == ("closed", "closed")
    assert [item for item in trace if "->" in item] == ["closed->open", "open->closed"]


def test_a_change_by_another_breaker_is_noticed_and_told(lib: Any) -> None:
    """Two processes share a storage; this one hears at its next call."""
    breaker, trace = traced(lib)
    lib.CircuitBreaker(state_storage=breaker._state_storage).open()
    trace.clear()
    with pytest.raises(lib.CircuitBreakerError):
        breaker.call(good)
    assert "closed->open" in trace


def test_any_attribute_may_be_set_on_a_breaker(lib: Any) -> None:
    """Listeners keep their own counts there."""
    breaker = lib.CircuitBreaker()
    breaker._success_counter = 7
    breaker.call(good)
    assert (breaker._success_counter, breaker.success_counter) == (7, 0)
