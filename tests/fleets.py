"""Fleets for tests of balancing: instances by number, and calls in virtual time whose ends a test decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from resilient.balancing import (
    Balancer,
    ConsistentHash,
    InstanceSnapshot,
    LeastRequest,
    Random,
    RoundRobin,
    Sticky,
    Strategy,
    WeightedRoundRobin,
    Zoned,
)
from resilient.discovery import Instance
from resilient.testing import VirtualClock
from tests.listed import Listed


def fleet(count: int, *, first: int = 0, zone: str | None = None, weight: float = 1.0) -> tuple[Instance, ...]:
    """Instances "00", "01", …"""
    return tuple(
        Instance("producer", f"h{n:02}.test", 80, id=f"{n:02}", zone=zone, weight=weight)
        for n in range(first, first + count)
    )


def rotation() -> RoundRobin:
    """A rotation that begins with the first instance."""
    return RoundRobin(rng=lambda: 0.0)


def entry(chosen: Balancer, name: str) -> InstanceSnapshot:
    """The snapshot of one instance."""
    return next(entry for entry in chosen.snapshot().instances if entry.instance.id == name)


def calls(
    chosen: Balancer,
    clock: VirtualClock,
    count: int,
    answer: Callable[[Instance], tuple[bool, float]],
    *,
    every: float = 0.01,
    key: Callable[[int], str | None] = lambda _number: None,
) -> Counter[str]:
    """So many calls one after the other, `every` seconds; `answer` says (whether it went well, after how long)."""
    found = Counter[str]()
    for number in range(count):
        clock.advance(every)
        lease = chosen.pick(key=key(number))
        found[lease.instance.id] += 1
        well, seconds = answer(lease.instance)
        if well:
            lease.success(seconds)
        else:
            lease.failure(elapsed=seconds)
    return found


def well(_instance: Instance) -> tuple[bool, float]:
    """Everybody answers in 20 ms."""
    return True, 0.02


def but(name: str, *, good: bool, seconds: float) -> Callable[[Instance], tuple[bool, float]]:
    """Everybody but one does."""
    return lambda instance: (good, seconds) if instance.id == name else (True, 0.02)


def balancer(known: tuple[Instance, ...], clock: VirtualClock, **options: object) -> Balancer:
    """A balancer of `producer` whose rotation begins with the first instance."""
    return Balancer("producer", Listed(*known, clock=clock), rotation, clock=clock, **options)  # type: ignore[arg-type]


def fail(chosen: Balancer, clock: VirtualClock, name: str, times: int) -> None:
    """The next calls to `name` fail; those to others go well."""
    while times:
        with_one = chosen.pick()
        clock.advance(0.01)
        if with_one.instance.id == name:
            with_one.failure(elapsed=0.02)
            times -= 1
        else:
            with_one.success(0.02)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "RoundRobin": rotation,
    "LeastRequest": LeastRequest,
    "WeightedRoundRobin": WeightedRoundRobin,
    "Random": lambda: Random(seed=7),
    "ConsistentHash": ConsistentHash,
    "Sticky": Sticky,
    "Zoned": lambda: Zoned(rotation, zone="a"),
}
