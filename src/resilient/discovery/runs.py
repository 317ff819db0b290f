"""The two places where a loop runs: a daemon thread, a task. All that differs between them is here."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from typing import TYPE_CHECKING, TypeAlias

from resilient.clock import load_undisturbed
from resilient.discovery.steps import adrive, drive

if TYPE_CHECKING:
    import asyncio

    from resilient.discovery.refresh import Refresh
    from resilient.discovery.steps import Job

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
            wire = load_undisturbed(refresh.wire)  # it imports an HTTP client
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

    def abandon(self) -> None:
        """End it at its next step; a garbage collector may call this, so it takes no lock."""
        self.stopping = True

    def alive(self) -> bool:
        """Whether it can still end by itself."""
        return True

    def abort(self) -> None:
        """A thread can not be cut short; it ends with the request in flight, ≤ 5 s."""

    def here(self) -> bool:
        """Whether it would wait for itself if the caller waited."""
        return threading.current_thread() is self._thread

    def after_fork_in_child(self) -> None:
        """A request in flight is the parent's, and soon over."""


class TaskRun:
    """In a task of the loop that runs where it is made, and in a further one for each job that is alone."""

    def __init__(self, refresh: Refresh, loop: asyncio.AbstractEventLoop | None = None) -> None:
        import asyncio

        self.stopping = False
        self._refresh = refresh
        self._loop = loop or asyncio.get_running_loop()
        self._lane = _Lane(self, refresh, None)
        self._lanes: dict[Job, _Lane] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it."""
        self._task = self._loop.create_task(self._main(), name=self._refresh.name, context=contextvars.Context())

    async def _main(self) -> None:
        try:
            await self._work()
        except Exception:
            logger.exception("%s: the loop ended", self._refresh.name)
            await self._lane.rest(AFTER_A_BUG)
        finally:
            self._refresh.forget(self)

    async def _work(self) -> None:
        try:
            self._look()
            await self._lane.run()
        finally:
            for lane in self._lanes.values():
                self._cut(lane)
            if self._ending and self.alive():
                import asyncio

                await asyncio.gather(*self._ending, return_exceptions=True)

    def _look(self) -> None:
        """On the loop: every job that is alone has its task; whoever rests looks again."""
        alone = () if self.stopping else self._refresh.agenda.alone
        for job in [job for job in self._lanes if job not in alone]:
            self._cut(self._lanes.pop(job))
        for job in alone:
            if job not in self._lanes:
                self._lanes[job] = lane = _Lane(self, self._refresh, job)
                lane.task = self._loop.create_task(
                    lane.run_on(), name=self._refresh.name, context=contextvars.Context()
                )
                lane.task.add_done_callback(_heard)
        for lane in (self._lane, *self._lanes.values()):
            lane.event.set()

    def _cut(self, lane: _Lane) -> None:
        """End it at once: its request may be answered in a minute, or never."""
        if lane.task is not None and not lane.task.done() and self.alive():
            self._ending.add(lane.task)
            lane.task.add_done_callback(self._ending.discard)
            lane.task.cancel()

    def wake(self) -> None:
        """End its rest."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to wake
            self._loop.call_soon_threadsafe(self._look)

    def cancel(self) -> None:
        """End it after the request in flight; what is alone is cut short."""
        self.stopping = True
        self.wake()

    def abandon(self) -> None:
        """The same; a loop is woken without a lock."""
        self.cancel()

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

    def after_fork_in_child(self) -> None:
        """The loop and what was opened on it are its owner's."""


def _heard(task: asyncio.Task[None]) -> None:
    """What ends a lane, as `sys.exit()` in a listener does, ends the loop too, and is told there."""
    if not task.cancelled():
        task.exception()


class _Lane:
    """What one task of a `TaskRun` does: the common jobs, or the one that is alone there; with a wire of its own."""

    def __init__(self, run: TaskRun, refresh: Refresh, job: Job | None) -> None:
        import asyncio

        self.event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._run = run
        self._refresh = refresh
        self._job = job

    async def run(self) -> None:
        """Work until it is stopped."""
        wire = load_undisturbed(self._refresh.awire)  # it imports an HTTP client
        try:
            await adrive(self._refresh.steps(self._run, self._job), wire.send, self.rest)
        finally:
            if self._run.alive():  # else nothing can be awaited any more
                await wire.aclose()

    async def run_on(self) -> None:
        """The same; what raises is begun again."""
        while not self._run.stopping:
            try:
                await self.run()
            except Exception:
                logger.exception("%s: %r ended", self._refresh.name, self._job)
                await self.rest(AFTER_A_BUG)

    async def rest(self, seconds: float | None) -> None:
        """Until woken, at most `seconds`."""
        clock, loop = self._refresh.clock, self._run._loop
        cancel = None if seconds is None else clock.call_later(loop, max(seconds, 0.0), self.event.set)
        try:
            await self.event.wait()
            self.event.clear()
        finally:
            if cancel is not None:
                cancel()


Run: TypeAlias = ThreadRun | TaskRun
