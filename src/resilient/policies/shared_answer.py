"""One answer that threads and tasks of any event loop wait for together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any

from resilient.clock import Clock
from resilient.deadline import Limit, current_limit, current_scope
from resilient.errors import CallTimeoutError, DeadlineExceededError
from resilient.policy import UNLIMITED

if TYPE_CHECKING:
    import asyncio


class SharedAnswer:
    """A result or an error that is given once, and everybody who waits for it.

    No lock: a waiter enters itself first and looks whether the answer is there afterwards; who gives the answer sets it
    first and wakes who is entered afterwards. Both are single steps of a dict; to leave costs the same for any number.
    """

    __slots__ = ("_waiters", "done", "error", "result", "trace")

    def __init__(self) -> None:
        self._waiters: dict[Callable[[], object], None] = {}
        self.trace: TracebackType | None = None
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the answer; the first counts. Never call it under a lock.

        Who was interrupted in here calls it again: then those are woken who were not yet.
        """
        if not self.done:
            self.result, self.error = result, error
            self.trace = None if error is None else error.__traceback__
            self.done = True
        for wake in tuple(self._waiters):
            wake()

    def wait(self, clock: Clock, limit: Limit | None) -> None:
        """Block this thread until the answer is there.

        Raises:
            CallTimeoutError: when `limit` comes first.
        """
        arrived = threading.Event()
        wake = arrived.set
        self._waiters[wake] = None
        started = clock.monotonic()
        try:
            if not self.done:
                clock.wait(arrived, None if limit is None else max(0.0, limit.end - started))
        finally:
            self._waiters.pop(wake, None)
        if not self.done and limit is not None:
            raise _too_late(limit, clock.monotonic() - started)

    async def wait_async(self, clock: Clock, limit: Limit | None) -> None:
        """Suspend this task until the answer is there; errors as for `wait`."""
        import asyncio

        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()
        thread = threading.get_ident()

        def resolve() -> None:
            if not arrived.done():
                arrived.set_result(None)

        def wake() -> None:
            if threading.get_ident() == thread and loop.is_running():
                resolve()
                return
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(resolve)

        self._waiters[wake] = None
        started = clock.monotonic()
        cancel = clock.call_later(loop, max(0.0, limit.end - started), resolve) if limit is not None else None
        try:
            if not self.done:
                await arrived
        finally:
            if cancel is not None:
                cancel()
            self._waiters.pop(wake, None)
        if not self.done and limit is not None:
            raise _too_late(limit, clock.monotonic() - started)


def take(answer: SharedAnswer) -> Any:
    """The result, or its error raised: from the same place for everybody, so that its traceback does not grow."""
    error, trace = answer.error, answer.trace
    try:
        if error is None:
            return answer.result
        raise error.with_traceback(trace)
    finally:
        del answer, error, trace  # the traceback holds this frame


def limit_of_caller(clock: Clock) -> Limit | None:
    """How long this caller can wait: the deadline of its context on `clock`, or None.

    Raises:
        DeadlineExceededError: when it has passed: nothing was sent.
    """
    limit = current_limit.get()
    if limit is None:
        return None
    now = clock.monotonic()
    limit = limit.on(clock, now)
    if limit.end <= now:
        raise DeadlineExceededError(
            f"the call was not made: the deadline set by {limit.name!r} passed {now - limit.end:.3g} s ago",
            policy=limit.name,
        )
    return limit


def loose_context() -> Context:
    """A copy of the caller's context for what outlives it: without its deadline and its timeouts."""
    context = copy_context()
    context.run(current_limit.set, None)
    context.run(current_scope.set, None)
    return context


def cancelled_by_caller() -> bool:
    """For one that was cancelled while it waited: whether somebody gave up, and not only a Timeout further out."""
    scope = current_scope.get()
    return scope is None or not scope.expired


def _too_late(limit: Limit, elapsed: float) -> CallTimeoutError:
    return CallTimeoutError(
        f"no answer after {elapsed:.3g} s of waiting for a call that others share: the deadline set by"
        f" {limit.name!r} came first",
        policy=limit.name,
        limit=getattr(limit.owner, "seconds", UNLIMITED),
        elapsed=elapsed,
        by_deadline=True,
    )
