"""The registry server as a process of its own: a full list, renewals, memory.

CPU time of the server, not of who asks: the machine is shared, and the asking costs more than the answering.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import psutil

from benchmarks.measure import Effort
from benchmarks.report import Goal

TITLE: Final = "registry server"
_EACH = 10  # instances of a service
_CONNECTIONS = 16
_WIDE = 34


def show(effort: Effort) -> list[Goal]:
    """Measure, print, compare with the goals."""
    listed, rates, megabytes = asyncio.run(_measure(effort))
    title = f"{TITLE}, {effort.services:,} services of {_EACH} instances"
    print(f"\n{title}, CPU time of the server\n{'':{_WIDE}} {'ms':>8} {'MB':>8}")
    for name, (milliseconds, size) in listed.items():
        print(f"{name:{_WIDE}} {milliseconds:8.1f} {size / 1e6:8.2f}")
    print(f"{'':{_WIDE}} {'/s':>8}")
    for name, rate in rates.items():
        print(f"{name:{_WIDE}} {rate:8,.0f}")
    print(f"{'memory':{_WIDE}} {megabytes:8,.0f} MB")
    whole = [milliseconds for name, (milliseconds, _) in listed.items()]
    return [
        Goal(f"{TITLE}: ms for the full list after everybody renewed, in its slowest form <= 150", max(whole), 150),
        Goal(f"{TITLE}: renewals per second of one core >= 2,000", rates["renew"], 2000, at_least=True),
        Goal(f"{TITLE}: MB of memory <= 200", megabytes, 200),
    ]


class _Server:
    """A real one, and what it took."""

    def __init__(self, process: psutil.Process, port: int) -> None:
        self._process = process
        self._port = port

    @property
    def cpu(self) -> float:
        """Seconds since it began."""
        spent = self._process.cpu_times()
        return float(spent.user + spent.system)

    @property
    def megabytes(self) -> float:
        """Resident."""
        return float(self._process.memory_info().rss) / 1e6

    async def rate(self, requests: list[bytes]) -> float:
        """Requests that one core answers in a second."""
        before = self.cpu
        await asyncio.gather(*(self._ask(requests[at::_CONNECTIONS]) for at in range(_CONNECTIONS)))
        return len(requests) / max(self.cpu - before, 0.01)  # the kernel counts in hundredths

    async def take(self, request: bytes) -> tuple[float, int]:
        """Milliseconds that one answer took, and its size."""
        before = self.cpu
        size = await self._ask([request])
        return (self.cpu - before) * 1e3, size

    async def _ask(self, requests: Iterable[bytes]) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        size = 0
        try:
            for request in requests:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 20"), head
                length = re.search(rb"content-length: (\d+)", head.lower())
                size = int(length[1]) if length else 0
                await reader.readexactly(size)
        finally:
            writer.close()
        return size


@contextmanager
def _server() -> Iterator[_Server]:
    command = [sys.executable, "-m", "resilient", "registry", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        yield _Server(psutil.Process(process.pid), int(said["url"].rpartition(":")[2]))
    finally:
        process.terminate()
        process.wait(10.0)
        process.stdout.close()


async def _measure(effort: Effort) -> tuple[dict[str, tuple[float, int]], dict[str, float], float]:
    names = [(service, number) for service in range(effort.services) for number in range(_EACH)]
    renewals = [_renewal(*name) for name in names]
    listed: dict[str, tuple[float, int]] = {}
    with _server() as server:
        rates = {"register": await server.rate([_registration(*name) for name in names])}
        renewed = []
        for kind in ("json", "xml"):
            for packing in ("identity", "gzip"):
                request = _request("GET", "/eureka/apps/", f"Accept: application/{kind}\r\nAccept-Encoding: {packing}")
                await server.take(request)  # the first one writes what is kept
                found = []
                for _ in range(effort.rounds):
                    renewed.append(await server.rate(renewals))
                    found.append(await server.take(request))
                median = statistics.median(milliseconds for milliseconds, _ in found)
                listed[f"full list, {kind}, {packing}"] = median, found[0][1]
        rates["renew"] = statistics.median(renewed)
        return listed, rates, server.megabytes


def _id(service: int, number: int) -> str:
    return f"10.{service % 250}.0.{number}:service-{service}:8080"


def _renewal(service: int, number: int) -> bytes:
    path = f"/eureka/apps/SERVICE-{service}/{_id(service, number)}?status=UP&lastDirtyTimestamp=1700000000000"
    return _request("PUT", path, "Accept: application/json")


def _registration(service: int, number: int) -> bytes:
    host, name = f"10.{service % 250}.0.{number}", f"service-{service}"
    body = {
        "instanceId": _id(service, number),
        "hostName": host,
        "app": name.upper(),
        "ipAddr": host,
        "status": "UP",
        "port": {"$": 8080, "@enabled": "true"},
        "securePort": {"$": 8443, "@enabled": "false"},
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 900},
        "metadata": {"zone": f"z{number % 3}", "management.port": "8081", "version": "1.4.2"},
        "homePageUrl": f"http://{host}:8080/",
        "statusPageUrl": f"http://{host}:8081/actuator/info",
        "healthCheckUrl": f"http://{host}:8081/actuator/health",
        "vipAddress": name,
        "secureVipAddress": name,
        "lastDirtyTimestamp": "1700000000000",
    }
    text = json.dumps({"instance": body}).encode()
    return _request("POST", f"/eureka/apps/{name.upper()}", "Content-Type: application/json", text)


def _request(method: str, path: str, headers: str, body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: r\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
