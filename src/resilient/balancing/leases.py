"""The lease on an instance that a caller holds."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Protocol, Self

from resilient.balancing.hosts import Host
from resilient.discovery import Instance
from resilient.errors import RejectedError
from resilient.gate import Permit
from resilient.outcome import FAILURE, IGNORED, SUCCESS, Outcome

UNREACHED, UNUSED = "unreachable", "unused"


class Lease(Permit, Protocol):
    """A chosen instance; settle it like any permit. The first settlement counts, later ones do nothing.

    The latency of a call is the time from the pick to `answered` or `reached`, or else to the settlement, unless the
    caller says how many seconds it was.
    """

    @property
    def instance(self) -> Instance:
        """Whom to call."""
        ...

    def success(self, elapsed: float | None = None, /) -> None:
        """It went well; after `elapsed` seconds, when the caller knows better than the lease."""
        ...

    def failure(self, error: Exception | None = None, /, elapsed: float | None = None) -> None:
        """It failed. After `answered` this counts as one more failure: the connection broke while the body was read."""
        ...

    def ignored(self, elapsed: float | None = None, /) -> None:
        """Neither: cancelled, or not the instance's fault. Its latency was at least as long."""
        ...

    def unreachable(self, error: Exception | None = None, /) -> None:
        """No connection could be made, so nothing was sent: others are preferred for a while."""
        ...

    def reached(self, elapsed: float | None = None, /) -> None:
        """It answers, whatever it says: others are preferred no more. Settles nothing; the call goes on."""
        ...

    def answered(self, outcome: Outcome, elapsed: float | None = None, /) -> None:
        """It answered, and this is the verdict, counted now; the lease is held until the answer has been read."""
        ...

    def put_aside(self, seconds: float, /) -> None:
        """It asked for a pause of `seconds` (Retry-After), 300 at most: others are preferred. Settles nothing."""
        ...


class Settling(Protocol):
    """What a lease asks of the balancer that handed it out."""

    @property
    def now(self) -> Callable[[], float]:
        """The balancer's time."""
        ...

    def settle(self, lease: HeldLease, how: object, elapsed: float | None) -> None:
        """The call has ended."""
        ...

    def judge(self, lease: HeldLease, outcome: Outcome, elapsed: float | None) -> None:
        """The verdict of a call that goes on."""
        ...

    def reached(self, host: Host) -> None:
        """It can be connected to."""
        ...

    def pause(self, host: Host, seconds: float) -> None:
        """It asked for a pause."""
        ...

    def drop(self, host: Host, trial: int) -> None:
        """Nobody settled the lease, and nobody will. Called by a finaliser: takes no lock."""
        ...


class HeldLease:
    """The lease that a balancer hands out. Dropped unsettled, it gives its place back."""

    __slots__ = ("__weakref__", "answer_after", "book", "host", "instance", "judged", "settled", "started", "trial")

    def __init__(self, book: Settling, host: Host, started: float, trial: int = 0) -> None:
        self.book = book
        self.host = host
        self.instance = host.instance
        self.started = started
        self.trial = trial  # 0: no trial
        self.answer_after: float | None = None  # seconds
        self.judged = False
        self.settled = False  # changed under the balancer's lock only: of two threads that settle at once, one counts

    def success(self, elapsed: float | None = None, /) -> None:
        """It went well."""
        self.book.settle(self, SUCCESS, elapsed)

    def failure(self, error: Exception | None = None, /, elapsed: float | None = None) -> None:
        """It failed."""
        self.book.settle(self, FAILURE, elapsed)

    def unreachable(self, error: Exception | None = None, /) -> None:
        """No connection could be made."""
        self.book.settle(self, UNREACHED, None)

    def ignored(self, elapsed: float | None = None, /) -> None:
        """Neither: cancelled, or not the instance's fault."""
        self.book.settle(self, IGNORED, elapsed)

    def unused(self) -> None:
        """Nothing was sent, and not because of the instance."""
        self.book.settle(self, UNUSED, None)

    def reached(self, elapsed: float | None = None, /) -> None:
        """It answers."""
        if not self.settled:
            known = elapsed is not None and 0.0 <= elapsed < inf
            self.answer_after = elapsed if known else self.book.now() - self.started
            self.book.reached(self.host)

    def answered(self, outcome: Outcome, elapsed: float | None = None, /) -> None:
        """It answered, with this verdict."""
        if not self.settled:
            self.book.judge(self, outcome, elapsed)

    def put_aside(self, seconds: float, /) -> None:
        """It asked for a pause."""
        if not self.settled and seconds > 0:
            self.book.pause(self.host, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        if error is None:
            self.success()
        elif isinstance(error, RejectedError):
            self.unused()
        elif isinstance(error, Exception):
            self.failure(error)
        else:
            self.ignored()

    def __del__(self) -> None:
        try:
            settled = self.settled
        except AttributeError:  # an interrupt came before it was made
            return
        if not settled:
            self.book.drop(self.host, self.trial)

    def __repr__(self) -> str:
        return f"<lease on {self.instance.host}:{self.instance.port}, {'settled' if self.settled else 'held'}>"
