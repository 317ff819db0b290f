"""The demo of the weather application."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from examples.support.demo import Demo
from examples.weather.browser import Browser
from examples.weather.steps import steps
from examples.weather.system import Options, WeatherSystem
from examples.weather.tour import Tour


class WeatherDemo(Demo[WeatherSystem]):
    """What it starts, shows and tours."""

    name = "weather"
    parts = "the registry, OpenWeatherMap, two producers and a consumer"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Options that only this demo has."""
        parser.add_argument("--redis", metavar="URL", help="producers share what they know through this Redis")

    def system(self, logs: Path, arguments: argparse.Namespace) -> WeatherSystem:
        """The application, not yet started."""
        return WeatherSystem(Options(logs=logs, registry_port=arguments.registry_port, redis=arguments.redis))

    def addresses(self, system: WeatherSystem) -> Iterable[tuple[str, str]]:
        """What there is to look at."""
        yield "The page", f"{system.consumer.address}/"
        if system.openweathermap:
            local = f"{system.openweathermap.address}   (local; OPENWEATHERMAP_API_KEY takes the real one)"
            yield "OpenWeatherMap", local
        else:
            yield "OpenWeatherMap", "the real one, with your key"

    def front(self, system: WeatherSystem) -> str:
        """The page."""
        return f"{system.consumer.address}/"

    def tour(self, system: WeatherSystem) -> bool:
        """Take the tour; whether everything held."""
        browser = Browser(system.consumer.address)
        try:
            return Tour(system, browser, out=lambda line: print(line, flush=True)).run(steps(shared=system.shares))
        finally:
            browser.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; its exit status."""
    return WeatherDemo().main(argv)
