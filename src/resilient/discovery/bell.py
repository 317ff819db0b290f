"""One thing that threads and tasks can wait for alike."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from resilient.clock import Clock


class Bell:
    """Rung when something happened; whoever waits looks whether it was what they wait for.

    Holds no lock and no loop, so it may be rung and waited for from any thread and any event loop.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[Callable[[], object]] = set()

    def ring(self) -> None:
        """Wake everyone who waits."""
        for wake in self._waiting.copy():
            wake()

    def wait(self, ready: Callable[[], bool], timeout: float, clock: Clock) -> bool:
        """Block this thread until `ready()`, asked at once and at each ring, or for `timeout` seconds."""
        event = threading.Event()
        wake = event.set
        end = clock.monotonic() + timeout
        self._waiting.add(wake)
        try:
            while not ready():
                left = end - clock.monotonic()
                if left <= 0 or not clock.wait(event, left):
                    return ready()
                event.clear()
            return True
        finally:
            self._waiting.discard(wake)

    async def wait_async(self, ready: Callable[[], bool], timeout: float, clock: Clock) -> bool:  # noqa: ASYNC109  # on the injected clock, which asyncio.timeout does not know
        """Suspend this task until `ready()`, asked at once and at each ring, or for `timeout` seconds."""
        import asyncio

        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        end = clock.monotonic() + timeout

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to wake
                loop.call_soon_threadsafe(event.set)

        self._waiting.add(wake)
        cancel = clock.call_later(loop, timeout, event.set)
        try:
            while not ready():
                if clock.monotonic() >= end:
                    return False
                await event.wait()
                event.clear()
            return True
        finally:
            cancel()
            self._waiting.discard(wake)

    def forget(self) -> None:
        """Drop who waits: after a fork they are threads of the parent."""
        self._waiting = set()
