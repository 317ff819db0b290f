"""The load generator as a command: what it prints, and what it ends with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.support.processes import ROOT
from tests.gateway.serving import Served, answering
from tests.waiting import wait_until

WELL = answering(200, b"well", [(b"x-served-by", b"me")])


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "examples.hospital.load", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, errors = process.communicate(timeout=30.0)
    finally:
        process.kill()
    return process.returncode, out, errors


def test_json_is_the_result() -> None:
    """`--json` prints what a program reads, and nothing else."""
    with Served(WELL) as server:
        status, out, errors = _ended(_start(f"{server.url}/x", "--rate", "40", "--requests", "20", "--json"))
    found = json.loads(out)
    assert (status, errors) == (0, "")
    assert found["due"] == found["answers"] == found["statuses"]["200"] == found["served_by"]["me"] == 20
    assert 0 < found["latency"]["p50"] <= found["latency"]["p99"] <= found["latency"]["max"] < 5.0
    assert found["plan"]["urls"] == [f"{server.url}/x"]


def test_a_service_is_found_by_its_name_and_a_body_is_sent(tmp_path: Path) -> None:
    """`--registry` takes any discovery; the table names who answered."""
    body = tmp_path / "body"
    body.write_text("hello")
    with Served(WELL) as server:
        registry = f"static://patient={server.address}"
        status, out, errors = _ended(
            _start(
                *("http://patient/x", "--registry", registry, "--rate", "40", "--requests", "8"),
                *("--method", "post", "--data", f"@{body}", "--header", "X-From: a test", "--no-plot"),
            )
        )
    assert (status, errors) == (0, "")
    assert "8 due, 8 answered, 0 failed" in out
    assert "POST http://patient/x" in out


@pytest.mark.parametrize("limit", [("--max-errors", "0.1"), ("--max-p99", "0.000001", "--max-errors", "1")])
def test_a_limit_that_does_not_hold_is_status_1(limit: tuple[str, ...]) -> None:
    """A build can end with it; the sentence says which limit."""
    with Served(answering(503)) as server:
        status, out, errors = _ended(_start(server.url, "--rate", "50", "--requests", "10", "--no-plot", *limit))
    assert status == 1
    assert "10 answered, 10 failed" in out
    assert errors.startswith("load: ")
    assert "more than" in errors


def test_ctrl_c_gives_the_table_so_far() -> None:
    """Ctrl-C is no error: what was seen is printed, the status is 130."""
    requests: list[int] = []

    async def app(scope: object, receive: object, send: object) -> None:
        requests.append(1)
        await WELL(scope, receive, send)

    with Served(app) as server:
        process = _start(f"{server.url}/x", "--rate", "50", "--duration", "600", "--no-plot")
        wait_until(lambda: len(requests) > 10, timeout=20.0, what="load")
        process.send_signal(signal.SIGINT)
        status, out, errors = _ended(process)
    assert status == 130
    assert "stopped early" in out
    assert "p99.9" in out
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["patients"], "'patients' is no URL"),
        (["http://x", "--rate", "-1"], "rate must be more than 0"),
        (["http://x", "--rate", "fast"], "invalid float value: 'fast'"),
        (["http://x", "--header", "nonsense"], "a header is written"),
        (["http://x", "--data", "@/nowhere/at/all"], "cannot read /nowhere/at/all"),
        (["http://x", "--max-errors", "7"], "a ratio is a number from 0 to 1"),
        (["http://x", "--registry", "what://x"], "what:// is not known here"),
        (["http://x", "--registry", "eureka://"], "host"),
    ],
)
def test_what_is_not_understood_is_a_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and one sentence that says why."""
    from examples.hospital.load.command import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
