"""The hospital's front door: one address for all services, and a sentence when one of them does not answer.

    python -m examples.hospital.gateway --registry eureka://localhost:8761

Which path leads to which service, with which limits, stands in routes.toml. Here are the fallbacks, which answer in a
service's place, `/circuits`, which shows what the routes' policies think at the moment, and `/actuator`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from examples.hospital.actuator import PATH, actuator
from examples.support.serving import HOST, listen_or_exit, log_to_stderr, serve
from resilient import CircuitBreaker, ConfigError
from resilient.checks import did_you_mean
from resilient.gateway import Answer, Failure, Gateway
from resilient.gateway.route_file import read_file
from resilient.telemetry import Health, HttpRequestMetrics

ROUTES: Final = Path(__file__).with_name("routes.toml")
SORRY: Final = {
    "patient": "Patient information is currently unavailable",
    "reception": "Reception is currently unavailable",
    "ward": "Ward information is currently unavailable",
    "finance": "Finance information is currently unavailable",
}
_OWN: Final = frozenset({"circuits", PATH.strip("/")})
_SOON: Final = 2.0  # seconds after which to try again, where the circuit does not know better


def sorry(service: str) -> Callable[[Failure], Answer]:
    """What a user reads when a service does not answer: the gateway itself speaks, so no replica is named."""

    def answer(failure: Failure) -> Answer:
        wait = math.ceil(failure.retry_after or _SOON)
        said = {"error": SORRY[service], "reason": failure.detail, "retry_after": wait}
        return Answer(said, headers={"Retry-After": str(wait)})

    return answer


class FrontDoor:
    """The gateway, and what it says of itself at `/circuits` and `/actuator`.

    Args:
        routes: the route file.
        discovery: where to ask who is there; None: what the file says.

    Raises:
        ConfigError: for all mistakes in the file at once.
    """

    def __init__(self, routes: Path | str, discovery: str | None) -> None:
        fallbacks = {f"/fallback/{service}": sorry(service) for service in SORRY}
        self.gateway = Gateway.from_file(routes, discovery=discovery, fallbacks=fallbacks)
        _check_services(routes)
        self.health = Health()
        self._own = Starlette(routes=[Route("/circuits", self._circuits), actuator(self.health)])
        self._counted = HttpRequestMetrics(self._answer, template=_path_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: what is not our own is the gateway's."""
        await self._counted(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = scope["type"] == "http" and _first(scope) in _OWN
        await (self._own if own else self.gateway)(scope, receive, send)

    async def _circuits(self, _: Request) -> Response:
        return JSONResponse(self.circuits())

    def circuits(self) -> dict[str, str]:
        """The state of each route's circuit."""
        return {
            name: policy.state.value
            for name, pipeline in self.gateway.pipelines.items()
            for policy in pipeline.policies
            if isinstance(policy, CircuitBreaker)
        }


def _first(scope: Scope) -> str:
    return str(scope["path"]).split("/", 2)[1] if scope["path"].startswith("/") else ""


def _path_of(scope: Scope) -> str | None:
    """Which requests are counted together: those for one service; a path as it was sent may be anything."""
    return f"/{service}/**" if (service := _first(scope)) in SORRY else None


def _check_services(routes: Path | str) -> None:
    """A registry cannot tell a service that nobody has started yet from one that does not exist; the hospital can."""
    for name, route in read_file(routes)[1]["routes"].items():
        service = route.get("service")
        if service is not None and service not in SORRY:
            close = did_you_mean(service, SORRY)
            raise ConfigError(f"{routes}: routes.{name}.service: the hospital has no service {service!r}{close}")


def main() -> None:
    """Run it as a process."""
    parser = argparse.ArgumentParser(prog="gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--registry", help="such as eureka://localhost:8761 (default: $RESILIENT_DISCOVERY)")
    parser.add_argument("--routes", type=Path, default=ROUTES, help="the route file (default: the one beside this)")
    parser.add_argument("--host", default=HOST, help="where to listen (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        app = FrontDoor(arguments.routes, arguments.registry or os.environ.get("RESILIENT_DISCOVERY"))
    except ConfigError as error:
        parser.error(str(error))
    listener = listen_or_exit(parser, arguments.port, host=arguments.host)
    serve(app, listener, name="gateway", proxy_headers=False, server_header=False, date_header=False)


if __name__ == "__main__":
    main()
