"""Connections to an instance that left the list, against real servers on the loopback interface, for every client."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from resilient.discovery import Instance
from resilient.transport import AsyncResilientTransport, ResilientTransport
from tests.listed import Listed
from tests.waiting import wait_until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Peer:
    """One real instance that keeps its connections and counts those that are open; the end of a body can be held."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.open = self.made = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.instance = Instance("producer", "127.0.0.1", self._listening.getsockname()[1], id=name)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Accept no more."""
        self.go_on.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _serve(self, spoken: socket.socket) -> None:
        self._count(1)
        with suppress(OSError), spoken:
            while spoken.recv(65_536):
                spoken.sendall(HEAD + self.name)
                self.go_on.wait(20.0)
                spoken.sendall(self.name)
        self._count(-1)

    def _count(self, by: int) -> None:
        with self._lock:
            self.open += by
            self.made += max(by, 0)


@pytest.fixture
def peers() -> Iterator[Callable[..., list[Peer]]]:
    """`peers("ab")`: real instances, stopped afterwards."""
    running: list[Peer] = []

    def start(names: str) -> list[Peer]:
        made = [Peer(name) for name in names]
        running.extend(made)
        return made

    yield start
    for one in running:
        one.stop()


def test_the_connections_of_an_instance_that_left_are_closed_after_its_last_call(
    peers: Callable[..., list[Peer]],
) -> None:
    """The idle one at once, that of an open answer when it has been read; who comes back is called anew."""
    left, other = peers("ab")
    discovery = Listed(left.instance)
    with httpx.Client(transport=ResilientTransport(discovery, trust_env=False)) as client:
        client.get("http://producer/")
        left.go_on.clear()
        with client.stream("GET", "http://producer/") as answer, client.stream("GET", "http://producer/") as second:
            wait_until(lambda: left.open == 2, what="two connections")
            discovery.set(other.instance)
            assert client.get("http://producer/").text == "bb"
            assert left.open == 2
            left.go_on.set()
            assert answer.read() == b"aa"
            assert second.read() == b"aa"
        wait_until(lambda: left.open == 0, what="the end of its connections")
        discovery.set(left.instance)
        assert client.get("http://producer/").text == "aa"
        assert (left.made, left.open) == (3, 1)
        discovery.set(other.instance)
        wait_until(lambda: left.open == 0, what="the end of the idle connection")
        assert client.get("http://producer/").text == "bb"
        assert other.made == 2


def test_the_same_on_an_event_loop(peers: Callable[..., list[Peer]]) -> None:
    """The list changes in another thread; the connections are closed in the loop that made them."""
    left, other = peers("ab")
    discovery = Listed(left.instance)

    async def change(*known: Instance) -> None:
        await asyncio.to_thread(discovery.set, *known)

    async def gone(*, of: int) -> None:
        await asyncio.to_thread(wait_until, lambda: left.open == of, what=f"{of} connections")

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncResilientTransport(discovery, trust_env=False)) as client:
            await client.get("http://producer/")
            left.go_on.clear()
            async with client.stream("GET", "http://producer/") as answer:
                await gone(of=1)
                await change(other.instance)
                assert (await client.get("http://producer/")).text == "bb"
                assert left.open == 1
                left.go_on.set()
                assert await answer.aread() == b"aa"
            await gone(of=0)
            await change(left.instance)
            assert (await client.get("http://producer/")).text == "aa"
            await change(other.instance)
            await gone(of=0)

    asyncio.run(main())
    assert left.made == 2


def test_the_same_for_requests(peers: Callable[..., list[Peer]]) -> None:
    """Its adapter has one pool per instance, too."""
    requests = pytest.importorskip("requests")
    from resilient.transport.requests import ResilientAdapter

    left, other = peers("ab")
    discovery = Listed(left.instance)
    with requests.Session() as session:
        session.mount("http://", ResilientAdapter(discovery))
        left.go_on.clear()
        answer = session.get("http://producer/", stream=True)
        discovery.set(other.instance)
        assert session.get("http://producer/").text == "bb"
        assert left.open == 1
        left.go_on.set()
        assert answer.content == b"aa"
        wait_until(lambda: left.open == 0, what="the end of its connection")
        discovery.set(left.instance)
        assert session.get("http://producer/").text == "aa"
        discovery.set(other.instance)
        wait_until(lambda: left.open == 0, what="the end of the idle connection")


def test_no_call_fails_while_the_list_changes_under_load(peers: Callable[..., list[Peer]]) -> None:
    """A pool that is in use is not closed, and none that is closed is used: by four threads."""
    a, b = peers("ab")
    discovery = Listed(a.instance, b.instance)
    errors: list[Any] = []
    with httpx.Client(transport=ResilientTransport(discovery, trust_env=False)) as client:

        def calls() -> None:
            try:
                for _ in range(60):
                    assert client.get("http://producer/").text in {"aa", "bb"}
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=calls) for _ in range(4)]
        for thread in threads:
            thread.start()
        turn = 0
        while any(thread.is_alive() for thread in threads):
            turn += 1
            discovery.set(*[(a.instance,), (b.instance,), (a.instance, b.instance)][turn % 3])
        for thread in threads:
            thread.join()
        assert errors == []
        discovery.set(a.instance)
        wait_until(lambda: b.open == 0, what="the end of the connections to b")
