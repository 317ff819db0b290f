"""The body of a registration: read in time, bounded, unpacked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from resilient.registry_server.decoding import TooLargeError, gunzip, read_json, read_xml
from resilient.registry_server.record import Record

READERS: dict[str, Callable[[bytes, str], Record]] = {"application/json": read_json, "application/xml": read_xml}
PACKINGS = frozenset({"gzip", "identity"})


def kind_of(request: Request) -> str:
    """The media type that the client names, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def packing_of(request: Request) -> str:
    """How the client packed it."""
    return request.headers.get("content-encoding", "identity").strip().lower()


def has_body(request: Request) -> bool:
    """Whether anything follows the head."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


async def read_body(request: Request, limit: int, timeout: float) -> bytes:  # noqa: ASYNC109  # not of the injected clock
    """The unpacked body, of at most `limit` bytes packed and unpacked.

    Raises:
        TooLargeError: when it is larger.
        TimeoutError: when it has not arrived within `timeout` seconds of real time: a socket knows no other.
        UnreadableError: when it can not be unpacked.
        ClientDisconnect: when the client hung up.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise TooLargeError
    body = bytearray()
    async with asyncio.timeout(timeout):
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLargeError
    return gunzip(bytes(body), limit) if packing_of(request) == "gzip" else bytes(body)
