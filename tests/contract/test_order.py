"""Rule 21 and the cases of composition: in which order a command's layers lie, and what follows from it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilient import BulkheadFullError, CircuitBreaker, CircuitOpenError, Command, ConfigError, Fallback, Pipeline
from resilient.decorator import command
from resilient.events import listen
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.chaos import Chaos
from resilient.policies.circuit_report import CircuitRejected, CircuitStateChanged, CircuitThresholdReached
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.hedge import Hedge
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
from resilient.policies.timeout import Timeout
from resilient.testing import VirtualClock
from resilient.workers import WORKERS


def kinds(fn: Any) -> list[str]:
    return [policy.kind for policy in Command.of(fn).pipeline.policies]


def busy() -> int:
    """How many worker threads run a job now."""
    return WORKERS.threads - len(WORKERS._idle)


class TestOrder:
    """Outermost first: fallback, cache, deadline, retry, breaker, rate limiter, bulkhead, hedge, attempt, chaos."""

    def test_every_layer_is_in_its_place(self) -> None:
        """Rule 21: whatever the order of the keywords."""

        @command(
            "all",
            chaos=Chaos(latency=1.0),
            bulkhead=Bulkhead(),
            attempt_timeout=1.0,
            rate_limiter=RateLimiter(10),
            breaker=CircuitBreaker(),
            retry=Retry(),
            timeout=2.0,
            cache=Cache(60.0),
            fallback=Fallback(value=None),
        )
        def fn() -> None: ...

        assert kinds(fn) == [
            "fallback",
            "cache",
            "timeout",
            "retry",
            "circuit_breaker",
            "rate_limiter",
            "bulkhead",
            "timeout",
            "chaos",
        ]
        limits = [one for one in Command.of(fn).pipeline.policies if isinstance(one, Timeout)]
        assert [limit.seconds for limit in limits] == [2.0, 1.0]

    def test_a_hedge_lies_between_the_bulkhead_and_the_attempt(self) -> None:
        """Rule 21: one place holds all calls that one caller starts, each with its own limit."""

        @command("hedged", hedge=Hedge(), bulkhead=ConcurrencyLimiter(), attempt_timeout=1.0, breaker=None)
        async def fn() -> None: ...

        assert kinds(fn) == ["concurrency_limiter", "hedge", "timeout"]

    def test_retry_and_hedge_together_are_refused(self) -> None:
        """Rule 21: they would multiply calls while the dependency is slow; also at run time."""
        with pytest.raises(ConfigError, match="retry and hedge together"):
            command("both", retry=Retry(), hedge=Hedge())

        @command("retrying", retry=Retry())
        async def fn() -> None: ...

        with pytest.raises(ConfigError, match="retry and hedge together"):
            Command.of(fn).configure(hedge=Hedge())
        assert kinds(fn) == ["retry", "circuit_breaker"]


class TestWhatFollows:
    """The order is not taste: each neighbour has its reason."""

    def test_the_fallback_answers_although_time_is_up(self) -> None:
        """Rule 21: it lies outside the deadline."""

        @command("late", fallback=lambda: "instead", timeout=0.02)
        async def fn() -> str:
            await asyncio.Event().wait()
            return "never"

        assert asyncio.run(fn()) == "instead"

    def test_what_the_cache_answers_reaches_no_breaker(self) -> None:
        """Cache, collapse, composition 1: one call, one count; the second answer is remembered."""

        @command("cached", cache=Cache(60.0))
        def fn(place: str) -> str:
            return place

        assert (fn("Rome"), fn("Rome")) == ("Rome", "Rome")
        breaker = Command.of(fn).breaker
        assert breaker is not None
        assert breaker.snapshot().successes == 1
        assert Command.of(fn).snapshot().successes == 2

    def test_each_attempt_is_judged_and_none_is_made_while_the_circuit_is_open(self) -> None:
        """Case 6: Retry(Breaker(f)) counts each attempt; Breaker(Retry(f)) one."""
        calls = []

        @command("attempts", retry=Retry(attempts=4, wait=0.0), breaker=CircuitBreaker(consecutive_failures=2))
        def fn() -> None:
            calls.append(1)
            raise ConnectionError

        with pytest.raises(CircuitOpenError):
            fn()
        assert len(calls) == 2
        outside = CircuitBreaker("outside")
        with pytest.raises(ConnectionError):
            Pipeline(outside, Retry(attempts=3, wait=0.0)).call(fn.__wrapped__)  # type: ignore[attr-defined]  # functools.wraps sets it
        assert outside.snapshot().failures == 1

    def test_a_full_bulkhead_is_no_failure_of_the_dependency(self) -> None:
        """Case 7: the breaker outside counts nothing; the retry does not ask again."""

        @command("full", bulkhead=Bulkhead(1), retry=Retry(attempts=3, wait=0.0))
        def fn() -> None: ...

        bulkhead = Command.of(fn).settings.bulkhead
        assert isinstance(bulkhead, Bulkhead)
        with bulkhead.calling(), pytest.raises(BulkheadFullError):
            fn()
        breaker = Command.of(fn).breaker
        assert breaker is not None
        assert (breaker.snapshot().failures, breaker.snapshot().successes) == (0, 0)
        assert bulkhead.snapshot().rejected == 1

    def test_a_place_is_free_while_a_retry_waits(self, clock: VirtualClock) -> None:
        """Rule 21: a bulkhead outside the Retry would be held while it sleeps."""
        in_flight: list[int] = []
        bulkhead = Bulkhead(1, clock=clock)

        def look(_state: Any) -> float:
            in_flight.append(bulkhead.snapshot().in_flight)
            return 0.0

        @command("waiting", bulkhead=bulkhead, retry=Retry(attempts=2, wait=look), breaker=None)
        def fn() -> None:
            in_flight.append(bulkhead.snapshot().in_flight)
            raise ConnectionError

        with pytest.raises(ConnectionError):
            fn()
        assert in_flight == [1, 0, 1]

    def test_an_injected_latency_is_ended_by_the_timeout(self) -> None:
        """Rule 21: Chaos is a part of the call."""
        chaos = Chaos(rate=1.0, latency=60.0)

        @command("chaotic", chaos=chaos, attempt_timeout=0.02, fallback=lambda: "instead")
        async def fn() -> str:
            return "never"

        with chaos.enabled():
            assert asyncio.run(fn()) == "instead"
        breaker = Command.of(fn).breaker
        assert breaker is not None
        assert breaker.snapshot().failures == 1

    def test_an_inner_timeout_reaches_every_layer_as_a_plain_error(self) -> None:
        """Rule 16: the breaker counts a hang as a failure, the retry repeats it, each attempt has its own limit."""
        calls = []

        @command("hanging", timeout=30.0, attempt_timeout=0.02, retry=Retry(attempts=3, wait=0.0))
        async def fn() -> None:
            calls.append(1)
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            asyncio.run(fn())
        assert len(calls) == 3
        breaker = Command.of(fn).breaker
        assert breaker is not None
        assert breaker.snapshot().failures == 3


class TestHops:
    """A sync call moves to another thread once at most."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"timeout": 5.0},
            {"timeout": 5.0, "attempt_timeout": 2.0},
            {"bulkhead": ThreadPoolBulkhead(2)},
            {"bulkhead": ThreadPoolBulkhead(2), "timeout": 5.0},
            {"bulkhead": ThreadPoolBulkhead(2), "attempt_timeout": 2.0},
            {"bulkhead": ThreadPoolBulkhead(2), "timeout": 5.0, "attempt_timeout": 2.0},
        ],
        ids=lambda settings: "+".join(settings),
    )
    def test_one_hop_whatever_moves_calls(self, settings: dict[str, Any]) -> None:
        """Rule 16: two timeouts and a pool of threads together keep one worker busy."""
        seen: list[tuple[bool, int]] = []

        @command("hops", **settings)  # type: ignore[untyped-decorator]  # the settings are of a plain dict here
        def fn() -> None:
            seen.append((threading.current_thread() is threading.main_thread(), busy() - before))

        before = busy()
        fn()
        assert seen == [(False, 1)]

    def test_without_a_limit_there_is_no_hop(self) -> None:
        """Thread-locals such as a database connection stay the caller's."""
        seen = []

        @command("here", retry=Retry(), bulkhead=Bulkhead(1), rate_limiter=RateLimiter(10))
        def fn() -> None:
            seen.append(threading.current_thread())

        fn()
        assert seen == [threading.current_thread()]


class TestEvents:
    """Composition: what is told, and that telling changes nothing."""

    def test_a_listener_that_raises_changes_no_outcome(self) -> None:
        """Case 8: neither result nor state."""

        def broken(event: object) -> None:
            raise RuntimeError("listener")

        breaker = CircuitBreaker("told", consecutive_failures=1, listeners=[broken])

        @command("telling", breaker=breaker)
        def fn() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            fn()
        with pytest.raises(CircuitOpenError):
            fn()

    def test_the_events_of_a_trip_come_in_order(self) -> None:
        """Case 9: threshold, transition, rejection."""
        heard: list[Any] = []
        stops = [listen(heard.append, kind) for kind in (CircuitThresholdReached, CircuitStateChanged, CircuitRejected)]

        @command("tripping", breaker=CircuitBreaker(consecutive_failures=1))
        def fn() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            fn()
        with pytest.raises(CircuitOpenError):
            fn()
        for stop in stops:
            stop()
        assert [type(event) for event in heard] == [CircuitThresholdReached, CircuitStateChanged, CircuitRejected]
