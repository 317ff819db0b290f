"""The simulation as a table, with the figures that we want."""

from __future__ import annotations

import dataclasses

from benchmarks.measure import Effort
from benchmarks.report import Goal
from benchmarks.simulation import Outcome, Scenario, Stack, simulate
from benchmarks.simulation_scenarios import (
    BARE,
    COLD,
    EQUAL,
    FAILING,
    GUARDED,
    GUARDED_ALONE,
    HOLE,
    LEAST,
    SCENARIOS,
    SLOW,
    SPIKE,
    STACKS,
)

SIMULATION = "simulation of a fleet"
CLIENTS = 16
MANY = (1, 16, 100)

_TAILS = (  # milliseconds: of the default, of LeastRequest
    (EQUAL, 115.0, 114.0),
    (SLOW, 164.0, 128.0),
    (HOLE, 127.0, 118.0),
    (FAILING, 118.0, 114.0),
    (COLD, 118.0, 116.0),
)


def show(effort: Effort) -> list[Goal]:
    """Simulate everything, print it, and say what held."""
    print(
        f"\n{SIMULATION}, 20 servers x 4 workers at 70 %, {CLIENTS} client processes; a failure counts 1 s\n"
        f"{'':28} {'p50':>6} {'p99':>6} {'p99.9':>6} {'% ok':>8} {'good/s':>7} {'busiest/mean':>13} {'attempts':>9}"
    )
    found: dict[tuple[str, str], Outcome] = {}
    for scenario in SCENARIOS:
        print(f"{scenario.title}:")
        for stack in STACKS:
            outcome = found[scenario.title, stack.title] = simulate(_shortened(scenario, effort), stack)
            _line(stack.title, outcome)
    print(f"{SLOW.title}, by the number of client processes:")
    for stack in (GUARDED_ALONE, LEAST):
        for clients in MANY:
            outcome = found[SLOW.title, f"{stack.title} {clients}"] = simulate(
                _shortened(SLOW, effort), stack, clients=clients
            )
            _line(f"{stack.title}, {clients}", outcome)
    return _goals(found)


def _line(title: str, outcome: Outcome) -> None:
    print(
        f"  {title:26} {outcome.percentile(0.5):6.0f} {outcome.percentile(0.99):6.0f} {outcome.percentile(0.999):6.0f}"
        f" {outcome.success:8.3f} {outcome.goodput:7,.0f} {outcome.imbalance:13.2f} {outcome.amplification:9.3f}"
    )


def _goals(found: dict[tuple[str, str], Outcome]) -> list[Goal]:
    def of(scenario: Scenario, stack: Stack) -> Outcome:
        return found[scenario.title, stack.title]

    spike = of(SPIKE, GUARDED).goodput / max(1.0, of(SPIKE, BARE).goodput)
    slowest = max(found[SLOW.title, f"{GUARDED_ALONE.title} {clients}"].percentile(0.99) for clients in MANY)
    goals = []
    for scenario, default, least in _TAILS:
        for stack, limit in ((GUARDED, default), (LEAST, least)):
            text = f"{SIMULATION}: {stack.title}, {scenario.title}: p99 <= {limit:g} ms"
            goals.append(Goal(text, of(scenario, stack).percentile(0.99), limit))
        text = f"{SIMULATION}: {GUARDED.title}, {scenario.title}: % ok"
        goals.append(Goal(text, of(scenario, GUARDED).success, 99.95, at_least=True))
    text = f"{SIMULATION}: {SLOW.title}, alone, 1 to 100 processes: p99 <= 180 ms"
    goals.append(Goal(text, slowest, 180.0))
    text = f"{SIMULATION}: {SPIKE.title}: goodput of the default / of nothing"
    return [*goals, Goal(text, spike, 0.99, at_least=True)]


def _shortened(scenario: Scenario, effort: Effort) -> Scenario:
    seconds = min(scenario.seconds, effort.simulated)
    if seconds == scenario.seconds:
        return scenario
    joins = None if scenario.joins is None else min(scenario.joins, seconds / 2)
    return dataclasses.replace(scenario, seconds=seconds, warm_up=min(scenario.warm_up, seconds / 2), joins=joins)
