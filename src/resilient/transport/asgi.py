"""The serving end of a call, for ASGI applications."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from resilient.clock import Clock
from resilient.deadline import Deadline
from resilient.transport.deadline_header import limited, lower_names, seconds_left
from resilient.transport.serving import Refusal, checked_deadline, refusal

__all__ = ["ResilientMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class ResilientMiddleware:
    """Takes the caller's deadline from the request; turns RejectedError into 503 with Retry-After, a timeout into 504.

    The deadline is `X-Request-Timeout-Ms`, `grpc-timeout` or `x-envoy-expected-rq-timeout-ms`, the smallest of those
    that are there; everything that the application calls through this library is limited by it. It can only shorten a
    deadline that holds already, and it interrupts nothing by itself. An application that lets a `RejectedError` or a
    `CallTimeoutError` out, before its answer has begun, has answered 503 with Retry-After, or 504. Everything else
    passes untouched: answers of the application, streams, its other errors, websockets, lifespan.

    Args:
        app: the application. In Starlette and FastAPI: `app.add_middleware(ResilientMiddleware)`, so that it stands
            inside what answers 500 to every error.
        max_deadline: seconds of the longest deadline that is taken from a request, more than 0; default an hour.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when `max_deadline` is not a positive number.

    Safe for any number of requests and loops at once: it keeps nothing.

    Example:
        >>> import asyncio, httpx
        >>> from resilient import Deadline
        >>> from resilient.transport.asgi import ResilientMiddleware
        >>> async def app(scope, receive, send):
        ...     left = Deadline.current().remaining
        ...     await send({"type": "http.response.start", "status": 200, "headers": []})
        ...     await send({"type": "http.response.body", "body": b"in time" if left <= 2.0 else b"late"})
        >>> async def ask() -> str:
        ...     transport = httpx.ASGITransport(app=ResilientMiddleware(app))
        ...     async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        ...         return (await client.get("/", headers={"X-Request-Timeout-Ms": "2000"})).text
        >>> asyncio.run(ask())
        'in time'
    """

    def __init__(self, app: App, *, max_deadline: float | None = None, clock: Clock | None = None) -> None:
        self.app = app
        self._most = checked_deadline(max_deadline)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
            await send(message)

        seconds = seconds_left(lower_names(scope.get("headers", ())))
        try:
            if seconds is None:
                await self.app(scope, receive, noting)
            else:
                with Deadline(limited(seconds, self._most), clock=self._clock):
                    await self.app(scope, receive, noting)
        except Exception as error:
            answer = None if started else refusal(error)
            if answer is None:
                raise
            await _answer(send, answer)


async def _answer(send: Send, answer: Refusal) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
