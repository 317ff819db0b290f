"""The hospital's demo: the tour holds, and whenever somebody ends it nothing is left."""

from __future__ import annotations

import re
import signal

import pytest

from examples.hospital.steps import STEPS
from tests.examples.demos import Demo
from tests.waiting import wait_until


@pytest.mark.timeout(280)
def test_every_promise_of_the_tour_holds() -> None:
    """Without a terminal the demo takes the whole tour, every step holds, it exits 0 and leaves nothing behind."""
    with Demo(example="hospital") as demo:
        status = demo.wait(timeout=240.0)
        output = demo.output
        left = demo.processes()
        files = [path.name for path in demo.folder.iterdir() if path.name != "output"]
    assert "[did not hold]" not in output, output
    assert status == 0, output
    assert left == []
    assert files == []
    assert re.findall(r"^(\d+)\. ", output, re.MULTILINE) == [str(number + 1) for number in range(len(STEPS))]
    assert "Patient information is currently unavailable" in output
    assert output.endswith("Everything is stopped.\n")


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [("Starting", signal.SIGINT, 130), ("[held]", signal.SIGTERM, 143), ("[held]", signal.SIGKILL, -9)],
    ids=["Ctrl-C at the start", "SIGTERM in the tour", "kill -9 in the tour"],
)
def test_an_interrupted_demo_leaves_nothing_running(moment: str, number: signal.Signals, status: int) -> None:
    """Every process ends, those of a demo that was killed by themselves; there is no traceback."""
    with Demo(example="hospital") as demo:
        demo.wait_for(moment)
        demo.process.send_signal(number)
        assert demo.wait() == status, demo.output
        wait_until(lambda: not demo.processes(), timeout=15.0, what="every process of the demo ending")
        output = demo.output
    assert "Traceback" not in output
