"""What operations sees of each process: health and metrics under /actuator, the same for all of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount

from resilient.telemetry import Actuator, Health, HttpRequestMetrics

PATH = "/actuator"


def watch(app: Starlette, health: Health, *, registry: CollectorRegistry | None = None) -> Starlette:
    """`app` with /actuator/health and /actuator/prometheus, and with its requests counted as Spring Boot counts them.

    Args:
        app: the application; what it routes at `/` stays behind this.
        health: what there is to say about it.
        registry: where its metrics are collected, default the process's own.
    """
    app.router.routes.insert(0, Mount(PATH, Actuator(health, registry=registry)))
    app.add_middleware(HttpRequestMetrics, registry=registry)
    return app
