"""What a run says to people: a line while it goes on, a table and a plot at its end."""

from __future__ import annotations

import plotext
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from examples.hospital.load.latency import Latency, Summary
from examples.hospital.load.result import Result

_WIDTH, _HEIGHT = 90, 18  # cells of the plot, at most


def line(result: Result) -> str:
    """How it goes, in one line."""
    waits = f", {result.delayed} delayed" if result.delayed else ""
    now = result.slices[-1].latency if result.slices else Latency()  # of all, it would take the loop's time: 10 ms
    return (
        f"{result.due} due, {result.answers} answered, {result.failed} failed{waits}, {result.under_way} under way;"
        f" now p50 {milliseconds(now.at(50))}, p99 {milliseconds(now.at(99))}"
    )


def table(result: Result) -> RenderableType:
    """All figures."""
    return Group(_figures(result), Text(), _latencies(result), *_counts(result))


def plot(result: Result, *, width: int, colour: bool) -> str:
    """The course of the latencies, on a logarithmic scale.

    Args:
        result: of a run.
        width: of the terminal.
        colour: whether the terminal shows colours.
    """
    figure = plotext.figure  # there is one in a process, and it keeps what was drawn before
    figure.clear()
    figure.theme("default" if colour else "colorless")
    figure.plot_size(min(width, _WIDTH), _HEIGHT)
    figure.title("latency from due, ms, by when it was due, s")
    figure.ruler("y").scale("log")
    seen = [(number, one.latency.summary()) for number, one in enumerate(result.slices) if one.latency.count]
    at = [number * result.slice_seconds for number, _ in seen]
    for name, values in (("max", [one.max for _, one in seen]), ("p50", [one.p50 for _, one in seen])):
        signal = figure.signal(at, [value * 1000 for value in values])
        signal.lines()
        signal.label(name)
        figure.draw(signal)
    drawn = figure.build().string()
    figure.clear()
    return drawn if colour else str(plotext.uncolorize(drawn))


def print_report(result: Result, console: Console, *, with_plot: bool) -> None:
    """Print the table, and the plot when there is a course to see."""
    console.print(table(result))
    if with_plot and sum(one.latency.count > 0 for one in result.slices) > 1:
        colour = console.is_terminal and not console.no_color
        console.file.write(f"\n{plot(result, width=console.width, colour=colour)}\n")


def milliseconds(seconds: float) -> str:
    """`3.1 ms`, `87 ms`, `2.50 s`."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _figures(result: Result) -> Table:
    plan = result.plan
    grid = Table.grid(padding=(0, 2))
    grid.add_row("asked", f"{plan.method} {' '.join(plan.shown)}")
    grid.add_row(
        "", f"{plan.rate:g} per second ({plan.arrivals}) for {plan.duration:g} s, at most {plan.users} at once"
    )
    stopped = ", stopped early" if result.interrupted else ""
    grid.add_row("reached", f"{result.rate:.1f} answers per second in {result.seconds:.1f} s{stopped}")
    grid.add_row("requests", f"{result.due} due, {result.answers} answered, {result.failed} failed")
    if result.delayed:
        grid.add_row("delayed", f"{result.delayed} were due while all {plan.users} users waited")
    grid.add_row("lag", f"{milliseconds(result.lag.at(99))} (p99: how late the generator itself was)")
    return grid


def _latencies(result: Result) -> Table:
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    found.add_column("latency")
    for name in ("p50", "p90", "p99", "p99.9", "max", "count"):
        found.add_column(name, justify="right")
    for name, latency in (
        ("all, from due", result.latency),
        ("succeeded, from due", result.succeeded),
        ("answered, from sent", result.from_sent),
    ):
        found.add_row(name, *_cells(latency.summary()))
    return found


def _cells(one: Summary) -> list[str]:
    if not one.count:
        return ["-"] * 5 + ["0"]
    return [*map(milliseconds, (one.p50, one.p90, one.p99, one.p999, one.max)), str(one.count)]


def _counts(result: Result) -> list[RenderableType]:
    parts: list[RenderableType] = []
    statuses = {str(status): count for status, count in sorted(result.statuses.items())}
    for title, counts in (
        ("status", statuses),
        ("error", dict(result.errors.most_common())),
        ("served by", dict(sorted(result.served_by.items()))),
    ):
        if counts:
            found = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
            found.add_column(title)
            found.add_column("count", justify="right")
            for name, count in counts.items():
                found.add_row(name, str(count))
            parts += [Text(), found]
    return parts
