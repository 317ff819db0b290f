"""The servers of one registry: which is asked next, and whether the registry as a whole answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from resilient.clock import Clock
from resilient.discovery.events import RegistryAuthFailed, RegistryBack, RegistryDown
from resilient.discovery.steps import Answer, Exchange, Send, Server
from resilient.events import publish

logger = logging.getLogger("resilient")

_ATTEMPTS = 3  # servers asked for one purpose before it has failed, as Netflix's client does
_READING, _WRITING = "reading", "writing"
_ASIDE = 30.0  # seconds that a server which failed is skipped while another one is there


class Servers:
    """The servers in the order given; one that works is kept to, one that fails is put aside for 30 s.

    Args:
        servers: at least one.
        name: the registry's name in messages, without credentials.
        clock: where time comes from.
        timeout: seconds for each attempt.
    """

    def __init__(self, servers: tuple[Server, ...], name: str, clock: Clock, timeout: float) -> None:
        self.name = name
        self.timeout = timeout
        self.local: str | None = None  # our own address on the last connection that reached a server
        self._troubles: dict[str, str] = {}  # by purpose: reading may fail while renewing works
        self._told: bool | None = None  # whether RegistryAuthFailed was told; None while the registry is up
        self._servers = servers
        self._clock = clock
        self._first = 0
        self._aside: dict[Server, float] = {}

    @property
    def trouble(self) -> str:
        """Why no server answers usefully; "" while one does."""
        return next(iter(self._troubles.values()), "")

    def order(self) -> tuple[Server, ...]:
        """Whom to ask, the one that worked last first; all of them when two thirds are put aside."""
        now = self._clock.monotonic()
        turned = self._servers[self._first :] + self._servers[: self._first]
        usable = tuple(server for server in turned if self._aside.get(server, now) <= now)
        if 3 * (len(turned) - len(usable)) >= 2 * len(turned):  # Netflix's 66 %: then it is more likely us than them
            self._aside.clear()
            return turned
        return usable

    def ask(
        self,
        method: str,
        path: str,
        accept: Callable[[Answer], str],
        *,
        body: bytes | None = None,
        read: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        purpose: str = "",
        stream: bool = False,
    ) -> Exchange[Answer]:
        """Ask one server after the other until one's answer stands; the last answer when none does.

        Args:
            method: the HTTP method.
            path: below the server's base.
            accept: why the answer does not stand and another server is to be asked, or "" when it stands.
            body: what to send.
            read: whether the answer's body matters.
            headers: sent beside those of every request.
            timeout: seconds for each attempt; default: the registry's.
            purpose: what is told apart when one question fails while others are answered; default: reading, writing.
            stream: whether the answer's head is enough, and its lines are asked for one by one.
        """
        answer, why = Answer(), "no server"
        for server in self.order()[:_ATTEMPTS]:
            answer = yield Send(server, method, path, timeout or self.timeout, body, read, headers or {}, stream)
            self.local = answer.local or self.local
            why = accept(answer)
            if not why or answer.refused:  # other servers have the same users: not an outage
                self._first = self._servers.index(server)
                self._aside.pop(server, None)
                break
            why = f"{server.base}: {why}"
            self._aside[server] = self._clock.monotonic() + _ASIDE
        refused = bool(why) and answer.refused  # else the caller takes 403 for an answer
        if refused:
            words = why.removeprefix(str(answer))
            why = f"HTTP status {answer.status}: the registry refuses our credentials, or it is still starting{words}"
        self._note(why, purpose or (_READING if read else _WRITING), refused=refused)
        return answer if not why or refused else Answer(answer.status, error=why, local=answer.local)

    def forget_writing(self) -> None:
        """Nothing is written any more, so that it failed is no trouble any more."""
        self.forget((_WRITING,))

    def forget(self, purposes: Iterable[str]) -> None:
        """These are asked no more, so that they failed is no trouble any more; the next good answer tells so."""
        for purpose in purposes:
            self._troubles.pop(purpose, None)

    def _note(self, trouble: str, purpose: str, *, refused: bool) -> None:
        """Tell once when the registry goes, and once when it is back."""
        now = self._clock.monotonic()
        if trouble:
            self._troubles[purpose] = trouble
            if self._told is None or (refused and not self._told):
                self._told = refused
                logger.warning("registry %s is down: %s; what is known stays known", self.name, trouble)
                publish((RegistryAuthFailed if refused else RegistryDown)(self.name, now, trouble))
            return
        self._troubles.pop(purpose, None)
        if not self._troubles and self._told is not None:
            self._told = None
            logger.info("registry %s is back", self.name)
            publish(RegistryBack(self.name, now))
