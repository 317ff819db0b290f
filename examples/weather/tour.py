"""The tour of the weather application: looks at the page as a user would, while things are broken on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from examples.support import tour
from examples.weather.browser import Browser, Seen
from examples.weather.system import WeatherSystem

_REAL_API_PAUSE = 0.5  # seconds between two searches: a free key has 60 a minute


class Tour(tour.Tour):
    """What every step of the tour works with.

    Args:
        system: the running application.
        browser: the user's browser.
        out: prints one line, default `print`.
    """

    def __init__(self, system: WeatherSystem, browser: Browser, out: Callable[[str], None] = print) -> None:
        super().__init__(out)
        self.system = system
        self.browser = browser
        if self.real_api:
            self.pause = _REAL_API_PAUSE

    @property
    def real_api(self) -> bool:
        """Whether the real OpenWeatherMap is asked: it cannot be told to fail, and wants to be asked gently."""
        return self.system.openweathermap is None

    @property
    def users(self) -> int:
        """How many users search at the same time."""
        return 1 if self.real_api else 3

    def skip_without_moods(self) -> bool:
        """Whether to leave out what needs an OpenWeatherMap which fails on demand."""
        if self.real_api:
            self.skip("the real OpenWeatherMap cannot be told to fail")
        return self.real_api

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
