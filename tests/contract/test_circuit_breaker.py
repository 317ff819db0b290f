"""The circuit breaker's contract: the rules of its semantics, and the cases that catch naive implementations."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitRejected,
    CircuitStateChanged,
    CircuitThresholdReached,
    CountWindow,
    Permit,
    Pipeline,
    State,
    Timeout,
    TimeWindow,
)
from resilient.testing import VirtualClock
from tests.drive import Drive

Make = Callable[..., CircuitBreaker]


@pytest.fixture
def make(clock: VirtualClock) -> Make:
    """Make a breaker in virtual time whose open times are not lengthened by chance."""

    def made(name: str = "svc", **settings: Any) -> CircuitBreaker:
        return CircuitBreaker(name, clock=clock, **{"rng": lambda: 0.0, **settings})

    return made


def good() -> str:
    return "fine"


def bad() -> str:
    raise ConnectionError("down")


def run(drive: Drive, breaker: CircuitBreaker, calls: str) -> None:
    """Make the calls: S succeeds, F fails."""
    for call in calls:
        if call == "S":
            assert drive(breaker, good) == "fine"
        else:
            with pytest.raises(ConnectionError):
                drive(breaker, bad)


def half_opened(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Bring it to where the next caller is the first probe."""
    breaker.open(1.0)
    clock.advance(1.0)


def is_in(breaker: CircuitBreaker, state: State) -> bool:
    return breaker.state is state


def rejected(breaker: CircuitBreaker) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    return caught.value


# --- verdicts -----------------------------------------------------------------------------------------------------


def http_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://svc/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (ConnectionError("down"), "failed"),
        (http_error(500), "failed"),
        (http_error(404), "successes"),
        (http_error(408), "failed"),
        (http_error(425), "failed"),
        (http_error(429), "failed"),
        (KeyError("not in on"), "successes"),
        (BlockingIOError("in ignore"), "ignored"),
        (ExceptionGroup("all", [http_error(404), ConnectionError()]), "failed"),
        (ExceptionGroup("all", [http_error(404), BlockingIOError()]), "ignored"),
        (ExceptionGroup("all", [http_error(404), KeyError()]), "successes"),
        (ExceptionGroup("all", [ExceptionGroup("inner", [ConnectionError()]), BlockingIOError()]), "failed"),
    ],
    ids=repr,
)
def test_what_an_error_means(drive: Drive, make: Make, error: Exception, counted: str) -> None:
    """Rule 1: ignored, then not asked for or the caller's own mistake, else a failure; the error always leaves."""
    breaker = make(on=(OSError, httpx.HTTPError), ignore=BlockingIOError)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        drive(breaker, fail)
    assert caught.value is error
    snapshot = breaker.snapshot()
    counts = {what: getattr(snapshot, what) for what in ("successes", "failed", "ignored", "late")}
    assert counts == {"successes": 0, "failed": 0, "ignored": 0, "late": 0} | {counted: 1}


def test_a_refusal_further_in_was_never_sent(drive: Drive, make: Make) -> None:
    """Rule 2: a rejection by an inner policy counts nothing, and gives the probe's place back."""
    inner, outer = make("inner"), make("outer")
    inner.force_open()
    guard = Pipeline(outer, inner)
    with pytest.raises(CircuitOpenError, match="inner"):
        drive(guard, good)
    half_opened(outer, inner._clock)  # type: ignore[arg-type]  # the virtual clock of both
    for _ in range(3):
        with pytest.raises(CircuitOpenError, match="inner"):
            drive(guard, good)
    snapshot = outer.snapshot()
    assert (snapshot.state, snapshot.rejected) == (State.HALF_OPEN, 0)
    assert (snapshot.successes, snapshot.failed, snapshot.ignored, snapshot.late) == (0, 0, 0, 0)


@pytest.mark.parametrize(("elapsed", "limit", "failed"), [(0.1, 1.0, 1), (0.09, 1.0, 0), (0.1, float("inf"), 1)])
def test_impatience_is_no_evidence(make: Make, elapsed: float, limit: float, failed: int) -> None:
    """Rule 3: a deadline's timeout fails only a call that had a tenth of its own limit, or 100 ms."""
    breaker = make()

    def impatient() -> None:
        raise CallTimeoutError("late", policy="deadline", limit=limit, elapsed=elapsed, by_deadline=True)

    with pytest.raises(CallTimeoutError):
        breaker.call(impatient)
    assert (breaker.snapshot().failed, breaker.snapshot().ignored) == (failed, 1 - failed)


def test_errors_keep_no_frames(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Rule 4: what opened the circuit is kept as text of 200 characters, and nothing of the caller's with it."""
    caplog.set_level(logging.CRITICAL, "resilient")  # pytest keeps what is logged, frames and all
    breaker = make(consecutive_failures=1)

    class Big:
        """Something that a frame would keep alive."""

    kept: list[weakref.ref[Big]] = []

    def fail() -> None:
        local = Big()
        kept.append(weakref.ref(local))
        raise ValueError("x" * 1000)

    with contextlib.suppress(ValueError):
        breaker.call(fail)
    gc.collect()
    assert kept[0]() is None
    last = rejected(breaker).last_failure
    assert last is not None
    assert (last.kind, last.message, last.at) == ("ValueError", "x" * 200, 1000.0)


def test_the_traceback_is_in_the_warning_of_the_trip(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Rule 4: once, where somebody looks for it."""
    breaker = make(consecutive_failures=2)
    with caplog.at_level(logging.WARNING, "resilient"):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                breaker.call(bad)
        rejected(breaker)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.exc_info is not None
    assert record.exc_info[0] is ConnectionError


# --- when it opens ------------------------------------------------------------------------------------------------


def test_a_success_may_complete_the_minimum_and_open(drive: Drive, make: Make) -> None:
    """Case 1, rule 6: three of four failed is no rate yet; the fifth call succeeds and opens at 60 %."""
    breaker = make(window=TimeWindow(20.0), minimum_calls=5, consecutive_failures=None)
    run(drive, breaker, "FFFS")
    assert (breaker.state, breaker.snapshot().failure_rate) == (State.CLOSED, None)
    run(drive, breaker, "S")
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.calls, snapshot.failures, snapshot.failure_rate) == (State.OPEN, 5, 3, 0.6)


@pytest.mark.parametrize(
    ("settings", "calls", "last"),
    [
        ({"minimum_calls": 20}, "F" * 19, "F"),
        ({"minimum_calls": 5}, "F" * 4, "F"),
        ({"minimum_calls": 8, "failure_rate": 0.4}, "SSSSFFF", "F"),
        ({"minimum_calls": 100, "failure_rate": 0.07, "window": CountWindow(100)}, "S" * 93 + "F" * 6, "F"),
        ({"minimum_calls": 3, "failure_rate": 1.0}, "FFSF" * 5 + "FFF", None),
    ],
    ids=str,
)
def test_the_rate_is_judged_from_the_minimum_on(make: Make, settings: Any, calls: str, last: str | None) -> None:
    """Case 2, rule 6: one call below the minimum it is closed, with the next it opens; 100 % means all of them."""
    breaker = make(consecutive_failures=None, **settings)
    for call in calls:
        assert is_in(breaker, State.CLOSED)
        permit = breaker.acquire()
        permit.success() if call == "S" else permit.failure()
    assert is_in(breaker, State.CLOSED)
    if last is not None:
        breaker.acquire().failure()
        assert is_in(breaker, State.OPEN)


def test_a_rate_below_the_threshold_does_not_open(drive: Drive, make: Make) -> None:
    """Case 2: two of eight failed is 25 %, less than 40 %."""
    breaker = make(minimum_calls=8, failure_rate=0.4, consecutive_failures=None)
    run(drive, breaker, "SSSFSSSF")
    assert (breaker.state, breaker.snapshot().failure_rate) == (State.CLOSED, 0.25)


def test_older_successes_that_leave_the_window_let_a_success_open(make: Make, clock: VirtualClock) -> None:
    """Rule 6: judged at every record: 10 of 25 is below the rate until ten older successes are gone."""
    breaker = make(window=TimeWindow(10.0, buckets=10), minimum_calls=10, consecutive_failures=None)
    for _ in range(14):
        breaker.acquire().success()
    clock.advance(5.0)
    for _ in range(10):
        breaker.acquire().failure()
    assert is_in(breaker, State.CLOSED)
    clock.advance(5.0)
    breaker.acquire().success()
    assert (breaker.state, breaker.snapshot().calls) == (State.OPEN, 11)


def test_few_calls_open_after_five_failures_in_a_row(drive: Drive, make: Make, clock: VirtualClock) -> None:
    """Rule 6: below the minimum five in a row open, however far apart; a success ends the row."""
    breaker = make()
    run(drive, breaker, "FFFFS")
    for _ in range(4):
        run(drive, breaker, "F")
        clock.advance(60.0)
    assert is_in(breaker, State.CLOSED)
    run(drive, breaker, "F")
    assert is_in(breaker, State.OPEN)


def test_a_total_outage_opens_after_the_minimum_in_a_row_at_any_volume(make: Make) -> None:
    """Rule 6: after a thousand healthy calls 20 failures in a row open, not five, and not half of the window."""
    breaker = make()
    for _ in range(1000):
        breaker.acquire().success()
    for _ in range(19):
        breaker.acquire().failure()
    assert is_in(breaker, State.CLOSED)
    breaker.acquire().failure()
    assert is_in(breaker, State.OPEN)


def test_the_minimum_in_a_row_opens_although_more_were_asked_for(make: Make, clock: VirtualClock) -> None:
    """Rule 6: at any volume holds for a trickle too: 3 in a row open where `consecutive_failures` is 9."""
    breaker = make(minimum_calls=3, consecutive_failures=9)
    for _ in range(3):
        assert is_in(breaker, State.CLOSED)
        breaker.acquire().failure()
        clock.advance(60.0)
    assert is_in(breaker, State.OPEN)


def test_without_a_rate_the_row_counts_at_any_volume(make: Make) -> None:
    """With `failure_rate=None` the number asked for holds, before and after the minimum."""
    breaker = make(failure_rate=None, consecutive_failures=30, minimum_calls=2)
    for _ in range(100):
        breaker.acquire().success()
    for _ in range(29):
        breaker.acquire().failure()
    assert is_in(breaker, State.CLOSED)
    breaker.acquire().failure()
    assert is_in(breaker, State.OPEN)


def test_slow_calls_open_it(make: Make, clock: VirtualClock) -> None:
    """Rule 6: half of the calls slow opens although none failed; exactly the duration is slow."""
    breaker = make(slow_call_duration=2.0, slow_call_rate=0.5, minimum_calls=4)
    for seconds in (1.9, 2.0, 1.9):
        permit = breaker.acquire()
        clock.advance(seconds)
        permit.success()
        assert is_in(breaker, State.CLOSED)
    permit = breaker.acquire()
    clock.advance(2.5)
    permit.success()
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.slow, snapshot.slow_call_rate, snapshot.failures) == (State.OPEN, 2, 0.5, 0)
    last = rejected(breaker).last_failure
    assert last is not None
    assert (last.kind, last.message) == ("result", "2 of 4 calls were slow")


def test_no_failure_is_no_rate(make: Make, clock: VirtualClock) -> None:
    """A rate next to nothing, and one slow call that makes it judge: nothing failed, so nothing opens."""
    breaker = make(failure_rate=1e-12, slow_call_duration=1.0, minimum_calls=1)
    breaker.acquire().success()
    permit = breaker.acquire()
    clock.advance(2.0)
    permit.success()
    assert (breaker.state, breaker.snapshot().slow) == (State.CLOSED, 1)


def test_a_result_may_be_a_failure(drive: Drive, make: Make) -> None:
    """Rule 1: `on_result` judges what was returned; the value still reaches the caller."""
    breaker = make(on_result=lambda value: value is None, consecutive_failures=2)
    assert [drive(breaker, lambda: None) for _ in range(2)] == [None, None]
    assert is_in(breaker, State.OPEN)
    last = rejected(breaker).last_failure
    assert last is not None
    assert last.kind == "result"


def depth(error: BaseException) -> int:
    """How many frames its traceback has."""
    return sum(1 for _ in traceback.walk_tb(error.__traceback__))


# --- open ---------------------------------------------------------------------------------------------------------


def test_the_call_that_trips_raises_its_own_error(drive: Drive, make: Make, clock: VirtualClock) -> None:
    """Case 10: the next one is refused, with the exact time left and what went wrong; nothing grows with rejections."""
    breaker = make(consecutive_failures=1)
    boom = ValueError("boom")

    def fail() -> None:
        raise boom

    with pytest.raises(ValueError, match="boom"):
        drive(breaker, fail)
    clock.advance(1.5)
    own_depth = depth(boom)
    refusals = []
    for _ in range(100):
        with pytest.raises(CircuitOpenError) as caught:
            drive(breaker, good)
        refusals.append(caught.value)
    assert len({depth(refusal) for refusal in refusals}) == 1
    assert {refusal.__context__ for refusal in refusals} == {None}
    assert depth(boom) == own_depth
    last = refusals[-1]
    assert (last.policy, last.retry_after) == ("svc", 3.5)
    assert last.last_failure is not None
    assert (last.last_failure.kind, last.last_failure.message) == ("ValueError", "boom")
    assert "boom" in str(last)
    assert breaker.snapshot().rejected == 100


def test_half_open_begins_at_the_very_end_by_the_caller_who_asks(drive: Drive, make: Make, clock: VirtualClock) -> None:
    """Rule 10: open until the end; from the end on the next caller probes; reading changes nothing."""
    breaker = make(consecutive_failures=1)
    run(drive, breaker, "F")
    clock.advance(4.999)
    with pytest.raises(CircuitOpenError):
        drive(breaker, good)
    clock.advance(0.001 + 1e-9)
    assert (breaker.state, breaker.snapshot().retry_after) == (State.OPEN, 0.0)
    assert drive(breaker, good) == "fine"
    assert is_in(breaker, State.HALF_OPEN)


def test_open_times_double_to_the_longest_and_start_again_after_closing(make: Make, clock: VirtualClock) -> None:
    """Case 9, rule 10: 5, 10, 20, 40, 60, 60 s while probes fail; after a close 5 s again."""
    breaker = make(consecutive_failures=1)
    breaker.acquire().failure()
    seen = []
    for _ in range(6):
        left = rejected(breaker).retry_after
        assert left is not None
        seen.append(left)
        clock.advance(left)
        breaker.acquire().failure()
    assert seen == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    clock.advance(60.0)
    for _ in range(3):
        breaker.acquire().success()
    assert is_in(breaker, State.CLOSED)
    breaker.acquire().failure()
    assert rejected(breaker).retry_after == 5.0


def test_a_function_of_the_attempt_gives_the_open_time(make: Make, clock: VirtualClock) -> None:
    """Case 9: 5 s, then 7.5 s; attempts are 1, 2, 3, and 1 again after a close."""
    breaker = make(consecutive_failures=1, open_duration=lambda attempt: 5.0 * 1.5 ** (attempt - 1))
    for expected in (5.0, 7.5, 11.25):
        breaker.acquire().failure()
        assert rejected(breaker).retry_after == expected
        clock.advance(expected)
    for _ in range(3):
        breaker.acquire().success()
    breaker.acquire().failure()
    assert rejected(breaker).retry_after == 5.0


@pytest.mark.parametrize(
    "nonsense", [lambda _n: float("nan"), lambda n: [][n], lambda _n: None], ids=["nan", "raises", "none"]
)
def test_a_function_that_gives_no_time_does_not_wedge_it(
    make: Make, clock: VirtualClock, nonsense: Callable[[int], float], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in `open_duration` is logged and means the longest time: it never reaches the caller of a service."""
    breaker = make(consecutive_failures=1, open_duration=lambda n: 5.0 if n == 1 else nonsense(n))
    breaker.acquire().failure()
    clock.advance(5.0)
    with caplog.at_level(logging.ERROR, "resilient"):
        breaker.acquire().failure()
    assert rejected(breaker).retry_after == 60.0
    assert "open_duration(2)" in caplog.text


def test_chance_makes_each_open_time_up_to_a_tenth_longer(make: Make, clock: VirtualClock) -> None:
    """Rule 10: drawn once at each opening, so that `retry_after` stays exact."""
    draws = iter([0.5, 0.999])
    breaker = make(consecutive_failures=1, rng=lambda: next(draws))
    breaker.acquire().failure()
    assert [rejected(breaker).retry_after for _ in range(3)] == pytest.approx([5.25] * 3)
    clock.advance(5.25)
    breaker.acquire().failure()
    assert [rejected(breaker).retry_after for _ in range(3)] == pytest.approx([10.999] * 3)


# --- half-open ----------------------------------------------------------------------------------------------------


def test_the_places_of_probes_are_limited_and_come_back(make: Make, clock: VirtualClock) -> None:
    """Case 3: four probes are admitted, two more are not; one released lets one in; after reopening four again."""
    breaker = make(half_open_probes=4)
    half_opened(breaker, clock)
    probes = [breaker.acquire() for _ in range(4)]
    for _ in range(2):
        rejected(breaker)
    probes[0].ignored()
    probes[0] = breaker.acquire()
    rejected(breaker)
    probes[0].failure()
    assert is_in(breaker, State.OPEN)
    left = rejected(breaker).retry_after
    assert left is not None
    clock.advance(left)
    probes = [breaker.acquire() for _ in range(4)]
    rejected(breaker)
    assert is_in(breaker, State.HALF_OPEN)


def test_one_failure_of_four_probes_does_not_open_again(make: Make, clock: VirtualClock) -> None:
    """Case 4, rule 9: an ignored probe teaches nothing; 1 failed of 4 is less than half."""
    breaker = make(half_open_probes=4, half_open_successes=4)
    half_opened(breaker, clock)
    probes = [breaker.acquire() for _ in range(4)]
    for probe in probes[:3]:
        probe.success()
    probes[3].ignored()
    assert (breaker.state, breaker.snapshot().calls) == (State.HALF_OPEN, 3)
    breaker.acquire().failure()
    assert (breaker.state, breaker.snapshot().calls) == (State.HALF_OPEN, 4)
    breaker.acquire().success()
    assert is_in(breaker, State.CLOSED)


@pytest.mark.parametrize(("before", "state"), [(0, State.OPEN), (1, State.OPEN), (2, State.HALF_OPEN)])
def test_a_failed_probe_opens_at_the_failure_rate(make: Make, clock: VirtualClock, before: int, state: State) -> None:
    """Rule 9: 1 of 1 and 1 of 2 open again, 1 of 3 does not."""
    breaker = make()
    half_opened(breaker, clock)
    for _ in range(before):
        breaker.acquire().success()
    breaker.acquire().failure()
    assert is_in(breaker, state)


def test_without_a_rate_the_first_failed_probe_opens(make: Make, clock: VirtualClock) -> None:
    """Rule 9: no rate, no tolerance."""
    breaker = make(failure_rate=None)
    half_opened(breaker, clock)
    for _ in range(2):
        breaker.acquire().success()
    breaker.acquire().failure()
    assert is_in(breaker, State.OPEN)


def test_a_rate_of_all_does_not_stay_half_open_for_ever(make: Make, clock: VirtualClock) -> None:
    """Algorithm A: with one success no failure ever reaches 100 %; nine failures open all the same."""
    breaker = make(failure_rate=1.0)
    half_opened(breaker, clock)
    breaker.acquire().success()
    for _ in range(8):
        breaker.acquire().failure()
        assert is_in(breaker, State.HALF_OPEN)
    breaker.acquire().failure()
    assert is_in(breaker, State.OPEN)


def test_more_failed_probes_may_be_allowed(make: Make, clock: VirtualClock) -> None:
    """Rule 9: `half_open_failures=2` opens at the second."""
    breaker = make(half_open_failures=2)
    half_opened(breaker, clock)
    breaker.acquire().failure()
    assert is_in(breaker, State.HALF_OPEN)
    breaker.acquire().failure()
    assert is_in(breaker, State.OPEN)


def test_the_gate_opens_gradually_while_callers_are_refused(make: Make, clock: VirtualClock) -> None:
    """Rule 9: as many callers as wait outside, and twice as many calls are under way after each round trip."""
    breaker = make()
    half_opened(breaker, clock)
    under_way: list[Permit] = []

    def fill() -> None:
        clock.advance(0.001)
        with pytest.raises(CircuitOpenError):
            while len(under_way) < 1000:
                under_way.append(breaker.acquire())

    fill()
    seen = [len(under_way)]
    for _ in range(5):
        for probe in list(under_way):
            under_way.remove(probe)
            probe.success()
            fill()
        seen.append(len(under_way))
    assert seen == [1, 2, 4, 8, 16, 32]
    assert is_in(breaker, State.HALF_OPEN)


def test_the_gate_does_not_widen_when_nobody_is_refused(make: Make, clock: VirtualClock) -> None:
    """Rule 9: after enough successes a place more is opened only for callers who were turned away."""
    breaker = make(half_open_probes=2)
    half_opened(breaker, clock)
    held = [breaker.acquire() for _ in range(2)]
    rejected(breaker)
    clock.advance(0.1)
    for _ in range(3):  # two places more, for the first two successes; none for the third
        held.pop().success()
        held.append(breaker.acquire())
    while len(held) < 4:
        held.append(breaker.acquire())
    rejected(breaker)


def test_it_closes_when_nobody_was_refused_for_a_second(make: Make, clock: VirtualClock) -> None:
    """Rule 9: three successes are not enough while the dependency could not take everybody."""
    breaker = make()
    half_opened(breaker, clock)
    probe = breaker.acquire()
    refusal = rejected(breaker)
    assert refusal.retry_after is not None
    assert 0.0 <= refusal.retry_after <= 1.0
    probe.success()
    clock.advance(0.999)
    for _ in range(3):
        breaker.acquire().success()
    assert is_in(breaker, State.HALF_OPEN)
    clock.advance(0.001 + 1e-9)
    breaker.acquire().success()
    assert is_in(breaker, State.CLOSED)


def test_it_closes_after_half_a_minute_although_callers_are_refused(make: Make, clock: VirtualClock) -> None:
    """Rule 9: a caller refused each half second does not hold it half-open for ever."""
    breaker = make()
    half_opened(breaker, clock)
    entered = clock.monotonic()
    while not is_in(breaker, State.CLOSED):
        held = []
        try:
            while True:
                held.append(breaker.acquire())
                assert len(held) < 1000
        except CircuitOpenError:
            pass
        held[0].success()
        for permit in held[1:]:
            permit.ignored()
        clock.advance(0.5)
        assert clock.monotonic() <= entered + 31.0
    assert clock.monotonic() - entered >= 30.0


def test_a_result_from_before_the_trip_moves_nothing(make: Make, clock: VirtualClock) -> None:
    """Case 6: a call admitted while closed says nothing about the service after the cooldown."""
    breaker = make(consecutive_failures=1)
    early = [breaker.acquire() for _ in range(4)]
    breaker.acquire().failure()
    early[0].success()
    assert (breaker.state, rejected(breaker).retry_after) == (State.OPEN, 5.0)
    clock.advance(5.0)
    probe = breaker.acquire()
    early[1].success()
    early[2].failure()
    assert (breaker.state, breaker.snapshot().calls) == (State.HALF_OPEN, 0)
    rejected(breaker)
    probe.failure()
    assert is_in(breaker, State.OPEN)
    early[3].ignored()
    assert breaker.snapshot().late == 4


def test_the_other_probes_of_a_failed_half_open_period_are_late(make: Make, clock: VirtualClock) -> None:
    """Rule 9: when one of two opens it again, the other's success does not close the next half-open period."""
    breaker = make(half_open_probes=2, half_open_successes=1)
    half_opened(breaker, clock)
    first, second = breaker.acquire(), breaker.acquire()
    first.failure()
    left = rejected(breaker).retry_after
    assert left is not None
    clock.advance(left)
    probe = breaker.acquire()
    second.success()
    assert (breaker.state, breaker.snapshot().late) == (State.HALF_OPEN, 1)
    probe.success()
    assert is_in(breaker, State.CLOSED)


def test_a_slow_probe_has_failed(make: Make, clock: VirtualClock) -> None:
    """Rule 9: a dependency that answers too slowly is not well."""
    breaker = make(slow_call_duration=1.0)
    half_opened(breaker, clock)
    probe = breaker.acquire()
    clock.advance(1.0)
    probe.success()
    assert (breaker.state, breaker.snapshot().successes) == (State.OPEN, 1)


def test_a_hung_probe_has_failed_when_its_lease_ends(make: Make, clock: VirtualClock) -> None:
    """Case 8, rules 9 and 12: who asks after 10 s finds it open, for longer; the late answer moves nothing."""
    breaker = make(consecutive_failures=1)
    breaker.acquire().failure()
    clock.advance(5.0)
    hung = breaker.acquire()
    clock.advance(9.99)
    assert rejected(breaker).retry_after == pytest.approx(0.01)
    assert is_in(breaker, State.HALF_OPEN)
    clock.advance(0.01 + 1e-9)
    assert rejected(breaker).retry_after == 10.0
    assert is_in(breaker, State.OPEN)
    hung.success()
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.late, snapshot.successes) == (State.OPEN, 1, 0)


def test_a_hung_probe_that_ends_in_its_own_half_open_period_is_late(make: Make, clock: VirtualClock) -> None:
    """Rule 11: its failure was counted when it was given up; its result is counted once, as late."""
    breaker = make(half_open_failures=2)
    half_opened(breaker, clock)
    hung = breaker.acquire()
    clock.advance(10.0)
    breaker.acquire().ignored()
    hung.success()
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.calls, snapshot.failures) == (State.HALF_OPEN, 1, 1)
    assert (snapshot.late, snapshot.ignored, snapshot.successes, snapshot.failed) == (1, 1, 0, 0)


def test_a_lease_is_the_granted_time_and_a_second(drive: Drive, make: Make, clock: VirtualClock) -> None:
    """Rule 12: a pipeline that limits the call to 2 s waits 3 s for its probe, not 10."""
    breaker = make(half_open_failures=2)
    guard = Pipeline(breaker, Timeout(2.0, thread=False, clock=clock))
    half_opened(breaker, clock)

    def hang() -> str:
        clock.advance(2.9)
        assert rejected(breaker).retry_after == pytest.approx(0.1)
        clock.advance(0.1 + 1e-9)
        breaker.acquire().ignored()  # the hung probe was given up, its place is free
        return "late"

    assert drive(guard, hang) == "late"
    assert (breaker.snapshot().failures, breaker.snapshot().late) == (1, 1)


def test_a_slow_dependency_gets_twice_its_slowest_success(make: Make, clock: VirtualClock) -> None:
    """Rule 12: a call that took 20 s while closed makes a lease of 40 s."""
    breaker = make(consecutive_failures=1)
    slow = breaker.acquire()
    clock.advance(20.0)
    slow.success()
    breaker.acquire().failure()
    clock.advance(5.0)
    probe = breaker.acquire()
    clock.advance(39.9)
    rejected(breaker)
    assert is_in(breaker, State.HALF_OPEN)
    clock.advance(0.1 + 1e-9)
    rejected(breaker)
    assert is_in(breaker, State.OPEN)
    probe.ignored()


def test_reopening_after_enough_successes_starts_with_the_first_open_time(make: Make, clock: VirtualClock) -> None:
    """Rules 9 and 10: a dependency that answered three probes is a new case; one that did not waits longer."""
    breaker = make(half_open_probes=8, failure_rate=0.25)
    breaker.open()
    clock.advance(5.0)
    breaker.acquire().failure()
    assert rejected(breaker).retry_after == 10.0
    clock.advance(10.0)
    probes = [breaker.acquire() for _ in range(8)]
    rejected(breaker)
    for probe in probes[:3]:
        probe.success()
    probes[3].failure()
    assert (breaker.state, rejected(breaker).retry_after) == (State.OPEN, 5.0)
    clock.advance(5.0)
    breaker.acquire().failure()
    assert rejected(breaker).retry_after == 10.0


# --- probes that end oddly ----------------------------------------------------------------------------------------


def assert_next_is_the_probe(breaker: CircuitBreaker, ignored: int) -> None:
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.calls, snapshot.ignored) == (State.HALF_OPEN, 0, ignored)
    breaker.acquire().ignored()


async def test_a_cancelled_probe_gives_its_place_back(make: Make, clock: VirtualClock) -> None:
    """Case 7: CancelledError reaches the caller unchanged, nothing is learned, the next call probes."""
    breaker = make()
    half_opened(breaker, clock)
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(breaker.acall(hang))
    await started.wait()
    rejected(breaker)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert_next_is_the_probe(breaker, 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_probe_that_is_interrupted_gives_its_place_back(
    drive: Drive, make: Make, clock: VirtualClock, kind: type[BaseException]
) -> None:
    """Case 7, rule 2: what is no Exception is no verdict."""
    breaker = make()
    half_opened(breaker, clock)

    def interrupted() -> None:
        raise kind

    with pytest.raises(kind):
        drive(breaker, interrupted)
    assert_next_is_the_probe(breaker, 1)


def test_a_predicate_that_raises_is_logged_and_ignored(
    drive: Drive, make: Make, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 7: the caller gets the call's own error; the probe's place comes back."""

    def predicate(error: Exception) -> bool:
        raise RuntimeError("a bug in the predicate")

    breaker = make(on=predicate)
    half_opened(breaker, clock)
    with caplog.at_level(logging.ERROR, "resilient"), pytest.raises(ConnectionError):
        drive(breaker, bad)
    assert "a bug in the predicate" in caplog.text
    assert_next_is_the_probe(breaker, 1)


def test_a_listener_that_raises_is_logged_and_changes_nothing(
    drive: Drive, make: Make, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 7: the state changes, the next listener hears it, the caller gets what the call gave."""
    heard: list[Any] = []

    def broken(event: object) -> None:
        raise RuntimeError("a bug in the listener")

    breaker = make(listeners=[broken, heard.append])
    half_opened(breaker, clock)
    with caplog.at_level(logging.ERROR, "resilient"):
        assert drive(breaker, good) == "fine"
    assert "a bug in the listener" in caplog.text
    assert [event.new for event in heard] == [State.OPEN, State.HALF_OPEN]


def test_a_generator_closed_early_gives_the_place_back(make: Make, clock: VirtualClock) -> None:
    """Case 7: a guarded block that its reader leaves is no verdict."""
    breaker = make()
    half_opened(breaker, clock)

    def read() -> Iterator[int]:
        with breaker.calling():
            yield 1
            yield 2

    reader = read()
    assert next(reader) == 1
    rejected(breaker)
    reader.close()  # type: ignore[attr-defined]  # it is a generator
    assert_next_is_the_probe(breaker, 1)


# --- by hand ------------------------------------------------------------------------------------------------------


def test_forced_open_rejects_without_a_failure_until_reset(drive: Drive, make: Make, clock: VirtualClock) -> None:
    """Case 12, rule 11: nobody knows when it ends."""
    breaker = make()
    breaker.force_open()
    clock.advance(1e6)
    with pytest.raises(CircuitOpenError) as caught:
        drive(breaker, good)
    assert (caught.value.retry_after, caught.value.last_failure) == (None, None)
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.failures, snapshot.retry_after) == (State.FORCED_OPEN, 0, None)
    breaker.reset()
    assert drive(breaker, good) == "fine"


def test_disabled_admits_everything_and_counts_nothing(drive: Drive, make: Make) -> None:
    """Case 12, rule 11."""
    breaker = make(consecutive_failures=1)
    breaker.disable()
    run(drive, breaker, "FFFFFFFFFS")
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.calls) == (State.DISABLED, 0)
    assert snapshot.successes + snapshot.failed + snapshot.ignored + snapshot.late == 0


def test_metrics_only_counts_tells_once_and_never_opens(drive: Drive, make: Make) -> None:
    """Case 12, rule 11: 100 % failures, one event, no rejection."""
    heard: list[Any] = []
    breaker = make(minimum_calls=4, listeners=[heard.append])
    breaker.metrics_only()
    run(drive, breaker, "FFFFFFFF")
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.failure_rate, snapshot.rejected) == (State.METRICS_ONLY, 1.0, 0)
    assert [type(event) for event in heard] == [CircuitStateChanged, CircuitThresholdReached]


@pytest.mark.parametrize("manual", ["force_open", "disable", "metrics_only"])
def test_open_does_nothing_but_warn_in_a_manual_state(
    make: Make, manual: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule 11: what was set by hand is left by hand."""
    breaker = make()
    getattr(breaker, manual)()
    before = breaker.state
    with caplog.at_level(logging.WARNING, "resilient"):
        breaker.open(9.0)
    assert (breaker.state, caplog.text.count("open() does nothing")) == (before, 1)
    breaker.reset()
    assert is_in(breaker, State.CLOSED)


def test_open_lasts_exactly_as_long_as_told_and_the_later_end_wins(make: Make, clock: VirtualClock) -> None:
    """Rules 10 and 11: a dependency that says when to come back is believed; growth starts where it was."""
    breaker = make(rng=lambda: 0.999, consecutive_failures=1)
    breaker.open(2.0)
    breaker.open(9.0)
    breaker.open(4.0)
    assert rejected(breaker).retry_after == 9.0
    clock.advance(9.0)
    breaker.acquire().failure()
    assert rejected(breaker).retry_after == pytest.approx(5.0 * 1.0999)
    breaker.reset()
    breaker.open()
    assert rejected(breaker).retry_after == pytest.approx(5.0 * 1.0999)


def test_reset_begins_anew_from_any_state(make: Make, clock: VirtualClock) -> None:
    """Rule 11: closed, no counts, attempts from one; results of the state before are late."""
    breaker = make(consecutive_failures=2)
    breaker.acquire().failure()
    early = breaker.acquire()
    breaker.reset()
    early.failure()
    assert (breaker.snapshot().calls, breaker.snapshot().late) == (0, 1)
    breaker.acquire().failure()
    assert is_in(breaker, State.CLOSED)
    breaker.acquire().failure()
    clock.advance(5.0)
    breaker.acquire().failure()
    assert rejected(breaker).retry_after == 10.0
    breaker.reset()
    for _ in range(2):
        breaker.acquire().failure()
    assert rejected(breaker).retry_after == 5.0


# --- events and threads -------------------------------------------------------------------------------------------


def test_what_listeners_hear(make: Make, clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Rule 15: the threshold, then the change with its reason and time, then rejections; levels as bad as the news."""
    heard: list[Any] = []
    breaker = make(consecutive_failures=1, half_open_successes=1, listeners=[heard.append])
    with caplog.at_level(logging.INFO, "resilient"):
        breaker.acquire().failure(ValueError("boom"))
        rejected(breaker)
        clock.advance(5.0)
        breaker.acquire().success()
    changes = [(event.old, event.new, event.at) for event in heard if isinstance(event, CircuitStateChanged)]
    assert changes == [
        (State.CLOSED, State.OPEN, 1000.0),
        (State.OPEN, State.HALF_OPEN, 1005.0),
        (State.HALF_OPEN, State.CLOSED, 1005.0),
    ]
    assert heard[0] == CircuitThresholdReached("svc", 1000.0, "a call failed")
    assert heard[1].reason == "a call failed"
    assert heard[2] == CircuitRejected("svc", 1000.0, 5.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]


def test_a_change_to_the_same_state_is_no_event(make: Make) -> None:
    """A service that repeats its Retry-After, or a nightly `reset()`, is no news: no event, no log line."""
    heard: list[Any] = []
    breaker = make(listeners=[heard.append])
    breaker.reset()
    for seconds in (1.0, 2.0, 3.0):
        breaker.open(seconds)
    breaker.force_open()
    breaker.force_open()
    assert [(event.old, event.new) for event in heard] == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.FORCED_OPEN),
    ]


def test_a_coroutine_function_is_no_listener(make: Make) -> None:
    """Rule 15: nobody would await it."""

    async def listener(event: object) -> None:
        """Never awaited."""

    with pytest.raises(TypeError, match="async"):
        make(listeners=[listener])


def test_calls_through_one_breaker_overlap(make: Make) -> None:
    """Case 11: five threads are inside at once, so five sleeps take as long as one."""
    breaker = make()
    inside = threading.Barrier(5)
    threads = [threading.Thread(target=breaker.call, args=(inside.wait, 10.0)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside.broken
    assert breaker.snapshot().successes == 5


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Case 11: an hour back or forth neither opens nor closes anything."""
    breaker = CircuitBreaker("real", consecutive_failures=1, open_duration=60.0)
    breaker.acquire().failure()
    real = SimpleNamespace(time=time.time, time_ns=time.time_ns)
    monkeypatch.setattr(time, "time", lambda: real.time() + jump)
    monkeypatch.setattr(time, "time_ns", lambda: real.time_ns() + int(jump * 1e9))
    left = rejected(breaker).retry_after
    assert left is not None
    assert 50.0 < left <= 66.0


def test_chance_is_drawn_without_the_lock(make: Make) -> None:
    """`rng` is the user's code: while it runs, others read and use the breaker."""
    stuck: list[bool] = []

    def slow() -> float:
        if held:
            reader = threading.Thread(target=held[0].snapshot, daemon=True)
            reader.start()
            reader.join(5.0)
            stuck.append(reader.is_alive())
        return 0.5

    held: list[CircuitBreaker] = []
    held.append(make(rng=slow, consecutive_failures=1))
    held[0].acquire().failure()
    held[0].open(1.0)
    assert stuck == [False] * len(stuck)
    assert stuck


def test_chance_that_fails_reaches_no_caller(make: Make) -> None:
    """The circuit opens all the same, for its plain open time; the caller gets its own error."""
    draws = iter([0.0])
    breaker = make(rng=lambda: next(draws), consecutive_failures=1, open_duration=4.0)
    with pytest.raises(ConnectionError):
        breaker.call(_raise_connection_error)
    breaker.reset()
    with pytest.raises(ConnectionError):
        breaker.call(_raise_connection_error)
    assert breaker.snapshot().retry_after == pytest.approx(4.0)


def _raise_connection_error() -> None:
    raise ConnectionError
