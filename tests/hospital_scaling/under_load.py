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
from examples.hospital.load.result import NEVER_SENT, UNFINISHED, Result
from examples.hospital.scaling.autoscaler import Autoscaler
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


@asynccontextmanager
async def scaling(scaler: Autoscaler) -> AsyncIterator[None]:
    """It scales while the block runs."""
    loop = asyncio.create_task(scaler.run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.wait({loop})


class UnderLoad:
    """Users who ask the service until `end`: by its name, through the library's transport, or a gateway at `url`."""

    def __init__(self, registry: str, *, url: str = "http://patient", rate: float = 25.0) -> None:
        plan = Plan((f"{url}/patient/1",), rate=rate, duration=60, users=50, timeout=30)
        transport = AsyncResilientTransport(registry, trust_env=False)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(run(plan, transport=transport, stop=self._stop, progress=self._look))
        self.result = Result(plan)

    def _look(self, result: Result) -> None:
        self.result = result

    async def until_served_by(self, *names: str) -> None:
        """Until each of these has answered somebody."""
        await until(lambda: set(names) <= set(self.result.served_by))

    async def more(self, answers: int = 40) -> None:
        """Until so many more were given."""
        before = self.result.answers
        await until(lambda: self.result.answers >= before + answers)

    async def end(self) -> Result:
        """Stop them; what is under way is given up."""
        self._stop.set()
        return await self._task


def no_user_saw_an_error(result: Result) -> bool:
    """All answers are good; what has none is what was under way when the test ended the load."""
    return set(result.errors) <= {UNFINISHED, NEVER_SENT} and set(result.statuses) == {200}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so, 30 s at most."""
    async with asyncio.timeout(30.0):
        while not condition():  # noqa: ASYNC110  # other processes set no event of ours
            await asyncio.sleep(0.05)


async def ask(address: str, path: str) -> httpx.Response:
    """One request, directly."""
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        return await client.get(f"http://{address}{path}")
