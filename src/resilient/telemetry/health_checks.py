"""A check of the user's: never run twice at once, however long it takes, and never waited for longer than agreed."""

from __future__ import annotations

import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from resilient.clock import Clock, forget_on_fork
from resilient.discovery.bell import Bell
from resilient.errors import BulkheadFullError
from resilient.telemetry.health_report import DOWN, REFUSING, UP, ComponentInfo
from resilient.workers import WORKERS

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("resilient")

Check: TypeAlias = Callable[[], object]
"""Sync or async, without arguments: None or True is UP, a mapping is UP with these details, False or an error DOWN."""


class Run:
    """One time that a check is asked."""

    __slots__ = ("answer", "ended", "loop", "started", "task")

    def __init__(self, started: float, loop: asyncio.AbstractEventLoop | None) -> None:
        self.started = started
        self.ended = started
        self.answer: ComponentInfo | None = None
        self.loop = loop
        self.task: asyncio.Task[None] | None = None  # an event loop holds its tasks weakly

    @property
    def lost(self) -> bool:
        """Whether there will never be an answer: its event loop was closed."""
        return self.answer is None and self.loop is not None and self.loop.is_closed()


class Probe:
    """Asks a check, or looks at what it said a moment ago.

    Safe for threads and event loops; a sync check runs in a worker thread, an async one in the event loop that asks.
    One that hangs holds one thread at most: it is not asked again before it has ended.

    Args:
        name: what it is called.
        check: the check.
        timeout: seconds that its answer is waited for.
        max_age: seconds that an answer holds.
        clock: where time comes from.
    """

    def __init__(self, name: str, check: Check, *, timeout: float, max_age: float, clock: Clock) -> None:
        self.name = name
        self.is_async = inspect.iscoroutinefunction(check) or inspect.iscoroutinefunction(type(check).__call__)
        self._check = check
        self._timeout = timeout
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.Lock()
        self._bell = Bell()
        self._run: Run | None = None  # the last one
        self._well = True
        forget_on_fork(self)

    def begin(self) -> Run:
        """The run whose answer counts now: a new one, the one that is under way, or one that ended a moment ago."""
        loop = _running_loop() if self.is_async else None
        with self._lock:
            run, now = self._run, self._clock.monotonic()
            if run is not None and not run.lost and (run.answer is None or now - run.ended < self._max_age):
                return run
            run = self._run = Run(now, loop)
        if loop is not None:
            run.task = loop.create_task(self._ask_async(run), context=contextvars.Context())
        else:
            try:
                WORKERS.start(lambda: self._ask(run), policy=self.name)
            except BulkheadFullError as error:
                self._end(run, _failed(error))
        return run

    def wait(self, run: Run) -> ComponentInfo:
        """Its answer; blocks."""
        self._bell.wait(lambda: run.answer is not None, self._left(run), self._clock)
        return self._answer(run)

    async def wait_async(self, run: Run) -> ComponentInfo:
        """Its answer."""
        await self._bell.wait_async(lambda: run.answer is not None, self._left(run), self._clock)
        if run.answer is None and run.task is not None and run.loop is _running_loop():
            run.task.cancel()
        return self._answer(run)

    def _left(self, run: Run) -> float:
        return max(0.0, run.started + self._timeout - self._clock.monotonic())

    def _answer(self, run: Run) -> ComponentInfo:
        return run.answer or ComponentInfo(DOWN, {"error": f"no answer within {self._timeout:g} s"})

    def _ask(self, run: Run) -> None:
        answer = ComponentInfo(DOWN, {"error": "it ended without an answer"})
        try:
            answer = _read(self._check())
        except Exception as error:
            answer = _failed(error)
        finally:
            self._end(run, answer)

    async def _ask_async(self, run: Run) -> None:
        answer = ComponentInfo(DOWN, {"error": f"no answer within {self._timeout:g} s"})  # it was cancelled
        try:
            said = self._check()
            assert isinstance(said, Awaitable)
            answer = _read(await said)
        except Exception as error:
            answer = _failed(error)
        finally:
            self._end(run, answer)

    def _end(self, run: Run, answer: ComponentInfo) -> None:
        well = answer.status not in REFUSING
        with self._lock:
            changed, self._well = well != self._well, well
            run.ended = self._clock.monotonic()
            run.answer = answer
        self._bell.ring()
        if changed and well:
            logger.info("the health check %r is well again", self.name)
        elif changed:
            logger.warning("the health check %r failed: %s", self.name, answer.details.get("error", answer.status))

    def after_fork_in_child(self) -> None:
        """What was under way ends in the parent."""
        self._lock = threading.Lock()
        self._bell.forget()
        self._run = None


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio

    return asyncio.get_running_loop()


def _read(said: object) -> ComponentInfo:
    if inspect.iscoroutine(said):
        said.close()
        return ComponentInfo(DOWN, {"error": "the check returned a coroutine: write it as `async def`"})
    if said is None or said is True:
        return ComponentInfo(UP)
    if said is False:
        return ComponentInfo(DOWN)
    if isinstance(said, Mapping):
        details: dict[str, Any] = {str(key): value for key, value in said.items()}
        return ComponentInfo(UP, details)
    return ComponentInfo(DOWN, {"error": f"the check returned {said!r}: return None, a bool or a mapping of details"})


def _failed(error: Exception) -> ComponentInfo:
    return ComponentInfo(DOWN, {"error": f"{type(error).__name__}: {error}"})
