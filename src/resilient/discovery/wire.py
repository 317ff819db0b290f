"""Sending a step over HTTP, with a limit on its total time that a dripping server can not stretch.

No proxy, no `.netrc`: a registry's address is given explicitly and is internal. `HTTP_PROXY` would lead heartbeats, and
even those to the loopback interface, out of the house, and the address that reaches the proxy is not the one that
reaches the registry. No connection is kept: at two requests per half minute a kept one is more often stale than
useful, names are resolved anew each time, and a forked child has no socket to inherit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resilient.clock import REAL_CLOCK
from resilient.discovery.steps import Answer, Send

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT = 2.0  # seconds; a registry is near
_MOST = 128 * 2**20  # bytes of an answer, unpacked; a list of 100,000 instances has 100 MB
_HEADERS = {"Accept": "application/json", "User-Agent": "resilient"}  # without Accept Eureka answers in XML
_now = REAL_CLOCK.monotonic  # sockets live in real time, whatever clock the policies run on


class Wire(Protocol):
    """Something that answers; never raises an Exception."""

    def send(self, step: Send, /) -> Answer:
        """The answer, or one that says why there is none."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class AsyncWire(Protocol):
    """The same for an event loop."""

    async def send(self, step: Send, /) -> Answer:
        """The answer, or one that says why there is none."""
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


Wires: TypeAlias = tuple[Callable[[], Wire], Callable[[], AsyncWire]]
"""What makes a wire for a thread, and one for an event loop."""


def http_wires(*, tls: bool | ssl.SSLContext) -> Wires:
    """The wires of a registry that is asked by HTTP.

    Args:
        tls: whether any server is asked by https, by the machine's own authorities; or the context for it.
    """
    return partial(HttpWire, tls=tls), partial(AsyncHttpWire, tls=tls)


class HttpWire:
    """For one thread at a time.

    Args:
        tls: as in `http_wires`; False: no certificates are loaded (20 ms).
    """

    def __init__(self, *, tls: bool | ssl.SSLContext) -> None:
        import httpx

        from resilient.discovery.deadline_transport import DeadlineTransport

        load_idna()
        self._transport = DeadlineTransport(_context(tls=tls))
        self._client = httpx.Client(transport=self._transport, headers=_HEADERS, trust_env=False)

    def send(self, step: Send, /) -> Answer:
        """Send it and wait for the answer, at most `step.timeout` seconds in all."""
        self._transport.end = _now() + step.timeout
        status, local, body = 0, None, b""
        headers: Mapping[str, str] = {}
        try:
            with self._client.stream(**_arguments(step)) as got:
                status, local, headers = got.status_code, _local(got), got.headers
                body = _read_all(got)
        except Exception as error:
            if not status or step.read:
                return Answer(error=_describe(error, step), local=local)
        return Answer(status, body, local=local, headers=headers)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class AsyncHttpWire:
    """For one event loop, on which it is made.

    Args:
        tls: as in `http_wires`.
    """

    def __init__(self, *, tls: bool | ssl.SSLContext) -> None:
        import anyio
        import httpx

        load_idna()
        anyio.connect_tcp, anyio.get_cancelled_exc_class()  # else loaded when it first connects
        self._client = httpx.AsyncClient(
            verify=_context(tls=tls),
            limits=httpx.Limits(max_keepalive_connections=0),
            headers=_HEADERS,
            trust_env=False,
        )

    async def send(self, step: Send, /) -> Answer:
        """Send it and wait for the answer, at most `step.timeout` seconds in all."""
        import asyncio

        status, local, body = 0, None, b""
        headers: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(step.timeout):  # real time, as the sockets'
                async with self._client.stream(**_arguments(step)) as got:
                    status, local, headers = got.status_code, _local(got), got.headers
                    body = await aread_all(got)
        except Exception as error:
            if not status or step.read:
                return Answer(error=_describe(error, step), local=local)
        return Answer(status, body, local=local, headers=headers)

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


def _context(*, tls: bool | ssl.SSLContext) -> ssl.SSLContext:
    import ssl

    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls:  # the machine's own authorities, $SSL_CERT_FILE: where a private one is added
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # empty: never used


def _arguments(step: Send) -> dict[str, Any]:
    import httpx

    return {
        "method": step.method,
        "url": step.server.base + step.path,
        "content": step.body,
        "headers": {**({} if step.body is None else {"Content-Type": "application/json"}), **step.headers},
        "auth": step.server.auth,
        "timeout": httpx.Timeout(step.timeout, connect=min(CONNECT_TIMEOUT, step.timeout)),
    }


def load_idna() -> None:
    """Else loaded when the first name is resolved, in a thread's middle, where no fork waits for it."""
    import codecs

    codecs.lookup("idna")


def _read_all(got: httpx.Response) -> bytes:
    body = bytearray()
    for part in got.iter_bytes():
        body += _fitting(body, part)
    return bytes(body)


async def aread_all(got: httpx.Response) -> bytes:
    """The body, but not more than fits."""
    body = bytearray()
    async for part in got.aiter_bytes():
        body += _fitting(body, part)
    return bytes(body)


def _fitting(body: bytearray, part: bytes) -> bytes:
    if len(body) + len(part) > _MOST:  # what answers may be anything, and 1 MB of gzip is 1 GB of zeros
        raise ValueError(f"an answer of more than {_MOST >> 20} MB")
    return part


def _local(got: httpx.Response) -> str | None:
    """Our own address on the connection; asked before the body is read, which closes the connection."""
    stream = got.extensions.get("network_stream")
    found = stream.get_extra_info("client_addr") if stream is not None else None
    return str(found[0]) if found else None


def _describe(error: Exception, step: Send) -> str:
    if type(error).__name__ == "LocalProtocolError":  # its words quote the header, which may be a token
        return "a header or the path has characters that can not be sent"
    if isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
        return f"no complete answer within {step.timeout:.3g} s ({type(error).__name__})"
    words = _begin(error) or str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _begin(error: BaseException) -> str:
    """The system's own words: an event loop says "All connection attempts failed" of everything."""
    while cause := _cause(error):
        error = cause
    if isinstance(error, OSError) and error.errno and "Connect call failed" in str(error):  # asyncio's, with an address
        return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    return str(error) if isinstance(error, OSError) else ""


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    given = error.__cause__ or next(iter(error.args), None)  # httpcore's have it among their arguments
    return given if isinstance(given, BaseException) else None
