"""An API gateway: routes, policies and fallbacks in front of services, as one ASGI application."""

from __future__ import annotations

from resilient.gateway.app import Gateway
from resilient.gateway.fallbacks import Answer
from resilient.gateway.problems import Failure
from resilient.gateway.routes import Route
from resilient.gateway.settings import GatewaySettings

__all__ = ["Gateway", "Answer", "Failure", "Route", "GatewaySettings"]
