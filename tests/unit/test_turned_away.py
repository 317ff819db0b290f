"""A fallback directly over an open breaker: the call is turned away without an exception, and nothing else differs."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, CircuitRejected, Fallback, Pipeline, State, listen
from resilient.testing import VirtualClock
from tests.drive import Drive


@pytest.fixture
def breaker(clock: VirtualClock) -> CircuitBreaker:
    """Not lengthened by chance."""
    return CircuitBreaker("svc", clock=clock, rng=lambda: 0.0)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("an open circuit lets nobody in")


def fail(*_: Any) -> None:
    raise ConnectionError("down")


def opened(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """By five failures, two seconds of five ago."""
    for _ in range(5):
        with pytest.raises(ConnectionError):
            breaker.call(fail)
    clock.advance(2.0)


def raising(error: Exception) -> Callable[..., Any]:
    def answer(*_: Any) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fallback(lambda sku: f"no {sku}"),
        lambda: Fallback(value="no apple"),
        lambda: Fallback(factory=lambda: "no apple"),
        lambda: Fallback(Fallback(lambda sku: f"no {sku}")),
        lambda: Fallback(lambda sku, *, error: f"no {sku}" if error.policy == "svc" else "?"),
        lambda: Fallback(raising(KeyError("cache")), lambda sku: f"no {sku}"),
        lambda: Fallback(raising(KeyError("cache")), lambda sku, *, error: f"no {sku}{error.policy[3:]}"),
        lambda: Fallback(Fallback(lambda sku: "?", ignore=CircuitOpenError), lambda sku: f"no {sku}"),
    ],
    ids=["function", "value", "factory", "nested", "error", "second", "second with error", "nested with ignore"],
)
def test_every_kind_of_fallback_answers(
    drive: Drive, breaker: CircuitBreaker, clock: VirtualClock, make: Callable[[], Fallback[Any]]
) -> None:
    """The first time, when the cause is logged, and each time after; every refusal is counted."""
    guard = Pipeline(make(), breaker)
    opened(breaker, clock)
    before = breaker.snapshot()
    assert [drive(guard, never, "apple") for _ in range(4)] == ["no apple"] * 4
    after = breaker.snapshot()
    assert after.rejected - before.rejected == 4
    assert (after.successes, after.failed, after.ignored, after.late) == (0, 5, 0, 0)
    assert after.retry_after == 3.0


def test_an_async_fallback_is_awaited(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """A coroutine function, a lambda that calls one, one after a way that failed, an async factory."""

    async def later(sku: str) -> str:
        await asyncio.sleep(0)
        return f"no {sku}"

    async def later_with(sku: str, *, error: Exception) -> str:
        return f"no {sku} {type(error).__name__}"

    async def broken(sku: str) -> str:
        raise KeyError(sku)

    async def made() -> str:
        return "no apple"

    async def fetch(sku: str) -> str:
        raise AssertionError

    opened(breaker, clock)
    for fallback, answer in [
        (Fallback(later), "no apple"),
        (Fallback(lambda sku: later(sku)), "no apple"),
        (Fallback(functools.partial(later)), "no apple"),
        (Fallback(broken, later), "no apple"),
        (Fallback(broken, later_with), "no apple CircuitOpenError"),
        (Fallback(factory=made), "no apple"),
    ]:
        guarded = Pipeline(fallback, breaker)(fetch)
        assert [asyncio.run(guarded("apple")) for _ in range(3)] == [answer] * 3
    assert breaker.snapshot().rejected == 18


def test_the_error_says_what_a_refusal_says(drive: Drive, breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Made only for those who look at it, exact at that moment: when to come back, what failed last, in words."""
    seen: list[CircuitOpenError] = []

    def remember(*, error: Any) -> None:
        seen.append(error)

    guard = Pipeline(Fallback(remember), breaker)
    opened(breaker, clock)
    for _ in range(3):
        with pytest.raises(CircuitOpenError) as caught:
            breaker.acquire()
        drive(guard, never)
        for left in (seen[-1], caught.value):
            assert type(left) is CircuitOpenError
            assert left.policy == "svc"
            assert left.last_failure == breaker.snapshot().last_failure
        assert str(seen[-1]) == str(caught.value)
        assert seen[-1].retry_after == caught.value.retry_after == breaker.snapshot().retry_after
        clock.advance(0.75)
    assert [error.retry_after for error in seen] == [3.0, 2.25, 1.5]


@pytest.mark.parametrize("ways", [1, 2])
def test_when_no_way_answers_both_errors_are_visible(
    drive: Drive, breaker: CircuitBreaker, clock: VirtualClock, ways: int
) -> None:
    """Case 4: the last way's error leaves, with the refusal as its context, each time anew."""

    def lookup(sku: str) -> str:
        return {"pear": "1.0"}[sku]

    guard = Pipeline(Fallback(*[raising(OSError("no cache")), lookup][-ways:]), breaker)
    opened(breaker, clock)
    for left in (3.0, 2.0, 1.0):
        with pytest.raises(KeyError) as caught:
            drive(guard, never, "apple")
        refusal = caught.value.__context__
        assert isinstance(refusal, CircuitOpenError)
        assert refusal.retry_after == left
        assert any("lookup" in note for note in caught.value.__notes__)
        clock.advance(1.0)
    assert breaker.snapshot().rejected == 3


def test_ways_that_are_for_other_errors_let_the_refusal_leave(
    drive: Drive, breaker: CircuitBreaker, clock: VirtualClock
) -> None:
    """With its exact time and what failed last, and no word of a fallback that was never asked."""
    guard = Pipeline(Fallback(Fallback(never, on=KeyError, ignore=CircuitOpenError)), breaker)
    opened(breaker, clock)
    for left in (3.0, 2.5):
        with pytest.raises(CircuitOpenError) as caught:
            drive(guard, never)
        assert caught.value.retry_after == left
        assert caught.value.last_failure is not None
        assert caught.value.last_failure.message == "down"
        clock.advance(0.5)
    assert breaker.snapshot().rejected == 2


def test_a_first_way_that_fails_is_not_asked_twice(drive: Drive, breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """It may be a slow one; the second goes on with the call's own arguments."""
    asked: list[str] = []

    def first(sku: str) -> str:
        asked.append(sku)
        raise KeyError(sku)

    guard = Pipeline(Fallback(first, lambda sku: f"no {sku}"), breaker)
    opened(breaker, clock)
    for number in range(1, 4):
        assert drive(guard, never, f"sku-{number}") == f"no sku-{number}"
        assert len(asked) == number


def test_ignore_keeps_the_fallback_out(drive: Drive, breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Refusals leave when they are to be ignored; when something else is, they get their answer."""
    opened(breaker, clock)
    with pytest.raises(CircuitOpenError) as caught:
        drive(Pipeline(Fallback(value="unknown", ignore=CircuitOpenError), breaker), never)
    assert caught.value.retry_after == 3.0
    assert drive(Pipeline(Fallback(value="unknown", ignore=KeyError), breaker), never) == "unknown"
    assert breaker.snapshot().rejected == 2


def test_the_fallback_is_logged_once_with_the_refusal(
    drive: Drive, breaker: CircuitBreaker, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As for any other kind of error."""
    guard = Pipeline(Fallback(value="unknown"), breaker)
    opened(breaker, clock)
    caplog.clear()
    for _ in range(3):
        drive(guard, never)
    assert [record.getMessage() for record in caplog.records if "CircuitOpenError" in record.getMessage()] == [
        f"{caplog.records[0].args[0]} failed with CircuitOpenError, its fallback answers (told once per kind of error)"  # type: ignore[index]  # its arguments are a tuple
    ]
    assert caplog.records[0].exc_info is not None
    assert isinstance(caplog.records[0].exc_info[1], CircuitOpenError)


def test_listeners_hear_every_refusal(drive: Drive, clock: VirtualClock) -> None:
    """The breaker's own, and those of the process, from the moment they listen."""
    own: list[Any] = []
    process: list[CircuitRejected] = []
    breaker = CircuitBreaker("svc", clock=clock, rng=lambda: 0.0)
    listened = CircuitBreaker("listened", clock=clock, rng=lambda: 0.0, listeners=[own.append])
    guard, other = (Pipeline(Fallback(value="unknown"), one) for one in (breaker, listened))
    breaker.open(5.0)
    listened.open(5.0)
    own.clear()
    assert [drive(other, never) for _ in range(3)] == ["unknown"] * 3
    assert own == [CircuitRejected("listened", clock.monotonic(), 5.0)] * 3
    drive(guard, never)
    stop = listen(process.append, CircuitRejected)
    assert drive(guard, never) == "unknown"
    stop()
    drive(guard, never)
    assert process == [CircuitRejected("svc", clock.monotonic(), 5.0)]
    assert (breaker.snapshot().rejected, listened.snapshot().rejected) == (3, 3)


def test_refusals_are_in_the_debug_log(
    drive: Drive, breaker: CircuitBreaker, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of them, where DEBUG was on when it opened."""
    caplog.set_level(logging.DEBUG, "resilient")
    guard = Pipeline(Fallback(value="unknown"), breaker)
    opened(breaker, clock)
    caplog.clear()
    assert [drive(guard, never) for _ in range(3)] == ["unknown"] * 3
    refusals = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert len([text for text in refusals if text.endswith("ConnectionError: down; next try in 3 s")]) == 3


def test_forced_open_is_turned_away_too(drive: Drive, breaker: CircuitBreaker) -> None:
    """Without a time to come back; disabled and metrics-only let everybody in."""
    guard = Pipeline(Fallback(lambda *, error: (error.retry_after, str(error))), breaker)
    breaker.force_open()
    answer = (None, "circuit 'svc' is open: it was forced open")
    assert [drive(guard, never) for _ in range(3)] == [answer] * 3
    assert breaker.snapshot().rejected == 3
    for by_hand in (breaker.disable, breaker.metrics_only):
        by_hand()
        assert drive(guard, lambda: "fine") == "fine"


def test_a_breaker_that_changes_state_is_seen_at_once(
    drive: Drive, breaker: CircuitBreaker, clock: VirtualClock
) -> None:
    """Turned away until the very end, let in at it; refused again beside the probe; let in after closing by hand."""
    guard = Pipeline(Fallback(value="unknown"), breaker)
    breaker.open(5.0)
    assert drive(guard, never) == "unknown"
    clock.advance(5.0 - 1e-6)
    assert drive(guard, never) == "unknown"
    clock.advance(1e-6)
    assert drive(guard, lambda: "fine") == "fine"
    assert breaker.state is State.HALF_OPEN
    probes = [breaker.acquire() for _ in range(2)]
    assert drive(guard, never) == "unknown"
    assert len(probes) == 2
    breaker.open(5.0)
    assert drive(guard, never) == "unknown"
    breaker.close()
    assert drive(guard, lambda: "fine") == "fine"


def test_a_later_end_is_seen_too(drive: Drive, breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Opened for longer meanwhile, by an answer or by hand."""
    guard = Pipeline(Fallback(value="unknown"), breaker)
    breaker.open(1.0)
    breaker.open(8.0)
    clock.advance(7.5)
    assert drive(guard, never) == "unknown"
    clock.advance(0.5)
    assert drive(guard, lambda: "fine") == "fine"


def test_a_layer_between_sees_the_refusal(drive: Drive, breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Turned away without an exception are only those directly outside; a breaker between counts nothing for it."""
    between = CircuitBreaker("between", clock=clock)
    guard = Pipeline(Fallback(value="unknown"), between, breaker)
    opened(breaker, clock)
    assert [drive(guard, never) for _ in range(10)] == ["unknown"] * 10
    assert (breaker.snapshot().rejected, between.state) == (10, State.CLOSED)
    assert (between.snapshot().failed, between.snapshot().successes, between.snapshot().ignored) == (0, 0, 0)


def test_two_fallbacks_share_a_breaker(drive: Drive, breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Each answers its own callers."""
    one, other = (Pipeline(Fallback(value=value), breaker) for value in ("one", "other"))
    opened(breaker, clock)
    assert [drive(one, never), drive(other, never), drive(one, never)] == ["one", "other", "one"]


def test_threads_at_the_end_of_the_open_time_send_one_probe(clock: VirtualClock) -> None:
    """Case 5 under a fallback: 32 threads, fifty times; one is let in, the others get the answer."""
    breaker = CircuitBreaker("svc", open_duration=lambda _attempt: 5.0, clock=clock)
    threads, rounds = 32, 50
    go, done = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    probing = threading.Event()
    probes, answers = list[int](), list[str]()

    @Pipeline(Fallback(lambda: "unknown"), breaker)
    def fetch() -> str:
        probes.append(1)
        probing.wait(20.0)
        raise ConnectionError("down")

    def work() -> None:
        for _ in range(rounds):
            go.wait(20.0)
            answers.append(fetch())
            if len(answers) >= threads - 1:
                probing.set()
            done.wait(20.0)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    breaker.open()
    for number in range(rounds):
        probes.clear()
        answers.clear()
        probing.clear()
        clock.advance(6.0)
        go.wait(20.0)
        done.wait(20.0)
        assert (len(probes), answers) == (1, ["unknown"] * threads)
        assert breaker.snapshot().rejected == (threads - 1) * (number + 1)
        assert breaker.state is State.OPEN
    for worker in workers:
        worker.join(10.0)


def test_refusals_by_threads_are_all_counted(clock: VirtualClock) -> None:
    """Turned away in 8 threads at once, nothing is lost."""
    breaker = CircuitBreaker("svc", clock=clock)
    guarded = Pipeline(Fallback(value="unknown"), breaker)(never)
    breaker.open()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(10.0)
        for _ in range(2000):
            guarded()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20.0)
    assert breaker.snapshot().rejected == 16_000
