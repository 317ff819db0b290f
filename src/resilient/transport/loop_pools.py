"""The pools that belong to one event loop: what is not used any more is closed there, whoever noticed it."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from contextvars import Context
from typing import Any

from resilient.transport.pools import Pools


class LoopPools(Pools[Any]):
    """The pools of one loop. It does not keep the loop alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._closing = _Closing(loop)
        super().__init__(self._closing)

    def are_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether they belong to a loop."""
        return self._closing.loop() is loop

    async def aclose(self) -> None:
        """Close every pool, and wait for those that are being closed."""
        for transport in self.take_all():
            self._closing.begin(transport)
        await self._closing.finish()

    def after_fork_in_child(self) -> None:
        """The loop and all connections are the parent's."""
        super().after_fork_in_child()
        self._closing.waiting.clear()


class _Closing:
    """Closes transports on their loop; called in any thread, also by the list of instances that changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.waiting: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio keeps no task alive

    def __call__(self, transport: Any) -> None:
        loop = self.loop()
        if loop is None:
            return
        self.waiting.append(transport)
        with suppress(RuntimeError):  # the loop has ended: nothing can be closed on it
            loop.call_soon_threadsafe(self._begin, context=Context())  # no deadline of a caller holds here

    def _begin(self) -> None:
        if self.waiting:  # else `finish` was faster
            self.begin(self.waiting.pop())

    def begin(self, transport: Any) -> None:
        """Close one, in a task of its own: who waits for that may be cancelled, and it may take long."""
        task = asyncio.get_running_loop().create_task(_aclose(transport), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Close what is left; wait until all is closed."""
        while self.waiting:
            self.begin(self.waiting.pop())
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _aclose(transport: Any) -> None:
    with suppress(Exception):  # how its connections end concerns nobody
        await transport.aclose()
