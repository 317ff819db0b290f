"""The demo starts, stops and fails cleanly, whenever somebody interrupts it."""

from __future__ import annotations

import re
import signal
import socket
import sys

import httpx
import pytest

from examples.weather import run
from tests.examples.demos import Demo
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize(
    ("moment", "signals", "status"),
    [
        ("Starting", [signal.SIGINT], 130),
        ("[held]", [signal.SIGINT, signal.SIGINT], 130),
        ("is up", [signal.SIGTERM], 143),
    ],
    ids=["Ctrl-C at the start", "Ctrl-C twice in the tour", "SIGTERM"],
)
def test_an_interruption_stops_every_process(moment: str, signals: list[signal.Signals], status: int) -> None:
    """Whenever it comes, and twice too: everything is stopped, nothing is left, there is no traceback."""
    with Demo() as demo:
        demo.wait_for(moment)
        for number in signals:
            demo.process.send_signal(number)
        assert demo.wait() == status, demo.output
        wait_until(lambda: not demo.processes(), what="every process of the demo ending")
        output = demo.output
    assert "Traceback" not in output
    assert output.endswith("Everything is stopped.\n")


def test_a_killed_demo_leaves_nothing_running() -> None:
    """`kill -9` gives it no chance to stop anything: the processes notice by themselves and end."""
    with Demo("--no-tour") as demo:
        demo.wait_for("stays up")
        started = len(demo.processes())
        demo.process.kill()
        demo.wait()
        wait_until(lambda: not demo.processes(), what="every process of the demo ending")
    assert started == 6


def test_it_stays_up_and_stops_what_hangs() -> None:
    """Without the tour it stays; a taken registry port is avoided; at the end a process that hangs is killed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Demo("--no-tour", "--registry-port", str(port)) as demo:
            demo.wait_for("stays up")
            assert f"(127.0.0.1:{port} is taken)" in demo.output
            address = re.search(r"The page +(http://\S+)", demo.output)
            assert address is not None
            assert "Weather" in httpx.get(address[1], trust_env=False).text
            next(process for process in demo.processes() if "examples.weather.consumer" in process.cmdline()).suspend()
            demo.process.send_signal(signal.SIGINT)
            assert demo.wait() == 0
            wait_until(lambda: not demo.processes(), what="every process of the demo ending")


def test_a_process_that_does_not_start_is_one_clear_sentence() -> None:
    """It names the process and shows the end of its log; the rest is stopped."""
    with Demo("--redis", "nonsense") as demo:
        assert demo.wait() == 1
        output = demo.output
        assert not demo.processes()
    assert "demo: the producer 1 ended at once (status 2):" in output
    assert "is no Redis URL" in output
    assert "Traceback" not in output


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Started without what it needs, it says what is missing and which command installs it."""
    monkeypatch.setattr(run, "_NEEDED", ("httpx", "no_such_package"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = signal.getsignal(signal.SIGINT)
    try:
        assert run.main() == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "demo: there is no no_such_package here; `make demo` installs it\n"
