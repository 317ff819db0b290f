"""The way to the upstream of one route: its policies, its connections, its own view of the instances."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import httpx

from resilient.checks import positive_seconds
from resilient.clock import Clock
from resilient.command_settings import KINDS
from resilient.config_tables import SERVICE_POLICIES, choose, without_kind
from resilient.config_values import Mistakes, arguments_of, build, said
from resilient.discovery import Discovery
from resilient.errors import ConfigError, ResilienceError
from resilient.gateway.routes import Route
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.policy import Policy
from resilient.transport import AsyncResilientTransport

POLICY_SETTINGS: Final = ("timeout", "breaker", "retry", "rate_limiter", "bulkhead", "attempt_timeout")
"""Outermost first: the breaker judges what is left after other instances were tried."""

TIMEOUT: Final = 30.0
_DEFAULTS: Final[Mapping[str, Any]] = {"timeout": TIMEOUT, "breaker": True, "retry": True}


def policies_of(table: Mapping[str, Any], path: str, mistakes: Mistakes, clock: Clock | None) -> dict[str, Policy[Any]]:
    """The policies of a route, made from its table; outermost first, by setting.

    Args:
        table: of the route; what it does not speak of is as usual: a timeout, a breaker, a retry.
        path: where it stands.
        mistakes: gets what is wrong.
        clock: of the policies.
    """
    found = {}
    for setting in POLICY_SETTINGS:
        given = table.get(setting, _DEFAULTS.get(setting, False))
        here = f"{path}.{setting}"
        if given is False or given is None:
            continue
        made = _timeout(given, here, mistakes, clock) if setting.endswith("timeout") else None
        if setting in SERVICE_POLICIES:
            made = _policy(setting, given, here, mistakes, clock)
        if made is not None:
            found[setting] = made
    return found


def _timeout(given: Any, path: str, mistakes: Mistakes, clock: Clock | None) -> Policy[Any] | None:
    try:
        return Timeout(positive_seconds("Route", path, given), clock=clock)
    except ConfigError as error:
        mistakes.add(path, said(error))
        return None


def _policy(setting: str, given: Any, path: str, mistakes: Mistakes, clock: Clock | None) -> Policy[Any] | None:
    if isinstance(given, Policy):
        if given.kind in KINDS[setting]:
            return given
        mistakes.add(path, f"must be a policy of the kind {' or '.join(KINDS[setting])}, not {given!r}")
        return None
    if given is not True and not isinstance(given, Mapping):
        mistakes.add(path, f"must be a table, true or false, not {given!r}")
        return None
    table = {} if given is True else given
    kind = choose(setting, table, KINDS[setting][0], path, mistakes)
    if kind is None:
        return None
    words = without_kind(table)
    if build(kind, words, path, mistakes, {}) is None:
        return None
    usual: dict[str, Any] = {"clock": clock}
    if kind is CircuitBreaker or kind is Retry:
        usual["ignore"] = says_nothing
    told = arguments_of(kind, words, path, mistakes)
    return _guarding(partial(kind, **{**usual, **told}), path, mistakes)


def _guarding(make: Any, path: str, mistakes: Mistakes) -> Policy[Any] | None:
    made: Policy[Any] = make()
    try:
        made._async()
    except ConfigError as error:  # a pool of threads guards functions only
        mistakes.add(path, str(error))
        return None
    return made


def says_nothing(error: Exception) -> bool:
    """Whether an error says nothing about the upstream: a request that can not be sent, a caller that left."""
    return isinstance(
        error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.ProxyError, httpx.PoolTimeout)
    ) or not isinstance(error, (httpx.HTTPError, OSError, ResilienceError))


class Upstream:
    """One route, ready to be used.

    Args:
        name: of the route; of its policies, too.
        route: where to.
        policies: by setting, outermost first.
        discovery: who is there.
        limits: of the connections to one instance.
        clock: of the transport.
        transport: makes the client transport of an instance, for tests; default connections.
    """

    def __init__(
        self,
        name: str,
        route: Route,
        policies: Mapping[str, Policy[Any]],
        *,
        discovery: Discovery | None,
        limits: httpx.Limits,
        clock: Clock | None,
        transport: Any = None,
    ) -> None:
        self.name = name
        self.route = route
        self.base = route.base
        url = httpx.URL(self.base)
        self.origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self.base_path = url.raw_path.rstrip(b"/")
        self.host = url.netloc
        self.prefix = b"".join(b"/" + segment for segment in route.segments[: route.stripped])
        idle = route.idle_timeout or None
        self.timeouts = {"connect": route.connect_timeout, "read": idle, "write": idle, "pool": route.connect_timeout}
        self.patience = self._patience(policies)
        self.failures = frozenset(route.fallback_on if route.fallback else ())
        self.pipeline: Pipeline[httpx.Response] | None = None
        if policies:
            self.pipeline = Pipeline(*policies.values())
            self.pipeline.adopt_name(name)
        # A place is held until the answer's body has ended; the policies of a transport end at the headers.
        outside = policies.get("bulkhead")
        self.bulkhead = outside if isinstance(outside, Bulkhead) else None
        inner = [policy for policy in policies.values() if policy is not self.bulkhead]
        pipeline: Pipeline[httpx.Response] = Pipeline(*(inner or [_Nothing()]))
        self.transport = AsyncResilientTransport(
            discovery,
            policies=lambda _key: pipeline,
            limits=None if transport else limits,
            trust_env=False,  # a proxy of the environment is for what leaves the house
            deadline_header=True,
            transport=transport,
            clock=clock,
        )

    @staticmethod
    def _patience(policies: Mapping[str, Policy[Any]]) -> float | None:
        limits = [policy.seconds for policy in policies.values() if isinstance(policy, Timeout)]
        # Half of it: when the time is up the upstream had at least as much, and it is its fault and not the caller's.
        return min(limits) / 2 if limits else None


class _Nothing(Policy[Any]):
    """Stands where a route has no policies at all."""

    kind = "nothing"

    def layer(self, inner: Any, limit: float, given: Any) -> Any:
        return inner

    def alayer(self, inner: Any, limit: float, given: Any) -> Any:
        return inner
