"""What an ASGI application answers and how long that takes, named as Spring Boot names it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from resilient.checks import whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.errors import ConfigError
from resilient.telemetry.prometheus_client_extra import App, Receive, Scope, Send, registry_or_default
from resilient.telemetry.prometheus_processes import of_all_processes

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.registry import Collector
else:
    Collector = object

logger = logging.getLogger("resilient")

OWNER: Final = "HttpRequestMetrics"
NAME: Final = "http_server_requests_seconds"
LABELS: Final = ("exception", "method", "outcome", "status", "uri")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_OUTCOMES = ("INFORMATIONAL", "SUCCESS", "REDIRECTION", "CLIENT_ERROR", "SERVER_ERROR")
_MAX_OF = 60.0  # seconds; the maximum is that of this minute and the one before, Micrometer's default is two as well


class HttpRequestMetrics:
    """ASGI middleware: counts requests and measures how long they take, until the answer has been sent.

    `http_server_requests_seconds_count`, `_sum` and `_max` (the longest of the last one to two minutes) with the labels
    that Spring Boot's have, so that its dashboards fit:

    - `uri`: the template of the route, `/weather/{zip_code}`, from Starlette's and FastAPI's routers; else `NOT_FOUND`,
      `REDIRECTION`, `root` or `UNKNOWN`, and `OTHER` beyond `max_uris` different ones. Never the path as sent.
    - `method`: `OTHER` for one that HTTP does not know.
    - `status`: `500` when the application raised before it answered, `UNKNOWN` when the request was cancelled before.
    - `outcome`: SUCCESS, REDIRECTION, CLIENT_ERROR, SERVER_ERROR, INFORMATIONAL, UNKNOWN.
    - `exception`: the type's name of what the application raised, else `None`.

    Args:
        app: the application around which it is put.
        registry: where the metrics are collected, default prometheus_client's own `REGISTRY`. Several applications may
            share one. Where $PROMETHEUS_MULTIPROC_DIR names a folder, the registry shows the requests of all processes.
        template: gives the `uri` of a request from its scope once it is answered, for other routers; None from it
            means: as without.
        max_uris: how many different templates, default 100 as Spring Boot's, at least 1.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when prometheus_client is not installed or an argument is wrong.

    Safe for threads and event loops. A request costs one step under a lock.

    Source: names and labels are those of Micrometer's instrumentation of Spring MVC.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from starlette.applications import Starlette
        >>> from resilient.telemetry import HttpRequestMetrics
        >>> app = Starlette()
        >>> app.add_middleware(HttpRequestMetrics, registry=CollectorRegistry())
    """

    def __init__(
        self,
        app: App,
        *,
        registry: CollectorRegistry | None = None,
        template: Callable[[Scope], str | None] | None = None,
        max_uris: int = 100,
        clock: Clock | None = None,
    ) -> None:
        if template is not None and not callable(template):
            raise ConfigError(f"{OWNER}: template must be a function of the scope, not {template!r}", path="template")
        self._app = app
        self._template = template
        self._most = whole(OWNER, "max_uris", max_uris)
        self._uris: set[str] = set()
        self._now = (clock or SYSTEM_CLOCK).monotonic
        self._requests = _requests_of(registry_or_default(OWNER, registry), self._now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and count it; everything that is no HTTP request is only passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, root = self._now(), scope.get("root_path", "")
        status: int | None = None
        raised: BaseException | None = None

        async def sending(message: Scope) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except BaseException as error:
            raised = error
            raise
        finally:
            if status is None and isinstance(raised, Exception):
                status = 500  # what the server makes of it
            labels = (
                "None" if raised is None else type(raised).__name__,
                scope["method"] if scope["method"] in _METHODS else "OTHER",
                _OUTCOMES[status // 100 - 1] if status is not None and 100 <= status < 600 else "UNKNOWN",
                "UNKNOWN" if status is None else str(status),
                self._uri(scope, root, status),
            )
            raised = None  # its traceback holds this frame
            self._requests.count(labels, self._now() - started)

    def _uri(self, scope: Scope, root: str, status: int | None) -> str:
        uri = None
        if self._template is not None:
            try:
                uri = self._template(scope)
            except Exception:  # the answer has been sent: a mistake here must not become the caller's
                logger.warning("%s: template raised", OWNER, exc_info=True)
        if uri is None:
            uri = _routed(scope, root)
        if uri is None:
            return _unrouted(scope, status)
        if uri not in self._uris:
            if len(self._uris) >= self._most:
                return "OTHER"
            self._uris.add(uri)  # two threads may both add the last one: one more, no harm
        return uri


def _routed(scope: Scope, root: str) -> str | None:
    """The template of the route that Starlette found, with those of the mounts around it."""
    fastapi = scope.get("fastapi")  # of a router that was included: its route does not know under which prefix
    included = fastapi.get("effective_route_context") if isinstance(fastapi, dict) else None
    route = scope.get("route") if included is None else included
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(template, str):
        return None
    mounted = str(scope.get("root_path", "")).removeprefix(root)
    if hasattr(route, "routes"):  # the last one is a mount itself: what is in it has no templates
        template = "/{path}"
    if not mounted:
        return template
    parameters = scope.get("path_params", {})
    given = {str(value): f"{{{name}}}" for name, value in parameters.items()}
    mounted = "/".join(given.get(part, part) for part in mounted.split("/"))
    if any(f"{{{name}}}" not in mounted + template and f"{{{name}:" not in template for name in parameters):
        mounted = "/{mount}"  # a value was spelled otherwise, as 007 or in capitals: the path as sent is in there
    return mounted + template


def _unrouted(scope: Scope, status: int | None) -> str:
    if status is not None and 300 <= status < 400:
        return "REDIRECTION"
    if status == 404:
        return "NOT_FOUND"
    return "root" if scope.get("path", "") in {"", "/"} else "UNKNOWN"


class _Series:
    """The requests with the same labels."""

    __slots__ = ("before", "count", "longest", "minute", "total")

    def __init__(self) -> None:
        self.count = self.minute = 0
        self.total = self.longest = self.before = 0.0

    def roll(self, minute: int) -> None:
        if minute > self.minute:
            self.before = self.longest if minute == self.minute + 1 else 0.0
            self.longest, self.minute = 0.0, minute


class _Requests(Collector):
    """All requests that one registry shows."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _Series] = {}
        forget_on_fork(self)

    def count(self, labels: tuple[str, ...], seconds: float) -> None:
        """One more."""
        minute = int(self._now() // _MAX_OF)
        with self._lock:
            series = self._series.get(labels)
            if series is None:
                series = self._series[labels] = _Series()
            series.roll(minute)
            series.count += 1
            series.total += seconds
            if seconds > series.longest:
                series.longest = seconds

    def describe(self) -> Iterable[Metric]:
        """Both metrics, without values."""
        return _metrics()

    def collect(self) -> Iterable[Metric]:
        """Both metrics, with the values of now."""
        times, longest = found = _metrics()
        minute, seen = int(self._now() // _MAX_OF), []
        with self._lock:
            for labels, one in self._series.items():
                one.roll(minute)
                seen.append((labels, one.count, one.total, max(one.longest, one.before)))
        for labels, count, total, most in sorted(seen):
            named = dict(zip(LABELS, labels, strict=True))
            times.add_sample(f"{NAME}_count", named, count)
            times.add_sample(f"{NAME}_sum", named, total)
            longest.add_sample(f"{NAME}_max", named, most)
        return found

    def after_fork_in_child(self) -> None:
        """A new lock; the requests before were the parent's."""
        self._lock = threading.Lock()
        self._series = {}


def _metrics() -> tuple[Metric, Metric]:
    from prometheus_client.metrics_core import Metric

    return (
        Metric(NAME, "Seconds from a request to the end of its answer.", "summary"),
        Metric(f"{NAME}_max", "The longest of them in the last one to two minutes.", "gauge"),
    )


_by_registry: WeakKeyDictionary[CollectorRegistry, _Requests] = WeakKeyDictionary()
_lock = threading.Lock()


def _requests_of(registry: CollectorRegistry, now: Callable[[], float]) -> _Requests:
    with _lock:
        found = _by_registry.get(registry)
        if found is None:
            found = _Requests(now)
            registry.register(of_all_processes(found, "http", {f"{NAME}_max": max}, restarts=True))
            _by_registry[registry] = found
        return found
