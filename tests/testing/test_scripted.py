"""`ScriptedDependency`, and the clock that moves by itself when somebody sleeps."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilient import CallTimeoutError, CircuitBreaker, ConfigError, State, Timeout
from resilient.testing import ScriptedDependency, VirtualClock, fail, hang, ok, slow, use_clock
from tests.waiting import wait_until


def ask(dependency: ScriptedDependency, *args: Any, is_async: bool, **kwargs: Any) -> Any:
    """One call in one colour."""
    return asyncio.run(dependency.acall(*args, **kwargs)) if is_async else dependency(*args, **kwargs)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    """The test runs once per colour."""
    return bool(request.param)


def test_steps_are_played_in_order_and_the_last_goes_on(is_async: bool) -> None:
    """Each as many times as it says."""
    dependency = ScriptedDependency(ok(1, times=2), fail(KeyError("gone")), ok(3))
    assert [ask(dependency, is_async=is_async) for _ in range(2)] == [1, 1]
    with pytest.raises(KeyError, match="gone"):
        ask(dependency, is_async=is_async)
    assert [ask(dependency, is_async=is_async) for _ in range(3)] == [3, 3, 3]


def test_a_script_may_begin_again() -> None:
    """`repeat=True`: after the last step comes the first."""
    dependency = ScriptedDependency(ok("a") * 2, ok("b"), repeat=True)
    assert "".join(dependency() for _ in range(7)) == "aabaaba"


def test_a_script_may_be_replaced_at_run_time() -> None:
    """The dependency recovers when the test says so; its record stays."""
    dependency = ScriptedDependency(fail())
    with pytest.raises(ConnectionError):
        dependency()
    dependency.play(ok("well"))
    assert dependency() == "well"
    assert len(dependency.calls) == 2


def test_calls_are_recorded_with_their_time(clock: VirtualClock, is_async: bool) -> None:
    """Who asked for what, and when."""
    dependency = ScriptedDependency(ok(), clock=clock)
    ask(dependency, "apple", size=3, is_async=is_async)
    clock.advance(2.0)
    ask(dependency, "pear", is_async=is_async)
    first, second = dependency.calls
    assert (first.args, first.kwargs, first.at) == (("apple",), {"size": 3}, 1000.0)
    assert (second.args, second.kwargs, second.at) == (("pear",), {}, 1002.0)


def test_a_slow_answer_takes_its_time_on_the_clock(is_async: bool) -> None:
    """A clock that moves by itself makes the wait short and exact."""
    clock = VirtualClock(auto=True)
    dependency = ScriptedDependency(slow(30.0, "late"), hang(100.0), clock=clock)
    assert ask(dependency, is_async=is_async) == "late"
    assert clock.monotonic() == 1030.0
    with pytest.raises(TimeoutError, match="hung for 100"):
        ask(dependency, is_async=is_async)
    assert clock.monotonic() == 1130.0


def test_calls_in_flight_are_counted(clock: VirtualClock) -> None:
    """Until they have their answer; the most at once is remembered."""
    dependency = ScriptedDependency(slow(1.0), clock=clock)
    threads = [threading.Thread(target=dependency) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: clock.waiting == 3, what="three callers that wait")
    assert (dependency.in_flight, dependency.most_in_flight) == (3, 3)
    clock.advance(1.0)
    for thread in threads:
        thread.join()
    assert (dependency.in_flight, dependency.most_in_flight) == (0, 3)
    assert repr(dependency) == "<ScriptedDependency 3 calls, 0 in flight>"


def test_each_of_many_threads_gets_one_step() -> None:
    """No step is given twice or left out."""
    dependency = ScriptedDependency(*(ok(number) for number in range(400)), repeat=True)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(dependency() for _ in range(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(400))


def test_the_same_error_raised_again_does_not_grow() -> None:
    """A script that fails for ever holds one traceback."""
    error = ConnectionError("down")
    dependency = ScriptedDependency(fail(error))
    depths = []
    for _ in range(3):
        with pytest.raises(ConnectionError) as caught:
            dependency()
        depths.append(len(caught.traceback))
    assert depths[0] == depths[1] == depths[2]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: ScriptedDependency(), "steps"),
        (lambda: ScriptedDependency(5), "steps"),  # type: ignore[arg-type]
        (lambda: ok(times=0), "times"),
        (lambda: ok() * 0, "times"),
        (lambda: slow(-1.0), "seconds"),
        (lambda: hang(float("nan")), "seconds"),
        (lambda: fail("down"), "error"),  # type: ignore[arg-type]
        (lambda: fail(int), "error"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_script_is_refused(make: Any, path: str) -> None:
    """At construction, naming what is wrong."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.path == path


# --- a clock that moves by itself -------------------------------------------------------------------------------------


def test_a_sync_timeout_fires_in_a_test_of_one_thread() -> None:
    """The worker that hangs moves the clock to the caller's limit first; then it is left behind."""
    limit = Timeout(2.0)
    for _ in range(20):
        dependency = ScriptedDependency(hang(3600.0))
        with use_clock(VirtualClock(auto=True)) as clock:
            with pytest.raises(CallTimeoutError) as caught:
                limit.call(dependency)
            assert caught.value.elapsed == 2.0
            wait_until(lambda: limit.abandoned == 0, what="the end of the call left behind")
            assert clock.monotonic() == 4600.0


async def test_tasks_wake_in_the_order_of_their_times() -> None:
    """The clock moves to the next timer, whoever asked for it, when all tasks wait."""
    clock = VirtualClock(auto=True)
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, *seconds: float) -> None:
        for wait in seconds:
            await clock.sleep_async(wait)
            seen.append((name, clock.monotonic() - 1000.0))

    await asyncio.gather(sleeper("a", 10.0, 1.0), sleeper("b", 4.0, 6.5), sleeper("c", 1.0))
    assert seen == [("c", 1.0), ("b", 4.0), ("a", 10.0), ("b", 10.5), ("a", 11.0)]


async def test_an_async_timeout_comes_before_a_longer_sleep() -> None:
    """A timer of a policy is a timer like any other."""
    with use_clock(VirtualClock(auto=True)) as clock:
        with pytest.raises(CallTimeoutError):
            await Timeout(2.0).acall(ScriptedDependency(hang()).acall)
        assert clock.monotonic() == 1002.0


def test_sleeping_threads_share_the_time() -> None:
    """Two that sleep at once do not add up."""
    clock = VirtualClock(auto=True)
    threads = [threading.Thread(target=clock.sleep, args=(seconds,)) for seconds in (5.0, 3.0, 8.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() <= 1016.0  # one after the other at most; no timer is passed twice
    assert clock.waiting == 0


def test_a_circuit_is_tripped_by_a_script() -> None:
    """A whole outage in a few lines: down for seven calls, then well."""
    dependency = ScriptedDependency(fail(times=7), ok("well"))
    with use_clock(VirtualClock(auto=True)) as clock:
        breaker = CircuitBreaker(consecutive_failures=5, open_duration=5.0, rng=lambda: 0.0)
        answers: list[str] = []
        for _ in range(50):
            try:
                answers.append(breaker.call(dependency))
            except Exception as error:
                answers.append(type(error).__name__)
            clock.sleep(1.0)
        assert (
            answers[:12]
            == ["ConnectionError"] * 5 + ["CircuitOpenError"] * 4 + ["ConnectionError"] + ["CircuitOpenError"] * 2
        )
        assert answers[-1] == "well"
        assert breaker.state is State.CLOSED
