"""What a hostile client can not do to the registry: keep others out, fill its memory, go without a password."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from resilient.registry_server import RegistryServer
from resilient.registry_server.app import RegistryApp
from resilient.registry_server.connections import MAX_HEAD
from resilient.registry_server.record import Record
from tests.registry_calls import JSON, ask, instance, register
from tests.waiting import wait_until

KIND = {"Content-Type": "application/json"}


def basic(user: str, password: str) -> dict[str, str]:
    """The header of HTTP basic authentication."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


# Who may ask


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    with RegistryServer(auth=("ops", "s3cr:ét")) as server:
        yield server.port


@pytest.mark.parametrize("path", ["/", "/eureka/apps", "/eureka/status", "/nope", "//"])
@pytest.mark.parametrize(
    "headers",
    [{}, basic("ops", "wrong"), basic("other", "s3cr:ét"), basic("", ""), {"Authorization": "Basic ***"},
     {"Authorization": "Basic"}, {"Authorization": "Bearer abc"}, {"Authorization": "Basic é"}],
    ids=str,
)  # fmt: skip
def test_nobody_comes_in_without_the_password(guarded: int, path: str, headers: dict[str, str]) -> None:
    """401 with the challenge for every path, the page and those that are not there too."""
    if "é" in headers.get("Authorization", ""):
        headers = {"Authorization": "Basic \xe9"}
    answer = ask(guarded, "GET", path, headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="resilient registry", charset="UTF-8"'


def test_who_knows_the_password_comes_in(guarded: int) -> None:
    """Colons and letters beyond ASCII in the password; the scheme's name in any case."""
    headers = basic("ops", "s3cr:ét")
    assert ask(guarded, "GET", "/", headers=headers).status == 200
    assert ask(guarded, "POST", "/eureka/apps/DEMO", instance(), {**KIND, **headers}).status == 204
    lower = {"Authorization": headers["Authorization"].replace("Basic", "basic")}
    assert ask(guarded, "DELETE", "/eureka/apps/DEMO/i-1", headers=lower).status == 200


def test_our_own_client_knows_how_to_say_it(guarded: int) -> None:
    """Percent-encoded in the URL, as every Eureka client has it."""
    from resilient.discovery import Registry

    url = f"eureka://ops:s3cr%3A%C3%A9t@127.0.0.1:{guarded}"
    with Registry.from_url(url) as registry, registry.register("shop", port=80, host="127.0.0.1"):
        assert registry.wait("shop")[0].port == 80


# Memory


def test_a_flood_of_large_registrations_ends_at_the_limit() -> None:
    """Whatever is registered, the list stays within `max_bytes`; who is there renews and changes all the same."""
    with RegistryServer(max_bytes=100_000) as server:
        register(server.port, "there", metadata={"zone": "z"})
        flood = [instance(f"i-{number}", metadata={"k": "\x01" * 1000}) for number in range(30)]
        statuses = {ask(server.port, "POST", "/eureka/apps/DEMO", one, KIND).status for one in flood}
        assert statuses == {204, 507}
        listed = ask(server.port, "GET", "/eureka/apps", headers=JSON)
        assert len(listed.body) <= 100_000 + 100
        assert ask(server.port, "PUT", "/eureka/apps/DEMO/there").status == 200
        assert ask(server.port, "PUT", "/eureka/apps/DEMO/there/status?value=OUT_OF_SERVICE").status == 200
        refused = ask(server.port, "POST", "/eureka/apps/DEMO", instance("new", metadata={"k": "v" * 9000}), KIND)
        assert (refused.status, refused.body) == (507, b"the registry is full: its list may have 100,000 bytes")
        for found in listed.json["applications"]["application"][0]["instance"]:
            ask(server.port, "DELETE", f"/eureka/apps/DEMO/{found['instanceId']}")
        register(server.port, "new", metadata={"k": "v" * 9000})


def test_one_instance_does_not_grow_by_merging() -> None:
    """Its metadata may have 128 KiB, then merging is refused and changes nothing."""
    with RegistryServer() as server:
        register(server.port)
        for number in range(4):
            path = f"/eureka/apps/DEMO/i-1/metadata?k{number}={'v' * 40_000}"
            assert ask(server.port, "PUT", path).status == (200 if number < 3 else 507)
        assert len(ask(server.port, "GET", "/eureka/instances/i-1", headers=JSON).json["instance"]["metadata"]) == 3


async def test_a_bomb_is_not_unpacked() -> None:
    """60 MB of zeros packed into 60 kB are refused after the first bytes too many, and quickly."""
    bomb = gzip.compress(b"0" * 60_000_000)
    assert len(bomb) < 65_536
    async with httpx.AsyncClient(transport=httpx.ASGITransport(RegistryApp()), base_url="http://r/eureka") as client:
        started = time.thread_time()
        answer = await client.post("/apps/DEMO", content=bomb, headers={**KIND, "Content-Encoding": "gzip"})
        assert answer.status_code == 413
        assert time.thread_time() - started < 0.5


def test_a_body_that_says_that_it_is_large_is_not_read() -> None:
    """413 at once, from its Content-Length, and the connection is closed."""
    with RegistryServer() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /eureka/apps/DEMO HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9999999999\r\n\r\n"
        )
        assert read_to_end(client).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("head", ["GET /eureka/apps", "PUT /eureka/apps/A/i", "DELETE /eureka/apps/A/i", "POST /nope"])
def test_a_body_where_none_belongs_is_not_read(head: str) -> None:
    """It is answered, and the connection closed, however long the body would go on."""
    with RegistryServer() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(f"{head} HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        assert b"connection: close" in read_to_end(client).lower()


@pytest.mark.parametrize("name", [b"GET /%s HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: %s\r\n"], ids=["path", "header"])
def test_an_endless_head_is_refused(name: bytes) -> None:
    """64 KiB and no more."""
    with RegistryServer() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(name % (b"x" * (MAX_HEAD + 10_000)))
        with contextlib.suppress(ConnectionResetError):
            assert read_to_end(client).startswith(b"HTTP/1.1 400 ")


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    while part := client.recv(65_536):
        parts.append(part)
    return b"".join(parts)


# Connections


@pytest.mark.parametrize("sent", [b"", b"GET /eureka/apps HTTP/1.1\r\nHost: h\r\nX-Slow: "])
def test_a_connection_that_sends_no_whole_request_is_closed(sent: bytes) -> None:
    """Whether it says nothing or half a head, also when more of it drips in."""
    with RegistryServer(head_timeout=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            slow.sendall(sent)
            slow.settimeout(0.05)
            until = time.monotonic() + 10.0
            while time.monotonic() < until:
                try:
                    slow.sendall(b"x" if sent else b"")
                    if slow.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:  # reset while we dripped
                    break
            else:
                pytest.fail("it was not closed")
        ask(server.port, "GET", "/eureka/apps")


def test_a_connection_that_rests_between_heartbeats_stays() -> None:
    """The time for a head counts from its first byte: a connection that has been used may be idle for much longer."""
    with RegistryServer(head_timeout=0.2) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        client.request("GET", "/eureka/apps")
        assert client.getresponse().read()
        kept = client.sock
        assert kept is not None
        kept.settimeout(0.7)
        with pytest.raises(TimeoutError):  # several times as long; a closed one would give b""
            kept.recv(1)
        kept.settimeout(10)
        client.request("GET", "/eureka/apps")
        assert client.getresponse().read()
        assert client.sock is kept
        client.close()


def test_idle_connections_give_way_to_new_ones() -> None:
    """A flood of connections closes the longest idle first; who asks is answered."""
    with RegistryServer(max_connections=8) as server:
        idle = []
        for _ in range(8):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            client.request("GET", "/eureka/apps")
            client.getresponse().read()
            idle.append(client)
        for _ in range(3):
            assert ask(server.port, "GET", "/eureka/apps").status == 200
        assert idle[0].sock is not None
        with contextlib.suppress(ConnectionResetError):
            assert idle[0].sock.recv(1) == b""
        idle[7].request("GET", "/eureka/apps")
        assert idle[7].getresponse().status == 200
        for client in idle:
            client.close()


def test_each_newcomer_takes_the_place_of_another_idle_connection() -> None:
    """Also of those that come at the same moment: there are never more than allowed for long."""
    with RegistryServer(max_connections=8) as server, contextlib.ExitStack() as stack:
        assert server._server is not None
        connections = server._server.server_state.connections
        for _ in range(8):
            client = stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)))
            client.request("GET", "/eureka/apps")
            client.getresponse().read()
        with server.store._lock:  # the loop stands still in the next answer, so that they are accepted together
            waits = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            waits.sendall(b"GET /eureka/apps HTTP/1.1\r\nHost: r\r\n\r\n")
            for _ in range(6):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        assert waits.recv(1)
        wait_until(lambda: len(connections) <= 8, timeout=5.0, what="the limit")


def test_silent_connections_do_not_keep_heartbeats_out() -> None:
    """More of them than there may be, none of which asks anything: they leave after the time for a head."""
    with RegistryServer(max_connections=8, head_timeout=0.3) as server, contextlib.ExitStack() as stack:
        register(server.port)
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))

        def renewed() -> bool:
            try:
                return ask(server.port, "PUT", "/eureka/apps/DEMO/i-1").status == 200
            except (ConnectionError, http.client.HTTPException):
                return False

        wait_until(renewed, what="a heartbeat")


def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    """A long list, asked for and not read: the connection is aborted and its memory free."""
    with RegistryServer(answer_timeout=0.3) as server:
        for number in range(8_000):
            server.store.register(Record(app="BIG", id=f"{number:05}", host="h" * 200, ip="i"))
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.settimeout(20)
            lazy.connect(("127.0.0.1", server.port))
            lazy.sendall(b"GET /eureka/apps HTTP/1.1\r\nHost: r\r\nAccept: application/json\r\n\r\n")
            begun = time.monotonic()
            wait_until(lambda: time.monotonic() - begun > 0.6, what="the end of its time")
            took = b""
            with contextlib.suppress(ConnectionResetError):
                took = read_to_end(lazy)
            assert len(took) < 5_000_000
        assert ask(server.port, "PUT", "/eureka/apps/BIG/00000").status == 200


def test_the_end_of_an_answer_must_be_taken_as_well() -> None:
    """Though all of it has been handed over, and the connection is to be closed, which waits for the client."""
    with RegistryServer(answer_timeout=0.3) as server, contextlib.ExitStack() as stack:
        for number in range(1_500):
            server.store.register(Record(app="BIG", id=f"{number:05}", host="h" * 500, ip="i"))
        for number in range(1_500, 3_500, 25):  # of one or two of these lists only the last 60 kB wait
            for more in range(25):
                server.store.register(Record(app="BIG", id=f"{number + more:05}", host="h" * 500, ip="i"))
            lazy = stack.enter_context(socket.socket())
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", server.port))
            lazy.sendall(
                b"GET /eureka/apps HTTP/1.1\r\nHost: r\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
            )
        assert server._server is not None
        connections = server._server.server_state.connections
        wait_until(lambda: not connections, timeout=20.0, what="the end of all connections")


async def test_answers_that_nobody_takes_are_bounded() -> None:
    """Beyond a limit on what is on its way, more long ones are refused with 503 and Retry-After."""
    app = RegistryApp(max_unsent=100_000)
    app.store.register(Record(app="BIG", id="1", host="x" * 40_000, ip="i"))
    scope = {"type": "http", "method": "GET", "path": "/eureka/apps", "query_string": b"",
             "headers": [(b"accept", b"application/json")]}  # fmt: skip
    taken = asyncio.Event()
    statuses: list[int] = []
    three = asyncio.Event()

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])
            if len(statuses) == 3:
                three.set()
            if message["status"] == 200:
                await taken.wait()

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    tasks = [asyncio.create_task(app(dict(scope), receive, send)) for _ in range(3)]
    await three.wait()
    assert statuses == [200, 200, 503]
    taken.set()
    await asyncio.gather(*tasks)
    await app(dict(scope), receive, send)
    assert statuses[-1] == 200


def test_a_storm_of_everything_at_once_leaves_it_well() -> None:
    """Garbage, half requests, wrong methods, huge bodies, hang-ups from eight threads; then it answers as before."""
    noise = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\nHost: r\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"GET /%FF%00 HTTP/1.1\r\nHost: r\r\n\r\n",
        b"POST /eureka/apps/X HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhi",
        b"POST /eureka/apps/X HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
        b"POST /eureka/apps/X HTTP/1.1\r\nHost: r\r\nContent-Type: application/xml\r\nContent-Length: 6\r\n\r\n<a><a>",
        b"GET /eureka/apps HTTP/1.1\r\nHost: r\r\n\r\n" * 50,  # in one go
        b"OPTIONS * HTTP/1.1\r\nHost: r\r\n\r\n",
        b"\r\n" * 1000,
    ]
    with RegistryServer() as server:
        register(server.port)

        def make(thread: int) -> None:
            for turn in range(18):
                with (
                    socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
                    contextlib.suppress(OSError),
                ):
                    client.sendall(noise[(thread + turn) % len(noise)])
                    if turn % 2:
                        client.settimeout(0.05)
                        client.recv(100)

        threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        listed = ask(server.port, "GET", "/eureka/apps", headers=JSON)
        assert json.loads(listed.body)["applications"]["apps__hashcode"] == "UP_1_"
