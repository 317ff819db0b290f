"""The weather application as a whole: which processes it has, and what one tells the other.

    browser ──► consumer ──► producer ──► OpenWeatherMap
                    └──► registry ◄──┘

The consumer and the producers are told where the registry is, and nothing of each other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.support.processes import Service
from examples.support.system import System
from examples.weather.local_openweathermap import DEMO_KEY


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen.

    Attributes:
        logs: the folder for the logs of all processes.
        registry_port: where the registry listens, or anywhere when that is taken.
        redis: the address of a Redis in which the producers share what they know; None: each knows its own.
    """

    logs: Path
    registry_port: int = 8761
    redis: str | None = None


class WeatherSystem(System):
    """All processes of the application.

    Args:
        options: what can be chosen.

    Attributes:
        openweathermap: the local stand-in; None when there is a key for the real one.
        producers: those that should be running.
        consumer: the web page.
    """

    openweathermap: Service | None
    consumer: Service

    def __init__(self, options: Options) -> None:
        super().__init__(options.logs, registry_port=options.registry_port, numbered=["producer"])
        self._redis = options.redis
        self.producers: list[Service] = []
        self.openweathermap = None

    def start(self) -> None:
        """Start everything; those that need nobody's address at the same time."""
        registry = self.launch_registry()
        if not os.environ.get("OPENWEATHERMAP_API_KEY"):
            self.openweathermap = self.launch("OpenWeatherMap", "examples.weather.local_openweathermap")
            self.openweathermap.wait_for_address()
        self.registry = self.registry_at_last(registry)
        self.producers = [self.launch_producer(), self.launch_producer()]
        self.consumer = self.launch("consumer", "examples.weather.consumer", "--registry", self.registry_url)
        for service in (*self.producers, self.consumer):
            service.wait_for_address()

    def expected(self) -> list[Service]:
        """The processes that should be running."""
        all_of_them = [self.registry, self.openweathermap, *self.producers, self.consumer]
        return [service for service in all_of_them if service is not None]

    @property
    def shares(self) -> bool:
        """Whether the producers share what they know."""
        return self._redis is not None

    def launch_producer(self) -> Service:
        """Start one more producer; its address is not yet known."""
        arguments = ["--registry", self.registry_url]
        key = {}
        if self.openweathermap:
            arguments += ["--openweathermap", self.openweathermap.address]
            key = {"OPENWEATHERMAP_API_KEY": DEMO_KEY}
        if self._redis:
            arguments += ["--redis", self._redis]
        return self.launch("producer", "examples.weather.producer", *arguments, environment=key)

    def replace_producer(self, gone: Service) -> Service:
        """Start a producer instead of one that is gone, and wait until it listens."""
        new = self.launch_producer()
        self.producers = [new if producer is gone else producer for producer in self.producers]
        new.wait_for_address()
        return new

    def mood(self, mode: str, seconds: float | None = None) -> None:
        """Tell the local OpenWeatherMap how to behave from now on."""
        assert self.openweathermap is not None
        wanted = {"mode": mode} if seconds is None else {"mode": mode, "seconds": seconds}
        self._http.post(f"{self.openweathermap.address}/control", json=wanted).raise_for_status()

    def requests_to_openweathermap(self) -> int:
        """How often the local OpenWeatherMap was asked for weather."""
        assert self.openweathermap is not None
        return int(self.get(f"{self.openweathermap.address}/control")["requests"])

    def state_of(self, service: Service) -> dict[str, Any]:
        """What a producer or the consumer says of itself."""
        return self.get(f"{service.address}/state")
