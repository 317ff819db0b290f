"""Retries built from tenacity's own objects, and from a whole Retrying."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import tenacity

from resilient import ConfigError
from resilient.policies.retry import Retry
from tests.drive import Drive
from tests.jumping import JumpingClock, Script


@pytest.fixture
def clock() -> JumpingClock:
    """Time that sleeps move on."""
    return JumpingClock()


ASYNC_HOOK: Any = asyncio.sleep  # what a type checker would not let through


class Answered(Exception):
    """An error with an HTTP answer."""

    def __init__(self, status: int) -> None:
        self.response = type("Response", (), {"status_code": status})()


class TestRetryObjects:
    """`on=` one of tenacity's retry_*."""

    def test_it_decides_alone(self, drive: Drive, clock: JumpingClock) -> None:
        """Of an HTTP 404 too, which is no failure otherwise; `ignore` still wins."""
        gone = tenacity.retry_if_exception(lambda error: isinstance(error, Answered))
        call = Script(Answered(404), "fine")
        assert drive(Retry(on=gone, clock=clock), call) == "fine"
        with pytest.raises(Answered):
            drive(Retry(on=gone, ignore=Answered, clock=clock), Script(Answered(404)))
        call = Script(ValueError)
        with pytest.raises(ValueError, match="attempt 1"):
            drive(Retry(on=gone, clock=clock), call)

    def test_results(self, drive: Drive, clock: JumpingClock) -> None:
        """One that looks at results sees them all; the last one is returned."""
        call = Script(None, None, "fine")
        assert drive(Retry(on=tenacity.retry_if_result(lambda found: found is None), clock=clock), call) == "fine"
        call = Script(None)
        assert drive(Retry(on=tenacity.retry_if_result(lambda found: found is None), clock=clock), call) is None
        assert call.calls == 3

    def test_both(self, drive: Drive, clock: JumpingClock) -> None:
        """Combined ones look at errors and at results."""
        either = tenacity.retry_if_result(lambda found: found is None) | tenacity.retry_if_exception_type(OSError)
        call = Script(None, ConnectionError, "fine")
        assert drive(Retry(on=either, clock=clock), call) == "fine"

    def test_those_that_look_at_errors_only_cost_nothing(self, clock: JumpingClock) -> None:
        """No state is made for a call that goes well."""
        errors = tenacity.retry_any(tenacity.retry_if_exception_type(OSError), tenacity.retry_never)
        assert Retry(on=errors, clock=clock)._judge_of_its_own().failed is None
        unless = tenacity.retry_unless_exception_type(OSError)
        assert Retry(on=unless, clock=clock)._judge_of_its_own().failed is not None

    def test_try_again(self, drive: Drive, clock: JumpingClock) -> None:
        """TryAgain is repeated whatever the object says."""
        call = Script(tenacity.TryAgain, "fine")
        assert drive(Retry(on=tenacity.retry_never, clock=clock), call) == "fine"

    def test_one_that_raises_repeats_nothing(
        self, drive: Drive, clock: JumpingClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged; the call's own outcome leaves."""

        def broken(_given: object) -> bool:
            raise RuntimeError

        with pytest.raises(ConnectionError, match="attempt 1"):
            drive(Retry(on=tenacity.retry_if_exception(broken), clock=clock), Script(ConnectionError))
        assert drive(Retry(on=tenacity.retry_if_result(broken), clock=clock), Script("fine")) == "fine"
        assert len(caplog.records) == 2


class TestWhole:
    """`Retry.of(retrying)`."""

    def test_the_last_error_leaves_with_reraise(self, drive: Drive, clock: JumpingClock) -> None:
        """Stop, wait and retry are read; the waits go through the policy's clock."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(4),
            wait=tenacity.wait_fixed(2),
            retry=tenacity.retry_if_exception_type(ConnectionError),
            reraise=True,
        )
        retry = Retry.of(retrying, name="svc", clock=clock)
        with pytest.raises(ConnectionError, match="attempt 4"):
            drive(retry, Script(ConnectionError))
        assert clock.slept == [2.0, 2.0, 2.0]
        assert retry.name == "svc"
        with pytest.raises(ValueError, match="attempt 1"):
            drive(retry, Script(ValueError))

    def test_without_it_the_end_is_tenacitys(self, drive: Drive, clock: JumpingClock) -> None:
        """RetryError with the last attempt, from the last error, as in tenacity."""
        retry = Retry.of(tenacity.Retrying(stop=tenacity.stop_after_attempt(2)), clock=clock)
        for _ in range(2):
            with pytest.raises(tenacity.RetryError) as caught:
                drive(retry, Script(ConnectionError))
            assert str(caught.value.__cause__) == "attempt 2"
            assert caught.value.last_attempt.exception() is caught.value.__cause__
            assert caught.value.last_attempt.attempt_number == 2

    def test_results_end_in_tenacitys_error_too(self, drive: Drive, clock: JumpingClock) -> None:
        """With `reraise=True` as well: there is no error to leave."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(2), retry=tenacity.retry_if_result(lambda found: found < 0), reraise=True
        )
        with pytest.raises(tenacity.RetryError) as caught:
            drive(Retry.of(retrying, clock=clock), Script(-1))
        assert caught.value.last_attempt.result() == -1
        assert drive(Retry.of(retrying, clock=clock), Script(-1, 5)) == 5

    def test_an_error_of_its_own_kind(self, drive: Drive, clock: JumpingClock) -> None:
        """`retry_error_cls` is raised instead."""

        class Ours(tenacity.RetryError):
            pass

        retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(1), retry_error_cls=Ours)
        with pytest.raises(Ours):
            drive(Retry.of(retrying, clock=clock), Script(ConnectionError))

    @pytest.mark.parametrize("attempts", [1, 3])
    def test_its_callback_answers_instead(self, drive: Drive, clock: JumpingClock, attempts: int) -> None:
        """`retry_error_callback` sees the state, and what it returns is returned."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            retry_error_callback=lambda state: f"gave up after {state.attempt_number}",
        )
        assert drive(Retry.of(retrying, clock=clock), Script(ConnectionError)) == f"gave up after {attempts}"
        results = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            retry=tenacity.retry_if_result(lambda found: found is None),
            retry_error_callback=lambda _state: 0,
        )
        assert drive(Retry.of(results, clock=clock), Script(None)) == 0

    def test_its_hooks_are_called(self, drive: Drive, clock: JumpingClock, caplog: pytest.LogCaptureFixture) -> None:
        """tenacity's own loggers work on the state; one that raises changes nothing."""
        log = logging.getLogger("test_retry_tenacity")
        before_sleep, after = tenacity.before_sleep_log(log, logging.INFO), tenacity.after_log(log, logging.INFO)

        def broken(state: tenacity.RetryCallState) -> None:
            before_sleep(state)
            raise RuntimeError

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(2),
            wait=tenacity.wait_fixed(0.5),
            before_sleep=broken,
            after=after,
            reraise=True,
        )
        with caplog.at_level(logging.INFO), pytest.raises(ConnectionError):
            drive(Retry.of(retrying, clock=clock), Script(ConnectionError))
        told = [record.getMessage() for record in caplog.records if record.name == log.name]
        assert len(told) == 3
        assert "in 0.5 seconds as it raised ConnectionError: attempt 1" in told[1]
        assert "this was the 2nd time" in told[2]
        assert any("raised; nothing else changes" in record.getMessage() for record in caplog.records)

    async def test_async_retrying(self, clock: JumpingClock) -> None:
        """An AsyncRetrying with plain functions is read as well."""
        retrying = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), reraise=True)
        call = Script(ConnectionError, "fine")

        async def ask() -> object:
            return call()

        assert await Retry.of(retrying, clock=clock).acall(ask) == "fine"

    def test_of_a_decorated_function(self, clock: JumpingClock) -> None:
        """`function.retry` is its Retrying; a plain function of the state may be its `retry`."""

        @tenacity.retry(stop=tenacity.stop_after_attempt(2), retry=lambda state: state.outcome.failed)
        def ask() -> None: ...

        call = Script(ConnectionError, "fine")
        assert Retry.of(ask.retry, clock=clock).call(call) == "fine"

    def test_one_that_is_switched_off(self, drive: Drive, clock: JumpingClock) -> None:
        """`enabled=False` makes one attempt."""
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError):
            drive(Retry.of(tenacity.Retrying(enabled=False, reraise=True), clock=clock), call)
        assert call.calls == 1

    def test_one_that_never_stops(self) -> None:
        """It is taken at its word, and `explain()` says so."""
        retry = Retry.of(tenacity.Retrying())
        assert any("goes on until stop= says no" in warning for warning in retry.explain().warnings)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (tenacity.stop_after_attempt(3), "is read, not"),
            (tenacity.Retrying(before=lambda _state: None), "before= runs before every attempt"),
            (tenacity.Retrying(sleep=lambda _seconds: None), "sleep= is not used"),
            (tenacity.AsyncRetrying(after=ASYNC_HOOK), "after must be a plain function"),
            (tenacity.AsyncRetrying(before_sleep=ASYNC_HOOK), "before_sleep must be a plain function"),
            (tenacity.AsyncRetrying(wait=ASYNC_HOOK), "is async"),
        ],
    )
    def test_what_has_no_place_here_is_refused(self, given: Any, told: str) -> None:
        """Rather than left out in silence."""
        with pytest.raises(ConfigError, match=told):
            Retry.of(given)
