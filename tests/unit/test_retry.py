"""Retries: arguments, the sans-IO decision, what they explain, what they leave behind, and settings that change."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest
import tenacity

from resilient import CircuitOpenError, ConfigError, Deadline
from resilient.policies.retry import Retry
from resilient.policies.retry_settings import Settings
from tests.drive import Drive
from tests.jumping import JumpingClock, Script


@pytest.fixture
def clock() -> JumpingClock:
    """Time that sleeps move on."""
    return JumpingClock()


class TestArguments:
    """Checked where they are given."""

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({"attempts": 0}, "from 1 to 1,000,000, not 0"),
            ({"attempts": True}, "a whole number"),
            ({"attempts": 2.0}, "a whole number"),
            ({"attempts": 2_000_000}, "from 1 to 1,000,000"),
            ({"wait": True}, "a number"),
            ({"wait": math.nan}, "finite"),
            ({"wait": -1}, "at least 0"),
            ({"wait": 1e300}, "at most"),
            ({"wait": "1s"}, "a number"),
            ({"wait": tenacity.wait_fixed}, r"made first: wait_fixed\(...\)"),
            ({"wait": asyncio.sleep}, "is async"),
            ({"stop": 3}, "a number of attempts is attempts=, of seconds total="),
            ({"stop": True}, "stop must be"),
            ({"stop": math.nan}, "stop must be"),
            ({"stop": tenacity.stop_after_attempt}, "made first"),
            ({"stop": asyncio.sleep}, "is async"),
            ({"total": 0}, "more than 0"),
            ({"total": math.inf}, "finite"),
            ({"max_retry_after": -3}, "more than 0"),
            ({"on": BaseException}, "exception types"),
            ({"ignore": "nothing"}, "ignore must be"),
            ({"on_result": 200}, "on_result must be"),
            ({"budget": 0.2}, "budget must be a RetryBudget"),
            ({"rng": 0.5}, "rng must be a function"),
            ({"name": ""}, "name must be text"),
            ({"name": tenacity.Retrying()}, r"Retry\.of"),
        ],
    )
    def test_bad_ones_are_refused(self, arguments: dict[str, Any], told: str) -> None:
        """With the value and what is allowed."""
        with pytest.raises(ConfigError, match=told):
            Retry(**arguments)

    def test_async_listeners_are_refused(self) -> None:
        """Nobody would await them."""

        async def hear(_event: object) -> None: ...

        with pytest.raises(TypeError, match="async"):
            Retry(listeners=[hear])

    def test_defaults(self) -> None:
        """3 attempts, 30 s of Retry-After, a budget of 20 % in 10 s, or 3 at once."""
        retry = Retry()
        assert retry.settings == Settings(None, None, None, None, 30.0)
        assert (retry.name, retry.settings.most) == ("retry", 3)
        budget = retry.budget
        assert (budget.ratio, budget.minimum_in_flight, budget.window) == (0.2, 3, 10.0)
        assert Retry().budget is not budget

    def test_a_stop_replaces_the_default_number_of_attempts(self) -> None:
        """`stop` alone decides; together with `attempts` the first of them."""
        five = tenacity.stop_after_attempt(5)
        assert Retry(stop=five).settings.most == 5
        assert Retry(stop=five, attempts=4).settings.most == 4
        assert Retry(stop=tenacity.stop_any(five, tenacity.stop_after_delay(3))).settings.most == 5
        assert Retry(stop=tenacity.stop_all(five, tenacity.stop_after_attempt(2))).settings.most == 5
        assert not Retry(stop=tenacity.stop_all(five, tenacity.stop_after_delay(3))).settings.bounded
        assert not Retry(stop=lambda _state: False).settings.bounded

    def test_repr_reads_like_the_call(self) -> None:
        """What was given."""
        assert repr(Retry("svc", attempts=5, wait=0.5, total=3.0)) == "Retry('svc', attempts=5, wait=0.5, total=3.0)"
        assert repr(Retry(stop=tenacity.stop_after_delay(5))) == "Retry(stop=stop_after_delay(...))"


class TestDelay:
    """The decision alone."""

    def test_it_says_how_long_or_none(self, clock: JumpingClock) -> None:
        """Seconds while there is another attempt; it does nothing by itself."""
        retry = Retry(attempts=3, clock=clock, rng=lambda: 0.5)
        error = ConnectionError()
        assert [retry.delay(n, error) for n in (1, 2, 3)] == [0.05, 0.1, None]
        assert (clock.slept, retry.budget.snapshot().retries) == ([], 0)

    def test_it_judges(self, clock: JumpingClock) -> None:
        """Errors by `on`, results by `on_result`; without it a result that is handed in is a failure."""
        retry = Retry(on=ConnectionError, wait=1.0, clock=clock)
        assert retry.delay(1, ValueError()) is None
        assert retry.delay(1, KeyboardInterrupt()) is None
        assert retry.delay(1, CircuitOpenError(policy="x")) is None
        assert retry.delay(1, httpx.Response(503)) == 1.0
        assert retry.delay(1, httpx.Response(503, headers={"Retry-After": "7"})) == 7.0
        picky = Retry(on_result=lambda found: found is None, wait=1.0, clock=clock)
        assert (picky.delay(1, None), picky.delay(1, "fine")) == (1.0, None)

    def test_it_knows_the_time(self, clock: JumpingClock) -> None:
        """`total` by what has passed, the caller's deadline, tenacity's stops."""
        error = ConnectionError()
        assert Retry(total=5.0, wait=1.0, clock=clock).delay(1, error, elapsed=3.9) == 1.0
        assert Retry(total=5.0, wait=1.0, clock=clock).delay(1, error, elapsed=4.0) is None
        stopping = Retry(stop=tenacity.stop_after_delay(2), wait=1.0, clock=clock)
        assert (stopping.delay(1, error, elapsed=1.9), stopping.delay(1, error, elapsed=2.0)) == (1.0, None)
        with Deadline(1.0, clock=clock):
            assert Retry(wait=0.9, clock=clock).delay(1, error) == 0.9
            assert Retry(wait=1.0, clock=clock).delay(1, error) is None

    def test_tenacitys_objects_decide(self, clock: JumpingClock) -> None:
        """A retry object given as `on` is asked with a state of its own."""
        retry = Retry(on=tenacity.retry_if_exception_message(match="again"), wait=1.0, clock=clock)
        assert retry.delay(1, ValueError("again please")) == 1.0
        assert retry.delay(1, ValueError("never")) is None

    @pytest.mark.parametrize("attempt", [0, True, 1.0])
    def test_attempts_are_counted_from_one(self, attempt: Any) -> None:
        """Anything else is a mistake of the caller."""
        with pytest.raises(ConfigError):
            Retry().delay(attempt, ConnectionError())


class TestUsersFunctions:
    """What they raise, or answer, hurts nobody."""

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"wait": lambda _state: -1}, "wait= gave -1"),
            ({"wait": lambda _state: math.nan}, "wait= gave nan"),
            ({"wait": lambda _state: math.inf}, "wait= gave inf"),
            ({"wait": lambda _state: None}, "raised TypeError"),
            ({"wait": lambda state: state.outcome.result()}, "raised ConnectionError"),
            ({"wait": lambda _state: 1 // 0}, "raised ZeroDivisionError"),
            ({"stop": lambda _state: 1 // 0}, "raised ZeroDivisionError"),
            ({"rng": lambda: 1 // 0}, "raised ZeroDivisionError"),
        ],
    )
    def test_a_wait_or_stop_that_is_broken_ends_it(
        self, drive: Drive, clock: JumpingClock, settings: dict[str, Any], told: str
    ) -> None:
        """The caller sees the call's own error, and why it was not repeated."""
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError) as caught:
            drive(Retry(clock=clock, **settings), call)
        assert call.calls == 1
        assert told in caught.value.__notes__[0]

    def test_a_chance_out_of_range_is_cut(self, clock: JumpingClock) -> None:
        """No wait is longer than the cap, or negative."""
        chances = iter([7.0, -1.0])
        retry = Retry(rng=lambda: next(chances), clock=clock)
        assert [retry.delay(1, ConnectionError()) for _ in range(2)] == [0.1, 0.0]

    def test_a_predicate_that_raises_repeats_nothing(self, drive: Drive, clock: JumpingClock) -> None:
        """It is logged, and the call's own error leaves."""
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError):
            drive(Retry(on=lambda _error: bool(1 // 0), clock=clock), call)
        assert call.calls == 1

    def test_the_state_is_tenacitys(self, drive: Drive, clock: JumpingClock) -> None:
        """A function sees attempt, outcome, arguments, elapsed and idle time, and is called once per attempt."""
        seen: list[tuple[object, ...]] = []

        def wait(state: tenacity.RetryCallState) -> float:
            assert state.outcome is not None
            seen.append(
                (
                    state.attempt_number,
                    str(state.outcome.exception()),
                    state.args,
                    state.seconds_since_start,
                    state.idle_for,
                )
            )
            return 2.0

        call = Script(ConnectionError)
        with pytest.raises(ConnectionError):
            drive(Retry(wait=wait, clock=clock), lambda _argument: call(), "x")
        assert seen == [(1, "attempt 1", ("x",), 0.0, 0.0), (2, "attempt 2", ("x",), 2.0, 2.0)]

    def test_a_listener_that_raises_changes_nothing(self, drive: Drive, clock: JumpingClock) -> None:
        """It is logged."""

        def hear(_event: object) -> None:
            raise RuntimeError

        assert drive(Retry(listeners=[hear], clock=clock), Script(ConnectionError, "fine")) == "fine"


class TestColours:
    """One object, functions and async functions."""

    def test_a_function_that_returns_an_awaitable_is_refused(self, clock: JumpingClock) -> None:
        """At its first call, also when that is a repeated attempt; it is not repeated."""

        async def work() -> None: ...

        def returns_future() -> object:
            calls.append(1)
            return asyncio_future

        calls: list[int] = []
        loop = asyncio.new_event_loop()
        asyncio_future = loop.create_future()
        loop.close()
        answers: list[Any] = [ConnectionError()]

        def later() -> object:
            if answers:
                raise answers.pop()
            return work()

        with pytest.raises(TypeError, match="awaitable"):
            Retry(clock=clock)(returns_future)()
        assert calls == [1]
        with pytest.raises(TypeError, match="awaitable"):
            Retry(clock=clock)(later)()
        with pytest.raises(TypeError, match="awaitable"):
            Retry(clock=clock, on_result=lambda _found: False)(lambda: later())()

    async def test_decorated_async_functions(self, clock: JumpingClock) -> None:
        """Alone, and with a look at results."""
        for settings in ({}, {"on_result": lambda found: found == "bad"}):
            call = Script(ConnectionError, "bad", "fine") if settings else Script(ConnectionError, "fine")

            @Retry(clock=clock, **settings)  # type: ignore[arg-type]  # a dict of settings
            async def ask(call: Script = call) -> object:
                return call()

            assert await ask() == "fine"

        @Retry(clock=clock)
        async def fail() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await fail()

    def test_decorated_functions(self, clock: JumpingClock) -> None:
        """The same, and methods."""

        class Client:
            call = Script(ConnectionError, "fine")

            @Retry(clock=clock)
            def ask(self) -> object:
                return self.call()

        assert Client().ask() == "fine"
        found = Retry(clock=clock, on_result=lambda found: found == "bad")(Script("bad", ConnectionError, "fine"))
        assert found() == "fine"

    async def test_async_results_are_closed_asynchronously(self, clock: JumpingClock) -> None:
        """`aclose()` is awaited where there is one: closing an async response otherwise is an error."""

        class Answer:
            def __init__(self) -> None:
                self.closed: list[str] = []

            def close(self) -> None:
                raise AssertionError("not in async code")

            async def aclose(self) -> None:
                await asyncio.sleep(0)
                self.closed.append("async")
                raise OSError("already gone")

        class Simple:
            closed = False

            async def close(self) -> None:
                self.closed = True

        class Plain:
            closed = False

            def close(self) -> None:
                self.closed = True

        first, second, third = Answer(), Simple(), Plain()
        call = Script(first, second, third, "fine")

        async def ask() -> object:
            return call()

        retry = Retry(attempts=4, on_result=lambda found: found != "fine", clock=clock)
        assert await retry.acall(ask) == "fine"
        assert first.closed == ["async"]
        assert second.closed
        assert third.closed

    def test_an_async_close_is_not_forgotten_in_a_function(self, clock: JumpingClock) -> None:
        """A coroutine that nobody can await is closed, without a warning."""

        class Answer:
            async def close(self) -> None: ...

        assert Retry(on_result=lambda found: found != 1, clock=clock).call(Script(Answer(), 1)) == 1
