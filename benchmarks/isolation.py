"""One instance of ten hangs: what the calls to the others notice. Real connections on the loopback interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.measure import Effort
from benchmarks.report import Goal
from resilient.transport import AsyncResilientTransport

TITLE = "isolation, 1 of 10 instances hangs"
LIMIT = 5.0  # times the p99 without it

_INSTANCES, _CONNECTIONS = 10, 3  # per instance: thirty in all
_CALLERS, _CALLS = 20, 600  # at once, and in all
_SERVICE = 0.05  # seconds that an answer takes: so that nobody waits for the machine
_PATIENCE = 1.0  # seconds for a connection of the pool, and for an answer
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Seen:
    """What the callers saw: seconds of each call that was answered, and how many were not."""

    times: list[float] = field(default_factory=list[float])
    failed: int = 0
    missed: int = 0  # calls that the one that hangs got

    @property
    def p99(self) -> float:
        """Milliseconds."""
        return 1000.0 * sorted(self.times)[int(0.99 * len(self.times))]


def show(effort: Effort) -> list[Goal]:
    """Run it without and with the one that hangs, print both."""
    well, sick = _least(effort, hangs=False), _least(effort, hangs=True)
    print(f"\n{TITLE}, {_CALLERS} callers, {_CONNECTIONS} connections each")
    print(f"{'':28} {'answered':>9} {'failed':>7} {'p99 ms':>8}")
    for title, seen in (("all are well", well), ("one hangs", sick)):
        print(f"{title:28} {len(seen.times):9} {seen.failed:7} {seen.p99:8.1f}")
    others = len(sick.times) + sick.failed - sick.missed
    return [
        Goal(f"{TITLE}: p99 of the others <= {LIMIT:g} x that without it", sick.p99 / well.p99, LIMIT),
        Goal(f"{TITLE}: of the calls to the others are answered >= 1", len(sick.times) / others, 1.0, at_least=True),
    ]


def _least(effort: Effort, *, hangs: bool) -> Seen:
    """The least p99 of some rounds: what the code does when nobody interferes."""
    return min((asyncio.run(_round(effort, hangs=hangs)) for _ in range(effort.rounds)), key=lambda seen: seen.p99)


async def _round(effort: Effort, *, hangs: bool) -> Seen:
    seen = Seen()
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(_served(hangs=hangs and not n)) for n in range(_INSTANCES)]
        where = ",".join(f"127.0.0.1:{port}" for port in ports)
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        transport = AsyncResilientTransport(f"static://producer={where}", limits=limits, trust_env=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, timeout=_PATIENCE))
        left = iter(range(min(_CALLS, max(_CALLERS, _CALLERS * effort.bursts))))

        async def caller() -> None:
            for _ in left:
                await _call(client, seen)

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        hosts = transport.balancer("producer").snapshot().instances
        seen.missed = sum(host.picks for host in hosts if hangs and host.instance.port == ports[0])
    return seen


async def _call(client: httpx.AsyncClient, seen: Seen) -> None:
    began = time.perf_counter()
    try:
        await client.get("http://producer/", extensions={"resilient": {"attempts": 1}})
    except httpx.HTTPError:
        seen.failed += 1
    else:
        seen.times.append(time.perf_counter() - began)


@asynccontextmanager
async def _served(*, hangs: bool) -> AsyncIterator[int]:
    """One instance; gives its port."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if not hangs:
                    await asyncio.sleep(_SERVICE)
                    writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            open_ones.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
        server.close()
        while open_ones:
            for writer in tuple(open_ones):
                writer.close()
            await asyncio.sleep(0)
