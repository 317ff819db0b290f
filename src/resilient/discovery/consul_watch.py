"""Asking Consul for one service, with requests that it answers when something changed. Decides only; sends nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from resilient.clock import Clock
from resilient.discovery.consul_wire import duration, read_health
from resilient.discovery.instance import Instance
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.source import Doubt, Source, told_once
from resilient.discovery.steps import Answer, Exchange

_INTERVAL = 30.0  # seconds: the longest between tries that fail
_APART = 0.1  # seconds between two questions, however fast things change
_IDLE = 1.0  # the same, after an answer that came for nothing: a proxy that loses the index makes all of them so


@dataclass(frozen=True, slots=True)
class Agent:
    """What every request says, and how long an answer may take.

    Attributes:
        headers: the token among them.
        query: datacenter and namespace.
        reading: of requests that read only: consistency and tag.
        wait: seconds for which an answer is held when nothing changes.
    """

    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str]
    reading: Mapping[str, str]
    wait: float

    def path(self, path: str, **more: str) -> str:
        """`path` with the query of every request, and more."""
        query = urlencode({**self.query, **more})
        return f"{path}?{query}" if query else path

    @staticmethod
    def told(answer: Answer) -> str:
        """Why an answer is none, with Consul's own words."""
        words = answer.body[:120].decode(errors="replace").strip()
        return f"{answer}: {words}" if words and not answer.error else str(answer)


class ConsulWatch(Source):
    """The job that keeps one service fresh.

    Args:
        service: its name, in lower case.
        agent: what every request says.
        servers: the agent's address.
        roster: who learns the answer.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        service: str,
        agent: Agent,
        servers: Servers,
        roster: Roster,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(servers, roster, max(_INTERVAL, agent.wait), clock, rng)
        self._service = service
        self._agent = agent
        self._index = 0
        self._doubt = Doubt()
        self._read: tuple[Instance, ...] = ()
        self._tell = told_once(f"{servers.name}: skipped")

    def soon(self) -> bool:
        """Nothing is sooner than an answer that comes with the change; what failed is tried again."""
        return super().soon() if self._index == 0 else False

    def _age(self) -> float:
        return self._roster.age(self._service)

    def _look(self) -> Exchange[None]:
        index = self._index
        query = {"passing": "1", **self._agent.reading}
        timeout = self._servers.timeout
        if index:
            query |= {"index": str(index), "wait": duration(self._agent.wait)}
            timeout = self._agent.wait * 17 / 16 + 5  # Consul adds up to a sixteenth
        answer = yield from self._servers.ask(
            "GET",
            self._agent.path(f"/v1/health/service/{quote(self._service, safe='')}", **query),
            self._accept,
            read=True,
            headers=self._agent.headers,
            timeout=timeout,
            purpose=f"service {self._service}",
        )
        if answer.error or not answer.good:
            self._index = 0  # an agent that restarts counts anew: a request with the old index would wait in vain
            self._failed(answer)
            return
        if not self._doubt.believes(len(self._roster.get(self._service)), len(self._read)):
            self._index = 0
            self._confirm()
            return
        before = self._roster.get(self._service)
        self._roster.update(self._service, self._read)
        self._backoff.reset()
        idle = index > 0 and self._roster.get(self._service) is before
        new = _index(answer)
        self._index = new if new >= index else 0  # it went back: the state is another one, read it at once
        self._next = self._started + (_IDLE if idle else _APART)

    def _accept(self, answer: Answer) -> str:
        if not answer.good:
            return Agent.told(answer)
        try:
            self._read, problems = read_health(self._service, answer.body)
        except ValueError as error:
            return str(error)
        self._tell(problems)
        return ""

    def __repr__(self) -> str:
        return f"<ConsulWatch {self._service} in {self._servers.name}>"


def _index(answer: Answer) -> int:
    """At least 1: with 0 the next request would be answered at once, and the next."""
    text = answer.headers.get("x-consul-index", "")
    return max(int(text), 1) if text.isascii() and text.isdigit() else 1
