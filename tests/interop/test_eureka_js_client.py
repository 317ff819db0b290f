"""eureka-js-client itself against our registry: register, renew, full list, deltas, override, cancel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from resilient.discovery import Registry
from resilient.discovery.eureka import EurekaDiscovery
from tests.peers import require_built, require_command
from tests.servers import RegistryProcess
from tests.waiting import wait_until

DRIVER = Path(__file__).parent / "foreign" / "eureka-js" / "drive.js"
FAST = "?fetch_interval=0.2&renew_interval=0.2&lease=5"


class JavaScriptClient:
    """The client in a process, driven line by line."""

    def __init__(self, port: int, mode: str) -> None:
        modules = require_built("eureka-js", "node_modules", "eureka-js-client").parent
        node = require_command("node", "nodejs", package="nodejs")
        self._process = subprocess.Popen(
            [node, "--no-deprecation", str(DRIVER), str(port), mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "NODE_PATH": str(modules)},
        )  # fmt: skip

    def says(self, line: str = "") -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as process:
        yield process


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_its_whole_life(registry: RegistryProcess, mode: str) -> None:
    """It sees ours come, be overridden and leave; ours sees it; it leaves when it is told to stop."""
    client = JavaScriptClient(registry.port, mode)
    try:
        assert client.says() == 'started [["js-1","UP"]]'
        found = EurekaDiscovery(registry.url + FAST)
        with found:
            (seen,) = found.wait("js-app")
            assert (seen.host, seen.port, seen.id) == ("localhost", 8081, "js-1")
            assert client.says("beats") == "beats true"
            with Registry.from_url(registry.url + FAST).register("other", port=1, id="o-1"):
                both = '[["js-1","UP"],["o-1","UP"]]'
                assert client.says(f"until {both}") == f"shown {both}"
                (other,) = found.wait("other")
                found.override_status(other, "OUT_OF_SERVICE")
                both = '[["js-1","UP"]]'  # it lists only those that are up
                assert client.says(f"until {both}") == f"shown {both}"
            found.override_status(seen, "OUT_OF_SERVICE")
            wait_until(lambda: not found.instances("js-app"), what="the override")
            assert client.says("beats") == "beats true"
            assert client.says("stop") == "stopped"
        answer = httpx.get(f"{registry.http}/eureka/apps", headers={"Accept": "application/json"}).json()
        assert answer["applications"]["application"] == []
    finally:
        client.kill()


def test_it_registers_again_with_a_registry_that_forgot_it(registry: RegistryProcess) -> None:
    """The 404 to its heartbeat has no body that would break it."""
    client = JavaScriptClient(registry.port, "full")
    try:
        assert client.says().startswith("started")
        registry.restart()
        with EurekaDiscovery(registry.url + FAST) as found:
            assert found.wait("js-app", timeout=15)[0].id == "js-1"
    finally:
        client.kill()
