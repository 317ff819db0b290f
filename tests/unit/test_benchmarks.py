"""The benchmark runs: one burst of everything, so that it can not rot. What it measures is not judged here."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import candidates, crowds, measure, report

SCENARIOS = candidates.scenarios()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_every_candidate_does_the_same(scenario: candidates.Scenario) -> None:
    """Each answers what the bare call answers; else costs of different things would be compared."""
    for call in (scenario.calls or {}).values():
        assert call(7) == 7

    async def awaited() -> None:
        for acall in (scenario.acalls or {}).values():
            assert await acall(7) == 7

    asyncio.run(awaited())
    assert scenario.calls or scenario.acalls


def test_one_burst_of_each_is_measured_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every candidate has a row with a cost, every goal a line that says whether it held."""
    report.heading()
    costs = {}
    for scenario in SCENARIOS:
        costs[scenario.title] = measure.compare(scenario, seconds=60.0, bursts=1)
        assert min(costs[scenario.title].values()) > 0
        report.table(scenario, costs[scenario.title])
    rates = crowds.threads(seconds=0.05, count=2)
    report.threads(rates)
    seconds = crowds.tasks(count=10, rounds=1)
    report.tasks(seconds)
    imported = crowds.imports(("resilient",))
    report.imports(imported)
    report.goals(costs, rates, imported)
    printed = capsys.readouterr().out
    assert all(printed.count(scenario.title) >= 2 for scenario in SCENARIOS)
    assert printed.count("goal: ") == printed.count(" held\n") == 10
    assert min(rates.values()) > 0
    assert set(seconds) == set(rates)
