"""Run every comparison and print it."""

from __future__ import annotations

from benchmarks import candidates, crowds, measure, report

SECONDS = 9.0  # per table of calls; ten tables and the crowds take about a minute and a half at most


def main() -> None:
    """Measure, print, always succeed: figures of a shared machine are read, not asserted."""
    report.heading()
    costs: dict[str, measure.Costs] = {}
    for scenario in candidates.scenarios():
        costs[scenario.title] = measure.compare(scenario, seconds=SECONDS)
        report.table(scenario, costs[scenario.title])
    throughput = crowds.threads()
    report.threads(throughput)
    report.tasks(crowds.tasks())
    imported = crowds.imports()
    report.imports(imported)
    report.goals(costs, throughput, imported)


if __name__ == "__main__":
    main()
