"""Breaking a running service on purpose, for the tour and for you: what Chaos Monkey does for Spring Boot.

Only a service that was started with `--chaos` can be told to misbehave:

    curl --json '{"latency": 2.0}' http://127.0.0.1:PORT/chaos      each answer is two seconds late
    curl --json '{"fail": true}'   http://127.0.0.1:PORT/chaos      each answer is 500
    curl --json '{}'               http://127.0.0.1:PORT/chaos      well again
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from examples.hospital.answers import Problem, json_object, told
from resilient import Chaos, ConfigError, Pipeline

if TYPE_CHECKING:
    from examples.hospital.service import Replica

PATH: Final = "/chaos"
_NEVER: Final = ("/actuator",)  # who looks after a service looks at the real one


class _InjectedError(Exception):
    """The failure that was asked for."""


class Breakable:
    """An application that misbehaves when it is told to.

    Args:
        app: the application.
        replica: whose it is.
    """

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self._app = app
        self._replica = replica
        self._broken: Pipeline[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, well or badly."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == PATH:
            await (await self._told(Request(scope, receive)))(scope, receive, send)
        elif self._broken is None or scope["path"].startswith(_NEVER):
            await self._app(scope, receive, send)
        else:
            await self._badly(self._broken, scope, receive, send)

    async def _badly(self, broken: Pipeline[None], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await broken.acall(self._app, scope, receive, send)
        except _InjectedError:
            await self._replica.answer({"error": "This was broken on purpose."}, 500)(scope, receive, send)

    async def _told(self, request: Request) -> Response:
        try:
            given = await json_object(request)
            self._broken = _made(given)
        except Problem as problem:
            return told(self._replica, problem)
        except ConfigError as error:
            return self._replica.answer({"error": f"{error}."}, 422)
        return self._replica.answer({"chaos": given})


def _made(given: dict[str, Any]) -> Pipeline[None] | None:
    latency, fail = given.get("latency", 0.0), given.get("fail", False)
    if given.keys() - {"latency", "fail"} or not isinstance(fail, bool):
        raise Problem(422, 'Chaos is {"latency": seconds} or {"fail": true}, both, or {} for none.')
    if not latency and not fail:
        return None
    return Pipeline(Chaos(rate=1.0, latency=latency, error=_InjectedError if fail else None, enabled=True))
