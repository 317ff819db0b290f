"""A real Eureka server, as Spring Cloud ships it, as a process of the test; leases and caches are short."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.peers import require_built, require_command
from tests.waiting import wait_until

_SETTINGS = {
    "server.address": "127.0.0.1",
    "spring.main.banner-mode": "off",
    "eureka.client.register-with-eureka": "false",
    "eureka.client.fetch-registry": "false",
    "eureka.server.enable-self-preservation": "false",
    "eureka.server.eviction-interval-timer-in-ms": "500",
    "eureka.server.use-read-only-response-cache": "false",
}


class EurekaServer:
    """`with EurekaServer() as server: server.url`; `kill()`, `start()`, `hang()` and `resume()` for the bad days."""

    def __init__(self) -> None:
        self._java = require_command("java", package="default-jre-headless")
        self._jar = require_built("eureka-server", "eureka-server.jar")
        self._folder = tempfile.TemporaryDirectory(prefix="eureka-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """For `from_url`."""
        return f"eureka://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        """Where its resources are."""
        return f"http://127.0.0.1:{self.port}/eureka"

    def start(self) -> None:
        """Start it, empty, on the port it had before; returns once it answers, after 4 s or more."""
        settings = [f"--{key}={value}" for key, value in {**_SETTINGS, "server.port": str(self.port)}.items()]
        quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx192m", f"-Djava.io.tmpdir={self._folder.name}"]
        log = Path(self._folder.name, "log")
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [self._java, *quick, "-jar", str(self._jar), *settings],
                stdout=out, stderr=out, cwd=self._folder.name, start_new_session=True,
            )  # fmt: skip
        process = self._process

        def listening() -> re.Match[str] | None:
            said = log.read_text(errors="replace")
            assert process.poll() is None, f"the server ended: {said[-2000:]}"
            return re.search(r"Tomcat started on port (\d+)", said)

        try:
            started = wait_until(listening, timeout=50, what="the start of the Eureka server")
            assert started is not None
            self.port = int(started[1])
            wait_until(self._answers, timeout=20, what="the Eureka server's first answer")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Its port goes on accepting, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `hang`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def listed(self) -> dict[str, str]:
        """The status of every instance, by id."""
        answer = httpx.get(f"{self.http}/apps/", headers={"Accept": "application/json"}).json()
        return {
            one["instanceId"]: one["status"]
            for application in answer["applications"]["application"]
            for one in application["instance"]
        }

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.http}/apps/", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.kill()
        self._folder.cleanup()
