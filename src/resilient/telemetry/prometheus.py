"""Prometheus: every policy, command and balancer of the process, read when Prometheus asks.

Nothing is counted for it while calls run: it reads the snapshots that policies have anyway.
"""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from resilient.errors import ConfigError
from resilient.keyed import Keyed
from resilient.telemetry.prometheus_client_extra import App, AsgiMetrics, WsgiMetrics, registry_or_default
from resilient.telemetry.prometheus_client_extra import require_client as _require_client
from resilient.telemetry.prometheus_families import CLASSIC, FAMILIES, Family, Together
from resilient.telemetry.prometheus_ledger import Ledger
from resilient.telemetry.prometheus_ledger import Member as _Ref
from resilient.telemetry.prometheus_members import Member, members
from resilient.telemetry.prometheus_processes import of_all_processes
from resilient.telemetry.prometheus_readers import reader_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.registry import Collector
else:
    Collector = object  # what it is asked for is `collect` and `describe`; the package may be absent

logger = logging.getLogger("resilient")

OWNER = "PrometheusCollector"

__all__ = ["PrometheusCollector", "register", "metrics_app", "wsgi_metrics_app"]


class PrometheusCollector(Collector):
    """Shows prometheus_client every policy, command and balancer of this process, and what it is registered as.

    It looks for them at each scrape, so it may be made before or after them; what is dropped is shown no longer.
    Counters never go back: not when a policy is reset, nor when a Keyed drops a key.

    Names stay few. The policies of a `Keyed` are added up, under one name; so are those of the hosts that a transport
    calls and discovery does not list, as `hosts`, and policies of one name beyond the tenth, as `name#11+`. What can
    not be added up, such as a failure ratio, is absent there.

    Args:
        prefix: what names begin with, default `resilient`. `resilience4j` means that library's names and units, for
            dashboards that were made for it: rates in percent, `circuitbreaker_calls_seconds_count`.
        keyed: names for Keyed objects; all others are one, `keyed`.
        labelled: names of policies that are shown on their own although they belong to a Keyed or to a transport's
            hosts, such as `https://api.example.org:443`.

    Raises:
        ConfigError: when prometheus_client is not installed or an argument is wrong.

    Safe for threads. No lock is held while it reads; each policy holds its own for its snapshot.

    Source: the names are those of resilience4j-micrometer, as its Prometheus registry writes them.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> from resilient import CircuitBreaker
        >>> from resilient.telemetry import PrometheusCollector
        >>> breaker = CircuitBreaker("payments")
        >>> registry = CollectorRegistry()
        >>> registry.register(PrometheusCollector())
        >>> b'resilient_circuitbreaker_state{name="payments",state="closed"} 1.0' in generate_latest(registry)
        True
    """

    def __init__(
        self,
        *,
        prefix: str = "resilient",
        keyed: Mapping[str, Keyed[Any, Any]] | None = None,
        labelled: Collection[str] = (),
    ) -> None:
        _require_client(OWNER)
        _check(prefix, keyed, labelled)
        self._prefix = prefix
        self._keyed = dict(keyed or {})
        self._labelled = frozenset(labelled)
        self._ledger = Ledger()

    def describe(self) -> Iterable[Metric]:
        """Every metric there may be, without values."""
        return list({name: metric for name, (metric, _, _) in map(self._named, FAMILIES)}.values())

    def collect(self) -> Iterable[Metric]:
        """Every metric that there is now."""
        begun = self._ledger.begin()
        counted: dict[tuple[str, ...], dict[_Ref, float]] = defaultdict(lambda: defaultdict(float))
        shown: dict[tuple[Family, tuple[str, ...]], list[float]] = defaultdict(list)
        for member in members(self._keyed, self._labelled):
            for family, labels, value in _read(member):
                if family.counts:
                    counted[family.name, family.part, *labels][weakref.ref(member.thing)] += value
                elif not member.shared or family.together is not None:
                    shown[family, labels].append(value)
        totals = self._ledger.totals(counted, begun)
        return self._metrics(shown, totals)

    def together(self) -> Mapping[str, Together | None]:
        """How several values of a gauge become one, by its name; None: they do not."""
        return {self._named(family)[0]: family.together for family in FAMILIES if not family.counts}

    def _metrics(
        self, shown: Mapping[tuple[Family, tuple[str, ...]], list[float]], totals: Mapping[tuple[str, ...], float]
    ) -> list[Metric]:
        found: dict[Family, list[tuple[tuple[str, ...], float]]] = defaultdict(list)
        for (family, labels), values in shown.items():
            found[family].append((labels, values[0] if family.together is None else family.together(values)))
        for (name, part, *labels_of), total in totals.items():
            found[_COUNTERS[name, part]].append((tuple(labels_of), total))
        metrics: dict[str, Metric] = {}
        for family in FAMILIES:
            if family not in found:
                continue
            name, (metric, sample, factor) = self._named(family)
            metric = metrics.setdefault(name, metric)
            for labels, value in sorted(found[family]):
                metric.add_sample(sample, dict(zip(family.labels, labels, strict=True)), value * factor)
        return list(metrics.values())

    def _named(self, family: Family) -> tuple[str, tuple[Metric, str, float]]:
        """(name, (the metric without values, the name of its samples, the factor to its unit))."""
        from prometheus_client.metrics_core import Metric

        classic = self._prefix == CLASSIC
        kind, part, name = family.kind, family.part, family.name
        if classic and family.classic is not None:
            name = family.classic
            if family.counts and name.endswith("_count"):
                kind, part, name = "summary", "_count", name.removesuffix("_count")
        name = f"{self._prefix}_{name}"
        sample = f"{name}_total" if kind == "counter" else name + part
        return name, (Metric(name, family.help, kind), sample, family.factor if classic else 1.0)


def _check(prefix: object, keyed: object, labelled: object) -> None:
    if not isinstance(prefix, str) or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", prefix):
        raise ConfigError(f"{OWNER}: prefix must be letters, digits and _, not {prefix!r}", path="prefix")
    if keyed is not None and not (
        isinstance(keyed, Mapping) and all(isinstance(k, str) and isinstance(v, Keyed) for k, v in keyed.items())
    ):
        raise ConfigError(f"{OWNER}: keyed must be a mapping of names to Keyed objects, not {keyed!r}", path="keyed")
    if isinstance(labelled, str) or not isinstance(labelled, Collection):
        raise ConfigError(f"{OWNER}: labelled must be a collection of names, not {labelled!r}", path="labelled")


_COUNTERS = {(family.name, family.part): family for family in FAMILIES if family.counts}


def _read(member: Member) -> list[tuple[Family, tuple[str, ...], float]]:
    """The values of one member with all labels; none when it can not be read: the others are shown all the same."""
    reader = reader_of(member.thing)
    if reader is None:
        return []
    try:
        return [(family, (member.name, *labels), float(value)) for family, labels, value in reader(member.thing)]
    except AttributeError:  # most likely another thread is still making it: it has its label before it is complete
        logger.debug("no metrics of %r in this scrape", member.name, exc_info=True)
        return []
    except Exception:
        logger.warning("no metrics of %r", member.name, exc_info=True)
        return []


_registered: WeakKeyDictionary[CollectorRegistry, dict[str, PrometheusCollector]] = WeakKeyDictionary()
_lock = threading.Lock()


def register(
    registry: CollectorRegistry | None = None,
    *,
    prefix: str = "resilient",
    keyed: Mapping[str, Keyed[Any, Any]] | None = None,
    labelled: Collection[str] = (),
) -> PrometheusCollector:
    """Register a PrometheusCollector, once per registry and prefix; a second call without more returns the first one.

    Where $PROMETHEUS_MULTIPROC_DIR names a folder, the registry shows the metrics of all processes that use it.

    Args:
        registry: where, default prometheus_client's own `REGISTRY`.
        prefix: as for PrometheusCollector; so are `keyed` and `labelled`.

    Raises:
        ConfigError: when prometheus_client is not installed, an argument is wrong, that folder can not be used, or
            there is a collector of this prefix already and `keyed` or `labelled` ask for another one.

    Safe for threads.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from resilient.telemetry import register
        >>> registry = CollectorRegistry()
        >>> register(registry) is register(registry)
        True
    """
    registry = registry_or_default("register", registry)
    with _lock:
        collectors = _registered.setdefault(registry, {})
        if prefix in collectors:
            if keyed or labelled:
                raise ConfigError(
                    f"register: a collector of prefix {prefix!r} is registered already; give keyed= and labelled= to"
                    " the first call",
                    path="prefix",
                )
            return collectors[prefix]
        made = PrometheusCollector(prefix=prefix, keyed=keyed, labelled=labelled)
        registry.register(of_all_processes(made, prefix, made.together(), restarts=False))
        collectors[prefix] = made
        return made


def metrics_app(registry: CollectorRegistry | None = None, *, prefix: str = "resilient") -> App:
    """An ASGI application that serves a registry, this library's metrics included: for `/actuator/prometheus`.

    It answers GET and HEAD in the format that the scraper asks for, compressed if it may be, and `?name[]=` with these
    metrics only. Collecting runs in a thread, so that the event loop goes on.

    Args:
        registry: what to serve, default prometheus_client's own `REGISTRY`.
        prefix: as for PrometheusCollector.

    Raises:
        ConfigError: as `register`.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from starlette.applications import Starlette
        >>> from starlette.routing import Route
        >>> from resilient.telemetry import metrics_app
        >>> app = Starlette(routes=[Route("/actuator/prometheus", metrics_app(CollectorRegistry()))])
    """
    registry = registry_or_default("metrics_app", registry)
    register(registry, prefix=prefix)
    return AsgiMetrics(registry)


def wsgi_metrics_app(registry: CollectorRegistry | None = None, *, prefix: str = "resilient") -> WsgiMetrics:
    """The same as a WSGI application; arguments and errors as for `metrics_app`.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from resilient.telemetry import wsgi_metrics_app
        >>> app = wsgi_metrics_app(CollectorRegistry())
    """
    registry = registry_or_default("wsgi_metrics_app", registry)
    register(registry, prefix=prefix)
    return WsgiMetrics(registry)
