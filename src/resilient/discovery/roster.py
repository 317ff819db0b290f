"""What is known now, since when, and who hears how it changes."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable

from resilient.clock import Clock
from resilient.discovery.bell import Bell
from resilient.discovery.events import InstancesChanged
from resilient.discovery.instance import Change, Instance, Known
from resilient.events import publish

logger = logging.getLogger("resilient")

Listener = Callable[[Change], object]


class Roster:
    """The last answer of a registry. One writer (the loop), any number of readers who take no lock.

    Args:
        clock: where `age` comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self.known: Known = {}
        self.confirmed: float | None = None
        self.answers = Bell()
        self._each: dict[str, float] = {}  # when each service was confirmed, where they are asked for one by one
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: dict[str, tuple[Listener, ...]] = {}

    def get(self, service: str) -> tuple[Instance, ...]:
        """The instances of `service`; names are matched exactly, else without regard to case."""
        known = self.known
        try:
            return known[service]
        except KeyError:
            return known.get(service.lower(), ())

    @property
    def count(self) -> int:
        """How many instances are known."""
        return sum(map(len, self.known.values()))

    def age(self, service: str = "") -> float:
        """Seconds since the last answer, about `service` where services are asked for one by one; `inf` before it."""
        confirmed = self._each.get(service.lower()) if self._each else self.confirmed
        return math.inf if confirmed is None else self._clock.monotonic() - confirmed

    def subscribe(self, service: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each later change of `service`."""
        service = service.lower()

        def heard(change: Change) -> object:  # one object per subscription: the same listener may come twice
            return listener(change)

        with self._lock:
            self._listeners[service] = (*self._listeners.get(service, ()), heard)

        def stop() -> None:
            with self._lock:
                left = tuple(other for other in self._listeners.get(service, ()) if other is not heard)
                if left:
                    self._listeners[service] = left
                else:
                    self._listeners.pop(service, None)

        return stop

    def replace(self, answer: Known) -> None:
        """Take a new answer, whole; then tell subscribers. Called by one thread or task at a time."""
        old = self.known
        gone = {service: () for service in old if service not in answer}
        self._take({service: _kept(old, service, found) for service, found in answer.items()}, {**gone, **answer})

    def update(self, service: str, found: tuple[Instance, ...]) -> None:
        """Take a new answer about one service; an empty one is remembered as such."""
        self._each[service] = self._clock.monotonic()
        self._take({**self.known, service: _kept(self.known, service, found)}, {service: found})

    def _take(self, known: Known, changed: Known) -> None:
        old, self.known = self.known, known
        self.confirmed = self._clock.monotonic()
        for service, after in changed.items():
            before = old.get(service, ())
            if before != after:
                self._tell(Change(service, added=_without(after, before), removed=_without(before, after)))

    def _tell(self, change: Change) -> None:
        if not (change.added or change.removed):
            return
        for listener in self._listeners.get(change.service, ()):
            try:
                listener(change)
            except Exception:
                logger.exception("a listener raised on %r; nothing else changes", change)
        publish(InstancesChanged(change.service, self._clock.monotonic(), change.added, change.removed))

    def after_fork_in_child(self) -> None:
        """Keep what is known; forget the parent's waiters and whoever held the lock."""
        self._lock = threading.Lock()
        self.answers.forget()


def _kept(old: Known, service: str, found: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """A service that did not change keeps its tuple, so that a balancer sees "unchanged" by identity."""
    before = old.get(service, ())
    same = before == found and all(a.metadata == b.metadata for a, b in zip(before, found, strict=True))
    return before if same else found


def _without(these: Iterable[Instance], those: tuple[Instance, ...]) -> tuple[Instance, ...]:
    known = set(those)
    return tuple(instance for instance in these if instance not in known)
