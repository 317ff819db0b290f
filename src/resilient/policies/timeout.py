"""Give up on an answer that takes too long."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.deadline import (
    Limit,
    current_limit,
    current_scope,
    enforced_limit,
    lower_limit,
    restore_limit,
    restore_scope,
)
from resilient.errors import BulkheadFullError, CallTimeoutError, ConfigError
from resilient.outcome import Classification
from resilient.places import Place, retain_held
from resilient.policy import Args, AsyncCall, Call, Enforcer, Fn, Kwargs, Policy, SyncOnly
from resilient.workers import WORKERS, Mover, drop_late

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("resilient")


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """What a Timeout was told."""

    seconds: float
    thread: bool
    max_abandoned: int


class Timeout(Enforcer):
    """Give up on an answer after `seconds`: CallTimeoutError, which is also a TimeoutError.

    Async calls are cancelled. A sync call can not be stopped, so it runs in a worker thread of the library's own and
    is left behind when time is up: the caller is free, the work goes on until it ends by itself. The thread sees the
    caller's context variables, but not its thread-locals: database connections and transactions that live in those
    stay behind. Where that matters, use `thread=False` and give the client library the remaining time.

    In a pipeline every Timeout only lowers the deadline, and one point directly around the call enforces it: policies
    between see a plain error. A worker hop costs about 50 µs. A result that comes too late is dropped, and closed when
    it has a `close()`. A task that a call starts inherits the deadline: start background work under `Deadline.none()`.

    Args:
        seconds: how long the call may take, more than 0.
        name: label in the error; default "timeout".
        thread: sync calls only: False sets the deadline and calls in the caller's own thread, without giving up.
        max_abandoned: with so many calls left behind and still running new ones are refused with BulkheadFullError,
            default 64. A burst that starts before may leave more; a process has 256 worker threads at most.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is out of range.
        CallTimeoutError: from the guarded call, when time is up.
        DeadlineExceededError: from the guarded call, when the caller's deadline had passed before.

    Safe for threads and event loops.

    Example:
        >>> from resilient import Timeout
        >>> @Timeout(2.0)
        ... def slow() -> str:
        ...     return "in time"
        >>> slow()
        'in time'
    """

    kind = "timeout"

    def __init__(
        self,
        seconds: float,
        *,
        name: str | None = None,
        thread: bool = True,
        max_abandoned: int = 64,
        clock: Clock | None = None,
    ) -> None:
        positive_seconds("Timeout", "seconds", seconds)
        if not isinstance(thread, bool):
            raise ConfigError(f"Timeout: thread must be True or False, not {thread!r}", path="thread")
        self.settings = TimeoutSettings(float(seconds), thread, whole("Timeout", "max_abandoned", max_abandoned))
        self._clock = clock or SYSTEM_CLOCK
        self._lock = threading.Lock()
        self._abandoned = 0
        super().__init__(name)
        forget_on_fork(self)

    @property
    def seconds(self) -> float:
        """How long the call may take."""
        return self.settings.seconds

    @property
    def hops(self) -> bool:
        """Whether sync calls are moved to a worker thread."""
        return self.settings.thread

    @property
    def abandoned(self) -> int:
        """How many sync calls were left behind and still run."""
        return self._abandoned

    def take_settings(self, other: Self) -> None:
        """Go on with the limit of `other`; calls that were left behind stay counted."""
        self.settings = other.settings

    def granted(self, limit: float) -> float:
        """The tighter of both."""
        return min(self.settings.seconds, limit)

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` with the deadline lowered."""
        clock, now = self._clock, self._clock.monotonic

        def limited(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            started = now()
            limit = lower_limit(Limit(started + self.settings.seconds, self, self.name, clock), started)
            before = current_limit.get()
            try:
                current_limit.set(limit)  # inside: an interrupt right after it must not leave a deadline in the context
                return inner(fn, args, kwargs)
            finally:
                current_limit.set(before)

        return limited

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` with the deadline lowered, for async functions."""
        clock, now = self._clock, self._clock.monotonic

        async def limited(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            started = now()
            limit = lower_limit(Limit(started + self.settings.seconds, self, self.name, clock), started)
            token = current_limit.set(limit)
            try:
                return await inner(fn, args, kwargs)
            finally:
                restore_limit(token)

        return limited

    def enforce(self, call: Call, policies: Sequence[Policy[Any]]) -> Call:
        """Return `call` left behind in a worker thread when the deadline comes.

        A policy further in that moves calls to threads of its own does that itself: one hop is enough.
        """
        moved = next((place for place, policy in enumerate(policies) if isinstance(policy, Mover)), None)
        if moved is not None and not any(isinstance(policy, Timeout) for policy in policies[moved:]):
            return call
        clock, now, own = self._clock, self._clock.monotonic, _own(policies)

        def enforced(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if current_limit.get() is None:  # a Cache further in cut the call loose from the limits outside it
                return call(fn, args, kwargs)
            started = now()
            limit = enforced_limit(clock, started)
            self._admit_worker()
            job = _Job(self, call, fn, args, kwargs)
            try:
                WORKERS.start(job.run, policy=self.name)
            except BaseException:
                job.release_places()
                raise
            if job.wait(clock, limit.end - started):
                return job.result()
            raise _timeout(limit, own, now() - started)

        return enforced

    def aenforce(self, call: AsyncCall, policies: Sequence[Policy[Any]]) -> AsyncCall:
        """Return `call` cancelled when the deadline comes."""
        clock, now, own = self._clock, self._clock.monotonic, _own(policies)

        async def enforced(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            if current_limit.get() is None:  # likewise
                return await call(fn, args, kwargs)
            started = now()
            limit = enforced_limit(clock, started)
            scope = _Scope(clock, limit.end - started)
            token = current_scope.set(scope)
            try:
                return await call(fn, args, kwargs)
            except BaseException as error:
                if scope.leave() and type(error).__name__ == "CancelledError":
                    raise _timeout(limit, own, now() - started) from error
                raise
            finally:
                scope.leave()
                restore_scope(token)

        return enforced

    def alimit(self, call: AsyncCall, policies: Sequence[Policy[Any]]) -> AsyncCall:
        """Return `call` with the deadline lowered and cancelled when it comes: both layers in one frame."""
        clock, now, own = self._clock, self._clock.monotonic, _own(policies)

        async def limited(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            started = now()
            limit = Limit(started + self.settings.seconds, self, self._name, clock)
            if current_limit.get() is not None:
                limit = lower_limit(limit, started)
            scope = _Scope(clock, limit.end - started)
            limits, scopes = current_limit.set(limit), current_scope.set(scope)
            try:
                return await call(fn, args, kwargs)
            except BaseException as error:
                if scope.leave() and type(error).__name__ == "CancelledError":
                    raise _timeout(limit, own, now() - started) from error
                raise
            finally:
                scope.leave()
                restore_scope(scopes)
                restore_limit(limits)

        return limited

    def describe(self) -> str:
        """One sentence: the limit."""
        return f"Timeout: {self.settings.seconds:g} s for what lies inside"

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """Nobody waits longer than this."""
        return min(wait, self.settings.seconds) if self.settings.thread else wait, calls

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """A limit that another one hides; the hop."""
        found = []
        tighter = [other for other in outside if isinstance(other, Timeout) and other.seconds <= self.settings.seconds]
        if tighter:
            found.append(
                f"Timeout({self.seconds:g}) never fires: Timeout({tighter[0].seconds:g}) further out comes first"
            )
        if self.settings.thread and not any(isinstance(other, Timeout) for other in inside):
            found.append(
                SyncOnly(
                    "a sync call runs in a worker thread: thread-locals such as database connections stay behind,"
                    " and a call that timed out goes on until it ends by itself"
                )
            )
        return found

    def __repr__(self) -> str:
        return f"Timeout({self.settings.seconds:g})"

    def after_fork_in_child(self) -> None:
        """The calls left behind run in the parent."""
        self._lock = threading.Lock()
        self._abandoned = 0

    def abandon(self) -> None:
        """One more call is left behind."""
        with self._lock:
            self._abandoned += 1
        logger.debug("%r: a call is left behind in its worker thread; %d are running", self, self._abandoned)

    def return_from_abandoned(self, result: Any, error: BaseException | None) -> None:
        """A call that was left behind has ended: nobody wants its result."""
        with self._lock:
            self._abandoned = max(0, self._abandoned - 1)
        drop_late(self, result, error)

    def _admit_worker(self) -> None:
        if self._abandoned >= self.settings.max_abandoned:
            raise BulkheadFullError(
                f"{self._abandoned} calls that timed out still run (max_abandoned={self.settings.max_abandoned})",
                policy=self.name,
            )


class _Job:
    """One sync call in a worker thread, and who waits for it."""

    __slots__ = (
        "_args",
        "_call",
        "_context",
        "_done",
        "_error",
        "_fn",
        "_gone",
        "_kwargs",
        "_lock",
        "_owner",
        "_places",
        "_result",
    )

    def __init__(self, owner: Timeout, call: Call, fn: Fn, args: Args, kwargs: Kwargs) -> None:
        self._owner = owner
        self._call, self._fn, self._args, self._kwargs = call, fn, args, kwargs
        self._context = contextvars.copy_context()
        self._places: tuple[Place, ...] = retain_held()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._gone = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the worker."""
        result: Any = None
        error: BaseException | None = None
        try:
            result = self._context.run(self._call, self._fn, self._args, self._kwargs)
        except BaseException as raised:
            error = raised
        self.release_places()
        with self._lock:
            gone = self._gone
            if not gone:
                self._result, self._error = result, error
                self._done.set()
        if gone:
            self._owner.return_from_abandoned(result, error)
        result = error = None  # the error's traceback holds this frame

    def release_places(self) -> None:
        """The work has ended, or never began: what the caller's gates gave it is not used here any more."""
        places, self._places = self._places, ()
        for place in places:
            place.release()

    def wait(self, clock: Clock, seconds: float) -> bool:
        """In the caller: True when the call has ended; else it is left behind. Ctrl-C leaves it behind too."""
        try:
            clock.wait(self._done, seconds)
        finally:
            with self._lock:
                self._gone = not self._done.is_set()
            if self._gone:
                self._owner.abandon()
        return not self._gone

    def result(self) -> Any:
        """What the call gave, its error raised here."""
        error = self._error
        if error is None:
            return self._result
        try:
            raise error
        finally:
            self._error = error = None  # no cycle through the traceback


class _Scope:
    """An async limit: cancels the task it is made in, and takes the cancellation back if the task swallows it.

    As `asyncio.timeout` does, on the policy's own clock, so that virtual time reaches it.
    """

    __slots__ = ("_cancel", "_cancelling", "_task", "expired")

    def __init__(self, clock: Clock, seconds: float) -> None:
        from asyncio import current_task

        task = current_task()
        if task is None:
            raise RuntimeError("an async Timeout needs a running task")
        self._task: asyncio.Task[Any] | None = task
        self._cancelling = task.cancelling()
        self.expired = False
        self._cancel = clock.call_later(task.get_loop(), seconds, self._expire)

    def _expire(self) -> None:
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def leave(self) -> bool:
        """End it; True when it expired and the cancellation is its own, not the caller's too. The first call counts."""
        task, self._task = self._task, None  # else task, traceback and this are a cycle
        if task is None:
            return False
        expired, self.expired = self.expired, False  # what is cancelled from now on is not cancelled by this
        self._cancel()
        return expired and task.uncancel() <= self._cancelling


def _own(policies: Sequence[Policy[Any]]) -> dict[int, Timeout]:
    return {id(policy): policy for policy in policies if isinstance(policy, Timeout)}


def _timeout(limit: Limit, own: dict[int, Timeout], elapsed: float) -> CallTimeoutError:
    setter = own.get(id(limit.owner))
    if setter is not None:
        return CallTimeoutError(
            f"no answer within {setter.seconds:g} s ({limit.name})",
            policy=limit.name,
            limit=setter.seconds,
            elapsed=elapsed,
        )
    least = min((timeout.seconds for timeout in own.values()), default=float("inf"))
    return CallTimeoutError(
        f"no answer after {elapsed:.3g} s: the deadline set by {limit.name!r} came first",
        policy=limit.name,
        limit=least,
        elapsed=elapsed,
        by_deadline=True,
    )
