"""One entry in Consul, kept alive by a check that must be renewed. Decides only; sends nothing itself."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Callable
from urllib.parse import quote

from resilient.clock import Clock
from resilient.discovery.consul_watch import Agent
from resilient.discovery.consul_wire import write_service
from resilient.discovery.instance import Instance
from resilient.discovery.lease import KeptLease
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Exchange, Send, Server

_WRITING = "writing"


class ConsulLease(KeptLease):
    """The job that keeps one instance listed. Safe for threads.

    Args:
        instance: what is registered; an empty host is found out, an empty id becomes `host:service:port`.
        servers: the agent.
        agent: what every request says.
        tag: the instance's tag.
        ttl: seconds for which a renewal is good; it is renewed at a third.
        reap: seconds after which the agent drops an instance that was not renewed.
        drain: seconds between maintenance and the end.
        health: asked before each renewal; None: always well.
        listed: called when it was registered.
        clock: where time comes from.
    """

    def __init__(
        self,
        instance: Instance,
        servers: Servers,
        agent: Agent,
        *,
        tag: str | None,
        ttl: float,
        reap: float,
        drain: float,
        health: Callable[[], bool] | None,
        listed: Callable[[], object],
        clock: Clock,
    ) -> None:
        super().__init__(
            instance, servers, renew_interval=ttl / 3, lease=ttl, health=health, listed=listed, clock=clock
        )
        self._agent = agent
        self._tag = tag
        self._reap = reap
        self.drain = drain

    def _beat(self) -> Exchange[None]:
        if not (yield from self._locate()):
            return
        told = self._told
        if told is None:
            yield from self._register()
            return
        dirty, status = self._condition.read()
        answer = Answer(200)
        if "OUT_OF_SERVICE" in {told[1], status} and told[1] != status:
            answer = yield from self._maintain(status)
        if answer.good:
            answer = yield from self._put(f"/v1/agent/check/{_verb(status)}/{quote(self._check, safe='')}")
        if _unknown(answer):
            self._lose("the agent does not know it")
            yield from self._register()
            return
        if answer.good:
            self._told = dirty, status
        self._settle(answer)

    def _register(self) -> Exchange[None]:
        dirty, status = self._condition.read()
        self._sent = True
        body = write_service(
            self.instance,
            tag=self._tag,
            check=self._check,
            ttl=self._lease,
            reap=self._reap,
            passing=status != "DOWN",
        )
        if status == "OUT_OF_SERVICE":  # never visible for a moment: the check passes when maintenance is on
            body["Check"]["Status"] = "critical"
        answer = yield from self._put("/v1/agent/service/register", json.dumps(body).encode())
        if answer.good:  # an agent remembers maintenance over a restart of the service, and of itself
            answer = yield from self._maintain(status)
        if answer.good and status == "OUT_OF_SERVICE":
            answer = yield from self._put(f"/v1/agent/check/pass/{quote(self._check, safe='')}")
        if answer.good:
            self._told = dirty, status
        self._settle(answer)

    def _maintain(self, status: str) -> Exchange[Answer]:
        enable = "true" if status == "OUT_OF_SERVICE" else "false"
        return (yield from self._put(self._maintenance, enable=enable, reason="out of service"))

    def fade(self, budget: float) -> Exchange[None]:
        """Maintenance: callers that look up come no more."""

        def send(server: Server, timeout: float) -> Send:
            path = self._agent.path(self._maintenance, enable="true", reason="closing")
            return Send(server, "PUT", path, timeout, headers=self._agent.headers)

        if self._sent:
            yield from self._to_one(budget, send)

    def _put(self, path: str, body: bytes | None = None, **query: str) -> Exchange[Answer]:
        return (
            yield from self._servers.ask(
                "PUT",
                self._agent.path(path, **query),
                lambda answer: "" if answer.good or _unknown(answer) else Agent.told(answer),
                body=body,
                headers=self._agent.headers,
                purpose=_WRITING,
            )
        )

    def _greet(self) -> Exchange[Answer]:
        """Our address on the connection to the agent; where that is on this machine, its own in the cluster."""
        answer = yield from self._servers.ask(
            "GET",
            self._agent.path("/v1/agent/self"),
            lambda answer: "" if answer.local else str(answer),  # whatever the token may read
            headers=self._agent.headers,
            purpose=_WRITING,
        )
        if answer.local and ipaddress.ip_address(answer.local).is_loopback:
            return dataclasses.replace(answer, local=_member(answer.body) or answer.local)
        return answer

    def _farewell(self, server: Server, timeout: float) -> Send:
        path = self._agent.path(f"/v1/agent/service/deregister/{quote(self.instance.id, safe='')}")
        return Send(server, "PUT", path, timeout, headers=self._agent.headers)

    @property
    def _maintenance(self) -> str:
        return f"/v1/agent/service/maintenance/{quote(self.instance.id, safe='')}"

    @property
    def _check(self) -> str:
        return f"service:{self.instance.id}"


def _verb(status: str) -> str:
    return "fail" if status == "DOWN" else "pass"


def _unknown(answer: Answer) -> bool:
    """The agent restarted and lost its state: 404 since 1.11, before that an error of its own kind."""
    return answer.status == 404 or (answer.status == 500 and b"does not have associated TTL" in answer.body)


def _member(body: bytes) -> str | None:
    try:
        found = json.loads(body)["Member"]["Addr"]
    except (ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, str) and found else None
