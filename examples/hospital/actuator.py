"""What operations sees of each process: health and metrics under /actuator, the same for all of them."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount

from resilient.telemetry import Actuator, Health, HttpRequestMetrics

PATH: Final = "/actuator"


def actuator(health: Health, *, registry: CollectorRegistry | None = None) -> Mount:
    """The route to /actuator/health and /actuator/prometheus.

    Args:
        health: what there is to say about the process.
        registry: where its metrics are collected, default the process's own.
    """
    return Mount(PATH, Actuator(health, registry=registry))


def watch(app: Starlette, health: Health, *, registry: CollectorRegistry | None = None) -> Starlette:
    """`app` with that route, and with its requests counted as Spring Boot counts them; arguments as above."""
    app.router.routes.append(actuator(health, registry=registry))
    app.add_middleware(HttpRequestMetrics, registry=registry)
    return app
