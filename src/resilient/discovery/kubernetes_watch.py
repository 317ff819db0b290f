"""The EndpointSlices of a namespace: listed once, then watched. Decides only; sends nothing itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from resilient.clock import Clock
from resilient.discovery.instance import Instance
from resilient.discovery.kubernetes_wire import NAME, Slice, name_of, read_object, read_slice, told, union, version
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.source import Doubt, Source, told_once
from resilient.discovery.steps import Answer, Exchange, more

_REFUSED = 60.0  # seconds until somebody may have given us the right to look
_APART = 1.0  # seconds between the begins of two watches, however fast they end
_PAGE = 500  # slices in one answer
_PAGES = 1000  # answers of one list; a server that never comes to its end must not be asked for ever
_LATE = 10.0  # seconds after the time at which the server ends a watch: then it is a connection without another end
_GONE = 410  # the version is so old that what came after it is forgotten


class KubernetesWatch(Source):
    """The job that keeps the roster fresh.

    Args:
        namespace: whose slices.
        selector: labels that they must have, beside a service's name; or None.
        port: the name or number of the port that is wanted, or None.
        family: 4, 6 or any.
        servers: the API server.
        roster: who learns the answer.
        watch: seconds after which the server ends a watch.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        namespace: str,
        selector: str | None,
        port: str | None,
        family: str,
        servers: Servers,
        roster: Roster,
        watch: float,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(servers, roster, max(_REFUSED, watch), clock, rng)
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace, safe='')}/endpointslices"
        self._selector = f"{NAME},{selector}" if selector else NAME
        self._port = port
        self._family = family
        self._watch = max(1, round(watch))
        self._version = ""  # up to which everything is known; "": list it all
        self._slices: dict[str, Slice] = {}  # by name
        self._doubt = Doubt()
        self._tell = told_once(f"{servers.name}: skipped")

    def _look(self) -> Exchange[None]:
        if not self._version and not (yield from self._list()):
            return
        yield from self._follow()

    def _list(self) -> Exchange[bool]:
        """What was known is known until the whole list is here."""
        page: dict[str, Any] = {}
        pages = 0

        def accept(answer: Answer) -> str:
            nonlocal pages
            pages += 1
            if pages > _PAGES:
                return f"its list has more than {_PAGES} pages"
            if not answer.good:
                return "" if answer.status == _GONE else told(answer)
            try:
                page.clear()
                page.update(read_object(answer.body))
            except ValueError as error:
                return str(error)
            return "" if isinstance(page.get("items"), list) and version(page) else "it is no list with a version"

        slices: dict[str, Slice] = {}
        further = ""
        while True:
            query = {"labelSelector": self._selector, "limit": str(_PAGE)} | ({"continue": further} if further else {})
            answer = yield from self._ask(query, accept)
            if answer.status == _GONE:  # somebody took too long over the pages
                self._next = max(self._clock.monotonic(), self._started + _APART)
                return False
            if answer.error or not answer.good:
                self._failed(answer)
                return False
            for one in page["items"]:
                self._put(slices, one)
            further = str(page.get("metadata", {}).get("continue") or "")
            if not further:
                break
        services = _by_service(slices)
        if not self._doubt.believes(self._roster.count, sum(map(len, services.values()))):
            self._confirm()
            return False
        self._slices = slices
        self._say()
        self._roster.replace(services)
        self._version = version(page)
        return True

    def _follow(self) -> Exchange[None]:
        """Watch until the stream ends, breaks or is silent for too long."""
        query = {
            "labelSelector": self._selector,
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch),
        }
        answer = yield from self._ask(
            query, lambda got: "" if got.good or got.status == _GONE else told(got), stream=True
        )
        if answer.status == _GONE:
            self._version = ""
            self._next = max(self._clock.monotonic(), self._started + _APART)
            return
        if answer.error or not answer.good:
            self._failed(answer)
            return
        self._backoff.reset()
        self._roster.amend({})  # it goes on from where we are: what is known is so
        while True:
            line = yield more(self._watch + _LATE)
            if line.status != 200 or not self._learn(line.body):
                break
            self._roster.answers.ring()
        self._next = max(self._clock.monotonic(), self._started + _APART)

    def _ask(self, query: dict[str, str], accept: Callable[[Answer], str], *, stream: bool = False) -> Exchange[Answer]:
        """The first 401 is asked again at once: the token is read anew for each request, and it may have turned."""
        for last in (False, True):

            def accepted(answer: Answer, last: bool = last) -> str:
                return "" if answer.status == 401 and not last else accept(answer)

            answer = yield from self._servers.ask(
                "GET", f"{self._path}?{urlencode(query)}", accepted, read=True, stream=stream
            )
            if answer.status != 401 or last:
                return answer
        raise AssertionError("the second answer is the last")

    def _learn(self, body: bytes) -> bool:
        """Take what a line says; whether more may follow."""
        try:
            event = read_object(body)
        except ValueError:
            return False
        kind, found = event.get("type"), event.get("object")
        if kind == "ERROR" or not isinstance(found, dict):
            self._version = ""  # 410, or what we do not know: list it all, keep what is known till then
            return False
        self._version = version(found) or self._version
        if kind in {"ADDED", "MODIFIED", "DELETED"}:
            before = self._slices.pop(name_of(found), None)
            if kind != "DELETED":
                self._put(self._slices, found)
            after = self._slices.get(name_of(found))
            self._say()
            changed = {each.service for each in (before, after) if each is not None}
            these = {name: [each for each in self._slices.values() if each.service == name] for name in changed}
            self._roster.amend({name: union(slices) for name, slices in these.items()})
        else:
            self._roster.amend({})
        return True

    def _put(self, slices: dict[str, Slice], found: Any) -> None:
        if isinstance(found, dict) and name_of(found):
            read = read_slice(found, self._port, self._family)
            if read is not None:
                slices[name_of(found)] = read

    def _say(self) -> None:
        self._tell([problem for name in sorted(self._slices) for problem in self._slices[name].problems])


def _by_service(slices: dict[str, Slice]) -> dict[str, tuple[Instance, ...]]:
    services: dict[str, list[Slice]] = {}
    for name in sorted(slices):
        services.setdefault(slices[name].service, []).append(slices[name])
    return {service: union(these) for service, these in services.items()}
