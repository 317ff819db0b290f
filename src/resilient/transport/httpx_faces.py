"""The two transports, sync and async, for httpx and httpx2 alike."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import Clock, forget_on_fork
from resilient.discovery import Discovery, Instance
from resilient.pipeline import Pipeline
from resilient.policies.timeout import _Scope
from resilient.transport.connections import Connections
from resilient.transport.driving import run, run_async
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.httpx_call import Core, HttpxCall
from resilient.transport.httpx_family import Family
from resilient.transport.pools import Pools

if TYPE_CHECKING:
    import asyncio

    from resilient.transport.loop_pools import LoopPools

Request = TypeVar("Request")
Response = TypeVar("Response")
Limits = TypeVar("Limits")
Pool = TypeVar("Pool")

_GRACE = 0.05  # seconds after the deadline at which an async attempt is ended that its own timeouts did not end


class Face(Generic[Request, Response, Limits, Pool]):
    """What both colours have in common: the constructor, and what a page may look at."""

    family: ClassVar[Family]

    def __init__(
        self,
        discovery: Discovery | str | None = None,
        *,
        policies: Callable[[str], Pipeline[Response]] | None = None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None = None,
        verify: ssl.SSLContext | bool = True,
        cert: str | tuple[str, str] | None = None,
        http2: bool = False,
        limits: Limits | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        tls_name: str | None = None,
        deadline_header: bool | None = None,
        idempotency_keys: bool = False,
        transport: Callable[[Instance | None], Pool] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._core = Core(
            self.family,
            discovery,
            Connections(verify, cert, http2, limits, proxy, trust_env, tls_name, transport, self.family.http),
            policies=policies,
            strategy=strategy,
            is_logical=is_logical,
            deadline_header=deadline_header,
            idempotency_keys=idempotency_keys,
            clock=clock,
        )
        self._make_pools()

    def _make_pools(self) -> None:
        raise NotImplementedError  # pragma: no cover  # each colour has its own

    def pipeline(self, key: str) -> Pipeline[Response]:
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


class SyncTransport(Face[Request, Response, Limits, Pool]):
    """For functions."""

    def _make_pools(self) -> None:
        self._pools: Pools[Any] = Pools(_close)

    def handle_request(self, request: Request) -> Response:
        """Send one request: balanced, guarded."""
        return run(self._core.call(self._core, request, self._pools), self._attempt, request)  # type: ignore[no-any-return]  # checked to be one

    def close(self) -> None:
        """Close every pool, and the discovery if it was made from a URL."""
        for pool in self._pools.take_all():
            _close(pool)
        self._core.targets.close()

    def _attempt(self, call: HttpxCall, exchange: Exchange, _request: Request) -> Any:
        attempt = exchange.attempt() if call.missing is None else call.choose(exchange)
        pool = response = None
        try:
            if exchange.attempts > 1 and (thrown := call.thrown(exchange)) is not None:
                call.discard(thrown)
            pool = call.take(self._core.connections.sync, attempt)
            out = call.outgoing(attempt, pool.address)
            response = pool.transport.handle_request(out)
            answer = call.received(response, exchange, attempt, pool, self.family.body)
        except BaseException as error:
            if pool is not None:
                pool.leave(attempt)
            if response is not None:
                call.discard(response)
            leaving = call.failed(error, attempt)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        return call.answer(answer, exchange, attempt, out)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.targets!r}>"


class AsyncTransport(Face[Request, Response, Limits, Pool]):
    """For async functions."""

    def _make_pools(self) -> None:
        from asyncio import get_running_loop  # by who is async only

        from resilient.transport.loop_pools import LoopPools

        self._running_loop = get_running_loop
        self._make = LoopPools
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPools] = WeakKeyDictionary()
        self._latest: LoopPools | None = None  # mostly there is one loop
        forget_on_fork(self)

    async def handle_async_request(self, request: Request) -> Response:
        """Send one request: balanced, guarded."""
        return await run_async(self._core.call(self._core, request, self._pools()), self._attempt, request)  # type: ignore[no-any-return]  # checked to be one

    async def aclose(self) -> None:
        """Close every pool of this loop, and the discovery if it was made from a URL."""
        try:
            await self._pools().aclose()
        finally:
            await self._core.targets.aclose()

    async def _attempt(self, call: HttpxCall, exchange: Exchange, _request: Request) -> Any:
        attempt = exchange.attempt() if call.missing is None else call.choose(exchange)
        pool = response = None
        try:
            if exchange.attempts > 1 and (thrown := call.thrown(exchange)) is not None:
                await call.discard_async(thrown)  # here, where a cancellation gives the lease back
            pool = call.take(self._core.connections.asynchronous, attempt)
            out = call.outgoing(attempt, pool.address)
            if attempt.limit is None:
                response = await pool.transport.handle_async_request(out)
            else:
                response = await self._before_deadline(pool.transport, out, attempt)
            answer = call.received(response, exchange, attempt, pool, self.family.async_body)
        except BaseException as error:
            if pool is not None:
                pool.leave(attempt)
            if response is not None:
                await call.discard_async(response)
            leaving = call.failed(error, attempt)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        return call.answer(answer, exchange, attempt, out)

    async def _before_deadline(self, transport: Any, out: Any, attempt: Attempt) -> Any:
        """One attempt, ended a little after its time when its own timeouts, which count per read, have not ended it."""
        scope = _Scope(self._core.clock, (attempt.left() or 0.0) + _GRACE)
        try:
            return await transport.handle_async_request(out)
        except BaseException as error:
            if scope.leave() and type(error).__name__ == "CancelledError":
                raise self.family.http.ReadTimeout("the answer did not come before the deadline") from error
            raise
        finally:
            scope.leave()

    def _pools(self) -> LoopPools:
        loop, latest = self._running_loop(), self._latest
        if latest is not None and latest.are_of(loop):
            return latest
        with self._lock:
            pools = self._by_loop.get(loop)
            if pools is None:
                for ended in [other for other in self._by_loop if other.is_closed()]:
                    del self._by_loop[ended]  # unclosed: nothing can be closed on a loop that has ended
                pools = self._by_loop[loop] = self._make(loop)
            self._latest = pools
            return pools

    def after_fork_in_child(self) -> None:
        """The loops are the parent's."""
        self._lock = threading.Lock()
        self._by_loop = WeakKeyDictionary()
        self._latest = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.targets!r}>"


def _close(transport: Any) -> None:
    """Close what nobody uses."""
    with suppress(Exception):  # how its connections end concerns nobody
        transport.close()
