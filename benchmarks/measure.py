"""CPU time of the measuring thread, short bursts, all candidates in turn, the least of many.

The machine is shared: the least is what the code costs when nobody interferes, and turns make sure that what happens to
the machine happens to all candidates. Read the ratios.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypeAlias

from benchmarks.candidates import BARE, AsyncCall, Call, Scenario

Costs: TypeAlias = dict[str, float]
"""Nanoseconds per call, by candidate."""

BURST = 500  # calls; about half a millisecond: shorter than the time slices of the machine


def compare(scenario: Scenario, *, seconds: float, bursts: int = 2000) -> Costs:
    """Measure every candidate of `scenario`, for `seconds` or `bursts` turns, whichever is over first."""
    return asyncio.run(_compare(scenario, seconds, bursts))


def added(costs: Costs) -> Costs:
    """What each adds to the bare call."""
    return {name: cost - costs[BARE] for name, cost in costs.items()}


async def _compare(scenario: Scenario, seconds: float, bursts: int) -> Costs:
    best: Costs = {}
    end = time.monotonic() + seconds
    for _ in range(bursts):
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
