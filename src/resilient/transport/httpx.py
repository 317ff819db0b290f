"""Logical names, balancing and policies for httpx: one transport for `httpx.Client`, one for `httpx.AsyncClient`."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import httpx

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import Clock, forget_on_fork
from resilient.discovery import Discovery, Instance
from resilient.errors import CallTimeoutError, NoInstanceError, RejectedError
from resilient.pipeline import Pipeline
from resilient.transport.connections import Connections
from resilient.transport.httpx_bodies import AnswerBody, AsyncAnswerBody
from resilient.transport.httpx_call import Call, Core
from resilient.transport.httpx_errors import FailedResponse, as_httpx
from resilient.transport.pools import Pools
from resilient.transport.routing import Exchange

if TYPE_CHECKING:
    import asyncio

_GRACE = 0.05  # seconds after the deadline at which an async attempt is ended that its own timeouts did not end


class ResilientTransport(httpx.BaseTransport):
    """Logical names, balancing and policies for httpx.Client.

    A URL whose host is a single label, without a port other than the scheme's own, as in `http://producer/weather`,
    names a service: discovery says who is there, the balancer chooses, and the request goes to that instance with its
    Host, its cookies and, for https, its certificate being those of the name. Every other host is called as it is. Both
    are guarded by policies of their own key: the name, or `scheme://host:port`.

    When an instance can not be connected to, any request goes to another one. When something may have been sent, only
    what is safe to send twice does: idempotent methods, an Idempotency-Key or `extensions={"resilient": {"idempotent":
    True}}`, with a body that can be sent again; after an error or a 502, 503 or 504. At most 3 instances are tried,
    each once, without a wait. What is left after that is what the policies judge: errors, and the statuses 408, 425,
    429 and 5xx other than 501 and 505 are failures. The answer itself still reaches the caller: `raise_for_status`.

    `extensions={"resilient": {"timeout": 1.0, "attempts": 2, "key": "user-7", "idempotent": True}}` of a request say
    more about it; `response.extensions["resilient"]` says which instance answered and how many were tried. A Deadline
    around the call shortens the request's timeouts and travels in the header X-Request-Timeout-Ms. The first call of a
    service waits for discovery's answer, outside the policies: at most 5 s, or what is left of the Deadline.

    Args:
        discovery: who is there: a Discovery, or a URL such as `eureka://localhost:8761` for one of its own, which it
            closes. None: no name is logical.
        policies: makes the policies of a key, outermost first; default a Pipeline of one CircuitBreaker. A failed
            answer reaches them as an httpx.HTTPStatusError; a Fallback is called with the httpx.Request.
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
        transport: makes the client transport of an instance, or of the hosts that are not logical (None); instead of
            verify, cert, http2, limits and proxy.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is wrong.
        CircuitOpenError, NoInstanceError and their like: from a request; `except httpx.HTTPError` catches them.

    Safe for threads. The answer of a streamed request holds its instance until it is read or closed. Pools of
    instances that left the list are closed by a later request, after a minute without use.

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

    def __init__(
        self,
        discovery: Discovery | str | None = None,
        *,
        policies: Callable[[str], Pipeline[httpx.Response]] | None = None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None = None,
        verify: ssl.SSLContext | bool = True,
        cert: str | tuple[str, str] | None = None,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        tls_name: str | None = None,
        deadline_header: bool | None = None,
        transport: Callable[[Instance | None], httpx.BaseTransport] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._core = Core(
            discovery,
            Connections(verify, cert, http2, limits, proxy, trust_env, tls_name, transport),
            policies=policies,
            strategy=strategy,
            is_logical=is_logical,
            deadline_header=deadline_header,
            clock=clock,
        )
        self._pools: Pools[httpx.BaseTransport] = Pools(self._core.clock)

    def pipeline(self, key: str) -> Pipeline[httpx.Response]:
        """The policies of a key, for a page that shows them: `transport.pipeline("producer").policies[0]`.

        Args:
            key: a logical name, or `scheme://host:port`. Made now if it was not called yet.

        Raises:
            ConfigError: when it is neither.
        """
        return self._core.pipeline(key)

    def balancer(self, service: str, *, secure: bool = False) -> Balancer:
        """Who chooses among the instances of a service; its `snapshot()` counts picks and calls in flight.

        Args:
            service: a logical name.
            secure: True for the balancer of `https://` calls.

        Raises:
            ConfigError: when it is no logical name.
        """
        return self._core.balancer(service, secure=secure)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request: balanced, guarded."""
        idle = self._pools.next_stale()
        if idle is not None:
            _quietly(idle.close)
        call = self._core.begin(request)
        answer: httpx.Response | None = None
        try:
            with call.limited():
                self._wait_once(call)
                chain = call.target.pipeline._sync()
                answer = call.checked(chain(lambda _request: self._send(call), (request,), {}))
        except FailedResponse as failed:
            answer = failed.response
        except (RejectedError, CallTimeoutError) as error:
            leaving = as_httpx(error, request)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        finally:
            for other in call.unwanted(answer):
                _quietly(other.close)
        return answer

    def close(self) -> None:
        """Close every pool, and the discovery if it was made from a URL."""
        for pool in self._pools.take_all():
            _quietly(pool.close)
        self._core.targets.close()

    def _wait_once(self, call: Call) -> None:
        first = call.first_wait()
        if first is None:
            return
        discovery, service, seconds = first
        missing: NoInstanceError | None = None
        try:
            discovery.wait(service, timeout=seconds)
        except NoInstanceError as error:
            missing = error
        call.waited(missing)

    def _send(self, call: Call) -> httpx.Response:
        exchange = call.exchange()
        thrown: httpx.Response | None = None
        while True:
            instance, place = call.choose(exchange), None
            try:
                if thrown is not None:
                    _quietly(thrown.close)
                out = call.outgoing(exchange, instance)
                place = call.take(self._pools, self._core.connections.sync, instance, out)
                response = place.transport.handle_request(out)
            except BaseException as error:
                if place is not None:
                    place.free()
                leaving = call.after(error, exchange)
                if leaving is None:
                    continue
                try:
                    if leaving is error:
                        raise
                    raise leaving from error
                finally:
                    del leaving  # its traceback holds this frame
            if exchange.answered(response.status_code, retry_after="retry-after" in response.headers):
                place.free()
                thrown = response
                continue
            call.loosen(out)
            return call.answer(response, exchange, instance, place, AnswerBody)

    def __repr__(self) -> str:
        return f"<ResilientTransport {self._core.targets!r}>"


class AsyncResilientTransport(httpx.AsyncBaseTransport):
    """The same for httpx.AsyncClient: see `ResilientTransport` for what it does and for its arguments.

    For one event loop at a time: connections belong to the loop that made them. On another loop it makes new ones, so
    close the client in the loop that used it. Policies and balancers are shared by threads and loops.

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

    def __init__(
        self,
        discovery: Discovery | str | None = None,
        *,
        policies: Callable[[str], Pipeline[httpx.Response]] | None = None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None = None,
        verify: ssl.SSLContext | bool = True,
        cert: str | tuple[str, str] | None = None,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        tls_name: str | None = None,
        deadline_header: bool | None = None,
        transport: Callable[[Instance | None], httpx.AsyncBaseTransport] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._core = Core(
            discovery,
            Connections(verify, cert, http2, limits, proxy, trust_env, tls_name, transport),
            policies=policies,
            strategy=strategy,
            is_logical=is_logical,
            deadline_header=deadline_header,
            clock=clock,
        )
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Pools[httpx.AsyncBaseTransport]]
        self._by_loop = WeakKeyDictionary()
        forget_on_fork(self)

    def pipeline(self, key: str) -> Pipeline[httpx.Response]:
        """The policies of a key: see `ResilientTransport.pipeline`."""
        return self._core.pipeline(key)

    def balancer(self, service: str, *, secure: bool = False) -> Balancer:
        """Who chooses among the instances of a service: see `ResilientTransport.balancer`."""
        return self._core.balancer(service, secure=secure)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request: balanced, guarded."""
        pools = self._pools()
        idle = pools.next_stale()
        if idle is not None:
            await _quietly_async(idle)
        call = self._core.begin(request)
        answer: httpx.Response | None = None
        try:
            with call.limited():
                await self._wait_once(call)
                chain = call.target.pipeline._async()
                answer = call.checked(await chain(lambda _request: self._send(call, pools), (request,), {}))
        except FailedResponse as failed:
            answer = failed.response
        except (RejectedError, CallTimeoutError) as error:
            leaving = as_httpx(error, request)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        finally:
            for other in call.unwanted(answer):
                await _quietly_async(other)
        return answer

    async def aclose(self) -> None:
        """Close every pool of this loop, and the discovery if it was made from a URL."""
        for pool in self._pools().take_all():
            await _quietly_async(pool)
        await self._core.targets.aclose()

    async def _wait_once(self, call: Call) -> None:
        first = call.first_wait()
        if first is None:
            return
        discovery, service, seconds = first
        missing: NoInstanceError | None = None
        try:
            await discovery.wait_async(service, timeout=seconds)
        except NoInstanceError as error:
            missing = error
        call.waited(missing)

    async def _send(self, call: Call, pools: Pools[httpx.AsyncBaseTransport]) -> httpx.Response:
        exchange = call.exchange()
        thrown: httpx.Response | None = None
        while True:
            instance, place = call.choose(exchange), None
            try:
                if thrown is not None:  # here, where a cancellation gives the lease back
                    await _quietly_async(thrown)
                out = call.outgoing(exchange, instance)
                place = call.take(pools, self._core.connections.asynchronous, instance, out)
                response = await _before_deadline(place.transport, out, exchange)
            except BaseException as error:
                if place is not None:
                    place.free()
                leaving = call.after(error, exchange)
                if leaving is None:
                    continue
                try:
                    if leaving is error:
                        raise
                    raise leaving from error
                finally:
                    del leaving  # its traceback holds this frame
            if exchange.answered(response.status_code, retry_after="retry-after" in response.headers):
                place.free()
                thrown = response
                continue
            call.loosen(out)
            return call.answer(response, exchange, instance, place, AsyncAnswerBody)

    def _pools(self) -> Pools[httpx.AsyncBaseTransport]:
        import asyncio

        loop = asyncio.get_running_loop()
        with self._lock:
            pools = self._by_loop.get(loop)
            if pools is None:
                for ended in [other for other in self._by_loop if other.is_closed()]:
                    del self._by_loop[ended]  # unclosed: nothing can be closed on a loop that has ended
                pools = self._by_loop[loop] = Pools(self._core.clock)
            return pools

    def after_fork_in_child(self) -> None:
        """The loops are the parent's."""
        self._lock = threading.Lock()
        self._by_loop = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<AsyncResilientTransport {self._core.targets!r}>"


async def _before_deadline(
    transport: httpx.AsyncBaseTransport, out: httpx.Request, exchange: Exchange
) -> httpx.Response:
    """One attempt, ended a little after the deadline when its own timeouts, which count per read, have not ended it."""
    left = exchange.left()
    if left is None:
        return await transport.handle_async_request(out)
    import asyncio

    scope = asyncio.timeout(left + _GRACE)
    try:
        async with scope:
            return await transport.handle_async_request(out)
    except TimeoutError as error:
        if scope.expired():
            raise httpx.ReadTimeout("the answer did not come before the caller's deadline") from error
        raise


def _quietly(close: Callable[[], None]) -> None:
    """Close what nobody waits for."""
    try:
        close()
    except Exception:  # its answer was thrown away: how the connection ends concerns nobody
        return


async def _quietly_async(thing: httpx.Response | httpx.AsyncBaseTransport) -> None:
    """The same for an event loop."""
    try:
        await thing.aclose()
    except Exception:  # as above
        return
