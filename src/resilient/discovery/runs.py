"""The two places where a loop runs: a daemon thread, a task. All that differs between them is here."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from typing import TYPE_CHECKING, TypeAlias

from resilient.discovery.steps import adrive, drive

if TYPE_CHECKING:
    import asyncio

    from resilient.discovery.refresh import Refresh

logger = logging.getLogger("resilient")

AFTER_A_BUG = 1.0  # seconds of rest after something raised: the loop outlives everything, but must not spin


class ThreadRun:
    """In a daemon thread, so that it never delays the end of the process."""

    def __init__(self, refresh: Refresh) -> None:
        self.stopping = False
        self._refresh = refresh
        self._event = threading.Event()
        context = contextvars.Context()  # empty: no caller's deadline reaches the background
        self._thread = threading.Thread(target=context.run, args=(self._main,), name=refresh.name, daemon=True)

    def begin(self) -> None:
        """Start it."""
        self._thread.start()

    def _main(self) -> None:
        refresh = self._refresh
        try:
            wire = refresh.wire()
            try:
                drive(refresh.steps(self), wire.send, self._rest)
            finally:
                wire.close()
        except BaseException:  # sys.exit() in a listener, too: there is nobody above to hear of it
            logger.exception("%s: the loop ended", refresh.name)
            self._rest(AFTER_A_BUG)
        finally:
            refresh.forget(self)

    def _rest(self, seconds: float | None) -> None:
        self._refresh.clock.wait(self._event, seconds)
        self._event.clear()  # before the jobs are looked at: a wake during that look is not lost

    def wake(self) -> None:
        """End its rest."""
        self._event.set()

    def cancel(self) -> None:
        """End it after the request in flight."""
        self.stopping = True
        self._event.set()

    def alive(self) -> bool:
        """Whether it can still end by itself."""
        return True

    def abort(self) -> None:
        """A thread can not be cut short; it ends with the request in flight, ≤ 5 s."""

    def here(self) -> bool:
        """Whether it would wait for itself if the caller waited."""
        return threading.current_thread() is self._thread


class TaskRun:
    """In a task of the loop that runs where it is made."""

    def __init__(self, refresh: Refresh) -> None:
        import asyncio

        self.stopping = False
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it."""
        self._task = self._loop.create_task(self._main(), name=self._refresh.name, context=contextvars.Context())

    async def _main(self) -> None:
        refresh = self._refresh
        try:
            wire = refresh.awire()
            try:
                await adrive(refresh.steps(self), wire.send, self._rest)
            finally:
                if self.alive():  # else nothing can be awaited any more
                    await wire.aclose()
        except Exception:
            logger.exception("%s: the loop ended", refresh.name)
            await self._rest(AFTER_A_BUG)
        finally:
            refresh.forget(self)

    async def _rest(self, seconds: float | None) -> None:
        cancel = (
            None if seconds is None else self._refresh.clock.call_later(self._loop, max(seconds, 0.0), self._event.set)
        )
        try:
            await self._event.wait()
            self._event.clear()
        finally:
            if cancel is not None:
                cancel()

    def wake(self) -> None:
        """End its rest."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to wake
            self._loop.call_soon_threadsafe(self._event.set)

    def cancel(self) -> None:
        """End it after the request in flight."""
        self.stopping = True
        self.wake()

    def alive(self) -> bool:
        """Whether it can still end by itself."""
        return not self._loop.is_closed()

    def abort(self) -> None:
        """Cut it short."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    def here(self) -> bool:
        """Whether it would wait for itself if the caller waited."""
        import asyncio

        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False


Run: TypeAlias = ThreadRun | TaskRun
