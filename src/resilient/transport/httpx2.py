"""The transports for httpx2: the same as for httpx, with httpx2's own classes."""

from __future__ import annotations

from resilient.errors import ConfigError

try:
    import httpx2
except ImportError as error:
    raise ConfigError(
        "resilient.transport.httpx2 needs httpx2: pip install 'resilient-patterns[httpx2]'", path="httpx2"
    ) from error

from resilient.transport import httpx2_errors
from resilient.transport.httpx_faces import AsyncTransport, SyncTransport
from resilient.transport.httpx_family import Family

__all__ = ["AsyncResilientTransport", "ResilientTransport"]

HTTPX2 = Family(httpx2, httpx2_errors)


class ResilientTransport(
    SyncTransport[httpx2.Request, httpx2.Response, httpx2.Limits, httpx2.BaseTransport], httpx2.BaseTransport
):
    """Logical names, balancing and policies for httpx2.Client: see `resilient.transport.ResilientTransport`.

    Requests, answers, limits, inner transports and errors are those of httpx2: `except httpx2.HTTPError` catches what
    leaves it.

    Example:
        >>> import httpx2
        >>> from resilient.transport.httpx2 import ResilientTransport
        >>> with httpx2.Client(transport=ResilientTransport("static://stock=127.0.0.1:1")) as client:
        ...     try:
        ...         client.get("http://stock/apple")
        ...     except httpx2.HTTPError as error:
        ...         print(type(error).__name__)
        ConnectError
    """

    family = HTTPX2


class AsyncResilientTransport(
    AsyncTransport[httpx2.Request, httpx2.Response, httpx2.Limits, httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport
):
    """The same for httpx2.AsyncClient: see `resilient.transport.AsyncResilientTransport`.

    Example:
        >>> import asyncio, httpx2
        >>> from resilient.transport.httpx2 import AsyncResilientTransport
        >>> async def main() -> str:
        ...     transport = AsyncResilientTransport("static://stock=127.0.0.1:1")
        ...     async with httpx2.AsyncClient(transport=transport) as client:
        ...         try:
        ...             return (await client.get("http://stock/apple")).text
        ...         except httpx2.HTTPError as error:
        ...             return type(error).__name__
        >>> asyncio.run(main())
        'ConnectError'
    """

    family = HTTPX2
