"""What the httpx transport adds to a request on the loopback interface, to a real server in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from benchmarks.measure import Effort
from benchmarks.report import Goal
from resilient.transport import AsyncResilientTransport, ResilientTransport

TITLE, ASYNC_TITLE = "transport, a GET on the loopback", "transport, a GET on the loopback, async"
PLAIN, OURS = "httpx", "httpx with ResilientTransport"
LIMIT = 0.05  # of a request

_WIDE = 34
_REQUESTS = 50  # per burst
_SERVER = """
import socket, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
async def weather(request): return JSONResponse({"zip": request.query_params["zip"], "celsius": 18.5})
listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so that asyncio sends at once
listening.bind(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
app = Starlette(routes=[Route("/weather", weather)])
uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none")).run(sockets=[listening])
"""


class Cost:
    """The least of many bursts: microseconds from the request to its answer, and those of them that we computed."""

    def __init__(self) -> None:
        self.wall = self.cpu = float("inf")

    def note(self, wall: float, cpu: float) -> None:
        """One burst, in nanoseconds."""
        self.wall = min(self.wall, wall / _REQUESTS / 1000)
        self.cpu = min(self.cpu, cpu / _REQUESTS / 1000)


def sync_costs(effort: Effort) -> dict[str, Cost]:
    """Both clients in turn, in one thread."""
    costs = {PLAIN: Cost(), OURS: Cost()}
    with _served() as port:
        ours = ResilientTransport(f"static://producer=127.0.0.1:{port}", trust_env=False)
        with httpx.Client(trust_env=False) as plain, httpx.Client(transport=ours) as balanced:
            calls = {PLAIN: _get(plain, f"http://127.0.0.1:{port}"), OURS: _get(balanced, "http://producer")}
            for name in _turns(effort, costs):
                call, wall, cpu = calls[name], time.perf_counter_ns(), time.thread_time_ns()
                for _ in range(_REQUESTS):
                    call()
                costs[name].note(time.perf_counter_ns() - wall, time.thread_time_ns() - cpu)
    return costs


def async_costs(effort: Effort) -> dict[str, Cost]:
    """The same on an event loop, one request after the other."""
    return asyncio.run(_async_costs(effort))


def show(effort: Effort) -> list[Goal]:
    """The sync table."""
    return _print(TITLE, sync_costs(effort))


def show_async(effort: Effort) -> list[Goal]:
    """The async one."""
    return _print(ASYNC_TITLE, async_costs(effort))


def _print(title: str, costs: dict[str, Cost]) -> list[Goal]:
    """Print a table, and give its goal.

    The computing of the client is what can be told apart on a shared machine; the request is from end to end.
    """
    plain, ours = costs[PLAIN], costs[OURS]
    print(f"\n{title}\n{'':{_WIDE}} {'µs':>8} {'µs of CPU':>10} {'+ µs of CPU':>12}")
    print(f"{PLAIN:{_WIDE}} {plain.wall:8.0f} {plain.cpu:10.0f}")
    print(f"{OURS:{_WIDE}} {ours.wall:8.0f} {ours.cpu:10.0f} {ours.cpu - plain.cpu:12.1f}")
    share = (ours.cpu - plain.cpu) / plain.wall
    return [Goal(f"{title}: added cost <= {LIMIT} of a request with plain httpx", share, LIMIT)]


async def _async_costs(effort: Effort) -> dict[str, Cost]:
    costs = {PLAIN: Cost(), OURS: Cost()}
    with _served() as port:
        ours = AsyncResilientTransport(f"static://producer=127.0.0.1:{port}", trust_env=False)
        async with httpx.AsyncClient(trust_env=False) as plain, httpx.AsyncClient(transport=ours) as balanced:
            clients = {PLAIN: (plain, f"http://127.0.0.1:{port}"), OURS: (balanced, "http://producer")}
            for name in _turns(effort, costs):
                client, url = clients[name]
                wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
                for _ in range(_REQUESTS):
                    await client.get(f"{url}/weather?zip=94107")
                costs[name].note(time.perf_counter_ns() - wall, time.thread_time_ns() - cpu)
    return costs


def _turns(effort: Effort, costs: dict[str, Cost]) -> Iterator[str]:
    end = time.monotonic() + effort.seconds
    for _ in range(effort.bursts):
        yield from costs
        if time.monotonic() >= end:
            return


def _get(client: httpx.Client, url: str) -> Callable[[], httpx.Response]:
    return lambda: client.get(f"{url}/weather?zip=94107")


@contextmanager
def _served() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            for _ in range(200):  # it listens a moment later
                try:
                    httpx.get(f"http://127.0.0.1:{port}/weather?zip=1", trust_env=False)
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            yield port
        finally:
            server.kill()
