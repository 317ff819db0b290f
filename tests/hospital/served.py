"""One service of the hospital in this process, with a database of its own, asked over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from examples.hospital.database import Database
from examples.hospital.service import Replica, Service
from resilient.discovery import Registry


@asynccontextmanager
async def served(
    service: Service, folder: Path, *, chaos: bool = False, name: str = "replica-1"
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one replica; its registry is never reached."""
    database = Database(f"sqlite:///{folder / service.name}.db", service.metadata)
    await database.set_up(service.fill)
    replica = Replica(
        service.name, id=name, registry=Registry.from_url("eureka://127.0.0.1:9"), database=database, chaos=chaos
    )
    app = service.app(replica)
    asgi = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=asgi, base_url="http://test") as client:
        yield client
