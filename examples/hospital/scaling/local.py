"""Replicas as processes of this machine: started on a free port, found by the registry, drained before they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from examples.hospital.scaling.autoscaler import ReplicaError
from examples.hospital.scaling.listing import EurekaListing
from examples.support.processes import Service, StartError
from resilient import ConfigError
from resilient.checks import positive_seconds
from resilient.clock import REAL_CLOCK, Clock

logger = logging.getLogger("hospital.scaling")

_LOOK: Final = 0.05  # seconds between two looks at what is waited for
_ASK: Final = 2.0  # seconds that an answer of a replica may take
_OWNER: Final = "LocalReplicas"


@dataclass(frozen=True, slots=True)
class Version:
    """What a replica runs.

    Attributes:
        module: as `python -m` takes it.
        arguments: its command line; `{id}` stands for the replica's name.
        environment: variables that only it gets.
    """

    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def start(self, name: str, logs: Path) -> Service:
        """Start a process of it."""
        arguments = [argument.replace("{id}", name) for argument in self.arguments]
        return Service(name, self.module, *arguments, logs=logs, environment=self.environment)


@dataclass(frozen=True, slots=True, eq=False)
class Replica:
    """One process.

    Attributes:
        process: the process.
        version: what it runs; None when somebody else has started it.
        number: the later it was started, the higher.
    """

    process: Service
    version: Version | None = None
    number: int = 0

    @property
    def name(self) -> str:
        """What it is called."""
        return self.process.name

    @property
    def address(self) -> str:
        """Its `host:port`."""
        return self.process.address.removeprefix("http://")


class LocalReplicas:
    """The replicas of a service.

    One is ready when it says that it is healthy *and* the registry lists it. To stop one: the registry takes it off
    its list; it serves on until every caller has noticed, and for `linger` seconds more, in which open requests end;
    then SIGTERM lets it end in its own way; one that does not is killed.

    Args:
        version: what is started.
        listing: the service in the registry.
        logs: the folder for the logs of the processes.
        name: of the processes; a number follows. Default `replica`.
        health: the path of its health; default `/actuator/health`.
        ready_within: seconds that a new one has to be ready once it listens, default 30.
        linger: seconds for open requests after every caller has noticed, default 1.
        stop_within: seconds that one has to end after SIGTERM, default 10.

    Raises:
        ConfigError: when a value is out of range.

    For one event loop. The processes end when this one does.
    """

    def __init__(
        self,
        version: Version,
        listing: EurekaListing,
        *,
        logs: Path,
        name: str = "replica",
        health: str = "/actuator/health",
        ready_within: float = 30.0,
        linger: float = 1.0,
        stop_within: float = 10.0,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        if not health.startswith("/"):
            raise ConfigError(f"{_OWNER}: health must be a path like /actuator/health, not {health!r}", path="health")
        self.version = version
        self._listing = listing
        self._logs = logs
        self._name = name
        self._health = health
        self._ready_within = positive_seconds(_OWNER, "ready_within", ready_within)
        self._linger = positive_seconds(_OWNER, "linger", linger)
        self._stop_within = positive_seconds(_OWNER, "stop_within", stop_within)
        self._clock = clock
        self._started = 0
        self._http = httpx.AsyncClient(trust_env=False, timeout=_ASK)
        self.live: list[Replica] = []  # in the order in which they were started
        self._starting: set[Service] = set()

    def adopt(self, process: Service, version: Version | None = None) -> Replica:
        """Count a process that somebody else has started, and that listens."""
        self._started += 1
        replica = Replica(process, version, self._started)
        self._keep(replica)
        return replica

    async def running(self) -> int:
        """How many there are; the dead are forgotten."""
        for replica in list(self.live):
            if not replica.process.running:
                logger.warning("%s has died:\n%s", replica.name, replica.process.tail())
                self._forget(replica)
        return len(self.live)

    async def add(self) -> str:
        """Start one more of the current version, and wait until it is ready."""
        return (await self.start()).name

    async def remove(self) -> str:
        """Drain and stop the newest."""
        if not self.live:
            raise ReplicaError("there is no replica to take away")
        replica = self.live[-1]
        await self.stop(replica)
        return replica.name

    async def start(self, version: Version | None = None) -> Replica:
        """Start one, and return once it is ready.

        Args:
            version: what it runs; default the current one.

        Raises:
            ReplicaError: when it is not ready in time, or ends before; nothing is left of it.
        """
        self._started += 1
        version = version or self.version
        process = version.start(f"{self._name}-{self._started}", self._logs)
        replica = Replica(process, version, self._started)
        self._starting.add(process)
        try:
            await self._ready(replica)
        except ReplicaError:
            with suppress(ReplicaError):  # why it is not ready says more
                await self._listing.take_out(replica.address)
            await self._end(replica)
            raise
        except BaseException:
            process.kill()
            process.end_by(0.0)
            raise
        finally:
            self._starting.discard(process)
        self._keep(replica)
        return replica

    async def check(self, replica: Replica) -> None:
        """Ask a replica how it is.

        Raises:
            ReplicaError: when it does not run, is not healthy, or is not listed.
        """
        why = await self._why_not_ready(replica)
        if why:
            raise ReplicaError(f"{replica.name} {why}")

    async def stop(self, replica: Replica) -> None:
        """Take a replica off the list, wait until nobody speaks to it, and end it.

        Raises:
            ReplicaError: when the registry cannot be told; the replica serves on.
        """
        if replica.process.running:
            await self._listing.take_out(replica.address)
            await self._clock.sleep_async(self._listing.notice + self._linger)
        await self._end(replica)
        self._forget(replica)

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """Name and address of each."""
        return [{"name": one.name, "address": one.address, "running": one.process.running} for one in self.live]

    async def release(self) -> list[Service]:
        """Let all of them live on: they are the caller's from now on, who stops them."""
        processes = [replica.process for replica in self.live]
        self.live.clear()
        await self.close()
        return processes

    async def close(self) -> None:
        """Stop all, at the same time, each in its own way; what is about to start ends at once."""
        for process in self._starting:
            process.kill()
        await asyncio.gather(*(self._end(replica) for replica in self.live))
        self.live.clear()
        await self._listing.close()
        await self._http.aclose()

    async def _ready(self, replica: Replica) -> None:
        try:
            await asyncio.to_thread(replica.process.wait_for_address)  # ends with the process, if not before
        except StartError as error:
            raise ReplicaError(str(error)) from None
        deadline = self._clock.monotonic() + self._ready_within
        while why := await self._why_not_ready(replica):
            if self._clock.monotonic() >= deadline or not replica.process.running:
                raise ReplicaError(
                    f"{replica.name} was not ready within {self._ready_within:g} s: it {why}\n{replica.process.tail()}"
                )
            await self._clock.sleep_async(_LOOK)

    async def _why_not_ready(self, replica: Replica) -> str:
        if not replica.process.running:
            return "has ended"
        try:
            answer = await self._http.get(replica.process.address + self._health)
        except httpx.HTTPError as error:
            return f"does not answer ({type(error).__name__})"
        if answer.status_code != 200:
            return f"is not healthy: {self._health} answers {answer.status_code}"
        return "" if self._listing.lists(replica.address) else "is healthy, and the registry does not list it"

    async def _end(self, replica: Replica) -> None:
        process = replica.process
        process.ask_to_stop()
        deadline = self._clock.monotonic() + self._stop_within
        while process.running and self._clock.monotonic() < deadline:
            await self._clock.sleep_async(_LOOK)
        if process.running:
            logger.warning("%s did not end within %g s after SIGTERM, and is killed", replica.name, self._stop_within)
        process.end_by(0.0)

    def _keep(self, replica: Replica) -> None:
        self.live.append(replica)
        self.live.sort(key=lambda one: one.number)  # several may start at once, and be ready in any order

    def _forget(self, replica: Replica) -> None:
        with suppress(ValueError):
            self.live.remove(replica)
        replica.process.end_by(0.0)
