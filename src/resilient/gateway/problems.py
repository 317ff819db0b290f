"""What a caller reads when there is no answer to pass on: a status, one clear sentence, when to come back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from resilient.errors import (
    CallTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    NoInstanceError,
    RateLimitedError,
    RejectedError,
    ResilienceError,
)
from resilient.gateway.asgi import Header, Send


class RefusedError(Exception):
    """The request is not passed on, and it is the request's own fault.

    Attributes:
        status: 4xx or 501.
        detail: one sentence for the caller.
        close: whether the connection ends: where a request ends is not sure, or its body is left unread.
        headers: more of the answer.
    """

    def __init__(self, status: int, detail: str, *, close: bool = True, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.close = close
        self.headers = headers


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a route has no answer of its upstream's; what a fallback is told.

    Attributes:
        route: the name of the route.
        status: what the gateway answers without a fallback: 502, 503 or 504, or the upstream's own status.
        detail: one sentence for the caller, without addresses.
        retry_after: seconds until it is worth to come back, or None when that is not known.
        request_id: of the request, as in the answer's X-Request-Id.
        method: of the request.
        path: of the request, as it came.
        error: what was raised; None when the upstream answered with a failure.

    Example:
        >>> from resilient.gateway import Failure
        >>> def sorry(failure: Failure) -> str:
        ...     return f"{failure.route} is away; ask again in {failure.retry_after:.0f} s"
        >>> sorry(Failure("patient", 503, "", 4.0, "id-1", "GET", "/patient/1"))
        'patient is away; ask again in 4 s'
    """

    route: str
    status: int
    detail: str
    retry_after: float | None
    request_id: str
    method: str
    path: str
    error: Exception | None = None


def described(error: Exception, route: str) -> tuple[int, str, float | None]:
    """(status, sentence, seconds to wait) for what a transport raised."""
    wait = error.retry_after if isinstance(error, RejectedError) else None
    if isinstance(error, CircuitOpenError):
        return 503, f"{route!r} has failed too often and is left alone for a moment.", wait
    if isinstance(error, NoInstanceError):
        return 503, f"No instance of {route!r} is there at the moment.", wait
    if isinstance(error, (DeadlineExceededError, CallTimeoutError)):
        return 504, f"{route!r} did not answer in time.", None
    if isinstance(error, RateLimitedError):
        return 503, f"{route!r} has had as many requests lately as it may have.", wait
    if isinstance(error, (RejectedError, httpx.PoolTimeout)):
        return 503, f"{route!r} has as many requests under way as it may have.", wait
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return 502, f"{route!r} could not be reached.", None
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return 504, f"{route!r} did not answer in time.", None
    if isinstance(error, (httpx.HTTPError, OSError, ResilienceError)):
        return 502, f"{route!r} gave no answer that could be understood.", None
    return 500, "The gateway made a mistake.", None


def problem(status: int, detail: str, request_id: str, route: str | None = None) -> bytes:
    """A JSON document that says what is wrong.

    Source: RFC 9457.
    """
    said: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if route is not None:
        said["route"] = route
    return json.dumps(said, ensure_ascii=False).encode()


def retry_header(seconds: float | None) -> tuple[Header, ...]:
    """Retry-After in whole seconds, rounded up; nothing when it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return ()
    return ((b"retry-after", b"%d" % max(1, math.ceil(seconds))),)


async def answer(
    send: Send,
    status: int,
    body: bytes,
    *,
    kind: bytes = b"application/problem+json",
    headers: Iterable[Header] = (),
    head: bool = False,
    last: bool = True,
) -> None:
    """Send a whole answer.

    Args:
        send: ASGI's.
        status: of the answer.
        body: all of it.
        kind: its media type.
        headers: more of them.
        head: whether a HEAD is answered: its answer has the length, and no body.
        last: False when an empty part will follow that ends it.
    """
    all_headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": b"" if head else body, "more_body": not last})
