"""The two transports, sync and async, for httpx and httpx2 alike."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import Clock, forget_on_fork
from resilient.discovery import Discovery, Instance
from resilient.errors import CallTimeoutError, NoInstanceError, RejectedError
from resilient.pipeline import Pipeline
from resilient.places import collected, held
from resilient.policies.timeout import _Scope
from resilient.transport.client_errors import as_clients
from resilient.transport.connections import Connections
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.httpx_call import Call, Core
from resilient.transport.httpx_family import Family
from resilient.transport.pools import Pools

if TYPE_CHECKING:
    import asyncio

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
        self._pools: Pools[Any] = Pools(self._core.clock)

    def handle_request(self, request: Request) -> Response:
        """Send one request: balanced, guarded."""
        if self._pools.closing:
            _quietly(self._pools.closing.popleft().close)
        call = self._core.begin(request)
        if call.plan.holds:
            call.held_before = len(held.places)
        answer: Any = None
        try:
            part = call.plan.call
            if part is not None and call.ready:
                answer = part._sync()(partial(self._send, call), (request,), {})
                if type(answer) is not self.family.http.Response:
                    call.checked(answer)
            else:
                with call.limited():
                    self._wait_once(call)
                    answer = self._guarded(call, request)
        except self.family.failed as failed:
            answer = failed.response
            if call.plan.heed is not None:
                call.plan.heed(failed)
        except (RejectedError, CallTimeoutError) as error:
            leaving = as_clients(error, self.family.kinds, _request=request)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        finally:
            call.over = True
            if len(call.answers) != 1 or call.answers[0] is not answer:
                for other in call.unwanted(answer):
                    _quietly(other.close)
        return answer  # type: ignore[no-any-return]  # checked to be one

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

    def _guarded(self, call: Call, request: Request) -> Any:
        part = call.plan.call
        if part is None:
            return self._send(call, request)
        return call.checked(part._sync()(partial(self._send, call), (request,), {}))

    def _send(self, call: Call, request: Request) -> Any:
        exchange, part = call.exchange(), call.plan.attempt
        try:
            while True:
                try:
                    if part is None:
                        return self._attempt(call, exchange, request)
                    return part._sync()(partial(self._attempt, call, exchange), (request,), {})
                except BaseException as error:
                    wait = exchange.again(error)
                    if wait is None:
                        leaving = call.leaving(error, exchange)
                        try:
                            if leaving is error:
                                raise
                            raise leaving from error
                        finally:
                            del leaving  # its traceback holds this frame
                if wait:
                    self._pause(exchange, wait)
        finally:
            exchange.end()

    def _pause(self, exchange: Exchange, seconds: float) -> None:
        retry = exchange.retry
        assert retry is not None  # nobody else waits
        try:
            retry.waiting.add(exchange)
            self._core.clock.sleep(seconds)
        finally:
            retry.waiting.discard(exchange)

    def _attempt(self, call: Call, exchange: Exchange, request: Request) -> Any:
        attempt = exchange.attempt() if call.missing is None else call.choose(exchange)
        place = None
        try:
            if exchange.attempts > 1 and (thrown := call.thrown(exchange)) is not None:
                _quietly(thrown.close)
            out = call.outgoing(attempt)
            place = call.take(self._pools, self._core.connections.sync, attempt.instance, out)
            response = place.transport.handle_request(out)
        except BaseException as error:
            if place is not None:
                place.free()
            leaving = call.failed(error, attempt, exchange)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        return call.answer(response, exchange, attempt, place, out, self.family.body)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.targets!r}>"


class AsyncTransport(Face[Request, Response, Limits, Pool]):
    """For async functions."""

    def _make_pools(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Pools[Any]] = WeakKeyDictionary()
        forget_on_fork(self)

    async def handle_async_request(self, request: Request) -> Response:
        """Send one request: balanced, guarded."""
        pools = self._pools()
        if pools.closing:  # before there is an answer that a cancellation could lose
            await _quietly_async(pools.closing.popleft())
        call = self._core.begin(request)
        outer = collected.get()
        if call.plan.holds:
            call.collected = []
            collected.set(call.collected)
        answer: Any = None
        try:
            part = call.plan.call
            if part is not None and call.ready:
                answer = await part._async()(partial(self._send, call, pools), (request,), {})
                if type(answer) is not self.family.http.Response:
                    call.checked(answer)
            else:
                with call.limited():
                    await self._wait_once(call)
                    answer = await self._guarded(call, pools, request)
        except self.family.failed as failed:
            answer = failed.response
            if call.plan.heed is not None:
                call.plan.heed(failed)
        except (RejectedError, CallTimeoutError) as error:
            leaving = as_clients(error, self.family.kinds, _request=request)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        finally:
            if call.collected is not None:
                collected.set(outer)
            call.over = True
            if len(call.answers) != 1 or call.answers[0] is not answer:
                for other in call.unwanted(answer):
                    await _quietly_async(other)
        return answer  # type: ignore[no-any-return]  # checked to be one

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

    async def _guarded(self, call: Call, pools: Pools[Any], request: Request) -> Any:
        part = call.plan.call
        if part is None:
            return await self._send(call, pools, request)
        return call.checked(await part._async()(partial(self._send, call, pools), (request,), {}))

    async def _send(self, call: Call, pools: Pools[Any], request: Request) -> Any:
        exchange, part = call.exchange(), call.plan.attempt
        try:
            while True:
                try:
                    if part is None:
                        return await self._attempt(call, exchange, pools, request)
                    return await part._async()(partial(self._attempt, call, exchange, pools), (request,), {})
                except BaseException as error:
                    wait = exchange.again(error)
                    if wait is None:
                        leaving = call.leaving(error, exchange)
                        try:
                            if leaving is error:
                                raise
                            raise leaving from error
                        finally:
                            del leaving  # its traceback holds this frame
                if wait:
                    await self._pause(exchange, wait)
        finally:
            exchange.end()

    async def _pause(self, exchange: Exchange, seconds: float) -> None:
        retry = exchange.retry
        assert retry is not None  # nobody else waits
        try:
            retry.waiting.add(exchange)
            await self._core.clock.sleep_async(seconds)
        finally:
            retry.waiting.discard(exchange)

    async def _attempt(self, call: Call, exchange: Exchange, pools: Pools[Any], request: Request) -> Any:
        attempt = exchange.attempt() if call.missing is None else call.choose(exchange)
        place = None
        try:
            if exchange.attempts > 1 and (thrown := call.thrown(exchange)) is not None:
                await _quietly_async(thrown)  # here, where a cancellation gives the lease back
            out = call.outgoing(attempt)
            place = call.take(pools, self._core.connections.asynchronous, attempt.instance, out)
            if attempt.limit is None:
                response = await place.transport.handle_async_request(out)
            else:
                response = await self._before_deadline(place.transport, out, attempt)
        except BaseException as error:
            if place is not None:
                place.free()
            leaving = call.failed(error, attempt, exchange)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        return call.answer(response, exchange, attempt, place, out, self.family.async_body)

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

    def _pools(self) -> Pools[Any]:
        import asyncio

        loop = asyncio.get_running_loop()
        pools = self._by_loop.get(loop)
        if pools is not None:
            return pools
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
        return f"<{type(self).__name__} {self._core.targets!r}>"


def _quietly(close: Callable[[], None]) -> None:
    """Close what nobody waits for."""
    try:
        close()
    except Exception:  # its answer was thrown away: how the connection ends concerns nobody
        return


async def _quietly_async(thing: Any) -> None:
    """The same for an event loop."""
    try:
        await thing.aclose()
    except Exception:  # as above
        return
