"""The benchmark runs: one burst of everything, so that it can not rot. What it measures is not judged here."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import __main__, crowds, footprint, measure, policies, report, scenarios, tables

TITLES = [table.title for table in tables.tables()]
SCENARIOS = {**scenarios.SCENARIOS, **policies.SCENARIOS}


@pytest.mark.parametrize("title", list(SCENARIOS))
def test_every_candidate_does_the_same(title: str) -> None:
    """Each answers what the bare call answers, again and again, so none opens; else different things are compared."""
    scenario = SCENARIOS[title]()
    for call in (scenario.calls or {}).values():
        assert [call(7) for _ in range(100)] == [7] * 100

    async def awaited() -> None:
        for acall in (scenario.acalls or {}).values():
            assert [await acall(7) for _ in range(100)] == [7] * 100

    asyncio.run(awaited())
    assert scenario.title == title
    assert scenario.calls or scenario.acalls


@pytest.mark.timeout(180)  # it starts processes: on a busy machine a minute may not do
def test_one_burst_of_each_is_measured_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every table is printed once, and every goal has a line that says whether it held."""
    __main__.main([], measure.ONCE)
    printed = capsys.readouterr().out
    assert all(f"{title}\n" in printed or f"{title}, " in printed for title in TITLES)
    assert printed.count("\n\n") == len(TITLES) + 1
    assert printed.count("\ngoal: ") == printed.count(" held\n") == 54


def test_a_name_runs_the_tables_whose_title_contains_it(capsys: pytest.CaptureFixture[str]) -> None:
    """One table can be looked at alone, with its goals."""
    __main__.main(["OPEN + fallback, async"], measure.ONCE)
    printed = capsys.readouterr().out
    assert scenarios.ASYNC_OPEN in printed
    assert printed.count("\n\n") == 2
    assert printed.count("\ngoal: ") == 1


def test_a_name_of_no_table_lists_the_titles(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name is answered with the right ones, in one sentence."""
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["nonsense"], measure.ONCE)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("No table has 'nonsense' in its title; the titles are: ")
    assert all(title in said for title in TITLES)
    assert said.count("\n") == 1


def test_crowds_and_footprints_measure_something() -> None:
    """No figure is zero: a candidate that did nothing would look cheap."""
    assert min(crowds.threads(measure.ONCE).values()) > 0
    assert min(crowds.tasks(measure.ONCE).values()) > 0
    assert min(min(costs) for costs in crowds.tight(measure.ONCE).values()) > 0
    for one in footprint.breakers(measure.ONCE):
        assert 0 < one.idle <= one.used
        assert one.microseconds > 0


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (report.Goal("a", 0.9, 1.0), "goal: a: 0.90 held"),
        (report.Goal("b", 1.1, 1.0), "goal: b: 1.10 not held"),
        (report.Goal("c", 0.99, 0.98, at_least=True), "goal: c: 0.99 held"),
        (report.Goal("d", 1510.4, 1500), "goal: d: 1,510 not held"),
    ],
)
def test_a_goal_says_whether_it_held(goal: report.Goal, said: str) -> None:
    """A limit is an upper one unless it says otherwise, and a figure at its limit holds."""
    assert str(goal) == said
