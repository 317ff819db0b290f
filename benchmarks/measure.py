"""CPU time of the measuring thread, short bursts, all candidates in turn, the least of many.

The machine is shared: the least is what the code costs when nobody interferes, and turns make sure that what happens to
the machine happens to all candidates. Read the ratios.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.candidates import BARE, AsyncCall, Call, Scenario

Costs: TypeAlias = dict[str, float]
"""Nanoseconds per call, by candidate."""

BURST = 500  # calls; about half a millisecond: shorter than the time slices of the machine


@dataclass(frozen=True)
class Effort:
    """How long and how much is measured."""

    seconds: float = 9.0  # for a table of calls, or
    bursts: int = 2000  # turns, whichever is over first
    rounds: int = 3  # of what is no burst; the least of them counts
    sleeping: int = 64  # threads
    tasks: int = 10_000
    period: float = 0.6  # seconds for which a crowd of threads is counted
    breakers: int = 10_000
    simulated: float = 64.0  # seconds of virtual time, at most
    services: int = 1000  # in a registry
    hosts: int = 10_000  # in a fleet, at most
    interpreters: int = 5  # that are started for each import


ALL_OF_IT = Effort()  # some five minutes
ONCE = Effort(
    seconds=60.0,
    bursts=1,
    rounds=1,
    sleeping=2,
    tasks=10,
    period=0.05,
    breakers=20,
    simulated=0.5,
    services=2,
    hosts=200,
    interpreters=1,
)  # to see that it runs


def compare(scenario: Scenario, effort: Effort) -> Costs:
    """Measure every candidate of `scenario`."""
    return asyncio.run(_compare(scenario, effort))


def added(costs: Costs) -> Costs:
    """What each adds to the bare call."""
    return {name: cost - costs[BARE] for name, cost in costs.items()}


async def _compare(scenario: Scenario, effort: Effort) -> Costs:
    best: Costs = {}
    end = time.monotonic() + effort.seconds
    for _ in range(effort.bursts):
        for name, call in (scenario.calls or {}).items():
            best[name] = min(best.get(name, float("inf")), _burst(call))
        for name, acall in (scenario.acalls or {}).items():
            best[name] = min(best.get(name, float("inf")), await _aburst(acall))
        if time.monotonic() >= end:
            break
    return best


def _burst(call: Call) -> float:
    started = time.thread_time_ns()
    for _ in range(BURST):
        call(1)
    return (time.thread_time_ns() - started) / BURST


async def _aburst(call: AsyncCall) -> float:
    started = time.thread_time_ns()
    for _ in range(BURST):
        await call(1)
    return (time.thread_time_ns() - started) / BURST
