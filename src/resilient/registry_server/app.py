"""The registry as an ASGI application: Eureka's endpoints under `/eureka` and `/eureka/v2`, the status page at `/`.

Paths are split before they are decoded, because an instance id may hold an encoded slash; a router that works on
decoded paths could not serve it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.registry_server import encoding
from resilient.registry_server.answers import document, done, listing, one, refusal, wants_json
from resilient.registry_server.decoding import (
    RegistrationError,
    TooLargeError,
    UnreadableError,
    gunzip,
    read_json,
    read_xml,
)
from resilient.registry_server.page import SECURITY_HEADERS, status_page
from resilient.registry_server.record import STATUSES, Lease
from resilient.registry_server.store import RegistryFullError, RegistryStore

logger = logging.getLogger("resilient")

MAX_BODY = 65_536  # bytes; Netflix's own registrations are 1 kB
_STALL = 1.0  # seconds by which the eviction task must be late before the process counts as having stood still

Handler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]


class RegistryApp:
    """An ASGI application around a store. Its lifespan runs the eviction of what has not renewed.

    Args:
        store: the instances; default a new, empty one.
        eviction_interval: seconds between two looks for leases that have ended, default 2.0.
        max_body: bytes a registration may have, packed or unpacked; default 1 MiB, beyond it 413.
        body_timeout: seconds of real time in which a body must arrive, default 10.0, beyond it 408: a client that stops
            in the middle holds a connection.
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
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.store = RegistryStore(clock=clock) if store is None else store
        self._interval = positive_seconds("RegistryApp", "eviction_interval", eviction_interval)
        self._max_body = whole("RegistryApp", "max_body", max_body)
        self._body_timeout = positive_seconds("RegistryApp", "body_timeout", body_timeout)
        self._clock = clock
        self._started = clock.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            if scope["method"] == "HEAD":
                response.body = b""  # the length stays that of a GET
            await response(scope, receive, send)

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
        try:
            handlers = self._route(_segments(request.scope))
        except UnicodeDecodeError:
            handlers = {}
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

    def _route(self, segments: list[str]) -> Mapping[str, Handler]:
        if "" in segments:  # a double slash
            return {}
        match segments:
            case []:
                return {"GET": self._page}
            case ["eureka"] | ["eureka", "v2"]:
                return {"GET": lambda request: Response(status_code=307, headers={"Location": _page_path(request)})}
            case ["eureka", "v2", *rest] | ["eureka", *rest]:
                return self._route_eureka(rest)
        return {}

    def _route_eureka(self, segments: list[str]) -> Mapping[str, Handler]:
        store = self.store
        match segments:
            case ["apps"]:
                return {"GET": lambda request: listing(request, store.all(), encoding.FULL_VERSION)}
            case ["apps", "delta"]:
                return {"GET": self._delta}
            case ["apps", app]:
                return {
                    "GET": lambda request: self._app(request, app.upper()),
                    "POST": lambda r: self._register(r, app),
                }
            case ["apps", app, instance]:
                app = app.upper()
                return {
                    "GET": lambda request: one(request, store.get(app, instance)),
                    "PUT": lambda request: done(store.renew(app, instance, dirty_ms=_dirty(request))),
                    "DELETE": lambda _: done(store.cancel(app, instance)),
                }
            case ["apps", app, instance, "status"]:
                return {
                    "PUT": lambda request: self._override(request, app.upper(), instance),
                    "DELETE": lambda request: self._remove_override(request, app.upper(), instance),
                }
            case ["apps", app, instance, "metadata"]:
                return {"PUT": lambda request: self._metadata(request, app.upper(), instance)}
            case ["instances", instance]:
                return {"GET": lambda request: one(request, store.find(instance))}
            case ["vips", vip]:
                return {"GET": lambda request: self._of_vip(request, lambda lease: lease.record.vip, vip)}
            case ["svips", vip]:
                return {"GET": lambda request: self._of_vip(request, lambda lease: lease.record.secure_vip, vip)}
        return {}

    async def _register(self, request: Request, app: str) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        read = {"application/json": read_json, "application/xml": read_xml}.get(kind)
        packed = request.headers.get("content-encoding", "identity").strip().lower()
        if read is None or packed not in {"gzip", "identity"}:
            return Response(status_code=415)
        try:
            async with asyncio.timeout(self._body_timeout):  # real time, whatever the clock: a socket knows no other
                body = await _body(request, self._max_body)
            if packed == "gzip":
                body = gunzip(body, self._max_body)
            self.store.register(read(body, app))
        except UnreadableError as error:
            logger.debug("a registration for %s cannot be read: %s", app, error)
            return Response('{"error": "cannot parse request body"}', 400, media_type="application/json")
        except TooLargeError:
            return refusal(413, f"a registration may have {self._max_body:,} bytes", Connection="close")
        except TimeoutError:
            return refusal(408, f"the body did not arrive within {self._body_timeout:g} s", Connection="close")
        return Response(status_code=204)

    def _app(self, request: Request, app: str) -> Response:
        leases = self.store.app(app)
        as_json = wants_json(request)
        return document(request, encoding.application(app, leases, as_json=as_json)) if leases else done(found=False)

    def _delta(self, request: Request) -> Response:
        leases, check, version = self.store.delta()
        return listing(request, leases, version, check)

    def _of_vip(self, request: Request, address: Callable[[Lease], str | None], vip: str) -> Response:
        leases = [lease for lease in self.store.all() if vip in (address(lease) or "").split(",")]
        return listing(request, leases, encoding.FILTERED_VERSION)

    def _override(self, request: Request, app: str, instance: str) -> Response:
        status = _status(request)
        if status is None:
            raise RegistrationError("value= is missing")
        return done(self.store.override(app, instance, status, dirty_ms=_dirty(request)))

    def _remove_override(self, request: Request, app: str, instance: str) -> Response:
        status = _status(request) or "UNKNOWN"
        return done(self.store.remove_override(app, instance, status, dirty_ms=_dirty(request)))

    def _metadata(self, request: Request, app: str, instance: str) -> Response:
        given = dict(parse_qsl(request.url.query, keep_blank_values=True))
        if "" in given:
            raise RegistrationError("a metadata key is empty")
        return done(self.store.merge_metadata(app, instance, given))

    def _page(self, _: Request) -> Response:
        store = self.store
        page = status_page(store.all(), age=store.age, uptime=self._clock.monotonic() - self._started)
        return Response(page, headers=SECURITY_HEADERS, media_type="text/html")


def _segments(scope: Scope) -> list[str]:
    """The decoded parts of the path; a trailing slash makes none, a double one an empty part."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("ascii").removeprefix(quote(scope.get("root_path", "")))
    parts = [unquote(part, errors="strict") for part in path.removeprefix("/").split("/")]
    return parts[:-1] if parts[-1] == "" else parts


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLargeError
    return bytes(body)


def _page_path(request: Request) -> str:
    return quote(str(request.scope.get("root_path", ""))) + "/"


def _dirty(request: Request) -> int | None:
    said = request.query_params.get("lastDirtyTimestamp")
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 19):  # 18 digits: what Java's long surely holds
        raise RegistrationError("lastDirtyTimestamp= must be a whole number of milliseconds")
    return int(said)


def _status(request: Request) -> str | None:
    said = request.query_params.get("value")
    if said is None:
        return None
    if said.upper() not in STATUSES:
        raise RegistrationError(f"value= must be one of {', '.join(sorted(STATUSES))}")
    return said.upper()
