"""What a Cache remembers, which of its calls run, and the block that remembers for one request only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from resilient.errors import CallTimeoutError, DeadlineExceededError
from resilient.policies.shared_answer import SharedAnswer

if TYPE_CHECKING:
    import asyncio

    from cachetools import TTLCache

leading: ContextVar[tuple[object, ...]] = ContextVar("resilient.cache_leading", default=())
"""Marks of the calls that the running code is part of: asking for one of them again would be waiting for itself. Only
marks: a context lives as long as its task, and would keep every answer of its calls."""


class Flight(SharedAnswer):
    """A call that several callers share."""

    __slots__ = ("callers", "detached", "loop", "mark", "task", "thread")

    def __init__(self) -> None:
        super().__init__()
        self.callers = 1  # that have not been cancelled; guarded by the cache's lock
        self.mark = object()  # in the context of the code that makes it
        self.detached = True  # from the deadline of the caller that began it
        self.thread: int | None = threading.get_ident()  # where it runs, or its event loop; None: a worker's
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[Any] | None = None

    @property
    def lost(self) -> bool:
        """Whether its event loop was closed while it ran: it will never end."""
        return self.loop is not None and not self.done and self.loop.is_closed()

    def waits_for_me(self, *, blocking: bool) -> bool:
        """Whether it can not end before the running code goes on."""
        if self.mark in leading.get():
            return True
        return self.thread == threading.get_ident() and (blocking or self.task is None)

    def hands_over(self, *, again: bool) -> bool:
        """Whether one of those who waited makes the call instead of raising what its leader raised.

        Args:
            again: they have waited for a call that timed out before. Else each of a hundred callers would wait for
                the time limit of every one before it.
        """
        if isinstance(self.error, (CallTimeoutError, DeadlineExceededError)):
            return not (again and self.detached)
        return self.error is not None and not isinstance(self.error, Exception)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self.task is None or self.loop is None:
            return
        with contextlib.suppress(RuntimeError):  # its loop is closed: the garbage collector may end a caller's wait
            if self.thread == threading.get_ident():
                self.task.cancel()
            else:
                self.loop.call_soon_threadsafe(self.task.cancel)


class Abandoned(BaseException):
    """The caller that was to make the call could not: another one makes it."""


class Store:
    """Answers and running calls; guarded by the lock of its cache."""

    __slots__ = ("answers", "flights")

    def __init__(self) -> None:
        self.answers: TTLCache[Hashable, tuple[Any]] | None = None
        self.flights: dict[Hashable, Flight] = {}


class Scope:
    """One block; what each cache remembers in it."""

    __slots__ = ("stores",)

    def __init__(self) -> None:
        self.stores: dict[object, Store] | None = {}  # None: the block has ended, tasks begun in it may still run

    def store_of(self, cache: object) -> Store | None:
        """What `cache` remembers in this block."""
        stores = self.stores
        return None if stores is None else stores.get(cache) or stores.setdefault(cache, Store())


current_scope: Final[ContextVar[Scope | None]] = ContextVar("resilient.cache_scope", default=None)


@contextlib.contextmanager
def request_scope() -> Iterator[None]:
    """A block for which caches made with `scope="request"` remember."""
    scope = Scope()
    token = current_scope.set(scope)
    try:
        yield
    finally:
        scope.stores = None
        with contextlib.suppress(ValueError):  # ended in another context: there is nothing to restore
            current_scope.reset(token)
