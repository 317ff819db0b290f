"""The httpx transports against real servers on the loopback interface: uvicorn, raw sockets, TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from resilient import CircuitBreaker, Deadline, Pipeline, State, Timeout, names
from resilient.discovery import Instance
from resilient.transport import AsyncResilientTransport, ResilientTransport
from tests.listed import Listed
from tests.peers import require_command
from tests.waiting import wait_until


class Server:
    """One real instance: a starlette application in uvicorn, in a thread, on a free port."""

    def __init__(self, name: str, **tls: Any) -> None:
        self.name = name
        self.status = 200
        self.calls = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        app = Starlette(
            routes=[
                Route("/", self._who, methods=["GET", "POST"]),
                Route("/echo", self._echo, methods=["POST"]),
                Route("/stream", self._stream),
                Route("/hang", self._hang),
                Route("/drip", self._stream),
                Route("/old", self._old),
            ]
        )
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            **tls,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, what=f"uvicorn {name}")
        self.port = int(self._server.servers[0].sockets[0].getsockname()[1])

    def instance(self, *, secure: bool = False) -> Instance:
        return Instance("producer", "127.0.0.1", self.port, id=self.name, secure=secure)

    def stop(self) -> None:
        self.go_on.set()
        self._server.should_exit = True
        self._thread.join(10.0)

    async def _who(self, request: Request) -> Response:
        self.calls += 1
        headers = {"x-host": request.headers["host"], "x-scheme": request.url.scheme}
        return PlainTextResponse(self.name, self.status, headers)

    async def _echo(self, request: Request) -> Response:
        return Response(await request.body(), self.status)

    async def _stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            while not self.go_on.is_set():  # noqa: ASYNC110  # set by another thread
                await asyncio.sleep(0.005)
            yield b"last"

        return StreamingResponse(parts())

    async def _hang(self, request: Request) -> Response:
        self.entered.set()
        while not self.go_on.is_set():  # noqa: ASYNC110  # set by another thread
            await asyncio.sleep(0.005)
        return PlainTextResponse("late", self.status)

    async def _old(self, request: Request) -> Response:
        return Response(None, 302, {"location": "http://producer/"})


@pytest.fixture
def servers() -> Iterator[Callable[..., list[Server]]]:
    """`servers(n)`: n real instances, stopped afterwards."""
    running: list[Server] = []

    def start(count: int, **tls: Any) -> list[Server]:
        made = [Server("abc"[number], **tls) for number in range(count)]
        running.extend(made)
        return made

    yield start
    for server in running:
        server.stop()


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does what `serve` does with each connection; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    accepted.append(connection)
                    threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection: socket.socket) -> None:
            with suppress(OSError):
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for connection in accepted:
                connection.close()


def listed(*running: Server) -> Listed:
    return Listed(*(server.instance() for server in running))


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def in_flight(transport: ResilientTransport | AsyncResilientTransport) -> int:
    return transport.balancer("producer").snapshot().in_flight


def breaker(transport: ResilientTransport | AsyncResilientTransport) -> CircuitBreaker:
    found = transport.pipeline("producer").policies[0]
    assert isinstance(found, CircuitBreaker)
    return found


def test_three_real_instances_share_the_calls(servers: Callable[..., list[Server]]) -> None:
    """Twelve calls: four each; Host and URL are the name's."""
    with httpx.Client(transport=ResilientTransport(listed(*servers(3)))) as client:
        answers = [client.get("http://producer/") for _ in range(12)]
    assert Counter(answer.text for answer in answers) == {"a": 4, "b": 4, "c": 4}
    assert {answer.headers["x-host"] for answer in answers} == {"producer"}
    assert {str(answer.url) for answer in answers} == {"http://producer/"}


def test_threads_share_one_transport(servers: Callable[..., list[Server]]) -> None:
    """8 threads x 30 calls: every instance gets its share within one; nothing stays in flight."""
    running = servers(3)
    transport = ResilientTransport(listed(*running))
    errors: list[BaseException] = []
    with httpx.Client(transport=transport) as client:

        def run() -> None:
            try:
                for _ in range(30):
                    assert client.get("http://producer/").status_code == 200
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert sorted(server.calls for server in running) == [80, 80, 80]
        assert in_flight(transport) == 0


def test_an_instance_that_dies_is_no_users_error(servers: Callable[..., list[Server]]) -> None:
    """It stays listed, as after a SIGKILL; every call is answered by the others, GET and POST alike."""
    running = servers(3)
    transport = ResilientTransport(listed(*running))
    with httpx.Client(transport=transport) as client:
        for _ in range(3):
            client.get("http://producer/")
        running[1].stop()
        found = Counter(client.request(how, "http://producer/").text for how in ["GET", "POST"] * 15)
    assert set(found) == {"a", "c"}
    assert found.total() == 30
    assert breaker(transport).snapshot().failures == 0


def test_a_post_is_not_sent_twice(servers: Callable[..., list[Server]]) -> None:
    """An instance that reads the request and hangs up: the error leaves; one that refuses: the POST goes elsewhere."""
    got: list[bytes] = []

    def hang_up(connection: socket.socket) -> None:
        got.append(connection.recv(65_536))
        connection.close()

    [good] = servers(1)
    with raw_server(hang_up) as port:
        bad = Instance("producer", "127.0.0.1", port, id="0")
        discovery = Listed(bad)
        with httpx.Client(transport=ResilientTransport(discovery)) as client:
            discovery.set(bad, good.instance())
            outcomes = Counter[str]()
            for _ in range(4):
                try:
                    body = (part for part in [b"on", b"ce"])
                    outcomes[client.post("http://producer/echo", content=body).text] += 1
                except httpx.TransportError:
                    outcomes["error"] += 1
            assert outcomes == {"once": 2, "error": 2}
    assert len(got) == 2
    discovery.set(Instance("producer", "127.0.0.1", closed_port(), id="0", zone="z"), good.instance())
    with httpx.Client(transport=ResilientTransport(discovery, policies=lambda key: Pipeline(Timeout(5.0)))) as client:
        found = [client.post("http://producer/echo", content=(part for part in [b"on", b"ce"])).text for _ in range(4)]
    assert found == ["once"] * 4


def test_answers_of_500_open_the_circuit(servers: Callable[..., list[Server]]) -> None:
    """The caller gets the answers; then `except httpx.HTTPError` catches the rejection, and the server has peace."""
    [server] = servers(1)
    server.status = 500
    transport = ResilientTransport(listed(server))
    with httpx.Client(transport=transport) as client:
        assert [client.get("http://producer/").status_code for _ in range(5)] == [500] * 5
        assert breaker(transport).state is State.OPEN
        with pytest.raises(httpx.HTTPError, match="producer"):
            client.get("http://producer/")
    assert server.calls == 5


def test_a_streamed_answer_is_not_buffered(servers: Callable[..., list[Server]]) -> None:
    """The first part arrives while the server still waits to send the last; until the end it is in flight."""
    [server] = servers(1)
    transport = ResilientTransport(listed(server))
    with httpx.Client(transport=transport) as client, client.stream("GET", "http://producer/stream") as answer:
        parts = answer.iter_raw()
        assert next(parts) == b"first"
        assert in_flight(transport) == 1
        assert not server.go_on.is_set()
        server.go_on.set()
        assert b"".join(parts) == b"last"
        assert in_flight(transport) == 0


async def test_an_async_streamed_answer_is_not_buffered(servers: Callable[..., list[Server]]) -> None:
    """The same for async functions."""
    [server] = servers(1)
    transport = AsyncResilientTransport(listed(server))
    async with (
        httpx.AsyncClient(transport=transport) as client,
        client.stream("GET", "http://producer/stream") as answer,
    ):
        parts = answer.aiter_raw()
        assert await anext(parts) == b"first"
        assert in_flight(transport) == 1
        server.go_on.set()
        assert b"".join([part async for part in parts]) == b"last"
        assert in_flight(transport) == 0


def test_a_redirect_to_the_name_is_balanced_again(servers: Callable[..., list[Server]]) -> None:
    """The second hop goes to the next instance."""
    running = servers(2)
    with httpx.Client(transport=ResilientTransport(listed(*running)), follow_redirects=True) as client:
        answers = [client.get("http://producer/old") for _ in range(2)]
    assert {str(answer.url) for answer in answers} == {"http://producer/"}
    for answer in answers:
        first = answer.history[0].extensions["resilient"]["instance"]
        assert answer.text != first.id


async def test_cancelled_calls_leave_nothing_behind(servers: Callable[..., list[Server]]) -> None:
    """50 calls cancelled while they hang: nothing in flight, no failure of anybody; the next call is answered."""
    [server] = servers(1)
    transport = AsyncResilientTransport(listed(server))
    async with httpx.AsyncClient(transport=transport) as client:
        calls = [asyncio.create_task(client.get("http://producer/hang")) for _ in range(50)]
        while in_flight(transport) < 50 or not server.entered.is_set():  # noqa: ASYNC110  # set by another thread
            await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True)
        )
        assert in_flight(transport) == 0
        seen = breaker(transport).snapshot()
        assert (seen.failures, seen.ignored) == (0, 50)
        assert (await client.get("http://producer/")).text == "a"
        assert in_flight(transport) == 0


async def test_a_stream_cancelled_while_it_is_read_leaves_nothing_behind(servers: Callable[..., list[Server]]) -> None:
    """Cancelled in the middle of a body: its instance is free again."""
    [server] = servers(1)
    transport = AsyncResilientTransport(listed(server))
    async with httpx.AsyncClient(transport=transport) as client:
        reading = asyncio.Event()

        async def read() -> None:
            async with client.stream("GET", "http://producer/stream") as answer:
                async for _ in answer.aiter_raw():
                    reading.set()

        task = asyncio.create_task(read())
        await reading.wait()
        assert in_flight(transport) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_flight(transport) == 0


def test_a_deadline_ends_a_call_that_hangs(servers: Callable[..., list[Server]]) -> None:
    """The socket's timeouts are what is left of it; the error is httpx's."""
    [server] = servers(1)
    transport = ResilientTransport(listed(server))
    with httpx.Client(transport=transport) as client:
        started = time.monotonic()
        with Deadline(0.3), pytest.raises(httpx.TimeoutException, match="the caller's deadline came first"):
            client.get("http://producer/hang")
        assert 0.25 <= time.monotonic() - started < 2.0
        assert in_flight(transport) == 0


async def test_a_deadline_ends_an_answer_that_trickles_in() -> None:
    """Headers that come byte by byte, each within the read timeout, do not outlast the deadline."""
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000:
            if stop.wait(0.02):
                return
            connection.send(bytes([byte]))

    with raw_server(drip) as port:
        transport = AsyncResilientTransport(Listed(Instance("producer", "127.0.0.1", port, id="a")))
        async with httpx.AsyncClient(transport=transport) as client:
            started = time.monotonic()
            with Deadline(0.3), pytest.raises(httpx.TimeoutException, match="the caller's deadline came first"):
                await client.get("http://producer/")
            assert 0.25 <= time.monotonic() - started < 2.0
            assert in_flight(transport) == 0
        stop.set()


@pytest.mark.parametrize("status", [200, 500])
def test_a_timeout_among_the_policies_frees_the_caller(servers: Callable[..., list[Server]], status: int) -> None:
    """Timeout in policies= ends a hanging call; the answer that comes later is closed, nothing stays in flight."""
    [server] = servers(1)
    server.status = status
    transport = ResilientTransport(listed(server), policies=lambda key: Pipeline(CircuitBreaker(key), Timeout(0.3)))
    with httpx.Client(transport=transport, timeout=30.0) as client:
        with pytest.raises(httpx.ReadTimeout, match=r"0\.3 s|deadline"):
            client.get("http://producer/hang")
        server.go_on.set()
        wait_until(lambda: in_flight(transport) == 0, what="the late answer to be closed")
        assert breaker(transport).snapshot().failures == 1


def test_one_async_transport_serves_one_loop_after_another(servers: Callable[..., list[Server]]) -> None:
    """After asyncio.run has ended, the transport works on the next loop, with connections of its own."""
    [server] = servers(1)
    transport = AsyncResilientTransport(listed(server))

    async def ask() -> str:
        request = httpx.Request("GET", "http://producer/", headers={"connection": "close"})
        answer = await transport.handle_async_request(request)
        return (await answer.aread()).decode()

    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        assert loop.run_until_complete(ask()) == "a"
        assert len(transport._by_loop) == 1
        loop.close()
    assert breaker(transport).snapshot().successes == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_connections_of_its_own(servers: Callable[..., list[Server]]) -> None:
    """Parent and child both go on after a fork, each on its own connections."""
    [server] = servers(1)
    with httpx.Client(transport=ResilientTransport(listed(server))) as client:
        assert client.get("http://producer/").text == "a"
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if client.get("http://producer/").text == "a" else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert client.get("http://producer/").text == "a"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the name `producer`, and its key."""
    openssl = require_command("openssl", package="openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=producer", "-addext", "subjectAltName=DNS:producer", "-days", "2"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run([openssl, "req", "-x509", "-nodes", *made, *subject], check=True, capture_output=True, timeout=30)
    return cert, key


def test_https_is_verified_for_the_name(servers: Callable[..., list[Server]], certificate: tuple[Path, Path]) -> None:
    """A certificate for `producer` is good although the connection goes to an address; for another name it is not."""
    cert, key = certificate
    [server] = servers(1, ssl_certfile=str(cert), ssl_keyfile=str(key))
    trust = ssl.create_default_context(cafile=str(cert))
    discovery = Listed(server.instance(secure=True))
    with httpx.Client(transport=ResilientTransport(discovery, verify=trust)) as client:
        answer = client.get("https://producer/")
        assert (answer.text, answer.headers["x-scheme"], answer.headers["x-host"]) == ("a", "https", "producer")
        with pytest.raises(httpx.ConnectError, match="(?i)mismatch"):
            client.get("https://producer/", extensions={"sni_hostname": "consumer"})


def test_a_client_certificate_is_shown(
    servers: Callable[..., list[Server]], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """cert= is what the server asks for; the authorities are those of SSL_CERT_FILE."""
    cert, key = certificate
    [server] = servers(
        1, ssl_certfile=str(cert), ssl_keyfile=str(key), ssl_ca_certs=str(cert), ssl_cert_reqs=ssl.CERT_REQUIRED
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    discovery = Listed(server.instance(secure=True))
    with httpx.Client(transport=ResilientTransport(discovery, cert=(str(cert), str(key)))) as client:
        assert client.get("https://producer/").text == "a"
    names.forget()
    with httpx.Client(transport=ResilientTransport(discovery)) as client, pytest.raises(httpx.TransportError):
        client.get("https://producer/")
