"""Health and metrics as an ASGI application, under the paths of Spring Boot's Actuator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from resilient.errors import ConfigError
from resilient.telemetry.health import GROUPS, Health
from resilient.telemetry.prometheus import metrics_app
from resilient.telemetry.prometheus_client_extra import App, Receive, Scope, Send

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_HEALTH = {"/health": None, **{f"/health/{group}": group for group in GROUPS}}
_METRICS = "/prometheus"


class Actuator:
    """An ASGI application with `/health`, `/health/liveness`, `/health/readiness` and `/prometheus`, to be mounted.

    Health answers 200, or 503 when the status is DOWN or OUT_OF_SERVICE, with Spring Boot's document. It has no
    authentication: keep it inside your network, or take the details away.

    Args:
        health: what it reports; default a `Health` without own checks.
        details: False shows the status alone.
        metrics: False serves no `/prometheus`; then prometheus_client is not needed.
        registry: whose metrics, default prometheus_client's own `REGISTRY`; this library's are included.

    Raises:
        ConfigError: when an argument is wrong, or prometheus_client is not installed.

    Safe for any number of requests and event loops at once. Metrics are collected in a thread.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from starlette.applications import Starlette
        >>> from starlette.routing import Mount
        >>> from resilient.telemetry import Actuator
        >>> app = Starlette(routes=[Mount("/actuator", Actuator(registry=CollectorRegistry()))])
    """

    def __init__(
        self,
        health: Health | None = None,
        *,
        details: bool = True,
        metrics: bool = True,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if health is not None and not isinstance(health, Health):
            raise ConfigError(f"Actuator: health must be a Health or None, not {health!r}", path="health")
        self.health = health or Health()
        self._details = details
        self._metrics: App | None = metrics_app(registry) if metrics else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"health and metrics are read by HTTP, not by {scope['type']}")
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", ""))).rstrip("/")
        if path == _METRICS and self._metrics is not None:
            await self._metrics(scope, receive, send)
        elif path in _HEALTH:
            await self._health(scope, send, _HEALTH[path])
        elif not path:
            await _answer(scope, send, 200, {"_links": self._links(scope)})
        else:
            await _answer(scope, send, 404, {"status": 404, "error": "Not Found"})

    async def _health(self, scope: Scope, send: Send, group: str | None) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            await _answer(scope, send, 405, {"status": 405, "error": "Method Not Allowed"}, (b"allow", b"GET, HEAD"))
            return
        report = await self.health.areport(group)
        await _answer(scope, send, report.http_status, report.as_dict(details=self._details))

    def _links(self, scope: Scope) -> dict[str, Any]:
        root = scope.get("root_path", "")
        paths = [*_HEALTH, *([_METRICS] if self._metrics is not None else [])]
        return {path[1:].replace("/", "-"): {"href": f"{root}{path}", "templated": False} for path in paths}


async def _answer(scope: Scope, send: Send, status: int, document: object, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps(document, default=str).encode()  # a check's details are the user's
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
