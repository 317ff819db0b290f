"""The autoscaler as a web application: what it is told, and what it says of itself.

POST /webhook             Alertmanager's webhook, version 4
POST /api/v2/alerts       what a Prometheus posts to an Alertmanager: it can point its `alerting:` here
GET  /actuator/health     how many replicas there are and should be, why, and what happened
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from examples.hospital.scaling.alerts import Alert, UnreadableError, read_api, read_webhook
from examples.hospital.scaling.autoscaler import Autoscaler, Replicas
from resilient import ConfigError
from resilient.telemetry import Actuator, Health

logger = logging.getLogger("hospital.scaling")

_MAX_BODY: Final = 1_048_576  # bytes: a thousand alerts with long descriptions


def make_app(autoscaler: Autoscaler, replicas: Replicas, *, token: str | None = None) -> Starlette:
    """The application; it scales from its start to its end.

    Args:
        autoscaler: what decides.
        replicas: what it scales; closed at the end.
        token: what a sender must show, `Authorization: Bearer …`; default nothing.

    Raises:
        ConfigError: when the token is empty or no ASCII text.
    """
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise ConfigError("the token must be printable ASCII text without spaces around it", path="token")

    loop: asyncio.Task[None] | None = None

    def hearing(read: Callable[..., list[Alert]]) -> Callable[[Request], Awaitable[Response]]:
        async def hear(request: Request) -> Response:
            if token is not None and not _authorized(request, token):
                sentence, headers = "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"}
                return JSONResponse({"error": sentence}, 401, headers=headers)
            try:
                body = await _body(request)
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody
            if body is None:
                sentence = f"the body must not have more than {_MAX_BODY} bytes"
                return JSONResponse({"error": sentence}, 413, headers={"Connection": "close"})
            try:
                alerts = read(body, now=time.time())
            except UnreadableError as error:
                logger.warning("%s: %s", request.url.path, error)
                return JSONResponse({"error": str(error)}, 400)
            return JSONResponse({"alerts": len(alerts), "heard": autoscaler.heard(alerts)})

        return hear

    def alive() -> bool:
        return loop is not None and not loop.done()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal loop
        loop = asyncio.create_task(autoscaler.run())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.wait({loop})
            await replicas.close()
            if not loop.cancelled():
                loop.result()  # it ends by being cancelled only: this is why it has ended before

    health = Health({"scaling": autoscaler.state}, liveness={"loop": alive}, max_age=0.0)
    return Starlette(
        routes=[
            Route("/webhook", hearing(read_webhook), methods=["POST"]),
            Route("/api/v2/alerts", hearing(read_api), methods=["POST"]),
            Mount("/actuator", Actuator(health, metrics=False)),
        ],
        lifespan=lifespan,
    )


def _authorized(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    return scheme.lower() == "bearer" and same


async def _body(request: Request) -> bytes | None:
    """The body, read no further than it may be long; None when it is longer."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            return None
    return bytes(body)
