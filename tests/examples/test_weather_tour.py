"""The tour holds, as `make demo` takes it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from examples.weather.browser import Browser
from examples.weather.system import Options, WeatherSystem
from examples.weather.tour import Tour
from tests.examples.demos import Demo


@pytest.mark.timeout(150)
def test_every_promise_of_the_tour_holds() -> None:
    """Without a terminal the demo takes the whole tour, every step holds, it exits 0 and leaves nothing behind."""
    with Demo() as demo:
        status = demo.wait(timeout=120.0)
        output = demo.output
        left = demo.processes()
        files = [path.name for path in demo.folder.iterdir() if path.name != "output"]
    assert "[did not hold]" not in output, output
    assert status == 0, output
    assert left == []
    assert files == []
    assert re.findall(r"^(\d)\. ", output, re.MULTILINE) == [str(number) for number in range(1, 9)]
    assert output.count("[held]") >= 25
    assert "CAUTION - Response out of date!" in output
    assert output.endswith("Everything is stopped.\n")


def test_a_promise_that_does_not_hold_fails_the_tour(tmp_path: Path) -> None:
    """It is printed where it happens and again at the end; a step that breaks down does not end the tour."""

    def wrong(tour: Tour) -> None:
        """A step that goes wrong."""
        tour.check(held=False, promise="two and two are five")

    def broken(tour: Tour) -> None:
        """A step that breaks down."""
        raise httpx.ConnectError("nobody there")

    def right(tour: Tour) -> None:
        """A step that goes well."""
        tour.check(held=True, promise="two and two are four")

    lines: list[str] = []
    system, browser = WeatherSystem(Options(logs=tmp_path)), Browser("http://127.0.0.1:9")
    try:
        held = Tour(system, browser, out=lines.append).run([wrong, broken, right])
    finally:
        browser.close()
        system.stop()
    assert not held
    assert lines == [
        "\n1. A step that goes wrong",
        "   [did not hold] two and two are five",
        "\n2. A step that breaks down",
        "   [did not hold] this step could be taken to its end (ConnectError: nobody there)",
        "\n3. A step that goes well",
        "   [held] two and two are four",
        "\n2 of 3 promises did not hold:",
        "  - two and two are five",
        "  - this step could be taken to its end (ConnectError: nobody there)",
    ]
