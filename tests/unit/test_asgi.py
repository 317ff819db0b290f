"""The serving ends: what a request's time limits, what a rejection looks like, what passes untouched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConfigError,
    Deadline,
    DeadlineExceededError,
    NoInstanceError,
)
from resilient.testing import VirtualClock
from resilient.transport import asgi, wsgi
from resilient.transport.httpx_errors import TransportCircuitOpenError

OPEN = CircuitOpenError("circuit 'secret' is open", policy="secret", retry_after=2.2)
LATE = CallTimeoutError("late", policy="secret", limit=1.0, elapsed=1.0)
OVER = DeadlineExceededError("over", policy="secret")

Ask = Callable[..., httpx.Response]


class Server:
    """One application for both interfaces: it raises or answers what the test says, and notes its time."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.left: list[float | None] = []
        self.options: dict[str, Any] = {"clock": VirtualClock()}

    def note(self) -> None:
        current = Deadline.current()
        self.left.append(None if current is None else current.remaining)
        if self.error is not None:
            raise self.error

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.note()
        await PlainTextResponse("fine")(scope, receive, send)

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.note()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest, server: Server) -> Ask:
    """Sends one request to the application through the middleware, over one interface or the other."""

    def asked(**headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if request.param == "wsgi":
            app = wsgi.ResilientMiddleware(server.wsgi, **server.options)
            with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://shop") as client:
                return client.get("/", headers=sent)

        async def ask() -> httpx.Response:
            app = asgi.ResilientMiddleware(server.asgi, **server.options)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop") as client:
                return await client.get("/", headers=sent)

        return asyncio.run(ask())

    return asked


def test_a_request_without_a_limit_has_none(server: Server, ask: Ask) -> None:
    """Nothing is added to what the application answers."""
    answer = ask()
    assert (answer.status_code, answer.text, server.left) == (200, "fine", [None])


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"X_Request_Timeout_Ms": "1500"}, 1.5),
        ({"grpc_timeout": "2S"}, 2.0),
        ({"x_envoy_expected_rq_timeout_ms": "300"}, 0.3),
        ({"X_Request_Timeout_Ms": "99999999"}, 3600.0),
        ({"X_Request_Timeout_Ms": "soon"}, None),
    ],
)
def test_the_callers_time_is_the_deadline(
    server: Server, ask: Ask, headers: dict[str, str], left: float | None
) -> None:
    """Read from the request; what is not understood is ignored."""
    assert ask(**headers).status_code == 200
    assert server.left == [None if left is None else pytest.approx(left)]
    assert Deadline.current() is None


def test_the_server_says_how_long_a_deadline_may_be(server: Server, ask: Ask) -> None:
    """max_deadline= cuts what a request asks for, and adds nothing where it asks for nothing."""
    server.options["max_deadline"] = 5.0
    ask(X_Request_Timeout_Ms="60000")
    ask(X_Request_Timeout_Ms="1000")
    ask()
    assert server.left == [5.0, 1.0, None]


def test_a_deadline_can_only_be_shortened(server: Server) -> None:
    """What holds around the application already goes on to hold."""
    app = wsgi.ResilientMiddleware(server.wsgi, **server.options)
    with (
        Deadline(1.0, clock=server.options["clock"]),
        httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://shop") as client,
    ):
        client.get("/", headers={"X-Request-Timeout-Ms": "60000"})
    assert server.left == [1.0]


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (OPEN, 503, "3"),
        (TransportCircuitOpenError("open", policy="secret", retry_after=0.01), 503, "1"),
        (BulkheadFullError("full", policy="secret"), 503, "1"),
        (NoInstanceError("nobody", policy="secret", retry_after=float("inf")), 503, "3600"),
        (LATE, 504, None),
        (OVER, 504, None),
        (ExceptionGroup("both", [OPEN, OVER]), 503, "3"),
        (ExceptionGroup("both", [OPEN, LATE]), 504, None),
    ],
)
def test_a_rejection_is_503_and_a_timeout_504(
    server: Server, ask: Ask, error: Exception, status: int, retry_after: str | None
) -> None:
    """Retry-After in whole seconds; nothing of what lies behind the service is told."""
    server.error = error
    answer = ask()
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "secret" not in answer.text
    assert answer.text.endswith("\n")


@pytest.mark.parametrize("error", [KeyError("sku"), ExceptionGroup("both", [OPEN, KeyError("sku")])])
def test_other_errors_pass(server: Server, ask: Ask, error: Exception) -> None:
    """They are the application's own."""
    server.error = error
    with pytest.raises(type(error)) as raised:
        ask()
    assert raised.value is error


@pytest.mark.parametrize("value", [0, -1.0, "5"])
@pytest.mark.parametrize("kind", [asgi.ResilientMiddleware, wsgi.ResilientMiddleware])
def test_a_wrong_limit_is_refused_at_construction(kind: Any, value: object) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigError) as refused:
        kind(lambda *_: None, max_deadline=value)
    assert refused.value.path == "max_deadline"


# --- ASGI -----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_has_begun_is_left_alone() -> None:
    """Its status is on the way: the error leaves as it is."""
    sent: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OPEN

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(CircuitOpenError):
        await asgi.ResilientMiddleware(app)({"type": "http", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


def starlette_app(calls: list[str]) -> Starlette:
    """Inside Starlette: a page that is rejected, a stream, a websocket, start and end."""

    async def rejected(request: Request) -> Response:
        raise OPEN

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one "
            current = Deadline.current()
            yield b"without" if current is None else b"limited"

        return StreamingResponse(parts())

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello" if Deadline.current() is None else "limited")
        await websocket.close()

    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        calls.append("began")
        yield
        calls.append("ended")

    app = Starlette(
        routes=[Route("/rejected", rejected), Route("/stream", stream), WebSocketRoute("/socket", socket)],
        lifespan=contextlib.asynccontextmanager(lifespan),
    )
    app.add_middleware(asgi.ResilientMiddleware)
    return app


def test_a_framework_is_served_through_it() -> None:
    """A rejection of a page is 503, not the framework's 500; streams, websockets and lifespan are untouched."""
    calls: list[str] = []
    with TestClient(starlette_app(calls)) as client:
        limit = {"X-Request-Timeout-Ms": "5000"}
        assert client.get("/rejected").status_code == 503
        assert client.get("/stream", headers=limit).text == "one limited"
        with client.websocket_connect("/socket", headers=limit) as socket:
            assert socket.receive_text() == "hello"
        assert calls == ["began"]
    assert calls == ["began", "ended"]


# --- WSGI -----------------------------------------------------------------------------------------------------------


class Started:
    """A server's side of WSGI."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bool]] = []
        self.written: list[bytes] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], info: Any = None) -> Callable[[bytes], object]:
        self.said.append((status, info is not None))
        return self.written.append


def limited_generator(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Runs while it is read."""
    start_response("200 OK", [])
    current = Deadline.current()
    yield b"without" if current is None else b"limited"
    yield b"" if Deadline.current() is not None else b" and not to the end"


def test_a_generator_is_limited_while_it_is_read(clock: VirtualClock) -> None:
    """The deadline holds for each part, and for nothing that the server does between them."""
    app = wsgi.ResilientMiddleware(limited_generator, clock=clock)
    parts = iter(app({"HTTP_X_REQUEST_TIMEOUT_MS": "1000"}, Started()))
    assert next(parts) == b"limited"
    assert Deadline.current() is None
    assert b"".join(parts) == b""


@pytest.mark.parametrize(("before", "said"), [([], [True]), ([b""], [True]), ([b"x"], [])])
def test_a_generator_may_be_rejected_until_it_has_said_something(before: list[bytes], said: list[bool]) -> None:
    """What the application said before it began is taken back; a byte that was handed on can not be."""
    started, closed = Started(), list[bool]()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield from before
            raise OPEN
        finally:
            closed.append(True)

    body: Any = wsgi.ResilientMiddleware(app)({}, started)
    if said:
        assert b"".join(body).startswith(b"Service Unavailable")
        assert started.said == [("200 OK", False), ("503 Service Unavailable", True)]
    else:
        with pytest.raises(CircuitOpenError):
            list(body)
        assert started.said == [("200 OK", False)]
    body.close()
    assert closed == [True]


def test_what_was_written_is_not_taken_back() -> None:
    """The old way of answering counts as well."""
    started = Started()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"x")
        raise OPEN

    with pytest.raises(CircuitOpenError):
        wsgi.ResilientMiddleware(app)({}, started)
    assert started.written == [b"x"]


def test_lists_and_the_servers_own_files_stay_what_they_are() -> None:
    """Servers look at the kind of an answer: its length, or a file that the system can send."""

    class Wrapper(list[bytes]):
        pass

    for found in ([b"x"], (b"x",), Wrapper([b"x"])):
        app = wsgi.ResilientMiddleware(lambda _environ, _start, found=found: found)  # type: ignore[misc]  # bound now
        assert app({"wsgi.file_wrapper": Wrapper}, Started()) is found
