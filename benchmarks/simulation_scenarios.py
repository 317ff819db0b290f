"""What goes wrong, and who meets it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from benchmarks.simulation import Host, Scenario, Stack
from resilient.balancing import Candidate, LeastRequest, Random, RoundRobin, Strategy
from resilient.discovery import Instance


def _cold(joined: float) -> Callable[[float], float]:
    """Five times slower at first, as fast as the others after 30 s."""
    return lambda now: 1.0 + 4.0 * max(0.0, 1.0 - (now - joined) / 30.0)


EQUAL = Scenario("all equal")
SLOW = Scenario("2 of 20 are 5 x slower", {n: Host(slower=lambda _now: 5.0) for n in (3, 11)})
HOLE = Scenario("1 of 20 hangs", {3: Host(fault=lambda _now: "hangs")})
FAILING = Scenario("1 of 20 fails in 1 ms", {3: Host(fault=lambda _now: "fails")})
COLD = Scenario("a cold one joins", {19: Host(slower=_cold(4.0))}, seconds=38.0, joins=4.0)
SPIKE = Scenario("30 s of twice the capacity", load=lambda now: 2.0 if 19.0 <= now < 49.0 else 0.7)
SCENARIOS = (EQUAL, SLOW, HOLE, FAILING, COLD, SPIKE)


class TwoChoices:
    """Power of two choices: the one of two by chance that has fewer calls in flight. For comparison."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
        """One of them by chance."""
        return self._chance.choice(instances)

    def pick_among(self, candidates: Sequence[Candidate], key: str | None, /) -> Candidate:
        """The one with less to do."""
        return min(self._chance.sample(candidates, 2), key=lambda one: one.in_flight)


def _two_choices(chance: random.Random) -> Strategy:
    return TwoChoices(chance)


def plain(chance: random.Random) -> Strategy:
    """Rotation and nothing else."""
    return RoundRobin(guarded=False, rng=chance.random)


def guarded(chance: random.Random) -> Strategy:
    """The default."""
    return RoundRobin(rng=chance.random)


def least(chance: random.Random) -> Strategy:
    """The fewest calls in flight."""
    return LeastRequest(rng=chance.random)


def by_chance(chance: random.Random) -> Strategy:
    """Anyone, by weight."""
    return Random(chance.getrandbits(32))


BARE = Stack("round robin, nothing else", plain, outliers=None, retries=0, slow_start=None)
GUARDED_ALONE = Stack("guarded round robin alone", guarded, outliers=None, retries=0, slow_start=None)
LEAST_ALONE = Stack("least request alone", least, outliers=None, retries=0, slow_start=None)
GUARDED = Stack("RoundRobin, the default", guarded)
LEAST = Stack("LeastRequest", least)
BY_CHANCE = Stack("Random", by_chance)
TWO_CHOICES = Stack("power of two choices", _two_choices)
STACKS = (BARE, GUARDED_ALONE, LEAST_ALONE, GUARDED, LEAST, BY_CHANCE, TWO_CHOICES)
