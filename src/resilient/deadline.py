"""How long an answer is still of use. Travels with the context: into tasks, and into worker threads of this library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from typing import NamedTuple, Protocol, Self

from resilient.checks import positive_seconds
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import DeadlineExceededError


class Limit(NamedTuple):
    """The latest moment an answer is of use, and who says so."""

    end: float  # on `clock`
    owner: object  # the Timeout or Deadline that set it
    name: str  # of that policy, for the error
    clock: Clock

    def on(self, clock: Clock, now: float) -> Limit:
        """The same moment on another clock, which reads `now`."""
        if clock is self.clock:
            return self
        return Limit(now + self.end - self.clock.monotonic(), self.owner, self.name, clock)


class Expiring(Protocol):
    """An async time limit around the running code."""

    expired: bool


current_limit: ContextVar[Limit | None] = ContextVar("resilient.deadline", default=None)
current_scope: ContextVar[Expiring | None] = ContextVar("resilient.timeout_scope", default=None)


def lower_limit(wanted: Limit, now: float) -> Limit:
    """The tighter of `wanted` and what the context already holds.

    Raises:
        DeadlineExceededError: when that moment has passed: nothing was sent.
    """
    outer = current_limit.get()
    if outer is not None:
        outer = outer.on(wanted.clock, now)
        if outer.end <= wanted.end:
            wanted = outer
    return _not_passed(wanted, now)


def enforced_limit(clock: Clock, now: float) -> Limit:
    """The limit that the context holds, set by a Timeout further out.

    Raises:
        DeadlineExceededError: when it has passed: nothing was sent.
    """
    limit = current_limit.get()
    assert limit is not None
    return _not_passed(limit.on(clock, now), now)


def restore_limit(token: Token[Limit | None]) -> None:
    """Put back what the context held."""
    try:  # noqa: SIM105  # a third of the cost of `suppress`
        current_limit.reset(token)
    except ValueError:  # a generator that ends in another context than it began has nothing to restore there
        pass


def restore_scope(token: Token[Expiring | None]) -> None:
    """The same for the time limit around the running code."""
    try:  # noqa: SIM105  # likewise
        current_scope.reset(token)
    except ValueError:
        pass


def _not_passed(limit: Limit, now: float) -> Limit:
    if limit.end <= now:
        raise DeadlineExceededError(
            f"the call was not made: the deadline set by {limit.name!r} passed {now - limit.end:.3g} s ago",
            policy=limit.name,
        )
    return limit


class Deadline:
    """The latest moment an answer is of use; shortens every timeout, retry and wait inside the block.

    A Deadline inside another one can only be earlier. It interrupts nothing by itself: timeouts, transports and queues
    inside the block read it. Safe for threads and tasks; each block is its own.

    Args:
        seconds: from entering the block; more than 0.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when `seconds` is not a positive number.

    Example:
        >>> from resilient import Deadline
        >>> with Deadline(3.0) as deadline:
        ...     0.0 < deadline.remaining <= 3.0
        True
    """

    __slots__ = ("_clock", "_end", "_seconds", "_token")

    def __init__(self, seconds: float, *, clock: Clock | None = None) -> None:
        self._seconds = positive_seconds("Deadline", "seconds", seconds)
        self._clock = clock or SYSTEM_CLOCK
        self._end: float | None = None
        self._token: Token[Limit | None] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this Deadline is already entered; make one per block")
        now = self._clock.monotonic()
        limit = Limit(now + self._seconds, self, "deadline", self._clock)
        outer = current_limit.get()
        if outer is not None:
            outer = outer.on(self._clock, now)
            limit = outer if outer.end <= limit.end else limit
        self._end = limit.end
        self._token = current_limit.set(limit)
        return self

    def __exit__(self, *exc: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            restore_limit(token)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative; the whole length before the block is entered."""
        if self._end is None:
            return self._seconds
        return max(0.0, self._end - self._clock.monotonic())

    @classmethod
    def current(cls) -> Deadline | None:
        """The deadline of this context, or None. Reading it does not extend it."""
        limit = current_limit.get()
        if limit is None:
            return None
        found = cls.__new__(cls)
        found._clock = limit.clock
        found._end = limit.end
        found._seconds = max(0.0, limit.end - found._clock.monotonic())
        found._token = None
        return found

    @classmethod
    def none(cls) -> AbstractContextManager[None]:
        """A block without a deadline, for background work that outlives its caller."""
        return _no_deadline()

    def __repr__(self) -> str:
        return f"<Deadline {self.remaining:.3g} s left>"


@contextmanager
def _no_deadline() -> Iterator[None]:
    token = current_limit.set(None)
    try:
        yield
    finally:
        restore_limit(token)
