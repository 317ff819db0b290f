"""One request of httpx on its way: what both colours do between the waits."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError, ResilienceError
from resilient.http_answers import retry_after
from resilient.pipeline import Pipeline
from resilient.transport.calls import Call
from resilient.transport.client_errors import as_clients
from resilient.transport.connections import Connections
from resilient.transport.deadline_header import DEADLINE_HEADER, header_ms, whole_ms
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.httpx_family import Family
from resilient.transport.options import EXTENSION, NO_OPTIONS, Options
from resilient.transport.pools import Pool, PoolKey, Pools
from resilient.transport.routing import Trouble, failed_call, shortened
from resilient.transport.targets import Lane, Targets

_KEYED_METHODS = frozenset({"POST", "PATCH"})  # that an Idempotency-Key makes safe to repeat
_COME_BACK_LATER = frozenset({429, 503})


class Core:
    """What a transport is made of, whatever its colour."""

    def __init__(
        self,
        family: Family,
        discovery: Discovery | str | None,
        connections: Connections,
        *,
        policies: Callable[[str], Pipeline[Any]] | None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None,
        deadline_header: bool | None,
        idempotency_keys: bool,
        clock: Clock | None,
    ) -> None:
        if deadline_header is not None and not isinstance(deadline_header, bool):
            raise ConfigError(
                f"deadline_header must be True, False or None, not {deadline_header!r}", path="deadline_header"
            )
        if not isinstance(idempotency_keys, bool):
            raise ConfigError(
                f"idempotency_keys must be True or False, not {idempotency_keys!r}", path="idempotency_keys"
            )
        self.family = family
        self.call = HttpxCall.of(family)
        self.clock = clock or SYSTEM_CLOCK
        self.connections = connections
        self.deadline_header = deadline_header
        self.idempotency_keys = idempotency_keys
        self.targets = Targets(
            discovery,
            policies,
            strategy,
            is_logical=is_logical,
            says_nothing=family.says_nothing,
            clock=clock,
            proxy_for=connections.proxy_for,
        )

    def pipeline(self, key: str) -> Pipeline[Any]:
        """The policies of a key, made now if it was not called yet."""
        return self.targets.of_key(key).plan().pipeline

    def balancer(self, service: str, *, secure: bool) -> Balancer:
        """Who chooses among the instances of a service."""
        found = self.targets.of_key(service).balancer("https" if secure else "http")
        if found is None:
            raise ConfigError(f"{service!r} is no logical name of this transport", path="service")
        return found


class HttpxCall(Call):
    """One request of httpx or httpx2.

    Args:
        core: of the transport.
        request: the client's.
        pools: that it may use.

    Raises:
        ConfigError: when its options are wrong, or can not be followed.
    """

    answer_name = "an httpx.Response"
    _family: ClassVar[Family]
    _idempotency_key: str | None = None  # that we have made, the same at each attempt

    def __init__(self, core: Core, request: Any, pools: Pools[Any]) -> None:
        self._core = core
        self._pools = pools
        self._request = request
        self._body = self._family.sent(request.stream, core.clock)
        asked = self._family.place(request.url)
        lane = core.targets.lately.get(asked) or core.targets.find(asked, request.url.host)
        given = request.extensions.get(EXTENSION)
        super().__init__(lane, NO_OPTIONS if given is None else Options.of(given))
        if lane.proxy is not None:
            self._check_proxy(lane)
        self._tls_name = request.extensions.get("sni_hostname")
        if self._tls_name is None and lane.scheme == "https":
            self._tls_name = core.connections.tls_name or request.url.host  # never the address that a registry gave
        if core.idempotency_keys and request.method in _KEYED_METHODS and lane.logical:
            self._idempotency_key = request.headers.get("Idempotency-Key") or str(uuid.uuid4())

    @classmethod
    def of(cls, family: Family) -> type[HttpxCall]:
        """Its kind for one client library."""
        known = {"answer_kind": family.http.Response, "failed_kind": family.failed, "kinds": family.kinds}
        return type(cls.__name__, (cls,), {"_family": family, **known})

    def may_repeat(self) -> bool:
        """By its method, its Idempotency-Key, or what it says."""
        request = self._request
        has_key = self._idempotency_key is not None or "Idempotency-Key" in request.headers
        return self.options.may_repeat(request.method, has_key=has_key)

    def sendable(self) -> bool:
        """As its body says."""
        return self._body.sendable()

    def hint(self, error: Exception) -> str:
        """For a host that could not be resolved."""
        url = self._request.url
        unresolved = isinstance(error, self._family.http.ConnectError)
        return self.lane.hint(url.host, url.port) if unresolved else ""

    async def discard_async(self, answer: Any) -> None:
        """Close an answer that nobody wants."""
        with suppress(Exception):  # how its connection ends concerns nobody
            await answer.aclose()

    def take(self, make: Callable[[Instance | None, str | None, str | None], Any], attempt: Attempt) -> Pool[Any]:
        """Use the pool of an instance; the attempt leaves it when its answer has been closed.

        Args:
            make: makes the client transport of (an instance, for a scheme, through a proxy).
            attempt: at whom.

        Raises:
            ConnectError: the library's, when the registry gave an address that is none: another instance may have one.
        """
        lane, pools, instance = self.lane, self._pools, attempt.instance
        proxy, url = lane.proxy, self._request.url
        if instance is None:
            of_hosts: PoolKey = (None, None, None, None, proxy)
            return pools.enter(of_hosts, attempt) or pools.take(
                of_hosts, attempt, None, lambda: make(None, None, proxy)
            )
        key: PoolKey = (lane.scheme, instance.host, instance.port, self._tls_name, proxy)
        pool = pools.enter(key, attempt)
        if pool is None:
            try:
                address = self._family.address(url, instance.host, instance.port)
            except self._family.http.InvalidURL as error:
                raise self._family.http.ConnectError(f"{instance.host!r} is no host: {error}") from error
            pool = pools.take(key, attempt, lane.target, lambda: make(instance, lane.scheme, proxy), address=address)
        return pool

    def outgoing(self, attempt: Attempt, address: Any) -> Any:
        """The request to one instance. The caller's own stays as it is: Host, redirects and cookies are the name's.

        Args:
            attempt: at whom.
            address: of that instance; None for a host that is not logical.

        Raises:
            DeadlineExceededError: when there is no time left, or CallTimeoutError after an attempt.
        """
        request = self._request
        url, headers, extensions = request.url, request.headers, dict(request.extensions)
        extensions.pop(EXTENSION, None)
        if attempt.limit is not None:
            left = attempt.time() or 0.0
            extensions["timeout"] = shortened(extensions.get("timeout"), left)
            wanted = self._core.deadline_header
            if wanted or (wanted is None and self.lane.logical):
                headers = headers.copy()
                headers[DEADLINE_HEADER] = header_ms(whole_ms(left), headers.get(DEADLINE_HEADER))
        if self._idempotency_key is not None:
            headers = headers.copy()
            headers["Idempotency-Key"] = self._idempotency_key
        if address is not None:
            url = self._family.moved(url, address)
            if self._tls_name is not None:
                extensions["sni_hostname"] = self._tls_name
        body = self._body
        body.read_at = None
        if self._core.connections.factory is not None:
            return self._family.http.Request(request.method, url, headers=headers, stream=body, extensions=extensions)
        # To a pool of our own, which changes nothing: without the copies of the constructor, a fifth of all that we do.
        kind = self._family.http.Request
        out = kind.__new__(kind)
        out.method, out.url, out.headers, out.stream, out.extensions = request.method, url, headers, body, extensions
        return out

    def failed(self, error: BaseException, attempt: Attempt) -> BaseException:
        """An attempt raised: what the policies see."""
        trouble, late, http = self._family.trouble_of(error), None, self._family.http
        if trouble in {Trouble.UNSENT, Trouble.LOCAL} and self._body.read_at is not None:
            trouble = Trouble.BROKEN  # a transport that calls a broken connection a failed one: something was sent
        if isinstance(error, http.TimeoutException) and not isinstance(error, http.PoolTimeout):
            late = attempt.timed_out()
        leaving: BaseException = late or error
        attempt.failed(leaving, trouble)
        return leaving

    def leaving(self, error: BaseException, exchange: Exchange) -> BaseException:
        """No other attempt is made: when nothing but our own pools was full, that is a full bulkhead."""
        if isinstance(error, self._family.http.PoolTimeout) and exchange.local_only:
            key = self.lane.key
            error = self._family.full(f"no connection to {key!r} became free", policy=key)
        return super().leaving(error, exchange)

    def as_clients(self, error: ResilienceError) -> ResilienceError:
        """Our error, as the client's too."""
        return as_clients(error, self.kinds, _request=self._request)

    def loosen(self, out: Any) -> None:
        """The headers are here: from now on the caller's own timeouts and deadline hold, for the body.

        A limit of a policy, or of this request's `timeout`, ends at the headers. httpcore looks the timeouts up when
        the body begins.
        """
        until = self.until
        left = None if until is None else max(0.0, until.end - until.clock.monotonic())
        out.extensions["timeout"] = shortened(self._request.extensions.get("timeout"), left)

    def received(
        self, response: Any, exchange: Exchange, attempt: Attempt, pool: Pool[Any], body: Callable[..., Any]
    ) -> Any:
        """The client transport's answer as the caller's: its end gives everything back, and from now on it has one."""
        stream = body(response.stream, attempt, pool, self.until, self.lane.key)
        told = {"instance": attempt.instance, "attempts": exchange.attempts}
        if self._core.connections.factory is None:  # a pool of our own gives a new one each time: it is ours
            found = response
            found.stream, found.request = stream, self._request
            found.extensions[EXTENSION] = told
        else:
            found = self._family.http.Response(
                response.status_code,
                headers=response.headers,
                stream=stream,
                request=self._request,
                extensions={**response.extensions, EXTENSION: told},
            )
        self.answers.append(found)
        return found

    def answer(self, found: Any, exchange: Exchange, attempt: Attempt, out: Any) -> Any:
        """The answer that was received as the policies see it.

        Raises:
            FailedResponse: holding it, when its status is a failure.
        """
        status, family = found.status_code, self._family
        if attempt.limit is not None:
            self.loosen(out)
        sent, elapsed = self._body.read_at, None
        if sent is not None:  # without the wait for a connection: else a full pool of ours looks like a slow instance
            elapsed = self.lane.clock.monotonic() - sent
        pause = retry_after(found) if status in _COME_BACK_LATER else None
        attempt.answered(status, retry_after=pause, elapsed=elapsed)
        failed = status >= 400 and failed_call(status)
        if self.plan.holds and not failed:  # a failed one must not bar its own repetition
            found.stream.keep(self.keep())
        if self.over and isinstance(found.stream, family.http.SyncByteStream):
            found.close()  # a Timeout left this thread behind: nobody will read it
        if not failed:
            if exchange.attempts > 1:
                exchange.went_well()
            return found
        text = f"{status} {found.reason_phrase} from {exchange.describe()}"
        error = family.failed(text, request=self._request, response=found)
        bare = family.http.Response(status)
        exchange.refused(attempt, error, lambda: family.failed(text, request=self._request, response=bare))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _check_proxy(self, lane: Lane) -> None:
        if lane.logical and lane.scheme == "https" and lane.proxy and not lane.proxy.startswith("socks"):
            raise ConfigError(
                f"https://{self._request.url.host} is a logical name and {lane.proxy} an HTTP proxy: the certificate"
                " could not be verified for the name. Put the name into NO_PROXY, or use no proxy",
                path="proxy",
            )
