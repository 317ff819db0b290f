"""Time that moves when told."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_ROUNDS = 20  # of an event loop, until what was woken waits again: a task may wake others, each a round later
_POLL = 0.001  # real seconds between looks at an event that somebody else may set
_PATIENCE = 0.005  # real seconds that other threads get before one that sleeps moves the clock on


class VirtualClock:
    """A `Clock` for tests: it stands still until `advance` moves it; sleepers whose time has come wake in order.

    Args:
        start: its first reading in seconds, default 1000.0 (not 0, so that a forgotten origin shows).
        auto: True: whoever sleeps moves it on, from timer to timer, until the own time has come: a retry with its waits
            is over at once, in a test that has one thread and no time to `advance`. Tasks run until all of them wait
            before it moves; of threads it can not know that, and it gives the others a few milliseconds at each timer.
            Default False: only `advance` moves it.

    Safe for threads; timers made with `call_later` fire on their own event loop.

    Example:
        >>> from resilient import CircuitBreaker
        >>> from resilient.testing import VirtualClock
        >>> clock = VirtualClock()
        >>> breaker = CircuitBreaker("db", open_duration=5.0, clock=clock)
        >>> breaker.open(5.0)
        >>> clock.advance(5.0)
        >>> breaker.acquire().success()  # the probe
        >>> clock = VirtualClock(auto=True)
        >>> clock.sleep(3600.0)  # returns at once
        >>> clock.monotonic()
        4600.0
    """

    def __init__(self, start: float = 1000.0, *, auto: bool = False) -> None:
        self._auto = auto
        self._asleep: list[object] = []  # tasks in `sleep_async`, in the order they came
        self._overdue = 0  # threads in `wait` whose time has come, and that have not noticed yet
        self._now = self._goal = start  # what it reads, and how far it was told to move
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._cancelled: set[int] = set()

    def monotonic(self) -> float:
        """The reading; moved by `advance`, and by sleepers if `auto`."""
        return self._now

    @property
    def waiting(self) -> int:
        """How many sleepers and timers wait for their time."""
        with self._lock:
            return len(self._timers) - len(self._cancelled)

    def advance(self, seconds: float, /) -> None:
        """Move on; sleepers whose time has come wake, the earliest first, and see the new time when they run.

        Raises:
            ValueError: when `seconds` is negative; time never goes back.
        """
        if seconds < 0:
            raise ValueError(f"time never goes back: advance({seconds!r})")
        with self._lock:  # two that advance at once add up, and neither sets the other back
            self._goal = end = self._goal + seconds
        self._move(end)

    async def advance_async(self, seconds: float, /) -> None:
        """Advance, then let the tasks that woke run until they wait again."""
        import asyncio

        await _let_others_run(asyncio.sleep)
        self.advance(seconds)
        await _let_others_run(asyncio.sleep)

    def sleep(self, seconds: float, /) -> None:
        """Block this thread until another one has advanced the clock far enough."""
        if seconds <= 0:
            return
        woken = threading.Event()
        self._after(seconds, woken.set)
        while self._auto and not woken.is_set():
            if threading.active_count() > 1:
                woken.wait(_PATIENCE)  # others that are on their way to wait, or whose time has come, go first
            while self._overdue:
                time.sleep(_POLL)
            if not woken.is_set():
                self._step()
        woken.wait()

    async def sleep_async(self, seconds: float, /) -> None:
        """Suspend this task until the clock was advanced far enough."""
        import asyncio

        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        cancel = self.call_later(loop, seconds, lambda: None if woken.done() else woken.set_result(None))
        me, quiet = object(), 0
        self._asleep.append(me)
        try:
            while self._auto and not woken.done():
                await asyncio.sleep(0)
                quiet = quiet + 1 if self._asleep[0] is me else 0  # one moves it for all, else they overtake each other
                if quiet >= _ROUNDS and not woken.done():
                    quiet = 0
                    self._step()
            await woken
        finally:
            self._asleep.remove(me)
            cancel()

    def wait(self, event: threading.Event, timeout: float | None, /) -> bool:
        """Block this thread until `event` is set, or the clock was advanced by `timeout` seconds."""
        if timeout is None:
            return event.wait()
        overdue = left = False

        def pass_by() -> None:
            nonlocal overdue
            with self._lock:
                overdue = not left
                self._overdue += overdue

        due, cancel = self._after(timeout, pass_by)
        try:
            while not event.wait(_POLL):
                if self._now >= due:
                    return event.is_set()
            return True
        finally:
            cancel()
            with self._lock:
                left = True
                self._overdue -= overdue

    def call_later(
        self, loop: asyncio.AbstractEventLoop, delay: float, fn: Callable[[], object], /
    ) -> Callable[[], None]:
        """Call `fn` on `loop` when the clock was advanced by `delay` seconds."""
        cancelled = False

        def fire() -> None:
            if not cancelled:
                fn()

        _, cancel_timer = self._after(delay, lambda: loop.is_closed() or loop.call_soon_threadsafe(fire))

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            cancel_timer()

        return cancel

    def _move(self, end: float) -> None:
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > end:
                    self._now = max(self._now, end)
                    return
                due, order, wake = heapq.heappop(self._timers)
                self._now = max(self._now, due)
                if order in self._cancelled:
                    self._cancelled.discard(order)
                    continue
            wake()

    def _step(self) -> None:
        """Move to the next timer."""
        with self._lock:
            self._goal = end = max([self._goal, *(due for due, _, _ in self._timers[:1])])
        self._move(end)

    def _after(self, delay: float, wake: Callable[[], object]) -> tuple[float, Callable[[], None]]:
        with self._lock:  # one step: an `advance` in between would be missed
            order = next(self._order)
            due = self._now + delay
            heapq.heappush(self._timers, (due, order, wake))

        def cancel() -> None:
            with self._lock:
                if any(entry[1] == order for entry in self._timers):
                    self._cancelled.add(order)

        return due, cancel

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s, {self.waiting} waiting>"


async def _let_others_run(pause: Callable[[float], object]) -> None:
    for _ in range(_ROUNDS):
        await pause(0)  # type: ignore[misc]  # asyncio.sleep, handed in to keep this module's import light
