"""Where time comes from, and what a fork does to it.

Nothing else in the library waits, sleeps or reads a clock. Every policy that needs the time takes `clock=`;
tests hand in a `resilient.testing.VirtualClock`. The wall clock is read only where a date comes from or goes outside:
registry wire formats and foreign stores (`wall_ms`), a `Retry-After` date.
"""

from __future__ import annotations

import logging  # noqa: F401  # before the hook below: its own hook holds what importing needs, so ours must wait first
import os
import random  # noqa: F401  # before the hook below is registered: a child seeds it first, then we draw from it
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Clock(Protocol):
    """Where time comes from. Seconds as float; safe to share between threads and event loops."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block this thread."""
        ...

    async def sleep_async(self, seconds: float, /) -> None:
        """Suspend this task."""
        ...

    def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
        """Block this thread until `event` is set (True) or `timeout` seconds have passed (False)."""
        ...

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay: float, fn: Callable[[], object], /
    ) -> Callable[[], None]:
        """Call `fn` on `loop` after `delay` seconds; returns the function that cancels it. Loop thread only."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    monotonic = staticmethod(time.monotonic)  # the builtin itself: half the cost of a method around it
    sleep = staticmethod(time.sleep)

    async def sleep_async(self, seconds: float, /) -> None:
        """Suspend this task."""
        import asyncio

        await asyncio.sleep(seconds)

    def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
        """Block this thread until `event` is set or `timeout` seconds have passed."""
        return event.wait(timeout)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay: float, fn: Callable[[], object], /
    ) -> Callable[[], None]:
        """Call `fn` on `loop` after `delay` seconds."""
        return loop.call_at(loop.time() + delay, fn).cancel  # what `call_later` does, without its packing

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK: Clock = SystemClock()
"""What runs on no clock of its own; during `resilient.testing.use_clock` it goes by that one."""
REAL_CLOCK: Clock = SystemClock()
"""For sockets and what waits for them: no test replaces it."""


def wall_ms() -> int:
    """The wall clock in epoch milliseconds, for wire formats and foreign stores only; never used to measure."""
    return time.time_ns() // 1_000_000


class ForkAware(Protocol):
    """An object with threads, locks or sockets that a forked child must not share with its parent."""

    def after_fork_in_child(self) -> None:
        """Make new locks, forget threads and sockets (unclosed: they are the parent's), redraw random offsets."""
        ...


_fork_aware: WeakSet[ForkAware] = WeakSet()


def forget_on_fork(thing: ForkAware) -> None:
    """Call `thing.after_fork_in_child()` in every child forked while `thing` is alive.

    A lock that another thread held at the moment of the fork stays locked for ever in the child: gunicorn's
    prefork workers would hang on their first call.
    """
    _fork_aware.add(thing)


class _Loading:
    """Whether a thread of ours is importing; a fork waits until it is not."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held = False  # written by the thread that forks only

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        self._held = self._lock.acquire(timeout=_LONGEST_IMPORT)

    def after_fork_in_parent(self) -> None:
        if self._held:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()


_LONGEST_IMPORT = 5.0  # seconds that a fork waits for; better a child that may hang than a parent that does
_loading = _Loading()


def load_undisturbed(load: Callable[[], T]) -> T:
    """What `load` returns, with any fork of this process kept waiting meanwhile. For background threads that import.

    What one thread imports while another one forks stays locked for ever in the child, and so does whoever imports it
    there. gunicorn forks its workers just after it loaded the application, whose first lookup has begun a thread.
    """
    with _loading:
        return load()


def _after_fork_in_child() -> None:
    _loading.after_fork_in_child()
    for thing in list(_fork_aware):
        thing.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_loading.before_fork,
        after_in_parent=_loading.after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
