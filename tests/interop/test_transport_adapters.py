"""The adapters for requests and aiohttp where they differ from httpx: TLS by name, bodies, what policies give."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from resilient import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    ConcurrencyLimiter,
    Deadline,
    Fallback,
    Pipeline,
    Retry,
)
from resilient.discovery import Instance
from resilient.testing import VirtualClock
from resilient.transport import AsyncResilientTransport, ResilientTransport
from tests.listed import Listed
from tests.peers import require_command

requests = pytest.importorskip("requests")
aiohttp = pytest.importorskip("aiohttp")

from resilient.transport.aiohttp import ResilientClientMiddleware  # noqa: E402  # where they are installed
from resilient.transport.requests import ResilientAdapter  # noqa: E402  # likewise

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 30\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000)
AGAIN = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"


class Peer:
    """One real instance: gives the same bytes for each request, over TLS or not, and hangs up after a broken answer."""

    def __init__(self, reply: bytes, context: ssl.SSLContext | None = None) -> None:
        self._reply, self._context = reply, context
        self.asked = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def instance(self, name: str, *, secure: bool = False) -> Instance:
        return Instance("producer", "127.0.0.1", self._listening.getsockname()[1], id=name, secure=secure)

    def stop(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(raw, server_side=True) if self._context else raw as spoken:
            while spoken.recv(65_536):
                self.asked += 1
                spoken.sendall(self._reply)
                if self._reply is CUT:
                    return


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """`peer(reply)`: a real instance, stopped afterwards."""
    running: list[Peer] = []

    def start(reply: bytes = OK, context: ssl.SSLContext | None = None) -> Peer:
        running.append(Peer(reply, context))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for the name `producer`, and what a server shows it with."""
    openssl = require_command("openssl", package="openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=producer", "-addext", "subjectAltName=DNS:producer", "-days", "2"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run([openssl, "req", "-x509", "-nodes", *made, *subject], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(cert), str(key))
    return cert, context


def at_once(key: str) -> Pipeline[Any]:
    """Policies that do not wait."""
    return Pipeline(CircuitBreaker(f"adapters {key}"), Retry(f"adapters {key}", attempts=1))


def session(discovery: Listed, **options: Any) -> Any:
    """A requests session over the adapter, without the environment's proxies."""
    made = requests.Session()
    made.trust_env = False
    adapter = ResilientAdapter(discovery, **{"policies": at_once, **options})
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    return made


def failures(balanced: Any) -> int:
    return sum(entry.failures for entry in balanced.balancer("producer").snapshot().instances)


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tls_name", "good"), [(None, True), ("producer", True), ("consumer", False)])
def test_requests_verifies_the_name(
    peer: Callable[..., Peer], certificate: tuple[Path, ssl.SSLContext], tls_name: str | None, *, good: bool
) -> None:
    """The certificate is that of the service, or of tls_name=, not of the address."""
    cert, context = certificate
    discovery = Listed(peer(OK, context).instance("a", secure=True))
    with session(discovery, tls_name=tls_name) as http:
        if good:
            assert http.get("https://producer/", verify=str(cert)).text == "ok"
        else:
            with pytest.raises(requests.exceptions.SSLError, match="(?i)mismatch|doesn't match"):
                http.get("https://producer/", verify=str(cert))


@pytest.mark.parametrize(("tls_name", "good"), [(None, True), ("consumer", False)])
async def test_aiohttp_verifies_the_name(
    peer: Callable[..., Peer], certificate: tuple[Path, ssl.SSLContext], tls_name: str | None, *, good: bool
) -> None:
    """The same for the middleware."""
    cert, context = certificate
    middleware = ResilientClientMiddleware(
        Listed(peer(OK, context).instance("a", secure=True)), policies=at_once, tls_name=tls_name
    )
    trust = ssl.create_default_context(cafile=str(cert))
    async with aiohttp.ClientSession(middlewares=[middleware]) as http:
        if good:
            async with http.get("https://producer/", ssl=trust) as answer:
                assert await answer.text() == "ok"
                assert str(answer.url) == "https://producer/"
        else:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get("https://producer/", ssl=trust)


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_a_body_of_requests_that_breaks_is_the_instances_failure(peer: Callable[..., Peer]) -> None:
    """The error is requests' own; the circuit had its verdict at the headers."""
    with session(Listed(peer(CUT).instance("a"))) as http:
        with pytest.raises(requests.RequestException):
            http.get("http://producer/")
        adapter = http.get_adapter("http://producer/")
        assert failures(adapter) == 1
        assert adapter.balancer("producer").snapshot().in_flight == 0
        assert adapter.pipeline("producer").policies[0].snapshot().failures == 0


def test_a_raw_body_of_requests_gives_its_instance_back(peer: Callable[..., Peer]) -> None:
    """Read through `raw`, or in parts, as libraries on top of it do."""
    with session(Listed(peer().instance("a"))) as http:
        chosen = http.get_adapter("http://producer/").balancer("producer")
        raw = http.get("http://producer/", stream=True)
        assert chosen.snapshot().in_flight == 1
        assert raw.raw.status == 200
        assert raw.raw.read() == b"ok"
        assert raw.raw.read() == b""
        raw.close()
        parts = http.get("http://producer/", stream=True)
        assert b"".join(parts.raw) == b"ok"
        assert chosen.snapshot().in_flight == 0


def test_the_callers_deadline_holds_for_a_body_of_requests(peer: Callable[..., Peer], clock: VirtualClock) -> None:
    """Looked at for each part."""
    with session(Listed(peer().instance("a"))) as http, Deadline(5.0, clock=clock):
        answer = http.get("http://producer/", stream=True)
        clock.advance(5.0)
        with pytest.raises(CallTimeoutError) as late:
            _ = answer.content
        assert isinstance(late.value, requests.RequestException)
        assert failures(http.get_adapter("http://producer/")) == 0


async def test_a_body_of_aiohttp_that_breaks_is_the_instances_failure(peer: Callable[..., Peer]) -> None:
    """One that the caller closes is nobody's."""
    middleware = ResilientClientMiddleware(Listed(peer(CUT).instance("a")), policies=at_once)
    async with aiohttp.ClientSession(middlewares=[middleware]) as http:
        answer = await http.get("http://producer/")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
        assert failures(middleware) == 1
    unread = ResilientClientMiddleware(
        Listed(peer(LONG).instance("a")), policies=lambda _key: Pipeline(Retry(attempts=1))
    )
    async with aiohttp.ClientSession(middlewares=[unread]) as http:
        (await http.get("http://producer/")).close()
        assert failures(unread) == 0
    for one in (middleware, unread):
        assert one.balancer("producer").snapshot().in_flight == 0


GATES = pytest.mark.parametrize("make", [lambda: Bulkhead(1), ConcurrencyLimiter], ids=["bulkhead", "limiter"])


@GATES
def test_32_a_place_is_held_until_a_body_of_requests_ends(peer: Callable[..., Peer], make: Callable[[], Any]) -> None:
    """Read or closed; the answer of a failed attempt holds none."""
    gate = make()
    fleet = Listed(peer(BUSY).instance("a"), peer(LONG).instance("b"))
    with session(fleet, policies=lambda _key: Pipeline(Retry(wait=0.0), gate)) as http:
        for end in ("read", "close"):
            answer = http.get("http://producer/", stream=True)
            assert (answer.status_code, gate.snapshot().in_flight) == (200, 1)
            if end == "read":
                assert len(answer.content) == 1_000_000
            answer.close()
            assert gate.snapshot().in_flight == 0


@GATES
async def test_32_a_place_is_held_until_a_body_of_aiohttp_ends(
    peer: Callable[..., Peer], make: Callable[[], Any]
) -> None:
    """The same."""
    gate = make()
    fleet = Listed(peer(BUSY).instance("a"), peer(LONG).instance("b"))
    middleware = ResilientClientMiddleware(fleet, policies=lambda _key: Pipeline(Retry(wait=0.0), gate))
    async with aiohttp.ClientSession(middlewares=[middleware]) as http:
        for end in ("read", "close"):
            answer = await http.get("http://producer/")
            assert (answer.status, gate.snapshot().in_flight) == (200, 1)
            if end == "read":
                assert len(await answer.read()) == 1_000_000
            answer.close()
            assert gate.snapshot().in_flight == 0


# --- policies -------------------------------------------------------------------------------------------------------


def test_an_instance_of_requests_that_asks_for_a_pause_gets_one(peer: Callable[..., Peer]) -> None:
    """Retry-After: others first, and the answer of one that is busy is replaced where that is safe."""
    busy, well = peer(BUSY), peer()
    discovery = Listed(busy.instance("a"), well.instance("b"))
    with session(discovery, policies=lambda _key: Pipeline(Retry(wait=0.0))) as http:
        assert [http.get("http://producer/").status_code for _ in range(6)] == [200] * 6
    assert busy.asked <= 1


@pytest.mark.parametrize("value", [None, "empty"])
def test_a_fallback_gives_answers_of_the_client(peer: Callable[..., Peer], value: object) -> None:
    """It is called for what fails; anything but a response of the client is told."""

    def instead(request: Any) -> Any:
        found = requests.Response()
        found.status_code = 203
        return found if value is None else value

    with session(Listed(peer(BUSY).instance("a")), policies=lambda _key: Pipeline(Fallback(instead))) as http:
        if value is None:
            assert http.get("http://producer/").status_code == 203
        else:
            with pytest.raises(TypeError, match=r"a Fallback here gives a requests\.Response"):
                http.get("http://producer/")
        assert http.get_adapter("http://producer/").balancer("producer").snapshot().in_flight == 0


async def test_a_fallback_of_aiohttp_gives_answers_of_the_client(peer: Callable[..., Peer]) -> None:
    """The same for the middleware; what it replaces is closed."""

    async def instead(request: Any) -> str:
        return "empty"

    middleware: Any = ResilientClientMiddleware(
        Listed(peer(BUSY).instance("a")), policies=lambda _key: Pipeline(Fallback(instead))
    )
    async with aiohttp.ClientSession(middlewares=[middleware]) as http:
        with pytest.raises(TypeError, match="a Fallback here gives a ClientResponse"):
            await http.get("http://producer/")
    assert middleware.balancer("producer").snapshot().in_flight == 0


class Watching(VirtualClock):
    """A clock whose sleepers are counted by a Retry: so many wait while one sleeps."""

    def __init__(self) -> None:
        super().__init__(auto=True)
        self.retry = Retry("watched", attempts=2, wait=1.0, clock=self)
        self.seen: list[int] = []

    def policies(self, _key: str) -> Pipeline[Any]:
        """Just that Retry."""
        return Pipeline(self.retry)

    def sleep(self, seconds: float, /) -> None:
        self.seen.append(self.retry.snapshot().waiting)
        super().sleep(seconds)

    async def sleep_async(self, seconds: float, /) -> None:
        self.seen.append(self.retry.snapshot().waiting)
        await super().sleep_async(seconds)


def test_who_waits_for_the_next_attempt_is_counted(peer: Callable[..., Peer]) -> None:
    """By the Retry, for httpx and requests: only while it waits."""
    discovery, clock = Listed(peer(AGAIN).instance("a")), Watching()
    with session(discovery, policies=clock.policies, clock=clock) as http:
        assert http.get("http://producer/").status_code == 503
    transport = ResilientTransport(discovery, policies=clock.policies, clock=clock, trust_env=False)
    with httpx.Client(transport=transport) as client:
        assert client.get("http://producer/").status_code == 503
    assert (clock.seen, clock.retry.snapshot().waiting) == ([1, 1], 0)


async def test_who_waits_on_a_loop_for_the_next_attempt_is_counted(peer: Callable[..., Peer]) -> None:
    """The same for httpx's async client and aiohttp."""
    discovery, clock = Listed(peer(AGAIN).instance("a")), Watching()
    middleware: Any = ResilientClientMiddleware(discovery, policies=clock.policies, clock=clock)
    async with aiohttp.ClientSession(middlewares=[middleware]) as http:
        assert (await http.get("http://producer/")).status == 503
    transport = AsyncResilientTransport(discovery, policies=clock.policies, clock=clock, trust_env=False)
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get("http://producer/")).status_code == 503
    assert (clock.seen, clock.retry.snapshot().waiting) == ([1, 1], 0)


def test_an_adapter_can_not_be_pickled() -> None:
    """It holds connections; the error says what to do."""
    import pickle

    with pytest.raises(TypeError, match="make one per process"):
        pickle.dumps(ResilientAdapter())
