"""The registry as an ASGI application: Eureka's endpoints under `/eureka` and `/eureka/v2`, the status page at `/`."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.registry_server.access import Access
from resilient.registry_server.answers import refusal
from resilient.registry_server.bodies import has_body
from resilient.registry_server.decoding import RegistrationError
from resilient.registry_server.endpoints import Endpoints
from resilient.registry_server.store import RegistryFullError, RegistryStore

logger = logging.getLogger("resilient")

MAX_BODY = 65_536  # bytes; Netflix's own registrations are 1 kB
_STALL = 1.0  # seconds by which the eviction task must be late before the process counts as having stood still


class RegistryApp:
    """An ASGI application around a store. Its lifespan runs the eviction of what has not renewed.

    Args:
        store: the instances; default a new, empty one.
        eviction_interval: seconds between two looks for leases that have ended, default 2.0.
        max_body: bytes a registration may have, packed or unpacked; default 64 KiB, beyond it 413.
        body_timeout: seconds of real time in which a body must arrive, default 10.0, beyond it 408: a client that stops
            in the middle holds a connection.
        auth: user and password that every request needs, the page's too; default None, nobody is asked.
        max_unsent: bytes of answers that clients have asked for and not yet taken; default 128 MiB, beyond it 503.
        clock: what the eviction waits on.

    Raises:
        ConfigError: when a value is out of range.
    """

    def __init__(
        self,
        store: RegistryStore | None = None,
        *,
        eviction_interval: float = 2.0,
        max_body: int = MAX_BODY,
        body_timeout: float = 10.0,
        auth: tuple[str, str] | None = None,
        max_unsent: int = 128 * 1024 * 1024,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.store = RegistryStore(clock=clock) if store is None else store
        self._interval = positive_seconds("RegistryApp", "eviction_interval", eviction_interval)
        self._clock = clock
        self._access = Access(auth)
        self._max_unsent = whole("RegistryApp", "max_unsent", max_unsent)
        self._unsent = 0
        self._endpoints = Endpoints(
            self.store,
            max_body=whole("RegistryApp", "max_body", max_body),
            body_timeout=positive_seconds("RegistryApp", "body_timeout", body_timeout),
            clock=clock,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            request = Request(scope, receive)
            response = await self._answer(request)
            if request.method == "HEAD":
                response.body = b""  # the length stays that of a GET
            if has_body(request) and response.status_code != 204:  # it may not have been read, and go on for ever
                response.headers["Connection"] = "close"
            await self._send(response, scope, receive, send)

    async def evict_forever(self) -> None:
        """Look for leases that have ended, each interval, until cancelled. Survives every error."""
        looked = self._clock.monotonic()
        while True:
            await self._clock.sleep_async(self._interval)
            now = self._clock.monotonic()
            late = now - looked - self._interval
            looked = now
            try:
                for record in self.store.evict(paused=late if late >= _STALL else 0.0):
                    logger.info("the lease of %s %s ended after %d s", record.app, record.id, record.duration)
            except Exception:
                logger.exception("the registry could not look for leases that have ended; it tries again")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        eviction = asyncio.create_task(self.evict_forever())
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            eviction.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, request: Request) -> Response:
        refused = self._access.refuse(request)
        if refused is not None:
            return refused
        handlers = self._endpoints.of(request)
        if not handlers:
            return Response(status_code=404)
        method = "GET" if request.method == "HEAD" else request.method
        handler = handlers.get(method)
        if handler is None:
            return Response(status_code=405, headers={"Allow": ", ".join(sorted(handlers))})
        try:
            answer = handler(request)
            return answer if isinstance(answer, Response) else await answer
        except RegistryFullError as error:
            return refusal(507, str(error))
        except RegistrationError as error:
            return refusal(400, str(error))
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        length = len(response.body)
        if self._unsent and self._unsent + length > self._max_unsent:  # clients that ask and do not take
            response, length = refusal(503, "too many answers are on their way", **{"Retry-After": "1"}), 0
        self._unsent += length
        try:
            await response(scope, receive, send)
        finally:
            self._unsent -= length
