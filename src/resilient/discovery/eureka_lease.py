"""One entry in Eureka, kept alive: register, renew, register again, leave. Decides only; sends nothing itself."""

from __future__ import annotations

from urllib.parse import quote

from resilient.discovery.eureka_wire import write_instance
from resilient.discovery.instance import Instance
from resilient.discovery.lease import KeptLease
from resilient.discovery.steps import Answer, Exchange, Send, Server


class EurekaLease(KeptLease):
    """The job that keeps one instance listed in Eureka; arguments as `KeptLease`. Safe for threads."""

    def _beat(self) -> Exchange[None]:
        if not (yield from self._locate()):
            return
        told = self._told
        if told is not None and told[0] == self._condition.dirty_ms:
            query = f"?status={told[1]}&lastDirtyTimestamp={told[0]}"
            answer = yield from self._servers.ask("PUT", path_of(self.instance) + query, _accept)
            if answer.status != 404:
                self._settle(answer)
                return
            self._lose("the registry does not know it")
            self._condition.change()
        yield from self._register()

    def _greet(self) -> Exchange[Answer]:
        return (yield from self._servers.ask("GET", self._app(), _accept))

    def _farewell(self, server: Server, timeout: float) -> Send:
        return Send(server, "DELETE", path_of(self.instance), timeout)

    def fade(self, budget: float) -> Exchange[None]:
        """Say DOWN, and wait for the answer: a word that arrived after the DELETE would list us again."""
        if self._sent:
            self._condition.change()
            yield from self._to_one(budget, self._down)

    def _down(self, server: Server, timeout: float) -> Send:
        dirty, _ = self._condition.read()
        return Send(server, "POST", self._app(), timeout, self._body(dirty, "DOWN"))

    def _register(self) -> Exchange[None]:
        dirty, status = self._condition.read()
        if self._told is not None and {self._told[1], status} == {"UP", "OUT_OF_SERVICE"}:
            # Between these two a real server keeps what it has (its rule for overrides); from DOWN it believes us.
            answer = yield from self._post(dirty, "DOWN")
            if not answer.good:
                self._settle(answer)
                return
            self._condition.change()
            dirty, status = self._condition.read()
        answer = yield from self._post(dirty, status)
        self._settle(answer)

    def _post(self, dirty: int, status: str) -> Exchange[Answer]:
        self._sent = True
        body = self._body(dirty, status)
        answer = yield from self._servers.ask("POST", self._app(), _accept_good, body=body)
        if answer.good:
            self._told = dirty, status
        return answer

    def _body(self, dirty: int, status: str) -> bytes:
        return write_instance(
            self.instance,
            address=self._address,
            status=status,
            dirty_ms=dirty,
            renew_interval=self._interval,
            lease=self._lease,
        )

    def _app(self) -> str:
        return f"/apps/{quote(self.instance.service.upper(), safe='')}"


def path_of(instance: Instance) -> str:
    """Where a Eureka server has the entry of `instance`."""
    return f"/apps/{quote(instance.service.upper(), safe='')}/{quote(instance.id, safe='')}"


def _accept(answer: Answer) -> str:
    """Renewals and questions: 404 is an answer, the server does not know us."""
    return "" if answer.good or answer.status == 404 else str(answer)


def _accept_good(answer: Answer) -> str:
    return "" if answer.good else str(answer)
