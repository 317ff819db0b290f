"""The caller's side of one request: its body, passed on as it comes, and whether the caller is still there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx

from resilient.clock import REAL_CLOCK
from resilient.gateway.asgi import Message, Receive
from resilient.gateway.problems import ClientGoneError, RefusedError

_WATCHED_AFTER: Final = 0.01  # seconds: an answer that comes sooner is sent, whoever is there to read it
_READ_BEFORE_CLOSE: Final = 262_144  # bytes, and
_CLOSE_AFTER: Final = 1.0  # seconds for which a refused body is read: a caller that still writes would miss the answer


class Caller:
    """Who sent the request. Nothing but this reads what comes from there.

    Args:
        receive: ASGI's.
        most: bytes that the body may have.
        patience: seconds in all that are waited for the body; None: no limit.
    """

    def __init__(self, receive: Receive, most: int, patience: float | None) -> None:
        self._receive = receive
        self._most = most
        self._patience = patience
        self._read = 0
        self._watcher: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.refusal: RefusedError | None = None  # of the body, while it was passed on
        self.complete = False  # the whole body was read
        self.gone = False

    async def more(self) -> bytes:
        """The next part of the body; `complete` says whether it was the last one.

        Raises:
            ClientGoneError: when the caller is not there any more.
            RefusedError: 413 when the body is too long, 408 when it does not come.
        """
        message = await self._next()
        if message["type"] != "http.request":
            self.gone = True
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        self._read += len(chunk)
        self.complete = not message.get("more_body", False)
        if self._read > self._most:
            raise self._refuse(RefusedError(413, f"The request's body has more than {self._most} bytes."))
        return chunk

    async def _next(self) -> Message:
        if self._patience is None:
            return await self._receive()
        started = REAL_CLOCK.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                return await self._receive()
        except TimeoutError:
            raise self._refuse(RefusedError(408, "The request's body did not come in time.")) from None
        finally:
            self._patience = max(0.0, self._patience - (REAL_CLOCK.monotonic() - started))

    def _refuse(self, why: RefusedError) -> RefusedError:
        self.refusal = why
        return why

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Cancel `task` when the caller leaves. Only once the body is complete: until then `more` hears of it."""
        self._watcher = asyncio.get_running_loop().call_later(_WATCHED_AFTER, self._begin, task)

    def _begin(self, task: asyncio.Task[Any]) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait(task))

    async def _wait(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._watcher is not None:
            self.gone = True
            task.cancel()

    def leave(self) -> None:
        """The answer is complete, or there will be none."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()

    async def discard(self) -> None:
        """Read some of what was not wanted."""
        seen = self._read
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_AFTER):
                while not self.complete and self._read - seen < _READ_BEFORE_CLOSE:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self._read += len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)


class Upload(httpx.AsyncByteStream):
    """A body on its way to the upstream, one part at a time: the next one is read when the last one is sent.

    Args:
        caller: who sends it.
        first: a part that was read already; None: none was.
        task: to be cancelled when the caller leaves after the end of the body.
    """

    def __init__(self, caller: Caller, first: bytes | None, task: asyncio.Task[Any]) -> None:
        self._caller = caller
        self._first = first
        self._task = task

    async def __aiter__(self) -> AsyncIterator[bytes]:
        caller = self._caller
        first, self._first = self._first, None
        if first:
            yield first
        while not caller.complete:
            chunk = await caller.more()
            if caller.complete:
                caller.watch(self._task)
            if chunk:
                yield chunk
