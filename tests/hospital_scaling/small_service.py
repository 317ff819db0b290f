"""A small service that tests scale and roll: registered by the library, with health, and ways to be no good."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.support.serving import HOST, listen, serve
from resilient.discovery import Registry

DRAIN = 0.3


def main() -> None:
    """Run it as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--registry", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--version", default="1")
    parser.add_argument("--broken", choices=["never healthy", "soon unhealthy", "ends"])
    arguments = parser.parse_args()
    if arguments.broken == "ends":
        parser.error("this version can not even start")
    began = time.monotonic()
    listener = listen()
    registration = Registry.from_url(arguments.registry).register(
        "patient", host=HOST, port=listener.getsockname()[1], health=lambda: healthy()
    )
    draining = False

    def healthy() -> bool:
        return arguments.broken is None or (arguments.broken == "soon unhealthy" and time.monotonic() < began + 1.5)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "UP"}) if healthy() else JSONResponse({"status": "DOWN"}, 503)

    async def patient(request: Request) -> Response:
        await asyncio.sleep(float(request.query_params.get("takes", "0.002")))
        headers = {"X-Served-By": arguments.id, "X-Version": arguments.version}
        if draining:
            headers["Connection"] = "close"
        return JSONResponse({"id": 1}, headers=headers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with registration:
            yield

    def drain() -> None:
        nonlocal draining
        draining = True
        registration.set_status("OUT_OF_SERVICE")

    routes = [Route("/actuator/health", health), Route("/patient/1", patient)]
    serve(Starlette(routes=routes, lifespan=lifespan), listener, name=arguments.id, on_stop=drain, drain=DRAIN)


if __name__ == "__main__":
    main()
