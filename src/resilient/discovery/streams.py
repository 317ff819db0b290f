"""Answers that come line by line for as long as something happens: what watches are made of."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from resilient.discovery.steps import MORE, Answer, Send
from resilient.discovery.wire import CONNECT_TIMEOUT, AsyncHttpWire, _arguments, _describe, _local, aread_all

if TYPE_CHECKING:
    import ssl

    import httpx

_LONGEST = 64 * 2**20  # bytes in a line; the longest of Kubernetes have 1 MB
_END = 204  # HTTP's word for nothing more


class StreamingWire(AsyncHttpWire):
    """As `AsyncHttpWire`, with one stream at a time, which the next request but `MORE` closes."""

    def __init__(self, *, tls: bool | ssl.SSLContext) -> None:
        super().__init__(tls=tls)
        self._open: contextlib.AsyncExitStack | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._rest = bytearray()

    async def send(self, step: Send, /) -> Answer:
        """Send it and wait for the answer, its head, or a line."""
        if step.method == MORE:
            return await self._line(step)
        await self._shut()
        return await (self._begin(step) if step.stream else super().send(step))

    async def _begin(self, step: Send) -> Answer:
        import asyncio

        import httpx

        self._open = contextlib.AsyncExitStack()
        try:
            options = {**_arguments(step), "timeout": httpx.Timeout(None, connect=CONNECT_TIMEOUT)}
            async with asyncio.timeout(step.timeout):
                got: httpx.Response = await self._open.enter_async_context(self._client.stream(**options))
                local = _local(got)
                if got.is_success:
                    self._chunks = got.aiter_bytes()
                    return Answer(got.status_code, local=local, headers=got.headers)
                answer = Answer(got.status_code, await aread_all(got), local=local, headers=got.headers)
        except Exception as error:
            answer = Answer(error=_describe(error, step))
        await self._shut()
        return answer

    async def _line(self, step: Send) -> Answer:
        import asyncio

        if self._chunks is None:
            return Answer(_END)
        seen = 0
        try:
            async with asyncio.timeout(step.timeout):
                while (end := self._rest.find(b"\n", seen)) < 0:
                    seen = len(self._rest)
                    if seen > _LONGEST:
                        raise ValueError(f"a line of more than {_LONGEST >> 20} MB")
                    self._rest += await anext(self._chunks)
        except StopAsyncIteration:
            answer = Answer(_END)
        except Exception as error:
            answer = Answer(error=_describe(error, step))
        else:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            return Answer(200, line)
        await self._shut()
        return answer

    async def _shut(self) -> None:
        opened, self._open, self._chunks = self._open, None, None
        self._rest.clear()
        if opened is not None:
            with contextlib.suppress(Exception):  # broken already: nobody needs its end
                await opened.aclose()

    async def aclose(self) -> None:
        """Close the stream and the client."""
        await self._shut()
        await super().aclose()
