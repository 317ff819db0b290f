"""A patient service as small as it can be, watched as the real one is; several of them fit into one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from examples.hospital.actuator import watch
from resilient.telemetry import Health


def patient() -> Starlette:
    """Answers at /patient/{id}."""

    async def one(request: Request) -> Response:
        return PlainTextResponse(request.path_params["id"])

    app = Starlette(routes=[Route("/patient/{id}", one)])
    return watch(app, Health(), registry=CollectorRegistry())
