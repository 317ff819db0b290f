"""A daemon thread with an event loop of its own, for requests that are answered only when something happens.

Each of them holds a connection for as long as a minute, and a thread for each would be too much: so many wait in one.
Imported when such a registry is used from a program without an event loop, or outside of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

from resilient.discovery.runs import AFTER_A_BUG, TaskRun

if TYPE_CHECKING:
    from resilient.discovery.refresh import Refresh

logger = logging.getLogger("resilient")


class LoopRun(TaskRun):
    """As `TaskRun`, on a loop that nobody else has."""

    def __init__(self, refresh: Refresh) -> None:
        self._own = _Loop()
        super().__init__(refresh, self._own)
        self._thread = threading.Thread(target=self._in_thread, name=refresh.name, daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise

    def _in_thread(self) -> None:
        refresh = self._refresh
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._begun(), context=contextvars.Context())
        except asyncio.CancelledError:  # cut short
            pass
        except BaseException:  # sys.exit() in a listener, too: there is nobody above to hear of it
            logger.exception("%s: the loop ended", refresh.name)
            refresh.clock.sleep(AFTER_A_BUG)
        finally:
            refresh.forget(self)

    async def _begun(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._work()
        finally:
            self._own.leave_nothing()
            await asyncio.sleep(0)  # in which what was aborted closes

    def here(self) -> bool:
        """Whether it would wait for itself if the caller waited."""
        return threading.current_thread() is self._thread

    def after_fork_in_child(self) -> None:
        """Let go of the parent's connections: they would stay open when the parent closes them."""
        self._own.let_go()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that looks names up in its own thread and closes every connection that was made on it.

    Threads of asyncio's pool would hold up the end of the interpreter. And a task that is cut short at the moment in
    which its connection is made leaves it to nobody (1 end in 100 when it comes at random; anyio 4, httpcore 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        made = await super().create_connection(*arguments, **options)
        self._made.add(made[0])
        return made

    def leave_nothing(self) -> None:
        """Close what is open."""
        for transport in list(self._made):
            if not transport.is_closing():
                transport.close()

    def let_go(self) -> None:
        """In a forked child: nothing in place of each connection; whoever closes its object does no harm."""
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123  # between fork and everything else: no object more
            for transport in list(self._made):
                sock = transport.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    os.dup2(nothing.fileno(), sock.fileno(), inheritable=False)

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return socket.getaddrinfo(host, port, **options)
