"""A real Consul agent in development mode, as a process of the test, on free ports of the loopback interface."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from tests.peers import require_command
from tests.scripted_registry import free_port
from tests.waiting import wait_until


class ConsulAgent:
    """`with ConsulAgent() as agent: agent.host`; in memory: killed and started again it knows nobody.

    Args:
        settings: further lines of its configuration.
        token: for the test's own requests.
    """

    def __init__(self, settings: Sequence[str] = (), *, token: str = "") -> None:
        self._command = require_command("consul", package="consul of bullseye, see .ci/get-consul")
        self._settings = list(settings)
        self._ports = [free_port() for _ in range(3)]
        self._process: subprocess.Popen[bytes] | None = None
        self._token = token
        self.host = f"127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        """Start it and wait until it leads itself."""
        http, serf, server = self._ports
        self._process = subprocess.Popen(
            [
                *(self._command, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=n1"),
                *(f"-http-port={http}", f"-serf-lan-port={serf}", "-serf-wan-port=-1", f"-server-port={server}"),
                *("-dns-port=-1", "-grpc-port=-1", "-log-level=err", "-hcl=disable_update_check=true"),
                *(f"-hcl={line}" for line in self._settings),
            ],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._leads, timeout=20, what="Consul leading itself")

    def _leads(self) -> bool:
        try:
            found = self.ask("GET", "/v1/health/service/consul?passing=1")
        except (httpx.HTTPError, ValueError):
            return False
        return bool(found)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """What it answers, as JSON; None for nothing.

        Raises:
            HTTPError: when it refuses or is not there.
        """
        headers = {"X-Consul-Token": self._token} if self._token else {}
        with httpx.Client(trust_env=False, timeout=5, headers=headers) as client:
            answer = client.request(method, f"http://{self.host}{path}", json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    def ids(self) -> list[str]:
        """The ids of the services that it knows."""
        return sorted(self.ask("GET", "/v1/agent/services"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, when it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.kill()
