"""What a balancer knows about one instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from resilient.discovery import Instance

FIRST_ASIDE = 1.0  # seconds; Ribbon and elastic-transport begin with 1 s and stop doubling at 30 s, too
LONGEST_ASIDE = 30.0
LONGEST_PAUSE = 300.0  # seconds that a Retry-After is followed; linkerd stops there, too
TRIAL = 10.0  # seconds for which one trial is waited for before another call may try
WINDOW = 20  # outcomes that are kept; counted, not timed: a process of a hundred sees few calls per second

UNREACHABLE = "unreachable"
PAUSED = "retry-after"
UNHEALTHY = "health check"
FAILING = "failing"

Identity: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """One moment of one instance.

    Attributes:
        instance: which one.
        picks: how often it was chosen.
        in_flight: leases on it that are not settled.
        failures: how many calls to it failed.
        consecutive_failures: how many of them since the last success.
        aside: seconds for which others are preferred, because no connection to it could be made or it asked for a
            pause; 0.0 when they are not.
        ejected_for: seconds for which it gets no calls because too many failed, `inf` after a health check; 0.0 when
            it is not ejected, or one call may try it.
        ejections: how often in a row it was ejected.
        latency: its mean latency in seconds, None when it is not known.
        weight: its share of a full turn, 1.0 at most: less when it is slow, new, or weighs less in the registry.
    """

    instance: Instance
    picks: int
    in_flight: int
    failures: int
    consecutive_failures: int
    aside: float
    ejected_for: float = 0.0
    ejections: int = 0
    latency: float | None = None
    weight: float = 1.0


class Host:
    """What is counted for one instance. Everything under the balancer's lock."""

    __slots__ = (
        "aside_for",
        "consecutive_failures",
        "credit",
        "ejections",
        "failures",
        "guard",
        "in_flight",
        "instance",
        "joined",
        "latency",
        "out",
        "out_since",
        "outcomes",
        "picks",
        "ramp",
        "returned",
        "sampled",
        "samples",
        "trial",
        "trial_ends",
        "turn",
        "until",
        "weight",
        "window",
    )

    def __init__(self, instance: Instance, joined: float) -> None:
        self.instance = instance
        self.picks = self.in_flight = self.failures = self.consecutive_failures = 0
        self.latency: float | None = None  # seconds, faded up to `sampled`
        self.sampled = 0.0
        self.samples = 0  # since it is remembered
        self.window = self.outcomes = 0  # the last outcomes as bits, 1 for a failure, and how many there are
        self.joined = joined  # when its slow start began
        self.guard = self.ramp = self.weight = 1.0  # its share: beside its peers' latency, in its slow start, in all
        self.credit = 0.0  # of a strategy: what it is owed of a turn
        self.turn = 0  # of a strategy: when it had its last one
        self.out: str | None = None  # why it is out
        self.until = self.out_since = 0.0
        self.aside_for = 0.0  # seconds it was put aside last; 0.0: it can be connected to, as far as is known
        self.ejections = 0
        self.returned = 0.0  # when it came back from its last ejection
        self.trial = 0  # the lease that tries it
        self.trial_ends = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is out and one call may try it."""
        return now >= self.until and (not self.trial or now >= self.trial_ends)

    def record(self, *, failed: bool) -> None:
        """Remember an outcome."""
        self.window = (self.window << 1 | failed) & (1 << WINDOW) - 1
        if self.outcomes < WINDOW:
            self.outcomes += 1
        if failed:
            self.failures += 1
            self.consecutive_failures += 1
        else:
            self.consecutive_failures = 0

    def leave(self, why: str, now: float, until: float) -> None:
        """It is out until a time; a trial that is under way decides nothing any more."""
        if self.out is None:
            self.out_since = now
        self.out = why
        self.until = until
        self.trial = 0

    def come_back(self, now: float) -> float:
        """It is in again, and what was remembered against it is forgotten; how long it was out."""
        self.out = None
        self.trial = 0
        self.aside_for = 0.0
        self.window = self.outcomes = self.consecutive_failures = 0
        self.latency = None  # not clearing it costs another minute of a small share (measured: 18 s for 5)
        self.returned = now
        return now - self.out_since

    def put_aside(self, now: float, *, trial: bool) -> float | None:
        """No connection: aside, twice as long when the trial failed; the seconds, or None when nothing changed.

        Of many calls that fail at once one counts: they tell the same thing.
        """
        if self.out == UNHEALTHY or (self.out == UNREACHABLE and not trial):
            return None
        self.aside_for = min(LONGEST_ASIDE, 2 * self.aside_for) or FIRST_ASIDE
        until = now + self.aside_for
        self.leave(UNREACHABLE, now, max(until, self.until) if self.out not in {None, UNREACHABLE} else until)
        return self.aside_for

    def snapshot(self, now: float) -> InstanceSnapshot:
        """One moment of it."""
        left = max(0.0, self.until - now) if self.out is not None else 0.0
        aside = self.out in {UNREACHABLE, PAUSED}
        return InstanceSnapshot(
            self.instance,
            self.picks,
            self.in_flight,
            self.failures,
            self.consecutive_failures,
            aside=left if aside else 0.0,
            ejected_for=0.0 if aside else left,
            ejections=self.ejections,
            latency=self.latency,
            weight=self.weight,
        )


def identity(instance: Instance) -> Identity:
    """Who it is: counts survive an update, a move to another address begins anew."""
    return instance.id, instance.host, instance.port
