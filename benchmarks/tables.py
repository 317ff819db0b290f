"""Every table: its title, how it is measured and printed, and which goals it says something about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import (
    balancing,
    crowds,
    discovery,
    footprint,
    isolation,
    measure,
    policies,
    registry_server,
    report,
    scenarios,
    simulation_report,
    transport,
)
from benchmarks.candidates import BARE, CIRCUITBREAKER, INTERLOCK_COUNT, OURS, Scenario
from benchmarks.measure import Costs, Effort, added
from benchmarks.report import Goal

SLEEPING = "threads through one breaker around a 20 ms sleep"
TIGHT = "threads in a tight loop through one breaker"
TASKS = "tasks through one breaker around a 20 ms sleep"
MEMORY = "memory and creation"
IMPORT = "import"


@dataclass(frozen=True)
class Table:
    """One comparison: `show` measures it, prints it, and gives the goals with what was measured."""

    title: str
    show: Callable[[Effort], list[Goal]]


def tables() -> list[Table]:
    """All of them, in order."""
    return [
        *(Table(title, _calls(title, make)) for title, make in scenarios.SCENARIOS.items()),
        *(Table(title, _calls(title, make)) for title, make in policies.SCENARIOS.items()),
        Table(SLEEPING, _sleeping),
        Table(TIGHT, _tight),
        Table(TASKS, _tasks),
        Table(MEMORY, _memory),
        Table(IMPORT, _imports),
        Table(balancing.PICK, balancing.show),
        Table(simulation_report.SIMULATION, simulation_report.show),
        Table(transport.TITLE, transport.show),
        Table(transport.ASYNC_TITLE, transport.show_async),
        Table(discovery.TITLE, discovery.show),
        Table(registry_server.TITLE, registry_server.show),
        Table(isolation.TITLE, isolation.show),
    ]


def _calls(title: str, make: Callable[[], Scenario]) -> Callable[[Effort], list[Goal]]:
    def show(effort: Effort) -> list[Goal]:
        costs = measure.compare(make(), effort)
        report.calls(title, costs)
        return _goals(title, costs)

    return show


def _goals(title: str, costs: Costs) -> list[Goal]:
    more = added(costs)
    if title in policies.SCENARIOS:
        return policies.goals(title, more)
    if title in {scenarios.PIPELINE, scenarios.ASYNC_PIPELINE}:
        best = min(cost for name, cost in more.items() if name not in {BARE, OURS, CIRCUITBREAKER})
        return [Goal(f"{title}: added cost <= the next peer's after circuitbreaker", more[OURS] / best, 1.0)]
    share = 0.9 if title in {scenarios.SUCCESS, scenarios.ASYNC_SUCCESS} else 1.0
    goals = [Goal(f"{title}: added cost <= {share} x circuitbreaker's", more[OURS] / more[CIRCUITBREAKER], share)]
    if title in {scenarios.SUCCESS, scenarios.ASYNC_SUCCESS}:
        goals.append(Goal(f"{title}: added cost <= 1/7 of interlock-cb's", more[OURS] / more[INTERLOCK_COUNT], 1 / 7))
    return goals


def _sleeping(effort: Effort) -> list[Goal]:
    rates = crowds.threads(effort)
    report.threads(f"{effort.sleeping} {SLEEPING}", rates)
    text = f"{effort.sleeping} {SLEEPING}: throughput >= 0.98 of bare"
    return [Goal(text, rates[OURS] / rates[BARE], 0.98, at_least=True)]


def _tight(effort: Effort) -> list[Goal]:
    costs = crowds.tight(effort)
    report.tight(f"{crowds.TIGHT} {TIGHT}, CPU time", costs)
    ours = costs[OURS]
    return [Goal(f"{crowds.TIGHT} {TIGHT}: CPU time per call <= 1.1 x one thread", ours.together / ours.alone, 1.1)]


def _tasks(effort: Effort) -> list[Goal]:
    report.tasks(f"{effort.tasks:,} {TASKS}, CPU time", crowds.tasks(effort), effort.tasks)
    return []


def _memory(effort: Effort) -> list[Goal]:
    found = footprint.breakers(effort)
    report.memory(f"{MEMORY}, {effort.breakers:,} breakers", found)
    of = {one.name: one for one in found}
    plain = [of[OURS], of[footprint.NAMED]]
    return [
        Goal(f"{MEMORY}: bytes of a breaker <= 1,500", max(one.idle for one in plain), 1500),
        Goal(f"{MEMORY}: bytes of an idle breaker in a Keyed <= 2,000", of[footprint.KEYED].idle, 2000),
        Goal(f"{MEMORY}: µs to make one <= 10", max(one.microseconds for one in plain), 10),
    ]


def _imports(effort: Effort) -> list[Goal]:
    found = footprint.imports(effort)
    report.imports(IMPORT, found)
    ours = next(one for one in found if one.name == "resilient")
    return [Goal("import resilient: heavy modules imported <= 0", len(ours.heavy), 0)]
