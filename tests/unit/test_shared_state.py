"""Rule 14: circuits shared between processes, in virtual time and with a store in memory."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, State
from resilient.shared_state import Phase, Word
from resilient.testing import VirtualClock
from tests.shared_states import MemoryState, admitted, advance, becomes, process, refused, rounds, told


@pytest.fixture
def store(clock: VirtualClock) -> MemoryState:
    """A store of this test's own."""
    return MemoryState(clock)


@pytest.fixture(autouse=True)
def no_breakers_of_other_tests() -> Iterator[None]:
    """A breaker is part of a cycle: dropped, it is shared until it is collected."""
    yield
    gc.collect()


# --- opening and closing ------------------------------------------------------------------------------------------


def test_what_opens_in_one_process_opens_in_all(clock: VirtualClock, store: MemoryState) -> None:
    """State, end and reason; told at once, heard within a second."""
    one, other = process("db", store, clock), process("db", store, clock)
    for _ in range(5):
        one.acquire().failure(ConnectionError("gone"))
    told(store, Word.OPENED)
    advance(clock, 1.0)
    becomes(other, State.OPEN)
    assert other.snapshot().retry_after == pytest.approx(9.0)
    assert other.snapshot().calls == 0  # counters stay its own
    with pytest.raises(CircuitOpenError, match="5 calls failed in a row"):
        other.acquire()


def test_a_process_that_starts_while_the_circuit_is_open_adopts_it(clock: VirtualClock, store: MemoryState) -> None:
    """At its first reading, with what is left."""
    one = process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    advance(clock, 4.0)
    fresh = process("db", store, clock)
    becomes(fresh, State.OPEN)
    assert fresh.snapshot().retry_after == pytest.approx(6.0)


def test_names_are_apart(clock: VirtualClock, store: MemoryState) -> None:
    """One circuit opens, another one of the same store does not."""
    one, other = process("db", store, clock), process("mail", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store)
    assert other.state is State.CLOSED


def test_the_later_end_wins(clock: VirtualClock, store: MemoryState) -> None:
    """Two processes open: the fleet waits for the later end, in whatever order they tell."""
    one, other = process("db", store, clock), process("db", store, clock)
    rounds(clock, store)
    store.broken = ConnectionError("for a moment, so that both are told at once")
    one.open(30.0)
    other.open(10.0)
    store.broken = None
    rounds(clock, store)
    told(store, Word.OPENED, 2)
    assert other.snapshot().retry_after == pytest.approx(29.0)
    assert one.snapshot().retry_after == pytest.approx(29.0)


def test_an_end_that_is_read_again_does_not_move(clock: VirtualClock, store: MemoryState) -> None:
    """Reading it each second must not push it out."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 8)
    assert one.snapshot().retry_after == pytest.approx(2.0)
    assert other.snapshot().retry_after == pytest.approx(2.0)


def test_closing_by_hand_closes_it_everywhere(clock: VirtualClock, store: MemoryState) -> None:
    """An operator who knows better."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(30.0)
    told(store, Word.OPENED)
    rounds(clock, store)
    becomes(other, State.OPEN)
    other.close()
    told(store, Word.CLOSED)
    advance(clock, 1.0)
    becomes(one, State.CLOSED)


def test_a_stale_close_does_not_undo_a_newer_trip(clock: VirtualClock, store: MemoryState) -> None:
    """It counts for the opening its process knew of, and for no later one."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(30.0)
    told(store, Word.OPENED)
    rounds(clock, store)
    becomes(other, State.OPEN)
    store.broken = ConnectionError("the network of `other`")
    other.close()
    store._one(store.said[0], clock.monotonic())  # meanwhile the circuit opens anew
    store.broken = None
    advance(clock, 1.0)
    told(store, Word.CLOSED)
    becomes(other, State.OPEN)
    assert store.held["db"][0] is Phase.OPEN
    assert one.state is State.OPEN


def test_a_close_while_its_opening_is_being_told_counts(clock: VirtualClock) -> None:
    """It undoes that opening, whose answer it did not wait for."""
    go, inside = threading.Event(), threading.Event()

    class Slow(MemoryState):
        def exchange(self, said: Any, /) -> Any:
            if said[0].word is Word.OPENED:
                inside.set()
                go.wait(30.0)
            return super().exchange(said)

    store = Slow(clock)
    one = process("db", store, clock)
    one.open(30.0)
    assert inside.wait(10.0)
    one.close()
    go.set()
    told(store, Word.CLOSED)
    rounds(clock, store, 2)
    assert one.state is State.CLOSED
    assert store.held["db"][0] is Phase.CLOSED


def test_states_set_by_hand_stay_in_their_process(clock: VirtualClock, store: MemoryState) -> None:
    """Forced open, disabled, metrics only, and the reset that leaves them: the others hear nothing."""
    one, other = process("db", store, clock), process("db", store, clock)
    for by_hand in (CircuitBreaker.force_open, CircuitBreaker.disable, CircuitBreaker.metrics_only):
        by_hand(one)
        rounds(clock, store)
        one.reset()
        rounds(clock, store)
    assert {said.word for said in store.said} <= {Word.RELEASE}
    assert other.state is State.CLOSED
    other.open(30.0)
    told(store, Word.OPENED)
    one.disable()
    rounds(clock, store)
    assert one.state is State.DISABLED
    one.reset()
    rounds(clock, store)
    becomes(one, State.OPEN)  # what the fleet knows holds again


def test_a_store_that_lost_its_memory_is_reminded(clock: VirtualClock, store: MemoryState) -> None:
    """A key that is not there means that nobody knows: it closes nothing, and who knows tells."""
    one = process("db", store, clock)
    one.open(30.0)
    told(store, Word.OPENED)
    store.held.clear()
    rounds(clock, store)
    told(store, Word.OPENED, 2)
    assert one.state is State.OPEN
    fresh = process("db", store, clock)
    becomes(fresh, State.OPEN)
    assert fresh.snapshot().retry_after == pytest.approx(29.0)


# --- probing ------------------------------------------------------------------------------------------------------


def test_of_three_processes_exactly_one_probes(clock: VirtualClock, store: MemoryState) -> None:
    """The lease is taken when a caller asks; the others stay open until it ends, and hear what the probe found."""
    fleet = [process("db", store, clock) for _ in range(3)]
    fleet[0].open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 2)
    assert [breaker.state for breaker in fleet] == [State.OPEN] * 3
    rounds(clock, store, 8)
    assert not [said for said in store.said if said.word is Word.PROBE]  # nobody has asked
    store.broken = ConnectionError("for a moment, so that all ask at once")
    for breaker in fleet:
        refused(breaker)
    store.broken = None
    rounds(clock, store)
    told(store, Word.PROBE, 3)
    probes = []
    for breaker in fleet:
        with contextlib.suppress(CircuitOpenError):
            probes.append(breaker.acquire())
    assert sorted(breaker.state.value for breaker in fleet) == ["half_open", "open", "open"]
    (probe,) = probes
    rounds(clock, store)
    for breaker in fleet:
        assert breaker.state is State.HALF_OPEN or refused(breaker) > 3.0
    probe.success()
    told(store, Word.CLOSED)
    rounds(clock, store)
    for breaker in fleet:
        becomes(breaker, State.CLOSED)


def test_a_probe_that_fails_opens_it_for_all_anew(clock: VirtualClock, store: MemoryState) -> None:
    """With the new end; the lease is given back."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    admitted(one).failure()
    told(store, Word.OPENED, 2)
    rounds(clock, store)
    assert store.leases["db"][0] == ""
    assert refused(other) == pytest.approx(9.0)


def test_the_lease_goes_on_while_the_prober_probes(clock: VirtualClock, store: MemoryState) -> None:
    """However long the probe takes: renewed each second."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    probe = admitted(one)
    rounds(clock, store, 3 * int(store.lease))
    assert refused(other) > 0
    rounds(clock, store)
    assert refused(other) == pytest.approx(store.lease, abs=1.01)
    probe.success()
    told(store, Word.CLOSED)


def test_when_the_prober_dies_another_one_probes(clock: VirtualClock, store: MemoryState) -> None:
    """Its lease ends; not before."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    admitted(one).ignored()
    told(store, Word.PROBING)
    assert refused(other) > 3.0
    del one  # without a word
    gc.collect()
    left = refused(other)
    assert 3.0 < left <= store.lease
    rounds(clock, store, 4)
    assert refused(other) < 2.0
    rounds(clock, store, 2)
    admitted(other).success()
    becomes(other, State.CLOSED)


def test_callers_far_apart_probe_as_well(clock: VirtualClock, store: MemoryState) -> None:
    """The lease the first one asked for has ended when the second one comes: it must not be refused for ever."""
    one = process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    refused(one)
    told(store, Word.PROBE)
    rounds(clock, store, 60)
    one.acquire().success()
    assert one.state is State.CLOSED


def test_a_fresh_process_leaves_the_probing_to_the_prober(clock: VirtualClock, store: MemoryState) -> None:
    """Closed, it would send all its callers to a dependency that is being tried."""
    one = process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    probe = admitted(one)
    told(store, Word.PROBING)
    fresh = process("db", store, clock)
    becomes(fresh, State.OPEN)
    assert refused(fresh) > 3.0
    probe.success()
    told(store, Word.CLOSED)
    rounds(clock, store)
    becomes(fresh, State.CLOSED)


def test_the_prober_that_goes_by_hand_gives_the_lease_back(clock: VirtualClock, store: MemoryState) -> None:
    """Disabled, it probes no more: another one may."""
    one, other = process("db", store, clock), process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    admitted(one).ignored()
    told(store, Word.PROBING)
    one.disable()
    told(store, Word.RELEASE)
    rounds(clock, store)
    admitted(other).success()
    assert store.held["db"][0] is Phase.OPEN or told(store, Word.CLOSED)
