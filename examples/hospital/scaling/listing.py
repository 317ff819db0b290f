"""What a Eureka registry says of a service's replicas, and how one of them is taken off the list from outside.

The list is what callers see: a replica that is off it gets no new requests, whether or not it knows. Eureka keeps a
status that was set from outside against what the replica itself says, until the replica leaves.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import httpx

from examples.hospital.scaling.autoscaler import ReplicaError
from resilient.discovery.eureka_url import EurekaUrl

_TIMEOUT: Final = 2.0  # seconds for one question to one server
UP: Final = "UP"
OUT_OF_SERVICE: Final = "OUT_OF_SERVICE"


class EurekaListing:
    """The entries of one service.

    Args:
        url: of the registry: `eureka://localhost:8761?fetch_interval=1`, as its callers have it.
        service: the logical name.

    Attributes:
        notice: seconds after which every caller has seen a change: their `fetch_interval`, which may be 10 % longer,
            and the time to fetch.

    Raises:
        ConfigError: when the URL is wrong.
    """

    def __init__(self, url: str, service: str) -> None:
        where = EurekaUrl.parse(url)
        self._servers = where.servers
        self._name = where.name
        self._app = quote(service.upper(), safe="")
        fetch_interval = where.options.get("fetch_interval", 30.0)
        self.notice = 1.1 * fetch_interval + 0.5
        self._http = httpx.AsyncClient(
            trust_env=False, timeout=_TIMEOUT, headers={"Accept": "application/json"}, follow_redirects=False
        )

    async def status(self, address: str) -> str | None:
        """The status of the entry with that `host:port`; None when there is none.

        Raises:
            ReplicaError: when no server of the registry answers.
        """
        entry = await self._entry(address)
        return None if entry is None else str(entry["status"])

    async def take_out(self, address: str) -> None:
        """See to it that no caller is told of that `host:port` any more.

        Raises:
            ReplicaError: when no server of the registry answers, or it refuses.
        """
        entry = await self._entry(address)
        if entry is None:
            return
        name = quote(str(entry.get("instanceId") or entry.get("hostName", "")), safe="")
        answer = await self._ask("PUT", f"/apps/{self._app}/{name}/status?value={OUT_OF_SERVICE}")
        if answer.status_code not in {200, 404}:
            raise ReplicaError(f"the registry does not take {address} off its list: it answers {answer.status_code}")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _entry(self, address: str) -> dict[str, Any] | None:
        answer = await self._ask("GET", f"/apps/{self._app}")
        if answer.status_code == 404:
            return None
        try:
            entries = answer.raise_for_status().json()["application"]["instance"]
            for entry in [entries] if isinstance(entries, dict) else entries:
                if address in {f"{entry[host]}:{entry['port']['$']}" for host in ("ipAddr", "hostName")}:
                    return dict(entry)
        except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
            raise ReplicaError(f"what the registry says cannot be read: {type(error).__name__}: {error}") from error
        return None

    async def _ask(self, method: str, path: str) -> httpx.Response:
        trouble = ""
        for server in self._servers:
            try:
                return await self._http.request(method, server.base + path, auth=server.auth)
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
        raise ReplicaError(f"the registry {self._name} does not answer ({trouble})")
