"""Find the number of concurrent calls that the dependency can take."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from resilient import events
from resilient.checks import positive_seconds, whole
from resilient.clock import Clock, forget_on_fork
from resilient.errors import ConcurrencyLimitedError, ConfigError
from resilient.events import Outbox, check_listener, publish
from resilient.gate import Gate, HeldPermit, Permit
from resilient.gate_waits import aqueued, queued
from resilient.outcome import FAILURE, IGNORED, SUCCESS, Classification, Match, Outcome, classifier
from resilient.policies.limit_algorithms import INITIAL, Gradient2, LimitAlgorithm
from resilient.policies.limit_priorities import checked_shares, current_priority, priority, unknown
from resilient.policies.limit_report import ConcurrencyLimiterSnapshot, ConcurrencyLimitReached
from resilient.policies.limit_samples import Sample, Window, is_overload
from resilient.policy import AsyncCall, Call, Policy

__all__ = [
    "ConcurrencyLimitReached",
    "ConcurrencyLimiter",
    "ConcurrencyLimiterSnapshot",
    "LimiterSettings",
    "Place",
    "priority",
]

logger = logging.getLogger("resilient")

OWNER = "ConcurrencyLimiter"
_BACKLOG = 100  # samples that wait for an algorithm slower than the calls; more are not taken
_ROUNDING = 1e-9  # 0.29 x 100 is a hair less than 29


@dataclass(frozen=True, slots=True)
class LimiterSettings:
    """What may change while it runs."""

    algorithm: LimitAlgorithm
    window: float | None
    minimum_samples: int
    priorities: Mapping[str, float]
    overload: Callable[[BaseException | None], bool]


class ConcurrencyLimiter(Gate):
    """Find the number of concurrent calls that the dependency can take, and refuse those beyond it.

    A bulkhead whose limit moves: up while answers come fast, down when they slow down or are dropped. Calls that went
    well are samples; timeouts and answers like 429 and 503 are drops; other failures, cancelled calls and calls that
    were refused further in say nothing and only give their place back. While callers use less than half of the limit
    it does not grow. It never waits: a call is admitted or refused at once.

    Args:
        algorithm: how the limit moves, default a `Gradient2`; a `Vegas`, an `AIMD` or your own. One per limiter.
        name: label in metrics, events and errors; default "concurrency_limiter".
        window: seconds whose calls make one sample, more than 0, default 1.0; None: each call is one.
        minimum_samples: calls in a window at least, default 10; a window with fewer goes on.
        priorities: the share of the limit that calls of each priority may fill, in (0, 1]; default "normal" 1.0,
            "low" 0.75, "background" 0.5. Calls without a priority are "normal", which has 1.0 unless it is given.
        overload: which failures mean that the dependency is overloaded: a type, a tuple of types or a predicate of the
            error; default timeouts of any library and HTTP 408, 429, 503, 504.
        on: which exceptions are failures, default every Exception; errors with an HTTP status of 4xx other than 408,
            425 and 429 are answers.
        ignore: which exceptions say nothing; wins over `on`.
        on_result: a predicate: True for a returned value that means overload.
        listeners: called with a `ConcurrencyLimitReached` for each refused call, outside the lock.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: at construction, when an argument is out of range.
        TypeError: at construction, for a listener that is async or can not be called.
        ConcurrencyLimitedError: from a guarded call beyond the limit.

    Safe for threads and event loops: one count for all of them. The algorithm runs outside the lock, by one thread at
    a time; one that raises is logged, and the limit stays.

    Source: Netflix's concurrency-limits, with its windows of 1 s and 10 calls; calls below 100 µs are no samples.

    Example:
        >>> from resilient.policies.concurrency_limiter import ConcurrencyLimiter
        >>> limiter = ConcurrencyLimiter(name="search")
        >>> @limiter
        ... def search(words: str) -> list[str]:
        ...     return words.split()
        >>> search("red apple")
        ['red', 'apple']
        >>> limiter.snapshot().limit
        20
    """

    kind = "concurrency_limiter"
    holds = True  # its tickets are places: a worker thread started further in retains them
    rejects_with = ConcurrencyLimitedError

    def __init__(
        self,
        algorithm: LimitAlgorithm | None = None,
        *,
        name: str | None = None,
        window: float | None = 1.0,
        minimum_samples: int = 10,
        priorities: Mapping[str, float] | None = None,
        overload: Match | None = None,
        on: Match = Exception,
        ignore: Match = (),
        on_result: Callable[[Any], bool] | None = None,
        listeners: Sequence[Callable[[Any], object]] = (),
        clock: Clock | None = None,
    ) -> None:
        self.settings = LimiterSettings(
            _algorithm(algorithm),
            None if window is None else positive_seconds(OWNER, "window", window),
            whole(OWNER, "minimum_samples", minimum_samples),
            checked_shares(OWNER, priorities),
            is_overload if overload is None else _matches(overload),
        )
        for listener in listeners:
            check_listener(listener)
        self._hearers = tuple(listeners)
        self._lock = threading.RLock()  # reentrant: a signal handler may call through this limiter
        self._limit = _initial(self.settings.algorithm)
        self._in_flight = self._rejected = self._accepted = 0
        self._counts = {SUCCESS: 0, FAILURE: 0, IGNORED: 0}
        self._rtt: float | None = None
        self._forks = 0
        self._dropped: deque[int] = deque()  # places that garbage collection found; the next call takes them back
        self._samples: Outbox[Sample] = Outbox(self._learn)
        super().__init__(name, given=Classification(on, ignore, on_result), clock=clock)
        self._window = Window(self._clock.monotonic())
        forget_on_fork(self)

    # --- the face ---------------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """How many calls are admitted at once, now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """How many calls are under way."""
        with self._lock:
            self._take_back_locked()
            return self._in_flight

    def snapshot(self) -> ConcurrencyLimiterSnapshot:
        """Limit and counts of one moment: consistent, cheap, plain data."""
        with self._lock:
            self._take_back_locked()
            return ConcurrencyLimiterSnapshot(
                self.name,
                int(self._limit),
                self._in_flight,
                self._accepted,
                self._rejected,
                self._counts[SUCCESS],
                self._counts[FAILURE],
                self._counts[IGNORED],
                self._rtt,
            )

    def acquire(self, *, priority: str | None = None) -> Permit:
        """Admit a call at once, or raise; never waits.

        Args:
            priority: of this call; default that of the context, see `priority()`.

        Raises:
            ConcurrencyLimitedError: when the share of the limit that is open to this priority is full.
            ConfigError: when the limiter does not know the priority.
        """
        return HeldPermit(self, self._admit(current_priority.get() if priority is None else priority))

    def admit(self, limit: float) -> Place:
        """A place for a call, or ConcurrencyLimitedError."""
        return self._admit(current_priority.get())

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`; counts, places and the limit stay, within the new bounds."""
        with self._lock:
            if self.settings.algorithm is not other.settings.algorithm:
                self._limit = _within(other.settings.algorithm, self._limit)
            self.settings = other.settings

    def reset(self) -> None:
        """As new: the first limit again, nothing learned, nothing counted; calls under way keep their places."""
        with self._lock:
            self._limit = _initial(self.settings.algorithm)
            self._accepted = self._rejected = 0
            self._counts = {SUCCESS: 0, FAILURE: 0, IGNORED: 0}
            self._rtt = None
            self._window = Window(self._clock.monotonic())

    def describe(self) -> str:
        """One sentence: the algorithm and its limit."""
        return f"ConcurrencyLimiter {self.name!r}: {self.settings.algorithm!r} admits {self.limit} calls at once now"

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """A Retry inside it."""
        if not any(other.kind == "retry" for other in inside):
            return []
        return [f"{self.name!r} lies outside of a Retry: places are held while it sleeps, as if calls took so long"]

    def __repr__(self) -> str:
        return f"<ConcurrencyLimiter {self.name!r} {self.in_flight}/{self.limit} in flight>"

    def after_fork_in_child(self) -> None:
        """The calls under way are the parent's."""
        self._lock = threading.RLock()
        self._forks += 1
        self._in_flight = 0
        self._dropped.clear()
        self._samples.after_fork_in_child()

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` behind this limiter; a worker thread that is left behind further in keeps its place."""
        return self.marked(queued(self, inner, limit, given))

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """The same for async functions; whoever keeps places longer than the call finds this one."""
        return self.marked(aqueued(self, inner, limit, given))

    # --- admission --------------------------------------------------------------------------------------------------

    def _admit(self, priority: str) -> Place:
        share = self.settings.priorities.get(priority)
        if share is None:
            raise unknown(self.name, priority, self.settings.priorities)
        place = Place(self, self._forks)
        with self._lock:
            if self._dropped:
                self._take_back_locked()
            limit = self._limit
            allowed = int(limit * share + _ROUNDING) or 1  # a limit of 1 is open to everybody
            in_flight = self._in_flight  # no call from here to the return: a signal handler may use this one or raise
            if in_flight < allowed:
                self._in_flight = place.in_flight = in_flight + 1
                place.holders = 1
                self._accepted += 1
                return place
            self._rejected += 1
        raise self._rejection(int(limit), in_flight, allowed, priority)

    def _rejection(self, limit: int, in_flight: int, allowed: int, priority: str) -> ConcurrencyLimitedError:
        if self._hearers or events.HEARERS.all:
            now = self._clock.monotonic()
            publish(ConcurrencyLimitReached(self.name, now, limit, in_flight, allowed, priority), self._hearers)
        text = f"{self.name!r}: {in_flight} calls are under way and the limit is {limit} now"
        if allowed < limit:
            text += f", {allowed} of it for priority {priority!r}"
        logger.debug("%s", text)
        return ConcurrencyLimitedError(text, policy=self.name)

    def _take_back_locked(self) -> None:
        with suppress(IndexError):
            while self._dropped:
                if self._dropped.popleft() == self._forks:
                    self._in_flight -= 1
                    self._counts[IGNORED] += 1

    # --- what the places tell -----------------------------------------------------------------------------------------

    def retain(self, place: Place) -> bool:
        """One more holds this place; False when nobody does any more."""
        with self._lock:
            if place.holders == 0:
                return False
            place.holders += 1
            return True

    def release(self, place: Place) -> None:
        """One less holds it; it is free at zero."""
        with self._lock:
            self._release_locked(place)

    def settle(self, place: Place, outcome: Outcome, elapsed: float, now: float) -> None:
        """The call of this place has ended: SUCCESS is a sample, FAILURE a drop."""
        settings = self.settings
        with self._lock:
            self._release_locked(place)  # first: what comes after it may be interrupted
            self._counts[outcome] += 1
            if outcome is not IGNORED and place.fork == self._forks:
                sample = self._window.add(
                    elapsed, place.in_flight, outcome is FAILURE, now, settings.window, settings.minimum_samples
                )
                if sample is not None:
                    self._rtt = sample.rtt
                    if len(self._samples.queue) < _BACKLOG:
                        self._samples.queue.append(sample)
        self._samples.drain(most=_BACKLOG)  # a slow algorithm must not keep a caller for as long as others call

    def _release_locked(self, place: Place) -> None:
        place.holders -= 1
        if place.holders == 0 and place.fork == self._forks:
            self._in_flight -= 1

    def _learn(self, sample: Sample) -> None:
        """Ask the algorithm: one thread at a time, without the lock."""
        algorithm, limit = self.settings.algorithm, self._limit
        try:
            wanted = float(algorithm.update(limit, *sample))
            if not (math.isfinite(wanted) and wanted > 0):
                raise ValueError(f"a limit must be more than 0 and finite, not {wanted!r}")
        except Exception:
            logger.exception("%r: %r could not take a sample; the limit stays", self.name, algorithm)
            return
        with self._lock:
            if self.settings.algorithm is algorithm:  # else new settings came meanwhile
                self._limit = max(1.0, wanted)


class Place:
    """One admitted call. Held by its caller, and by each worker thread that still runs for it."""

    __slots__ = ("_limiter", "fork", "holders", "in_flight")

    def __init__(self, limiter: ConcurrencyLimiter, fork: int) -> None:
        self._limiter = limiter
        self.in_flight = 0  # calls under way when it began
        self.fork = fork
        self.holders = 0  # until it is counted

    def success(self, elapsed: float, now: float) -> None:
        """A sample."""
        self._limiter.settle(self, SUCCESS, elapsed, now)

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """A drop, if the failure means overload."""
        if outcome is FAILURE and not self._limiter.settings.overload(error):
            outcome = IGNORED
        self._limiter.settle(self, outcome, elapsed, now)

    def unused(self) -> None:
        """Nothing was sent."""
        self._limiter.settle(self, IGNORED, 0.0, 0.0)

    def retain(self) -> bool:
        """One more holds it, a worker thread that may outlive the call; False when nobody does any more."""
        return self._limiter.retain(self)

    def release(self) -> None:
        """That one has ended."""
        self._limiter.release(self)

    def __del__(self) -> None:
        if getattr(self, "holders", 0):  # interrupted while it was made, it has none
            self._limiter._dropped.append(self.fork)  # an append only: a lock taken inside a GC run can deadlock


def _algorithm(given: LimitAlgorithm | None) -> LimitAlgorithm:
    algorithm: object = Gradient2() if given is None else given
    if isinstance(algorithm, type) or not callable(getattr(algorithm, "update", None)):
        hint = ": make one, `Kind()`" if isinstance(algorithm, type) else ""
        raise ConfigError(f"{OWNER}: algorithm must have an update() method, not {given!r}{hint}", path="algorithm")
    return algorithm  # type: ignore[return-value]  # it has the one method of the protocol


def _initial(algorithm: LimitAlgorithm) -> float:
    return float(whole(OWNER, "algorithm.initial", getattr(algorithm, "initial", INITIAL)))


def _within(algorithm: LimitAlgorithm, limit: float) -> float:
    """`limit` inside the bounds of an algorithm that has some."""
    return max(getattr(algorithm, "minimum", 1.0), min(getattr(algorithm, "maximum", math.inf), limit))


def _matches(overload: Match) -> Callable[[BaseException | None], bool]:
    try:
        classify = classifier(Classification(on=overload))
    except ConfigError:
        raise ConfigError(
            f"{OWNER}: overload must be an exception type, a tuple of them or a predicate, not {overload!r}",
            path="overload",
        ) from None

    def overloaded(error: BaseException | None) -> bool:
        return not isinstance(error, Exception) or classify(error) is FAILURE  # no Exception: as for `is_overload`

    return overloaded
