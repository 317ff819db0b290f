"""Logical names, balancing and policies for httpx: one transport for `httpx.Client`, one for `httpx.AsyncClient`."""

from __future__ import annotations

import httpx

from resilient.transport import httpx_errors
from resilient.transport.httpx_faces import AsyncTransport, SyncTransport
from resilient.transport.httpx_family import Family

HTTPX = Family(httpx, httpx_errors)


class ResilientTransport(
    SyncTransport[httpx.Request, httpx.Response, httpx.Limits, httpx.BaseTransport], httpx.BaseTransport
):
    """Logical names, balancing and policies for httpx.Client.

    A URL whose host is a single label, without a port other than the scheme's own, as in `http://producer/weather`,
    names a service: discovery says who is there, the balancer chooses, and the request goes to that instance with its
    Host, its cookies and, for https, its certificate being those of the name. Every other host is called as it is. Both
    are guarded by policies of their own key: the name, or `scheme://host:port`.

    By default a circuit breaker judges what is left after a Retry has tried other instances. When nothing was sent,
    because no connection could be made, any request goes on to another instance at once. When something may have been
    sent, only what is safe to send twice does: idempotent methods, an Idempotency-Key or
    `extensions={"resilient": {"idempotent": True}}`, with a body that can be sent again; after an error, or an answer
    of 408, 429, 502, 503 or 504. An instance that was tried is tried again only when there is no other, after a wait.
    Failures are errors, 408, 425, 429 and 5xx other than 501 and 505; the answer itself still reaches the caller:
    `raise_for_status`.

    `extensions={"resilient": {"timeout": 1.0, "attempts": 2, "key": "user-7", "idempotent": True}}` of a request say
    more about it; `response.extensions["resilient"]` says which instance answered after how many attempts. A Deadline
    around the call shortens the request's timeouts and travels in the header X-Request-Timeout-Ms. The first call of a
    service waits for discovery's answer, outside the policies: at most 5 s, or what is left of the Deadline.

    Args:
        discovery: who is there: a Discovery, or a URL such as `eureka://localhost:8761` for one of its own, which it
            closes. None: no name is logical.
        policies: makes the policies of a key, outermost first; default a CircuitBreaker and a Retry, with what
            `[services.KEY]` of the configuration says. Those before the Retry wrap the call, those after it each
            attempt; without a Retry only what was not sent goes to another instance. A failed answer reaches them as
            an httpx.HTTPStatusError; a Fallback is called with the httpx.Request. A Timeout limits the sockets' waits:
            no call is moved to a thread.
        strategy: makes the object that chooses, one per service; default `RoundRobin`.
        is_logical: whether a host names a service; default: one label and not `localhost`. Hosts in lower case.
        verify: True, False, or the ssl.SSLContext of every connection.
        cert: a client certificate: a file, or (certificate file, key file).
        http2: True to speak HTTP/2; needs `httpx[http2]`.
        limits: connections *per instance*; default 100, of which 20 are kept alive.
        proxy: the URL of a proxy for everything. https to a logical name can not go through an HTTP proxy.
        trust_env: False to ignore HTTP_PROXY, NO_PROXY, SSL_CERT_FILE and their like. Proxies apply by name.
        tls_name: whom the certificates of logical services are for; default the logical name itself.
        deadline_header: True to send the deadline header to every host, False to none, None (default) to services.
        idempotency_keys: True to send every POST and PATCH to a service with an Idempotency-Key, the same at each
            attempt, and so to repeat it; only when all services heed such keys. Default False.
        transport: makes the client transport of an instance, or of the hosts that are not logical (None); instead of
            verify, cert, http2, limits and proxy.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is wrong.
        CircuitOpenError, NoInstanceError and their like: from a request; `except httpx.HTTPError` catches them.

    Safe for threads. The answer of a streamed request holds its instance until it is read or closed. An instance that
    leaves the list gets no new calls; those that are open finish, and then its connections are closed: at once when
    there are none, by the thread that refreshes the list, else by the one that closes the last answer.

    Example:
        >>> import httpx
        >>> from resilient.transport import ResilientTransport
        >>> with httpx.Client(transport=ResilientTransport("static://producer=127.0.0.1:1")) as client:
        ...     try:
        ...         client.get("http://producer/weather")
        ...     except httpx.HTTPError as error:
        ...         print(type(error).__name__)
        ConnectError
    """

    family = HTTPX


class AsyncResilientTransport(
    AsyncTransport[httpx.Request, httpx.Response, httpx.Limits, httpx.AsyncBaseTransport], httpx.AsyncBaseTransport
):
    """The same for httpx.AsyncClient: see `ResilientTransport` for what it does and for its arguments.

    For one event loop at a time: connections belong to the loop that made them. On another loop it makes new ones, so
    close the client in the loop that used it. The connections of an instance that left the list are closed there, too.
    Policies and balancers are shared by threads and loops.

    Example:
        >>> import asyncio, httpx
        >>> from resilient.transport import AsyncResilientTransport
        >>> async def main() -> str:
        ...     transport = AsyncResilientTransport("static://prices=127.0.0.1:1")
        ...     async with httpx.AsyncClient(transport=transport) as client:
        ...         try:
        ...             return (await client.get("http://prices/apple")).text
        ...         except httpx.HTTPError as error:
        ...             return type(error).__name__
        >>> asyncio.run(main())
        'ConnectError'
    """

    family = HTTPX
