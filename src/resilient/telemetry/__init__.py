"""Seen from outside: what policies, commands, balancers and servers count, for those who collect it."""

from __future__ import annotations

from resilient.telemetry.actuator import Actuator
from resilient.telemetry.health import Health
from resilient.telemetry.health_report import ComponentInfo, HealthInfo
from resilient.telemetry.http_requests import HttpRequestMetrics
from resilient.telemetry.prometheus import PrometheusCollector, metrics_app, register, wsgi_metrics_app

__all__ = [
    "PrometheusCollector",
    "register",
    "metrics_app",
    "wsgi_metrics_app",
    "HttpRequestMetrics",
    "Health",
    "HealthInfo",
    "ComponentInfo",
    "Actuator",
]
