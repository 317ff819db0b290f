"""Logical names, balancing and policies for aiohttp: a middleware of its client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from resilient import places
from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import Clock
from resilient.discovery import Discovery
from resilient.errors import ConfigError, ResilienceError
from resilient.http_answers import retry_after
from resilient.pipeline import Pipeline
from resilient.policies.timeout import _Scope

try:
    import aiohttp
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
except ImportError as error:
    raise ConfigError(
        "resilient.transport.aiohttp needs aiohttp 3.12 or newer: pip install 'resilient-patterns[aiohttp]'",
        path="aiohttp",
    ) from error

from resilient.transport import aiohttp_errors as errors
from resilient.transport.calls import Call
from resilient.transport.client_errors import by_ours
from resilient.transport.deadline_header import DEADLINE_HEADER, header_ms, whole_ms
from resilient.transport.driving import run_async
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.options import NO_OPTIONS
from resilient.transport.routing import Trouble, failed_call
from resilient.transport.targets import Targets

__all__ = ["ResilientClientMiddleware"]

Answer: TypeAlias = ClientResponse

_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_NOTHING = (aiohttp.InvalidURL, aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)


class ResilientClientMiddleware:
    """Logical names, balancing and policies for aiohttp.ClientSession: `middlewares=[ResilientClientMiddleware(url)]`.

    It does for a session what `resilient.transport.AsyncResilientTransport` does for an httpx.AsyncClient; see there.
    What leaves it is an `aiohttp.ClientError` as well. A request says more about itself by an Idempotency-Key;
    `response.resilient` says which instance answered after how many attempts.

    All instances share the connections of the session: give its `TCPConnector` a `limit_per_host`, else an instance
    that hangs can take them all. Close it with `aclose()` when it was given a URL.

    Args:
        discovery: who is there: a Discovery, or a URL for one of its own. None: no name is logical.
        policies: makes the policies of a key, outermost first; default a CircuitBreaker and a Retry. A failed answer
            reaches them as an aiohttp.ClientResponseError; a Fallback is called with the ClientRequest.
        strategy: makes the object that chooses, one per service; default `RoundRobin`.
        is_logical: whether a host names a service; default: one label and not `localhost`. Hosts in lower case.
        tls_name: whom the certificates of logical services are for; default the logical name itself.
        deadline_header: True to send the deadline header to every host, False to none, None (default) to services.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is wrong.

    Safe for threads and event loops.

    Example:
        >>> import aiohttp, asyncio
        >>> from resilient.transport.aiohttp import ResilientClientMiddleware
        >>> async def main() -> str:
        ...     middleware = ResilientClientMiddleware("static://maps=127.0.0.1:1")
        ...     async with aiohttp.ClientSession(middlewares=[middleware]) as session:
        ...         try:
        ...             return await (await session.get("http://maps/london")).text()
        ...         except aiohttp.ClientError as error:
        ...             return type(error).__name__
        >>> asyncio.run(main())
        'ClientConnectorError'
    """

    def __init__(
        self,
        discovery: Discovery | str | None = None,
        *,
        policies: Callable[[str], Pipeline[Answer]] | None = None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None = None,
        tls_name: str | None = None,
        deadline_header: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        if deadline_header is not None and not isinstance(deadline_header, bool):
            raise ConfigError(
                f"deadline_header must be True, False or None, not {deadline_header!r}", path="deadline_header"
            )
        self._targets = Targets(
            discovery, policies, strategy, is_logical=is_logical, says_nothing=_says_nothing, clock=clock
        )
        self._tls_name = tls_name
        self._deadline_header = deadline_header

    def pipeline(self, key: str) -> Pipeline[Answer]:
        """The policies of a key: see `ResilientTransport.pipeline`."""
        return self._targets.of_key(key).plan().pipeline

    def balancer(self, service: str, *, secure: bool = False) -> Balancer:
        """Who chooses among the instances of a service: see `ResilientTransport.balancer`."""
        found = self._targets.of_key(service).balancer("https" if secure else "http")
        if found is None:
            raise ConfigError(f"{service!r} is no logical name of this middleware", path="service")
        return found

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> Answer:
        """Send one request: balanced, guarded."""
        call = _Call(self, request, handler)
        try:
            return await run_async(call, _attempt, request)  # type: ignore[no-any-return]  # checked to be one
        finally:
            request.url = call.url

    async def aclose(self) -> None:
        """Close the discovery, if it was made from a URL."""
        await self._targets.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._targets!r}>"


class _Call(Call):
    """One request on its way."""

    answer_kind, answer_name, failed_kind = ClientResponse, "a ClientResponse", errors.FailedAnswer
    kinds = by_ours(errors.KINDS)

    def __init__(self, owner: ResilientClientMiddleware, request: ClientRequest, handler: ClientHandlerType) -> None:
        self._owner = owner
        self._request = request
        self._handler = handler
        self._said = request.headers.get(DEADLINE_HEADER)
        self.url = request.url
        host, port = self.url.host or "", self.url.explicit_port
        if port == {"http": 80, "https": 443}.get(self.url.scheme):
            port = None
        super().__init__(owner._targets.find((self.url.scheme, host, port), host), NO_OPTIONS)

    def may_repeat(self) -> bool:
        """By its method and its Idempotency-Key."""
        request = self._request
        return self.options.may_repeat(request.method, has_key="Idempotency-Key" in request.headers)

    def sendable(self) -> bool:
        """Unless its body was read, and can not be read again."""
        return not getattr(self._request.body, "consumed", False)

    def hint(self, error: Exception) -> str:
        """For whatever went wrong."""
        return self.lane.hint(self.url.host or "", self.url.explicit_port)

    def answer_of(self, failed: errors.FailedAnswer) -> Answer:
        """What the error holds."""
        return failed.answer

    def address(self, attempt: Attempt) -> None:
        """Direct the request to one instance."""
        request, left, instance, owner = self._request, attempt.time(), attempt.instance, self._owner
        wanted = owner._deadline_header
        if left is not None and (wanted or (wanted is None and instance is not None)):
            request.headers[DEADLINE_HEADER] = header_ms(whole_ms(left), self._said)
        if instance is None:
            return
        request.url = self.url.with_host(instance.host).with_port(instance.port)
        if self.url.scheme == "https" and request.server_hostname is None:
            request.server_hostname = owner._tls_name or self.url.host

    async def before_deadline(self, attempt: Attempt) -> Answer:
        """Send it, ended when there is no time left."""
        left = attempt.left()
        if left is None:
            return await self._handler(self._request)
        scope = _Scope(self.lane.clock, left)
        try:
            return await self._handler(self._request)
        except BaseException as error:
            if scope.leave() and type(error).__name__ == "CancelledError":
                raise aiohttp.SocketTimeoutError("the answer did not come before the deadline") from error
            raise
        finally:
            scope.leave()

    def failed(self, error: BaseException, attempt: Attempt) -> BaseException:
        """An attempt raised: what the policies see."""
        late = attempt.timed_out() if isinstance(error, TimeoutError) else None
        leaving: BaseException = late or error
        attempt.failed(leaving, _trouble_of(error))
        return leaving

    def answer(self, response: Answer, exchange: Exchange, attempt: Attempt) -> Answer:
        """The answer as the policies see it.

        Raises:
            FailedAnswer: holding it, when its status is a failure.
        """
        pause = retry_after(response) if response.status in {429, 503} else None
        attempt.answered(response.status, retry_after=pause)
        response.resilient = {"instance": attempt.instance, "attempts": exchange.attempts}  # type: ignore[attr-defined]  # told there
        failed = failed_call(response.status)
        _hold(response, attempt, [] if failed else self.keep())
        self.answers.append(response)
        if not failed:
            exchange.went_well()
            return response
        error = errors.FailedAnswer(response)
        exchange.refused(attempt, error, lambda: errors.FailedAnswer(response, headers=False))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


async def _attempt(call: _Call, exchange: Exchange, _request: ClientRequest) -> Answer:
    attempt = exchange.attempt() if call.missing is None else call.choose(exchange)
    try:
        if (thrown := call.thrown(exchange)) is not None:
            call.discard(thrown)
        call.address(attempt)
        response = await call.before_deadline(attempt)
    except BaseException as error:
        leaving = call.failed(error, attempt)
        try:
            if leaving is error:
                raise
            raise leaving from error
        finally:
            del leaving  # its traceback holds this frame
    return call.answer(response, exchange, attempt)


def _hold(response: Answer, attempt: Attempt, kept: list[places.Place]) -> None:
    """Until the body has come, or else until the answer is closed or dropped."""

    def end() -> None:
        places.let_go(kept)
        error = response.content.exception()
        if isinstance(error, aiohttp.ClientPayloadError):  # any other is of whoever closed it
            attempt.broke(error, Trouble.BROKEN)
        else:
            attempt.ended()

    connection = response.connection
    if connection is None:  # it has come already
        end()
    else:
        connection.add_callback(end)


def _trouble_of(error: BaseException) -> Trouble:
    if _says_nothing(error) or isinstance(error, ResilienceError):
        return Trouble.OTHER
    return Trouble.UNSENT if isinstance(error, _UNSENT) else Trouble.BROKEN


def _says_nothing(error: BaseException) -> bool:
    return isinstance(error, _NOTHING) or not isinstance(error, (aiohttp.ClientError, OSError, ResilienceError))
