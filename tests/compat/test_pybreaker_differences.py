"""Where the drop-in is better than pybreaker: calls side by side, one trial, listeners and exclusions that are safe."""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest

from resilient.compat.pybreaker import CircuitBreaker, CircuitBreakerError
from tests.compat.both import bad, expired, good, in_thread, refused, tripped

# --- no lock around the call ----------------------------------------------------------------------------------------


def test_calls_run_side_by_side() -> None:
    """Sixteen calls meet inside the guarded function: each waits there until all have come."""
    breaker, meeting = CircuitBreaker(), threading.Barrier(16)
    threads = [threading.Thread(target=breaker.call, args=(meeting.wait, 5)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert (meeting.broken, breaker.fail_counter) == (False, 0)


def test_results_of_calls_from_before_the_trip_are_dropped() -> None:
    """Neither a late failure counts on, nor does a late success close; both reach their callers."""
    breaker, meeting = CircuitBreaker(fail_max=1), threading.Barrier(3)
    seen: list[str] = []

    def late(error: Exception | None) -> None:
        meeting.wait(5)
        meeting.wait(5)
        if error:
            raise error

    def call(error: Exception | None) -> None:
        try:
            breaker.call(late, error)
            seen.append("good")
        except ConnectionError:
            seen.append("its own error")

    threads = [in_thread(lambda: call(None)), in_thread(lambda: call(ConnectionError()))]
    meeting.wait(5)
    tripped(pybreaker, breaker)
    meeting.wait(5)
    for thread in threads:
        thread.join(5)
    assert sorted(seen) == ["good", "its own error"]
    assert (breaker.current_state, breaker.fail_counter) == ("open", 1)


def test_threads_that_fail_never_count_beyond_the_threshold() -> None:
    """3 threads x 500 failing calls end exactly at `fail_max`."""
    breaker = CircuitBreaker(fail_max=300)

    def fail() -> None:
        for _ in range(500):
            with contextlib.suppress(ConnectionError, CircuitBreakerError):
                breaker.call(bad)

    for thread in [in_thread(fail) for _ in range(3)]:
        thread.join(10)
    assert (breaker.fail_counter, breaker.current_state) == (300, "open")


def test_listeners_and_counters_are_atomic() -> None:
    """Read, let others run, write: no update is lost, for they are called under the lock."""

    class Count(pybreaker.CircuitBreakerListener):
        total = 0

        def success(self, cb: Any) -> None:
            total = self.total
            time.sleep(0)
            self.total = total + 1

    count = Count()
    breaker = CircuitBreaker(listeners=[count])
    for thread in [in_thread(lambda: [breaker.call(good) for _ in range(500)]) for _ in range(3)]:
        thread.join(10)
    assert count.total == 1500


# --- no verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_is_no_verdict(kind: type[BaseException]) -> None:
    """Not counted; a trial gives its place back."""
    breaker = CircuitBreaker(fail_max=1)

    def stop() -> None:
        raise kind

    with pytest.raises(kind):
        breaker.call(stop)
    assert breaker.fail_counter == 0
    expired(breaker)
    with pytest.raises(kind):
        breaker.call(stop)
    assert breaker.current_state == "half-open"
    assert breaker.call(good) == "fine"


def test_another_base_exception_is_a_failure() -> None:
    """gevent.Timeout is one: it means that the dependency did not answer."""

    class Timeout(BaseException):
        pass

    def time_out() -> None:
        raise Timeout

    breaker = CircuitBreaker()
    with pytest.raises(Timeout):
        breaker.call(time_out)
    assert breaker.fail_counter == 1


def test_a_generator_closed_early_is_no_failure() -> None:
    """Its consumer has had enough; it is cleaned up."""
    breaker, seen = CircuitBreaker(fail_max=1), []

    @breaker
    def rows() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            seen.append("closed")

    for prepare in (breaker.close, lambda: expired(breaker)):
        prepare()
        generator = rows()
        assert next(generator) == 0
        generator.close()  # type: ignore[attr-defined]  # typed as an iterator
    assert (breaker.fail_counter, seen, breaker.call(good)) == (0, ["closed"] * 2, "fine")


@pytest.mark.parametrize("half_open", [False, True])
def test_a_generator_may_handle_what_is_thrown_into_it(half_open: bool) -> None:
    """What leaves it is counted, not what went in."""
    breaker = CircuitBreaker()
    if half_open:
        expired(breaker)

    @contextlib.contextmanager
    @breaker
    def tolerant() -> Iterator[None]:
        with contextlib.suppress(KeyError):
            yield

    with tolerant():
        raise KeyError
    assert (breaker.fail_counter, breaker.current_state) == (0, "closed")


# --- listeners, exclusions ------------------------------------------------------------------------------------------


class Broken(pybreaker.CircuitBreakerListener):
    """Raises whatever it is told."""

    def success(self, cb: Any) -> None:
        raise RuntimeError("broken listener")

    def failure(self, cb: Any, exc: BaseException) -> None:
        raise RuntimeError("broken listener")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        raise RuntimeError("broken listener")


def test_a_listener_that_raises_changes_neither_outcome_nor_trip(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the other listeners hear of it all the same."""
    heard: list[str] = []

    class Hears(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            heard.append(new_state.name)

    breaker = CircuitBreaker(fail_max=1, name="svc", listeners=[Broken(), Hears()])
    with caplog.at_level(logging.ERROR, logger="resilient"):
        assert breaker.call(good) == "fine"
        tripped(pybreaker, breaker)
        breaker.half_open()
        breaker.close()
    assert (breaker.current_state, breaker.fail_counter, heard) == ("closed", 0, ["open", "half-open", "closed"])
    assert {record.getMessage() for record in caplog.records} == {"circuit 'svc': its listener Broken raised"}
    assert len(caplog.records) == 5


def test_an_exception_class_with_a_metaclass_is_excluded_as_a_class() -> None:
    """It is no predicate that excludes everything."""

    class Business(Exception, metaclass=abc.ABCMeta):
        pass

    breaker = CircuitBreaker(exclude=[Business])
    assert not breaker.is_system_error(Business())
    assert breaker.is_system_error(ConnectionError())


def test_an_exclusion_that_is_neither_class_nor_predicate_excludes_nothing() -> None:
    """As in pybreaker."""
    mistake: Any = None
    breaker = CircuitBreaker(exclude=[mistake])
    assert breaker.is_system_error(ConnectionError())


# --- storages -------------------------------------------------------------------------------------------------------


def test_a_time_of_opening_without_a_zone_is_taken_for_utc() -> None:
    """Some storages lose the zone."""
    storage = pybreaker.CircuitMemoryStorage("open")
    storage.opened_at = datetime.now(UTC).replace(tzinfo=None)
    breaker = CircuitBreaker(state_storage=storage)
    assert (refused(breaker).retry_after or 0) > 58
    storage.opened_at = (datetime.now(UTC) - timedelta(minutes=2)).replace(tzinfo=None)
    assert breaker.call(good) == "fine"


def test_a_storage_that_stays_open_refuses() -> None:
    """One that takes nothing and says "open": pybreaker calls itself until the stack is full."""

    class Stuck(pybreaker.CircuitMemoryStorage):
        @property
        def state(self) -> str:
            return "open"

        @state.setter
        def state(self, state: str) -> None:
            pass

    error = refused(CircuitBreaker(state_storage=Stuck("open")))
    assert (str(error), error.retry_after) == ("Timeout not elapsed yet, circuit breaker still open", None)
