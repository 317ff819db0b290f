"""A gate with a line: callers from threads and event loops wait in it together, first come, first served.

Nothing here waits, and nobody is woken under the lock. A subclass says when there is room (`_take_locked`), what comes
back when a ticket is given back unused (`_return_locked`), and how long a caller may wait (`_patience`). Between any
two steps under the lock a signal handler or a `__del__` of the same thread may use the gate: the lock is reentrant,
and each check stands next to what it allows, with no call between.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from resilient import events
from resilient.clock import Clock, forget_on_fork
from resilient.deadline import current_limit
from resilient.errors import RejectedError
from resilient.events import Event, publish
from resilient.gate import Gate
from resilient.gate_layers import Ticket
from resilient.gate_waits import Waiter
from resilient.outcome import Classification

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("resilient")

_ABSENT = object()
ROUNDING = 1e-9  # seconds by which the sum of two floats may miss a moment


def _first(line: OrderedDict[Waiter, object]) -> Waiter | None:
    while True:
        try:
            return next(iter(line), None)
        except RuntimeError:  # a signal handler came between the two steps, and changed it
            continue


class QueuedGate(Gate):
    """A gate whose callers may wait for their turn: `calling()` and the layers wait, `acquire()` never does."""

    waits = True
    holds = True  # its tickets are places: a worker thread started further in retains them

    def __init__(self, name: str | None, *, given: Classification | None = None, clock: Clock | None = None) -> None:
        super().__init__(name, given=given, clock=clock)
        self._now = self._clock.monotonic
        self._lock = threading.RLock()
        self._line: OrderedDict[Waiter, object] = OrderedDict()
        self._granted: OrderedDict[Waiter, object] = OrderedDict()  # tasks that were granted and have not come yet
        self._dropped: deque[Any] = deque()  # what `__del__` of a ticket returns: it must not take the lock
        self._accepted = self._rejected = 0
        forget_on_fork(self)

    # --- what a subclass decides, under the lock ----------------------------------------------------------------

    def _take_locked(self, now: float, weight: float) -> Ticket | None:
        """A ticket when there is room now, whoever may be waiting."""
        raise NotImplementedError  # pragma: no cover  # every subclass decides

    def _next_locked(self, head: Waiter, now: float) -> Ticket | None:
        """The ticket of the first in line when it is its turn."""
        return self._take_locked(now, head.weight)

    def _is_early_locked(self, head: Waiter, now: float) -> bool:
        """Whether its turn comes before `head` would ask again: then it is woken to look."""
        return False

    def _return_locked(self, ticket: Any) -> None:
        """A ticket that was granted to somebody who is gone: as if it had never been given."""
        raise NotImplementedError  # pragma: no cover  # likewise

    def _undrop_locked(self, dropped: Any) -> None:
        """Give back what `__del__` of a ticket has put into `_dropped`."""

    def _outlook_locked(self, now: float, weight: float) -> float:
        """Seconds until a new caller's turn, when that is known; 0 when only others know."""
        return 0.0

    def _due_locked(self, waiter: Waiter, now: float) -> float:
        """When `waiter` should ask again unasked."""
        return waiter.until

    def _joined_locked(self, waiter: Waiter, now: float) -> None:
        """`waiter` is about to join the line."""

    def _parted_locked(self, waiter: Waiter) -> None:
        """`waiter` has left the line without a ticket."""

    def _patience(self) -> tuple[float, int | None]:
        """(seconds a caller may wait, how many may wait; None: any number)."""
        raise NotImplementedError  # pragma: no cover  # likewise

    def _refusal(self, wait: float, waited: float) -> RejectedError:
        """What a caller gets who is refused; `wait` is the outlook, `waited` how long it stood in line."""
        raise NotImplementedError  # pragma: no cover  # likewise

    def _refused(self, now: float, error: RejectedError) -> Event:
        """The event of a refusal."""
        raise NotImplementedError  # pragma: no cover  # likewise

    # --- admission ------------------------------------------------------------------------------------------------

    def admit(self, limit: float, weight: float = 1.0) -> Ticket:
        """A ticket at once, or RejectedError; nobody in the line is overtaken."""
        now, wait = self._now(), 0.0
        with self._lock:
            woken, ticket = self._try_locked(now, weight)
            if ticket is None:
                self._rejected += 1
                wait = self._outlook_locked(now, weight)
        if woken:
            self._wake(woken)
        if ticket is None:
            self._reject(now, wait, 0.0)
        return ticket

    def enter(self, limit: float, weight: float = 1.0) -> Ticket | Waiter:
        """A ticket at once, or a place in the line, or RejectedError when waiting is of no use."""
        now = self._now()
        with self._lock:
            woken, ticket = self._try_locked(now, weight)
        if woken:
            self._wake(woken)
        return ticket or self._join(weight)

    def arm(self, waiter: Waiter, wake: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None) -> None:
        """From now on `wake` is called when `waiter` should ask again."""
        with self._lock:
            waiter.wake, waiter.loop = wake, loop

    def claim(self, waiter: Waiter) -> Ticket | None:
        """The ticket of `waiter`; None: wait on until `waiter.due`; RejectedError when its time is over."""
        now, wait = self._now(), 0.0
        with self._lock:
            woken = self._serve_locked(now)
            ticket, waiter.ticket = waiter.ticket, None
            over = ticket is None and now + ROUNDING >= waiter.until
            if ticket is not None:
                self._granted.pop(waiter, None)
            elif over:
                self._rejected += 1
                self._quit_locked(waiter)
                wait = self._outlook_locked(now, waiter.weight)
                woken += self._serve_locked(now)
            else:
                waiter.due = self._due_locked(waiter, now)
        self._wake([other for other in woken if other is not waiter])
        if over:
            self._reject(now, wait, now - waiter.since)
        return ticket

    def leave(self, waiter: Waiter) -> None:
        """`waiter` waits no longer; what it was granted passes on. Leaving twice does nothing."""
        self._wake(self._left(waiter))

    # --- within -----------------------------------------------------------------------------------------------------

    def _try_locked(self, now: float, weight: float) -> tuple[list[Waiter] | None, Ticket | None]:
        woken = self._serve_locked(now) if self._line or self._dropped else None
        return woken, None if self._line else self._take_locked(now, weight)

    def _join(self, weight: float) -> Waiter | Ticket:
        self._forget_closed_loops()
        most, places = self._patience()
        now, wait = self._now(), 0.0
        if most > 0 and (deadline := current_limit.get()) is not None:
            most = min(most, deadline.on(self._clock, now).end - now)
        with self._lock:
            woken, ticket = self._try_locked(now, weight)  # again: this may be an hour later for all we know
            waiter: Waiter | None = None
            if ticket is None:
                wait = self._outlook_locked(now, weight)
                if most > 0 and wait <= most + ROUNDING and (places is None or len(self._line) < places):
                    until = now + most
                    waiter = Waiter(now, until, min(until, now + wait) if wait else until, weight)
                    self._joined_locked(waiter, now)
                    self._line[waiter] = None
                else:
                    self._rejected += 1
        if woken:
            self._wake(woken)
        if ticket is not None:
            return ticket
        if waiter is None:
            self._reject(now, wait, 0.0)
        return waiter

    def _serve_locked(self, now: float) -> list[Waiter]:
        """Give what there is to the line, in its order; returns whom to wake."""
        while self._dropped:
            try:
                dropped = self._dropped.popleft()
            except IndexError:  # another `__del__` or handler was here
                break
            self._undrop_locked(dropped)
        woken: list[Waiter] = []
        while (head := self._head_locked()) is not None:
            if head.wake is None and head.until + ROUNDING < now:  # interrupted before it parked: nobody waits there
                self._quit_locked(head)
                continue
            ticket = self._next_locked(head, now)
            if ticket is None:
                if self._is_early_locked(head, now):
                    woken.append(head)
                break
            self._grant_locked(head, ticket, woken)
        return woken

    def _head_locked(self) -> Waiter | None:
        return _first(self._line)

    def _grant_locked(self, head: Waiter, ticket: Ticket, woken: list[Waiter]) -> None:
        if self._line.pop(head, _ABSENT) is _ABSENT:  # a handler served or cancelled it between
            self._return_locked(ticket)
            return
        head.ticket = ticket
        if head.gone:  # likewise
            ticket_back, head.ticket = head.ticket, None
            if ticket_back is not None:
                self._return_locked(ticket_back)
            return
        if head.loop is not None:
            self._granted[head] = None
        woken.append(head)

    def _quit_locked(self, waiter: Waiter) -> None:
        if self._line.pop(waiter, _ABSENT) is not _ABSENT:
            self._parted_locked(waiter)

    def _left(self, waiter: Waiter) -> list[Waiter]:
        with self._lock:
            waiter.gone = True
            ticket, waiter.ticket = waiter.ticket, None
            self._granted.pop(waiter, None)
            if ticket is not None:
                self._return_locked(ticket)
            self._quit_locked(waiter)
            return self._serve_locked(self._now())

    def _wake(self, woken: list[Waiter]) -> None:
        """Outside the lock; a loop that is closed can not be woken: what it was granted passes on."""
        for waiter in woken:  # grows
            wake = waiter.wake
            if wake is None:
                continue
            try:
                wake()
            except RuntimeError:
                woken.extend(self._left(waiter))

    def _forget_closed_loops(self) -> None:
        """A loop that was closed after it was woken, and before its task ran, will never claim its ticket."""
        while self._granted:
            with self._lock:
                waiter = _first(self._granted)
            if waiter is None or waiter.loop is None or not waiter.loop.is_closed():
                return
            self.leave(waiter)

    def _reject(self, now: float, wait: float, waited: float) -> NoReturn:
        error = self._refusal(wait, waited)
        if events.HEARERS.all:
            publish(self._refused(now, error))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", error)
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def after_fork_in_child(self) -> None:
        """Whoever waits or holds a ticket does so in the parent."""
        self._lock = threading.RLock()
        self._line = OrderedDict()
        self._granted = OrderedDict()
        self._dropped = deque()
