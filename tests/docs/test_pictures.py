"""The pictures of the documents are what the code says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from resilient import State
from resilient.policies.circuit_states import TRANSITIONS

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
SCRIPT = PICTURES / "draw_circuit.py"

Picture = Callable[[Mapping[tuple[State, State], str]], str]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the drawing script defines."""
    return runpy.run_path(str(SCRIPT))


def texts(picture: str) -> str:
    """All that can be read on the picture, line breaks of labels as spaces."""
    lines = ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}tspan")
    return " ".join(line.text or "" for line in lines)


def arrows(picture: str) -> int:
    """How many arrows it has, the one to the first state included."""
    return picture.count('class="arrow"')


def test_the_picture_in_the_documents_is_the_one_that_the_code_draws(script: dict[str, Any]) -> None:
    """A changed transition without a new picture fails here, byte for byte."""
    drawn = script["picture"]().encode()
    assert drawn == (PICTURES / "circuit-breaker.svg").read_bytes(), "run `make docs`"


def test_every_transition_is_readable_on_the_picture(script: dict[str, Any]) -> None:
    """Each label of the table stands on the picture, and every state has its box."""
    shown = texts(script["picture"](TRANSITIONS))
    assert [label for label in TRANSITIONS.values() if label not in shown] == []
    assert [state.name for state in State if state.name not in shown] == []


def test_states_set_by_hand_are_known_from_the_table(script: dict[str, Any]) -> None:
    """Entered from everywhere, left for closed or each other only: one group with one arrow in and one out."""
    assert set(script["by_hand"](TRANSITIONS)) == {State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY}
    between_others = {pair for pair in TRANSITIONS if not set(pair) & set(script["by_hand"](TRANSITIONS))}
    assert arrows(script["picture"](TRANSITIONS)) == len(between_others) + 3


def test_a_transition_taken_from_the_table_leaves_the_picture(script: dict[str, Any]) -> None:
    """The arrows come from the table, not from the sheet."""
    fewer = {pair: label for pair, label in TRANSITIONS.items() if pair != (State.HALF_OPEN, State.OPEN)}
    assert arrows(script["picture"](fewer)) == arrows(script["picture"](TRANSITIONS)) - 1


def test_a_transition_without_a_place_is_an_error(script: dict[str, Any]) -> None:
    """The picture never leaves an arrow out in silence."""
    more = {**TRANSITIONS, (State.CLOSED, State.HALF_OPEN): "try()"}
    with pytest.raises(SystemExit, match="CLOSED → HALF_OPEN"):
        script["picture"](more)


def test_a_label_may_hold_any_character(script: dict[str, Any]) -> None:
    """What the table says is text, not markup."""
    odd = {**TRANSITIONS, (State.OPEN, State.CLOSED): 'a < b & "c"'}
    assert 'a < b & "c"' in texts(script["picture"](odd))


def test_the_table_beside_the_tails_says_what_they_show() -> None:
    """Of the strategies that are drawn, each percentile of the table is the one on the picture."""
    document = (ROOT / "docs" / "how-to" / "choose-a-strategy.md").read_text()
    table = document.partition("| p99 in ms")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| (?:\*\*)?`?([^|`*,]+)[^|]*\| (.+) \|$", table, flags=re.MULTILINE))
    drawn = re.findall(r">(\d+) (?:ms|% answered)<", (PICTURES / "balancing-tails.svg").read_text())
    told = [rows[name] for name in ("round robin", "power of two choices", "RoundRobin", "LeastRequest")]
    cells = [[cell.split()[0].rstrip(",") for cell in row.split(" | ")] for row in told]
    assert [cells[row][column] for column in range(5) for row in range(4)] == drawn


def test_the_picture_needs_nothing_from_elsewhere(script: dict[str, Any]) -> None:
    """No script, no font, no image that a reader's browser would have to fetch."""
    picture = script["picture"](TRANSITIONS).replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|<script|<image|@import|url\((?!#)", picture) == []


def test_check_says_in_a_sentence_that_a_picture_is_stale(tmp_path: Path) -> None:
    """`--check` is for a build: exit 1 and what to do; after writing it is content."""
    picture = tmp_path / "circuit-breaker.svg"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), "--to", str(picture), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

    picture.write_text("<svg/>")
    stale = run("--check")
    assert (stale.returncode, stale.stderr) == (
        1,
        "circuit-breaker.svg is not what the code says: run `make docs` and commit it\n",
    )
    assert run().returncode == 0
    assert run("--check").returncode == 0
