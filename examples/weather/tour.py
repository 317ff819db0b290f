"""The tour: breaks things on purpose, looks at the page as a user would, and says whether each promise held."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import httpx

from examples.weather.browser import Browser, Seen
from examples.weather.processes import StartError
from examples.weather.system import WeatherSystem

T = TypeVar("T")

_REAL_API_PAUSE = 0.5  # seconds between two searches: a free key has 60 a minute


class Tour:
    """What every step of the tour works with.

    Args:
        system: the running application.
        browser: the user's browser.
        out: prints one line, default `print`.
    """

    def __init__(self, system: WeatherSystem, browser: Browser, out: Callable[[str], None] = print) -> None:
        self.system = system
        self.browser = browser
        self.held = 0
        self.failed: list[str] = []
        self.skipped = 0
        self._out = out

    @property
    def real_api(self) -> bool:
        """Whether the real OpenWeatherMap is asked: it cannot be told to fail, and wants to be asked gently."""
        return self.system.openweathermap is None

    @property
    def users(self) -> int:
        """How many users search at the same time."""
        return 1 if self.real_api else 3

    @property
    def pause(self) -> float:
        """Seconds between two searches of one user."""
        return _REAL_API_PAUSE if self.real_api else 0.03

    def run(self, steps: Sequence[Callable[[Tour], None]]) -> bool:
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

    def shows(self, seen: Seen) -> Seen:
        """What a user's browser shows."""
        self._out(f"   > {seen}")
        return seen

    def check(self, held: object, promise: str) -> None:
        """Whether a promise held."""
        self._out(f"   [{'held' if held else 'did not hold'}] {promise}")
        if held:
            self.held += 1
        else:
            self.failed.append(promise)

    def skip(self) -> None:
        """Leave out what needs an OpenWeatherMap which fails on demand."""
        self.skipped += 1
        self._out("   [skipped] the real OpenWeatherMap cannot be told to fail")

    def wait_for(self, condition: Callable[[], T], *, within: float = 10.0) -> T:
        """Look again and again until it is so, or time is up; the last that was seen."""
        deadline = time.monotonic() + within
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(self.pause)
        return found

    def look_until(
        self, wanted: Callable[[Seen], bool], zip_code: str, *, by: set[str] | None = None, within: float = 15.0
    ) -> list[Seen]:
        """Search again and again, until `wanted` was seen (from every producer of `by`): all that was seen."""
        seen: list[Seen] = []
        good: set[str] = set()

        def enough() -> bool:
            seen.append(self.browser.look(zip_code))
            if wanted(seen[-1]):
                good.add(seen[-1].producer)
            return good >= by if by else bool(good)

        self.wait_for(enough, within=within)
        return seen


def counts(seen: Iterable[Seen]) -> str:
    """How many answers each producer gave: "6 from 127.0.0.1:4001, 6 from 127.0.0.1:4002"."""
    found = Counter(one.producer or "the page itself" for one in seen)
    return ", ".join(f"{count} from {producer}" for producer, count in sorted(found.items()))


def fresh_from(seen: Iterable[Seen]) -> set[str]:
    """The producers that gave fresh weather."""
    return {one.producer for one in seen if one.fresh}


def circuits(seen: Iterable[Seen], producer: str) -> list[str]:
    """The states that a producer's circuit went through, as its answers told: `["open", "half-open", "closed"]`."""
    path: list[str] = []
    for one in seen:
        if one.producer == producer and path[-1:] != [one.fields["api-circuit"]]:
            path.append(one.fields["api-circuit"])
    return path


def addresses(system: WeatherSystem) -> set[str]:
    """`host:port` of each producer that should be running."""
    return {producer.address.removeprefix("http://") for producer in system.producers}


def milliseconds(seen: Iterable[Seen]) -> str:
    """How long the answers took: "4, 5 and 1003 ms"."""
    *most, last = [f"{one.milliseconds:.0f}" for one in seen]
    return f"{', '.join(most)} and {last} ms" if most else f"{last} ms"
