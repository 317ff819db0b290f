"""Answers, as Eureka's clients expect them."""

from __future__ import annotations

import gzip

from starlette.requests import Request
from starlette.responses import Response

from resilient.registry_server import encoding
from resilient.registry_server.record import Lease

_GZIP_LEVEL = 1  # lists repeat themselves: level 6 takes four times as long for a fifth less
_REFUSED = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})


def wants_json(request: Request) -> bool:
    """Netflix's rule: JSON when `Accept` holds the word, else XML, also for `*/*` and without the header."""
    return "json" in request.headers.get("accept", "").lower()


def listing(request: Request, leases: list[Lease], version: int, check: str | None = None) -> Response:
    """A list of services; `check` is the check sum of another list than `leases` (a delta's)."""
    return document(request, encoding.applications(leases, version, check, as_json=wants_json(request)))


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
    return Response(body, headers=headers, media_type=media_type)


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
