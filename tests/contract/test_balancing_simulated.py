"""What a balancer promises to a fleet, held by simulating one: many client processes, servers with queues, faults.

Shorter than the benchmark (`python -m benchmarks simulation`), which runs minutes; the figures are those of one seed.
"""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.simulation import Host, Outcome, Scenario, Stack, simulate
from benchmarks.simulation_scenarios import (
    BARE,
    COLD,
    EQUAL,
    FAILING,
    GUARDED,
    GUARDED_ALONE,
    HOLE,
    LEAST,
    LEAST_ALONE,
    SLOW,
    guarded,
    least,
    plain,
)

SHORT = {"seconds": 14.0}


def run(scenario: Scenario, stack: Stack, *, clients: int = 16, **changes: object) -> Outcome:
    """A shorter scenario."""
    return simulate(dataclasses.replace(scenario, **{**SHORT, **changes}), stack, clients=clients)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_figures() -> None:
    """Virtual time and seeded chance: nothing depends on the machine."""
    first, second = (run(HOLE, GUARDED, seconds=6.0) for _ in range(2))
    assert first.calls > 4000
    assert (first.times, first.picks) == (second.times, second.picks)


@pytest.mark.parametrize("stack", [GUARDED, LEAST], ids=["RoundRobin", "LeastRequest"])
def test_an_equal_fleet_is_served_as_by_rotation(stack: Stack) -> None:
    """No failure, no ejection, even load, and a tail that is that of plain round robin."""
    bare, found = run(EQUAL, BARE), run(EQUAL, stack)
    assert (found.success, found.amplification) == (100.0, 1.0)
    assert found.imbalance <= 1.05
    assert found.percentile(0.99) <= 1.05 * bare.percentile(0.99)


@pytest.mark.parametrize("clients", [1, 16, 100])
def test_statement_5_slow_hosts_cost_a_tail_not_an_answer(clients: int) -> None:
    """Statement 5: 2 of 20 hosts 5 x slower, no retries: success >= 99.9 %, p99 <= 180 ms; else 90 %."""
    found = run(SLOW, GUARDED_ALONE, clients=clients, warm_up=10.0, seconds=22.0)
    assert found.success >= 99.9
    assert found.percentile(0.99) <= 180.0
    assert run(SLOW, BARE, clients=clients).success < 95.0


@pytest.mark.parametrize(("clients", "limit"), [(1, 155), (16, 155), (100, 165)])
def test_statement_19_least_request_with_slow_hosts(clients: int, limit: float) -> None:
    """Statement 19: the tail is at most 1.5 times that of a central queue (103 ms), 1.6 with a hundred processes."""
    assert run(SLOW, LEAST_ALONE, clients=clients).percentile(0.99) <= limit


def test_statement_19_least_request_with_a_host_that_fails_fast() -> None:
    """Statement 19: without ejection 99.3 % success, with the whole stack all of it."""
    assert run(FAILING, LEAST_ALONE).success >= 99.3
    assert run(FAILING, LEAST).success == 100.0


@pytest.mark.parametrize("clients", [1, 16, 100])
@pytest.mark.parametrize("strategy", [guarded, least], ids=["RoundRobin", "LeastRequest"])
def test_statement_7_nobody_is_drawn_to_a_host_that_fails_fast(strategy: object, clients: int) -> None:
    """Statement 7: ejection off, 1, 16 and 100 processes: at most 30 % of its fair share."""
    stack = Stack("", strategy, outliers=None, retries=0)  # type: ignore[arg-type]
    assert run(FAILING, stack, clients=clients).share(3) <= 0.3


def test_statement_8_a_dead_host_is_out_within_a_second_or_two() -> None:
    """Statement 8: 16 processes: five failures each; after 2 s it gets next to nothing."""
    found = run(FAILING, Stack("", plain, retries=0), warm_up=0.0)
    assert found.share(3, 0, 1) < 1.0
    assert found.share(3, 2, 10) < 0.02


def test_statement_8_a_host_that_fails_three_of_ten_is_never_missed() -> None:
    """Statement 8: 16 processes, 30 % of its answers fail: on average out within 4 s."""
    partly = Scenario("", {3: Host(fails=0.3)}, seconds=10.0, warm_up=0.0)
    found = simulate(partly, Stack("", plain, retries=0))
    assert found.share(3, 4, 10) < 0.25


@pytest.mark.parametrize("stack", [GUARDED, LEAST], ids=["RoundRobin", "LeastRequest"])
def test_statement_10_a_black_hole_costs_no_answer(stack: Stack) -> None:
    """Statement 10: success >= 99.95 % with one retry."""
    found = run(HOLE, stack, warm_up=0.0)
    assert found.success >= 99.95
    assert found.amplification <= 1.01


@pytest.mark.parametrize("clients", [1, 16])
def test_statement_10_a_host_that_is_well_again_is_soon_in_full_use(clients: int) -> None:
    """Statement 10: a black hole that heals gets >= 90 % of its share within 20 s."""
    heals = Host(fault=lambda now: "hangs" if now < 6.0 else None)
    found = simulate(Scenario("", {3: heals}, servers=10, seconds=36.0), GUARDED, clients=clients)
    assert found.share(3, 2, 6) < 0.2
    assert found.share(3, 26, 36) >= 0.9


def test_statement_5_a_host_that_is_fast_again_is_soon_in_full_use() -> None:
    """Statement 5: 5 x slower for 10 s, then healed: >= 90 % of its share within 60 s, here within 20."""
    heals = Host(slower=lambda now: 5.0 if now < 10.0 else 1.0)
    found = simulate(Scenario("", {3: heals}, servers=10, seconds=40.0), GUARDED_ALONE)
    assert found.share(3, 4, 10) < 0.4
    assert found.share(3, 30, 40) >= 0.9


@pytest.mark.parametrize(("servers", "success"), [(2, 99.9), (3, 99.9), (5, 99.9)])
def test_statement_11_small_fleets_lose_one_host(servers: int, success: float) -> None:
    """Statement 11: a black hole in a fleet of 2, 3 or 5, four processes, one retry."""
    hole = Scenario("", {1: Host(fault=lambda _now: "hangs")}, servers=servers, load=lambda _now: 0.35, seconds=30.0)
    assert simulate(hole, GUARDED, clients=4).success >= success


def test_statement_12_most_hosts_refuse() -> None:
    """Statement 12: 12 of 20 refuse connections, one retry: >= 99.5 %."""
    refusing = {n: Host(fault=lambda _now: "refuses") for n in range(12)}
    found = simulate(Scenario("", refusing, load=lambda _now: 0.25, seconds=24.0), GUARDED)
    assert found.success >= 99.5


def test_statement_13_overload_is_not_made_worse() -> None:
    """Statement 13: twice the capacity: goodput within 1 % of what it is without ejection."""
    spike = Scenario("", load=lambda _now: 2.0, seconds=10.0, warm_up=2.0)
    without = simulate(spike, Stack("", guarded, outliers=None)).goodput
    assert simulate(spike, GUARDED).goodput >= 0.99 * without


def test_statement_18_a_cold_host_joins() -> None:
    """Statement 18: 5 x slower at first: every call is answered, p99 <= 120 ms; without slow start some time out."""
    found = run(COLD, GUARDED, seconds=24.0)
    assert found.success == 100.0
    assert found.percentile(0.99) <= 120.0
    assert run(COLD, BARE, seconds=24.0).success < 99.0


def test_statement_21_impatient_callers_see_little_of_a_black_hole() -> None:
    """Statement 21: callers give up after 0.2 s: its share is at most half of the fair one."""
    found = run(HOLE, Stack("", guarded, patience=0.2), warm_up=2.0)
    assert found.share(3) <= 0.5
