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

    def amend(self, changed: Known) -> None:
        """Take a new answer about some services, each whole; one without instances is gone."""
        old = self.known
        kept = {service: _kept(old, service, found) for service, found in changed.items()}
        self._take({service: found for service, found in {**old, **kept}.items() if found}, changed)

    def _take(self, known: Known, changed: Iterable[str]) -> None:
        old, self.known = self.known, known
        self.confirmed = self._clock.monotonic()
        for service in changed:
            before, after = old.get(service, ()), known.get(service, ())
            if before is not after:
                self._tell(service, before, after)

    def _tell(self, service: str, before: tuple[Instance, ...], after: tuple[Instance, ...]) -> None:
        # By identity first: a fleet of thousands in which ten changed is not compared field by field.
        were, are = set(map(id, before)), set(map(id, after))
        came = [instance for instance in after if id(instance) not in were]
        went = [instance for instance in before if id(instance) not in are]
        change = Change(service, added=_without(came, went), removed=_without(went, came))
        if change.added or change.removed:
            for listener in self._listeners.get(service, ()):
                try:
                    listener(change)
                except Exception:
                    logger.exception("a listener raised on %r; nothing else changes", change)
        event = InstancesChanged.between(service, self._clock.monotonic(), came, went)
        if event is not None:
            publish(event)

    def after_fork_in_child(self) -> None:
        """Keep what is known; forget the parent's waiters and whoever held the lock."""
        self._lock = threading.Lock()
        self.answers.forget()


def _kept(old: Known, service: str, found: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """A service that did not change keeps its tuple, so that a balancer sees "unchanged" by identity."""
    before = old.get(service, ())
    same = before == found and all(a is b or a.metadata == b.metadata for a, b in zip(before, found, strict=True))
    return before if same else found


def _without(these: Iterable[Instance], those: Iterable[Instance]) -> tuple[Instance, ...]:
    known = set(those)
    return tuple(instance for instance in these if instance not in known)
