"""What pybreaker counts, raises and guards, asked of pybreaker itself and of the drop-in: both must agree."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest

from tests.compat.both import bad, expired, good, traced, tripped

# --- counting -------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_and_a_success_between_starts_again(lib: Any) -> None:
    """Consecutive failures only."""
    breaker = lib.CircuitBreaker(fail_max=2)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            breaker.call(bad)
        assert breaker.fail_counter == 1
        breaker.call(good)
        assert breaker.fail_counter == 0
    tripped(lib, breaker)
    assert breaker.current_state == "open"


def test_opening_keeps_the_failure_count_and_a_failed_trial_adds_one(lib: Any) -> None:
    """3, and 4 after the trial."""
    breaker = lib.CircuitBreaker(fail_max=3)
    tripped(lib, breaker)
    assert breaker.fail_counter == 3
    breaker._state_storage.opened_at = datetime.now(UTC) - timedelta(minutes=2)
    with pytest.raises(lib.CircuitBreakerError, match="^Trial call failed, circuit breaker opened$"):
        breaker.call(bad)
    assert (breaker.fail_counter, breaker.current_state) == (4, "open")


def test_half_opened_by_hand_one_failure_opens(lib: Any) -> None:
    """One is enough, whatever `fail_max` is."""
    breaker = lib.CircuitBreaker()
    breaker.half_open()
    with pytest.raises(lib.CircuitBreakerError):
        breaker.call(bad)
    assert (breaker.fail_counter, breaker.current_state) == (1, "open")


def test_the_trial_is_called_once(lib: Any) -> None:
    """The call that half-opens is the trial."""
    calls: list[int] = []
    breaker = lib.CircuitBreaker()
    expired(breaker)
    breaker.call(calls.append, 1)
    assert (calls, breaker.current_state, breaker.fail_counter) == ([1], "closed", 0)


def test_several_trials_must_succeed_where_that_was_asked_for(lib: Any) -> None:
    """Counted up in half-open, zero after closing."""
    breaker = lib.CircuitBreaker(success_threshold=3)
    expired(breaker)
    counts = []
    for _ in range(3):
        breaker.call(good)
        counts.append((breaker.success_counter, breaker.current_state))
    assert counts == [(1, "half-open"), (2, "half-open"), (0, "closed")]


def test_a_failed_trial_forgets_the_successes_before_it(lib: Any) -> None:
    """Zero after opening again."""
    breaker = lib.CircuitBreaker(success_threshold=3)
    expired(breaker)
    breaker.call(good)
    with pytest.raises(lib.CircuitBreakerError):
        breaker.call(bad)
    assert (breaker.success_counter, breaker.current_state) == (0, "open")


def test_open_without_a_time_of_opening_is_half_open_at_the_next_call(lib: Any) -> None:
    """A storage that has lost it lets a trial in."""
    breaker = lib.CircuitBreaker(state_storage=pybreaker.CircuitMemoryStorage("open"))
    assert breaker.call(good) == "fine"
    assert breaker.current_state == "closed"


def test_a_patched_counter_is_used(lib: Any) -> None:
    """`_inc_counter` may be replaced on the instance."""
    breaker, seen = lib.CircuitBreaker(), []
    breaker._inc_counter = lambda: seen.append("counted")
    with pytest.raises(ConnectionError):
        breaker.call(bad)
    assert seen == ["counted"]


# --- exclusions -----------------------------------------------------------------------------------------------------


def test_an_excluded_error_and_its_subclasses_count_as_success(lib: Any) -> None:
    """They leave as they are, reset the counter, close a half-open circuit and are told as a success."""
    breaker, trace = traced(lib, exclude=[LookupError])
    with pytest.raises(ConnectionError):
        breaker.call(bad)
    with pytest.raises(KeyError):
        breaker.call({}.__getitem__, "absent")
    assert trace[-1] == "success"
    assert breaker.fail_counter == 0
    breaker.half_open()
    with pytest.raises(KeyError):
        breaker.call({}.__getitem__, "absent")
    assert breaker.current_state == "closed"


def test_predicates_and_types_exclude_side_by_side(lib: Any) -> None:
    """A predicate sees the error itself."""
    breaker = lib.CircuitBreaker(exclude=[lambda error: "business" in str(error), LookupError])
    assert not breaker.is_system_error(ValueError("business rule"))
    assert not breaker.is_system_error(IndexError())
    assert breaker.is_system_error(ValueError("broken"))


def test_exclusions_can_be_added_and_removed(lib: Any) -> None:
    """At any time."""
    breaker = lib.CircuitBreaker()
    breaker.add_excluded_exception(KeyError)
    breaker.add_excluded_exceptions(ValueError, OSError)
    breaker.remove_excluded_exception(ValueError)
    assert breaker.excluded_exceptions == (KeyError, OSError)
    assert (breaker.is_system_error(ValueError()), breaker.is_system_error(OSError())) == (True, False)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_the_call_that_trips_raises_the_breakers_error_with_the_cause_in_its_traceback(lib: Any) -> None:
    """Who reads the log sees what happened."""
    error = tripped(lib, lib.CircuitBreaker(fail_max=2))
    assert str(error) == "Failures threshold reached, circuit breaker opened"
    assert "ConnectionError: down" in "".join(traceback.format_exception(error))
    assert isinstance(error.__context__, ConnectionError)


def test_the_call_that_trips_raises_its_own_error_where_that_was_asked_for(lib: Any) -> None:
    """Refusals are the breaker's error still."""
    breaker = lib.CircuitBreaker(fail_max=1, throw_new_error_on_trip=False)
    with pytest.raises(ConnectionError, match="^down$"):
        breaker.call(bad)
    with pytest.raises(lib.CircuitBreakerError, match="^Timeout not elapsed yet, circuit breaker still open$"):
        breaker.call(good)


def test_open_says_whether_a_trip_raises_an_error_of_its_own(lib: Any) -> None:
    """It returns `throw_new_error_on_trip`."""
    assert lib.CircuitBreaker().open() is True
    assert lib.CircuitBreaker(throw_new_error_on_trip=False).open() is False


# --- ways to guard --------------------------------------------------------------------------------------------------


def test_a_decorated_function_keeps_its_name_and_is_counted(lib: Any) -> None:
    """With or without parentheses."""
    breaker = lib.CircuitBreaker()

    def same(value: int) -> int:
        """Give it back."""
        return value

    guarded = breaker(same)
    assert (guarded.__name__, guarded.__doc__, guarded(3)) == ("same", "Give it back.", 3)
    with pytest.raises(ConnectionError):
        breaker()(bad)()
    assert breaker.fail_counter == 1


def test_a_block_is_guarded(lib: Any) -> None:
    """`calling()`: failures count, the trip raises, open refuses the block, a good trial closes."""
    breaker, entered = lib.CircuitBreaker(fail_max=2), []

    def block(error: Exception | None = None) -> None:
        with breaker.calling():
            entered.append(1)
            if error:
                raise error

    with pytest.raises(ConnectionError):
        block(ConnectionError())
    with pytest.raises(lib.CircuitBreakerError):
        block(ConnectionError())
    with pytest.raises(lib.CircuitBreakerError):
        block()
    assert (len(entered), breaker.fail_counter) == (2, 2)
    breaker._state_storage.opened_at = datetime.now(UTC) - timedelta(minutes=2)
    block()
    assert (len(entered), breaker.current_state, breaker.fail_counter) == (3, "closed", 0)


def test_a_generator_passes_values_both_ways_and_is_counted_when_it_ends(lib: Any) -> None:
    """`send` reaches it; its end is a success, its error a failure."""
    breaker = lib.CircuitBreaker()

    def echo() -> Any:
        got = yield "ready"
        while got != "stop":
            if isinstance(got, Exception):
                raise got
            got = yield got

    guarded = breaker(echo)
    failing, fine = guarded(), guarded()
    assert (next(failing), failing.send("a")) == ("ready", "a")
    with pytest.raises(ConnectionError):
        failing.send(ConnectionError())
    assert breaker.fail_counter == 1
    assert next(fine) == "ready"
    assert breaker.fail_counter == 1
    with pytest.raises(StopIteration):
        fine.send("stop")
    assert breaker.fail_counter == 0


def test_a_generator_is_refused_when_it_is_made(lib: Any) -> None:
    """Not at its first step."""
    breaker = lib.CircuitBreaker()
    breaker.open()
    with pytest.raises(lib.CircuitBreakerError):
        breaker(lambda: (item for item in "abc"))()


def test_a_context_manager_over_a_guarded_generator_sees_the_error(lib: Any) -> None:
    """And may turn it into another."""
    breaker = lib.CircuitBreaker()

    def translated() -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise ValueError("translated") from error

    with pytest.raises(ValueError, match="translated"), contextlib.contextmanager(breaker(translated))():
        raise KeyError
    assert breaker.fail_counter == 1


def test_a_future_that_a_function_returns_is_handed_on(lib: Any) -> None:
    """The very object, and the call counts as good."""
    future: Future[int] = Future()
    assert lib.CircuitBreaker().call(lambda: future) is future


def test_the_storage_in_memory_keeps_what_it_is_told(lib: Any) -> None:
    """Under the attributes that tests look at."""
    storage = lib.CircuitMemoryStorage("open")
    storage.increment_counter()
    storage.increment_success_counter()
    storage.opened_at = at = datetime.now(UTC)
    kept = (storage._state, storage._fail_counter, storage._success_counter, storage._opened_at)
    assert kept == ("open", 1, 1, at)
    storage.reset_counter()
    storage.reset_success_counter()
    assert (storage.name, storage.counter, storage.success_counter) == ("memory", 0, 0)


def test_a_state_object_can_be_called_through_as_well(lib: Any) -> None:
    """It counts and raises as the breaker does."""
    breaker = lib.CircuitBreaker()
    with pytest.raises(ConnectionError):
        breaker.state.call(bad)
    assert breaker.fail_counter == 1
    assert breaker.state.call(good) == "fine"
    assert breaker.fail_counter == 0
