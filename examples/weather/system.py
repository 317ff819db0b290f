"""The weather application as a whole: which processes it has, and what one tells the other.

    browser ──► consumer ──► producer ──► OpenWeatherMap
                    └──► registry ◄──┘

The consumer and the producers are told where the registry is, and nothing of each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from examples.weather.local_openweathermap import DEMO_KEY
from examples.weather.processes import Service, StartError, stop_all

# Short times, so that a tour of half a minute can show what takes a minute and a half by default.
_TIMES = "fetch_interval=0.5&renew_interval=1&lease=3"


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


class WeatherSystem:
    """All processes of the application.

    Args:
        options: what can be chosen.

    Attributes:
        registry: the registry.
        openweathermap: the local stand-in; None when there is a key for the real one.
        producers: those that should be running.
        consumer: the web page.
    """

    registry: Service
    openweathermap: Service | None
    consumer: Service

    def __init__(self, options: Options) -> None:
        self._options = options
        self._started: list[Service] = []
        self._http = httpx.Client(trust_env=False, timeout=5.0)
        self.producers: list[Service] = []
        self.openweathermap = None

    def start(self) -> None:
        """Start everything; those that need nobody's address at the same time.

        Raises:
            StartError: when a process does not start.
        """
        registry = self._launch_registry(self._options.registry_port)
        if not os.environ.get("OPENWEATHERMAP_API_KEY"):
            self.openweathermap = self._launch("OpenWeatherMap", "examples.weather.local_openweathermap")
            self.openweathermap.wait_for_address()
        self.registry = self._registry_at_last(registry)
        self.producers = [self.launch_producer(), self.launch_producer()]
        self.consumer = self._launch("consumer", "examples.weather.consumer", "--registry", self._registry_url)
        for service in (*self.producers, self.consumer):
            service.wait_for_address()

    @property
    def shares(self) -> bool:
        """Whether the producers share what they know."""
        return self._options.redis is not None

    def restart_registry(self) -> None:
        """Start a registry, empty, at the address that everybody knows."""
        self.registry = self._launch_registry(int(self.registry.address.rpartition(":")[2]))
        self.registry.wait_for_address()

    def launch_producer(self) -> Service:
        """Start one more producer; its address is not yet known."""
        arguments = ["--registry", self._registry_url]
        key = {}
        if self.openweathermap:
            arguments += ["--openweathermap", self.openweathermap.address]
            key = {"OPENWEATHERMAP_API_KEY": DEMO_KEY}
        if self._options.redis:
            arguments += ["--redis", self._options.redis]
        return self._launch("producer", "examples.weather.producer", *arguments, environment=key)

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

    def registered(self) -> set[str]:
        """The addresses of the producers that the registry lists as up."""
        listed = self.get(f"{self.registry.address}/eureka/apps")["applications"]["application"]
        instances = [entry for app in listed if app["name"] == "PRODUCER" for entry in app["instance"]]
        return {f"{entry['ipAddr']}:{entry['port']['$']}" for entry in instances if entry["status"] == "UP"}

    def state_of(self, service: Service) -> dict[str, Any]:
        """What a producer or the consumer says of itself."""
        return self.get(f"{service.address}/state")

    def get(self, url: str) -> dict[str, Any]:
        """A JSON document."""
        answer = self._http.get(url, headers={"Accept": "application/json"})
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def ended(self) -> list[Service]:
        """Processes that should be running and are not."""
        expected = [self.registry, self.openweathermap, *self.producers, self.consumer]
        return [service for service in expected if service is not None and not service.running]

    def stop(self) -> None:
        """Stop everything that was started: first those who would miss the others."""
        self._http.close()
        stop_all(reversed(self._started))

    @property
    def _registry_url(self) -> str:
        return f"{self.registry.address.replace('http', 'eureka', 1)}?{_TIMES}"

    def _launch_registry(self, port: int) -> Service:
        return self._launch("registry", "resilient", "registry", "--port", str(port), "--eviction-interval", "0.5")

    def _registry_at_last(self, registry: Service) -> Service:
        try:
            registry.wait_for_address()
        except StartError:
            if "cannot listen" not in registry.log:
                raise
            registry = self._launch_registry(0)
            registry.wait_for_address()
        return registry

    def _launch(self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Service:
        count = sum(service.name.split()[0] == name for service in self._started)
        numbered = f"{name} {count + 1}" if count or name == "producer" else name
        service = Service(numbered, module, *arguments, logs=self._options.logs, environment=environment)
        self._started.append(service)
        return service
