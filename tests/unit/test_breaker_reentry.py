"""Who hears a breaker and what they may do; and calls that interrupt a call of the same breaker."""

from __future__ import annotations

import contextlib
import gc
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pybreaker
import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitRejected,
    CircuitStateChanged,
    CircuitThresholdReached,
    State,
    listen,
)
from resilient.events import Event
from resilient.testing import VirtualClock


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def refused(breaker: CircuitBreaker) -> bool:
    """Whether the next call is."""
    try:
        breaker.acquire().ignored()
    except CircuitOpenError:
        return True
    return False


# --- the order of what is told --------------------------------------------------------------------------------------


def test_the_events_of_a_trip_come_in_their_order(clock: VirtualClock) -> None:
    """Composition case 9: the failure, the threshold, the transition, the rejection; the same to all who listen."""
    own: list[Any] = []
    process: list[Event] = []
    breaker = CircuitBreaker("svc", clock=clock, rng=lambda: 0.0, listeners=[own.append])
    stop = listen(process.append, Event)
    for _ in range(5):
        assert own == []
        clock.advance(1.0)
        breaker.acquire().failure(ConnectionError("down"))
    assert refused(breaker)
    assert refused(breaker)
    stop()
    now, reason = clock.monotonic(), "5 calls failed in a row"
    assert own == [
        CircuitThresholdReached("svc", now, reason),
        CircuitStateChanged("svc", now, State.CLOSED, State.OPEN, reason),
        CircuitRejected("svc", now, 5.0),
        CircuitRejected("svc", now, 5.0),
    ]
    assert process == own


def test_no_event_is_lost_or_doubled_under_16_threads(hectic: None, clock: VirtualClock) -> None:
    """Composition case 9: each change follows the one before, each trip its threshold, each refusal is told once."""
    heard: list[Any] = []
    breaker = CircuitBreaker(
        clock=clock,
        open_duration=lambda _attempt: 0.001,
        consecutive_failures=2,
        half_open_successes=1,
        listeners=[heard.append],
    )
    refusals = [0] * 16
    ready = threading.Barrier(16)

    def work(number: int) -> None:
        rng = random.Random(number)
        ready.wait(10.0)
        for _ in range(200):
            try:
                permit = breaker.acquire()
            except CircuitOpenError:
                refusals[number] += 1
                clock.advance(0.001)
            else:
                rng.choice([permit.success, permit.failure])()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()
    snapshot = breaker.snapshot()
    told = [event for event in heard if not isinstance(event, CircuitRejected)]
    changes = [event for event in told if isinstance(event, CircuitStateChanged)]
    assert [event.old for event in changes] == [State.CLOSED, *(event.new for event in changes[:-1])]
    assert changes[-1].new is snapshot.state
    trips = [number for number, event in enumerate(told) if (getattr(event, "old", None)) is State.CLOSED]
    assert [type(told[number - 1]) for number in trips] == [CircuitThresholdReached] * len(trips)
    assert [told[number - 1].reason for number in trips] == [told[number].reason for number in trips]
    assert len(told) - len(changes) == len(trips) > 0
    assert len(heard) - len(told) == snapshot.rejected == sum(refusals) > 0


# --- pybreaker's listeners --------------------------------------------------------------------------------------------


class Log(pybreaker.CircuitBreakerListener):
    """A listener as its users have them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.breakers: list[object] = []

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.breakers.append(cb)
        self.seen.append((old_state.name, new_state.name))

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("calls are not told")


class Broken(pybreaker.CircuitBreakerListener):
    """One with a bug."""

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        raise RuntimeError("a bug")


def test_pybreakers_listeners_hear_changes_in_their_own_words(clock: VirtualClock) -> None:
    """With the breaker, and states that have a name; states set by hand are the nearest of theirs."""
    log, own = Log(), list[Any]()
    breaker = CircuitBreaker("svc", half_open_successes=1, clock=clock, listeners=[log, own.append])
    for _ in range(5):
        breaker.acquire().failure()
    clock.advance(6.0)
    breaker.acquire().failure()
    clock.advance(11.0)
    breaker.acquire().success()
    assert log.seen == [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ]
    assert set(log.breakers) == {breaker}
    assert len([event for event in own if isinstance(event, CircuitStateChanged)]) == 5
    log.seen.clear()
    for action in (breaker.metrics_only, breaker.disable, breaker.reset, breaker.open, breaker.force_open):
        action()
    assert log.seen == [("closed", "open")]
    breaker.metrics_only()
    assert log.seen == [("closed", "open"), ("open", "closed")]


def test_a_listener_of_pybreakers_that_raises_changes_nothing(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the others hear it all the same, and the circuit is open."""
    log, own = Log(), list[Any]()
    breaker = CircuitBreaker("svc", clock=clock, listeners=[Broken(), log, own.append])
    for _ in range(5):
        breaker.acquire().failure()
    assert breaker.state is State.OPEN
    assert log.seen == [("closed", "open")]
    assert [type(event) for event in own] == [CircuitThresholdReached, CircuitStateChanged]
    assert "a listener raised on CircuitStateChanged" in caplog.text


def test_a_listener_of_pybreakers_may_use_the_breaker(clock: VirtualClock) -> None:
    """It meets no lock; what it causes is told after it."""

    class Closer(Log):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            super().state_change(cb, old_state, new_state)
            if new_state.name == "open":
                assert cb.state is State.OPEN
                cb.close()

    closer = Closer()
    breaker = CircuitBreaker(clock=clock, consecutive_failures=1, listeners=[closer])
    breaker.acquire().failure()
    assert breaker.state is State.CLOSED
    assert closer.seen == [("closed", "open"), ("open", "closed")]


class AsyncLog(pybreaker.CircuitBreakerListener):
    """Nobody would await it."""

    async def state_change(  # type: ignore[override]  # that is what is wrong with it
        self, cb: Any, old_state: Any, new_state: Any
    ) -> None:
        """Nothing."""


class AsyncCall:
    """Nobody would await it either."""

    async def __call__(self, event: object) -> None:
        """Nothing."""


class NoFunction:
    """Has the name, and nothing to call."""

    state_change = None


async def hear(event: object) -> None:
    """Nothing."""


@pytest.mark.parametrize(
    ("listener", "sentence"),
    [
        (hear, "is async: nobody would await it"),
        (AsyncCall(), "is async: nobody would await it"),
        (AsyncLog(), "is async: nobody would await it"),
        (NoFunction(), "must be callable, not None"),
        (None, "must be callable, not None"),
        ("log", "must be callable, not 'log'"),
        (object(), "must be callable, not <object"),
    ],
    ids=["async", "async object", "async state_change", "no function", "None", "text", "object"],
)
def test_what_can_not_listen_is_refused_where_it_is_given(listener: Any, sentence: str) -> None:
    """Beside good ones, too."""
    with pytest.raises(TypeError, match=sentence):
        CircuitBreaker(listeners=[Log(), print, listener])


def test_a_listener_that_trips_its_own_breaker_is_told_after_it(clock: VirtualClock) -> None:
    """Calls from inside a listener of a refusal and of a change go through the same breaker, to no end of stack."""
    heard: list[Any] = []
    depth = 0

    def meddle(event: Any) -> None:
        nonlocal depth
        heard.append(event)
        if isinstance(event, CircuitStateChanged) and len(heard) < 50:
            depth += 1
            assert depth == 1, "told inside another telling"
            with contextlib.suppress(CircuitOpenError):
                breaker.acquire().failure()
            breaker.reset()
            depth -= 1

    breaker = CircuitBreaker(clock=clock, consecutive_failures=1, listeners=[meddle])
    breaker.acquire().failure()
    changes = [event for event in heard if isinstance(event, CircuitStateChanged)]
    assert [event.old for event in changes] == [State.CLOSED, *(event.new for event in changes[:-1])]
    assert changes[-1].new is breaker.state


# --- signal handlers ------------------------------------------------------------------------------------------------


def run_script(script: str) -> str:
    """Run it in an interpreter of its own: signals need a main thread."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30.0, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


INTERRUPTED = """
import faulthandler, random, signal, sys, time
from resilient import CircuitBreaker, CircuitOpenError, CircuitStateChanged, State

faulthandler.dump_traceback_later(20.0, exit=True)
heard, counted = [], {"attempts": 0, "refused": 0, "handled": 0}
HANDLED, SECONDS = 4000, 1.5

def interrupt(act):
    going, depth = True, 0

    def handle(*_):
        nonlocal depth
        if depth == 10:  # on a slow machine they interrupt each other without end
            return
        depth += 1
        counted["handled"] += 1
        try:
            act()
        finally:
            if going:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 6e-5), 1e-3)
            depth -= 1

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 3e-5, 1e-3)  # again and again: a single shot may get lost
    end = time.monotonic() + SECONDS
    while counted["handled"] < HANDLED and time.monotonic() < end:
        yield
    going = False
    signal.setitimer(signal.ITIMER_REAL, 0.0)

def attempt(breaker, *outcomes):
    try:
        permit = breaker.acquire()
    except CircuitOpenError:
        counted["refused"] += 1
        return
    counted["attempts"] += 1
    getattr(permit, random.choice(outcomes))()

def tell(breaker):
    breaker.deliver()
    seen = breaker.snapshot()
    changes = [event for event in heard if isinstance(event, CircuitStateChanged)]
    states = [State.CLOSED, *(event.new for event in changes)]
    broken = [event for event, before in zip(changes, states) if event.old is not before]
    lost = counted["attempts"] - seen.successes - seen.failed - seen.ignored - seen.late
    unrefused = counted["refused"] - seen.rejected
    print(f"lost {lost}, refusals lost {unrefused}, broken links {len(broken)},"
          f" last told {states[-1] is breaker.state}, interrupted {counted['handled'] > 20}")
"""

EXACT = "lost 0, refusals lost 0, broken links 0, last told True, interrupted True"

TRIPS = """
breaker = CircuitBreaker("trips", consecutive_failures=1, open_duration=60.0, listeners=[heard.append])

def handle():
    attempt(breaker, "failure")
    if random.random() < 0.5:
        breaker.reset()

for _ in interrupt(handle):
    attempt(breaker, "failure")
    breaker.reset()
tell(breaker)
"""

CLOSED = """
breaker = CircuitBreaker("closed", minimum_calls=50, failure_rate=0.9, consecutive_failures=None,
                         listeners=[heard.append])
attempt(breaker, "failure")  # with something bad in the window each call is judged

for _ in interrupt(lambda: attempt(breaker, "success", "success", "success", "failure", "ignored")):
    attempt(breaker, "success", "success", "success", "failure", "ignored")
tell(breaker)
"""

HALF_OPEN = """
breaker = CircuitBreaker("half-open", half_open_probes=50, half_open_failures=10**6, half_open_successes=10**6,
                         listeners=[heard.append])
breaker.open(0.001)
time.sleep(0.002)
held = [breaker.acquire() for _ in range(20)]
counted["attempts"] = 20
mostly_bad = ["success", *["failure", "ignored"] * 20]

def handle():
    if held and random.random() < 0.1:
        getattr(held.pop(), random.choice(["failure", "ignored"]))()
        return
    attempt(breaker, *mostly_bad)
    if random.random() < 0.3:
        breaker.acquire()  # dropped: its place comes back

for _ in interrupt(handle):
    attempt(breaker, *mostly_bad)
while held:
    held.pop().ignored()
tell(breaker)
places = 50 + breaker.snapshot().successes  # each success made room for one more
kept = [breaker.acquire() for _ in range(places)]
try:
    breaker.acquire()
    print("too many places")
except CircuitOpenError:
    print("all places")
"""

PROBES = """
breaker = CircuitBreaker("probes", consecutive_failures=2, half_open_successes=1, open_duration=1e-4,
                         max_open_duration=1e-4, listeners=[heard.append])

for _ in interrupt(lambda: attempt(breaker, "success", "failure")):
    attempt(breaker, "success", "failure")
    if random.random() < 0.01:
        breaker.close()
tell(breaker)
"""


@pytest.mark.parametrize("script", [TRIPS, CLOSED, PROBES], ids=["trips", "closed", "probes"])
def test_a_signal_handler_that_calls_through_the_breaker_it_interrupts(script: str) -> None:
    """Between any two steps of a call: totals stay exact, and events form a chain that ends in the state."""
    assert run_script(INTERRUPTED + script) == EXACT


def test_a_signal_handler_that_calls_in_half_open_loses_no_place() -> None:
    """Probes that interrupt each other, and dropped ones, are settled once: afterwards every place is there."""
    assert run_script(INTERRUPTED + HALF_OPEN).splitlines() == [EXACT, "all places"]


def test_a_dropped_permit_is_collected_while_its_breaker_decides(clock: VirtualClock) -> None:
    """A cycle that holds probes may be freed inside any allocation of the same breaker: all places come back."""
    breaker = CircuitBreaker(half_open_probes=10, half_open_failures=1000, half_open_successes=1000, clock=clock)
    breaker.open(1.0)
    clock.advance(1.0)

    class Holder:
        def __init__(self, permit: Any) -> None:
            self.permit = permit
            self.itself = self

    for _ in range(200):
        with contextlib.suppress(CircuitOpenError):
            Holder(breaker.acquire())
        with contextlib.suppress(CircuitOpenError):
            breaker.acquire().ignored()

    gc.collect()
    held = [breaker.acquire() for _ in range(10)]
    assert refused(breaker)
    assert len(held) == 10


def test_a_predicate_may_call_through_the_breaker(clock: VirtualClock) -> None:
    """`on_result` and `on` are the user's code: no lock is held while they run."""
    asked: list[Callable[..., Any]] = []

    def check(result: int) -> bool:
        if result > 0:
            asked.append(check)
            assert guarded(result - 1) == result - 1
        return False

    breaker = CircuitBreaker(on_result=check, clock=clock)
    guarded: Any = breaker(lambda number: number)
    assert guarded(3) == 3
    assert (len(asked), breaker.snapshot().successes) == (3, 4)
