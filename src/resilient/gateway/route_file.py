"""From tables to routes: every mistake is found before the first request, and all of them are told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, Final

import httpx

from resilient.checks import did_you_mean
from resilient.clock import Clock
from resilient.config_values import Mistakes, build, join
from resilient.discovery import Discovery
from resilient.discovery.static import StaticDiscovery
from resilient.errors import ConfigError
from resilient.gateway.fallbacks import Fallbacks
from resilient.gateway.routes import Route
from resilient.gateway.settings import GatewaySettings
from resilient.gateway.upstreams import POLICY_SETTINGS, Upstream, policies_of
from resilient.policy import Policy
from resilient.transport.routing import single_label

TABLES: Final = ("discovery", "gateway", "defaults", "routes", "fallbacks")

_ROUTE: Final = tuple(one.name for one in fields(Route))
_GATEWAY: Final = tuple(one.name for one in fields(GatewaySettings))
_OFF_IS_NONE: Final = frozenset({"idle_timeout", "fallback"})
_NOT_SHARED: Final = frozenset({"path", "service", "url", "methods", "host", "headers", "strip_prefix"})


@dataclass(frozen=True)
class Plan:
    """What a gateway is made of.

    Attributes:
        settings: of all routes.
        upstreams: in the order of the routes.
        fallbacks: by path.
    """

    settings: GatewaySettings
    upstreams: tuple[Upstream, ...]
    fallbacks: Fallbacks


def read_file(path: str | PathLike[str]) -> tuple[str, dict[str, Any]]:
    """(its name, its tables) of a TOML file.

    Raises:
        ConfigError: when it can not be read, or is no TOML.
    """
    if not isinstance(path, (str, PathLike)):
        raise ConfigError(f"Gateway: path must be a path, not {path!r}", path="path")
    file = Path(path)
    try:
        return file.name, tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Gateway: {file} can not be read: {error.strerror or error}", path="path") from error
    except ValueError as error:
        raise ConfigError(f"Gateway: {file} is no TOML: {error}", path="path") from error


def planned(
    source: str,
    tables: Mapping[str, Any],
    *,
    discovery: Discovery | None,
    transport: Callable[..., httpx.AsyncBaseTransport] | None,
    clock: Clock | None,
) -> Plan:
    """Check everything, then make it.

    Args:
        source: what is read, for the error.
        tables: `gateway`, `defaults`, `routes`, `fallbacks`.
        discovery: who is there.
        transport: as `AsyncResilientTransport` takes it.
        clock: of the policies.

    Raises:
        ConfigError: one for all mistakes, a line for each with its path.
    """
    mistakes = Mistakes()
    _check_words(tables, TABLES, "", "table", mistakes)
    found = {word: _table(tables.get(word, {}), word, mistakes) for word in TABLES[1:]}
    _check_words(found["gateway"], _GATEWAY, "gateway.", "setting", mistakes)
    settings = build(GatewaySettings, _known(found["gateway"], _GATEWAY), "gateway", mistakes, {})
    _check_defaults(found["defaults"], mistakes)
    defaults = {word: one for word, one in found["defaults"].items() if not mistakes.under(f"defaults.{join(word)}")}
    fallbacks = Fallbacks(found["fallbacks"], mistakes)
    if not found["routes"] and not mistakes.under("routes"):
        mistakes.add("routes", "there is none: [routes.NAME] with a path and a service")
    made = [_route(name, table, defaults, mistakes, clock=clock) for name, table in found["routes"].items()]
    for name, route, _ in filter(None, made):
        _check_upstream(f"routes.{join(name)}", route, discovery, mistakes)
        if route.fallback is not None and (why := fallbacks.why_not(route.fallback)):
            mistakes.add(f"routes.{join(name)}.fallback", why)
    mistakes.raise_if_any(source)
    limits = httpx.Limits(max_connections=settings.max_connections, max_keepalive_connections=settings.max_connections)
    upstreams = tuple(
        Upstream(name, route, policies, discovery=discovery, limits=limits, clock=clock, transport=transport)
        for name, route, policies in filter(None, made)
    )
    return Plan(settings, upstreams, fallbacks)


def _route(
    name: str, given: Any, defaults: Mapping[str, Any], mistakes: Mistakes, *, clock: Clock | None
) -> tuple[str, Route, dict[str, Policy[Any]]] | None:
    path = f"routes.{join(name)}"
    table = _table(given, path, mistakes)
    _check_words(table, (*_ROUTE, *POLICY_SETTINGS), f"{path}.", "setting", mistakes)
    if mistakes.under(path) and not table:
        return None
    whole = {word: None if value is False and word in _OFF_IS_NONE else value for word, value in table.items()}
    for word, value in defaults.items():
        whole.setdefault(word, None if value is False and word in _OFF_IS_NONE else value)
    policies = policies_of(whole, path, mistakes, clock)
    if "path" not in table:
        mistakes.add(f"{path}.path", "is needed: a prefix like '/patient', or '/' for everything")
    own = Mistakes()
    route = build(Route, _known(whole, _ROUTE), path, own, {})
    if own.under(f"{path}.url") or own.under(f"{path}.service"):
        own._found.pop(path, None)  # without what is wrong there is no upstream at all: that goes without saying
    mistakes.take(own)
    return None if route is None else (name, route, policies)


def _check_defaults(table: Mapping[str, Any], mistakes: Mistakes) -> None:
    known = tuple(word for word in (*_ROUTE, *POLICY_SETTINGS) if word not in _NOT_SHARED)
    _check_words(table, known, "defaults.", "setting for all routes", mistakes)
    of_routes = [word for word in _ROUTE if word in known and not (table.get(word) is False and word in _OFF_IS_NONE)]
    build(Route, _known(table, of_routes), "defaults", mistakes, {"service": "any"})
    policies_of({word: table.get(word, False) for word in POLICY_SETTINGS}, "defaults", mistakes, None)


def _check_upstream(path: str, route: Route, discovery: Discovery | None, mistakes: Mistakes) -> None:
    """Whether a logical name can be found at all. Who is registered is known only later, in most registries."""
    url = httpx.URL(route.base)
    if route.service is None and (url.port is not None or not single_label(url.host)):
        return
    place = f"{path}.{'url' if route.service is None else 'service'}"
    if discovery is None:
        if route.service is not None:
            mistakes.add(place, f"{route.service!r} is a logical name, and there is no discovery: give one, or a url")
        return
    if isinstance(discovery, StaticDiscovery) and not discovery.instances(url.host):
        known = sorted(discovery._roster.known)
        mistakes.add(place, f"there is no service {url.host!r} in {discovery!r}{did_you_mean(url.host, known)}")


def _table(given: Any, path: str, mistakes: Mistakes) -> Mapping[str, Any]:
    if isinstance(given, Mapping) and all(isinstance(word, str) for word in given):
        return given
    mistakes.add(path, f"must be a table, not {given!r}")
    return {}


def _known(table: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    return {word: table[word] for word in known if word in table}


def _check_words(table: Mapping[str, Any], known: tuple[str, ...], prefix: str, what: str, mistakes: Mistakes) -> None:
    for word in table:
        if word not in known:
            close = did_you_mean(word, known) or f"; these are: {', '.join(known)}"
            mistakes.add(f"{prefix}{join(word)}", f"there is no {what} {word!r}{close}")
