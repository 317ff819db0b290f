"""The command `resilient` as real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.waiting import wait_until


def command(
    *words: str, environment: dict[str, str] | None = None, timeout: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it said and its exit status."""
    return subprocess.run(
        [sys.executable, "-m", "resilient", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=_environment(environment),
        check=False,
    )


def _environment(more: dict[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENT_")}
    return {**kept, "PYTHONWARNINGS": "default", **(more or {})}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Started:
    """A command that goes on: what it has said so far, signals for it, its end. Killed when the block ends.

    Args:
        words: the words after `resilient`, or a whole command line with `whole`.
        environment: variables beside those of this process.
        whole: whether `words` begins with the program itself.
    """

    def __init__(
        self, *words: str, environment: dict[str, str] | None = None, whole: bool = False, group: bool = False
    ) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        line: Sequence[str] = words if whole else [sys.executable, "-m", "resilient", *words]
        self.process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env=_environment(environment),
            start_new_session=group,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def out(self) -> str:
        """What it said on stdout so far."""
        return self._read(self._out.fileno())

    def err(self) -> str:
        """What it said on stderr so far."""
        return self._read(self._err.fileno())

    def says(self, text: str, *, timeout: float = 20.0) -> None:
        """Wait until `text` is in what it said."""

        def said() -> bool:
            return text in self.out() + self.err()

        try:
            wait_until(said, timeout=timeout, what=f"the words {text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {self.out()!r} and {self.err()!r}") from error

    def send(self, number: int) -> None:
        """A signal for it alone."""
        self.process.send_signal(number)

    def ends(self, *, timeout: float = 20.0) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self._out.close()
        self._err.close()

    @staticmethod
    def _read(descriptor: int) -> str:
        return os.pread(descriptor, 1 << 20, 0).decode(errors="replace")
