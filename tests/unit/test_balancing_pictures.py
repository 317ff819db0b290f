"""The pictures of the strategies, and the simulation that they are drawn from."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulation import Scenario, Stack, simulate

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the drawing script defines."""
    return runpy.run_path(str(PICTURES / "draw_balancing.py"))


def test_bars_show_every_figure(script: dict[str, Any]) -> None:
    """A bar per stack; what failed says how much was answered instead of a percentile."""
    row = script["Bars"]("a < b", [(105.0, 100.0), (1000.0, 90.0), (541.6, 99.95), (118.0, 100.0)])
    drawn = script["bars"]([row])
    ET.fromstring(drawn)
    assert [text for text in re.findall(r">([^<>]+)</text>", drawn) if "ms" in text or "answered" in text] == [
        "105 ms",
        "90 % answered",
        "542 ms",
        "118 ms",
    ]
    assert "a &lt; b" in drawn


def test_curves_show_every_second(script: dict[str, Any]) -> None:
    """A point per second of each stack."""
    drawn = script["curves"]([script["Curve"](name, [1.0] * 70) for name in "abc"])
    ET.fromstring(drawn)
    lines = re.findall(r'points="([^"]+)"', drawn)
    assert [len(line.split()) for line in lines] == [70, 70, 70]


@pytest.mark.parametrize("name", ["balancing-tails.svg", "balancing-recovery.svg"])
def test_the_pictures_in_the_documents_are_whole(name: str) -> None:
    """They can be read, say in words what they show, and need nothing from elsewhere."""
    text = (PICTURES / name).read_text()
    found = ET.fromstring(text)
    described = found.find("{http://www.w3.org/2000/svg}desc")
    assert described is not None
    assert "RoundRobin, the default" in (described.text or "")
    assert re.findall(r"https?:|<script|<image|@import|url\(", text.replace("http://www.w3.org/2000/svg", "")) == []


def test_the_figures_of_a_run_add_up() -> None:
    """Every call that counts has a time, every attempt a host, and percentiles are in order."""
    found = simulate(Scenario("", servers=4, seconds=3.0, warm_up=1.0), Stack(""), clients=2)
    assert len(found.times) == len(found.ends) == found.calls
    assert found.attempts == found.calls == found.good
    assert sum(count.total() for count in found.picks[1:]) == pytest.approx(found.calls, abs=2)
    assert found.percentile(0.5) < found.percentile(0.99) < found.percentile(0.999)
    assert found.goodput == pytest.approx(560.0, rel=0.1)
    assert sum(found.share(server) for server in range(4)) == pytest.approx(4.0)
