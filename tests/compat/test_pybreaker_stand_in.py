"""The drop-in under pybreaker's name: imports, patches, errors, types."""

from __future__ import annotations

import pickle
import subprocess
import sys
from datetime import UTC, datetime
from unittest import mock

import pybreaker
import pytest

import resilient
from resilient.compat import pybreaker as ours
from tests.compat.both import bad, expired, good, tripped

PUBLIC = [name for name in vars(pybreaker) if not name.startswith("_")]


@pytest.fixture
def alias(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import pybreaker` gives the drop-in."""
    monkeypatch.setitem(sys.modules, "pybreaker", ours)


def test_every_public_name_of_pybreaker_is_there() -> None:
    """What it defines, and what `import *` takes."""
    defined = [name for name in PUBLIC if getattr(vars(pybreaker)[name], "__module__", "pybreaker") == "pybreaker"]
    own = [name for name in defined if name.startswith(("Circuit", "STATE_", "HAS_", "CB"))]
    assert [
        name for name in [*own, "T", "ExceptionType", "datetime", "timedelta", "UTC"] if not hasattr(ours, name)
    ] == []
    assert len(own) >= 15
    assert set(ours.__all__) == set(pybreaker.__all__)


def test_it_stands_in_by_name() -> None:
    """In a fresh interpreter: alias, plain import, `import *`, a guarded call."""
    code = """
import sys, resilient.compat.pybreaker
sys.modules["pybreaker"] = resilient.compat.pybreaker
import pybreaker
from pybreaker import *
breaker = CircuitBreaker(fail_max=1)
try:
    breaker.call(lambda: 1 / 0)
except pybreaker.CircuitBreakerError as error:
    print(type(breaker).__module__, type(error).__mro__[1].__module__, STATE_OPEN, breaker.current_state)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["resilient.compat.pybreaker", "pybreaker", "open", "open"]


@pytest.mark.usefixtures("alias")
def test_state_classes_can_be_patched_under_that_name() -> None:
    """They are looked up when they are needed, and called as pybreaker calls them."""
    with mock.patch("pybreaker.CircuitOpenState") as kind:
        stored = ours.CircuitBreaker(state_storage=ours.CircuitMemoryStorage("open"))
        kind.assert_called_once_with(stored, prev_state=None, notify=False)
    with mock.patch("pybreaker.CircuitOpenState") as kind:
        breaker = ours.CircuitBreaker()
        before = breaker.state
        breaker.state = "open"
        kind.assert_called_once_with(breaker, prev_state=before, notify=True)


@pytest.mark.usefixtures("alias")
def test_time_can_be_patched_under_that_name() -> None:
    """Tests of open times do it."""
    breaker = ours.CircuitBreaker(reset_timeout=60)
    with mock.patch("pybreaker.datetime") as when:
        when.now.return_value = datetime(2026, 1, 1, 0, 0, 0, tzinfo=UTC)
        breaker.open()
        with pytest.raises(ours.CircuitBreakerError):
            breaker.call(good)
        when.now.return_value = datetime(2026, 1, 1, 0, 1, 0, tzinfo=UTC)
        assert breaker.call(good) == "fine"


@pytest.mark.usefixtures("alias")
def test_without_tornado_its_ways_say_so() -> None:
    """ImportError, from the decorator and from `call_async`."""
    with mock.patch("pybreaker.HAS_TORNADO_SUPPORT", False):  # what is patched, then what fails
        with pytest.raises(ImportError, match="tornado"):
            ours.CircuitBreaker()(good, __pybreaker_call_async=True)
        with pytest.raises(ImportError, match="tornado"):
            ours.CircuitBreaker().call_async(good)


@pytest.mark.usefixtures("alias")
def test_without_redis_its_storage_says_so() -> None:
    """ImportError at construction."""
    with mock.patch("pybreaker.HAS_REDIS_SUPPORT", False), pytest.raises(ImportError, match="dependencies"):
        ours.CircuitRedisStorage("closed", None)


def test_objects_are_pybreakers_too() -> None:
    """`isinstance` in users' code keeps working."""
    breaker = ours.CircuitBreaker()
    assert isinstance(breaker, pybreaker.CircuitBreaker)
    assert isinstance(breaker.state, pybreaker.CircuitClosedState)
    breaker.half_open()
    assert isinstance(breaker.state, pybreaker.CircuitHalfOpenState)
    breaker.open()
    assert isinstance(breaker.state, (pybreaker.CircuitOpenState, ours.CircuitBreakerState))
    assert issubclass(ours.CircuitRedisStorage, pybreaker.CircuitRedisStorage)
    assert ours.CircuitBreakerListener is pybreaker.CircuitBreakerListener
    assert ours.CircuitMemoryStorage is pybreaker.CircuitMemoryStorage


@pytest.mark.parametrize("kind", [pybreaker.CircuitBreakerError, resilient.CircuitOpenError, resilient.RejectedError])
def test_refusals_are_caught_by_both_names(kind: type[Exception]) -> None:
    """`except` of either library."""
    breaker = ours.CircuitBreaker()
    breaker.open()
    with pytest.raises(kind, match="^Timeout not elapsed yet, circuit breaker still open$"):
        breaker.call(good)


def test_errors_say_who_refused_until_when_and_why() -> None:
    """The trip and each refusal after it."""
    breaker = ours.CircuitBreaker(fail_max=1, reset_timeout=30, name="prices")
    trip = tripped(pybreaker, breaker)
    with pytest.raises(ours.CircuitBreakerError) as caught:
        breaker.call(good)
    refusal = caught.value
    assert (trip.policy, trip.retry_after, trip.last_failure.kind) == ("prices", 30, "ConnectionError")
    assert refusal.policy == "prices"
    assert refusal.retry_after == pytest.approx(30, abs=5)
    assert refusal.last_failure == trip.last_failure


def test_opened_by_hand_there_is_no_last_failure() -> None:
    """Nor the one of an earlier trip."""
    breaker = ours.CircuitBreaker(fail_max=1)
    tripped(pybreaker, breaker)
    breaker.close()
    breaker.open()
    with pytest.raises(ours.CircuitBreakerError) as caught:
        breaker.call(good)
    assert (caught.value.last_failure, caught.value.policy) == (None, "circuit_breaker")


def test_a_failed_trial_replaces_the_last_failure() -> None:
    """The error of the trial is what keeps it open."""
    breaker = ours.CircuitBreaker()
    expired(breaker)
    with pytest.raises(ours.CircuitBreakerError) as caught:
        breaker.call(bad)
    assert caught.value.last_failure is not None
    assert caught.value.last_failure.message == "down"


def test_errors_cross_processes() -> None:
    """Pickled with their data."""
    error = tripped(pybreaker, ours.CircuitBreaker(fail_max=1, name="svc"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ours.CircuitBreakerError
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_an_error_can_be_made_as_pybreakers_can() -> None:
    """Tests of users raise it themselves."""
    assert (ours.CircuitBreakerError().args, ours.CircuitBreakerError("a", 1).args) == ((), ("a", 1))
