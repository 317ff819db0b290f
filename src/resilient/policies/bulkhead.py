"""At most so many calls at once: what one dependency can take from a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from resilient.checks import number, whole
from resilient.clock import Clock
from resilient.errors import BulkheadFullError, ConfigError, RejectedError
from resilient.events import Event
from resilient.gate_layers import Ticket
from resilient.gate_waits import Waiter
from resilient.outcome import Classification, Outcome
from resilient.policies.bulkhead_layers import alone, aplaced, lone, placed
from resilient.policy import AsyncCall, Call, Fn, Policy, is_async
from resilient.queued_gate import QueuedGate
from resilient.tally import Tally

OWNER = "Bulkhead"
_LONGEST = 86_400.0  # seconds, a day: who waits longer has forgotten to set a deadline


@dataclass(frozen=True, slots=True)
class BulkheadSettings:
    """What may change while calls are in flight."""

    limit: int
    max_wait: float
    max_queue: int | None

    def __post_init__(self) -> None:
        whole(OWNER, "limit", self.limit)
        wait = number(OWNER, "max_wait", self.max_wait)
        if not 0 <= wait <= _LONGEST:
            raise ConfigError(
                f"{OWNER}: max_wait must be 0 (never wait) to {_LONGEST:g} seconds, not {self.max_wait!r}",
                path="max_wait",
            )
        if self.max_queue is not None:
            whole(OWNER, "max_queue", self.max_queue, least=0)
            if self.max_queue and not wait:
                raise ConfigError(
                    f"{OWNER}: max_queue={self.max_queue} says nothing without max_wait: nobody would wait",
                    path="max_queue",
                )


@dataclass(frozen=True, slots=True)
class BulkheadSnapshot:
    """One moment of a bulkhead: plain data; `as_dict()` fits JSON.

    Attributes:
        name: its label.
        limit: places in all.
        in_flight: places taken; more than `limit` for a while after the limit was lowered.
        waiting: callers in the queue.
        accepted: calls admitted since it was made.
        rejected: calls refused since then, waited or not.
    """

    name: str
    limit: int
    in_flight: int
    waiting: int
    accepted: int
    rejected: int

    @property
    def available(self) -> int:
        """Places that are free."""
        return max(0, self.limit - self.in_flight)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, logs and pages."""
        return {**asdict(self), "available": self.available}


@dataclass(frozen=True, slots=True)
class BulkheadRejected(Event):
    """A bulkhead refused a call: `limit` calls were in flight."""

    limit: int


class Bulkhead(QueuedGate):
    """At most `limit` calls at once, threads and tasks together; those beyond wait in one queue, or are refused.

    A dependency that hangs then holds `limit` threads or tasks of this process and no more. A place is held until the
    work ends: a sync call that a Timeout further in left behind keeps its place while its worker thread runs.

    First come, first served, across threads and event loops. A caller who is cancelled, or whose event loop is closed,
    leaks nothing: what it was granted passes on. `acquire()` never waits; `calling()` and decorated functions do.

    Args:
        limit: calls at once, 1 or more, default 10 (Hystrix).
        name: label in metrics, events and errors; default "bulkhead".
        max_wait: seconds a caller waits for a place, 0 to 86,400, default 0.0: refused at once. The caller's deadline
            cuts it short.
        max_queue: callers that may wait, 0 or more, default None: any number.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: at construction, when an argument is out of range.
        BulkheadFullError: from a guarded call, when there is no place, or none came free in time.

    Safe for threads and event loops; no lock is held while a call runs.

    Example:
        >>> from resilient.policies.bulkhead import Bulkhead
        >>> reports = Bulkhead(2, name="reports", max_wait=0.5)
        >>> @reports
        ... def report(month: str) -> str:
        ...     return f"{month}: {reports.snapshot().in_flight} in flight"
        >>> report("May")
        'May: 1 in flight'
        >>> with reports.calling():
        ...     reports.snapshot().available
        1
    """

    kind = "bulkhead"
    rejects_with = BulkheadFullError

    def __init__(
        self,
        limit: int = 10,
        *,
        name: str | None = None,
        max_wait: float = 0.0,
        max_queue: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = BulkheadSettings(limit, max_wait, max_queue)
        self._usage = _Usage()
        self._admitted = Tally()  # with `_accepted`, what was given to who was gone, and what `reset` forgot
        super().__init__(name, clock=clock)

    def resize(self, limit: int) -> None:
        """Change the number of places. Nobody is evicted: after a cut nobody is admitted until fewer are in flight.

        Args:
            limit: calls at once from now on, 1 or more.

        Raises:
            ConfigError: when it is out of range.
        """
        self._change(replace(self.settings, limit=limit))

    def take_settings(self, other: Self) -> None:
        """Go on with the settings of `other`; calls in flight, waiters and counts stay."""
        self._change(other.settings)

    def reset(self) -> None:
        """As new: nothing counted; calls in flight keep their places, and who waits goes on waiting."""
        with self._lock:
            self._accepted, self._rejected = -self._admitted.count(), 0

    def snapshot(self) -> BulkheadSnapshot:
        """Counts of one moment: consistent, cheap."""
        with self._lock:
            woken = self._serve_locked(0.0)
            found = BulkheadSnapshot(
                self.name,
                self.settings.limit,
                self._usage.in_flight,
                len(self._line),
                max(0, self._admitted.count() + self._accepted),
                self._rejected,
            )
        self._wake(woken)
        return found

    def describe(self) -> str:
        """One sentence: how many at once, how long the others wait."""
        limit, wait, queue = self.settings.limit, self.settings.max_wait, self.settings.max_queue
        others = "others are refused" if not wait else f"others wait up to {wait:g} s"
        if wait and queue is not None:
            others += f", {queue} at most"
        return f"Bulkhead {self.name!r}: {limit} calls at once, {others}"

    def worst_case(self, wait: float, calls: int) -> tuple[float, int]:
        """The queue comes on top."""
        return wait + self.settings.max_wait, calls

    def warnings(self, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]) -> list[str]:
        """A place that is held for nothing."""
        if any(policy.kind == "retry" for policy in inside):
            return [f"{self!r} outside Retry holds its place while Retry sleeps: put it inside"]
        return []

    def __repr__(self) -> str:
        settings = self.settings
        text = f"Bulkhead({settings.limit}, name={self.name!r}"
        if settings.max_wait:
            text += f", max_wait={settings.max_wait:g}"
        if settings.max_queue is not None:
            text += f", max_queue={settings.max_queue}"
        return f"{text})"

    def after_fork_in_child(self) -> None:
        """The calls in flight are the parent's."""
        super().after_fork_in_child()
        self._usage = _Usage()

    # --- admission --------------------------------------------------------------------------------------------------

    def enter(self, limit: float, weight: float = 1.0) -> Ticket | Waiter:
        """A place at once, or one in the line, or BulkheadFullError."""
        usage = self._usage
        if not self._line and not self._dropped and usage.made <= self.settings.limit:
            # No lock, and no call from the look at the line to the step that takes the place.
            try:
                place = usage.free.pop()
            except IndexError:  # all are taken, or the next one is yet to be made
                pass
            else:
                next(self._admitted.ticks)
                return place
        return super().enter(limit, weight)

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """Return `inner` behind this bulkhead; a worker thread that is left behind further in keeps its place."""
        return self.marked(placed(self, inner, limit))

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """Return `inner` behind this bulkhead, for async functions."""
        return self.marked(aplaced(self, inner, limit))

    def alone(self, fn: Fn) -> Fn | None:
        """`fn` behind this bulkhead and nothing else."""
        return alone(self, fn) if is_async(fn) else lone(self, fn)

    # --- the line's questions ---------------------------------------------------------------------------------------

    def _take_locked(self, now: float, weight: float) -> _Place | None:
        usage, limit = self._usage, self.settings.limit
        while usage.made > limit:  # after a cut
            try:
                place = usage.free.pop()
            except IndexError:
                return None
            place.holders = 0
            usage.made -= 1
        while True:
            try:
                place = usage.free.pop()
                break
            except IndexError:
                if usage.made >= limit:
                    return None
            place = _Place(self, usage)
            if usage.made < limit:  # still: a handler may have come in while it was made
                usage.made += 1
                place.holders = 1
                break
        next(self._admitted.ticks)
        return place

    def _return_locked(self, ticket: _Place) -> None:
        self._accepted -= 1
        ticket.usage.free.append(ticket)

    def _undrop_locked(self, dropped: _Usage) -> None:
        dropped.made -= 1

    def _patience(self) -> tuple[float, int | None]:
        return self.settings.max_wait, self.settings.max_queue

    def _refusal(self, wait: float, waited: float) -> RejectedError:
        text = f"{self.name!r}: all {self.settings.limit} places are taken"
        if waited:
            text += f", and none came free in {waited:.3g} s"
        return BulkheadFullError(text, policy=self.name)

    def _refused(self, now: float, error: RejectedError) -> Event:
        return BulkheadRejected(self.name, now, self.settings.limit)

    def _change(self, settings: BulkheadSettings) -> None:
        with self._lock:
            self.settings = settings
            woken = self._serve_locked(0.0)
        self._wake(woken)

    def free(self, place: _Place) -> None:
        """One holder of `place` lets go."""
        if place.holders > 1:
            with self._lock:
                if place.holders > 1:
                    place.holders -= 1
                    return
        place.usage.free.append(place)
        if self._line or self._dropped:  # looked at after the place is back: who joins the line looks for it after that
            with self._lock:
                woken = self._serve_locked(0.0)
            self._wake(woken)

    def hold(self, place: _Place) -> bool:
        """One holder more, unless it is free by now."""
        with self._lock:
            if place in place.usage.free:
                return False
            place.holders += 1
            return True


class _Usage:
    """The places.

    A place that is free keeps its holder, the next one: taking it is one step. A forked child begins with places of its
    own, so that those of its parent come back to nobody.
    """

    __slots__ = ("free", "made")

    def __init__(self) -> None:
        self.made = 0  # places there are, free or taken
        self.free: list[_Place] = []

    @property
    def in_flight(self) -> int:
        """Places taken."""
        return self.made - len(self.free)


class _Place:
    """Room for one call: held by its caller, and by the worker threads that still run for it."""

    __slots__ = ("_bulkhead", "holders", "usage")

    def __init__(self, bulkhead: Bulkhead, usage: _Usage) -> None:
        self._bulkhead = bulkhead
        self.usage = usage
        self.holders = 0

    def success(self, elapsed: float, now: float) -> None:
        """It ended."""
        self._bulkhead.free(self)

    def settle(self, outcome: Outcome, elapsed: float, now: float, error: BaseException | None) -> None:
        """It ended."""
        self._bulkhead.free(self)

    def unused(self) -> None:
        """Nothing was sent."""
        self._bulkhead.free(self)

    def release(self) -> None:
        """A worker thread has ended."""
        self._bulkhead.free(self)

    def retain(self) -> bool:
        """A worker thread starts."""
        return self._bulkhead.hold(self)

    def __del__(self) -> None:
        if getattr(self, "holders", 0):  # interrupted while it was made, it has none
            self._bulkhead._dropped.append(self.usage)  # an append only: a lock taken inside a GC run can deadlock
