"""Starting real processes, and leaving none behind.

Each process has a session of its own, so Ctrl-C in the terminal reaches only the one who started them all, who then
stops them in order. Each is on a leash (leash.py), should that one be killed. What they print goes to a log file.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 20.0  # seconds; it takes one, and ten on a busy machine
STOP_TIMEOUT = 4.0  # seconds to stop in peace, then it is killed
_ADDRESS = re.compile(r"listening on (http://[^/\s]+)")


class StartError(Exception):
    """A process did not start; the message has the end of its log."""


class Service:
    """One process that serves HTTP somewhere.

    Args:
        name: what to call it.
        module: what it runs, as `python -m` takes it.
        arguments: its command line.
        logs: the folder for its log.
        environment: variables that only this process gets.
    """

    def __init__(
        self, name: str, module: str, *arguments: str, logs: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.address = ""
        self._log = logs / f"{name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own modules
                [sys.executable, "-m", "examples.support.leash", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**_environment(), **(environment or {})},
            )

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def wait_for_address(self) -> str:
        """Wait until it says where it listens, and return that: `http://host:port`.

        Raises:
            StartError: when it ends before, or takes too long.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            ended = not self.running  # looked at before the log: what it said last counts
            found = _ADDRESS.search(self.log)
            if found:
                self.address = found[1]
                return self.address
            if ended:
                raise StartError(f"the {self.name} ended at once (status {self._process.returncode}):\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"the {self.name} did not start within {START_TIMEOUT:g} s:\n{self.tail()}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """All it has printed."""
        return self._log.read_text(errors="replace")

    def tail(self, lines: int = 8) -> str:
        """The end of its log."""
        return "\n".join(f"    | {line}" for line in self.log.splitlines()[-lines:]) or "    | (it printed nothing)"

    def kill(self) -> None:
        """End it as a crash would: it cannot say goodbye to anybody."""
        self._process.kill()
        self._process.wait()

    def suspend(self) -> None:
        """Have it hang: it is there, takes connections, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        stop_all([self])

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end_by(self, deadline: float) -> None:
        """Wait until it has ended; at `deadline` it is killed."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdin:
            self._process.stdin.close()


def stop_all(services: Iterable[Service]) -> None:
    """End all of them, at the same time; those that do not want to are killed after a while."""
    services = list(services)
    for service in services:
        service.ask_to_stop()
    deadline = time.monotonic() + STOP_TIMEOUT
    for service in services:
        service.end_by(deadline)


def _environment() -> dict[str, str]:
    """Ours, so that the children find these modules, print at once, and ask no proxy for what is on this machine."""
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, [environment.get(name), "127.0.0.1", "localhost"]))
    return environment
