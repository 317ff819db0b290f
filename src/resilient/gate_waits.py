"""Waiting for a gate: the layers of gates that may wait, in the two colours, and how a thread and a task park.

The gate decides and never waits: `enter` gives a ticket, or a `Waiter` that stands in its line. The thread parks on an
event of the policy's clock, the task on a future of its own loop; both ask `claim` whenever they are woken and when
`waiter.due` has come, until it gives a ticket or raises. Whoever goes away earlier calls `leave`, which passes on what
may have been granted meanwhile. `resilient.queued_gate.QueuedGate` is that line.

A gate chooses these layers by `waits`, once, when a chain is built: gates that never wait pay nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from resilient.gate_layers import Admitting, Ticket, settle_error
from resilient.outcome import FAILURE, Classification
from resilient.places import collected, held
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs

if TYPE_CHECKING:
    import asyncio


class Waiter:
    """One caller in the line of a gate; its fields change under the gate's lock."""

    __slots__ = ("due", "gone", "loop", "since", "ticket", "until", "wake", "weight")

    def __init__(self, since: float, until: float, due: float, weight: float) -> None:
        self.since = since
        self.until = until  # when it gives up
        self.due = due  # when it asks again unasked, at the latest `until`
        self.weight = weight
        self.ticket: Ticket | None = None  # granted and not claimed yet
        self.gone = False
        self.wake: Callable[[], object] | None = None  # None until it parks: it asks once more before it does
        self.loop: asyncio.AbstractEventLoop | None = None


class Line(Admitting, Protocol):
    """What waiting needs of its gate."""

    holds: bool

    def enter(self, limit: float) -> Ticket | Waiter:
        """A ticket, or a place in the line, or RejectedError."""
        ...

    def arm(self, waiter: Waiter, wake: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None) -> None:
        """From now on `wake` is called, from any thread, when `waiter` should ask again."""
        ...

    def claim(self, waiter: Waiter) -> Ticket | None:
        """Its ticket; None: wait on until `waiter.due`; RejectedError when its time is over."""
        ...

    def leave(self, waiter: Waiter) -> None:
        """It waits no longer; what it was granted passes on."""
        ...


def wait_turn(gate: Line, waiter: Waiter) -> Ticket:
    """Park this thread until its turn has come."""
    clock = gate._clock
    event = threading.Event()
    try:
        gate.arm(waiter, event.set)
        while (ticket := gate.claim(waiter)) is None:
            clock.wait(event, max(0.0, waiter.due - clock.monotonic()))
            event.clear()
    except BaseException:
        gate.leave(waiter)
        raise
    return ticket


async def await_turn(gate: Line, waiter: Waiter) -> Ticket:
    """Park this task until its turn has come."""
    import asyncio

    clock = gate._clock
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] | None = None

    def nudge() -> None:
        if turn is not None and not turn.done():
            turn.set_result(None)

    def wake() -> None:
        # Within a task of this very loop there is no need to interrupt its wait for events. A signal handler that runs
        # while the loop waits for them is in no task.
        if asyncio._get_running_loop() is loop and asyncio.current_task(loop) is not None:
            nudge()
        else:
            loop.call_soon_threadsafe(nudge)

    try:
        gate.arm(waiter, wake, loop)
        turn = loop.create_future()  # before it asks: a signal handler may grant it right after
        while (ticket := gate.claim(waiter)) is None:
            cancel = clock.call_later(loop, max(0.0, waiter.due - clock.monotonic()), nudge)
            try:
                await turn
            finally:
                cancel()
            turn = loop.create_future()
    except BaseException:
        gate.leave(waiter)
        raise
    return ticket


def queued(gate: Line, inner: Call, limit: float, given: Classification) -> Call:
    """`inner` behind a gate that may wait, for functions."""
    enter, now, holds = gate.enter, gate._clock.monotonic, gate.holds
    classify, known, failed = gate.judge(given)

    def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        ticket = enter(limit)
        if isinstance(ticket, Waiter):
            ticket = wait_turn(gate, ticket)
        started = now()
        try:
            result = holding(inner, ticket, fn, args, kwargs) if holds else inner(fn, args, kwargs)
            ended = now()
            bad = failed is not None and failed(result)
        except BaseException as error:
            ended = now()
            if (outcome := known.get(type(error))) is not None:
                ticket.settle(outcome, ended - started, ended, error)
            else:
                settle_error(ticket, error, classify, ended - started, ended, limit)
            raise
        if bad:
            ticket.settle(FAILURE, ended - started, ended, None)
        else:
            ticket.success(ended - started, ended)
        return result

    return guarded


def holding(inner: Call, place: Any, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
    """Call `inner` with `place` among those that a worker thread started further in retains."""
    places = held.places
    try:
        places.append(place)  # inside: an interrupt right after it must not leave the place there
        return inner(fn, args, kwargs)
    finally:
        places.remove(place)


def aqueued(gate: Line, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
    """`inner` behind a gate that may wait, for async functions."""
    enter, now, holds = gate.enter, gate._clock.monotonic, gate.holds
    classify, known, failed = gate.judge(given)

    async def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        ticket = enter(limit)
        if isinstance(ticket, Waiter):
            ticket = await await_turn(gate, ticket)
        places: Any = collected.get() if holds else None
        started = now()
        try:
            if places is not None:
                places.append(ticket)
            result = await inner(fn, args, kwargs)
            ended = now()
            bad = failed is not None and failed(result)
        except BaseException as error:
            ended = now()
            if (outcome := known.get(type(error))) is not None:
                ticket.settle(outcome, ended - started, ended, error)
            else:
                settle_error(ticket, error, classify, ended - started, ended, limit)
            raise
        finally:
            if places is not None and ticket in places:  # not when interrupted just before
                places.remove(ticket)
        if bad:
            ticket.settle(FAILURE, ended - started, ended, None)
        else:
            ticket.success(ended - started, ended)
        return result

    return guarded
