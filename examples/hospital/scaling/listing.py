"""What a Eureka registry says of a service's replicas, and how one of them is taken off the list from outside.

The list is what callers see: a replica that is off it gets no new requests, whether or not it knows. Eureka keeps a
status that was set from outside against what the replica itself says, until the replica leaves.
"""

from __future__ import annotations

import logging
import math
from typing import Final

from examples.hospital.scaling.autoscaler import ReplicaError
from resilient.discovery import Instance
from resilient.discovery.eureka import EurekaDiscovery
from resilient.discovery.eureka_url import EurekaUrl
from resilient.errors import DiscoveryError, NoInstanceError, RegistryAuthError, RegistryUnavailableError

logger = logging.getLogger("hospital.scaling")

_FETCH_INTERVAL: Final = 30.0  # seconds, Eureka's own
_FIRST_ANSWER: Final = 5.0  # seconds that the registry has to tell who is there


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
        self._discovery = EurekaDiscovery(url)
        self._service = service
        self.notice = 1.1 * EurekaUrl.parse(url).options.get("fetch_interval", _FETCH_INTERVAL) + 0.5

    def lists(self, address: str) -> bool:
        """Whether callers are told of that `host:port`; a change is seen within a second."""
        found = self._entry(address) is not None
        if not found:
            self._discovery.refresh_soon()
        return found

    async def take_out(self, address: str) -> None:
        """See to it that no caller is told of that `host:port` any more.

        Raises:
            ReplicaError: when the registry does not answer, or refuses.
        """
        try:
            await self._first_answer()
            entry = self._entry(address)
            if entry is not None:
                await self._discovery.override_status_async(entry, "OUT_OF_SERVICE")
        except (RegistryUnavailableError, RegistryAuthError) as error:
            raise ReplicaError(f"{address} cannot be taken off the list: {error}") from error
        except DiscoveryError:
            logger.info("%s has left the list by itself", address)

    async def close(self) -> None:
        """Ask no more."""
        await self._discovery.aclose()

    async def _first_answer(self) -> None:
        if self._discovery.age(self._service) < math.inf:
            return
        try:
            await self._discovery.wait_async(self._service, timeout=_FIRST_ANSWER)
        except NoInstanceError as error:  # it may list nobody, or not have answered
            if self._discovery.age(self._service) == math.inf:
                raise ReplicaError(str(error)) from error

    def _entry(self, address: str) -> Instance | None:
        known = self._discovery.instances(self._service)
        return next((one for one in known if f"{one.host}:{one.port}" == address), None)
