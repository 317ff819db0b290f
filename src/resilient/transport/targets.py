"""What is kept per key: the policies around every call, and for a logical name its balancers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from resilient.balancing import Balancer, RoundRobin, Strategy
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError
from resilient.keyed import Keyed
from resilient.pipeline import Pipeline
from resilient.policy import Policy
from resilient.transport.plans import Plan
from resilient.transport.routing import Route, route, single_label
from resilient.transport.usual import Usual

FIRST_USE_WAIT = 5.0  # seconds that the first call of a service waits for discovery's first answer
ONE_ANSWER_WAIT = 1.0  # seconds, when it has answered before without that service

_LATELY = 256  # lanes that are found without asking the bounded table of all, which keeps an order of use


class Target:
    """One service, or one host that is not logical, as this transport sees it."""

    __slots__ = ("__weakref__", "_balancers", "_discovery", "_listed", "known", "plan", "route")

    def __init__(
        self, route: Route, plan: Callable[[], Plan], discovery: Discovery | None, balancers: dict[bool, Balancer]
    ) -> None:
        self.route = route
        self.plan = plan
        self.known = not balancers  # or once waited for
        self._discovery = discovery
        self._balancers = balancers
        self._listed: tuple[tuple[Instance, ...], frozenset[tuple[str, int]]] = ((), frozenset())

    @property
    def layers(self) -> tuple[Policy[Any], ...]:
        """Its policies: while they remember something, it is not forgotten."""
        return self.plan().layers

    @property
    def service(self) -> str | None:
        """The service that it is, if it is one."""
        return self.route.service

    def balancer(self, scheme: str) -> Balancer | None:
        """Who chooses among its instances; None for a host that is not logical."""
        return self._balancers.get(scheme == "https")

    def first_wait(self, left: float | None) -> tuple[Discovery, str, float] | None:
        """(whom to ask, for which service, for how many seconds) before the first call; None when that is over."""
        if self.known or self._discovery is None or self.route.service is None:
            return None
        if self._discovery.instances(self.route.service):
            self.known = True
            return None
        # A registry that has answered once knows it after one more answer or not at all: names come from users.
        answered = self._discovery.age(self.route.service) != float("inf")
        wait = ONE_ANSWER_WAIT if answered else FIRST_USE_WAIT
        return self._discovery, self.route.service, wait if left is None else min(left, wait)

    def lists(self, host: str, port: int) -> bool:
        """Whether an address is among the instances that discovery knows now."""
        if self._discovery is None or self.route.service is None:
            return False
        found = self._discovery.instances(self.route.service)
        known = self._listed
        if found is not known[0]:  # asked once per pool: one look at the list for all of them
            known = self._listed = (found, frozenset((instance.host, instance.port) for instance in found))
        return (host, port) in known[1]

    def hear(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call `changed` after each change of the instances, in the thread or loop that refreshes."""
        assert self._discovery is not None  # else nothing is on its list
        assert self.route.service is not None
        return self._discovery.subscribe(self.route.service, lambda _change: changed())


class Lane:
    """The way to a target by one scheme: what does not change from one request to the next."""

    __slots__ = ("balancer", "clock", "hint", "key", "logical", "proxy", "scheme", "target")

    def __init__(
        self,
        target: Target,
        scheme: str,
        clock: Clock,
        *,
        proxy: str | None = None,
        hint: Callable[[str, int | None], str] = lambda _host, _port: "",
    ) -> None:
        self.target = target
        self.scheme = scheme
        self.clock = clock  # measures the calls
        self.key = target.route.key
        self.logical = target.service is not None
        self.balancer = target.balancer(scheme)
        self.proxy = proxy
        self.hint = hint  # what to say when a host, and port, can not be found


class Targets:
    """The targets of one transport, bounded: URLs come from users. Owns a discovery that it made from a URL.

    Args:
        discovery: a Discovery, the URL of one, or None.
        policies: makes the policies of a key; None: the usual ones.
        strategy: makes what chooses, one per service and scheme.
        is_logical: whether a host names a service; None: by its form.
        says_nothing: which errors of the client say nothing about a service.
        clock: of the transport; None: the machine's.
        proxy_for: the proxy for a scheme and a host, if the transport knows one; asked once while it is remembered.
    """

    def __init__(
        self,
        discovery: Discovery | str | None,
        policies: Callable[[str], Pipeline[Any]] | None,
        strategy: Callable[[], Strategy] = RoundRobin,
        *,
        is_logical: Callable[[str], bool] | None,
        says_nothing: Callable[[Exception], bool],
        clock: Clock | None,
        proxy_for: Callable[[str, str], str | None] = lambda _scheme, _host: None,
    ) -> None:
        if discovery is not None and not isinstance(discovery, (str, Discovery)):
            raise ConfigError(
                f"discovery must be a Discovery, a URL like eureka://localhost:8761, or None, not {discovery!r}",
                path="discovery",
            )
        for path, given in (("policies", policies), ("strategy", strategy), ("is_logical", is_logical)):
            if given is not None and not callable(given):
                raise ConfigError(f"{path} must be a function, not {given!r}", path=path)
        self._owned = isinstance(discovery, str)
        self._discovery = Discovery.from_url(discovery) if isinstance(discovery, str) else discovery
        self._is_logical = None if discovery is None else is_logical or single_label
        self._policies = policies
        self._strategy = strategy
        self._says_nothing = says_nothing
        self._clock = clock
        self._by_route: Keyed[Route, Target] = Keyed(self._make)
        self._proxy_for = proxy_for
        self.lately: dict[tuple[str, str, int | None], Lane] = {}

    def find(self, asked: tuple[str, str, int | None], host: str) -> Lane:
        """The way to the target of a URL.

        Args:
            asked: its scheme, host and port, in any form that is the same for the same URL.
            host: in the form that people read.
        """
        found = self.lately.get(asked)
        if found is None:
            if len(self.lately) >= _LATELY:
                self.lately.clear()
            scheme, _, port = asked
            target = self._by_route[route(scheme, host, port, self._is_logical)]
            found = self.lately[asked] = Lane(
                target,
                scheme,
                self._clock or SYSTEM_CLOCK,
                proxy=self._proxy_for(scheme, host),
                hint=partial(self._hint, target.route),
            )
        return found

    def of_key(self, key: str) -> Target:
        """The target of a key: a logical name, or `scheme://host:port`.

        Raises:
            ConfigError: when the key is neither.
        """
        scheme, is_url, address = key.partition("://")
        if is_url:
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise ConfigError(
                    f"the key of a host is scheme://host:port, as in http://example.org:80, not {key!r}", path="key"
                )
            return self._by_route[Route(f"{scheme.lower()}://{host.lower()}:{port}", None)]
        found = route("http", key, None, self._is_logical)
        if found.service is None:
            raise ConfigError(f"{key!r} is no logical name of this transport{self._why_not(key)}", path="key")
        return self._by_route[found]

    def close(self) -> None:
        """Close the discovery, if it was made here."""
        if self._owned and self._discovery is not None:
            self._discovery.close()

    async def aclose(self) -> None:
        """The same for an event loop."""
        if self._owned and self._discovery is not None:
            await self._discovery.aclose()

    def _hint(self, found: Route, host: str, port: int | None) -> str:
        """What to say when a host that is not logical can not be found, but looks like a logical name."""
        if found.service is not None:
            return ""
        if self._discovery is None:
            named = port is None and single_label(host.lower())
            return f"; {host!r} was looked up as a host: without a discovery no name is a service" if named else ""
        first = host.lower().partition(".")[0]
        if not self._discovery.instances(first):
            return ""
        if port is not None and single_label(host.lower()):
            return (
                f"; with a port it is an address: {first!r} is a service of {self._discovery!r}, write it without one"
            )
        return f"; {first!r} is a service of {self._discovery!r}: is_logical= says which hosts are names"

    def __repr__(self) -> str:
        return f"{self._discovery!r}, {len(self._by_route)} targets" if self._discovery else "no discovery"

    def _why_not(self, name: str) -> str:
        if self._discovery is None:
            return ": it has no discovery"
        return f": {name!r} is not a single label without a port" if self._is_logical is single_label else ""

    def _make(self, found: Route) -> Target:
        balancers = {}
        if found.service is not None and self._discovery is not None:
            balancers = {
                secure: Balancer(
                    found.service, self._discovery, self._strategy, secure=secure, clock=self._clock or SYSTEM_CLOCK
                )
                for secure in (False, True)
            }
        return Target(found, self._plan_of(found), self._discovery, balancers)

    def _plan_of(self, found: Route) -> Callable[[], Plan]:
        if self._policies is None:
            return Usual(
                found.key, says_nothing=self._says_nothing, alone=lambda: self._is_alone(found), clock=self._clock
            ).plan
        pipeline = self._policies(found.key)
        if not isinstance(pipeline, Pipeline):
            raise ConfigError(
                f"policies must return a Pipeline for the key {found.key!r}, not {pipeline!r}", path="policies"
            )
        plan = Plan(pipeline, found.key)
        return lambda: plan

    def _is_alone(self, found: Route) -> bool:
        return found.service is None or self._discovery is None or len(self._discovery.instances(found.service)) < 2
