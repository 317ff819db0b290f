"""Many single calls, one batch call."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeAlias, TypeVar, overload

from resilient import names
from resilient.checks import number, policy_name, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.errors import BulkheadFullError, ConfigError
from resilient.policies.batches import Batch, Slot, fail, hand_out, serve
from resilient.policies.cache_report import CollapserSnapshot
from resilient.policies.shared_answer import limit_of_caller, loose_context, take
from resilient.policy import Fn, describe_function, is_async, refuse_generators
from resilient.workers import WORKERS

if TYPE_CHECKING:
    import asyncio

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
Q = TypeVar("Q", bound=Hashable)  # of `decorate`: asked of the class itself, its K is nothing yet

BatchCall: TypeAlias = Callable[[list[K]], Sequence[V] | Mapping[K, V]]
AsyncBatchCall: TypeAlias = Callable[[list[K]], Coroutine[Any, Any, Sequence[V] | Mapping[K, V]]]


@dataclass(frozen=True, slots=True)
class CollapserSettings:
    """What a Collapser was told."""

    delay: float
    max_size: int


class Decorate(Protocol):
    """What `Collapser.decorate(delay=...)` gives: a decorator for a batch function."""

    @overload
    def __call__(self, batch: AsyncBatchCall[K, T], /) -> Collapser[K, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, batch: BatchCall[K, V], /) -> Collapser[K, V]: ...


class Collapser(Generic[K, V]):
    """Collect single calls for a moment and make one batch call for all of them: `user = Collapser(fetch_users)`.

    The first call opens a batch, which starts `delay` later or as soon as it has `max_size` keys. The batch function
    gets a list of distinct keys and returns one value per key, in order, or a mapping. A key without a value is a
    MissingResultError for its callers, a value that is an exception is raised for its callers; when the batch call
    fails, every call in it fails with its error.

    Calls of an async batch function are collected per event loop, those of a plain function over all threads: the
    first caller waits and makes the batch call for all in its own thread, or in a worker thread where it has a
    deadline. A batch has the context of its first caller, but not its deadline: each caller waits as long as its own
    allows. A caller that is cancelled takes nobody with it; when all are, an async batch is cancelled too.

    For methods make one per object: `self.user = Collapser(self.fetch_users)`. Every call pays up to `delay`, so
    it is for load: many callers at once, and a dependency that answers a batch faster than its single calls.

    Args:
        batch: the batch function, plain or async.
        delay: seconds to wait for more keys, 0 or more, default 0.010 as in Hystrix; 0 collects what is asked in the
            same turn of an event loop.
        max_size: keys at most in a batch, default 100.
        clock: default the machine's monotonic clock.
        name: label; default "collapser".

    Raises:
        ConfigError: when an argument is wrong.
        MissingResultError: from a call, when the batch has no value for its key. Also a KeyError.
        CallTimeoutError: from a call, when the caller's deadline comes first.

    Safe for threads and event loops.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from resilient.policies.collapser import Collapser
        >>> def fetch_users(numbers: list[int]) -> dict[int, str]:
        ...     print("asking for", sorted(numbers))
        ...     return {number: f"user {number}" for number in numbers}
        >>> user = Collapser(fetch_users, delay=60.0, max_size=3)
        >>> with ThreadPoolExecutor(3) as pool:
        ...     list(pool.map(user, [1, 2, 3]))
        asking for [1, 2, 3]
        ['user 1', 'user 2', 'user 3']
    """

    kind = "collapser"

    @overload
    def __init__(
        self: Collapser[K, Coroutine[Any, Any, T]],
        batch: AsyncBatchCall[K, T],
        *,
        delay: float = 0.010,
        max_size: int = 100,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        batch: BatchCall[K, V],
        *,
        delay: float = 0.010,
        max_size: int = 100,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        batch: Fn,
        *,
        delay: float = 0.010,
        max_size: int = 100,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        refuse_generators(batch)
        if number("Collapser", "delay", delay) < 0:
            raise ConfigError(f"Collapser: delay must be seconds, 0 or more, not {delay!r}", path="delay")
        self.settings = CollapserSettings(float(delay), whole("Collapser", "max_size", max_size))
        self._batch = batch
        self._is_async = is_async(batch)
        self._clock = clock or SYSTEM_CLOCK
        self._lock = threading.RLock()  # reentrant: a signal handler, or a waiter that is garbage, may come in between
        self._open: dict[asyncio.AbstractEventLoop | None, Batch] = {}  # by event loop; None: of all threads
        self._waiting: set[object] = set()  # a mark per caller, added and discarded in one step even when interrupted
        self._calls = self._batches = self._keys = 0
        self.name = names.claim(self.kind, policy_name("Collapser", name), self)
        forget_on_fork(self)

    @overload
    @staticmethod
    def decorate(batch: AsyncBatchCall[Q, T], /) -> Collapser[Q, Coroutine[Any, Any, T]]: ...
    @overload
    @staticmethod
    def decorate(batch: BatchCall[Q, T], /) -> Collapser[Q, T]: ...
    @overload
    @staticmethod
    def decorate(
        *, delay: float = 0.010, max_size: int = 100, clock: Clock | None = None, name: str | None = None
    ) -> Decorate: ...
    @staticmethod
    def decorate(batch: Fn | None = None, /, **settings: Any) -> Any:
        """Decorate a batch function, with or without settings; what it then takes is one key.

        Example:
            >>> from resilient.policies.collapser import Collapser
            >>> @Collapser.decorate(max_size=1)
            ... def square(numbers: list[int]) -> list[int]:
            ...     return [number * number for number in numbers]
            >>> square(4)
            16
        """
        if batch is not None:
            return Collapser(batch, **settings)
        return lambda decorated: Collapser(decorated, **settings)

    def __call__(self, key: K, /) -> V:
        """The value of one key; awaitable where the batch function is async."""
        hash(key)  # refused here, not under the lock
        return self._asked_async(key) if self._is_async else self._asked(key)  # type: ignore[return-value]  # a coroutine is that V

    def snapshot(self) -> CollapserSnapshot:
        """Counts of one moment."""
        with self._lock:
            return CollapserSnapshot(self.name, len(self._waiting), self._calls, self._batches, self._keys)

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`; batches that wait keep their delay."""
        self.settings = other.settings

    def __repr__(self) -> str:
        settings = self.settings
        return f"Collapser({describe_function(self._batch)}, delay={settings.delay:g}, max_size={settings.max_size})"

    def after_fork_in_child(self) -> None:
        """A new lock; the batches of the parent's threads are made there."""
        self._lock = threading.RLock()
        self._open = {}
        self._waiting = set()

    def _asked(self, key: Hashable) -> Any:
        limit = limit_of_caller(self._clock)
        caller = object()
        batch, slot, leads = self._join(key, None, caller)
        here = leads and limit is None
        try:
            if here:
                self._lead(batch)
            elif leads:
                batch.thread = None
                self._lead_in_worker(batch, loose_context())
                leads = False  # a worker does
            slot.wait(self._clock, limit)
            return take(slot)
        except BaseException:
            self._give_up(batch, key, slot, leads=leads)
            raise
        finally:
            self._waiting.discard(caller)
            del batch, slot  # an error's traceback holds this frame

    async def _asked_async(self, key: Hashable) -> Any:
        import asyncio

        limit = limit_of_caller(self._clock)
        loop = asyncio.get_running_loop()
        caller = object()
        batch, slot, leads = self._join(key, loop, caller)
        try:
            if leads:
                batch.context = loose_context()
            if batch.full.is_set():
                self._start_task(batch, loop)
            elif leads:
                batch.cancel_timer = self._clock.call_later(
                    loop, self.settings.delay, functools.partial(self._start_task, batch, loop)
                )
            await slot.wait_async(self._clock, limit)
            return take(slot)
        except BaseException:
            self._leave(batch, key, slot, loop, drop=True)
            raise
        finally:
            self._waiting.discard(caller)
            del batch, slot  # an error's traceback holds this frame

    def _join(self, key: Hashable, place: asyncio.AbstractEventLoop | None, caller: object) -> tuple[Batch, Slot, bool]:
        batch: Batch | None = None
        slot: Slot | None = None
        leads = full = False
        thread = threading.get_ident() if place is None else None
        try:
            with self._lock:
                self._calls += 1
                batch = self._open.get(place)
                if batch is None or (thread is not None and batch.thread == thread):
                    leads, batch = True, Batch()
                    batch.thread = thread
                    self._open[place] = batch
                slot = batch.slots.get(key)
                if slot is None:
                    slot = batch.slots[key] = Slot()
                else:
                    slot.callers += 1
                self._waiting.add(caller)
                full = len(batch.slots) >= self.settings.max_size
                if full and self._open.get(place) is batch:
                    self._open.pop(place, None)  # not `del`: a signal handler's batch may have come and gone between
            if full:
                batch.full.set()
            if leads and place is not None:
                self._forget_closed_loops()
        except BaseException:  # an interrupt, or a key's `__eq__`: a batch that nobody leads would never start
            if batch is not None:
                self._give_up(batch, key, slot, leads=leads and place is None, place=place)
            self._waiting.discard(caller)
            raise
        return batch, slot, leads

    def _forget_closed_loops(self) -> None:
        """A loop that was closed with calls waiting will never make its batch; who waited there is gone."""
        for place in tuple(self._open):
            if place is not None and place.is_closed():
                self._open.pop(place, None)

    def _give_up(
        self,
        batch: Batch,
        key: Hashable,
        slot: Slot | None,
        *,
        leads: bool,
        place: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """One caller goes; where it was to make the call in its thread, a worker makes it for the others."""
        others = self._leave(batch, key, slot, place, drop=leads or place is not None)
        if not (others and leads):
            return
        slots = tuple(batch.slots.values())
        for other in slots:
            if other.done:
                other.settle()  # interrupted in there: who waits for it may not have been woken
        if any(other.callers and not other.done for other in slots):
            batch.full.set()  # no more delay for them
            with contextlib.suppress(BulkheadFullError):  # they are told
                self._lead_in_worker(batch, loose_context())

    def _leave(
        self, batch: Batch, key: Hashable, slot: Slot | None, place: asyncio.AbstractEventLoop | None, *, drop: bool
    ) -> bool:
        """One caller waits no longer. True while others do; when none does, `drop` gives the batch up."""
        with self._lock:
            if slot is not None:
                slot.callers -= 1
                if slot.callers == 0 and not batch.started:
                    batch.slots.pop(key, None)
            others = any(other.callers for other in batch.slots.values())
            if drop and not others and self._open.get(place) is batch:
                self._open.pop(place, None)
        if drop and not others:
            if batch.cancel_timer is not None:
                batch.cancel_timer()
            if batch.task is not None:
                batch.task.cancel()
        return others

    def _start(self, batch: Batch, place: asyncio.AbstractEventLoop | None) -> dict[Hashable, Slot]:
        """Close a batch to make its call; the keys for which somebody still waits."""
        wanted = self._close(batch, place)
        if wanted:
            with self._lock:
                self._batches += 1
                self._keys += len(wanted)
        return wanted

    def _close(self, batch: Batch, place: asyncio.AbstractEventLoop | None) -> dict[Hashable, Slot]:
        with self._lock:
            if self._open.get(place) is batch:
                self._open.pop(place, None)
            batch.started = True
            return {key: slot for key, slot in batch.slots.items() if slot.callers and not slot.done}

    def _lead(self, batch: Batch) -> None:
        self._clock.wait(batch.full, self.settings.delay)
        wanted = self._start(batch, None)
        try:
            if wanted:
                serve(self._batch, wanted)
        finally:
            wanted.clear()  # an error's traceback holds the frame of `serve`, and that this one
            del batch

    def _lead_in_worker(self, batch: Batch, context: Context) -> None:
        def run() -> None:
            nonlocal batch
            try:
                context.run(self._lead, batch)
            except BaseException as error:
                fail(self._close(batch, None), error)
            finally:
                del batch  # an error's traceback holds this frame

        try:
            WORKERS.start(run, policy=self.name)
        except Exception as error:  # an interrupt is the caller's alone: `_give_up` looks for somebody else
            fail(self._close(batch, None), error)
            del batch  # likewise
            raise

    def _start_task(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        if batch.started:
            return
        wanted = self._start(batch, loop)
        if batch.cancel_timer is not None:
            batch.cancel_timer()
        if not wanted:
            return

        keys = list(wanted)  # an error's traceback holds the frame of `run`: nobody's slot in it

        async def run() -> Any:
            return await self._batch(keys)

        def ended(task: asyncio.Task[Any]) -> None:
            import asyncio

            if task.cancelled():
                fail(wanted, asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                fail(wanted, error)
            else:
                hand_out(self._batch, wanted, task.result())
            wanted.clear()  # the traceback of an error of `hand_out` holds this frame

        call = run()
        try:
            batch.task = loop.create_task(call, context=batch.context)
        except BaseException as error:  # of a task factory: everybody would wait for ever
            call.close()
            fail(wanted, error)
            raise
        batch.task.add_done_callback(ended)
