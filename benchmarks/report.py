"""What was measured, as tables and as goals that held or did not."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from benchmarks.candidates import BARE, OURS
from benchmarks.crowds import TIGHT, Tight
from benchmarks.footprint import Breaker, Import
from benchmarks.measure import Costs, added

_WIDE = 34


@dataclass(frozen=True)
class Goal:
    """What we want, and what was measured."""

    text: str
    measured: float
    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        held = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        figure = f"{self.measured:,.0f}" if self.limit >= 100 else f"{self.measured:.2f}"
        return f"goal: {self.text}: {figure} {'held' if held else 'not held'}"


def heading() -> None:
    """Where it was measured, and how to read it."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {platform.system()}")
    print("ns of CPU time per call, the least of many short bursts, all in turn; + ns: over the bare call.")
    print("ours / it: our added cost as a share of that peer's, so less than 1 is cheaper.")


def calls(title: str, costs: Costs) -> None:
    """One scenario, the cheapest first."""
    more = added(costs)
    print(f"\n{title}\n{'':{_WIDE}} {'ns':>8} {'+ ns':>8} {'x bare':>8} {'ours / it':>10}")
    for name in sorted(costs, key=costs.__getitem__):
        line = f"{name:{_WIDE}} {costs[name]:8,.0f}"
        if name != BARE:
            line += f" {more[name]:8,.0f} {costs[name] / costs[BARE]:8.1f}"
        if name not in {BARE, OURS}:
            line += f" {more[OURS] / more[name]:10.2f}"
        print(line)


def threads(title: str, rates: dict[str, float]) -> None:
    """Throughput of a crowd of threads."""
    print(f"\n{title}\n{'':{_WIDE}} {'calls/s':>8} {'x bare':>8}")
    for name in sorted(rates, key=rates.__getitem__, reverse=True):
        print(f"{name:{_WIDE}} {rates[name]:8,.0f} {rates[name] / rates[BARE]:8.2f}")


def tight(title: str, costs: dict[str, Tight]) -> None:
    """What a call costs when threads meet at one breaker."""
    print(f"\n{title}\n{'':{_WIDE}} {'ns, 1':>8} {f'ns, {TIGHT}':>8} {f'{TIGHT} / 1':>8}")
    for name in sorted(costs, key=costs.__getitem__):
        alone, together = costs[name]
        print(f"{name:{_WIDE}} {alone:8,.0f} {together:8,.0f} {together / alone:8.2f}")


def tasks(title: str, seconds: Costs, count: int) -> None:
    """CPU time of a crowd of tasks."""
    more = added(seconds)
    print(f"\n{title}\n{'':{_WIDE}} {'ms':>8} {'+ µs/task':>10} {'x bare':>8}")
    for name in sorted(seconds, key=seconds.__getitem__):
        each = more[name] / count * 1e6
        print(f"{name:{_WIDE}} {seconds[name] * 1e3:8.0f} {each:10.2f} {seconds[name] / seconds[BARE]:8.2f}")


def memory(title: str, found: list[Breaker]) -> None:
    """What a breaker takes; the calls are all successful, and pass `call()` as users without a decorator write it."""
    print(f"\n{title}\n{'':{_WIDE}} {'bytes':>8} {'after 150 calls':>16} {'µs to make':>11}")
    for one in found:
        print(f"{one.name:{_WIDE}} {one.idle:8,.0f} {one.used:16,.0f} {one.microseconds:11.2f}")


def imports(title: str, found: list[Import]) -> None:
    """What importing costs."""
    print(f"\n{title}\n{'':{_WIDE}} {'ms':>8} {'modules':>8}")
    for one in found:
        heavy = f"  with {', '.join(one.heavy)}" if one.heavy else ""
        print(f"{one.name:{_WIDE}} {one.milliseconds:8.1f} {one.modules:8}{heavy}")
