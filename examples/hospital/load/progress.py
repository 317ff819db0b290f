"""How a run goes, while it goes on: a line that changes in a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live

from examples.hospital.load.report import line
from examples.hospital.load.result import Result

_PAUSE: Final = 5.0  # seconds between two lines where there is no terminal


class Progress:
    """Shows results; used as a `with` block around the run.

    Args:
        console: where to; usually standard error, so that standard output holds the result alone.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live("", console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, result: Result) -> None:
        """Show how it goes."""
        if self._live is not None:
            self._live.update(line(result), refresh=True)
        elif time.monotonic() - self._told >= _PAUSE:
            self._told = time.monotonic()
            self._console.print(line(result), soft_wrap=True)
