"""The gateway as an ASGI application: one object, from a file or from a mapping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from types import MappingProxyType, TracebackType
from typing import Any, Self

import httpx

from resilient.clock import Clock
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError
from resilient.gateway.asgi import Receive, Scope, Send
from resilient.gateway.forwarding import Forwarder
from resilient.gateway.headers import id_of
from resilient.gateway.problems import RefusedError, problem
from resilient.gateway.route_file import planned, read_file
from resilient.pipeline import Pipeline

logger = logging.getLogger("resilient.gateway")


class Gateway:
    """An API gateway: an ASGI application that passes requests on to services, and says clearly when it can not.

    A route leads from a prefix of the path to a logical name or a URL. The request goes to one instance, guarded by the
    route's own policies: a timeout of 30 s up to the headers, a circuit breaker, a Retry for what may be sent twice;
    more of them by their settings. Each route has its own connections: one service that hangs does not touch another.
    When there is no answer, the route's fallback gives one, or a JSON problem does: 502, 503 or 504 with Retry-After.

    Bodies are passed on as they come, in both directions. Headers of one connection end here; X-Forwarded-*, Forwarded,
    Via and X-Request-Id are written, X-Request-Timeout-Ms is kept to and passed on. What could be understood in two
    ways is refused with 400: `..` in any encoding, two lengths, a target that is no path.

    Args:
        routes: a table of settings by name: `path`, `service` or `url`, and what `Route` and the policies take.
        discovery: a Discovery, or the URL of one that the gateway starts and stops. None: only URLs are known.
        fallbacks: handlers by path, for `fallback = "forward:/path"`: ASGI applications, or functions of a `Failure`
            that return an `Answer`, text, or what JSON can say.
        defaults: settings of all routes that do not say otherwise.
        settings: of the whole gateway: `trusted_proxies`, `max_headers`, `drain` …; see `GatewaySettings`.
        transport: makes the client transport of an instance, for tests; default real connections.
        clock: of the policies; default the machine's monotonic clock.

    Raises:
        ConfigError: one for all mistakes, each with its path.

    For one event loop at a time. The lifespan of the server starts and stops it; without one, `async with` does.

    Example:
        >>> import asyncio, httpx
        >>> from resilient.gateway import Gateway
        >>> gateway = Gateway(
        ...     {"patient": {"path": "/patient", "service": "patient", "fallback": "forward:/sorry"}},
        ...     discovery="static://patient=127.0.0.1:1",
        ...     fallbacks={"/sorry": lambda failure: "Patient information is currently unavailable"},
        ... )
        >>> async def ask() -> httpx.Response:
        ...     asgi = httpx.ASGITransport(gateway)
        ...     async with gateway, httpx.AsyncClient(transport=asgi, base_url="http://gateway") as client:
        ...         return await client.get("/patient/1")
        >>> answer = asyncio.run(ask())
        >>> answer.status_code, answer.text
        (502, 'Patient information is currently unavailable')
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Any]],
        *,
        discovery: Discovery | str | None = None,
        fallbacks: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        transport: Callable[[Instance | None], httpx.AsyncBaseTransport] | None = None,
        clock: Clock | None = None,
    ) -> None:
        tables = {"routes": routes, "fallbacks": fallbacks, "defaults": defaults, "gateway": settings}
        given = {word: table for word, table in tables.items() if table is not None}
        self._set_up("Gateway", given, discovery, transport, clock)

    @classmethod
    def from_file(
        cls,
        path: str | PathLike[str],
        *,
        discovery: Discovery | str | None = None,
        fallbacks: Mapping[str, Any] | None = None,
        transport: Callable[[Instance | None], httpx.AsyncBaseTransport] | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """A gateway from a TOML file: `discovery`, `[gateway]`, `[defaults]`, `[routes.NAME]`, `[fallbacks]`.

        Args:
            path: of the file.
            discovery: instead of the file's.
            fallbacks: more handlers than the file's; of the same path those given here.
            transport: as above.
            clock: as above.

        Raises:
            ConfigError: when it can not be read, and for all mistakes in it.
        """
        name, tables = read_file(path)
        if discovery is None:
            discovery = tables.get("discovery")
        handlers = tables.get("fallbacks", {})
        if fallbacks is not None and isinstance(handlers, dict):
            tables["fallbacks"] = {**handlers, **fallbacks}
        made = cls.__new__(cls)
        made._set_up(name, tables, discovery, transport, clock)
        return made

    def _set_up(
        self,
        source: str,
        tables: Mapping[str, Any],
        discovery: Any,
        transport: Callable[..., httpx.AsyncBaseTransport] | None,
        clock: Clock | None,
    ) -> None:
        if discovery is not None and not isinstance(discovery, (str, Discovery)):
            raise ConfigError(
                f"Gateway: discovery must be a Discovery, a URL like eureka://localhost:8761, or None,"
                f" not {discovery!r}",
                path="discovery",
            )
        self._owned = isinstance(discovery, str)
        self._discovery = Discovery.from_url(discovery) if isinstance(discovery, str) else discovery
        plan = planned(source, tables, discovery=self._discovery, transport=transport, clock=clock)
        self._upstreams = plan.upstreams
        self._forwarder = Forwarder(plan)
        self._drain = plan.settings.drain
        self._underway: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._quiet: asyncio.Event | None = None

    @property
    def pipelines(self) -> Mapping[str, Pipeline[httpx.Response]]:
        """The policies of each route by its name, for a page that shows them; a route without any is not there."""
        return MappingProxyType({one.name: one.pipeline for one in self._upstreams if one.pipeline is not None})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: a request, the lifespan, or a WebSocket, which is refused."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await _refuse_websocket(scope, receive, send)
        else:
            raise ValueError(f"a Gateway knows no ASGI scope of the type {kind!r}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stopping:
            why = RefusedError(503, "The gateway is being stopped.", headers=((b"retry-after", b"1"),))
            await self._forwarder.refuse(scope, send, why, id_of(scope["headers"]))
            return
        task = asyncio.current_task()
        assert task is not None  # an ASGI server runs one per request
        self._underway.add(task)
        try:
            await self._forwarder(scope, receive, send)
        finally:
            self._underway.discard(task)
            if self._quiet is not None and not self._underway:
                self._quiet.set()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            logger.exception("the gateway could not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Start the discovery that was given as a URL. Requests before that start it, too."""
        self._stopping = False
        if self._owned and self._discovery is not None:
            await self._discovery.__aenter__()

    async def aclose(self) -> None:
        """Refuse new requests with 503, wait for those under way, cancel what is left, close every connection."""
        self._stopping = True
        if self._underway:
            self._quiet = asyncio.Event()
            try:
                async with asyncio.timeout(self._drain):
                    await self._quiet.wait()
            except TimeoutError:
                logger.warning("%d requests were still under way after %g s", len(self._underway), self._drain)
                for task in list(self._underway):
                    task.cancel()
            self._quiet = None
        for upstream in self._upstreams:
            await upstream.transport.aclose()
        if self._owned and self._discovery is not None:
            await self._discovery.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Gateway {len(self._upstreams)} routes, {len(self._underway)} requests under way>"


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1003, "reason": "WebSockets are not passed on."})
        return
    body = problem(501, "WebSockets are not passed on.", id_of(scope["headers"]).decode())
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": 501, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
