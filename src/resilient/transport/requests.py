"""Logical names, balancing and policies for requests, and for everything that is built on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from resilient import places
from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.checks import whole
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.deadline import current_limit
from resilient.discovery import Discovery
from resilient.errors import (
    CallTimeoutError,
    ConfigError,
    DeadlineExceededError,
    NoInstanceError,
    RejectedError,
    ResilienceError,
)
from resilient.http_answers import retry_after
from resilient.pipeline import Pipeline

try:
    import requests
    from requests.adapters import HTTPAdapter
    from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
    from urllib3.exceptions import MaxRetryError, NewConnectionError
except ImportError as error:
    raise ConfigError(
        "resilient.transport.requests needs requests: pip install 'resilient-patterns[requests]'", path="requests"
    ) from error

from resilient.transport import requests_errors as errors
from resilient.transport.client_errors import as_clients, by_ours
from resilient.transport.deadline_header import DEADLINE_HEADER, header_ms, whole_ms
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.options import NO_OPTIONS
from resilient.transport.pools import Place, PoolKey, Pools
from resilient.transport.requests_bodies import InstancePool, RawBody
from resilient.transport.routing import Trouble, failed_call
from resilient.transport.targets import Target, Targets

__all__ = ["ResilientAdapter"]

_KINDS = by_ours(errors.KINDS)
_NOTHING = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.ProxyError,
)


class ResilientAdapter(HTTPAdapter):
    """Logical names, balancing and policies for requests: `session.mount("http://", ResilientAdapter("eureka://..."))`.

    It does for a `requests.Session` what `resilient.transport.ResilientTransport` does for an httpx.Client; see there.
    Mount it under "https://" too. What leaves it is a `requests.RequestException` as well. A request says more about
    itself by an Idempotency-Key; `response.resilient` says which instance answered after how many attempts. A deadline
    limits each wait for the socket, not their sum: a server that sends byte by byte can outlast it.

    Args:
        discovery: who is there: a Discovery, or a URL for one of its own, which it closes. None: no name is logical.
        policies: makes the policies of a key, outermost first; default a CircuitBreaker and a Retry. A failed answer
            reaches them as a requests.HTTPError; a Fallback is called with the PreparedRequest.
        strategy: makes the object that chooses, one per service; default `RoundRobin`.
        is_logical: whether a host names a service; default: one label and not `localhost`. Hosts in lower case.
        tls_name: whom the certificates of logical services are for; default the logical name itself.
        deadline_header: True to send the deadline header to every host, False to none, None (default) to services.
        pool_maxsize: connections *per instance* that are kept, default 10.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is wrong.

    Safe for threads as far as requests' sessions are: the adapter may be shared, sessions may not.

    Example:
        >>> import requests
        >>> from resilient.transport.requests import ResilientAdapter
        >>> with requests.Session() as session:
        ...     session.mount("http://", ResilientAdapter("static://mail=127.0.0.1:1"))
        ...     try:
        ...         session.get("http://mail/inbox")
        ...     except requests.RequestException as error:
        ...         print(type(error).__name__)
        ConnectionError
    """

    def __init__(
        self,
        discovery: Discovery | str | None = None,
        *,
        policies: Callable[[str], Pipeline[requests.Response]] | None = None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None = None,
        tls_name: str | None = None,
        deadline_header: bool | None = None,
        pool_maxsize: int = 10,
        clock: Clock | None = None,
    ) -> None:
        if deadline_header is not None and not isinstance(deadline_header, bool):
            raise ConfigError(
                f"deadline_header must be True, False or None, not {deadline_header!r}", path="deadline_header"
            )
        self._targets = Targets(
            discovery, policies, strategy, is_logical=is_logical, says_nothing=_says_nothing, clock=clock
        )
        self._clock = clock or SYSTEM_CLOCK
        self._tls_name = tls_name
        self._deadline_header = deadline_header
        self._pools: Pools[HTTPAdapter] = Pools(self._clock)
        self._kept_connections = whole(type(self).__name__, "pool_maxsize", pool_maxsize)
        super().__init__(pool_maxsize=pool_maxsize)

    def pipeline(self, key: str) -> Pipeline[requests.Response]:
        """The policies of a key: see `ResilientTransport.pipeline`."""
        return self._targets.of_key(key).plan().pipeline

    def balancer(self, service: str, *, secure: bool = False) -> Balancer:
        """Who chooses among the instances of a service: see `ResilientTransport.balancer`."""
        found = self._targets.of_key(service).balancer("https" if secure else "http")
        if found is None:
            raise ConfigError(f"{service!r} is no logical name of this adapter", path="service")
        return found

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request: balanced, guarded. Arguments as for requests' own adapter."""
        if self._pools.closing:
            self._pools.closing.popleft().close()
        options = {"stream": stream, "verify": verify, "cert": cert, "proxies": proxies}
        call = _Call(self, request, timeout, options)
        answer: Any = None
        try:
            call.wait_once()
            part = call.plan.call
            answer = call.run() if part is None else part._sync()(lambda _request: call.run(), (request,), {})
            if not isinstance(answer, requests.Response):
                raise TypeError(
                    f"the policies of {call.key!r} gave {answer!r}: a Fallback here gives a requests.Response"
                )
        except errors.FailedAnswer as failed:
            answer = failed.response
            if call.plan.heed is not None:
                call.plan.heed(failed)
        except (RejectedError, CallTimeoutError) as error:
            leaving = as_clients(error, _KINDS, request=request, response=None)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        finally:
            for other in call.answers:
                if other is not answer:
                    _quietly(other)
        return answer  # type: ignore[no-any-return]  # looked at above

    def close(self) -> None:
        """Close every pool, and the discovery if it was made from a URL."""
        for pool in self._pools.take_all():
            pool.close()
        self._targets.close()
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"a {type(self).__name__} holds connections and threads: make one per process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._targets!r}>"


class _Call:
    """One request on its way."""

    def __init__(
        self, adapter: ResilientAdapter, request: requests.PreparedRequest, timeout: Any, options: dict[str, Any]
    ) -> None:
        self._adapter = adapter
        self._request = request
        self._timeout = timeout
        self._options = options
        self._url = urlsplit(str(request.url))
        self._until = current_limit.get()
        self._sent = False
        self._missing: NoInstanceError | None = None
        self._held_before = len(places.held.places)  # by this thread, for what is further out
        self.answers: list[requests.Response] = []
        host, port = self._url.hostname or "", self._url.port
        if port == {"http": 80, "https": 443}.get(self._url.scheme):
            port = None
        self.target: Target = adapter._targets.find((self._url.scheme, host, port), host)
        self.plan = self.target.plan()
        self.key = self.target.route.key

    def wait_once(self) -> None:
        """Before the first call of a service."""
        limit = self._until
        left = None if limit is None else max(0.0, limit.end - limit.clock.monotonic())
        first = self.target.first_wait(left)
        if first is None:
            return
        discovery, service, seconds = first
        try:
            discovery.wait(service, timeout=seconds)
        except NoInstanceError as error:
            self._missing = error
        if self._missing is None or left is None or seconds < left:
            self.target.known = True

    def run(self) -> requests.Response:
        """Send until an answer or an error is to leave."""
        method, headers = str(self._request.method), self._request.headers
        exchange = Exchange(
            self.key,
            self.target.balancer(self._url.scheme),
            NO_OPTIONS,
            self.plan.retry,
            self.plan.own,
            repeat=lambda: NO_OPTIONS.may_repeat(method, has_key="Idempotency-Key" in headers),
            sendable=lambda: not self._sent or isinstance(self._request.body, (bytes, str, type(None))),
            clock=self._adapter._clock,
        )
        part = self.plan.attempt
        try:
            while True:
                try:
                    if part is None:
                        return self._attempt(exchange, self._request)
                    return part._sync()(partial(self._attempt, exchange), (self._request,), {})  # type: ignore[no-any-return]  # checked outside
                except BaseException as error:
                    wait = exchange.again(error)
                    if wait is None:
                        if exchange.attempts and isinstance(error, Exception):
                            error.add_note(exchange.describe() + self._hint())
                        raise
                if wait:
                    self._adapter._clock.sleep(wait)
        finally:
            exchange.end()

    def _hint(self) -> str:
        return self._adapter._targets.hint(self.target.route, self._url.hostname or "", self._url.port)

    def _attempt(self, exchange: Exchange, _request: requests.PreparedRequest) -> requests.Response:
        try:
            attempt = exchange.attempt()
        except (NoInstanceError, DeadlineExceededError) as error:
            if self._missing is not None:  # time is up because it was waited for
                raise self._missing from error
            raise
        kept, place = exchange.take_kept(), None
        try:
            if isinstance(kept, errors.FailedAnswer):
                _quietly(kept.response)
            out = self._outgoing(attempt)
            place = self._take(attempt)
            response = place.transport.send(out, timeout=_shortened(self._timeout, attempt.left()), **self._options)
        except BaseException as error:
            if place is not None:
                place.free()
            leaving = self._failed(error, attempt)
            try:
                if leaving is error:
                    raise
                raise leaving from error
            finally:
                del leaving  # its traceback holds this frame
        return self._answer(response, exchange, attempt, place)

    def _outgoing(self, attempt: Attempt) -> requests.PreparedRequest:
        out, left, instance = self._request.copy(), attempt.time(), attempt.instance
        wanted = self._adapter._deadline_header
        if left is not None and (wanted or (wanted is None and instance is not None)):
            out.headers[DEADLINE_HEADER] = header_ms(whole_ms(left), out.headers.get(DEADLINE_HEADER))
        if instance is not None:
            out.headers.setdefault("Host", self._url.netloc.rpartition("@")[2])
            out.url = _addressed(self._url, instance.host, instance.port)
        return out

    def _take(self, attempt: Attempt) -> Place[HTTPAdapter]:
        instance, adapter, scheme, target = attempt.instance, self._adapter, self._url.scheme, self.target
        if instance is None:
            of_hosts: PoolKey = (None, None, None, None, None)
            return adapter._pools.take(
                of_hosts, lambda: True, lambda: HTTPAdapter(pool_maxsize=adapter._kept_connections)
            )
        host, port = instance.host, instance.port
        name = (adapter._tls_name or self._url.hostname) if scheme == "https" else None
        key: PoolKey = (scheme, host, port, name, None)
        return adapter._pools.take(
            key, lambda: target.lists(host, port), lambda: InstancePool(name, adapter._kept_connections)
        )

    def _failed(self, error: BaseException, attempt: Attempt) -> BaseException:
        trouble = _trouble_of(error)
        self._sent = trouble is not Trouble.UNSENT
        late = attempt.timed_out() if isinstance(error, requests.Timeout) else None
        leaving: BaseException = late or error
        attempt.failed(leaving, trouble)
        return leaving

    def _answer(
        self, response: requests.Response, exchange: Exchange, attempt: Attempt, place: Place[HTTPAdapter]
    ) -> requests.Response:
        self._sent = True
        pause = retry_after(response) if response.status_code in {429, 503} else None
        holding = attempt.answered(response.status_code, retry_after=pause)
        response.request, response.url = self._request, str(self._request.url)
        response.cookies = RequestsCookieJar()  # of the name, not of the address
        extract_cookies_to_jar(response.cookies, self._request, response.raw)  # type: ignore[no-untyped-call]  # requests has no types there
        failed = failed_call(response.status_code)
        mine = places.held.places[self._held_before :] if self.plan.holds and not failed else ()
        kept = tuple(one for one in mine if one.retain())  # until the body ends
        response.raw = RawBody(response.raw, holding, place, self._until, self.key, kept)
        response.resilient = {"instance": attempt.instance, "attempts": exchange.attempts}  # type: ignore[attr-defined]  # told there
        self.answers.append(response)
        if not failed:
            exchange.went_well()
            return response
        text = f"{response.status_code} {response.reason} from {exchange.describe()}"
        bare = requests.Response()
        bare.status_code = response.status_code
        error = errors.FailedAnswer(text, request=self._request, response=response)
        attempt.refused(error, lambda: errors.FailedAnswer(text, request=self._request, response=bare))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


def _addressed(url: SplitResult, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return url._replace(netloc=f"{shown}:{port}").geturl()


def _shortened(timeout: Any, left: float | None) -> Any:
    if left is None:
        return timeout
    if isinstance(timeout, tuple):
        connect, read = timeout
    else:
        connect = getattr(timeout, "connect_timeout", timeout)
        read = getattr(timeout, "read_timeout", timeout)
    phases = [min(left, one) if isinstance(one, (int, float)) else left for one in (connect, read)]
    return max(phases[0], 0.001), max(phases[1], 0.001)  # urllib3 refuses 0


def _trouble_of(error: BaseException) -> Trouble:
    if isinstance(error, requests.ConnectTimeout):
        return Trouble.UNSENT
    if _says_nothing(error) or isinstance(error, ResilienceError):
        return Trouble.OTHER
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.ConnectionError) and isinstance(cause, MaxRetryError):
        return Trouble.UNSENT if isinstance(cause.reason, NewConnectionError) else Trouble.BROKEN
    return Trouble.BROKEN if isinstance(error, OSError) else Trouble.OTHER


def _says_nothing(error: BaseException) -> bool:
    return isinstance(error, _NOTHING) or not isinstance(error, (OSError, ResilienceError))


def _quietly(response: Any) -> None:
    with suppress(Exception):  # it was thrown away: how the connection ends concerns nobody
        response.close()
