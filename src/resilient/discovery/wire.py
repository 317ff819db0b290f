"""Sending a step over HTTP, with a limit on its total time that a dripping server can not stretch.

No proxy, no `.netrc`: a registry's address is given explicitly and is internal. `HTTP_PROXY` would lead heartbeats, and
even those to the loopback interface, out of the house, and the address that reaches the proxy is not the one that
reaches the registry. No connection is kept: at two requests per half minute a kept one is more often stale than
useful, names are resolved anew each time, and a forked child has no socket to inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resilient.clock import REAL_CLOCK
from resilient.discovery.steps import Answer, Send

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT = 2.0  # seconds; a registry is near
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
        import codecs

        import httpx

        from resilient.discovery.deadline_transport import DeadlineTransport

        codecs.lookup("idna")  # else loaded when the first name is resolved, where no fork waits for it
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
                body = got.read()
        except Exception as error:
            if not status or step.read:
                return Answer(error=_describe(error, step), local=local)
        return Answer(status, body, local=local, headers=headers)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class AsyncHttpWire:
    """For one event loop.

    Args:
        tls: as in `http_wires`.
    """

    def __init__(self, *, tls: bool | ssl.SSLContext) -> None:
        import httpx

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
                    body = await got.aread()
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


def _local(got: httpx.Response) -> str | None:
    """Our own address on the connection; asked before the body is read, which closes the connection."""
    stream = got.extensions.get("network_stream")
    found = stream.get_extra_info("client_addr") if stream is not None else None
    return str(found[0]) if found else None


def _describe(error: Exception, step: Send) -> str:
    if isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
        return f"no complete answer within {step.timeout:.3g} s ({type(error).__name__})"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
