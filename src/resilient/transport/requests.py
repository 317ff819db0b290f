"""Logical names, balancing and policies for requests, and for everything that is built on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.checks import whole
from resilient.clock import Clock
from resilient.discovery import Discovery
from resilient.errors import ConfigError, ResilienceError
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
from resilient.transport.calls import Call
from resilient.transport.client_errors import as_clients, by_ours
from resilient.transport.deadline_header import DEADLINE_HEADER, header_ms, whole_ms
from resilient.transport.driving import run
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.options import NO_OPTIONS
from resilient.transport.pools import Pool, PoolKey, Pools
from resilient.transport.requests_bodies import InstancePool, RawBody
from resilient.transport.routing import Trouble, failed_call
from resilient.transport.targets import Targets

__all__ = ["ResilientAdapter"]

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
        self._tls_name = tls_name
        self._deadline_header = deadline_header
        self._pools: Pools[HTTPAdapter] = Pools(_close)
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
        options = {"stream": stream, "verify": verify, "cert": cert, "proxies": proxies}
        return run(_Call(self, request, timeout, options), _attempt, request)  # type: ignore[no-any-return]  # checked to be one

    def close(self) -> None:
        """Close every pool, and the discovery if it was made from a URL."""
        for pool in self._pools.take_all():
            _close(pool)
        self._targets.close()
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"a {type(self).__name__} holds connections and threads: make one per process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._targets!r}>"


class _Call(Call):
    """One request on its way."""

    answer_kind, answer_name, failed_kind = requests.Response, "a requests.Response", errors.FailedAnswer
    kinds = by_ours(errors.KINDS)

    def __init__(
        self, adapter: ResilientAdapter, request: requests.PreparedRequest, timeout: Any, options: dict[str, Any]
    ) -> None:
        self.adapter = adapter
        self.timeout = timeout
        self.sending = options
        self.url = urlsplit(str(request.url))
        self._request = request
        self._sent = False
        host, port = self.url.hostname or "", self.url.port
        if port == {"http": 80, "https": 443}.get(self.url.scheme):
            port = None
        lane = adapter._targets.find((self.url.scheme, host, port), host)
        super().__init__(lane, NO_OPTIONS)

    def may_repeat(self) -> bool:
        """By its method and its Idempotency-Key."""
        request = self._request
        return self.options.may_repeat(str(request.method), has_key="Idempotency-Key" in request.headers)

    def sendable(self) -> bool:
        """Unless its body is a file, or comes from a generator."""
        return not self._sent or isinstance(self._request.body, (bytes, str, type(None)))

    def hint(self, error: Exception) -> str:
        """For whatever went wrong."""
        return self.lane.hint(self.url.hostname or "", self.url.port)

    def as_clients(self, error: ResilienceError) -> ResilienceError:
        """Our error, as the client's too."""
        return as_clients(error, self.kinds, request=self._request, response=None)

    def outgoing(self, attempt: Attempt) -> requests.PreparedRequest:
        """The request to one instance."""
        out, left, instance = self._request.copy(), attempt.time(), attempt.instance
        wanted = self.adapter._deadline_header
        if left is not None and (wanted or (wanted is None and instance is not None)):
            out.headers[DEADLINE_HEADER] = header_ms(whole_ms(left), out.headers.get(DEADLINE_HEADER))
        if instance is not None:
            out.headers.setdefault("Host", self.url.netloc.rpartition("@")[2])
            out.url = _addressed(self.url, instance.host, instance.port)
        return out

    def take(self, attempt: Attempt) -> Pool[HTTPAdapter]:
        """Use the pool of an instance; the attempt leaves it when its answer has been closed."""
        adapter, scheme, instance = self.adapter, self.lane.scheme, attempt.instance
        pools, size = adapter._pools, adapter._kept_connections
        if instance is None:
            of_hosts: PoolKey = (None, None, None, None, None)
            return pools.enter(of_hosts, attempt) or pools.take(
                of_hosts, attempt, None, lambda: HTTPAdapter(pool_maxsize=size)
            )
        name = (adapter._tls_name or self.url.hostname) if scheme == "https" else None
        key: PoolKey = (scheme, instance.host, instance.port, name, None)
        return pools.enter(key, attempt) or pools.take(key, attempt, self.lane.target, lambda: InstancePool(name, size))

    def failed(self, error: BaseException, attempt: Attempt) -> BaseException:
        """An attempt raised: what the policies see."""
        trouble = _trouble_of(error)
        self._sent = trouble is not Trouble.UNSENT
        late = attempt.timed_out() if isinstance(error, requests.Timeout) else None
        leaving: BaseException = late or error
        attempt.failed(leaving, trouble)
        return leaving

    def received(
        self, response: requests.Response, exchange: Exchange, attempt: Attempt, pool: Pool[HTTPAdapter]
    ) -> requests.Response:
        """The answer as the caller's: its end gives everything back, and from now on it has one."""
        self._sent = True
        raw, response.raw = response.raw, RawBody(response.raw, attempt, pool, self.until, self.lane.key)
        self.answers.append(response)
        response.request, response.url = self._request, str(self._request.url)
        response.cookies = RequestsCookieJar()  # of the name, not of the address
        extract_cookies_to_jar(response.cookies, self._request, raw)  # type: ignore[no-untyped-call]  # requests has no types there
        response.resilient = {"instance": attempt.instance, "attempts": exchange.attempts}  # type: ignore[attr-defined]  # told there
        return response

    def answer(self, response: requests.Response, exchange: Exchange, attempt: Attempt) -> requests.Response:
        """The answer that was received as the policies see it.

        Raises:
            FailedAnswer: holding it, when its status is a failure.
        """
        pause = retry_after(response) if response.status_code in {429, 503} else None
        attempt.answered(response.status_code, retry_after=pause)
        if not failed_call(response.status_code):
            raw: Any = response.raw
            raw.keep(self.keep())  # until the body ends; a failed one must not bar its own repetition
            exchange.went_well()
            return response
        text = f"{response.status_code} {response.reason} from {exchange.describe()}"
        bare = requests.Response()
        bare.status_code = response.status_code
        error = errors.FailedAnswer(text, request=self._request, response=response)
        exchange.refused(attempt, error, lambda: errors.FailedAnswer(text, request=self._request, response=bare))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


def _attempt(call: _Call, exchange: Exchange, _request: requests.PreparedRequest) -> requests.Response:
    attempt = exchange.attempt() if call.missing is None else call.choose(exchange)
    pool = response = None
    try:
        if (thrown := call.thrown(exchange)) is not None:
            call.discard(thrown)
        out = call.outgoing(attempt)
        pool = call.take(attempt)
        response = pool.transport.send(out, timeout=_shortened(call.timeout, attempt.left()), **call.sending)
        answer = call.received(response, exchange, attempt, pool)
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
    return call.answer(answer, exchange, attempt)


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


def _close(pool: HTTPAdapter) -> None:
    with suppress(Exception):  # nobody uses it: how its connections end concerns nobody
        pool.close()
