"""Retries that run: what they leave behind, share with others, and change while they run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import pickle
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import tenacity

from resilient import listen
from resilient.budget import RetryBudget
from resilient.policies.retry import Retry
from resilient.policies.retry_report import RetryGaveUp, RetryScheduled
from resilient.testing import VirtualClock, disabled, use_clock
from tests.jumping import JumpingClock, Script


@pytest.fixture
def clock() -> JumpingClock:
    """Time that sleeps move on."""
    return JumpingClock()


class TestLeavings:
    """What a call leaves behind."""

    async def test_no_cycles(self) -> None:
        """Errors, results and frames go when the caller lets go of them, without a garbage collection."""

        class Payload:
            pass

        alive: list[weakref.ref[Payload]] = []

        def failing() -> None:
            payload = Payload()
            alive.append(weakref.ref(payload))
            raise ConnectionError(payload)

        async def afailing() -> None:
            failing()

        retries = [
            Retry(wait=0),
            Retry(wait=tenacity.wait_none()),
            Retry(attempts=1),
            Retry(on=ValueError),
            Retry(wait=0, on=tenacity.retry_if_exception_type(ValueError)),
            Retry.of(tenacity.Retrying(stop=tenacity.stop_after_attempt(2), reraise=True)),
            Retry.of(tenacity.Retrying(stop=tenacity.stop_after_attempt(1))),
            Retry.of(tenacity.Retrying(stop=tenacity.stop_after_attempt(2))),
        ]
        gc.collect()
        gc.disable()
        try:
            for retry in retries:
                for guarded in (retry(failing), retry.call):
                    with contextlib.suppress(ConnectionError, tenacity.RetryError):
                        guarded(*([failing] if guarded == retry.call else []))
                for aguarded in (retry(afailing), retry.acall):
                    with contextlib.suppress(ConnectionError, tenacity.RetryError):
                        await aguarded(*([afailing] if aguarded == retry.acall else []))
                assert len(alive) >= 4
                assert [ref for ref in alive if ref() is not None] == [], retry
                alive.clear()
        finally:
            gc.enable()

    def test_contexts_of_the_call_stay(self, clock: JumpingClock) -> None:
        """An error that was raised while another one was handled shows that first, then the earlier attempts."""
        numbers = iter("12")

        def failing() -> None:
            number = next(numbers)
            try:
                raise KeyError(number)
            except KeyError as cause:
                raise ConnectionError(number) from cause

        with pytest.raises(ConnectionError, match="2") as caught:
            Retry(attempts=2, clock=clock).call(failing)
        shown, error = [], caught.value
        while error is not None:
            shown.append(repr(error))
            error = error.__context__  # type: ignore[assignment]  # the next one may be any
        assert shown == ["ConnectionError('2')", "KeyError('2')", "ConnectionError('1')", "KeyError('1')"]

    def test_two_errors_that_take_turns_make_no_circle(self, clock: JumpingClock) -> None:
        """Error objects kept by the callee are shown as far as that closes no circle."""
        one, two = ConnectionError("one"), ConnectionError("two")
        retry = Retry(attempts=4, wait=0, clock=clock)
        with pytest.raises(ConnectionError):
            retry.call(Script(one, two, one, two))
        with pytest.raises(ConnectionError):
            retry.call(Script(two, one, two, one))
        seen: list[BaseException] = []
        error: BaseException | None = one
        while error is not None:
            assert error not in seen
            seen.append(error)
            error = error.__context__

    def test_an_error_that_refuses_notes_leaves_too(self, clock: JumpingClock) -> None:
        """A strange error is not replaced by ours."""

        class Strange(ConnectionError):
            def add_note(self, note: str, /) -> None:
                raise TypeError(note)

        with pytest.raises(Strange):
            Retry(clock=clock).call(Script(Strange))

    def test_debug_logs(self, clock: JumpingClock, caplog: pytest.LogCaptureFixture) -> None:
        """One line per wait, one at the end."""
        with caplog.at_level(logging.DEBUG, "resilient"), pytest.raises(ConnectionError):
            Retry("svc", attempts=2, wait=0.5, clock=clock).call(Script(ConnectionError))
        retry, first, second = (f"Retry({'svc'!r}, attempts=2, wait=0.5): attempt", *caplog.messages)
        assert first == f"{retry} 1 failed (ConnectionError: attempt 1), again in 0.5 s"
        assert second == f"{retry} 2 failed (ConnectionError: attempt 2), not repeated: attempts=2 are made"

    def test_everybody_can_listen(self, clock: JumpingClock) -> None:
        """Listeners of the process hear it too; a result is named by its type, an error without text by its own."""
        heard: list[Any] = []
        stops = [listen(heard.append, RetryScheduled), listen(heard.append, RetryGaveUp)]
        Retry(on_result=lambda found: found is None, attempts=2, clock=clock).call(lambda: None)
        with pytest.raises(ConnectionError):
            Retry(attempts=1, clock=clock).call(Script(ConnectionError()))
        for stop in stops:
            stop()
        assert [event.error for event in heard] == ["result: NoneType", "result: NoneType", "ConnectionError"]


class TestRunning:
    """Shared, changed, forked."""

    def test_settings_that_change(self, clock: JumpingClock) -> None:
        """The next call follows the new ones; counts stay, and so does what is to be repeated."""
        retry = Retry("svc", attempts=2, wait=0, on=ConnectionError, clock=clock)
        ask = retry(Script(ConnectionError))
        with pytest.raises(ConnectionError, match="attempt 2"):
            ask()
        own = retry.budget
        retry.take_settings(Retry(attempts=4, wait=1.0, on=ValueError))
        with pytest.raises(ConnectionError, match="attempt 6"):
            ask()
        assert clock.slept == [0.0, 1.0, 1.0, 1.0]
        assert retry.budget is own
        assert retry.snapshot().retries == 4
        shared = RetryBudget(clock=clock)
        retry.take_settings(Retry(budget=shared))
        assert retry.budget is shared

    def test_a_new_budget_counts_within_a_tenth_of_the_window(self, clock: JumpingClock) -> None:
        """First attempts go into it from the old one's next step on."""
        retry = Retry(wait=0, clock=clock)
        ask = retry(Script("fine"))
        ask()
        shared = RetryBudget(clock=clock)
        retry.take_settings(Retry(budget=shared))
        clock.advance(1.0)
        ask()
        assert shared.snapshot().first_attempts == 1

    def test_a_budget_on_another_clock_counts_too(self, clock: JumpingClock) -> None:
        """It is asked at each call."""
        other = VirtualClock()
        budget = RetryBudget(clock=other)
        ask = Retry(budget=budget, clock=clock)(Script("fine"))
        for _ in range(5):
            ask()
            clock.advance(100.0)
        assert budget.snapshot().first_attempts == 5

    def test_one_budget_for_two(self, clock: JumpingClock) -> None:
        """What one uses up, the other does not have."""
        budget = RetryBudget(0.5, minimum_in_flight=0, clock=clock)
        first, second = (Retry(wait=0, budget=budget, clock=clock) for _ in range(2))
        for _ in range(3):
            second.call(Script("fine"))
        with pytest.raises(ConnectionError, match="attempt 3"):
            first.call(Script(ConnectionError))
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError, match="attempt 2"):
            second.call(call)
        call = Script(ConnectionError)
        with pytest.raises(ConnectionError, match="attempt 1"):
            first.call(call)

    def test_threads_and_loops_share_one(self) -> None:
        """8 threads, half of them with event loops: every call recovers, every count is right."""
        retry = Retry(wait=0, budget=RetryBudget(100.0))

        def flaky() -> str:
            state.n = getattr(state, "n", 0) + 1
            if state.n % 2:
                raise ConnectionError
            return "fine"

        async def aflaky() -> str:
            return flaky()

        state = threading.local()
        results: list[str] = []

        def work(number: int) -> None:
            results.extend(asyncio.run(retry.acall(aflaky)) if number % 2 else retry.call(flaky) for _ in range(100))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == ["fine"] * 800
        found = retry.snapshot()
        assert (found.retries, found.recovered, found.waiting) == (800, 800, 0)
        budget = retry.budget.snapshot()
        assert (budget.first_attempts, budget.retries, budget.in_flight) == (800, 800, 0)

    def test_reset(self, clock: JumpingClock) -> None:
        """Counts are zero; a shared budget belongs to others too."""
        shared = RetryBudget(clock=clock)
        for budget in (None, shared):
            retry = Retry(budget=budget, clock=clock)
            with pytest.raises(ConnectionError):
                retry.call(Script(ConnectionError))
            retry.reset()
            assert (retry.snapshot().retries, retry.snapshot().gave_up) == (0, 0)
            assert retry.budget.snapshot().retries == (2 if budget else 0)

    def test_the_switches_of_tests(self) -> None:
        """A retry of the application follows `use_clock` and `disabled`, decorated alone or in a chain."""
        retry = Retry(wait=5.0, budget=RetryBudget(0.5, minimum_in_flight=0))
        plain, looked_at = Script("fine"), Script(None, "fine")
        ask, look = retry(plain), Retry(wait=5.0, on_result=lambda found: found is None)(looked_at)
        ask()
        with use_clock(JumpingClock()) as jumping:
            for _ in range(4):
                ask()
            assert retry.budget.snapshot().first_attempts == 4
            with pytest.raises(ConnectionError, match="attempt 3"):
                retry.call(Script(ConnectionError))
            assert look() == "fine"
            assert isinstance(jumping, JumpingClock)
            assert jumping.slept == [5.0, 5.0, 5.0]
        assert retry.budget.snapshot().first_attempts == 0
        ask()
        assert retry.budget.snapshot().first_attempts == 1
        with disabled():
            with pytest.raises(ConnectionError, match="attempt 1"):
                retry.call(Script(ConnectionError))
            ask()
        assert retry.budget.snapshot().first_attempts == 1

    def test_snapshots_are_plain_data(self) -> None:
        """For JSON, and for other processes."""
        found = Retry("svc").snapshot()
        assert pickle.loads(pickle.dumps(found)) == found
        assert json.loads(json.dumps(found.as_dict()))["name"] == "svc"

    def test_a_child_begins_anew(self) -> None:
        """Who waits, waits in the parent."""
        retry = Retry()
        retry.waiting.add(self)
        retry.after_fork_in_child()
        retry.waiting.discard(self)
        assert retry.snapshot().waiting == 0

    def test_tenacity_is_imported_for_its_own_objects_only(self) -> None:
        """Plain numbers never need it, not even when calls fail."""
        code = (
            "import sys\nfrom resilient.policies.retry import Retry\n"
            "answers = [OSError(), 1]\n"
            "def ask():\n    answer = answers.pop(0)\n    if answer == 1: return 1\n    raise answer\n"
            "print(Retry(wait=0).call(ask), 'tenacity' in sys.modules, 'asyncio' in sys.modules)\n"
            "answers += [OSError(), 1]\n"
            "print(Retry(wait=lambda state: 0).call(ask), 'tenacity' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
        assert done.stdout.split() == ["1", "False", "False", "1", "True"]
