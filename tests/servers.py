"""Real servers for tests: started as processes, always stopped."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO, Self

_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0


class RegistryProcess:
    """`python -m resilient registry` on a free port of the loopback interface, as a process of its own.

    Args:
        eviction_interval: seconds, default 0.2: short, so that tests see leases end.
        port: default 0, any free port.
    """

    def __init__(self, *, eviction_interval: float = 0.2, port: int = 0) -> None:
        self.port = port
        self.line = ""
        self._interval = eviction_interval
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """For `from_url`."""
        return f"eureka://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        """Where the status page is; `/eureka` is below it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the one that runs."""
        assert self._process is not None, "the registry is not running"
        return self._process.pid

    def start(self) -> Self:
        """Start it; returns once it says that it listens. On the same port as before, if there was one."""
        assert self._process is None, "the registry runs already"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _reap
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "resilient", "registry", "--port", str(self.port)),
                *("--eviction-interval", str(self._interval)),
            ],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONWARNINGS": "default"},
        )
        try:
            self.line = self._first_line()
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)/eureka", self.line)
            assert found, f"the registry said {self.line!r}; on stderr: {self.errors()}"
            self.port = int(found[1])
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit status; doing it twice does nothing."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        try:
            return self._process.wait(_STOP_TIMEOUT)
        finally:
            self._reap()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self) -> None:
        """Start it again on the same port, empty; it is killed first if it runs."""
        self.kill()
        self.start()

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        assert self._errors is not None
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def _first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + _START_TIMEOUT
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"the registry did not start within {_START_TIMEOUT:g} s: {self.errors()}")
                chunk = os.read(self._process.stdout.fileno(), 4096)
                if not chunk:
                    raise AssertionError(f"the registry ended: {self.errors()}")
                said += chunk
        return said.decode().strip()

    def _reap(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(_STOP_TIMEOUT)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._errors is not None:
            self._errors.close()
        self._process = None
        self._errors = None
