"""Settings of a command change while it runs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Command,
    ConfigError,
    CountWindow,
    Fallback,
    RateLimitedError,
    State,
    TimeWindow,
)
from resilient.decorator import command
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.hedge import Hedge
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
from resilient.testing import VirtualClock
from tests.waiting import wait_until


def kinds(fn: Any) -> list[str]:
    return [policy.kind for policy in Command.of(fn).pipeline.policies]


def breaker_of(fn: Any) -> CircuitBreaker:
    found = Command.of(fn).breaker
    assert found is not None
    return found


class TestSameKind:
    """A new policy gives its settings to the old one."""

    def test_the_breaker_keeps_counts_state_and_identity(self, clock: VirtualClock) -> None:
        """Rule 27: an open circuit keeps its end; what is counted stays."""

        @command("breaking", breaker=CircuitBreaker(consecutive_failures=1, clock=clock, rng=lambda: 0.0))
        def fn() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            fn()
        before = breaker_of(fn)
        Command.of(fn).configure(breaker=CircuitBreaker(failure_rate=0.3, open_duration=60.0))
        assert breaker_of(fn) is before
        assert before.settings.failure_rate == 0.3
        assert before.state is State.OPEN
        clock.advance(5.0)  # the end that it had
        with pytest.raises(ConnectionError):
            fn()
        assert before.name == "breaking"

    def test_a_window_of_another_length_empties_that_window(self) -> None:
        """Rule 27: states and totals stay."""

        @command("windowed")
        def fn() -> None: ...

        fn()
        Command.of(fn).configure(breaker=CircuitBreaker(window=CountWindow(50)))
        found = breaker_of(fn).snapshot()
        assert (found.calls, found.successes) == (0, 1)
        fn()
        Command.of(fn).configure(breaker=CircuitBreaker(window=CountWindow(50), failure_rate=0.4))
        assert breaker_of(fn).snapshot().calls == 1
        Command.of(fn).configure(breaker=CircuitBreaker(window=TimeWindow(30.0)))
        assert breaker_of(fn).snapshot().calls == 0

    def test_what_counts_as_a_failure_changes_too(self) -> None:
        """`on` of the new policy, and of the command for layers that have none of their own."""

        @command("judging", breaker=CircuitBreaker(on=ValueError), fallback=Fallback(value="instead"))
        def fn() -> None:
            raise ConnectionError

        fn()
        assert breaker_of(fn).snapshot().failures == 0
        Command.of(fn).configure(breaker=CircuitBreaker(on=OSError))
        fn()
        assert breaker_of(fn).snapshot().failures == 1
        Command.of(fn).configure(ignore=ConnectionError)
        with pytest.raises(ConnectionError):
            fn()
        assert Command.of(fn).snapshot().ignored == 1

    def test_a_smaller_bulkhead_evicts_nobody_and_admits_nobody_until_there_is_room(self) -> None:
        """Rule 27: shrunk limits hold for new calls."""

        @command("shrinking", bulkhead=Bulkhead(3), breaker=None)
        def fn() -> str:
            return "in"

        bulkhead = Command.of(fn).settings.bulkhead
        assert isinstance(bulkhead, Bulkhead)
        held = [bulkhead.acquire() for _ in range(3)]
        Command.of(fn).configure(bulkhead=Bulkhead(1))
        for permit in held[:2]:
            permit.success()
        with pytest.raises(BulkheadFullError):
            fn()
        held[2].success()
        assert fn() == "in"
        assert Command.of(fn).settings.bulkhead is bulkhead

    @pytest.mark.parametrize(
        ("setting", "old", "new", "field", "value"),
        [
            ("retry", Retry(attempts=2), Retry(attempts=5), "attempts", 5),
            ("rate_limiter", RateLimiter(1.0), RateLimiter(9.0), "limit", 9.0),
            ("bulkhead", Bulkhead(1), Bulkhead(7), "limit", 7),
            ("bulkhead", ThreadPoolBulkhead(1), ThreadPoolBulkhead(7), "threads", 7),
            ("bulkhead", ConcurrencyLimiter(window=1.0), ConcurrencyLimiter(window=2.0), "window", 2.0),
            ("cache", Cache(1.0), Cache(9.0), "seconds", 9.0),
        ],
        ids=lambda value: value.kind if hasattr(value, "kind") else "",
    )
    def test_every_kind_of_policy_stays_and_takes_the_new_settings(
        self, setting: Any, old: Any, new: Any, field: str, value: float
    ) -> None:
        """Rule 27: the object is the same, its settings are the other one's."""

        @command("taking", **{setting: old})  # type: ignore[untyped-decorator]  # one of several settings
        def fn() -> int:
            return 1

        settings = new.settings
        Command.of(fn).configure(**{setting: new})
        assert getattr(Command.of(fn).settings, setting) is old
        assert old.settings == settings
        assert getattr(old.settings, field) == value
        assert fn() == 1

    def test_a_timeout_changes_without_a_second_name(self, clock: VirtualClock) -> None:
        """Errors name the command as before."""

        @command("limited", timeout=60.0, attempt_timeout=50.0)
        async def fn() -> None:
            await asyncio.Event().wait()

        Command.of(fn).configure(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"0\.01 s \(limited\)"):
            asyncio.run(fn())
        Command.of(fn).configure(timeout=None, attempt_timeout=0.02)
        with pytest.raises(TimeoutError, match=r"0\.02 s \(limited attempt\)"):
            asyncio.run(fn())
        assert kinds(fn) == ["circuit_breaker", "timeout"]


class TestLayers:
    """Another kind, one more, one less: a new chain from the same policies."""

    def test_layers_come_and_go_in_their_place(self) -> None:
        """Rule 27: what is not named stays the same object."""

        @command("growing", fallback=Fallback(value=None))
        def fn() -> None: ...

        before = breaker_of(fn)
        Command.of(fn).configure(retry=Retry(attempts=2, wait=0.0), timeout=5.0, rate_limiter=RateLimiter(1.0))
        assert kinds(fn) == ["fallback", "timeout", "retry", "circuit_breaker", "rate_limiter"]
        assert breaker_of(fn) is before
        Command.of(fn).configure(retry=None, timeout=None, breaker=None)
        assert kinds(fn) == ["fallback", "rate_limiter"]
        Command.of(fn).configure(rate_limiter=None)
        assert kinds(fn) == ["fallback"]

    def test_another_kind_takes_the_place_and_the_name(self) -> None:
        """A ConcurrencyLimiter instead of a Bulkhead."""

        @command("swapping", bulkhead=Bulkhead(1))
        def fn() -> None: ...

        limiter = ConcurrencyLimiter()
        Command.of(fn).configure(bulkhead=limiter)
        fn()
        assert limiter.snapshot().accepted == 1
        assert limiter.name == "swapping"

    def test_a_call_under_way_ends_on_the_old_chain(self) -> None:
        """Rule 27: it settles where it began; its place is free afterwards."""
        entered, leave = threading.Event(), threading.Event()
        old = Bulkhead(1)

        @command("under way", bulkhead=old)
        def fn(wait: bool) -> str:
            if wait:
                entered.set()
                leave.wait(10.0)
            return "done"

        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(fn(True)))
        caller.start()
        assert entered.wait(10.0)
        try:
            Command.of(fn).configure(bulkhead=None)
            assert fn(False) == "done"
            assert old.snapshot().in_flight == 1
        finally:
            leave.set()
            caller.join()
        assert answers == ["done"]
        assert old.snapshot().in_flight == 0
        assert Command.of(fn).snapshot().successes == 2

    def test_counts_of_the_command_stay(self) -> None:
        """Whatever changes."""

        @command("counting")
        def fn() -> None: ...

        fn()
        Command.of(fn).configure(group="other", breaker=None)
        fn()
        found = Command.of(fn).snapshot()
        assert (found.successes, found.group, found.breaker) == (2, "other", None)


class TestMistakes:
    """Everything is checked first."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"timout": 3}, r"command 'strict': there is no setting 'timout'; did you mean 'timeout'\?"),
            ({"fallback": print}, "fallback is a part of what the function is"),
            ({"timeout": -1}, "more than 0"),
            ({"retry": 3}, r"retry must be a Retry or None, not 3: write Retry\(attempts=3\)"),
            ({"breaker": CircuitBreaker}, r"make one, `CircuitBreaker\(\.\.\.\)`"),
            ({"bulkhead": Retry()}, "must be a Bulkhead or ThreadPoolBulkhead or ConcurrencyLimiter or None"),
            ({"hedge": Hedge()}, "has to be async"),
            ({"on": 3}, "on must be an exception type"),
            ({"group": ""}, "group must be text that is not empty"),
        ],
        ids=lambda value: str(*value) if isinstance(value, dict) else "",
    )
    def test_a_mistake_changes_nothing(self, changes: dict[str, Any], message: str) -> None:
        """Rule 27: not even what was right beside it."""

        @command("strict", rate_limiter=RateLimiter(5.0))
        def fn() -> None: ...

        before = Command.of(fn).pipeline, Command.of(fn).settings, breaker_of(fn).settings
        with pytest.raises(ConfigError, match=message):
            Command.of(fn).configure(**{"breaker": CircuitBreaker(failure_rate=0.9), "timeout": 5.0, **changes})
        assert (Command.of(fn).pipeline, Command.of(fn).settings, breaker_of(fn).settings) == before

    def test_a_pool_of_threads_can_not_guard_an_async_function(self) -> None:
        """At decoration and at run time, with a word about what can."""
        with pytest.raises(ConfigError, match="take a Bulkhead|use Bulkhead"):

            @command("pooled", bulkhead=ThreadPoolBulkhead())
            async def pooled() -> None: ...

        @command("later")
        async def fn() -> None: ...

        with pytest.raises(ConfigError, match="take a Bulkhead|use Bulkhead"):
            Command.of(fn).configure(bulkhead=ThreadPoolBulkhead())

    def test_a_hedge_can_not_guard_a_sync_function(self) -> None:
        """Sync calls can not be cancelled."""
        with pytest.raises(ConfigError, match="has to be async"):

            @command("hedging", hedge=Hedge())
            def fn() -> None: ...


def test_threads_that_call_meet_no_half_made_chain() -> None:
    """While one thread changes settings and layers, every call of others is answered or refused as a whole."""

    @command("churning", breaker=CircuitBreaker(minimum_calls=1_000_000, consecutive_failures=None))
    def fn() -> int:
        return 1

    ended = threading.Event()
    wrong: list[Any] = []

    def calls() -> None:
        while not ended.is_set():
            try:
                if fn() != 1:
                    wrong.append("another answer")
            except (CircuitOpenError, RateLimitedError, BulkheadFullError):
                continue
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 100):
            Command.of(fn).configure(retry=Retry(attempts=2) if number % 2 else None, bulkhead=Bulkhead(number))
        wait_until(lambda: Command.of(fn).snapshot().successes > 100, what="calls")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    bulkhead = Command.of(fn).settings.bulkhead
    assert isinstance(bulkhead, Bulkhead)
    assert bulkhead.snapshot().in_flight == 0
