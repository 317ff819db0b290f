"""`TcpProxy` between real sockets: what a client sees when the network is ill."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from resilient import CallTimeoutError, ConfigError, Timeout
from resilient.testing import TcpProxy
from tests.waiting import wait_until


class Echo:
    """A real server that sends back what it gets, and closes when the client has said all."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ends: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    self.received += data
                    connection.sendall(data)
                self.ends.append("closed")
            except ConnectionResetError:
                self.ends.append("reset")

    def stop(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5.0)


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server behind the proxy."""
    server = Echo()
    yield server
    server.stop()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    """The proxy in front of it."""
    with TcpProxy(echo.address) as running:
        yield running


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    """A connection through the proxy, which has reached the server."""
    with socket.create_connection(proxy.address, timeout=10.0) as connection:
        assert ask(connection, b"hello") == b"hello"
        yield connection


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send, and read as much back."""
    connection.sendall(data)
    return read(connection, len(data))


def read(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or all there are."""
    found = b""
    while len(found) < size and (data := connection.recv(size - len(found))):
        found += data
    return found


def took(connection: socket.socket, data: bytes) -> float:
    """Real seconds until the answer is complete."""
    started = time.monotonic()
    assert ask(connection, data) == data
    return time.monotonic() - started


def test_bytes_and_ends_pass_unchanged(client: socket.socket, echo: Echo) -> None:
    """Large bodies too, and the end of one direction does not end the other."""
    data = bytes(range(256)) * 4_000
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert read(client, len(data)) == data
    sender.join()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert echo.ends == ["closed"]


def test_latency_makes_answers_late_not_few(client: socket.socket, proxy: TcpProxy) -> None:
    """A megabyte that is sent at once arrives as one delay, not one per piece."""
    proxy.latency = 0.2
    assert 0.2 <= took(client, b"x" * 200_000) < 2.0
    proxy.latency = 0.0
    assert took(client, b"x") < 0.2


def test_latency_of_each_direction_adds_up(client: socket.socket, proxy: TcpProxy) -> None:
    """Requests and answers have their own."""
    proxy.to_server.latency = proxy.to_client.latency = 0.1
    assert took(client, b"x") >= 0.2


def test_jitter_keeps_the_order(echo: Echo) -> None:
    """A piece by chance sooner than its predecessor waits for it."""
    chances = iter([1.0, 0.0] * 500)
    with TcpProxy(echo.address, rng=lambda: next(chances)) as proxy:
        proxy.jitter = 0.05
        with socket.create_connection(proxy.address, timeout=10.0) as connection:
            for number in range(20):
                connection.sendall(bytes([number]))
            assert read(connection, 20) == bytes(range(20))
        assert proxy.jitter == 0.05


def test_bandwidth_limits_the_flow(client: socket.socket, proxy: TcpProxy) -> None:
    """20 kB at 100 kB a second take nearly a fifth of a second: the first piece comes at once."""
    proxy.bandwidth = 100_000
    assert took(client, b"x" * 20_000) >= 0.17
    proxy.bandwidth = None
    assert proxy.bandwidth is None
    assert took(client, b"x" * 20_000) < 0.17


def test_a_black_hole_is_silent_and_gives_back_what_it_held(client: socket.socket, proxy: TcpProxy) -> None:
    """The connection stays; a client sees only its own timeout."""
    proxy.black_hole = True
    client.settimeout(0.1)
    client.sendall(b"lost?")
    with pytest.raises(TimeoutError):
        client.recv(5)
    assert proxy.black_hole
    client.settimeout(10.0)
    proxy.black_hole = False
    assert read(client, 5) == b"lost?"


def test_a_black_hole_of_one_direction(client: socket.socket, proxy: TcpProxy, echo: Echo) -> None:
    """The server gets the request, the client no answer: the case in which a retry does it twice."""
    proxy.to_client.black_hole = True
    client.settimeout(0.1)
    client.sendall(b"order")
    with pytest.raises(TimeoutError):
        client.recv(5)
    wait_until(lambda: bytes(echo.received) == b"helloorder", what="the request at the server")


def test_reset_kills_the_open_connections_only(client: socket.socket, proxy: TcpProxy, echo: Echo) -> None:
    """Both sides get a RST; the next connection is taken."""
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    wait_until(lambda: echo.ends == ["reset"], what="the reset at the server")
    with socket.create_connection(proxy.address, timeout=10.0) as again:
        assert ask(again, b"again") == b"again"
    assert proxy.accepted == 2


def test_a_connection_may_be_reset_after_some_bytes(client: socket.socket, proxy: TcpProxy) -> None:
    """In the middle of an answer."""
    proxy.to_client.reset_after = 8  # five of them are gone
    client.sendall(b"0123456789")
    with pytest.raises(ConnectionResetError):
        while client.recv(100):
            pass
    wait_until(lambda: proxy.connections == 0, what="the end of the connection")


def test_refuse_turns_new_connections_away_and_open_ones_go_on(client: socket.socket, proxy: TcpProxy) -> None:
    """As a host on which nothing listens; later the same port listens again."""
    port = proxy.port
    proxy.refuse = True
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address, timeout=10.0)
    assert ask(client, b"still here") == b"still here"
    proxy.refuse = False
    assert (proxy.port, proxy.refuse) == (port, False)
    with socket.create_connection(proxy.address, timeout=10.0) as again:
        assert ask(again, b"back") == b"back"


def test_a_proxy_may_refuse_from_the_start(echo: Echo) -> None:
    """A service that is not up yet."""
    late = TcpProxy(echo.address)
    late.refuse = True
    with late as proxy:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address)
        proxy.refuse = False
        with socket.create_connection(proxy.address, timeout=10.0) as connection:
            assert ask(connection, b"up") == b"up"


def test_a_server_that_is_gone_is_a_reset(echo: Echo, proxy: TcpProxy) -> None:
    """The client is connected to the proxy, which finds nobody behind it."""
    echo.stop()
    with pytest.raises(ConnectionResetError), socket.create_connection(proxy.address, timeout=10.0) as connection:
        connection.recv(1)


def test_leaving_closes_everything(echo: Echo) -> None:
    """Connections are reset, the port is free, the thread has ended; black holes and delays hold nothing up."""
    with TcpProxy(echo.address) as proxy:
        address = proxy.address
        connection = socket.create_connection(address, timeout=10.0)
        assert ask(connection, b"hello") == b"hello"
        proxy.latency = 60.0
        proxy.black_hole = True
        connection.sendall(b"more")
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = proxy.port
    assert not [thread for thread in threading.enumerate() if thread.name == "resilient-proxy"]
    with socket.create_server(address):
        pass


def test_one_block_at_a_time(proxy: TcpProxy) -> None:
    """A proxy that runs can not be started again."""
    with pytest.raises(RuntimeError, match="runs already"):
        proxy.__enter__()


async def test_it_serves_async_tests_alike(proxy: TcpProxy) -> None:
    """Its loop is its own; a timeout of the library ends a call into the black hole."""
    reader, writer = await asyncio.open_connection(*proxy.address)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    proxy.black_hole = True
    writer.write(b"lost")
    with pytest.raises(CallTimeoutError):
        await Timeout(0.05).acall(reader.readexactly, 4)
    writer.close()


def test_httpx_sees_what_a_network_does(proxy: TcpProxy) -> None:
    """Refused, silent and reset are three different errors."""
    url = f"http://127.0.0.1:{proxy.port}/"
    with httpx.Client(timeout=0.2) as client:
        proxy.refuse = True
        with pytest.raises(httpx.ConnectError):
            client.get(url)
        proxy.refuse = False
        proxy.black_hole = True
        with pytest.raises(httpx.ReadTimeout):
            client.get(url)
        proxy.black_hole = False
        proxy.to_server.reset_after = 10
        with pytest.raises((httpx.ReadError, httpx.WriteError)):
            client.get(url)


@pytest.mark.parametrize(
    ("name", "value"),
    [("latency", -1.0), ("jitter", "much"), ("bandwidth", 0), ("black_hole", 1), ("reset_after", -1)],
)
def test_a_wrong_setting_is_refused(name: str, value: Any) -> None:
    """At the assignment; what was set stays."""
    proxy = TcpProxy(("127.0.0.1", 80))
    before = repr(proxy.to_client)
    with pytest.raises(ConfigError) as caught:
        setattr(proxy.to_client, name, value)
    assert (caught.value.path, repr(proxy.to_client)) == (name, before)


def test_a_wrong_target_or_a_misspelt_setting_is_refused() -> None:
    """Nothing is ignored in silence."""
    with pytest.raises(ConfigError, match="target"):
        TcpProxy("localhost:80")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="port"):
        TcpProxy(("localhost", 0))
    proxy = TcpProxy(("localhost", 80))
    with pytest.raises(ConfigError, match="refuse"):
        proxy.refuse = 1  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="latncy"):
        proxy.to_client.latncy = 1.0
    assert repr(proxy) == "<TcpProxy not running to localhost:80>"
