"""A client over a resilient transport in either colour, with handlers in the place of instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from resilient import CircuitBreaker
from resilient.balancing import RoundRobin
from resilient.discovery import Instance
from resilient.transport import AsyncResilientTransport, ResilientTransport

Handler = Callable[[httpx.Request, "Instance | None"], httpx.Response]


class Wire(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """One pool: hands requests to a handler and reads their bodies, as a connection does."""

    def __init__(self, handler: Handler, instance: Instance | None) -> None:
        self._handler, self.instance = handler, instance
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._handler(request, self.instance)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self._handler(request, self.instance)

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


class Colour:
    """One client of either colour, and the pools that it made."""

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async
        self.wires: list[Wire] = []
        self.transport: Any = None
        self._loop = asyncio.new_event_loop() if is_async else None
        self.client: Any = None

    def open(self, handler: Handler, discovery: object, *, client: dict[str, Any] | None = None, **options: Any) -> Any:
        """A client whose instances are `handler`."""

        def wire(instance: Instance | None) -> Wire:
            self.wires.append(Wire(handler, instance))
            return self.wires[-1]

        options = {"strategy": lambda: RoundRobin(rng=lambda: 0.0), "transport": wire, **options}
        made: Any = AsyncResilientTransport if self.is_async else ResilientTransport
        self.transport = made(discovery, **options)
        self.client = (httpx.AsyncClient if self.is_async else httpx.Client)(
            transport=self.transport,
            **(client or {}),
        )
        return self

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """One request, its answer read."""
        found: httpx.Response = self.run(self.client.request(method, url, **options))
        return found

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def stream(self, url: str) -> httpx.Response:
        """One request, its answer not read."""
        found: httpx.Response = self.run(self.client.send(self.client.build_request("GET", url), stream=True))
        return found

    def close_answer(self, answer: httpx.Response) -> None:
        self.run((answer.aclose if self.is_async else answer.close)())

    def read(self, answer: httpx.Response) -> bytes:
        found: bytes = self.run(answer.aread() if self.is_async else answer.read())
        return found

    def run(self, result: Any) -> Any:
        """The result of a call in this colour."""
        if self._loop is None:
            return result
        return self._loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

    def settle(self) -> None:
        """Let the loop do what was asked of it."""
        if self._loop is not None:
            for _ in range(3):
                self._loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        """Close the client and its loop."""
        if self.client is not None:
            self.run(self.client.aclose() if self.is_async else self.client.close())
            self.client = None
        if self._loop is not None and not self._loop.is_closed():
            self._loop.close()

    def in_flight(self, service: str = "producer") -> int:
        return int(self.transport.balancer(service).snapshot().in_flight)

    def failures(self, service: str = "producer") -> dict[str, int]:
        return {entry.instance.id: entry.failures for entry in self.transport.balancer(service).snapshot().instances}

    def breaker(self, key: str = "producer") -> CircuitBreaker:
        found = self.transport.pipeline(key).policies[0]
        assert isinstance(found, CircuitBreaker)
        return found


def opened(request: pytest.FixtureRequest) -> Iterator[Colour]:
    """For a fixture: a client in one colour."""
    found = Colour(is_async=request.param)
    yield found
    found.close()


colours = pytest.fixture(params=[False, True], ids=["sync", "async"])
"""`colour = colours(opened)`: the tests of a module run once per colour."""


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in parts and may break; knows whether it was closed."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def name(request: httpx.Request, instance: Instance | None) -> httpx.Response:
    """Answers with the id of the instance."""
    return httpx.Response(200, text=instance.id if instance else "nobody")


def status_of(**statuses: int) -> Handler:
    """Answers with a status per instance; -1: refuses the connection, -2: breaks it."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        status = statuses[instance.id if instance else "other"]
        if status == -1:
            raise httpx.ConnectError("refused")
        read_body(request)
        if status == -2:
            raise httpx.RemoteProtocolError("reset")
        return httpx.Response(status, text=instance.id if instance else "other")

    return handler


def read_body(request: httpx.Request) -> bytes:
    """The body as a connection reads it, in either colour."""
    if isinstance(request.stream, httpx.SyncByteStream):
        try:
            return b"".join(request.stream)
        except AssertionError:  # an async body
            pass

    async def aread() -> bytes:
        return b"".join([part async for part in request.stream])  # type: ignore[union-attr]

    coroutine = aread()
    try:
        coroutine.send(None)
    except StopIteration as done:
        return bytes(done.value)
    raise AssertionError("a test's body does not wait")
