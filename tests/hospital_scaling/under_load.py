"""Replicas that are real processes, found through a real registry, under a load that sees every error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from examples.hospital.load.generator import run
from examples.hospital.load.plan import Plan
from examples.hospital.load.result import Result
from examples.hospital.scaling.listing import EurekaListing
from examples.hospital.scaling.local import LocalReplicas, Version
from resilient.transport import AsyncResilientTransport
from tests.servers import RegistryProcess

TIMES = "?fetch_interval=0.3&renew_interval=1&lease=3"


def version(registry: str, number: str = "1", *more: str) -> Version:
    """A version of the small service."""
    told = ("--registry", registry, "--id", "{id}", "--version", number, *more)
    return Version("tests.hospital_scaling.small_service", told)


@asynccontextmanager
async def fleet(logs: Path, count: int, **options: Any) -> AsyncIterator[tuple[str, LocalReplicas]]:
    """(the registry's URL, so many replicas)."""
    with RegistryProcess() as server:
        registry = server.url + TIMES
        replicas = LocalReplicas(version(registry), EurekaListing(registry, "patient"), logs=logs, **options)
        try:
            await asyncio.gather(*(replicas.start() for _ in range(count)))
            yield registry, replicas
        finally:
            await replicas.close()


class UnderLoad:
    """A block during which users ask the service, by its name."""

    def __init__(self, registry: str, *, rate: float = 60.0, path: str = "/patient/1", method: str = "GET") -> None:
        plan = Plan((f"http://patient{path}",), rate=rate, duration=60, users=50, timeout=8, method=method)
        transport = AsyncResilientTransport(registry, trust_env=False)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(run(plan, transport=transport, stop=self._stop, progress=self._look))
        self.result = Result(plan)

    def _look(self, result: Result) -> None:
        self.result = result

    async def until_served_by(self, *names: str) -> None:
        """Until each of these has answered somebody."""
        await until(lambda: set(names) <= set(self.result.served_by))

    async def more(self, answers: int = 60) -> None:
        """Until so many more were given."""
        before = self.result.answers
        await until(lambda: self.result.answers >= before + answers)

    async def end(self) -> Result:
        """Stop, once all that was asked is answered."""
        self._stop.set()
        return await self._task


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so, 20 s at most."""
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110  # other processes set no event of ours
            await asyncio.sleep(0.05)


async def ask(address: str, path: str) -> httpx.Response:
    """One request, directly."""
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        return await client.get(f"http://{address}{path}")
