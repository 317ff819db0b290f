"""Which path does what.

Paths are split before they are decoded, because an instance id may hold an encoded slash; a router that works on
decoded paths could not serve it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from resilient.clock import Clock, wall_ms
from resilient.registry_server import encoding
from resilient.registry_server.answers import Document, document, done, listing, one, refusal, service, wants_json
from resilient.registry_server.bodies import PACKINGS, READERS, kind_of, packing_of, read_body
from resilient.registry_server.decoding import RegistrationError, TooLargeError, UnreadableError
from resilient.registry_server.page import status_page
from resilient.registry_server.page_assets import SECURITY_HEADERS
from resilient.registry_server.record import STATUSES, Lease
from resilient.registry_server.server_status import server_status
from resilient.registry_server.store import RegistryStore

logger = logging.getLogger("resilient")

_MAX_QUERY = 200  # letters to look for on the page

Handler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]


class Endpoints:
    """The handlers of each path, by method.

    Args:
        store: the instances.
        max_body: bytes a registration may have, packed or unpacked.
        body_timeout: seconds in which it must arrive.
        clock: what the registry's own age is measured on.
    """

    def __init__(self, store: RegistryStore, *, max_body: int, body_timeout: float, clock: Clock) -> None:
        self._store = store
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._clock = clock
        self._started = clock.monotonic()

    def of(self, request: Request) -> Mapping[str, Handler]:
        """Those of the path that is asked for; none when there is nothing."""
        try:
            segments = _segments(request.scope)
        except UnicodeDecodeError:
            return {}
        if "" in segments:  # a double slash
            return {}
        match segments:
            case []:
                return {"GET": self._page}
            case ["eureka"] | ["eureka", "v2"]:
                return {"GET": lambda request: Response(status_code=307, headers={"Location": _page_path(request)})}
            case ["eureka", "v2", *rest] | ["eureka", *rest]:
                return self._of_eureka(rest)
        return {}

    def _of_eureka(self, segments: list[str]) -> Mapping[str, Handler]:
        store = self._store
        match segments:
            case ["apps", app, instance]:
                app = app.upper()
                return {
                    "GET": lambda request: one(request, store.get(app, instance)),
                    "PUT": lambda request: done(store.renew(app, instance, dirty_ms=_dirty(request))),
                    "DELETE": lambda _: done(store.cancel(app, instance)),
                }
            case ["apps"]:
                return {"GET": lambda request: listing(request, store.all(), encoding.FULL_VERSION)}
            case ["apps", "delta"]:
                return {"GET": self._delta}
            case ["apps", app]:
                return {
                    "GET": lambda request: service(request, app.upper(), store.app(app.upper())),
                    "POST": lambda request: self._register(request, app),
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
            case ["status"]:
                return {"GET": self._status}
        return {}

    async def _register(self, request: Request, app: str) -> Response:
        read = READERS.get(kind_of(request))
        if read is None or packing_of(request) not in PACKINGS:
            return Response(status_code=415, headers={"Connection": "close"})
        try:
            self._store.register(read(await read_body(request, self._max_body, self._body_timeout), app))
        except UnreadableError as error:
            logger.debug("a registration for %s cannot be read: %s", app, error)
            return Response('{"error": "cannot parse request body"}', 400, media_type="application/json")
        except TooLargeError:
            return refusal(413, f"a registration may have {self._max_body:,} bytes", Connection="close")
        except TimeoutError:
            return refusal(408, f"the body did not arrive within {self._body_timeout:g} s", Connection="close")
        return Response(status_code=204)

    def _delta(self, request: Request) -> Response:
        leases, check, version = self._store.delta()
        return listing(request, leases, version, check)

    def _of_vip(self, request: Request, address: Callable[[Lease], str | None], vip: str) -> Response:
        leases = [lease for lease in self._store.all() if vip in (address(lease) or "").split(",")]
        return listing(request, leases, encoding.FILTERED_VERSION)

    def _override(self, request: Request, app: str, instance: str) -> Response:
        status = _status_asked(request)
        if status is None:
            raise RegistrationError("value= is missing")
        return done(self._store.override(app, instance, status, dirty_ms=_dirty(request)))

    def _remove_override(self, request: Request, app: str, instance: str) -> Response:
        status = _status_asked(request) or "UNKNOWN"
        return done(self._store.remove_override(app, instance, status, dirty_ms=_dirty(request)))

    def _metadata(self, request: Request, app: str, instance: str) -> Response:
        given = dict(parse_qsl(request.url.query, keep_blank_values=True))
        if "" in given:
            raise RegistrationError("a metadata key is empty")
        return done(self._store.merge_metadata(app, instance, given))

    def _status(self, request: Request) -> Response:
        host, port = request.scope.get("server") or ("127.0.0.1", 0)
        text = server_status(self._uptime, (host, port or 0), wall_ms(), as_json=wants_json(request))
        return document(request, text)

    def _page(self, request: Request) -> Response:
        page = status_page(
            self._store.all(),
            age=self._store.age,
            uptime=self._uptime,
            query=request.query_params.get("q", "").strip()[:_MAX_QUERY],
            protected=self._store.protected,
        )
        return Document(page, headers=SECURITY_HEADERS, media_type="text/html")

    @property
    def _uptime(self) -> float:
        return self._clock.monotonic() - self._started


def _segments(scope: Scope) -> list[str]:
    """The decoded parts of the path; a trailing slash makes none, a double one an empty part."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("ascii").removeprefix(quote(scope.get("root_path", "")))
    parts = [unquote(part, errors="strict") for part in path.removeprefix("/").split("/")]
    return parts[:-1] if parts[-1] == "" else parts


def _page_path(request: Request) -> str:
    return quote(str(request.scope.get("root_path", ""))) + "/"


def _dirty(request: Request) -> int | None:
    said = request.query_params.get("lastDirtyTimestamp")
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 19):  # 18 digits: what Java's long surely holds
        raise RegistrationError("lastDirtyTimestamp= must be a whole number of milliseconds")
    return int(said)


def _status_asked(request: Request) -> str | None:
    said = request.query_params.get("value")
    if said is None:
        return None
    if said.upper() not in STATUSES:
        raise RegistrationError(f"value= must be one of {', '.join(sorted(STATUSES))}")
    return said.upper()
