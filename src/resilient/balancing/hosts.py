"""What a balancer knows about one instance, and the lease on it that a caller holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from resilient.discovery import Instance
from resilient.errors import RejectedError
from resilient.gate import Permit

FIRST_ASIDE = 1.0  # seconds; Ribbon and elastic-transport begin with 1 s and stop doubling at 30 s, too
LONGEST_ASIDE = 30.0


class Lease(Permit, Protocol):
    """A chosen instance; settle it like any permit. The first settlement counts."""

    @property
    def instance(self) -> Instance:
        """Whom to call."""
        ...

    def unreachable(self, error: Exception | None = None, /) -> None:
        """No connection could be made, so nothing was sent: others are preferred for a while."""
        ...

    def reached(self) -> None:
        """It answers, whatever it says: others are preferred no more. Settles nothing; the call goes on."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """One moment of one instance.

    Attributes:
        instance: which one.
        picks: how often it was chosen.
        in_flight: leases on it that are not settled.
        failures: how many calls to it failed.
        consecutive_failures: how many of them since the last success.
        aside: seconds for which others are preferred, because no connection to it could be made; 0.0 when they are not.
    """

    instance: Instance
    picks: int
    in_flight: int
    failures: int
    consecutive_failures: int
    aside: float


class Host:
    """What is counted for one instance. Everything under the balancer's lock."""

    __slots__ = ("_aside_for", "_aside_until", "consecutive_failures", "failures", "in_flight", "instance", "picks")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.picks = self.in_flight = self.failures = self.consecutive_failures = 0
        self._aside_for = 0.0  # 0.0: it can be connected to, as far as is known
        self._aside_until = 0.0

    def is_aside(self, now: float) -> bool:
        """Whether others are preferred."""
        return self._aside_for > 0.0 and now < self._aside_until

    def picked(self, now: float) -> bool:
        """Count a pick. True when it is the trial of an instance whose time aside is over."""
        self.picks += 1
        self.in_flight += 1
        if self._aside_for == 0.0 or now < self._aside_until:
            return False
        self._aside_until = now + self._aside_for  # one caller tries; the others go elsewhere until it knows
        return True

    def answered(self) -> None:
        """A call went well."""
        self.consecutive_failures = 0

    def reached(self) -> None:
        """It can be connected to."""
        self._aside_for = 0.0

    @property
    def aside_until(self) -> float:
        """When its time aside ends."""
        return self._aside_until

    def failed(self) -> None:
        """A call failed."""
        self.failures += 1
        self.consecutive_failures += 1

    def put_aside(self, now: float, *, trial: bool) -> float | None:
        """No connection: stay aside, twice as long when the trial failed; the seconds, or None when nothing changed.

        Of many calls that fail at once one counts: they tell the same thing.
        """
        if self._aside_for > 0.0 and not trial:
            return None
        self._aside_for = min(LONGEST_ASIDE, 2 * self._aside_for) or FIRST_ASIDE
        self._aside_until = now + self._aside_for
        return self._aside_for

    def snapshot(self, now: float) -> InstanceSnapshot:
        """One moment of it."""
        aside = max(0.0, self._aside_until - now) if self._aside_for else 0.0
        return InstanceSnapshot(
            self.instance, self.picks, self.in_flight, self.failures, self.consecutive_failures, aside
        )


Settle = Callable[[Host, str, bool], None]
Reached = Callable[[Host], None]


class HeldLease:
    """The lease that a balancer hands out. Dropped unsettled, it gives its place back."""

    __slots__ = ("__weakref__", "_dropped", "_held", "_reached", "_settle", "_trial", "instance")

    def __init__(
        self, host: Host, *, trial: bool, settle: Settle, reached: Reached, dropped: Callable[[Host], None]
    ) -> None:
        self._reached = reached
        self.instance = host.instance
        self._held = [host]  # list.pop is atomic: of two threads that settle at once, one counts
        self._trial = trial
        self._settle = settle
        self._dropped = dropped

    def success(self) -> None:
        """It went well."""
        self._end("success")

    def failure(self, error: Exception | None = None, /) -> None:  # what it was changes nothing here
        """It failed."""
        self._end("failure")

    def unreachable(self, error: Exception | None = None, /) -> None:  # what it was changes nothing here
        """No connection could be made."""
        self._end("unreachable")

    def reached(self) -> None:
        """It answers."""
        for host in self._held:
            self._reached(host)

    def ignored(self) -> None:
        """Neither: cancelled, or not the instance's fault."""
        self._end("ignored")

    def unused(self) -> None:
        """Nothing was sent, and not because of the instance."""
        self._end("unused")

    def _end(self, how: str) -> None:
        try:
            host = self._held.pop()
        except IndexError:
            return
        self._settle(host, how, self._trial)

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
        while self._held:
            self._dropped(self._held.pop())

    def __repr__(self) -> str:
        return f"<lease on {self.instance.host}:{self.instance.port}, {'held' if self._held else 'settled'}>"
