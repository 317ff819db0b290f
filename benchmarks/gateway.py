"""What the gateway costs beside plain forwarding: starlette with httpx, streaming both ways, no policies, no checks.

`python -m benchmarks.gateway` starts one upstream and both gateways as processes, asks them in turn over the same
number of connections, and prints the ratios of what they reached. The machine is shared: read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.report import Goal

PLAIN: Final = "starlette + httpx"
OURS: Final = "resilient.gateway"

_BODY: Final = b'{"id": 1, "name": "Ann", "ward": "west", "since": "2024-03-01", "notes": "' + b"x" * 900 + b'"}'
_REQUEST: Final = (
    b"GET /patient/1?full=yes HTTP/1.1\r\nhost: gateway\r\naccept: application/json\r\nuser-agent: benchmark\r\n"
    b"cookie: session=0123456789abcdef\r\naccept-encoding: gzip\r\n\r\n"
)


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    rounds: int = 6
    seconds: float = 1.2  # of each gateway in each round
    connections: int = 16


@dataclass(frozen=True)
class Round:
    """What one gateway reached in one round."""

    rate: float  # requests per second
    p50: float  # seconds
    p99: float


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """Answers the same each time, as cheaply as it can be done."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})


def plain(address: str) -> Any:
    """Forwarding as it is usually written down."""
    import httpx
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    client = httpx.AsyncClient(base_url=f"http://{address}", limits=limits, timeout=30.0, trust_env=False)

    async def forward(request: Request) -> StreamingResponse:
        url = httpx.URL(path=request.url.path, query=request.url.query.encode())
        body = None if request.method in {"GET", "HEAD"} else request.stream()
        sent = client.build_request(request.method, url, headers=request.headers.raw, content=body)
        answer = await client.send(sent, stream=True)
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, answer.headers, background=BackgroundTask(answer.aclose)
        )

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])], lifespan=lifespan)


def ours(address: str) -> Any:
    """The gateway with one route and its usual policies."""
    from resilient.gateway import Gateway

    return Gateway({"patient": {"path": "/patient", "service": "patient"}}, discovery=f"static://patient={address}")


def serve(what: str, fd: int, address: str) -> None:
    """Run one of the three servers; in a process of its own."""
    import uvicorn

    app = {"upstream": lambda _address: upstream, "plain": plain, "ours": ours}[what](address)
    config = uvicorn.Config(app, access_log=False, log_level="warning", proxy_headers=False, ws="none")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])  # a socket of its family: asyncio sets TCP_NODELAY


@contextlib.contextmanager
def served(what: str, address: str = "") -> Iterator[str]:
    """The address of a server that was started, and is stopped in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.gateway", "--serve", what, "--fd", str(listener.fileno())]
        process = subprocess.Popen([*command, "--address", address], pass_fds=[listener.fileno()])
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10.0)


async def _ask(address: str, until: float, latencies: list[float]) -> None:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while (started := time.perf_counter()) < until:
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
    finally:
        writer.close()


async def measure(address: str, effort: Effort) -> Round:
    """Ask over some connections, each of which asks again when it has its answer."""
    latencies: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(_ask(address, started + effort.seconds, latencies) for _ in range(effort.connections)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Round(len(latencies) / elapsed, latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)])


async def compare(addresses: dict[str, str], effort: Effort) -> dict[str, list[Round]]:
    """Measure all in turn; the first turn warms up and does not count."""
    found: dict[str, list[Round]] = {name: [] for name in addresses}
    for turn in range(effort.rounds + 1):
        for name in addresses if turn % 2 else reversed(addresses):
            done = await measure(addresses[name], effort)
            if turn:
                found[name].append(done)
    return found


def report(found: dict[str, list[Round]]) -> list[Goal]:
    """Print the table; return the goals."""
    print(f"{'':24} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for name, rounds in found.items():
        rate, p50, p99 = (statistics.median(getattr(one, word) for one in rounds) for word in ("rate", "p50", "p99"))
        print(f"{name:24} {rate:8,.0f} {p50 * 1000:8.2f} {p99 * 1000:8.2f}")
    pairs = list(zip(found[OURS], found[PLAIN], strict=True))
    rate = statistics.median(one.rate / other.rate for one, other in pairs)
    p99 = statistics.median(one.p99 / other.p99 for one, other in pairs)
    return [
        Goal("requests per second, as a share of plain forwarding, at least 0.90", rate, 0.9, at_least=True),
        Goal("p99 latency, as a multiple of plain forwarding's, at most 1.20", p99, 1.2),
    ]


def main(argv: Sequence[str] | None = None, effort: Effort = Effort()) -> None:
    """Start the servers, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--serve", choices=["upstream", "plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=effort.rounds, help="how often both are measured")
    parser.add_argument("--seconds", type=float, default=effort.seconds, help="how long each is measured in a round")
    asked = parser.parse_args(argv)
    if asked.serve is not None:
        serve(asked.serve, asked.fd, asked.address)
        return
    chosen = Effort(asked.rounds, asked.seconds, effort.connections)
    with served("upstream") as behind, served("plain", behind) as one, served("ours", behind) as other:
        found = asyncio.run(compare({PLAIN: one, OURS: other}, chosen))
    print(f"{chosen.connections} connections, {chosen.rounds} rounds of {chosen.seconds:g} s each, medians")
    for goal in report(found):
        print(goal)


if __name__ == "__main__":
    main()
