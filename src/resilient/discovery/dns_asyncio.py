"""A question to a nameserver on an event loop; imported when one is there."""

from __future__ import annotations

import asyncio

from resilient.discovery.dns_wire import TRIES, where_of
from resilient.discovery.steps import Send


async def over_udp(step: Send) -> bytes:
    """The answer to a datagram, which is sent twice: one may be lost."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    family, address = where_of(step)
    question = step.body or b""
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Asked(question, answered), remote_addr=address, family=family
    )
    try:
        transport.sendto(question)
        again = loop.call_later(step.timeout / TRIES, transport.sendto, question)
        try:
            return await answered
        finally:
            again.cancel()
    finally:
        transport.close()


async def over_tcp(step: Send) -> bytes:
    """The same on a connection, for answers that are too long for a datagram."""
    _, (host, port) = where_of(step)
    question = step.body or b""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(len(question).to_bytes(2, "big") + question)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


class _Asked(asyncio.DatagramProtocol):
    """Waits for the answer to one question."""

    def __init__(self, question: bytes, answered: asyncio.Future[bytes]) -> None:
        self._question = question
        self._answered = answered

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data[:2] == self._question[:2] and not self._answered.done():
            self._answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)
