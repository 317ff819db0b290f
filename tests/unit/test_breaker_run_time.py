"""A breaker is changed while it runs: its settings, its state by hand; what a snapshot says of it meanwhile."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitStateChanged,
    ConfigError,
    CountWindow,
    State,
    TimeWindow,
)
from resilient.policies.circuit_states import TRANSITIONS
from resilient.testing import VirtualClock
from tests.breakers import BY_HAND, bring, in_threads, run

Make = Callable[..., CircuitBreaker]


@pytest.fixture
def make(clock: VirtualClock) -> Make:
    """Make a breaker in virtual time whose open times are not lengthened by chance."""

    def made(name: str = "svc", **settings: Any) -> CircuitBreaker:
        return CircuitBreaker(name, clock=clock, **{"rng": lambda: 0.0, **settings})

    return made


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def is_in(breaker: CircuitBreaker, state: State) -> bool:
    return breaker.state is state


# --- configure() --------------------------------------------------------------------------------------------------


def test_a_changed_threshold_keeps_the_counts(make: Make) -> None:
    """Rule 27, closed: what was counted counts on, under the new threshold."""
    breaker = make(minimum_calls=10, consecutive_failures=None)
    run(breaker, "FSFSFS")
    breaker.configure(minimum_calls=7)
    assert (breaker.snapshot().calls, breaker.snapshot().failures) == (6, 3)
    assert is_in(breaker, State.CLOSED)
    run(breaker, "F")
    assert breaker.state is State.OPEN
    assert breaker.snapshot().calls == 7


@pytest.mark.parametrize("call", ["S", "F"])
def test_a_lowered_rate_is_judged_at_the_next_call(make: Make, call: str) -> None:
    """Whether that succeeds or fails; changing it opens nothing by itself."""
    breaker = make(minimum_calls=10, failure_rate=0.9)
    run(breaker, "FFSFFSFSSS")
    run(breaker, "S")  # judged: successes can only better the rate from here on, so they are not looked at any more
    breaker.configure(failure_rate=0.3)
    assert is_in(breaker, State.CLOSED)
    run(breaker, call)
    assert breaker.state is State.OPEN


def test_a_lowered_row_is_judged_at_the_next_failure(make: Make) -> None:
    """The failures in a row so far count."""
    breaker = make()
    run(breaker, "FF")
    breaker.configure(consecutive_failures=3)
    assert is_in(breaker, State.CLOSED)
    run(breaker, "F")
    assert breaker.state is State.OPEN


def test_calls_are_slow_by_the_new_limit(make: Make, clock: VirtualClock) -> None:
    """Those that end from now on, however long ago they began."""
    breaker = make(minimum_calls=2, slow_call_duration=5.0)
    permits = [breaker.acquire() for _ in range(2)]
    clock.advance(1.0)
    breaker.configure(slow_call_duration=0.5)
    for permit in permits:
        permit.success()
    assert breaker.state is State.OPEN
    assert breaker.snapshot().slow == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TimeWindow(10.0), TimeWindow(20.0)),
        (TimeWindow(10.0), CountWindow(50)),
        (CountWindow(50), CountWindow(60)),
        (CountWindow(50), TimeWindow(10.0)),
    ],
)
def test_another_window_begins_empty_and_totals_stay(make: Make, old: Any, new: Any) -> None:
    """What the old one held has another geometry; what was ever counted is kept, and the same window stays as it is."""
    breaker = make(window=old)
    run(breaker, "FSSF")
    breaker.configure(window=old, open_duration=7.0)
    assert breaker.snapshot().calls == 4
    breaker.configure(window=new)
    snapshot = breaker.snapshot()
    assert (snapshot.calls, snapshot.failures, snapshot.successes, snapshot.failed) == (0, 0, 2, 2)
    run(breaker, "SF")
    snapshot = breaker.snapshot()
    assert (snapshot.calls, snapshot.failures, snapshot.successes, snapshot.failed) == (2, 1, 3, 3)


def test_an_open_circuit_keeps_its_end(make: Make, clock: VirtualClock) -> None:
    """The new open time holds from the next opening on: by failed probes, and by a trip."""
    breaker = make(consecutive_failures=1)
    run(breaker, "F")
    clock.advance(1.0)
    breaker.configure(open_duration=20.0, max_open_duration=30.0)
    assert breaker.snapshot().retry_after == 4.0
    clock.advance(4.0)
    run(breaker, "F")
    assert breaker.snapshot().retry_after == 30.0
    breaker.reset()
    run(breaker, "F")
    assert breaker.snapshot().retry_after == 20.0


def test_half_open_keeps_its_probes_and_what_they_found(make: Make, clock: VirtualClock) -> None:
    """A probe under way and the successes so far count; the new numbers hold at once."""
    breaker = make(half_open_probes=2, half_open_successes=10)
    breaker.open(1.0)
    clock.advance(1.0)
    run(breaker, "SS")
    probe = breaker.acquire()
    breaker.configure(half_open_successes=3, open_duration=9.0)
    assert is_in(breaker, State.HALF_OPEN)
    assert breaker.snapshot().calls == 2
    probe.success()
    assert breaker.state is State.CLOSED
    for _ in range(5):
        run(breaker, "F")
    assert breaker.snapshot().retry_after == 9.0


def test_a_changed_open_time_holds_when_half_open_fails(make: Make, clock: VirtualClock) -> None:
    """The times of a half-open period are made before it begins: they are made anew."""
    breaker = make(consecutive_failures=1)
    run(breaker, "F")
    clock.advance(5.0)
    probe = breaker.acquire()
    breaker.configure(open_duration=3.0)
    probe.failure()
    assert breaker.snapshot().retry_after == 6.0


def test_a_permit_from_before_a_change_counts(make: Make) -> None:
    """Calls in flight stay calls of this period, whatever is changed meanwhile."""
    breaker = make()
    permit = breaker.acquire()
    breaker.configure(window=CountWindow(30), failure_rate=0.25)
    permit.failure()
    snapshot = breaker.snapshot()
    assert (snapshot.calls, snapshot.failures, snapshot.late) == (1, 1, 0)


@pytest.mark.parametrize(
    ("changes", "path", "sentence"),
    [
        ({"failure_rat": 0.3}, "failure_rat", "'failure_rat' can not be changed; did you mean 'failure_rate'?"),
        ({"open_durations": 3.0}, "open_durations", "did you mean 'open_duration'?"),
        ({"xyz": 1}, "xyz", "these can: window, minimum_calls, failure_rate"),
        ({"slow_after": 1.0}, "slow_after", "'slow_after' can not be changed"),
        ({"name": "other"}, "name", "'name' can not be changed"),
        ({"minimum_calls": 3, "failure_rate": 50}, "failure_rate", "for 50 % write 0.5"),
        ({"minimum_calls": 3, "open_duration": -1.0}, "open_duration", "more than 0 seconds"),
        ({"minimum_calls": 3, "half_open_probes": True}, "half_open_probes", "a whole number, not True"),
        ({"minimum_calls": 3, "window": 20}, "window", "a TimeWindow or a CountWindow, not 20"),
        ({"minimum_calls": 60, "window": CountWindow(50)}, "minimum_calls", "more than the window holds"),
        ({"failure_rate": None, "consecutive_failures": None}, "failure_rate", "would never open"),
    ],
)
def test_a_bad_change_changes_nothing(make: Make, changes: dict[str, Any], path: str, sentence: str) -> None:
    """Not even the good values beside it; the error names what was wrong and what is meant."""
    breaker = make(minimum_calls=10)
    run(breaker, "FS")
    before = breaker.settings
    with pytest.raises(ConfigError) as caught:
        breaker.configure(**changes)
    assert sentence in str(caught.value)
    assert caught.value.path == path
    assert breaker.settings is before
    assert breaker.snapshot().calls == 2


def test_changes_at_the_same_time_are_all_kept(make: Make, hectic: None) -> None:
    """Four threads change a number each, again and again: each finds its own last."""
    breaker = make()

    def change(**last: Any) -> Callable[[], None]:
        (key,) = last

        def work() -> None:
            configure: Any = breaker.configure
            for number in range(1, 101):
                configure(**{key: number})
                assert getattr(breaker.settings, key) == number
            breaker.configure(**last)

        return work

    in_threads(
        change(minimum_calls=17), change(half_open_probes=18), change(half_open_successes=19), change(open_duration=20)
    )
    found = breaker.settings
    assert (found.minimum_calls, found.half_open_probes, found.half_open_successes) == (17, 18, 19)
    assert found.open_duration == 20


def test_changing_while_threads_call_loses_no_call(make: Make, hectic: None) -> None:
    """Windows come and go under 8 threads: every call is in the totals once."""
    breaker = make(minimum_calls=1000, consecutive_failures=None, failure_rate=1.0)
    guarded: Any = breaker(lambda: None)
    windows: list[TimeWindow | CountWindow] = [TimeWindow(5.0), CountWindow(1000), TimeWindow(7.0)]

    def call() -> None:
        for _ in range(300):
            guarded()

    def change() -> None:
        for number in range(100):
            breaker.configure(window=windows[number % 3])

    in_threads(*[call] * 8, change)
    snapshot = breaker.snapshot()
    assert (snapshot.successes, snapshot.late, snapshot.failed) == (2400, 0, 0)


def test_the_settings_of_another_breaker_are_taken(make: Make) -> None:
    """As `configure` does: counts stay, the next call is judged by them; a window of the same length stays."""
    breaker, other = make(minimum_calls=10), make("other", minimum_calls=3, failure_rate=0.25, open_duration=11.0)
    run(breaker, "FSS")
    breaker.take_settings(other)
    assert breaker.snapshot().calls == 3
    assert breaker.settings == other.settings
    run(breaker, "S")
    assert breaker.snapshot().retry_after == 11.0
    assert other.state is State.CLOSED


# --- by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN])
def test_close_closes_with_empty_counts(make: Make, clock: VirtualClock, state: State) -> None:
    """Somebody knows that the dependency is well; a probe under way is late."""
    heard: list[Any] = []
    breaker = make(listeners=[heard.append])
    bring(breaker, state, clock)
    probe = breaker.acquire() if state is State.HALF_OPEN else None
    heard.clear()
    breaker.close()
    assert [(event.old, event.new, event.reason) for event in heard] == [(state, State.CLOSED, "closed by hand")]
    run(breaker, "FFFF")
    assert breaker.state is State.CLOSED
    if probe is not None:
        probe.failure()
        assert breaker.snapshot().late == 1
    assert (breaker.snapshot().calls, breaker.state) == (4, State.CLOSED)


def test_close_starts_open_times_anew(make: Make, clock: VirtualClock) -> None:
    """They had doubled; after it the first one holds."""
    breaker = make(consecutive_failures=1)
    run(breaker, "F")
    clock.advance(5.0)
    run(breaker, "F")
    assert breaker.snapshot().retry_after == 10.0
    breaker.close()
    run(breaker, "F")
    assert breaker.snapshot().retry_after == 5.0


def test_closing_what_is_closed_does_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Counts stay, nobody hears of it."""
    heard: list[Any] = []
    breaker = make(listeners=[heard.append])
    run(breaker, "FFF")
    breaker.close()
    assert (breaker.snapshot().calls, heard, caplog.text) == (3, [], "")


@pytest.mark.parametrize("state", BY_HAND)
def test_close_does_nothing_but_warn_in_a_state_set_by_hand(
    make: Make, clock: VirtualClock, caplog: pytest.LogCaptureFixture, state: State
) -> None:
    """Rule 11: `reset()` leaves it."""
    breaker = make()
    bring(breaker, state, clock)
    caplog.clear()
    breaker.close()
    assert breaker.state is state
    assert [record.getMessage() for record in caplog.records] == [
        f"circuit 'svc' is {state.value}: close() does nothing, reset() leaves it"
    ]
    breaker.reset()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("state", list(State))
def test_what_hands_do_from_each_state(make: Make, clock: VirtualClock, state: State) -> None:
    """open(), close(), reset() and the three states set by hand, from every state."""
    breaker = make()
    stays = state in BY_HAND
    for action, goal in (
        (breaker.open, state if stays else State.OPEN),
        (breaker.close, state if stays else State.CLOSED),
        (breaker.reset, State.CLOSED),
        (breaker.force_open, State.FORCED_OPEN),
        (breaker.disable, State.DISABLED),
        (breaker.metrics_only, State.METRICS_ONLY),
    ):
        bring(breaker, state, clock)
        action()
        assert breaker.state is goal, action


# --- the table of transitions -------------------------------------------------------------------------------------


def test_random_walks_take_only_the_ways_of_the_table_and_all_of_them(make: Make, clock: VirtualClock) -> None:
    """The picture in the documents is drawn from it: what it shows happens, and nothing else does."""
    heard: list[Any] = []
    breaker = make(consecutive_failures=2, half_open_successes=1, open_duration=0.5, max_open_duration=1.0)
    breaker._hearers = (heard.append,)
    held: list[Any] = []
    rng = random.Random(7)

    def call(settle: str) -> None:
        try:
            held.append(breaker.acquire())
        except CircuitOpenError:
            return
        if rng.random() < 0.8:
            getattr(held.pop(rng.randrange(len(held))), settle)()

    windows: list[TimeWindow | CountWindow] = [TimeWindow(1.0), CountWindow(20)]
    common = [lambda: call("success"), lambda: call("failure"), lambda: clock.advance(rng.random())]
    rare = [
        breaker.open,
        lambda: breaker.open(0.3),
        breaker.close,
        breaker.reset,
        lambda: breaker.configure(consecutive_failures=rng.choice([1, 2, None])),
        lambda: breaker.configure(window=rng.choice(windows)),
    ]
    hands = [breaker.force_open, breaker.disable, breaker.metrics_only, breaker.reset]
    for _ in range(20_000):
        chance = rng.random()
        rng.choice(common if chance < 0.7 else rare if chance < 0.92 else hands)()
    ways = {(event.old, event.new) for event in heard if isinstance(event, CircuitStateChanged)}
    assert ways - set(TRANSITIONS) == set()
    assert set(TRANSITIONS) - ways == set()


@pytest.mark.parametrize(("old", "new"), list(TRANSITIONS), ids=lambda state: state.value)
def test_every_way_of_the_table_can_be_taken(make: Make, clock: VirtualClock, old: State, new: State) -> None:
    """In each of the ways that its text names."""
    heard: list[Any] = []
    breaker = make(half_open_successes=1, minimum_calls=5, slow_call_duration=2.0, listeners=[heard.append])

    def calls(outcomes: str, seconds: float = 0.0) -> Callable[[], None]:
        def made() -> None:
            permits = [breaker.acquire() for _ in outcomes]
            clock.advance(seconds)
            for permit, outcome in zip(permits, outcomes, strict=True):
                permit.success() if outcome == "S" else permit.failure()

        return made

    def later() -> None:
        clock.advance(1.0)
        breaker.acquire()

    actions = {
        "too many calls failed": calls("FFFFF"),
        "were slow": calls("SSSSS", 2.0),
        "open()": breaker.open,
        "its time is over, and a caller asks": later,
        "enough probes succeeded": calls("S"),
        "probes failed": calls("F"),
        "close()": breaker.close,
        "reset()": breaker.reset,
        "force_open()": breaker.force_open,
        "disable()": breaker.disable,
        "metrics_only()": breaker.metrics_only,
    }
    named = [actions[words] for words in re.split(r",? or ", TRANSITIONS[old, new])]
    for action in named:
        bring(breaker, old, clock)
        heard.clear()
        action()
        changes = [(event.old, event.new) for event in heard if isinstance(event, CircuitStateChanged)]
        assert changes == [(old, new)]


def test_the_table_names_no_way_from_a_state_to_itself() -> None:
    """Staying is no transition."""
    assert [way for way in TRANSITIONS if way[0] is way[1]] == []
    assert all(TRANSITIONS.values())
