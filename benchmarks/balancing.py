"""What a pick costs, by strategy and size of the fleet, and whether it is exact among many threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.measure import BURST, Effort
from benchmarks.report import Goal
from resilient.balancing import (
    Balancer,
    ConsistentHash,
    LeastRequest,
    Random,
    RoundRobin,
    Sticky,
    Strategy,
    Subset,
    WeightedRoundRobin,
    Zoned,
)
from resilient.discovery import Instance
from resilient.discovery.static import StaticDiscovery

PICK = "pick an instance"
SIZES = (10, 100, 10_000)
THREADS = 64
_WIDE = 34

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "RoundRobin": RoundRobin,
    "LeastRequest": LeastRequest,
    "WeightedRoundRobin": WeightedRoundRobin,
    "Random": Random,
    "ConsistentHash, 1,000 keys": ConsistentHash,
    "Sticky, 1,000 keys": Sticky,
    "Zoned": lambda: Zoned(zone="a"),
    "Subset of 20": Subset,
}


@dataclass(frozen=True)
class Pick:
    """Microseconds of CPU time.

    Attributes:
        idle: a pick while nothing is in flight; settling it is not counted.
        busy: a pick while 500 calls are in flight.
        settle: a success.
    """

    idle: float
    busy: float
    settle: float


def show(effort: Effort) -> list[Goal]:
    """Measure, print, and say what held."""
    print(f"\n{PICK}, µs of CPU time\n{'':{_WIDE}} {'hosts':>7} {'idle':>8} {'500 open':>9} {'success':>8}")
    costs: dict[tuple[str, int], Pick] = {}
    for name in STRATEGIES:
        for size in SIZES:
            found = costs[name, size] = measure(name, min(size, effort.hosts), effort)
            print(f"{name:{_WIDE}} {size:7,} {found.idle:8.2f} {found.busy:9.2f} {found.settle:8.2f}")
    rotation = costs["RoundRobin", 10], costs["RoundRobin", 10_000]
    plain = [found for (name, size), found in costs.items() if size == 100]
    return [
        Goal(f"{PICK}: µs among 10 <= 1.5", max(rotation[0].idle, rotation[0].busy), 1.5),
        Goal(f"{PICK}: µs among 10,000 <= 3", max(rotation[1].idle, rotation[1].busy), 3.0),
        Goal(f"{PICK}: µs among 100, any strategy <= 10", max(max(one.idle, one.busy) for one in plain), 10.0),
        Goal(f"{PICK}: most - least picks of {THREADS} threads x 1,000 <= 1", spread(), 1.0),
    ]


def measure(name: str, size: int, effort: Effort) -> Pick:
    """The least of many bursts."""
    known = [Instance("p", f"h{n}", 80, id=str(n), zone="ab"[n % 2]) for n in range(size)]
    balancer = Balancer("p", StaticDiscovery({"p": known}), STRATEGIES[name])
    keys = [f"user-{n}" for n in range(1000)] if "keys" in name else [None]
    of = [keys[n % len(keys)] for n in range(BURST)]
    idle = busy = settle = float("inf")
    for key in keys:
        balancer.pick(key=key).unused()
    for _ in range(min(effort.bursts, 40)):
        leases = []
        started = time.thread_time_ns()
        for key in of:
            leases.append(balancer.pick(key=key))  # noqa: PERF401  # a comprehension is no pick in a program
        busy = min(busy, (time.thread_time_ns() - started) / BURST)
        started = time.thread_time_ns()
        for lease in leases:
            lease.success(0.02)
        settle = min(settle, (time.thread_time_ns() - started) / BURST)
        both = time.thread_time_ns()
        for key in of:
            balancer.pick(key=key).success(0.02)
        idle = min(idle, (time.thread_time_ns() - both) / BURST - settle)
    return Pick(idle / 1e3, busy / 1e3, settle / 1e3)


def spread() -> float:
    """The busiest host's picks less the idlest one's, after many threads picked at once."""
    balancer = Balancer("p", StaticDiscovery({"p": [Instance("p", f"h{n}", 80, id=str(n)) for n in range(7)]}))
    ready = threading.Barrier(THREADS)

    def run() -> None:
        ready.wait()
        for _ in range(1000):
            balancer.pick().unused()

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    picks = [one.picks for one in balancer.snapshot().instances]
    return float(max(picks) - min(picks))
