"""A question to a nameserver, by UDP or TCP, and its answer; no cache, no thread."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from resilient.clock import REAL_CLOCK
from resilient.discovery.steps import Answer, Send

_now = REAL_CLOCK.monotonic  # sockets live in real time, whatever clock the policies run on
TRIES = 2  # datagrams per question: one may be lost


class DnsWire:
    """For one thread at a time. A step's method is UDP or TCP, its body the question."""

    def send(self, step: Send) -> Answer:
        """The answer's message with status 200, or why there is none."""
        end = _now() + step.timeout
        try:
            return Answer(200, _over_udp(step, end) if step.method == "UDP" else _over_tcp(step, end))
        except (OSError, EOFError) as error:
            return Answer(error=_describe(error, step))

    def close(self) -> None:
        """Nothing is open between questions."""


class AsyncDnsWire:
    """The same for an event loop."""

    async def send(self, step: Send) -> Answer:
        """The answer's message with status 200, or why there is none."""
        import asyncio

        from resilient.discovery.dns_asyncio import over_tcp, over_udp

        try:
            async with asyncio.timeout(step.timeout):
                return Answer(200, await (over_udp(step) if step.method == "UDP" else over_tcp(step)))
        except (OSError, EOFError) as error:
            return Answer(error=_describe(error, step))

    async def aclose(self) -> None:
        """Nothing is open between questions."""


def where_of(step: Send) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The family and the address of the nameserver."""
    parts = urlsplit(step.server.base)
    host, port = parts.hostname or "", parts.port or 53
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)


def _over_udp(step: Send, end: float) -> bytes:
    assert step.body is not None
    family, address = where_of(step)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)  # answers from elsewhere are not received, and a closed port is told
        for left in range(TRIES, 0, -1):
            until = _now() + (end - _now()) / left
            sock.send(step.body)
            while (seconds := until - _now()) > 0:
                sock.settimeout(seconds)
                try:
                    answer = sock.recv(65_535)
                except TimeoutError:
                    break
                if answer[:2] == step.body[:2]:
                    return answer
    raise TimeoutError


def _over_tcp(step: Send, end: float) -> bytes:
    assert step.body is not None
    _, address = where_of(step)
    with socket.create_connection(address, max(end - _now(), 0.001)) as sock:
        sock.sendall(len(step.body).to_bytes(2, "big") + step.body)
        return _exactly(sock, int.from_bytes(_exactly(sock, 2, end), "big"), end)


def _exactly(sock: socket.socket, count: int, end: float) -> bytes:
    found = b""
    while len(found) < count:
        left = end - _now()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        piece = sock.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _describe(error: Exception, step: Send) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {step.timeout:.3g} s"
    if isinstance(error, EOFError):
        return "the connection was closed before the whole answer was there"
    assert isinstance(error, OSError)
    return error.strerror or str(error) or type(error).__name__
