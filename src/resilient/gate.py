"""Policies that admit or reject: the two-step face that users hold, and the one pair of layers that all gates share."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Never, Protocol, Self

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.deadline import current_scope
from resilient.errors import RejectedError
from resilient.outcome import (
    FAILURE,
    IGNORED,
    SUCCESS,
    Classification,
    Classifier,
    Outcome,
    classifier,
    evidence,
    had_time,
    result_check,
)
from resilient.policy import UNLIMITED, Args, AsyncCall, Call, Fn, Kwargs, Policy

_UNSAID = Classification()


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


class Ticket(Protocol):
    """One admitted call as the layers hold it: they know when it ended and how long it took."""

    def success(self, elapsed: float, now: float) -> None:
        """It went well after `elapsed` seconds, at `now`."""
        ...

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """It ended with `outcome`."""
        ...

    def unused(self) -> None:
        """Nothing was sent."""
        ...


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
    asked for a ticket per call.
    """

    standing: Ticket | None = None

    def __init__(
        self, name: str | None = None, *, given: Classification | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(name)
        self._given = given or Classification()
        self._clock = clock or SYSTEM_CLOCK

    def admit(self, limit: float) -> Ticket:
        """Admit a call that is granted `limit` seconds, or raise RejectedError; never waits."""
        raise NotImplementedError

    def acquire(self) -> Permit:
        """Admit a call at once, or raise; never waits.

        Returns:
            A permit of its own: settle it once, from any thread. One that is dropped unsettled gives its place back.

        Raises:
            RejectedError: of this gate's own kind.
        """
        return HeldPermit(self, self.standing or self.admit(float("inf")))

    def calling(self) -> Calling:
        """Guard a block: `with gate.calling() as permit:` or `async with`; settles by how the block ends.

        Inside, `permit.failure()` and its like may settle earlier: for streams, callbacks, results.

        Raises:
            RejectedError: on entering, of this gate's own kind.
        """
        return Calling(self)

    def judge(self, given: Classification = _UNSAID) -> tuple[Classifier, Callable[[Any], bool] | None]:
        """How this gate judges an error and a result: its own way, or `given` when it has none."""
        used = self._given.or_else(given)
        return evidence(classifier(used)), result_check(used)

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` behind this gate; no lock is held while it runs."""
        admit, now = self.admit, self._clock.monotonic
        classify, failed = self.judge(given)

        def gated(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            ticket = self.standing or admit(limit)
            started = now()
            try:
                result = inner(fn, args, kwargs)
                ended = now()
                bad = failed is not None and failed(result)
            except BaseException as error:
                ended = now()
                settle_error(ticket, error, classify, ended - started, ended, limit)
                raise
            if bad:
                ticket.settle(FAILURE, ended - started, ended, None)
            else:
                ticket.success(ended - started, ended)
            return result

        return gated

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` behind this gate, for async functions."""
        admit, now = self.admit, self._clock.monotonic
        classify, failed = self.judge(given)

        async def gated(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            ticket = self.standing or admit(limit)
            started = now()
            try:
                result = await inner(fn, args, kwargs)
                ended = now()
                bad = failed is not None and failed(result)
            except BaseException as error:
                ended = now()
                settle_error(ticket, error, classify, ended - started, ended, limit)
                raise
            if bad:
                ticket.settle(FAILURE, ended - started, ended, None)
            else:
                ticket.success(ended - started, ended)
            return result

        return gated


def settle_error(
    ticket: Ticket,
    error: BaseException,
    classify: Classifier,
    elapsed: float,
    now: float,
    limit: float = UNLIMITED,
) -> None:
    """Settle a call that ended with `error`, whatever the classifier does."""
    if isinstance(error, RejectedError) or _all_rejected(error):  # a policy further in refused: nothing was sent
        ticket.unused()
        return
    outcome = IGNORED
    try:
        if isinstance(error, Exception):
            outcome = classify(error)
        elif _timed_out(error) and had_time(elapsed, limit):
            outcome = FAILURE
    finally:
        if outcome is SUCCESS:
            ticket.success(elapsed, now)
        else:
            ticket.settle(outcome, elapsed, now, error)


def _all_rejected(error: BaseException) -> bool:
    return isinstance(error, ExceptionGroup) and error.split(RejectedError)[1] is None


def _timed_out(error: BaseException) -> bool:
    """Whether this cancellation is a Timeout further out that has expired: a slow dependency, not a caller gone."""
    scope = current_scope.get()
    return scope is not None and scope.expired and type(error).__name__ == "CancelledError"


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
            classify, _ = self._gate.judge()
            settle_error(ticket, error, classify, now - self._started, now)

    def __repr__(self) -> str:
        return f"<permit of {self._gate.name!r}, {'held' if self._ticket else 'settled'}>"


class Calling:
    """One guarded block, or many one after the other; nested and concurrent ones take a `calling()` each."""

    __slots__ = ("_gate", "_permit")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._permit: Permit | None = None

    def __enter__(self) -> Permit:
        if self._permit is not None:
            raise RuntimeError("this calling() is already entered; make one per block")
        self._permit = self._gate.acquire()
        return self._permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.__exit__(kind, error, tb)

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.__exit__(kind, error, tb)
