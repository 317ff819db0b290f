"""What the gateway costs beside plain forwarding, and what one of its services that hangs costs the others.

`python -m benchmarks.gateway` starts one upstream and two gateways as processes: ours, and starlette with httpx,
streaming both ways, no policies, no checks. Both are asked in turn over the same number of connections. Then one route
of ours leads to a service that takes connections and never answers; users of another one are compared with those of a
gateway whose services are all well. Ratios are printed, since the machine is shared.
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
ALONE: Final = "reception, all is well"
BESIDE: Final = "reception, patient hangs"

_BODY: Final = b'{"id": 1, "name": "Ann", "ward": "west", "since": "2024-03-01", "notes": "' + b"x" * 900 + b'"}'
_PAUSE: Final = 0.05  # seconds between a visitor's requests: the machine is mostly idle, waiting is seen
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


def hospital(addresses: str) -> Any:
    """The gateway with two routes: reception's service answers, patient's may hang."""
    from resilient.gateway import Gateway

    reception, patient = addresses.split(",")
    return Gateway(
        {name: {"path": f"/{name}", "service": name, "timeout": 5.0} for name in ("patient", "reception")},
        discovery=f"static://reception={reception};patient={patient}",
    )


def serve(what: str, fd: int, address: str) -> None:
    """Run one of the servers; in a process of its own."""
    import uvicorn

    apps = {"upstream": lambda _address: upstream, "plain": plain, "ours": ours, "hospital": hospital}
    app = apps[what](address)
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


async def isolate(addresses: dict[str, str], effort: Effort) -> dict[str, list[Round]]:
    """Ask reception and patient of both gateways in turn; what reception's users see counts."""
    found: dict[str, list[Round]] = {name: [] for name in addresses}
    for turn in range(effort.rounds + 1):
        for name in addresses if turn % 2 else reversed(addresses):
            latencies: list[float] = []
            until = time.perf_counter() + effort.seconds
            visits = [_visit(addresses[name], b"reception", until, latencies) for _ in range(effort.connections)]
            visits += [_visit(addresses[name], b"patient", until, []) for _ in range(effort.connections)]
            await asyncio.gather(*visits)
            latencies.sort()
            rate, p50, p99 = len(latencies) / effort.seconds, len(latencies) // 2, int(len(latencies) * 0.99)
            if turn:
                found[name].append(Round(rate, latencies[p50], latencies[p99]))
    return found


async def _visit(address: str, route: bytes, until: float, latencies: list[float]) -> None:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = _REQUEST.replace(b"patient", route, 1)
    try:
        while (started := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
            assert route == b"patient" or head.startswith(b"HTTP/1.1 200"), head
            await asyncio.sleep(_PAUSE)
    finally:
        writer.close()


@contextlib.contextmanager
def hung() -> Iterator[str]:
    """The address of a service that takes connections and never answers: the system does so for one nobody runs."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def report(found: dict[str, list[Round]]) -> list[Goal]:
    """Print the table; return the goals."""
    _show(found)
    pairs = list(zip(found[OURS], found[PLAIN], strict=True))
    rate = statistics.median(one.rate / other.rate for one, other in pairs)
    p99 = statistics.median(one.p99 / other.p99 for one, other in pairs)
    return [
        Goal("requests per second, as a share of plain forwarding, at least 0.90", rate, 0.9, at_least=True),
        Goal("p99 latency, as a multiple of plain forwarding's, at most 1.20", p99, 1.2),
    ]


def report_isolation(found: dict[str, list[Round]]) -> list[Goal]:
    """Print the table; return the goal."""
    _show(found)
    p99 = statistics.median(one.p99 / other.p99 for one, other in zip(found[BESIDE], found[ALONE], strict=True))
    return [Goal("reception's p99 while patient hangs, as a multiple of that without, at most 1.20", p99, 1.2)]


def _show(found: dict[str, list[Round]]) -> None:
    print(f"{'':24} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for name, rounds in found.items():
        rate, p50, p99 = (statistics.median(getattr(one, word) for one in rounds) for word in ("rate", "p50", "p99"))
        print(f"{name:24} {rate:8,.0f} {p50 * 1000:8.2f} {p99 * 1000:8.2f}")


def main(argv: Sequence[str] | None = None, effort: Effort = Effort()) -> None:
    """Start the servers, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--serve", choices=["upstream", "plain", "ours", "hospital"], help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=effort.rounds, help="how often both are measured")
    parser.add_argument("--seconds", type=float, default=effort.seconds, help="how long each is measured in a round")
    asked = parser.parse_args(argv)
    if asked.serve is not None:
        serve(asked.serve, asked.fd, asked.address)
        return
    chosen = Effort(asked.rounds, asked.seconds, effort.connections)
    with served("upstream") as behind:
        with served("plain", behind) as one, served("ours", behind) as other:
            found = asyncio.run(compare({PLAIN: one, OURS: other}, chosen))
        well = served("hospital", f"{behind},{behind}")
        with hung() as hanging, well as one, served("hospital", f"{behind},{hanging}") as other:
            isolated = asyncio.run(isolate({ALONE: one, BESIDE: other}, chosen))
    print(f"{chosen.connections} connections, {chosen.rounds} rounds of {chosen.seconds:g} s each, medians")
    for goal in [*report(found), *report_isolation(isolated)]:
        print(goal)


if __name__ == "__main__":
    main()
