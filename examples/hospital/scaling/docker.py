"""Replicas of a Docker swarm service, through Docker's Engine API. The swarm itself replaces what dies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx

from examples.hospital.scaling.autoscaler import ReplicaError
from resilient import ConfigError
from resilient.checks import positive_seconds
from resilient.clock import SYSTEM_CLOCK, Clock

_TRIES: Final = 5  # of an update that meets another one
_LOOK: Final = 0.5  # seconds between two looks at the tasks
_OWNER: Final = "DockerReplicas"
_CONFLICT: Final = "out of sequence"  # the swarm's words when the service has changed since it was read: status 500


class DockerReplicas:
    """A service of a swarm in replicated mode.

    The number is changed as `docker service scale` does it: the service is read, and its specification is written back
    with the version that was read. When somebody else was faster, that is refused, and done again with what is there
    now, so that nobody's change is lost. The swarm chooses who goes; it sends SIGTERM, and waits for the service's
    `stop_grace_period`.

    Args:
        service: its name or id, such as `hospital_patient`.
        host: `unix:///var/run/docker.sock` (default) or `tcp://host:port`; a manager of the swarm. Whoever may speak to
            it can do anything on that machine: keep the socket to the autoscaler.
        ready_within: seconds that a new task has to run, default 60.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when a value is wrong.

    For one event loop.
    """

    def __init__(
        self,
        service: str,
        *,
        host: str = "unix:///var/run/docker.sock",
        ready_within: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not service:
            raise ConfigError(f"{_OWNER}: service must be a name or an id", path="service")
        self._service = service
        self._path = f"/services/{quote(service, safe='')}"
        self._ready_within = positive_seconds(_OWNER, "ready_within", ready_within)
        self._clock = clock
        self._tasks: list[dict[str, Any]] = []
        self._api = ""  # the version that the daemon speaks, as a prefix of every path
        scheme, found, rest = host.partition("://")
        if not found or not rest or scheme not in {"unix", "tcp"}:
            raise ConfigError(
                f"{_OWNER}: host must be like unix:///var/run/docker.sock or tcp://10.0.0.1:2375, not {host!r}",
                path="host",
            )
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=rest if scheme == "unix" else None, trust_env=False),
            base_url="http://docker" if scheme == "unix" else f"http://{rest}",
            timeout=10.0,
        )

    async def running(self) -> int:
        """The number in its specification: the swarm sees to it that there are so many."""
        self._tasks = await self._running_tasks()
        return self._number(await self._read())

    async def add(self) -> str:
        """One more, once as many tasks run as the service asks for."""
        wanted = await self._change(1)
        deadline = self._clock.monotonic() + self._ready_within
        while len(tasks := await self._running_tasks()) < wanted:
            if self._clock.monotonic() >= deadline:
                raise ReplicaError(
                    f"{self._service}: {len(tasks)} of {wanted} tasks run after {self._ready_within:g} s"
                )
            await self._clock.sleep_async(_LOOK)
        self._tasks = tasks
        return f"task {wanted} of {self._service}"

    async def remove(self) -> str:
        """One fewer; the swarm chooses which, and lets it end in peace."""
        return f"a task of {self._service}, {await self._change(-1)} stay"

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """The tasks that run, as they were seen last."""
        return [
            {"name": f"{self._service}.{task.get('Slot', '?')}", "task": task.get("ID"), "node": task.get("NodeID")}
            for task in self._tasks
        ]

    async def close(self) -> None:
        """The service stays as it is."""
        await self._http.aclose()

    async def _change(self, step: int) -> int:
        for _ in range(_TRIES):
            service = await self._read()
            number = self._number(service) + step
            spec = {**service["Spec"], "Mode": {"Replicated": {"Replicas": number}}}
            version = {"version": str(service["Version"]["Index"])}
            answer = await self._ask("POST", f"{self._path}/update", params=version, content=json.dumps(spec))
            if answer.status_code == 200:
                return number
            if answer.status_code != 409 and _CONFLICT not in answer.text:
                raise ReplicaError(f"Docker does not scale {self._service}: {_said(answer)}")
        raise ReplicaError(f"{self._service} is being changed by somebody else, again and again")

    async def _read(self) -> dict[str, Any]:
        return dict(self._json(await self._ask("GET", self._path), dict))

    async def _running_tasks(self) -> list[dict[str, Any]]:
        filters = {"service": [self._service], "desired-state": ["running"]}
        answer = await self._ask("GET", "/tasks", params={"filters": json.dumps(filters)})
        tasks = self._json(answer, list)
        return [task for task in tasks if task.get("Status", {}).get("State") == "running"]

    def _number(self, service: Mapping[str, Any]) -> int:
        try:
            return int(service["Spec"]["Mode"]["Replicated"]["Replicas"])
        except (LookupError, TypeError, ValueError):
            raise ReplicaError(f"{self._service} is no replicated service, and cannot be scaled") from None

    def _json(self, answer: httpx.Response, kind: type) -> Any:
        if answer.status_code != 200:
            raise ReplicaError(f"Docker does not tell about {self._service}: {_said(answer)}")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, kind):
            raise ReplicaError(f"what Docker says of {self._service} cannot be read")
        return found

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if "content" in request else {}
        try:
            if not self._api:
                pong = await self._http.get("/_ping")  # old and new daemons have no version in common
                self._api = f"/v{pong.headers['API-Version']}" if "API-Version" in pong.headers else ""
            return await self._http.request(method, self._api + path, headers=headers, **request)
        except httpx.HTTPError as error:
            raise ReplicaError(f"Docker does not answer: {type(error).__name__}: {error}") from error


def _said(answer: httpx.Response) -> str:
    """Docker's own words: `{"message": "service hospital_patient not found"}`."""
    try:
        message = answer.json()["message"]
    except (ValueError, LookupError, TypeError):
        message = answer.text[:200]
    return f"{answer.status_code}, {message}"
