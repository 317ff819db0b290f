"""One request of httpx on its way: what both colours do between the waits."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from resilient import places
from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.deadline import Deadline, current_limit
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError, DeadlineExceededError, NoInstanceError
from resilient.http_answers import retry_after
from resilient.pipeline import Pipeline
from resilient.transport.connections import Connections
from resilient.transport.deadline_header import DEADLINE_HEADER, header_ms, whole_ms
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.httpx_family import Family
from resilient.transport.options import EXTENSION, NO_OPTIONS, Options
from resilient.transport.plans import Plan
from resilient.transport.pools import Place, PoolKey, Pools
from resilient.transport.routing import Trouble, failed_call, shortened
from resilient.transport.targets import Target, Targets

T = TypeVar("T")

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
        self.clock = clock or SYSTEM_CLOCK
        self.connections = connections
        self.deadline_header = deadline_header
        self.idempotency_keys = idempotency_keys
        self.targets = Targets(
            discovery, policies, strategy, is_logical=is_logical, says_nothing=family.says_nothing, clock=clock
        )

    def begin(self, request: Any) -> Call:
        """Look at a request.

        Raises:
            ConfigError: when its options are wrong, or can not be followed.
        """
        asked = self.family.place(request.url)
        target = self.targets.lately.get(asked)
        return Call(self, request, target or self.targets.find(asked, request.url.host), asked[0])

    def pipeline(self, key: str) -> Pipeline[Any]:
        """The policies of a key, made now if it was not called yet."""
        return self.targets.of_key(key).plan().pipeline

    def balancer(self, service: str, *, secure: bool) -> Balancer:
        """Who chooses among the instances of a service."""
        found = self.targets.of_key(service).balancer("https" if secure else "http")
        if found is None:
            raise ConfigError(f"{service!r} is no logical name of this transport", path="service")
        return found


class Call:
    """One request, from the caller to the answer. It may be sent more than once, also by a policy that repeats."""

    __slots__ = (
        "_body",
        "_core",
        "_family",
        "_key",
        "_proxy",
        "_request",
        "_scheme",
        "_until",
        "_waited_in_full",
        "answers",
        "collected",
        "held_before",
        "missing",
        "options",
        "over",
        "plan",
        "target",
        "tried",
    )

    def __init__(self, core: Core, request: Any, target: Target, scheme: str) -> None:
        self._core = core
        self._family = core.family
        self._request = request
        self._body = core.family.sent(request.stream, core.clock)
        self._until = current_limit.get()  # the caller's own: it holds for the body, too
        self.over = self._waited_in_full = False
        self._key: str | None = None
        self.answers: list[Any] = []
        self.collected: list[places.Place] | None = None  # by async layers that hold places
        self.held_before = 0  # places that this thread holds for what is further out
        self.tried: list[Instance] = []
        self.missing: NoInstanceError | None = None
        given = request.extensions.get(EXTENSION)
        self.options = NO_OPTIONS if given is None else Options.of(given)
        self.target = target
        self.plan: Plan = target.plan()
        self._scheme = scheme
        if scheme not in target.proxies:
            target.proxies[scheme] = core.connections.proxy_for(scheme, request.url.host)
        self._proxy = target.proxies[scheme]
        if self._proxy is not None:
            self._check_proxy(scheme)

    @property
    def ready(self) -> bool:
        """Whether there is nothing to wait for and no limit of the request's own."""
        return self.target.known and self.options.timeout is None

    def limited(self) -> AbstractContextManager[object]:
        """The request's own time limit around the whole call."""
        seconds = self.options.timeout
        return nullcontext() if seconds is None else Deadline(seconds, clock=self._core.clock)

    def first_wait(self) -> tuple[Discovery, str, float] | None:
        """What to wait for before the first call of a service."""
        limit = current_limit.get()
        left = None if limit is None else max(0.0, limit.end - limit.clock.monotonic())
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
        request, plan, core = self._request, self.plan, self._core
        if core.idempotency_keys and self._key is None and request.method in _KEYED_METHODS and self._logical:
            self._key = request.headers.get("Idempotency-Key") or str(uuid.uuid4())
        return Exchange(
            self.target.route.key,
            self.target.balancer(self._scheme),
            self.options,
            plan.retry,
            plan.own,
            self._may_repeat,
            self._body.sendable,
            core.clock,
            self.tried,
        )

    def choose(self, exchange: Exchange) -> Attempt:
        """Whom to call next, when the wait for the service had no end that was good."""
        try:
            return exchange.attempt()
        except (NoInstanceError, DeadlineExceededError) as error:
            assert self.missing is not None  # it says more, also when time is up because it was waited for
            raise self.missing from error

    def thrown(self, exchange: Exchange) -> Any:
        """The answer of the attempt before, to be closed now; None when that was an error."""
        kept = exchange.take_kept()
        if not isinstance(kept, self._family.failed):
            return None
        self.answers.remove(kept.response)
        return kept.response

    def outgoing(self, attempt: Attempt) -> Any:
        """The request to one instance. The caller's own stays as it is: Host, redirects and cookies are the name's.

        Raises:
            DeadlineExceededError: when there is no time left, or CallTimeoutError after an attempt.
        """
        request, instance = self._request, attempt.instance
        url, headers, extensions = request.url, request.headers, dict(request.extensions)
        extensions.pop(EXTENSION, None)
        left = None if attempt.limit is None else attempt.time()
        if left is not None:
            extensions["timeout"] = shortened(extensions.get("timeout"), left)
            wanted = self._core.deadline_header
            if wanted or (wanted is None and self._logical):
                headers = headers.copy()
                headers[DEADLINE_HEADER] = header_ms(whole_ms(left), headers.get(DEADLINE_HEADER))
        if self._key is not None:
            headers = headers.copy()
            headers["Idempotency-Key"] = self._key
        if instance is not None:
            if self._scheme == "https":  # verified for the name, never for the address that a registry gave
                extensions.setdefault("sni_hostname", self._core.connections.tls_name or url.host)
            try:
                url = self._family.addressed(url, self._scheme, instance.host, instance.port)
            except self._family.http.InvalidURL as error:  # no host, says a registry: another instance may be one
                raise self._family.http.ConnectError(f"{instance.host!r} is no host: {error}") from error
        body = self._body
        body.read_at = None
        if self._core.connections.factory is not None:
            return self._family.http.Request(request.method, url, headers=headers, stream=body, extensions=extensions)
        # To a pool of our own, which changes nothing: without the copies of the constructor, a fifth of all that we do.
        kind = self._family.http.Request
        out = kind.__new__(kind)
        out.method, out.url, out.headers, out.stream, out.extensions = request.method, url, headers, body, extensions
        return out

    def take(
        self,
        pools: Pools[T],
        make: Callable[[Instance | None, str | None, str | None], T],
        instance: Instance | None,
        out: Any,
    ) -> Place[T]:
        """A place in the pool of an instance."""
        proxy = self._proxy
        if instance is None:
            of_hosts: PoolKey = (None, None, None, None, proxy)
            return pools.used(of_hosts) or pools.take(of_hosts, lambda: True, lambda: make(None, None, proxy))
        scheme, host, port = self._scheme, instance.host, instance.port
        key: PoolKey = (scheme, host, port, out.extensions.get("sni_hostname"), proxy)
        place = pools.used(key)
        if place is None:
            target = self.target
            place = pools.take(key, lambda: target.lists(host, port), lambda: make(instance, scheme, proxy))
        return place

    def failed(self, error: BaseException, attempt: Attempt, exchange: Exchange) -> BaseException:
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
        """No other attempt is made: the error as the policies around the call see it."""
        if isinstance(error, self._family.http.PoolTimeout) and exchange.local_only:
            key = self.target.route.key
            error = self._family.full(f"no connection to {key!r} became free", policy=key)
        if exchange.attempts and isinstance(error, Exception):
            url = self._request.url
            unresolved = isinstance(error, self._family.http.ConnectError)
            hint = self._core.targets.hint(self.target.route, url.host, url.port) if unresolved else ""
            error.add_note(exchange.describe() + hint)
        return error

    def loosen(self, out: Any) -> None:
        """The headers are here: from now on the caller's own timeouts and deadline hold, for the body.

        A limit of a policy, or of this request's `timeout`, ends at the headers. httpcore looks the timeouts up when
        the body begins.
        """
        until = self._until
        left = None if until is None else max(0.0, until.end - until.clock.monotonic())
        out.extensions["timeout"] = shortened(self._request.extensions.get("timeout"), left)

    def _keep(self) -> tuple[places.Place, ...]:
        """Hold the places of this call's policies until the body ends: a response is not over at its headers."""
        mine = places.held.places[self.held_before :] if self.collected is None else self.collected
        return tuple(place for place in mine if place.retain())

    def answer(
        self, response: Any, exchange: Exchange, attempt: Attempt, place: Place[Any], out: Any, body: Callable[..., Any]
    ) -> Any:
        """The answer as the policies see it.

        Raises:
            FailedResponse: holding it, when its status is a failure.
        """
        status, family, instance = response.status_code, self._family, attempt.instance
        if attempt.limit is not None:
            self.loosen(out)
        sent, elapsed = self._body.read_at, None
        if sent is not None:  # without the wait for a connection: else a full pool of ours looks like a slow instance
            elapsed = self._core.clock.monotonic() - sent
        pause = retry_after(response) if status in _COME_BACK_LATER else None
        holding = attempt.answered(status, retry_after=pause, elapsed=elapsed)
        failed = failed_call(status)
        kept = self._keep() if self.plan.holds and not failed else ()  # a failed one must not bar its own repetition
        stream = body(response.stream, holding, place, self._until, self.target.route.key, kept)
        told = {"instance": instance, "attempts": exchange.attempts}
        if self._core.connections.factory is None:  # a pool of our own gives a new one each time: it is ours
            found = response
            found.stream, found.request = stream, self._request
            found.extensions[EXTENSION] = told
        else:
            found = family.http.Response(
                status,
                headers=response.headers,
                stream=stream,
                request=self._request,
                extensions={**response.extensions, EXTENSION: told},
            )
        self.answers.append(found)
        if self.over and isinstance(found.stream, family.http.SyncByteStream):
            found.close()  # a Timeout left this thread behind: nobody will read it
        if not failed:
            if exchange.attempts > 1:
                exchange.went_well()
            return found
        text = f"{status} {response.reason_phrase} from {exchange.describe()}"
        error = family.failed(text, request=self._request, response=found)
        bare = family.http.Response(status)
        attempt.refused(error, lambda: family.failed(text, request=self._request, response=bare))
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def checked(self, answer: Any) -> Any:
        """What the policies gave.

        Raises:
            TypeError: when that is no response.
        """
        if not isinstance(answer, self._family.http.Response):
            module = self._family.http.__name__
            raise TypeError(
                f"the policies of {self.target.route.key!r} gave {answer!r}: a Fallback in a transport gives an"
                f" {module}.Response; to answer something else, put it around the client's call"
            )
        return answer

    def unwanted(self, wanted: Any) -> list[Any]:
        """The call is over: the answers to be closed, because a policy put another one in their place."""
        return [answer for answer in self.answers if answer is not wanted]

    def _may_repeat(self) -> bool:
        request = self._request
        has_key = self._key is not None or "Idempotency-Key" in request.headers
        return self.options.may_repeat(request.method, has_key=has_key)

    @property
    def _logical(self) -> bool:
        return self.target.route.service is not None

    def _check_proxy(self, scheme: str) -> None:
        if self._logical and scheme == "https" and self._proxy and not self._proxy.startswith("socks"):
            raise ConfigError(
                f"https://{self._request.url.host} is a logical name and {self._proxy} an HTTP proxy: the certificate"
                " could not be verified for the name. Put the name into NO_PROXY, or use no proxy",
                path="proxy",
            )
