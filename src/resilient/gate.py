"""Policies that admit or reject: the two-step face that users hold, and the one pair of layers that all gates share."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Never, Protocol, Self

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import RejectedError
from resilient.gate_layers import Ticket, agated, gated, settle_error
from resilient.gate_waits import Waiter, aqueued, await_turn, queued, wait_turn
from resilient.outcome import FAILURE, IGNORED, Classification, Verdicts, verdicts
from resilient.policy import UNLIMITED, AsyncCall, C, Call, Policy

if TYPE_CHECKING:
    import asyncio

_UNSAID = Classification()
_MARK = "__resilient_gate__"


class Permit(Protocol):
    """One admitted call; the first settlement counts, later ones do nothing. Safe to settle from any thread."""

    def success(self) -> None:
        """It went well."""
        ...

    def failure(self, error: Exception | None = None, /) -> None:
        """It failed, with `error` if there is one. The caller has judged: no classifier is asked."""
        ...

    def ignored(self) -> None:
        """Neither: cancelled, or not the dependency's fault."""
        ...

    def unused(self) -> None:
        """Nothing was sent: refused further in; limiters and budgets refund."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None: ...


class Gate(Policy[Never]):
    """A policy that admits or rejects; usable without a function. Safe for threads and event loops.

    Example:
        >>> from resilient import CircuitBreaker
        >>> gate = CircuitBreaker("uploads")
        >>> with gate.calling() as permit:  # around a block
        ...     permit.failure()  # it ended badly, although nothing was raised
        >>> permit = gate.acquire()  # or in two steps
        >>> permit.success()
        >>> gate.snapshot().calls
        2

    `standing` is the ticket of every call while everybody is admitted and nothing can leak, or None: then `admit` is
    asked for a ticket per call. A gate that `waits` is asked by `enter` instead, where waiting is allowed. The tickets
    of a gate that `holds` are places (see `resilient.places`): worker threads started further in retain them.
    """

    waits = False
    holds = False
    standing: Ticket | None = None
    rejects_with: ClassVar[type[RejectedError]] = RejectedError

    def __init__(
        self, name: str | None = None, *, given: Classification | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(name)
        self._given = given or Classification()
        self._clock = clock or SYSTEM_CLOCK

    def admit(self, limit: float) -> Ticket:
        """Admit a call that is granted `limit` seconds, or raise RejectedError; never waits."""
        raise NotImplementedError

    def enter(self, limit: float) -> Ticket | Waiter:
        """Like `admit`, but may give a place in the line; asked of gates that wait."""
        return self.admit(limit)

    def arm(self, waiter: Waiter, wake: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None) -> None:
        """See `resilient.gate_waits.Line`, as for `claim` and `leave`."""
        raise NotImplementedError  # pragma: no cover  # only asked of gates that wait

    def claim(self, waiter: Waiter) -> Ticket | None:
        """The ticket of a waiter."""
        raise NotImplementedError  # pragma: no cover  # likewise

    def leave(self, waiter: Waiter) -> None:
        """A waiter waits no longer."""
        raise NotImplementedError  # pragma: no cover  # likewise

    def acquire(self) -> Permit:
        """Admit a call at once, or raise; never waits.

        Returns:
            A permit of its own: settle it once, from any thread. One that is dropped unsettled gives its place back.

        Raises:
            RejectedError: of this gate's own kind.
        """
        return HeldPermit(self, self.standing or self.admit(UNLIMITED))

    def calling(self) -> Calling:
        """Guard a block: `with gate.calling() as permit:` or `async with`; settles by how the block ends.

        Inside, `permit.failure()` and its like may settle earlier: for streams, callbacks, results. Entering waits
        where the gate may.

        Raises:
            RejectedError: on entering, of this gate's own kind.
        """
        return Calling(self, self.enter)

    def turn_away(self) -> bool:
        """Refuse a call without raising: a Fallback just outside answers then, at less than half the cost.

        Returns:
            True when the call is sure to be refused and was counted as such; False: ask `admit`.
        """
        return False

    def rejection(self) -> RejectedError:
        """What a call that was turned away would have raised."""
        raise NotImplementedError  # pragma: no cover  # only asked of gates that turn calls away

    def heed(self, told: object) -> None:
        """Look at the result or the error of a call that was settled; nothing here, for gates that act on it."""

    def marked(self, call: C) -> C:
        """`call`, from which `gate_of` finds this gate."""
        setattr(call, _MARK, self)
        return call

    def judge(self, given: Classification = _UNSAID) -> Verdicts:
        """How this gate judges an error and a result: its own way, or `given` when it has none."""
        return verdicts(self._given.or_else(given))

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` behind this gate; no lock is held while it runs."""
        layer = queued if self.waits or self.holds else gated
        return self.marked(layer(self, inner, limit, given))

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` behind this gate, for async functions."""
        layer = aqueued if self.waits else agated
        return self.marked(layer(self, inner, limit, given))


def gate_of(call: Callable[..., Any]) -> Gate | None:
    """The gate whose layer `call` is, if it is one."""
    return getattr(call, _MARK, None)


class HeldPermit:
    """The permit of `acquire()`: a ticket with its start, settled once."""

    __slots__ = ("__weakref__", "_gate", "_now", "_started", "_ticket")

    def __init__(self, gate: Gate, ticket: Ticket) -> None:
        self._gate = gate
        self._ticket = [ticket]  # list.pop is atomic: of two threads that settle at once, one counts
        self._now = gate._clock.monotonic
        self._started = self._now()

    def success(self) -> None:
        """It went well."""
        if (ticket := self._take()) is not None:
            now = self._now()
            ticket.success(now - self._started, now)

    def failure(self, error: Exception | None = None, /) -> None:
        """It failed."""
        if (ticket := self._take()) is not None:
            now = self._now()
            ticket.settle(FAILURE, now - self._started, now, error)
            if error is not None:
                self._gate.heed(error)

    def ignored(self) -> None:
        """Neither."""
        if (ticket := self._take()) is not None:
            now = self._now()
            ticket.settle(IGNORED, now - self._started, now, None)

    def unused(self) -> None:
        """Nothing was sent."""
        if (ticket := self._take()) is not None:
            ticket.unused()

    def _take(self) -> Ticket | None:
        try:
            return self._ticket.pop()
        except IndexError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        if (ticket := self._take()) is None:
            return
        now = self._now()
        if error is None:
            ticket.success(now - self._started, now)
        else:
            classify = self._gate.judge().classify
            settle_error(ticket, error, classify, now - self._started, now)
            if isinstance(error, Exception):
                self._gate.heed(error)

    def __repr__(self) -> str:
        return f"<permit of {self._gate.name!r}, {'held' if self._ticket else 'settled'}>"


class Calling:
    """One guarded block, or many one after the other; nested and concurrent ones take a `calling()` each."""

    __slots__ = ("_enter", "_entered", "_gate", "_permit")

    def __init__(self, gate: Gate, enter: Callable[[float], Ticket | Waiter]) -> None:
        self._gate = gate
        self._enter = enter
        self._entered = False
        self._permit: Permit | None = None

    def __enter__(self) -> Permit:
        ticket = self._begin()
        try:
            if isinstance(ticket, Waiter):
                ticket = wait_turn(self._gate, ticket)
            self._permit = permit = HeldPermit(self._gate, ticket)
        except BaseException:
            self._entered = False
            raise
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        permit, self._permit = self._permit, None
        self._entered = False
        if permit is not None:
            permit.__exit__(kind, error, tb)

    async def __aenter__(self) -> Permit:
        ticket = self._begin()
        try:
            if isinstance(ticket, Waiter):
                ticket = await await_turn(self._gate, ticket)
            self._permit = permit = HeldPermit(self._gate, ticket)
        except BaseException:
            self._entered = False
            raise
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.__exit__(kind, error, tb)

    def _begin(self) -> Ticket | Waiter:
        if self._entered:
            raise RuntimeError("this calling() is already entered; make one per block")
        ticket = self._gate.standing or self._enter(UNLIMITED)
        self._entered = True
        return ticket
