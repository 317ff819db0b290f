"""Draw what the simulation of a fleet says about the strategies.

    python docs/pictures/draw_balancing.py            write balancing-tails.svg and balancing-recovery.svg, in a minute
    python docs/pictures/draw_balancing.py --to DIR   write them elsewhere

The numbers are those of `python -m benchmarks simulation`: one seed, virtual time.
"""

# ruff: noqa: INP001  # a script beside what it draws, not a package

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # the benchmarks are no part of the library

from benchmarks.simulation import Host, Scenario, Stack, simulate  # noqa: E402
from benchmarks.simulation_scenarios import (  # noqa: E402
    BARE,
    COLD,
    EQUAL,
    FAILING,
    GUARDED,
    HOLE,
    LEAST,
    SLOW,
    TWO_CHOICES,
    least,
    plain,
)

STACKS = (BARE, TWO_CHOICES, GUARDED, LEAST)
COLOURS = ("plain", "wary", "good", "deep")
LONGEST = 600.0  # milliseconds on the sheet; more runs off it, and says so

WIDTH = 1000
LEFT, RIGHT = 190, 110
BAR, GAP = 15, 26


class Bars(NamedTuple):
    """A scenario, and per stack (p99 in milliseconds, per cent of good answers)."""

    title: str
    values: Sequence[tuple[float, float]]


class Curve(NamedTuple):
    """A stack, and per second what the bad host got of its fair share."""

    title: str
    values: Sequence[float]


def tails() -> list[Bars]:
    """Simulate what goes wrong, for each stack."""
    found = []
    for scenario in (EQUAL, SLOW, HOLE, FAILING, COLD):
        outcomes = [simulate(scenario, stack) for stack in STACKS]
        found.append(Bars(scenario.title, [(one.percentile(0.99), one.success) for one in outcomes]))
    return found


def recovery() -> list[Curve]:
    """A host hangs from second 10 to second 40."""
    hole = Scenario("", {3: Host(fault=lambda now: "hangs" if 10.0 <= now < 40.0 else None)}, seconds=70.0)
    stacks = (
        Stack("rotation with ejection", plain, retries=1),
        Stack("LeastRequest, no ejection", least, outliers=None, retries=1),
        GUARDED,
    )
    found = []
    for stack in stacks:
        outcome = simulate(hole, stack)
        found.append(Curve(stack.title, [outcome.share(3, second, second + 1) for second in range(70)]))
    return found


def bars(found: Sequence[Bars]) -> str:
    """The tails, as the text of an SVG file."""
    scale = (WIDTH - LEFT - RIGHT) / LONGEST
    parts, y = [], 78
    for row in found:
        parts.append(_text("name", LEFT - 14, y + 2 * BAR + 5, "end", row.title))
        for colour, (value, success) in zip(COLOURS, row.values, strict=True):
            length = max(2.0, min(value, LONGEST) * scale)
            parts.append(f'<rect class="{colour}" x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR - 3}" rx="2"/>')
            said = f"{value:.0f} ms" if success >= 99.9 else f"{success:.0f} % answered"
            parts.append(_text("value", round(LEFT + length) + 6, y + BAR - 4, "start", said))
            y += BAR
        y += GAP
    said = "; ".join(
        f"{row.title}: "
        + ", ".join(f"{stack.title} {value:.0f} ms" for stack, (value, _) in zip(STACKS, row.values, strict=True))
        for row in found
    )
    return _sheet(
        "99th percentile of the latency, a failure counts 1 s",
        said,
        y + 6,
        [_legend([one.title for one in STACKS]), *parts],
    )


def curves(found: Sequence[Curve]) -> str:
    """The recovery, as the text of an SVG file."""
    top, bottom, left, right = 78, 330, 70, 970
    seconds = max(len(curve.values) for curve in found)

    def x(second: float) -> float:
        return left + (right - left) * second / seconds

    def y(share: float) -> float:
        return bottom - (bottom - top) * min(share, 1.25) / 1.25

    parts = [
        f'<rect class="fault" x="{x(10):.0f}" y="{top}" width="{x(40) - x(10):.0f}" height="{bottom - top}"/>',
        _text("caption", round(x(25)), top + 16, "middle", "the host hangs"),
    ]
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<line class="rule" x1="{left}" y1="{y(share):.0f}" x2="{right}" y2="{y(share):.0f}"/>')
        parts.append(_text("caption", left - 10, round(y(share)) + 4, "end", f"{share:.0%}"))
    parts += [
        _text("caption", round(x(second)), bottom + 20, "middle", f"{second} s") for second in range(0, seconds + 1, 10)
    ]
    colours = ("plain", "deep", "good")
    for colour, curve in zip(colours, found, strict=True):
        points = " ".join(f"{x(second + 0.5):.1f},{y(value):.1f}" for second, value in enumerate(curve.values))
        parts.append(f'<polyline class="curve {colour}" points="{points}"/>')
    said = "; ".join(f"{curve.title}: {curve.values[-1]:.0%} at the end" for curve in found)
    return _sheet(
        "What a host gets of its fair share, before, while and after it hangs",
        said,
        bottom + 40,
        [_legend([curve.title for curve in found], colours), *parts],
    )


def _legend(titles: Sequence[str], colours: Sequence[str] = COLOURS) -> str:
    parts, x = [], 24
    for colour, title in zip(colours, titles, strict=True):
        parts.append(f'<rect class="{colour}" x="{x}" y="46" width="12" height="12" rx="2"/>')
        parts.append(_text("label", x + 18, 57, "start", title))
        x += 50 + 8 * len(title)
    return "\n".join(parts)


def _sheet(title: str, described: str, height: int, parts: Sequence[str]) -> str:
    head = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">
<title id="title">{escape(title)}</title>
<desc id="desc">{escape(described)}</desc>
<style>
  svg {{ --sheet: #ffffff; --ink: #1f2328; --soft: #59636e; --rule: #d1d9e0; --box: #fff1e5;
        --good: #1a7f37; --deep: #0969da; --wary: #bf8700; --plain: #8c959f; }}
  @media (prefers-color-scheme: dark) {{
    svg {{ --sheet: #0d1117; --ink: #f0f6fc; --soft: #9198a1; --rule: #3d444d; --box: #2a1e12;
          --good: #3fb950; --deep: #58a6ff; --wary: #d29922; --plain: #656c76; }}
  }}
  text {{ font: 13px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--ink); }}
  text.head {{ font-weight: 600; font-size: 16px; }}
  text.value {{ font-size: 11px; }}
  text.caption {{ fill: var(--soft); }}
  .sheet {{ fill: var(--sheet); }}
  .fault {{ fill: var(--box); }}
  .rule {{ stroke: var(--rule); }}
  .good {{ fill: var(--good); }}
  .deep {{ fill: var(--deep); }}
  .wary {{ fill: var(--wary); }}
  .plain {{ fill: var(--plain); }}
  .curve {{ fill: none; stroke-width: 2.5; }}
  .curve.good {{ stroke: var(--good); }}
  .curve.deep {{ stroke: var(--deep); }}
  .curve.plain {{ stroke: var(--plain); }}
</style>
<rect class="sheet" width="{WIDTH}" height="{height}" rx="12"/>"""
    return "\n".join([head, _text("head", 24, 30, "start", title), *parts, "</svg>", ""])


def _text(kind: str, x: int, y: int, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def main() -> None:
    """Write the files."""
    options = argparse.ArgumentParser(description="Draw what the simulation of a fleet says about the strategies.")
    options.add_argument("--to", type=Path, default=HERE, metavar="DIR", help="default: beside this")
    folder = options.parse_args().to
    for name, text in (("balancing-tails.svg", bars(tails())), ("balancing-recovery.svg", curves(recovery()))):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
