"""Whatever a registry's port answers, nobody waits too long, nothing that is known is lost, and words say what came."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from resilient import NoInstanceError
from resilient.discovery import Discovery, Registry, kubernetes_watch, wire
from tests.waiting import wait_until

URLS = {
    "consul": "consul://{}?wait=1&ttl=1",
    "etcd": "etcd://{}?ttl=2&watch=1",
    "kubernetes": "kubernetes://default?api=http://{}&watch=1",
    "eureka": "eureka://{}?fetch_interval=0.2&renew_interval=0.2&lease=1",
}
HTML = b"<html>a captive portal</html>"


class BadServer:
    """Reads a request and answers as told; `seen` counts."""

    def __init__(self, answer: Callable[[socket.socket], object]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.stopping = threading.Event()
        self.seen = 0
        self.answer = answer
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(65_536)
                self.seen += 1
                self.answer(sock)
            except OSError:
                return

    def close(self) -> None:
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


def plain(body: bytes, status: str = "200 OK") -> Callable[[socket.socket], object]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    return lambda sock: sock.sendall(head + body)


def drip(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(600):
        sock.sendall(b"X-Drip: 1\r\n")
        time.sleep(0.02)


def hang(sock: socket.socket) -> None:
    sock.settimeout(20)
    sock.recv(1)


ANSWERS: dict[str, Callable[[socket.socket], object]] = {
    "a page": plain(HTML),
    "a list": plain(b"[7, null, {}]"),
    "an object": plain(b'{"items": 7, "kvs": [7], "header": [], "metadata": null, "applications": 3}'),
    "deep": plain(b"[" * 100_000),
    "nothing": plain(b""),
    "an error": plain(HTML, "500 Oops"),
    "a redirection": plain(b"", "302 Found\r\nLocation: http://127.0.0.1:1/"),
    "no http": lambda sock: sock.sendall(b"\x16\x03\x01 hello\r\n\r\n"),
    "a cut": lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"),
    "a close": lambda sock: None,
    "a drip": drip,
    "a hang": hang,
}


@pytest.fixture(params=ANSWERS)
def server(request: pytest.FixtureRequest) -> Iterator[BadServer]:
    found = BadServer(ANSWERS[request.param])
    yield found
    found.close()


@pytest.mark.parametrize("kind", URLS)
def test_a_bad_answer_is_told_in_words_and_holds_nobody(
    server: BadServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Looking up and registering; at most one warning for it; no exception of ours; the end comes soon."""
    with caplog.at_level(logging.WARNING, "resilient"):
        url = URLS[kind].format(server.address)
        found = Discovery.from_url(url)
        with found:
            quick = server.answer not in {drip, hang}  # how long a hung one holds who leaves is tested elsewhere
            mine = found.register("me", port=1, host="127.0.0.1") if quick and isinstance(found, Registry) else None
            if mine is not None:
                mine.__enter__()
            assert found.instances("producer") == ()
            wait_until(lambda: server.seen >= 1, what="a request")
            time.sleep(0.1)
            assert found.instances("producer") == ()
            assert mine is None or not mine.registered or server.seen > 1
            began = time.monotonic()
        assert time.monotonic() - began < 6.0
    assert "Traceback" not in caplog.text
    assert "a bug in" not in caplog.text
    assert sum("is down" in record.getMessage() for record in caplog.records) <= 1


@pytest.mark.parametrize("kind", URLS)
def test_the_same_in_tasks(kind: str) -> None:
    """What came stands in the error of whoever waits."""
    server = BadServer(plain(HTML))

    async def main() -> None:
        async with Discovery.from_url(URLS[kind].format(server.address)) as found:
            found.instances("producer")
            await asyncio.to_thread(wait_until, found._trouble, timeout=20, what="an answer")
            with pytest.raises(NoInstanceError, match=r"has not answered.*\(.*no .*captive portal"):
                await found.wait_async("producer", timeout=0.1)

    asyncio.run(main())
    server.close()


@pytest.mark.parametrize("url", ["consul://{}?tls=true", "etcd://{}?tls=true", "kubernetes://x?api=https://{}"])
def test_tls_is_spoken_by_option_and_never_given_up(url: str) -> None:
    """A port that speaks plain text is refused in words."""
    server = BadServer(plain(b"[]"))
    with Discovery.from_url(url.format(server.address)) as found:
        found.instances("producer")
        assert "SSL" in wait_until(found._trouble, timeout=20, what="an answer")
    server.close()


@pytest.mark.parametrize("url", ["consul://{}", "etcd://{}", "kubernetes://x?api=http://{}", "eureka://{}"])
def test_a_host_that_does_not_resolve_is_named(url: str) -> None:
    """With the resolver's own words."""
    host = "no-such-host.invalid"
    with Discovery.from_url(url.format(host)) as found:
        found.instances("producer")
        words = wait_until(found._trouble, timeout=30, what="the resolver's answer")
        assert host in words
        assert "ConnectError" in words


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", URLS)
def test_an_answer_that_is_too_large_is_not_taken(kind: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed or not, it is a failure in words, of whatever status."""
    monkeypatch.setattr(wire, "_MOST", 2**20)
    body = b"[" + b" " * 2**20 + b"]"
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    if packed:
        body, head = gzip.compress(body), head + b"Content-Encoding: gzip\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def send(sock: socket.socket) -> None:
        sock.sendall(whole)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(20)
        while sock.recv(65_536):  # else what was not read yet resets the connection
            pass

    server = BadServer(send)
    with Discovery.from_url(URLS[kind].format(server.address)) as found:
        found.instances("producer")
        assert "an answer of more than 1 MB" in wait_until(found._trouble, timeout=20, what="an answer")
    server.close()


@pytest.mark.parametrize("kind", URLS)
def test_a_port_where_nobody_listens_is_told_in_the_systems_words(kind: str) -> None:
    """Refused, not "All connection attempts failed", which is said of everything."""
    with Discovery.from_url(URLS[kind].format("localhost:1")) as found:
        found.instances("producer")
        assert "Connection refused" in wait_until(found._trouble, timeout=20, what="the refusal")


def test_a_list_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes' lists come in pages; a server that always knows a next one is told in words."""
    monkeypatch.setattr(kubernetes_watch, "_PAGES", 3)
    server = BadServer(plain(b'{"metadata": {"resourceVersion": "7", "continue": "next"}, "items": []}'))
    with Discovery.from_url(URLS["kubernetes"].format(server.address)) as found:
        found.instances("producer")
        assert "more than 3 pages" in wait_until(found._trouble, timeout=20, what="an answer")
    server.close()


def test_a_token_that_can_not_be_sent_is_not_shown() -> None:
    """What refuses a header quotes it."""
    server = BadServer(plain(b"[]"))
    with Discovery.from_url(f"consul://s3cret%0Atoken@{server.address}") as found:
        found.instances("producer")
        words = wait_until(found._trouble, timeout=20, what="the refusal")
    assert "characters that can not be sent" in words
    assert "s3cret" not in words
    server.close()


def test_22_a_fork_keeps_no_connection_of_a_watch_open() -> None:
    """A child that lives on would hold it: a registry that counts them (Consul: 200) would refuse new ones."""
    ended = threading.Event()

    def until_the_end(sock: socket.socket) -> None:
        sock.settimeout(30)
        if not sock.recv(1):
            ended.set()

    server = BadServer(until_the_end)
    code = f"""
        import os, signal, sys, time, warnings
        from resilient.discovery import Discovery
        warnings.simplefilter("ignore", DeprecationWarning)  # of CPython 3.12+: to fork with threads is what is tested
        found = Discovery.from_url({URLS["consul"].format(server.address)!r})
        found.instances("producer")
        sys.stdin.readline()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        found.close()
        sys.stdin.readline()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        wait_until(lambda: server.seen, timeout=20, what="the request that waits")
        process.stdin.write("\n")
        process.stdin.flush()
        assert ended.wait(20)
    finally:
        process.communicate("\n", timeout=20)
        server.close()
    assert process.returncode == 0
