"""How a call that callers share is made, waited for and left, in threads and in tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from resilient.clock import Clock
from resilient.deadline import Limit, current_limit
from resilient.errors import DeadlineExceededError
from resilient.places import Place, retain_held
from resilient.policies.cache_store import Abandoned, Flight, Store, leading
from resilient.policies.shared_answer import cancelled_by_caller, limit_of_caller, loose_context
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs
from resilient.workers import WORKERS

if TYPE_CHECKING:
    import asyncio

Failed = Callable[[Any], bool] | None


class Locked(Protocol):
    """What a call needs of its cache. A forked child has a new lock, so it is looked up each time."""

    lock: threading.RLock


class SharedCall:
    """One caller's part in a flight: it makes the call, or it waits for it."""

    __slots__ = ("_cache", "_key", "_store", "begun", "flight", "fn", "leads")

    def __init__(
        self, cache: Locked, store: Store, key: Hashable, flight: Flight, *, leads: bool, fn: tuple[Fn, Args, Kwargs]
    ) -> None:
        self._cache = cache
        self._store = store
        self._key = key
        self.flight = flight
        self.leads = leads
        self.begun = False  # it is being made, and whoever makes it ends it
        self.fn = fn

    def give_up(self) -> None:
        """It was to be made by somebody who was interrupted before: another one makes it, or everybody would wait."""
        if self.leads and not self.begun and not self.flight.done:
            self.end(error=Abandoned())

    def limit(self, clock: Clock) -> Limit | None:
        """How long this caller can wait.

        Raises:
            DeadlineExceededError: when its time is up already: then it has no part in this.
        """
        try:
            return limit_of_caller(clock)
        except DeadlineExceededError:
            if not self.leads:
                self.leave()
            raise

    def end(self, result: Any = None, error: BaseException | None = None, failed: Failed = None) -> None:
        """The call has ended: remember a good answer, and tell everybody."""
        try:
            keep = error is None and not (failed is not None and failed(result))
            with self._cache.lock:
                store = self._store
                if store.flights.get(self._key) is self.flight:  # else it was cleared, or given up
                    del store.flights[self._key]
                    if keep and store.answers is not None:
                        store.answers[self._key] = (result,)
        finally:
            self.flight.settle(result, error)

    def leave(self) -> None:
        """This caller waits no longer; a task for which nobody waits is cancelled."""
        flight = self.flight
        with self._cache.lock:
            flight.callers -= 1
            last = flight.callers == 0 and flight.task is not None and not flight.done
            if last and self._store.flights.get(self._key) is flight:
                del self._store.flights[self._key]
        if last:
            flight.cancel()

    def wait(self, clock: Clock, limit: Limit | None) -> None:
        """Block this thread until the call has ended, or the caller's limit comes."""
        try:
            self.flight.wait(clock, limit)
        except BaseException as error:
            if not isinstance(error, Exception):
                self.leave()
            raise

    async def wait_async(self, clock: Clock, limit: Limit | None) -> None:
        """The same for this task. A caller that is cancelled leaves; one whose time is up leaves the call running."""
        try:
            await self.flight.wait_async(clock, limit)
        except BaseException as error:
            if not isinstance(error, Exception) and cancelled_by_caller():
                self.leave()
            raise


def lead_here(call: SharedCall, inner: Call, failed: Failed) -> Any:
    """Make the call in this thread."""
    before = leading.get()
    try:
        call.begun = True
        call.flight.detached = current_limit.get() is None
        leading.set((*before, call.flight.mark))  # inside: an interrupt right after it must not leave it in the context
        result = inner(*call.fn)
        call.end(result, failed=failed)
        return result
    except BaseException as error:
        call.end(error=error)
        raise
    finally:
        leading.set(before)
        del call  # an error's traceback holds this frame


def lead_in_worker(call: SharedCall, inner: Call, failed: Failed, policy: str) -> None:
    """Make the call in a worker thread, so that the caller can go when its deadline comes."""
    call.flight.thread = None
    context = _loose(call.flight)
    places = retain_held()

    def run() -> None:
        nonlocal call
        try:
            result = context.run(inner, *call.fn)
        except BaseException as error:
            _release(places)
            call.end(error=error)
        else:
            _release(places)
            call.end(result, failed=failed)
        finally:
            del call  # likewise

    try:
        call.begun = True
        WORKERS.start(run, policy=policy)
    except BaseException as error:
        _release(places)
        call.end(error=error)
        del call  # likewise
        raise


def lead_in_task(call: SharedCall, inner: AsyncCall, failed: Failed) -> None:
    """Make the call in a task of its own on this event loop."""
    import asyncio

    flight, (fn, args, kwargs) = call.flight, call.fn

    async def run() -> Any:
        return await inner(fn, args, kwargs)

    def ended(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            call.end(error=asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            call.end(error=error)
        else:
            call.end(task.result(), failed=failed)

    flight.loop = asyncio.get_running_loop()
    made = run()
    try:
        flight.task = flight.loop.create_task(made, context=_loose(flight))
    except BaseException:  # of a task factory: the caller gives up, and another one tries
        made.close()
        raise
    call.begun = True
    flight.task.add_done_callback(ended)


def _loose(flight: Flight) -> Context:
    context = loose_context()
    context.run(leading.set, (*leading.get(), flight.mark))
    return context


def _release(places: tuple[Place, ...]) -> None:
    for place in places:
        place.release()
