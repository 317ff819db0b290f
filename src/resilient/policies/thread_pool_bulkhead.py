"""Threads of its own for the calls of one dependency: when it hangs, these hang, and nothing else does."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Never, Self

from resilient import events
from resilient.checks import whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.deadline import Limit, current_limit, enforced_limit
from resilient.errors import BulkheadFullError, CallTimeoutError, ConfigError
from resilient.events import Event, publish
from resilient.outcome import Classification
from resilient.places import held, retain_held
from resilient.policy import UNLIMITED, Args, Call, Enforcer, Fn, Kwargs, Policy, describe_function, is_async
from resilient.workers import WORKERS, Mover, drop_late

logger = logging.getLogger("resilient")

OWNER = "ThreadPoolBulkhead"
_MOST = 256  # threads that the process has for calls that may be left behind


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What may change while calls run."""

    threads: int
    max_queue: int

    def __post_init__(self) -> None:
        whole(OWNER, "threads", self.threads, most=_MOST)
        whole(OWNER, "max_queue", self.max_queue, least=0)


@dataclass(frozen=True, slots=True)
class ThreadPoolSnapshot:
    """One moment of a pool: plain data; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        threads: how many calls run at once at most.
        max_queue: how many more may wait.
        active: calls that run now, those left behind included.
        queued: calls that wait for a thread.
        completed: calls that have ended since it was made, however they ended.
        rejected: calls that were refused since then, those whose deadline passed in the queue included.
    """

    name: str
    threads: int
    max_queue: int
    active: int
    queued: int
    completed: int
    rejected: int

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, logs and pages."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ThreadPoolRejected(Event):
    """A pool refused a call: its `threads` were busy and its queue full, or the deadline passed in the queue."""

    threads: int


class ThreadPoolBulkhead(Policy[Never], Mover):
    """An own pool of threads with a bounded queue, for functions; async functions are refused: they need a `Bulkhead`.

    A call runs in one of `threads` daemon threads, in a copy of the caller's context. When the caller's deadline comes,
    from a `Timeout` or a `Deadline` further out, the caller is free and the call is left behind; its thread counts as
    busy until it really ends. A call whose deadline passes in the queue is never started. Thread-locals, such as
    database connections, stay behind in the caller's thread.

    Args:
        threads: calls at once, 1 to 256, default 10 (Hystrix).
        name: label in metrics, events and errors; default "thread_pool_bulkhead".
        max_queue: calls that may wait for a thread, 0 or more, default 0: refused at once (Hystrix).
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: at construction, when an argument is out of range; at decoration of an async function.
        BulkheadFullError: from a guarded call, when threads and queue are full, or the deadline passed in the queue.
        CallTimeoutError: from a guarded call that was left behind.

    Safe for threads; no lock is held while a call runs.

    Example:
        >>> from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead
        >>> pool = ThreadPoolBulkhead(2, name="legacy", max_queue=10)
        >>> @pool
        ... def answer() -> int:
        ...     return 42
        >>> answer()
        42
    """

    kind = "thread_pool_bulkhead"

    def __init__(
        self, threads: int = 10, *, name: str | None = None, max_queue: int = 0, clock: Clock | None = None
    ) -> None:
        self.settings = PoolSettings(threads, max_queue)
        self._clock = clock or SYSTEM_CLOCK
        self._lock = threading.RLock()  # reentrant: a signal handler may call through this pool
        self._queue: OrderedDict[_Job, None] = OrderedDict()
        self._dropped: deque[None] = deque()  # slots of jobs that an interrupt kept from starting
        self._active = self._completed = self._rejected = 0
        super().__init__(name)
        forget_on_fork(self)

    def check(self, fn: Fn) -> None:
        """Refuse async functions: a coroutine runs on its event loop, not in a thread of a pool."""
        if is_async(fn):
            raise ConfigError(
                f"{OWNER} guards functions only, and {describe_function(fn)} is async: it would run on its event loop,"
                " not in a thread of the pool; use Bulkhead",
                path=self.kind,
            )

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` called in a thread of the pool."""
        clock, now = self._clock, self._clock.monotonic

        def pooled(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            started = now()
            deadline = None if current_limit.get() is None else enforced_limit(clock, started)
            job = _Job(self, inner, fn, args, kwargs, UNLIMITED if deadline is None else deadline.end)
            try:
                self._submit(job)
                clock.wait(job.done, None if deadline is None else deadline.end - started)
            finally:
                self._leave(job)
            if job.ended:
                return job.result()
            if job.slot is None:
                self._refuse("the deadline passed while the call was waiting for a thread")
            assert deadline is not None
            raise _left_behind(deadline, now() - started)

        return pooled

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`; running and queued calls stay."""
        with self._lock:
            self.settings = other.settings
        while (job := self._next_if_free()) is not None:
            self._start(job)

    def reset(self) -> None:
        """As new: nothing counted; calls that run or wait go on."""
        with self._lock:
            self._completed = self._rejected = 0

    def snapshot(self) -> ThreadPoolSnapshot:
        """Counts of one moment: consistent, cheap."""
        with self._lock:
            self._undrop_locked()
            return ThreadPoolSnapshot(
                self.name,
                self.settings.threads,
                self.settings.max_queue,
                self._active,
                len(self._queue),
                self._completed,
                self._rejected,
            )

    def describe(self) -> str:
        """One sentence: how many at once, how many wait."""
        threads, queue = self.settings.threads, self.settings.max_queue
        return f"ThreadPoolBulkhead {self.name!r}: {threads} threads of its own, {queue or 'no'} more calls wait"

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """A pool that can be full for ever; a hop too many."""
        found = []
        if not any(isinstance(policy, Enforcer) for policy in outside):
            found.append(f"{self!r}: without a Timeout outside it nothing but the caller's deadline ends the wait")
        if any(isinstance(policy, Enforcer) and policy.hops for policy in inside):
            found.append(f"a Timeout inside {self!r} moves the call to a second thread: put it outside")
        return found

    def __repr__(self) -> str:
        text = f"ThreadPoolBulkhead({self.settings.threads}, name={self.name!r}"
        return f"{text}, max_queue={self.settings.max_queue})" if self.settings.max_queue else f"{text})"

    def after_fork_in_child(self) -> None:
        """The threads are the parent's."""
        self._lock = threading.RLock()
        self._queue = OrderedDict()
        self._dropped = deque()
        self._active = 0

    # --- the threads ----------------------------------------------------------------------------------------------

    def vacate(self, slot: _Slot) -> _Job | None:
        """One holder of `slot` lets go; returns the next job when it is free."""
        with self._lock:
            slot.holders -= 1
            if slot.holders:
                return None
            self._completed += 1
            self._active = max(0, self._active - 1)  # a child forked by a call of its parent's began at 0
            return self._next_locked()

    def hold(self, slot: _Slot) -> bool:
        """One holder more, unless it is free by now."""
        with self._lock:
            if not slot.holders:
                return False
            slot.holders += 1
            return True

    def _undrop_locked(self) -> None:
        while self._dropped:
            self._dropped.popleft()
            self._active -= 1

    def _next_locked(self) -> _Job | None:
        """The next job, its slot taken, when there is a thread for it."""
        while self._queue and self._active < self.settings.threads:
            slot = _Slot(self)
            job, _ = self._queue.popitem(last=False)
            if job.end <= self._clock.monotonic():
                continue  # its caller finds that out by the same clock
            self._active += 1  # from here to the return nothing is called: an interrupt loses no thread
            slot.holders = 1
            job.slot = slot
            return job
        return None

    def _next_if_free(self) -> _Job | None:
        with self._lock:
            return self._next_locked()

    def _submit(self, job: _Job) -> None:
        found: _Job | None = None
        with self._lock:
            self._undrop_locked()
            settings = self.settings
            busy = self._active >= settings.threads or bool(self._queue)
            refused = busy and len(self._queue) >= settings.max_queue
            if not refused:
                self._queue[job] = None
                found = self._next_locked()
        if refused:
            queue = f", and all {settings.max_queue} places of the queue" if settings.max_queue else ""
            self._refuse(f"all {settings.threads} threads are busy{queue}")
        if found is not None:
            self._start(found)

    def _start(self, job: _Job) -> None:
        try:
            WORKERS.start(partial(self._work, job), policy=self.name)
        except BulkheadFullError as error:
            failed = [job]
            with self._lock:
                if job.slot is not None:
                    job.slot.holders = 0
                self._active -= 1
                if not self._active:  # nobody is left who would take the others
                    failed += self._queue
                    self._queue.clear()
                self._rejected += len(failed)
            for one in failed:
                one.finish(None, BulkheadFullError(str(error), policy=self.name))

    def _work(self, job: _Job | None) -> None:
        while job is not None and job.slot is not None:
            job.run(job.slot)
            job = self.vacate(job.slot)

    def _leave(self, job: _Job) -> None:
        """Its caller waits no longer."""
        with self._lock:
            self._queue.pop(job, None)
            job.gone = True
            never = job.slot is None
        if never:
            job.release_places()

    def _refuse(self, why: str) -> Never:
        with self._lock:
            self._rejected += 1
        if events.HEARERS.all:
            publish(ThreadPoolRejected(self.name, self._clock.monotonic(), self.settings.threads))
        logger.debug("%r: %s", self.name, why)
        raise BulkheadFullError(f"{self.name!r}: {why}", policy=self.name)


class _Slot:
    """A thread's worth of work: held by the job, and by worker threads that a Timeout further in left behind."""

    __slots__ = ("_pool", "holders")

    def __init__(self, pool: ThreadPoolBulkhead) -> None:
        self._pool = pool
        self.holders = 0  # until it is counted

    def retain(self) -> bool:
        """A worker thread starts."""
        return self._pool.hold(self)

    def release(self) -> None:
        """It has ended."""
        job = self._pool.vacate(self)
        if job is not None:
            self._pool._start(job)

    def __del__(self) -> None:
        if getattr(self, "holders", 0):  # interrupted while it was made, it has none
            self._pool._dropped.append(None)  # an append only: a lock taken inside a GC run can deadlock


class _Job:
    """One call, and who waits for it. What changes does so under the pool's lock."""

    __slots__ = (
        "_args", "_call", "_context", "_error", "_fn", "_kwargs", "_places", "_pool", "_result",
        "done", "end", "ended", "gone", "slot",
    )  # fmt: skip

    def __init__(self, pool: ThreadPoolBulkhead, call: Call, fn: Fn, args: Args, kwargs: Kwargs, end: float) -> None:
        self._pool = pool
        self._call, self._fn, self._args, self._kwargs = call, fn, args, kwargs
        self._context = contextvars.copy_context()
        self._places = retain_held()
        self._result: Any = None
        self._error: BaseException | None = None
        self.end = end
        self.done = threading.Event()
        self.slot: _Slot | None = None  # None until a thread is there for it
        self.ended = self.gone = False

    def run(self, slot: _Slot) -> None:
        """In a thread of the pool."""
        result: Any = None
        error: BaseException | None = None
        places = held.places
        try:
            places.append(slot)
            result = self._context.run(self._call, self._fn, self._args, self._kwargs)
        except BaseException as raised:
            error = raised
        places.remove(slot)
        self.finish(result, error)
        result = error = None  # the error's traceback holds this frame

    def result(self) -> Any:
        """What the call gave, its error raised here."""
        error = self._error
        if error is None:
            return self._result
        try:
            raise error
        finally:
            self._error = error = None  # no cycle through the traceback

    def release_places(self) -> None:
        """The work has ended, or will never begin."""
        places, self._places = self._places, ()
        for place in places:
            place.release()

    def finish(self, result: Any, error: BaseException | None) -> None:
        """It has ended, or could not be run."""
        self.release_places()
        with self._pool._lock:
            gone = self.gone
            if not gone:
                self._result, self._error = result, error
                self.ended = True
        self.done.set()
        if gone:
            drop_late(self._pool, result, error)


def _left_behind(limit: Limit, elapsed: float) -> CallTimeoutError:
    by_timeout = isinstance(limit.owner, Enforcer)
    return CallTimeoutError(
        f"no answer after {elapsed:.3g} s: the time that {limit.name!r} gave is over",
        policy=limit.name,
        limit=getattr(limit.owner, "seconds", UNLIMITED) if by_timeout else UNLIMITED,
        elapsed=elapsed,
        by_deadline=not by_timeout,
    )
