"""Local handlers that answer when an upstream does not, found by path."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from resilient.checks import did_you_mean, whole
from resilient.config_values import Mistakes, join, resolve, said
from resilient.errors import ConfigError
from resilient.gateway.asgi import App, Header, Message, Receive, Scope, Send
from resilient.gateway.problems import Failure, answer, retry_header

OWNER = "Answer"


@dataclass(frozen=True)
class Answer:
    """What a handler answers, when the body alone does not say it.

    Attributes:
        body: text, bytes, or what JSON can say.
        status: default that of the failure.
        headers: more headers.
        media_type: default by the body: `text/plain`, `application/octet-stream` or `application/json`.

    Raises:
        ConfigError: when the status is none.

    Example:
        >>> from resilient.gateway import Answer
        >>> Answer("Patient information is currently unavailable", status=503).status
        503
    """

    body: Any = ""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    media_type: str | None = None

    def __post_init__(self) -> None:
        if self.status is not None:
            whole(OWNER, "status", self.status, least=200, most=599)

    def written(self) -> tuple[bytes, bytes]:
        """(body, media type)."""
        if isinstance(self.body, str):
            body, kind = self.body.encode(), "text/plain; charset=utf-8"
        elif isinstance(self.body, bytes):
            body, kind = self.body, "application/octet-stream"
        else:
            body, kind = json.dumps(self.body, ensure_ascii=False).encode(), "application/json"
        return body, (self.media_type or kind).encode("latin-1")


class Fallbacks:
    """The handlers of a gateway.

    Args:
        given: by path: an ASGI application, which also has what lies below its path; or a function, async or not, of
            the Failure or of nothing, that returns an Answer, text, bytes or what JSON can say; or, as in a file,
            text, or a table with `text`, `json` or `handler = "module:name"`, and `status`.
        mistakes: gets what is wrong.
    """

    def __init__(self, given: Mapping[str, Any], mistakes: Mistakes) -> None:
        self._apps: dict[str, App] = {}
        self._functions: dict[str, Callable[[Failure], Any]] = {}
        self._paths = tuple(given)
        for path, handler in given.items():
            here = join("fallbacks", path)
            if not path.startswith("/"):
                mistakes.add(here, "the path must begin with a slash")
            try:
                self._add(path, _written(handler, here, mistakes), here, mistakes)
            except ConfigError as error:
                mistakes.add(here, said(error))

    def _add(self, path: str, handler: Any, here: str, mistakes: Mistakes) -> None:
        count = _arguments(handler)
        if count == 3:
            self._apps[path.rstrip("/") or "/"] = cast("App", handler)
        elif count == 1:
            self._functions[path] = handler
        elif count == 0:
            self._functions[path] = lambda _failure: handler()
        else:
            mistakes.add(here, f"must be an ASGI application or a function of one Failure, not {handler!r}")

    def why_not(self, uri: str) -> str:
        """What is wrong with `forward:/path`; nothing when a handler has that path."""
        path = uri.removeprefix("forward:")
        if path in self._paths or self._app(path) is not None:  # one that is wrong was told already
            return ""
        close = did_you_mean(path, self._paths)
        return f"no handler is registered at {path!r}{close or '; give it in fallbacks'}"

    async def __call__(
        self, path: str, failure: Failure, status: int | None, scope: Scope, send: Send, headers: tuple[Header, ...]
    ) -> None:
        """Answer in place of the upstream.

        Args:
            path: of the handler.
            failure: why.
            status: of what a function answers; None: the failure's.
            scope: of the request.
            send: ASGI's.
            headers: of the gateway, for the answer.
        """
        function = self._functions.get(path)
        wait = retry_header(failure.retry_after)
        if function is None:
            app = self._app(path)
            assert app is not None  # looked at when the gateway was made
            await app(_forwarded(scope, path, failure), _no_body(), _adding(send, (*wait, *headers)))
            return
        given = function(failure)
        if inspect.isawaitable(given):
            given = await given
        found = given if isinstance(given, Answer) else Answer(given)
        body, kind = found.written()
        own = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in found.headers.items()]
        if any(name == b"retry-after" for name, _ in own):
            wait = ()
        await answer(
            send,
            found.status or status or failure.status,
            body,
            kind=kind,
            headers=[*own, *wait, *headers],
            head=scope["method"] == "HEAD",
        )

    def _app(self, path: str) -> App | None:
        while path and path not in self._apps:
            path = path.rpartition("/")[0]
        return self._apps.get(path or "/")


def _written(handler: Any, here: str, mistakes: Mistakes) -> Any:
    """A handler from what a file says."""
    if isinstance(handler, str):
        return lambda: Answer(handler)
    if not isinstance(handler, Mapping):
        return handler
    for word in handler:
        if word not in {"text", "json", "handler", "status"}:
            close = did_you_mean(word, ("text", "json", "handler", "status"))
            mistakes.add(f"{here}.{join(word)}", f"there is no setting {word!r}{close}")
    if len({"text", "json", "handler"} & set(handler)) != 1:
        raise ConfigError(f"fallbacks: must have one of text, json and handler, not {sorted(handler)}", path=here)
    if "handler" in handler:
        if "status" in handler:
            raise ConfigError("fallbacks: a handler says its status itself", path=here)
        return resolve(handler["handler"]) if isinstance(handler["handler"], str) else handler["handler"]
    made = Answer(handler.get("text", handler.get("json")), handler.get("status"))
    return lambda: made


def _arguments(handler: Any) -> int:
    """How many arguments it must be given; -1 when it is nothing to call."""
    if not callable(handler) or isinstance(handler, type):
        return -1
    try:
        found = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return -1
    if any(one.kind is one.KEYWORD_ONLY and one.default is one.empty for one in found):
        return -1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(1 for one in found if one.kind in kinds and one.default is one.empty)


def _forwarded(scope: Scope, path: str, failure: Failure) -> Scope:
    inner = dict(scope)
    inner.update(path=path, raw_path=path.encode(), root_path="")
    inner["state"] = {**scope.get("state", {}), "failure": failure}  # request.state.failure, in Starlette
    return inner


def _no_body() -> Receive:
    told = False

    async def receive() -> Message:
        nonlocal told
        if told:
            await asyncio.get_running_loop().create_future()  # until the gateway cancels: the caller may still be there
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def _adding(send: Send, headers: tuple[Header, ...]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            message = {**message, "headers": [*given, *(one for one in headers if one[0] not in names)]}
        await send(message)

    return sending
