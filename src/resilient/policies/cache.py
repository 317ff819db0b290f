"""Answer again without asking again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Never, Self

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.errors import ConfigError
from resilient.outcome import Classification, result_check
from resilient.policies.argument_keys import ArgumentKeys
from resilient.policies.cache_calls import SharedCall, lead_here, lead_in_task, lead_in_worker
from resilient.policies.cache_report import CacheSnapshot
from resilient.policies.cache_store import Abandoned, Flight, Store, current_scope, request_scope
from resilient.policies.shared_answer import take
from resilient.policy import Args, AsyncCall, Call, Enforcer, Fn, Kwargs, Policy

if TYPE_CHECKING:
    from cachetools import TTLCache

_SCOPES = ("process", "request")


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a Cache was told."""

    seconds: float
    max_entries: int
    keys: ArgumentKeys
    scope: Literal["process", "request"]
    thread: bool


class Cache(Policy[Never]):
    """Give the same answer to the same arguments for a while; callers that ask at the same time share one call.

    Errors are never remembered, nor results that the command's `on_result` calls failures; None is an answer like any
    other. Answers are handed out as they are, not copied: return values that nobody changes. A hit costs about 2 µs,
    and is seen by no policy further in: a circuit breaker does not count it.

    A shared call outlives the caller that began it: it has that caller's context, but neither its deadline nor its
    timeouts, and ends by a Timeout further in. So an async call runs in a task of its own; a sync one in the caller's
    thread, or in a worker thread where the caller has a deadline. Everybody waits for it as long as their own deadline
    allows. When the last caller is cancelled, an async call is cancelled too. When the call times out, one of those who
    waited makes it anew; any other error is everybody's.

    Args:
        seconds: how long an answer is given again, more than 0.
        max_entries: how many answers are remembered, default 1024; the one used least recently goes first.
        key: called with the call's arguments, gives what the answer is remembered under; default the function and its
            arguments, which must be hashable then: others pass through, which is logged once. With `key` functions
            that share a cache share answers.
        scope: "process" (the default), or "request": remember only inside `with Cache.scope():`, for that block.
        thread: False keeps a sync call in its caller's thread, and under its caller's deadline, even if there is one.
        clock: default the machine's monotonic clock.
        name: label; default "cache".

    Raises:
        ConfigError: when an argument is wrong.
        CallTimeoutError: from the guarded call, when the caller's deadline comes while it waits.

    Safe for threads and event loops, which share calls and answers. One call for concurrent callers is known as
    single flight; the request's own cache comes from Hystrix.

    Example:
        >>> from resilient.policies.cache import Cache
        >>> @Cache(60.0)
        ... def rate(currency: str) -> float:
        ...     print("asking")
        ...     return 1.08
        >>> rate("USD"), rate(currency="USD")
        asking
        (1.08, 1.08)
    """

    kind = "cache"

    def __init__(
        self,
        seconds: float,
        *,
        max_entries: int = 1024,
        key: Callable[..., Hashable] | None = None,
        scope: Literal["process", "request"] = "process",
        thread: bool = True,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        if scope not in _SCOPES:
            raise ConfigError(f"Cache: scope must be 'process' or 'request', not {scope!r}", path="scope")
        if not isinstance(thread, bool):
            raise ConfigError(f"Cache: thread must be True or False, not {thread!r}", path="thread")
        self.settings = CacheSettings(
            positive_seconds("Cache", "seconds", seconds),
            whole("Cache", "max_entries", max_entries),
            ArgumentKeys("Cache", key),
            scope,
            thread,
        )
        self._clock = clock or SYSTEM_CLOCK
        self.lock = threading.RLock()  # reentrant: dropping an answer may run its `__del__`
        self._store = Store()
        self._hits = self._shared = self._calls = self._passed = 0
        super().__init__(name)
        forget_on_fork(self)

    @staticmethod
    def scope() -> AbstractContextManager[None]:
        """A block in which caches made with `scope="request"` remember, for its tasks too; inside another one, anew.

        Example:
            >>> from resilient.policies.cache import Cache
            >>> calls = []
            >>> permissions = Cache(30.0, scope="request")(lambda user: calls.append(user))
            >>> with Cache.scope():
            ...     permissions("ann"), permissions("ann")
            (None, None)
            >>> calls
            ['ann']
        """
        return request_scope()

    def clear(self) -> None:
        """Forget every answer, those of calls that run now included: their callers get them, nobody else."""
        scope = current_scope.get()
        with self.lock:
            self._store = Store()
            if scope is not None and scope.stores is not None:
                scope.stores.pop(self, None)

    def reset(self) -> None:
        """As new, but for its counts."""
        self.clear()

    def __len__(self) -> int:
        """How many answers are remembered, in this request where it remembers per request."""
        return self.snapshot().entries

    def snapshot(self) -> CacheSnapshot:
        """Counts of one moment."""
        store = self._store if self.settings.scope == "process" else self._of_request()
        with self.lock:
            if store is not None and store.answers is not None:
                store.answers.expire()
            entries = len(store.answers) if store is not None and store.answers is not None else 0
            in_flight = len(store.flights) if store is not None else 0
            return CacheSnapshot(self.name, entries, in_flight, self._hits, self._shared, self._calls, self._passed)

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`; answers stay unless their time, number or keys change."""
        old, self.settings = self.settings, other.settings
        new = self.settings
        if (old.seconds, old.max_entries, old.keys.own) != (new.seconds, new.max_entries, new.keys.own):
            self.clear()

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` with its answers remembered, for functions."""
        failed = result_check(given)

        def cached(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            call, again = None, False
            try:
                while True:
                    call = self._enter(fn, args, kwargs)
                    if call is None:
                        return inner(fn, args, kwargs)
                    if not isinstance(call, SharedCall):
                        return call[0]
                    limit = call.limit(self._clock)
                    if call.leads:
                        if limit is None or not self.settings.thread:
                            return lead_here(call, inner, failed)
                        lead_in_worker(call, inner, failed, self.name)
                    elif call.flight.waits_for_me(blocking=True):
                        call.leave()
                        return inner(fn, args, kwargs)
                    call.wait(self._clock, limit)
                    if call.leads or not call.flight.hands_over(again=again):
                        return take(call.flight)
                    again = again or isinstance(call.flight.error, Exception)
            except BaseException:
                if isinstance(call, SharedCall):
                    call.give_up()
                raise
            finally:
                call = None  # an error's traceback holds this frame

        return cached

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` with its answers remembered, for async functions."""
        failed = result_check(given)

        async def cached(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            call, again = None, False
            try:
                while True:
                    call = self._enter(fn, args, kwargs)
                    if call is None:
                        return await inner(fn, args, kwargs)
                    if not isinstance(call, SharedCall):
                        return call[0]
                    limit = call.limit(self._clock)
                    if call.leads:
                        lead_in_task(call, inner, failed)
                    elif call.flight.waits_for_me(blocking=False):
                        call.leave()
                        return await inner(fn, args, kwargs)
                    await call.wait_async(self._clock, limit)
                    if call.leads or not call.flight.hands_over(again=again):
                        return take(call.flight)
                    again = again or isinstance(call.flight.error, Exception)
            except BaseException:
                if isinstance(call, SharedCall):
                    call.give_up()
                raise
            finally:
                call = None  # an error's traceback holds this frame

        return cached

    def granted(self, limit: float) -> float:
        """Twice: one may wait for a call that times out, and make it anew."""
        return 2 * limit

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """Likewise; a caller makes the call once at most."""
        return 2 * wait, calls

    def describe(self) -> str:
        """One sentence: how long, and for whom."""
        where = ", within one request" if self.settings.scope == "request" else ""
        return (
            f"Cache: an answer is given again for {self.settings.seconds:g} s{where};"
            " callers that ask at the same time share one call"
        )

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """What would be remembered wrongly; a call that nothing ends; hits that are counted."""
        found = []
        if any(other.kind == "fallback" for other in inside):
            found.append("a Fallback inside a Cache: what it answers is remembered as a good answer; put it outside")
        ends = any(isinstance(other, Enforcer) for other in inside)
        if not ends and any(isinstance(other, Enforcer) for other in outside):
            found.append(
                "a Timeout outside a Cache ends a caller's wait, not the call that callers share; put one inside"
            )
        counting = [other for other in outside if other.kind == "circuit_breaker"]
        if counting:
            found.append("a CircuitBreaker outside a Cache counts answers from memory as successes; put it inside")
        return found

    def __repr__(self) -> str:
        scope = ", scope='request'" if self.settings.scope == "request" else ""
        return f"Cache({self.settings.seconds:g}{scope})"

    def after_fork_in_child(self) -> None:
        """A new lock; calls that run in the parent's threads are forgotten, and what one was just writing."""
        answers = self._store.answers if self.lock.acquire(blocking=False) else None
        self.lock = threading.RLock()
        self._store = Store()
        self._store.answers = answers
        scope = current_scope.get()
        if scope is not None and scope.stores is not None:
            scope.stores.pop(self, None)

    def _enter(self, fn: Fn, args: Args, kwargs: Kwargs) -> tuple[Any] | SharedCall | None:
        """An answer from memory, a call to make or to wait for, or None where nothing can be remembered."""
        settings = self.settings
        store = self._store if settings.scope == "process" else self._of_request()
        if store is None:
            self._pass()
            return None
        keys = settings.keys
        call: SharedCall | None = None
        lost: Flight | None = None
        try:
            key = keys.of(fn, args, kwargs) if keys.own is not None else (fn, keys.of(fn, args, kwargs))
            with self.lock:
                answers = store.answers
                if answers is None:
                    answers = store.answers = self._new_answers(settings)
                found = answers.get(key)
                if found is not None:
                    self._hits += 1
                    return found
                flight = store.flights.get(key)
                if flight is None or flight.lost or flight.done:  # done: its end was interrupted
                    self._calls += 1
                    call = SharedCall(self, store, key, Flight(), leads=True, fn=(fn, args, kwargs))
                    store.flights[key], lost = call.flight, flight
                else:
                    self._shared += 1
                    flight.callers += 1
                    call = SharedCall(self, store, key, flight, leads=False, fn=(fn, args, kwargs))
            if lost is not None:
                lost.settle(error=Abandoned())  # who waits for it on another event loop would do so for ever
            return call
        except Exception as problem:
            keys.complain(fn, problem)
            self._pass()
            return None
        except BaseException:
            if call is not None and call.leads:
                call.give_up()
            elif call is not None:
                call.leave()
            raise

    def _pass(self) -> None:
        with self.lock:
            self._passed += 1

    def _new_answers(self, settings: CacheSettings) -> TTLCache[Hashable, tuple[Any]]:
        from cachetools import TTLCache

        return TTLCache(settings.max_entries, settings.seconds, timer=self._clock.monotonic)

    def _of_request(self) -> Store | None:
        scope = current_scope.get()
        return None if scope is None else scope.store_of(self)
