"""One request: to its upstream and back, or to the fallback, or to a clear word about what is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import httpx

from resilient.clock import REAL_CLOCK
from resilient.deadline import Deadline
from resilient.gate import Permit
from resilient.gateway.asgi import Header, Receive, Scope, Send
from resilient.gateway.bodies import Caller, Upload
from resilient.gateway.fallbacks import Fallbacks
from resilient.gateway.forwarded import TrustedProxies, forwarding_headers
from resilient.gateway.headers import Heading, answered, id_of
from resilient.gateway.locations import moved
from resilient.gateway.paths import segments_of, target_of
from resilient.gateway.problems import (
    ClientGoneError,
    Failure,
    RefusedError,
    answer,
    described,
    problem,
    retry_header,
)
from resilient.gateway.route_file import Plan
from resilient.gateway.routes import Table
from resilient.gateway.upstreams import Upstream
from resilient.http_answers import retry_after
from resilient.transport.deadline_header import limited, lower_names, seconds_left
from resilient.transport.options import EXTENSION

logger = logging.getLogger("resilient.gateway")

_EMPTY: Final = httpx.ByteStream(b"")
_WITHOUT_BODY: Final = frozenset({204, 304})
_NOT_FORWARDED: Final = frozenset({"CONNECT", "TRACE"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_CLOSE: Final[Header] = (b"connection", b"close")


class Forwarder:
    """What all requests of a gateway share.

    Args:
        plan: routes, settings, fallbacks.
    """

    def __init__(self, plan: Plan) -> None:
        self.settings = plan.settings
        self.fallbacks: Fallbacks = plan.fallbacks
        self.table = Table((upstream.route, upstream) for upstream in plan.upstreams)
        self.trusted = TrustedProxies(plan.settings.trusted_proxies)
        self.via = f" {plan.settings.via}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        try:
            raw, query = target_of(scope, self.settings.max_target)
            heading = Heading.of(scope, most=self.settings.max_headers, most_bytes=self.settings.max_header_bytes)
            upstream = self._upstream(scope, heading, raw)
        except RefusedError as refused:
            await self.refuse(scope, send, refused, id_of(scope["headers"]))
            return
        await Passing(self, upstream, heading, scope, receive, send).run(raw, query)

    def _upstream(self, scope: Scope, heading: Heading, raw: bytes) -> Upstream:
        method = scope["method"]
        if method in _NOT_FORWARDED:
            raise RefusedError(501, f"{method} is not passed on.")
        if heading.upgrade == b"websocket":
            raise RefusedError(501, "WebSockets are not passed on.")
        found: Upstream = self.table.find(method, segments_of(raw), scope, heading)
        return found

    async def refuse(
        self, scope: Scope, send: Send, why: RefusedError, request_id: bytes, caller: Caller | None = None
    ) -> None:
        """Answer a request that is not passed on."""
        headers = [*why.headers, (b"x-request-id", request_id)]
        if why.close and scope.get("http_version", "1.1").startswith("1"):
            headers.append(_CLOSE)
        body = problem(why.status, why.detail, request_id.decode())
        logger.info("%s refused with %d: %s [%s]", scope["method"], why.status, why.detail, request_id.decode())
        head = scope["method"] == "HEAD"
        await answer(send, why.status, body, headers=headers, head=head, last=caller is None)
        if caller is not None:
            await caller.discard()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class Passing:
    """One request on its way through."""

    __slots__ = ("_caller", "_forwarder", "_heading", "_receive", "_scope", "_send", "_started", "_upstream")

    def __init__(
        self, forwarder: Forwarder, upstream: Upstream, heading: Heading, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._forwarder = forwarder
        self._upstream = upstream
        self._heading = heading
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = REAL_CLOCK.monotonic()
        self._caller = Caller(receive, upstream.route.max_body, upstream.patience)

    async def run(self, raw: bytes, query: bytes) -> None:
        """Pass it on, and the answer back."""
        caller, task = self._caller, asyncio.current_task()
        assert task is not None  # an ASGI server runs one per request
        response: httpx.Response | None = None
        permit: Permit | None = None
        try:
            try:
                request = await self._request(raw, query, task)
                if self._upstream.bulkhead is not None:
                    permit = await self._upstream.bulkhead.calling().__aenter__()
                with self._limited():
                    response = await self._upstream.transport.handle_async_request(request)
            except Exception as error:
                failure = await self._failed(error)
            else:
                failure = self._judged(response)
            if failure is not None:
                if response is not None:
                    await response.aclose()
                await self._answer_instead(failure)
            elif response is not None:
                await self._relay(response)
        except asyncio.CancelledError:
            if not caller.gone:
                raise
            task.uncancel()
            self._log("left by its caller")
        finally:
            caller.leave()
            if permit is not None:  # before the next await, which may be cancelled
                permit.success()
            if response is not None:
                await response.aclose()

    async def _request(self, raw: bytes, query: bytes, task: asyncio.Task[Any]) -> httpx.Request:
        upstream, heading, scope = self._upstream, self._heading, self._scope
        path = raw
        if upstream.route.stripped:
            path = b"/" + b"/".join(segments_of(raw)[upstream.route.stripped :])
            if path.startswith(b"//"):
                raise RefusedError(400, "What follows the path's prefix begins with two slashes.")
        target = upstream.base_path + path
        if query:
            target += b"?" + query
        stream, framing = await self._body(task)
        version = scope.get("http_version", "1.1").encode()
        host = heading.host if upstream.route.preserve_host and heading.host else upstream.host
        client = scope.get("client")
        headers = [
            (b"host", host),
            *heading.passed,
            *framing,
            *forwarding_headers(
                scope,
                heading.about_caller,
                trusted=client is not None and self._forwarder.trusted.trusts(client[0]),
                host=heading.host,
                prefix=scope.get("root_path", "").encode() + upstream.prefix,
            ),
            (b"x-request-id", heading.request_id),
            (b"via", (heading.via + b", " if heading.via else b"") + version + self._forwarder.via),
        ]
        return httpx.Request(
            scope["method"],
            upstream.origin + target.decode("ascii"),
            headers=headers,
            stream=stream,
            extensions={"timeout": upstream.timeouts, "target": target},  # as it came: a URL would be written anew
        )

    async def _body(self, task: asyncio.Task[Any]) -> tuple[httpx.AsyncByteStream, tuple[Header, ...]]:
        """(the body, the headers that say where it ends).

        What the server has read with the headers is one part, and often all: then the request can be sent again.
        """
        caller, heading = self._caller, self._heading
        if heading.length is not None and heading.length > self._upstream.route.max_body:
            raise RefusedError(
                413, f"The request's body has more than {self._upstream.route.max_body} bytes.", close=True
            )
        told = heading.length is not None or heading.chunked
        if heading.length == 0 or (not told and self._scope.get("http_version", "1.1").startswith("1")):
            caller.complete = True
            caller.watch(task)
            return _EMPTY, () if heading.length is None else ((b"content-length", b"0"),)
        first = None if heading.expects else await caller.more()  # who expects is asked for it by the connection
        if caller.complete and first is not None:
            caller.watch(task)
            said = first or told or self._scope["method"] in _WITH_BODY
            return httpx.ByteStream(first), ((b"content-length", b"%d" % len(first)),) if said else ()
        stream = Upload(caller, first, task)
        if heading.length is not None:
            return stream, ((b"content-length", b"%d" % heading.length),)
        return stream, ((b"transfer-encoding", b"chunked"),)

    def _limited(self) -> AbstractContextManager[Any]:
        if not self._heading.deadlines:
            return nullcontext()
        seconds = seconds_left(lower_names(self._heading.deadlines))
        return nullcontext() if seconds is None else Deadline(limited(seconds, None))

    async def _failed(self, error: Exception) -> Failure | None:
        """What an error is for the caller; None when everything is said, or nobody is there."""
        caller = self._caller
        if caller.gone or isinstance(error, ClientGoneError):
            self._log("left by its caller")
            return None
        refused = caller.refusal or (error if isinstance(error, RefusedError) else None)
        if refused is not None:
            rest = None if caller.complete or self._heading.expects else caller
            await self._forwarder.refuse(self._scope, self._send, refused, self._heading.request_id, rest)
            return None
        status, detail, wait = described(error, self._upstream.name)
        if status == 500:
            logger.error("a request by route %r went wrong", self._upstream.name, exc_info=error)
        return self._failure(status, detail, wait, error)

    def _judged(self, response: httpx.Response) -> Failure | None:
        status, name = response.status_code, self._upstream.name
        if not 200 <= status <= 599:
            return self._failure(502, f"{name!r} gave no answer that could be understood.", None)
        if status in self._upstream.failures:
            own = status if status in {503, 504} or status < 500 else 502
            return self._failure(own, f"{name!r} does not work at the moment.", retry_after(response))
        return None

    def _failure(self, status: int, detail: str, wait: float | None, error: Exception | None = None) -> Failure:
        scope = self._scope
        request_id = self._heading.request_id.decode()
        return Failure(self._upstream.name, status, detail, wait, request_id, scope["method"], scope["path"], error)

    async def _answer_instead(self, failure: Failure) -> None:
        self._log(f"{failure.status}: {failure.detail}", failure.error, level=logging.INFO)
        headers: tuple[Header, ...] = ((b"x-request-id", self._heading.request_id),)
        if self._heading.expects and not self._caller.complete:
            headers += (_CLOSE,)  # whether the body will come now is the caller's choice
        route = self._upstream.route
        if route.fallback is not None:
            sending = _Started(self._send)
            try:
                path = route.fallback.removeprefix("forward:")
                await self._forwarder.fallbacks(path, failure, route.fallback_status, self._scope, sending, headers)
                return
            except Exception:
                logger.exception("the fallback %s of route %r failed", route.fallback, self._upstream.name)
                if sending.started:
                    return
        body = problem(failure.status, failure.detail, failure.request_id, failure.route)
        await answer(
            self._send,
            failure.status,
            body,
            headers=(*retry_header(failure.retry_after), *headers),
            head=self._scope["method"] == "HEAD",
        )

    async def _relay(self, response: httpx.Response) -> None:
        status = response.status_code
        headers = answered(response.headers.raw, self._heading.request_id)
        if self._upstream.route.rewrite_location and self._upstream.prefix:
            prefix = self._scope.get("root_path", "").encode() + self._upstream.prefix
            headers = moved(headers, self._upstream, prefix, _instance_of(response.extensions))
        send = self._send
        self._log(str(status))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if self._scope["method"] == "HEAD" or status in _WITHOUT_BODY:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        left = _length(headers)
        try:
            async for chunk in response.stream:  # type: ignore[union-attr]  # an async transport's
                if left is not None:
                    left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": left != 0})
        except (httpx.HTTPError, OSError) as error:
            # The status is gone: to end without the end of the body is how a caller sees that something is missing.
            self._log("broken off", error, level=logging.WARNING)
            return
        if left != 0 or left is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _log(self, what: str, error: Exception | None = None, level: int = logging.DEBUG) -> None:
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "%s %s by route %r: %s, after %.0f ms [%s]%s",
                self._scope["method"],
                self._scope["path"].encode("unicode_escape").decode(),
                self._upstream.name,
                what,
                (REAL_CLOCK.monotonic() - self._started) * 1000,
                self._heading.request_id.decode(),
                "" if error is None else f" {error!r}",
            )


class _Started:
    """Notes whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Any) -> None:
        self.started = True
        await self._send(message)


def _length(headers: list[Header]) -> int | None:
    for name, value in headers:
        if name == b"content-length":
            return int(value) or None
    return None


def _instance_of(extensions: Mapping[str, Any]) -> tuple[str, int] | None:
    found = extensions.get(EXTENSION, {}).get("instance")
    return None if found is None else (found.host, found.port)
