"""What a breaker is told and what it tells: bad arguments, repr, snapshot, description, pickled errors."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigError,
    CountWindow,
    FailureInfo,
    RedisState,
    RejectedError,
    ResilienceError,
    ResilienceWarning,
    State,
    TimeWindow,
)
from resilient.testing import VirtualClock

NAN, INF = float("nan"), float("inf")


def assert_says(error: Exception, sentence: str) -> None:
    """Its text holds `sentence`; a … stands for anything."""
    assert re.search(".*".join(map(re.escape, sentence.split(" … "))), str(error)), str(error)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"failure_rate": 50}, "failure_rate must be a ratio more than 0 and at most 1, not 50; for 50 % write 0.5"),
        ({"failure_rate": 0}, "failure_rate must be a ratio more than 0 and at most 1, not 0"),
        ({"failure_rate": -0.1}, "failure_rate must be a ratio more than 0 and at most 1, not -0.1"),
        ({"failure_rate": NAN}, "failure_rate must be finite, not nan"),
        ({"failure_rate": True}, "failure_rate must be a number, not True"),
        ({"failure_rate": "0.5"}, "failure_rate must be a number, not '0.5'"),
        (
            {"slow_call_rate": 80},
            "slow_call_rate must be a ratio more than 0 and at most 1, not 80; for 80 % write 0.8",
        ),
        ({"slow_call_rate": None}, "slow_call_rate must be a number, not None"),
        ({"slow_call_rate": 0.5}, "slow_call_rate says nothing without slow_call_duration"),
        ({"slow_call_duration": 0}, "slow_call_duration must be more than 0 seconds … not 0"),
        ({"slow_call_duration": INF}, "slow_call_duration must be finite, not inf"),
        ({"minimum_calls": 0}, "minimum_calls must be at least 1, not 0"),
        ({"minimum_calls": 2.0}, "minimum_calls must be a whole number, not 2.0"),
        ({"minimum_calls": True}, "minimum_calls must be a whole number, not True"),
        ({"consecutive_failures": 0}, "consecutive_failures must be at least 1, not 0"),
        ({"open_duration": 0}, "open_duration must be more than 0 seconds … not 0"),
        ({"open_duration": -5}, "open_duration must be more than 0 seconds … not -5"),
        ({"open_duration": False}, "open_duration must be a number, not False"),
        ({"open_duration": lambda attempt: None}, "open_duration must be a number, not None"),
        ({"max_open_duration": INF}, "max_open_duration must be finite, not inf"),
        ({"half_open_probes": 0}, "half_open_probes must be at least 1, not 0"),
        ({"half_open_successes": 1.5}, "half_open_successes must be a whole number, not 1.5"),
        ({"half_open_failures": -1}, "half_open_failures must be at least 1, not -1"),
        ({"half_open_timeout": 0.0}, "half_open_timeout must be more than 0 seconds … not 0.0"),
        ({"name": ""}, "name must be text that is not empty, not ''"),
        ({"name": 7}, "name must be text that is not empty, not 7"),
        ({"window": 10}, "window must be a TimeWindow or a CountWindow, not 10"),
        ({"window": TimeWindow}, "window must be a TimeWindow or a CountWindow, not <class"),
        ({"rng": 0.5}, "rng must be a plain function that gives a float in [0, 1), not 0.5"),
        ({"on": "ValueError"}, "on must be an exception type, a tuple of them or a predicate, not 'ValueError'"),
        ({"on": (ValueError, 3)}, "on must hold exception types, not 3"),
        ({"on": KeyboardInterrupt}, "on must hold exception types, not <class 'KeyboardInterrupt'>"),
        ({"ignore": BaseException}, "ignore must hold exception types, not <class 'BaseException'>"),
        ({"on_result": True}, "on_result must be a function of the result, not True"),
        ({"causes": 1}, "causes must be True or False, not 1"),
        ({"causes": "yes"}, "causes must be True or False, not 'yes'"),
        ({"causes": None}, "causes must be True or False, not None"),
        ({"open_for": 30.0}, "open_for must be a plain function … that gives seconds or None, not 30.0"),
        ({"open_for": True}, "open_for must be a plain function … that gives seconds or None, not True"),
        ({"open_for": "wait"}, "open_for must be a plain function … that gives seconds or None, not 'wait'"),
        ({"shared": "redis://localhost"}, "shared must be a SharedState such as RedisState(url) … 'redis://localhost'"),
        ({"shared": True}, "shared must be a SharedState such as RedisState(url) … not True"),
        ({"shared": object()}, "or a storage of pybreaker's, not <object"),
        ({"shared": RedisState}, "shared must be a SharedState such as RedisState(url) … not <class"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_refused_in_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    """What was wrong, where, what is allowed; `path` names the argument."""
    with pytest.raises(ConfigError) as caught:
        CircuitBreaker(**arguments)
    assert_says(caught.value, sentence)
    assert [caught.value.path] == list(arguments)


NUMBERS = (
    "minimum_calls",
    "failure_rate",
    "consecutive_failures",
    "slow_call_duration",
    "slow_call_rate",
    "open_duration",
    "max_open_duration",
    "half_open_probes",
    "half_open_successes",
    "half_open_failures",
    "half_open_timeout",
)
NO_NUMBERS = (NAN, INF, -INF, -1, -0.5, 0, True, False, "", "5", b"5", [1], 1j)


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("path", NUMBERS)
def test_no_number_takes_what_is_none(path: str, wrong: Any) -> None:
    """NaN, infinity, less than nothing, nothing, a bool, text: name and value are in the sentence, at run time too."""
    with pytest.raises(ConfigError, match=rf"{path} must be") as caught:
        CircuitBreaker(**{path: wrong})
    assert caught.value.path == path
    assert repr(wrong) in str(caught.value)
    breaker = CircuitBreaker()
    before = breaker.settings
    with pytest.raises(ConfigError, match=rf"{path} must be"):
        breaker.configure(**{path: wrong})
    assert breaker.settings is before


@pytest.mark.parametrize("wrong", [NAN, INF, -1, 0, 0.5, True, "5", b"5"], ids=repr)
@pytest.mark.parametrize(
    "path", ["name", "window", "on", "ignore", "on_result", "causes", "open_for", "shared", "listeners", "rng"]
)
def test_nothing_else_takes_a_number_or_a_text(path: str, wrong: Any) -> None:
    """A value in the wrong place is refused where it is given, not when the first call fails."""
    fits = {("name", "5"), ("causes", True)}
    if (path, wrong) in fits and type(wrong) in {str, bool}:
        assert CircuitBreaker(**{path: wrong}).state is State.CLOSED
        return
    with pytest.raises((ConfigError, TypeError)) as caught:
        CircuitBreaker(**{path: wrong})
    if path != "listeners":
        assert isinstance(caught.value, ConfigError)
        assert caught.value.path == path


@pytest.mark.parametrize(("percent", "written"), [(50, "0.5"), (5, "0.05"), (99.9, "0.999"), (100, "1")])
@pytest.mark.parametrize("path", ["failure_rate", "slow_call_rate"])
def test_a_rate_in_percent_is_told_how_to_write_it(path: str, percent: float, written: str) -> None:
    """50 is meant as 0.5; what can not be a percentage gets no such hint."""
    places: list[Any] = [CircuitBreaker, CircuitBreaker("svc", slow_call_duration=1.0).configure]
    for refuse in places:
        with pytest.raises(ConfigError, match=rf"; for {percent:g} % write {re.escape(written)}$"):
            refuse(**{path: percent})
        with pytest.raises(ConfigError, match=r"not 101$"):
            refuse(**{path: 101})


def test_unknown_arguments_are_refused() -> None:
    """By Python itself at construction; positional ones too, but for the name."""
    with pytest.raises(TypeError, match="failure_threshold"):
        CircuitBreaker(failure_threshold=5)  # type: ignore[call-arg]  # pybreaker users may try
    with pytest.raises(TypeError, match="positional"):
        CircuitBreaker("svc", 5)  # type: ignore[arg-type, call-arg]  # what would it be?


def test_an_open_duration_that_fails_is_refused_at_once() -> None:
    """Asked for the first attempt where it is given, at run time too; then nothing has changed."""

    def broken(attempt: int) -> float:
        raise ZeroDivisionError

    breaker = CircuitBreaker()
    before = breaker.settings
    places: list[Any] = [CircuitBreaker, breaker.configure]
    for refuse in places:
        for given in (lambda attempt: "5", lambda attempt: NAN, lambda attempt: True):
            with pytest.raises(ConfigError, match="open_duration must be"):
                refuse(open_duration=given)
        with pytest.raises(ZeroDivisionError):
            refuse(open_duration=broken)
    assert breaker.settings is before


@pytest.mark.parametrize(
    ("make", "path", "sentence"),
    [
        (lambda: TimeWindow(0), "seconds", "TimeWindow: seconds must be more than 0 seconds … not 0"),
        (lambda: TimeWindow(INF), "seconds", "TimeWindow: seconds must be finite, not inf"),
        (lambda: TimeWindow(10.0, buckets=0), "buckets", "TimeWindow: buckets must be from 1 to 3,600, not 0"),
        (lambda: TimeWindow(10.0, buckets=3601), "buckets", "TimeWindow: buckets must be from 1 to 3,600, not 3601"),
        (lambda: CountWindow(0), "calls", "CountWindow: calls must be from 1 to 1,000,000, not 0"),
        (lambda: CountWindow(1_000_001), "calls", "CountWindow: calls must be from 1 to 1,000,000, not 1000001"),
    ],
)
def test_a_bad_window_is_refused_in_a_sentence(make: Any, path: str, sentence: str) -> None:
    """Where it is made."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert_says(caught.value, sentence)
    assert caught.value.path == path


def test_a_minimum_that_its_window_can_not_hold_is_refused() -> None:
    """The rates would never be judged; the same number fits."""
    with pytest.raises(ConfigError, match=r"minimum_calls \(20\) is more than the window holds \(10 calls\)") as caught:
        CircuitBreaker(window=CountWindow(10))
    assert caught.value.path == "minimum_calls"
    assert CircuitBreaker(window=CountWindow(20)).state is State.CLOSED


def test_a_breaker_that_could_never_open_is_refused() -> None:
    """With every way to open switched off."""
    with pytest.raises(ConfigError, match="would never open"):
        CircuitBreaker(failure_rate=None, consecutive_failures=None)
    assert CircuitBreaker(failure_rate=None, consecutive_failures=None, slow_call_duration=1.0).state is State.CLOSED


@pytest.mark.parametrize("seconds", [0, -1.0, NAN, INF, True, "5"])
def test_opening_for_no_time_is_refused(clock: VirtualClock, seconds: Any) -> None:
    """And changes nothing."""
    breaker = CircuitBreaker(clock=clock)
    with pytest.raises(ConfigError) as caught:
        breaker.open(seconds)
    assert (caught.value.path, breaker.state) == ("seconds", State.CLOSED)


def test_a_generator_function_is_refused_with_the_way_to_do_it() -> None:
    """Its work happens after the guarded call."""

    def numbers() -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"calling\(\)"):
        CircuitBreaker()(numbers)


def test_a_second_breaker_of_a_name_is_told_apart() -> None:
    """It is labelled `#2` and warned of once: the breaker made per call."""
    first = CircuitBreaker("db")
    with pytest.warns(ResilienceWarning, match="'db'"):
        second = CircuitBreaker("db")
    third = CircuitBreaker("db")
    assert [first.name, second.name, third.name] == ["db", "db#2", "db#3"]


def test_repr_says_what_one_asks_first(clock: VirtualClock) -> None:
    """Name, state, counts, time left."""
    breaker = CircuitBreaker("db", clock=clock, rng=lambda: 0.0)
    assert repr(breaker) == "<CircuitBreaker 'db' CLOSED>"
    breaker.acquire().success()
    assert repr(breaker) == "<CircuitBreaker 'db' CLOSED 0/1 failed>"
    for _ in range(5):
        breaker.acquire().failure()
    clock.advance(1.8)
    assert repr(breaker) == "<CircuitBreaker 'db' OPEN 5/6 failed, 3.2 s left>"
    breaker.force_open()
    assert repr(breaker) == "<CircuitBreaker 'db' FORCED_OPEN>"


def test_a_description_says_when_it_opens() -> None:
    """Each way that is on, none that is off."""
    text = str(CircuitBreaker("db", slow_call_duration=2.0, consecutive_failures=7).explain())
    assert "50% of at least 20 calls" in text
    assert "7 failures in a row" in text
    assert "100% of calls slower than 2 s" in text
    text = str(CircuitBreaker("cache", failure_rate=None).explain())
    assert "5 failures in a row" in text
    assert "%" not in text


def test_a_snapshot_adds_up(clock: VirtualClock) -> None:
    """Attempts = successes + failed + ignored + late; rates from the minimum on; the window is separate."""
    breaker = CircuitBreaker("db", minimum_calls=4, consecutive_failures=3, clock=clock, rng=lambda: 0.0)
    late = breaker.acquire()
    breaker.acquire().success()
    breaker.acquire().ignored()
    breaker.acquire().unused()
    breaker.acquire().failure()
    assert (breaker.snapshot().calls, breaker.snapshot().failure_rate) == (2, None)
    clock.advance(60.0)
    assert (breaker.snapshot().calls, breaker.snapshot().successes, breaker.snapshot().failed) == (0, 1, 1)
    for _ in range(2):
        breaker.acquire().failure()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    late.success()
    snapshot = breaker.snapshot()
    assert (snapshot.name, snapshot.state, snapshot.retry_after) == ("db", State.OPEN, 5.0)
    assert (snapshot.calls, snapshot.failures, snapshot.slow) == (2, 2, 0)
    assert (snapshot.successes, snapshot.failed, snapshot.ignored, snapshot.late) == (1, 3, 1, 1)
    assert snapshot.rejected == 1


def test_reading_changes_nothing(clock: VirtualClock) -> None:
    """State, snapshot and repr of an open circuit whose time is over leave the probe to the next caller."""
    breaker = CircuitBreaker("db", clock=clock)
    breaker.open(1.0)
    clock.advance(2.0)
    for _ in range(2):
        assert (breaker.state, breaker.snapshot().state) == (State.OPEN, State.OPEN)
        assert repr(breaker) == "<CircuitBreaker 'db' OPEN, 0.0 s left>"
    breaker.acquire()
    assert breaker.state is State.HALF_OPEN


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpenError("open", policy="db", retry_after=1.5, last_failure=FailureInfo("ValueError", "boom", 7.0)),
        CircuitOpenError("open", policy="db"),
        RejectedError("no", policy="db", retry_after=None),
        CallTimeoutError("late", policy="db", limit=1.0, elapsed=1.1, by_deadline=True),
        ConfigError("bad", path="seconds"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes_with_their_data(error: ResilienceError) -> None:
    """Pickled and copied: type, message and data; notes too."""
    error.add_note("seen by the third attempt")
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    for twin in (copy.copy(error), copy.deepcopy(error), *(pickle.loads(pickle.dumps(error, p)) for p in protocols)):
        assert type(twin) is type(error)
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def test_the_error_of_a_real_rejection_pickles(clock: VirtualClock) -> None:
    """With everything a caller in another process acts on."""
    breaker = CircuitBreaker("db", consecutive_failures=1, clock=clock, rng=lambda: 0.0)
    breaker.acquire().failure(OSError("gone"))
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (twin.policy, twin.retry_after) == ("db", 5.0)
    assert twin.last_failure == FailureInfo("OSError", "gone", 1000.0)
    assert str(twin) == "circuit 'db' is open: a call failed; last failure OSError: gone; next try in 5 s"


def test_what_would_never_be_awaited_or_made_is_refused_at_construction() -> None:
    """An async `open_for`, and the class of a listener instead of a listener, are told apart at once."""

    async def later(_told: object) -> float:
        return 1.0

    with pytest.raises(ConfigError, match="open_for must be a plain function"):
        CircuitBreaker(open_for=later)  # type: ignore[arg-type]  # refused for that

    class Listener:
        def state_change(self, *_told: object) -> None:
            """Heard."""

    with pytest.raises(TypeError, match=r"not its class: write Listener\(\)"):
        CircuitBreaker(listeners=[Listener])
