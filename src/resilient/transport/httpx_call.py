"""One request of httpx on its way: what both colours do between the waits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import httpx

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.deadline import Deadline
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError, NoInstanceError
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.transport.connections import Connections
from resilient.transport.httpx_bodies import SentBody
from resilient.transport.httpx_errors import FailedResponse, TransportBulkheadFullError, says_nothing, trouble_of
from resilient.transport.options import EXTENSION, Options
from resilient.transport.pools import Place, PoolKey, Pools
from resilient.transport.routing import (
    DEADLINE_HEADER,
    Exchange,
    Holding,
    Trouble,
    failed_call,
    header_ms,
    shortened,
)
from resilient.transport.targets import Target, Targets

T = TypeVar("T")

Body = Callable[[Any, Holding, Place[Any], Deadline | None, str], httpx.SyncByteStream | httpx.AsyncByteStream]


def guarded(key: str) -> Pipeline[httpx.Response]:
    """The policies of a key unless told otherwise: a circuit breaker.

    Named without a warning: a sync and an async client of one service are two transports, and each has its own.
    """
    made: Pipeline[httpx.Response] = Pipeline(CircuitBreaker(ignore=says_nothing))
    made.adopt_name(key)
    return made


class Core:
    """What a transport is made of, whatever its colour."""

    def __init__(
        self,
        discovery: Discovery | str | None,
        connections: Connections,
        *,
        policies: Callable[[str], Pipeline[httpx.Response]] | None,
        strategy: Callable[[], Strategy] = RoundRobin,
        is_logical: Callable[[str], bool] | None,
        deadline_header: bool | None,
        clock: Clock | None,
    ) -> None:
        if deadline_header is not None and not isinstance(deadline_header, bool):
            raise ConfigError(
                f"deadline_header must be True, False or None, not {deadline_header!r}", path="deadline_header"
            )
        self.clock = clock or SYSTEM_CLOCK
        self.connections = connections
        self.deadline_header = deadline_header
        self.targets = Targets(discovery, policies or guarded, strategy, is_logical=is_logical, clock=self.clock)

    def begin(self, request: httpx.Request) -> Call:
        """Look at a request.

        Raises:
            ConfigError: when its options are wrong, or can not be followed.
        """
        url = request.url
        return Call(self, request, self.targets.find(url.scheme, url.host, url.port))

    def pipeline(self, key: str) -> Pipeline[httpx.Response]:
        """The policies of a key, made now if it was not called yet."""
        return self.targets.of_key(key).pipeline

    def balancer(self, service: str, *, secure: bool) -> Balancer:
        """Who chooses among the instances of a service."""
        found = self.targets.of_key(service).balancer("https" if secure else "http")
        if found is None:
            raise ConfigError(f"{service!r} is no logical name of this transport", path="service")
        return found


class Call:
    """One request, from the caller to the answer. `send` may be run more than once, by a policy that repeats."""

    def __init__(self, core: Core, request: httpx.Request, target: Target) -> None:
        self._core = core
        self._request = request
        self._body = SentBody(request.stream)
        self._until = Deadline.current()  # the caller's own: it holds for the body, too
        self._answers: list[httpx.Response] = []
        self._over = False
        self._waited_in_full = False
        self.missing: NoInstanceError | None = None
        self.options = Options.of(request.extensions)
        self.target = target
        scheme = request.url.scheme
        if scheme not in target.proxies:
            target.proxies[scheme] = core.connections.proxy_for(scheme, request.url.host)
        self._proxy = target.proxies[scheme]
        if self._proxy is not None and self._logical and scheme == "https" and not self._proxy.startswith("socks"):
            raise ConfigError(
                f"https://{request.url.host} is a logical name and {self._proxy} an HTTP proxy: the certificate could"
                " not be verified for the name. Put the name into NO_PROXY, or use no proxy",
                path="proxy",
            )

    @property
    def _logical(self) -> bool:
        return self.target.route.service is not None

    def limited(self) -> AbstractContextManager[object]:
        """The request's own time limit around the whole call."""
        return nullcontext() if self.options.timeout is None else Deadline(self.options.timeout)

    def first_wait(self) -> tuple[Discovery, str, float] | None:
        """What to wait for before the first call of a service."""
        current = Deadline.current()
        left = None if current is None else current.remaining
        first = self.target.first_wait(left)
        self._waited_in_full = first is not None and (left is None or first[2] < left)
        return first

    def waited(self, error: NoInstanceError | None) -> None:
        """The wait is over; its error says more than the one that follows would."""
        self.missing = error
        if error is None or self._waited_in_full:  # a caller in a hurry must not use up the wait of the others
            self.target.known = True

    def exchange(self) -> Exchange:
        """Begin to send."""
        request = self._request
        return Exchange(
            self.target.route.key,
            self.target.balancer(request.url.scheme),
            self.options,
            repeat=self.options.may_repeat(request.method, has_key="idempotency-key" in request.headers),
            sendable=self._body.sendable,
            clock=self._core.clock,
        )

    def choose(self, exchange: Exchange) -> Instance | None:
        """Whom to call next."""
        try:
            return exchange.choose()
        except NoInstanceError as error:
            if self.missing is not None:
                raise self.missing from error
            raise

    def outgoing(self, exchange: Exchange, instance: Instance | None) -> httpx.Request:
        """The request to one instance. The caller's own stays as it is: Host, redirects and cookies are the name's."""
        request, url, extensions = self._request, self._request.url, dict(self._request.extensions)
        extensions.pop(EXTENSION, None)
        headers = request.headers
        left_ms = exchange.left_ms()
        if left_ms is not None:
            extensions["timeout"] = shortened(extensions.get("timeout"), exchange.left())
            wanted = self._core.deadline_header
            if wanted or (wanted is None and self._logical):
                headers = headers.copy()
                headers[DEADLINE_HEADER] = header_ms(left_ms, headers.get(DEADLINE_HEADER))
        if instance is not None:
            if url.scheme == "https":  # verified for the name, never for the address that a registry gave
                extensions.setdefault("sni_hostname", self._core.connections.tls_name or url.host)
            try:
                url = url.copy_with(host=instance.host, port=instance.port)
            except httpx.InvalidURL as error:  # what a registry says is no host: another instance may be one
                raise httpx.ConnectError(f"{instance.host!r} is no host: {error}") from error
        self._body.begin()
        return httpx.Request(request.method, url, headers=headers, stream=self._body, extensions=extensions)

    def take(
        self,
        pools: Pools[T],
        make: Callable[[Instance | None, str | None, str | None], T],
        instance: Instance | None,
        out: httpx.Request,
    ) -> Place[T]:
        """A place in the pool of an instance."""
        if instance is None:
            key = PoolKey(None, None, None, None, self._proxy)
            return pools.take(key, lambda: True, lambda: make(None, None, self._proxy))
        scheme, host, port, target = self._request.url.scheme, instance.host, instance.port, self.target
        key = PoolKey(scheme, host, port, out.extensions.get("sni_hostname"), self._proxy)
        return pools.take(key, lambda: target.lists(host, port), lambda: make(instance, scheme, self._proxy))

    def after(self, error: BaseException, exchange: Exchange) -> BaseException | None:
        """An attempt raised: what leaves, or None when another instance is to be tried."""
        trouble, late = trouble_of(error), None
        if trouble in {Trouble.UNSENT, Trouble.LOCAL} and self._body.read_now:
            trouble = Trouble.BROKEN  # a transport that calls a broken connection a failed one: something was sent
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.PoolTimeout):
            late = exchange.timed_out()
        if exchange.failed(late or error, trouble):
            return None
        leaving: BaseException = late or error
        if late is None and exchange.local_only and isinstance(error, httpx.PoolTimeout):
            key = self.target.route.key
            leaving = TransportBulkheadFullError(f"no connection to {key!r} became free", policy=key)
        if isinstance(leaving, Exception):
            leaving.add_note(exchange.describe())
        return leaving

    def loosen(self, out: httpx.Request) -> None:
        """The headers are here: from now on the caller's own timeouts and deadline hold, for the body.

        A limit of a policy, or of this request's `timeout`, ends at the headers. httpcore looks the timeouts up when
        the body begins.
        """
        if "timeout" in out.extensions:
            left = None if self._until is None else self._until.remaining
            out.extensions["timeout"] = shortened(self._request.extensions.get("timeout"), left)

    def answer(
        self, response: httpx.Response, exchange: Exchange, instance: Instance | None, place: Place[Any], body: Body
    ) -> httpx.Response:
        """The answer as the policies see it.

        Raises:
            FailedResponse: holding it, when its status is a failure.
        """
        key = self.target.route.key
        found = httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=body(response.stream, exchange.hand_over(), place, self._until, key),
            request=self._request,
            extensions={**response.extensions, EXTENSION: {"instance": instance, "attempts": exchange.attempts}},
        )
        self._answers.append(found)
        if self._over and isinstance(found.stream, httpx.SyncByteStream):
            found.close()  # a Timeout left this thread behind: nobody will read it
        if failed_call(response.status_code):
            raise FailedResponse(
                f"{response.status_code} {response.reason_phrase} from {exchange.describe()}",
                request=self._request,
                response=found,
            )
        return found

    def checked(self, answer: object) -> httpx.Response:
        """What the policies gave.

        Raises:
            TypeError: when that is no response.
        """
        if not isinstance(answer, httpx.Response):
            raise TypeError(
                f"the policies of {self.target.route.key!r} gave {answer!r}: a Fallback in a transport gives an"
                " httpx.Response; to answer something else, put it around the client's call"
            )
        return answer

    def unwanted(self, wanted: httpx.Response | None) -> list[httpx.Response]:
        """The call is over: the answers to be closed, because a policy put another one in their place."""
        self._over = True
        return [answer for answer in self._answers if answer is not wanted]
