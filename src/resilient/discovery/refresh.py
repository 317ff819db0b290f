"""The one loop of a discovery, in a daemon thread or a task: how it begins and ends, and what a fork does to it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.discovery.bell import Bell
from resilient.discovery.runs import Run, TaskRun, ThreadRun
from resilient.discovery.steps import Agenda, Answer, Exchange, Job, Rest, Send, Steps, adrive, drive
from resilient.discovery.wire import AsyncWire, Wire

logger = logging.getLogger("resilient")

R = TypeVar("R")

_GRACE = 2.0  # seconds that stopping waits for the request in flight
_AFTER_A_BUG = 1.0  # seconds of rest after a job raised: the loop outlives everything, but must not spin


class Refresh:
    """Runs the jobs of one discovery. Safe for threads and event loops.

    Args:
        name: what the thread or task is called.
        clock: where time comes from.
        wire: makes what sends in a thread.
        awire: makes what sends in an event loop.
    """

    def __init__(self, name: str, clock: Clock, wire: Callable[[], Wire], awire: Callable[[], AsyncWire]) -> None:
        self.awake = False  # whether lookups need not start anything: running, or closed on purpose
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
        return self._run is not None

    @property
    def here(self) -> bool:
        """Whether the caller runs on the event loop that the tasks run on: blocking it would block them."""
        run = self._run
        return run is not None and run.here()

    def add(self, job: Job, *, first: bool = False) -> None:
        """Do `job` from now on."""
        with self._lock:
            jobs = self.agenda.jobs
            if job not in jobs:
                self.agenda.jobs = (job, *jobs) if first else (*jobs, job)

    def remove(self, job: Job) -> None:
        """Do `job` no more; one at work now is not interrupted."""
        with self._lock:
            self.agenda.jobs = tuple(other for other in self.agenda.jobs if other is not job)

    def start(self) -> None:
        """Run in a daemon thread, unless running; else look at the jobs anew."""
        self._begin(ThreadRun)

    def start_tasks(self) -> None:
        """Run in a task of the running loop, unless running; else look at the jobs anew."""
        self._begin(TaskRun)

    def _begin(self, kind: type[ThreadRun | TaskRun]) -> None:
        with self._lock:
            run = self._run
            if run is not None:
                run.wake()
                return
            self._run = run = kind(self)
        try:
            run.begin()
        except BaseException:
            self.forget(run)
            raise

    def wake(self) -> None:
        """Look at the jobs again now."""
        run = self._run
        if run is not None:
            run.wake()

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
            run.stopping = True

    def steps(self, run: Run) -> Steps[None]:
        """What the loop does until it is stopped."""
        while not run.stopping:
            job, seconds = self.agenda.next()
            if job is None:
                yield Rest(seconds)
                continue
            try:
                yield from job.work()
            except Exception:
                logger.exception("%s: a bug in %r; the loop goes on", self.name, job)
                yield Rest(_AFTER_A_BUG)

    def forget(self, run: Run) -> None:
        """`run` has ended."""
        with self._lock:
            if self._run is run:
                self._run = None
                self.awake = self.awake and run.stopping  # ended by its loop's end: the next lookup starts a thread
        self.ended.ring()

    def do(self, exchange: Exchange[R], budget: float) -> R:
        """Run `exchange` in this thread, on connections of its own, within `budget` seconds of real time."""
        wire = self.wire()
        try:
            cut = _cut(budget)
            return drive(exchange, lambda step: wire.send(cut(step)), lambda _seconds: None)
        finally:
            wire.close()

    async def ado(self, exchange: Exchange[R], budget: float) -> R:
        """The same for an event loop."""
        wire = self.awire()
        cut = _cut(budget)

        async def send(step: Send) -> Answer:
            return await wire.send(cut(step))

        async def rest(_seconds: float | None) -> None:
            """An exchange takes none."""

        try:
            return await adrive(exchange, send, rest)
        finally:
            await wire.aclose()

    def after_fork_in_child(self) -> None:
        """The loop and its jobs are the parent's; in the child the next lookup starts its own."""
        self._lock = threading.RLock()
        if self._run is not None:
            self.awake = False
        self._run = None
        self.agenda.jobs = ()
        self.ended.forget()


def _cut(budget: float) -> Callable[[Send], Send]:
    """What shortens each step so that all of them together end within `budget` seconds of real time."""
    end = SYSTEM_CLOCK.monotonic() + budget

    def cut(step: Send) -> Send:
        left = max(end - SYSTEM_CLOCK.monotonic(), 0.001)  # none left: the step fails at once
        return dataclasses.replace(step, timeout=min(step.timeout, left))

    return cut
