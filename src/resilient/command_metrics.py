"""What a command counts: how its callers' calls ended, and how long the last ten seconds of them took.

A call that went well costs one append to a list. The list is counted when its second is over, or when somebody looks.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from resilient.clock import Clock, forget_on_fork
from resilient.errors import CallTimeoutError, RejectedError
from resilient.outcome import IGNORED, SUCCESS, Classification, classifier
from resilient.policies.circuit_report import CircuitBreakerSnapshot

PERCENTILES = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 100.0)  # what Hystrix's dashboard shows
SECONDS = 10  # of calls that are looked at, in buckets of one second each, as Hystrix's rolling counts
_KEPT = 1000  # latencies per second; of more one of n is drawn, which leaves 100 for the slowest hundredth of 10 s


class Kind(NamedTuple):
    """How a call ended, as it is counted."""

    counted: tuple[int, ...]  # which counts go up
    timed: bool  # whether its duration says something: not of what was refused or cancelled


_NAMES = ("successes", "failures", "timeouts", "rejections", "ignored", "fallbacks")
_SUCCESSES, _FAILURES, _TIMEOUTS, _REJECTIONS, _IGNORED, _FALLBACKS = range(len(_NAMES))

ANSWERED = Kind((_SUCCESSES,), timed=True)
FAILED = Kind((_FAILURES,), timed=True)
TIMED_OUT = Kind((_FAILURES, _TIMEOUTS), timed=True)
REJECTED = Kind((_REJECTIONS,), timed=False)
UNCOUNTED = Kind((_IGNORED,), timed=False)


@dataclass(frozen=True, slots=True)
class CommandSnapshot:
    """One moment of a command: plain data, can be pickled; `as_dict()` fits JSON.

    Every caller's call counts once, when it ends, however often it was tried: as a success, a failure, a rejection or
    ignored. What a fallback answered counts as what made it necessary, and in `fallbacks`.

    Attributes:
        name: its label.
        group: what it belongs to.
        calls: calls that ended since the command was made or reset.
        successes: calls that were answered, also by an error that is no failure of the dependency.
        failures: calls that failed, timeouts among them.
        timeouts: calls that took too long.
        rejections: calls that one of its policies refused: nothing was sent.
        ignored: calls that say nothing: cancelled, or matched by `ignore`.
        fallbacks: calls that the fallback answered.
        recent: the same counts of the last 10 s, by name.
        latency: seconds by percentile (0, 25, 50, 75, 90, 95, 99, 99.5, 100) of the calls of the last 10 s that were
            neither refused nor ignored, waits and retries included; empty when there were none.
        latency_mean: their mean, or None.
        breaker: its circuit breaker at this moment, None when it has none.
    """

    name: str
    group: str
    calls: int
    successes: int
    failures: int
    timeouts: int
    rejections: int
    ignored: int
    fallbacks: int
    recent: Mapping[str, int]
    latency: Mapping[float, float]
    latency_mean: float | None
    breaker: CircuitBreakerSnapshot | None

    def as_dict(self) -> dict[str, Any]:
        """The same as text, numbers and None: for JSON, logs and pages."""
        return {
            **asdict(self),
            "latency": {f"{percentile:g}": seconds for percentile, seconds in self.latency.items()},
            "breaker": None if self.breaker is None else self.breaker.as_dict(),
        }


class Note(NamedTuple):
    """How a call ended inside its fallback, for the count outside of it."""

    kind: Kind
    result: object  # the value that counts as a failure; `_NO_RESULT` where an error was raised


_NO_RESULT = object()
TURNED_AWAY = Note(REJECTED, _NO_RESULT)


class Judge:
    """Tells how a call ended, by the verdicts of its command."""

    def __init__(self, given: Classification) -> None:
        self._classify = classifier(given, evidence=True)

    def kind_of(self, error: BaseException) -> Kind:
        """How a call that ended with `error` is counted."""
        if not isinstance(error, Exception):
            return UNCOUNTED
        if isinstance(error, RejectedError):
            return REJECTED
        outcome = self._classify(error)
        if outcome is SUCCESS:
            return ANSWERED
        if outcome is IGNORED:
            return UNCOUNTED
        return TIMED_OUT if isinstance(error, CallTimeoutError) else FAILED

    def note(self, error: BaseException) -> Note:
        """The same, for the count outside the fallback."""
        return Note(self.kind_of(error), _NO_RESULT)


class _Second:
    """The calls that ended within one second."""

    __slots__ = ("counts", "fastest", "index", "kept", "slowest", "timed", "total")

    def __init__(self, index: int) -> None:
        self.index = index
        self.counts = [0] * len(_NAMES)
        self.kept: list[tuple[array[float], float]] = []  # latencies, and how many calls each of them stands for
        self.timed = 0  # calls whose latency was seen
        self.total = 0.0  # seconds
        self.fastest, self.slowest = math.inf, 0.0

    def see(self, latencies: list[float]) -> None:
        self.timed += len(latencies)
        self.total += math.fsum(latencies)
        self.fastest = min(self.fastest, *latencies)
        self.slowest = max(self.slowest, *latencies)
        kept = (
            latencies if len(latencies) <= _KEPT else list(_one_of_each(latencies, math.ceil(len(latencies) / _KEPT)))
        )
        self.kept.append((array("d", kept), len(latencies) / len(kept)))


def _one_of_each(latencies: list[float], step: int) -> Iterator[float]:
    """One by chance of each `step` in a row: of calls that take turns each n-th would be of one sort."""
    last = len(latencies) - 1
    for start in range(0, len(latencies), step):
        yield latencies[min(start + int(step * random.random()), last)]  # noqa: S311  # a sample, no secret


class Metrics:
    """The counts of one command. Safe for threads and event loops, with the GIL and without.

    Attributes:
        pending: the latencies of calls that went well and are not counted yet. Appending is atomic and needs no lock;
            the list is the same for ever, so that the layer keeps its `append`.
        notes: how calls that were not answered ended inside their fallback, by the identity of the call's own
            keyword arguments: a dict of its own for each call, alive as long as the call.
        ends: when the current second is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now = clock.monotonic
        self.pending: list[float] = []
        self.notes: dict[int, Note] = {}
        self._turned_away: list[None] = []
        self._otherwise: list[float] = []  # latencies of calls that did not go well, not counted yet
        self._lock = threading.RLock()  # reentrant: a signal handler may call the command that it interrupts
        self._begin()
        forget_on_fork(self)

    def _begin(self) -> None:
        self._origin = self.now()
        self._totals = [0] * len(_NAMES)
        self._second = _Second(self._index(self.now()))
        self._seconds = [self._second]
        self.ends = self._origin + self._second.index + 1

    def _index(self, now: float) -> int:
        return math.floor(now - self._origin)

    def roll(self, now: float) -> None:
        """A second is over."""
        with self._lock:
            self._roll_locked(now)

    def ended(self, kind: Kind, elapsed: float, now: float, *, fallback: bool = False) -> None:
        """Count a call that ended otherwise than with an answer of its own."""
        with self._lock:
            self._roll_locked(now)
            second = self._second
            for index in (*kind.counted, _FALLBACKS) if fallback else kind.counted:
                second.counts[index] += 1
                self._totals[index] += 1
            if kind.timed:
                self._otherwise.append(elapsed)  # seen with the others: one draw, one weight

    def answered(self, note: Note, result: object, elapsed: float, now: float) -> None:
        """Count a call that gave a result although it ended badly inside its fallback."""
        if note is TURNED_AWAY:
            self._turned_away.append(None)  # as cheap as an answer: a fallback is asked most while a circuit is open
        else:
            self.ended(note.kind, elapsed, now, fallback=result is not note.result)

    def snapshot(self, name: str, group: str, breaker: CircuitBreakerSnapshot | None) -> CommandSnapshot:
        """The counts of this moment: consistent."""
        with self._lock:
            self._roll_locked(self.now())
            self._count_pending_locked()
            totals = dict(zip(_NAMES, self._totals, strict=True))
            recent = dict(zip(_NAMES, map(sum, zip(*(one.counts for one in self._seconds), strict=True)), strict=True))
            seen = [(tuple(kept), weight) for one in self._seconds for kept, weight in one.kept]
            timed, total = sum(one.timed for one in self._seconds), sum(one.total for one in self._seconds)
            extremes = min(one.fastest for one in self._seconds), max(one.slowest for one in self._seconds)
        return CommandSnapshot(
            name=name,
            group=group,
            calls=_calls(totals),
            **totals,
            recent={"calls": _calls(recent), **recent},
            latency=dict(_percentiles(seen, *extremes)),
            latency_mean=total / timed if timed else None,
            breaker=breaker,
        )

    def reset(self) -> None:
        """As new."""
        with self._lock:
            del self.pending[:], self._turned_away[:], self._otherwise[:]
            self._begin()

    def after_fork_in_child(self) -> None:
        """The parent's calls are the parent's."""
        self._lock = threading.RLock()
        del self.pending[:], self._turned_away[:], self._otherwise[:]
        self.notes.clear()
        self._begin()

    def _roll_locked(self, now: float) -> None:
        if now < self.ends:
            return
        self._count_pending_locked()
        self._second = _Second(self._index(now))
        self._seconds = [one for one in self._seconds if one.index > self._second.index - SECONDS]
        self._seconds.append(self._second)
        self.ends = self._origin + self._second.index + 1

    def _count_pending_locked(self) -> None:
        taken = self.pending[:]
        del self.pending[: len(taken)]  # what came in between stays, behind
        self._second.counts[_SUCCESSES] += len(taken)
        self._totals[_SUCCESSES] += len(taken)
        otherwise = self._otherwise[:]
        del self._otherwise[: len(otherwise)]
        if taken or otherwise:
            self._second.see(taken + otherwise)
        turned_away = len(self._turned_away)
        del self._turned_away[:turned_away]
        if turned_away:
            for index in (_REJECTIONS, _FALLBACKS):
                self._second.counts[index] += turned_away
                self._totals[index] += turned_away


def _calls(counts: Mapping[str, int]) -> int:
    return counts["successes"] + counts["failures"] + counts["rejections"] + counts["ignored"]


def _percentiles(
    seen: list[tuple[tuple[float, ...], float]], fastest: float, slowest: float
) -> Iterator[tuple[float, float]]:
    """By nearest rank, each latency with the weight of the calls that it stands for; the ends are exact."""
    weighed = sorted((latency, weight) for kept, weight in seen for latency in kept)
    if not weighed:
        return
    ranks = list(itertools.accumulate(weight for _, weight in weighed))
    here = 0
    for percentile in PERCENTILES:
        wanted = ranks[-1] * percentile / 100 * (1 - 1e-12)  # sums of weights are not exact
        while ranks[here] < wanted:
            here += 1
        yield percentile, fastest if percentile == 0 else slowest if percentile == 100 else weighed[here][0]
