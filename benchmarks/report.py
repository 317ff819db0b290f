"""What was measured, as tables and as goals that held or did not."""

from __future__ import annotations

import platform

from benchmarks.candidates import (
    ASYNC_OPEN,
    ASYNC_PIPELINE,
    ASYNC_SUCCESS,
    BARE,
    CIRCUITBREAKER,
    INTERLOCK_COUNT,
    OPEN,
    OURS,
    PIPELINE,
    SUCCESS,
    Scenario,
)
from benchmarks.crowds import TASKS, THREADS, Import
from benchmarks.measure import Costs, added

_WIDE = 34


def heading() -> None:
    """Where it was measured, and how to read it."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {platform.system()}")
    print("ns of CPU time per call, the least of many short bursts, all in turn; + ns: over the bare call.")
    print("ours / it: our added cost as a share of that peer's, so less than 1 is cheaper.")


def table(scenario: Scenario, costs: Costs) -> None:
    """One scenario, the cheapest first."""
    more = added(costs)
    print(f"\n{scenario.title}\n{'':{_WIDE}} {'ns':>8} {'+ ns':>8} {'x bare':>8} {'ours / it':>10}")
    for name in sorted(costs, key=costs.__getitem__):
        line = f"{name:{_WIDE}} {costs[name]:8,.0f}"
        if name != BARE:
            line += f" {more[name]:8,.0f} {costs[name] / costs[BARE]:8.1f}"
        if name not in {BARE, OURS}:
            line += f" {more[OURS] / more[name]:10.2f}"
        print(line)


def threads(rates: dict[str, float]) -> None:
    """Throughput of a crowd of threads."""
    print(f"\n{THREADS} threads through one breaker around a 20 ms sleep\n{'':{_WIDE}} {'calls/s':>8} {'x bare':>8}")
    for name in sorted(rates, key=rates.__getitem__, reverse=True):
        print(f"{name:{_WIDE}} {rates[name]:8,.0f} {rates[name] / rates[BARE]:8.2f}")


def tasks(seconds: Costs) -> None:
    """CPU time of a crowd of tasks."""
    more = added(seconds)
    title = f"{TASKS:,} tasks through one breaker around a 20 ms sleep, CPU time"
    print(f"\n{title}\n{'':{_WIDE}} {'ms':>8} {'+ µs/task':>10} {'x bare':>8}")
    for name in sorted(seconds, key=seconds.__getitem__):
        each = more[name] / TASKS * 1e6
        print(f"{name:{_WIDE}} {seconds[name] * 1e3:8.0f} {each:10.2f} {seconds[name] / seconds[BARE]:8.2f}")


def imports(found: list[Import]) -> None:
    """What importing costs."""
    print(f"\nimport\n{'':{_WIDE}} {'ms':>8} {'modules':>8}")
    for one in found:
        heavy = f"  with {', '.join(one.heavy)}" if one.heavy else ""
        print(f"{one.name:{_WIDE}} {one.milliseconds:8.1f} {one.modules:8}{heavy}")


def goals(costs: dict[str, Costs], rates: dict[str, float], imported: list[Import]) -> None:
    """Each goal with what was measured."""
    print()
    for title in (SUCCESS, ASYNC_SUCCESS):
        more = added(costs[title])
        _goal(f"{title}: added cost <= circuitbreaker's", more[OURS] / more[CIRCUITBREAKER], 1.0)
        _goal(f"{title}: added cost <= 1/7 of interlock-cb's", more[OURS] / more[INTERLOCK_COUNT], 1 / 7)
    for title in (OPEN, ASYNC_OPEN, PIPELINE, ASYNC_PIPELINE):
        more = added(costs[title])
        best = min(cost for name, cost in more.items() if name not in {BARE, OURS, CIRCUITBREAKER})
        _goal(f"{title}: added cost <= the next peer's after circuitbreaker", more[OURS] / best, 1.0)
    _goal(f"{THREADS} threads: throughput >= 0.98 of bare", rates[OURS] / rates[BARE], 0.98, at_least=True)
    ours = next(one for one in imported if one.name == "resilient")
    _goal("import resilient: heavy modules imported <= 0", len(ours.heavy), 0)


def _goal(text: str, measured: float, limit: float, *, at_least: bool = False) -> None:
    held = measured >= limit if at_least else measured <= limit
    print(f"goal: {text}: {measured:.2f} {'held' if held else 'not held'}")
