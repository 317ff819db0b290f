"""Draw the states of a circuit from the table by which the engine changes them.

    python docs/pictures/draw_circuit.py            write docs/pictures/circuit-breaker.svg
    python docs/pictures/draw_circuit.py --check    exit 1 when that file is not what would be written

The table says which arrows there are and what stands on them; only their places on the sheet are chosen here. An arrow
that has no place is an error, so the picture never leaves one out.
"""

# ruff: noqa: INP001  # a script beside what it draws, not a package

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from resilient import State
from resilient.policies.circuit_states import TRANSITIONS

PICTURE = Path(__file__).with_name("circuit-breaker.svg")
Table = Mapping[tuple[State, State], str]

WIDTH, HEIGHT = 1000, 610
BOX_WIDTH, BOX_HEIGHT = 200, 88
LINE = 18  # between the lines of a label
CORNER = 14  # radius where a line turns


class Place(NamedTuple):
    """The middle of a state's box, what happens to calls in it, and its colour."""

    x: int
    y: int
    calls: tuple[str, ...]
    colour: str


PLACES = {
    State.CLOSED: Place(160, 124, ("calls pass", "and are counted"), "good"),
    State.OPEN: Place(840, 124, ("calls are refused", "until a time"), "bad"),
    State.HALF_OPEN: Place(500, 304, ("a few calls probe,", "the others are refused"), "wary"),
    State.FORCED_OPEN: Place(230, 524, ("calls are refused",), "bad"),
    State.DISABLED: Place(500, 524, ("calls pass,", "nothing is counted"), "plain"),
    State.METRICS_ONLY: Place(770, 524, ("calls pass and are", "counted; never opens"), "plain"),
}


class Route(NamedTuple):
    """The way of an arrow over the sheet, and where its label stands."""

    points: tuple[tuple[int, int], ...]
    label: tuple[int, int]  # the middle of the first line, or its start or end by `anchor`
    anchor: str
    columns: int  # characters per line of the label


ROUTES = {
    (State.CLOSED, State.OPEN): Route(((260, 106), (740, 106)), (500, 78), "middle", 54),
    (State.OPEN, State.CLOSED): Route(((740, 142), (260, 142)), (500, 166), "middle", 54),
    (State.OPEN, State.HALF_OPEN): Route(((870, 168), (870, 322), (600, 322)), (620, 344), "start", 36),
    (State.HALF_OPEN, State.OPEN): Route(((600, 286), (810, 286), (810, 168)), (796, 232), "end", 22),
    (State.HALF_OPEN, State.CLOSED): Route(((400, 304), (190, 304), (190, 168)), (206, 232), "start", 24),
}
BY_HAND = Route(((640, 386), (640, 440)), (656, 418), "start", 40)
BACK = Route(((120, 440), (120, 168)), (136, 418), "start", 40)
FRAME = (30, 30, 940, 356)  # around the states that calls change: x, y, width, height
GROUP = (100, 440, 800, 148)  # around those set by hand


def by_hand(table: Table) -> tuple[State, ...]:
    """The states that are entered from every other one, and left for `CLOSED` or each other only."""
    entered = [new for new in State if all((old, new) in table for old in State if old is not new)]
    entered = [state for state in entered if state is not State.CLOSED]
    stay = {State.CLOSED, *entered}
    return tuple(state for state in entered if {new for old, new in table if old is state} <= stay)


def picture(table: Table = TRANSITIONS) -> str:
    """The drawing, as the text of an SVG file."""
    manual = by_hand(table)
    drawn = {pair: label for pair, label in table.items() if pair[0] is not pair[1] and not set(pair) & set(manual)}
    for old, new in drawn:
        if (old, new) not in ROUTES:
            sys.exit(f"draw_circuit.py: the arrow {old.name} → {new.name} has no place in ROUTES, give it one")
    parts = [
        _head(table),
        f'<rect class="sheet" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        _rect("frame", *FRAME),
        _text("caption", 954, 374, "end", ["changed by calls and time"]),
        _rect("frame", *GROUP),
        _text("caption", 884, 462, "end", ["set by hand"]),
        _start(),
    ]
    parts += [_arrow(ROUTES[pair], label) for pair, label in drawn.items()]
    if manual:
        parts.append(_arrow(BY_HAND, "from any state, and from each other"))
        parts.append(_arrow(BACK, _one_label(table, [(state, State.CLOSED) for state in manual])))
    for state, place in PLACES.items():
        how = _one_label(table, [pair for pair in table if pair[1] is state]) if state in manual else ""
        parts.append(_box(state, place, how))
    return "\n".join([*parts, "</svg>", ""])


def _one_label(table: Table, pairs: list[tuple[State, State]]) -> str:
    return " or ".join(dict.fromkeys(table[pair] for pair in pairs if pair in table))


def _head(table: Table) -> str:
    described = "; ".join(f"{old.name} to {new.name}: {label}" for (old, new), label in table.items())
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title desc">
<title id="title">The states of a circuit breaker</title>
<desc id="desc">{escape(described)}</desc>
<style>
  svg {{ --sheet: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #6e7781; --rule: #d1d9e0; --box: #f6f8fa;
        --good: #1a7f37; --bad: #cf222e; --wary: #9a6700; }}
  @media (prefers-color-scheme: dark) {{
    svg {{ --sheet: #0d1117; --ink: #f0f6fc; --soft: #9198a1; --line: #9198a1; --rule: #3d444d; --box: #151b23;
          --good: #3fb950; --bad: #f85149; --wary: #d29922; }}
  }}
  text {{ font: 14px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--ink); }}
  text.name {{ font-weight: 600; font-size: 16px; }}
  text.calls, text.caption {{ fill: var(--soft); font-size: 13px; }}
  text.how {{ font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }}
  .sheet {{ fill: var(--sheet); }}
  .frame {{ fill: none; stroke: var(--rule); stroke-width: 1.5; stroke-dasharray: 6 5; }}
  .box {{ fill: var(--box); stroke: var(--soft); stroke-width: 1.5; }}
  .good {{ stroke: var(--good); stroke-width: 2.5; }}
  .bad {{ stroke: var(--bad); stroke-width: 2.5; }}
  .wary {{ stroke: var(--wary); stroke-width: 2.5; }}
  .arrow {{ fill: none; stroke: var(--line); stroke-width: 1.8; }}
  .tip, .start {{ fill: var(--line); }}
</style>
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">\
<path class="tip" d="M0 0 10 5 0 10z"/></marker></defs>"""


def _start() -> str:
    """A new circuit is closed."""
    return '<circle class="start" cx="160" cy="50" r="6"/>\n' + _line(((160, 56), (160, 80)))


def _box(state: State, place: Place, how: str) -> str:
    left, top = place.x - BOX_WIDTH // 2, place.y - BOX_HEIGHT // 2
    lines = 1 + bool(how) + len(place.calls)
    first = place.y + 7 - (lines - 1) * LINE // 2
    parts = [
        _rect(f"box {place.colour}", left, top, BOX_WIDTH, BOX_HEIGHT),
        _text("name", place.x, first, "middle", [state.name]),
    ]
    if how:
        first += LINE
        parts.append(_text("how", place.x, first, "middle", [how]))
    parts.append(_text("calls", place.x, first + LINE, "middle", list(place.calls)))
    return "\n".join(parts)


def _arrow(route: Route, label: str) -> str:
    x, y = route.label
    return _line(route.points) + "\n" + _text("label", x, y, route.anchor, _wrapped(label, route.columns))


def _wrapped(label: str, columns: int) -> list[str]:
    """The label in as few lines as `columns` allow, about equally long."""
    few = len(textwrap.wrap(label, columns))
    return next(lines for width in range(1, columns + 1) if len(lines := textwrap.wrap(label, width)) <= few)


def _line(points: tuple[tuple[int, int], ...]) -> str:
    """A line along the points, its corners round."""
    path = f"M{points[0][0]} {points[0][1]}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (x1, y1), (x2, y2) = _toward(corner, before), _toward(corner, after)
        path += f" L{x1} {y1} Q{corner[0]} {corner[1]} {x2} {y2}"
    return f'<path class="arrow" d="{path} L{points[-1][0]} {points[-1][1]}" marker-end="url(#tip)"/>'


def _toward(corner: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The point on the way from the corner to the other one, a radius away; lines are level or upright."""
    (x, y), (to_x, to_y) = corner, other
    return x + CORNER * ((to_x > x) - (to_x < x)), y + CORNER * ((to_y > y) - (to_y < y))


def _rect(kind: str, x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>'


def _text(kind: str, x: int, y: int, anchor: str, lines: list[str]) -> str:
    spans = "".join(
        f'<tspan x="{x}" y="{y + number * LINE}">{escape(line)}</tspan>' for number, line in enumerate(lines)
    )
    return f'<text class="{kind}" text-anchor="{anchor}">{spans}</text>'


def main() -> None:
    """Write the file, or check it."""
    options = argparse.ArgumentParser(description="Draw the states of a circuit from the engine's own table.")
    options.add_argument("--check", action="store_true", help="only tell whether the file is up to date")
    options.add_argument(
        "--to", type=Path, default=PICTURE, metavar="FILE", help=f"default {PICTURE.name}, beside this"
    )
    given = options.parse_args()
    text = picture()
    if not given.check:
        given.to.write_text(text, encoding="utf-8", newline="\n")
    elif not given.to.is_file() or given.to.read_bytes() != text.encode():
        sys.exit(f"{given.to.name} is not what the code says: run `make docs` and commit it")


if __name__ == "__main__":
    main()
