"""The strategies that users write, bad options, and strategies without a balancer or in a forked child."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from resilient import ConfigError
from resilient.balancing import (
    Balancer,
    Candidate,
    ConsistentHash,
    LeastRequest,
    Priorities,
    Random,
    RoundRobin,
    Sticky,
    Strategy,
    Subset,
    WeightedRoundRobin,
    Zoned,
)
from resilient.discovery import Instance
from resilient.testing import VirtualClock
from tests.fleets import but, calls, fleet, rotation, well
from tests.listed import Listed


def of(strategy: Callable[[], Strategy], known: Sequence[Instance], clock: VirtualClock) -> Balancer:
    """A balancer in which nobody is new."""
    return Balancer("producer", Listed(*known, clock=clock), strategy, slow_start=None, clock=clock)


def keyed(number: int) -> str:
    """A key per call."""
    return f"user-{number}"


def test_a_strategy_may_look_at_load_and_latency(clock: VirtualClock) -> None:
    """pick_among gets candidates, and is called without any lock held."""
    seen: list[tuple[int, float | None, float]] = []

    class Fewest:
        def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
            raise AssertionError("pick_among is asked instead")

        def pick_among(self, candidates: Sequence[Candidate], key: str | None, /) -> Candidate:
            chosen.snapshot()  # would hang under the balancer's lock
            seen.extend((one.in_flight, one.latency, one.weight) for one in candidates if one.instance.id == "00")
            return min(candidates, key=lambda one: one.in_flight)

    chosen = of(Fewest, fleet(3), clock)
    leases = [chosen.pick() for _ in range(6)]
    assert Counter(lease.instance.id for lease in leases) == {"00": 2, "01": 2, "02": 2}
    for lease in leases:
        lease.success(0.02)
    chosen.pick().success(0.02)
    assert seen[-1] == (0, 0.02, 1.0)


def test_a_subclass_that_picks_for_itself_is_asked(clock: VirtualClock) -> None:
    """Whoever overrides pick of a strategy of ours means it."""

    class Last(RoundRobin):
        def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
            return instances[-1]

    assert calls(of(Last, fleet(3), clock), clock, 5, well) == {"02": 5}


def test_a_strategy_that_makes_instances_up_is_named(clock: VirtualClock) -> None:
    """What was not offered can not be chosen."""

    class Elsewhere:
        def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
            return Instance("producer", "elsewhere", 80)

    with pytest.raises(ConfigError, match="none of the instances it was given"):
        of(Elsewhere, fleet(3), clock).pick()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Zoned(zone=""),
        lambda: Zoned(zone=None),  # type: ignore[arg-type]
        lambda: Zoned(RoundRobin(), zone="a"),  # type: ignore[arg-type]
        lambda: Priorities("priority"),  # type: ignore[arg-type]
        lambda: Subset(0),
        lambda: Subset(True),
        lambda: Subset(5, client=""),
        lambda: Sticky(max_keys=0),
        lambda: Sticky(3),  # type: ignore[arg-type]
        lambda: WeightedRoundRobin(weight=3),  # type: ignore[arg-type]
    ],
)
def test_an_option_out_of_its_range_is_refused_where_it_is_given(make: Callable[[], object]) -> None:
    """ConfigError says which, and what it was."""
    with pytest.raises(ConfigError, match="not|must"):
        make()


@pytest.mark.parametrize(
    "strategy", [LeastRequest(), WeightedRoundRobin(), Random(), ConsistentHash(), Sticky(), Zoned(zone="a"), Subset(2)]
)
def test_every_strategy_works_without_a_balancer(strategy: Strategy) -> None:
    """pick() alone chooses among what it is given."""
    known = fleet(4, zone="a")
    assert {strategy.pick(known, f"k{n}") for n in range(40)} <= set(known)
    assert repr(strategy).startswith(type(strategy).__name__)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("make", [LeastRequest, WeightedRoundRobin, Random, Subset, Sticky])
def test_children_choose_for_themselves(make: Callable[[], Strategy]) -> None:
    """After a fork locks are new and chances are drawn again: 12 children do not all choose the same of 50."""
    random.seed(5)
    chosen = Balancer("producer", Listed(*fleet(50)), make)
    chosen.pick().success()
    found = set[int]()
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os._exit(int(chosen.pick(key="k").instance.id))
        found.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert len(found) > 3


def test_a_slow_host_keeps_few_of_its_sessions(clock: VirtualClock) -> None:
    """A host that is five times as slow loses its sessions one after the other."""
    chosen = of(lambda: Sticky(rotation), fleet(4), clock)
    slow = but("01", good=True, seconds=0.5)
    calls(chosen, clock, 400, slow, key=lambda number: keyed(number % 40))
    assert calls(chosen, clock, 400, slow, key=lambda number: keyed(number % 40))["01"] < 10
