"""A real Prometheus, as a process of the test."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from examples.hospital.monitoring.prometheus import command, free_address, is_ready
from tests.peers import require_command
from tests.waiting import wait_until


class PrometheusProcess:
    """`with PrometheusProcess(yaml) as prometheus: prometheus.query("up")`.

    Args:
        configuration: the text of its prometheus.yml.
        prefix: what stands before its command line, such as `unshare` with arguments.
    """

    def __init__(self, configuration: str, *, prefix: Sequence[str] = ()) -> None:
        require_command("prometheus", package="prometheus")
        self._prefix = prefix
        self._configuration = configuration
        self._folder = tempfile.TemporaryDirectory(prefix="prometheus-")
        self._process: subprocess.Popen[bytes] | None = None
        self.address = free_address()
        self._http = httpx.Client(base_url=f"http://{self.address}", trust_env=False, timeout=10.0)

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *command(folder, self._configuration, self.address)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._ready, timeout=20.0, what="Prometheus's start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._http.close()
        self._folder.cleanup()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series that `expression` gives now."""
        found = self._get("/api/v1/query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def targets(self) -> list[dict[str, Any]]:
        """Whom it scrapes."""
        found: list[dict[str, Any]] = self._get("/api/v1/targets")["activeTargets"]
        return found

    def log(self) -> str:
        """What it wrote so far."""
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = self._http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Prometheus ended: {self.log()}"
        return is_ready(self.address)
