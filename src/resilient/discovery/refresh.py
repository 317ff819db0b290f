"""The one loop of a discovery, in a daemon thread or a task: how it begins and ends, and what a fork does to it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from resilient.clock import Clock, forget_on_fork
from resilient.discovery.bell import Bell
from resilient.discovery.runs import AFTER_A_BUG, Run, TaskRun, ThreadRun
from resilient.discovery.steps import Agenda, Exchange, Job, Rest, Steps, adrive, drive, until
from resilient.discovery.wire import AsyncWire, Wire

logger = logging.getLogger("resilient")

R = TypeVar("R")

_GRACE = 2.0  # seconds that stopping waits for the request in flight


class Refresh:
    """Runs the jobs of one discovery. Safe for threads and event loops.

    Args:
        name: what the thread or task is called.
        clock: where time comes from.
        wire: makes what sends in a thread.
        awire: makes what sends in an event loop.
        watching: whether jobs will be alone: then the thread has an event loop of its own.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        wire: Callable[[], Wire],
        awire: Callable[[], AsyncWire],
        *,
        watching: bool = False,
    ) -> None:
        self._watching = watching
        self.settled = False  # whether lookups have begun it, or it was closed on purpose
        self.name = name
        self.clock = clock
        self.wire = wire
        self.awire = awire
        self.agenda = Agenda(clock)
        self.ended = Bell()
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread while it holds this
        self._run: Run | None = None
        forget_on_fork(self)

    @property
    def running(self) -> bool:
        """Whether a thread or task is at work."""
        run = self._run
        return run is not None and run.alive() and not run.stopping

    @property
    def awake(self) -> bool:
        """Whether lookups need not start anything: running for them, or closed on purpose."""
        run = self._run
        return self.settled and (run is None or run.alive())

    @property
    def here(self) -> bool:
        """Whether the caller is on the thread or event loop that the jobs run on: blocking it would block them."""
        run = self._run
        return run is not None and run.here()

    def add(self, job: Job, *, first: bool = False, alone: bool = False) -> None:
        """Do `job` from now on; `alone`: beside the others, whom its long requests would hold up."""
        with self._lock:
            if alone and job not in self.agenda.alone:
                self.agenda.alone = (*self.agenda.alone, job)
            jobs = self.agenda.jobs
            if job not in jobs:
                self.agenda.jobs = (job, *jobs) if first else (*jobs, job)

    def remove(self, job: Job) -> None:
        """Do `job` no more; one at work now is not interrupted."""
        with self._lock:
            self.agenda.jobs = tuple(other for other in self.agenda.jobs if other is not job)
            self.agenda.alone = tuple(other for other in self.agenda.alone if other is not job)

    def start(self) -> None:
        """Run in a daemon thread, unless running; else look at the jobs anew."""
        if self._watching:
            from resilient.discovery.loop_run import LoopRun

            self._begin(LoopRun)
        else:
            self._begin(ThreadRun)

    def start_tasks(self) -> None:
        """Run in a task of the running loop, unless running; else look at the jobs anew."""
        self._begin(TaskRun)

    def _begin(self, kind: Callable[[Refresh], Run]) -> None:
        with self._lock:
            if self.running:
                self.wake()
                return
            self._run = run = kind(self)  # in place of one whose event loop was closed under it, too
        try:
            run.begin()
        except BaseException:
            run.stopping = True
            self.forget(run)
            self.settled = False
            raise

    def wake(self) -> None:
        """Look at the jobs again now."""
        run = self._run
        if run is None:
            return
        if run.alive():
            run.wake()
        else:
            self.forget(run)

    def stop(self) -> None:
        """End the loop and wait for it, ≤ 2 s; on its own event loop it ends as soon as that one goes on."""
        run = self._run
        if run is not None:
            run.cancel()
            if run.alive() and not run.here():
                self.ended.wait(lambda: self._run is not run, _GRACE, self.clock)
            self.forget(run)

    async def astop(self) -> None:
        """The same for an event loop."""
        run = self._run
        if run is not None:
            run.cancel()
            try:
                if run.alive():
                    await self.ended.wait_async(lambda: self._run is not run, _GRACE, self.clock)
            finally:
                run.abort()
                self.forget(run)

    def abandon(self) -> None:
        """End the loop at its next step; takes no lock, so a garbage collector may call it."""
        run = self._run
        if run is not None:
            run.abandon()

    def steps(self, run: Run, lane: Job | None = None) -> Steps[None]:
        """What the loop does until it is stopped; `lane`: with the job that is alone there."""
        while not run.stopping:
            job, seconds = self.agenda.next(lane)
            if job is None:
                yield Rest(seconds)
                continue
            try:
                yield from until(lambda: run.stopping, job.work())
            except Exception:
                logger.exception("%s: a bug in %r; the loop goes on", self.name, job)
                yield Rest(AFTER_A_BUG)

    def forget(self, run: Run) -> None:
        """`run` has ended; if nobody stopped it, a thread goes on with the jobs: a task's event loop may end first."""
        with self._lock:
            orphaned = self._run is run and not run.stopping
            if self._run is run:
                self._run = None
        self.ended.ring()
        if not orphaned:
            return
        try:
            if self.agenda.jobs and not sys.is_finalizing():
                self.start()
        except RuntimeError:  # no more threads, or the interpreter is ending: the next lookup tries again
            logger.warning("%s: the refresh thread can not be started", self.name, exc_info=True)

    def do(self, exchange: Exchange[R]) -> R:
        """Run `exchange` in this thread, on connections of its own."""
        wire = self.wire()
        try:
            return drive(exchange, wire.send, lambda _seconds: None)
        finally:
            wire.close()

    async def ado(self, exchange: Exchange[R]) -> R:
        """The same for an event loop."""
        wire = self.awire()

        async def rest(_seconds: float | None) -> None:
            """An exchange takes none."""

        try:
            return await adrive(exchange, wire.send, rest)
        finally:
            await wire.aclose()

    def after_fork_in_child(self) -> None:
        """The loop and its jobs are the parent's; in the child the next lookup starts its own."""
        self._lock = threading.RLock()
        if self._run is not None:
            self.settled = False
            self._run.after_fork_in_child()
        self._run = None
        self.agenda.jobs = self.agenda.alone = ()
        self.ended.forget()
