"""Jobs whose requests are answered only when something happens: many of them in one thread, or in tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from resilient.clock import SYSTEM_CLOCK
from resilient.discovery.refresh import Refresh
from resilient.discovery.steps import Exchange, Send, Server, more
from resilient.discovery.streams import StreamingWire
from resilient.discovery.wire import HttpWire
from tests.waiting import wait_until


class Slow:
    """A server that holds requests until it is told to answer; `open` are those that it holds."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.open: dict[str, socket.socket] = {}
        self._all: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._all.append(sock)
            head = b""
            while b"\r\n\r\n" not in head and (piece := sock.recv(65_536)):
                head += piece
            path = head.split()[1].decode() if head else ""
            if path == "/quick":
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                sock.close()
            else:
                self.open[path] = sock

    def say(self, path: str, data: bytes, *, last: bool = False) -> None:
        sock = self.open[path]
        with contextlib.suppress(OSError):
            sock.sendall(data)
        if last:
            del self.open[path]
            sock.close()

    def gone(self, path: str) -> bool:
        """Whether the client has closed the connection."""
        sock = self.open[path]
        sock.settimeout(0.01)
        try:
            return sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for sock in self._all:
            sock.close()


@pytest.fixture
def server() -> Iterator[Slow]:
    found = Slow()
    yield found
    found.close()


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Watch:
    """Follows one path, line by line."""

    def __init__(self, server: Slow, path: str, *, once: bool = False) -> None:
        self.lines: list[bytes] = []
        self.answers: list[tuple[int, str]] = []
        self.cut = False
        self._once = once
        self._server = Server(server.base)
        self._path = path

    def due(self) -> float:
        return math.inf if self.answers and self._once else -math.inf

    def work(self) -> Exchange[None]:
        try:
            answer = yield Send(self._server, "GET", self._path, 30.0, stream=True)
            while answer.good and answer.status != 204:
                answer = yield more(30.0)
                if answer.status == 200:
                    self.lines.append(answer.body)
            self.answers.append((answer.status, answer.error))
        except GeneratorExit:
            self.cut = True
            raise


class Pulse:
    """Common work, again and again."""

    def __init__(self, server: Slow) -> None:
        self.beats = 0
        self._server = Server(server.base)
        self._next = -math.inf

    def due(self) -> float:
        return self._next

    def work(self) -> Exchange[None]:
        answer = yield Send(self._server, "GET", "/quick", 5.0)
        self.beats += answer.good
        self._next = time.monotonic() + 0.05


def refresh(name: str = "resilient lanes") -> Refresh:
    return Refresh(name, SYSTEM_CLOCK, partial(HttpWire, tls=False), partial(StreamingWire, tls=False), watching=True)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resilient lanes"]


def run_sync(server: Slow, body: Callable[[Refresh], None]) -> None:
    loop = refresh()
    loop.start()
    body(loop)
    loop.stop()


def run_async(server: Slow, body: Callable[[Refresh], None]) -> None:
    async def main() -> None:
        loop = refresh()
        loop.start_tasks()
        await asyncio.to_thread(body, loop)
        assert threads() == []
        await loop.astop()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "resilient lanes"] == []

    asyncio.run(main())


@pytest.mark.parametrize("run", [run_sync, run_async], ids=["sync", "async"])
def test_a_hundred_requests_wait_side_by_side(server: Slow, run: Callable[..., None]) -> None:
    """One thread, or none; the common work goes on meanwhile; each hears its own lines; stopping cuts all short."""
    watches = [Watch(server, f"/{number}") for number in range(100)]
    pulse = Pulse(server)

    def body(loop: Refresh) -> None:
        loop.add(pulse)
        for watch in watches:
            loop.add(watch, alone=True)
        loop.wake()
        wait_until(lambda: len(server.open) == 100, what="all requests")
        assert len(threads()) == (run is run_sync)
        beats = pulse.beats
        for number in range(100):
            server.say(f"/{number}", HEAD + chunk(b"a%d\nhalf" % number))
        for number in range(100):
            server.say(f"/{number}", chunk(b" more\n"))
        wait_until(lambda: all(len(watch.lines) == 2 for watch in watches), what="the lines")
        assert [watch.lines for watch in watches] == [[b"a%d" % number, b"half more"] for number in range(100)]
        wait_until(lambda: pulse.beats > beats + 2, what="the common work")

    began = time.monotonic()
    run(server, body)
    assert all(watch.cut for watch in watches)
    wait_until(lambda: not threads(), what="the end of the thread")
    wait_until(lambda: all(server.gone(f"/{number}") for number in range(100)), what="closed connections")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("run", [run_sync, run_async], ids=["sync", "async"])
def test_one_that_is_removed_is_cut_short_and_the_others_go_on(server: Slow, run: Callable[..., None]) -> None:
    """At once, not when its answer comes."""
    kept, removed = Watch(server, "/kept"), Watch(server, "/removed")

    def body(loop: Refresh) -> None:
        loop.add(kept, alone=True)
        loop.add(removed, alone=True)
        loop.wake()
        wait_until(lambda: len(server.open) == 2, what="both requests")
        loop.remove(removed)
        loop.wake()
        wait_until(lambda: server.gone("/removed"), what="the end of one")
        server.say("/kept", HEAD + chunk(b"x\n"))
        wait_until(lambda: kept.lines == [b"x"], what="the other's line")

    run(server, body)


def test_how_a_stream_ends_is_told_in_words(server: Slow) -> None:
    """At its end, when it breaks, when it is no success, and when nothing comes for too long."""
    wire: StreamingWire

    async def lines(path: str, *said: bytes, last: bool = True, within: float = 5.0) -> list[tuple[int, bytes, str]]:
        asked = asyncio.create_task(wire.send(Send(Server(server.base), "GET", path, 5.0, stream=True)))
        await asyncio.to_thread(wait_until, lambda: path in server.open)
        for number, data in enumerate(said, 1):
            server.say(path, data, last=last and number == len(said))
        answers = [await asked]
        while answers[-1].status == 200:
            answers.append(await wire.send(more(within)))
        return [(one.status, one.body, one.error) for one in answers]

    async def main() -> None:
        nonlocal wire
        wire = StreamingWire(tls=False)
        whole = HEAD + chunk(b"a\nb\n") + b"0\r\n\r\n"
        assert await lines("/whole", whole) == [(200, b"", ""), (200, b"a", ""), (200, b"b", ""), (204, b"", "")]
        broken = await lines("/broken", HEAD + chunk(b"a\nb"))
        assert broken[:2] == [(200, b"", ""), (200, b"a", "")]
        assert "RemoteProtocolError" in broken[2][2]
        gone = b"HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\nlist"
        assert await lines("/gone", gone) == [(410, b"list", "")]
        silent = await lines("/silent", HEAD + chunk(b"a\n"), last=False, within=0.1)
        assert "no complete answer within 0.1 s" in silent[2][2]
        assert (await wire.send(more(1.0))).status == 204
        await wire.aclose()

    asyncio.run(main())


def test_a_bug_in_one_leaves_the_others_alone(server: Slow, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, rests for a second and is begun again."""

    class Broken(Watch):
        tries = 0

        def work(self) -> Exchange[None]:
            self.tries += 1
            yield from ()
            raise ZeroDivisionError

    broken, sound = Broken(server, "/x"), Watch(server, "/sound")

    def body(loop: Refresh) -> None:
        loop.add(broken, alone=True)
        loop.add(sound, alone=True)
        loop.wake()
        wait_until(lambda: "/sound" in server.open, what="the other's request")
        server.say("/sound", HEAD + chunk(b"x\n"))
        wait_until(lambda: sound.lines and broken.tries == 2, what="a line, and a second try")

    with caplog.at_level(logging.ERROR, "resilient"):
        run_sync(server, body)
    assert "a bug in" in caplog.text


def test_it_begins_again_after_its_end(server: Slow) -> None:
    """The same jobs, in a new thread."""
    loop = refresh()
    watch = Watch(server, "/x")
    loop.add(watch, alone=True)
    for _ in range(2):
        loop.start()
        wait_until(lambda: "/x" in server.open, what="the request")
        loop.stop()
        wait_until(lambda: not threads() and server.gone("/x"), what="the end")
        server.open.clear()


def test_an_end_at_any_moment_leaves_no_connection_behind(server: Slow) -> None:
    """Not at the moment in which one is made, either; an unclosed socket is an error of this suite."""
    rng = random.Random(7)
    for number in range(80):
        loop = refresh()
        loop.add(Watch(server, f"/{number}"), alone=True)
        loop.start()
        threading.Event().wait(rng.random() * 0.01)
        loop.stop()
    wait_until(lambda: not threads(), what="the end of the threads")
    gc.collect()
