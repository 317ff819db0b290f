"""One entry in etcd, bound to a lease that is kept alive. Decides only; sends nothing itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from resilient.clock import Clock
from resilient.discovery.etcd_calls import EtcdCalls, accept_good
from resilient.discovery.etcd_wire import message, text64, told
from resilient.discovery.instance import Instance
from resilient.discovery.lease import KeptLease
from resilient.discovery.plain import write_instance
from resilient.discovery.steps import Answer, Exchange, Send, Server

_WRITING = "writing"


class EtcdLease(KeptLease):
    """The job that keeps one instance listed; while it is not UP its key is not there. Safe for threads.

    Args:
        instance: what is registered; an empty host is found out, an empty id becomes `host:service:port`.
        prefix: of the keys, with a slash at its end.
        calls: how etcd is asked.
        ttl: seconds for which etcd keeps the entry of a process that is gone; it is renewed at a third.
        drain: seconds between taking the key away and the end.
        health: asked before each renewal; None: always well.
        clock: where time comes from.
    """

    def __init__(
        self,
        instance: Instance,
        prefix: str,
        calls: EtcdCalls,
        *,
        ttl: float,
        drain: float,
        health: Callable[[], bool] | None,
        clock: Clock,
    ) -> None:
        super().__init__(
            instance,
            calls.servers,
            renew_interval=ttl / 3,
            lease=ttl,
            health=health,
            listed=lambda: None,  # the watch hears of it
            clock=clock,
        )
        self._prefix = prefix
        self._calls = calls
        self.drain = drain
        self._id = ""

    def _beat(self) -> Exchange[None]:
        if not (yield from self._locate()):
            return
        told = self._told
        dirty, status = self._condition.read()
        if told is not None:
            answer = yield from self._call("/v3/lease/keepalive", {"ID": self._id})
            if answer.good and _seconds(answer) <= 0:
                self._lose("its lease has ended")
                told = self._told = None
            elif answer.good and told == (dirty, "UP"):
                self._settle((yield from self._still_shown()))
                return
            elif not answer.good or told[0] == dirty:
                self._settle(answer)
                return
        if told is None:
            answer = yield from self._call("/v3/lease/grant", {"TTL": str(math.ceil(self._lease))})
            if not answer.good:
                self._settle(answer)
                return
            self._sent = True
            self._id = str(_field(answer, "ID") or "0")
        answer = yield from self._show(up=status == "UP")
        if answer.good:
            self._told = dirty, status
        self._settle(answer)

    def _show(self, *, up: bool) -> Exchange[Answer]:
        if not up:
            return (yield from self._call("/v3/kv/deleterange", {"key": self._key}))
        return (yield from self._call("/v3/kv/put", self._put))

    def _still_shown(self) -> Exchange[Answer]:
        """Put the key again if somebody deleted it, which the lease knows nothing of."""
        gone = {"key": self._key, "target": "CREATE", "result": "EQUAL", "createRevision": "0"}
        body = {"compare": [gone], "success": [{"requestPut": self._put}]}
        answer = yield from self._call("/v3/kv/txn", body, _accept_or_refused)
        if answer.status == 403:  # who may write only can not compare
            return Answer(200)
        if answer.good and _field(answer, "succeeded") is True:
            self._lose("its key was deleted")
        return answer

    @property
    def _put(self) -> Mapping[str, Any]:
        return {"key": self._key, "value": text64(json.dumps(write_instance(self.instance))), "lease": self._id}

    @property
    def _key(self) -> str:
        return text64(f"{self._prefix}{self.instance.service}/{self.instance.id}")

    def _call(
        self, path: str, body: Mapping[str, Any], accept: Callable[[Answer], str] = accept_good
    ) -> Exchange[Answer]:
        return (yield from self._calls.call(path, body, accept=accept, purpose=_WRITING))

    def _greet(self) -> Exchange[Answer]:
        return (yield from self._servers.ask("GET", "/version", _any, purpose=_WRITING))

    def fade(self, budget: float) -> Exchange[None]:
        """Take the key away: callers that look up come no more."""
        if self._sent:
            yield from self._to_one(budget, lambda server, left: self._post(server, left, "/v3/kv/deleterange"))

    def leave(self, budget: float) -> Exchange[None]:
        """Revoke the lease; a token that ended would leave the entry there."""
        if self._sent:
            yield from self._calls.again(budget / 9)  # of three servers at most
        yield from super().leave(budget * 2 / 3)

    def _farewell(self, server: Server, timeout: float) -> Send:
        return self._post(server, timeout, "/v3/lease/revoke")

    def _post(self, server: Server, timeout: float, path: str) -> Send:
        body = {"ID": self._id} if path.endswith("revoke") else {"key": self._key}
        return Send(server, "POST", path, timeout, json.dumps(body).encode(), headers=self._calls.headers)


def _accept_or_refused(answer: Answer) -> str:
    return "" if answer.good or answer.status == 403 else told(answer)


def _any(answer: Answer) -> str:
    return "" if answer.status else str(answer)


def _field(answer: Answer, name: str) -> object:
    try:
        return message(answer.body).get(name)
    except ValueError:
        return None


def _seconds(answer: Answer) -> int:
    """How long a lease has; 0 when there is none."""
    text = str(_field(answer, "TTL") or 0)
    return int(text) if text.isascii() and text.isdigit() else 0
