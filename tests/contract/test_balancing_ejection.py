"""What a balancer promises about instances whose calls fail: statements 8 to 13, in virtual time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from resilient import Event, listen
from resilient.balancing import (
    InstanceEjected,
    InstancePutAside,
    InstanceReturned,
    Outliers,
    PanicEntered,
    PanicLeft,
)
from resilient.discovery import Instance
from resilient.testing import VirtualClock
from tests.fleets import balancer, but, calls, entry, fail, fleet, well


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    """Every event of a balancer."""
    found: list[Event] = []
    kinds = (InstanceEjected, InstanceReturned, InstancePutAside, PanicEntered, PanicLeft)
    stop = listen(lambda event: found.append(event) if isinstance(event, kinds) else None, Event)
    yield found
    stop()


# --- 8 to 13: ejection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0.01, 60.0])
def test_statement_8_five_in_a_row_eject(clock: VirtualClock, heard: list[Event], every: float) -> None:
    """Statement 8: counts, not clocks: at a hundred calls a second and at one a minute."""
    chosen = balancer(fleet(4), clock)
    found = calls(chosen, clock, 19, but("02", good=False, seconds=0.02), every=every)
    assert found["02"] == 5
    ejected = [event for event in heard if isinstance(event, InstanceEjected)]
    assert [(e.instance.id, e.reason, e.failures, e.calls) for e in ejected] == [("02", "failures in a row", 5, 5)]
    assert "02" not in calls(chosen, clock, 9, well)
    assert 0 < entry(chosen, "02").ejected_for < 11


def test_statement_8_a_quarter_of_twenty_ejects(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 8: every third call fails; from the tenth outcome on a quarter is enough, and a row is not needed."""
    chosen = balancer(fleet(4), clock)
    seen = Counter[str]()

    def third(instance: Instance) -> tuple[bool, float]:
        seen[instance.id] += 1
        return not (instance.id == "02" and seen["02"] % 3 == 0), 0.02

    calls(chosen, clock, 60, third)
    ejected = [event for event in heard if isinstance(event, InstanceEjected)]
    assert [(e.reason, e.failures, e.calls) for e in ejected] == [("failure rate", 4, 12)]


def test_statement_8_one_in_five_stays(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 8: a fifth of the calls failing ejects nobody."""
    chosen = balancer(fleet(3), clock)
    seen = Counter[str]()

    def fifth(instance: Instance) -> tuple[bool, float]:
        seen[instance.id] += 1
        return bool(seen[instance.id] % 5), 0.02

    calls(chosen, clock, 600, fifth)
    assert heard == []


def test_statement_9_a_pause_that_was_asked_for_is_no_failure(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 9: Retry-After: others first for that long, at most 300 s; nothing is counted against it."""
    chosen = balancer(fleet(3), clock)
    lease = chosen.pick()
    lease.put_aside(12.0)
    lease.ignored()
    seen = entry(chosen, "00")
    assert (seen.failures, seen.consecutive_failures, seen.in_flight, seen.aside) == (0, 0, 0, 12.0)
    assert "00" not in calls(chosen, clock, 10, well, every=1.0)
    clock.advance(2.0)
    assert calls(chosen, clock, 30, well)["00"] == 10
    lease = chosen.pick()
    lease.put_aside(1e9)
    lease.ignored()
    assert entry(chosen, lease.instance.id).aside == 300.0
    assert [e.reason for e in heard if isinstance(e, InstancePutAside)] == ["retry-after", "retry-after"]


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.9), (0.5, 1.0), (0.99999999, 1.1)])
def test_statement_10_ejections_grow_and_jitter(
    clock: VirtualClock, heard: list[Event], chance: float, factor: float
) -> None:
    """Statement 10: the n-th lasts min(10 s x n, 300 s), 10 % more or less."""
    chosen = balancer(fleet(3), clock, rng=lambda: chance)
    fail(chosen, clock, "01", 5)
    for _ in range(34):
        clock.advance(entry(chosen, "01").ejected_for)
        fail(chosen, clock, "01", 1)
    seconds = [event.seconds for event in heard if isinstance(event, InstanceEjected)]
    assert seconds == pytest.approx([factor * min(10.0 * n, 300.0) for n in range(1, 36)])


def test_statement_10_one_call_tries(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 10: exactly one trial in flight; its success brings everything back and forgets the latency."""
    chosen = balancer(fleet(3), clock, rng=lambda: 0.5)
    calls(chosen, clock, 300, but("01", good=True, seconds=0.2))
    fail(chosen, clock, "01", 5)
    clock.advance(10.0)
    leases = [chosen.pick() for _ in range(30)]
    trials = [lease for lease in leases if lease.instance.id == "01"]
    assert len(trials) == 1
    for lease in leases:
        lease.success(0.02)
    seen = entry(chosen, "01")
    assert (seen.latency, seen.weight, seen.consecutive_failures) == (0.02, 1.0, 0)
    assert calls(chosen, clock, 30, well)["01"] == 10
    assert [type(event) for event in heard] == [InstanceEjected, InstanceReturned]


def test_statement_10_threads_get_one_trial_between_them(clock: VirtualClock) -> None:
    """Statement 10: 16 threads that pick at once, 50 times in a row: one of them has the trial."""
    chosen = balancer(fleet(2), clock, rng=lambda: 0.5)
    fail(chosen, clock, "01", 5)
    barrier = threading.Barrier(16)
    held: list[str] = []

    def run() -> None:
        for _ in range(50):
            barrier.wait()
            lease = chosen.pick()
            if lease.instance.id == "01":
                held.append("01")
            barrier.wait()
            if lease.instance.id == "01":
                lease.unused()  # nothing was learned: another one may try
            else:
                lease.success(0.02)

    clock.advance(10.0)
    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 50


def test_statement_10_a_trial_that_hangs_does_not_hold_the_place(clock: VirtualClock) -> None:
    """Statement 10: after 10 s without an answer another call may try; what is dropped gives the place back at once."""
    chosen = balancer(fleet(2), clock, rng=lambda: 0.5)
    fail(chosen, clock, "01", 5)
    clock.advance(10.0)
    held = [chosen.pick() for _ in range(10)]
    clock.advance(10.0)
    again = [chosen.pick() for _ in range(10)]
    assert [lease.instance.id for lease in held].count("01") == 1
    assert [lease.instance.id for lease in again].count("01") == 1
    again.clear()
    assert [chosen.pick().instance.id for _ in range(4)].count("01") > 0


def test_statement_10_time_in_use_forgets_ejections(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 10: an instance that was well for long begins at 10 s again."""
    chosen = balancer(fleet(3), clock, rng=lambda: 0.5)
    fail(chosen, clock, "01", 5)
    clock.advance(10.0)
    fail(chosen, clock, "01", 1)
    clock.advance(20.0)
    calls(chosen, clock, 3, well)
    fail(chosen, clock, "01", 5)
    clock.advance(30.0)
    calls(chosen, clock, 3, well)
    clock.advance(100.0)
    fail(chosen, clock, "01", 5)
    assert [round(e.seconds) for e in heard if isinstance(e, InstanceEjected)] == [10, 20, 30, 10]


@pytest.mark.parametrize(("hosts", "most"), [(1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (10, 3), (20, 6)])
def test_statement_11_at_most_a_third_is_ejected(clock: VirtualClock, hosts: int, most: int) -> None:
    """Statement 11: everybody fails: max(1, 34 %) are ejected, of one instance none."""
    chosen = balancer(fleet(hosts), clock)
    calls(chosen, clock, 20 * hosts, lambda _instance: (False, 0.02))
    assert sum(one.ejected_for > 0 for one in chosen.snapshot().instances) == most


def test_statement_12_refused_connections_may_take_out_all_but_one(clock: VirtualClock) -> None:
    """Statement 12: 19 of 20 refuse: 19 are put aside, the calls go to the one that is left."""
    chosen = balancer(fleet(20), clock)
    for _ in range(30):
        lease = chosen.pick()
        if lease.instance.id == "07":
            lease.success(0.02)
        else:
            lease.unreachable()
    assert sum(one.aside > 0 for one in chosen.snapshot().instances) == 19
    assert calls(chosen, clock, 20, well) == {"07": 20}


def test_statement_13_a_list_that_is_not_empty_always_gives_a_host(clock: VirtualClock, heard: list[Event]) -> None:
    """Statement 13: too few left because of failures: all are used again, and an event says so."""
    chosen = balancer(fleet(4), clock, outliers=Outliers(max_share=1.0))
    for name in ("00", "01"):
        fail(chosen, clock, name, 5)
    assert set(calls(chosen, clock, 8, well)) == {"02", "03"}
    fail(chosen, clock, "02", 5)
    assert set(calls(chosen, clock, 8, well)) == {"00", "01", "02", "03"}
    assert chosen.snapshot().panic
    panic = [event for event in heard if isinstance(event, PanicEntered)]
    assert [(event.name, event.selectable, event.instances) for event in panic] == [("producer", 1, 4)]
    clock.advance(30.0)
    calls(chosen, clock, 8, well)
    assert not chosen.snapshot().panic
    assert [type(event) for event in heard].count(PanicLeft) == 1


def test_statement_13_panic_does_not_bring_back_who_refuses(clock: VirtualClock) -> None:
    """Statement 13: panic ignores failures, not refused connections."""
    chosen = balancer(fleet(4), clock, outliers=Outliers(max_share=1.0))
    while not entry(chosen, "00").aside:
        lease = chosen.pick()
        if lease.instance.id == "00":
            lease.unreachable()
        else:
            lease.success(0.02)
    for name in ("01", "02"):
        fail(chosen, clock, name, 5)
    assert chosen.snapshot().panic
    assert set(calls(chosen, clock, 9, well)) == {"01", "02", "03"}
