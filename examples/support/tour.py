"""A tour: breaks things on purpose, looks at them as a user would, and says whether each promise held."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import httpx

from examples.support.processes import StartError

T = TypeVar("T")


class Tour:
    """What every step of a tour works with.

    Args:
        out: prints one line, default `print`.

    Attributes:
        held: how many promises held.
        failed: the promises that did not.
        skipped: how many parts were left out.
        pause: seconds between two looks at something that is waited for.
    """

    pause = 0.03

    def __init__(self, out: Callable[[str], None] = print) -> None:
        self.held = 0
        self.failed: list[str] = []
        self.skipped = 0
        self._out = out

    def run(self, steps: Sequence[Callable[[Self], None]]) -> bool:
        """Take the steps in turn; whether everything held. A step that breaks down does not end the tour."""
        started = time.monotonic()
        for number, step in enumerate(steps, 1):
            title = (step.__doc__ or step.__name__).partition("\n")[0].rstrip(".")
            self._out(f"\n{number}. {title}")
            try:
                step(self)
            except (httpx.HTTPError, OSError, RuntimeError, LookupError, StartError) as error:
                self.check(False, f"this step could be taken to its end ({type(error).__name__}: {error})")
        skipped = f", {self.skipped} parts skipped" if self.skipped else ""
        end = time.monotonic() - started
        if not self.failed:
            self._out(f"\nAll {self.held} promises held{skipped}, in {end:.0f} seconds.")
            return True
        self._out(f"\n{len(self.failed)} of {self.held + len(self.failed)} promises did not hold{skipped}:")
        for promise in self.failed:
            self._out(f"  - {promise}")
        return False

    def say(self, text: str) -> None:
        """What happens, for people."""
        self._out(f"     {text}")

    def shows(self, seen: T) -> T:
        """What a user sees."""
        self._out(f"   > {seen}")
        return seen

    def check(self, held: Any, promise: str) -> None:
        """Whether a promise held."""
        self._out(f"   [{'held' if held else 'did not hold'}] {promise}")
        if held:
            self.held += 1
        else:
            self.failed.append(promise)

    def skip(self, why: str) -> None:
        """Leave a part out."""
        self.skipped += 1
        self._out(f"   [skipped] {why}")

    def wait_for(self, condition: Callable[[], T], *, within: float = 10.0) -> T:
        """Look again and again until it is so, or time is up; the last that was seen."""
        deadline = time.monotonic() + within
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(self.pause)
        return found
