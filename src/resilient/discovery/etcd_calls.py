"""Requests to etcd, and who they come from: a token that is asked for with user and password, again when it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from resilient.discovery.etcd_wire import message, told
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Exchange

# A member that is cut off from the others ends its watches instead of keeping them silent.
_LEADER = {"Grpc-Metadata-Hasleader": "true"}


def accept_good(answer: Answer) -> str:
    """What most questions take."""
    return "" if answer.good else told(answer)


class EtcdCalls:
    """What the watch and all leases of one registry ask with.

    Args:
        servers: whom to ask.
        user: and password, or None.
    """

    def __init__(self, servers: Servers, user: tuple[str, str] | None) -> None:
        self.servers = servers
        self._user = user
        self._token = ""

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request says."""
        return {**_LEADER, "Authorization": self._token} if self._token else _LEADER

    def call(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        accept: Callable[[Answer], str] = accept_good,
        purpose: str,
        stream: bool = False,
    ) -> Exchange[Answer]:
        """POST `body`; who we are is said first, and again when the token ended.

        Args:
            path: below the server's base.
            body: as JSON.
            accept: as of `Servers.ask`.
            purpose: as of `Servers.ask`.
            stream: as of `Servers.ask`.
        """
        for last in (False, True):
            if self._user is not None and not self._token:
                answer = yield from self._login(purpose)
                if not self._token:
                    return answer
            ended = bool(self._token) and not last

            def accepted(answer: Answer, ended: bool = ended) -> str:
                return "" if ended and answer.status == 401 else accept(answer)

            answer = yield from self.servers.ask(
                "POST",
                path,
                accepted,
                body=json.dumps(body).encode(),
                read=True,
                headers=self.headers,
                purpose=purpose,
                stream=stream,
            )
            if not (ended and answer.status == 401):
                return answer
            self._token = ""
        raise AssertionError("the second answer is the last")

    def again(self, timeout: float) -> Exchange[None]:
        """Say who we are once more, within `timeout` seconds for each server: the token may have ended."""
        if self._user is not None:
            yield from self._login("writing", timeout)

    def _login(self, purpose: str, timeout: float | None = None) -> Exchange[Answer]:
        assert self._user is not None
        name, password = self._user

        def accept(answer: Answer) -> str:
            if not answer.good:
                return told(answer)
            try:
                self._token = str(message(answer.body).get("token", ""))
            except ValueError as error:
                return str(error)
            return "" if self._token else "it gave no token"

        body = json.dumps({"name": name, "password": password}).encode()
        return (
            yield from self.servers.ask(
                "POST",
                "/v3/auth/authenticate",
                accept,
                body=body,
                read=True,
                headers=_LEADER,
                timeout=timeout,
                purpose=purpose,
            )
        )
