"""Measure, print, always succeed: figures of a shared machine are read, not asserted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks import measure, report
from benchmarks.tables import Table, tables


def main(argv: Sequence[str] | None = None, effort: measure.Effort = measure.ALL_OF_IT) -> None:
    """Run the comparisons that are asked for, and print them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare what a breaker costs with its peers, measure a pick, simulate a fleet.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="run only the tables whose title contains NAME; without, all of them"
    )
    asked = parser.parse_args(argv).names
    all_tables = tables()
    for name in asked:
        if not _matching(all_tables, name):
            titles = "; ".join(table.title for table in all_tables)
            parser.exit(2, f"No table has {name!r} in its title; the titles are: {titles}.\n")
    wanted = [table for table in all_tables if not asked or any(_matching([table], name) for name in asked)]
    report.heading()
    goals = [goal for table in wanted for goal in table.show(effort)]
    print()
    for goal in goals:
        print(goal)


def _matching(among: list[Table], name: str) -> list[Table]:
    return [table for table in among if name.lower() in table.title.lower()]


if __name__ == "__main__":
    main()
