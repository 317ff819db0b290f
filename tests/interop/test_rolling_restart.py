"""A real fleet under load: killed, frozen, thawed and restarted one by one, seen through the transports."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

import httpx
import pytest

from resilient.discovery import Discovery
from resilient.transport import AsyncResilientTransport, ResilientTransport
from tests.servers import RegistryProcess
from tests.waiting import wait_until

FLEET = 8
FAST = "?fetch_interval=0.2&renew_interval=0.5&lease=3"
PATIENCE = 0.5  # seconds a client waits for an answer that takes a millisecond

SERVER = """
import os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from resilient.discovery import Registry

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 4096  # one packet per answer
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *args): pass

leave = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: leave.set())
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
registry = Registry.from_url(sys.argv[1])
with registry, registry.register("producer", port=server.server_port, host="127.0.0.1") as mine:
    while not mine.registered: leave.wait(0.02)
    print("ready", flush=True)
    while not leave.wait(0.5): pass
leave.clear()
leave.wait(1.0)  # callers learn that it has left; what they sent meanwhile is answered
server.shutdown()
"""


class Instance:
    """One process of the fleet."""

    def __init__(self, registry: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, registry], stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 20.0)
        assert ready, "the instance did not register within 20 s"
        assert self._process.stdout.readline() == b"ready\n"

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_gone(self) -> int:
        return self._process.wait(15.0)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10.0)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Load:
    """Callers in threads and on an event loop that never stop; counts what they see."""

    def __init__(self, discovery: Discovery) -> None:
        self.served = Counter[int]()
        self.errors: list[str] = []
        self.posts = False
        self._stop = threading.Event()
        self._discovery = discovery
        self._sync = httpx.Client(transport=ResilientTransport(discovery, trust_env=False), timeout=PATIENCE)
        self._threads = [threading.Thread(target=self._calls, args=(number,)) for number in range(3)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._tasks())))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)
        self._sync.close()

    @property
    def calls(self) -> int:
        return self.served.total() + len(self.errors)

    def run(self, calls: int, *, while_: Callable[[], bool] = lambda: False) -> tuple[int, list[str]]:
        """Let `calls` more pass, and more while something goes on: how many there were, and their errors."""
        before, known = self.calls, len(self.errors)
        wait_until(lambda: self.calls >= before + calls and not while_(), timeout=25.0, what=f"{calls} more calls")
        return self.calls - before, self.errors[known:]

    def _method(self, number: int) -> str:
        return "POST" if self.posts and number % 10 == 0 else "GET"

    def _note(self, answer: httpx.Response) -> None:
        if answer.status_code == 200:
            self.served[int(answer.text)] += 1
        else:
            self.errors.append(f"status {answer.status_code}")

    def _calls(self, number: int) -> None:
        while not self._stop.wait(0.005):
            number += 1
            try:
                self._note(self._sync.request(self._method(number), "http://producer/", content=b"x"))
            except httpx.HTTPError as error:
                self.errors.append(f"{error!r} {getattr(error, '__notes__', '')}")

    async def _tasks(self) -> None:
        transport = AsyncResilientTransport(self._discovery, trust_env=False)
        async with httpx.AsyncClient(transport=transport, timeout=PATIENCE) as client:

            async def calls(number: int) -> None:
                while not self._stop.is_set():
                    number += 1
                    try:
                        self._note(await client.request(self._method(number), "http://producer/", content=b"x"))
                    except httpx.HTTPError as error:
                        self.errors.append(f"{error!r} {getattr(error, '__notes__', '')}")
                    await asyncio.sleep(0.005)

            await asyncio.gather(*(calls(number) for number in range(5)))


class Fleet:
    """Eight processes, found through a registry that is a process, too."""

    def __init__(self, stack: ExitStack, url: str) -> None:
        self._stack = stack
        self._url = url
        self.running = self.start(FLEET)

    def start(self, count: int) -> list[Instance]:
        """So many more; returns when all are registered."""
        made = [Instance(self._url) for _ in range(count)]
        for one in made:
            self._stack.callback(one.close)
        for one in made:
            one.wait_ready()
        return made

    def wait_served(self, load: Load, these: list[Instance]) -> None:
        """Until each has answered somebody."""
        wait_until(lambda: all(load.served[one.pid] for one in these), what="the new instances to serve")


@pytest.fixture
def fleet_under_load() -> Iterator[tuple[Fleet, Load]]:
    """The fleet, and callers that have seen every instance."""
    with ExitStack() as stack:
        registry = stack.enter_context(RegistryProcess())
        fleet = Fleet(stack, registry.url + FAST)
        discovery = stack.enter_context(Discovery.from_url(registry.url + FAST))
        wait_until(lambda: len(discovery.instances("producer")) == FLEET, what="the whole fleet to be known")
        load = stack.enter_context(Load(discovery))
        wait_until(lambda: len(load.served) == FLEET and load.calls > 200, what="every instance to be called")
        assert load.errors == []
        yield fleet, load


def test_a_kill_a_freeze_and_a_rolling_restart_under_load(fleet_under_load: tuple[Fleet, Load]) -> None:
    """kill -9: nobody sees it. A frozen instance: at most 1 % do. Thawed, it serves again. All restarted: nobody."""
    fleet, load = fleet_under_load
    killed, frozen, *_ = fleet.running

    killed.send(signal.SIGKILL)
    killed.wait_gone()
    _, errors = load.run(300)
    assert errors == []

    frozen.send(signal.SIGSTOP)
    began = time.monotonic()
    calls, errors = load.run(600, while_=lambda: time.monotonic() < began + 2.0)
    assert len(errors) <= calls / 100, errors[:3]

    served = load.served[frozen.pid]
    frozen.send(signal.SIGCONT)
    wait_until(lambda: load.served[frozen.pid] > served, timeout=15.0, what="the thawed instance to serve again")

    known, load.posts = len(load.errors), True
    for old in (fleet.running[1:4], fleet.running[4:6], fleet.running[6:]):
        new = fleet.start(len(old))
        for one in old:
            one.send(signal.SIGTERM)
        for one in old:
            assert one.wait_gone() == 0
        fleet.wait_served(load, new)
    assert load.errors[known:] == []
    load.run(100)
    assert load.errors[known:] == []
