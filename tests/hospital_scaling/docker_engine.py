"""A server that answers as Docker's Engine does: versions of services, tasks that take time, errors in its words."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

API = "1.43"
# As `GET /services/{id}` shows it, from a service that was made by `docker stack deploy`.
SERVICE: dict[str, Any] = {
    "ID": "9mnpnzenvg8p8tdbtq4wvbkcz",
    "Version": {"Index": 19},
    "CreatedAt": "2026-11-25T07:05:51.880065305Z",
    "UpdatedAt": "2026-11-25T07:07:40.229962386Z",
    "Spec": {
        "Name": "hospital_patient",
        "Labels": {"com.docker.stack.image": "hospital:1", "com.docker.stack.namespace": "hospital"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "hospital:1", "StopGracePeriod": 10_000_000_000},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {"Parallelism": 1, "Delay": 2_000_000_000, "FailureAction": "rollback", "Order": "start-first"},
        "EndpointSpec": {"Mode": "dnsrr"},
    },
    "Endpoint": {"Spec": {"Mode": "dnsrr"}},
}


class Engine:
    """The engine.

    Attributes:
        service: what it knows.
        meanwhile: is called before each update: somebody else who changes the service.
        starts: whether new tasks begin to run; else they stay pending.
        paths: what was asked for.
    """

    def __init__(self) -> None:
        self.service = copy.deepcopy(SERVICE)
        self.meanwhile: Callable[[Engine], None] = lambda _: None
        self.starts = True
        self.manager = True
        self.paths: list[str] = []
        self.running = 2
        routes = [
            Route("/_ping", self._ping),
            Route(f"/v{API}/services/{{id}}", self._inspect),
            Route(f"/v{API}/services/{{id}}/update", self._update, methods=["POST"]),
            Route(f"/v{API}/tasks", self._tasks),
        ]
        self.app = Starlette(routes=routes, exception_handlers={404: self._unknown})

    @property
    def replicas(self) -> int:
        """How many the service asks for."""
        return int(self.service["Spec"]["Mode"]["Replicated"]["Replicas"])

    def touch(self) -> None:
        """A change of the service: the version goes up."""
        self.service["Version"]["Index"] += 3

    async def _ping(self, _: Request) -> Response:
        return PlainTextResponse("OK", headers={"API-Version": API, "Docker-Experimental": "false"})

    async def _unknown(self, _: Request, __: Exception) -> Response:
        return JSONResponse({"message": "page not found"}, 404)

    def _refusal(self, request: Request) -> Response | None:
        self.paths.append(request.url.path)
        if not self.manager:
            message = 'This node is not a swarm manager. Use "docker swarm init" to connect this node to swarm.'
            return JSONResponse({"message": message}, 503)
        name = request.path_params.get("id", "hospital_patient")
        if name not in {self.service["ID"], self.service["Spec"]["Name"]}:
            return JSONResponse({"message": f"service {name} not found"}, 404)
        return None

    async def _inspect(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse(self.service)

    async def _update(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        self.meanwhile(self)
        if request.headers.get("content-type") != "application/json":
            return JSONResponse({"message": "Content-Type must be application/json"}, 400)
        if not request.query_params.get("version", "").isdigit():
            return JSONResponse({"message": "invalid service version ''"}, 400)
        if int(request.query_params["version"]) != self.service["Version"]["Index"]:
            return JSONResponse({"message": "rpc error: code = Unknown desc = update out of sequence"}, 500)
        spec = json.loads(await request.body())
        if spec["Name"] != self.service["Spec"]["Name"] or "TaskTemplate" not in spec:
            return JSONResponse({"message": "rpc error: code = InvalidArgument desc = TaskSpec: missing"}, 400)
        self.service["Spec"] = spec
        self.touch()
        if self.starts or self.replicas < self.running:
            asyncio.get_running_loop().call_later(0.2, self._settle)
        return JSONResponse({"Warnings": None})

    def _settle(self) -> None:
        self.running = self.replicas

    async def _tasks(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        filters = json.loads(request.query_params["filters"])
        assert set(filters) == {"service", "desired-state"}
        tasks = [
            {
                "ID": f"task{slot}",
                "Slot": slot,
                "NodeID": "60gvrl6tm78dmak4yl7srz94v",
                "Status": {"State": "running" if slot <= self.running else "pending"},
                "DesiredState": "running",
            }
            for slot in range(1, self.replicas + 1)
        ]
        return JSONResponse(tasks)
