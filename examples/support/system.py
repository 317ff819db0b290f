"""An application as a whole: its processes, the registry that they meet at, and the end of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from examples.support.processes import Service, StartError, stop_all

LEASE: Final = 3  # seconds
# Short times, so that a tour of half a minute can show what takes a minute and a half by default.
_TIMES: Final = f"fetch_interval=0.5&renew_interval=1&lease={LEASE}"


class System:
    """All processes of an application.

    Args:
        logs: the folder for the logs of all processes.
        registry_port: where the registry listens, or anywhere when that is taken.
        numbered: the names of which there are several, so that the first one has a number, too.

    Attributes:
        registry: the registry.
    """

    registry: Service

    def __init__(self, logs: Path, *, registry_port: int = 0, numbered: Iterable[str] = ()) -> None:
        self._logs = logs
        self._registry_port = registry_port
        self._numbered = frozenset(numbered)
        self._started: list[Service] = []
        self._http = httpx.Client(trust_env=False, timeout=5.0)

    def start(self) -> None:
        """Start everything.

        Raises:
            StartError: when a process does not start.
        """
        raise NotImplementedError

    def expected(self) -> Iterable[Service]:
        """The processes that should be running."""
        raise NotImplementedError

    def ended(self) -> list[Service]:
        """Processes that should be running and are not."""
        return [service for service in self.expected() if not service.running]

    def stop(self) -> None:
        """Stop everything that was started; the registry last, as the others take leave of it."""
        self._http.close()
        others = [service for service in self._started if service.name.partition(" ")[0] != "registry"]
        stop_all(others)
        stop_all(service for service in self._started if service not in others)

    def launch(self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Service:
        """Start a process; its address is not yet known.

        Args:
            name: what to call it; a number follows where there are several.
            module: what it runs.
            arguments: its command line.
            environment: variables that only this process gets.
        """
        service = Service(self.next_name(name), module, *arguments, logs=self._logs, environment=environment)
        self._started.append(service)
        return service

    def next_name(self, name: str) -> str:
        """What the next process of that name will be called."""
        same = (service.name for service in self._started)
        count = sum(other == name or other.startswith(f"{name} ") for other in same)
        return f"{name} {count + 1}" if count or name in self._numbered else name

    @property
    def registry_url(self) -> str:
        """What discovery is told."""
        return f"{self.registry.address.replace('http', 'eureka', 1)}?{_TIMES}"

    def launch_registry(self) -> Service:
        """Start the registry where it is wanted."""
        return self._launch_registry(self._registry_port)

    def registry_at_last(self, registry: Service) -> Service:
        """The registry, once it listens; another one when its port is taken."""
        try:
            registry.wait_for_address()
        except StartError:
            if "cannot listen" not in registry.log:
                raise
            registry = self._launch_registry(0)
            registry.wait_for_address()
        return registry

    def restart_registry(self) -> None:
        """Start a registry, empty, at the address that everybody knows."""
        self.registry = self._launch_registry(int(self.registry.address.rpartition(":")[2]))
        self.registry.wait_for_address()

    def registered(self, name: str) -> set[str]:
        """The addresses of the instances of a service that the registry lists as up."""
        listed = self.get(f"{self.registry.address}/eureka/apps")["applications"]["application"]
        instances = [entry for app in listed if app["name"] == name.upper() for entry in app["instance"]]
        return {f"{entry['ipAddr']}:{entry['port']['$']}" for entry in instances if entry["status"] == "UP"}

    def get(self, url: str) -> dict[str, Any]:
        """A JSON document."""
        answer = self._http.get(url, headers={"Accept": "application/json"})
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def _launch_registry(self, port: int) -> Service:
        return self.launch("registry", "resilient", "registry", "--port", str(port), "--eviction-interval", "0.5")
