"""The rules, as promtool reads them, and Prometheus as the demo starts it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from examples.hospital.monitoring.configuration import ALERTS, configuration
from examples.hospital.monitoring.prometheus import is_ready, main
from examples.support.processes import Service
from tests.peers import require_command


def promtool(*arguments: str) -> str:
    """What it says; AssertionError with that when it finds fault."""
    command = require_command("promtool", package="prometheus")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_can_be_read() -> None:
    """Every lint of promtool's is an error."""
    assert "4 rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """Series written down, and what follows from them; promtool runs the real engine."""
    promtool("test", "rules", str(ALERTS.with_name("alerts_test.yml")))


def test_the_threshold_of_the_seed_is_in_the_rules_as_it_was_written() -> None:
    """The autoscaler's alert is that of the original system, word for word."""
    seed = 'avg(rate(http_server_requests_seconds_count{uri=~".*patient.*"}[1m])) > 0.15'
    assert f"expr: {seed}\n" in ALERTS.read_text()


def test_a_configuration_with_everything_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    """The registry, DNS, fixed addresses, and somebody to tell."""
    text = configuration(
        registry="http://127.0.0.1:8761",
        names=["tasks.patient"],
        port=8080,
        others=["gateway:8080"],
        receiver="127.0.0.1:9093",
    )
    path = tmp_path / "prometheus.yml"
    path.write_text(text)
    assert "is valid prometheus config file syntax" in promtool("check", "config", str(path))


def test_prometheus_runs_as_a_process_of_the_demo_and_leaves_nothing(tmp_path: Path) -> None:
    """It says where it listens, answers there, and is gone after SIGTERM."""
    require_command("prometheus", package="prometheus")
    told = ["--registry", "http://127.0.0.1:9", "--also", "127.0.0.1:9", "--alerts", "127.0.0.1:9"]
    process = Service("prometheus", "examples.hospital.monitoring.prometheus", *told, logs=tmp_path)
    try:
        address = process.wait_for_address()
        assert httpx.get(f"{address}/api/v1/status/runtimeinfo", trust_env=False).status_code == 200
    finally:
        process.stop()
    assert not process.running
    assert not is_ready(address.removeprefix("http://"))


def test_without_prometheus_the_demo_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing, and how to get it."""
    monkeypatch.setenv("PATH", "")
    assert main(["--registry", "http://127.0.0.1:9"]) == 127
    assert capsys.readouterr().err == "prometheus is not installed (Debian: apt-get install prometheus)\n"
