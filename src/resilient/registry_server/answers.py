"""Answers, as Eureka's clients expect them."""

from __future__ import annotations

import gzip

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from resilient.registry_server import encoding
from resilient.registry_server.record import Lease

_GZIP_LEVEL = 1  # lists repeat themselves: level 6 takes four times as long for a fifth less
_REFUSED = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})
_PIECE = 256 * 1024  # bytes that wait in a connection for a client that takes its time


class Document(Response):
    """A body that is sent piece by piece: the rest of a long one waits outside of the connection's buffer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        body = self.body
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        at = 0
        while len(body) - at > _PIECE:
            await send({"type": "http.response.body", "body": body[at : at + _PIECE], "more_body": True})
            at += _PIECE
        await send({"type": "http.response.body", "body": body[at:]})


def wants_json(request: Request) -> bool:
    """Netflix's rule: JSON when `Accept` holds the word, else XML, also for `*/*` and without the header."""
    return "json" in request.headers.get("accept", "").lower()


def wants_compact(request: Request) -> bool:
    """Whether only what is needed to call an instance is asked for; Java clients can be set to."""
    return request.headers.get("x-eureka-accept", "").strip().lower() == "compact"


def listing(request: Request, leases: list[Lease], version: int, check: str | None = None) -> Response:
    """A list of services; `check` is the check sum of another list than `leases` (a delta's)."""
    as_json, compact = wants_json(request), wants_compact(request)
    return document(request, encoding.applications(leases, version, check, as_json=as_json, compact=compact))


def service(request: Request, name: str, leases: list[Lease]) -> Response:
    """One service, or 404 when it has no instance."""
    if not leases:
        return done(found=False)
    as_json, compact = wants_json(request), wants_compact(request)
    return document(request, encoding.application(name, leases, as_json=as_json, compact=compact))


def one(request: Request, lease: Lease | None) -> Response:
    """One instance, or 404."""
    if lease is None:
        return done(found=False)
    return document(request, encoding.instance(lease, as_json=wants_json(request)))


def document(request: Request, text: str) -> Response:
    """`text`, packed when the client can unpack it."""
    body = text.encode()
    headers = {"Vary": "Accept, Accept-Encoding", "Cache-Control": "no-store"}
    if _unpacks(request.headers.get("accept-encoding", "")):
        body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
    media_type = "application/json" if wants_json(request) else "application/xml"
    return Document(body, headers=headers, media_type=media_type)


def done(found: bool) -> Response:
    """200 or 404, both empty: a body here breaks older Spring and Jersey clients."""
    return Response(status_code=200 if found else 404)


def refusal(status: int, text: str, **headers: str) -> Response:
    """One sentence of plain text."""
    return Response(text, status, headers=headers, media_type="text/plain")


def _unpacks(accepted: str) -> bool:
    for coding in accepted.lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() == "gzip":
            return quality.replace(" ", "") not in _REFUSED
    return False
