"""What a command counts."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import CircuitBreaker, CircuitOpenError, Command, Fallback, StaleCache
from resilient.command_metrics import ANSWERED, FAILED, Metrics
from resilient.decorator import command
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock, disabled

Colour = Callable[[Callable[..., Any]], Callable[..., Any]]


def as_sync(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


def as_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def afn(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return afn


def run(fn: Callable[..., Any], *args: Any) -> Any:
    found = fn(*args)
    return asyncio.run(found) if asyncio.iscoroutine(found) else found


def fail(error: BaseException | None) -> str:
    if error is not None:
        raise error
    return "answer"


@pytest.fixture(params=[as_sync, as_async], ids=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Colour:
    found: Colour = request.param
    return found


def counts(fn: Callable[..., Any]) -> dict[str, int]:
    """The counts that are not zero."""
    found = Command.of(fn).snapshot()
    recent = {name: count for name, count in found.recent.items() if count}
    totals = {name: count for name, count in found.as_dict().items() if name in found.recent and count}
    assert totals == recent
    return totals


class HttpNotFoundError(Exception):
    def __init__(self) -> None:
        self.response = type("Response", (), {"status_code": 404})()


class TestCounts:
    """Once per caller's call."""

    def test_answers_failures_and_rejections_are_told_apart(self, colour: Colour) -> None:
        """Rule 35: a call counts when it ends, by what it ended with."""
        fn = command("kinds", breaker=CircuitBreaker(consecutive_failures=1))(colour(fail))
        assert run(fn, None) == "answer"
        with pytest.raises(ConnectionError):
            run(fn, ConnectionError())
        with pytest.raises(CircuitOpenError):
            run(fn, None)
        assert counts(fn) == {"calls": 3, "successes": 1, "failures": 1, "rejections": 1}

    def test_what_says_nothing_is_ignored(self, colour: Colour) -> None:
        """A matching `ignore`, a cancellation; and it is not among the calls that failed."""
        fn = command("ignored", ignore=KeyError)(colour(fail))
        with pytest.raises(KeyError):
            run(fn, KeyError())
        with pytest.raises(asyncio.CancelledError):
            run(fn, asyncio.CancelledError())
        assert counts(fn) == {"calls": 2, "ignored": 2}

    def test_the_callers_own_mistake_is_an_answer(self, colour: Colour) -> None:
        """Rule 1: a 404 shows that the dependency answered."""
        fn = command("mistaken")(colour(fail))
        with pytest.raises(HttpNotFoundError):
            run(fn, HttpNotFoundError())
        assert counts(fn) == {"calls": 1, "successes": 1}

    def test_a_timeout_is_a_failure_and_marked(self) -> None:
        """`timeouts` are among the failures."""

        @command("slow", timeout=0.01)
        async def fn() -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            asyncio.run(fn())
        assert counts(fn) == {"calls": 1, "failures": 1, "timeouts": 1}

    def test_attempts_are_one_call(self, colour: Colour) -> None:
        """Rule 35: a command counts its callers' calls, its breaker the attempts."""
        answers = [ConnectionError(), ConnectionError(), None]

        def fn() -> str:
            return fail(answers.pop(0))

        guarded = command("attempted", retry=Retry(attempts=3, wait=0.0))(colour(fn))
        assert run(guarded) == "answer"
        assert counts(guarded) == {"calls": 1, "successes": 1}


class TestFallbacks:
    """A fallback's answer counts as what made it necessary, marked."""

    def test_each_trigger_is_counted_and_marked(self, colour: Colour) -> None:
        """Rule 35: a failure and a rejection, both answered by the fallback."""
        settings: dict[str, Any] = {"breaker": CircuitBreaker(consecutive_failures=1)}
        fn = command("answered", fallback=Fallback(value="instead"), **settings)(colour(fail))
        assert [run(fn, None), run(fn, ConnectionError()), run(fn, None)] == ["answer", "instead", "instead"]
        assert counts(fn) == {"calls": 3, "successes": 1, "failures": 1, "rejections": 1, "fallbacks": 2}

    def test_an_error_that_gets_no_fallback_is_not_marked(self, colour: Colour) -> None:
        """Ignored errors and the caller's own mistakes leave as they are."""
        fn = command("left", fallback=Fallback(value="instead"), ignore=KeyError)(colour(fail))
        for error in (KeyError(), HttpNotFoundError()):
            with pytest.raises(type(error)):
                run(fn, error)
        assert counts(fn) == {"calls": 2, "successes": 1, "ignored": 1}

    def test_a_fallback_that_fails_is_not_marked(self, colour: Colour) -> None:
        """Nobody was answered."""

        def broken(error: BaseException | None) -> str:
            raise ValueError("no answer either")

        fn = command("broken", fallback=broken)(colour(fail))
        with pytest.raises(ValueError, match="no answer either"):
            run(fn, ConnectionError())
        assert counts(fn) == {"calls": 1, "failures": 1}
        assert Command.of(fn).metrics.notes == {}

    def test_a_bad_result_is_a_failure_whether_it_is_replaced_or_not(self, colour: Colour) -> None:
        """`on_result`: marked when the fallback answered, and not when it knew no answer."""
        bad: Any = {"on_result": lambda found: found == "bad"}
        replaced = command("replaced", fallback=Fallback(value="instead"), **bad)(colour(lambda found: found))
        assert run(replaced, "bad") == "instead"
        assert counts(replaced) == {"calls": 1, "failures": 1, "fallbacks": 1}
        kept = command("kept", fallback=StaleCache(), **bad)(colour(lambda found: found))
        assert run(kept, "bad") == "bad"
        assert counts(kept) == {"calls": 1, "failures": 1}
        without = command("without", **bad)(colour(lambda found: found))
        assert run(without, "bad") == "bad"
        assert counts(without) == {"calls": 1, "failures": 1}

    def test_a_command_that_calls_itself_is_counted_per_call(self) -> None:
        """The notes of nested calls are not mixed up."""

        @command("nested", fallback=Fallback(value=0), breaker=None)
        def fn(depth: int) -> int:
            if depth:
                return fn(depth - 1) + 1
            raise ConnectionError

        assert fn(3) == 3
        assert counts(fn) == {"calls": 4, "successes": 3, "failures": 1, "fallbacks": 1}


class TestLatency:
    """Of the last ten seconds."""

    def test_percentiles_are_those_of_the_calls(self, clock: VirtualClock) -> None:
        """Nearest rank: of 100 calls the 99th percentile is the second slowest."""

        @command("timed", clock=clock)
        def fn(seconds: float) -> None:
            clock.advance(seconds)

        for milliseconds in range(1, 101):
            fn(milliseconds / 1000)
        found = Command.of(fn).snapshot()
        assert {at: round(seconds, 6) for at, seconds in found.latency.items()} == {
            0.0: 0.001,
            25.0: 0.025,
            50.0: 0.05,
            75.0: 0.075,
            90.0: 0.09,
            95.0: 0.095,
            99.0: 0.099,
            99.5: 0.1,
            100.0: 0.1,
        }
        assert found.latency_mean == pytest.approx(0.0505)

    def test_they_leave_after_ten_seconds_and_totals_stay(self, clock: VirtualClock) -> None:
        """Also when nobody calls meanwhile: reading looks at the time."""

        @command("leaving", clock=clock)
        def fn() -> None:
            clock.advance(0.25)

        fn()
        clock.advance(8.0)
        assert Command.of(fn).snapshot().recent["calls"] == 1
        clock.advance(2.0)
        found = Command.of(fn).snapshot()
        assert (found.calls, found.recent["calls"], found.latency, found.latency_mean) == (1, 0, {}, None)

    def test_refused_calls_do_not_make_it_look_fast(self, clock: VirtualClock) -> None:
        """An open circuit answers in a microsecond: that is no latency of the dependency; a failure's is."""
        breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

        @command("refused", breaker=breaker, clock=clock)
        def fn() -> None:
            clock.advance(0.5)
            raise ConnectionError

        for error in (ConnectionError, CircuitOpenError, CircuitOpenError):
            with pytest.raises(error):
                fn()
        assert set(Command.of(fn).snapshot().latency.values()) == {0.5}

    @given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200))
    def test_any_percentile_is_the_latency_of_a_call_and_they_ascend(self, latencies: list[float]) -> None:
        """For whatever calls, in any number of seconds."""
        clock = VirtualClock()
        metrics = Metrics(clock)
        for number, latency in enumerate(latencies):
            clock.advance(0.01)
            metrics.ended(ANSWERED if number % 3 else FAILED, latency, clock.monotonic())
        found = list(metrics.snapshot("any", "", None).latency.values())
        assert set(found) <= set(latencies)
        assert found == sorted(found)
        assert (found[0], found[-1]) == (min(latencies), max(latencies))

    def test_many_calls_in_a_second_take_bounded_memory(self, clock: VirtualClock) -> None:
        """One of n is kept and stands for n."""
        metrics = Metrics(clock)
        metrics.pending.extend(number / 100_000 for number in range(100_000))
        clock.advance(1.0)
        metrics.roll(clock.monotonic())
        assert sum(len(kept) for one in metrics._seconds for kept, _ in one.kept) <= 1_000
        found = metrics.snapshot("many", "", None)
        assert found.successes == 100_000
        assert found.latency[99.0] == pytest.approx(0.99, abs=0.005)
        assert found.latency[100.0] == 0.99999

    def test_failures_weigh_as_much_as_successes(self, clock: VirtualClock) -> None:
        """However many successes are left out: 500 slow failures beside 9,500 successes are 5 %."""
        metrics = Metrics(clock)
        for _ in range(500):
            metrics.pending.extend([0.001] * 19)
            metrics.ended(FAILED, 1.0, clock.monotonic())
        found = metrics.snapshot("mixed", "", None)
        assert (found.latency[90.0], found.latency[99.0]) == (0.001, 1.0)

    def test_calls_that_take_turns_are_seen_alike(self, clock: VirtualClock) -> None:
        """Quick, slow, quick, slow: each second one of them would be of one sort."""
        metrics = Metrics(clock)
        metrics.pending.extend([0.001, 1.0] * 1_000)
        found = metrics.snapshot("turns", "", None)
        assert (found.latency[25.0], found.latency[75.0]) == (0.001, 1.0)


class TestSafety:
    """Counting is exact."""

    def test_threads_lose_no_call(self) -> None:
        """8 threads, 4,000 calls each, with seconds that end and readers in between."""
        clock = VirtualClock()

        @command("crowd", breaker=None, clock=clock)
        def fn(number: int) -> None:
            if number % 4 == 0:
                raise ConnectionError

        def calls() -> None:
            for number in range(4_000):
                if number % 500 == 0:
                    clock.advance(0.3)
                    Command.of(fn).snapshot()
                try:
                    fn(number)
                except ConnectionError:
                    continue

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=calls) for _ in range(8)]
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        found = Command.of(fn).snapshot()
        assert (found.calls, found.successes, found.failures) == (32_000, 24_000, 8_000)

    def test_a_snapshot_is_plain_data(self) -> None:
        """It pickles, and as a dict it is JSON."""

        @command("plain")
        def fn() -> None: ...

        fn()
        found = Command.of(fn).snapshot()
        assert pickle.loads(pickle.dumps(found)) == found
        read = json.loads(json.dumps(found.as_dict()))
        assert read["breaker"]["state"] == "closed"
        assert sorted(read["latency"]) == ["0", "100", "25", "50", "75", "90", "95", "99", "99.5"]

    def test_reset_begins_at_zero(self) -> None:
        """Counts, latencies and the breaker."""

        @command("anew", breaker=CircuitBreaker(consecutive_failures=1))
        def fn() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            fn()
        Command.of(fn).reset()
        found = Command.of(fn).snapshot()
        assert (found.calls, found.recent["calls"], found.latency) == (0, 0, {})
        with pytest.raises(ConnectionError):
            fn()

    def test_nothing_is_counted_while_tests_have_switched_policies_off(self, colour: Colour) -> None:
        """The function is called as if it were undecorated."""
        fn = command("off", fallback=Fallback(value="instead"))(colour(fail))
        with disabled(), pytest.raises(ConnectionError):
            run(fn, ConnectionError())
        assert counts(fn) == {}
        assert run(fn, ConnectionError()) == "instead"
        assert counts(fn) == {"calls": 1, "failures": 1, "fallbacks": 1}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
    def test_a_forked_child_counts_from_zero_and_never_waits_for_the_parents_lock(self) -> None:
        """Prefork servers: the parent's calls are the parent's."""

        @command("forked")
        def fn() -> None: ...

        fn()
        metrics = Command.of(fn).metrics
        with metrics._lock:
            child = os.fork()
            if child == 0:
                fn()
                os._exit(Command.of(fn).snapshot().calls)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
