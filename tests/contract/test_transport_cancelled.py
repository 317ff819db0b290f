"""Cancelled while something is being closed: what is not wanted any more is closed all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from resilient import Pipeline, Policy, Retry, Timeout
from resilient.discovery import Instance
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.fallback import Fallback
from resilient.transport import AsyncResilientTransport
from tests.listed import Listed, instances


class Slow(httpx.AsyncByteStream):
    """A body whose end has to be waited for."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.may_end = asyncio.Event()
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x"

    async def aclose(self) -> None:
        """Wait, then it is closed."""
        self.closing.set()
        await self.may_end.wait()
        self.closed = True


class Wire(httpx.AsyncBaseTransport):
    """Answers by a function; its own end has to be waited for, when it is slow."""

    def __init__(self, answer: Callable[[], httpx.Response], *, slow: bool = False) -> None:
        self.answer = answer
        self.end = Slow()
        if not slow:
            self.end.may_end.set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One answer."""
        return self.answer()

    async def aclose(self) -> None:
        """As a body ends."""
        await self.end.aclose()


async def test_a_close_that_is_cancelled_goes_on() -> None:
    """`asyncio.timeout(1)` around the end of a client: one instance that takes its time does not keep the others."""
    wires: list[Wire] = []

    def make(_instance: Instance | None) -> Wire:
        wires.append(Wire(lambda: httpx.Response(200, content=b""), slow=True))
        return wires[-1]

    transport = AsyncResilientTransport(Listed(*instances("ab")), transport=make)
    for _ in range(2):
        answer = await transport.handle_async_request(httpx.Request("GET", "http://producer/"))
        await answer.aread()
        await answer.aclose()
    closing = asyncio.create_task(transport.aclose())
    for wire in wires:
        await asyncio.wait_for(wire.end.closing.wait(), 10)  # both at once
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for wire in wires:
        wire.end.may_end.set()
    await transport.aclose()
    assert [wire.end.closed for wire in wires] == [True, True]


async def test_a_call_that_is_cancelled_while_it_closes_what_it_throws_away_closes_the_rest() -> None:
    """Nobody gets the answer that it was going to give: else that one would keep its connection."""
    thrown, wanted = Slow(), Slow()
    wanted.may_end.set()
    bulkhead = Bulkhead(2)
    transport = AsyncResilientTransport(
        Listed(*instances("a")),
        transport=lambda _instance: Wire(lambda: httpx.Response(500, stream=thrown)),
        policies=lambda _key: Pipeline(Fallback(lambda _request: httpx.Response(200, stream=wanted)), bulkhead),
    )
    call = asyncio.create_task(transport.handle_async_request(httpx.Request("GET", "http://producer/")))
    await asyncio.wait_for(thrown.closing.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert wanted.closed
    assert bulkhead.snapshot().in_flight == 0
    assert transport.balancer("producer").snapshot().in_flight == 0


@pytest.mark.parametrize("shared", ["decorated", "transport"])
async def test_a_result_that_a_retry_throws_away_holds_no_place(shared: str) -> None:
    """Retry(on_result=...) around a bulkhead closes it before the next attempt, which needs the place and gets it."""
    bodies: list[Slow] = []

    def answer() -> httpx.Response:
        bodies.append(Slow())
        bodies[-1].may_end.set()
        return httpx.Response(200 if len(bodies) > 1 else 202, stream=bodies[-1])

    gate, retry = Bulkhead(1), Retry(wait=0.0, on_result=lambda found: found.status_code == 202)
    inner: Policy[Any] = gate if shared == "transport" else Timeout(60.0)
    transport = AsyncResilientTransport(
        Listed(*instances("a")), transport=lambda _instance: Wire(answer), policies=lambda _key: Pipeline(inner)
    )
    outer = Pipeline(retry) if inner is gate else Pipeline(retry, gate)
    async with httpx.AsyncClient(transport=transport) as client:
        found = await outer.acall(lambda: client.send(client.build_request("GET", "http://producer/"), stream=True))
        assert found.status_code == 200
        assert [body.closed for body in bodies] == [True, False]
        await found.aclose()
    assert gate.snapshot().in_flight == 0
