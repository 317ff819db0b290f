"""The contract of retries and their budget: the cases that catch naive implementations, in both colours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import tenacity

from resilient import CircuitBreaker, CircuitOpenError, Deadline, Pipeline, Timeout
from resilient.budget import RetryBudget
from resilient.events import Event
from resilient.policies.retry import Retry
from resilient.policies.retry_report import RetryBudgetExhausted
from resilient.testing import VirtualClock
from tests.drive import Drive
from tests.jumping import JumpingClock, Script
from tests.waiting import wait_until

Make = Callable[..., Retry]


@pytest.fixture
def clock() -> JumpingClock:
    """Time that sleeps move on."""
    return JumpingClock()


@pytest.fixture
def make(clock: JumpingClock) -> Make:
    """Make a retry in virtual time whose default waits are the longest ones."""

    def made(**settings: Any) -> Retry:
        return Retry(**{"clock": clock, "rng": lambda: 1.0, **settings})

    return made


def answer(status: int, retry_after: str | None = None, date: str | None = None) -> httpx.HTTPStatusError:
    """The error of an HTTP answer."""
    headers = {"Retry-After": retry_after, "Date": date}
    request = httpx.Request("GET", "http://svc/")
    response = httpx.Response(status, headers={k: v for k, v in headers.items() if v is not None}, request=request)
    return httpx.HTTPStatusError(f"status {status}", request=request, response=response)


class TestAttempts:
    """How often."""

    def test_three_attempts_two_sleeps_the_last_error(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """Case 1: always failing, 3 calls and 2 sleeps; the last error leaves, the earlier ones are its context."""
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError, match="attempt 3") as caught:
            drive(make(name="svc"), call)
        assert (call.calls, len(clock.slept)) == (3, 2)
        second = caught.value.__context__
        assert second is not None
        assert str(second) == "attempt 2"
        assert str(second.__context__) == "attempt 1"
        assert caught.value.__notes__ == ["retry 'svc': attempt 3 of 3, not repeated: attempts=3 are made"]
        assert second.__notes__ == ["retry 'svc': attempt 2"]

    def test_a_recovery_leaves_no_trace(self, drive: Drive, make: Make) -> None:
        """The caller sees the answer of the attempt that went well."""
        call, retry = Script(ConnectionError, ConnectionError, "fine"), make()
        assert drive(retry, call) == "fine"
        assert call.calls == 3
        found = retry.snapshot()
        assert (found.retries, found.recovered, found.gave_up, found.waiting) == (2, 1, 0, 0)

    def test_an_error_that_does_not_match_is_not_repeated(self, drive: Drive, make: Make) -> None:
        """Case 2: an error outside `on`: 1 call, and the error leaves untouched."""
        call = Script(ValueError)
        with pytest.raises(ValueError, match="attempt 1") as caught:
            drive(make(on=ConnectionError), call)
        assert call.calls == 1
        assert not hasattr(caught.value, "__notes__")

    def test_ignored_errors_are_not_repeated(self, drive: Drive, make: Make) -> None:
        """`ignore` wins over `on`."""
        call = Script(ConnectionRefusedError)
        with pytest.raises(ConnectionRefusedError):
            drive(make(on=ConnectionError, ignore=ConnectionRefusedError), call)
        assert call.calls == 1

    @pytest.mark.parametrize(("status", "calls"), [(404, 1), (401, 1), (408, 3), (425, 3), (429, 3), (500, 3)])
    def test_the_callers_own_mistake_is_not_repeated(self, drive: Drive, make: Make, status: int, calls: int) -> None:
        """An HTTP 4xx other than 408, 425 and 429 would be the same the next time."""
        call = Script(answer(status))
        with pytest.raises(httpx.HTTPStatusError):
            drive(make(), call)
        assert call.calls == calls

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_what_is_no_exception_is_never_repeated(self, make: Make, error: type[BaseException]) -> None:
        """Ctrl-C and the like pass through, whatever `on` says."""
        call = Script(error)
        with pytest.raises(error):
            make(on=lambda _error: True).call(call)
        assert call.calls == 1

    async def test_a_cancelled_call_is_never_repeated(self, make: Make) -> None:
        """CancelledError reaches the caller at once."""
        calls = 0

        async def cancelled() -> None:
            nonlocal calls
            calls += 1
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await make().acall(cancelled)
        assert calls == 1

    def test_an_open_circuit_inside_is_not_asked_again(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """Case 9: around an open breaker there is 1 call, no sleep, and the rejection leaves."""
        breaker = CircuitBreaker("svc", clock=clock)
        breaker.force_open()
        retry = make()
        with pytest.raises(CircuitOpenError):
            drive(Pipeline(retry, breaker), Script("never"))
        assert clock.slept == []
        assert breaker.snapshot().rejected == 1
        assert retry.snapshot().retries == 0

    def test_a_circuit_that_opens_meanwhile_ends_it(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """The rejection leaves with the real error as its context, and the attempt that was not sent is refunded."""
        breaker = CircuitBreaker("svc", clock=clock, consecutive_failures=1)
        retry = make()
        with pytest.raises(CircuitOpenError) as caught:
            drive(Pipeline(retry, breaker), Script(ConnectionError))
        assert isinstance(caught.value.__context__, ConnectionError)
        assert retry.budget.snapshot().retries == 0

    def test_a_group_of_rejections_is_not_repeated_either(self, make: Make) -> None:
        """Nothing of it was sent."""
        group = ExceptionGroup("all refused", [CircuitOpenError("open", policy="a"), CircuitOpenError(policy="b")])
        call = Script(group)
        with pytest.raises(ExceptionGroup):
            make().call(call)
        assert call.calls == 1


class TestWaits:
    """How long between."""

    def test_doubling_up_to_a_cap(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """Case 3: tenacity's exponential wait from 0.1 s with a cap of 0.5 s."""
        with pytest.raises(ConnectionError):
            drive(make(attempts=6, wait=tenacity.wait_exponential(multiplier=0.1, max=0.5)), Script(ConnectionError))
        assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])

    def test_the_default_is_full_jitter_up_to_5_seconds(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """By chance between 0 and 0.1 s, 0.2 s, … at most 5 s: here the upper ends, then the middles."""
        for chance in (1.0, 0.5):
            clock.slept.clear()
            with pytest.raises(ConnectionError):
                drive(make(attempts=9, rng=lambda chance=chance: chance), Script(ConnectionError))
            ends = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
            assert clock.slept == pytest.approx([chance * end for end in ends])

    @pytest.mark.parametrize(
        "wait",
        [None, tenacity.wait_exponential(max=5), tenacity.wait_random_exponential(max=5)],
        ids=["own", "exponential", "jitter"],
    )
    def test_attempt_1100_does_not_overflow(self, drive: Drive, make: Make, clock: JumpingClock, wait: Any) -> None:
        """Case 4: 2.0 ** 1100 is no float; the cap holds for ever, and the last error does not hold all of them."""
        with pytest.raises(ConnectionError) as caught:
            drive(make(attempts=1101, wait=wait), Script(ConnectionError))
        assert len(clock.slept) == 1100
        assert max(clock.slept) <= 5.0
        depth, error = 0, caught.value.__context__
        while error is not None:
            depth, error = depth + 1, error.__context__
        assert depth == 10

    def test_the_sleep_that_would_pass_the_total_is_not_begun(
        self, drive: Drive, make: Make, clock: JumpingClock
    ) -> None:
        """Case 5: 5 s in all, waits 1, 2, 4: the third would end at 7 s, so it ends at 3 s."""
        began = clock.monotonic()
        with pytest.raises(ConnectionError) as caught:
            drive(make(attempts=9, total=5.0, wait=tenacity.wait_exponential(multiplier=1)), Script(ConnectionError))
        assert clock.slept == [1.0, 2.0]
        assert clock.monotonic() - began == 3.0
        assert "total=5 s" in caught.value.__notes__[0]

    def test_tenacitys_own_total_knows_the_sleep_and_the_start(
        self, drive: Drive, make: Make, clock: JumpingClock
    ) -> None:
        """`stop_before_delay` sees the time of the first attempt, on the policy's clock, and the next sleep."""

        def slow() -> None:
            clock.advance(1.0)
            raise ConnectionError

        with pytest.raises(ConnectionError):
            drive(make(stop=tenacity.stop_before_delay(5), wait=1.0), slow)
        assert clock.slept == [1.0, 1.0]  # calls and waits take 1 s each: two waits end at 4 s, a third at 6 s

    def test_the_callers_deadline_ends_it(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """No sleep is begun that would reach the deadline; the last error leaves, no timeout."""
        call = Script(ConnectionError)
        with Deadline(1.0, clock=clock), pytest.raises(ConnectionError) as caught:
            drive(make(attempts=9, wait=0.4), call)
        assert clock.slept == [0.4, 0.4]
        assert "deadline" in caught.value.__notes__[0]

    def test_a_timeout_outside_ends_it_too(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """A Timeout further out is a deadline for the waits."""
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError):
            drive(Pipeline(Timeout(1.0, thread=False, clock=clock), make(attempts=9, wait=0.6)), call)
        assert call.calls == 2

    async def test_cancelled_while_it_waits(self) -> None:
        """Case 6: a cancellation during the sleep ends it; the callee is not called again, the budget gets it back."""
        clock = VirtualClock()
        retry, calls = Retry(wait=5.0, clock=clock), 0

        async def failing() -> None:
            nonlocal calls
            calls += 1
            raise ConnectionError

        task = asyncio.ensure_future(retry.acall(failing))
        await clock.advance_async(0.0)
        assert retry.snapshot().waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await clock.advance_async(10.0)
        assert calls == 1
        assert (retry.snapshot().waiting, retry.budget.snapshot().in_flight) == (0, 0)
        assert retry.budget.snapshot().retries == 0

    def test_interrupted_while_it_waits(self) -> None:
        """Ctrl-C during a sync sleep leaves, and nothing stays taken."""

        class Interrupted(JumpingClock):
            def sleep(self, seconds: float, /) -> None:
                raise KeyboardInterrupt

        retry, call = Retry(clock=Interrupted()), Script(ConnectionError)
        with pytest.raises(KeyboardInterrupt):
            retry.call(call)
        assert call.calls == 1
        assert (retry.snapshot().waiting, retry.budget.snapshot().in_flight) == (0, 0)

    @pytest.mark.parametrize(
        ("header", "slept"),
        [
            ("3", [3.0]),
            (format_datetime(datetime(2026, 11, 25, 12, 0, 7, tzinfo=UTC), usegmt=True), [7.0]),
            (format_datetime(datetime(2026, 11, 25, 11, 0, 0, tzinfo=UTC), usegmt=True), [0.0]),
            ("soon", [0.0]),
            ("86400", []),
        ],
        ids=["seconds", "date", "past-date", "garbage", "one-day"],
    )
    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after(
        self, drive: Drive, make: Make, clock: JumpingClock, header: str, slept: list[float], status: int
    ) -> None:
        """Case 7: seconds and dates are waited for, a past date and garbage leave the wait, a day is refused."""
        date = format_datetime(datetime(2026, 11, 25, 12, 0, tzinfo=UTC), usegmt=True)
        call = Script(answer(status, header, date))
        with pytest.raises(httpx.HTTPStatusError) as caught:
            drive(make(attempts=2, wait=0), call)
        assert clock.slept == slept
        assert call.calls == 1 + len(slept)
        if not slept:
            assert "Retry-After asks for 86400 s, max_retry_after=30" in caught.value.__notes__[0]

    def test_a_longer_wait_than_retry_after_stays(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """Retry-After says not before; the policy's own wait may be longer."""
        with pytest.raises(httpx.HTTPStatusError):
            drive(make(attempts=2, wait=4.0), Script(answer(503, "1")))
        assert clock.slept == [4.0]

    def test_retry_after_past_the_deadline_is_refused(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """Waiting for an answer that nobody waits for is of no use."""
        with Deadline(2.0, clock=clock), pytest.raises(httpx.HTTPStatusError):
            drive(make(), Script(answer(503, "3")))
        assert clock.slept == []

    def test_retry_after_of_a_result(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """A response that counts as a failure is asked too."""
        call = Script(httpx.Response(503, headers={"Retry-After": "2"}), "fine")
        assert drive(make(on_result=lambda found: getattr(found, "status_code", 200) == 503), call) == "fine"
        assert clock.slept == [2.0]


class TestResults:
    """Returned values that are failures."""

    def test_an_unwanted_result_is_replaced(self, drive: Drive, make: Make) -> None:
        """`on_result` says what to replace; falsy values are values."""
        call = Script(None, 0, "fine")
        assert drive(make(on_result=lambda found: not found), call) == "fine"
        assert call.calls == 3

    def test_the_last_result_is_returned(self, drive: Drive, make: Make) -> None:
        """Case 8: exhausted with results: the last one, not an error."""
        call = Script("a", "b", "c")
        assert drive(make(on_result=lambda _found: True), call) == "c"
        assert call.calls == 3
        assert drive(make(attempts=1, on_result=lambda _found: True), Script("a")) == "a"

    def test_what_is_thrown_away_is_closed(self, drive: Drive, make: Make) -> None:
        """A response that nobody reads would keep its connection; the one that is returned stays open."""

        class Answer:
            closed = 0

            def close(self) -> None:
                self.closed += 1
                raise OSError("already gone")

        answers = [Answer(), Answer(), Answer()]
        assert drive(make(on_result=lambda _found: True), Script(*answers)) is answers[2]
        assert [one.closed for one in answers] == [1, 1, 0]


class TestNested:
    """Retry inside Retry."""

    def test_the_inner_one_makes_one_attempt_once_the_outer_one_repeats(
        self, drive: Drive, make: Make, clock: JumpingClock
    ) -> None:
        """3 attempts by 3 would be 9 calls; it is 3 for the first and 1 for each further one."""
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError, match="attempt 5"):
            drive(Pipeline(make(wait=0), make(wait=0)), call)
        assert call.calls == 5

    def test_afterwards_everything_is_as_before(self, drive: Drive, make: Make) -> None:
        """The mark of an outer Retry ends with it."""
        outer, inner = make(wait=0), make(wait=0)
        with pytest.raises(ConnectionError):
            drive(outer, Script(ConnectionError))
        call = Script(ConnectionError, "fine")
        assert drive(inner, call) == "fine"

    async def test_a_task_that_outlives_the_outer_one_may_retry_again(self, make: Make) -> None:
        """Tasks inherit the context they were started in; the mark in it goes out with the outer Retry."""
        outer, inner = make(wait=0), make(wait=0)
        begun, finish = asyncio.Event(), asyncio.Event()
        tasks: list[asyncio.Task[object]] = []
        flaky = Script(ConnectionError, "fine")

        async def background() -> object:
            begun.set()
            await finish.wait()

            async def call() -> object:
                return flaky()

            return await inner.acall(call)

        calls = 0

        async def work() -> str:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ConnectionError
            tasks.append(asyncio.ensure_future(background()))
            await begun.wait()
            return "done"

        assert await outer.acall(work) == "done"
        finish.set()
        assert await tasks[0] == "fine"
        assert flaky.calls == 2


class TestBudget:
    """Case 10 and 11, through the policy."""

    def test_a_fifth_of_ten_thousand_failing_calls(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """Case 10: 20 % and no reserve: 10,000 calls that all fail make 2,000 retries, one more or less."""
        retry = make(wait=0, budget=RetryBudget(0.2, minimum_in_flight=0, clock=clock))
        call = Script(ConnectionError)
        for _ in range(10_000 if drive.__name__ == "drive_sync" else 1000):
            with pytest.raises(ConnectionError):
                drive(retry, call)
        firsts, retries = (found := retry.budget.snapshot()).first_attempts, found.retries
        assert call.calls == firsts + retries
        assert abs(retries - firsts / 5) <= 1

    def test_what_is_older_than_the_window_counts_for_nothing(self, make: Make, clock: JumpingClock) -> None:
        """Case 10: first attempts leave after 10 s."""
        budget = RetryBudget(0.2, minimum_in_flight=0, clock=clock)
        retry = make(wait=0, budget=budget)
        for _ in range(100):
            retry.call(Script("fine"))
        clock.advance(9.0)
        assert budget.snapshot().first_attempts == 100
        clock.advance(1.5)
        with pytest.raises(ConnectionError):
            retry.call(Script(ConnectionError))
        assert budget.snapshot().first_attempts == 1

    def test_three_at_once_are_always_allowed(self) -> None:
        """Case 11: with a ratio of 0 three callers may retry at once, the fourth gets its first error."""
        clock = VirtualClock()
        heard: list[Event] = []
        retry = Retry(wait=5.0, budget=RetryBudget(0.0, clock=clock), clock=clock, listeners=[heard.append])
        calls = [Script(ConnectionError, "fine") for _ in range(4)]
        results: list[object] = []
        threads = [threading.Thread(target=lambda call=call: results.append(retry.call(call))) for call in calls[:3]]
        for thread in threads:
            thread.start()
        wait_until(lambda: clock.waiting == 3, what="three sleepers")
        with pytest.raises(ConnectionError) as caught:
            retry.call(calls[3])
        clock.advance(5.0)
        for thread in threads:
            thread.join()
        assert results == ["fine"] * 3
        assert caught.value.__notes__ == ["retry 'retry': attempt 1 of 3, not repeated: the retry budget is used up"]
        assert [type(event) for event in heard].count(RetryBudgetExhausted) == 1
        assert retry.budget.snapshot().in_flight == 0
        assert (retry.snapshot().refused, retry.snapshot().gave_up) == (1, 1)
