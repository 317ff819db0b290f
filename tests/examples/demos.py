"""The demo as a user starts it: `run.py` as a process, and a look at what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.waiting import wait_until

_ROOT = Path(__file__).resolve().parents[2]
_MARK = "RESILIENT_DEMO_TEST"


class Demo:
    """`with Demo(...) as demo`: a running demo without a terminal; every process of it carries a mark.

    Args:
        arguments: the command line; the registry takes any free port unless these say otherwise.
        example: which one.
    """

    def __init__(self, *arguments: str, example: str = "weather") -> None:
        port = () if "--registry-port" in arguments else ("--registry-port", "0")
        self._mark = uuid.uuid4().hex
        self._folder = tempfile.TemporaryDirectory(prefix="demo-test-")
        self.folder = Path(self._folder.name)
        hidden = {"OPENWEATHERMAP_API_KEY", "OPENWEATHERMAP_URL", "RESILIENT_DISCOVERY"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, f"examples/{example}/run.py", *port, *arguments],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environment, _MARK: self._mark, "TMPDIR": str(self.folder)},
            )

    @property
    def output(self) -> str:
        """What it has printed."""
        return (self.folder / "output").read_text()

    def wait_for(self, text: str, *, timeout: float = 40.0) -> None:
        """Wait until it has printed `text`."""
        wait_until(
            lambda: text in self.output or self.process.poll() is not None, timeout=timeout, what=f"{text!r} printed"
        )
        assert text in self.output, self.output

    def wait(self, *, timeout: float = 20.0) -> int:
        """Its exit status."""
        return self.process.wait(timeout)

    def processes(self) -> list[psutil.Process]:
        """All processes that it started, itself included, as far as they are running."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self.processes():
            process.kill()
        self.process.wait(10.0)
        self._folder.cleanup()
