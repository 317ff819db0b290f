"""The adaptive limiter at its edges: what is a sample, priorities, windows, arguments, forks."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import threading
from typing import Any

import pytest

from resilient import CallTimeoutError, ConcurrencyLimitedError, ConfigError, Pipeline, RejectedError, Timeout, listen
from resilient.policies.concurrency_limiter import ConcurrencyLimiter, ConcurrencyLimitReached, priority
from resilient.policies.limit_algorithms import AIMD, Gradient2, LimitAlgorithm, Vegas
from resilient.testing import VirtualClock
from tests.drive import Drive


class Told:
    """Keeps the limit, and what it was told."""

    def __init__(self, initial: int = 10) -> None:
        self.initial = initial
        self.samples: list[tuple[float, int, bool]] = []

    def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
        """The same limit."""
        self.samples.append((round(rtt, 6), in_flight, dropped))
        return limit


class HTTPError(Exception):
    """As a client's, with a response."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.response = type("Response", (), {"status_code": status})()


class ReadTimeout(OSError):
    """A timeout that is no TimeoutError, as httpx's."""


class PoolTimeout(OSError):
    """No connection was free on this side."""


def answered(limiter: ConcurrencyLimiter, clock: VirtualClock, seconds: float, calls: int = 1) -> None:
    """Calls, one after the other, that take so long."""
    for _ in range(calls):
        permit = limiter.acquire()
        clock.advance(seconds)
        permit.success()


@pytest.mark.parametrize(
    ("error", "dropped"),
    [
        (TimeoutError(), True),
        (ReadTimeout(), True),
        (CallTimeoutError(policy="inner", limit=1.0, elapsed=1.0), True),
        (HTTPError(429), True),
        (HTTPError(503), True),
        (HTTPError(504), True),
        (HTTPError(500), False),
        (PoolTimeout(), False),
        (ConnectionRefusedError(), False),
        (ValueError(), False),
    ],
)
def test_failures_that_mean_overload_are_drops(
    clock: VirtualClock, drive: Drive, error: Exception, dropped: bool
) -> None:
    """Others say nothing: an error may be fast because nothing was done."""
    told = Told()
    limiter = ConcurrencyLimiter(told, window=None, clock=clock)

    def fail() -> None:
        clock.advance(0.5)
        raise error

    with pytest.raises(type(error)):
        drive(limiter, fail)
    assert told.samples == ([(0.5, 1, True)] if dropped else [])
    found = limiter.snapshot()
    assert (found.dropped, found.ignored, found.in_flight) == (dropped, not dropped, 0)


def test_an_answer_about_the_callers_mistake_is_a_sample(clock: VirtualClock, drive: Drive) -> None:
    """The dependency did its work."""
    told = Told()
    limiter = ConcurrencyLimiter(told, window=None, clock=clock)

    def fail() -> None:
        clock.advance(0.5)
        raise HTTPError(404)

    with pytest.raises(HTTPError):
        drive(limiter, fail)
    assert told.samples == [(0.5, 1, False)]


def test_what_means_overload_can_be_said(clock: VirtualClock, drive: Drive) -> None:
    """By type or predicate, and by the result."""
    told = Told()
    limiter = ConcurrencyLimiter(
        told, window=None, overload=LookupError, on_result=lambda result: result == "busy", clock=clock
    )

    def fail(error: Exception) -> None:
        clock.advance(0.1)
        raise error

    for error in (KeyError("busy"), TimeoutError()):
        with pytest.raises(type(error)):
            drive(limiter, fail, error)
    assert drive(limiter, lambda: "busy") == "busy"
    assert [dropped for _, _, dropped in told.samples] == [True, True]
    assert limiter.snapshot().ignored == 1


def test_refused_and_cancelled_calls_are_no_samples(clock: VirtualClock, drive: Drive) -> None:
    """The place comes back, nothing is learned."""
    told = Told(1)
    limiter = ConcurrencyLimiter(told, window=None, clock=clock)

    def fail(error: BaseException) -> None:
        clock.advance(0.1)
        raise error

    for error in (RejectedError("full", policy="inner"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            drive(limiter, fail, error)
    assert (told.samples, limiter.in_flight) == ([], 0)


async def test_a_cancelled_task_gives_its_place_back(clock: VirtualClock) -> None:
    """And an outer Timeout that cancels through the limiter is a drop."""
    told = Told(1)
    limiter = ConcurrencyLimiter(told, window=None, clock=clock)
    task = asyncio.ensure_future(limiter.acall(asyncio.Event().wait))
    await clock.advance_async(0.5)
    assert limiter.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (limiter.in_flight, told.samples) == (0, [])
    task = asyncio.ensure_future(Timeout(1.0, clock=clock)(limiter(asyncio.Event().wait))())
    await clock.advance_async(1.0)
    with pytest.raises(CallTimeoutError):
        await task
    assert (limiter.in_flight, told.samples) == (0, [(1.0, 1, True)])


def test_a_window_is_one_sample(clock: VirtualClock) -> None:
    """A second, ten calls at least: their average, the most that were under way."""
    told = Told()
    limiter = ConcurrencyLimiter(told, clock=clock)
    answered(limiter, clock, 0.2, 5)
    assert told.samples == []  # a second, but too few
    permits = [limiter.acquire() for _ in range(5)]
    clock.advance(0.4)
    for permit in permits:
        permit.success()
    assert told.samples == [(0.3, 5, False)]
    assert limiter.snapshot().rtt == pytest.approx(0.3)
    answered(limiter, clock, 0.01, 50)
    assert len(told.samples) == 1  # enough, but no second yet


def test_few_drops_in_a_window_are_noise(clock: VirtualClock) -> None:
    """From a twentieth on they count: else one timeout per second would hold a busy limit at its minimum."""
    told = Told(100)
    limiter = ConcurrencyLimiter(told, minimum_samples=40, clock=clock)
    for drops in (1, 2, 40):
        permits = [limiter.acquire() for _ in range(40)]
        clock.advance(1.0)
        for permit in permits[drops:]:
            permit.success()
        for permit in permits[:drops]:
            permit.failure()
    assert told.samples == [(1.0, 40, False), (1.0, 40, True), (1.0, 40, True)]


def test_calls_that_are_too_fast_are_no_samples(clock: VirtualClock) -> None:
    """Below 100 µs nobody was asked."""
    told = Told()
    limiter = ConcurrencyLimiter(told, window=None, clock=clock)
    answered(limiter, clock, 0.00005)
    answered(limiter, clock, 0.0)
    assert told.samples == []
    answered(limiter, clock, 0.0002)
    assert told.samples == [(0.0002, 1, False)]


def test_lower_priorities_are_refused_earlier() -> None:
    """The share of the limit that each may fill; without one the whole."""
    limiter = ConcurrencyLimiter(Told(20))
    held = [limiter.acquire(priority="background") for _ in range(10)]
    with pytest.raises(ConcurrencyLimitedError, match=r"10 of it for priority 'background'"):
        limiter.acquire(priority="background")
    held += [limiter.acquire(priority="low") for _ in range(5)]
    with pytest.raises(ConcurrencyLimitedError):
        limiter.acquire(priority="low")
    held += [limiter.acquire() for _ in range(5)]
    with pytest.raises(ConcurrencyLimitedError, match="20 calls are under way and the limit is 20 now$"):
        limiter.acquire(priority="normal")
    assert len(held) == limiter.in_flight == 20


def test_a_priority_travels_with_the_context(drive: Drive) -> None:
    """Into both colours, into blocks, nested and restored."""
    limiter = ConcurrencyLimiter(Told(4))
    held = [limiter.acquire(), limiter.acquire()]
    with priority("background"):
        with pytest.raises(ConcurrencyLimitedError):
            drive(limiter, lambda: "never")
        with pytest.raises(ConcurrencyLimitedError), limiter.calling():
            pass
        with priority("low"):
            assert drive(limiter, lambda: "fine") == "fine"
        with pytest.raises(ConcurrencyLimitedError):
            limiter.acquire()
    assert drive(limiter, lambda: "fine") == "fine"
    assert len(held) == 2


def test_a_limit_of_one_is_open_to_every_priority() -> None:
    """Else the least important would starve for ever."""
    limiter = ConcurrencyLimiter(Told(1))
    with priority("background"):
        limiter.acquire().success()
    assert limiter.snapshot().accepted == 1


def test_own_priorities_replace_the_default_ones() -> None:
    """Keep a tenth for what matters most; an unknown name is an error with a hint."""
    limiter = ConcurrencyLimiter(Told(10), priorities={"critical": 1.0, "normal": 0.9}, name="own")
    held = [limiter.acquire() for _ in range(9)]
    with pytest.raises(ConcurrencyLimitedError):
        limiter.acquire()
    held.append(limiter.acquire(priority="critical"))
    with pytest.raises(ConfigError, match=r"'own' knows no priority 'critcal'; did you mean 'critical'\?"):
        limiter.acquire(priority="critcal")
    with pytest.raises(ConfigError, match="name must be text"), priority(3):  # type: ignore[arg-type]  # the mistake
        pass
    assert len(held) == 10


def test_a_dropped_place_comes_back() -> None:
    """Rule 8: forgotten is not held."""
    limiter = ConcurrencyLimiter(Told(1))
    permit = limiter.acquire()
    del permit
    gc.collect()
    limiter.acquire().success()
    assert limiter.in_flight == 0


def test_a_place_is_free_when_its_last_holder_lets_go(clock: VirtualClock) -> None:
    """Rule 17: it counts its holders, and nobody can hold what is free."""
    limiter = ConcurrencyLimiter(Told(1), clock=clock)
    place = limiter.admit(1.0)
    assert place.retain()
    place.success(0.1, clock.monotonic())
    assert limiter.in_flight == 1
    place.release()
    assert limiter.in_flight == 0
    assert not place.retain()


def test_an_algorithm_that_raises_changes_nothing(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; so is a limit that is none."""

    class Broken(Told):
        def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
            if rtt > 0.15:
                raise LookupError("a bug in the algorithm")
            return float("nan")

    limiter = ConcurrencyLimiter(Broken(7), window=None, clock=clock)
    with caplog.at_level(logging.ERROR, "resilient"):
        answered(limiter, clock, 0.1)
        answered(limiter, clock, 0.2)
    assert "a limit must be more than 0 and finite, not nan" in caplog.text
    assert "a bug in the algorithm" in caplog.text
    assert limiter.limit == 7


def test_an_algorithm_may_use_the_limiter(clock: VirtualClock) -> None:
    """No lock is held while it runs, whoever it asks; a limit below 1 is 1."""
    found: list[int] = []

    class Curious(Told):
        def update(self, limit: float, rtt: float, in_flight: int, dropped: bool, /) -> float:
            reader = threading.Thread(target=lambda: found.append(limiter.in_flight))
            reader.start()
            reader.join(5.0)
            return 0.25

    limiter = ConcurrencyLimiter(Curious(), window=None, clock=clock)
    answered(limiter, clock, 0.1)
    assert (found, limiter.limit) == ([0], 1)


def test_rejections_are_told_to_listeners(clock: VirtualClock) -> None:
    """To the limiter's own, and to whoever listens to the kind."""
    own: list[ConcurrencyLimitReached] = []
    heard: list[ConcurrencyLimitReached] = []
    limiter = ConcurrencyLimiter(Told(1), name="told", listeners=[own.append], clock=clock)
    stop = listen(heard.append, ConcurrencyLimitReached)
    permit = limiter.acquire()
    try:
        with pytest.raises(ConcurrencyLimitedError):
            limiter.acquire()
    finally:
        stop()
    permit.success()
    assert own == heard == [ConcurrencyLimitReached("told", clock.monotonic(), 1, 1, 1, "normal")]


def test_new_settings_are_taken_while_it_runs(clock: VirtualClock) -> None:
    """Rule 27: counts and places stay; the limit goes on from where it is, within the new bounds."""
    limiter = ConcurrencyLimiter(Told(50), clock=clock)
    held = [limiter.acquire() for _ in range(30)]
    limiter.take_settings(ConcurrencyLimiter(AIMD(initial=5, minimum=2, maximum=10), priorities={"low": 0.1}))
    assert (limiter.limit, limiter.in_flight) == (10, 30)
    for permit in held[:25]:
        permit.ignored()
    with pytest.raises(ConcurrencyLimitedError):
        limiter.acquire(priority="low")
    limiter.acquire().ignored()
    assert limiter.in_flight == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_empty() -> None:
    """Rule 28: the calls under way are the parent's, and settle nothing in the child."""
    limiter = ConcurrencyLimiter(Told(1))
    permit = limiter.acquire()
    limiter.after_fork_in_child()
    second = limiter.acquire()
    permit.success()
    del permit
    assert limiter.in_flight == 1
    second.success()
    assert limiter.in_flight == 0


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ConcurrencyLimiter, {"algorithm": Gradient2}, r"algorithm must have an update\(\) method.*make one"),
        (ConcurrencyLimiter, {"algorithm": 20}, r"algorithm must have an update\(\) method, not 20"),
        (ConcurrencyLimiter, {"algorithm": Told(0)}, "algorithm.initial must be at least 1"),
        (ConcurrencyLimiter, {"window": 0}, "window must be more than 0 seconds"),
        (ConcurrencyLimiter, {"minimum_samples": 0}, "minimum_samples must be at least 1"),
        (ConcurrencyLimiter, {"priorities": ["low"]}, "priorities must map names to shares"),
        (ConcurrencyLimiter, {"priorities": {"": 0.5}}, "a priority's name must be text"),
        (ConcurrencyLimiter, {"priorities": {"low": 75}}, "for 75 % write 0.75"),
        (ConcurrencyLimiter, {"overload": "busy"}, "overload must be an exception type"),
        (Gradient2, {"initial": 10}, "initial must be from 20 to 200, not 10"),
        (Gradient2, {"tolerance": 0.9}, "tolerance must be at least 1"),
        (Gradient2, {"backoff": 1.0}, "backoff must be from 0.5 to less than 1"),
        (Gradient2, {"smoothing": 0}, "smoothing must be a ratio"),
        (Vegas, {"alpha": 7}, "beta must be at least 7"),
        (Vegas, {"decrease": 2}, "decrease must be a function"),
        (AIMD, {"minimum": 300}, "maximum must be at least 300"),
    ],
)
def test_bad_arguments_are_refused(kind: Any, arguments: dict[str, Any], message: str) -> None:
    """At construction, with the value and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("algorithm", [Gradient2(), Vegas(), AIMD()], ids=repr)
def test_a_drop_shrinks_and_half_use_keeps(algorithm: LimitAlgorithm) -> None:
    """Whatever the algorithm: overload is heard although answers are fast, idle callers prove nothing."""
    for _ in range(20):
        assert algorithm.update(100.0, 0.010, 49, False) == 100
    assert algorithm.update(100.0, 0.010, 49, True) < 100
    assert algorithm.update(100.0, 0.010, 100, False) > 100


def test_gradient2_comes_back_from_a_long_slow_time() -> None:
    """An average of more than twice the sample is lowered quickly: soon 350 ms is slow again."""
    gradient = Gradient2()
    for _ in range(10):
        gradient.update(100.0, 1.0, 10, False)
    assert gradient.update(100.0, 0.35, 100, False) > 100
    for _ in range(30):
        gradient.update(100.0, 0.1, 10, False)
    assert gradient.update(100.0, 0.35, 100, False) < 100


def test_vegas_grows_by_one_while_the_queue_is_short() -> None:
    """Between no queue and alpha: 10 with a queue of 2 is 11."""
    vegas = Vegas(initial=10)
    vegas.update(10.0, 0.010, 10, False)
    assert vegas.update(10.0, 0.0125, 10, False) == 10  # a queue of 2 is alpha x log10(10) - 1
    assert vegas.update(10.0, 0.0120, 10, False) == 11


def test_vegas_measures_anew_at_half_the_limit() -> None:
    """After 30 x limit samples: one for the queue to drain, one that is the new fastest; a drop ends the lull."""
    vegas = Vegas(initial=10)
    vegas.update(10.0, 0.010, 10, False)
    for _ in range(299):
        assert vegas.update(10.0, 0.014, 10, False) == 10
    assert vegas.update(10.0, 0.014, 10, False) == 5
    assert vegas.update(5.0, 0.014, 5, False) == 5
    assert vegas.update(5.0, 0.030, 5, False) == 10
    assert vegas.update(10.0, 0.030, 10, False) == 16
    for _ in range(299):
        vegas.update(10.0, 0.042, 10, False)
    assert vegas.update(10.0, 0.042, 10, True) == 9
    assert vegas.update(9.0, 0.042, 9, False) == 9


def test_a_retry_inside_is_warned_about() -> None:
    """It would hold a place while it sleeps."""

    class Again(Timeout):
        kind = "retry"

    limiter = ConcurrencyLimiter()
    assert any("held while it sleeps" in warning for warning in Pipeline(limiter, Again(1.0)).explain().warnings)
    assert not any("Retry" in warning for warning in Pipeline(Again(1.0), limiter).explain().warnings)


def test_it_explains_itself() -> None:
    """The algorithm and the limit; plain data for JSON."""
    limiter = ConcurrencyLimiter(name="search")
    assert "Gradient2() admits 20 calls at once now" in limiter.explain().layers[0]
    assert repr(limiter) == "<ConcurrencyLimiter 'search' 0/20 in flight>"
    assert json.loads(json.dumps(limiter.snapshot().as_dict()))["limit"] == 20


def test_reset_begins_anew_and_calls_under_way_keep_their_places(clock: VirtualClock) -> None:
    """What was learned and counted is gone; a place is free when its call ends, as before."""
    limiter = ConcurrencyLimiter(AIMD(initial=20), window=None, clock=clock)
    permit = limiter.acquire()
    limiter.acquire().failure()
    limiter.reset()
    assert limiter.limit == 20
    snapshot = limiter.snapshot()
    assert (snapshot.accepted, snapshot.rejected, snapshot.in_flight) == (0, 0, 1)
    permit.success()
    assert limiter.in_flight == 0
